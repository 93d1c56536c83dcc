//! One run of one command, from a small process of its own: what a child took only its parent knows.

use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use fs_err as fs;
use libdeflater::{CompressionLvl, Compressor};
use nix::sys::resource::{UsageWho, getrusage};
use sha2::{Digest as _, Sha256};

use crate::Result;

/// How this program is told to run a command and to say what it took.
pub(crate) const TIME: &str = "--time-one";
/// How it is told to run one and to say what that said of its time.
pub(crate) const LINES: &str = "--lines-of-one";
/// How it is told to run one and to say its peak memory, without that of its own children.
pub(crate) const MEMORY: &str = "--memory-of-one";
/// How it is told to do what no program that makes a layer of a tar can do without.
pub(crate) const BOUND: &str = "--bound";

/// Pieces of the bound.
const CUT: usize = 512 << 10;

/// What one run took.
#[derive(Clone, Copy, Debug, Default, PartialEq, PartialOrd)]
pub(crate) struct Run {
    pub(crate) wall: Duration,
    /// Of processors, the system's part included.
    pub(crate) cpu: Duration,
}

/// Runs the command, in a process that measures it; `lines` are those of `--timings` whose sum is taken
/// for the wall's, if there are any.
pub(crate) fn time(command: &str, lines: &[&str]) -> Result<Run> {
    if !lines.is_empty() {
        let text = said(LINES, command)?;
        let mut sum = 0.0;
        for line in text.lines() {
            let mut words = line.split_whitespace();
            if words.next().is_some_and(|word| lines.contains(&word)) {
                sum += words.next().unwrap_or_default().parse::<f64>()?;
            }
        }
        if sum <= 0.0 {
            return Err(format!("{command} says nothing of {lines:?}: {text}").into());
        }
        return Ok(Run { wall: Duration::from_secs_f64(sum / 1e3), cpu: Duration::ZERO });
    }
    let [wall, cpu] = numbers(TIME, command)?[..] else { return Err(command.into()) };
    Ok(Run { wall: Duration::from_nanos(wall), cpu: Duration::from_nanos(cpu) })
}

/// Runs the command; returns KiB.
pub(crate) fn memory(command: &str) -> Result<u64> {
    let [peak] = numbers(MEMORY, command)?[..] else { return Err(command.into()) };
    Ok(peak)
}

fn said(how: &str, command: &str) -> Result<String> {
    let output = Command::new(std::env::current_exe()?)
        .args([how, command])
        .stdin(Stdio::null())
        .output()?;
    Ok(String::from_utf8(output.stdout)?)
}

fn numbers(how: &str, command: &str) -> Result<Vec<u64>> {
    let text = said(how, command)?;
    let numbers = text.split_whitespace().map(str::parse).collect::<std::result::Result<_, _>>();
    numbers.map_err(|_text| format!("{command}: {text}").into())
}

fn child(command: &str) -> Result<Command> {
    let mut words = command.split_whitespace();
    let mut child = Command::new(words.next().ok_or("no command")?);
    child.args(words).stdout(Stdio::null());
    Ok(child)
}

/// Nanoseconds, of the wall and of processors.
pub(crate) fn time_one(command: &str) -> Result<String> {
    let mut child = child(command)?;
    let begin = Instant::now();
    let output = child.output()?;
    let wall = begin.elapsed();
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into());
    }
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let times = [usage.user_time(), usage.system_time()];
    let cpu: i64 = times.iter().map(|time| time.tv_sec() * 1_000_000 + time.tv_usec()).sum();
    Ok(format!("{} {}", wall.as_nanos(), cpu * 1000))
}

/// What it wrote to its standard error.
pub(crate) fn lines_of_one(command: &str) -> Result<String> {
    let output = child(command)?.output()?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() { Ok(text) } else { Err(text.into()) }
}

/// KiB. It is looked at until the command ends: its last moment may be missed.
pub(crate) fn memory_of_one(command: &str) -> Result<String> {
    let mut child = child(command)?.stderr(Stdio::null()).spawn()?;
    let path = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    let status = loop {
        // Nothing is left of it once it has ended.
        let status = fs::read_to_string(&path).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let found = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
        peak = peak.max(found.unwrap_or(0));
        if let Some(status) = child.try_wait()? {
            break status;
        }
        thread::sleep(Duration::from_micros(500));
    };
    if !status.success() {
        return Err(status.to_string().into());
    }
    Ok(peak.to_string())
}

/// Compresses the tar on all processors as layers are, and takes SHA-256 and CRC-32 of both
/// sides once: no program makes a layer of it faster, whatever it does.
pub(crate) fn bound(tar: &Path) -> Result<String> {
    let bytes = fs::read(tar)?;
    let pieces: Vec<&[u8]> = bytes.chunks(CUT).collect();
    let workers = thread::available_parallelism().map_or(1, usize::from);
    let mut compressed: Vec<(usize, Vec<u8>)> = thread::scope(|scope| {
        let work = |first: usize| {
            let pieces = &pieces;
            move || -> std::io::Result<Vec<(usize, Vec<u8>)>> {
                let mut compressor = Compressor::new(CompressionLvl::default());
                let own = pieces.iter().enumerate().skip(first).step_by(workers);
                own.map(|(number, piece)| {
                    let mut packed = vec![0; compressor.gzip_compress_bound(piece.len())];
                    // Takes the CRC-32 too.
                    let size = compressor
                        .gzip_compress(piece, &mut packed)
                        .map_err(|error| std::io::Error::other(error.to_string()))?;
                    packed.truncate(size);
                    Ok((number, packed))
                })
                .collect()
            }
        };
        let running: Vec<_> = (0..workers).map(|first| scope.spawn(work(first))).collect();
        let results = running.into_iter().map(|thread| {
            thread.join().unwrap_or_else(|_panic| Err(std::io::Error::other("a thread failed")))
        });
        results.collect::<std::io::Result<Vec<_>>>().map(|all| all.concat())
    })?;
    compressed.sort_by_key(|(number, _)| *number);
    let (inside, outside) = thread::scope(|scope| {
        let inside = scope.spawn(|| Sha256::digest(&bytes));
        let mut hasher = Sha256::new();
        for (_, piece) in &compressed {
            hasher.update(piece);
        }
        (inside.join(), hasher.finalize())
    });
    let inside = inside.map_err(|_panic| "a thread failed")?;
    Ok(format!("{:02x}{:02x}", inside[0], outside[0]))
}
