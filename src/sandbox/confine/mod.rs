//! A folder that foreign archives are unpacked into, and that they cannot leave.
//!
//! Every step below the folder is taken with a directory handle (`cap-std`), so no name, link or
//! race reaches outside. On top of that:
//!
//! * names with `..` or NUL are refused; leading slashes mean the folder itself;
//! * a link on the way to an entry is followed as inside a container, with the folder as `/`; one
//!   that climbs above it, or that leads nowhere, is refused;
//! * the last component is never followed: what lies there is replaced;
//! * set-user-ID and sticky bits and owners are dropped, devices and pipes never made;
//! * folders stay writable and files readable for us, so that the tree can be used and removed.

use std::collections::{BTreeSet, VecDeque};
use std::ffi::{OsStr, OsString};
use std::io::{self, Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use cap_std::ambient_authority;
use cap_std::fs::{Dir, OpenOptions, Permissions};
use fs_err as fs;

use crate::error::{Failure, Kind};

/// As many links may lie on one way (Linux: `MAXSYMLINKS`).
const MOST_LINKS: usize = 40;

/// So many folders may lie in one another. Each is held open on the way, here and when the tree is
/// removed, and a process may have some thousand files open.
const DEEPEST: usize = 255;

/// How much may be unpacked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Entries of any kind.
    pub entries: u64,
    /// Bytes of all files.
    pub bytes: u64,
}

/// Why an archive's entry was not unpacked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `..`, NUL or no name at all.
    #[error("the archive has an entry that leaves its folder or has no name: `{path}`")]
    Path {
        /// As the archive names it.
        path: String,
    },
    /// The way to the entry, or the target of a hard link, leaves the folder or does not exist.
    #[error("the archive has an entry whose link leaves its folder or leads nowhere: `{path}`")]
    Link {
        /// As the archive names it.
        path: String,
    },
    /// A kind of entry that has no place here.
    #[error("the archive has an entry of a kind that is not allowed ({entry_kind}): `{path}`")]
    EntryKind {
        /// As the archive names it.
        path: String,
        /// As tar numbers it, or in words.
        entry_kind: String,
    },
    /// More than an archive of its kind can need.
    #[error("the archive is too large: more than {limit} {what}")]
    TooLarge {
        /// `entries`, `bytes` or `folders in one another`.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
    /// The archive's bytes are damaged.
    #[error("the archive is damaged at `{path}`")]
    Damaged {
        /// The entry that was being read.
        path: String,
        /// What the reader said.
        #[source]
        source: io::Error,
    },
    /// The disk said no.
    #[error("the archive's entry cannot be written: `{path}`")]
    Disk {
        /// As the archive names it.
        path: String,
        /// What the disk said.
        #[source]
        source: io::Error,
    },
}

impl Failure for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::Disk { .. } => Kind::Unexpected,
            _ => Kind::Integrity,
        }
    }
}

/// An entry's name, cut into components: no `..`, no `.`, no NUL. No component is the folder itself.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct EntryPath(Vec<OsString>);

impl EntryPath {
    /// Cuts a name as archives write it.
    ///
    /// # Errors
    /// It has `..` or NUL.
    pub fn parse(name: &[u8]) -> Result<Self, Error> {
        let refused = || Error::Path { path: String::from_utf8_lossy(name).into_owned() };
        name.split(|&b| b == b'/')
            .filter(|component| !matches!(*component, b"" | b"."))
            .map(|component| {
                if component == b".." || component.contains(&0) {
                    return Err(refused());
                }
                Ok(OsStr::from_bytes(component).to_owned())
            })
            .collect::<Result<Vec<_>, _>>()
            .map(Self)
    }

    /// The last component and the way to it; `None` for the folder itself.
    pub fn split(&self) -> Option<(Self, &OsStr)> {
        let (name, parent) = self.0.split_last()?;
        Some((Self(parent.to_vec()), name))
    }

    /// This path and one component below it.
    #[must_use]
    pub fn child(&self, name: &OsStr) -> Self {
        let mut components = self.0.clone();
        components.push(name.to_owned());
        Self(components)
    }

    /// Without its first component, as sdists have one folder at their top; `None` if it has only one.
    #[must_use]
    pub fn below_top(&self) -> Option<Self> {
        (self.0.len() > 1).then(|| Self(self.0[1..].to_vec()))
    }

    /// Its components, top first.
    pub fn components(&self) -> &[OsString] {
        &self.0
    }

    /// Whether it is `other` or lies below it.
    pub fn starts_with(&self, other: &Self) -> bool {
        self.0.starts_with(&other.0)
    }
}

impl std::fmt::Display for EntryPath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let joined = self.0.join(OsStr::new("/"));
        f.write_str(&joined.to_string_lossy())
    }
}

/// The folder, opened.
#[derive(Debug)]
pub struct ConfinedFolder {
    root: Dir,
    limits: Limits,
    entries: u64,
    bytes: u64,
}

impl ConfinedFolder {
    /// Opens the folder at `path`, which exists.
    ///
    /// # Errors
    /// The disk said no.
    pub fn open(path: &Path, limits: Limits) -> io::Result<Self> {
        Ok(Self {
            root: Dir::open_ambient_dir(path, ambient_authority())?,
            limits,
            entries: 0,
            bytes: 0,
        })
    }

    /// Makes a folder, or keeps the one there is, with these permission bits.
    ///
    /// # Errors
    /// The entry is refused, or the disk said no.
    pub fn directory(&mut self, path: &EntryPath, mode: u32) -> Result<(), Error> {
        self.count(0)?;
        let Some((parent, name)) = path.split() else {
            return Ok(());
        };
        let parent = self.walk(&parent, true)?;
        let disk = |source| disk(path, source);
        match parent.symlink_metadata(name) {
            Ok(metadata) if metadata.is_dir() => {}
            Ok(_) => {
                parent.remove_file(name).map_err(disk)?;
                parent.create_dir(name).map_err(disk)?;
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                parent.create_dir(name).map_err(disk)?;
            }
            Err(e) => return Err(disk(e)),
        }
        parent.set_permissions(name, permissions(mode | 0o700)).map_err(disk)
    }

    /// Writes a file, replacing what is there. `modified` is in seconds since 1970.
    ///
    /// # Errors
    /// The entry is refused, the archive is damaged, or the disk said no.
    pub fn file(
        &mut self,
        path: &EntryPath,
        mode: u32,
        modified: Option<u64>,
        content: &mut dyn Read,
    ) -> Result<(), Error> {
        self.count(0)?;
        let (parent, name) = self.make_way(path)?;
        let disk = |source| disk(path, source);
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        let mut file = parent.open_with(&name, &options).map_err(disk)?.into_std();
        let mut buffer = vec![0; 1 << 16];
        loop {
            let read = match content.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => read,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(source) => {
                    return Err(Error::Damaged { path: path.to_string(), source });
                }
            };
            self.count(read as u64)?;
            file.write_all(&buffer[..read]).map_err(disk)?;
        }
        file.set_permissions(std::fs::Permissions::from_mode(mode & 0o777 | 0o400))
            .map_err(disk)?;
        if let Some(modified) =
            modified.and_then(|s| UNIX_EPOCH.checked_add(Duration::from_secs(s)))
        {
            file.set_modified(modified).map_err(disk)?;
        }
        Ok(())
    }

    /// Makes a symbolic link whose target is kept as it is written, wherever it leads: nothing here
    /// follows it outside.
    ///
    /// # Errors
    /// The entry is refused, or the disk said no.
    pub fn symlink(&mut self, path: &EntryPath, target: &[u8]) -> Result<(), Error> {
        self.count(0)?;
        if target.is_empty() || target.contains(&0) {
            return Err(link(path));
        }
        let (parent, name) = self.make_way(path)?;
        parent
            .symlink_contents(OsStr::from_bytes(target), &name)
            .map_err(|source| disk(path, source))
    }

    /// Makes a hard link to a file that was unpacked before.
    ///
    /// # Errors
    /// There is no such file in the folder, the entry is refused, or the disk said no.
    pub fn hard_link(&mut self, path: &EntryPath, target: &EntryPath) -> Result<(), Error> {
        self.count(0)?;
        if path == target {
            return Ok(());
        }
        let (target_parent, target_name) = target.split().ok_or_else(|| link(path))?;
        let target_parent =
            self.walk(&target_parent, false).map_err(|_leads_nowhere| link(path))?;
        let metadata =
            target_parent.symlink_metadata(target_name).map_err(|_leads_nowhere| link(path))?;
        if metadata.is_symlink() {
            let text = target_parent
                .read_link_contents(target_name)
                .map_err(|source| disk(path, source))?;
            return self.symlink(path, text.as_os_str().as_bytes());
        }
        if !metadata.is_file() {
            return Err(link(path));
        }
        let (parent, name) = self.make_way(path)?;
        target_parent.hard_link(target_name, &parent, &name).map_err(|source| disk(path, source))
    }

    /// Removes what lies at `path` and below it, apart from what is in `keep`. Absence is fine.
    ///
    /// # Errors
    /// The way is refused, or the disk said no.
    pub fn remove(&mut self, path: &EntryPath, keep: &BTreeSet<EntryPath>) -> Result<(), Error> {
        let Some((parent, name)) = path.split() else {
            return Ok(());
        };
        match self.walk(&parent, false) {
            Ok(parent) => remove(&parent, name, path, keep),
            Err(Error::Disk { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(e),
        }
    }

    /// Removes everything below the folder at `path`, apart from what is in `keep`. Absence is fine.
    ///
    /// # Errors
    /// The way is refused, or the disk said no.
    pub fn clear(&mut self, path: &EntryPath, keep: &BTreeSet<EntryPath>) -> Result<(), Error> {
        match self.walk(path, false) {
            Ok(folder) => clear(&folder, path, keep),
            Err(Error::Disk { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(e),
        }
    }

    /// Counts one entry (`bytes` is 0) or bytes of a file.
    fn count(&mut self, bytes: u64) -> Result<(), Error> {
        if bytes == 0 {
            self.entries += 1;
        }
        self.bytes = self.bytes.saturating_add(bytes);
        if self.entries > self.limits.entries {
            return Err(Error::TooLarge { what: "entries", limit: self.limits.entries });
        }
        if self.bytes > self.limits.bytes {
            return Err(Error::TooLarge { what: "bytes", limit: self.limits.bytes });
        }
        Ok(())
    }

    /// The folder that an entry goes to, with nothing left at the entry's name.
    fn make_way(&self, path: &EntryPath) -> Result<(Dir, OsString), Error> {
        let Some((parent, name)) = path.split() else {
            return Err(Error::Path { path: path.to_string() });
        };
        let parent = self.walk(&parent, true)?;
        remove(&parent, name, path, &BTreeSet::new())?;
        Ok((parent, name.to_owned()))
    }

    /// Opens the folder at `path`. Missing folders that the archive names itself are made if
    /// `create`; those that only a link names are not.
    fn walk(&self, path: &EntryPath, create: bool) -> Result<Dir, Error> {
        let disk = |source| disk(path, source);
        let mut way: VecDeque<(OsString, bool)> =
            path.0.iter().map(|name| (name.clone(), create)).collect();
        let mut stack: Vec<Dir> = Vec::new();
        let mut links = 0;
        while let Some((name, create)) = way.pop_front() {
            if name == ".." {
                stack.pop().ok_or_else(|| link(path))?;
                continue;
            }
            let here = stack.last().unwrap_or(&self.root);
            let metadata = match here.symlink_metadata(&name) {
                Ok(metadata) => metadata,
                Err(e) if e.kind() == io::ErrorKind::NotFound && create => {
                    here.create_dir(&name).map_err(disk)?;
                    here.set_permissions(&name, permissions(0o755)).map_err(disk)?;
                    here.symlink_metadata(&name).map_err(disk)?
                }
                Err(e) if e.kind() == io::ErrorKind::NotFound && links > 0 => {
                    return Err(link(path));
                }
                Err(e) => return Err(disk(e)),
            };
            if metadata.is_symlink() {
                links += 1;
                if links > MOST_LINKS {
                    return Err(link(path));
                }
                let target = here.read_link_contents(&name).map_err(disk)?;
                if target.is_absolute() {
                    stack.clear();
                }
                for component in target.components().rev() {
                    match component {
                        Component::Normal(name) => way.push_front((name.to_owned(), false)),
                        Component::ParentDir => way.push_front(("..".into(), false)),
                        Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
                    }
                }
            } else if metadata.is_dir() {
                let next = here.open_dir(&name).map_err(disk)?;
                stack.push(next);
                if stack.len() > DEEPEST {
                    let what = "folders in one another";
                    return Err(Error::TooLarge { what, limit: DEEPEST as u64 });
                }
            } else {
                return Err(link(path));
            }
        }
        match stack.pop() {
            Some(folder) => Ok(folder),
            None => self.root.try_clone().map_err(disk),
        }
    }
}

fn remove(
    parent: &Dir,
    name: &OsStr,
    path: &EntryPath,
    keep: &BTreeSet<EntryPath>,
) -> Result<(), Error> {
    let disk = |source| disk(path, source);
    let metadata = match parent.symlink_metadata(name) {
        Ok(metadata) => metadata,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(disk(e)),
    };
    // A path's descendants follow it in the set's order.
    let kept = keep.range(path..).next().is_some_and(|next| next.starts_with(path));
    if metadata.is_dir() {
        if kept {
            let folder = parent.open_dir(name).map_err(disk)?;
            return clear(&folder, path, keep);
        }
        parent.remove_dir_all(name).map_err(disk)
    } else if kept {
        Ok(())
    } else {
        parent.remove_file(name).map_err(disk)
    }
}

fn clear(folder: &Dir, path: &EntryPath, keep: &BTreeSet<EntryPath>) -> Result<(), Error> {
    let names = folder
        .entries()
        .and_then(|entries| {
            entries.map(|entry| Ok(entry?.file_name())).collect::<io::Result<Vec<_>>>()
        })
        .map_err(|source| disk(path, source))?;
    for name in names {
        remove(folder, &name, &path.child(&name), keep)?;
    }
    Ok(())
}

fn permissions(mode: u32) -> Permissions {
    Permissions::from_std(std::fs::Permissions::from_mode(mode & 0o777))
}

fn disk(path: &EntryPath, source: io::Error) -> Error {
    Error::Disk { path: path.to_string(), source }
}

fn link(path: &EntryPath) -> Error {
    Error::Link { path: path.to_string() }
}

/// Where `path` of the container lies on the host, with no link left on the way or at its end: links
/// are followed with `root` as `/`, so the result is always below `root`.
///
/// # Errors
/// There is no such file, or too many links.
pub fn resolve(root: &Path, path: &Path) -> io::Result<PathBuf> {
    let mut way: VecDeque<OsString> = normal(path);
    let mut found: Vec<OsString> = Vec::new();
    let mut links = 0;
    while let Some(name) = way.pop_front() {
        if name == ".." {
            found.pop();
            continue;
        }
        let mut here = root.to_path_buf();
        here.extend(&found);
        here.push(&name);
        if fs::symlink_metadata(&here)?.is_symlink() {
            links += 1;
            if links > MOST_LINKS {
                return Err(io::Error::other(format!("too many links: {}", path.display())));
            }
            let target = fs::read_link(&here)?;
            if target.is_absolute() {
                found.clear();
            }
            for name in normal(&target).into_iter().rev() {
                way.push_front(name);
            }
        } else {
            found.push(name);
        }
    }
    let mut resolved = root.to_path_buf();
    resolved.extend(found);
    Ok(resolved)
}

fn normal(path: &Path) -> VecDeque<OsString> {
    path.components()
        .filter_map(|component| match component {
            Component::Normal(name) => Some(OsString::from_vec(name.as_bytes().to_vec())),
            Component::ParentDir => Some("..".into()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
        })
        .collect()
}

#[cfg(test)]
mod tests;
