//! Images on this disk that stand in for references: OCI image layouts, as folders and as tars.
//!
//! The reference stays what it is in recipes, locks and annotations; only its bytes come from here.
//! They are checked against their digests as bytes from a network are.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Read as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use fs_err as fs;
use fs_err::tokio as async_fs;
use serde::Deserialize;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};

use super::{Error, MANIFEST_LIMIT, StoredManifest};
use crate::oci::{Descriptor, Digest, Reference, descriptor_digest};

/// How much of a file is read at once.
const PIECE: u64 = 256 << 10;

/// By reference; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Layouts(Vec<(Reference, Arc<Layout>)>);

/// One layout (image-spec, *image-layout.md*).
pub struct Layout {
    path: PathBuf,
    image: Descriptor,
    /// In a tar: where each blob lies, as offset and size. `None` for a folder.
    members: Option<Members>,
}

/// Offset and size of each blob in a tar.
type Members = BTreeMap<Digest, (u64, u64)>;

impl fmt::Debug for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Layout").field("path", &self.path).finish_non_exhaustive()
    }
}

#[derive(Deserialize)]
struct Index {
    #[serde(default)]
    manifests: Vec<Descriptor>,
}

impl Layouts {
    /// Opens a layout in the place of a reference: a folder, or a tar of one that is not compressed.
    ///
    /// # Errors
    /// There is none, or it does not hold the reference's image.
    pub fn add(&mut self, reference: Reference, path: &Path) -> Result<(), Error> {
        let layout = Layout::open(path, &reference)?;
        self.0.push((reference, Arc::new(layout)));
        Ok(())
    }

    /// The descriptor that a reference without a digest stands for.
    pub(super) fn head(&self, reference: &Reference) -> Option<Descriptor> {
        let (_, layout) = self.0.iter().find(|(name, _)| name == reference)?;
        Some(layout.image.clone())
    }

    /// A manifest or index, checked; `None` if no layout of the repository has it.
    pub(super) fn manifest(&self, reference: &Reference) -> Result<Option<StoredManifest>, Error> {
        let digest = match (reference.digest(), self.head(reference)) {
            (Some(digest), _) => *digest,
            (None, Some(head)) => descriptor_digest(&head)?,
            (None, None) => return Ok(None),
        };
        let Some((layout, size)) = self.holder(reference, &digest) else { return Ok(None) };
        let what = format!("manifest {reference} in `{}`", layout.path.display());
        let found = size;
        if found > MANIFEST_LIMIT as u64 {
            let expected = MANIFEST_LIMIT as u64;
            return Err(Error::SizeMismatch { what, expected, found });
        }
        let bytes = layout.read(&digest, size)?;
        let found = Digest::of(&bytes);
        if found != digest {
            return Err(Error::DigestMismatch { what, expected: digest, found });
        }
        StoredManifest::from_bytes(bytes.into(), &reference.with_digest(digest)).map(Some)
    }

    /// The layout of the repository that has a blob, and the blob's size there.
    fn holder(&self, repository: &Reference, digest: &Digest) -> Option<(Arc<Layout>, u64)> {
        let own = self.0.iter().filter(|(name, _)| name.name() == repository.name());
        own.map(|(_, layout)| layout)
            .find_map(|layout| Some((Arc::clone(layout), layout.size(digest)?)))
    }

    /// A blob, from `offset` on; `None` if no layout of the repository has it.
    pub(super) async fn open(
        &self,
        repository: &Reference,
        digest: &Digest,
        size: u64,
        offset: u64,
    ) -> Result<Option<Reading>, Error> {
        let Some((layout, found)) = self.holder(repository, digest) else { return Ok(None) };
        let what = format!("blob {digest} in `{}`", layout.path.display());
        if found != size {
            return Err(Error::SizeMismatch { what, expected: size, found });
        }
        let path = layout.place(digest);
        let failed = |source| Error::File { path: path.clone(), source };
        let mut file = async_fs::File::open(&path).await.map_err(failed)?;
        let start = layout.start(digest) + offset;
        file.seek(SeekFrom::Start(start)).await.map_err(failed)?;
        Ok(Some(Reading { what, file, path, left: size - offset }))
    }
}

/// A blob of a layout that is being read.
pub(super) struct Reading {
    /// For errors.
    pub(super) what: String,
    file: async_fs::File,
    path: PathBuf,
    left: u64,
}

impl Reading {
    /// The next piece; `None` at the blob's end.
    pub(super) async fn piece(&mut self) -> Result<Option<Bytes>, Error> {
        let mut piece = Vec::new();
        let length = (&mut self.file)
            .take(self.left.min(PIECE))
            .read_to_end(&mut piece)
            .await
            .map_err(|source| Error::File { path: self.path.clone(), source })?;
        self.left -= length as u64;
        Ok((length > 0).then(|| piece.into()))
    }
}

impl Layout {
    fn open(path: &Path, reference: &Reference) -> Result<Self, Error> {
        let failed = |source| Error::File { path: path.to_owned(), source };
        let (index, members) = if fs::metadata(path).map_err(failed)?.is_dir() {
            (fs::read(path.join("index.json")).map_err(failed)?, None)
        } else {
            let (index, members) = list(path).map_err(failed)?;
            (index, Some(members))
        };
        let wrong = |reason: String| Error::Layout { path: path.to_owned(), reason };
        let index: Index = serde_json::from_slice(&index)
            .map_err(|error| wrong(format!("index.json: {error}")))?;
        let image = select(index.manifests, reference).map_err(wrong)?;
        Ok(Self { path: path.to_owned(), image, members })
    }

    /// The file that has the blob.
    fn place(&self, digest: &Digest) -> PathBuf {
        match &self.members {
            Some(_) => self.path.clone(),
            None => self.path.join("blobs/sha256").join(digest.hex()),
        }
    }

    /// Where in that file it begins.
    fn start(&self, digest: &Digest) -> u64 {
        let members = self.members.as_ref();
        members.and_then(|members| members.get(digest)).map_or(0, |(start, _)| *start)
    }

    fn size(&self, digest: &Digest) -> Option<u64> {
        match &self.members {
            Some(members) => members.get(digest).map(|(_, size)| *size),
            None => fs::metadata(self.place(digest)).ok().map(|meta| meta.len()),
        }
    }

    fn read(&self, digest: &Digest, size: u64) -> Result<Vec<u8>, Error> {
        use std::io::Seek as _;
        let path = self.place(digest);
        let mut bytes = Vec::new();
        fs::File::open(&path)
            .and_then(|mut file| {
                file.seek(SeekFrom::Start(self.start(digest)))?;
                file.take(size).read_to_end(&mut bytes)
            })
            .map_err(|source| Error::File { path, source })?;
        Ok(bytes)
    }
}

/// The one image of an index, or the one that bears the reference's name.
fn select(manifests: Vec<Descriptor>, reference: &Reference) -> Result<Descriptor, String> {
    let names = |descriptor: &Descriptor| -> Vec<String> {
        let annotations = descriptor.annotations().iter().flatten();
        annotations
            .filter(|(key, _)| {
                matches!(
                    key.as_str(),
                    "org.opencontainers.image.ref.name" | "io.containerd.image.name"
                )
            })
            .map(|(_, value)| value.clone())
            .collect()
    };
    let known: Vec<String> = manifests.iter().flat_map(names).collect();
    let count = manifests.len();
    let means = |name: &String| {
        reference.tag() == Some(name)
            || name.parse::<Reference>().is_ok_and(|own| own == *reference)
    };
    let mut candidates: Vec<Descriptor> = if count == 1 {
        manifests
    } else {
        manifests.into_iter().filter(|one| names(one).iter().any(means)).collect()
    };
    match (candidates.pop(), candidates.is_empty()) {
        (Some(only), true) => Ok(only),
        _ => Err(format!(
            "it holds {count} images, and not exactly one is named `{reference}`; names in it: {}",
            if known.is_empty() { "none".to_owned() } else { known.join(", ") }
        )),
    }
}

/// `index.json` of a tar, and where its blobs lie.
fn list(path: &Path) -> io::Result<(Vec<u8>, Members)> {
    let mut archive = tar::Archive::new(fs::File::open(path)?);
    let (mut index, mut members) = (None, BTreeMap::new());
    for entry in archive.entries_with_seek()? {
        let mut entry = entry?;
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let name = name.strip_prefix("./").unwrap_or(&name);
        if name == "index.json" {
            let mut bytes = Vec::new();
            (&mut entry).take(MANIFEST_LIMIT as u64).read_to_end(&mut bytes)?;
            index = Some(bytes);
        } else if let Some(hex) = name.strip_prefix("blobs/sha256/")
            && let Ok(digest) = format!("sha256:{hex}").parse()
        {
            members.insert(digest, (entry.raw_file_position(), entry.size()));
        }
    }
    let index = index.ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidData, "no OCI image layout: it has no index.json")
    })?;
    Ok((index, members))
}
