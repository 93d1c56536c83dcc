//! A virtual file tree: what a layer will hold, before it is bytes (pure).
//!
//! Of a file a tree has its [`Content`], or only what identifies it: [`Known`]. Clashes are found either
//! way, so a layer can be put together from distributions that were installed by earlier runs.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry as MapEntry;
use std::ops::Bound;

use super::content::Content;
use super::path::ContainerPath;
use crate::oci::Digest;

/// What identifies a file's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// How many they are.
    pub size: u64,
    /// Over them.
    pub sha256: Digest,
}

impl Known {
    /// Of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self { size: bytes.len() as u64, sha256: Digest::of(bytes) }
    }
}

/// What lies at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node<F = Content> {
    /// A folder.
    Directory,
    /// A regular file.
    File(F),
    /// A symbolic link and its literal target.
    Symlink(String),
    /// Another name of the regular file at that path, which sorts before it.
    HardLink(ContainerPath),
}

impl<F> Node<F> {
    /// What a message calls it.
    pub(super) fn noun(&self) -> &'static str {
        match self {
            Self::Directory => "a folder",
            Self::File(_) => "a file",
            Self::Symlink(_) => "a symbolic link",
            Self::HardLink(_) => "a hard link",
        }
    }
}

/// A node with its metadata and who put it there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry<F = Content> {
    /// What it is.
    pub node: Node<F>,
    /// Permission bits: 0o755, 0o644, …
    pub mode: u32,
    /// Numeric owner.
    pub uid: u32,
    /// Numeric group.
    pub gid: u32,
    /// The distribution or layer it comes from, for clashes and for the size report.
    pub owner: String,
}

impl Entry {
    /// A regular file of 0:0.
    pub fn file(content: impl Into<Content>, mode: u32, owner: impl Into<String>) -> Self {
        Self { node: Node::File(content.into()), mode, uid: 0, gid: 0, owner: owner.into() }
    }
}

impl<F: PartialEq> Entry<F> {
    /// Whether a layer would be the same with the other one at the same path.
    fn is_same_on_disk(&self, other: &Self) -> bool {
        self.node == other.node
            && (self.mode, self.uid, self.gid) == (other.mode, other.uid, other.gid)
    }
}

/// Two owners want different things at one path.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "two things lie at `{path}`: {first} of `{first_owner}` and {second} of `{second_owner}`{note}"
)]
pub struct Clash {
    /// Where.
    pub path: ContainerPath,
    /// What was there: `a file`, `a folder`, …
    pub first: &'static str,
    /// Whose it is.
    pub first_owner: String,
    /// What came.
    pub second: &'static str,
    /// Whose it is.
    pub second_owner: String,
    /// Says how they differ if both are of one kind, else empty.
    pub note: &'static str,
}

impl Clash {
    fn new<F>(
        path: &ContainerPath,
        first: &Entry<F>,
        second: &'static str,
        second_owner: &str,
    ) -> Self {
        Self {
            path: path.clone(),
            first: first.node.noun(),
            first_owner: first.owner.clone(),
            second,
            second_owner: second_owner.to_owned(),
            note: "",
        }
    }

    fn of<F: PartialEq>(path: &ContainerPath, first: &Entry<F>, second: &Entry<F>) -> Self {
        let note = match (&first.node, &second.node) {
            (Node::File(left), Node::File(right)) if left != right => ", with other contents",
            (Node::Symlink(left), Node::Symlink(right)) if left != right => ", with another target",
            (left, right) if left.noun() == right.noun() => ", with another mode or owner",
            _ => "",
        };
        Self { note, ..Self::new(path, first, second.node.noun(), &second.owner) }
    }
}

/// Path → entry, in byte order of paths. Adding different things at one path is an error, as is
/// anything below a file or a link; folders that nobody described need no entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tree<F = Content> {
    entries: BTreeMap<ContainerPath, Entry<F>>,
}

impl<F> Default for Tree<F> {
    fn default() -> Self {
        Self { entries: BTreeMap::new() }
    }
}

impl Tree {
    /// The regular files and their bytes' number, in byte order of paths.
    pub fn files(&self) -> impl Iterator<Item = (&ContainerPath, u64)> {
        self.entries.iter().filter_map(|(path, entry)| match &entry.node {
            Node::File(content) => Some((path, content.size())),
            Node::Directory | Node::Symlink(_) | Node::HardLink(_) => None,
        })
    }

    /// The same tree, with what identifies the files in place of their bytes.
    pub fn known(&self) -> Tree<Known> {
        let entries = self.entries.iter().map(|(path, entry)| {
            let node = match &entry.node {
                Node::Directory => Node::Directory,
                Node::File(content) => Node::File(content.known()),
                Node::Symlink(target) => Node::Symlink(target.clone()),
                Node::HardLink(target) => Node::HardLink(target.clone()),
            };
            let Entry { mode, uid, gid, ref owner, .. } = *entry;
            (path.clone(), Entry { node, mode, uid, gid, owner: owner.clone() })
        });
        Tree { entries: entries.collect() }
    }
}

impl Tree<Known> {
    /// Makes hard links of files that equal an earlier one in bytes, mode and owner, if they have at
    /// least `smallest` bytes; returns each such link and the bytes it saves, in byte order of paths.
    pub fn link_duplicates(&mut self, smallest: u64) -> Vec<(ContainerPath, u64)> {
        let mut first = BTreeMap::new();
        let mut linked = Vec::new();
        for (path, entry) in &mut self.entries {
            let Node::File(Known { size, sha256 }) = entry.node else { continue };
            if size < smallest.max(1) {
                continue;
            }
            match first.entry((sha256, entry.mode, entry.uid, entry.gid)) {
                MapEntry::Vacant(place) => {
                    place.insert(path.clone());
                }
                MapEntry::Occupied(target) => {
                    entry.node = Node::HardLink(target.get().clone());
                    linked.push((path.clone(), size));
                }
            }
        }
        linked
    }
}

impl<F: PartialEq> Tree<F> {
    /// Adds `entry` at `path`. What is already there in just that form is kept, with its first
    /// owner: several distributions may bring the same `__init__.py`.
    ///
    /// # Errors
    /// Something else is there, or is a folder's place taken by a file or link, above or below.
    pub fn insert(&mut self, path: ContainerPath, entry: Entry<F>) -> Result<(), Clash> {
        self.insert_below(path, entry, &mut None)
    }

    /// As [`Self::insert`]. Nothing but folders is at `sound` or above it: if that is the parent, none
    /// has to be looked at.
    fn insert_below(
        &mut self,
        path: ContainerPath,
        entry: Entry<F>,
        sound: &mut Option<ContainerPath>,
    ) -> Result<(), Clash> {
        if let Some(first) = self.entries.get(&path) {
            return if first.is_same_on_disk(&entry) {
                Ok(())
            } else {
                Err(Clash::of(&path, first, &entry))
            };
        }
        let parent = path.parent();
        if parent != *sound {
            let mut ancestor = parent.clone();
            while let Some(folder) = ancestor {
                match self.entries.get(&folder) {
                    Some(first) if first.node != Node::Directory => {
                        return Err(Clash::new(&folder, first, "a folder", &entry.owner));
                    }
                    // Whoever put an explicit folder there has looked further up.
                    Some(_) => break,
                    None => ancestor = folder.parent(),
                }
            }
            *sound = parent;
        }
        let below = self.below(&path);
        if let (false, Some((_, below))) = (entry.node == Node::Directory, below) {
            return Err(Clash {
                first: "a folder",
                ..Clash::new(&path, below, entry.node.noun(), &entry.owner)
            });
        }
        self.entries.insert(path, entry);
        Ok(())
    }

    /// Adds all of `other`, as [`Self::insert`] does.
    ///
    /// # Errors
    /// As [`Self::insert`]; which clash is reported does not depend on anything but the two trees.
    pub fn merge(&mut self, other: Self) -> Result<(), Clash> {
        let mut sound = None;
        for (path, entry) in other.entries {
            self.insert_below(path, entry, &mut sound)?;
        }
        Ok(())
    }

    /// The first entry strictly below `path`, in byte order.
    fn below(&self, path: &ContainerPath) -> Option<(&ContainerPath, &Entry<F>)> {
        let path = path.as_relative();
        let first_after = |text: &str| {
            let after = (Bound::Excluded(text), Bound::Unbounded);
            self.entries.range::<str, _>(after).next()
        };
        let starts_with = |prefix: &str, (candidate, _): &(&ContainerPath, _)| {
            candidate.as_relative().starts_with(prefix)
        };
        // Most often nothing begins alike.
        let next = first_after(path).filter(|next| starts_with(path, next))?;
        if path.is_empty() {
            return Some(next);
        }
        // `a-b` sorts between `a` and `a/b`.
        let prefix = format!("{path}/");
        first_after(&prefix).filter(|next| starts_with(&prefix, next))
    }
}

impl<F> Tree<F> {
    /// Puts an entry of another tree where nothing else is or can be.
    pub(super) fn put(&mut self, path: ContainerPath, entry: Entry<F>) {
        self.entries.insert(path, entry);
    }

    /// Leaves out what `keep` does not want.
    pub(super) fn retain(&mut self, keep: impl Fn(&ContainerPath) -> bool) {
        self.entries.retain(|path, _| keep(path));
    }

    /// What lies at `path`; `None` also for a folder that nobody described.
    pub fn get(&self, path: &ContainerPath) -> Option<&Entry<F>> {
        self.entries.get(path)
    }

    /// All entries, in byte order of paths.
    pub fn iter(&self) -> impl Iterator<Item = (&ContainerPath, &Entry<F>)> {
        self.entries.iter()
    }

    /// The number of entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

impl<F> IntoIterator for Tree<F> {
    type Item = (ContainerPath, Entry<F>);
    type IntoIter = std::collections::btree_map::IntoIter<ContainerPath, Entry<F>>;

    fn into_iter(self) -> Self::IntoIter {
        self.entries.into_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> ContainerPath {
        ContainerPath::parse(text).unwrap()
    }

    fn file(bytes: &'static [u8], owner: &str) -> Entry {
        Entry::file(bytes, 0o644, owner)
    }

    fn folder(mode: u32, owner: &str) -> Entry {
        Entry { node: Node::Directory, mode, ..file(b"", owner) }
    }

    fn link(target: &str, owner: &str) -> Entry {
        Entry { node: Node::Symlink(target.into()), mode: 0o777, ..file(b"", owner) }
    }

    #[test]
    fn the_same_thing_twice_keeps_its_first_owner() {
        let mut tree = Tree::default();
        for owner in ["one", "two"] {
            tree.insert(path("/ns/__init__.py"), file(b"#", owner)).unwrap();
            tree.insert(path("/ns"), folder(0o755, owner)).unwrap();
            tree.insert(path("/link"), link("ns", owner)).unwrap();
        }
        assert_eq!(tree.len(), 3);
        assert!(tree.iter().all(|(_, entry)| entry.owner == "one"));
    }

    #[test]
    fn different_things_clash_whatever_came_first() {
        let cases = [
            ("/a", file(b"1", "x"), "/a", file(b"2", "y")),
            ("/a", folder(0o755, "x"), "/a", folder(0o700, "y")),
            ("/a", link("b", "x"), "/a", link("c", "y")),
            ("/a", file(b"", "x"), "/a", folder(0o755, "y")),
            ("/a", file(b"", "x"), "/a/b", file(b"", "y")),
            ("/a", link("/etc", "x"), "/a/b/c", file(b"", "y")),
            ("/a", file(b"", "x"), "/a/b", folder(0o755, "y")),
        ];
        for (one, first, other, second) in cases {
            for swap in [false, true] {
                let mut pairs = [(one, first.clone()), (other, second.clone())];
                if swap {
                    pairs.reverse();
                }
                let mut tree = Tree::default();
                // Neighbours that sort between `/a` and `/a/b` hide nothing.
                tree.insert(path("/a-b"), file(b"", "z")).unwrap();
                let [(earlier, first), (later, second)] = pairs;
                tree.insert(path(earlier), first.clone()).unwrap();
                let clash = tree.insert(path(later), second.clone()).unwrap_err();
                assert_eq!(
                    (&clash.first_owner, &clash.second_owner),
                    (&first.owner, &second.owner)
                );
            }
        }
    }

    #[test]
    fn a_clash_says_who_and_how() {
        let mut tree = Tree::default();
        tree.insert(path("/bin/x"), file(b"1", "left")).unwrap();
        let mut other = Tree::default();
        other.insert(path("/bin/x"), file(b"2", "right")).unwrap();
        assert_eq!(
            tree.merge(other).unwrap_err().to_string(),
            "two things lie at `/bin/x`: a file of `left` and a file of `right`, with other contents"
        );
    }
}
