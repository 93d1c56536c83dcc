//! The processes between us and the program: this program, started again.
//!
//! `outer` watches its parent, reports, and sees to it that nothing is left; `middle` leaves the
//! host's namespaces (after that it can start no thread, and only its children are in the new pid
//! namespace; the loader tier has none); `inner` confines itself and becomes the program.
//!
//! Each gets the [`Spec`] as the first line of standard input, and says on standard output what it
//! knows, a line for each. Silence of `inner` after what the kernel left means that the program started.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufRead, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Stdio};

use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Pid, setsid};
use serde::{Deserialize, Serialize};

use super::reaper::kill_descendants;
use super::{Ending, Lent, Promise, Tier, fence, namespaces};

/// The first argument of the stages. No command of the command line begins like this.
pub(super) const OUTER: &str = "__sandbox-outer";
const MIDDLE: &str = "__sandbox-middle";
const INNER: &str = "__sandbox-inner";

/// Address space of one process. Generous: compilers map far more than they touch.
const ADDRESS_SPACE: u64 = 16 << 30;
/// The largest file a job may write.
const FILE_SIZE: u64 = 4 << 30;
/// Open files. Where there is no `/proc` to look at, a child's are closed one number after the other,
/// and some hosts allow a thousand million.
const OPEN_FILES: u64 = 16 << 10;
/// Processes and threads in the job's user namespace.
const PROCESSES: u64 = 4096;

/// What the stages have to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Spec {
    pub(super) tier: Tier,
    pub(super) rootfs: PathBuf,
    pub(super) work: PathBuf,
    pub(super) lent: Vec<Lent>,
    /// What the program was built for, in Rust's words.
    pub(super) machine: String,
    /// The program's path and its arguments, as the tier sees them.
    pub(super) argv: Vec<String>,
    /// The name the program is called by, if it is not its path.
    pub(super) name: Option<String>,
    pub(super) env: BTreeMap<String, String>,
    pub(super) directory: PathBuf,
    /// CPU time of one process.
    pub(super) cpu_seconds: u64,
}

/// What the outer stage says at its end.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Report {
    /// The program is being started, and the kernel lets these promises not be kept.
    Left(Vec<Promise>),
    /// The program ran and ended; what was left.
    Ended(Ending, Vec<Promise>),
    /// This tier does not work here: the step and what the kernel said.
    Refused(String),
    /// The tier works, but the program was not started.
    NotStarted(String),
}

/// A step that failed before the program ran.
#[derive(Debug, thiserror::Error)]
#[error("{step}: {source}")]
pub(super) struct Refusal {
    pub(super) step: String,
    pub(super) source: io::Error,
}

/// Names the step of a failure.
pub(super) trait Step<T> {
    fn step(self, step: &str) -> Result<T, Refusal>;
}

impl<T, E: Into<io::Error>> Step<T> for Result<T, E> {
    fn step(self, step: &str) -> Result<T, Refusal> {
        self.map_err(|source| Refusal { step: step.to_owned(), source: source.into() })
    }
}

pub(super) fn run(arguments: impl IntoIterator<Item = OsString>) -> Option<ExitCode> {
    let stage = arguments.into_iter().nth(1)?;
    let report = if stage == OUTER {
        outer()
    } else if stage == MIDDLE {
        middle()
    } else if stage == INNER {
        return Some(inner());
    } else {
        return None;
    };
    let report = report.unwrap_or_else(|refusal| Report::Refused(refusal.to_string()));
    Some(say(&mut io::stdout(), &report))
}

/// Writes a report; there is nobody to tell if that fails.
fn say(to: &mut impl Write, report: &Report) -> ExitCode {
    let written = serde_json::to_vec(report).map_err(io::Error::other).and_then(|mut bytes| {
        bytes.push(b'\n');
        to.write_all(&bytes)
    });
    match written {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// The spec: one line of standard input, and not a byte more is consumed than buffered.
fn read_spec(input: &mut impl BufRead) -> Result<Spec, Refusal> {
    let mut line = String::new();
    input.read_line(&mut line).step("read the job")?;
    serde_json::from_str(&line).map_err(io::Error::from).step("read the job")
}

fn outer() -> Result<Report, Refusal> {
    // Our own session: a Ctrl-C at the terminal reaches only our parent, which then closes stdin.
    setsid().step("setsid")?;
    let spec = read_spec(&mut io::stdin().lock())?;
    // Whatever loses its parent becomes our child, to be found and killed.
    prctl::set_child_subreaper(true).step("set_child_subreaper")?;
    let child = start(
        match spec.tier {
            Tier::Namespaces => MIDDLE,
            Tier::Loader => INNER,
        },
        &spec,
    )?;
    let report = watch_parent(Pid::from_raw(child.id().cast_signed())).and_then(|()| listen(child));
    kill_descendants();
    report
}

fn middle() -> Result<Report, Refusal> {
    die_with_parent(&mut io::stdout())?;
    let spec = read_spec(&mut io::stdin().lock())?;
    namespaces::leave_the_host()?;
    // A change of credentials clears it, so once more.
    prctl::set_pdeathsig(Signal::SIGKILL).step("set_pdeathsig")?;
    listen(start(INNER, &spec)?)
}

/// Starts the next stage and hands it the job.
fn start(stage: &str, spec: &Spec) -> Result<Child, Refusal> {
    let mut child = Command::new("/proc/self/exe")
        .arg(stage)
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .step("start a stage")?;
    hand_over(&mut child, spec)?;
    Ok(child)
}

/// What the next stage says; if it is silent, how the program ended that it became.
fn listen(mut child: Child) -> Result<Report, Refusal> {
    let mut said = Vec::new();
    if let Some(mut stdout) = child.stdout.take() {
        stdout.read_to_end(&mut said).step("listen to a stage")?;
    }
    let status = child.wait().step("wait for a stage")?;
    let mut left = Vec::new();
    for line in said.split(|&b| b == b'\n').filter(|line| !line.is_empty()) {
        match serde_json::from_slice(line).map_err(io::Error::from).step("listen to a stage")? {
            Report::Left(promises) => left = promises,
            report => return Ok(report),
        }
    }
    let ending = match (status.code(), status.signal()) {
        (Some(code), _) => Ending::Exited(code),
        (None, signal) => Ending::Signalled(signal.unwrap_or_default()),
    };
    Ok(Report::Ended(ending, left))
}

fn hand_over(child: &mut Child, spec: &Spec) -> Result<(), Refusal> {
    let Some(mut stdin) = child.stdin.take() else {
        return Ok(());
    };
    let mut line = serde_json::to_vec(spec).map_err(io::Error::from).step("hand the job over")?;
    line.push(b'\n');
    stdin.write_all(&line).step("hand the job over")
}

/// From here on the death of our parent is ours. The line break (no report begins with one that
/// matters) finds out whether it died before: the pipe is broken then.
fn die_with_parent(channel: &mut impl Write) -> Result<(), Refusal> {
    prctl::set_pdeathsig(Signal::SIGKILL).step("set_pdeathsig")?;
    channel.write_all(b"\n").and_then(|()| channel.flush()).step("find the parent")
}

/// Kills the next stage as soon as nobody holds the other end of our standard input.
fn watch_parent(stage: Pid) -> Result<(), Refusal> {
    std::thread::Builder::new()
        .spawn(move || {
            let mut rest = [0; 64];
            while !matches!(io::stdin().lock().read(&mut rest), Ok(0) | Err(_)) {}
            // The main thread reaps it and ends; a failure means that it ended by itself.
            let _ended_by_itself = kill(stage, Signal::SIGKILL);
        })
        .map(drop)
        .step("watch the parent")
}

fn inner() -> ExitCode {
    // Exec replaces standard output; this copy closes itself when the program starts.
    let Ok(mut channel) = io::stdout().as_fd().try_clone_to_owned().map(File::from) else {
        return ExitCode::FAILURE;
    };
    let report = match die_with_parent(&mut channel).and_then(|()| confine_and_exec(&mut channel)) {
        Ok(never_started) => Report::NotStarted(never_started.to_string()),
        Err(refusal) => Report::Refused(refusal.to_string()),
    };
    say(&mut channel, &report)
}

/// Returns only if the program was not started.
fn confine_and_exec(channel: &mut File) -> Result<io::Error, Refusal> {
    let spec = read_spec(&mut io::stdin().lock())?;
    umask(Mode::from_bits_truncate(0o022));
    // Opened before the root changes: a base may have no /dev of its own.
    let nothing = fs_err::File::open("/dev/null").step("open")?;
    let log = io::stderr().as_fd().try_clone_to_owned().step("dup the log")?;
    if spec.tier == Tier::Namespaces {
        namespaces::enter(&spec)?;
    }
    limit(&spec)?;
    prctl::set_no_new_privs().step("set_no_new_privs")?;
    if spec.tier == Tier::Loader {
        let left = fence::close(&spec)?;
        say(channel, &Report::Left(left));
    }
    // A change of credentials clears it, so once more.
    prctl::set_pdeathsig(Signal::SIGKILL).step("set_pdeathsig")?;
    let Some((program, arguments)) = spec.argv.split_first() else {
        return Ok(io::ErrorKind::InvalidInput.into());
    };
    Ok(Command::new(program)
        .arg0(spec.name.as_ref().unwrap_or(program))
        .args(arguments)
        .env_clear()
        .envs(&spec.env)
        .current_dir(&spec.directory)
        .stdin(Stdio::from(nothing.into_file()))
        .stdout(Stdio::from(log))
        .exec())
}

/// Lowers limits; those that are lower already stay.
fn limit(spec: &Spec) -> Result<(), Refusal> {
    let mut limits = vec![
        (Resource::RLIMIT_CORE, 0),
        (Resource::RLIMIT_CPU, spec.cpu_seconds),
        (Resource::RLIMIT_AS, ADDRESS_SPACE),
        (Resource::RLIMIT_FSIZE, FILE_SIZE),
        (Resource::RLIMIT_NOFILE, OPEN_FILES),
    ];
    if spec.tier == Tier::Namespaces {
        // Elsewhere it would count everything the user runs.
        limits.push((Resource::RLIMIT_NPROC, PROCESSES));
    }
    for (resource, most) in limits {
        let (soft, hard) = getrlimit(resource).step("getrlimit")?;
        setrlimit(resource, soft.min(most), hard.min(most)).step("setrlimit")?;
    }
    Ok(())
}
