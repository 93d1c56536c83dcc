//! What is written under another name beside its place and renamed when it is complete; and what a
//! process that was killed left of that.
//!
//! Whatever is made here is locked (`flock`) by the process that makes it for as long as it has no
//! other name. So what can be locked belongs to nobody who lives, and is removed by whoever writes
//! there next: no clock and no process id is asked. Where the file system has no locks, nothing is
//! swept.

use std::fs::{File, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use fs_err as fs;
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, OFlag, fallocate};
use tempfile::{Builder, NamedTempFile, TempDir};

/// In every name that is made here, before six letters or digits.
const MARK: &str = ".assemble-";
/// How many of these `tempfile` writes.
const RANDOM: usize = 6;
/// As often may a sweeper be faster than we are; each time it is, it has done its work.
const ATTEMPTS: usize = 16;

/// A folder that is removed when it is dropped, and swept by nobody before.
#[derive(Debug)]
pub struct Folder {
    // Removed before the lock ends.
    directory: TempDir,
    _lock: File,
}

impl Folder {
    /// Where it lies.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Leaves it where it was renamed to.
    pub fn keep(self) {
        let _renamed = self.directory.keep();
    }
}

/// The folder that `path` lies in.
pub fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// A new file beside `path`, which it is to be renamed to, with the mode that `umask` leaves of
/// `mode`.
///
/// # Errors
/// The disk said no.
pub fn file(path: &Path, mode: u32) -> io::Result<NamedTempFile> {
    for _ in 0..ATTEMPTS {
        let prefix = prefix(path);
        let mut builder = Builder::new();
        builder.prefix(&prefix).permissions(Permissions::from_mode(mode));
        let file = builder.tempfile_in(parent(path))?;
        let _no_locks_there = file.as_file().lock();
        if is_at(file.as_file(), file.path())? {
            return Ok(file);
        }
    }
    Err(io::Error::other("what is written there is removed by somebody else again and again"))
}

/// Takes room for so many bytes of a file that is written next; its length stays as it is.
///
/// A full disk is found before anything is copied, and a file that replaces another need not be brought to
/// the disk before its rename returns, as ext4 does with one whose room is not chosen yet: that takes
/// three times as long as writing it. What a power failure leaves of it has zeros at worst, which no
/// digest fits.
///
/// # Errors
/// The disk said no. File systems that cannot do it do nothing.
pub fn reserve(file: &File, size: u64) -> io::Result<()> {
    let size = i64::try_from(size).map_err(io::Error::other)?;
    match fallocate(file, FallocateFlags::FALLOC_FL_KEEP_SIZE, 0, size) {
        Ok(()) | Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// As [`file()`], a folder.
///
/// # Errors
/// The disk said no.
pub fn folder(path: &Path, mode: u32) -> io::Result<Folder> {
    for _ in 0..ATTEMPTS {
        let prefix = prefix(path);
        let mut builder = Builder::new();
        builder.prefix(&prefix).permissions(Permissions::from_mode(mode));
        let directory = builder.tempdir_in(parent(path))?;
        let lock = match fs::File::open(directory.path()) {
            Ok(file) => File::from(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        let _no_locks_there = lock.lock();
        if is_at(&lock, directory.path())? {
            return Ok(Folder { directory, _lock: lock });
        }
    }
    Err(io::Error::other("what is made there is removed by somebody else again and again"))
}

/// Removes what is named as [`file()`] and [`folder`] name things in `folder` and has no owner who
/// lives. What cannot be removed stays: it is in nobody's way.
pub fn sweep(folder: &Path) {
    sweep_all(folder, is_ours);
}

/// As [`sweep`], for a folder in which all is ours: what has such a name by `is_ours`.
pub fn sweep_all(folder: &Path, is_ours: impl Fn(&str) -> bool) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        if entry.file_name().to_str().is_some_and(&is_ours) {
            let _stays = remove_if_ownerless(&entry.path());
        }
    }
}

fn remove_if_ownerless(path: &Path) -> io::Result<()> {
    let metadata = fs::symlink_metadata(path)?;
    if !metadata.is_dir() && !metadata.is_file() {
        return Ok(());
    }
    let file = std::fs::OpenOptions::new()
        .read(true)
        .custom_flags((OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits())
        .open(path)?;
    file.try_lock()?;
    // Its owner may have renamed it, and ended, since it was listed: then the name is free.
    if !is_at(&file, path)? {
        return Ok(());
    }
    if metadata.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }
}

/// Whether what is open is still what lies at `path`.
fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let open = file.metadata()?;
    match fs::symlink_metadata(path) {
        Ok(there) => Ok((there.dev(), there.ino()) == (open.dev(), open.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn prefix(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    format!(".{name}{MARK}")
}

fn is_ours(name: &str) -> bool {
    name.starts_with('.')
        && name.rsplit_once(MARK).is_some_and(|(_, random)| {
            random.len() == RANDOM && random.bytes().all(|byte| byte.is_ascii_alphanumeric())
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn what_nobody_owns_is_swept_and_nothing_else() {
        let place = TempDir::new().unwrap();
        let path = place.path().join("image.tar");
        for (name, is_folder) in [
            (".image.tar.assemble-a1B2c3", false),
            (".layout.assemble-zzzzzz", true),
            (".assemble-000000", false),
        ] {
            if is_folder {
                fs::create_dir_all(place.path().join(name).join("blobs")).unwrap();
            } else {
                fs::write(place.path().join(name), "left").unwrap();
            }
        }
        let others = [
            ".image.tar.assemble-backup1",
            ".image.tar.assemble-old.x.",
            ".image.tar.backup",
            "image.tar.assemble-a1B2c3",
        ];
        for other in others {
            fs::write(place.path().join(other), "theirs").unwrap();
        }
        let link = ".link.assemble-abcdef";
        std::os::unix::fs::symlink("image.tar", place.path().join(link)).unwrap();
        let living = file(&path, 0o666).unwrap();
        let living_folder = folder(&path, 0o777).unwrap();
        sweep(place.path());
        let mut expected: Vec<String> = others.map(str::to_owned).into();
        expected.push(link.to_owned());
        for path in [living.path(), living_folder.path()] {
            expected.push(path.file_name().unwrap().to_str().unwrap().to_owned());
        }
        expected.sort();
        assert_eq!(names(place.path()), expected);

        living.persist(&path).unwrap();
        drop(living_folder);
        sweep(place.path());
        assert_eq!(names(place.path()).len(), others.len() + 2, "{:?}", names(place.path()));
        assert!(path.is_file());
    }

    #[test]
    fn writers_and_sweepers_at_once() {
        let place = TempDir::new().unwrap();
        std::thread::scope(|scope| {
            for number in 0..4 {
                let place = place.path();
                scope.spawn(move || {
                    for round in 0..50 {
                        let path = place.join(format!("{number}-{round}"));
                        let made = file(&path, 0o666).unwrap();
                        let made_folder = folder(&path, 0o777).unwrap();
                        fs::write(made_folder.path().join("inner"), "x").unwrap();
                        sweep(place);
                        fs::write(made_folder.path().join("inner"), "y").unwrap();
                        made.persist(&path).unwrap();
                    }
                });
            }
        });
        assert_eq!(names(place.path()).len(), 200);
    }
}
