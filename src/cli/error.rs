//! What is wrong with what was typed.

use std::io;
use std::path::PathBuf;

use crate::error::{Failure, Kind};
use crate::oci::{Platform, platform};

/// A flag, variable or file that the command line names is not usable.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("no folder for the cache: neither --cache-dir nor HOME is set")]
    NoCacheFolder,
    #[error("not of the form `{form}`: `{found}`")]
    Form { form: &'static str, found: String },
    #[error("SOURCE_DATE_EPOCH is not a number of seconds: `{0}`")]
    SourceDateEpoch(String),
    #[error("--platform is not usable")]
    Platform(#[source] platform::ParseError),
    #[error("{cell} is not made for {wanted}, only for {}", list(have))]
    NoSuchPlatform { cell: String, wanted: Platform, have: Vec<Platform> },
    #[error("{flag} is for one cell, but {cells} are meant")]
    OneCellOnly { flag: &'static str, cells: usize },
    #[error("{cell} has no lock")]
    NoLock { cell: String },
    #[error("a file cannot be used")]
    Disk(#[source] io::Error),
    #[error("--exclude-newer is neither a date nor RFC 3339: `{0}`")]
    Date(String),
    #[error("not the name of a project: `{0}`")]
    ProjectName(String),
    #[error("cells and a command cannot be mixed: write flags and cells after `{0}`")]
    CellsBeforeCommand(&'static str),
    #[error("the lock of {cell} would change: {change}")]
    LockWouldChange { cell: String, change: String },
    #[error("{path} is there already")]
    CellExists { path: String },
    #[error("`{}` is no registries.conf: {reason}", path.display())]
    RegistriesConf { path: PathBuf, reason: String },
    #[error("the reference is not usable")]
    Reference(#[source] crate::oci::reference::ParseError),
    #[error("`{0}` names more than a repository")]
    NoRepository(String),
    #[error("--push-wheels, but no wheel cache is named")]
    NoWheelCache,
    #[error("no password on standard input")]
    NoPassword,
    #[error("no folder for credentials: none of REGISTRY_AUTH_FILE, DOCKER_CONFIG and HOME is set")]
    NoLoginFile,
    #[error("{failed} of {of} cells failed")]
    Cells { failed: usize, of: usize, worst: Kind, not_begun: usize },
    #[error("interrupted")]
    Interrupted,
}

fn list(platforms: &[Platform]) -> String {
    platforms.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

impl Failure for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::NoLock { .. } | Self::LockWouldChange { .. } => Kind::Drift,
            Self::Disk(_) => Kind::Unexpected,
            Self::Interrupted => Kind::Interrupted,
            Self::Cells { worst, .. } => *worst,
            _ => Kind::Usage,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::NoLock { cell } | Self::LockWouldChange { cell, .. } => {
                Some(format!("run `assemble lock {cell}`"))
            }
            Self::CellExists { path } => {
                Some(format!("run `assemble lock {path}` to lock it anew"))
            }
            Self::Cells { not_begun: 1.., .. } => {
                Some("--keep-going makes the other cells all the same".into())
            }
            Self::NoWheelCache => {
                Some("name one: `--wheel-cache REPOSITORY`, or `wheels` in matrix.toml".into())
            }
            Self::NoSuchPlatform { .. } => {
                Some("add it to `platforms` in matrix.toml or cell.toml, and lock again".into())
            }
            _ => None,
        }
    }
}
