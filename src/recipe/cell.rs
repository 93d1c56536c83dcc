//! One image of the matrix: a folder whose path states every fact, and maybe some exceptions.

use std::path::Path;

use pep508_rs::PackageName;
use serde::{Deserialize, Serialize};

use super::columns::Columns;
use super::error::{Error, parse};
use super::layer::{Brick, Layer};
use super::python::When;
use crate::oci::{Platform, Reference};
use crate::python::metadata::exact_requirement;

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
    /// The floating tags that this cell owns among all cells of the matrix, sorted. None as long as
    /// the cell is not in the matrix.
    pub floating: Vec<Reference>,
}

impl Cell {
    /// The tag alone.
    pub fn tag(&self) -> &str {
        self.reference.tag().unwrap_or_default()
    }

    /// All names it is pushed under: its own, then the floating ones.
    pub fn references(&self) -> Vec<Reference> {
        std::iter::once(&self.reference).chain(&self.floating).cloned().collect()
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
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reasoned {
    /// PEP 508.
    pub requirement: String,
    /// For which cells: in a layer's file only, since a cell's is for one.
    #[serde(default, skip_serializing)]
    pub when: When,
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
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Override {
    /// What every requirement on this project becomes (PEP 508).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requirement: Option<String>,
    /// The project that is dropped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drop: Option<String>,
    /// For which cells: in a layer's file only, since a cell's is for one.
    #[serde(default, skip_serializing)]
    pub when: When,
    /// Why.
    pub reason: String,
}

impl Exceptions {
    /// What holds for a cell: its own exceptions, and those of the layers whose `when` holds. Lists
    /// are sorted; the cell's own override of a project takes the place of a layer's.
    ///
    /// # Errors
    /// A condition does not fit the cell's columns, or layers override one project twice.
    pub fn of(cell: &Cell, layers: &[Layer]) -> Result<Self, String> {
        let mut all = cell.exceptions.clone();
        let own: Vec<_> = all.overrides.iter().filter_map(Override::project).collect();
        let mut overridden = Vec::new();
        for layer in layers {
            let Brick::Python(brick) = &layer.brick else { continue };
            let located = |problem| format!("layer `{}`: {problem}", layer.name);
            let brick = brick.of_cell(&cell.columns).map_err(located)?;
            for item in brick.requirements {
                let Some(reason) = item.reason else { continue };
                let requirement = cell.columns.expand(&item.requirement);
                let requirement = requirement.map_err(|error| located(error.to_string()))?;
                all.requirements.push(Reasoned { requirement, when: When::new(), reason });
            }
            all.constraints.extend(brick.constraints);
            for item in brick.overrides {
                let Some(project) = item.project().filter(|name| !own.contains(name)) else {
                    continue;
                };
                if overridden.contains(&project) {
                    return Err(located(format!("two overrides of `{project}` hold")));
                }
                overridden.push(project);
                all.overrides.push(item);
            }
        }
        all.requirements.sort();
        all.constraints.sort();
        all.overrides.sort();
        Ok(all)
    }

    /// Parses a `cell.toml`.
    ///
    /// # Errors
    /// Unknown keys, missing reasons, an override that both replaces and drops.
    pub fn parse(text: &str, path: &Path) -> Result<Self, Error> {
        let invalid = |problem: String| Error::Invalid { path: path.to_owned(), problem };
        let exceptions: Self = parse(text, path)?;
        let reasons = exceptions.requirements.iter().chain(&exceptions.constraints);
        let reasons = reasons.map(|item| (item.requirement.clone(), &item.when, &item.reason));
        let overrides = exceptions.overrides.iter();
        let overrides = overrides.map(|item| (item.what(), &item.when, &item.reason));
        for (what, when, reason) in reasons.chain(overrides) {
            if reason.trim().is_empty() {
                return Err(invalid(format!("`{what}` has no reason")));
            }
            if !when.is_empty() {
                return Err(invalid(format!(
                    "`{what}` has a `when`, but this file is for one cell"
                )));
            }
        }
        for item in &exceptions.overrides {
            item.check().map_err(invalid)?;
        }
        if let Some(limit) = &exceptions.exclude_newer
            && limit.reason.trim().is_empty()
        {
            return Err(invalid("`exclude-newer` has no reason".to_owned()));
        }
        Ok(exceptions)
    }
}

impl Override {
    /// As a lock's inputs write it: the requirement, or `!name` for a project that is dropped.
    pub fn what(&self) -> String {
        let dropped = || format!("!{}", self.drop.as_deref().unwrap_or_default());
        self.requirement.clone().unwrap_or_else(dropped)
    }

    /// The project that it replaces or drops; `None` if that is no name.
    pub fn project(&self) -> Option<PackageName> {
        match (&self.requirement, &self.drop) {
            (Some(requirement), _) => exact_requirement(requirement).ok().map(|r| r.name),
            (None, Some(name)) => name.parse().ok(),
            (None, None) => None,
        }
    }

    pub(super) fn check(&self) -> Result<(), String> {
        if self.requirement.is_some() == self.drop.is_some() {
            return Err("an override has either `requirement` or `drop`".to_owned());
        }
        match self.project() {
            Some(_) => Ok(()),
            None => Err(format!("override `{}` names no project", self.what())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::matrix::{Matrix, Settings};

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
            "[[override]]\ndrop = \"a b\"\nreason = \"x\"\n",
            "[[constraint]]\nrequirement = \"a\"\nreason = \"x\"\nwhen = { a = \"<1\" }\n",
            "[exclude-newer]\ndate = \"2020-01-01T00:00:00Z\"\nreason = \"\"\n",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
    #[test]
    fn a_layers_exceptions_hold_where_they_say_and_the_cells_own_win() {
        let layer = |text: &str| {
            let text =
                format!("kind = \"python\"\nrequirements = [{{ requirement = \"a\" }}]\n{text}");
            Layer::parse(&text, Path::new("layers/x"), "x").unwrap()
        };
        let rules = layer(
            "[[constraint]]\nrequirement = \"z<2\"\nwhen = { a = \"<1\" }\nreason = \"old\"\n\
             [[constraint]]\nrequirement = \"y<2\"\nwhen = { a = \">=1\" }\nreason = \"new\"\n\
             [[override]]\nrequirement = \"b==1\"\nreason = \"layer\"\n\
             [[override]]\ndrop = \"c\"\nreason = \"layer\"\n",
        );
        let text = |text: &str| text.to_owned();
        let matrix = Matrix {
            folder: "matrix".into(),
            settings: Settings {
                path: text("{a}/python{python}/{os}"),
                tag: text("{a}"),
                repository: text("registry.example/r"),
                base: text("registry.example/b:{python}-{os}"),
                platforms: vec!["linux/amd64".parse().unwrap()],
                layers: vec![text("x")],
                wheels: None,
                floating: Vec::new(),
            },
            cells: Vec::new(),
        };
        let own = Exceptions::parse(
            "[[override]]\nrequirement = \"B==2\"\nreason = \"cell\"\n",
            Path::new("cell.toml"),
        );
        let cell = matrix.cell("0.5/python3.13/alpine3.24", own.unwrap()).unwrap();
        let all = Exceptions::of(&cell, std::slice::from_ref(&rules)).unwrap();
        let constraints: Vec<_> = all.constraints.iter().map(|i| i.requirement.as_str()).collect();
        assert_eq!(constraints, ["z<2"]);
        let overrides: Vec<_> = all.overrides.iter().map(Override::what).collect();
        assert_eq!(overrides, ["!c", "B==2"]);
        let twice = layer("[[override]]\ndrop = \"c\"\nreason = \"again\"\n");
        let error = Exceptions::of(&cell, &[rules, twice]).unwrap_err();
        assert_eq!(error, "layer `x`: two overrides of `c` hold");
    }
}
