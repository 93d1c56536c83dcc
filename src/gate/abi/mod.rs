//! Whether each ELF file of our layers can be loaded on the base (pure).

use std::collections::BTreeSet;

use super::elf::Elf;
use super::error::Finding;
use super::inventory::{File, Inventory, Node};
use super::stack::Stack;
use crate::python::target::{Libc, Target};
use crate::world::side_by_side;

mod symbols;

use symbols::Scope;

/// Where loaders look when a file says nothing: musl's default, then glibc's with Debian's folders.
const FOLDERS: [&str; 4] = ["/lib", "/usr/local/lib", "/usr/lib", "/lib64"];

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// How many ELF files were looked at.
    pub files: usize,
    /// Sorted by owner and path.
    pub findings: Vec<Finding>,
}

/// Looks at every ELF file of our layers as the loader of `target` would, on at most `parallel` threads.
pub fn check(stack: &Stack<'_>, target: &Target, parallel: usize) -> Verdict {
    let suffixes = Suffixes::of(stack.below, target);
    let look = Look { stack, target };
    let interpreter = look.interpreter();
    let is_elf = |(_, file): &(&str, &File)| file.elf.is_some() || file.damage.is_some();
    let files: Vec<(&str, &File)> = stack.ours.files().filter(is_elf).collect();
    let problems = side_by_side(files.len(), parallel, |number| {
        let (path, file) = files[number];
        look.problems(path, file, (&suffixes, &interpreter))
    });
    let mut verdict = Verdict::default();
    for ((path, file), problems) in files.into_iter().zip(problems) {
        verdict.files += usize::from(file.damage.is_none());
        verdict.findings.extend(problems.into_iter().map(|problem| Finding {
            owner: stack.owners.owner(path),
            path: format!("/{path}"),
            problem,
        }));
    }
    verdict.findings.sort();
    verdict
}

fn other_machine(elf: &Elf, target: &Target) -> Option<String> {
    let expected = match target.machine() {
        "x86_64" => (62, true, true),
        "aarch64" => (183, true, true),
        "i686" => (3, false, true),
        "armv6l" | "armv7l" => (40, false, true),
        "ppc64le" => (21, true, true),
        "riscv64" => (243, true, true),
        "s390x" => (22, true, false),
        _ => return None,
    };
    ((elf.machine, elf.wide, elf.little) != expected)
        .then(|| format!("is made for {}, not for {}", machine(elf), target.machine()))
}

fn machine(elf: &Elf) -> String {
    match (elf.machine, elf.wide, elf.little) {
        (62, true, _) => "x86_64",
        (62, false, _) => "x32",
        (183, ..) => "aarch64",
        (3, ..) => "i686",
        (40, ..) => "arm",
        (21, _, true) => "ppc64le",
        (21, _, false) => "ppc64",
        (243, true, _) => "riscv64",
        (22, ..) => "s390x",
        (other, ..) => return format!("ELF machine {other}"),
    }
    .to_owned()
}

/// The C libraries' own names: what a loader has itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    Musl,
    Glibc,
}

impl Family {
    fn of_library(name: &str) -> Option<Self> {
        if name.starts_with("libc.musl-") || name.starts_with("ld-musl-") || name == "libc.so" {
            return Some(Self::Musl);
        }
        let stem = name.split(".so").next().unwrap_or_default();
        let own = ["libc", "libm", "libmvec", "libpthread", "libdl", "librt", "libutil"];
        let other = ["libresolv", "libanl", "libBrokenLocale", "libthread_db", "libnsl"];
        let loader = name.starts_with("ld-linux") || name.starts_with("ld64.so");
        let versioned = name.contains(".so.");
        (loader || versioned && (own.contains(&stem) || other.contains(&stem)))
            .then_some(Self::Glibc)
    }

    fn of_target(libc: Libc) -> Self {
        match libc {
            Libc::Musl { .. } => Self::Musl,
            Libc::Glibc { .. } => Self::Glibc,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Musl => "musl",
            Self::Glibc => "glibc",
        }
    }
}

/// How one file is looked at.
struct Look<'a> {
    stack: &'a Stack<'a>,
    target: &'a Target,
}

impl<'a> Look<'a> {
    /// What keeps an ELF file from being used.
    fn problems(
        &self,
        path: &str,
        file: &'a File,
        (suffixes, interpreter): (&Suffixes, &Scope<'a>),
    ) -> Vec<String> {
        if let Some(damage) = &file.damage {
            return vec![format!("is a damaged ELF file: {damage}")];
        }
        let Some(elf) = &file.elf else { return Vec::new() };
        if let Some(problem) = other_machine(elf, self.target) {
            // All else would follow from it.
            return vec![problem];
        }
        let mut problems = Vec::new();
        problems.extend(suffixes.problem(path, self.stack.ours));
        self.loads(path, elf, &mut |problem| problems.push(problem));
        problems.extend(self.missing_symbols(path, elf, interpreter));
        problems
    }

    /// Reports what keeps the file from being loaded, apart from symbols.
    fn loads(&self, path: &str, elf: &Elf, find: &mut impl FnMut(String)) {
        let family = Family::of_target(self.target.libc);
        if let Some(interpreter) = &elf.interpreter
            && !self.stack.all.has(interpreter)
        {
            find(format!("asks for the loader `{interpreter}`, which is not in the image"));
        }
        for library in &elf.needed {
            match (Family::of_library(library), self.library(path, elf, library)) {
                (_, Some(_)) => {}
                (Some(found), None) if found == family => {}
                (Some(other), None) => {
                    let (other, own) = (other.name(), family.name());
                    find(format!("needs `{library}` of {other}, and the base has {own}"));
                }
                (None, None) => find(format!(
                    "needs `{library}`, which is neither in the layers nor in the base"
                )),
            }
        }
        for (library, versions) in &elf.versions_needed {
            if Family::of_library(library).is_some_and(|found| found != family) {
                continue;
            }
            let known = self.library(path, elf, library).map(|(_, file)| &file.versions_defined);
            for version in versions {
                let missing = match known {
                    Some(known) if !known.is_empty() => !known.contains(version),
                    _ => is_newer(version, self.target.libc),
                };
                if missing {
                    let has = newest(known.map_or(&[], Vec::as_slice), version, self.target.libc);
                    find(format!("needs `{version}` of `{library}`, and the base has {has}"));
                }
            }
        }
    }

    /// The library that a loader would find for `elf` at `path`, and where: by the file's own search
    /// path, by those of its distribution's other files, which may have loaded it before, or by default.
    fn library(&self, path: &str, elf: &Elf, library: &str) -> Option<(String, &'a Elf)> {
        if library.contains('/') {
            return self.elf(&expand(library, path));
        }
        let own = elf.run_path.iter().map(|folder| expand(folder, path));
        let debian = ["/lib", "/usr/lib"]
            .map(|folder| format!("{folder}/{}-linux-gnu", self.target.machine()));
        let mut folders = own.chain(FOLDERS.map(str::to_owned)).chain(debian);
        folders.find_map(|folder| self.elf(&format!("{folder}/{library}"))).or_else(|| {
            self.stack
                .owners
                .siblings(path)
                .filter(|sibling| sibling.rsplit('/').next() == Some(library))
                .find_map(|sibling| self.elf(sibling))
        })
    }

    /// The base's loader, if `library` is a name of the C library's: musl's takes them all for itself.
    fn libc(&self, library: &str) -> Option<(String, &'a Elf)> {
        Family::of_library(library)?;
        match self.target.libc {
            Libc::Musl { .. } => self
                .stack
                .all
                .files()
                .find(|(path, _)| path.trim_start_matches("usr/").starts_with("lib/ld-musl-"))
                .and_then(|(path, file)| Some((path.to_owned(), file.elf.as_ref()?))),
            Libc::Glibc { .. } => None,
        }
    }

    /// The ELF file at `path`, links followed, and where it lies.
    fn elf(&self, path: &str) -> Option<(String, &'a Elf)> {
        match self.stack.all.find(path)? {
            (path, Node::File(file)) => Some((path, file.elf.as_ref()?)),
            _ => None,
        }
    }
}

fn expand(folder: &str, path: &str) -> String {
    let origin = path.rsplit_once('/').map_or("", |(folder, _)| folder);
    folder.replace("${ORIGIN}", "$ORIGIN").replace("$ORIGIN", &format!("/{origin}"))
}

/// The numbers of `GLIBC_2.38`.
fn glibc_version(version: &str) -> Option<Vec<u16>> {
    version.strip_prefix("GLIBC_")?.split('.').map(|part| part.parse().ok()).collect()
}

/// Whether a version of a symbol is newer than the C library that the cell's OS is known to have.
fn is_newer(version: &str, libc: Libc) -> bool {
    match (libc, glibc_version(version)) {
        (Libc::Glibc { major, minor }, Some(version)) => version > vec![major, minor],
        _ => false,
    }
}

fn newest(known: &[String], like: &str, libc: Libc) -> String {
    let family = like.rsplit_once('_').map_or(like, |(family, _)| family);
    let numbers = |version: &&String| -> Vec<u16> {
        let digits = version.rsplit('_').next().unwrap_or_default();
        digits.split('.').filter_map(|part| part.parse().ok()).collect()
    };
    let same = known.iter().filter(|version| {
        version.rsplit_once('_').is_some_and(|(found, number)| {
            found == family && number.starts_with(|c: char| c.is_ascii_digit())
        })
    });
    match (same.max_by_key(numbers), libc) {
        (Some(newest), _) => format!("`{newest}` at most"),
        (None, Libc::Glibc { major, minor }) if known.is_empty() => {
            format!("glibc {major}.{minor}")
        }
        _ => "none like it".to_owned(),
    }
}

/// The tags in file names of extension modules that the interpreter imports.
struct Suffixes {
    /// `cpython-313-x86_64-linux-musl`
    accepted: BTreeSet<String>,
    python: (u8, u8),
}

impl Suffixes {
    /// What the base's own modules are called, or what such a Python is known to accept.
    fn of(base: &Inventory, target: &Target) -> Self {
        let python = (target.python.0, target.python.1);
        let (major, minor) = python;
        let modules = format!("usr/local/lib/python{major}.{minor}/lib-dynload/");
        let own: BTreeSet<String> = base
            .files()
            .filter_map(|(path, _)| Some(tag(path.strip_prefix(&modules)?)?.1.to_owned()))
            .collect();
        if !own.is_empty() {
            return Self { accepted: own, python };
        }
        let flags = if python < (3, 8) { "m" } else { "" };
        let machine = match target.machine() {
            "i686" => "i386",
            "ppc64le" => "powerpc64le",
            machine if machine.starts_with("arm") => "arm",
            machine => machine,
        };
        let systems: &[&str] = match (target.libc, python) {
            (Libc::Glibc { .. }, _) => &["gnu"],
            // CPython says musl in these names since 3.11; before, builds differ.
            (Libc::Musl { .. }, (_, 11..)) => &["musl"],
            (Libc::Musl { .. }, _) => &["musl", "gnu"],
        };
        let end = if machine == "arm" { "eabihf" } else { "" };
        let accepted = systems
            .iter()
            .map(|system| format!("cpython-{major}{minor}{flags}-{machine}-linux-{system}{end}"))
            .collect();
        Self { accepted, python }
    }

    /// Why the module at `path` is never imported; `None` if it is, is no extension module, or lies
    /// beside one that is imported in its place.
    fn problem(&self, path: &str, ours: &Inventory) -> Option<String> {
        let name = path.rsplit('/').next().unwrap_or_default();
        let (stem, tag) = tag(name)?;
        if self.accepted.contains(tag) {
            return None;
        }
        let folder = &path[..path.len() - name.len()];
        let mut endings: Vec<String> =
            self.accepted.iter().map(|tag| format!(".{tag}.so")).collect();
        endings.extend([".abi3.so".to_owned(), ".so".to_owned()]);
        if endings.iter().any(|ending| ours.has(&format!("{folder}{stem}{ending}"))) {
            return None;
        }
        let (major, minor) = self.python;
        let accepted: Vec<&str> = self.accepted.iter().map(String::as_str).collect();
        Some(format!(
            "is an extension module for `{tag}`: python {major}.{minor} of the base imports `{}`",
            accepted.join("` and `")
        ))
    }
}

/// `_speedups.cpython-313-x86_64-linux-musl.so` → its stem and its tag; `None` for other names, as
/// `x.so` and `x.abi3.so` are imported by all.
fn tag(name: &str) -> Option<(&str, &str)> {
    let (stem, tag) = name.strip_suffix(".so")?.split_once('.')?;
    ["cpython-", "pypy", "graalpy"]
        .iter()
        .any(|start| tag.starts_with(start))
        .then_some((stem, tag))
}

#[cfg(test)]
mod tests;
