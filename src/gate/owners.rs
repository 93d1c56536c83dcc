//! Which distribution brings a file: by the RECORDs in the layers (pure).

use std::collections::BTreeMap;

use super::inventory::Inventory;
use crate::python::record::Record;

/// What no distribution brings.
pub(super) const NOBODY: &str = "a layer's own file";

/// An installed distribution of the layers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Distribution {
    /// `zope_interface 8.7`: as its `.dist-info` folder says.
    pub name: String,
    /// The folder that holds `.dist-info`, without the leading slash.
    pub site: String,
    /// `zope_interface-8.7.dist-info`, below `site`.
    pub dist_info: String,
    /// Its RECORD, or why there is none.
    pub record: Result<Record, String>,
}

/// File → distribution.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Owners {
    /// Sorted by folder.
    pub distributions: Vec<Distribution>,
    files: BTreeMap<String, usize>,
}

impl Owners {
    /// Reads every RECORD of an installed distribution of the layers: of a folder `….dist-info` where
    /// Python looks for them. Deeper ones are those that a distribution has in itself (`_vendor`):
    /// they are its files, and their RECORDs name what was never packed.
    pub fn of(ours: &Inventory) -> Self {
        let mut owners = Self::default();
        let mut folders: Vec<&str> = ours
            .files()
            .filter_map(|(path, _)| path.rsplit_once('/').map(|(folder, _)| folder))
            .filter(|folder| is_installed(folder))
            .collect();
        folders.sort_unstable();
        folders.dedup();
        for folder in folders {
            let (site, dist_info) = folder.rsplit_once('/').unwrap_or(("", folder));
            let stem = dist_info.trim_end_matches(".dist-info");
            let record = match ours.file(&format!("{folder}/RECORD")).map(|file| &file.text) {
                Some(Some(text)) => {
                    Record::parse(text.as_bytes()).map_err(|error| error.to_string())
                }
                Some(None) => Err("it is too large".to_owned()),
                None => Err("there is none".to_owned()),
            };
            let position = owners.distributions.len();
            for path in record.iter().flat_map(|record| record.rows.keys()) {
                owners.files.insert(place(site, path), position);
            }
            owners.distributions.push(Distribution {
                name: stem.replacen('-', " ", 1),
                site: site.to_owned(),
                dist_info: dist_info.to_owned(),
                record,
            });
        }
        owners
    }

    /// The distribution of the file at `path`, for messages.
    pub fn owner(&self, path: &str) -> String {
        let position = self.files.get(path);
        let owner = position.and_then(|position| self.distributions.get(*position));
        owner.map_or(NOBODY, |owner| &owner.name).to_owned()
    }

    /// Whether a RECORD lists the file.
    pub fn is_owned(&self, path: &str) -> bool {
        self.files.contains_key(path)
    }

    /// All files of the distribution that brings `path`.
    pub fn siblings(&self, path: &str) -> impl Iterator<Item = &str> {
        let own = self.files.get(path).copied();
        self.files
            .iter()
            .filter(move |(_, position)| Some(**position) == own)
            .map(|(path, _)| path.as_str())
    }
}

/// `…/site-packages/….dist-info`, or Debian's `dist-packages`.
pub(super) fn is_installed(folder: &str) -> bool {
    let mut parts = folder.rsplit('/');
    parts.next().is_some_and(|name| name.ends_with(".dist-info"))
        && matches!(parts.next(), Some("site-packages" | "dist-packages"))
}

/// A RECORD's path as one below `/`: `..` leads out of site-packages.
pub(super) fn place(site: &str, path: &str) -> String {
    if let Some(absolute) = path.strip_prefix('/') {
        return absolute.to_owned();
    }
    let mut parts: Vec<&str> = site.split('/').filter(|part| !part.is_empty()).collect();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_distribution_has_in_itself_is_not_installed() {
        let site = "usr/local/lib/python3.8/site-packages";
        for (folder, expected) in [
            (format!("{site}/app-1.0.dist-info"), true),
            ("usr/lib/python3/dist-packages/app-1.0.dist-info".to_owned(), true),
            (format!("{site}/setuptools/_vendor/wheel-0.43.0.dist-info"), false),
            (format!("{site}/app-1.0.dist-info/licenses"), false),
            (site.to_owned(), false),
        ] {
            assert_eq!(is_installed(&folder), expected, "{folder}");
        }
    }
}
