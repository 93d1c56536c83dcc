//! What of the cache a case finds.
//!
//! All but what is named is forgotten, records and blobs alike: a kind of record that is new does not
//! make a case warm that should be cold.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use fs_err as fs;

use crate::{Result, shell};

/// Records of what servers said, and of builds: nothing that a layer is made of.
const FETCHED: [&str; 6] =
    ["built-wheels", "bytecode", "package-index-page", "rootfs-listing", "tag", "wheel-metadata"];

/// Records of what was fetched, by digests: what lies in the base, and what a large file was when it came.
/// Those of layers that were made are not wanted.
const OF_FETCHED: [&str; 2] = [INVENTORIES, "blake3"];
const INVENTORIES: &str = "inventory-3";

/// Where old files wait for the end of the bench.
pub(crate) const AWAY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/bench/away");

/// Longer blobs are no manifests or configs, which name others.
const DOCUMENT: u64 = 64 << 10;

/// A cache of the program, and states of it beside it: records, and names of blobs.
pub(crate) struct Cache(pub(crate) PathBuf);

impl Cache {
    /// A shell's words that bring a state back. What is not part of it is put [away](put_away).
    pub(crate) fn restore(&self, state: &str) -> String {
        let (cache, state) = (self.0.display(), self.state(state));
        format!(
            "{} && cp -r {1}/keyed {cache}/ && cd {cache}/blobs/sha256 && mkdir ../made && \
             ls | grep -vxFf {1}/blobs | xargs -r mv -t ../made && {2}",
            put_away(&[&format!("{cache}/keyed")]),
            state.display(),
            put_away(&[&format!("{cache}/blobs/made")]),
        )
    }

    /// The same, with a base that no image was put on before.
    pub(crate) fn restore_unread(&self, state: &str) -> String {
        format!("{} && rm -r {self}/keyed/{INVENTORIES}", self.restore(state))
    }

    /// Keeps all that is there as a state.
    pub(crate) fn keep(&self, state: &str) -> Result<()> {
        let state = self.state(state);
        shell(&put_away(&[&state.display().to_string()]))?;
        shell(&format!("mkdir {0} && cp -r {self}/keyed {0}", state.display()))?;
        let mut names = BTreeSet::new();
        for entry in fs::read_dir(self.0.join("blobs/sha256"))? {
            names.insert(entry?.file_name().to_string_lossy().into_owned());
        }
        write(&state, &names)
    }

    /// Keeps as a state what was fetched or built for the cells whose locks lie below `matrix`, and what
    /// is known of their bases.
    pub(crate) fn keep_fetched(&self, state: &str, matrix: &Path) -> Result<()> {
        let state = self.state(state);
        shell(&put_away(&[&state.display().to_string()]))?;
        shell(&format!("mkdir -p {}/keyed", state.display()))?;
        let mut named = BTreeSet::new();
        collect(matrix, &mut named)?;
        for kind in FETCHED {
            let records = self.0.join("keyed").join(kind);
            if records.exists() {
                shell(&format!("cp -r {} {}/keyed/", records.display(), state.display()))?;
                collect(&records, &mut named)?;
            }
        }
        // An index names manifests, a manifest a config, and that the layers unpacked.
        let mut todo: Vec<String> = named.iter().cloned().collect();
        while let Some(name) = todo.pop() {
            let blob = self.0.join("blobs/sha256").join(&name);
            if fs::metadata(&blob).is_ok_and(|metadata| metadata.len() < DOCUMENT) {
                let mut inside = BTreeSet::new();
                collect(&blob, &mut inside)?;
                todo.extend(inside.difference(&named).cloned());
                named.append(&mut inside);
            }
        }
        for kind in OF_FETCHED {
            let (from, to) = (self.0.join("keyed").join(kind), state.join("keyed").join(kind));
            fs::create_dir(&to)?;
            for name in &named {
                if from.join(name).exists() {
                    fs::copy(from.join(name), to.join(name))?;
                }
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

/// A shell's words that put files of one folder away, if they are there. Deleted ones would make all new
/// files slow for minutes: without a journal, ext4 looks for inodes that were not in use a moment ago.
pub(crate) fn put_away(paths: &[&str]) -> String {
    let each = paths.iter().map(|path| {
        format!(
            "if [ -e {path} ]; then mkdir -p {AWAY} && mv {path} $(mktemp -d {AWAY}/XXXXXX)/; fi"
        )
    });
    each.collect::<Vec<_>>().join(" && ")
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
