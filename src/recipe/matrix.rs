//! `matrix/`: every image there is. The settings all cells share stand in `matrix.toml`; each folder
//! of the right depth is a cell.

use std::path::{Path, PathBuf};

use fs_err as fs;
use serde::Deserialize;

use super::cell::{Cell, Exceptions};
use super::columns::Columns;
use super::error::{Error, parse};
use super::floating::{self, Floating};
use crate::oci::{Platform, Reference};
use crate::python::releases;

/// The official image's repository: it is published by a known plan.
const OFFICIAL: &str = "library/python";

/// `matrix.toml`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Settings {
    /// How a cell's path states its columns: `{locust}/python{python}/{os}`. `python` and `os` must
    /// be among them.
    pub path: String,
    /// The tag, made of columns.
    pub tag: String,
    /// Where images are pushed.
    pub repository: String,
    /// The base image, made of columns.
    pub base: String,
    /// What images are made for.
    pub platforms: Vec<Platform>,
    /// The stack: folders below `layers/`, bottom first.
    pub layers: Vec<String>,
    /// The repository in which wheels that were built from sdists are looked for.
    #[serde(default)]
    pub wheels: Option<Reference>,
    /// Tags that move to the newest cell.
    #[serde(default)]
    pub floating: Vec<Floating>,
}

/// The settings and the cells, sorted by path.
#[derive(Clone, Debug)]
pub struct Matrix {
    /// The folder called `matrix`.
    pub folder: PathBuf,
    /// What all cells share.
    pub settings: Settings,
    /// Sorted by path.
    pub cells: Vec<Cell>,
}

impl Matrix {
    /// Reads `matrix.toml` and finds every cell below `folder`.
    ///
    /// # Errors
    /// A file is missing or wrong, a folder's name does not fit the path template, two cells have the
    /// same tag, or a cell's Python was never published on its OS.
    pub fn open(folder: &Path) -> Result<Self, Error> {
        let file = folder.join("matrix.toml");
        let settings: Settings = parse(&fs::read_to_string(&file).map_err(Error::Disk)?, &file)?;
        let mut matrix = Self { folder: folder.to_owned(), settings, cells: Vec::new() };
        matrix.check_settings(&file)?;
        let depth = matrix.settings.path.split('/').count();
        let mut paths = Vec::new();
        find_folders(folder, "", depth, &mut paths)?;
        paths.sort();
        for path in paths {
            let cell_file = folder.join(&path).join("cell.toml");
            let exceptions = match fs::read_to_string(&cell_file) {
                Ok(text) => Exceptions::parse(&text, &cell_file)?,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Exceptions::default(),
                Err(error) => return Err(Error::Disk(error)),
            };
            let cell = matrix.cell(&path, exceptions)?;
            if let Some(twin) = matrix.cells.iter().find(|twin| twin.reference == cell.reference) {
                return Err(Error::Invalid {
                    path: folder.join(&path),
                    problem: format!("has the same tag as {}: {}", twin.path, cell.reference),
                });
            }
            matrix.cells.push(cell);
        }
        let settings = &matrix.settings;
        floating::assign(&settings.floating, &mut matrix.cells, &settings.repository, &file)?;
        Ok(matrix)
    }

    fn check_settings(&self, file: &Path) -> Result<(), Error> {
        let invalid = |problem: &str| {
            Err(Error::Invalid { path: file.to_owned(), problem: problem.to_owned() })
        };
        for column in ["{python}", "{os}"] {
            if !self.settings.path.contains(column) {
                return invalid(&format!(
                    "`path` has no `{column}`, but everything is decided by it"
                ));
            }
        }
        if self.settings.platforms.is_empty() {
            return invalid("`platforms` is empty: name one, such as \"linux/amd64\"");
        }
        if self.settings.layers.is_empty() {
            return invalid("`layers` is empty: an image without a layer of ours is the base");
        }
        if let Some(wheels) = &self.settings.wheels
            && (wheels.tag().is_some() || wheels.digest().is_some())
        {
            return invalid("`wheels` names more than a repository");
        }
        Ok(())
    }

    /// The cell that `path` (below `matrix/`) states, whether its folder exists or not.
    ///
    /// # Errors
    /// The path does not fit the template, what follows from it is no reference, or the base is the
    /// official image and never had this Python on this OS.
    pub fn cell(&self, path: &str, exceptions: Exceptions) -> Result<Cell, Error> {
        let invalid = |problem: String| Error::Invalid { path: self.folder.join(path), problem };
        let columns = Columns::extract(&self.settings.path, path).ok_or_else(|| {
            invalid(format!("does not fit `path = \"{}\"` of matrix.toml", self.settings.path))
        })?;
        let reference =
            |text: String| text.parse::<Reference>().map_err(|error| invalid(error.to_string()));
        let tag = columns.expand(&self.settings.tag)?;
        let mut platforms =
            exceptions.platforms.clone().unwrap_or_else(|| self.settings.platforms.clone());
        platforms.sort();
        platforms.dedup();
        if platforms.is_empty() {
            return Err(invalid("has no platform".to_owned()));
        }
        let cell = Cell {
            path: path.to_owned(),
            reference: reference(format!("{}:{tag}", self.settings.repository))?,
            base: reference(columns.expand(&self.settings.base)?)?,
            columns,
            platforms,
            exceptions,
            floating: Vec::new(),
        };
        check_existed(&cell)?;
        Ok(cell)
    }

    /// The cells that `wanted` mean, sorted by path, each once; all of them if `wanted` is empty.
    ///
    /// A cell is meant by its path, its tag or its reference, or by a prefix of any of these that
    /// ends where a part ends: `2.4` means 2.4.x and not 2.47.0.
    ///
    /// # Errors
    /// One of `wanted` means no cell; there is no cell at all.
    pub fn select(&self, wanted: &[String]) -> Result<Vec<&Cell>, Error> {
        if self.cells.is_empty() {
            return Err(Error::NoCells { path: self.folder.clone() });
        }
        for name in wanted {
            if !self.cells.iter().any(|cell| means(name, cell)) {
                let first: String =
                    name.chars().take_while(|c| !matches!(c, '/' | '-' | '.')).collect();
                let nearest = self.cells.iter().map(|cell| cell.path.clone());
                let mut near: Vec<_> =
                    nearest.clone().filter(|path| path.starts_with(&first)).collect();
                if near.is_empty() {
                    near = nearest.collect();
                }
                return Err(Error::NoCell { wanted: name.clone(), nearest: near });
            }
        }
        Ok(self
            .cells
            .iter()
            .filter(|cell| wanted.is_empty() || wanted.iter().any(|name| means(name, cell)))
            .collect())
    }
}

/// Refuses a base that the official image, or a copy of it, never was. Nobody but its makers knows
/// which pairs another image has.
fn check_existed(cell: &Cell) -> Result<(), Error> {
    let repository = cell.base.repository();
    if repository != OFFICIAL && !repository.ends_with(&format!("/{OFFICIAL}")) {
        return Ok(());
    }
    let mut parts = cell.python().split('.');
    let (Some("3"), Some(Ok(minor))) = (parts.next(), parts.next().map(str::parse)) else {
        return Ok(());
    };
    if releases::existed(minor, cell.os()) == Some(false) {
        return Err(Error::NeverExisted {
            cell: cell.path.clone(),
            python: cell.python().to_owned(),
            os: cell.os().to_owned(),
            nearest: releases::nearest(minor, cell.os()).map(str::to_owned),
        });
    }
    Ok(())
}

/// Whether `name` is the path, tag or reference of `cell`, or a prefix of one.
fn means(name: &str, cell: &Cell) -> bool {
    let name = name.strip_prefix("./").unwrap_or(name);
    let name = name.strip_prefix("matrix/").unwrap_or(name);
    let name = name.strip_suffix('/').unwrap_or(name);
    let repository = cell.reference.repository();
    [
        cell.path.clone(),
        cell.tag().to_owned(),
        cell.reference.to_string(),
        format!("{repository}:{}", cell.tag()),
    ]
    .iter()
    .any(|full| is_part_prefix(name, full))
}

/// Whether `full` begins with `prefix` and a part of `full` ends there.
fn is_part_prefix(prefix: &str, full: &str) -> bool {
    let Some(rest) = full.strip_prefix(prefix) else {
        return false;
    };
    let (last, next) = (prefix.chars().last(), rest.chars().next());
    match (last, next) {
        (None, _) => false,
        (_, None) => true,
        (Some(last), Some(next)) => {
            !last.is_alphanumeric()
                || !next.is_alphanumeric()
                || (last.is_alphabetic() && next.is_ascii_digit())
        }
    }
}

fn find_folders(
    folder: &Path,
    below: &str,
    depth: usize,
    found: &mut Vec<String>,
) -> Result<(), Error> {
    for entry in fs::read_dir(folder).map_err(Error::Disk)? {
        let entry = entry.map_err(Error::Disk)?;
        let name = entry.file_name().into_string().map_err(|name| Error::Invalid {
            path: folder.join(name),
            problem: "the name is not UTF-8".to_owned(),
        })?;
        if name.starts_with('.') || !entry.file_type().map_err(Error::Disk)?.is_dir() {
            continue;
        }
        let path = if below.is_empty() { name } else { format!("{below}/{name}") };
        if depth == 1 {
            found.push(path);
        } else {
            find_folders(&entry.path(), &path, depth - 1, found)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matrix(base: &str) -> Matrix {
        let text = format!(
            "path = \"{{app}}/python{{python}}/{{os}}\"\ntag = \"{{app}}-python{{python}}-{{os}}\"\n\
             repository = \"app\"\nbase = \"{base}\"\nplatforms = [\"linux/amd64\"]\n\
             layers = [\"app\"]\n"
        );
        let settings = toml::from_str(&text).unwrap();
        Matrix { folder: "matrix".into(), settings, cells: Vec::new() }
    }

    #[test]
    fn pairs_that_never_existed_are_refused_with_the_nearest_that_did() {
        let official = "docker.io/library/python:{python}-{os}";
        for (base, path, refused) in [
            (official, "1/python3.13/alpine3.24", None),
            (official, "1/python3.7/alpine3.24", Some(Some("alpine3.18"))),
            (official, "1/python3.14/buster", Some(Some("trixie"))),
            (official, "1/python3.15/alpine3.22", Some(None)),
            // Newer than what is known here.
            (official, "1/python3.13/alpine3.25", None),
            (official, "1/python2.7/alpine3.9", None),
            (
                "copies.example/hub/library/python:{python}-{os}",
                "1/python3.7/alpine3.24",
                Some(Some("alpine3.18")),
            ),
            // Whoever makes a base of their own knows what it holds.
            ("example.org/our-python:{python}-{os}", "1/python3.7/alpine3.24", None),
        ] {
            match (matrix(base).cell(path, Exceptions::default()), refused) {
                (Ok(_), None) => {}
                (Err(Error::NeverExisted { nearest, .. }), Some(expected)) => {
                    assert_eq!(nearest.as_deref(), expected, "{path}");
                }
                (found, _) => panic!("{base} {path}: {found:?}"),
            }
        }
    }

    #[test]
    fn prefixes_end_where_parts_end() {
        for (prefix, full, meant) in [
            ("2.47.0", "2.47.0/python3.13/alpine3.24", true),
            ("2.4", "2.47.0/python3.13/alpine3.24", false),
            ("0.9", "0.9.0/python3.6/alpine3.9", true),
            ("1.", "1.6.0/python3.9/alpine3.22", true),
            ("2.47.0/python", "2.47.0/python3.13/alpine3.24", true),
            ("2.47.0/python3.1", "2.47.0/python3.13/alpine3.24", false),
            ("", "2.47.0/python3.13/alpine3.24", false),
        ] {
            assert_eq!(is_part_prefix(prefix, full), meant, "{prefix} {full}");
        }
    }
}
