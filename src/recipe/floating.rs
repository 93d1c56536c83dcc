//! Tags that move from cell to cell: `latest`, `2.47`, `2` (pure).
//!
//! ```toml
//! [[floating]]
//! tags = ["latest", "{locust.major}", "{locust.major}.{locust.minor}"]
//! newest = "locust"                                  # the column whose newest version wins
//! when = { python = ">=3.9" }                        # only cells for which these hold
//! prefer = [{ python = "3.13", os = "alpine3.24" }]  # between cells of that version
//! ```
//!
//! A tag is expanded for every cell that qualifies; cells that expand it to the same text compete for
//! it, so `{locust.major}` is one tag for each major version there is. All cells of the matrix take
//! part, whichever are being made: making an old cell again never takes a tag from a newer one.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::path::Path;

use pep440_rs::Version;
use serde::Deserialize;

use super::cell::Cell;
use super::columns::Columns;
use super::error::Error;
use crate::oci::Reference;

/// One `[[floating]]` of `matrix.toml`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Floating {
    /// The tags, made of columns and of parts of them.
    pub tags: Vec<String>,
    /// The column that is compared by PEP 440. A pre-release never gets a floating tag.
    pub newest: String,
    /// Column → specifiers; only a cell for which all hold qualifies.
    #[serde(default)]
    pub when: BTreeMap<String, String>,
    /// Between cells of the same version: column → value, the first that all holds for a cell wins.
    /// What is left undecided goes to the cell whose other columns are newest, in the columns' order.
    #[serde(default)]
    pub prefer: Vec<BTreeMap<String, String>>,
}

/// How much a cell deserves a tag; the greatest gets it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Merit {
    version: Version,
    /// Places before the end of the list of preferences; 0 is not in it.
    preference: usize,
    others: Vec<Natural>,
}

/// Text in which numbers count as numbers: `alpine3.9` comes before `alpine3.10`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Natural(String);

impl Floating {
    /// What `cell` has to say for itself; `None` if it does not qualify.
    fn merit(&self, columns: &Columns) -> Result<Option<Merit>, String> {
        let text = columns
            .get(&self.newest)
            .ok_or_else(|| format!("`newest` names no column: `{}`", self.newest))?;
        let version: Version = text.parse().map_err(|error| {
            format!("column `{}` is no version: `{text}`: {error}", self.newest)
        })?;
        for column in self.prefer.iter().flat_map(BTreeMap::keys) {
            if columns.get(column).is_none() {
                return Err(format!("`prefer` names no column: `{column}`"));
            }
        }
        if version.any_prerelease() || !columns.hold(&self.when)? {
            return Ok(None);
        }
        let is_meant = |wish: &BTreeMap<String, String>| {
            wish.iter().all(|(column, value)| columns.get(column) == Some(value))
        };
        let place = self.prefer.iter().position(is_meant);
        let others = columns.0.iter().filter(|(column, _)| **column != self.newest);
        Ok(Some(Merit {
            version,
            preference: place.map_or(0, |place| self.prefer.len() - place),
            others: others.map(|(_, value)| Natural(value.clone())).collect(),
        }))
    }
}

/// Gives every cell the floating tags it owns, sorted; `file` is where `policies` stand.
///
/// # Errors
/// A policy names a column or a part of one that there is not; a tag is none; two policies give the
/// same tag to different cells; a floating tag is a cell's own.
pub(super) fn assign(
    policies: &[Floating],
    cells: &mut [Cell],
    repository: &str,
    file: &Path,
) -> Result<(), Error> {
    let invalid = |problem: String| Error::Invalid { path: file.to_owned(), problem };
    let mut owners: BTreeMap<Reference, (usize, usize)> = BTreeMap::new();
    for (number, policy) in policies.iter().enumerate() {
        let mut best: BTreeMap<Reference, (Merit, usize)> = BTreeMap::new();
        for (position, cell) in cells.iter().enumerate() {
            let Some(merit) = policy
                .merit(&cell.columns)
                .map_err(|problem| invalid(format!("[[floating]] {}: {problem}", number + 1)))?
            else {
                continue;
            };
            for template in &policy.tags {
                let tag = cell.columns.expand(template)?;
                let reference: Reference = format!("{repository}:{tag}")
                    .parse()
                    .map_err(|error| invalid(format!("`{template}`: {error}")))?;
                let challenger = (merit.clone(), position);
                match best.get(&reference) {
                    Some((holder, _)) if *holder >= challenger.0 => {}
                    _ => drop(best.insert(reference, challenger)),
                }
            }
        }
        for (reference, (_, position)) in best {
            match owners.get(&reference) {
                Some(&(other, first)) if other != position => {
                    return Err(invalid(format!(
                        "[[floating]] {} gives `{reference}` to {}, but [[floating]] {} to {}",
                        first + 1,
                        cells[other].path,
                        number + 1,
                        cells[position].path
                    )));
                }
                Some(_) => {}
                None => drop(owners.insert(reference, (position, number))),
            }
        }
    }
    for (reference, (position, number)) in owners {
        if let Some(cell) = cells.iter().find(|cell| cell.reference == reference) {
            return Err(invalid(format!(
                "[[floating]] {} makes `{reference}`, which is the own tag of {}",
                number + 1,
                cell.path
            )));
        }
        cells[position].floating.push(reference);
    }
    Ok(())
}

impl PartialOrd for Natural {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Natural {
    fn cmp(&self, other: &Self) -> Ordering {
        let (ours, theirs) = (runs(&self.0), runs(&other.0));
        // Equal numbers in other digits, `3.09` and `3.9`, are still two texts.
        ours.cmp(&theirs).then_with(|| self.0.cmp(&other.0))
    }
}

/// Letters and numbers in turn: `alpine3.9` → `("alpine", 3), (".", 9)`.
fn runs(text: &str) -> Vec<(&str, u64)> {
    let mut runs = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let (letters, tail) = rest.split_at(digits);
        let end = tail.find(|c: char| !c.is_ascii_digit()).unwrap_or(tail.len());
        let (number, tail) = tail.split_at(end);
        runs.push((letters, number.parse().unwrap_or(u64::MAX)));
        rest = tail;
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::cell::Exceptions;

    const PATH: &str = "{locust}/python{python}/{os}";

    fn cells(paths: &[&str]) -> Vec<Cell> {
        let cell = |path: &&str| {
            let columns = Columns::extract(PATH, path).unwrap();
            let tag = columns.expand("{locust}-python{python}-{os}").unwrap();
            Cell {
                path: (*path).to_owned(),
                columns,
                reference: format!("app:{tag}").parse().unwrap(),
                base: "python:3".parse().unwrap(),
                platforms: vec!["linux/amd64".parse().unwrap()],
                exceptions: Exceptions::default(),
                floating: Vec::new(),
            }
        };
        paths.iter().map(cell).collect()
    }

    fn policies(text: &str) -> Vec<Floating> {
        #[derive(Deserialize)]
        struct File {
            floating: Vec<Floating>,
        }
        toml::from_str::<File>(text).unwrap().floating
    }

    /// `tag → cell`, one line each.
    fn owned(policy: &str, paths: &[&str]) -> Result<Vec<String>, String> {
        let mut cells = cells(paths);
        assign(&policies(policy), &mut cells, "app", Path::new("matrix.toml"))
            .map_err(|error| error.to_string())?;
        let mut lines: Vec<_> = cells
            .iter()
            .flat_map(|cell| cell.floating.iter().map(|tag| (tag.tag().unwrap(), &cell.path)))
            .map(|(tag, path)| format!("{tag} → {path}"))
            .collect();
        lines.sort();
        Ok(lines)
    }

    const POLICY: &str = r#"
        [[floating]]
        tags = ["latest", "{locust.major}.{locust.minor}", "{locust.major}"]
        newest = "locust"
        prefer = [{ python = "3.13", os = "alpine3.24" }, { python = "3.13" }]
    "#;

    #[test]
    fn the_newest_that_qualifies_owns_a_tag() {
        let table: &[(&str, &[&str], &[&str])] = &[
            // Versions are compared as PEP 440 has it, not as text.
            (
                "2.9.0 is older than 2.47.0",
                &["2.47.0/python3.13/alpine3.24", "2.9.0/python3.13/alpine3.24"],
                &[
                    "2 → 2.47.0/python3.13/alpine3.24",
                    "2.47 → 2.47.0/python3.13/alpine3.24",
                    "2.9 → 2.9.0/python3.13/alpine3.24",
                    "latest → 2.47.0/python3.13/alpine3.24",
                ],
            ),
            (
                "each major version has its own newest",
                &["0.10.0/python3.6/alpine3.9", "2.0.0/python3.10/alpine3.22"],
                &[
                    "0 → 0.10.0/python3.6/alpine3.9",
                    "0.10 → 0.10.0/python3.6/alpine3.9",
                    "2 → 2.0.0/python3.10/alpine3.22",
                    "2.0 → 2.0.0/python3.10/alpine3.22",
                    "latest → 2.0.0/python3.10/alpine3.22",
                ],
            ),
            (
                "a pre-release never gets one, not even its own minor version's",
                &[
                    "2.47.0/python3.13/alpine3.24",
                    "3.0.0rc1/python3.13/alpine3.24",
                    "3.0.0.dev4/python3.14/alpine3.24",
                ],
                &[
                    "2 → 2.47.0/python3.13/alpine3.24",
                    "2.47 → 2.47.0/python3.13/alpine3.24",
                    "latest → 2.47.0/python3.13/alpine3.24",
                ],
            ),
            (
                "a post-release is newer",
                &["1.0.post1/python3.13/alpine3.24", "1.0/python3.13/alpine3.24"],
                &[
                    "1 → 1.0.post1/python3.13/alpine3.24",
                    "1.0 → 1.0.post1/python3.13/alpine3.24",
                    "latest → 1.0.post1/python3.13/alpine3.24",
                ],
            ),
            (
                "the stated preference decides between cells of the same version",
                &["1.0/python3.13/alpine3.24", "1.0/python3.14/alpine3.24"],
                &[
                    "1 → 1.0/python3.13/alpine3.24",
                    "1.0 → 1.0/python3.13/alpine3.24",
                    "latest → 1.0/python3.13/alpine3.24",
                ],
            ),
            (
                "an earlier preference beats a later one",
                &["1.0/python3.13/alpine3.23", "1.0/python3.13/alpine3.24"],
                &[
                    "1 → 1.0/python3.13/alpine3.24",
                    "1.0 → 1.0/python3.13/alpine3.24",
                    "latest → 1.0/python3.13/alpine3.24",
                ],
            ),
            (
                "a preference never beats a newer version",
                &["1.0/python3.13/alpine3.24", "1.0.1/python3.9/alpine3.9"],
                &[
                    "1 → 1.0.1/python3.9/alpine3.9",
                    "1.0 → 1.0.1/python3.9/alpine3.9",
                    "latest → 1.0.1/python3.9/alpine3.9",
                ],
            ),
            (
                "without a preference the other columns decide, number by number",
                &[
                    "1.0/python3.9/alpine3.9",
                    "1.0/python3.9/alpine3.20",
                    "1.0/python3.10/alpine3.9",
                ],
                &[
                    "1 → 1.0/python3.9/alpine3.20",
                    "1.0 → 1.0/python3.9/alpine3.20",
                    "latest → 1.0/python3.9/alpine3.20",
                ],
            ),
            ("an empty matrix has none", &[], &[]),
        ];
        for (what, paths, expected) in table {
            assert_eq!(owned(POLICY, paths).unwrap(), *expected, "{what}");
            let reversed: Vec<&str> = paths.iter().rev().copied().collect();
            assert_eq!(owned(POLICY, &reversed).unwrap(), *expected, "{what}, reversed");
        }
    }

    #[test]
    fn a_tag_may_keep_columns_and_a_policy_may_have_conditions() {
        let paths =
            ["1.0/python3.12/alpine3.23", "1.0/python3.13/alpine3.23", "1.1/python3.12/alpine3.24"];
        let policy = r#"
            [[floating]]
            tags = ["{locust.major}-python{python}", "{locust.major}.{locust.minor}.{locust.patch}"]
            newest = "locust"
            when = { locust = "<1.1" }
            [[floating]]
            tags = ["edge"]
            newest = "locust"
        "#;
        assert_eq!(
            owned(policy, &paths).unwrap(),
            [
                "1-python3.12 → 1.0/python3.12/alpine3.23",
                "1-python3.13 → 1.0/python3.13/alpine3.23",
                "1.0.0 → 1.0/python3.13/alpine3.23",
                "edge → 1.1/python3.12/alpine3.24",
            ]
        );
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        let paths = ["1.0/python3.12/alpine3.24", "1.1/python3.13/alpine3.24"];
        for (policy, said) in [
            ("tags = [\"a\"]\nnewest = \"os\"", "column `os` is no version: `alpine3.24`"),
            ("tags = [\"a\"]\nnewest = \"x\"", "`newest` names no column: `x`"),
            ("tags = [\"{x}\"]\nnewest = \"locust\"", "names the column `{x}`"),
            ("tags = [\"{locust.epoch}\"]\nnewest = \"locust\"", "the column `{locust.epoch}`"),
            ("tags = [\"{os.major}\"]\nnewest = \"locust\"", "the column `{os.major}`"),
            ("tags = [\"a b\"]\nnewest = \"locust\"", "`a b`: "),
            (
                "tags = [\"{locust}-python{python}-{os}\"]\nnewest = \"locust\"",
                "`docker.io/library/app:1.0-python3.12-alpine3.24`, which is the own tag of 1.0/",
            ),
            (
                "tags = [\"a\"]\nnewest = \"locust\"\nprefer = [{ x = \"1\" }]",
                "`prefer` names no column: `x`",
            ),
            (
                "tags = [\"a\"]\nnewest = \"locust\"\n[[floating]]\ntags = [\"a\"]\n\
                 newest = \"locust\"\nwhen = { python = \"<3.13\" }",
                "[[floating]] 1 gives `docker.io/library/app:a` to 1.1/python3.13/alpine3.24, but \
                 [[floating]] 2 to 1.0/python3.12/alpine3.24",
            ),
        ] {
            let error = owned(&format!("[[floating]]\n{policy}"), &paths).unwrap_err();
            assert!(error.contains(said), "{error}");
        }
    }
}
