//! From a cell to the question that is put to the solver (pure).

use std::collections::BTreeMap;

use pep508_rs::{PackageName, Requirement};

use super::{Error, Question};
use crate::python::Target;
use crate::recipe::lock::Inputs;
use crate::recipe::{Cell, Layer};

/// The targets of a cell, in the order of its platforms.
///
/// # Errors
/// The cell's Python or OS is not known, or they never came together in an official image.
pub fn targets(cell: &Cell) -> Result<Vec<Target>, Error> {
    cell.platforms
        .iter()
        .map(|platform| {
            Target::new(cell.python(), cell.os(), platform)
                .map_err(|source| Error::Target { cell: cell.path.clone(), source })
        })
        .collect()
}

/// What the recipe says of a cell now, with the Python version that `targets` are decided for.
///
/// # Errors
/// A layer's requirements do not fit the cell.
pub fn inputs(cell: &Cell, layers: &[Layer], targets: &[Target]) -> Result<Inputs, Error> {
    let python = targets.first().map(|target| target.version().to_string()).unwrap_or_default();
    Inputs::of(cell, layers, python)
        .map_err(|problem| Error::Recipe { cell: cell.path.clone(), problem })
}

impl Question {
    /// The question that `inputs` put, without preferences.
    ///
    /// # Errors
    /// A requirement is not PEP 508.
    pub fn of(inputs: &Inputs, targets: Vec<Target>) -> Result<Self, Error> {
        let list = |texts: &[String]| {
            texts.iter().map(|text| requirement(text)).collect::<Result<Vec<_>, _>>()
        };
        let requirements = list(&inputs.requirements)?;
        let constraints = list(&inputs.constraints)?;
        let mut overrides = BTreeMap::new();
        for text in &inputs.overrides {
            if let Some(name) = text.strip_prefix('!') {
                let name: PackageName = name.parse().map_err(|error| Error::Requirement {
                    text: text.clone(),
                    problem: format!("{error}"),
                })?;
                overrides.insert(name, None);
            } else {
                let requirement: Requirement = requirement(text)?;
                overrides.insert(requirement.name.clone(), Some(requirement));
            }
        }
        Ok(Self {
            requirements,
            constraints,
            overrides,
            targets,
            exclude_newer: inputs.exclude_newer,
            prefer: BTreeMap::new(),
        })
    }
}

fn requirement(text: &str) -> Result<Requirement, Error> {
    text.parse().map_err(|error: pep508_rs::Pep508Error| Error::Requirement {
        text: text.to_owned(),
        // Its `Display` cuts the text at byte positions, which is no place for what a person typed.
        problem: error.message.to_string(),
    })
}
