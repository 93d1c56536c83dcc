//! Where an image is not what its distributions' projects published, and why (pure).

use std::collections::BTreeSet;

use pep508_rs::PackageName;
use serde::Serialize;

use crate::oci;
use crate::recipe::cell::{Exceptions, Limit, Override, Reasoned};
use crate::recipe::layer::Brick;
use crate::recipe::python::{
    Bytecode, Compiler, Duplicates, Invalidation, Launcher, Prune, Python, Replacement, Strip,
};
use crate::request::Request;

/// The label that holds a plan's [`Deviations`] as JSON.
pub const DEVIATIONS: &str = "assemble.deviations";

/// What [`Deviations::overridden`] says, of the label's text; nothing if that is none of ours.
pub fn overridden(label: &str) -> BTreeSet<PackageName> {
    #[derive(serde::Deserialize)]
    struct Label {
        #[serde(default)]
        overrides: Vec<Override>,
    }
    let label: Option<Label> = serde_json::from_str(label).ok();
    label.iter().flat_map(|label| &label.overrides).filter_map(Override::project).collect()
}

/// Every way in which an image is not what its distributions' projects published, with reasons; only
/// what holds for the cell, sorted. Its JSON has one text for one value.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Deviations {
    /// Modules are compiled in advance.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytecode: Option<Bytecode>,
    /// The C and C++ in sdists is compiled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compiler: Option<Compiler>,
    /// Bounds on projects nobody asks for directly.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub constraints: Vec<Reasoned>,
    /// Equal files are one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duplicates: Option<Duplicates>,
    /// Files uploaded later were not considered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exclude_newer: Option<Limit>,
    /// Commands that do something before they call their entry point.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub launchers: Vec<Launcher>,
    /// What replaces every requirement on a project.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub overrides: Vec<Override>,
    /// Files that are left out.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub prune: Vec<Prune>,
    /// Text that is replaced in installed files.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub replacements: Vec<Replacement>,
    /// Requirements besides the main one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub requirements: Vec<Reasoned>,
    /// Shared objects without what only debuggers and linkers read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub strip: Option<Strip>,
    /// Asked for, but not possible here; one line each.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub without: Vec<String>,
}

impl Deviations {
    /// Those of a request, for a base with this Python.
    pub(super) fn of(request: &Request, python: (u8, u8)) -> Result<Self, String> {
        let Exceptions { requirements, constraints, overrides, exclude_newer, platforms: _ } =
            Exceptions::of(&request.cell, &request.layers)?;
        let mut all =
            Self { constraints, exclude_newer, overrides, requirements, ..Self::default() };
        for layer in &request.layers {
            let Brick::Python(brick) = &layer.brick else { continue };
            let brick = brick.of_cell(&request.cell.columns);
            let Python {
                prune,
                launchers,
                replacements,
                strip,
                duplicates,
                bytecode,
                compiler,
                ..
            } = brick.map_err(|problem| format!("layer `{}`: {problem}", layer.name))?;
            all.prune.extend(prune);
            all.launchers.extend(launchers);
            all.replacements.extend(replacements);
            all.strip = strip;
            all.duplicates = duplicates;
            all.bytecode = bytecode;
            all.compiler = compiler.filter(|compiler| !compiler.uses.is_none()).or(all.compiler);
        }
        if let Some(Bytecode { invalidation: Invalidation::UncheckedHash, .. }) = all.bytecode
            && python < (3, 7)
        {
            all.bytecode = None;
            all.without.push(format!(
                "bytecode: Python {}.{} knows no unchecked hashes, and times in it would be wrong",
                python.0, python.1
            ));
        }
        all.prune.sort();
        all.launchers.sort();
        all.replacements.sort();
        Ok(all)
    }

    /// The projects that are replaced or dropped wherever they are required.
    pub fn overridden(&self) -> BTreeSet<PackageName> {
        self.overrides.iter().filter_map(Override::project).collect()
    }

    /// Compact JSON, its keys sorted.
    pub(super) fn to_json(&self) -> Result<String, String> {
        let bytes = oci::json::to_canonical_vec(self).map_err(|error| error.to_string())?;
        String::from_utf8(bytes).map_err(|error| error.to_string())
    }
}
