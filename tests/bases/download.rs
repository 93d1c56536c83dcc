//! Verified downloads, each made once.

use std::path::Path;

use assemble::oci::Digest;
use assemble::package_index;
use assemble::store::Store;
use bytes::Bytes;
use url::Url;

use super::{Because as _, Error, Result, wheels};

/// How often a transfer is tried.
const TRIES: u32 = 3;

/// Clients of the two kinds of package archive, and a store of what they fetched.
#[derive(Debug)]
pub(crate) struct Client {
    http: reqwest::Client,
    store: Store,
    /// The Python package index.
    pub(crate) packages: package_index::Client,
}

impl Client {
    /// A client that keeps its files in `folder`.
    pub(crate) fn new(folder: &Path) -> Result<Self> {
        // Somebody else may have chosen the same provider before.
        let _chosen = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder()
            .connect_timeout(std::time::Duration::from_secs(20))
            .read_timeout(std::time::Duration::from_mins(1))
            .build()
            .because(|| "start an HTTP client".into())?;
        let store = Store::open(folder).because(|| "open the store of downloads".into())?;
        Ok(Self {
            packages: package_index::Client::new(http.clone(), wheels::index()?, store.clone()),
            http,
            store,
        })
    }

    /// What the address answers.
    pub(crate) async fn get(&self, url: &Url) -> Result<Bytes> {
        let mut tries = 1;
        loop {
            let answer = async {
                let answer = self.http.get(url.clone()).send().await?;
                answer.error_for_status()?.bytes().await
            };
            match answer.await {
                Ok(bytes) => return Ok(bytes),
                // Without the address, which may hold credentials.
                Err(error) if tries == TRIES => {
                    let error = error.without_url();
                    return Err(error).because(|| format!("fetch {}", url.path()));
                }
                Err(_) => tries += 1,
            }
        }
    }

    /// The file with that digest, from the store or from `url`.
    pub(crate) async fn file(&self, url: &Url, digest: &Digest) -> Result<Bytes> {
        let kept = self.store.read(digest);
        if let Some(bytes) = kept.because(|| "read a download".into())? {
            return Ok(bytes.into());
        }
        let bytes = self.get(url).await?;
        let found = self.store.put(&bytes);
        let found = found.because(|| "keep a download".into())?;
        if found == *digest {
            return Ok(bytes);
        }
        Err(Error::new(format!(
            "{} is not what its index promised: expected {digest}, found {found}",
            url.path()
        )))
    }

    /// A file that was fetched before.
    pub(crate) fn stored(&self, digest: &Digest) -> Result<Bytes> {
        let bytes = self.store.read(digest);
        let bytes = bytes.because(|| "read a download".into())?;
        bytes
            .map(Bytes::from)
            .ok_or_else(|| Error::new(format!("{digest} was damaged as soon as it was fetched")))
    }
}
