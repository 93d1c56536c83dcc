//! A project's page as JSON (PEP 691, 700) or HTML (PEP 503, 592, 658, 714) of a repository of major
//! version 1 (PEP 629). Pure.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use pep440_rs::{Version, VersionSpecifiers};
use pep508_rs::PackageName;
use url::Url;

use super::{Address, File, FileKind, Location, Project};
use crate::oci::Digest;
use crate::python::{WheelFilename, WheelTags, metadata};

mod html;
mod json;

/// What a page is asked for as, best first.
pub(super) const ACCEPT: &str = "application/vnd.pypi.simple.v1+json, \
     application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.01";

/// Why a document is no page of a project.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Neither JSON nor HTML.
    #[error("its content type is `{0}`")]
    ContentType(String),
    /// A repository of a version that we do not understand (PEP 629: a client must stop).
    #[error("repository version `{0}` is not supported: 1.x is")]
    RepositoryVersion(String),
    /// Broken JSON.
    #[error("broken JSON")]
    Json(#[source] serde_json::Error),
}

/// Reads the page of `project`, which came from `url` (after redirects) with that content type.
///
/// Files that are no wheel or sdist of the project are left out, and so is, as uv does, a file whose
/// `requires-python` cannot be read even after repair.
///
/// # Errors
/// It is no such page.
pub fn parse(
    project: &PackageName,
    url: &Url,
    content_type: &str,
    body: &[u8],
) -> Result<Project, Error> {
    let mut versions: BTreeMap<Version, Vec<File>> = BTreeMap::new();
    let mut shared = Shared::default();
    read(content_type, body, url, &mut |entry, base| {
        if let Some((version, file)) = file(project, entry, base, &mut shared) {
            versions.entry(version).or_default().push(file);
        }
    })?;
    for files in versions.values_mut() {
        if files.iter().any(|file| is_foreign(file) == Some(false)) {
            files.retain(|file| is_foreign(file) != Some(true));
        }
        files.shrink_to_fit();
        // Stable: of two files with one name the page's first stays.
        files.sort_by(|a, b| a.file_name.cmp(&b.file_name));
        files.dedup_by(|later, first| later.file_name == first.file_name);
    }
    Ok(Project { versions })
}

/// The file of that name on the page, if [`parse`] would find it there: also one for other systems, which
/// that may leave out. Nothing else of the page is in memory.
///
/// # Errors
/// It is no such page.
pub fn find(
    project: &PackageName,
    file_name: &str,
    url: &Url,
    content_type: &str,
    body: &[u8],
) -> Result<Option<File>, Error> {
    let (mut found, mut shared) = (None, Shared::default());
    read(content_type, body, url, &mut |entry, base| {
        if found.is_none() && entry.file_name == file_name {
            found = file(project, entry, base, &mut shared).map(|(_, file)| file);
        }
    })?;
    Ok(found)
}

/// Gives `take` each link of the page, with what its address is relative to.
fn read<'a>(
    content_type: &str,
    body: &'a [u8],
    url: &Url,
    take: &mut dyn FnMut(Entry<'a>, &Url),
) -> Result<(), Error> {
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let is_json = match essence.as_str() {
        "application/vnd.pypi.simple.v1+json" | "application/json" => true,
        "application/vnd.pypi.simple.v1+html" | "text/html" | "application/xhtml+xml" => false,
        // Folders of static pages are often served without a useful type.
        "" | "application/octet-stream" | "text/plain" => {
            match body.iter().find(|byte| !byte.is_ascii_whitespace()) {
                Some(b'{') => true,
                Some(b'<') => false,
                _ => return Err(Error::ContentType(essence)),
            }
        }
        _ => return Err(Error::ContentType(essence)),
    };
    if is_json {
        return json::read(body, &mut |entry| take(entry, url));
    }
    let (base, entries) = html::read(body)?;
    let base = base.and_then(|base| url.join(&base).ok());
    let base = base.as_ref().unwrap_or(url);
    for entry in entries {
        take(entry, base);
    }
    Ok(())
}

/// A link of a page, before it is known to be a file of the project.
struct Entry<'a> {
    file_name: Cow<'a, str>,
    url: Cow<'a, str>,
    sha256: Option<Cow<'a, str>>,
    requires_python: Option<Cow<'a, str>>,
    size: Option<u64>,
    upload_time: Option<Cow<'a, str>>,
    yanked: Option<Cow<'a, str>>,
    #[expect(clippy::option_option, reason = "served or not, and if so with a digest or not")]
    core_metadata: Option<Option<Cow<'a, str>>>,
}

/// Whether a wheel is for systems that no image is for, as a third of those on large pages: they say what an
/// sdist requires, where no other wheel does. `None` for an sdist.
fn is_foreign(file: &File) -> Option<bool> {
    let FileKind::Wheel(tags) = &file.kind else { return None };
    let is_foreign = |tag: &str| ["win", "macosx_"].iter().any(|system| tag.starts_with(system));
    Some(tags.platform.split('.').all(is_foreign))
}

/// What many files of a page have in common is in memory once: a page of thousands of files has a
/// dozen specifiers and a hundred sets of tags.
#[derive(Default)]
struct Shared {
    specifiers: BTreeMap<String, Option<Arc<VersionSpecifiers>>>,
    tags: BTreeSet<Arc<WheelTags>>,
}

impl Shared {
    fn specifiers(&mut self, text: &str) -> Option<Arc<VersionSpecifiers>> {
        if let Some(known) = self.specifiers.get(text) {
            return known.clone();
        }
        let parsed = metadata::specifiers(text).ok().map(Arc::new);
        self.specifiers.insert(text.to_owned(), parsed.clone());
        parsed
    }

    fn tags(&mut self, tags: &mut Arc<WheelTags>) {
        match self.tags.get(tags) {
            Some(known) => *tags = Arc::clone(known),
            None => {
                self.tags.insert(Arc::clone(tags));
            }
        }
    }
}

fn file(
    project: &PackageName,
    entry: Entry<'_>,
    base: &Url,
    shared: &mut Shared,
) -> Option<(Version, File)> {
    let (version, mut kind) = kind(project, &entry.file_name)?;
    if let FileKind::Wheel(tags) = &mut kind {
        shared.tags(tags);
    }
    let url = base.join(&entry.url).ok()?;
    if !matches!(url.scheme(), "http" | "https") {
        return None;
    }
    let requires_python = match entry.requires_python.as_deref().map(str::trim) {
        None | Some("") => None,
        Some(text) => Some(shared.specifiers(text)?),
    };
    let digest = |hex: Cow<'_, str>| Digest::from_hex(&hex.to_ascii_lowercase()).ok();
    let file = File {
        kind,
        location: Location::Remote(Address::new(&url, &entry.file_name)),
        file_name: entry.file_name.into_owned(),
        size: entry.size,
        sha256: entry.sha256.and_then(digest),
        requires_python,
        upload_time: entry.upload_time.and_then(|time| time.parse().ok()),
        yanked: entry.yanked.map(Cow::into_owned),
        core_metadata: entry.core_metadata.map(|hex| hex.and_then(digest)),
    };
    Some((version, file))
}

/// Version and kind of a file, if it is a wheel or sdist of the project.
///
/// An sdist is `{name}-{version}.tar.gz` (PEP 625) or, in older spelling, `.zip`; its name may have
/// been written with any of `-_.`.
pub(super) fn kind(project: &PackageName, file_name: &str) -> Option<(Version, FileKind)> {
    if let Some(".whl") = file_name.rfind('.').map(|at| &file_name[at..]) {
        let wheel: WheelFilename = file_name.parse().ok()?;
        let WheelFilename { name, version, tags } = wheel;
        return (name == *project).then(|| (version, FileKind::Wheel(Arc::new(tags))));
    }
    let stem = [".tar.gz", ".zip"].iter().find_map(|suffix| file_name.strip_suffix(suffix))?;
    // Both parts may contain `-`.
    stem.match_indices('-').find_map(|(at, _)| {
        let name = PackageName::new(stem[..at].to_owned()).ok()?;
        let version = stem[at + 1..].parse().ok()?;
        (name == *project).then_some((version, FileKind::Sdist))
    })
}

fn check_version(version: &str) -> Result<(), Error> {
    match version.split('.').next() {
        Some("1") => Ok(()),
        _ => Err(Error::RepositoryVersion(version.to_owned())),
    }
}

#[cfg(test)]
mod tests;
