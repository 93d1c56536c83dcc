//! How a cell stands: whether its lock is there, fits, and pins the base.

use fs_err as fs;
use serde::Serialize;

use super::cell::Cell;
use super::lock::{Inputs, Lock};
use super::{Error, Recipe};
use crate::oci::Digest;

/// Whether a cell can be made from its lock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "state")]
pub enum State {
    /// The lock was made from what the recipe says.
    Locked,
    /// The recipe has changed since.
    Stale {
        /// One line for each input that changed.
        changes: Vec<String>,
    },
    /// There is no lock.
    NoLock,
    /// There is one that cannot be read.
    Damaged {
        /// What is wrong with it.
        problem: String,
    },
}

/// How a cell stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Status {
    /// Whether it can be made.
    #[serde(flatten)]
    pub state: State,
    /// The digest that the lock pins the base to.
    pub base_pin: Option<Digest>,
}

impl State {
    /// The state alone, as it is printed.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Locked => "locked",
            Self::Stale { .. } => "stale",
            Self::NoLock => "no lock",
            Self::Damaged { .. } => "damaged",
        }
    }
}

impl Recipe {
    /// Reads the cell's lock, if there is one, and compares it with the recipe. Nothing is resolved
    /// and no network is asked.
    ///
    /// # Errors
    /// The disk said no, or a requirement of a layer does not fit the cell.
    pub fn status(&self, cell: &Cell) -> Result<Status, Error> {
        let path = self.lock_path(cell);
        let text = match fs::read_to_string(&path) {
            Ok(text) => Some(text),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(Error::Disk(error)),
        };
        let Some(text) = text else {
            return Ok(Status { state: State::NoLock, base_pin: None });
        };
        let lock = match Lock::parse(&text, &path) {
            Ok(lock) => lock,
            Err(error) => {
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                let problem = cause.unwrap_or_else(|| error.to_string());
                let problem = problem.trim_end().to_owned();
                return Ok(Status { state: State::Damaged { problem }, base_pin: None });
            }
        };
        let now = Inputs::of(cell, &self.layers, cell.python().to_owned())
            .map_err(|problem| Error::Invalid { path, problem })?;
        let changes = lock.inputs.differences(&now);
        let state = if changes.is_empty() { State::Locked } else { State::Stale { changes } };
        Ok(Status { state, base_pin: lock.base.map(|pin| pin.digest) })
    }
}
