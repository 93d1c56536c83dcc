//! `lock.toml`: what one cell resolved to. Made to be read in a review; holds no address, so it
//! works with whatever package index has the files.

use std::path::Path;

use jiff::Timestamp;
use pep440_rs::Version;
use pep508_rs::PackageName;
use serde::{Deserialize, Serialize};

use super::cell::{Cell, Exceptions, Override};
use super::error::{Error, parse};
use super::layer::{Brick, Layer};
use super::python::Toolchain;
use crate::oci::{Digest, Platform};

/// The head of every lock file.
const HEAD: &str = "\
# What this cell resolved to, written by `assemble lock`; `assemble` installs exactly this.
# No address stands here: files are found by name and sha256 on whatever package index is configured.

";

/// A cell's lock: its inputs, maybe the base, and every file by name, size and hash.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Lock {
    /// What was resolved, for what. `assemble` compares it with the recipe.
    pub inputs: Inputs,
    /// The base's digest, where it was pinned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<BasePin>,
    /// The compiler that the inputs ask for: a wheel for each machine that builds can run on. Nothing
    /// of it is installed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compiler: Option<Distribution>,
    /// Sorted by name.
    #[serde(default, rename = "distribution")]
    pub distributions: Vec<Distribution>,
}

/// Everything a resolution depends on, apart from what the index holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Inputs {
    /// Direct requirements (PEP 508), sorted.
    pub requirements: Vec<String>,
    /// Bounds on projects nobody asked for directly, sorted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub constraints: Vec<String>,
    /// Requirements that replace every requirement on the same project, sorted. `!name` drops it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub overrides: Vec<String>,
    /// What compiles the C and C++ in sdists.
    #[serde(default, skip_serializing_if = "Toolchain::is_none")]
    pub compiler: Toolchain,
    /// The base's Python version, with patch: `3.13.15`. Markers and Requires-Python were decided by it.
    pub python: String,
    /// The base's OS version: `alpine3.24`. Wheel tags were decided by it.
    pub os: String,
    /// Platforms of the cell, sorted.
    pub platforms: Vec<Platform>,
    /// Files uploaded after this moment were not considered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exclude_newer: Option<Timestamp>,
}

/// The base image, pinned.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct BasePin {
    /// The digest of the manifest or index that the base's tag named.
    pub digest: Digest,
}

/// One distribution of the resolution.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Distribution {
    /// Normalised name.
    pub name: PackageName,
    /// Version.
    pub version: Version,
    /// Names of the distributions it requires on some platform, sorted: the resolution's edges.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub requires: Vec<PackageName>,
    /// The files, sorted by name: one per platform, or one for all.
    #[serde(rename = "file")]
    pub files: Vec<LockedFile>,
}

/// One file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct LockedFile {
    /// File name; a `.whl` is a wheel, anything else an sdist.
    #[serde(rename = "file")]
    pub file_name: String,
    /// Bytes.
    pub size: u64,
    /// Over the file's bytes, 64 hex digits in the file.
    #[serde(with = "hex")]
    pub sha256: Digest,
    /// When it was uploaded, where the index says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upload_time: Option<Timestamp>,
    /// The platforms it is for; empty means all of the cell's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub platforms: Vec<Platform>,
    /// sdists only: every wheel the build needs, transitively, sorted by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub build: Vec<BuildRequirement>,
}

/// A wheel that an sdist's build needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct BuildRequirement {
    /// Normalised name.
    pub name: PackageName,
    /// Version.
    pub version: Version,
    /// File name of the wheel.
    #[serde(rename = "file")]
    pub file_name: String,
    /// Bytes.
    pub size: u64,
    /// Over the file's bytes.
    #[serde(with = "hex")]
    pub sha256: Digest,
    /// When it was uploaded, where the index says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upload_time: Option<Timestamp>,
}

impl Lock {
    /// Parses a lock.
    ///
    /// # Errors
    /// TOML or a field is wrong: file and line.
    pub fn parse(text: &str, path: &Path) -> Result<Self, Error> {
        parse(text, path)
    }

    /// The lock as it is written: one canonical text for one value.
    ///
    /// # Errors
    /// Never for a lock that was made by this crate.
    pub fn to_toml(&self) -> Result<String, toml::ser::Error> {
        let mut sorted = self.clone();
        sorted.distributions.sort_by(|a, b| a.name.cmp(&b.name));
        for distribution in sorted.distributions.iter_mut().chain(&mut sorted.compiler) {
            distribution.requires.sort();
            distribution.files.sort_by(|a, b| a.file_name.cmp(&b.file_name));
            for file in &mut distribution.files {
                file.build.sort_by(|a, b| a.name.cmp(&b.name));
            }
        }
        Ok(format!("{HEAD}{}", toml::to_string(&sorted)?))
    }

    /// The newest upload time of any file that is installed; `None` if no file has one.
    pub fn newest_upload(&self) -> Option<Timestamp> {
        self.distributions
            .iter()
            .flat_map(|distribution| &distribution.files)
            .filter_map(|file| file.upload_time)
            .max()
    }
}

impl Inputs {
    /// What the recipe says now. `python` is the Python version, with patch, that is decided for.
    ///
    /// # Errors
    /// A requirement of a layer does not fit the cell.
    pub fn of(cell: &Cell, layers: &[Layer], python: String) -> Result<Self, String> {
        let mut requirements = Vec::new();
        let mut compiler = Toolchain::None;
        for layer in layers {
            if let Brick::Python(brick) = &layer.brick {
                let of_layer = |problem| format!("layer `{}`: {problem}", layer.name);
                let wanted = brick.requirements_of(&cell.columns).map_err(of_layer)?;
                requirements.extend(wanted);
                let own = brick.of_cell(&cell.columns).map_err(of_layer)?.compiler;
                compiler = own.map_or(compiler, |own| own.uses);
            }
        }
        let exceptions = Exceptions::of(cell, layers)?;
        requirements.extend(exceptions.requirements.into_iter().map(|item| item.requirement));
        let mut constraints: Vec<_> =
            exceptions.constraints.into_iter().map(|item| item.requirement).collect();
        let mut overrides: Vec<_> = exceptions.overrides.iter().map(Override::what).collect();
        for list in [&mut requirements, &mut constraints, &mut overrides] {
            list.sort();
            list.dedup();
        }
        Ok(Self {
            requirements,
            constraints,
            overrides,
            compiler,
            python,
            os: cell.os().to_owned(),
            platforms: cell.platforms.clone(),
            exclude_newer: exceptions.exclude_newer.as_ref().map(|limit| limit.date),
        })
    }

    /// How these inputs, a lock's, differ from those the recipe has now; one line each, empty if a
    /// lock made from `now` would answer the same question.
    ///
    /// The Python's patch version is the base's affair: only major and minor are compared. A limit
    /// on upload times that was given on the command line stays valid.
    pub fn differences(&self, now: &Self) -> Vec<String> {
        let minor = |version: &str| version.split('.').take(2).collect::<Vec<_>>().join(".");
        let mut differences = Vec::new();
        let mut compare = |what: &str, locked: String, now: String| {
            if locked != now {
                differences.push(format!("{what}: locked for `{locked}`, now `{now}`"));
            }
        };
        let list = |items: &[String]| items.join(", ");
        let platforms =
            |items: &[Platform]| list(&items.iter().map(ToString::to_string).collect::<Vec<_>>());
        compare("requirements", list(&self.requirements), list(&now.requirements));
        compare("constraints", list(&self.constraints), list(&now.constraints));
        compare("overrides", list(&self.overrides), list(&now.overrides));
        compare("compiler", self.compiler.to_string(), now.compiler.to_string());
        compare("python", minor(&self.python), minor(&now.python));
        compare("os", self.os.clone(), now.os.clone());
        compare("platforms", platforms(&self.platforms), platforms(&now.platforms));
        if let Some(limit) = now.exclude_newer {
            let locked = self.exclude_newer.map_or("none".to_owned(), |limit| limit.to_string());
            compare("exclude-newer", locked, limit.to_string());
        }
        differences
    }
}

impl LockedFile {
    /// Whether it is a wheel and needs no build.
    pub fn is_wheel(&self) -> bool {
        crate::python::wheel_filename::is_wheel(&self.file_name)
    }

    /// Whether it is installed on `platform`.
    pub fn is_for(&self, platform: &Platform) -> bool {
        self.platforms.is_empty() || self.platforms.contains(platform)
    }
}

mod hex {
    use serde::{Deserialize, Deserializer, Serializer};

    use crate::oci::Digest;

    pub(super) fn serialize<S: Serializer>(digest: &Digest, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&digest.hex())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Digest, D::Error> {
        Digest::from_hex(&String::deserialize(from)?).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"
[inputs]
requirements = ["a==1"]
python = "3.13.15"
os = "alpine3.24"
platforms = ["linux/amd64"]

[[distribution]]
name = "a"
version = "1"
requires = ["b"]

[[distribution.file]]
file = "a-1-py3-none-any.whl"
size = 10
sha256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
upload-time = "2026-10-21T10:00:00Z"

[[distribution]]
name = "b"
version = "2"

[[distribution.file]]
file = "b-2.tar.gz"
size = 11
sha256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

[[distribution.file.build]]
name = "setuptools"
version = "80"
file = "setuptools-80-py3-none-any.whl"
size = 12
sha256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
"#;

    #[test]
    fn one_text_for_one_value() {
        let path = Path::new("lock.toml");
        let lock = Lock::parse(TEXT, path).unwrap();
        let text = lock.to_toml().unwrap();
        assert_eq!(text, format!("{HEAD}{}", TEXT.trim_start()));
        let mut shuffled = lock.clone();
        shuffled.distributions.reverse();
        assert_eq!(shuffled.to_toml().unwrap(), text);
        assert_eq!(Lock::parse(&text, path).unwrap(), lock);
        assert_eq!(lock.newest_upload().unwrap().to_string(), "2026-10-21T10:00:00Z");
        let compiled = TEXT
            .replace("python = \"3.13.15\"", "compiler = \"zig\"\npython = \"3.13.15\"")
            .replacen(
                "[[distribution]]",
                "[compiler]\nname = \"zig\"\nversion = \"1\"\n\n[[compiler.file]]\nfile = \"zig-1-py3-none-any.whl\"\n\
                 size = 12\nsha256 = \"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\"\n\
                 platforms = [\"linux/amd64\"]\n\n[[distribution]]",
                1,
            );
        let lock = Lock::parse(&compiled, path).unwrap();
        assert_eq!(lock.to_toml().unwrap(), format!("{HEAD}{}", compiled.trim_start()));
        let unknown = TEXT.replace("size = 12", "size = 12\ncolour = 1");
        assert!(Lock::parse(&unknown, path).is_err());
        let digest = TEXT.replace("e3b0", "E3B0");
        assert!(Lock::parse(&digest, path).is_err());
    }

    #[test]
    fn differences_name_the_input() {
        let lock = Lock::parse(TEXT, Path::new("lock.toml")).unwrap().inputs;
        let mut now = lock.clone();
        now.python = "3.13.16".to_owned();
        assert_eq!(lock.differences(&now), Vec::<String>::new());
        now.requirements = vec!["a==2".to_owned()];
        now.os = "alpine3.23".to_owned();
        now.compiler = Toolchain::Zig;
        assert_eq!(
            lock.differences(&now),
            [
                "requirements: locked for `a==1`, now `a==2`",
                "compiler: locked for `none`, now `zig`",
                "os: locked for `alpine3.24`, now `alpine3.23`"
            ]
        );
    }
}
