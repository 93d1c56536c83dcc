//! An OCI image layout in a directory (image-spec, *Image Layout*).
//!
//! ```text
//! <path>/oci-layout               {"imageLayoutVersion":"1.0.0"}
//! <path>/index.json               an entry for each name
//! <path>/blobs/sha256/<hex>       documents and layers
//! ```
//!
//! A new layout is written beside its place and renamed. To one that exists blobs are added first,
//! each by a rename, and `index.json` is replaced last: at every moment it names complete images.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use fs_err as fs;
use serde_json::Value;

use super::{Blob, Error, Written, blobs, descriptors, entries, for_each_blob};
use super::{OCI_LAYOUT, index_json, named_digest, parse_index_json};
use crate::beside;
use crate::image::Artifact;
use crate::image::validate::{self, Blobs, Valid};
use crate::oci::{Digest, Reference, media_type};
use crate::store::Store;

/// Writes `artifact` to the layout at `path` under `names`, each of which needs a tag; at most
/// `parallel` blobs are copied at once. An entry of a
/// layout that exists is replaced if it has the same tag, or is the same without a name.
///
/// # Errors
/// A blob is missing or damaged in `store`, something else lies at `path`, or the disk said no. A
/// layout that existed is as good as before then.
pub fn write(
    artifact: &Artifact,
    names: &[Reference],
    store: &Store,
    path: &Path,
    parallel: usize,
) -> Result<Written, Error> {
    let new_entries = entries(artifact.descriptor(), names)?;
    let blobs = blobs(&artifact.images, artifact.index.as_ref())?;
    let digest = named_digest(artifact)?;
    let written = |bytes| Written { path: path.to_owned(), digest, bytes };

    if is_free(path)? {
        let parent = beside::parent(path);
        fs::create_dir_all(parent).map_err(|e| Error::write(path, e))?;
        beside::sweep(parent);
        let folder = beside::folder(path, 0o777).map_err(|e| Error::write(path, e))?;
        let layout = Layout { path: folder.path().to_owned() };
        layout.put(Path::new("oci-layout"), OCI_LAYOUT)?;
        let mut bytes = OCI_LAYOUT.len() as u64;
        bytes +=
            for_each_blob(&blobs, parallel, None, |digest, blob| layout.add(digest, blob, store))?;
        let index = index_json(&new_entries)?;
        layout.put(Path::new("index.json"), &index)?;
        match fs::rename(folder.path(), path) {
            Ok(()) => {
                folder.keep();
                return Ok(written(bytes + index.len() as u64));
            }
            // Somebody was faster; what they made is added to, if it is a layout.
            Err(_) if !is_free(path)? => {}
            Err(e) => return Err(Error::write(path, e)),
        }
    }

    let layout = Layout::open(path)?;
    // Two writers would lose each other's entries. The lock ends when the file is closed.
    let marker = fs::File::open(path.join("oci-layout")).map_err(|e| Error::read(path, e))?;
    marker.file().lock().map_err(|e| Error::write(path, e))?;
    for folder in [path, &path.join("blobs/sha256")] {
        beside::sweep(folder);
    }
    let bytes =
        for_each_blob(&blobs, parallel, None, |digest, blob| layout.add(digest, blob, store))?;
    let mut entries = layout.entries()?;
    entries.retain(|old| new_entries.iter().all(|new| !is_replaced_by(old, new)));
    entries.extend(new_entries);
    // The order of the writers must not matter.
    entries.sort_by_cached_key(|entry| (ref_name(entry), entry.to_string()));
    let index = index_json(&entries)?;
    layout.put(Path::new("index.json"), &index)?;
    Ok(written(bytes + index.len() as u64))
}

/// Reads the layout at `path` and recomputes everything in it.
///
/// # Errors
/// It is no layout, cannot be read, or holds anything that is wrong.
pub fn validate(path: &Path) -> Result<Valid, Error> {
    let layout = Layout::open(path)?;
    let roots = descriptors(layout.entries()?, path)?;
    Ok(validate::validate(&path.display().to_string(), &roots, &layout)?)
}

/// Whether a new layout can be renamed to `path`.
fn is_free(path: &Path) -> Result<bool, Error> {
    match fs::read_dir(path) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::NotADirectory => {
            Err(Error::NotALayout(path.to_owned()))
        }
        Err(e) => Err(Error::read(path, e)),
    }
}

fn ref_name(entry: &Value) -> Option<String> {
    entry["annotations"][media_type::REF_NAME].as_str().map(str::to_owned)
}

fn is_replaced_by(old: &Value, new: &Value) -> bool {
    match (ref_name(old), ref_name(new)) {
        (None, None) => old["digest"] == new["digest"],
        (old, new) => old == new,
    }
}

/// A layout that exists.
#[derive(Clone, Debug)]
pub struct Layout {
    path: PathBuf,
}

impl Layout {
    /// Opens the layout at `path`.
    ///
    /// # Errors
    /// There is none, or of a version that did not exist when this was written.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let marker = match fs::read(path.join("oci-layout")) {
            Ok(marker) => marker,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Err(Error::NotALayout(path.to_owned()));
            }
            Err(e) => return Err(Error::read(path, e)),
        };
        check_marker(&marker, path)?;
        Ok(Self { path: path.to_owned() })
    }

    fn entries(&self) -> Result<Vec<Value>, Error> {
        let bytes =
            fs::read(self.path.join("index.json")).map_err(|e| Error::read(&self.path, e))?;
        parse_index_json(&bytes, &self.path)
    }

    fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.path.join("blobs/sha256").join(digest.hex())
    }

    /// Adds a blob unless it is there and right; returns the bytes written.
    fn add(&self, digest: &Digest, blob: &Blob<'_>, store: &Store) -> Result<u64, Error> {
        let path = self.blob_path(digest);
        if let Ok(file) = fs::File::open(&path) {
            let length = file.metadata().map_err(|e| Error::read(&path, e))?.len();
            let begins_so = blob.lies_at(digest, store, (file.file(), &path, 0))?;
            if begins_so && length == blob.size() {
                return Ok(0);
            }
        }
        self.write_file(&path, |file| {
            blob.copy(digest, store, (&path, 0), |_, bytes| file.write_all(&bytes).map(|()| bytes))
        })?;
        Ok(blob.size())
    }

    fn put(&self, name: &Path, bytes: &[u8]) -> Result<(), Error> {
        let path = self.path.join(name);
        self.write_file(&path, |file| file.write_all(bytes).map_err(|e| Error::write(&path, e)))
    }

    /// Writes beside `path` and renames.
    fn write_file(
        &self,
        path: &Path,
        write: impl FnOnce(&mut io::BufWriter<&mut std::fs::File>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let failed = |e| Error::write(path, e);
        let folder = path.parent().unwrap_or(&self.path);
        fs::create_dir_all(folder).map_err(failed)?;
        let mut file = beside::file(path, 0o666).map_err(failed)?;
        let mut writer = io::BufWriter::new(file.as_file_mut());
        write(&mut writer)?;
        writer.flush().map_err(failed)?;
        drop(writer);
        file.persist(path).map_err(|e| failed(e.error))?;
        Ok(())
    }
}

impl Blobs for Layout {
    fn open(&self, digest: &Digest) -> io::Result<Box<dyn Read + '_>> {
        Ok(Box::new(fs::File::open(self.blob_path(digest))?))
    }
}

/// Refuses a layout of another version. Other writers may format the JSON as they like.
pub(super) fn check_marker(bytes: &[u8], path: &Path) -> Result<(), Error> {
    let marker: Value = serde_json::from_slice(bytes)
        .map_err(|e| Error::malformed(path, format!("oci-layout: {e}")))?;
    if marker["imageLayoutVersion"] == "1.0.0" {
        return Ok(());
    }
    Err(Error::malformed(path, "oci-layout is not of version 1.0.0"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::{listing, names, store_image, stored};
    use super::*;

    fn index(path: &Path) -> Vec<Value> {
        Layout::open(path).unwrap().entries().unwrap()
    }

    #[test]
    fn an_existing_layout_is_added_to() {
        let (folder, store, amd64) = stored("linux/amd64");
        let arm64 = store_image(&store, "linux/arm64");
        let path = folder.path().join("l");
        let one = Artifact::new(vec![amd64.clone()]).unwrap();
        let both = Artifact::new(vec![amd64.clone(), arm64]).unwrap();

        write(&one, &names(&["app:1", "app:2"]), &store, &path, 2).unwrap();
        let again = write(&one, &names(&["app:2", "app:1"]), &store, &path, 2).unwrap();
        let index_size = fs::metadata(path.join("index.json")).unwrap().len();
        assert_eq!(again.bytes, index_size, "no blob is written twice");
        assert_eq!(index(&path).len(), 2);

        write(&both, &names(&["app:2"]), &store, &path, 2).unwrap();
        write(&one, &[], &store, &path, 2).unwrap();
        write(&one, &[], &store, &path, 2).unwrap();
        let entries = index(&path);
        let found: Vec<_> = entries
            .iter()
            .map(|entry| (entry["digest"].clone(), entry["annotations"].clone()))
            .collect();
        let annotations = |tag: &str| {
            json!({
                "io.containerd.image.name": format!("docker.io/library/app:{tag}"),
                "org.opencontainers.image.ref.name": tag,
            })
        };
        let digest = |artifact: &Artifact| json!(artifact.descriptor().digest().to_string());
        assert_eq!(
            found,
            [
                (digest(&one), Value::Null),
                (digest(&one), annotations("1")),
                (digest(&both), annotations("2")),
            ]
        );
        assert_eq!(validate(&path).unwrap().images.len(), 4);
        // Two images of three blobs each, the layer they share, their index.
        assert_eq!(listing(&path).len(), 2 + 3 + 3 + 1 + 1);
    }

    #[test]
    fn a_damaged_blob_of_a_layout_is_found_and_replaced() {
        let (folder, store, image) = stored("linux/amd64");
        let path = folder.path().join("l");
        let artifact = Artifact::new(vec![image]).unwrap();
        write(&artifact, &[], &store, &path, 2).unwrap();
        let right = listing(&path);
        for name in right.keys().filter(|name| name.starts_with("blobs/")) {
            for damaged in [&b"x"[..], &[&right[name][..], b"x"].concat()] {
                fs::write(path.join(name), damaged).unwrap();
                assert!(validate(&path).is_err(), "{name}");
                write(&artifact, &[], &store, &path, 2).unwrap();
                assert_eq!(listing(&path), right);
            }
        }
    }

    #[test]
    fn other_things_are_left_alone() {
        let (folder, store, image) = stored("linux/amd64");
        let artifact = Artifact::new(vec![image]).unwrap();
        let path = folder.path().join("l");
        let write = || write(&artifact, &[], &store, &path, 2);

        fs::write(&path, "a file").unwrap();
        assert!(matches!(write(), Err(Error::NotALayout(_))));
        fs::remove_file(&path).unwrap();
        fs::create_dir_all(path.join("inner")).unwrap();
        assert!(matches!(write(), Err(Error::NotALayout(_))));
        fs::write(path.join("oci-layout"), r#"{"imageLayoutVersion":"2.0.0"}"#).unwrap();
        assert!(matches!(write(), Err(Error::Malformed { .. })));
        fs::remove_dir_all(&path).unwrap();
        // An empty folder may have been made for us.
        fs::create_dir_all(&path).unwrap();
        write().unwrap();
        validate(&path).unwrap();
    }

    #[test]
    fn writers_do_not_lose_each_others_entries() {
        let (folder, store, image) = stored("linux/amd64");
        let artifact = Artifact::new(vec![image]).unwrap();
        let path = folder.path().join("l");
        std::thread::scope(|scope| {
            for number in 0..8 {
                let names = names(&[&format!("app:{number}")]);
                let (artifact, store, path) = (&artifact, &store, &path);
                scope.spawn(move || write(artifact, &names, store, path, 2).unwrap());
            }
        });
        let tags: Vec<_> = index(&path).iter().filter_map(ref_name).collect();
        assert_eq!(tags, ["0", "1", "2", "3", "4", "5", "6", "7"]);
        assert_eq!(listing(&path).len(), 2 + 4);
    }
}
