//! A tar without the contents of its blobs (pure): what an archive has besides is known before any of them
//! is read.

use std::io;

/// Bytes of a tar's block.
const BLOCK: u64 = 512;
/// Two zero blocks.
const END: [u8; 1024] = [0; 1024];

/// Headers, documents and padding, with gaps where blobs belong.
#[derive(Debug, Default)]
pub(super) struct Frame {
    /// Stretches between gaps, each with the place that it begins at.
    stretches: Vec<(u64, Vec<u8>)>,
    length: u64,
}

impl Frame {
    /// Adds the entry of a folder; `name` ends with a slash.
    pub(super) fn folder(&mut self, name: &str) -> io::Result<()> {
        self.add(header(name, tar::EntryType::Directory, 0)?.as_bytes());
        Ok(())
    }

    /// Adds the entry of a file.
    pub(super) fn document(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.add(header(name, tar::EntryType::Regular, bytes.len() as u64)?.as_bytes());
        self.add(bytes);
        self.pad(bytes.len() as u64);
        Ok(())
    }

    /// Adds the entry of a file of that many bytes; returns where they belong.
    pub(super) fn gap(&mut self, name: &str, size: u64) -> io::Result<u64> {
        self.add(header(name, tar::EntryType::Regular, size)?.as_bytes());
        let place = self.length;
        self.length += size;
        self.pad(size);
        Ok(place)
    }

    /// Ends the tar.
    pub(super) fn end(&mut self) {
        self.add(&END);
    }

    /// All bytes but those of the gaps, each stretch with its place.
    pub(super) fn stretches(&self) -> impl Iterator<Item = (u64, &[u8])> {
        self.stretches.iter().map(|(place, bytes)| (*place, bytes.as_slice()))
    }

    /// Bytes, the gaps included.
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    fn pad(&mut self, size: u64) {
        let missing = size.next_multiple_of(BLOCK) - size;
        self.add(&vec![0; usize::try_from(missing).unwrap_or_default()]);
    }

    fn add(&mut self, bytes: &[u8]) {
        match self.stretches.last_mut() {
            Some((place, last)) if *place + last.len() as u64 == self.length => {
                last.extend_from_slice(bytes);
            }
            _ => self.stretches.push((self.length, bytes.to_vec())),
        }
        self.length += bytes.len() as u64;
    }
}

/// Owner 0:0, mtime 0, ustar.
pub(super) fn header(name: &str, kind: tar::EntryType, size: u64) -> io::Result<tar::Header> {
    let mut header = tar::Header::new_ustar();
    header.set_path(name)?;
    header.set_entry_type(kind);
    header.set_mode(if kind.is_dir() { 0o755 } else { 0o644 });
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(size);
    header.set_cksum();
    Ok(header)
}
