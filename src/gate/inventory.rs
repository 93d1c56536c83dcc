//! What lies in a stack of layers, without unpacking it: paths, links, ELF facts, and the few
//! documents that the checks read.
//!
//! Made once per layer and kept in the store under its `diff_id`, so that a base that was read before
//! needs no layer on this machine. A layer that was just put together of parts is read by its parts, and
//! what a distribution's part holds is kept too: most layers differ from others in few of them. Of a part
//! that was just made most is known: only what says something is read, where it came from.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::elf::Elf;
use super::error::Error;
use super::read::read_layer;
use crate::layers::Outline;
use crate::store::{self, Store};

/// Linux follows no more links than this in one path.
const MOST_LINKS: usize = 40;

/// What one layer says of one path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Node {
    /// A folder.
    Directory,
    /// A symbolic link, and where it points.
    Link(String),
    /// A regular file.
    File(Arc<File>),
    /// A device or pipe.
    Other,
}

/// A regular file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct File {
    /// Permission bits.
    pub mode: u32,
    /// Bytes.
    pub size: u64,
    /// As RECORD writes it: `sha256=…`.
    pub hash: String,
    /// What it asks of the system, if it is an ELF file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub elf: Option<Elf>,
    /// Why it cannot be read as the ELF file that it seems to be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub damage: Option<String>,
    /// The rest of its first line, if that begins with `#!`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interpreter: Option<String>,
    /// The whole text, of documents that the checks read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

/// What one layer changes, in the order of its tar.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Layer {
    pub(super) nodes: Vec<(String, Node)>,
    /// Paths that are gone.
    pub(super) removed: Vec<String>,
    /// Folders whose lower content is gone.
    pub(super) emptied: Vec<String>,
}

/// The nodes of a stack of layers by their paths, without the leading slash.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inventory {
    nodes: BTreeMap<String, Node>,
}

impl Inventory {
    /// Reads layers, bottom first, on at most `parallel` threads. It blocks.
    ///
    /// # Errors
    /// [`Error::Absent`] names a layer that was never read and is not in the store; or a layer is no
    /// tar, or the disk said no.
    pub fn of(layers: &[Outline], store: &Store, parallel: usize) -> Result<Self, Error> {
        let mut inventory = Self::default();
        for layer in layers {
            inventory.apply(read_layer(layer, store, parallel)?);
        }
        Ok(inventory)
    }

    /// This one's nodes over those of `below`. Layers of ours have no whiteouts.
    #[must_use]
    pub fn over(&self, below: &Self) -> Self {
        let mut nodes = below.nodes.clone();
        nodes.extend(self.nodes.iter().map(|(path, node)| (path.clone(), node.clone())));
        Self { nodes }
    }

    /// All nodes, in byte order of paths.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Node)> {
        self.nodes.iter().map(|(path, node)| (path.as_str(), node))
    }

    /// All regular files, in byte order of paths.
    pub fn files(&self) -> impl Iterator<Item = (&str, &File)> {
        self.iter().filter_map(|(path, node)| match node {
            Node::File(file) => Some((path, &**file)),
            _ => None,
        })
    }

    /// What lies at `path` (absolute, or relative to `/`) after all links are followed, and where;
    /// `None` if there is nothing or the links lead nowhere.
    pub fn find(&self, path: &str) -> Option<(String, &Node)> {
        let mut todo: Vec<String> = parts(path).rev().map(str::to_owned).collect();
        let mut here: Vec<String> = Vec::new();
        let mut links = 0;
        while let Some(part) = todo.pop() {
            match part.as_str() {
                "." => continue,
                ".." => {
                    here.pop();
                    continue;
                }
                _ => here.push(part),
            }
            if let Some(Node::Link(target)) = self.nodes.get(&here.join("/")) {
                links += 1;
                if links > MOST_LINKS {
                    return None;
                }
                here.pop();
                if target.starts_with('/') {
                    here.clear();
                }
                todo.extend(parts(target).rev().map(str::to_owned));
            }
        }
        let path = here.join("/");
        if path.is_empty() {
            return Some((path, &Node::Directory));
        }
        if let Some(node) = self.nodes.get(&path) {
            return Some((path, node));
        }
        // A folder that no layer describes exists if something lies below.
        let below = format!("{path}/");
        let first = self.nodes.range(below.clone()..).next();
        first
            .is_some_and(|(found, _)| found.starts_with(&below))
            .then_some((path, &Node::Directory))
    }

    /// Whether there is anything at `path`.
    pub fn has(&self, path: &str) -> bool {
        self.find(path).is_some()
    }

    /// The regular file at `path`, links followed.
    pub fn file(&self, path: &str) -> Option<&File> {
        match self.find(path)?.1 {
            Node::File(file) => Some(file),
            _ => None,
        }
    }

    fn apply(&mut self, layer: Layer) {
        for path in &layer.emptied {
            self.remove_below(path);
        }
        for path in &layer.removed {
            self.nodes.remove(path);
            self.remove_below(path);
        }
        for (path, node) in layer.nodes {
            if node != Node::Directory {
                self.remove_below(&path);
            } else if matches!(self.nodes.get(&path), Some(Node::Link(_))) {
                // Extractors go through a link to a folder and keep it.
                continue;
            }
            self.nodes.insert(path, node);
        }
    }

    fn remove_below(&mut self, path: &str) {
        let after = (Bound::Excluded(path), Bound::Unbounded);
        // Most often nothing is below: what begins alike would stand next.
        if !self.nodes.range::<str, _>(after).next().is_some_and(|(next, _)| next.starts_with(path))
        {
            return;
        }
        let prefix = format!("{path}/");
        let gone: Vec<String> = self
            .nodes
            .range(prefix.clone()..)
            .map(|(path, _)| path.clone())
            .take_while(|path| path.starts_with(&prefix))
            .collect();
        for path in gone {
            self.nodes.remove(&path);
        }
    }

    #[cfg(test)]
    pub(super) fn made(nodes: impl IntoIterator<Item = (String, Node)>) -> Self {
        Self { nodes: nodes.into_iter().collect() }
    }
}

pub(super) fn parts(path: &str) -> impl DoubleEndedIterator<Item = &str> {
    path.split('/').filter(|part| !part.is_empty())
}

/// The layers of a base, as the store knows them.
///
/// # Errors
/// A digest of the manifest cannot be checked.
pub fn layers_of(base: &crate::base::Base) -> Result<Vec<Outline>, Error> {
    base.manifest
        .layers()
        .iter()
        .zip(&base.diff_ids)
        .map(|(layer, diff_id)| {
            let digest = crate::oci::descriptor_digest(layer)?;
            Ok(Outline { digest: Some(digest), diff_id: *diff_id, parts: None })
        })
        .collect()
}

impl From<store::Error> for Error {
    fn from(error: store::Error) -> Self {
        Self::Store(error)
    }
}

#[cfg(test)]
mod tests {
    use fs_err as fs;

    use super::*;
    use crate::layers::archive::Part;

    fn tar(entries: &[(&str, char, &str)]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, kind, content) in entries {
            let mut header = tar::Header::new_ustar();
            header.set_path(path).unwrap();
            header.set_mode(0o755);
            header.set_entry_type(tar::EntryType::new(*kind as u8));
            let mut bytes = content.as_bytes();
            if matches!(kind, '1' | '2') {
                header.set_link_name(content).unwrap();
                bytes = b"";
            }
            header.set_size(bytes.len() as u64);
            header.set_cksum();
            builder.append(&header, bytes).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn stacked(layers: &[&[(&str, char, &str)]]) -> Inventory {
        let folder = tempfile::TempDir::new().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let layers: Vec<Outline> = layers
            .iter()
            .map(|entries| {
                let digest = store.put(&tar(entries)).unwrap();
                Outline { digest: Some(digest), diff_id: digest, parts: None }
            })
            .collect();
        let found = Inventory::of(&layers, &store, 2).unwrap();
        // The records are enough.
        for layer in &layers {
            fs::remove_file(store.blob_path(&layer.digest.unwrap())).unwrap();
        }
        assert_eq!(Inventory::of(&layers, &store, 2).unwrap(), found);
        found
    }

    #[test]
    fn layers_stack_as_they_are_unpacked() {
        let found = stacked(&[
            &[
                ("bin", '2', "usr/bin"),
                ("usr/bin/busybox", '0', "x"),
                ("usr/bin/sh", '2', "/bin/busybox"),
                ("usr/bin/ash", '1', "usr/bin/busybox"),
                ("opt/gone/a", '0', ""),
                ("opt/old", '0', ""),
                ("loop", '2', "loop"),
                ("etc/os-release", '0', "ID=alpine\n"),
            ],
            &[
                ("opt/gone/.wh..wh..opq", '0', ""),
                ("opt/.wh.old", '0', ""),
                ("opt/gone/b", '0', "#!/bin/sh -e\n"),
                ("bin/", '5', ""),
            ],
        ]);
        for (path, expected) in [
            ("/bin/sh", Some("usr/bin/busybox")),
            ("bin/../bin/ash", Some("usr/bin/ash")),
            ("/usr", Some("usr")),
            ("/", Some("")),
            ("/opt/gone/a", None),
            ("/opt/gone/b", Some("opt/gone/b")),
            ("/opt/old", None),
            ("/loop", None),
            ("/us", None),
        ] {
            assert_eq!(found.find(path).map(|(path, _)| path).as_deref(), expected, "{path}");
        }
        assert_eq!(found.file("opt/gone/b").unwrap().interpreter.as_deref(), Some("/bin/sh -e"));
        assert_eq!(found.file("etc/os-release").unwrap().text.as_deref(), Some("ID=alpine\n"));
    }

    #[test]
    fn parts_hold_what_their_layer_holds() {
        use crate::layers::path::ContainerPath;
        use crate::layers::tree::{Entry, Node as Placed, Tree};

        let folder = tempfile::TempDir::new().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let path = |text: &str| ContainerPath::parse(text).unwrap();
        let mut tree = Tree::default();
        let large = b"\x7fELF?".iter().copied().cycle().take(3 << 20).collect();
        for (name, content, owner) in [
            ("/opt/a/large.so", large, "a"),
            ("/opt/a/a-1.dist-info/RECORD", b"x,,\n".to_vec(), "a"),
            ("/opt/b/run", b"#!/bin/sh\n".to_vec(), "b"),
        ] {
            tree.insert(path(name), Entry::file(content, 0o755, owner)).unwrap();
        }
        let link = Placed::HardLink(path("/opt/a/large.so"));
        let link = Entry { node: link, ..Entry::file("", 0o755, "b") };
        tree.insert(path("/opt/b/large.so"), link).unwrap();
        let (made, parts) = crate::layers::write(&tree, "test", &store, 2).unwrap();
        let digest = crate::oci::descriptor_digest(&made.descriptor).unwrap();
        let by_parts = Outline { digest: Some(digest), diff_id: made.diff_id, parts: Some(parts) };
        let whole = Outline { parts: None, ..by_parts.clone() };
        let mut packed = by_parts.clone();
        for part in packed.parts.iter_mut().flat_map(|parts| &mut parts.0) {
            if let Part::Owner { files, .. } = part {
                *files = None;
            }
        }
        fs::remove_file(store.blob_path(&digest)).unwrap();
        let read = Inventory::of(std::slice::from_ref(&by_parts), &store, 2).unwrap();
        // Where the files came from, and what they are in the cache, says the same.
        fs::remove_dir_all(store.root().join("keyed/inventory-part-2")).unwrap();
        assert_eq!(Inventory::of(std::slice::from_ref(&packed), &store, 2).unwrap(), read);
        // Only folders and links are read again.
        let owned = by_parts.parts.iter().flat_map(|parts| &parts.0).flat_map(|part| match part {
            Part::Owner { segments, .. } => &segments[..],
            Part::Frame(_) => &[],
        });
        let owned: std::collections::BTreeSet<_> = owned.map(|segment| segment.digest).collect();
        for digest in owned {
            fs::remove_file(store.blob_path(&digest)).unwrap();
        }
        assert_eq!(Inventory::of(std::slice::from_ref(&by_parts), &store, 2).unwrap(), read);
        let (again, _) = crate::layers::write(&tree, "test", &store, 2).unwrap();
        assert_eq!(again.diff_id, made.diff_id);
        assert_eq!(Inventory::of(&[whole], &store, 2).unwrap(), read);
        assert_eq!(read.files().filter(|(_, file)| file.damage.is_some()).count(), 2);
    }

    #[test]
    fn what_is_not_here_is_none() {
        let folder = tempfile::TempDir::new().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let absent = crate::oci::Digest::of(b"absent");
        let layer = Outline { digest: Some(absent), diff_id: absent, parts: None };
        assert!(matches!(Inventory::of(&[layer], &store, 2), Err(Error::Absent(_))));
    }
}
