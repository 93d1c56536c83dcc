//! Pieces of a tar as pieces of one deflate stream.
//!
//! libdeflate compresses as well as zlib's level 9 in a third of the time, but knows only whole streams:
//! its last block says that nothing follows (`BFINAL`, RFC 1951, 3.2.3), and lies at some bit
//! that only whoever walks through the stream finds: see [`super::blocks`]. The bit is cleared, and an
//! empty stored block brings the end to a byte boundary, as a full flush of zlib does. Whoever reads a
//! piece again compares its CRC-32.
//!
//! The level is libdeflate's default, 6. Measured on the layer of a load generator (33.5 MB of tar, in
//! pieces) with one thread, finding the last block included, beside what GNU gzip -6 makes of it at once:
//!
//! | compressor | level | MB | s |
//! | --- | --- | --- | --- |
//! | zlib-rs 0.6 | 6 | 10.18 | 0.48 |
//! | zlib-rs 0.6 | 9 | 9.95 | 1.34 |
//! | libdeflate 1.26 | 5 | 10.01 | 0.33 |
//! | libdeflate 1.26 | 6 | 9.94 | 0.42 |
//! | libdeflate 1.26 | 7 | 9.89 | 0.54 |
//! | libdeflate 1.26 | 9 | 9.84 | 1.07 |
//! | gzip | 6 | 10.01 | 1.17 |

use std::io;

use libdeflater::{CompressionLvl, Compressor, Decompressor};

use super::blocks::{LastBlock, last_block};

/// The end of an empty stored block: no bytes, and the complement of that.
const EMPTY: [u8; 4] = [0, 0, 0xff, 0xff];

/// An empty last block: it ends a stream of pieces.
pub(super) const LAST_BLOCK: [u8; 2] = [3, 0];

/// Compresses pieces; for one thread.
pub(super) struct Packer {
    compressor: Compressor,
    /// Never shorter than it was: what is behind a piece is nothing.
    packed: Vec<u8>,
}

impl Packer {
    pub(super) fn new() -> Self {
        Self { compressor: Compressor::new(CompressionLvl::default()), packed: Vec::new() }
    }

    /// Blocks that refer to nothing before them, end on a byte boundary, and are not the last of their
    /// stream. The same for the same piece, on every machine.
    pub(super) fn pack(&mut self, piece: &[u8]) -> io::Result<&[u8]> {
        let most = self.compressor.deflate_compress_bound(piece.len()) + 1 + EMPTY.len();
        if self.packed.len() < most {
            self.packed.resize(most, 0);
        }
        let mut size = self
            .compressor
            .deflate_compress(piece, &mut self.packed)
            .map_err(|error| io::Error::other(error.to_string()))?;
        let unused = open_end(&mut self.packed[..size])
            .ok_or_else(|| io::Error::other("what was compressed cannot be read again"))?;
        // A block's header has three bits, and a stored one begins at the byte behind it. Unused bits
        // are zero, as such a header is.
        if unused < 3 {
            self.packed[size] = 0;
            size += 1;
        }
        self.packed[size..][..EMPTY.len()].copy_from_slice(&EMPTY);
        Ok(&self.packed[..size + EMPTY.len()])
    }
}

/// Makes the stream's last block one that is not the last; returns how many bits of the last byte are
/// unused. `None` if it is not one whole stream.
fn open_end(stream: &mut [u8]) -> Option<usize> {
    let LastBlock { header, end } = last_block(stream)?;
    *stream.get_mut(header / 8)? &= !(1 << (header % 8));
    let unused = (8 * stream.len()).checked_sub(end)?;
    (unused < 8).then_some(unused)
}

/// Decompresses packed pieces; for one thread.
pub(super) struct Unpacker {
    decompressor: Decompressor,
    piece: Vec<u8>,
}

impl Unpacker {
    pub(super) fn new() -> Self {
        Self { decompressor: Decompressor::new(), piece: Vec::new() }
    }

    /// The piece of so many bytes that was packed; fails if it has another CRC-32. What was packed gets a last
    /// block meanwhile.
    pub(super) fn unpack(
        &mut self,
        packed: &mut Vec<u8>,
        size: u64,
        crc32: u32,
    ) -> io::Result<&[u8]> {
        self.piece.resize(usize::try_from(size).map_err(io::Error::other)?, 0);
        let end = packed.len();
        packed.extend_from_slice(&LAST_BLOCK);
        let read = self.decompressor.deflate_decompress(packed, &mut self.piece);
        packed.truncate(end);
        let piece = &self.piece[..read.map_err(io::Error::other)?];
        if crc32fast::hash(piece) == crc32 {
            return Ok(piece);
        }
        Err(io::Error::other("what was compressed is not what is there when it is read again"))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use proptest::prelude::*;

    use super::*;

    fn inflated(pieces: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut decoder = flate2::bufread::DeflateDecoder::new(pieces);
        decoder.read_to_end(&mut bytes).unwrap();
        assert!(decoder.into_inner().is_empty());
        bytes
    }

    proptest! {
        /// Of few letters and many, so that there are blocks of all three kinds.
        #[test]
        fn pieces_are_one_stream(
            pieces in prop::collection::vec(
                (1..=256_usize, prop::collection::vec(any::<u8>(), 0..3000), 1..40_usize), 1..5
            )
        ) {
            let mut packer = Packer::new();
            let (mut stream, mut plain) = (Vec::new(), Vec::new());
            for (letters, bytes, times) in pieces {
                let piece: Vec<u8> = bytes.iter().map(|byte| byte % u8::try_from(letters).unwrap_or(255)).collect();
                let piece = piece.repeat(times);
                let packed = packer.pack(&piece).unwrap().to_vec();
                let (size, crc32) = (piece.len() as u64, crc32fast::hash(&piece));
                let mut unpacker = Unpacker::new();
                prop_assert!(unpacker.unpack(&mut packed.clone(), size, crc32).unwrap() == piece);
                prop_assert!(unpacker.unpack(&mut packed.clone(), size, !crc32).is_err());
                // Whatever was packed before changes nothing.
                prop_assert!(Packer::new().pack(&piece).unwrap() == packed);
                stream.extend(packed);
                plain.extend(piece);
            }
            stream.extend(LAST_BLOCK);
            prop_assert_eq!(inflated(&stream), plain);
        }
    }

    #[test]
    fn only_a_whole_stream_is_opened() {
        let mut packer = Packer::new();
        let piece: Vec<u8> = (0..400_000_u32).map(|n| (n / 7 % 251) as u8).collect();
        packer.packed.resize(packer.compressor.deflate_compress_bound(piece.len()), 0);
        let size = packer.compressor.deflate_compress(&piece, &mut packer.packed).unwrap();
        let whole = &packer.packed[..size];
        assert!(open_end(&mut whole.to_vec()).is_some());
        assert!(open_end(&mut whole[..size - 1].to_vec()).is_none());
        assert!(open_end(&mut [whole, &[0]].concat()).is_none());
        assert!(open_end(&mut []).is_none());
    }
}
