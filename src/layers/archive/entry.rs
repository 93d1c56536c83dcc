//! Entries of a tar: plain ustar headers, and PAX records for what these cannot say.

use std::collections::BTreeMap;
use std::io::{self, Write};

use tar::{EntryType, Header};

use super::LAYER_MTIME;
use crate::layers::path::ContainerPath;
use crate::layers::tree::{Entry, Node};

/// Bytes of a tar's block.
const BLOCK: usize = 512;
/// Bytes that a ustar header has for a path's end, a path's begin, and a link's target.
const NAME: usize = 100;
const PREFIX: usize = 155;
/// The largest owner a ustar header can say: seven octal digits.
const MAX_ID: u32 = 0o7_777_777;

/// The headers of an entry. A file's bytes follow, then [`pad`].
pub(super) fn append(out: &mut impl Write, path: &ContainerPath, entry: &Entry) -> io::Result<()> {
    let (kind, size, target) = match &entry.node {
        Node::Directory => (EntryType::Directory, 0, ""),
        Node::File(content) => (EntryType::Regular, content.size(), ""),
        Node::Symlink(target) => (EntryType::Symlink, 0, target.as_str()),
        // Relative to the root, as names are: an absolute one would leave it, or be refused.
        Node::HardLink(target) => (EntryType::Link, 0, target.as_relative()),
    };
    let mut name = path.as_relative().to_owned();
    if name.is_empty() {
        name.push('.');
    }
    if kind == EntryType::Directory {
        name.push('/');
    }
    let mut records = BTreeMap::new();
    let (prefix, rest) = split_name(&name).unwrap_or_else(|| {
        records.insert("path", name.clone());
        ("", truncated(&name))
    });
    let mut header = new_header(kind, entry.mode, size);
    set_names(&mut header, prefix, rest, truncated(target));
    if target.len() > NAME {
        records.insert("linkpath", target.to_owned());
    }
    let mut id = |key, id: u32| {
        if id > MAX_ID {
            records.insert(key, id.to_string());
            return 0;
        }
        u64::from(id)
    };
    header.set_uid(id("uid", entry.uid));
    header.set_gid(id("gid", entry.gid));
    if !records.is_empty() {
        append_pax(out, &records)?;
    }
    header.set_cksum();
    out.write_all(header.as_bytes())
}

/// Zeros up to the next block, behind that many bytes.
pub(super) fn pad(out: &mut impl Write, size: u64) -> io::Result<()> {
    let missing = size.next_multiple_of(BLOCK as u64) - size;
    out.write_all(&[0; BLOCK][..usize::try_from(missing).unwrap_or_default()])
}

/// An extended header for the entry that follows (POSIX.1-2001, *pax Extended Header*).
fn append_pax(out: &mut impl Write, records: &BTreeMap<&'static str, String>) -> io::Result<()> {
    let mut data = Vec::new();
    for (key, value) in records {
        // The length counts its own digits.
        let rest = key.len() + value.len() + 3;
        let mut length = rest + 1;
        while length != rest + length.to_string().len() {
            length = rest + length.to_string().len();
        }
        writeln!(data, "{length} {key}={value}")?;
    }
    let mut header = new_header(EntryType::XHeader, 0o644, data.len() as u64);
    set_names(&mut header, "", "PaxHeaders/entry", "");
    header.set_uid(0);
    header.set_gid(0);
    header.set_cksum();
    out.write_all(header.as_bytes())?;
    out.write_all(&data)?;
    pad(out, data.len() as u64)
}

fn new_header(kind: EntryType, mode: u32, size: u64) -> Header {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_mtime(LAYER_MTIME);
    header
}

/// Writes the names as bytes: the crate's own setters normalise, and may split differently one day.
fn set_names(header: &mut Header, prefix: &str, name: &str, target: &str) {
    if let Some(fields) = header.as_ustar_mut() {
        fields.prefix[..prefix.len()].copy_from_slice(prefix.as_bytes());
        fields.name[..name.len()].copy_from_slice(name.as_bytes());
        fields.linkname[..target.len()].copy_from_slice(target.as_bytes());
    }
}

/// `prefix/name` at the leftmost slash that leaves a name short enough; `None` if none does.
fn split_name(name: &str) -> Option<(&str, &str)> {
    if name.len() <= NAME {
        return Some(("", name));
    }
    let earliest = name.len() - NAME - 1;
    let slash = earliest + name.as_bytes()[earliest..].iter().position(|byte| *byte == b'/')?;
    let (prefix, rest) = (&name[..slash], &name[slash + 1..]);
    (prefix.len() <= PREFIX && !rest.is_empty()).then_some((prefix, rest))
}

/// As much of `text` as fits, for readers that do not know PAX.
fn truncated(text: &str) -> &str {
    &text[..text.floor_char_boundary(NAME)]
}
