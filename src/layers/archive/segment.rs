//! Pieces of a tar as pieces of a gzip stream, compressed once and kept.
//!
//! A segment is raw deflate (RFC 1951) that refers to nothing before it and ends on a byte boundary,
//! as a full flush leaves it. So segments that were made by other runs, or at the same time by other
//! threads, can be put behind each other: see [`super::gzip`]. A part's tar is cut every [`CUT`]
//! bytes, whatever lies there, so that a large distribution keeps all processors busy. What is cut
//! where depends on the part alone.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Write};
use std::mem::take;
use std::panic::resume_unwind;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use serde::{Deserialize, Serialize};

use super::deflate::{Packer, Unpacker};
use super::{Tree, append_files};
use crate::layers::Error;
use crate::oci::Digest;
use crate::store::Store;

/// Bytes of tar in a segment: part of what a layer's digest depends on. Each lies in memory as a whole, on
/// every thread; twice as many make a layer 0.2 % smaller.
pub(super) const CUT: usize = 512 << 10;

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
}

/// Compresses one piece into the store.
fn keep(piece: &[u8], packer: &mut Packer, store: &Store) -> Result<Segment, Error> {
    let failed = |source| Error::Write { path: store.root().to_owned(), source };
    let bytes = packer.pack(piece).map_err(failed)?;
    let mut writer = store.writer()?;
    writer.write_all(bytes).map_err(failed)?;
    let (digest, size) = writer.commit_unsynced()?;
    let uncompressed = piece.len() as u64;
    Ok(Segment { digest, size, crc32: crc32fast::hash(piece), uncompressed })
}

/// Compresses a tar that no earlier run has.
pub(super) fn keep_tar(tar: &[u8], store: &Store) -> Result<Vec<Segment>, Error> {
    let mut packer = Packer::new();
    tar.chunks(CUT).map(|piece| keep(piece, &mut packer, store)).collect()
}

/// What a layer's tar was put together of.
#[derive(Clone, Debug)]
pub struct Parts {
    /// All folders.
    pub folders: Vec<Segment>,
    /// Each owner's files and symbolic links, in the order of their names. They mean the same in any
    /// layer.
    pub owners: Vec<Vec<Segment>>,
    /// Hard links to what stands before, and the tar's end.
    pub links: Vec<Segment>,
}

impl Parts {
    /// All segments, in order.
    pub(super) fn segments(&self) -> impl Iterator<Item = &Segment> {
        let owners = self.owners.iter().flatten();
        self.folders.iter().chain(owners).chain(&self.links)
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
            self.rest.extend(self.unpacker.unpack(packed, segment.uncompressed)?);
        }
        self.rest.read(buffer)
    }
}

/// Compresses the files of `count` trees, at most `parallel` pieces at once; `tree` makes one of
/// them, at the time it is needed. Returns each one's result, in their order.
///
/// Neither `parallel` nor chance changes a segment.
pub(in crate::layers) fn compress<T: Send>(
    count: usize,
    parallel: usize,
    store: &Store,
    tree: impl Fn(usize) -> Result<(Tree, T), Error> + Sync,
) -> Vec<Result<(Vec<Segment>, T), Error>> {
    let pool = Pool { limit: parallel.max(1), state: Mutex::default(), changed: Condvar::new() };
    pool.lock().waiting = (0..count).collect();
    let failed = |source| Error::Write { path: store.root().to_owned(), source };
    let work = || {
        let mut packer = Packer::new();
        while let Some(task) = pool.next() {
            match task {
                Task::Piece(piece) => pool.pack(&piece, &mut packer, store),
                Task::Tree(number) => {
                    let result = tree(number).and_then(|(tree, rest)| {
                        let packer = &mut packer;
                        let piece = Vec::with_capacity(CUT);
                        let cutter =
                            Cutter { pool: &pool, store, packer, number, pieces: 0, piece };
                        append_files(&tree, cutter).map_err(failed)?.cut();
                        Ok(rest)
                    });
                    let mut state = pool.lock();
                    state.trees.insert(number, result);
                    state.cutting -= 1;
                    pool.changed.notify_all();
                }
            }
        }
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..pool.limit).map(|_| scope.spawn(work)).collect();
        for worker in workers {
            worker.join().unwrap_or_else(|panic| resume_unwind(panic));
        }
    });
    let State { trees, segments, .. } =
        pool.state.into_inner().unwrap_or_else(PoisonError::into_inner);
    let mut of_trees: BTreeMap<usize, Result<Vec<Segment>, Error>> = BTreeMap::new();
    for ((number, _), segment) in segments {
        let all = of_trees.entry(number).or_insert_with(|| Ok(Vec::new()));
        match (all, segment) {
            (Ok(all), Ok(segment)) => all.push(segment),
            (all @ Ok(_), Err(error)) => *all = Err(error),
            (Err(_), _) => {}
        }
    }
    trees
        .into_iter()
        .map(|(number, rest)| {
            let rest = rest?;
            Ok((of_trees.remove(&number).unwrap_or_else(|| Ok(Vec::new()))?, rest))
        })
        .collect()
}

/// What the threads share: pieces come first, so that few of them lie around.
struct Pool<T> {
    limit: usize,
    state: Mutex<State<T>>,
    changed: Condvar,
}

struct State<T> {
    waiting: VecDeque<usize>,
    pieces: VecDeque<Piece>,
    /// Threads that wait for something to do.
    idle: usize,
    /// Trees that are being made or cut.
    cutting: usize,
    trees: BTreeMap<usize, Result<T, Error>>,
    segments: BTreeMap<(usize, usize), Result<Segment, Error>>,
}

impl<T> Default for State<T> {
    fn default() -> Self {
        Self {
            waiting: VecDeque::new(),
            pieces: VecDeque::new(),
            idle: 0,
            cutting: 0,
            trees: BTreeMap::new(),
            segments: BTreeMap::new(),
        }
    }
}

/// A piece of a tree's tar.
struct Piece {
    tree: usize,
    number: usize,
    bytes: Vec<u8>,
}

enum Task {
    Piece(Piece),
    Tree(usize),
}

impl<T> Pool<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next(&self) -> Option<Task> {
        let mut state = self.lock();
        loop {
            if let Some(piece) = state.pieces.pop_front() {
                return Some(Task::Piece(piece));
            }
            if let Some(number) = state.waiting.pop_front() {
                state.cutting += 1;
                return Some(Task::Tree(number));
            }
            if state.cutting == 0 {
                return None;
            }
            state.idle += 1;
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.idle -= 1;
        }
    }

    fn pack(&self, piece: &Piece, packer: &mut Packer, store: &Store) {
        let segment = keep(&piece.bytes, packer, store);
        self.lock().segments.insert((piece.tree, piece.number), segment);
    }

    /// Leaves the piece to a thread that has nothing to do; gives it back if there is none. So no more
    /// pieces are in memory than there are threads, twice.
    fn hand_over(&self, piece: Piece) -> Option<Piece> {
        let mut state = self.lock();
        if state.idle <= state.pieces.len() {
            return Some(piece);
        }
        state.pieces.push_back(piece);
        self.changed.notify_one();
        None
    }
}

/// Cuts what is written into pieces.
struct Cutter<'a, T> {
    pool: &'a Pool<T>,
    store: &'a Store,
    packer: &'a mut Packer,
    number: usize,
    pieces: usize,
    /// What is not cut yet.
    piece: Vec<u8>,
}

impl<T> Cutter<'_, T> {
    /// Ends the piece that was begun, if one was.
    fn cut(&mut self) {
        if self.piece.is_empty() {
            return;
        }
        let (tree, number, bytes) = (self.number, self.pieces, take(&mut self.piece));
        if let Some(mut piece) = self.pool.hand_over(Piece { tree, number, bytes }) {
            self.pool.pack(&piece, self.packer, self.store);
            piece.bytes.clear();
            self.piece = piece.bytes;
        }
        self.pieces += 1;
    }
}

impl<T> Write for Cutter<'_, T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(CUT - self.piece.len());
        self.piece.extend_from_slice(&bytes[..taken]);
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
