//! Archives as lines of text, so that a mutation changes what an entry says and not a check sum:
//! `kind TAB mode TAB name TAB content or link target`, where `\n` in the content is a line feed.

use std::io::{Cursor, Write as _};

/// A line.
pub(super) struct Row<'a> {
    /// As tar numbers kinds.
    pub(super) kind: u8,
    pub(super) mode: u32,
    pub(super) name: &'a [u8],
    pub(super) content: Vec<u8>,
}

/// The lines that are rows.
pub(super) fn rows(bytes: &[u8]) -> Vec<Row<'_>> {
    bytes.split(|byte| *byte == b'\n').filter_map(row).collect()
}

fn row(line: &[u8]) -> Option<Row<'_>> {
    let mut fields = line.splitn(4, |byte| *byte == b'\t');
    let kind = *fields.next()?.first()?;
    let mode = std::str::from_utf8(fields.next()?).ok()?;
    let mode = u32::from_str_radix(mode, 8).ok()?;
    let name = fields.next()?;
    let mut content = Vec::new();
    let mut rest = fields.next()?;
    while let Some((first, after)) = rest.split_first() {
        let is_line_feed = *first == b'\\' && after.first() == Some(&b'n');
        content.push(if is_line_feed { b'\n' } else { *first });
        rest = if is_line_feed { &after[1..] } else { after };
    }
    Some(Row { kind, mode, name, content })
}

/// The tar of these rows, with names exactly as they are.
pub(super) fn tar(rows: &[Row<'_>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for row in rows {
        if row.name.len() > 100 {
            member(&mut bytes, b'L', 0, b"././@LongLink", b"", row.name);
        }
        let name = &row.name[..row.name.len().min(100)];
        if matches!(row.kind, b'1' | b'2') {
            if row.content.len() > 100 {
                member(&mut bytes, b'K', 0, b"././@LongLink", b"", &row.content);
            }
            let target = &row.content[..row.content.len().min(100)];
            member(&mut bytes, row.kind, row.mode, name, target, b"");
        } else {
            member(&mut bytes, row.kind, row.mode, name, b"", &row.content);
        }
    }
    bytes.resize(bytes.len() + 1024, 0);
    bytes
}

fn member(out: &mut Vec<u8>, kind: u8, mode: u32, name: &[u8], link: &[u8], content: &[u8]) {
    let mut header = tar::Header::new_gnu();
    let raw = header.as_mut_bytes();
    raw[..name.len()].copy_from_slice(name);
    raw[157..157 + link.len()].copy_from_slice(link);
    header.set_entry_type(tar::EntryType::new(kind));
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(content.len() as u64);
    header.set_cksum();
    out.extend_from_slice(header.as_bytes());
    out.extend_from_slice(content);
    out.resize(out.len().next_multiple_of(512), 0);
}

/// The zip archive of these rows; kind `d` is deflated. `None` if the writer does not take them.
pub(super) fn zip(rows: &[Row<'_>]) -> Option<Vec<u8>> {
    let mut writer = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for row in rows {
        let method = match row.kind {
            b'd' => zip::CompressionMethod::Deflated,
            _ => zip::CompressionMethod::Stored,
        };
        let options = zip::write::SimpleFileOptions::default()
            .compression_method(method)
            .unix_permissions(row.mode);
        writer.start_file(std::str::from_utf8(row.name).ok()?, options).ok()?;
        writer.write_all(&row.content).ok()?;
    }
    Some(writer.finish().ok()?.into_inner())
}
