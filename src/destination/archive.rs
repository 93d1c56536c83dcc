//! One tar that is an OCI image layout and what `docker load` reads at once.
//!
//! ```text
//! blobs/sha256/<hex>    documents and layers, shared by both
//! index.json            OCI: read by containerd, podman, skopeo oci-archive:, …
//! manifest.json         Docker: read by dockerd's own image store, skopeo docker-archive:, …
//! oci-layout
//! ```
//!
//! The tar is canonical: entries sorted, folders before what they hold, owner 0:0, mtime 0, ustar.
//! It holds one image: `docker load` knows no platforms.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use fs_err as fs;
use nix::sys::stat::futimens;
use nix::sys::time::TimeSpec;
use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;

use super::frame::Frame;
use super::{Blob, Error, OCI_LAYOUT, Writers, Written, blobs, descriptors, entries};
use super::{for_each_blob, index_json, layout, parse_index_json};
use crate::beside;
use crate::image::validate::{self, Blobs, Problem, Valid};
use crate::image::{Artifact, Image, MANIFEST_MAX};
use crate::oci::json::to_canonical_vec;
use crate::oci::{Digest, Reference, descriptor_digest};
use crate::store::Store;
use crate::world::host_platform;

const BLOBS: &str = "blobs/sha256/";

/// An entry of `manifest.json` (Docker Image Specification v1.2, *Combined Image JSON + Filesystem
/// Changeset Format*).
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerEntry {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// Of several images the one for this machine; `None` if there is one image only, or none for it.
pub fn host_image(artifact: &Artifact) -> Option<&Image> {
    let host = host_platform();
    let own = artifact.images.iter().find(|image| image.platform.matches(&host));
    own.filter(|_| artifact.images.len() > 1)
}

/// The one image of an artifact that an archive can hold, as `docker load` of the classic image store
/// takes one: the only one, or of several the one for this machine.
///
/// # Errors
/// There are several, and none is for this machine.
pub fn only_image(artifact: &Artifact) -> Result<&Image, Error> {
    match (artifact.images.as_slice(), host_image(artifact)) {
        ([image], _) | (_, Some(image)) => Ok(image),
        (images, None) => {
            Err(Error::Platforms(images.iter().map(|i| i.platform.to_string()).collect()))
        }
    }
}

/// An archive that is whole and lies beside its place, or in it. Dropping it leaves nothing behind.
#[derive(Debug)]
#[must_use = "an archive is in its place only after `publish`"]
pub struct Prepared {
    file: Whole,
    written: Written,
}

#[derive(Debug)]
enum Whole {
    Beside(NamedTempFile),
    /// What was there is what was to be written.
    There(File),
}

impl Prepared {
    /// Puts the archive in its place. One that was there is as new as if it had been written.
    ///
    /// # Errors
    /// The disk said no. What was there stays then.
    pub fn publish(self) -> Result<Written, Error> {
        let Self { file, written } = self;
        match file {
            Whole::Beside(file) => {
                file.persist(&written.path).map_err(|e| Error::write(&written.path, e.error))?;
            }
            Whole::There(file) => futimens(&file, &TimeSpec::UTIME_NOW, &TimeSpec::UTIME_NOW)
                .map_err(|e| Error::write(&written.path, e.into()))?,
        }
        Ok(written)
    }
}

/// Writes `image` to a tar beside `path` under `names`, each of which needs a tag; at most `parallel`
/// blobs are copied at once. Nothing is written if the file at `path` has the same bytes, all of which are
/// verified.
///
/// # Errors
/// A blob is missing or damaged in `store`, or the disk said no.
pub fn prepare(
    image: &Image,
    names: &[Reference],
    store: &Store,
    path: &Path,
    parallel: usize,
) -> Result<Prepared, Error> {
    let failed = |e| Error::write(path, e);
    let index = index_json(&entries(&image.descriptor, names)?)?;
    let docker = to_canonical_vec(&[docker_entry(image, names)?])?;
    let blobs = blobs(std::slice::from_ref(image), None)?;
    let (frame, places) = frame(&blobs, &index, &docker).map_err(failed)?;
    let digest = descriptor_digest(&image.descriptor).map_err(crate::image::Error::from)?;
    let written = |bytes| Written { path: path.to_owned(), digest, bytes };

    let parent = beside::parent(path);
    fs::create_dir_all(parent).map_err(failed)?;
    beside::sweep(parent);
    let place = |digest: &Digest| places.get(digest).copied().unwrap_or_default();
    if let Some(file) = there(path, &frame) {
        let wrong = for_each_blob(&blobs, parallel, None, |digest, blob| {
            // One that cannot be read is replaced, too.
            let is_right = blob.lies_at(digest, store, (&file, path, place(digest)));
            Ok(u64::from(!is_right.unwrap_or(false)))
        })?;
        if wrong == 0 {
            return Ok(Prepared { file: Whole::There(file), written: written(0) });
        }
    }
    let file = beside::file(path, 0o666).map_err(failed)?;
    beside::reserve(file.as_file(), frame.length()).map_err(failed)?;
    file.as_file().set_len(frame.length()).map_err(failed)?;
    for (place, bytes) in frame.stretches() {
        file.as_file().write_all_at(bytes, place).map_err(failed)?;
    }
    let writers = Writers::new(file.as_file());
    for_each_blob(&blobs, parallel, Some(&writers), |digest, blob| {
        let to = (path, place(digest));
        blob.copy(digest, store, to, |place, bytes| writers.put(place, bytes))?;
        Ok(blob.size())
    })?;
    writers.finish().map_err(failed)?;
    Ok(Prepared { file: Whole::Beside(file), written: written(frame.length()) })
}

/// The tar without its blobs, and where these belong.
fn frame(
    blobs: &BTreeMap<Digest, Blob<'_>>,
    index: &[u8],
    docker: &[u8],
) -> io::Result<(Frame, BTreeMap<Digest, u64>)> {
    let mut frame = Frame::default();
    frame.folder("blobs/")?;
    frame.folder(BLOBS)?;
    let mut places = BTreeMap::new();
    for (digest, blob) in blobs {
        let name = format!("{BLOBS}{}", digest.hex());
        places.insert(*digest, frame.gap(&name, blob.size())?);
    }
    for (name, bytes) in
        [("index.json", index), ("manifest.json", docker), ("oci-layout", OCI_LAYOUT)]
    {
        frame.document(name, bytes)?;
    }
    frame.end();
    Ok((frame, places))
}

/// The file at `path`, if it has that frame and could be written: its blobs may still be any bytes.
fn there(path: &Path, frame: &Frame) -> Option<File> {
    let metadata = fs::symlink_metadata(path).ok()?;
    if !metadata.is_file() || metadata.len() != frame.length() {
        return None;
    }
    let file = fs::OpenOptions::new().read(true).write(true).open(path).ok()?.into_file();
    let is_right = frame.stretches().all(|(place, bytes)| {
        let mut found = vec![0; bytes.len()];
        file.read_exact_at(&mut found, place).is_ok() && found == bytes
    });
    is_right.then_some(file)
}

/// `RepoTags` are in the form that `docker save` writes: older readers show them as they stand.
fn docker_entry(image: &Image, names: &[Reference]) -> Result<DockerEntry, Error> {
    let blob = |digest: &Digest| format!("{BLOBS}{}", digest.hex());
    let layers: Result<Vec<_>, _> = image
        .layers
        .iter()
        .map(|layer| descriptor_digest(&layer.descriptor).map(|digest| blob(&digest)))
        .collect();
    let tags = names.iter().map(|name| name.without_digest().familiar());
    Ok(DockerEntry {
        config: blob(&image.config_digest),
        repo_tags: Some(tags.collect()),
        layers: layers.map_err(crate::image::Error::from)?,
    })
}

/// Reads the archive at `path` and recomputes everything in it; `manifest.json`, if there is one,
/// must name the same images as `index.json`.
///
/// # Errors
/// It is no archive with a layout, cannot be read, or holds anything that is wrong.
pub fn validate(path: &Path) -> Result<Valid, Error> {
    let archive = Archive::open(path)?;
    layout::check_marker(&archive.document("oci-layout")?, path)?;
    let entries = parse_index_json(&archive.document("index.json")?, path)?;
    let (valid, mut problems) = validate::examine(&descriptors(entries, path)?, &archive);
    if archive.entries.contains_key("manifest.json") {
        let found: Vec<DockerEntry> =
            serde_json::from_slice(&archive.document("manifest.json")?)
                .map_err(|e| Error::malformed(path, format!("manifest.json: {e}")))?;
        problems.extend(compare(&found, &valid));
    }
    let what = path.display().to_string();
    Ok(validate::conclude(&what, valid, problems)?)
}

fn compare(docker: &[DockerEntry], valid: &Valid) -> Vec<Problem> {
    let problem = |reason: String| Problem::Document { what: "manifest.json".into(), reason };
    let path = |digest: &Digest| format!("{BLOBS}{}", digest.hex());
    let mut problems = Vec::new();
    for entry in docker {
        let same = valid.images.iter().any(|image| {
            entry.config == path(&image.config_digest)
                && entry.layers == image.layers.iter().map(path).collect::<Vec<_>>()
        });
        if !same {
            problems.push(problem(format!(
                "no image of index.json has the config `{}` and these layers",
                entry.config
            )));
        }
        for tag in entry.repo_tags.iter().flatten() {
            match tag.parse::<Reference>() {
                Ok(reference) if reference.tag().is_some() => {}
                Ok(_) => problems.push(problem(format!("`{tag}` has no tag"))),
                Err(error) => problems.push(problem(error.to_string())),
            }
        }
    }
    problems
}

/// A tar file whose entries can be read in any order.
#[derive(Clone, Debug)]
pub struct Archive {
    path: PathBuf,
    /// Where the bytes of each regular file begin, and how many they are.
    entries: BTreeMap<String, (u64, u64)>,
}

impl Archive {
    /// Lists the tar at `path`.
    ///
    /// # Errors
    /// It cannot be read, is no tar, or names a file twice: readers would disagree about it.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let file = fs::File::open(path).map_err(|e| Error::read(path, e))?;
        let length = file.metadata().map_err(|e| Error::read(path, e))?.len();
        let mut tar = tar::Archive::new(file);
        let mut entries = BTreeMap::new();
        let malformed = |e: io::Error| Error::malformed(path, e);
        for entry in tar.entries_with_seek().map_err(malformed)? {
            let entry = entry.map_err(malformed)?;
            if !entry.header().entry_type().is_file() {
                continue;
            }
            let name = entry.path_bytes();
            let name = String::from_utf8_lossy(name.strip_prefix(b"./").unwrap_or(&name));
            let (start, size) = (entry.raw_file_position(), entry.size());
            if start.saturating_add(size) > length {
                return Err(Error::malformed(path, format!("`{name}` is cut short")));
            }
            if entries.insert(name.to_string(), (start, size)).is_some() {
                return Err(Error::malformed(path, format!("`{name}` is there twice")));
            }
        }
        Ok(Self { path: path.to_owned(), entries })
    }

    fn read(&self, name: &str) -> io::Result<io::Take<fs::File>> {
        let (start, size) = self.entries.get(name).ok_or(io::ErrorKind::NotFound)?;
        let mut file = fs::File::open(&self.path)?;
        file.seek(SeekFrom::Start(*start))?;
        Ok(file.take(*size))
    }

    /// A small file's bytes.
    fn document(&self, name: &str) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();
        match self.entries.get(name) {
            None => return Err(Error::malformed(&self.path, format!("it has no `{name}`"))),
            Some((_, size)) if *size > MANIFEST_MAX as u64 => {
                let reason = format!("`{name}` is larger than {MANIFEST_MAX} bytes");
                return Err(Error::malformed(&self.path, reason));
            }
            Some(_) => {}
        }
        self.read(name)
            .and_then(|mut file| file.read_to_end(&mut bytes))
            .map_err(|e| Error::read(&self.path, e))?;
        Ok(bytes)
    }
}

impl Blobs for Archive {
    fn open(&self, digest: &Digest) -> io::Result<Box<dyn Read + '_>> {
        Ok(Box::new(self.read(&format!("{BLOBS}{}", digest.hex()))?))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use serde_json::{Value, json};

    use super::super::frame::header;
    use super::super::tests::{names, stored};
    use super::*;

    #[test]
    fn the_tar_is_canonical_and_both_kinds_of_reader_find_their_documents() {
        let (folder, store, image) = stored("linux/amd64");
        let path = folder.path().join("a.tar");
        let names = names(&["docker.io/grubykarol/app:1.0", "localhost:5000/app:1.0", "app:x"]);
        prepare(&image, &names, &store, &path, 2).unwrap().publish().unwrap();
        let bytes = fs::read(&path).unwrap();
        assert_eq!(bytes.len() % 512, 0);

        let mut listed = Vec::new();
        let mut tar = tar::Archive::new(bytes.as_slice());
        for entry in tar.entries().unwrap() {
            let header = entry.unwrap().header().clone();
            assert_eq!(&header.as_bytes()[257..265], b"ustar\x0000");
            listed.push(format!(
                "{:?} {:o} {}:{} {} {}",
                header.entry_type(),
                header.mode().unwrap(),
                header.uid().unwrap(),
                header.gid().unwrap(),
                header.mtime().unwrap(),
                header.path().unwrap().display(),
            ));
        }
        let mut digests: Vec<_> = image
            .layers
            .iter()
            .map(|layer| descriptor_digest(&layer.descriptor).unwrap())
            .chain([image.config_digest, Digest::of(&image.manifest)])
            .map(|digest| digest.hex())
            .collect();
        digests.sort();
        let mut expected = vec![
            "Directory 755 0:0 0 blobs/".to_owned(),
            "Directory 755 0:0 0 blobs/sha256/".to_owned(),
        ];
        expected.extend(digests.iter().map(|hex| format!("Regular 644 0:0 0 blobs/sha256/{hex}")));
        expected.extend(
            ["index.json", "manifest.json", "oci-layout"]
                .map(|name| format!("Regular 644 0:0 0 {name}")),
        );
        assert_eq!(listed, expected);

        let archive = Archive::open(&path).unwrap();
        let document = |name: &str| -> Value {
            serde_json::from_slice(&archive.document(name).unwrap()).unwrap()
        };
        let blob = |digest: &str| format!("blobs/sha256/{}", &digest["sha256:".len()..]);
        assert_eq!(
            document("manifest.json"),
            json!([{
                "Config": blob(&image.config_digest.to_string()),
                "RepoTags": ["grubykarol/app:1.0", "localhost:5000/app:1.0", "app:x"],
                "Layers": image.layers.iter()
                    .map(|layer| blob(layer.descriptor.digest().as_ref()))
                    .collect::<Vec<_>>(),
            }])
        );
        let entry = |full: &str, tag: &str| {
            json!({
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "digest": Digest::of(&image.manifest),
                "size": image.manifest.len(),
                "platform": {"os": "linux", "architecture": "amd64"},
                "annotations": {
                    "io.containerd.image.name": full,
                    "org.opencontainers.image.ref.name": tag,
                },
            })
        };
        assert_eq!(
            document("index.json")["manifests"],
            json!([
                entry("docker.io/grubykarol/app:1.0", "1.0"),
                entry("localhost:5000/app:1.0", "1.0"),
                entry("docker.io/library/app:x", "x"),
            ])
        );
    }

    /// Which file it is, and when it was written.
    fn state(path: &Path) -> (u64, std::time::SystemTime) {
        let metadata = fs::metadata(path).unwrap();
        (metadata.ino(), metadata.modified().unwrap())
    }

    #[test]
    fn what_is_there_is_not_written_again_unless_a_byte_of_it_is_wrong() {
        let (folder, store, image) = stored("linux/amd64");
        let path = folder.path().join("a.tar");
        let write = |names: &[&str]| {
            let prepared = prepare(&image, &self::names(names), &store, &path, 2).unwrap();
            prepared.publish().unwrap().bytes
        };
        let length = write(&["app:1"]);
        let right = fs::read(&path).unwrap();
        assert_eq!(length, right.len() as u64);
        let old = std::time::SystemTime::UNIX_EPOCH;
        fs::OpenOptions::new().write(true).open(&path).unwrap().set_modified(old).unwrap();
        let (inode, _) = state(&path);
        assert_eq!(write(&["app:1"]), 0);
        assert!(state(&path).0 == inode && state(&path).1 > old);
        assert_eq!(write(&["app:2"]), length);
        assert_eq!(write(&["app:1"]), length);

        // In headers, padding, documents and blobs, and at the end.
        for place in (0..right.len()).step_by(97).chain([right.len() - 1]) {
            let mut wrong = right.clone();
            wrong[place] ^= 1;
            fs::write(&path, wrong).unwrap();
            assert_eq!(write(&["app:1"]), length, "{place}");
            assert!(fs::read(&path).unwrap() == right, "{place}");
        }
        for wrong in [&right[..right.len() - 1], &[&right[..], &[0]].concat()] {
            fs::write(&path, wrong).unwrap();
            assert_eq!(write(&["app:1"]), length);
        }
        // A link is replaced, as ever: what it leads to is somebody else's.
        let elsewhere = folder.path().join("elsewhere.tar");
        fs::rename(&path, &elsewhere).unwrap();
        std::os::unix::fs::symlink(&elsewhere, &path).unwrap();
        assert_eq!(write(&["app:1"]), length);
        assert!(fs::symlink_metadata(&path).unwrap().is_file());
    }

    #[test]
    fn no_byte_of_a_blob_can_change_unseen() {
        let (folder, store, image) = stored("linux/amd64");
        let path = folder.path().join("a.tar");
        prepare(&image, &names(&["app:1"]), &store, &path, 2).unwrap().publish().unwrap();
        let right = fs::read(&path).unwrap();
        let entries = Archive::open(&path).unwrap().entries;
        for (name, (start, size)) in &entries {
            let mut bytes = right.clone();
            let last = usize::try_from(start + size - 1).unwrap();
            bytes[last] ^= 1;
            fs::write(&path, &bytes).unwrap();
            let error = validate(&path).unwrap_err();
            assert_eq!(
                crate::error::Failure::kind(&error),
                crate::error::Kind::Integrity,
                "{name}: {error}"
            );
            fs::write(&path, &right[..last]).unwrap();
            assert!(validate(&path).is_err(), "{name}");
        }
    }

    type Files = Vec<(String, Vec<u8>)>;

    #[test]
    fn tars_that_readers_would_take_for_different_images() {
        let (folder, store, image) = stored("linux/amd64");
        let path = folder.path().join("a.tar");
        prepare(&image, &names(&["app:1"]), &store, &path, 2).unwrap().publish().unwrap();
        let right = fs::read(&path).unwrap();
        let rewrite = |edit: &dyn Fn(&str, Vec<u8>) -> Files| {
            let mut made = tar::Builder::new(Vec::new());
            for entry in tar::Archive::new(right.as_slice()).entries().unwrap() {
                let mut entry = entry.unwrap();
                let name = entry.path().unwrap().display().to_string();
                let mut bytes = Vec::new();
                entry.read_to_end(&mut bytes).unwrap();
                if name.ends_with('/') {
                    continue;
                }
                for (name, bytes) in edit(&name, bytes) {
                    let kind = tar::EntryType::Regular;
                    let header = header(&name, kind, bytes.len() as u64).unwrap();
                    made.append(&header, bytes.as_slice()).unwrap();
                }
            }
            fs::write(&path, made.into_inner().unwrap()).unwrap();
            validate(&path).map_err(|error| error.to_string())
        };
        let same = |name: &str, bytes: Vec<u8>| (name.to_owned(), bytes);
        assert!(rewrite(&|name, bytes| vec![same(name, bytes)]).is_ok());
        // Other writers' names.
        assert!(rewrite(&|name, bytes| vec![(format!("./{name}"), bytes)]).is_ok());
        // Without Docker's document it is an `oci-archive`.
        let oci = rewrite(&|name, bytes| match name {
            "manifest.json" => vec![],
            _ => vec![same(name, bytes)],
        });
        assert!(oci.is_ok());

        let twice = |name: &str, bytes: Vec<u8>| vec![same(name, bytes.clone()), same(name, bytes)];
        assert!(rewrite(&twice).unwrap_err().contains("is there twice"));
        for (from, to, expected) in [
            ("\"Layers\":[\"", "\"Layers\":[\"blobs/sha256/x\",\"", "these layers"),
            ("app:1", "app", "`app` has no tag"),
            ("app:1", "App:1", "must be lower case"),
        ] {
            let found = rewrite(&|name, bytes| match name {
                "manifest.json" => {
                    let text = String::from_utf8(bytes).unwrap().replace(from, to);
                    vec![same(name, text.into_bytes())]
                }
                _ => vec![same(name, bytes)],
            });
            let found = found.unwrap_err();
            assert!(found.contains(expected), "{found}");
        }
    }
}
