//! Pieces of a tar as pieces of a gzip stream, compressed once and kept.
//!
//! A segment is raw deflate (RFC 1951) that refers to nothing before it and ends on a byte boundary,
//! as a full flush leaves it. So segments that were made by other runs, or at the same time by other
//! threads, can be put behind each other: see [`super::gzip`]. A part's tar is cut every [`CUT`]
//! bytes, whatever lies there, so that a large distribution keeps all processors busy, and before and
//! behind the bytes of every [`LARGE`] file, so that another version of the distribution finds those
//! that it has too. What is cut where depends on the part alone.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Write};
use std::mem::take;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use serde::{Deserialize, Serialize};

use super::deflate::{Packer, Unpacker};
use super::entry::{append, pad};
use super::{Tree, files};
use crate::layers::content::Content;
use crate::layers::tree::{Known, Node};
use crate::layers::{Error, kept};
use crate::oci::Digest;
use crate::oci::digest::DigestWriter;
use crate::store::Store;

/// Bytes of tar in a segment: part of what a layer's digest depends on. Each lies in memory as a whole, on
/// every thread; twice as many make a layer 0.2 % smaller.
pub(super) const CUT: usize = 512 << 10;

/// Bytes of a file that has segments of its own. Of the load generator's next version one file, a third of
/// its bytes, was the same, and none else above 64 KiB; each cut costs compression.
pub(super) const LARGE: u64 = 256 << 10;

/// A piece of a layer's gzip stream, in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Segment {
    /// Over the compressed bytes: their name in the store.
    pub digest: Digest,
    /// Compressed bytes.
    pub size: u64,
    /// CRC-32 of the uncompressed bytes, as gzip has it.
    pub crc32: u32,
    /// Uncompressed bytes.
    pub uncompressed: u64,
}

impl Segment {
    /// Whether the store seems to have it. Its bytes are verified when they are used.
    pub(in crate::layers) fn is_stored(&self, store: &Store) -> bool {
        store.seems_to_have(&self.digest, self.size)
    }

    /// Its compressed bytes, verified.
    pub(super) fn read(&self, store: &Store) -> Result<Vec<u8>, Error> {
        store.read(&self.digest)?.ok_or(Error::Segment { digest: self.digest })
    }
}

/// Compresses one piece into the store.
fn keep(piece: &[u8], packer: &mut Packer, store: &Store) -> Result<Segment, Error> {
    let failed = |source| Error::Write { path: store.root().to_owned(), source };
    let bytes = packer.pack(piece).map_err(failed)?;
    let digest = store.put_unsynced(bytes)?;
    let (size, uncompressed) = (bytes.len() as u64, piece.len() as u64);
    Ok(Segment { digest, size, crc32: crc32fast::hash(piece), uncompressed })
}

/// The segments of a small tar, compressed unless an earlier run did.
pub(super) fn keep_tar(tar: &[u8], store: &Store) -> Result<Vec<Segment>, Error> {
    let known = Known::of(tar);
    if let Some(segments) = kept::bytes(&known, store)? {
        return Ok(segments);
    }
    let mut packer = Packer::new();
    let pieces = tar.chunks(CUT).map(|piece| keep(piece, &mut packer, store));
    let segments: Vec<Segment> = pieces.collect::<Result<_, _>>()?;
    kept::keep_bytes(&known, &segments, store)?;
    Ok(segments)
}

/// What a layer's tar was put together of, in order.
#[derive(Clone, Debug)]
pub struct Parts(pub Vec<Part>);

/// A stretch of a layer's tar.
#[derive(Clone, Debug)]
pub enum Part {
    /// One owner's files and symbolic links. They mean the same in any layer.
    Owner(Vec<Segment>),
    /// Folders, or hard links to what stands before, with the tar's end.
    Frame(Vec<Segment>),
}

impl Part {
    /// Its pieces.
    pub fn segments(&self) -> &[Segment] {
        match self {
            Self::Owner(segments) | Self::Frame(segments) => segments,
        }
    }
}

impl Parts {
    /// All segments, in order.
    pub(super) fn segments(&self) -> impl Iterator<Item = &Segment> {
        self.0.iter().flat_map(Part::segments)
    }
}

/// The tar that `segments` are. Each is verified before any of its bytes is returned; what is absent or
/// damaged is an error of reading.
pub fn read<'a>(segments: &'a [Segment], store: &'a Store) -> impl io::Read + 'a {
    Unpacked {
        segments: segments.iter(),
        store,
        unpacker: Unpacker::new(),
        rest: Vec::new().into(),
    }
}

struct Unpacked<'a> {
    segments: std::slice::Iter<'a, Segment>,
    store: &'a Store,
    unpacker: Unpacker,
    rest: VecDeque<u8>,
}

impl io::Read for Unpacked<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.rest.is_empty() {
            let Some(segment) = self.segments.next() else { return Ok(0) };
            let packed = self.store.read(&segment.digest).map_err(io::Error::other)?;
            let packed = packed.ok_or(io::ErrorKind::NotFound)?;
            self.rest.extend(self.unpacker.unpack(packed, segment.uncompressed, segment.crc32)?);
        }
        self.rest.read(buffer)
    }
}

/// A stretch of a tar on its way to be one of segments.
pub(in crate::layers) enum Section<'a> {
    /// An earlier run did it.
    Kept(Vec<Segment>),
    /// Files and symbolic links, had when it is their turn.
    Made(Box<dyn FnOnce() -> Result<Tree, Error> + 'a>),
}

/// Sections that are segments now.
pub(super) struct Packed {
    /// Of each section, in their order.
    pub(super) segments: Vec<Vec<Segment>>,
    /// All of the tar went through it.
    pub(super) tar: Hashed,
    /// The same, when as many sections had as were to be `marked`.
    pub(super) marked: Hashed,
}

/// Hashes a tar.
pub(super) type Hashed = DigestWriter<io::Sink>;

/// Makes segments of what is none yet, on at most `parallel` threads, and hashes the tar. `known` is
/// what went before some section, which is the first that is read.
///
/// One thread goes through the sections in order, cuts them and hashes them; the pieces are compressed
/// by all. Neither `parallel` nor chance changes a segment.
pub(super) fn compress(
    sections: Vec<Section<'_>>,
    known: Option<(usize, Hashed)>,
    marked: usize,
    parallel: usize,
    store: &Store,
) -> Result<Packed, Error> {
    let others = parallel.saturating_sub(1);
    let pool = Pool { limit: 2 * others, state: Mutex::default(), changed: Condvar::new() };
    let (first, tar) = known.unwrap_or_else(|| (0, Hashed::new(io::sink())));
    let mut at_mark = tar.clone();
    let mut segments = Vec::with_capacity(sections.len());
    let outcome: Result<_, Error> = thread::scope(|scope| {
        for _ in 0..others {
            scope.spawn(|| {
                let mut packer = Packer::new();
                while let Some(piece) = pool.wait() {
                    pool.pack(&piece, &mut packer, store);
                }
            });
        }
        let _over = Over(&pool);
        let mut cutter = Cutter::new(&pool, store, tar);
        for (number, section) in sections.into_iter().enumerate() {
            match section {
                Section::Kept(kept) => {
                    if number >= first {
                        kept.iter().try_for_each(|segment| cutter.pass(segment))?;
                    }
                    segments.push(kept);
                }
                Section::Made(tree) => {
                    cutter.add(number, &tree()?)?;
                    segments.push(Vec::new());
                }
            }
            if number + 1 == marked {
                at_mark = cutter.tar.clone();
            }
        }
        while let Some(piece) = pool.next() {
            pool.pack(&piece, &mut cutter.packer, store);
        }
        Ok((cutter.tar, cutter.large))
    });
    let State { packed, .. } = pool.state.into_inner().unwrap_or_else(PoisonError::into_inner);
    let packed = packed
        .into_iter()
        .map(|(place, segment)| Ok((place, segment?)))
        .collect::<Result<BTreeMap<Place, Segment>, Error>>()?;
    let (tar, large) = outcome?;
    for Large { known, from, to } in large {
        let pieces: Vec<Segment> = packed.range(from..to).map(|(_, segment)| *segment).collect();
        kept::keep_bytes(&known, &pieces, store)?;
    }
    for ((section, _), segment) in packed {
        segments[section].push(segment);
    }
    Ok(Packed { segments, tar, marked: at_mark })
}

/// Which section, and which of its pieces.
type Place = (usize, usize);

/// What the threads share.
struct Pool {
    /// Pieces that may wait for a thread: two for each of the others, so that none waits while this one
    /// is busy, and few lie in memory.
    limit: usize,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    pieces: VecDeque<Piece>,
    /// Whether no more pieces come.
    is_over: bool,
    packed: BTreeMap<Place, Result<Segment, Error>>,
}

/// A piece of a section.
struct Piece {
    place: Place,
    bytes: Vec<u8>,
}

/// Tells the others that no more pieces come, also when this thread panics.
struct Over<'a>(&'a Pool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.lock().is_over = true;
        self.0.changed.notify_all();
    }
}

impl Pool {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A piece that waits for a thread.
    fn next(&self) -> Option<Piece> {
        self.lock().pieces.pop_front()
    }

    /// The next piece; `None` if none comes any more.
    fn wait(&self) -> Option<Piece> {
        let mut state = self.lock();
        loop {
            if let Some(piece) = state.pieces.pop_front() {
                return Some(piece);
            }
            if state.is_over {
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn pack(&self, piece: &Piece, packer: &mut Packer, store: &Store) {
        let segment = keep(&piece.bytes, packer, store);
        self.lock().packed.insert(piece.place, segment);
    }

    /// Leaves the piece to another thread; gives it back if enough wait already.
    fn hand_over(&self, piece: Piece) -> Option<Piece> {
        let mut state = self.lock();
        if state.pieces.len() >= self.limit {
            return Some(piece);
        }
        state.pieces.push_back(piece);
        self.changed.notify_one();
        None
    }
}

/// Cuts what is written into pieces, and hashes it.
struct Cutter<'a> {
    pool: &'a Pool,
    store: &'a Store,
    packer: Packer,
    unpacker: Unpacker,
    tar: Hashed,
    /// Of the piece that is not cut yet.
    place: Place,
    piece: Vec<u8>,
    large: Vec<Large>,
}

/// A file whose bytes are these pieces, for those who have it too.
struct Large {
    known: Known,
    from: Place,
    to: Place,
}

impl<'a> Cutter<'a> {
    fn new(pool: &'a Pool, store: &'a Store, tar: Hashed) -> Self {
        let (packer, unpacker) = (Packer::new(), Unpacker::new());
        let piece = Vec::with_capacity(CUT);
        Self { pool, store, packer, unpacker, tar, place: (0, 0), piece, large: Vec::new() }
    }

    fn failed(&self, source: io::Error) -> Error {
        Error::Write { path: self.store.root().to_owned(), source }
    }

    /// Lets a segment pass that is one already.
    fn pass(&mut self, segment: &Segment) -> Result<(), Error> {
        let bytes = segment.read(self.store)?;
        let plain = self.unpacker.unpack(bytes, segment.uncompressed, segment.crc32);
        let passed = plain.and_then(|plain| self.tar.write_all(plain));
        passed.map_err(|error| self.failed(error))
    }

    /// Cuts the files and links of a section into pieces.
    fn add(&mut self, section: usize, tree: &Tree) -> Result<(), Error> {
        self.place = (section, 0);
        for (path, entry) in files(tree) {
            append(self, path, entry).map_err(|error| self.failed(error))?;
            if let Node::File(content) = &entry.node {
                self.add_content(content)?;
                pad(self, content.size()).map_err(|error| self.failed(error))?;
            }
        }
        self.cut();
        Ok(())
    }

    /// The bytes of a large file are pieces of their own, which another run may have made.
    fn add_content(&mut self, content: &Content) -> Result<(), Error> {
        if content.size() < LARGE {
            return content.copy_to(self).map_err(|error| self.failed(error));
        }
        self.cut();
        let (known, from) = (content.known(), self.place);
        if let Some(segments) = kept::bytes(&known, self.store)? {
            for segment in segments {
                self.pass(&segment)?;
                self.pool.lock().packed.insert(self.place, Ok(segment));
                self.place.1 += 1;
            }
            return Ok(());
        }
        content.copy_to(self).map_err(|error| self.failed(error))?;
        self.cut();
        self.large.push(Large { known, from, to: self.place });
        Ok(())
    }

    /// Ends the piece that was begun, if one was.
    fn cut(&mut self) {
        if self.piece.is_empty() {
            return;
        }
        let piece = Piece { place: self.place, bytes: take(&mut self.piece) };
        if let Some(mut piece) = self.pool.hand_over(piece) {
            self.pool.pack(&piece, &mut self.packer, self.store);
            piece.bytes.clear();
            self.piece = piece.bytes;
        }
        self.place.1 += 1;
    }
}

impl Write for Cutter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(CUT - self.piece.len());
        self.piece.extend_from_slice(&bytes[..taken]);
        self.tar.write_all(&bytes[..taken])?;
        if self.piece.len() == CUT {
            self.cut();
        }
        Ok(taken)
    }

    /// Does nothing: where a piece ends depends on its tree alone.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
