//! What a tree of files is: names, kinds, permission bits, contents, targets of links. Not owners and
//! not times, which nothing that uses a tree may depend on.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use fs_err as fs;

use crate::oci::Digest;
use crate::oci::digest::DigestWriter;

/// The digest of all that is below `root`.
pub(super) fn digest(root: &Path) -> io::Result<Digest> {
    let mut listing = DigestWriter::new(io::sink());
    walk(root, &mut listing)?;
    Ok(listing.finish().1)
}

fn walk(folder: &Path, listing: &mut impl io::Write) -> io::Result<()> {
    let mut names: Vec<OsString> =
        fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name())).collect::<io::Result<_>>()?;
    names.sort();
    // Every part is framed by its length or has one length, so that no two trees have one listing.
    listing.write_all(&(names.len() as u64).to_le_bytes())?;
    for name in names {
        let path = folder.join(&name);
        let metadata = fs::symlink_metadata(&path)?;
        let mode = metadata.permissions().mode();
        listing.write_all(&(name.len() as u64).to_le_bytes())?;
        listing.write_all(name.as_bytes())?;
        listing.write_all(&mode.to_le_bytes())?;
        if metadata.is_dir() {
            walk(&path, listing)?;
        } else if metadata.is_symlink() {
            listing
                .write_all(Digest::of(fs::read_link(&path)?.as_os_str().as_bytes()).as_bytes())?;
        } else if metadata.is_file() {
            let mut content = DigestWriter::new(io::sink());
            io::copy(&mut fs::File::open(&path)?, &mut content)?;
            listing.write_all(content.finish().1.as_bytes())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fs_mode(mode: u32) -> std::fs::Permissions {
        std::fs::Permissions::from_mode(mode)
    }

    /// What is done to a tree.
    type Change = fn(&Path) -> io::Result<()>;

    #[test]
    fn every_change_is_seen_but_owners_and_times() {
        let place = tempfile::TempDir::new().unwrap();
        let root = place.path().join("tree");
        fs::create_dir_all(root.join("lib/empty")).unwrap();
        fs::write(root.join("lib/os.py"), "x = 1\n").unwrap();
        fs::write(root.join("lib/re.py"), "").unwrap();
        std::os::unix::fs::symlink("lib", root.join("lib64")).unwrap();
        let mut seen = std::collections::BTreeSet::from([digest(&root).unwrap().hex()]);
        let changes: [Change; 8] = [
            |root| fs::write(root.join("lib/os.py"), "x = 2\n"),
            |root| fs::write(root.join("lib/re.py"), "\n"),
            |root| fs::write(root.join("lib/new.py"), ""),
            |root| fs::remove_file(root.join("lib/re.py")),
            |root| fs::rename(root.join("lib/empty"), root.join("empty")),
            |root| fs::remove_dir(root.join("empty")),
            |root| fs::set_permissions(root.join("lib/os.py"), fs_mode(0o755)),
            |root| {
                fs::remove_file(root.join("lib64"))?;
                std::os::unix::fs::symlink("lib/", root.join("lib64"))
            },
        ];
        for (number, change) in changes.into_iter().enumerate() {
            change(&root).unwrap();
            assert!(seen.insert(digest(&root).unwrap().hex()), "change {number}");
        }
        let file = fs::OpenOptions::new().append(true).open(root.join("lib/os.py")).unwrap();
        file.file().set_modified(std::time::UNIX_EPOCH).unwrap();
        assert!(seen.contains(&digest(&root).unwrap().hex()));
    }
}
