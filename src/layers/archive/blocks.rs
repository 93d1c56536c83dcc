//! Writes in blocks of one size.

use std::io::{self, Write};

/// Passes on exactly [`BLOCK`] bytes at a time, and the rest at the end.
///
/// zlib-rs may decide by what it has been given so far: at level 6 the same tar in other pieces made
/// a layer 3 kB larger (at 9 it did not, in the version measured). How `tar` and `io::copy` cut is
/// theirs to change, so it must not reach the compressor.
#[derive(Debug)]
pub(super) struct Blocks<W> {
    inner: W,
    block: Vec<u8>,
}

/// Bytes of a block: part of what a layer's digest depends on.
const BLOCK: usize = 128 << 10;

impl<W: Write> Blocks<W> {
    pub(super) fn new(inner: W) -> Self {
        Self { inner, block: Vec::with_capacity(BLOCK) }
    }

    /// The inner writer, after the last block, which may be short.
    pub(super) fn finish(mut self) -> io::Result<W> {
        self.inner.write_all(&self.block)?;
        Ok(self.inner)
    }
}

impl<W: Write> Write for Blocks<W> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let taken = buffer.len().min(BLOCK - self.block.len());
        self.block.extend_from_slice(&buffer[..taken]);
        if self.block.len() == BLOCK {
            self.inner.write_all(&self.block)?;
            self.block.clear();
        }
        Ok(taken)
    }

    /// Does nothing: a flush would cut a block.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Remembers how long each write was.
    struct Lengths(Vec<usize>);

    impl Write for Lengths {
        fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
            self.0.push(buffer.len());
            Ok(buffer.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn pieces_of_any_size_become_blocks() {
        let bytes = vec![7; 2 * BLOCK + 5];
        for piece in [512, 8192, BLOCK, 3 * BLOCK] {
            let mut blocks = Blocks::new(Lengths(Vec::new()));
            for piece in bytes.chunks(piece) {
                blocks.write_all(piece).unwrap();
                blocks.flush().unwrap();
            }
            assert_eq!(blocks.finish().unwrap().0, [BLOCK, BLOCK, 5]);
        }
    }
}
