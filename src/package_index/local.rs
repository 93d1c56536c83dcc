//! Files on this machine: folders of distributions, and wheels that are in the store.

use std::io::{Read as _, Seek as _, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use fs_err as fs;
use pep508_rs::PackageName;

use super::error::Error;
use super::wheel_archive::{self, Partial, Step};
use super::{File, Location, Project, page};
use crate::python::WheelFilename;
use crate::store::{BlobWriter, Store};

/// Adds the folder's files of the project; each wins against one of the same name that is there.
pub(super) fn add_folder(
    project: &mut Arc<Project>,
    name: &PackageName,
    folder: &Path,
) -> Result<(), Error> {
    let failed = |path: &Path, source| Error::Local { path: path.to_owned(), source };
    for entry in fs::read_dir(folder).map_err(|source| failed(folder, source))? {
        let path: PathBuf = entry.map_err(|source| failed(folder, source))?.path();
        let Some(file_name) = path.file_name().and_then(|file_name| file_name.to_str()) else {
            continue;
        };
        let Some((version, kind)) = page::kind(name, file_name) else {
            continue;
        };
        let metadata = fs::metadata(&path).map_err(|source| failed(&path, source))?;
        if !metadata.is_file() {
            continue;
        }
        let files = Arc::make_mut(project).versions.entry(version).or_default();
        files.retain(|file| file.file_name != file_name);
        files.push(File {
            file_name: file_name.to_owned(),
            kind,
            size: Some(metadata.len()),
            location: Location::Local(path),
            sha256: None,
            requires_python: None,
            upload_time: None,
            yanked: None,
            core_metadata: None,
        });
        files.sort_by(|a, b| a.file_name.cmp(&b.file_name));
    }
    Ok(())
}

/// METADATA of a wheel on disk.
pub(super) fn metadata(path: &Path, file: &File, wheel: &WheelFilename) -> Result<Vec<u8>, Error> {
    let failed = |source| Error::Local { path: path.to_owned(), source };
    let mut reader = fs::File::open(path).map_err(failed)?;
    let size = reader.metadata().map_err(failed)?.len();
    let mut partial = Partial::new(size);
    loop {
        match wheel_archive::metadata(&partial, wheel).map_err(|e| not_a_wheel(file, e))? {
            Step::Done(bytes) => return Ok(bytes),
            Step::Need(range) => {
                let bytes = read_range(&mut reader, &range).map_err(failed)?;
                partial.add(range.start, bytes);
            }
        }
    }
}

fn read_range(reader: &mut fs::File, range: &Range<u64>) -> std::io::Result<Bytes> {
    reader.seek(SeekFrom::Start(range.start))?;
    let length = usize::try_from(range.end - range.start).map_err(std::io::Error::other)?;
    let mut bytes = vec![0; length];
    reader.read_exact(&mut bytes)?;
    Ok(bytes.into())
}

/// Copies the file into the store's temporary folder; returns its size too.
pub(super) fn copy(path: &Path, store: &Store) -> Result<(BlobWriter, u64), Error> {
    let failed = |source| Error::Local { path: path.to_owned(), source };
    let mut reader = fs::File::open(path).map_err(failed)?;
    let mut writer = store.writer()?;
    let size = std::io::copy(&mut reader, &mut writer).map_err(failed)?;
    Ok((writer, size))
}

/// The error for a file that is no wheel.
pub(super) fn not_a_wheel(file: &File, source: wheel_archive::Error) -> Error {
    Error::Wheel { file_name: file.file_name.clone(), source }
}
