//! Finds METADATA in a wheel of which only some bytes are at hand: end of central directory, central
//! directory, then the one file (APPNOTE 4.3). Sans I/O: it says which bytes it needs next.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::ops::Range;

use bytes::Bytes;
use flate2::read::DeflateDecoder;

use crate::python::WheelFilename;

/// How many bytes of a wheel's end are asked for first: METADATA and the central directory of most
/// wheels are in them.
pub(super) const TAIL: u64 = 32 << 10;
/// No METADATA is larger.
pub const METADATA_LIMIT: u64 = 16 << 20;
/// No central directory is larger: it is that of some 300,000 files.
const DIRECTORY_LIMIT: u64 = 32 << 20;

/// Why there is no METADATA to be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No end record: truncated, or something else altogether.
    #[error("no zip archive ends there")]
    NoEnd,
    /// Offsets or sizes that lie outside, or signatures that are not where they should be.
    #[error("the zip archive is damaged: {0}")]
    Damaged(&'static str),
    /// No METADATA.
    #[error("it has no `{0}`")]
    NoMetadata(String),
    /// Two of them: which one counts would depend on the reader.
    #[error("it has `{0}` twice")]
    Twice(String),
    /// Encrypted, or an unusual compression.
    #[error("`{0}` is encrypted or compressed in an unusual way")]
    Unsupported(String),
    /// It is larger than any METADATA should be.
    #[error("`{name}` is larger than {METADATA_LIMIT} bytes")]
    TooLarge {
        /// The file's name in the wheel.
        name: String,
    },
    /// The bytes do not have the check sum that the directory says.
    #[error("`{0}` is damaged")]
    CheckSum(String),
}

/// The bytes of a file that are known so far.
#[derive(Debug)]
pub struct Partial {
    size: u64,
    chunks: BTreeMap<u64, Bytes>,
}

/// What [`metadata`] came to.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// The bytes of METADATA.
    Done(Vec<u8>),
    /// These bytes of the file must be added before the next try.
    Need(Range<u64>),
}

impl Partial {
    /// Of a file of `size` bytes nothing is known.
    pub fn new(size: u64) -> Self {
        Self { size, chunks: BTreeMap::new() }
    }

    /// Adds bytes that lie at `offset`.
    pub fn add(&mut self, offset: u64, bytes: Bytes) {
        // What is known never becomes less, so every question brings an end nearer.
        let chunk = self.chunks.entry(offset).or_default();
        if chunk.len() < bytes.len() {
            *chunk = bytes;
        }
    }

    /// The bytes, if one chunk has them all; else which are needed.
    fn get(&self, range: Range<u64>) -> Result<&[u8], Range<u64>> {
        self.chunks
            .range(..=range.start)
            .rev()
            .find_map(|(offset, bytes)| {
                let start = usize::try_from(range.start - offset).ok()?;
                let end = usize::try_from(range.end - offset).ok()?;
                bytes.get(start..end)
            })
            .ok_or(range)
    }
}

/// A file of the central directory.
struct Entry {
    name: String,
    flags: u16,
    method: u16,
    crc: u32,
    compressed: u64,
    uncompressed: u64,
    offset: u64,
}

/// The METADATA of the wheel's `.dist-info` directory, or which bytes of the file it takes to know it.
///
/// # Errors
/// It is no zip archive, is damaged, or has no METADATA, or two.
pub fn metadata(partial: &Partial, wheel: &WheelFilename) -> Result<Step, Error> {
    let tail = partial.size.saturating_sub(TAIL)..partial.size;
    let tail_start = tail.start;
    let directory = match partial.get(tail) {
        Ok(bytes) => directory_range(bytes, tail_start, partial)?,
        Err(range) => return Ok(Step::Need(range)),
    };
    let directory = match directory {
        Ok(range) => range,
        Err(range) => return Ok(Step::Need(range)),
    };
    if directory.end > partial.size || directory.end - directory.start > DIRECTORY_LIMIT {
        return Err(Error::Damaged("its directory is not where it should be"));
    }
    let entries = match partial.get(directory) {
        Ok(bytes) => entries(bytes)?,
        Err(range) => return Ok(Step::Need(range)),
    };
    let entry = select(entries, wheel)?;
    contents(partial, &entry)
}

/// Where the central directory lies; the inner error says which bytes are needed to know it.
fn directory_range(
    tail: &[u8],
    tail_start: u64,
    partial: &Partial,
) -> Result<Result<Range<u64>, Range<u64>>, Error> {
    let end = (0..=tail.len().saturating_sub(22))
        .rev()
        .find(|&at| {
            let comment = u16_at(tail, at + 20).map(usize::from);
            tail[at..].starts_with(b"PK\x05\x06") && comment == Some(tail.len() - at - 22)
        })
        .ok_or(Error::NoEnd)?;
    let damaged = || Error::Damaged("its end record is cut off");
    let size = u64::from(u32_at(tail, end + 12).ok_or_else(damaged)?);
    let offset = u64::from(u32_at(tail, end + 16).ok_or_else(damaged)?);
    if size != u64::from(u32::MAX) && offset != u64::from(u32::MAX) {
        return Ok(Ok(offset..offset + size));
    }
    // Zip64: a locator lies right before the end record and says where the real end record is.
    let locator = end
        .checked_sub(20)
        .and_then(|at| tail.get(at..end))
        .filter(|locator| locator.starts_with(b"PK\x06\x07"))
        .ok_or(Error::Damaged("it has no zip64 locator"))?;
    let at = u64_at(locator, 8).ok_or_else(damaged)?;
    if at.checked_add(56).is_none_or(|end| end > partial.size) {
        return Err(Error::Damaged("its zip64 end record is outside"));
    }
    let record = match partial.get(at..at + 56) {
        Ok(record) => record,
        Err(_) if at >= tail_start => return Err(damaged()),
        Err(range) => return Ok(Err(range)),
    };
    let (Some(size), Some(offset)) = (u64_at(record, 40), u64_at(record, 48)) else {
        return Err(damaged());
    };
    let range = offset
        .checked_add(size)
        .filter(|_| record.starts_with(b"PK\x06\x06"))
        .map(|end| offset..end)
        .ok_or_else(damaged)?;
    Ok(Ok(range))
}

fn entries(directory: &[u8]) -> Result<Vec<Entry>, Error> {
    let damaged = || Error::Damaged("its directory is cut off");
    let mut entries = Vec::new();
    let mut rest = directory;
    while !rest.is_empty() {
        if !rest.starts_with(b"PK\x01\x02") {
            return Err(Error::Damaged("its directory has something else in it"));
        }
        let length = |at| u16_at(rest, at).map(usize::from).ok_or_else(damaged);
        let number = |at| u32_at(rest, at).ok_or_else(damaged);
        let (name, extra, comment) = (length(28)?, length(30)?, length(32)?);
        entries.push(Entry {
            name: String::from_utf8_lossy(rest.get(46..46 + name).ok_or_else(damaged)?)
                .into_owned(),
            flags: u16_at(rest, 8).ok_or_else(damaged)?,
            method: u16_at(rest, 10).ok_or_else(damaged)?,
            crc: number(16)?,
            compressed: number(20)?.into(),
            uncompressed: number(24)?.into(),
            offset: number(42)?.into(),
        });
        rest = rest.get(46 + name + extra + comment..).ok_or_else(damaged)?;
    }
    Ok(entries)
}

/// `{name}-{version}.dist-info/METADATA` at the top, where name and version may be spelled in another
/// way than in the file's name.
fn select(entries: Vec<Entry>, wheel: &WheelFilename) -> Result<Entry, Error> {
    let is_ours = |entry: &Entry| {
        entry
            .name
            .strip_suffix(".dist-info/METADATA")
            .and_then(|stem| stem.split_once('-'))
            .is_some_and(|(name, version)| {
                pep508_rs::PackageName::new(name.to_owned()).is_ok_and(|name| name == wheel.name)
                    && version
                        .replace('_', "-")
                        .parse()
                        .is_ok_and(|version: pep440_rs::Version| version == wheel.version)
            })
    };
    let mut found = entries.into_iter().filter(is_ours);
    let Some(entry) = found.next() else {
        let name = wheel.name.as_dist_info_name();
        let name = format!("{name}-{}.dist-info/METADATA", wheel.version);
        return Err(Error::NoMetadata(name));
    };
    match found.next() {
        Some(_) => Err(Error::Twice(entry.name)),
        None => Ok(entry),
    }
}

fn contents(partial: &Partial, entry: &Entry) -> Result<Step, Error> {
    if entry.flags & 1 != 0 || !matches!(entry.method, 0 | 8) {
        return Err(Error::Unsupported(entry.name.clone()));
    }
    if entry.uncompressed > METADATA_LIMIT || entry.compressed > METADATA_LIMIT {
        return Err(Error::TooLarge { name: entry.name.clone() });
    }
    // The local header has lengths of its own. Guess that its extra field is small, and be right at
    // the first try nearly always.
    let guess = entry.offset + 30 + entry.name.len() as u64 + 64 + entry.compressed;
    let header = entry.offset..entry.offset + 30;
    if header.end > partial.size {
        return Err(Error::Damaged("a file is not where it should be"));
    }
    let Ok(local) = partial.get(header) else {
        return Ok(Step::Need(entry.offset..guess.min(partial.size)));
    };
    let (Some(name), Some(extra)) = (u16_at(local, 26), u16_at(local, 28)) else {
        return Err(Error::Damaged("a file's header is cut off"));
    };
    if !local.starts_with(b"PK\x03\x04") {
        return Err(Error::Damaged("a file is not where it should be"));
    }
    let start = entry.offset + 30 + u64::from(name) + u64::from(extra);
    let range = start..start + entry.compressed;
    if range.end > partial.size {
        return Err(Error::Damaged("a file is cut off"));
    }
    let compressed = match partial.get(range) {
        Ok(bytes) => bytes,
        Err(range) => return Ok(Step::Need(range)),
    };
    let mut bytes = Vec::new();
    let damaged = |_| Error::CheckSum(entry.name.clone());
    if entry.method == 8 {
        DeflateDecoder::new(compressed)
            .take(METADATA_LIMIT + 1)
            .read_to_end(&mut bytes)
            .map_err(damaged)?;
    } else {
        bytes.extend_from_slice(compressed);
    }
    let mut crc = flate2::Crc::new();
    crc.update(&bytes);
    if crc.sum() != entry.crc || bytes.len() as u64 != entry.uncompressed {
        return Err(Error::CheckSum(entry.name.clone()));
    }
    Ok(Step::Done(bytes))
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    let bytes = bytes.get(at..at + 2)?;
    Some(u16::from_le_bytes(bytes.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at + 4)?;
    Some(u32::from_le_bytes(bytes.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    let bytes = bytes.get(at..at + 8)?;
    Some(u64::from_le_bytes(bytes.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use std::io::{Cursor, Write as _};

    use zip::CompressionMethod;
    use zip::write::{SimpleFileOptions, ZipWriter};

    use super::*;

    fn wheel() -> WheelFilename {
        "Foo.Bar-1.0-py3-none-any.whl".parse().unwrap()
    }

    fn archive(files: &[(&str, &[u8])], method: CompressionMethod, comment: &str) -> Vec<u8> {
        let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
        let options = SimpleFileOptions::default().compression_method(method);
        for (name, bytes) in files {
            writer.start_file(*name, options).unwrap();
            writer.write_all(bytes).unwrap();
        }
        writer.set_comment(comment).unwrap();
        writer.finish().unwrap().into_inner()
    }

    /// Feeds what is asked for; returns the result and how many times something was asked for.
    fn read(archive: &[u8]) -> (Result<Vec<u8>, Error>, usize) {
        let mut partial = Partial::new(archive.len() as u64);
        for asked in 0..10 {
            match metadata(&partial, &wheel()) {
                Ok(Step::Done(bytes)) => return (Ok(bytes), asked),
                Ok(Step::Need(range)) => {
                    let start = usize::try_from(range.start).unwrap();
                    let end = usize::try_from(range.end).unwrap();
                    partial.add(range.start, Bytes::copy_from_slice(&archive[start..end]));
                }
                Err(error) => return (Err(error), asked),
            }
        }
        panic!("never satisfied");
    }

    /// Bytes that do not compress.
    fn noise(length: u32) -> Vec<u8> {
        let mut state = 1_u32;
        (0..length)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 17;
                state ^= state << 5;
                state.to_le_bytes()[1]
            })
            .collect()
    }

    #[test]
    fn finds_metadata_with_few_questions() {
        let text = b"Metadata-Version: 2.1\nName: foo-bar\nVersion: 1.0\n".as_slice();
        let noise = noise(200_000);
        let name = "foo_bar-1.0.dist-info/METADATA";
        for method in [CompressionMethod::Stored, CompressionMethod::Deflated] {
            for (files, asked) in [
                (vec![("a.py", noise.as_slice()), (name, text)], 1),
                (vec![(name, text), ("a.py", noise.as_slice())], 2),
                (vec![("Foo.Bar-1.dist-info/METADATA", text)], 1),
                (vec![("sub/foo_bar-1.0.dist-info/METADATA", b"x"), (name, text)], 1),
            ] {
                let (found, times) = read(&archive(&files, method, ""));
                assert_eq!(found.unwrap(), text);
                assert_eq!(times, asked, "{method:?} {}", files[0].0);
            }
        }
        let (found, _) = read(&archive(&[(name, text)], CompressionMethod::Deflated, "PK\x05\x06"));
        assert_eq!(found.unwrap(), text);
    }

    #[test]
    fn a_directory_larger_than_the_tail() {
        let names: Vec<String> = (0..2000).map(|n| format!("package/module_{n}.py")).collect();
        let mut files: Vec<(&str, &[u8])> =
            names.iter().map(|name| (name.as_str(), &b""[..])).collect();
        files.push(("foo_bar-1.0.dist-info/METADATA", b"text"));
        let (found, times) = read(&archive(&files, CompressionMethod::Deflated, ""));
        assert_eq!(found.unwrap(), b"text");
        assert_eq!(times, 3);
    }

    #[test]
    fn refuses() {
        let name = "foo_bar-1.0.dist-info/METADATA";
        let good = archive(&[(name, b"text")], CompressionMethod::Stored, "");
        let mut flipped = good.clone();
        let at = good.windows(4).position(|window| window == b"text").unwrap();
        flipped[at] ^= 1;
        let (message, cases): (_, [(Vec<u8>, &str); 6]) = (
            |bytes: &[u8]| read(bytes).0.unwrap_err().to_string(),
            [
                (Vec::new(), "no zip archive ends there"),
                (good[..good.len() - 1].to_vec(), "no zip archive ends there"),
                (b"<html>not found</html>".repeat(9), "no zip archive ends there"),
                (flipped, "`foo_bar-1.0.dist-info/METADATA` is damaged"),
                (
                    archive(&[("bar-1.0.dist-info/METADATA", b"x")], CompressionMethod::Stored, ""),
                    "it has no `foo_bar-1.0.dist-info/METADATA`",
                ),
                (
                    archive(
                        &[(name, b"x"), ("Foo_Bar-1.0.dist-info/METADATA", b"y")],
                        CompressionMethod::Stored,
                        "",
                    ),
                    "it has `foo_bar-1.0.dist-info/METADATA` twice",
                ),
            ],
        );
        for (bytes, expected) in cases {
            assert_eq!(message(&bytes), expected);
        }
        // Whatever byte is broken, it ends, and never with other text.
        for at in 0..good.len() {
            let mut broken = good.clone();
            broken[at] ^= 0xff;
            if let Ok(text) = read(&broken).0 {
                assert_eq!(text, b"text", "byte {at}");
            }
        }
    }
}
