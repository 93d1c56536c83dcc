//! Pieces of a tar as pieces of a gzip stream, compressed once and kept.
//!
//! A segment is raw deflate (RFC 1951) that refers to nothing before it and ends on a byte boundary,
//! as a full flush leaves it. So segments that were made by other runs, or at the same time by other
//! threads, can be put behind each other: see [`super::gzip`]. A part's tar is cut every [`CUT`]
//! bytes, whatever lies there, so that a large distribution keeps all processors busy, and before and
//! behind the bytes of every [`LARGE`] file, so that another version of the distribution finds those
//! that it has too. What is cut where depends on the part alone. A piece is written into the layer as
//! soon as it is compressed and all before it are there.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Write};
use std::mem::take;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use serde::{Deserialize, Serialize};

use super::deflate::{Packer, Unpacker};
use super::entry::{append, pad};
use super::gzip::Member;
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

/// Compresses one piece into the store; returns its compressed bytes too.
fn keep<'a>(
    piece: &[u8],
    packer: &'a mut Packer,
    store: &Store,
) -> Result<(Segment, &'a [u8]), Error> {
    let failed = |source| Error::Write { path: store.root().to_owned(), source };
    let bytes = packer.pack(piece).map_err(failed)?;
    let digest = store.put_unsynced(bytes)?;
    let (size, uncompressed) = (bytes.len() as u64, piece.len() as u64);
    Ok((Segment { digest, size, crc32: crc32fast::hash(piece), uncompressed }, bytes))
}

/// What a layer's tar was put together of, in order.
#[derive(Clone, Debug)]
pub struct Parts(pub Vec<Part>);

/// A stretch of a layer's tar.
#[derive(Clone, Debug)]
pub enum Part {
    /// One owner's files and symbolic links. They mean the same in any layer.
    Owner {
        /// Its pieces.
        segments: Vec<Segment>,
        /// What this run compressed into them, if it still is where it was read.
        files: Option<Arc<Tree>>,
    },
    /// Folders, or hard links to what stands before, with the tar's end.
    Frame(Vec<Segment>),
}

impl Part {
    /// Its pieces.
    pub fn segments(&self) -> &[Segment] {
        match self {
            Self::Owner { segments, .. } | Self::Frame(segments) => segments,
        }
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
            let mut packed = packed.ok_or(io::ErrorKind::NotFound)?;
            let Segment { uncompressed, crc32, .. } = *segment;
            self.rest.extend(self.unpacker.unpack(&mut packed, uncompressed, crc32)?);
        }
        self.rest.read(buffer)
    }
}

/// A stretch of a tar on its way to be one of segments.
pub(in crate::layers) enum Section<'a> {
    /// An earlier run did it.
    Kept(Vec<Segment>),
    /// Tar entries that no earlier run compressed, to be segments of their own, which are kept.
    Entries(Content),
    /// Files and symbolic links that can be read until the layer is there.
    Files(Arc<Tree>),
    /// The same, had when it is their turn, and let go then.
    Later(Box<dyn FnOnce() -> Result<Tree, Error> + 'a>),
}

impl Section<'_> {
    /// These tar entries. An earlier run may have compressed them.
    pub(super) fn entries(tar: Vec<u8>, store: &Store) -> Result<Self, Error> {
        let content = Content::from(tar);
        Ok(match kept::bytes(&content.known(), store)? {
            Some(segments) => Self::Kept(segments),
            None => Self::Entries(content),
        })
    }
}

/// What a layer begins with that an earlier run hashed.
pub(super) struct Begun {
    /// So many sections.
    pub(super) sections: usize,
    /// All of theirs.
    pub(super) segments: Vec<Segment>,
    pub(super) tar: Hashed,
    /// Of the member's hash.
    pub(super) state: Vec<u8>,
}

/// Sections that are segments now.
pub(super) struct Packed {
    /// Of each section, in their order.
    pub(super) segments: Vec<Vec<Segment>>,
    /// All of the tar went through it.
    pub(super) tar: Hashed,
    /// All segments are in it.
    pub(super) member: Member,
    /// The states when as many sections had gone through as were to be `marked`.
    pub(super) marked: Option<kept::States>,
}

/// Hashes a tar.
pub(super) type Hashed = DigestWriter<io::Sink>;

/// Makes segments of what is none yet, on at most `parallel` threads, hashes the tar, and writes the
/// segments behind each other into one gzip member. What has `begun` is not looked at.
///
/// One thread goes through the sections in order, cuts them and hashes them; the pieces are compressed
/// by all, and written by whoever has the next one. Neither `parallel` nor chance changes a segment.
pub(super) fn compress(
    sections: Vec<Section<'_>>,
    begun: Option<Begun>,
    marked: usize,
    parallel: usize,
    store: &Store,
) -> Result<Packed, Error> {
    let others = parallel.saturating_sub(1);
    let first = begun.as_ref().map_or(0, |begun| begun.sections);
    let pool = Pool {
        limit: 2 * others * CUT,
        state: Mutex::default(),
        changed: Condvar::new(),
        member: Mutex::new(Member::begin(store)?),
    };
    let mut segments = vec![Vec::new(); sections.len()];
    let mut tar_at_mark = None;
    let outcome: Result<_, Error> = thread::scope(|scope| {
        for _ in 0..others {
            scope.spawn(|| {
                let mut packer = Packer::new();
                while let Some(piece) = pool.wait() {
                    pool.pack(piece, &mut packer, store);
                }
            });
        }
        let _over = Over(&pool);
        let mut cutter = Cutter::new(&pool, store);
        let mut copying = None;
        if let Some(Begun { segments, tar, state, .. }) = begun {
            (cutter.tar, cutter.number) = (tar, segments.len());
            let pool = &pool;
            copying = Some(scope.spawn(move || {
                let is_right = pool.member().resume(&segments, &state, store)?;
                if is_right { Ok(()) } else { Err(damaged(&segments, store)) }
            }));
        }
        let mut passed = Ok(());
        for (number, section) in sections.into_iter().enumerate() {
            cutter.section = number;
            match section {
                Section::Kept(kept) if number < first => segments[number] = kept,
                // All that are damaged are found at once: what is made again for one is made for all.
                Section::Kept(kept) => {
                    for segment in kept {
                        let pass = match passed {
                            Ok(()) => cutter.pass(segment),
                            Err(_) => segment.read(store).map(drop),
                        };
                        passed = passed.and(pass);
                    }
                }
                Section::Entries(_) | Section::Files(_) | Section::Later(_) if passed.is_err() => {}
                Section::Entries(tar) => cutter.add_new(&tar)?,
                Section::Files(tree) => cutter.add(&tree)?,
                Section::Later(tree) => cutter.add(&tree()?)?,
            }
            if number + 1 == marked && first < marked {
                tar_at_mark = Some(cutter.tar.state());
                pool.member().mark(cutter.number);
            }
        }
        passed?;
        while let Some(piece) = pool.next() {
            pool.pack(piece, &mut cutter.packer, store);
        }
        if let Some(copying) = copying {
            copying.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        }
        Ok((cutter.tar, cutter.alone))
    });
    let State { packed, .. } = pool.state.into_inner().unwrap_or_else(PoisonError::into_inner);
    let packed = packed
        .into_iter()
        .map(|(number, (section, segment))| Ok((number, (section, segment?))))
        .collect::<Result<BTreeMap<usize, (usize, Segment)>, Error>>()?;
    let (tar, alone) = outcome?;
    for Alone { known, from, to } in alone {
        let pieces: Vec<Segment> =
            packed.range(from..to).map(|(_, (_, segment))| *segment).collect();
        kept::keep_bytes(&known, &pieces, store)?;
    }
    for (section, segment) in packed.into_values() {
        segments[section].push(segment);
    }
    let mut member = pool.member.into_inner().unwrap_or_else(PoisonError::into_inner);
    let marked = tar_at_mark.zip(member.take_marked());
    let marked = marked.map(|(tar, member)| kept::States { tar, member });
    Ok(Packed { segments, tar, member, marked })
}

/// Why these segments are not what a layer began with. Those that are damaged are removed, all at once.
fn damaged(begin: &[Segment], store: &Store) -> Error {
    let read = |read: Result<(), Error>, segment: &Segment| read.and(segment.read(store).map(drop));
    let forgotten = kept::Begin::of(begin).forget(store);
    match begin.iter().fold(Ok(()), read).and(forgotten) {
        Err(error) => error,
        // Then it is what was known of them.
        Ok(()) => Error::Segment { digest: begin[0].digest },
    }
}

/// What the threads share.
struct Pool {
    /// Bytes that may wait for a thread: two pieces for each of the others, so that none waits while this
    /// one is busy, and few lie in memory.
    limit: usize,
    state: Mutex<State>,
    changed: Condvar,
    member: Mutex<Member>,
}

#[derive(Default)]
struct State {
    pieces: VecDeque<Piece>,
    /// Whether no more pieces come.
    is_over: bool,
    /// By the pieces' numbers: whose it is, and what became of it.
    packed: BTreeMap<usize, (usize, Result<Segment, Error>)>,
    /// Room of pieces that are packed, for others: new pages cost as much as copying into them.
    free: Vec<Vec<u8>>,
}

/// A piece of a section, and how many went before it.
struct Piece {
    number: usize,
    section: usize,
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

    fn member(&self) -> MutexGuard<'_, Member> {
        self.member.lock().unwrap_or_else(PoisonError::into_inner)
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

    fn pack(&self, piece: Piece, packer: &mut Packer, store: &Store) {
        let Piece { number, section, mut bytes } = piece;
        let segment = keep(&bytes, packer, store).and_then(|(segment, packed)| {
            self.member().put(number, segment, packed, store)?;
            Ok(segment)
        });
        let mut state = self.lock();
        state.packed.insert(number, (section, segment));
        if bytes.capacity() >= CUT {
            bytes.clear();
            state.free.push(bytes);
        }
    }

    /// Room for a piece.
    fn room(&self) -> Vec<u8> {
        self.lock().free.pop().unwrap_or_else(|| Vec::with_capacity(CUT))
    }

    /// Leaves the piece to another thread; gives it back if enough wait already.
    fn hand_over(&self, piece: Piece) -> Option<Piece> {
        let mut state = self.lock();
        let waiting: usize = state.pieces.iter().map(|piece| piece.bytes.len()).sum();
        if waiting + piece.bytes.len() > self.limit {
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
    /// Where it is.
    section: usize,
    /// Of the piece that is not cut yet.
    number: usize,
    piece: Vec<u8>,
    alone: Vec<Alone>,
}

/// Bytes that are these pieces, for those who have them too.
struct Alone {
    known: Known,
    from: usize,
    to: usize,
}

impl<'a> Cutter<'a> {
    fn new(pool: &'a Pool, store: &'a Store) -> Self {
        let (packer, unpacker) = (Packer::new(), Unpacker::new());
        let (tar, piece, alone) = (Hashed::new(io::sink()), pool.room(), Vec::new());
        Self { pool, store, packer, unpacker, tar, section: 0, number: 0, piece, alone }
    }

    fn failed(&self, source: io::Error) -> Error {
        Error::Write { path: self.store.root().to_owned(), source }
    }

    /// Lets a segment pass that is one already.
    fn pass(&mut self, segment: Segment) -> Result<(), Error> {
        let mut packed = segment.read(self.store)?;
        self.pool.member().put(self.number, segment, &packed, self.store)?;
        self.pool.lock().packed.insert(self.number, (self.section, Ok(segment)));
        self.number += 1;
        let plain = self.unpacker.unpack(&mut packed, segment.uncompressed, segment.crc32);
        let passed = plain.and_then(|plain| self.tar.write_all(plain));
        passed.map_err(|error| self.failed(error))
    }

    /// Cuts the files and links of a section into pieces.
    fn add(&mut self, tree: &Tree) -> Result<(), Error> {
        for (path, entry) in files(tree) {
            append(self, path, entry).map_err(|error| self.failed(error))?;
            if let Node::File(content) = &entry.node {
                if content.size() < LARGE {
                    content.copy_to(self).map_err(|error| self.failed(error))?;
                } else {
                    self.add_alone(content)?;
                }
                pad(self, content.size()).map_err(|error| self.failed(error))?;
            }
        }
        self.cut();
        Ok(())
    }

    /// Bytes that are pieces of their own, which another run may have made.
    fn add_alone(&mut self, content: &Content) -> Result<(), Error> {
        match kept::bytes(&content.known(), self.store)? {
            Some(segments) => {
                self.cut();
                segments.into_iter().try_for_each(|segment| self.pass(segment))
            }
            None => self.add_new(content),
        }
    }

    /// The same, which no other run has made.
    fn add_new(&mut self, content: &Content) -> Result<(), Error> {
        self.cut();
        let (known, from) = (content.known(), self.number);
        content.copy_to(self).map_err(|error| self.failed(error))?;
        self.cut();
        self.alone.push(Alone { known, from, to: self.number });
        Ok(())
    }

    /// Ends the piece that was begun, if one was.
    fn cut(&mut self) {
        if self.piece.is_empty() {
            return;
        }
        let Self { number, section, .. } = *self;
        // Small ones, of which many may wait, take no more room than they need.
        let is_small = self.piece.len() < CUT / 8;
        let bytes = if is_small { self.piece.clone() } else { take(&mut self.piece) };
        if let Some(piece) = self.pool.hand_over(Piece { number, section, bytes }) {
            self.pool.pack(piece, &mut self.packer, self.store);
        }
        if is_small {
            self.piece.clear();
        } else {
            self.piece = self.pool.room();
        }
        self.number += 1;
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
