//! One file that several threads write to.
//!
//! A blob is hashed from its begin to its end, so by one thread; the largest takes longest. Whoever has no
//! blob to hash any more writes what the others have hashed.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// The file, and what waits to be written to it.
#[derive(Debug)]
pub(super) struct Writers<'a> {
    file: &'a File,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Blobs that are being hashed.
    readers: usize,
    /// Threads that wait for something to write.
    idle: usize,
    pieces: VecDeque<(u64, Vec<u8>)>,
    /// Pieces that were written, to be filled again.
    spare: Vec<Vec<u8>>,
    failed: Option<io::Error>,
}

/// A blob that is being hashed, until it is dropped.
#[derive(Debug)]
pub(super) struct Reader<'a>(&'a Writers<'a>);

impl Drop for Reader<'_> {
    fn drop(&mut self) {
        self.0.lock().readers -= 1;
        self.0.changed.notify_all();
    }
}

impl<'a> Writers<'a> {
    pub(super) fn new(file: &'a File) -> Self {
        Self { file, state: Mutex::default(), changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says that this thread is going to [`Self::put`].
    pub(super) fn reader(&'a self) -> Reader<'a> {
        self.lock().readers += 1;
        Reader(self)
    }

    /// Writes `bytes` at `place`, or leaves that to a thread that has nothing to do; returns a piece to
    /// be filled.
    pub(super) fn put(&self, place: u64, bytes: Vec<u8>) -> io::Result<Vec<u8>> {
        let mut state = self.lock();
        if state.idle > state.pieces.len() {
            state.pieces.push_back((place, bytes));
            self.changed.notify_one();
            return Ok(state.spare.pop().unwrap_or_default());
        }
        drop(state);
        self.file.write_all_at(&bytes, place)?;
        Ok(bytes)
    }

    /// Writes what is left to this thread, until there are no readers any more.
    pub(super) fn help(&self) {
        let mut state = self.lock();
        loop {
            if let Some((place, bytes)) = state.pieces.pop_front() {
                drop(state);
                let written = self.file.write_all_at(&bytes, place);
                state = self.lock();
                state.spare.push(bytes);
                if let Err(error) = written {
                    state.failed.get_or_insert(error);
                }
            } else if state.readers == 0 {
                return;
            } else {
                state.idle += 1;
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                state.idle -= 1;
            }
        }
    }

    /// Whether all was written, when nobody writes any more.
    pub(super) fn finish(self) -> io::Result<()> {
        let state = self.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        state.failed.map_or(Ok(()), Err)
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn all_pieces_are_at_their_places_whoever_wrote_them() {
        let file = tempfile::tempfile().unwrap();
        let writers = Writers::new(&file);
        thread::scope(|scope| {
            for first in [0_u64, 3] {
                let writers = &writers;
                scope.spawn(move || {
                    let reader = writers.reader();
                    for number in (first..300).step_by(4) {
                        let byte = u8::try_from(number % 251).unwrap();
                        writers.put(number * 10, vec![byte; 10]).unwrap();
                    }
                    drop(reader);
                    writers.help();
                });
            }
            scope.spawn(|| writers.help());
        });
        writers.finish().unwrap();
        let mut bytes = vec![0; 3000];
        file.read_exact_at(&mut bytes, 0).unwrap();
        for (number, piece) in bytes.chunks(10).enumerate() {
            let is_there = [0, 3].contains(&(number % 4));
            let expected = if is_there { u8::try_from(number % 251).unwrap() } else { 0 };
            assert_eq!(piece, [expected; 10], "{number}");
        }
    }

    #[test]
    fn what_a_helper_cannot_write_is_an_error() {
        let file = fs_err::File::open("/dev/null").unwrap().into_file();
        let writers = Writers::new(&file);
        writers.lock().pieces.push_back((0, vec![1]));
        writers.help();
        assert!(writers.finish().is_err());
        assert!(Writers::new(&file).put(0, vec![1]).is_err());
    }
}
