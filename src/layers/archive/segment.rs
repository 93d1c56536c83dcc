//! Pieces of a tar as pieces of a gzip stream, compressed once and kept.
//!
//! A segment is raw deflate (RFC 1951) that refers to nothing before it and ends on a byte boundary,
//! as a full flush leaves it. So segments that were made by other runs, or at the same time by other
//! threads, can be put behind each other: see [`super::gzip`]. A part's tar is cut every [`CUT`]
//! bytes, whatever lies there, so that a large distribution keeps all processors busy. What is cut
//! where depends on the part alone.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Write};
use std::panic::resume_unwind;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use flate2::{Compress, Compression, FlushCompress, Status};
use serde::{Deserialize, Serialize};

use super::blocks::Blocks;
use super::{LEVEL, Tree, append_files};
use crate::layers::Error;
use crate::oci::Digest;
use crate::store::{BlobWriter, Store};

/// Bytes of tar in a segment: part of what a layer's digest depends on.
pub(super) const CUT: usize = 4 << 20;

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

/// Compresses what is written, and counts and checks it on its way.
pub(super) struct Deflater<W> {
    out: W,
    compress: Compress,
    buffer: Vec<u8>,
    crc32: crc32fast::Hasher,
    uncompressed: u64,
}

impl<W: Write> Deflater<W> {
    pub(super) fn new(out: W) -> Self {
        Self {
            out,
            compress: Compress::new(Compression::new(LEVEL), false),
            buffer: Vec::with_capacity(64 << 10),
            crc32: crc32fast::Hasher::new(),
            uncompressed: 0,
        }
    }

    /// Ends the segment on a byte boundary; returns the writer, the CRC-32 and the uncompressed size.
    pub(super) fn finish(mut self, flush: FlushCompress) -> io::Result<(W, u32, u64)> {
        loop {
            let is_done = match self.compress.compress_vec(&[], &mut self.buffer, flush)? {
                Status::StreamEnd => true,
                // Room was left: all is out.
                Status::Ok | Status::BufError => self.buffer.len() < self.buffer.capacity(),
            };
            self.out.write_all(&self.buffer)?;
            self.buffer.clear();
            if is_done {
                return Ok((self.out, self.crc32.finalize(), self.uncompressed));
            }
        }
    }
}

impl<W: Write> Write for Deflater<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let before = self.compress.total_in();
            self.compress.compress_vec(rest, &mut self.buffer, FlushCompress::None)?;
            let taken = usize::try_from(self.compress.total_in() - before).unwrap_or(rest.len());
            rest = &rest[taken..];
            if self.buffer.len() == self.buffer.capacity() {
                self.out.write_all(&self.buffer)?;
                self.buffer.clear();
            }
        }
        self.crc32.update(bytes);
        self.uncompressed += bytes.len() as u64;
        Ok(bytes.len())
    }

    /// Does nothing: a flush would cut the stream.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Compresses one piece into the store.
struct Packer(Blocks<Deflater<BlobWriter>>);

impl Packer {
    fn new(store: &Store) -> io::Result<Self> {
        let writer = store.writer().map_err(io::Error::other)?;
        Ok(Self(Blocks::new(Deflater::new(writer))))
    }

    fn finish(self) -> io::Result<Segment> {
        let deflater = self.0.finish()?;
        let (writer, crc32, uncompressed) = deflater.finish(FlushCompress::Full)?;
        let (digest, size) = writer.commit_unsynced().map_err(io::Error::other)?;
        Ok(Segment { digest, size, crc32, uncompressed })
    }
}

fn keep(bytes: &[u8], store: &Store) -> io::Result<Segment> {
    let mut packer = Packer::new(store)?;
    packer.0.write_all(bytes)?;
    packer.finish()
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
    let work = || {
        while let Some(task) = pool.next() {
            match task {
                Task::Piece(piece) => pool.compress(&piece, store),
                Task::Tree(number) => {
                    let result = tree(number).and_then(|(tree, rest)| {
                        let cutter = Cutter {
                            pool: &pool,
                            store,
                            number,
                            pieces: 0,
                            written: 0,
                            piece: None,
                        };
                        append_files(&tree, cutter)
                            .and_then(Cutter::finish)
                            .map_err(|source| Error::Write { path: store.root().into(), source })?;
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
    /// Pieces that are being filled for them.
    promised: usize,
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
            promised: 0,
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

    fn compress(&self, piece: &Piece, store: &Store) {
        let segment = keep(&piece.bytes, store)
            .map_err(|source| Error::Write { path: store.root().to_owned(), source });
        self.lock().segments.insert((piece.tree, piece.number), segment);
    }

    /// Whether a thread has nothing to do, and nobody else fills a piece for it: then it is promised
    /// one.
    fn promise(&self) -> bool {
        let mut state = self.lock();
        let is_free = state.idle > state.pieces.len() + state.promised;
        state.promised += usize::from(is_free);
        is_free
    }

    fn hand_over(&self, piece: Piece) {
        let mut state = self.lock();
        state.promised -= 1;
        state.pieces.push_back(piece);
        self.changed.notify_one();
    }
}

/// Cuts what is written into pieces.
struct Cutter<'a, T> {
    pool: &'a Pool<T>,
    store: &'a Store,
    number: usize,
    pieces: usize,
    /// Bytes of the piece that was begun.
    written: usize,
    piece: Option<Begun>,
}

/// Only a piece for another thread is ever in memory: there are at most as many as threads.
enum Begun {
    ForAnother(Vec<u8>),
    Here(Box<Packer>),
}

impl<T> Cutter<'_, T> {
    fn begin(&self) -> io::Result<Begun> {
        if self.pool.promise() {
            return Ok(Begun::ForAnother(Vec::with_capacity(CUT)));
        }
        Ok(Begun::Here(Box::new(Packer::new(self.store)?)))
    }

    fn cut(&mut self) -> io::Result<()> {
        let (tree, number) = (self.number, self.pieces);
        match self.piece.take() {
            Some(Begun::ForAnother(bytes)) => self.pool.hand_over(Piece { tree, number, bytes }),
            Some(Begun::Here(packer)) => {
                let segment = packer.finish()?;
                self.pool.lock().segments.insert((tree, number), Ok(segment));
            }
            None => return Ok(()),
        }
        self.pieces += 1;
        self.written = 0;
        Ok(())
    }

    fn finish(mut self) -> io::Result<()> {
        self.cut()
    }
}

impl<T> Write for Cutter<'_, T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.is_empty() {
            return Ok(0);
        }
        let taken = bytes.len().min(CUT - self.written);
        let piece = match self.piece.take() {
            Some(piece) => piece,
            None => self.begin()?,
        };
        match self.piece.insert(piece) {
            Begun::ForAnother(piece) => piece.extend_from_slice(&bytes[..taken]),
            Begun::Here(packer) => packer.0.write_all(&bytes[..taken])?,
        }
        self.written += taken;
        if self.written == CUT {
            self.cut()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
