//! Why a layer could not be made.

use std::fmt;
use std::io;
use std::path::PathBuf;

use pep508_rs::PackageName;

use super::path::{ContainerPath, ParseError};
use super::tree::Clash;
use crate::error::{Failure, Kind};
use crate::oci::Digest;
use crate::python::{entry_points, record};

/// A wheel, an sdist or a tree was not usable.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The cache failed us.
    #[error("the layer cannot be kept")]
    Store(#[from] crate::store::Error),
    /// A file of the lock cannot be had.
    #[error("a file of the lock cannot be had")]
    PackageIndex(#[from] crate::package_index::Error),
    /// The base's own Python is not to be had for a build.
    #[error("the base cannot be used for a build")]
    Base(#[from] crate::base::Error),
    /// An sdist did not become a wheel.
    #[error(transparent)]
    Sdist(#[from] super::sdist::Error),
    /// A file of the recipe cannot be read.
    #[error("a file of the layer cannot be read")]
    Disk(#[source] io::Error),
    /// The recipe asks for something impossible.
    #[error("{}: {problem}", folder.display())]
    Recipe {
        /// The layer's folder.
        folder: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// A wheel is not in the cache any more, or was damaged there.
    #[error("`{file_name}` is not in the cache: {digest}")]
    Absent {
        /// The wheel's file name.
        file_name: String,
        /// Its digest, from the lock.
        digest: Digest,
    },
    /// A compressed part of a layer is not in the cache any more, or was damaged there.
    #[error("a part of the layer is not in the cache: {digest}")]
    Segment {
        /// Its digest.
        digest: Digest,
    },
    /// These have modules that no earlier run compiled: nobody but the base's Python can.
    #[error("not compiled yet: {}", wheels.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))]
    Uncompiled {
        /// The distributions, sorted.
        wheels: Vec<PackageName>,
    },
    /// A wheel is hostile, broken or not what it says it is.
    #[error("`{file_name}` is refused")]
    Wheel {
        /// The wheel's file name.
        file_name: String,
        /// Why.
        #[source]
        problem: WheelProblem,
    },
    /// A deviation of the recipe that no distribution of the layer takes.
    #[error("{what}: no distribution of the layer has it")]
    Unapplied {
        /// The command or the file, with its name.
        what: String,
    },
    /// Modules could not be compiled.
    #[error("modules cannot be compiled")]
    Bytecode(#[from] super::bytecode::Error),
    /// Two distributions, or two files of one layer, want the same place.
    #[error(transparent)]
    Clash(#[from] Box<Clash>),
    /// A pruning pattern is none.
    #[error("`{pattern}` is no pattern of paths")]
    Pattern {
        /// As it was written.
        pattern: String,
        /// What is wrong with it.
        #[source]
        source: globset::Error,
    },
    /// A mode in a `files` layer that no file of an image should have.
    #[error("mode {mode:#o} of `{path}` is refused: at most {limit:#o} here")]
    Mode {
        /// Whose mode.
        path: ContainerPath,
        /// The mode.
        mode: u32,
        /// All bits that may be set.
        limit: u32,
    },
    /// A symbolic link in a `files` layer without a target that can be written.
    #[error("the link `{path}` has no usable target: `{target}`")]
    Target {
        /// The link.
        path: ContainerPath,
        /// What it should point to.
        target: String,
    },
    /// The layer's bytes could not be written.
    #[error("the layer cannot be written below {path}")]
    Write {
        /// The cache's root.
        path: PathBuf,
        /// What the disk said.
        #[source]
        source: io::Error,
    },
}

/// Why a wheel is refused.
#[derive(Debug, thiserror::Error)]
pub enum WheelProblem {
    /// Not a zip archive, or its local and central headers disagree, entries overlap or are listed twice.
    #[error("its zip structure is broken or ambiguous")]
    Archive(#[source] zip::result::ZipError),
    /// Bytes around the archive, in which another reader may see another archive.
    #[error("it has bytes {0} the zip archive")]
    Surroundings(&'static str),
    /// Unpacks to more than is allowed.
    #[error("it unpacks to {declared} bytes, more than the {limit} that are allowed")]
    TooLarge {
        /// What the central directory says.
        declared: u64,
        /// What is allowed for a wheel of this size.
        limit: u64,
    },
    /// One entry is refused.
    #[error("its entry `{name}` {refusal}")]
    Entry {
        /// As the archive spells it.
        name: String,
        /// Why.
        refusal: Refusal,
    },
    /// An entry could not be unpacked.
    #[error("its entry `{name}` cannot be unpacked")]
    Unpack {
        /// As the archive spells it.
        name: String,
        /// What the decoder said.
        #[source]
        source: io::Error,
    },
    /// Not exactly one `.dist-info`.
    #[error("it must have one `.dist-info` folder, and has {}", list(.0))]
    DistInfo(Vec<String>),
    /// Another distribution than its lock or file name says.
    #[error("its {place} says `{found}`, expected `{expected}`")]
    Identity {
        /// `file name`, `.dist-info folder`, `METADATA` …
        place: &'static str,
        /// Name and version of the lock.
        expected: String,
        /// What stands there.
        found: String,
    },
    /// A file of `.dist-info` is not there.
    #[error("it has no `{0}`")]
    Missing(String),
    /// A file of `.dist-info` is not UTF-8.
    #[error("its `{0}` is not UTF-8")]
    NotText(String),
    /// A field of WHEEL is absent or has no valid value.
    #[error("its WHEEL file has no valid `{0}`")]
    Field(&'static str),
    /// Made for installers that do not exist yet.
    #[error("its Wheel-Version is {0}, and only 1.x is known")]
    WheelVersion(String),
    /// RECORD cannot be read.
    #[error("its RECORD cannot be used")]
    Record(#[source] record::ParseError),
    /// In the archive, but not in RECORD.
    #[error("its `{0}` is not in RECORD with a hash")]
    Unrecorded(String),
    /// In RECORD, but not in the archive.
    #[error("its RECORD lists `{0}`, which is not there")]
    Gone(String),
    /// A file is not the one RECORD speaks of.
    #[error("its `{path}` does not match RECORD: expected {expected}, found {found}")]
    Mismatch {
        /// The file.
        path: String,
        /// RECORD's hash or size.
        expected: String,
        /// The file's.
        found: String,
    },
    /// `entry_points.txt` cannot be read.
    #[error("its entry_points.txt cannot be used")]
    EntryPoints(#[source] entry_points::ParseError),
    /// A `.data` folder with a tree no scheme has a place for.
    #[error("its `{0}` belongs to no installation scheme")]
    DataKey(String),
    /// Text that the recipe replaces is not there so often.
    #[error("its `{path}` has the text that is to be replaced {found} times, expected {expected}")]
    Replacement {
        /// The file.
        path: String,
        /// As the recipe says.
        expected: usize,
        /// As the file has it; 0 also if it is no text.
        found: usize,
    },
    /// Takes a place that belongs to another.
    #[error("it would write `{path}`, {reason}")]
    Reserved {
        /// Where.
        path: ContainerPath,
        /// Whose place it is.
        reason: &'static str,
    },
    /// Two of its own files land at one place.
    #[error("its files get into each other's way")]
    Clash(#[source] Box<Clash>),
}

/// Why one entry of a wheel is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Absolute, `..`, `\`, NUL, whiteout …
    Path(ParseError),
    /// A link, device or pipe, by its Unix mode.
    FileType(u32),
    /// Needs a password.
    Encrypted,
    /// Unpacks to another length than both its headers say.
    Length {
        /// As the headers say.
        declared: u64,
        /// At least.
        found: u64,
    },
    /// A folder that holds bytes.
    FolderWithBytes,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(_) => f.write_str("is no plain relative path"),
            Self::FileType(mode) => write!(f, "is no regular file: mode {mode:#o}"),
            Self::Encrypted => f.write_str("is encrypted"),
            Self::Length { declared, found } => {
                write!(f, "has another length than declared: expected {declared}, found {found}")
            }
            Self::FolderWithBytes => f.write_str("is a folder that holds bytes"),
        }
    }
}

fn list(names: &[String]) -> String {
    match names {
        [] => "none".into(),
        names => format!("`{}`", names.join("`, `")),
    }
}

impl From<Clash> for Error {
    fn from(clash: Clash) -> Self {
        Self::Clash(Box::new(clash))
    }
}

impl Failure for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::Store(error) => error.kind(),
            Self::PackageIndex(error) => error.kind(),
            Self::Base(error) => error.kind(),
            Self::Sdist(error) => error.kind(),
            Self::Absent { .. }
            | Self::Segment { .. }
            | Self::Uncompiled { .. }
            | Self::Write { .. } => Kind::Unexpected,
            Self::Bytecode(error) => error.kind(),
            Self::Wheel { problem, .. } => match problem {
                WheelProblem::Replacement { .. } => Kind::Usage,
                WheelProblem::WheelVersion(_) | WheelProblem::EntryPoints(_) => Kind::Unsatisfiable,
                _ => Kind::Integrity,
            },
            Self::Clash(_) => Kind::Unsatisfiable,
            Self::Disk(_)
            | Self::Recipe { .. }
            | Self::Unapplied { .. }
            | Self::Pattern { .. }
            | Self::Mode { .. }
            | Self::Target { .. } => Kind::Usage,
        }
    }

    fn heals(&self) -> bool {
        matches!(self, Self::Absent { .. } | Self::Segment { .. })
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Store(error) => error.hint(),
            Self::PackageIndex(error) => error.hint(),
            Self::Base(error) => error.hint(),
            Self::Sdist(error) => error.hint(),
            Self::Bytecode(error) => error.hint(),
            Self::Unapplied { .. }
            | Self::Wheel { problem: WheelProblem::Replacement { .. }, .. } => Some(
                "the rule was written for other versions: mend it in the layer's file, or say with \
                 `when` which cells it is for"
                    .into(),
            ),
            Self::Absent { .. } => Some("run it again: the file is fetched anew".into()),
            Self::Segment { .. } => Some("run it again: the part is made anew".into()),
            Self::Clash(_) => Some(
                "prune one of the two in the layer's file, or require versions that do not clash"
                    .into(),
            ),
            Self::Write { .. } => {
                Some("free space or choose another folder with --cache-dir".into())
            }
            _ => None,
        }
    }
}
