//! The entries of a foreign tar, whose headers cannot be made to fill the memory.
//!
//! A name, a link's target or a pax header may have any length, and the reader below collects it
//! whole: compressed, a gigabyte of it is a megabyte. So between two entries only so much is read.

use std::cell::Cell;
use std::io::{self, Read};
use std::rc::Rc;

/// All headers of one entry, extensions included, have at most so many bytes: Linux takes no path
/// longer than 4 KiB, and extended attributes of 64 KiB.
const HEADERS_MAX: u64 = 1 << 20;

/// A tar that is read from its start to its end.
pub struct Archive<R: Read> {
    inner: tar::Archive<Metered<R>>,
    meter: Rc<Meter>,
}

impl<R: Read> std::fmt::Debug for Archive<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Archive").field("meter", &self.meter).finish_non_exhaustive()
    }
}

/// How far it was read, and how far it may be.
#[derive(Debug)]
struct Meter {
    position: Cell<u64>,
    limit: Cell<u64>,
}

/// A reader that stops where its meter says.
#[derive(Debug)]
pub struct Metered<R> {
    reader: R,
    meter: Rc<Meter>,
}

impl<R: Read> Read for Metered<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.meter.limit.get().saturating_sub(self.meter.position.get());
        if left == 0 {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("an entry's headers have more than {HEADERS_MAX} bytes"),
            ));
        }
        let most = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let read = self.reader.read(&mut buffer[..most])?;
        self.meter.position.set(self.meter.position.get().saturating_add(read as u64));
        Ok(read)
    }
}

impl<R: Read> Archive<R> {
    /// The tar that `reader` has the bytes of.
    pub fn new(reader: R) -> Self {
        let meter = Rc::new(Meter { position: Cell::new(0), limit: Cell::new(u64::MAX) });
        let inner = tar::Archive::new(Metered { reader, meter: Rc::clone(&meter) });
        Self { inner, meter }
    }

    /// Its entries, in order.
    ///
    /// # Errors
    /// It was read before.
    pub fn entries(&mut self) -> io::Result<Entries<'_, R>> {
        let inner = self.inner.entries()?;
        Ok(Entries { inner, meter: Rc::clone(&self.meter), end: 0 })
    }
}

/// Entries, one after the other. Each is read before the next is asked for, or is skipped.
pub struct Entries<'a, R: Read> {
    inner: tar::Entries<'a, Metered<R>>,
    meter: Rc<Meter>,
    /// Where the last entry's content ends.
    end: u64,
}

impl<R: Read> std::fmt::Debug for Entries<'_, R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Entries").field("end", &self.end).finish_non_exhaustive()
    }
}

impl<'a, R: Read> Iterator for Entries<'a, R> {
    type Item = io::Result<tar::Entry<'a, Metered<R>>>;

    fn next(&mut self) -> Option<Self::Item> {
        let begin = self.end.max(self.meter.position.get());
        self.meter.limit.set(begin.saturating_add(HEADERS_MAX));
        let entry = self.inner.next();
        self.meter.limit.set(u64::MAX);
        if let Some(Ok(entry)) = &entry {
            // A sparse file has less in the archive than on disk.
            let size = if entry.header().entry_type().is_gnu_sparse() {
                entry.header().entry_size().unwrap_or_default()
            } else {
                entry.size()
            };
            let padded = size.checked_next_multiple_of(512).unwrap_or(u64::MAX);
            self.end = self.meter.position.get().saturating_add(padded);
        }
        entry
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(kind: u8, name: &str, content: &[u8]) -> Vec<u8> {
        let mut header = tar::Header::new_gnu();
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(tar::EntryType::new(kind));
        header.set_size(content.len() as u64);
        header.set_cksum();
        let mut bytes = [header.as_bytes().as_slice(), content].concat();
        bytes.resize(bytes.len().next_multiple_of(512), 0);
        bytes
    }

    /// What is listed, reading every `read`th entry.
    fn listed(parts: &[Vec<u8>], read: usize) -> io::Result<Vec<(usize, u64)>> {
        let mut bytes = parts.concat();
        bytes.resize(bytes.len() + 1024, 0);
        let mut archive = Archive::new(&bytes[..]);
        let mut listed = Vec::new();
        for (number, entry) in archive.entries()?.enumerate() {
            let mut entry = entry?;
            let mut content = Vec::new();
            if number % read == 0 {
                entry.read_to_end(&mut content)?;
                assert_eq!(content.len() as u64, entry.size());
            }
            listed.push((entry.path_bytes().len(), entry.size()));
        }
        Ok(listed)
    }

    #[test]
    fn contents_may_be_long_and_names_only_so_long() {
        let large = vec![b'x'; 3 << 20];
        let name = |length: usize| member(b'L', "././@LongLink", &vec![b'n'; length]);
        let parts = [
            member(b'0', "a", &large),
            name(4000),
            member(b'0', "b", &large),
            member(b'0', "c", b""),
        ];
        for read in [1, 2, 100] {
            let expected = [(1, 3 << 20), (4000, 3 << 20), (1, 0)];
            assert_eq!(listed(&parts, read).unwrap(), expected);
        }
        for kind in [b'L', b'K', b'x'] {
            let header = member(kind, "x", &vec![b'n'; 1 << 20]);
            for before in [vec![], member(b'0', "a", &large)] {
                for read in [1, 100] {
                    let parts = [before.clone(), header.clone(), member(b'0', "b", b"")];
                    let error = listed(&parts, read).unwrap_err();
                    assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
                }
            }
        }
    }
}
