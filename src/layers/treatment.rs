//! What is done to distributions on their way into a layer: a plan's deviations, ready to be applied.

use super::{Error, Prune};
use crate::plan::Deviations;
use crate::recipe::python::{Launcher, Replacement};

/// Every change to distributions, none by default.
#[derive(Clone, Debug, Default)]
pub struct Treatment {
    /// Files that are left out; the first rule that matches takes a file.
    pub prune: Vec<Prune>,
    /// Commands that do something before they call their entry point.
    pub launchers: Vec<Launcher>,
    /// Text that is replaced.
    pub replacements: Vec<Replacement>,
    /// Whether shared objects are stripped.
    pub strip: bool,
    /// Equal files with at least so many bytes become hard links.
    pub smallest_duplicate: Option<u64>,
    /// Which modules are compiled; none if there is no rule.
    pub bytecode: Option<Prune>,
}

impl Treatment {
    /// That of a plan.
    ///
    /// # Errors
    /// A pattern of paths is malformed.
    pub fn of(deviations: &Deviations) -> Result<Self, Error> {
        Ok(Self {
            prune: deviations
                .prune
                .iter()
                .map(|rule| Prune::new(&rule.paths, &rule.reason))
                .collect::<Result<_, _>>()?,
            launchers: deviations.launchers.clone(),
            replacements: deviations.replacements.clone(),
            strip: deviations.strip.is_some(),
            smallest_duplicate: deviations.duplicates.as_ref().map(|rule| rule.smallest),
            bytecode: deviations
                .bytecode
                .as_ref()
                .map(|rule| match rule.paths.as_slice() {
                    [] => Prune::new(["**"], &rule.reason),
                    paths => Prune::new(paths, &rule.reason),
                })
                .transpose()?,
        })
    }

    /// The launcher of a command, if it is a changed one.
    pub(super) fn launcher(&self, command: &str) -> Option<&Launcher> {
        self.launchers.iter().find(|launcher| launcher.script == command)
    }
}
