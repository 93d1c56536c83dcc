//! The blocks of a deflate stream (RFC 1951), walked without looking at what they say (pure).
//!
//! Where the last block begins is told by no table: a block ends where its codes end. Only how long they
//! are matters for that, so a code with its extra bits is one step, and no byte is produced. It takes a
//! third of the time that reading the stream takes, which was 8 % of a first assembly.

/// Bits of the longest code.
const LONGEST: usize = 15;
/// In which order the lengths of the codes for lengths of codes come (3.2.7).
const ORDER: [usize; 19] = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];
/// The extra bits of lengths, from symbol 257 on, and of distances (3.2.5).
const LENGTHS: [u8; 29] =
    [0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0];
const DISTANCES: [u8; 30] = [
    0, 0, 0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8, 9, 9, 10, 10, 11, 11, 12, 12, 13,
    13,
];

/// The last block of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LastBlock {
    /// The bit that says so (`BFINAL`), counted from the stream's first: the lowest of the first byte.
    pub(super) header: usize,
    /// The first bit behind it.
    pub(super) end: usize,
}

/// The last block of the stream that `bytes` begin with; `None` if they begin with no whole one.
pub(super) fn last_block(bytes: &[u8]) -> Option<LastBlock> {
    let mut bits = Bits { bytes, next: 0, buffer: 0, count: 0 };
    let (mut literals, mut distances) = (Steps::new(), Steps::new());
    loop {
        let header = bits.position();
        let is_last = bits.take(1)? == 1;
        match bits.take(2)? {
            0 => bits.pass_stored()?,
            1 => {
                literals.set(&fixed_lengths(), literal)?;
                distances.set(&[5; 30], distance)?;
                bits.pass(&literals, &distances)?;
            }
            2 => {
                bits.read_codes(&mut literals, &mut distances)?;
                bits.pass(&literals, &distances)?;
            }
            _ => return None,
        }
        let end = bits.position();
        if end > 8 * bytes.len() {
            return None;
        }
        if is_last {
            return Some(LastBlock { header, end });
        }
    }
}

/// 3.2.6.
fn fixed_lengths() -> [u8; 288] {
    std::array::from_fn(|symbol| match symbol {
        144..256 => 9,
        256..280 => 7,
        _ => 8,
    })
}

/// What a code is the begin of, above the number of bits to the next code.
const KIND: u8 = 0b1110_0000;
const NONE: u8 = 0;
const LITERAL: u8 = 1 << 5;
const LENGTH: u8 = 2 << 5;
const END: u8 = 3 << 5;
const DISTANCE: u8 = 4 << 5;

fn bits_of(step: u8) -> u32 {
    u32::from(step & !KIND)
}

fn literal(symbol: usize, code: u8) -> u8 {
    match symbol {
        0..256 => LITERAL | code,
        256 => END | code,
        _ => LENGTHS.get(symbol - 257).map_or(NONE, |extra| LENGTH | (code + extra)),
    }
}

fn distance(symbol: usize, code: u8) -> u8 {
    DISTANCES.get(symbol).map_or(NONE, |extra| DISTANCE | (code + extra))
}

/// For all that may come next, what it begins with.
struct Steps {
    /// Of the longest code.
    bits: u32,
    steps: Vec<u8>,
}

impl Steps {
    fn new() -> Self {
        Self { bits: 0, steps: vec![NONE; 1 << LONGEST] }
    }

    /// Gives each symbol the code that its length says (3.2.2); `None` if these are more than fit.
    fn set(&mut self, lengths: &[u8], step: impl Fn(usize, u8) -> u8) -> Option<()> {
        let mut counts = [0_u32; LONGEST + 1];
        for length in lengths {
            counts[usize::from(*length)] += 1;
        }
        counts[0] = 0;
        let longest = counts.iter().rposition(|count| *count > 0).unwrap_or(0);
        let (mut code, mut next) = (0, [0; LONGEST + 1]);
        for length in 1..=longest {
            code = (code + counts[length - 1]) << 1;
            next[length] = code;
        }
        let steps = self.steps.get_mut(..1 << longest)?;
        let used = usize::try_from(next[longest] + counts[longest]).ok()?;
        if used > steps.len() {
            return None;
        }
        if used < steps.len() {
            steps.fill(NONE);
        }
        for (symbol, length) in lengths.iter().enumerate().filter(|(_, length)| **length > 0) {
            let code = &mut next[usize::from(*length)];
            // A code comes with its highest bit first.
            let first = usize::try_from(code.reverse_bits() >> (32 - u32::from(*length))).ok()?;
            *code += 1;
            let step = step(symbol, *length);
            steps[first..].iter_mut().step_by(1 << *length).for_each(|place| *place = step);
        }
        self.bits = u32::try_from(longest).ok()?;
        Some(())
    }

    fn at(&self, buffer: u64) -> u8 {
        let place = buffer & ((1 << self.bits) - 1);
        usize::try_from(place).map_or(NONE, |place| self.steps[place])
    }
}

/// A stream, from its lowest bit on.
struct Bits<'a> {
    bytes: &'a [u8],
    /// Behind what is in the buffer. Behind the last byte stand zeros that nobody wrote.
    next: usize,
    buffer: u64,
    /// How many bits of the buffer count.
    count: u32,
}

impl Bits<'_> {
    /// How many bits went by.
    fn position(&self) -> usize {
        8 * self.next - self.count as usize
    }

    /// Makes sure of at least 56 bits; `None` far behind the end.
    fn refill(&mut self) -> Option<()> {
        if let Some(word) = self.bytes.get(self.next..).and_then(<[u8]>::first_chunk) {
            self.buffer |= u64::from_le_bytes(*word) << self.count;
            self.next += (63 - self.count as usize) / 8;
            self.count |= 0b11_1000;
            return Some(());
        }
        while self.count <= 56 {
            let byte = self.bytes.get(self.next).copied().unwrap_or(0);
            self.buffer |= u64::from(byte) << self.count;
            self.next += 1;
            self.count += 8;
        }
        (self.next <= self.bytes.len() + 16).then_some(())
    }

    fn skip(&mut self, bits: u32) {
        self.buffer >>= bits;
        self.count -= bits;
    }

    /// The next bits, 16 at most.
    fn take(&mut self, bits: u32) -> Option<usize> {
        self.refill()?;
        let taken = self.buffer & ((1 << bits) - 1);
        self.skip(bits);
        usize::try_from(taken).ok()
    }

    /// Goes to the end of a stored block (3.2.4).
    fn pass_stored(&mut self) -> Option<()> {
        self.skip(self.count % 8);
        let (length, complement) = (self.take(16)?, self.take(16)?);
        self.next = self.position() / 8 + length;
        (self.buffer, self.count) = (0, 0);
        (length == complement ^ 0xffff && self.next <= self.bytes.len()).then_some(())
    }

    /// Reads the codes that a block brings (3.2.7).
    fn read_codes(&mut self, literals: &mut Steps, distances: &mut Steps) -> Option<()> {
        let (literal_count, distance_count) = (self.take(5)? + 257, self.take(5)? + 1);
        let known = self.take(4)? + 4;
        let mut lengths = [0; ORDER.len()];
        for place in &ORDER[..known] {
            lengths[*place] = u8::try_from(self.take(3)?).ok()?;
        }
        // Seven bits at most, so that a symbol and its length fit into one byte.
        literals.set(&lengths, |symbol, code| u8::try_from(symbol << 3).unwrap_or(NONE) | code)?;
        let mut lengths = [0; 286 + 32 + 138];
        let (mut length, mut done) = (0, 0);
        while done < literal_count + distance_count {
            self.refill()?;
            let step = literals.at(self.buffer);
            self.skip(u32::from(step & 7));
            let times = match step >> 3 {
                _ if step == NONE => return None,
                16 => 3 + self.take(2)?,
                17 => 3 + self.take(3)?,
                18 => 11 + self.take(7)?,
                _ => 1,
            };
            match step >> 3 {
                16 if done == 0 => return None,
                16 => {}
                17 | 18 => length = 0,
                said => length = said,
            }
            lengths.get_mut(done..done + times)?.fill(length);
            done += times;
        }
        if done > literal_count + distance_count {
            return None;
        }
        let (ours, theirs) = lengths[..done].split_at(literal_count);
        literals.set(ours, literal)?;
        distances.set(theirs, distance)
    }

    /// Goes to the end of a block of codes.
    fn pass(&mut self, literals: &Steps, distances: &Steps) -> Option<()> {
        loop {
            self.refill()?;
            let mut step = literals.at(self.buffer);
            self.skip(bits_of(step));
            if step & KIND == LITERAL {
                // There are bits enough for another.
                step = literals.at(self.buffer);
                self.skip(bits_of(step));
                if step & KIND == LITERAL {
                    continue;
                }
                self.refill()?;
            }
            match step & KIND {
                LENGTH => {
                    let step = distances.at(self.buffer);
                    self.skip(bits_of(step));
                    if step & KIND != DISTANCE {
                        return None;
                    }
                }
                END => return Some(()),
                _ => return None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};
    use proptest::prelude::*;

    use super::*;

    /// These pieces as one stream of another compressor, and how many bits the last one begins behind.
    fn stream(pieces: &[(u32, Vec<u8>)]) -> (Vec<u8>, usize) {
        let mut stream = Vec::new();
        let mut last = 0;
        for (number, (level, piece)) in pieces.iter().enumerate() {
            last = 8 * stream.len();
            let is_last = number + 1 == pieces.len();
            let flush = if is_last { FlushCompress::Finish } else { FlushCompress::Full };
            stream.reserve(2 * piece.len() + 100);
            let mut compressor = Compress::new(Compression::new(*level), false);
            compressor.compress_vec(piece, &mut stream, flush).unwrap();
            assert_eq!(compressor.total_in(), piece.len() as u64);
        }
        (stream, last)
    }

    fn inflated(stream: &[u8], size: usize) -> (Vec<u8>, Status) {
        let mut plain = Vec::with_capacity(size + 100);
        let mut decoder = Decompress::new(false);
        let status = decoder.decompress_vec(stream, &mut plain, FlushDecompress::None).unwrap();
        (plain, status)
    }

    proptest! {
        /// Blocks of all three kinds, as another compressor makes them and another decoder reads them.
        #[test]
        fn the_last_block_is_the_one_that_ends_the_stream(
            pieces in prop::collection::vec(
                (0..10_u32, (1..=255_u8, prop::collection::vec(any::<u8>(), 0..4000), 1..60_usize)
                    .prop_map(|(letters, bytes, times)| {
                        bytes.iter().map(|byte| byte % letters).collect::<Vec<u8>>().repeat(times)
                    })),
                1..4
            ),
            behind in prop::collection::vec(any::<u8>(), 0..20),
        ) {
            let plain: Vec<u8> = pieces.iter().flat_map(|(_, piece)| piece.clone()).collect();
            let (stream, last) = stream(&pieces);
            let found = last_block(&stream).unwrap();
            prop_assert!(found.header >= last);
            prop_assert_eq!(found.end.div_ceil(8), stream.len());
            // What stands behind a stream is no part of it, and less of it is none.
            prop_assert_eq!(last_block(&[&stream[..], &behind].concat()), Some(found));
            for cut in [0, stream.len() / 2, stream.len() - 1] {
                prop_assert_eq!(last_block(&stream[..cut]), None);
            }
            prop_assert_eq!(inflated(&stream, plain.len()), (plain.clone(), Status::StreamEnd));
            let mut open = stream;
            open[found.header / 8] ^= 1 << (found.header % 8);
            prop_assert_eq!(inflated(&open, plain.len()), (plain, Status::Ok));
        }

        /// Nothing panics, and what a decoder reads to its end is walked to the same place.
        #[test]
        fn any_bytes_are_a_stream_or_none(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let found = last_block(&bytes);
            if let Some(LastBlock { header, end }) = found {
                prop_assert!(header < end && end <= 8 * bytes.len());
            }
            let (mut plain, mut decoder) = (Vec::with_capacity(1 << 20), Decompress::new(false));
            let read = decoder.decompress_vec(&bytes, &mut plain, FlushDecompress::None);
            if let Ok(Status::StreamEnd) = read {
                let end = found.map(|found| found.end.div_ceil(8) as u64);
                prop_assert_eq!(end, Some(decoder.total_in()));
            }
        }
    }
}
