//! What is wrong with a file below `matrix/` or `layers/`.

use std::io;
use std::path::PathBuf;

use crate::error::{Failure, Kind};

/// A recipe file is missing or wrong, or no cell was meant.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The disk said no.
    #[error("cannot read the recipe")]
    Disk(#[source] io::Error),
    /// TOML's own error shows line and column.
    #[error("{path} is not as it should be")]
    Toml {
        /// Which file.
        path: PathBuf,
        /// What and where.
        #[source]
        source: Box<toml::de::Error>,
    },
    /// The file is TOML of the right shape, but says something impossible.
    #[error("{path}: {problem}")]
    Invalid {
        /// Which file or folder.
        path: PathBuf,
        /// What is wrong, and what would be right.
        problem: String,
    },
    /// A template names a column that the cell does not have.
    #[error("`{template}` names the column `{{{column}}}`, which the cell does not have (it has {})", have.join(", "))]
    Column {
        /// The whole template.
        template: String,
        /// The unknown column.
        column: String,
        /// The columns there are.
        have: Vec<String>,
    },
    /// No cell is called that.
    #[error("no cell is called `{wanted}`")]
    NoCell {
        /// What was asked for.
        wanted: String,
        /// The nearest cells there are.
        nearest: Vec<String>,
    },
    /// The matrix is empty.
    #[error("there is no cell below {path}")]
    NoCells {
        /// The matrix folder.
        path: PathBuf,
    },
    /// Python and OS never came together in an official image.
    #[error("{cell}: there never was a python {python} image on {os}")]
    NeverExisted {
        /// The cell's path.
        cell: String,
        /// `3.7`
        python: String,
        /// `alpine3.24`
        os: String,
        /// The nearest OS that did exist for this Python.
        nearest: Option<String>,
    },
}

impl Failure for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::Disk(_) | Self::Toml { .. } | Self::Invalid { .. } | Self::Column { .. } => {
                Kind::Usage
            }
            Self::NoCell { .. } | Self::NoCells { .. } | Self::NeverExisted { .. } => Kind::Usage,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Disk(_) => {
                Some("run this in the folder that holds matrix/ and layers/, or use --root".into())
            }
            Self::NoCell { nearest, .. } if !nearest.is_empty() => {
                Some(format!("there are: {}", nearest.join(", ")))
            }
            Self::NoCell { .. } | Self::NoCells { .. } => {
                Some("make one with `assemble new`".into())
            }
            Self::NeverExisted { python, nearest: Some(nearest), .. } => {
                Some(format!("the nearest that did exist: python{python} on {nearest}"))
            }
            _ => None,
        }
    }
}

/// Parses a TOML file's text; unknown keys are errors where the type says so.
pub(super) fn parse<T: serde::de::DeserializeOwned>(
    text: &str,
    path: &std::path::Path,
) -> Result<T, Error> {
    toml::from_str(text)
        .map_err(|source| Error::Toml { path: path.to_owned(), source: Box::new(source) })
}
