//! The files of a wheel, after every check a zip archive allows.
//!
//! A zip archive says most things twice, in local headers and in the central directory, and readers
//! that believe different halves unpack different files (CVE-2025-54368). So whatever is ambiguous is
//! refused: headers that disagree, entries that overlap, local entries the directory does not list,
//! a name listed twice, bytes before or behind the archive. Names that differ only in case are
//! fine: the layer is made for a file system that tells them apart.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;

use zip::ZipArchive;

use crate::layers::content::{Aside, At, Content};
use crate::layers::error::{Refusal, WheelProblem};
use crate::layers::path::ContainerPath;
use crate::world::side_by_side;

/// All files of a wheel may have that many bytes. The largest wheels in use (CUDA) come near it.
const MAX_UNPACKED: u64 = 2 << 30;
/// A wheel may be that many times larger unpacked, beyond [`FREE_UNPACKED`]. Deflate allows 1032;
/// source code compresses to a fifth.
const MAX_RATIO: u64 = 100;
/// Small wheels may be any number of times larger up to here.
const FREE_UNPACKED: u64 = 64 << 20;

/// `S_IFMT`, `S_IFREG` and `S_IFDIR` of a Unix mode.
const FILE_TYPE: u32 = 0o170_000;
const REGULAR: u32 = 0o100_000;
const DIRECTORY: u32 = 0o040_000;

/// A file of a wheel.
#[derive(Clone, Debug)]
pub(super) struct Member {
    /// As it is in the wheel.
    pub(super) content: Content,
    /// A shared object without what only debuggers read, if it has something of it and that was wanted.
    pub(super) stripped: Option<Content>,
    /// Whether its Unix mode has an executable bit.
    pub(super) is_executable: bool,
}

/// The files of the wheel by name, in byte order; folders are left out, they follow from the names.
/// Names are relative, normalised paths with `/`, and none of them is a whiteout.
/// They are unpacked on at most `parallel` threads, and wait `aside` if that is somewhere.
pub(super) fn read(
    wheel: File,
    aside: Option<&Aside<'_>>,
    parallel: usize,
) -> Result<BTreeMap<String, Member>, WheelProblem> {
    let unreadable = |error: io::Error| WheelProblem::Archive(error.into());
    let wheel = At::new(wheel).map_err(unreadable)?;
    let mut archive = ZipArchive::new(wheel.clone()).map_err(WheelProblem::Archive)?;
    if let Some(place) = surroundings(&wheel, &archive).map_err(unreadable)? {
        return Err(WheelProblem::Surroundings(place));
    }
    archive.validate_header_consistency().map_err(WheelProblem::Archive)?;
    check_size(&wheel, &archive)?;
    let mut files = Vec::new();
    for index in 0..archive.len() {
        if let Some((name, is_executable)) = check_entry(&archive, index)? {
            files.push((index, name, is_executable));
        }
    }
    let contents = side_by_side(files.len(), parallel, |number| {
        let (index, name, _) = &files[number];
        unpack((&wheel, &archive, *index), name, aside)
    });
    let mut members = BTreeMap::new();
    for ((_, name, is_executable), content) in files.into_iter().zip(contents) {
        let (content, stripped) = content?;
        members.insert(name, Member { content, stripped, is_executable });
    }
    Ok(members)
}

/// On which side of the archive there are bytes that are none of it.
fn surroundings(wheel: &At, archive: &ZipArchive<At>) -> io::Result<Option<&'static str>> {
    const END: &[u8; 4] = b"PK\x05\x06";
    const END_SIZE: u64 = 22;
    if archive.offset() != 0 || wheel.bytes(0)? != Some(*b"PK") {
        return Ok(Some("before"));
    }
    let comment = archive.comment();
    let is_at_end = match wheel.size().checked_sub(END_SIZE + comment.len() as u64) {
        Some(end) => wheel.bytes(end)? == Some(*END),
        None => false,
    };
    // A comment that holds the mark of another end would be one to some readers.
    let is_alone = is_at_end && !comment.windows(END.len()).any(|window| window == END);
    Ok((!is_alone).then_some("behind"))
}

fn check_size(wheel: &At, archive: &ZipArchive<At>) -> Result<(), WheelProblem> {
    let metadata = archive.metadata();
    let mut declared = 0_u64;
    for index in 0..archive.len() {
        let entry = metadata.entry(index).map_err(WheelProblem::Archive)?;
        declared = declared.saturating_add(entry.size());
    }
    let limit = MAX_UNPACKED.min(FREE_UNPACKED + MAX_RATIO.saturating_mul(wheel.size()));
    if declared > limit {
        return Err(WheelProblem::TooLarge { declared, limit });
    }
    Ok(())
}

/// The name of a file and whether it is executable; `None` for a folder.
fn check_entry(
    archive: &ZipArchive<At>,
    index: usize,
) -> Result<Option<(String, bool)>, WheelProblem> {
    let metadata = archive.metadata();
    let entry = metadata.entry(index).map_err(WheelProblem::Archive)?;
    let name = entry.name().map_err(WheelProblem::Archive)?.into_owned();
    let refuse = |refusal| Err(WheelProblem::Entry { name: name.clone(), refusal });
    let path = name.strip_suffix('/').unwrap_or(&name);
    if let Err(error) = ContainerPath::root().join(path) {
        return refuse(Refusal::Path(error));
    }
    if entry.encrypted() {
        return refuse(Refusal::Encrypted);
    }
    // Read as pip does, whatever system the entry says it was made on.
    let mode = entry.external_attributes() >> 16;
    let is_folder = name.ends_with('/');
    let expected = if is_folder { DIRECTORY } else { REGULAR };
    if ![0, expected].contains(&(mode & FILE_TYPE)) {
        return refuse(Refusal::FileType(mode));
    }
    if !is_folder {
        let is_executable = mode & 0o111 != 0;
        return Ok(Some((name, is_executable)));
    }
    if entry.size() != 0 {
        return refuse(Refusal::FolderWithBytes);
    }
    Ok(None)
}

fn unpack(
    (wheel, archive, index): (&At, &ZipArchive<At>, usize),
    name: &str,
    aside: Option<&Aside<'_>>,
) -> Result<(Content, Option<Content>), WheelProblem> {
    let metadata = archive.metadata();
    let declared = metadata.entry(index).map_err(WheelProblem::Archive)?.size();
    let (content, stripped) = Content::of_member((wheel, archive, index), declared, aside)
        .map_err(|source| WheelProblem::Unpack { name: name.to_owned(), source })?;
    let found = content.size();
    if found != declared {
        return Err(WheelProblem::Entry {
            name: name.to_owned(),
            refusal: Refusal::Length { declared, found },
        });
    }
    Ok((content, stripped))
}
