//! Archives of Python's: sdists and the wheels of build requirements, unpacked into the build's
//! folder. Their digests were checked against the lock before; still nothing in them is trusted. A compiler's
//! wheel has a hundred megabytes: none is in memory as a whole.

use std::ffi::{OsStr, OsString};
use std::io::{BufReader, Read, Seek};
use std::path::Path;

use flate2::read::MultiGzDecoder;
use zip::ZipArchive;

use super::Error;
use crate::sandbox::confine::{self, ConfinedFolder, EntryPath, Limits};

/// Far more than any sdist needs.
const LIMITS: Limits = Limits { entries: 200_000, bytes: 4 << 30 };
/// Sources of extension modules.
const EXTENSION_SOURCES: [&str; 5] = ["c", "cc", "cpp", "cxx", "pyx"];
/// Those among them that need a C++ compiler for sure.
const CXX_SOURCES: [&str; 3] = ["cc", "cpp", "cxx"];

/// What was seen while an sdist was unpacked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sdist {
    /// It holds sources for a compiler.
    pub(super) has_extension_sources: bool,
    /// Some of them are C++, or there is a configure script, which asks for that compiler too.
    pub(super) has_cxx: bool,
}

/// Unpacks an sdist into `folder`, without the one folder at its top. Links may lead nowhere but to
/// the sdist's own files (PEP 721).
pub(super) fn sdist(
    file_name: &str,
    from: impl Read + Seek,
    folder: &Path,
) -> Result<Sdist, Error> {
    let mut unpacking = Unpacking::new(file_name, folder)?;
    let mut top = Top { file_name, name: None };
    let mut seen = Sdist { has_extension_sources: false, has_cxx: false };
    if file_name.ends_with(".tar.gz") {
        let mut archive = crate::oci::tar::Archive::new(MultiGzDecoder::new(BufReader::new(from)));
        for entry in archive.entries().map_err(|e| unpacking.damaged(e))? {
            let mut entry = entry.map_err(|e| unpacking.damaged(e))?;
            let kind = entry.header().entry_type();
            if kind.is_pax_global_extensions() {
                continue;
            }
            let path = unpacking.parse(&entry.path_bytes())?;
            let Some(path) = top.strip(&path, kind.is_dir())? else {
                continue;
            };
            let target = entry.link_name_bytes().unwrap_or_default().into_owned();
            let folder = &mut unpacking.folder;
            let unpacked = if kind.is_dir() {
                folder.directory(&path, 0o755)
            } else if kind.is_file() || kind.is_contiguous() {
                seen.look_at(&path);
                let mode = file_mode(entry.header().mode().unwrap_or_default());
                folder.file(&path, mode, entry.header().mtime().ok(), &mut entry)
            } else if kind.is_symlink() {
                inner_target(&path, &target).and_then(|()| folder.symlink(&path, &target))
            } else if kind.is_hard_link() {
                let target = unpacking.parse(&target)?;
                match top.strip(&target, false)? {
                    Some(target) => unpacking.folder.hard_link(&path, &target),
                    None => continue,
                }
            } else {
                Err(unknown(&path, &format!("type `{}`", char::from(kind.as_byte()))))
            };
            unpacked.map_err(|e| unpacking.refused(e))?;
        }
    } else if Path::new(file_name).extension() == Some(OsStr::new("zip")) {
        unpacking.zip(from, |path, is_dir| {
            let path = top.strip(path, is_dir)?;
            if let Some(path) = &path {
                seen.look_at(path);
            }
            Ok(path)
        })?;
    } else {
        return Err(Error::Format { file_name: file_name.to_owned() });
    }
    Ok(seen)
}

/// Unpacks a wheel into `folder` so that it can be imported from there: what it would install into
/// purelib and platlib lies at the top, scripts in `bin`. Enough for a build backend; wheels of a
/// layer are installed elsewhere, by the book.
pub(super) fn wheel(file_name: &str, from: impl Read + Seek, folder: &Path) -> Result<(), Error> {
    let mut unpacking = Unpacking::new(file_name, folder)?;
    unpacking.zip(from, |path, _| place(path).map_err(|e| refused(file_name, e)))
}

/// As [`wheel`], without the files for whose path, cut into its components, `is_left_out` holds.
pub(super) fn wheel_without(
    file_name: &str,
    from: impl Read + Seek,
    folder: &Path,
    is_left_out: impl Fn(&[String]) -> bool,
) -> Result<(), Error> {
    let mut unpacking = Unpacking::new(file_name, folder)?;
    unpacking.zip(from, |path, _| {
        let parts: Vec<String> =
            path.components().iter().map(|part| part.to_string_lossy().into_owned()).collect();
        if is_left_out(&parts) {
            return Ok(None);
        }
        place(path).map_err(|e| refused(file_name, e))
    })
}

/// Where an entry of a wheel goes.
fn place(path: &EntryPath) -> Result<Option<EntryPath>, confine::Error> {
    let in_data = path
        .components()
        .first()
        .is_some_and(|top| Path::new(top).extension() == Some(OsStr::new("data")));
    if !in_data {
        return Ok(Some(path.clone()));
    }
    let Some(scheme) = path.components().get(1) else {
        return Ok(None);
    };
    let Some(below) = path.below_top().and_then(|below| below.below_top()) else {
        return Ok(None);
    };
    match scheme.to_str() {
        Some("purelib" | "platlib" | "data") => Ok(Some(below)),
        Some("scripts") => EntryPath::parse(format!("bin/{below}").as_bytes()).map(Some),
        Some("headers") => EntryPath::parse(format!("include/{below}").as_bytes()).map(Some),
        _ => Err(unknown(path, "an unknown scheme")),
    }
}

impl Sdist {
    fn look_at(&mut self, path: &EntryPath) {
        let extension = path.components().last().and_then(|name| Path::new(name).extension());
        self.has_extension_sources |=
            extension.is_some_and(|e| EXTENSION_SOURCES.iter().any(|source| e == *source));
        self.has_cxx |= extension.is_some_and(|e| CXX_SOURCES.iter().any(|source| e == *source))
            || path.components().last().is_some_and(|name| name == "configure");
    }
}

/// The one folder at the top of an sdist: `{name}-{version}`.
struct Top<'a> {
    file_name: &'a str,
    name: Option<OsString>,
}

impl Top<'_> {
    /// The path below the top; `None` for the top itself.
    fn strip(&mut self, path: &EntryPath, is_dir: bool) -> Result<Option<EntryPath>, Error> {
        let Some(first) = path.components().first() else {
            return Ok(None);
        };
        let name = self.name.get_or_insert_with(|| first.clone());
        let below = path.below_top();
        if name != first || (below.is_none() && !is_dir) {
            return Err(Error::NoTop {
                file_name: self.file_name.to_owned(),
                entry: path.to_string(),
            });
        }
        Ok(below)
    }
}

struct Unpacking<'a> {
    file_name: &'a str,
    folder: ConfinedFolder,
}

impl<'a> Unpacking<'a> {
    fn new(file_name: &'a str, folder: &Path) -> Result<Self, Error> {
        let opened = ConfinedFolder::open(folder, LIMITS)
            .map_err(|source| Error::Disk { path: folder.to_path_buf(), source })?;
        Ok(Self { file_name, folder: opened })
    }

    fn damaged(&self, source: impl Into<std::io::Error>) -> Error {
        Error::Damaged { file_name: self.file_name.to_owned(), source: source.into() }
    }

    fn refused(&self, source: confine::Error) -> Error {
        refused(self.file_name, source)
    }

    /// Python's archives have no absolute names.
    fn parse(&self, name: &[u8]) -> Result<EntryPath, Error> {
        if name.starts_with(b"/") {
            return Err(self.refused(confine::Error::Path {
                path: String::from_utf8_lossy(name).into_owned(),
            }));
        }
        EntryPath::parse(name).map_err(|e| self.refused(e))
    }

    /// Unpacks a zip; `place` says where an entry goes, `None` for nowhere.
    fn zip(
        &mut self,
        from: impl Read + Seek,
        mut place: impl FnMut(&EntryPath, bool) -> Result<Option<EntryPath>, Error>,
    ) -> Result<(), Error> {
        let mut archive = open_zip(BufReader::new(from)).map_err(|e| self.damaged(e))?;
        for number in 0..archive.len() {
            let mut entry =
                archive.by_index(number).map_err(|e| self.damaged(std::io::Error::from(e)))?;
            let name =
                entry.name().map_err(|e| self.damaged(std::io::Error::from(e)))?.into_owned();
            let path = self.parse(name.as_bytes())?;
            let Some(path) = place(&path, entry.is_dir())? else {
                continue;
            };
            let unpacked = if entry.is_symlink() {
                Err(unknown(&path, "a link"))
            } else if entry.is_dir() {
                self.folder.directory(&path, 0o755)
            } else {
                let mode = file_mode(entry.unix_mode().unwrap_or_default());
                self.folder.file(&path, mode, None, &mut entry)
            };
            unpacked.map_err(|e| self.refused(e))?;
        }
        Ok(())
    }
}

/// Opens a zip archive.
pub(super) fn open_zip<R: Read + Seek>(from: R) -> Result<ZipArchive<R>, std::io::Error> {
    ZipArchive::new(from).map_err(std::io::Error::from)
}

fn refused(file_name: &str, source: confine::Error) -> Error {
    Error::Refused { file_name: file_name.to_owned(), source }
}

fn unknown(path: &EntryPath, entry_kind: &str) -> confine::Error {
    confine::Error::EntryKind { path: path.to_string(), entry_kind: entry_kind.to_owned() }
}

/// Only whether a file can be executed is kept.
fn file_mode(mode: u32) -> u32 {
    if mode & 0o100 == 0 { 0o644 } else { 0o755 }
}

/// Whether a link's target stays inside the folder, taken literally.
fn inner_target(path: &EntryPath, target: &[u8]) -> Result<(), confine::Error> {
    let refused = || confine::Error::Link { path: path.to_string() };
    if target.starts_with(b"/") {
        return Err(refused());
    }
    let mut depth = path.components().len().saturating_sub(1);
    for component in target.split(|&b| b == b'/') {
        match component {
            b"" | b"." => {}
            b".." => depth = depth.checked_sub(1).ok_or_else(refused)?,
            _ => depth += 1,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::{Cursor, Write as _};

    use fs_err as fs;
    use tempfile::TempDir;
    use zip::write::SimpleFileOptions;

    use super::*;

    fn zip(entries: &[(&str, &str)]) -> Vec<u8> {
        let mut writer = zip::ZipWriter::new(Cursor::new(Vec::new()));
        for (name, content) in entries {
            if name.ends_with('/') {
                writer.add_directory(*name, SimpleFileOptions::default()).unwrap();
            } else {
                writer.start_file(*name, SimpleFileOptions::default()).unwrap();
                writer.write_all(content.as_bytes()).unwrap();
            }
        }
        writer.finish().unwrap().into_inner()
    }

    /// Type, name, content or target.
    type Row<'a> = (tar::EntryType, &'a str, &'a str);

    fn tar_gz(rows: &[Row<'_>]) -> Vec<u8> {
        let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        for (kind, name, text) in rows {
            let mut header = tar::Header::new_ustar();
            header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
            header.set_entry_type(*kind);
            header.set_mode(0o6777);
            header.set_uid(4242);
            header.set_mtime(1);
            let is_file = *kind == tar::EntryType::Regular;
            header.set_size(if is_file { text.len() as u64 } else { 0 });
            if !is_file {
                header.as_mut_bytes()[157..157 + text.len()].copy_from_slice(text.as_bytes());
            }
            header.set_cksum();
            writer.write_all(header.as_bytes()).unwrap();
            if is_file {
                let mut block = text.as_bytes().to_vec();
                block.resize(block.len().next_multiple_of(512), 0);
                writer.write_all(&block).unwrap();
            }
        }
        writer.write_all(&[0; 1024]).unwrap();
        writer.finish().unwrap()
    }

    fn files(folder: &Path) -> Vec<String> {
        let mut found = Vec::new();
        let mut folders = vec![folder.to_path_buf()];
        while let Some(next) = folders.pop() {
            for entry in fs::read_dir(next).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    let name = path.strip_prefix(folder).unwrap();
                    found.push(name.to_str().unwrap().to_owned());
                }
            }
        }
        found.sort();
        found
    }

    #[test]
    fn sdists_of_both_formats() {
        use tar::EntryType as E;
        let tar = tar_gz(&[
            (E::Directory, "p-1/", ""),
            (E::Regular, "p-1/setup.py", "x"),
            (E::Regular, "p-1/src/_p.c", "x"),
            (E::Symlink, "p-1/src/link", "../setup.py"),
            (E::Link, "p-1/hard", "p-1/setup.py"),
        ]);
        let folder = TempDir::new().unwrap();
        let seen = sdist("p-1.tar.gz", Cursor::new(&tar), folder.path()).unwrap();
        assert!(seen.has_extension_sources);
        assert_eq!(files(folder.path()), ["hard", "setup.py", "src/_p.c", "src/link"]);
        let zip = zip(&[("p-1/", ""), ("p-1/setup.py", "x"), ("p-1/a/b.py", "x")]);
        let folder = TempDir::new().unwrap();
        let seen = sdist("p-1.zip", Cursor::new(&zip), folder.path()).unwrap();
        assert!(!seen.has_extension_sources);
        assert_eq!(files(folder.path()), ["a/b.py", "setup.py"]);
        assert!(matches!(
            sdist("p-1.tar.bz2", Cursor::new(b""), folder.path()),
            Err(Error::Format { .. })
        ));
    }

    #[test]
    fn hostile_sdists() {
        use tar::EntryType as E;
        let attacks: &[(&str, &[Row<'_>])] = &[
            ("dotdot", &[(E::Regular, "p-1/../../x", "x")]),
            ("absolute", &[(E::Regular, "/p-1/x", "x")]),
            ("link to the host", &[(E::Symlink, "p-1/s", "/etc/passwd")]),
            ("link out", &[(E::Symlink, "p-1/s", "../x")]),
            ("deep link out", &[(E::Symlink, "p-1/a/s", "b/../../../x")]),
            ("hard link out", &[(E::Link, "p-1/h", "p-1/../../x")]),
            ("hard link to nothing", &[(E::Link, "p-1/h", "p-1/x")]),
            ("pipe", &[(E::Fifo, "p-1/f", "")]),
            ("device", &[(E::Char, "p-1/f", "")]),
        ];
        for (attack, rows) in attacks {
            let folder = TempDir::new().unwrap();
            let error =
                sdist("p-1.tar.gz", Cursor::new(tar_gz(rows)), folder.path()).expect_err(attack);
            assert!(matches!(error, Error::Refused { .. }), "{attack}: {error:?}");
            assert!(files(folder.path()).is_empty(), "{attack}");
        }
        for rows in [
            &[(E::Regular, "p-1/a", "x"), (E::Regular, "q-1/a", "x")][..],
            &[(E::Regular, "a", "x")],
        ] {
            let folder = TempDir::new().unwrap();
            let error = sdist("p-1.tar.gz", Cursor::new(tar_gz(rows)), folder.path());
            assert!(matches!(error, Err(Error::NoTop { .. })));
        }
    }

    #[test]
    fn wheels_are_importable_from_one_folder() {
        let folder = TempDir::new().unwrap();
        let bytes = zip(&[
            ("p/__init__.py", ""),
            ("p-1.dist-info/METADATA", ""),
            ("p-1.data/purelib/q.py", ""),
            ("p-1.data/platlib/r/s.py", ""),
            ("p-1.data/scripts/tool", ""),
            ("p-1.data/headers/h.h", ""),
        ]);
        wheel("p-1-py3-none-any.whl", Cursor::new(&bytes), folder.path()).unwrap();
        assert_eq!(
            files(folder.path()),
            [
                "bin/tool",
                "include/h.h",
                "p-1.dist-info/METADATA",
                "p/__init__.py",
                "q.py",
                "r/s.py"
            ]
        );
        for bad in ["../x", "/x", "p-1.data/other/x"] {
            let error = wheel("p.whl", Cursor::new(zip(&[(bad, "")])), folder.path());
            assert!(matches!(error, Err(Error::Refused { .. })), "{bad}");
        }
        let damaged = wheel("p.whl", Cursor::new(&bytes[..bytes.len() - 8]), folder.path());
        assert!(matches!(damaged, Err(Error::Damaged { .. })));
    }
}
