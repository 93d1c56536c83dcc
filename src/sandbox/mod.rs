//! How foreign code (a build backend, a start check) is run: with the base's own Python, with no
//! root, no network and no files but its own. The door to other processes.
//!
//! What a job may count on, and what it may not do:
//!
//! | promise | namespaces | loader |
//! | --- | --- | --- |
//! | exactly the given environment, `umask` 022, standard input empty | yes | yes |
//! | the base is `/` | yes | no: in place |
//! | the base and what is lent are read-only; of the host's files only the work folder besides | not there | refused (`Files`; see `fence` for the few exceptions) |
//! | no network, not even loopback | not there | refused (`Network`) |
//! | the host's processes cannot be traced, looked into or signalled | not there | refused (`Processes`) |
//! | the host's local sockets cannot be talked to | not there | refused (`Sockets`) |
//! | no process outlives the job, the time limit, or us | yes | yes |
//! | no new privileges, no capabilities; limits on CPU time, memory, file size, open files, output | yes | yes |
//!
//! Where the kernel is too old to refuse, or was told not to, the outcome says which [`Promise`] is not
//! kept, and so does whatever is said of the job.
//!
//! The stages are this program started again ([`run_stage`]), because a process can only change its
//! namespaces while it has one thread:
//!
//! ```text
//! Sandbox::run ── stdin: the job as one line, then kept open ──▶ outer ─▶ middle ─▶ inner ─▶ the program
//!              ◀─ stdout: one report ── stderr: the log ──────────┘        unshares  pid 1 of its namespace
//! ```
//!
//! The end of the outer stage's standard input is the order to kill everything: it comes when a limit
//! is hit, when the future is dropped, and when we are killed ourselves.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

pub mod confine;
mod elf;
#[cfg(target_os = "linux")]
mod emulator;
pub mod error;
#[cfg(target_os = "linux")]
mod fence;
#[cfg(target_os = "linux")]
mod loader;
#[cfg(target_os = "linux")]
mod namespaces;
#[cfg(target_os = "linux")]
mod programs;
#[cfg(target_os = "linux")]
mod reaper;
#[cfg(target_os = "linux")]
mod run;
#[cfg(target_os = "linux")]
mod stage;

pub use error::Error;

/// How this machine can confine a process.
#[derive(Clone, Debug)]
pub struct Sandbox {
    /// The program that is started again as the sandbox's stages: it calls [`run_stage`] first thing
    /// in its `main`. The `assemble` binary itself, or a test's path to it.
    pub launcher: PathBuf,
    /// Skip user namespaces even where they work (for tests and odd kernels).
    pub force_loader: bool,
}

/// Which way a job ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tier {
    /// In user, mount, pid, network, ipc and uts namespaces of its own.
    Namespaces,
    /// Through the base's dynamic loader, in place: user namespaces were refused. No network
    /// namespace then.
    Loader,
}

impl std::fmt::Display for Tier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Namespaces => "namespaces",
            Self::Loader => "loader",
        })
    }
}

/// One program to run inside an unpacked base.
#[derive(Clone, Debug)]
pub struct Job {
    /// The unpacked base, read-only for the job.
    pub rootfs: PathBuf,
    /// The one folder the job may write to, seen as `/build` (tier 2: in place).
    pub work: PathBuf,
    /// More folders, read-only for the job.
    pub lent: Vec<Lent>,
    /// The program and its arguments; paths below `/build` and lent folders are the job's view. A program without a
    /// slash is looked for on the `PATH` of `env`, inside the base.
    pub argv: Vec<String>,
    /// The whole environment.
    pub env: BTreeMap<String, String>,
    /// Killed after this long.
    pub time_limit: Duration,
    /// Killed after this many bytes of output.
    pub output_limit: u64,
}

/// A folder of the host that a job may read.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct Lent {
    /// The name at the top of the base under which the job sees it: `toolchain` is `/toolchain`
    /// (tier 2: in place). It covers what the base has there.
    pub name: String,
    /// The folder.
    pub folder: PathBuf,
    /// A program of the folder that looks itself up in `/proc`: where the kernel gives the job none,
    /// `/proc/self/exe` is a link to it.
    pub program: Option<String>,
}

/// How a program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ending {
    /// It exited with this code.
    Exited(i32),
    /// This signal killed it.
    Signalled(i32),
}

impl std::fmt::Display for Ending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exited(code) => write!(f, "exit code {code}"),
            Self::Signalled(signal) => write!(f, "signal {signal}"),
        }
    }
}

/// What a job of the loader tier is kept from by the kernel, if it can: on an old one, or one that was
/// told otherwise, this is left open. Namespaces keep them all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Promise {
    /// The host's files cannot be read or changed (Landlock since Linux 6.2; not for an emulator).
    Files,
    /// There is no network (seccomp; not for a program of 32 bits).
    Network,
    /// The host's processes cannot be traced or signalled (Landlock since Linux 6.12).
    Processes,
    /// The host's local sockets cannot be talked to (Landlock since Linux 7.1).
    Sockets,
}

impl std::fmt::Display for Promise {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Files => "the host's files",
            Self::Network => "the network",
            Self::Processes => "the host's processes",
            Self::Sockets => "the host's local sockets",
        })
    }
}

/// What a tier's name is followed by, if promises are left: `; within reach: the network`.
pub fn within_reach(left: &[Promise]) -> String {
    let words: Vec<String> = left.iter().map(ToString::to_string).collect();
    if words.is_empty() { String::new() } else { format!("; within reach: {}", words.join(", ")) }
}

/// What a job left behind.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Whether it exited with 0.
    pub success: bool,
    /// How it ended.
    pub ending: Ending,
    /// Which way it ran.
    pub tier: Tier,
    /// Why it did not run in namespaces, if they were tried and refused: the step and what the
    /// kernel said.
    pub refusal: Option<String>,
    /// What this kernel let it reach against the promises.
    pub left: Vec<Promise>,
    /// stdout and stderr, interleaved.
    pub log: Vec<u8>,
}

impl Sandbox {
    /// Runs the job in the best tier this machine allows, and returns when no process of it is left.
    /// A program that fails is an `Ok` with `success: false`.
    ///
    /// # Errors
    /// The program is missing or made for another machine, a limit was hit, or there is no way to
    /// run it here.
    pub async fn run(&self, job: &Job) -> Result<Outcome, Error> {
        #[cfg(target_os = "linux")]
        return self.run_on_linux(job, false).await;
        #[cfg(not(target_os = "linux"))]
        return Err(Error::OtherSystem { rootfs: job.rootfs.clone() });
    }

    /// As [`Self::run`], but a program for another machine runs if this one has an emulator registered
    /// for it. Builds never do: what they make would depend on the emulator.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub async fn run_emulated(&self, job: &Job) -> Result<Outcome, Error> {
        #[cfg(target_os = "linux")]
        return self.run_on_linux(job, true).await;
        #[cfg(not(target_os = "linux"))]
        return Err(Error::OtherSystem { rootfs: job.rootfs.clone() });
    }
}

/// If this process was started as a stage of the sandbox, runs the stage and returns its exit code;
/// `None` for an ordinary start. Call it before any thread exists.
pub fn run_stage(arguments: impl IntoIterator<Item = OsString>) -> Option<ExitCode> {
    #[cfg(target_os = "linux")]
    return stage::run(arguments);
    #[cfg(not(target_os = "linux"))]
    {
        let _ = arguments;
        None
    }
}
