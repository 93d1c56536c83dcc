//! Files out of wheels, which the library's own package index client fetches.

use std::collections::BTreeMap;
use std::io::{Cursor, Read as _};
use std::str::FromStr as _;

use assemble::package_index::{Config, Sources};
use bytes::Bytes;
use pep440_rs::Version;
use pep508_rs::PackageName;

use super::download::Client;
use super::{Because as _, Error, Result};

/// A file on the index, chosen by hand.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wheel<'a> {
    /// `psycopg-binary`
    pub(crate) project: &'a str,
    /// `3.3.9`
    pub(crate) version: &'a str,
    /// What else stands in its file name: `cp313-musllinux_1_2_x86_64`.
    pub(crate) tags: &'a str,
}

/// The index: as pip and uv are told, else the public one.
#[expect(clippy::disallowed_methods, reason = "where packages come from is the machine's to say")]
pub(crate) fn index() -> Result<Config> {
    let variable = |name| std::env::var(name).ok();
    Config::from_sources(&Sources {
        uv_default_index: variable("UV_DEFAULT_INDEX"),
        pip_index_url: variable("PIP_INDEX_URL"),
        ..Sources::default()
    })
    .because(|| "read the address of the Python package index".into())
}

/// The wheel's bytes, verified.
pub(crate) async fn fetch(client: &Client, wheel: Wheel<'_>) -> Result<Bytes> {
    let what = || format!("{} {} for {}", wheel.project, wheel.version, wheel.tags);
    let name = PackageName::from_str(wheel.project).because(what)?;
    let version = Version::from_str(wheel.version).because(what)?;
    let project =
        client.packages.project(&name).await.because(|| format!("look for {}", wheel.project))?;
    let files = project.versions.get(&version);
    let file = files
        .into_iter()
        .flatten()
        .find(|file| file.file_name.contains(wheel.tags))
        .ok_or_else(|| Error::new(format!("the index has no {}", what())))?;
    let (digest, _) = client
        .packages
        .fetch(&name, &file.file_name, file.sha256.as_ref(), file.size)
        .await
        .because(|| format!("fetch {}", what()))?;
    client.stored(&digest)
}

/// The files of a wheel whose path passes, in path order.
pub(crate) fn members(
    wheel: &Bytes,
    wanted: impl Fn(&str) -> bool,
) -> Result<BTreeMap<String, Bytes>> {
    let doing = || "read a wheel".to_owned();
    let mut archive = zip::ZipArchive::new(Cursor::new(wheel)).because(doing)?;
    let mut files = BTreeMap::new();
    for index in 0..archive.len() {
        let mut file = archive.by_index(index).because(doing)?;
        let path = file.name().because(doing)?.into_owned();
        if file.is_file() && wanted(&path) {
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes).because(doing)?;
            files.insert(path, bytes.into());
        }
    }
    Ok(files)
}

/// The first file of a wheel whose path passes; its name (without folders) and bytes.
pub(crate) fn member(wheel: &Bytes, wanted: impl Fn(&str) -> bool) -> Result<(String, Bytes)> {
    let mut archive = zip::ZipArchive::new(Cursor::new(wheel)).because(|| "open a wheel".into())?;
    let path = archive
        .file_names()
        .filter_map(|path| path.ok().map(std::borrow::Cow::into_owned))
        .filter(|path| wanted(path))
        .min()
        .ok_or_else(|| Error::new("a wheel lacks the file it was fetched for"))?;
    let mut bytes = Vec::new();
    archive
        .by_name(&path)
        .because(|| format!("find {path} in a wheel"))?
        .read_to_end(&mut bytes)
        .because(|| format!("read {path} in a wheel"))?;
    let name = path.rsplit('/').next().unwrap_or_default().to_owned();
    Ok((name, bytes.into()))
}
