//! Pages of projects: asked for once in a run, kept on disk, and in memory only where all of a page counts.

use std::sync::Arc;

use pep508_rs::PackageName;
use reqwest::StatusCode;
use reqwest::header::{self, HeaderMap, HeaderValue};
use url::Url;

use super::{Client, Inner};
use crate::oci::Digest;
use crate::package_index::cached_page::CachedPage;
use crate::package_index::error::Error;
use crate::package_index::transfer::redact;
use crate::package_index::{File, Project, page};
use crate::store::{self, Store};

/// A page is not larger.
const PAGE_LIMIT: u64 = 256 << 20;
/// The kind of their records in the store.
const PAGES: &str = "package-index-page";
/// What a page's record begins with is shorter.
const LONGEST_HEAD: u64 = 8 << 10;

impl Client {
    /// The project's page on one index; `None` if it does not know the project. It is kept for the run.
    pub(super) async fn page(
        &self,
        index: usize,
        name: &PackageName,
    ) -> Result<Option<Arc<Project>>, Error> {
        let parse = |page: &CachedPage, body: &[u8]| {
            page::parse(name, &page.url, &page.content_type, body).map(Arc::new)
        };
        self.inner.pages.get((index, name.clone()), self.read_page(index, name, parse)).await
    }

    /// The file of that name on the project's page on one index. Nothing else of the page stays in memory: for
    /// who wants few files of many projects.
    pub(super) async fn file(
        &self,
        index: usize,
        name: &PackageName,
        file_name: &str,
    ) -> Result<Option<File>, Error> {
        let find = |page: &CachedPage, body: &[u8]| {
            page::find(name, file_name, &page.url, &page.content_type, body)
        };
        Ok(self.read_page(index, name, find).await?.flatten())
    }

    /// What `read` makes of the project's page on one index; `None` if that does not know the project.
    async fn read_page<T>(
        &self,
        index: usize,
        name: &PackageName,
        read: impl FnOnce(&CachedPage, &[u8]) -> Result<T, page::Error>,
    ) -> Result<Option<T>, Error> {
        let mut url = self.inner.config.indexes[index].clone();
        url.set_path(&format!("{}{name}/", url.path()));
        let _permit = self.inner.whole_pages.acquire().await;
        let Some((page, body)) = Box::pin(self.page_bytes(&url)).await? else { return Ok(None) };
        let read = read(&page, &body);
        read.map(Some).map_err(|source| Error::Page { url: redact(&url), source })
    }

    /// The page's bytes. An index is asked for it once in a run; then what came is on disk.
    async fn page_bytes(&self, url: &Url) -> Result<Option<(CachedPage, Vec<u8>)>, Error> {
        let mut fresh = None;
        let is_found = self.inner.asked.get(url.clone(), async {
            fresh = self.ask(url).await?;
            Ok::<_, Error>(fresh.is_some())
        });
        let is_found = is_found.await?;
        if fresh.is_some() || !is_found {
            return Ok(fresh);
        }
        match cached_page(&self.inner.store, &key(url))? {
            Some(page) => Ok(Some(page)),
            // It was there a moment ago.
            None => self.ask(url).await,
        }
    }

    /// What is on disk is used only if the index says that it is still right, since without a clock nothing
    /// else tells its age; offline it is used as it is.
    async fn ask(&self, url: &Url) -> Result<Option<(CachedPage, Vec<u8>)>, Error> {
        let Inner { config, store, transfer, .. } = &*self.inner;
        let key = key(url);
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
}

/// What a page is found by in the store.
fn key(url: &Url) -> Digest {
    store::key(&[url.as_str().as_bytes()])
}

/// A page as it was kept, and its body.
fn cached_page(store: &Store, key: &Digest) -> Result<Option<(CachedPage, Vec<u8>)>, Error> {
    Ok(store.record(PAGES, key)?.and_then(CachedPage::split))
}
