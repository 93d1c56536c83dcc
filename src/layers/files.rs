//! A layer of kind `files`: given bytes, folders and links at given places (pure).

use super::Error;
use super::content::Content;
use super::path::ContainerPath;
use super::tree::{Entry, Node, Tree};

/// Permission bits a file may have: nothing in an image should be setuid.
const FILE_MODES: u32 = 0o777;
/// A folder may be sticky, as `/tmp` is.
const DIRECTORY_MODES: u32 = 0o1777;

/// What a `files` layer holds. Parents need not be listed: they are made 0755 and 0:0.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Files {
    /// Regular files.
    pub files: Vec<File>,
    /// Folders with a mode or owner of their own, or that are empty.
    pub directories: Vec<Directory>,
    /// Symbolic links.
    pub symlinks: Vec<Symlink>,
}

/// A regular file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Where it lies.
    pub to: ContainerPath,
    /// What it holds.
    pub content: Content,
    /// At most 0o777.
    pub mode: u32,
    /// Numeric owner.
    pub uid: u32,
    /// Numeric group.
    pub gid: u32,
}

/// A folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directory {
    /// Where it lies.
    pub path: ContainerPath,
    /// At most 0o1777.
    pub mode: u32,
    /// Numeric owner.
    pub uid: u32,
    /// Numeric group.
    pub gid: u32,
}

/// A symbolic link of 0:0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Symlink {
    /// Where it lies.
    pub path: ContainerPath,
    /// What it says, relative or absolute; nobody here follows it.
    pub target: String,
}

/// The tree of a `files` layer; `owner` is the layer's name, for clashes and the size report.
///
/// # Errors
/// A mode with bits that are not allowed, a link without a usable target, two things at one place.
pub fn files(owner: &str, files: &Files) -> Result<Tree, Error> {
    let mut tree = Tree::default();
    for directory in &files.directories {
        check_mode(&directory.path, directory.mode, DIRECTORY_MODES)?;
        let entry = Entry {
            node: Node::Directory,
            mode: directory.mode,
            uid: directory.uid,
            gid: directory.gid,
            owner: owner.to_owned(),
        };
        tree.insert(directory.path.clone(), entry)?;
    }
    for file in &files.files {
        check_mode(&file.to, file.mode, FILE_MODES)?;
        let entry = Entry {
            uid: file.uid,
            gid: file.gid,
            ..Entry::file(file.content.clone(), file.mode, owner)
        };
        tree.insert(file.to.clone(), entry)?;
    }
    for link in &files.symlinks {
        if link.target.is_empty() || link.target.contains(char::is_control) {
            return Err(Error::Target { path: link.path.clone(), target: link.target.clone() });
        }
        let entry = Entry {
            node: Node::Symlink(link.target.clone()),
            mode: 0o777,
            uid: 0,
            gid: 0,
            owner: owner.to_owned(),
        };
        tree.insert(link.path.clone(), entry)?;
    }
    Ok(tree)
}

fn check_mode(path: &ContainerPath, mode: u32, limit: u32) -> Result<(), Error> {
    if mode & !limit == 0 {
        return Ok(());
    }
    Err(Error::Mode { path: path.clone(), mode, limit })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Failure as _, Kind};

    fn path(text: &str) -> ContainerPath {
        ContainerPath::parse(text).unwrap()
    }

    fn script(to: &str, mode: u32) -> File {
        File { to: path(to), content: "#!/bin/sh\n".into(), mode, uid: 0, gid: 0 }
    }

    fn folder(at: &str, mode: u32) -> Directory {
        Directory { path: path(at), mode, uid: 1000, gid: 1000 }
    }

    #[test]
    fn everything_lies_where_it_was_asked_for() {
        let tree = files(
            "entrypoint",
            &Files {
                files: vec![script("/start.sh", 0o755)],
                directories: vec![folder("/home/app", 0o1777)],
                symlinks: vec![Symlink {
                    path: path("/opt/venv/bin/flask"),
                    target: "/usr/local/bin/flask".into(),
                }],
            },
        )
        .unwrap();
        let seen: Vec<_> = tree
            .iter()
            .map(|(path, entry)| format!("{path} {:o} {}", entry.mode, entry.uid))
            .collect();
        assert_eq!(seen, ["/home/app 1777 1000", "/opt/venv/bin/flask 777 0", "/start.sh 755 0"]);
    }

    #[test]
    fn what_cannot_be_written_is_a_usage_error() {
        let link = |target: &str| Files {
            symlinks: vec![Symlink { path: path("/a"), target: target.into() }],
            ..Files::default()
        };
        let file = |file| Files { files: vec![file], ..Files::default() };
        let directory = Files { directories: vec![folder("/a", 0o2755)], ..Files::default() };
        for (wrong, message) in [
            (file(script("/a", 0o4755)), "mode 0o4755 of `/a` is refused: at most 0o777 here"),
            (directory, "mode 0o2755 of `/a` is refused: at most 0o1777 here"),
            (link(""), "the link `/a` has no usable target: ``"),
            (link("a\0b"), "the link `/a` has no usable target: `a\0b`"),
        ] {
            let error = files("x", &wrong).unwrap_err();
            assert_eq!(error.to_string(), message);
            assert_eq!(error.kind(), Kind::Usage);
        }
    }
}
