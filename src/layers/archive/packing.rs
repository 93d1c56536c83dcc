//! Sections of a tar become [segments](Segment), side by side.
//!
//! A part's tar is cut every [`CUT`] bytes, whatever lies there, so that a large distribution keeps all
//! processors busy, and before and behind the bytes of every [`LARGE`] file, so that another version of the
//! distribution finds those that it has too. What is cut where depends on the part alone. A piece is written
//! into the layer as soon as it is compressed and all before it are there.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Write};
use std::mem::take;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use super::deflate::{Packer, Unpacker};
use super::entry::{append, pad};
use super::gzip::{Member, Written};
use super::segment::{CUT, Segment};
use super::{Tree, files};
use crate::layers::content::Content;
use crate::layers::tree::{Known, Node};
use crate::layers::{Error, kept};
use crate::store::Store;

/// Bytes of a file that has segments of its own. Of the load generator's next version one file, a third of
/// its bytes, was the same, and none else above 64 KiB; each cut costs compression.
pub(super) const LARGE: u64 = 256 << 10;

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
    /// Behind them.
    pub(super) states: kept::States,
}

/// Sections that are segments now.
pub(super) struct Packed {
    /// Of each section, in their order.
    pub(super) segments: Vec<Vec<Segment>>,
    /// All segments.
    pub(super) written: Written,
    /// The states behind so many sections.
    pub(super) marked: Vec<(usize, kept::States)>,
}

/// Makes segments of what is none yet, on at most `parallel` threads, and writes all of them behind each
/// other into one gzip member. What has `begun` is not looked at; the states of the member's hashes are noted
/// behind as many sections as each of `marks` says.
///
/// One thread goes through the sections in order and cuts them; the pieces are compressed, or read again, by
/// all, and written by whoever has the next one. Neither `parallel` nor chance changes a segment.
pub(super) fn compress(
    sections: Vec<Section<'_>>,
    begun: Option<Begun>,
    marks: &[usize],
    parallel: usize,
    store: &Store,
) -> Result<Packed, Error> {
    let others = parallel.saturating_sub(1);
    let first = begun.as_ref().map_or(0, |begun| begun.sections);
    let written = match &begun {
        // It is copied meanwhile.
        Some(_) => None,
        None => Some(Written::begin(store)?),
    };
    let pool = Pool {
        limit: 2 * others * CUT,
        state: Mutex::default(),
        changed: Condvar::new(),
        member: Mutex::new(Member::behind(written, parallel)),
    };
    let mut segments = vec![Vec::new(); sections.len()];
    let mut noted = Vec::new();
    let outcome: Result<_, Error> = thread::scope(|scope| {
        for _ in 0..others {
            scope.spawn(|| {
                let mut tools = Tools::new();
                while let Some(piece) = pool.wait() {
                    pool.finish(piece, &mut tools, store);
                }
            });
        }
        let _over = Over(&pool);
        let mut cutter = Cutter::new(&pool, store);
        let mut copying = None;
        if let Some(Begun { segments, states, .. }) = begun {
            cutter.number = segments.len();
            let pool = &pool;
            copying =
                Some(scope.spawn(move || match Written::copied(&segments, &states, store)? {
                    Some(written) => pool.member().go_on(written, store),
                    None => Err(damaged(&segments, store)),
                }));
        }
        for (number, section) in sections.into_iter().enumerate() {
            if number > first && marks.contains(&number) {
                pool.member().mark(cutter.number);
                noted.push((number, cutter.number));
            }
            cutter.section = number;
            match section {
                Section::Kept(kept) if number < first => segments[number] = kept,
                // All that are damaged are found at once: what is made again for one is made for all.
                Section::Kept(kept) => kept.into_iter().for_each(|segment| cutter.pass(segment)),
                Section::Entries(_) | Section::Files(_) | Section::Later(_)
                    if pool.has_failed() => {}
                Section::Entries(tar) => cutter.add_new(&tar)?,
                Section::Files(tree) => cutter.add(&tree)?,
                Section::Later(tree) => cutter.add(&tree()?)?,
            }
        }
        while let Some(piece) = pool.next() {
            pool.finish(piece, &mut cutter.tools, store);
        }
        if let Some(copying) = copying {
            copying.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        }
        Ok(cutter.alone)
    });
    let State { packed, .. } = pool.state.into_inner().unwrap_or_else(PoisonError::into_inner);
    let packed = packed
        .into_iter()
        .map(|(number, (section, segment))| Ok((number, (section, segment?))))
        .collect::<Result<BTreeMap<usize, (usize, Segment)>, Error>>()?;
    for Alone { known, from, to } in outcome? {
        let pieces: Vec<Segment> =
            packed.range(from..to).map(|(_, (_, segment))| *segment).collect();
        kept::keep_bytes(&known, &pieces, store)?;
    }
    for (section, segment) in packed.into_values() {
        segments[section].push(segment);
    }
    let mut member = pool.member.into_inner().unwrap_or_else(PoisonError::into_inner);
    let mut marked = member.take_marked();
    let marked = noted
        .into_iter()
        .filter_map(|(sections, pieces)| Some((sections, marked.remove(&pieces)?)))
        .collect();
    let written = member
        .into_written()
        .map_err(|source| Error::Write { path: store.root().to_owned(), source })?;
    Ok(Packed { segments, written, marked })
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
    /// Whether one could not be had.
    has_failed: bool,
    /// By the pieces' numbers: whose it is, and what became of it.
    packed: BTreeMap<usize, (usize, Result<Segment, Error>)>,
    /// Room of pieces that are packed, for others: new pages cost as much as copying into them.
    free: Vec<Vec<u8>>,
}

/// A piece of a section, and how many went before it.
struct Piece {
    number: usize,
    section: usize,
    work: Work,
}

/// What a piece lacks.
enum Work {
    /// It is to be compressed.
    Pack(Vec<u8>),
    /// It was; to be hashed it is to be read again.
    Unpack(Segment),
}

impl Work {
    /// Bytes of the tar.
    fn size(&self) -> usize {
        match self {
            Self::Pack(bytes) => bytes.len(),
            // None is larger than [`CUT`].
            Self::Unpack(segment) => usize::try_from(segment.uncompressed).unwrap_or(CUT),
        }
    }
}

/// Of one thread.
struct Tools {
    packer: Packer,
    unpacker: Unpacker,
}

impl Tools {
    fn new() -> Self {
        Self { packer: Packer::new(), unpacker: Unpacker::new() }
    }
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

    /// Does what a piece lacks, and hands it to the member.
    fn finish(&self, piece: Piece, tools: &mut Tools, store: &Store) {
        let Piece { number, section, work } = piece;
        let segment = match work {
            Work::Pack(bytes) => self.pack(number, bytes, &mut tools.packer, store),
            Work::Unpack(segment) => self.unpack(number, segment, &mut tools.unpacker, store),
        };
        let mut state = self.lock();
        state.has_failed |= segment.is_err();
        state.packed.insert(number, (section, segment));
    }

    fn pack(
        &self,
        number: usize,
        mut bytes: Vec<u8>,
        packer: &mut Packer,
        store: &Store,
    ) -> Result<Segment, Error> {
        let (segment, compressed) = keep(&bytes, packer, store)?;
        self.member().put(number, segment, compressed, &bytes, store)?;
        if bytes.capacity() >= CUT {
            bytes.clear();
            self.lock().free.push(bytes);
        }
        Ok(segment)
    }

    fn unpack(
        &self,
        number: usize,
        segment: Segment,
        unpacker: &mut Unpacker,
        store: &Store,
    ) -> Result<Segment, Error> {
        let mut packed = segment.read(store)?;
        let plain = segment.unpack(&mut packed, unpacker, store)?;
        self.member().put(number, segment, &packed, plain, store)?;
        Ok(segment)
    }

    fn has_failed(&self) -> bool {
        self.lock().has_failed
    }

    /// Room for a piece.
    fn room(&self) -> Vec<u8> {
        self.lock().free.pop().unwrap_or_else(|| Vec::with_capacity(CUT))
    }

    /// Leaves the piece to another thread; gives back the one that waits longest if enough wait already.
    fn hand_over(&self, piece: Piece) -> Option<Piece> {
        let mut state = self.lock();
        state.pieces.push_back(piece);
        let waiting: usize = state.pieces.iter().map(|piece| piece.work.size()).sum();
        if waiting > self.limit {
            return state.pieces.pop_front();
        }
        self.changed.notify_one();
        None
    }
}

/// Cuts what is written into pieces.
struct Cutter<'a> {
    pool: &'a Pool,
    store: &'a Store,
    tools: Tools,
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
        let (tools, piece, alone) = (Tools::new(), pool.room(), Vec::new());
        Self { pool, store, tools, section: 0, number: 0, piece, alone }
    }

    fn failed(&self, source: io::Error) -> Error {
        Error::Write { path: self.store.root().to_owned(), source }
    }

    /// Lets a segment pass that is one already.
    fn pass(&mut self, segment: Segment) {
        self.hand_over(Work::Unpack(segment));
    }

    /// The next piece, for whoever has time.
    fn hand_over(&mut self, work: Work) {
        let piece = Piece { number: self.number, section: self.section, work };
        self.number += 1;
        if let Some(piece) = self.pool.hand_over(piece) {
            self.pool.finish(piece, &mut self.tools, self.store);
        }
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
                for segment in segments {
                    self.pass(segment);
                }
                Ok(())
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
        // Small ones, of which many may wait, take no more room than they need.
        let is_small = self.piece.len() < CUT / 8;
        let bytes = if is_small { self.piece.clone() } else { take(&mut self.piece) };
        self.hand_over(Work::Pack(bytes));
        if is_small {
            self.piece.clear();
        } else {
            self.piece = self.pool.room();
        }
    }
}

impl Write for Cutter<'_> {
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
