//! Pages, metadata and files, each asked for once in a run and kept on disk where that is safe.

use std::fmt::Debug;
use std::sync::Arc;

use fs_err as fs;
use pep508_rs::PackageName;
use reqwest::StatusCode;
use reqwest::header::{self, HeaderMap, HeaderValue};
use tokio::sync::Semaphore;
use url::Url;

use super::cached_page::CachedPage;
use super::config::Config;
use super::error::Error;
use super::memo::Memo;
use super::sdist::{self, SdistSource};
use super::transfer::{Part, Transfer, Wanted, redact};
use super::wheel_archive::{self, Partial, Step};
use super::{Address, File, Location, Project, local, page};
use crate::http::Following;
use crate::oci::Digest;
use crate::python::{CoreMetadata, WheelFilename};
use crate::store::{self, BlobWriter, Store};

/// A page is not larger.
const PAGE_LIMIT: u64 = 256 << 20;
/// A file of unknown size is not larger.
const FILE_LIMIT: u64 = 16 << 30;
/// Kinds of records in the store.
const PAGES: &str = "package-index-page";
const METADATA: &str = "wheel-metadata";

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
    metadata: Memo<String, Arc<CoreMetadata>>,
    files: Memo<String, (Digest, u64)>,
    /// Pages that may be in memory before they are parsed: some have megabytes.
    whole_pages: Semaphore,
}

/// What a page's record begins with is shorter.
const LONGEST_HEAD: u64 = 8 << 10;
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

    /// The project's page on one index; `None` if it does not know the project.
    async fn page(&self, index: usize, name: &PackageName) -> Result<Option<Arc<Project>>, Error> {
        let Inner { config, pages, .. } = &*self.inner;
        let mut url = config.indexes[index].clone();
        url.set_path(&format!("{}{name}/", url.path()));
        pages
            .get((index, name.clone()), async {
                let _permit = self.inner.whole_pages.acquire().await;
                let Some((cached, body)) = Box::pin(self.page_bytes(&url)).await? else {
                    return Ok(None);
                };
                page::parse(name, &cached.url, &cached.content_type, &body)
                    .map(|project| Some(Arc::new(project)))
                    .map_err(|source| Error::Page { url: redact(&url), source })
            })
            .await
    }

    /// The page's bytes. What is on disk is used only if the index says that it is still right, since
    /// without a clock nothing else tells its age; offline it is used as it is.
    async fn page_bytes(&self, url: &Url) -> Result<Option<(CachedPage, Vec<u8>)>, Error> {
        let Inner { config, store, transfer, .. } = &*self.inner;
        let key = store::key(&[url.as_str().as_bytes()]);
        if config.offline {
            let (page, body) =
                cached_page(store, &key)?.ok_or_else(|| Error::Offline(redact(url)))?;
            return Ok(page.found.then_some((page, body)));
        }
        // What it says is only asked: whatever is used of the page is verified then.
        let begin = store.record_begin(PAGES, &key, LONGEST_HEAD)?;
        let cached = begin.and_then(CachedPage::split).map(|(page, _body)| page);

        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, HeaderValue::from_static(page::ACCEPT));
        headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
        if let Some(page) = cached.as_ref().filter(|page| page.found) {
            for (name, value) in [
                (header::IF_NONE_MATCH, &page.etag),
                (header::IF_MODIFIED_SINCE, &page.last_modified),
            ] {
                if let Some(value) = value.as_deref().and_then(|v| HeaderValue::from_str(v).ok()) {
                    headers.insert(name, value);
                }
            }
        }
        let mut answer = transfer.get(config, url, headers.clone(), PAGE_LIMIT).await?;
        if answer.status == StatusCode::NOT_MODIFIED && cached.is_some() {
            if let Some(page) = cached_page(store, &key)? {
                return Ok(Some(page));
            }
            // It was there when the question was asked.
            headers.remove(header::IF_NONE_MATCH);
            headers.remove(header::IF_MODIFIED_SINCE);
            answer = transfer.get(config, url, headers, PAGE_LIMIT).await?;
        }
        let found = match answer.status {
            StatusCode::OK => true,
            StatusCode::NOT_FOUND | StatusCode::GONE => false,
            _ => return Err(answer.refused(url)),
        };
        let text = |name| answer.header(name).map(str::to_owned);
        let page = CachedPage {
            found,
            content_type: text(header::CONTENT_TYPE).unwrap_or_default(),
            etag: text(header::ETAG),
            last_modified: text(header::LAST_MODIFIED),
            url: answer.url,
        };
        let body = if found { answer.body } else { Vec::new() };
        store.put_parts(PAGES, &key, &[&page.head(), &body])?;
        Ok(found.then_some((page, body)))
    }

    async fn read_wheel_metadata(
        &self,
        file: &File,
        wheel: &WheelFilename,
    ) -> Result<CoreMetadata, Error> {
        let url = match &file.location {
            Location::Local(path) => return parse(file, &local::metadata(path, file, wheel)?),
            Location::Remote(address) => &url_of(file, address)?,
        };
        // The address is in the key too: an index that claims another's hash gains nothing.
        let key =
            file.sha256.map(|digest| store::key(&[digest.as_bytes(), redact(url).as_bytes()]));
        let Inner { config, store, .. } = &*self.inner;
        if let Some(key) = &key
            && let Some(bytes) = store.record(METADATA, key)?
        {
            return parse(file, &bytes);
        }
        if let Some(digest) = &file.sha256
            && self.stored(digest)?.is_some()
        {
            return parse(file, &local::metadata(&store.blob_path(digest), file, wheel)?);
        }
        if config.offline {
            return Err(Error::Offline(file.file_name.clone()));
        }
        let bytes = match self.served_metadata(file, url).await? {
            Some(bytes) => bytes,
            None => self.metadata_by_ranges(file, wheel, url).await?,
        };
        let metadata = parse(file, &bytes)?;
        if let Some(key) = &key {
            store.put_record(METADATA, key, &bytes)?;
        }
        Ok(metadata)
    }

    /// PEP 658: the index has METADATA beside the wheel. `None` if it said so but does not.
    async fn served_metadata(&self, file: &File, url: &Url) -> Result<Option<Vec<u8>>, Error> {
        let Some(digest) = &file.core_metadata else {
            return Ok(None);
        };
        let mut url = url.clone();
        url.set_path(&format!("{}.metadata", url.path()));
        let Inner { config, transfer, .. } = &*self.inner;
        let limit = wheel_archive::METADATA_LIMIT;
        let answer = transfer.get(config, &url, HeaderMap::new(), limit).await?;
        match answer.status {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND | StatusCode::GONE => return Ok(None),
            _ => return Err(answer.refused(&url)),
        }
        let found = Digest::of(&answer.body);
        match digest {
            Some(expected) if *expected != found => Err(store::Error::Mismatch {
                what: format!("`{}.metadata`", file.file_name),
                expected: *expected,
                found,
            }
            .into()),
            _ => Ok(Some(answer.body)),
        }
    }

    async fn metadata_by_ranges(
        &self,
        file: &File,
        wheel: &WheelFilename,
        url: &Url,
    ) -> Result<Vec<u8>, Error> {
        let Inner { config, store, transfer, .. } = &*self.inner;
        let mut wanted = match file.size {
            Some(0) => Wanted::Last(1),
            Some(size) => Wanted::Bytes(size.saturating_sub(wheel_archive::TAIL)..size),
            None => Wanted::Last(wheel_archive::TAIL),
        };
        let limit = file.size.unwrap_or(FILE_LIMIT);
        let mut partial: Option<Partial> = None;
        // Tail, directory, zip64 record, file, and the file again if its header is a long one.
        for _ in 0..6 {
            let part = transfer
                .part(config, url, &wanted, store, limit)
                .await
                .map_err(|error| longer(file, file.size, error))?;
            let (bytes, total) = match part {
                Part::Bytes(bytes, total) => (bytes, total),
                Part::Whole(writer, size) => {
                    let (digest, _) = keep(file, file.sha256.as_ref(), writer, size)?;
                    return local::metadata(&store.blob_path(&digest), file, wheel);
                }
                Part::Refused => break,
            };
            check_size(&file.file_name, file.size, total)?;
            let offset = match &wanted {
                Wanted::Last(length) => total.saturating_sub(*length),
                Wanted::Bytes(range) => range.start,
            };
            let partial = partial.get_or_insert_with(|| Partial::new(total));
            partial.add(offset, bytes);
            match wheel_archive::metadata(partial, wheel)
                .map_err(|e| local::not_a_wheel(file, e))?
            {
                Step::Done(bytes) => return Ok(bytes),
                Step::Need(range) => wanted = Wanted::Bytes(range),
            }
        }
        let (digest, _) = self.fetch_file(file, file.sha256.as_ref(), file.size).await?;
        local::metadata(&store.blob_path(&digest), file, wheel)
    }

    /// The file that a lock means.
    async fn locate(
        &self,
        name: &PackageName,
        file_name: &str,
        sha256: Option<&Digest>,
    ) -> Result<File, Error> {
        let mut other: Option<Digest> = None;
        let mut choose = |project: &Project| {
            let mut files = project.versions.values().flatten();
            let file = files.find(|file| file.file_name == file_name)?;
            match (sha256, file.sha256) {
                (Some(expected), Some(found)) if *expected != found => {
                    other.get_or_insert(found);
                    None
                }
                _ => Some(file.clone()),
            }
        };
        if let Some(file) = choose(&*self.project(name).await?) {
            return Ok(file);
        }
        if sha256.is_some() {
            // The hash says that it is the right file, whoever has it.
            for index in 0..self.inner.config.indexes.len() {
                if let Some(project) = self.page(index, name).await?
                    && let Some(file) = choose(&project)
                {
                    return Ok(file);
                }
            }
        }
        Err(match (sha256, other) {
            (Some(expected), Some(found)) => {
                Error::Digest { file_name: file_name.to_owned(), expected: *expected, found }
            }
            _ => Error::NoSuchFile { project: name.to_string(), file_name: file_name.to_owned() },
        })
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

/// A page as it was kept, and its body.
fn cached_page(store: &Store, key: &Digest) -> Result<Option<(CachedPage, Vec<u8>)>, Error> {
    Ok(store.record(PAGES, key)?.and_then(CachedPage::split))
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

fn parse(file: &File, bytes: &[u8]) -> Result<CoreMetadata, Error> {
    let mut metadata = CoreMetadata::parse(bytes)
        .map_err(|source| Error::Metadata { file_name: file.file_name.clone(), source })?;
    // A wheel is what was built: whatever its METADATA says, nothing of it can change any more.
    metadata.is_static = true;
    Ok(metadata)
}
