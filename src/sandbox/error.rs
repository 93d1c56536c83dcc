//! Why foreign code could not be run.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::error::{Failure, Kind};

/// A job did not run, or not to its end. A program that runs and fails is no error here.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Only Linux can run what is in a Linux base.
    #[error("the programs of {rootfs} run on linux only, and this is {}", std::env::consts::OS)]
    OtherSystem {
        /// The unpacked base.
        rootfs: PathBuf,
    },
    /// The base is for another architecture.
    #[error("`{program}` of the base is built for {found}, and this machine is {host}")]
    ForeignArchitecture {
        /// As the job names it.
        program: String,
        /// What its ELF header says.
        found: String,
        /// What we were built for.
        host: &'static str,
    },
    /// There is nothing to run.
    #[error("the base has no program `{program}`")]
    NoProgram {
        /// As the job names it.
        program: String,
        /// What the disk said.
        #[source]
        source: io::Error,
    },
    /// The file is there, but it is no program for the kernel.
    #[error("`{program}` of the base is neither an ELF file nor a script")]
    NotAProgram {
        /// As the job names it.
        program: String,
    },
    /// A folder of the job cannot be used.
    #[error("the job's folder cannot be used: {path}")]
    Folder {
        /// The rootfs or the work folder.
        path: PathBuf,
        /// What the disk said.
        #[source]
        source: io::Error,
    },
    /// Neither tier works on this machine.
    #[error(
        "no way to run `{program}` of the base on this machine: {}the loader: {loader}",
        .namespaces.as_ref().map(|why| format!("namespaces: {why}; ")).unwrap_or_default()
    )]
    NoTier {
        /// As the job names it.
        program: String,
        /// Why namespaces do not work, if they were tried.
        namespaces: Option<String>,
        /// Why the loader does not work.
        loader: String,
    },
    /// Everything was ready, but the kernel did not start the program.
    #[error("`{program}` of the base cannot be started: {reason}")]
    NotStarted {
        /// As the job names it.
        program: String,
        /// What the kernel said.
        reason: String,
    },
    /// It ran too long and was killed.
    #[error("`{program}` was killed after {} seconds", .limit.as_secs_f64())]
    TimeLimit {
        /// As the job names it.
        program: String,
        /// The limit.
        limit: Duration,
        /// Its output so far.
        log: Vec<u8>,
    },
    /// It wrote too much and was killed.
    #[error("`{program}` was killed after {limit} bytes of output")]
    OutputLimit {
        /// As the job names it.
        program: String,
        /// The limit in bytes.
        limit: u64,
        /// Its output up to the limit.
        log: Vec<u8>,
    },
    /// The stage's process could not be started.
    #[error("the sandbox cannot be started: {launcher}")]
    Launch {
        /// The program that was to become the stage.
        launcher: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The stage ended without a word: killed from outside, or no program of ours.
    #[error("the sandbox ended without a report: {launcher}")]
    NoReport {
        /// The program that was to become the stage.
        launcher: PathBuf,
        /// What it wrote.
        log: Vec<u8>,
    },
}

impl Error {
    /// What the job wrote before it was killed.
    pub fn log(&self) -> Option<&[u8]> {
        match self {
            Self::TimeLimit { log, .. }
            | Self::OutputLimit { log, .. }
            | Self::NoReport { log, .. } => Some(log),
            _ => None,
        }
    }
}

impl Failure for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::OtherSystem { .. }
            | Self::ForeignArchitecture { .. }
            | Self::NoProgram { .. }
            | Self::NotAProgram { .. }
            | Self::NoTier { .. } => Kind::Unsatisfiable,
            Self::Folder { .. }
            | Self::NotStarted { .. }
            | Self::TimeLimit { .. }
            | Self::OutputLimit { .. }
            | Self::Launch { .. }
            | Self::NoReport { .. } => Kind::Unexpected,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::OtherSystem { .. } => Some(
                "assemble on a linux machine, or use a version that has a wheel for the target"
                    .into(),
            ),
            Self::ForeignArchitecture { found, .. } => Some(format!(
                "assemble this platform on a {found} machine, or use a version that has a wheel for it"
            )),
            Self::NoProgram { .. } | Self::NotAProgram { .. } => {
                Some("use a base that holds a Python, such as the official python images".into())
            }
            Self::NoTier { .. } => Some(
                "allow unprivileged user namespaces (sysctl user.max_user_namespaces, \
                 kernel.apparmor_restrict_unprivileged_userns)"
                    .into(),
            ),
            Self::NotStarted { .. } => {
                Some("a cache folder on a `noexec` mount cannot be used: see --cache-dir".into())
            }
            Self::Folder { .. } => Some("choose another folder with --cache-dir".into()),
            Self::TimeLimit { .. }
            | Self::OutputLimit { .. }
            | Self::Launch { .. }
            | Self::NoReport { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_kind_of_machine_is_told_what_to_do() {
        for (error, said, hint) in [
            (
                Error::OtherSystem { rootfs: "/cache/base".into() },
                "the programs of /cache/base run on linux only, and this is ",
                "assemble on a linux machine, or use a version that has a wheel for the target",
            ),
            (
                Error::NoTier {
                    program: "python3".into(),
                    namespaces: Some("unshare: EPERM".into()),
                    loader: "no loader".into(),
                },
                "no way to run `python3` of the base on this machine: namespaces: unshare: EPERM; \
                 the loader: no loader",
                "allow unprivileged user namespaces",
            ),
        ] {
            assert_eq!(error.kind(), Kind::Unsatisfiable);
            assert!(error.to_string().starts_with(said), "{error}");
            assert!(error.hint().is_some_and(|found| found.starts_with(hint)), "{error}");
        }
    }
}
