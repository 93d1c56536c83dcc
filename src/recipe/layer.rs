//! `layers/<name>/layer.toml`: a brick of the stack.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use fs_err as fs;
use serde::{Deserialize, Serialize};

use super::cell::{Override, Reasoned};
use super::error::{Error, parse};
use super::python::{
    Bytecode, Compiler, ConditionalRequirement, Duplicates, Launcher, Prune, Python, Replacement,
    Scheme, Strip,
};

/// One layer's file.
#[derive(Clone, Debug)]
pub struct Layer {
    /// The folder's name.
    pub name: String,
    /// The folder.
    pub folder: PathBuf,
    /// What it holds.
    pub brick: Brick,
    /// What it asks of the image config.
    pub config: ConfigRequest,
    /// The command that shows that an image with this layer starts: it ends soon and with 0.
    pub start_check: Option<Vec<String>>,
}

/// `[check]`: how to see that an image starts.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct CheckRequest {
    /// A program of the image and its arguments.
    command: Vec<String>,
}

/// The two kinds of layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Brick {
    /// Distributions, installed from wheels.
    Python(Box<Python>),
    /// Files of the layer's folder.
    Files(Files),
}

/// A layer of kind `files`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Files {
    /// Regular files.
    pub files: Vec<FileEntry>,
    /// Folders.
    pub directories: Vec<DirectoryEntry>,
    /// Symbolic links.
    pub links: Vec<LinkEntry>,
}

/// A file of the layer's folder and where it goes.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    /// Relative to the layer's folder.
    pub from: String,
    /// Absolute path in the image.
    pub to: String,
    /// Octal, `0644` unless said.
    #[serde(default)]
    pub mode: Option<String>,
    /// `uid:gid`, `0:0` unless said.
    #[serde(default)]
    pub owner: Option<String>,
    /// Text → template of columns; each text must occur in the file.
    #[serde(default)]
    pub substitute: BTreeMap<String, String>,
}

/// A folder in the image.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct DirectoryEntry {
    /// Absolute path in the image.
    pub path: String,
    /// Octal, `0755` unless said.
    #[serde(default)]
    pub mode: Option<String>,
    /// `uid:gid`, `0:0` unless said.
    #[serde(default)]
    pub owner: Option<String>,
}

/// A symbolic link in the image.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct LinkEntry {
    /// Absolute path in the image.
    pub path: String,
    /// What it says, literally.
    pub target: String,
}

/// What a layer asks of the image config. Absent means: as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct ConfigRequest {
    /// `Entrypoint`; clears the base's `Cmd`.
    pub entrypoint: Option<Vec<String>>,
    /// `Cmd`
    pub cmd: Option<Vec<String>>,
    /// Variables; `$NAME` is the base's value, which must exist.
    pub env: BTreeMap<String, String>,
    /// `uid:gid`, numeric so that `runAsNonRoot` can be checked.
    pub user: Option<String>,
    /// `WorkingDir`
    pub working_dir: Option<String>,
    /// `8089/tcp`
    pub exposed_ports: Vec<String>,
    /// Absolute paths.
    pub volumes: Vec<String>,
    /// With `{columns}`.
    pub labels: BTreeMap<String, String>,
    /// `SIGTERM`
    pub stop_signal: Option<String>,
}

/// Which table a `layer.toml` is: read first, so that the strict types below can name file and line.
#[derive(Deserialize)]
struct KindOnly {
    kind: Kind,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Kind {
    Python,
    Files,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct PythonDocument {
    #[serde(rename = "kind")]
    _kind: Kind,
    requirements: Vec<ConditionalRequirement>,
    #[serde(default)]
    scheme: Scheme,
    #[serde(default, rename = "constraint")]
    constraints: Vec<Reasoned>,
    #[serde(default, rename = "override")]
    overrides: Vec<Override>,
    #[serde(default)]
    prune: Vec<Prune>,
    #[serde(default, rename = "launcher")]
    launchers: Vec<Launcher>,
    #[serde(default, rename = "replace")]
    replacements: Vec<Replacement>,
    strip: Option<Strip>,
    duplicates: Option<Duplicates>,
    bytecode: Option<Bytecode>,
    compiler: Option<Compiler>,
    #[serde(default)]
    config: ConfigRequest,
    #[serde(default)]
    check: Option<CheckRequest>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct FilesDocument {
    #[serde(rename = "kind")]
    _kind: Kind,
    #[serde(default, rename = "file")]
    files: Vec<FileEntry>,
    #[serde(default, rename = "directory")]
    directories: Vec<DirectoryEntry>,
    #[serde(default, rename = "link")]
    links: Vec<LinkEntry>,
    #[serde(default)]
    config: ConfigRequest,
    #[serde(default)]
    check: Option<CheckRequest>,
}

impl Layer {
    /// Reads `layer.toml` in `folder`.
    ///
    /// # Errors
    /// It is missing or wrong.
    pub fn open(folder: &Path, name: &str) -> Result<Self, Error> {
        let file = folder.join("layer.toml");
        Self::parse(&fs::read_to_string(&file).map_err(Error::Disk)?, folder, name)
    }

    /// Parses the text of the `layer.toml` in `folder`.
    ///
    /// # Errors
    /// Unknown keys, a missing reason, modes and owners that are none.
    pub fn parse(text: &str, folder: &Path, name: &str) -> Result<Self, Error> {
        let path = folder.join("layer.toml");
        let (brick, config, check) = match parse::<KindOnly>(text, &path)?.kind {
            Kind::Python => {
                let document: PythonDocument = parse(text, &path)?;
                let brick = Python {
                    requirements: document.requirements,
                    scheme: document.scheme,
                    constraints: document.constraints,
                    overrides: document.overrides,
                    prune: document.prune,
                    launchers: document.launchers,
                    replacements: document.replacements,
                    strip: document.strip,
                    duplicates: document.duplicates,
                    bytecode: document.bytecode,
                    compiler: document.compiler,
                };
                (Brick::Python(Box::new(brick)), document.config, document.check)
            }
            Kind::Files => {
                let FilesDocument { files, directories, links, config, check, .. } =
                    parse(text, &path)?;
                (Brick::Files(Files { files, directories, links }), config, check)
            }
        };
        let layer = Self {
            name: name.to_owned(),
            folder: folder.to_owned(),
            brick,
            config,
            start_check: check.map(|check| check.command),
        };
        layer.check().map_err(|problem| Error::Invalid { path, problem })?;
        Ok(layer)
    }

    fn check(&self) -> Result<(), String> {
        match &self.brick {
            Brick::Python(python) => python.check()?,
            Brick::Files(files) => {
                for file in &files.files {
                    parse_mode(file.mode.as_deref(), 0o644)?;
                    parse_owner(file.owner.as_deref())?;
                }
                for directory in &files.directories {
                    parse_mode(directory.mode.as_deref(), 0o755)?;
                    parse_owner(directory.owner.as_deref())?;
                }
            }
        }
        if self.start_check.as_ref().is_some_and(Vec::is_empty) {
            return Err("`command` of [check] is empty".to_owned());
        }
        if let Some(user) = &self.config.user {
            parse_owner(Some(user))?;
        }
        Ok(())
    }
}

/// Permission bits from octal text. setuid, setgid and sticky are refused except for sticky folders.
///
/// # Errors
/// Not octal, or more than `1777`.
pub fn parse_mode(text: Option<&str>, default: u32) -> Result<u32, String> {
    let Some(text) = text else { return Ok(default) };
    u32::from_str_radix(text, 8)
        .ok()
        .filter(|mode| *mode <= 0o1777)
        .ok_or_else(|| format!("mode is not octal permission bits such as \"0755\": `{text}`"))
}

/// `uid:gid`; `0:0` if absent.
///
/// # Errors
/// Not two numbers.
pub fn parse_owner(text: Option<&str>) -> Result<(u32, u32), String> {
    let Some(text) = text else { return Ok((0, 0)) };
    text.split_once(':')
        .and_then(|(uid, gid)| Some((uid.parse().ok()?, gid.parse().ok()?)))
        .ok_or_else(|| format!("owner is not `uid:gid` in numbers: `{text}`"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::Columns;

    fn layer(text: &str) -> Result<Layer, Error> {
        Layer::parse(text, Path::new("layers/x"), "x")
    }

    #[test]
    fn both_kinds() {
        let python = layer(
            "kind = \"python\"\nrequirements = [{ requirement = \"a=={a}\", when = { a = \">=1\" } }]\n\
             [[prune]]\npaths = [\"**/tests/**\"]\nreason = \"not imported\"\n",
        )
        .unwrap();
        let Brick::Python(python) = python.brick else { panic!("kind") };
        let columns = |a: &str| Columns(BTreeMap::from([("a".to_owned(), a.to_owned())]));
        assert_eq!(python.requirements_of(&columns("1.5")).unwrap(), ["a==1.5"]);
        assert!(python.requirements_of(&columns("0.5")).is_err());
        let files = layer(
            "kind = \"files\"\n[[directory]]\npath = \"/x\"\nmode = \"0775\"\nowner = \"1000:0\"\n\
             [config]\nuser = \"1000:1000\"\n",
        )
        .unwrap();
        assert_eq!(files.config.user.as_deref(), Some("1000:1000"));
    }

    #[test]
    fn errors_show_file_and_line() {
        use std::error::Error as _;
        let error = layer("kind = \"files\"\ncolour = 1\n").unwrap_err();
        assert_eq!(error.to_string(), "layers/x/layer.toml is not as it should be");
        let source = error.source().unwrap().to_string();
        assert!(source.contains("line 2") && source.contains("colour"), "{source}");
        for bad in [
            "kind = \"magic\"\n",
            "kind = \"python\"\nrequirements = []\n",
            "kind = \"files\"\n[[directory]]\npath = \"/x\"\nmode = \"rwx\"\n",
            "kind = \"files\"\n[[directory]]\npath = \"/x\"\nmode = \"4755\"\n",
            "kind = \"files\"\n[config]\nuser = \"locust\"\n",
            "kind = \"files\"\n[check]\ncommand = []\n",
            "kind = \"files\"\n[check]\n",
            "kind = \"python\"\nrequirements = [{ requirement = \"a\" }]\n[[prune]]\npaths = []\nreason = \"\"\n",
        ] {
            assert!(layer(bad).is_err(), "{bad}");
        }
    }
}
