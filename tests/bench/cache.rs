//! What of the cache a case finds.
//!
//! All but what is named is forgotten, records and blobs alike: a kind of record that is new does not
//! make a case warm that should be cold.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use fs_err as fs;

use crate::{Result, shell};

/// Records of what servers said, of builds, and of the base: nothing that a layer is made of.
const FETCHED: [&str; 7] = [
    "built-wheels",
    "bytecode",
    INVENTORY,
    "package-index-page",
    "rootfs-listing",
    "tag",
    "wheel-metadata",
];

/// Records of what lies in a base, and not those of a distribution's part of a layer.
const INVENTORY: &str = "inventory-3";

/// Longer blobs are no manifests, which name others.
const MANIFEST: u64 = 64 << 10;

/// A cache of the program, and states of it beside it: records, and names of blobs.
pub(crate) struct Cache(pub(crate) PathBuf);

impl Cache {
    /// A shell's words that bring a state back. What is not part of it is put away: a file system that
    /// looks for inodes which were not deleted a moment ago makes new files slowly.
    pub(crate) fn restore(&self, state: &str) -> String {
        format!(
            "cd {} && away=$(mktemp -d ../away/XXXXXX) && mv keyed $away && cp -r ../{state}/keyed . && \
             cd blobs/sha256 && ls | grep -vxFf ../../../{state}/blobs | xargs -r mv -t ../../$away",
            self.0.display(),
        )
    }

    /// The same, with a base that no image was put on before.
    pub(crate) fn restore_unread(&self, state: &str) -> String {
        format!("{} && rm -r {self}/keyed/{INVENTORY}", self.restore(state))
    }

    /// Deletes what was put away.
    pub(crate) fn clean(&self) -> Result<()> {
        let away = self.state("away");
        shell(&format!("rm -rf {0} && mkdir -p {0}", away.display()))
    }

    /// Keeps all that is there as a state.
    pub(crate) fn keep(&self, state: &str) -> Result<()> {
        let state = self.state(state);
        shell(&format!("rm -rf {0} && mkdir {0} && cp -r {1}/keyed {0}", state.display(), self))?;
        let mut names = BTreeSet::new();
        for entry in fs::read_dir(self.0.join("blobs/sha256"))? {
            names.insert(entry?.file_name().to_string_lossy().into_owned());
        }
        write(&state, &names)
    }

    /// Keeps as a state what was fetched or built for the cells whose locks lie below `matrix`.
    pub(crate) fn keep_fetched(&self, state: &str, matrix: &Path) -> Result<()> {
        let state = self.state(state);
        shell(&format!("rm -rf {0} && mkdir -p {0}/keyed", state.display()))?;
        let mut named = BTreeSet::new();
        collect(matrix, &mut named)?;
        for kind in FETCHED {
            let records = self.0.join("keyed").join(kind);
            if records.exists() {
                shell(&format!("cp -r {} {}/keyed/", records.display(), state.display()))?;
                collect(&records, &mut named)?;
            }
        }
        for name in named.clone() {
            let blob = self.0.join("blobs/sha256").join(name);
            if fs::metadata(&blob).is_ok_and(|metadata| metadata.len() < MANIFEST) {
                collect(&blob, &mut named)?;
            }
        }
        write(&state, &named)
    }

    /// Adds what is in one state to another.
    pub(crate) fn add(&self, from: &str, to: &str) -> Result<()> {
        let (from, to) = (self.state(from), self.state(to));
        shell(&format!(
            "cp -r {0}/keyed {1} && cat {0}/blobs >> {1}/blobs",
            from.display(),
            to.display()
        ))
    }

    fn state(&self, name: &str) -> PathBuf {
        self.0.with_file_name(name)
    }
}

impl std::fmt::Display for Cache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.display().fmt(f)
    }
}

fn write(state: &Path, names: &BTreeSet<String>) -> Result<()> {
    let mut lines = names.iter().cloned().collect::<Vec<_>>().join("\n");
    lines.push('\n');
    Ok(fs::write(state.join("blobs"), lines)?)
}

/// Adds all that looks like a SHA-256 digest in a file, or in the files below a folder.
fn collect(path: &Path, named: &mut BTreeSet<String>) -> Result<()> {
    if fs::metadata(path)?.is_dir() {
        for entry in fs::read_dir(path)? {
            collect(&entry?.path(), named)?;
        }
        return Ok(());
    }
    let bytes = fs::read(path)?;
    for word in bytes.split(|byte| !byte.is_ascii_hexdigit()).filter(|word| word.len() == 64) {
        named.insert(String::from_utf8_lossy(word).into_owned());
    }
    Ok(())
}
