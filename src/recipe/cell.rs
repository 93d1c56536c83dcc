//! One image of the matrix: a folder whose path states every fact, and maybe some exceptions.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::columns::Columns;
use super::error::{Error, parse};
use crate::oci::{Platform, Reference};

/// One cell: what its path says, and what follows from it.
#[derive(Clone, Debug)]
pub struct Cell {
    /// Below `matrix/`: `2.47.0/python3.13/alpine3.24`.
    pub path: String,
    /// The facts in the path.
    pub columns: Columns,
    /// `docker.io/grubykarol/locust:2.47.0-python3.13-alpine3.24`
    pub reference: Reference,
    /// `docker.io/library/python:3.13-alpine3.24`
    pub base: Reference,
    /// Sorted, at least one.
    pub platforms: Vec<Platform>,
    /// From `cell.toml`, if there is one.
    pub exceptions: Exceptions,
}

impl Cell {
    /// The tag alone.
    pub fn tag(&self) -> &str {
        self.reference.tag().unwrap_or_default()
    }

    /// The column `python`: `3.13`.
    pub fn python(&self) -> &str {
        self.columns.get("python").unwrap_or_default()
    }

    /// The column `os`: `alpine3.24`.
    pub fn os(&self) -> &str {
        self.columns.get("os").unwrap_or_default()
    }
}

/// `cell.toml`: where a cell differs from the rest, and why.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Exceptions {
    /// Other platforms than `matrix.toml` says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platforms: Option<Vec<Platform>>,
    /// Files uploaded later do not exist for this cell's resolution.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exclude_newer: Option<Limit>,
    /// Further direct requirements.
    #[serde(default, rename = "requirement", skip_serializing_if = "Vec::is_empty")]
    pub requirements: Vec<Reasoned>,
    /// Bounds on projects nobody asks for directly.
    #[serde(default, rename = "constraint", skip_serializing_if = "Vec::is_empty")]
    pub constraints: Vec<Reasoned>,
    /// What replaces every requirement on a project.
    #[serde(default, rename = "override", skip_serializing_if = "Vec::is_empty")]
    pub overrides: Vec<Override>,
}

/// A requirement and the reason for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reasoned {
    /// PEP 508.
    pub requirement: String,
    /// Why: shown by `assemble plan`.
    pub reason: String,
}

/// A time limit and the reason for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limit {
    /// RFC 3339, UTC.
    pub date: jiff::Timestamp,
    /// Why.
    pub reason: String,
}

/// Replaces or drops a project wherever it is required.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Override {
    /// What every requirement on this project becomes (PEP 508).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requirement: Option<String>,
    /// The project that is dropped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drop: Option<String>,
    /// Why.
    pub reason: String,
}

impl Exceptions {
    /// Parses a `cell.toml`.
    ///
    /// # Errors
    /// Unknown keys, missing reasons, an override that both replaces and drops.
    pub fn parse(text: &str, path: &Path) -> Result<Self, Error> {
        let invalid = |problem: String| Error::Invalid { path: path.to_owned(), problem };
        let exceptions: Self = parse(text, path)?;
        let reasons = exceptions.requirements.iter().chain(&exceptions.constraints);
        for (what, reason) in reasons.map(|item| (&item.requirement, &item.reason)).chain(
            exceptions.overrides.iter().filter_map(|item| {
                Some((item.requirement.as_ref().or(item.drop.as_ref())?, &item.reason))
            }),
        ) {
            if reason.trim().is_empty() {
                return Err(invalid(format!("`{what}` has no reason")));
            }
        }
        for item in &exceptions.overrides {
            if item.requirement.is_some() == item.drop.is_some() {
                return Err(invalid("an override has either `requirement` or `drop`".to_owned()));
            }
        }
        Ok(exceptions)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exceptions_need_reasons_and_known_keys() {
        let parse = |text: &str| Exceptions::parse(text, Path::new("cell.toml"));
        let good = "[[constraint]]\nrequirement = \"jinja2<3.1\"\nreason = \"flask 1.1.2\"\n\
                    [[override]]\ndrop = \"msgpack-python\"\nreason = \"renamed\"\n";
        assert_eq!(parse(good).unwrap().overrides[0].drop.as_deref(), Some("msgpack-python"));
        for bad in [
            "color = 1\n",
            "[[constraint]]\nrequirement = \"a\"\n",
            "[[constraint]]\nrequirement = \"a\"\nreason = \" \"\n",
            "[[override]]\nreason = \"x\"\n",
            "[[override]]\nrequirement = \"a\"\ndrop = \"a\"\nreason = \"x\"\n",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
