//! Pages, metadata and files, each asked for once in a run and kept on disk where that is safe.

use std::fmt::Debug;
use std::sync::Arc;

use fs_err as fs;
use pep508_rs::PackageName;
use tokio::sync::Semaphore;
use url::Url;

use super::config::Config;
use super::error::Error;
use super::memo::Memo;
use super::sdist::{self, SdistSource};
use super::transfer::Transfer;
use super::{Address, File, Location, Project, local, wheel_archive};
use crate::http::Following;
use crate::oci::Digest;
use crate::python::{CoreMetadata, WheelFilename};
use crate::store::{self, BlobWriter, Store};

mod metadata;
mod pages;

/// A file of unknown size is not larger.
const FILE_LIMIT: u64 = 16 << 30;

/// A client for all package indexes of a run. Cheap to clone; pages and metadata are kept for the
/// run and cached on disk.
#[derive(Clone, Debug)]
pub struct Client {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: Config,
    store: Store,
    transfer: Transfer,
    projects: Memo<PackageName, Arc<Project>>,
    pages: Memo<(usize, PackageName), Option<Arc<Project>>>,
    /// Addresses of pages that were asked for, and whether there was one.
    asked: Memo<Url, bool>,
    metadata: Memo<String, Arc<CoreMetadata>>,
    files: Memo<String, (Digest, u64)>,
    /// Pages that may be in memory before they are parsed: some have megabytes.
    whole_pages: Semaphore,
}

/// As many pages are asked for and parsed at once.
const PAGES_AT_ONCE: usize = 8;

impl Client {
    /// A client that asks `config`'s indexes by `http` and keeps files and metadata in `store`.
    ///
    /// `http` should follow redirects (dropping credentials on other hosts, as reqwest does) and look
    /// up a host once, not once for each connection.
    pub fn new(http: impl Into<Following>, config: Config, store: Store) -> Self {
        Self {
            inner: Arc::new(Inner {
                config,
                store,
                transfer: Transfer::new(http.into()),
                projects: Memo::default(),
                pages: Memo::default(),
                asked: Memo::default(),
                metadata: Memo::default(),
                files: Memo::default(),
                whole_pages: Semaphore::new(PAGES_AT_ONCE),
            }),
        }
    }

    /// All files of the project; an empty project if no index knows it.
    ///
    /// They are those of the first index that knows the project (see [`Config`]), and those of the
    /// local folders. An index that refuses is an error: going on to the next one would hand a private
    /// project to a public index.
    ///
    /// # Errors
    /// An index or folder cannot be read, or the answer is no page.
    pub async fn project(&self, name: &PackageName) -> Result<Arc<Project>, Error> {
        self.inner
            .projects
            .get(name.clone(), async {
                let mut project = Arc::<Project>::default();
                for index in 0..self.inner.config.indexes.len() {
                    if let Some(found) = self.page(index, name).await? {
                        project = found;
                        break;
                    }
                }
                for folder in &self.inner.config.find_links {
                    local::add_folder(&mut project, name, folder)?;
                }
                Ok(project)
            })
            .await
    }

    /// The metadata of a wheel: PEP 658, else ranges into the zip directory, else the whole wheel.
    ///
    /// Its name and version are the file name's.
    ///
    /// # Errors
    /// It cannot be fetched; [`Error::is_about_one_file`] if it can, and is unusable.
    pub async fn wheel_metadata(&self, file: &File) -> Result<Arc<CoreMetadata>, Error> {
        let wheel: WheelFilename = file.file_name.parse().map_err(|_no_wheel| Error::Wheel {
            file_name: file.file_name.clone(),
            source: wheel_archive::Error::NoEnd,
        })?;
        self.inner
            .metadata
            .get(memo_key(file), async {
                let metadata = self.read_wheel_metadata(file, &wheel).await?;
                if metadata.name != wheel.name || metadata.version != wheel.version {
                    return Err(Error::OtherMetadata {
                        file_name: file.file_name.clone(),
                        found: format!("{}-{}", metadata.name, metadata.version),
                    });
                }
                Ok(Arc::new(metadata))
            })
            .await
    }

    /// Fetches a file into the store by name and hash, on whatever index has it, unless it is there.
    /// Returns its verified digest and size.
    ///
    /// With a hash any index may serve it; without one only the index that [`Self::project`] chose.
    ///
    /// # Errors
    /// No index has it, it cannot be fetched, or it has another hash or size.
    pub async fn fetch(
        &self,
        name: &PackageName,
        file_name: &str,
        sha256: Option<&Digest>,
        size: Option<u64>,
    ) -> Result<(Digest, u64), Error> {
        if let Some(digest) = sha256
            && let Some(found) = self.stored(digest)?
        {
            return check_size(file_name, size, found).map(|size| (*digest, size));
        }
        let file = self.locate(name, file_name, sha256).await?;
        let (digest, found) = self.fetch_file(&file, sha256, size).await?;
        check_size(file_name, size, found).map(|size| (digest, size))
    }

    /// What an sdist of [`Self::project`] says about itself. Fetches it into the store.
    ///
    /// # Errors
    /// It cannot be fetched, or not be read.
    pub async fn sdist_source(
        &self,
        name: &PackageName,
        file: &File,
    ) -> Result<SdistSource, Error> {
        let sha256 = file.sha256.as_ref();
        let stored = match sha256 {
            Some(digest) => self.stored(digest)?.map(|size| (*digest, size)),
            None => None,
        };
        let (digest, size) = match stored {
            Some(stored) => stored,
            None => self.fetch_file(file, sha256, file.size).await?,
        };
        let failed = |source| Error::Sdist { file_name: file.file_name.clone(), source };
        let path = self.inner.store.blob_path(&digest);
        let file_name = file.file_name.clone();
        // Decompressing a large archive would hold up everything else on this thread.
        let source =
            tokio::task::spawn_blocking(move || sdist::read(&path, &file_name, digest, size))
                .await
                .map_err(|error| failed(sdist::Error::Archive(std::io::Error::other(error))))?
                .map_err(failed)?;
        match &source.metadata {
            Some(metadata) if metadata.name != *name => Err(Error::OtherMetadata {
                file_name: file.file_name.clone(),
                found: format!("{}-{}", metadata.name, metadata.version),
            }),
            _ => Ok(source),
        }
    }

    /// The file that a lock means: with a hash whoever has it, without one that of [`Self::project`].
    async fn locate(
        &self,
        name: &PackageName,
        file_name: &str,
        sha256: Option<&Digest>,
    ) -> Result<File, Error> {
        let absent =
            || Error::NoSuchFile { project: name.to_string(), file_name: file_name.to_owned() };
        let Some(expected) = sha256 else {
            let project = self.project(name).await?;
            let mut files = project.versions.values().flatten();
            let file = files.find(|file| file.file_name == file_name);
            return file.cloned().ok_or_else(absent);
        };
        let Config { indexes, find_links, .. } = &self.inner.config;
        let mut local = Arc::<Project>::default();
        for folder in find_links {
            local::add_folder(&mut local, name, folder)?;
        }
        let mut files = local.versions.values().flatten();
        if let Some(file) = files.find(|file| file.file_name == file_name) {
            return Ok(file.clone());
        }
        let mut other = None;
        for index in 0..indexes.len() {
            let Some(file) = self.file(index, name, file_name).await? else { continue };
            match file.sha256 {
                Some(found) if found != *expected => other = other.or(Some(found)),
                _ => return Ok(file),
            }
        }
        Err(other.map_or_else(absent, |found| Error::Digest {
            file_name: file_name.to_owned(),
            expected: *expected,
            found,
        }))
    }

    /// Fetches the file into the store, once for all who ask.
    async fn fetch_file(
        &self,
        file: &File,
        sha256: Option<&Digest>,
        size: Option<u64>,
    ) -> Result<(Digest, u64), Error> {
        let Inner { config, store, transfer, files, .. } = &*self.inner;
        let expected = sha256.or(file.sha256.as_ref());
        let fetched = files
            .get(memo_key(file), async {
                let (writer, found) = match &file.location {
                    Location::Local(path) => local::copy(path, store)?,
                    Location::Remote(_) if config.offline => {
                        return Err(Error::Offline(file.file_name.clone()));
                    }
                    Location::Remote(address) => {
                        let url = &url_of(file, address)?;
                        let promised = size.or(file.size);
                        let limit = promised.unwrap_or(FILE_LIMIT);
                        transfer
                            .download(config, url, store, limit)
                            .await
                            .map_err(|error| longer(file, promised, error))?
                    }
                };
                keep(file, expected, writer, found)
            })
            .await?;
        match expected {
            // Another caller fetched it without knowing the hash.
            Some(expected) if *expected != fetched.0 => Err(store::Error::Mismatch {
                what: format!("`{}`", file.file_name),
                expected: *expected,
                found: fetched.0,
            }
            .into()),
            _ => Ok(fetched),
        }
    }

    /// The size of a blob that is stored and undamaged.
    fn stored(&self, digest: &Digest) -> Result<Option<u64>, Error> {
        let store = &self.inner.store;
        if !store.verify(digest)? {
            return Ok(None);
        }
        let path = store.blob_path(digest);
        let metadata = fs::metadata(&path)
            .map_err(|source| store::Error::Disk { path: store.root().to_owned(), source })?;
        Ok(Some(metadata.len()))
    }
}

/// Names the blob by its digest if that and the size are what was promised.
fn keep(
    file: &File,
    expected: Option<&Digest>,
    writer: BlobWriter,
    size: u64,
) -> Result<(Digest, u64), Error> {
    check_size(&file.file_name, file.size, size)?;
    Ok(match expected {
        Some(digest) => (*digest, writer.commit_as(digest, &format!("`{}`", file.file_name))?),
        None => writer.commit()?,
    })
}

fn url_of(file: &File, address: &Address) -> Result<Url, Error> {
    address.url(&file.file_name).ok_or_else(|| Error::Address { file_name: file.file_name.clone() })
}

fn memo_key(file: &File) -> String {
    match &file.location {
        Location::Remote(address) => address.text(&file.file_name),
        Location::Local(path) => path.to_string_lossy().into_owned(),
    }
}

fn check_size(file_name: &str, expected: Option<u64>, found: u64) -> Result<u64, Error> {
    match expected {
        Some(expected) if expected != found => {
            Err(Error::Size { file_name: file_name.to_owned(), expected, found })
        }
        _ => Ok(found),
    }
}

/// A file that is larger than was promised has other bytes; any other large answer is just large.
fn longer(file: &File, promised: Option<u64>, error: Error) -> Error {
    match (error, promised) {
        (Error::TooLarge { limit, .. }, Some(expected)) if limit == expected => {
            Error::Longer { file_name: file.file_name.clone(), expected }
        }
        (error, _) => error,
    }
}
