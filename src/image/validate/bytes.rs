//! What blobs are: each is read to its last byte once, hashed, counted, and unpacked if it is a layer.

use std::io::{self, BufReader, Read};

use base64::Engine as _;

use super::{Examination, Problem};
use crate::image::MANIFEST_MAX;
use crate::oci::decompress::decompress_as;
use crate::oci::digest::DigestWriter;
use crate::oci::{Descriptor, Digest, descriptor_digest, media_type};

impl Examination<'_> {
    /// A verified document's bytes.
    pub(super) fn bytes(
        &mut self,
        descriptor: &Descriptor,
        what: &str,
    ) -> Option<(Digest, Vec<u8>)> {
        let digest = self.digest(descriptor, what)?;
        if descriptor.size() > MANIFEST_MAX as u64 {
            self.wrong(what, format!("larger than {MANIFEST_MAX} bytes"));
            return None;
        }
        let mut bytes = Vec::new();
        let mut reader = self.open(&digest, descriptor, what)?;
        let copied = io::copy(&mut reader, &mut bytes);
        let (found, size) = reader.finish();
        if let Err(error) = copied {
            self.unreadable(what, &error);
            return None;
        }
        let stored = self.compare(descriptor, &digest, what, found, size);
        if let Some(data) = descriptor.data()
            && base64::engine::general_purpose::STANDARD.decode(data).ok().as_ref() != Some(&bytes)
        {
            self.wrong(what, "the copy embedded in its descriptor is another one");
        }
        stored.then_some((digest, bytes))
    }

    /// What a layer's tar has as its digest, where the layer itself is right.
    pub(super) fn layer(&mut self, descriptor: &Descriptor) -> Option<Digest> {
        let what = format!("layer {}", descriptor.digest());
        let digest = self.digest(descriptor, &what)?;
        let (compression, _) = compression_of(descriptor);
        if let Some(&known) = self.diff_ids.get(&(digest, compression)) {
            return known;
        }
        let mut reader = self.open(&digest, descriptor, &what)?;
        let mut tar = DigestWriter::new(io::sink());
        let unpacked =
            io::copy(&mut decompress_as(compression, BufReader::new(&mut reader)), &mut tar);
        // What follows the compressed stream belongs to the blob too.
        let drained = io::copy(&mut reader, &mut io::sink());
        let (found, size) = reader.finish();
        let stored = match drained {
            Ok(_) => self.compare(descriptor, &digest, &what, found, size),
            Err(error) => {
                self.unreadable(&what, &error);
                false
            }
        };
        let diff_id = match unpacked {
            Ok(_) => stored.then(|| tar.finish().1),
            // A wrong digest says it all.
            Err(_) if !stored => None,
            Err(error) => {
                self.unreadable(&what, &error);
                None
            }
        };
        self.diff_ids.insert((digest, compression), diff_id);
        diff_id
    }

    fn digest(&mut self, descriptor: &Descriptor, what: &str) -> Option<Digest> {
        descriptor_digest(descriptor).map_err(|error| self.wrong(what, error.to_string())).ok()
    }

    fn open(
        &mut self,
        digest: &Digest,
        descriptor: &Descriptor,
        what: &str,
    ) -> Option<HashingReader<'_>> {
        // One byte more than promised is enough to see that there is more.
        let limit = descriptor.size().saturating_add(1);
        match self.blobs.open(digest) {
            Ok(reader) => Some(HashingReader {
                inner: reader.take(limit),
                hasher: DigestWriter::new(io::sink()),
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.problems.push(Problem::Absent { what: what.to_owned() });
                None
            }
            Err(error) => {
                self.unreadable(what, &error);
                None
            }
        }
    }

    fn compare(
        &mut self,
        descriptor: &Descriptor,
        digest: &Digest,
        what: &str,
        found: Digest,
        size: u64,
    ) -> bool {
        if self.read.insert(*digest) {
            self.valid.blobs += 1;
            self.valid.bytes += size;
        }
        let what = what.to_owned();
        if size != descriptor.size() {
            self.problems.push(Problem::Size { what, expected: descriptor.size(), found: size });
            return false;
        }
        if found != *digest {
            self.problems.push(Problem::Digest { what, found });
            return false;
        }
        true
    }

    fn unreadable(&mut self, what: &str, error: &io::Error) {
        self.problems
            .push(Problem::Unreadable { what: what.to_owned(), reason: error.to_string() });
    }
}

/// Hashes and counts what is read.
struct HashingReader<'a> {
    inner: io::Take<Box<dyn Read + 'a>>,
    hasher: DigestWriter<io::Sink>,
}

impl HashingReader<'_> {
    fn finish(self) -> (Digest, u64) {
        let (_, digest, size) = self.hasher.finish();
        (digest, size)
    }
}

impl Read for HashingReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        io::Write::write_all(&mut self.hasher, &buffer[..read])?;
        Ok(read)
    }
}

/// How a layer is compressed, and whether its type belongs to OCI's family and to Docker's.
pub(super) fn compression_of(layer: &Descriptor) -> (&'static str, (bool, bool)) {
    match layer.media_type().as_ref() {
        media_type::OCI_LAYER_TAR => ("", (true, false)),
        media_type::OCI_LAYER_GZIP => ("gzip", (true, false)),
        media_type::OCI_LAYER_ZSTD => ("zstd", (true, false)),
        media_type::DOCKER_LAYER_TAR => ("", (false, true)),
        media_type::DOCKER_LAYER_GZIP => ("gzip", (false, true)),
        media_type::DOCKER_LAYER_ZSTD => ("zstd", (false, true)),
        _ => ("", (false, false)),
    }
}
