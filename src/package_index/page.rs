//! A project's page as JSON (PEP 691, 700) or HTML (PEP 503, 592, 658, 714) of a repository of major
//! version 1 (PEP 629). Pure.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use html5gum::{StartTag, Token, Tokenizer};
use pep440_rs::{Version, VersionSpecifiers};
use pep508_rs::PackageName;
use serde::Deserialize;
use url::Url;

use super::{Address, File, FileKind, Location, Project};
use crate::oci::Digest;
use crate::python::{WheelFilename, WheelTags, metadata};

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
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let entries = match essence.as_str() {
        "application/vnd.pypi.simple.v1+json" | "application/json" => json(body)?,
        "application/vnd.pypi.simple.v1+html" | "text/html" | "application/xhtml+xml" => {
            return Ok(project_of(project, html(body)?, url));
        }
        // Folders of static pages are often served without a useful type.
        "" | "application/octet-stream" | "text/plain" => {
            match body.iter().find(|byte| !byte.is_ascii_whitespace()) {
                Some(b'{') => json(body)?,
                Some(b'<') => return Ok(project_of(project, html(body)?, url)),
                _ => return Err(Error::ContentType(essence)),
            }
        }
        _ => return Err(Error::ContentType(essence)),
    };
    Ok(project_of(project, Entries { base: None, entries }, url))
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

struct Entries<'a> {
    /// `<base href>`
    base: Option<String>,
    entries: Vec<Entry<'a>>,
}

fn project_of(project: &PackageName, page: Entries<'_>, url: &Url) -> Project {
    let base = page.base.and_then(|base| url.join(&base).ok());
    let base = base.as_ref().unwrap_or(url);
    let mut versions: BTreeMap<Version, Vec<File>> = BTreeMap::new();
    let mut shared = Shared::default();
    for entry in page.entries {
        if let Some((version, file)) = file(project, entry, base, &mut shared) {
            versions.entry(version).or_default().push(file);
        }
    }
    for files in versions.values_mut() {
        if files.iter().any(|file| is_foreign(file) == Some(false)) {
            files.retain(|file| is_foreign(file) != Some(true));
        }
        files.shrink_to_fit();
        // Stable: of two files with one name the page's first stays.
        files.sort_by(|a, b| a.file_name.cmp(&b.file_name));
        files.dedup_by(|later, first| later.file_name == first.file_name);
    }
    Project { versions }
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

#[derive(Deserialize)]
struct JsonPage<'a> {
    #[serde(default)]
    meta: JsonMeta,
    #[serde(borrow, default)]
    files: Vec<JsonFile<'a>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct JsonMeta {
    api_version: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct JsonFile<'a> {
    #[serde(borrow)]
    filename: Cow<'a, str>,
    #[serde(borrow)]
    url: Cow<'a, str>,
    #[serde(borrow, default)]
    hashes: Hashes<'a>,
    #[serde(borrow)]
    requires_python: Option<Text<'a>>,
    size: Option<u64>,
    #[serde(borrow)]
    upload_time: Option<Text<'a>>,
    #[serde(borrow)]
    yanked: Option<BoolOr<Text<'a>>>,
    #[serde(borrow)]
    core_metadata: Option<BoolOr<Hashes<'a>>>,
    #[serde(borrow)]
    dist_info_metadata: Option<BoolOr<Hashes<'a>>>,
}

/// Of the hashes that a page has the one that counts.
#[derive(Default, Deserialize)]
struct Hashes<'a> {
    #[serde(borrow)]
    sha256: Option<Text<'a>>,
}

/// Within an `Option` serde would copy a plain `Cow`.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

#[derive(Deserialize)]
#[serde(untagged)]
enum BoolOr<T> {
    Bool(bool),
    Value(T),
}

fn json<'a>(body: &'a [u8]) -> Result<Vec<Entry<'a>>, Error> {
    let page: JsonPage<'a> = serde_json::from_slice(body).map_err(Error::Json)?;
    check_version(page.meta.api_version.as_deref().unwrap_or("1.0"))?;
    let entry = |file: JsonFile<'a>| Entry {
        file_name: file.filename,
        url: file.url,
        sha256: file.hashes.sha256.map(|text| text.0),
        requires_python: file.requires_python.map(|text| text.0),
        size: file.size,
        upload_time: file.upload_time.map(|text| text.0),
        yanked: match file.yanked {
            Some(BoolOr::Bool(true)) => Some(Cow::Borrowed("")),
            Some(BoolOr::Value(Text(reason))) if !reason.is_empty() => Some(reason),
            _ => None,
        },
        core_metadata: match file.core_metadata.or(file.dist_info_metadata) {
            Some(BoolOr::Bool(true)) => Some(None),
            Some(BoolOr::Value(hashes)) => Some(hashes.sha256.map(|text| text.0)),
            _ => None,
        },
    };
    Ok(page.files.into_iter().map(entry).collect())
}

fn html(body: &[u8]) -> Result<Entries<'static>, Error> {
    let mut base = None;
    let mut entries = Vec::new();
    for Ok(token) in Tokenizer::new(body) {
        let Token::StartTag(tag) = token else {
            continue;
        };
        match tag.name.as_slice() {
            b"base" if base.is_none() => base = attribute(&tag, "href"),
            b"meta" if attribute(&tag, "name").as_deref() == Some("pypi:repository-version") => {
                check_version(attribute(&tag, "content").unwrap_or_default().trim())?;
            }
            b"a" => entries.extend(anchor(&tag)),
            _ => {}
        }
    }
    Ok(Entries { base, entries })
}

fn attribute(tag: &StartTag<()>, name: &str) -> Option<String> {
    let value = tag.attributes.get(name.as_bytes())?;
    Some(String::from_utf8_lossy(value).into_owned())
}

/// The file name is the last part of the address: the link's text is for people.
fn anchor(tag: &StartTag<()>) -> Option<Entry<'static>> {
    let href = attribute(tag, "href")?.trim().to_owned();
    let (address, fragment) = match href.split_once('#') {
        Some((address, fragment)) => (address.to_owned(), fragment),
        None => (href.clone(), ""),
    };
    let path = address.split('?').next().unwrap_or_default();
    let file_name = percent_decode(path.rsplit('/').next().unwrap_or_default());
    let sha256 =
        fragment.split('&').find_map(|pair| pair.strip_prefix("sha256=")).map(str::to_owned);
    let core_metadata = attribute(tag, "data-core-metadata")
        .or_else(|| attribute(tag, "data-dist-info-metadata"))
        .filter(|value| value != "false")
        .map(|value| value.strip_prefix("sha256=").map(str::to_owned));
    Some(Entry {
        file_name: file_name.into(),
        url: address.into(),
        sha256: sha256.map(Cow::Owned),
        requires_python: attribute(tag, "data-requires-python").map(Cow::Owned),
        size: None,
        upload_time: None,
        yanked: attribute(tag, "data-yanked").map(Cow::Owned),
        core_metadata: core_metadata.map(|hex| hex.map(Cow::Owned)),
    })
}

fn percent_decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((&first, after)) = rest.split_first() {
        let escaped = (first == b'%')
            .then(|| std::str::from_utf8(after.get(..2)?).ok())
            .flatten()
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        if let Some(byte) = escaped {
            decoded.push(byte);
            rest = &after[2..];
        } else {
            decoded.push(first);
            rest = after;
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const JSON: &str = "application/vnd.pypi.simple.v1+json";
    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn page(name: &str, content_type: &str, body: &str) -> Result<Vec<String>, Error> {
        let url = Url::parse("https://index.example/simple/foo/").unwrap();
        let project = parse(&name.parse().unwrap(), &url, content_type, body.as_bytes())?;
        let mut lines = Vec::new();
        for (version, files) in project.versions {
            for file in files {
                let Location::Remote(address) = &file.location else {
                    panic!("remote");
                };
                let url = address.url(&file.file_name).unwrap();
                lines.push(format!(
                    "{version} {} {} {url} size={:?} sha={} py={} up={} yanked={:?} meta={:?}",
                    file.file_name,
                    matches!(file.kind, FileKind::Sdist),
                    file.size,
                    file.sha256.is_some(),
                    file.requires_python
                        .map_or_else(|| "-".into(), |specifiers| specifiers.to_string()),
                    file.upload_time.map_or_else(|| "-".into(), |time| time.to_string()),
                    file.yanked,
                    file.core_metadata.map(|digest| digest.is_some()),
                ));
            }
        }
        Ok(lines)
    }

    #[test]
    fn json_pages() {
        let body = format!(
            r#"{{"meta": {{"api-version": "1.4", "_last-serial": 5}}, "name": "foo", "versions": ["1.0"], "files": [
              {{"filename": "foo-1.0.tar.gz", "url": "../../f/foo-1.0.tar.gz", "hashes": {{"sha256": "{HEX}"}},
                "size": 12, "upload-time": "2019-03-13T10:11:12.345678Z", "yanked": "broken", "provenance": null}},
              {{"filename": "foo-1.0-py3-none-any.whl", "url": "https://files.example/foo-1.0-py3-none-any.whl",
                "hashes": {{"md5": "x"}}, "requires-python": ">=3.6,", "yanked": false, "core-metadata": {{"sha256": "{HEX}"}}}},
              {{"filename": "foo-1.1-py3-none-any.whl", "url": "foo-1.1-py3-none-any.whl", "hashes": {{}},
                "yanked": true, "core-metadata": true, "dist-info-metadata": false}},
              {{"filename": "foo-1.2-py3-none-any.whl", "url": "a", "hashes": {{}}, "requires-python": "rubbish"}},
              {{"filename": "foo-1.3-py3-none-any.whl", "url": "file:///etc/passwd", "hashes": {{}}}},
              {{"filename": "foo-1.0.exe", "url": "a", "hashes": {{}}}},
              {{"filename": "bar-1.0.tar.gz", "url": "a", "hashes": {{}}}}
            ]}}"#
        );
        let expected = [
            "1.0 foo-1.0-py3-none-any.whl false https://files.example/foo-1.0-py3-none-any.whl size=None sha=false py=>=3.6 up=- yanked=None meta=Some(true)",
            "1.0 foo-1.0.tar.gz true https://index.example/f/foo-1.0.tar.gz size=Some(12) sha=true py=- up=2019-03-13T10:11:12.345678Z yanked=Some(\"broken\") meta=None",
            "1.1 foo-1.1-py3-none-any.whl false https://index.example/simple/foo/foo-1.1-py3-none-any.whl size=None sha=false py=- up=- yanked=Some(\"\") meta=Some(false)",
        ];
        assert_eq!(page("foo", JSON, &body).unwrap(), expected);
        assert_eq!(page("foo", "text/plain", &body).unwrap(), expected);
    }

    #[test]
    fn html_pages() {
        let body = format!(
            r#"<!DOCTYPE html><html><head><meta name="pypi:repository-version" content="1.1">
            <base href="https://files.example/pool/"></head><body>
            <!-- <a href="foo-9.9.tar.gz">no</a> -->
            <a href="foo-1.0.tar.gz#md5=1&sha256={HEX}" data-requires-python="&gt;=3.6">text is not a name</a>
            <A HREF='/abs/Foo-1.1%2Blocal.1-py3-none-any.whl' data-yanked data-dist-info-metadata="true">x</A>
            <a href="foo-1.2-py3-none-any.whl?token=a/b#sha256=bad" data-yanked="why &amp; how" data-core-metadata="sha256={HEX}">x</a>
            <a href="../">up</a><a name="x">no</a></body>"#
        );
        assert_eq!(
            page("foo", "text/html; charset=utf-8", &body).unwrap(),
            [
                "1.0 foo-1.0.tar.gz true https://files.example/pool/foo-1.0.tar.gz size=None sha=true py=>=3.6 up=- yanked=None meta=None",
                "1.1+local.1 Foo-1.1+local.1-py3-none-any.whl false https://files.example/abs/Foo-1.1%2Blocal.1-py3-none-any.whl size=None sha=false py=- up=- yanked=Some(\"\") meta=Some(false)",
                "1.2 foo-1.2-py3-none-any.whl false https://files.example/pool/foo-1.2-py3-none-any.whl?token=a/b size=None sha=false py=- up=- yanked=Some(\"why & how\") meta=Some(true)",
            ]
        );
    }

    #[test]
    fn what_is_no_page_is_refused() {
        for (content_type, body, message) in [
            ("application/pdf", "", "its content type is `application/pdf`"),
            (
                "application/vnd.pypi.simple.v2+json",
                "{}",
                "its content type is `application/vnd.pypi.simple.v2+json`",
            ),
            ("", "hello", "its content type is ``"),
            (JSON, "{", "broken JSON"),
            (
                JSON,
                r#"{"meta": {"api-version": "2.0"}, "files": []}"#,
                "repository version `2.0` is not supported: 1.x is",
            ),
            (
                "text/html",
                r#"<meta name="pypi:repository-version" content="2.0">"#,
                "repository version `2.0` is not supported: 1.x is",
            ),
        ] {
            let error = page("foo", content_type, body).unwrap_err();
            assert_eq!(error.to_string(), message);
        }
        assert!(page("foo", "text/html", "").unwrap().is_empty());
    }

    #[test]
    fn wheels_for_other_systems_are_left_out_where_there_are_others() {
        let body = |names: &[&str]| -> String {
            names.iter().flat_map(|name| ["<a href='", name, "'>x</a>"]).collect()
        };
        let (mac, windows) =
            ("foo-1-cp313-cp313-macosx_11_0_arm64.whl", "foo-1-py3-none-win32.whl");
        let (sdist, any) = ("foo-1.tar.gz", "foo-1-py3-none-any.whl");
        let linux = "foo-1-cp313-cp313-musllinux_1_2_x86_64.whl";
        for (listed, left) in [
            (vec![mac, windows], vec![mac, windows]),
            (vec![mac, windows, sdist], vec![mac, windows, sdist]),
            (vec![linux, mac, windows, sdist], vec![linux, sdist]),
            (vec![mac, any], vec![any]),
        ] {
            let lines = page("foo", "text/html", &body(&listed)).unwrap();
            assert_eq!(lines.len(), left.len(), "{lines:?}");
            assert!(lines.iter().zip(left).all(|(line, name)| line.contains(name)), "{lines:?}");
        }
    }

    #[test]
    fn addresses_are_what_they_were_however_they_end() {
        for (text, is_cut) in [
            ("https://files.example/a/b/foo-1.0.tar.gz", true),
            ("https://files.example/foo-1.0.tar.gz", true),
            ("https://files.example/get?name=foo-1.0.tar.gz", false),
            ("https://files.example/other-foo-1.0.tar.gz", false),
            ("https://files.example/foo-1.0.tar.gz?token=a", false),
        ] {
            let url = Url::parse(text).unwrap();
            let address = Address::new(&url, "foo-1.0.tar.gz");
            assert_eq!(address.url("foo-1.0.tar.gz").unwrap(), url);
            assert_eq!(address.url("x").unwrap() != url, is_cut, "{text}");
        }
        let folder = Url::parse("https://files.example/foo/?from=a/").unwrap();
        let mut url = Address::new(&folder, "foo-1.0.tar.gz").url("x").unwrap();
        url.set_fragment(None);
        assert_eq!(url, folder);
    }

    #[test]
    fn names_of_sdists() {
        for (project, file_name, version) in [
            ("zope-interface", "zope.interface-8.1.tar.gz", Some("8.1")),
            ("zope-interface", "zope_interface-8.1.tar.gz", Some("8.1")),
            ("zope-interface", "zope-interface-6.4.post2.zip", Some("6.4.post2")),
            ("foo", "foo-2-1.0.tar.gz", None),
            ("foo-2", "foo-2-1.0.tar.gz", Some("1.0")),
            ("foo", "foo-1.0-1.tar.gz", Some("1.0.post1")),
            ("foo", "foo-1.0.tar.bz2", None),
            ("foo", "foo.tar.gz", None),
            ("foo", "../foo-1.0.tar.gz", None),
            ("foo", "foo-1.0/x.tar.gz", None),
        ] {
            let found =
                kind(&project.parse().unwrap(), file_name).map(|(version, _)| version.to_string());
            assert_eq!(found.as_deref(), version, "{file_name}");
        }
    }
}
