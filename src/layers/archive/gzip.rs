//! Segments become one gzip member (RFC 1952): header, segments, CRC-32 and length. It grows while they
//! are being made, and what is in it is hashed as it grows, by whoever has the next one.
//!
//! What layers begin with alike is hashed once: another one copies it and goes on from there.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::mem::take;
use std::str::FromStr as _;

use super::deflate::{LAST_BLOCK, Unpacker};
use super::segment::Segment;
use super::{Compressed, Parts};
use crate::layers::kept::States;
use crate::layers::{Error, Layer};
use crate::oci::digest::DigestWriter;
use crate::oci::{Descriptor, Digest, MediaType};
use crate::store::{BlobWriter, Store};

/// No name, no time, no flags, neither the fastest nor the slowest; made on no particular system: the
/// defaults of encoders depend on the machine.
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];

/// Ends a layer whose segments are all written, and names it.
///
/// # Errors
/// The store cannot be written.
pub(in crate::layers) fn finish(
    compressed: Compressed,
    created_by: &str,
    store: &Store,
) -> Result<(Layer, Parts), Error> {
    let failed = |source| Error::Write { path: store.root().to_owned(), source };
    let Compressed { parts, diff_id, uncompressed_size, written } = compressed;
    let (digest, size) = written.finish().map_err(failed)?.commit_unsynced()?;
    let digest = oci_spec::image::Digest::from_str(&digest.to_string())
        .map_err(|invalid| failed(io::Error::other(invalid)))?;
    let layer = Layer {
        descriptor: Descriptor::new(MediaType::ImageLayerGzip, size, digest),
        diff_id,
        uncompressed_size,
        created_by: created_by.to_owned(),
    };
    Ok((layer, parts))
}

/// A gzip member that is being written, of a tar.
#[derive(Debug)]
pub(super) struct Member {
    /// `None` while what it begins with is being copied.
    written: Option<Written>,
    /// Those that came before their turn, by their numbers, with their bytes if there was room.
    waiting: BTreeMap<usize, (Segment, Option<Bytes>)>,
    /// As many may have theirs in memory; others are read again.
    room: usize,
    /// After how many segments the hashes' states are noted.
    marks: BTreeSet<usize>,
    marked: BTreeMap<usize, States>,
}

/// What a member has by now.
#[derive(Debug)]
pub(super) struct Written {
    out: BlobWriter,
    /// All of the tar that is in it.
    tar: DigestWriter<io::Sink>,
    checksum: crc32fast::Hasher,
    uncompressed: u64,
    /// How many it has.
    segments: usize,
}

/// Of a segment.
#[derive(Debug)]
struct Bytes {
    packed: Vec<u8>,
    plain: Vec<u8>,
}

impl Written {
    /// No segment.
    pub(super) fn begin(store: &Store) -> Result<Self, Error> {
        let mut out = store.writer()?;
        out.write_all(&HEADER)
            .map_err(|source| Error::Write { path: store.root().to_owned(), source })?;
        let (tar, checksum) = (DigestWriter::new(io::sink()), crc32fast::Hasher::new());
        Ok(Self { out, tar, checksum, uncompressed: 0, segments: 0 })
    }

    /// These segments, copied as they lie there, if they are those behind which another member had these
    /// states.
    pub(super) fn copied(
        segments: &[Segment],
        states: &States,
        store: &Store,
    ) -> Result<Option<Self>, Error> {
        let mut written = Self::begin(store)?;
        for segment in segments {
            if !written.out.append(&segment.digest, segment.size)? {
                return Ok(None);
            }
            written.count(segment);
        }
        let is_right = written.out.resume(&states.member) && written.tar.set_state(&states.tar);
        Ok(is_right.then_some(written))
    }

    fn add(
        &mut self,
        segment: &Segment,
        packed: &[u8],
        plain: &[u8],
        store: &Store,
    ) -> Result<(), Error> {
        self.out
            .write_all(packed)
            .and_then(|()| self.tar.write_all(plain))
            .map_err(|source| Error::Write { path: store.root().to_owned(), source })?;
        self.count(segment);
        Ok(())
    }

    fn count(&mut self, segment: &Segment) {
        let Segment { crc32, uncompressed, .. } = *segment;
        self.checksum.combine(&crc32fast::Hasher::new_with_initial_len(crc32, uncompressed));
        self.uncompressed += uncompressed;
        self.segments += 1;
    }

    /// The digest and the size of the tar.
    pub(super) fn tar(&self) -> (Digest, u64) {
        let (_, digest, size) = self.tar.clone().finish();
        (digest, size)
    }

    /// The whole member.
    fn finish(mut self) -> io::Result<BlobWriter> {
        let (_, uncompressed) = self.tar();
        if self.uncompressed != uncompressed {
            return Err(io::Error::other("the parts of the layer are not what was hashed"));
        }
        self.out.write_all(&LAST_BLOCK)?;
        self.out.write_all(&self.checksum.finalize().to_le_bytes())?;
        // RFC 1952: modulo 2^32.
        self.out.write_all(&uncompressed.to_le_bytes()[..4])?;
        Ok(self.out)
    }

    fn states(&self) -> States {
        States { tar: self.tar.state(), member: self.out.state() }
    }
}

impl Member {
    /// Goes on behind this, which may come [later](Self::go_on), with segments of so many threads: while one
    /// is at work on the next, each of the others may have one that waits.
    pub(super) fn behind(written: Option<Written>, threads: usize) -> Self {
        let (waiting, marks, marked) = (BTreeMap::new(), BTreeSet::new(), BTreeMap::new());
        Self { written, waiting, room: threads + 2, marks, marked }
    }

    /// Goes on behind this, with what came meanwhile.
    pub(super) fn go_on(&mut self, written: Written, store: &Store) -> Result<(), Error> {
        self.written = Some(written);
        self.catch_up(store)
    }

    /// Notes the hashes' states when it has so many segments; it has no more yet.
    pub(super) fn mark(&mut self, segments: usize) {
        self.marks.insert(segments);
        self.note();
    }

    /// The states that were noted, by how many segments there were.
    pub(super) fn take_marked(&mut self) -> BTreeMap<usize, States> {
        take(&mut self.marked)
    }

    fn note(&mut self) {
        if let Some(written) = &self.written
            && self.marks.remove(&written.segments)
        {
            self.marked.insert(written.segments, written.states());
        }
    }

    /// Segment `number`, its bytes, and those of the tar that they are. It is written when all before it
    /// are.
    pub(super) fn put(
        &mut self,
        number: usize,
        segment: Segment,
        packed: &[u8],
        plain: &[u8],
        store: &Store,
    ) -> Result<(), Error> {
        match &mut self.written {
            Some(written) if written.segments == number => {
                written.add(&segment, packed, plain, store)?;
                self.note();
                self.catch_up(store)
            }
            _ => {
                let bytes = (self.waiting.len() < self.room)
                    .then(|| Bytes { packed: packed.to_vec(), plain: plain.to_vec() });
                self.waiting.insert(number, (segment, bytes));
                Ok(())
            }
        }
    }

    /// Writes those whose turn it is.
    fn catch_up(&mut self, store: &Store) -> Result<(), Error> {
        while let Some(written) = &mut self.written
            && let Some((segment, bytes)) = self.waiting.remove(&written.segments)
        {
            if let Some(Bytes { packed, plain }) = bytes {
                written.add(&segment, &packed, &plain, store)?;
            } else {
                let (mut packed, mut unpacker) = (segment.read(store)?, Unpacker::new());
                let plain = segment.unpack(&mut packed, &mut unpacker, store)?;
                written.add(&segment, &packed, plain, store)?;
            }
            self.note();
        }
        Ok(())
    }

    /// All of it.
    pub(super) fn into_written(self) -> io::Result<Written> {
        match self.written {
            Some(written) if self.waiting.is_empty() => Ok(written),
            _ => Err(io::Error::other("the layer lacks a part")),
        }
    }
}
