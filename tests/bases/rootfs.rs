//! A tree of files, and its tar.

use std::collections::BTreeMap;
use std::path::Path;

use bytes::Bytes;

use super::{Because as _, Result};

/// The time of every file: 2026-01-01.
const TIME: u64 = 1_767_225_600;

#[derive(Clone, Debug)]
enum Node {
    Directory(u32),
    File(u32, Bytes),
    Link(String),
}

/// Files, links and directories by their path, which has no leading slash. All belong to root.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rootfs(BTreeMap<String, Node>);

impl Rootfs {
    fn put(&mut self, path: &str, node: Node) {
        for (position, _) in path.match_indices('/') {
            let parent = path[..position].to_owned();
            self.0.entry(parent).or_insert(Node::Directory(0o755));
        }
        self.0.insert(path.to_owned(), node);
    }

    /// A directory of that mode.
    pub(crate) fn directory(&mut self, path: &str, mode: u32) {
        self.put(path, Node::Directory(mode));
    }

    /// A file of mode 0644.
    pub(crate) fn file(&mut self, path: &str, bytes: impl Into<Bytes>) {
        self.put(path, Node::File(0o644, bytes.into()));
    }

    /// A file of mode 0755.
    pub(crate) fn program(&mut self, path: &str, bytes: impl Into<Bytes>) {
        self.put(path, Node::File(0o755, bytes.into()));
    }

    /// A symbolic link.
    pub(crate) fn link(&mut self, path: &str, target: &str) {
        self.put(path, Node::Link(target.to_owned()));
    }

    /// Another name for what is at `old`, as tar's hard links are.
    pub(crate) fn copy(&mut self, path: &str, old: &str) {
        if let Some(node) = self.0.get(old).cloned() {
            self.put(path, node);
        }
    }

    /// Whether there is something at `path`.
    pub(crate) fn contains(&self, path: &str) -> bool {
        self.0.contains_key(path)
    }

    /// The bytes of the file at `path`.
    pub(crate) fn read(&self, path: &str) -> Option<&Bytes> {
        match self.0.get(path) {
            Some(Node::File(_, bytes)) => Some(bytes),
            _ => None,
        }
    }

    /// What `other` has at `old`, a file or a directory with all in it, at `new`.
    pub(crate) fn adopt(&mut self, other: &Self, old: &str, new: &str) {
        for (path, node) in &other.0 {
            if let Some(rest) = path.strip_prefix(old)
                && (rest.is_empty() || rest.starts_with('/'))
            {
                self.put(&format!("{new}{rest}"), node.clone());
            }
        }
    }

    /// Writes the tree to a folder.
    pub(crate) fn unpack(&self, folder: &Path) -> Result<()> {
        let mut archive = tar::Archive::new(std::io::Cursor::new(self.to_tar()?));
        archive.set_preserve_permissions(true);
        archive.unpack(folder).because(|| "unpack a layer".into())
    }

    /// The tree as a tar: sorted, so that every directory stands before what is in it.
    pub(crate) fn to_tar(&self) -> Result<Vec<u8>> {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, node) in &self.0 {
            let mut header = tar::Header::new_gnu();
            header.set_mtime(TIME);
            header.set_uid(0);
            header.set_gid(0);
            header.set_size(0);
            match node {
                Node::Directory(mode) => {
                    header.set_entry_type(tar::EntryType::Directory);
                    header.set_mode(*mode);
                    builder.append_data(&mut header, format!("{path}/"), &[][..])
                }
                Node::File(mode, bytes) => {
                    header.set_entry_type(tar::EntryType::Regular);
                    header.set_mode(*mode);
                    header.set_size(bytes.len() as u64);
                    builder.append_data(&mut header, path, &bytes[..])
                }
                Node::Link(target) => {
                    header.set_entry_type(tar::EntryType::Symlink);
                    header.set_mode(0o777);
                    builder.append_link(&mut header, path, target)
                }
            }
            .because(|| format!("put {path} into a layer"))?;
        }
        builder.into_inner().because(|| "end a layer".into())
    }
}
