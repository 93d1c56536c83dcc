//! In which order a layer's tar has what its owners have (pure).
//!
//! What stands before the first change of a layer is copied and its hashes are gone on with; what stands
//! behind it is hashed again. So the owners that another layer most likely has too, for each of their bytes,
//! come first: the largest, as each may change as well as any other. Late ones, the distributions that the
//! recipe asks for by name, change most often and come last.
//!
//! Owners are taken together until they have [`LENGTH`] bytes: a stretch is what is found again, with folders
//! of its own. Which they are depends on the tree alone.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry as MapEntry;
use std::io;

use super::Late;
use super::entry::append;
use crate::layers::path::ContainerPath;
use crate::layers::tree::{Entry, Known, Node, Tree};

/// Bytes of files with which a stretch is long enough: part of what a layer's digest depends on. Each stretch
/// costs a piece for its folders, and a record.
pub(super) const LENGTH: u64 = 2 << 20;

/// Folders whose mode is not 0755 in any Linux base. An entry for a folder of the base replaces its
/// mode (image-spec, *Changeset over existing files*), so a file below `/tmp` must not close it.
const WELL_KNOWN_MODES: [(&str, u32); 3] = [("root", 0o700), ("tmp", 0o1777), ("var/tmp", 0o1777)];

/// What lies next to each other in a layer.
pub(super) struct Stretch {
    /// Those that are needed here and stand in no earlier stretch, as tar entries.
    pub(super) folders: Vec<u8>,
    /// Whose files and symbolic links come then, in this order.
    pub(super) owners: Vec<String>,
}

/// All stretches of the tree, with its owners and these.
pub(super) fn all<'a>(
    tree: &'a Tree<Known>,
    owners: impl Iterator<Item = &'a str>,
    late: &Late,
) -> io::Result<Vec<Stretch>> {
    let mut sizes: BTreeMap<&str, u64> = owners.map(|owner| (owner, 0)).collect();
    for (_, entry) in tree.iter() {
        let size = if let Node::File(known) = &entry.node { known.size } else { 0 };
        *sizes.entry(&entry.owner).or_default() += size;
    }
    let mut order: Vec<_> = sizes
        .into_iter()
        .map(|(owner, size)| (late.contains(owner), Reverse(size), owner))
        .collect();
    order.sort_unstable();
    let mut stretches: Vec<Stretch> = Vec::new();
    let mut places = BTreeMap::new();
    let (mut length, mut was_late) = (0, false);
    for (is_late, Reverse(size), owner) in order {
        if stretches.is_empty() || length >= LENGTH || is_late != was_late {
            stretches.push(Stretch { folders: Vec::new(), owners: Vec::new() });
            (length, was_late) = (0, is_late);
        }
        length += size;
        places.insert(owner, stretches.len() - 1);
        if let Some(last) = stretches.last_mut() {
            last.owners.push(owner.to_owned());
        }
    }
    let needed = first_needed(tree, &places);
    for (path, entry) in &folders(tree) {
        if let Some(stretch) = needed.get(path) {
            append(&mut stretches[*stretch].folders, path, entry)?;
        }
    }
    Ok(stretches)
}

/// The first stretch that needs each folder: to hold it, or something in it. `places` are the owners'.
fn first_needed(
    tree: &Tree<Known>,
    places: &BTreeMap<&str, usize>,
) -> BTreeMap<ContainerPath, usize> {
    let mut needed = BTreeMap::new();
    for (path, entry) in tree.iter() {
        let stretch = places.get(&*entry.owner).copied().unwrap_or_default();
        let is_folder = matches!(entry.node, Node::Directory);
        let mut folder = if is_folder { Some(path.clone()) } else { path.parent() };
        while let Some(path) = folder {
            folder = path.parent();
            match needed.entry(path) {
                MapEntry::Vacant(place) => {
                    place.insert(stretch);
                }
                MapEntry::Occupied(mut first) if *first.get() > stretch => {
                    first.insert(stretch);
                }
                // Whoever needs it needs all above it.
                MapEntry::Occupied(_) => break,
            }
        }
    }
    needed
}

/// All folders: those of the tree, and those that something lies in.
fn folders(tree: &Tree<Known>) -> BTreeMap<ContainerPath, Entry> {
    let mut folders = implicit_parents(tree);
    for (path, entry) in tree.iter() {
        if let Node::Directory = entry.node {
            let Entry { mode, uid, gid, .. } = *entry;
            let folder = Entry { node: Node::Directory, mode, uid, gid, owner: String::new() };
            folders.insert(path.clone(), folder);
        }
    }
    folders
}

/// Folders that entries lie in and that have no entry themselves. The root has none in a tar.
fn implicit_parents(tree: &Tree<Known>) -> BTreeMap<ContainerPath, Entry> {
    let mut parents = BTreeMap::new();
    for (path, _) in tree.iter() {
        let mut ancestor = path.parent();
        while let Some(folder) = ancestor {
            ancestor = folder.parent();
            if parents.contains_key(&folder) {
                break;
            }
            if ancestor.is_none() || tree.get(&folder).is_some() {
                continue;
            }
            let mode = WELL_KNOWN_MODES
                .iter()
                .find(|(known, _)| *known == folder.as_relative())
                .map_or(0o755, |(_, mode)| *mode);
            let entry = Entry { node: Node::Directory, ..Entry::file("", mode, "") };
            parents.insert(folder, entry);
        }
    }
    parents
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Digest;

    #[test]
    fn large_owners_come_first_with_the_folders_they_need_and_late_ones_last() {
        let mut tree = Tree::default();
        for (path, owner, size) in [
            ("/lib/small/m", "small", 1),
            ("/lib/ns/small", "small", 1),
            ("/lib/half/m", "half", LENGTH / 2),
            ("/bin/half", "half", 0),
            ("/lib/ns/other", "other half", LENGTH / 2),
            ("/lib/large/m", "large", LENGTH + 1),
            ("/lib/app/m", "app", 2 * LENGTH),
            ("/bin/app", "app", 0),
        ] {
            let known = Known { size, sha256: Digest::of(b"") };
            let entry = Entry::<Known> {
                node: Node::File(known),
                mode: 0o644,
                uid: 0,
                gid: 0,
                owner: owner.to_owned(),
            };
            tree.insert(ContainerPath::parse(path).unwrap(), entry).unwrap();
        }
        let late = ["app".to_owned()].into();
        let stretches = all(&tree, ["empty", "small"].into_iter(), &late).unwrap();
        let seen: Vec<(Vec<String>, Vec<String>)> = stretches
            .into_iter()
            .map(|Stretch { folders, owners }| {
                let mut tar = tar::Archive::new(&folders[..]);
                let paths = tar
                    .entries()
                    .unwrap()
                    .map(|entry| entry.unwrap().path().unwrap().to_str().unwrap().to_owned());
                (paths.collect(), owners)
            })
            .collect();
        let expected: [(&[&str], &[&str]); 4] = [
            (&["lib/", "lib/large/"], &["large"]),
            (&["bin/", "lib/half/", "lib/ns/"], &["half", "other half"]),
            (&["lib/small/"], &["small", "empty"]),
            (&["lib/app/"], &["app"]),
        ];
        let expected = expected.map(|(folders, owners)| {
            let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
            (owned(folders), owned(owners))
        });
        assert_eq!(seen, expected);
    }
}
