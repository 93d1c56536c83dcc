//! One wheel becomes the files of an installed distribution: the PyPA's binary distribution
//! format, *Installing a wheel*, with its step numbers, and the installed projects' records.
//!
//! Done as pip does it where the specification leaves a choice. Differences: launchers are uv's,
//! RECORD is checked and sorted, `.pyc` files that a wheel carries are kept, bytecode comes from
//! outside, and what would replace the interpreter or another distribution's records is refused.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::Path;

use bytes::Bytes;
use globset::GlobSet;
use object::elf::ELFMAG;
use pep440_rs::Version;
use pep508_rs::PackageName;
use serde::{Deserialize, Serialize};

use super::bytecode::Modules;
use super::content::{Aside, Content};
use super::error::{Error, WheelProblem};
use super::path::ContainerPath;
use super::prune::{Prune, Pruned};
use super::scheme::Scheme;
use super::treatment::Treatment;
use super::tree::{Entry, Known, Tree};
use crate::oci::Digest;
use crate::python::record::{Hash, Record, Row};
use crate::store::Store;

mod dist_info;
mod members;
mod scripts;

#[cfg(test)]
pub(super) mod tests;

use dist_info::DistInfo;
use members::Member;

/// A wheel that lies in the store, and what the lock says of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WheelFile {
    /// Normalised name of the distribution.
    pub name: PackageName,
    /// Its version.
    pub version: Version,
    /// `Flask-3.1.0-py3-none-any.whl`
    pub file_name: String,
    /// Over the file's bytes.
    pub digest: Digest,
    /// Whether somebody asked for it, rather than some other distribution: it gets REQUESTED.
    pub requested: bool,
}

/// What became of a wheel: for the size report, and for notices.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Installed {
    /// Normalised name of the distribution; the owner of its entries in the tree.
    pub name: PackageName,
    /// Its version.
    pub version: Version,
    /// Files in the tree, RECORD, launchers, bytecode and hard links included.
    pub files: u64,
    /// Their bytes; a hard link has none.
    pub bytes_installed: u64,
    /// What each pruning rule took, in the order of the rules. The first rule that matches takes a file.
    pub pruned: Vec<Pruned>,
    /// Bytes that shared objects lost by stripping.
    pub stripped: u64,
    /// Bytes that are not there again because a file became a hard link.
    pub linked: u64,
    /// Bytes of the bytecode among `bytes_installed`.
    pub bytecode: u64,
    /// Whether an ELF file was installed.
    pub has_native: bool,
    /// `Tag` of WHEEL: `cp313-cp313-musllinux_1_2_x86_64`
    pub tags: Vec<String>,
    /// Things worth knowing that are no errors.
    pub notices: Vec<String>,
    /// Commands whose launcher the treatment changed, sorted.
    pub launchers: BTreeSet<String>,
    /// Files in which the treatment replaced text, as RECORD has them, sorted.
    pub replaced: BTreeSet<String>,
}

/// A file and where it goes.
#[derive(Debug)]
struct Placed {
    path: ContainerPath,
    content: Content,
    /// What comes in its stead if it is not pruned.
    stripped: Option<Content>,
    mode: u32,
}

impl Placed {
    fn new(path: ContainerPath, content: impl Into<Content>, mode: u32) -> Self {
        Self { path, content: content.into(), stripped: None, mode }
    }

    fn read(&self) -> Result<Bytes, WheelProblem> {
        let unreadable = |source| WheelProblem::Unpack { name: self.path.to_string(), source };
        self.content.read().map_err(unreadable)
    }
}

/// A distribution's files in their places, before RECORD is written over them.
#[derive(Debug)]
pub struct LaidOut {
    file_name: String,
    /// Relative to it are the paths in RECORD.
    root: ContainerPath,
    dist_info: ContainerPath,
    requested: bool,
    placed: Vec<Placed>,
    installed: Installed,
}

/// Lays out the wheel in this file, treated, on at most `parallel` threads. What is in it is read again
/// when it is used; `store` holds what has no other place.
///
/// The result depends on nothing but the other arguments. The caller has compared the file with the
/// lock's digest.
///
/// # Errors
/// The wheel is hostile, broken, or not the distribution that `wheel` says; text that is to be
/// replaced is not there.
pub fn lay_out(
    file: File,
    wheel: &WheelFile,
    scheme: &Scheme,
    treatment: &Treatment,
    (store, parallel): (&Store, usize),
) -> Result<LaidOut, Error> {
    let rules = treatment.prune.iter().map(Prune::matcher).collect::<Result<Vec<_>, _>>()?;
    lay_out_files(file, wheel, scheme, (treatment, &rules), (store, parallel))
        .map_err(|problem| Error::Wheel { file_name: wheel.file_name.clone(), problem })
}

fn lay_out_files(
    file: File,
    wheel: &WheelFile,
    scheme: &Scheme,
    (treatment, rules): (&Treatment, &[&GlobSet]),
    (store, parallel): (&Store, usize),
) -> Result<LaidOut, WheelProblem> {
    let aside = Aside::new(store, treatment.strip);
    let members = members::read(file, Some(&aside), parallel)?;
    // Steps 1.a and 1.b: WHEEL and its version. All of RECORD is checked before anything is placed.
    let info = DistInfo::read(wheel, &members)?;
    // Step 1.c: Root-Is-Purelib decides where the root goes.
    let root = if info.is_purelib { &scheme.purelib } else { &scheme.platlib };
    // Steps 2.a to 2.c: everything in its place, scripts with their interpreter.
    let mut placed = spread(&members, &info, scheme, root)?;
    placed.extend(launchers(&info, scheme, treatment)?);

    let mut installed = Installed {
        name: wheel.name.clone(),
        version: wheel.version.clone(),
        files: 0,
        bytes_installed: 0,
        pruned: vec![Pruned::default(); treatment.prune.len()],
        stripped: 0,
        linked: 0,
        bytecode: 0,
        has_native: false,
        tags: info.tags.clone(),
        notices: info
            .newer_format
            .iter()
            .map(|version| {
                format!(
                    "`{}` has Wheel-Version {version}: what is newer than 1.0 is not known",
                    wheel.file_name
                )
            })
            .collect(),
        launchers: BTreeSet::new(),
        replaced: BTreeSet::new(),
    };
    let dist_info = join(root, &info.folder)?;
    placed.retain(|file| {
        let path = file.path.relative_to(root);
        // pip and importlib.metadata read `.dist-info`, and licences lie there: rules do not apply.
        let is_protected = file.path.is_below(&dist_info);
        match rules.iter().position(|rule| !is_protected && rule.is_match(&path)) {
            Some(rule) => {
                installed.pruned[rule].files += 1;
                installed.pruned[rule].bytes += file.content.size();
                false
            }
            None => true,
        }
    });
    for file in &mut placed {
        if let Some(stripped) = file.stripped.take() {
            installed.stripped += file.content.size() - stripped.size();
            file.content = stripped;
        }
    }
    installed.replaced = replace(&mut placed, root, treatment)?;
    let commands = info.entry_points.scripts();
    installed.launchers = commands
        .keys()
        .filter(|name| treatment.launcher(name).is_some())
        .map(ToString::to_string)
        .collect();
    Ok(LaidOut {
        file_name: wheel.file_name.clone(),
        root: root.clone(),
        dist_info,
        requested: wheel.requested,
        placed,
        installed,
    })
}

/// The native files of the wheel in this file, by name. All of it is checked as for installing it.
///
/// # Errors
/// The wheel is hostile, broken, or not the distribution that `wheel` says.
pub(super) fn native_files(
    file: File,
    wheel: &WheelFile,
) -> Result<BTreeMap<String, Bytes>, WheelProblem> {
    let members = members::read(file, None, 1)?;
    DistInfo::read(wheel, &members)?;
    let native = members.into_iter().filter(|(_, member)| member.content.starts_with(&ELFMAG));
    native
        .map(|(name, member)| match member.content.read() {
            Ok(bytes) => Ok((name, bytes)),
            Err(source) => Err(WheelProblem::Unpack { name, source }),
        })
        .collect()
}

/// Replaces text as the treatment says; returns the paths of the files that had it.
fn replace(
    placed: &mut [Placed],
    root: &ContainerPath,
    treatment: &Treatment,
) -> Result<BTreeSet<String>, WheelProblem> {
    let mut replaced = BTreeSet::new();
    for rule in &treatment.replacements {
        for file in placed.iter_mut().filter(|file| file.path.relative_to(root) == rule.path) {
            let bytes = file.read()?;
            let text = std::str::from_utf8(&bytes).unwrap_or_default();
            let found = text.matches(&rule.from).count();
            if found != rule.count {
                return Err(WheelProblem::Replacement {
                    path: rule.path.clone(),
                    expected: rule.count,
                    found,
                });
            }
            file.content = text.replace(&rule.from, &rule.to).into();
            replaced.insert(rule.path.clone());
        }
    }
    Ok(replaced)
}

impl LaidOut {
    /// The distribution's name.
    pub fn name(&self) -> &PackageName {
        &self.installed.name
    }

    /// The modules that the treatment's rule wants compiled, in byte order of paths.
    ///
    /// # Errors
    /// Of the rule.
    pub fn modules(&self, rule: &Prune) -> Result<Modules, Error> {
        let rule = rule.matcher()?;
        let is_module = |file: &&Placed| {
            file.path.is_below(&self.root)
                && Path::new(file.path.as_relative())
                    .extension()
                    .is_some_and(|ending| ending == "py")
                && rule.is_match(file.path.relative_to(&self.root))
        };
        let modules = self.placed.iter().filter(is_module);
        Ok(modules.map(|file| (file.path.clone(), file.content.clone())).collect())
    }

    /// Writes the records: the distribution as it is installed, with this bytecode, and the figures.
    ///
    /// # Errors
    /// Two files want one place.
    pub fn finish(self, bytecode: &Modules) -> Result<(Tree, Installed), Error> {
        let Self { file_name, root, dist_info, requested, mut placed, mut installed } = self;
        let problem = |problem| Error::Wheel { file_name: file_name.clone(), problem };
        // A wheel's own bytecode gives way to ours: it would be stale at the least.
        placed.retain(|file| !bytecode.contains_key(&file.path));
        for (path, content) in bytecode {
            installed.bytecode += content.size();
            placed.push(Placed::new(path.clone(), content.clone(), 0o644));
        }
        // Step 2.d: RECORD with the installed paths. Step 2.e has nothing to do, since there is no
        // `.data` folder to remove; step 2.f, compiling, is done above.
        placed.extend(records(&placed, &root, &dist_info, requested).map_err(problem)?);
        let mut tree = Tree::default();
        for file in placed {
            installed.has_native |= file.content.starts_with(&ELFMAG);
            let entry = Entry::file(file.content, file.mode, installed.name.as_ref());
            tree.insert(file.path, entry)
                .map_err(|clash| WheelProblem::Clash(Box::new(clash)))
                .map_err(problem)?;
        }
        for (_, size) in tree.files() {
            installed.files += 1;
            installed.bytes_installed += size;
        }
        Ok((tree, installed))
    }
}

/// Where each file of the wheel goes.
fn spread(
    members: &BTreeMap<String, Member>,
    info: &DistInfo,
    scheme: &Scheme,
    root: &ContainerPath,
) -> Result<Vec<Placed>, WheelProblem> {
    let data_folder = format!("{}.data", info.folder.trim_end_matches(".dist-info"));
    let commands = info.entry_points.scripts();
    let mut placed = Vec::with_capacity(members.len());
    for (name, member) in members {
        let (top, rest) = name.split_once('/').unwrap_or((name, ""));
        let (mut content, stripped) = (member.content.clone(), member.stripped.clone());
        let mut mode = if member.is_executable { 0o755 } else { 0o644 };
        let path = if top == info.folder {
            // Ours to write, or no longer true of what is installed.
            if is_record_or_written(info, name) {
                continue;
            }
            join(root, name)?
        } else if Path::new(top).extension().is_some_and(|e| e == "data") && !rest.is_empty() {
            let (key, below) = rest
                .split_once('/')
                .filter(|_| top == data_folder)
                .ok_or_else(|| WheelProblem::DataKey(name.clone()))?;
            match key {
                "purelib" => join(&scheme.purelib, below)?,
                "platlib" => join(&scheme.platlib, below)?,
                "data" => join(&scheme.data, below)?,
                "headers" => join(&join(&scheme.headers, &info.name)?, below)?,
                "scripts" => {
                    if commands.contains_key(scripts::launched_command(below)) {
                        continue;
                    }
                    mode = 0o755;
                    if content.starts_with(scripts::PYTHON) {
                        let unpack = |source| WheelProblem::Unpack { name: name.clone(), source };
                        let script = content.read().map_err(unpack)?;
                        if let Some(script) = scripts::rewritten(&scheme.interpreter, &script) {
                            content = script.into();
                        }
                    }
                    join(&scheme.scripts, below)?
                }
                _ => return Err(WheelProblem::DataKey(name.clone())),
            }
        } else {
            join(root, name)?
        };
        check_reserved(&path, info, scheme)?;
        placed.push(Placed { path, content, stripped, mode });
    }
    Ok(placed)
}

fn launchers(
    info: &DistInfo,
    scheme: &Scheme,
    treatment: &Treatment,
) -> Result<Vec<Placed>, WheelProblem> {
    let mut placed = Vec::new();
    for (name, target) in info.entry_points.scripts() {
        let path = join(&scheme.scripts, name)?;
        check_reserved(&path, info, scheme)?;
        let before = treatment.launcher(name).map_or(&[][..], |launcher| &launcher.before);
        placed.push(Placed::new(
            path,
            scripts::launcher(&scheme.interpreter, target, before),
            0o755,
        ));
    }
    Ok(placed)
}

/// INSTALLER, REQUESTED and RECORD (recording installed projects).
fn records(
    placed: &[Placed],
    root: &ContainerPath,
    dist_info: &ContainerPath,
    requested: bool,
) -> Result<Vec<Placed>, WheelProblem> {
    let record_path = join(dist_info, "RECORD")?;
    let mut written = vec![Placed::new(join(dist_info, "INSTALLER")?, "assemble\n", 0o644)];
    if requested {
        written.push(Placed::new(join(dist_info, "REQUESTED")?, Bytes::new(), 0o644));
    }
    let mut record = Record::default();
    for file in placed.iter().chain(&written) {
        let Known { size, sha256 } = file.content.known();
        let row = Row { hash: Some(Hash::of_digest(&sha256)), size: Some(size) };
        record.rows.insert(file.path.relative_to(root), row);
    }
    record.rows.insert(record_path.relative_to(root), Row::default());
    written.push(Placed::new(record_path, record.to_bytes(), 0o644));
    Ok(written)
}

/// Files of `.dist-info` that only an installer writes: a wheel's own would be a lie.
fn is_record_or_written(info: &DistInfo, name: &str) -> bool {
    dist_info::is_record_or_signature(&info.folder, name)
        || ["INSTALLER", "REQUESTED", "direct_url.json"]
            .iter()
            .any(|file| *name == format!("{}/{file}", info.folder))
}

/// Refuses what pip would let pass and nobody can want: `.data/scripts/python3.13`, or another
/// distribution's `.dist-info` by way of `.data/purelib`.
fn check_reserved(
    path: &ContainerPath,
    info: &DistInfo,
    scheme: &Scheme,
) -> Result<(), WheelProblem> {
    let reserved = |reason| Err(WheelProblem::Reserved { path: path.clone(), reason });
    let interpreter = scheme.interpreter.as_relative();
    let is_interpreter = ["", "3"].iter().any(|version| {
        path.as_relative() == format!("{}/python{version}", scheme.scripts.as_relative())
    }) || path.as_relative() == interpreter;
    if is_interpreter {
        return reserved("the base's interpreter");
    }
    for library in [&scheme.purelib, &scheme.platlib] {
        if path.is_below(library) {
            let relative = path.relative_to(library);
            let top = relative.split('/').next().unwrap_or_default();
            if top.ends_with(".dist-info") && top != info.folder {
                return reserved("another distribution's records");
            }
        }
    }
    Ok(())
}

fn join(folder: &ContainerPath, relative: &str) -> Result<ContainerPath, WheelProblem> {
    folder.join(relative).map_err(|error| WheelProblem::Entry {
        name: relative.to_owned(),
        refusal: super::error::Refusal::Path(error),
    })
}
