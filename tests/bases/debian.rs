//! Files out of Debian packages (deb(5)), found as apt finds them.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use assemble::oci::Digest;
use bytes::Bytes;
use url::Url;

use super::download::Client;
use super::{Architecture, Because as _, Error, Result};

/// The archive's root: the mirror this machine's apt uses, else the public one.
fn archive() -> Result<Url> {
    let ecosystem = "Debian".to_lowercase();
    let mirror = apt_sources().into_iter().find(|address| {
        Url::parse(address).is_ok_and(|url| url.path().trim_end_matches('/').ends_with(&*ecosystem))
    });
    let address = mirror.unwrap_or_else(|| format!("https://deb.{ecosystem}.org/{ecosystem}"));
    Url::parse(&format!("{}/", address.trim_end_matches('/')))
        .because(|| "read the address of the Debian archive".into())
}

/// The addresses of apt's sources, both formats (sources.list(5)), in the order of their files.
fn apt_sources() -> Vec<String> {
    let folder = Path::new("/etc/apt");
    let mut files = vec![folder.join("sources.list")];
    if let Ok(entries) = fs_err::read_dir(folder.join("sources.list.d")) {
        files.extend(entries.flatten().map(|entry| entry.path()));
    }
    files.sort();
    files
        .iter()
        .filter_map(|file| fs_err::read_to_string(file).ok())
        .flat_map(|text| {
            text.lines()
                .filter(|line| line.starts_with("URIs:") || line.starts_with("deb "))
                .flat_map(|line| line.split_whitespace().map(ToOwned::to_owned))
                .filter(|word| word.starts_with("http://") || word.starts_with("https://"))
                .collect::<Vec<_>>()
        })
        .collect()
}

/// The bytes of a release's packages by name, verified against the archive's index.
///
/// The index itself is not: that would take `OpenPGP`. What comes of it is for tests and a first look.
pub(crate) async fn fetch(
    client: &Client,
    suite: &'static str,
    architecture: Architecture,
    names: &[&str],
) -> Result<BTreeMap<String, Bytes>> {
    let archive = archive()?;
    let index = format!("dists/{suite}/main/binary-{}/Packages.xz", architecture.goarch());
    let url = archive.join(&index).because(|| format!("find {index}"))?;
    let packed = client.get(&url).await?;
    let found = tokio::task::spawn_blocking({
        let names: Vec<_> = names.iter().map(|&name| name.to_owned()).collect();
        move || find(&packed, suite, &names)
    })
    .await
    .because(|| format!("read {index}"))??;
    let packages = found.into_iter().map(|(name, (path, digest))| {
        let url = archive.join(&path).because(|| format!("find {path}"));
        async move { Ok::<_, Error>((name, client.file(&url?, &digest).await?)) }
    });
    Ok(futures_util::future::try_join_all(packages).await?.into_iter().collect())
}

/// The sources of a package as they were released, with their version: that file, or where the archive
/// has it no longer what the suite has now. Verified as packages are.
pub(crate) async fn source(
    client: &Client,
    name: &str,
    (version, digest): (&str, Digest),
    suite: &str,
) -> Result<(String, Bytes)> {
    let archive = archive()?;
    let url = |version: &str| {
        let path = format!("pool/main/{}/{name}/{name}_{version}.orig.tar.xz", &name[..1]);
        archive.join(&path).because(|| format!("find {path}"))
    };
    let gone = match client.file(&url(version)?, &digest).await {
        Ok(bytes) => return Ok((version.to_owned(), bytes)),
        Err(gone) => gone,
    };
    let index = format!("dists/{suite}/main/source/Sources.xz");
    let packed = client.get(&archive.join(&index).because(|| format!("find {index}"))?).await?;
    let mut text = String::new();
    lzma_rust2::XzReader::new(&packed[..], true)
        .read_to_string(&mut text)
        .because(|| "unpack an index of the Debian archive".into())?;
    let (version, digest) = find_source(&text, name).ok_or(gone)?;
    let bytes = client.file(&url(&version)?, &digest).await?;
    Ok((version, bytes))
}

/// Version and digest of the newest sources in an index, which stand last: lines of digest, size and
/// file name (deb-src-control(5)).
fn find_source(text: &str, name: &str) -> Option<(String, Digest)> {
    let beginning = format!("{name}_");
    let mut files = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let (digest, _size, file) = (words.next()?, words.next()?, words.next()?);
        let version = file.strip_prefix(&beginning)?.strip_suffix(".orig.tar.xz")?;
        Some((version.to_owned(), Digest::from_hex(digest).ok()?))
    });
    files.next_back()
}

/// Path and digest of each named package in an index.
fn find(
    packed: &[u8],
    suite: &str,
    names: &[String],
) -> Result<BTreeMap<String, (String, Digest)>> {
    let mut text = String::new();
    lzma_rust2::XzReader::new(packed, true)
        .read_to_string(&mut text)
        .because(|| "unpack the index of the Debian archive".into())?;
    let mut found = BTreeMap::new();
    for paragraph in text.split("\n\n") {
        let field = |name: &str| {
            paragraph.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
        };
        let Some(name) = field("Package").filter(|name| names.iter().any(|n| n == name)) else {
            continue;
        };
        if let (Some(path), Some(Ok(digest))) =
            (field("Filename"), field("SHA256").map(Digest::from_hex))
        {
            found.insert(name.to_owned(), (path.to_owned(), digest));
        }
    }
    match names.iter().find(|name| !found.contains_key(*name)) {
        Some(name) => Err(Error::new(format!("Debian {suite} has no package {name}"))),
        None => Ok(found),
    }
}

/// The regular files of a package whose path (without leading `./`) passes, in path order.
pub(crate) fn members(
    package: &[u8],
    wanted: impl Fn(&str) -> bool,
) -> Result<BTreeMap<String, Bytes>> {
    let doing = || "read a Debian package".to_owned();
    let (name, data) = ar(package)
        .find(|(name, _)| name.starts_with("data.tar"))
        .ok_or_else(|| Error::new("a Debian package has no data"))?;
    let reader: Box<dyn Read + '_> = match name.rsplit('.').next() {
        Some("xz") => Box::new(lzma_rust2::XzReader::new(data, true)),
        Some("gz") => Box::new(flate2::read::MultiGzDecoder::new(data)),
        Some("zst") => Box::new(ruzstd::decoding::StreamingDecoder::new(data).because(doing)?),
        _ => Box::new(data),
    };
    let mut files = BTreeMap::new();
    for entry in tar::Archive::new(reader).entries().because(doing)? {
        let mut entry = entry.because(doing)?;
        let path = entry.path().because(doing)?.to_string_lossy().into_owned();
        let path = path.trim_start_matches("./");
        if entry.header().entry_type().is_file() && wanted(path) {
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).because(doing)?;
            files.insert(path.to_owned(), bytes.into());
        }
    }
    Ok(files)
}

/// The members of an `ar` archive: a line of magic, then 60 bytes of header (name in 16, size in
/// decimal at 48) before each member, which begins at an even offset.
fn ar(archive: &[u8]) -> impl Iterator<Item = (&str, &[u8])> {
    let mut rest = archive.strip_prefix(b"!<arch>\n").unwrap_or_default();
    std::iter::from_fn(move || {
        let (header, after) = rest.split_at_checked(60)?;
        let name = std::str::from_utf8(&header[..16]).ok()?;
        let size = std::str::from_utf8(&header[48..58]).ok()?;
        let (member, after) = after.split_at_checked(size.trim().parse().ok()?)?;
        rest = after.get(member.len() % 2..).unwrap_or_default();
        Some((name.trim_end().trim_end_matches('/'), member))
    })
}
