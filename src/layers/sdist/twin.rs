//! A wheel that was built on another machine's base, used for this one if it has no code of that
//! machine's.

use std::io::{self, Cursor, Read as _, Write as _};

use super::{BuildRequest, Error, has_extension, unpack};
use crate::oci::{Digest, Platform};
use crate::python::record::{Record, Row};
use crate::store::Store;

/// No document of a wheel that is rewritten is larger.
const LARGEST_DOCUMENT: u64 = 64 << 20;

/// The wheel (digest, file name), which was built on `platforms.0`, for `platforms.1`: the same files
/// under a name and a `Tag` that say any platform, because `pip check` compares the tag with the
/// machine.
///
/// # Errors
/// It has an ELF file, or is no wheel.
pub(in crate::layers) fn for_any(
    request: &BuildRequest,
    (digest, file_name): (Digest, String),
    platforms: (&Platform, &Platform),
    store: &Store,
) -> Result<(Digest, String), Error> {
    let damaged = |source| Error::Damaged { file_name: file_name.clone(), source };
    let bytes =
        store.read(&digest)?.ok_or_else(|| Error::Absent { file_name: file_name.clone() })?;
    if has_extension(Cursor::new(&bytes)).map_err(damaged)? {
        return Err(Error::Compiled {
            project: request.project(),
            wheel: file_name,
            built_on: platforms.0.clone(),
            platform: platforms.1.clone(),
        });
    }
    let (plain, file_name) = plain(bytes, &file_name).map_err(damaged)?;
    Ok((store.put(&plain)?, file_name))
}

/// A wheel without compiled code, as every machine would build it: its name and its `Tag` say any
/// platform, so that the same cell is the same image wherever it is made.
pub(super) fn plain(wheel: Vec<u8>, file_name: &str) -> io::Result<(Vec<u8>, String)> {
    let parts: Vec<&str> = file_name.trim_end_matches(".whl").split('-').collect();
    let ([name, version, .., tag_python, _, platform], true) = (&parts[..], parts.len() >= 5)
    else {
        return Err(io::Error::other("its name is no wheel's"));
    };
    if *platform == "any" {
        return Ok((wheel, file_name.to_owned()));
    }
    let tag = format!("{tag_python}-none-any");
    Ok((retag(&wheel, &tag)?, format!("{name}-{version}-{tag}.whl")))
}

/// The wheel with that one `Tag` in WHEEL, and RECORD knowing it. The same bytes for the same wheel.
fn retag(wheel: &[u8], tag: &str) -> io::Result<Vec<u8>> {
    let mut archive = unpack::open_zip(Cursor::new(wheel))?;
    let mut members = Vec::new();
    for number in 0..archive.len() {
        let mut member = archive.by_index(number)?;
        let (name, mode) = (member.name()?.into_owned(), member.unix_mode());
        let mut bytes = Vec::new();
        member.by_ref().take(LARGEST_DOCUMENT).read_to_end(&mut bytes)?;
        if bytes.len() as u64 != member.size() {
            return Err(io::Error::other(format!("`{name}` is too large")));
        }
        members.push((name, mode, bytes));
    }
    let mut new_row = None;
    for (name, _, bytes) in &mut members {
        if name.ends_with(".dist-info/WHEEL") {
            let text = String::from_utf8_lossy(bytes);
            let mut lines: Vec<&str> =
                text.lines().filter(|line| !line.starts_with("Tag:")).collect();
            let own = format!("Tag: {tag}");
            lines.retain(|line| !line.is_empty());
            lines.push(&own);
            let rewritten = lines.join("\n") + "\n";
            *bytes = rewritten.into_bytes();
            new_row = Some((name.clone(), Row::of(bytes)));
        }
    }
    for (name, _, bytes) in &mut members {
        if name.ends_with(".dist-info/RECORD")
            && let Some((path, row)) = new_row.take()
        {
            let mut record = Record::parse(bytes).map_err(io::Error::other)?;
            record.rows.insert(path, row);
            *bytes = record.to_bytes();
        }
    }
    let mut writer = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for (name, mode, bytes) in members {
        let mut options = zip::write::SimpleFileOptions::default();
        if let Some(mode) = mode {
            options = options.unix_permissions(mode & 0o777);
        }
        if name.ends_with('/') {
            writer.add_directory(name, options)?;
        } else {
            writer.start_file(name, options)?;
            writer.write_all(&bytes)?;
        }
    }
    Ok(writer.finish()?.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wheel(files: &[(&str, &str)]) -> Vec<u8> {
        let mut writer = zip::ZipWriter::new(Cursor::new(Vec::new()));
        for (name, text) in files {
            let options = zip::write::SimpleFileOptions::default().unix_permissions(0o755);
            writer.start_file(*name, options).unwrap();
            writer.write_all(text.as_bytes()).unwrap();
        }
        writer.finish().unwrap().into_inner()
    }

    #[test]
    fn only_the_tag_and_its_row_change() {
        let record = "p.py,sha256=47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU,0\n\
                      p-1.dist-info/WHEEL,,\np-1.dist-info/RECORD,,\n";
        let text = "Wheel-Version: 1.0\nRoot-Is-Purelib: false\nTag: cp313-cp313-linux_x86_64\n\n";
        let built =
            wheel(&[("p.py", ""), ("p-1.dist-info/WHEEL", text), ("p-1.dist-info/RECORD", record)]);
        let again = retag(&built, "cp313-none-any").unwrap();
        assert_eq!(retag(&built, "cp313-none-any").unwrap(), again);
        let mut archive = unpack::open_zip(Cursor::new(again)).unwrap();
        let mut read = |name: &str| {
            let mut text = String::new();
            archive.by_name(name).unwrap().read_to_string(&mut text).unwrap();
            text
        };
        let text = read("p-1.dist-info/WHEEL");
        assert_eq!(text, "Wheel-Version: 1.0\nRoot-Is-Purelib: false\nTag: cp313-none-any\n");
        let record = Record::parse(read("p-1.dist-info/RECORD").as_bytes()).unwrap();
        assert_eq!(record.rows["p-1.dist-info/WHEEL"], Row::of(text.as_bytes()));
        assert_eq!(record.rows.len(), 3);
        assert_eq!(read("p.py"), "");
    }
}
