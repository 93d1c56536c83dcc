//! Writing: a blob is looked for, mounted, or uploaded; a manifest is put.

use std::sync::{Arc, PoisonError};

use bytes::Bytes;
use reqwest::header::{CONTENT_TYPE, LOCATION};
use reqwest::{Method, Response, StatusCode, Url};
use tokio::sync::{OwnedMutexGuard, OwnedSemaphorePermit, Semaphore};
use url::form_urlencoded;

use super::auth::Scope;
use super::call::Call;
use super::cost::add;
use super::endpoint::Endpoint;
use super::error::Error;
use super::pull::header_digest;
use super::upload::{Session, Upload};
use super::{BlobBytes, Client, Pushed, wanted};
use crate::http::{self, redirect};
use crate::oci::{Descriptor, Digest, Reference, descriptor_digest};

/// How many repositories a blob is asked to be mounted from before it is uploaded.
const MOST_MOUNTS: usize = 3;

/// What an upload's POST came to.
enum Begun {
    Mounted,
    Session(Session),
}

impl Client {
    /// Sees to it that `target`'s repository holds the blob: by HEAD, by mounting it from one of
    /// `mount_from` on the same registry (or from a repository that this client knows to hold it), or
    /// by uploading it. The bytes are hashed as they flow; bytes of another digest are never
    /// completed. Pushing it twice at once uploads it once.
    ///
    /// # Errors
    /// The registry refused, or the bytes could not be had.
    pub async fn push_blob(
        &self,
        target: &Reference,
        descriptor: &Descriptor,
        source: BlobBytes,
        mount_from: &[Reference],
    ) -> Result<Pushed, Error> {
        let digest = descriptor_digest(descriptor)?;
        let endpoint = self.target(target)?;
        let _pushing = self.pushing(&endpoint, digest).await;
        let meter = &self.shared.meter;
        if self.is_known(&endpoint, digest) {
            add(&meter.blobs_existing, 1);
            return Ok(Pushed::Existing);
        }
        let head = Call::push(&endpoint, Method::HEAD, format!("blobs/{digest}"));
        if self.holds(head).await? {
            self.note(&endpoint, digest);
            add(&meter.blobs_existing, 1);
            return Ok(Pushed::Existing);
        }
        let candidates = self.candidates(&endpoint, digest, mount_from);
        let _permit = self.permit(&endpoint).await;
        let session = match self.begin(&endpoint, digest, &candidates).await? {
            Begun::Mounted => {
                self.note(&endpoint, digest);
                add(&meter.blobs_mounted, 1);
                add(&meter.bytes_mounted, descriptor.size());
                return Ok(Pushed::Mounted);
            }
            Begun::Session(session) => session,
        };
        self.finish(&endpoint, digest, descriptor, &source, Some(session)).await
    }

    /// Uploads the blob whatever the registry says it has: for a registry that said it had it and then
    /// refused the manifest.
    ///
    /// # Errors
    /// As [`Self::push_blob`].
    pub async fn upload_blob(
        &self,
        target: &Reference,
        descriptor: &Descriptor,
        source: BlobBytes,
    ) -> Result<Pushed, Error> {
        let digest = descriptor_digest(descriptor)?;
        let endpoint = self.target(target)?;
        let _pushing = self.pushing(&endpoint, digest).await;
        let _permit = self.permit(&endpoint).await;
        self.finish(&endpoint, digest, descriptor, &source, None).await
    }

    async fn finish(
        &self,
        endpoint: &Endpoint,
        digest: Digest,
        descriptor: &Descriptor,
        source: &BlobBytes,
        session: Option<Session>,
    ) -> Result<Pushed, Error> {
        let size = descriptor.size();
        Upload::new(self, endpoint, digest, size, source).run(session).await?;
        self.note(endpoint, digest);
        add(&self.shared.meter.blobs_uploaded, 1);
        Ok(Pushed::Uploaded)
    }

    /// Puts a manifest or index under `target`'s digest, if it has one, else under its tag. Returns
    /// the digest. A tag that cannot be moved but names the same digest already is a success.
    ///
    /// # Errors
    /// The registry refused, or stored something else.
    pub async fn push_manifest(
        &self,
        target: &Reference,
        media_type: &str,
        bytes: Bytes,
    ) -> Result<Digest, Error> {
        let digest = Digest::of(&bytes);
        if target.digest().is_some_and(|named| *named != digest) {
            return Err(Error::Target(target.to_string()));
        }
        let endpoint = self.target(target)?;
        let path = format!("manifests/{}", wanted(target));
        let length = bytes.len() as u64;
        let call = Call::push(&endpoint, Method::PUT, path)
            .header(CONTENT_TYPE, media_type)
            .body(bytes)
            .about(format!("repository {}", target.name()));
        let response = match self.call(call).await {
            Ok(response) => response,
            Err(error) if target.digest().is_none() && may_mean_immutable(&error) => {
                return match self.head_target(target).await {
                    Ok(Some(there)) if descriptor_digest(&there) == Ok(digest) => Ok(digest),
                    _ => Err(error),
                };
            }
            Err(error) => return Err(error),
        };
        add(&self.shared.meter.bytes_up, length);
        check_stored(&response, &digest, || format!("manifest {target}"))?;
        Ok(digest)
    }

    /// Begins an upload, with a mount if there is somewhere to mount from.
    async fn begin(
        &self,
        endpoint: &Endpoint,
        digest: Digest,
        candidates: &[String],
    ) -> Result<Begun, Error> {
        for (position, from) in candidates.iter().enumerate() {
            let query = form_urlencoded::Serializer::new(String::new())
                .append_pair("mount", &digest.to_string())
                .append_pair("from", from)
                .finish();
            let mut call = Call::push(endpoint, Method::POST, format!("blobs/uploads/?{query}"));
            call.scopes.push(Scope::pull(from));
            let Ok(response) = self.call(call).await else {
                // Some registries refuse the mount, some the source: both still take the blob.
                continue;
            };
            if response.status() == StatusCode::CREATED {
                return Ok(Begun::Mounted);
            }
            let session = self.session(endpoint, &response)?;
            if position + 1 == candidates.len() {
                return Ok(Begun::Session(session));
            }
            self.cancel(endpoint, &session).await;
        }
        Ok(Begun::Session(self.new_session(endpoint).await?))
    }

    pub(super) async fn new_session(&self, endpoint: &Endpoint) -> Result<Session, Error> {
        let call = Call::push(endpoint, Method::POST, "blobs/uploads/".to_owned())
            .about(format!("repository {}/{}", endpoint.registry, endpoint.repository))
            .body(Bytes::new());
        let response = self.call(call).await?;
        self.session(endpoint, &response)
    }

    /// The session that an answer opens or continues.
    pub(super) fn session(
        &self,
        endpoint: &Endpoint,
        response: &Response,
    ) -> Result<Session, Error> {
        let own = self.url(endpoint, "")?;
        let refused =
            |reason: String| Error::Location { request: http::redact(response.url()), reason };
        let mut location = redirect::target(response.url(), response.headers())
            .map_err(|refusal| refused(refusal.to_string()))?;
        upgrade(&own, &mut location);
        self.shared.trust.check(&own, &location).map_err(|refusal| refused(refusal.to_string()))?;
        let least = response
            .headers()
            .get("oci-chunk-min-length")
            .and_then(|value| value.to_str().ok()?.parse().ok())
            .unwrap_or(0);
        Ok(Session { location, chunk_size: self.shared.options.chunk_size.max(least).max(1) })
    }

    /// Tells the registry that nothing more comes. It would find out by itself, in a week or so.
    pub(super) async fn cancel(&self, endpoint: &Endpoint, session: &Session) {
        let call = Call::push(endpoint, Method::DELETE, String::new())
            .to(session.location.clone())
            .expecting(&[400, 404, 405, 500, 501, 502, 503]);
        let _unanswered = self.call(call).await;
    }

    /// Repositories on the same registry that may hold the blob: those named, then those known.
    fn candidates(
        &self,
        endpoint: &Endpoint,
        digest: Digest,
        mount_from: &[Reference],
    ) -> Vec<String> {
        let named = mount_from
            .iter()
            // A mirror that is the target itself has what it serves, too.
            .filter_map(|from| self.endpoints(from).ok())
            .flatten()
            .filter(|from| from.registry == endpoint.registry)
            .map(|from| from.repository);
        let holders = self.shared.holders.lock().unwrap_or_else(PoisonError::into_inner);
        let known = holders.get(&(endpoint.registry.clone(), digest));
        // A repository that is known to hold it is asked before one that may.
        let known = known.into_iter().flatten().cloned();
        let mut candidates = Vec::new();
        for repository in known.chain(named) {
            if repository != endpoint.repository && !candidates.contains(&repository) {
                candidates.push(repository);
            }
        }
        candidates.truncate(MOST_MOUNTS);
        candidates
    }

    fn is_known(&self, endpoint: &Endpoint, digest: Digest) -> bool {
        self.shared
            .holders
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&(endpoint.registry.clone(), digest))
            .is_some_and(|repositories| repositories.contains(&endpoint.repository))
    }

    fn note(&self, endpoint: &Endpoint, digest: Digest) {
        self.shared
            .holders
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry((endpoint.registry.clone(), digest))
            .or_default()
            .insert(endpoint.repository.clone());
    }

    async fn pushing(&self, endpoint: &Endpoint, digest: Digest) -> OwnedMutexGuard<()> {
        let lock = {
            let mut pushing = self.shared.pushing.lock().unwrap_or_else(PoisonError::into_inner);
            let key = (endpoint.registry.clone(), digest);
            Arc::clone(pushing.entry(key).or_default())
        };
        lock.lock_owned().await
    }

    async fn permit(&self, endpoint: &Endpoint) -> Option<OwnedSemaphorePermit> {
        let semaphore = {
            let mut uploading =
                self.shared.uploading.lock().unwrap_or_else(PoisonError::into_inner);
            let permits = self.shared.options.uploads.max(1);
            let semaphore = uploading
                .entry(endpoint.registry.clone())
                .or_insert_with(|| Arc::new(Semaphore::new(permits)));
            Arc::clone(semaphore)
        };
        // It is never closed.
        semaphore.acquire_owned().await.ok()
    }
}

/// A registry behind a proxy that ends TLS often gives its own address as plain HTTP. We stay with
/// what we came by.
fn upgrade(own: &Url, location: &mut Url) {
    let downgraded = own.scheme() == "https" && location.scheme() == "http";
    if downgraded && own.host() == location.host() && location.has_host() {
        let moved = location.set_scheme("https").and_then(|()| location.set_port(own.port()));
        debug_assert!(moved.is_ok(), "both schemes have hosts and ports");
    }
}

fn may_mean_immutable(error: &Error) -> bool {
    matches!(error.status().map(|status| status.as_u16()), Some(400 | 403 | 405 | 409 | 412))
}

/// Checks a registry's own word for what it stored, if it says one.
pub(super) fn check_stored(
    response: &Response,
    expected: &Digest,
    what: impl FnOnce() -> String,
) -> Result<(), Error> {
    debug_assert!(!response.headers().contains_key(LOCATION) || response.status() != 307);
    match header_digest(response.headers()) {
        Some(found) if found != *expected => {
            Err(Error::DigestMismatch { what: what(), expected: *expected, found })
        }
        _ => Ok(()),
    }
}
