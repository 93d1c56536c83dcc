//! Real python-alpine bases, made from published packages alone.
//!
//! For tests and for the quick start on machines that reach package registries but not the base's
//! own registry. What comes out behaves like `docker.io/library/python:<X.Y>-alpine<A.B>`: a
//! `CPython` that was built on Alpine, below `/usr/local`, on musl with a `BusyBox` shell.
//!
//! | part | package |
//! | --- | --- |
//! | `CPython` and pip | the wheels of a project that ships whole Pythons into containers |
//! | `CPython` 3.14 and 3.9 | compiled from Debian's sources |
//! | `CPython` 3.7 | parts of three packages: see `frozen` |
//! | musl, `BusyBox`, CA certificates | Debian |
//! | OpenSSL, zlib, bzip2, xz, `SQLite`, libffi | shared libraries that wheels bundle |
//!
//! `slim-bookworm` is such a base on glibc, out of Debian's own packages and another wheel of that project.
//!
//! A base is built once and kept; no tool beyond this program takes part. Only the Pythons 3.6 and
//! 3.8, which were linked against LibreSSL, and those that are not in one package need a C compiler for
//! musl: see [`BaseSpec::tools`].

mod cpython;
mod debian;
mod download;
mod error;
mod frozen;
mod glibc;
mod image;
mod libressl;
mod python;
mod rootfs;
mod system;
mod wheels;

use std::path::Path;

use assemble::oci::Digest;

pub(crate) use error::{Because, Error, Result};
pub(crate) use image::{Layout, MediaTypes, serve_index};

/// What a base runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Architecture {
    /// `linux/amd64`
    Amd64,
    /// `linux/arm64/v8`
    Arm64,
}

impl Architecture {
    /// `amd64`, as images and Debian say it.
    pub(crate) fn goarch(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }

    /// `x86_64`, as wheels and musl say it.
    pub(crate) fn machine(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64",
            Self::Arm64 => "aarch64",
        }
    }
}

/// Which base to make.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BaseSpec {
    /// `3.13`
    pub(crate) python: &'static str,
    /// `alpine3.24`: what `/etc/os-release` says, with the same libraries for all; or `slim-bookworm`.
    pub(crate) os: &'static str,
    /// What it runs on.
    pub(crate) architecture: Architecture,
    /// The words its manifest is written in: images of both kinds are on the Hub.
    pub(crate) media_types: MediaTypes,
}

impl BaseSpec {
    /// An OCI-typed base for amd64.
    pub(crate) fn new(python: &'static str, os: &'static str) -> Self {
        Self { python, os, architecture: Architecture::Amd64, media_types: MediaTypes::Oci }
    }

    /// The same for another architecture.
    pub(crate) fn on(self, architecture: Architecture) -> Self {
        Self { architecture, ..self }
    }

    /// The same with a manifest in other words.
    pub(crate) fn typed(self, media_types: MediaTypes) -> Self {
        Self { media_types, ..self }
    }

    /// The tools that this base cannot be made without.
    pub(crate) fn tools(&self) -> &'static [&'static str] {
        if cpython::sources(self).is_some() {
            &cpython::TOOLS
        } else if libressl::sonames(self).is_some() || frozen::makes(self) {
            &[libressl::COMPILER]
        } else {
            &[]
        }
    }

    /// The release of Debian that it is, if it is on glibc: `bookworm` for `slim-bookworm`.
    pub(crate) fn debian(&self) -> Option<&'static str> {
        self.os.strip_prefix("slim-")
    }

    /// `3.13-alpine3.24`, the tag of the official image.
    pub(crate) fn tag(&self) -> String {
        format!("{}-{}", self.python, self.os)
    }
}

/// The base as an OCI layout below `cache_dir`, made if it is not there yet.
///
/// Complete or absent; of two processes that want the same base, one waits for the other. A change
/// of this module's code makes a new base.
///
/// # Errors
/// A package cannot be had or is not what its index promised, or the disk said no.
pub(crate) async fn make(spec: BaseSpec, cache_dir: &Path) -> Result<Layout> {
    let name = format!(
        "{}-{}{}-{}",
        spec.tag(),
        spec.architecture.goarch(),
        spec.media_types.suffix(),
        recipe()
    );
    let folder = cache_dir.join(&name);
    fs_err::create_dir_all(cache_dir).because(|| "make the cache of bases".into())?;
    let lock = lock(cache_dir.join(format!("{name}.lock"))).await?;
    if !folder.is_dir() {
        build(spec, cache_dir, &folder).await?;
    }
    drop(lock);
    Layout::open(&folder)
}

/// What the bases made by this code have in their names: a digest over the code itself.
fn recipe() -> String {
    let code = [
        include_str!("cpython.rs"),
        include_str!("debian.rs"),
        include_str!("frozen.rs"),
        include_str!("glibc.rs"),
        include_str!("image.rs"),
        include_str!("libressl.c"),
        include_str!("libressl.rs"),
        include_str!("python.rs"),
        include_str!("python37.c"),
        include_str!("rootfs.rs"),
        include_str!("system.rs"),
        include_str!("wheels.rs"),
    ];
    Digest::of(code.concat().as_bytes()).hex()[..12].to_owned()
}

/// Waits for the lock file at `path`; the lock is held until the file is dropped.
async fn lock(path: std::path::PathBuf) -> Result<std::fs::File> {
    tokio::task::spawn_blocking(move || {
        let file = fs_err::File::create(&path)?.into_parts().0;
        file.lock()?;
        Ok::<_, std::io::Error>(file)
    })
    .await
    .because(|| "wait for another process".into())?
    .because(|| "lock the cache of bases".into())
}

async fn build(spec: BaseSpec, cache_dir: &Path, folder: &Path) -> Result<()> {
    let client = download::Client::new(&cache_dir.join("downloads"))?;
    let (python, system) =
        tokio::try_join!(python::fetch(&client, &spec), system::fetch(&client, &spec))?;
    let (cache_dir, folder) = (cache_dir.to_owned(), folder.to_owned());
    tokio::task::spawn_blocking(move || {
        let temporary = tempfile::TempDir::new_in(&cache_dir)
            .because(|| "make a folder for the base".into())?;
        let lower = system::layer(&spec, &system)?;
        let upper = python::layer(&spec, &python, &lower, &system)?;
        image::write(&spec, python.version(), &[lower, upper], temporary.path())?;
        fs_err::rename(temporary.path(), &folder).because(|| "name the base".into())?;
        // It has another name now.
        let _moved = temporary.keep();
        Ok(())
    })
    .await
    .because(|| "build the base".into())?
}
