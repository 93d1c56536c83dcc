//! The bytes of a blob, in order, from wherever they are.

use std::io::{self, SeekFrom, Write as _};
use std::path::PathBuf;

use bytes::Bytes;
use fs_err::tokio as fs;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};

use crate::oci::Digest;
use crate::oci::digest::DigestWriter;
use crate::registry::download::Download;
use crate::registry::{BlobBytes, Client, Error};

/// How much of a file is read at once.
const PIECE: u64 = 256 << 10;

/// Gives a blob's bytes once. Bytes that are read from their start are verified before the last of
/// them is given.
pub(super) struct Reader {
    bytes: Source,
    /// Of a piece that was longer than wanted.
    rest: Bytes,
    left: u64,
}

enum Source {
    Memory(Bytes),
    File(Box<Checked>),
    Download(Box<Download>),
}

struct Checked {
    file: fs::File,
    path: PathBuf,
    digest: Digest,
    hasher: Option<DigestWriter<io::Sink>>,
}

impl Reader {
    pub(super) fn nothing() -> Self {
        Self { bytes: Source::Memory(Bytes::new()), rest: Bytes::new(), left: 0 }
    }

    pub(super) async fn open(
        client: &Client,
        source: &BlobBytes,
        digest: Digest,
        size: u64,
        offset: u64,
    ) -> Result<Self, Error> {
        let bytes = match source {
            BlobBytes::Memory(bytes) => {
                let start = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
                check_size("bytes in memory", size, bytes.len() as u64)?;
                let found = Digest::of(bytes);
                if found != digest {
                    return Err(mismatch("bytes in memory".to_owned(), digest, found));
                }
                Source::Memory(bytes.slice(start..))
            }
            BlobBytes::File(path) => {
                let failed = |source| Error::File { path: path.clone(), source };
                let mut file = fs::File::open(path).await.map_err(failed)?;
                let length = file.metadata().await.map_err(failed)?.len();
                check_size(&format!("`{}`", path.display()), size, length)?;
                file.seek(SeekFrom::Start(offset)).await.map_err(failed)?;
                Source::File(Box::new(Checked {
                    file,
                    path: path.clone(),
                    digest,
                    hasher: (offset == 0).then(|| DigestWriter::new(io::sink())),
                }))
            }
            BlobBytes::Registry(reference) => {
                let download = Download::begin(client, reference, digest, size, offset).await?;
                Source::Download(Box::new(download))
            }
        };
        Ok(Self { bytes, rest: Bytes::new(), left: size - offset })
    }

    /// At most `most` bytes, at least one.
    pub(super) async fn next(&mut self, most: u64) -> Result<Bytes, Error> {
        if self.rest.is_empty() {
            self.rest = match &mut self.bytes {
                Source::Memory(bytes) => std::mem::take(bytes),
                Source::File(file) => file.read(self.left).await?,
                Source::Download(download) => match download.next().await {
                    Some(piece) => piece?,
                    None => Bytes::new(),
                },
            };
            self.left -= self.rest.len() as u64;
        }
        if self.rest.is_empty() {
            return Err(Error::SizeMismatch {
                what: "blob to upload".to_owned(),
                expected: most,
                found: 0,
            });
        }
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        Ok(self.rest.split_to(most.min(self.rest.len())))
    }
}

impl Checked {
    /// The next piece of the `left` bytes that are to come.
    async fn read(&mut self, left: u64) -> Result<Bytes, Error> {
        let wanted = usize::try_from(left.min(PIECE)).unwrap_or(usize::MAX);
        let mut buffer = vec![0; wanted];
        let read = self.file.read_exact(&mut buffer).await;
        read.map_err(|source| Error::File { path: self.path.clone(), source })?;
        if let Some(hasher) = &mut self.hasher {
            // A sink takes everything.
            let _never = hasher.write_all(&buffer);
        }
        if buffer.len() as u64 == left
            && let Some(hasher) = self.hasher.take()
        {
            let found = hasher.finish().1;
            if found != self.digest {
                let what = format!("`{}`", self.path.display());
                return Err(mismatch(what, self.digest, found));
            }
        }
        Ok(buffer.into())
    }
}

fn mismatch(what: String, expected: Digest, found: Digest) -> Error {
    Error::DigestMismatch { what, expected, found }
}

fn check_size(what: &str, expected: u64, found: u64) -> Result<(), Error> {
    if expected == found {
        return Ok(());
    }
    Err(Error::SizeMismatch { what: what.to_owned(), expected, found })
}
