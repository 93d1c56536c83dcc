//! Why nothing is published.

use std::fmt;
use std::io;

use crate::error::{Failure, Kind};
use crate::oci::{Digest, Platform};

/// The layers do not fit the base, or could not be looked at.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The cache failed us.
    #[error("what lies in the layers cannot be kept")]
    Store(#[source] crate::store::Error),
    /// The base's layers were needed and cannot be had.
    #[error("the base's files cannot be had")]
    Base(#[from] crate::base::Error),
    /// A digest in the base's manifest is not one we can check.
    #[error("a layer of the base cannot be checked")]
    Digest(#[from] crate::oci::digest::ParseError),
    /// A layer is no tar.
    #[error("layer {layer} cannot be read")]
    Layer {
        /// The layer's digest.
        layer: Digest,
        /// What the reader said.
        #[source]
        source: io::Error,
    },
    /// One of our layers is not in the cache any more.
    #[error("layer {0} is not in the cache")]
    Absent(Digest),
    /// The cell's OS or Python is none that is known here.
    #[error(transparent)]
    Target(#[from] crate::python::target::Error),
    /// The cell's path says one OS, the base's own files another.
    #[error("the cell says os `{wanted}`, but {base} is {found}")]
    OtherOs {
        /// The path's OS.
        wanted: String,
        /// The base.
        base: String,
        /// What its files say.
        found: String,
    },
    /// Files that cannot work on this base.
    #[error("{} of the layers cannot work on {platform}{}", count(findings), lines(findings))]
    Refused {
        /// What the image runs on.
        platform: Platform,
        /// Sorted by owner and path; at least one.
        findings: Vec<Finding>,
    },
    /// The layers are not what they say they are.
    #[error("{} of the layers {} not true{}", count(findings), verb(findings), lines(findings))]
    Untrue {
        /// Sorted by owner and path; at least one.
        findings: Vec<Finding>,
    },
    /// The installed distributions do not satisfy each other.
    #[error(
        "{} of the installed distributions {} not met{}",
        requirements(findings),
        verb(findings),
        lines(findings)
    )]
    Unmet {
        /// Sorted by owner and path; at least one.
        findings: Vec<Finding>,
    },
}

/// One file and what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub struct Finding {
    /// The distribution that brings it, as `name version`; `a layer's own file` if none does.
    pub owner: String,
    /// Absolute path in the image.
    pub path: String,
    /// What is wrong.
    pub problem: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: `{}` {}", self.owner, self.path, self.problem)
    }
}

/// More are the same mistake again.
const MOST_SHOWN: usize = 20;

fn count(findings: &[Finding]) -> String {
    match findings.len() {
        1 => "1 file".to_owned(),
        many => format!("{many} files"),
    }
}

fn requirements(findings: &[Finding]) -> String {
    match findings.len() {
        1 => "1 requirement".to_owned(),
        many => format!("{many} requirements"),
    }
}

fn verb(findings: &[Finding]) -> &'static str {
    if findings.len() == 1 { "is" } else { "are" }
}

fn lines(findings: &[Finding]) -> String {
    let mut lines: Vec<String> =
        findings.iter().take(MOST_SHOWN).map(ToString::to_string).collect();
    if findings.len() > MOST_SHOWN {
        lines.push(format!("… and {} more", findings.len() - MOST_SHOWN));
    }
    lines.iter().flat_map(|line| ["\n", line]).collect()
}

impl Failure for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::Store(error) => error.kind(),
            Self::Base(error) => error.kind(),
            Self::Target(error) => error.kind(),
            Self::Absent(_) => Kind::Unexpected,
            // The files are what the lock says; they are for another system.
            Self::Refused { .. } | Self::Unmet { .. } => Kind::Unsatisfiable,
            Self::Digest(_) | Self::Layer { .. } | Self::OtherOs { .. } | Self::Untrue { .. } => {
                Kind::Integrity
            }
        }
    }

    fn heals(&self) -> bool {
        matches!(self, Self::Absent(_))
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Store(error) => error.hint(),
            Self::Base(error) => error.hint(),
            Self::Target(error) => error.hint(),
            Self::Absent(_) => Some("run the same command again: it is made anew".into()),
            Self::Refused { .. } => Some(
                "lock another version of these distributions, or leave the files out with a \
                 [[prune]] rule in the layer's layer.toml"
                    .into(),
            ),
            Self::Unmet { .. } => Some(
                "lock again; if an image is to be made nevertheless, say why in an [[override]] of \
                 the layer or the cell"
                    .into(),
            ),
            Self::OtherOs { .. } => Some(
                "rename the cell's folder, or point `base` in matrix.toml at the right image"
                    .into(),
            ),
            _ => None,
        }
    }
}
