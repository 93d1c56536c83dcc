//! Our side of the pipes.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Seek};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use fs_err as fs;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::confine::resolve;
use super::programs::{Programs, StandIn};
use super::stage::{OUTER, Report, Spec};
use super::{
    Ending, Error, Job, Lent, Outcome, Promise, Sandbox, Tier, elf, emulator, loader, namespaces,
};

/// How long the stages may take to kill everything before they are killed themselves.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// A report is a few words.
const LONGEST_REPORT: u64 = 1 << 16;

/// The first line of a script is read this far, as the kernel does.
const LONGEST_SHEBANG: u64 = 256;

/// A program of the base, found and looked at.
struct Program {
    /// Its path in the job's view.
    inside: PathBuf,
    /// The ELF file on the host: itself, or the interpreter if it is a script.
    outside: PathBuf,
    /// Its path in the job's view.
    called: PathBuf,
    /// Arguments before the job's: a script's interpreter takes the script.
    before: Vec<String>,
    /// What `outside` was built for.
    machine: String,
    /// The dynamic loader that `outside` asks for.
    loader: Option<String>,
}

enum Attempt {
    Ran((Ending, Vec<Promise>), Vec<u8>),
    Refused(String),
}

impl Sandbox {
    pub(super) async fn run_on_linux(
        &self,
        job: &Job,
        may_emulate: bool,
    ) -> Result<Outcome, Error> {
        let mut job = Job { rootfs: folder(&job.rootfs)?, work: folder(&job.work)?, ..job.clone() };
        for lent in &mut job.lent {
            lent.folder = folder(&lent.folder)?;
        }
        let program = find_program(&job, may_emulate)?;
        let mut refusal = None;
        if !self.force_loader {
            match self.attempt(&job, namespaces_spec(&job, &program)).await? {
                Attempt::Ran(end, log) => return Ok(outcome(end, Tier::Namespaces, None, log)),
                Attempt::Refused(why) => refusal = Some(why),
            }
        }
        let no_tier = |why: String, refusal: Option<String>| Error::NoTier {
            program: job.argv.first().cloned().unwrap_or_default(),
            namespaces: refusal,
            loader: why,
        };
        let ready = programs(&job, &program).and_then(|programs| {
            Ok((loader_spec(&job, &program, programs.as_ref().map(Programs::path))?, programs))
        });
        let (spec, _programs) = match ready {
            Ok(ready) => ready,
            Err(e) => return Err(no_tier(e.to_string(), refusal)),
        };
        match self.attempt(&job, spec).await? {
            Attempt::Ran(end, log) => Ok(outcome(end, Tier::Loader, refusal, log)),
            Attempt::Refused(why) => Err(no_tier(why, refusal)),
        }
    }

    /// Starts the stages and stays with them to their end.
    async fn attempt(&self, job: &Job, spec: Spec) -> Result<Attempt, Error> {
        let launch = |source| Error::Launch { launcher: self.launcher.clone(), source };
        let mut line = serde_json::to_vec(&spec).map_err(|e| launch(e.into()))?;
        line.push(b'\n');
        let mut child = Command::new(&self.launcher)
            .arg(OUTER)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(launch)?;
        let (Some(mut stdin), Some(stdout), Some(stderr)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(launch(io::ErrorKind::BrokenPipe.into()));
        };
        let mut log = Vec::new();
        let mut report = Vec::new();
        let talk = async {
            tokio::try_join!(
                async {
                    // A stage that is gone says why in its report.
                    let _gone = stdin.write_all(&line).await;
                    Ok(())
                },
                read_limited(stderr, job.output_limit, &mut log),
                async {
                    let _end = stdout.take(LONGEST_REPORT).read_to_end(&mut report).await;
                    Ok(())
                },
            )
        };
        let talked = timeout(job.time_limit, talk).await;
        drop(stdin);
        stop(&mut child).await;
        let program = || job.argv.first().cloned().unwrap_or_default();
        match talked {
            Err(_elapsed) => {
                Err(Error::TimeLimit { program: program(), limit: job.time_limit, log })
            }
            Ok(Err(TooMuch)) => {
                Err(Error::OutputLimit { program: program(), limit: job.output_limit, log })
            }
            Ok(Ok(_)) => match serde_json::from_slice(&report) {
                Ok(Report::Ended(ending, left)) => Ok(Attempt::Ran((ending, left), log)),
                Ok(Report::Refused(why)) => Ok(Attempt::Refused(why)),
                Ok(Report::NotStarted(reason)) => {
                    Err(Error::NotStarted { program: program(), reason })
                }
                Ok(Report::Left(_)) | Err(_) => {
                    Err(Error::NoReport { launcher: self.launcher.clone(), log })
                }
            },
        }
    }
}

fn outcome(
    (ending, left): (Ending, Vec<Promise>),
    tier: Tier,
    refusal: Option<String>,
    log: Vec<u8>,
) -> Outcome {
    Outcome { success: ending == Ending::Exited(0), ending, tier, refusal, left, log }
}

/// The job wrote more than it may.
struct TooMuch;

async fn read_limited(
    mut from: impl AsyncRead + Unpin,
    limit: u64,
    log: &mut Vec<u8>,
) -> Result<(), TooMuch> {
    // An error of a pipe is its end.
    let _end = (&mut from).take(limit).read_to_end(log).await;
    let mut more = [0; 1];
    match from.read(&mut more).await {
        Ok(0) | Err(_) => Ok(()),
        Ok(_) => Err(TooMuch),
    }
}

/// Waits for the outer stage, whose standard input is closed by now; it kills the job and ends.
async fn stop(child: &mut Child) {
    if timeout(LAST_WORDS, child.wait()).await.is_ok() {
        return;
    }
    if let Some(id) = child.id() {
        // The stage leads a session and so a group of that number.
        let _gone = killpg(Pid::from_raw(id.cast_signed()), Signal::SIGKILL);
    }
    let _gone = child.kill().await;
}

/// An existing folder's real path.
fn folder(path: &Path) -> Result<PathBuf, Error> {
    let error = |source| Error::Folder { path: path.to_path_buf(), source };
    let path = fs::canonicalize(path).map_err(error)?;
    if !path.is_dir() {
        return Err(error(io::ErrorKind::NotADirectory.into()));
    }
    Ok(path)
}

/// Finds the program as the kernel will, and checks that this machine can run it.
fn find_program(job: &Job, may_emulate: bool) -> Result<Program, Error> {
    let name = job.argv.first().cloned().unwrap_or_default();
    let candidates: Vec<PathBuf> = if name.contains('/') {
        vec![PathBuf::from(&name)]
    } else {
        let path = job.env.get("PATH").map_or("", String::as_str);
        path.split(':').map(|folder| Path::new(folder).join(&name)).collect()
    };
    let mut failure = io::Error::from(io::ErrorKind::NotFound);
    for inside in candidates {
        match look_at(job, &inside) {
            Ok(Some(found))
                if elf::runs_here(&found.machine)
                    || may_emulate && emulator::is_registered(&found.machine) =>
            {
                return Ok(found);
            }
            Ok(Some(found)) => {
                return Err(Error::ForeignArchitecture {
                    program: name,
                    found: found.machine,
                    host: std::env::consts::ARCH,
                });
            }
            Ok(None) => return Err(Error::NotAProgram { program: name }),
            Err(e) => failure = e,
        }
    }
    Err(Error::NoProgram { program: name, source: failure })
}

/// What the file at `inside` is; `None` if it is neither an ELF file nor a script for one.
fn look_at(job: &Job, inside: &Path) -> io::Result<Option<Program>> {
    let outside = locate(job, inside)?;
    let mut file = open_file(&outside)?;
    if let Some(header) = elf::read(&mut file)? {
        return Ok(Some(Program {
            inside: inside.to_path_buf(),
            outside,
            called: inside.to_path_buf(),
            before: Vec::new(),
            machine: header.machine,
            loader: header.interpreter,
        }));
    }
    file.rewind()?;
    let mut start = Vec::new();
    file.take(LONGEST_SHEBANG).read_to_end(&mut start)?;
    let Some((interpreter, argument)) = shebang(&start) else {
        return Ok(None);
    };
    let called = PathBuf::from(interpreter);
    let interpreter = locate(job, &called)?;
    let Some(header) = elf::read(&mut open_file(&interpreter)?)? else {
        return Ok(None);
    };
    Ok(Some(Program {
        inside: inside.to_path_buf(),
        outside: interpreter,
        called,
        before: argument.into_iter().chain(outside.to_str().map(str::to_owned)).collect(),
        machine: header.machine,
        loader: header.interpreter,
    }))
}

/// Where a path of the job's view lies on the host.
fn locate(job: &Job, inside: &Path) -> io::Result<PathBuf> {
    match inside.strip_prefix(namespaces::WORK) {
        Ok(below) => resolve(&job.work, below),
        Err(_) => resolve(&job.rootfs, inside),
    }
}

/// Opens a regular file: anything else could block.
fn open_file(path: &Path) -> io::Result<fs::File> {
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("no regular file: {}", path.display()),
        ));
    }
    fs::File::open(path)
}

/// The interpreter that a script's first line names, and its one argument.
fn shebang(start: &[u8]) -> Option<(String, Option<String>)> {
    let line = start.strip_prefix(b"#!")?.split(|&b| b == b'\n').next()?;
    let line = std::str::from_utf8(line).ok()?.trim();
    let (interpreter, argument) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let argument = argument.trim();
    Some((interpreter.to_owned(), (!argument.is_empty()).then(|| argument.to_owned())))
}

fn namespaces_spec(job: &Job, program: &Program) -> Spec {
    let mut argv = vec![program.inside.display().to_string()];
    argv.extend(job.argv.iter().skip(1).cloned());
    Spec {
        tier: Tier::Namespaces,
        rootfs: job.rootfs.clone(),
        work: job.work.clone(),
        lent: job.lent.clone(),
        machine: program.machine.clone(),
        argv,
        name: None,
        env: job.env.clone(),
        directory: PathBuf::from(namespaces::WORK),
        cpu_seconds: cpu_seconds(job),
    }
}

/// What stands for the base's programs that are on the job's `PATH`; `None` if its own is static, as then
/// they are.
fn programs(job: &Job, program: &Program) -> io::Result<Option<Programs>> {
    if program.loader.is_none() {
        return Ok(None);
    }
    let programs = Programs::new(&job.work)?;
    let mut seen = BTreeSet::new();
    for folder in job.env.get("PATH").map_or("", String::as_str).split(':') {
        let is_the_base_s =
            folder.starts_with('/') && !Path::new(folder).starts_with(namespaces::WORK);
        if !is_the_base_s || !seen.insert(folder) {
            continue;
        }
        let Ok(names) = resolve(&job.rootfs, Path::new(folder)).and_then(fs::read_dir) else {
            continue;
        };
        for name in names {
            let inside = Path::new(folder).join(name?.file_name());
            // What cannot be run is not there.
            let Ok(Some(found)) = look_at(job, &inside) else { continue };
            let stand_in = if found.loader.is_none() && found.before.is_empty() {
                StandIn::Itself(found.outside)
            } else {
                StandIn::Script(loader::translate(
                    (&job.rootfs, &[], None),
                    (&found.outside, &found.called),
                    found.loader.as_deref(),
                    &found.before,
                    &BTreeMap::new(),
                )?)
            };
            programs.add(&inside, &stand_in)?;
        }
    }
    Ok(Some(programs))
}

fn loader_spec(job: &Job, program: &Program, programs: Option<&Path>) -> io::Result<Spec> {
    let arguments: Vec<String> =
        program.before.iter().chain(job.argv.iter().skip(1)).cloned().collect();
    let mut places = vec![(namespaces::WORK.to_owned(), job.work.clone())];
    places.extend(job.lent.iter().map(|lent| (format!("/{}", lent.name), lent.folder.clone())));
    let mut lent = job.lent.clone();
    lent.extend(programs.map(|folder| Lent {
        name: "programs".to_owned(),
        folder: folder.to_path_buf(),
        program: None,
    }));
    let translated = loader::translate(
        (&job.rootfs, &places, programs),
        (&program.outside, &program.called),
        program.loader.as_deref(),
        &arguments,
        &job.env,
    )?;
    Ok(Spec {
        tier: Tier::Loader,
        rootfs: job.rootfs.clone(),
        work: job.work.clone(),
        lent,
        machine: program.machine.clone(),
        argv: translated.argv,
        name: translated.name,
        env: translated.env,
        directory: job.work.clone(),
        cpu_seconds: cpu_seconds(job),
    })
}

/// Every process may use the whole time on one core, and a little more: the clock kills first.
fn cpu_seconds(job: &Job) -> u64 {
    job.time_limit.as_secs().saturating_add(60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_lines_of_scripts() {
        let pair = |path: &str, argument: Option<&str>| {
            Some((path.to_owned(), argument.map(str::to_owned)))
        };
        for (start, expected) in [
            ("#!/bin/sh\necho", pair("/bin/sh", None)),
            ("#! /usr/bin/env python3 -u\n", pair("/usr/bin/env", Some("python3 -u"))),
            ("#!/usr/local/bin/python3.13", pair("/usr/local/bin/python3.13", None)),
            ("import sys", None),
            ("", None),
        ] {
            assert_eq!(shebang(start.as_bytes()), expected, "{start}");
        }
    }
}
