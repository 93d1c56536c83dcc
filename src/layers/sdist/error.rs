//! Why an sdist did not become a wheel.

use std::io;
use std::path::PathBuf;

use crate::error::{Failure, Kind};
use crate::sandbox::{self, Tier, confine};
use crate::{store, wheel_cache};

/// An sdist that was not built.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The cache failed us.
    #[error("the built wheel cannot be kept")]
    Store(#[from] store::Error),
    /// The shared cache of built wheels is not to be believed, or could not be kept.
    #[error(transparent)]
    Shared(#[from] wheel_cache::Error),
    /// A wheel that was built on another machine's base has code for that machine.
    #[error(
        "{project} cannot be built for {platform} here: `{wheel}`, built on {built_on}, has compiled \
         code"
    )]
    Compiled {
        /// Name and version.
        project: String,
        /// The wheel.
        wheel: String,
        /// Where it was built.
        built_on: crate::oci::Platform,
        /// What it was for.
        platform: crate::oci::Platform,
    },
    /// A file was not fetched before, or was damaged and is gone now.
    #[error("`{file_name}` is not in the cache")]
    Absent {
        /// The sdist's or wheel's file name.
        file_name: String,
    },
    /// Neither `.tar.gz` nor `.zip` (source distribution format).
    #[error("the sdist is neither a .tar.gz nor a .zip: `{file_name}`")]
    Format {
        /// The sdist's file name.
        file_name: String,
    },
    /// An archive cannot be read.
    #[error("`{file_name}` is damaged")]
    Damaged {
        /// The sdist's or wheel's file name.
        file_name: String,
        /// What the reader said.
        #[source]
        source: io::Error,
    },
    /// An archive has an entry that is not unpacked.
    #[error("`{file_name}` cannot be unpacked")]
    Refused {
        /// The sdist's or wheel's file name.
        file_name: String,
        /// The entry and the reason.
        #[source]
        source: confine::Error,
    },
    /// The sdist's entries do not lie in one folder.
    #[error("the sdist does not hold one folder at its top: `{file_name}` has `{entry}`")]
    NoTop {
        /// The sdist's file name.
        file_name: String,
        /// The first entry that lies elsewhere.
        entry: String,
    },
    /// `pyproject.toml` says nothing that can be followed.
    #[error("the build-system table of `{file_name}` is not valid: {reason}")]
    BuildSystem {
        /// The sdist's file name.
        file_name: String,
        /// What is wrong, in one line.
        reason: String,
    },
    /// The folder of the build failed us.
    #[error("the build's folder cannot be used: {path}")]
    Disk {
        /// The folder.
        path: PathBuf,
        /// What the disk said.
        #[source]
        source: io::Error,
    },
    /// The build could not be run.
    #[error("{project} cannot be built here")]
    Sandbox {
        /// Name and version.
        project: String,
        /// Why.
        #[source]
        source: Box<sandbox::Error>,
    },
    /// The build ran into a limit.
    #[error("{project} did not build: {why}; its last lines:\n{tail}")]
    Stopped {
        /// Name and version.
        project: String,
        /// Which limit.
        why: Stopped,
        /// The last lines of the log.
        tail: String,
        /// The whole log.
        log: PathBuf,
    },
    /// The backend failed.
    #[error("{project} did not build ({ending}, sandbox: {tier}); its last lines:\n{tail}")]
    Failed {
        /// Name and version.
        project: String,
        /// How the backend's process ended.
        ending: sandbox::Ending,
        /// Which way it ran.
        tier: Tier,
        /// It has no compiler, and its log says that it looked for one.
        lacks_compiler: bool,
        /// The last lines of the log.
        tail: String,
        /// The whole log.
        log: PathBuf,
    },
    /// The lock has no compiler for this machine.
    #[error("{project} cannot be compiled here: the lock has no compiler that runs on {host}")]
    NoCompiler {
        /// Name and version.
        project: String,
        /// This machine.
        host: crate::oci::Platform,
    },
    /// There are no words for the target that the compiler knows.
    #[error("{project} cannot be compiled for {platform}: the compiler does not know it")]
    NoTarget {
        /// Name and version.
        project: String,
        /// The target.
        platform: crate::oci::Platform,
    },
    /// The base for the other machine does not say how its Python was built.
    #[error("the target's base has no sysconfig data in {folder}")]
    NoSysconfig {
        /// Where they should be.
        folder: PathBuf,
    },
    /// The compiler could not make its own runtime.
    #[error("`{compiler}` does not work for {target}; its last lines:\n{tail}")]
    Toolchain {
        /// Its wheel.
        compiler: String,
        /// In its own words.
        target: String,
        /// The last lines of the log.
        tail: String,
        /// The whole log.
        log: PathBuf,
    },
    /// The backend wants what was not locked.
    #[error(
        "{project} needs `{}` to be built, which is not among its locked build requirements",
        .missing.join("`, `")
    )]
    Missing {
        /// Name and version.
        project: String,
        /// The backend's requirements, or the module that could not be imported.
        missing: Vec<String>,
        /// The whole log.
        log: PathBuf,
    },
    /// The backend was content, but there is no wheel, or it is another project's or version's.
    #[error("building {project} did not make its wheel but {}",
        .found.as_ref().map_or_else(|| "nothing".to_owned(), |found| format!("`{found}`")))]
    WrongWheel {
        /// Name and version.
        project: String,
        /// The file that the backend named.
        found: Option<String>,
        /// The whole log.
        log: PathBuf,
    },
}

/// The limit a build ran into; its text is part of the message, so it is no `source()`.
#[derive(Debug)]
pub struct Stopped(pub(super) Box<sandbox::Error>);

impl std::fmt::Display for Stopped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl Failure for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::Store(error) => error.kind(),
            Self::Shared(error) => error.kind(),
            Self::Refused { source, .. } => source.kind(),
            Self::Sandbox { source, .. } => source.kind(),
            Self::Absent { .. } | Self::Disk { .. } => Kind::Unexpected,
            Self::Damaged { .. } | Self::NoTop { .. } => Kind::Integrity,
            Self::Compiled { .. }
            | Self::Format { .. }
            | Self::BuildSystem { .. }
            | Self::Stopped { .. }
            | Self::Failed { .. }
            | Self::NoCompiler { .. }
            | Self::NoTarget { .. }
            | Self::NoSysconfig { .. }
            | Self::Toolchain { .. }
            | Self::Missing { .. }
            | Self::WrongWheel { .. } => Kind::Unsatisfiable,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Store(error) => error.hint(),
            Self::Shared(error) => error.hint(),
            Self::Sandbox { source, .. } => source.hint(),
            Self::Absent { .. } => Some("run the same command again: it is fetched anew".into()),
            Self::Disk { .. } => {
                Some("free space or choose another folder with --cache-dir".into())
            }
            Self::Failed { lacks_compiler: true, log, .. } => Some(format!(
                "it needs a compiler: [compiler] with use = \"zig\" in its layer.toml brings one; \
                 the whole log is {}",
                log.display()
            )),
            Self::Failed { tier: Tier::Loader, log, .. } => Some(format!(
                "without namespaces the base's programs run by their names only, not by paths: a \
                 machine that has them can build it; the whole log is {}",
                log.display()
            )),
            Self::Failed { log, .. }
            | Self::Stopped { log, .. }
            | Self::WrongWheel { log, .. }
            | Self::Toolchain { log, .. } => Some(format!("the whole log is {}", log.display())),
            Self::NoCompiler { host, .. } => Some(format!(
                "assemble on another machine than {host}, or use a version that has a wheel"
            )),
            Self::Compiled { platform, .. } | Self::NoTarget { platform, .. } => Some(format!(
                "a [compiler] in its layer.toml compiles for other machines; else assemble this \
                 platform on a {platform} machine, or use a version that has a wheel for it"
            )),
            Self::Missing { log, .. } => {
                Some(format!("lock again with `assemble lock`; the whole log is {}", log.display()))
            }
            _ => None,
        }
    }
}
