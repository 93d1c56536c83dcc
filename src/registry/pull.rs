//! Reading: manifests by tag or digest, and whether a blob is there.

use std::sync::{Arc, PoisonError};

use bytes::Bytes;
use futures_util::stream::BoxStream;
use reqwest::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, Response};
use serde::Deserialize;

use super::call::Call;
use super::cost::add;
use super::download::Download;
use super::endpoint::Endpoint;
use super::{Client, Error, MANIFEST_LIMIT, StoredManifest, describe, wanted};
use crate::http;
use crate::oci::{Descriptor, Digest, Reference, descriptor_digest, media_type};

/// Everything we can read, in one list: a registry converts to what is not in it.
const ACCEPTED: [&str; 4] = [
    media_type::OCI_INDEX,
    media_type::OCI_MANIFEST,
    media_type::DOCKER_MANIFEST_LIST,
    media_type::DOCKER_MANIFEST,
];

/// What a media type is decided by.
#[derive(Deserialize)]
struct Shape {
    #[serde(rename = "mediaType")]
    media_type: Option<String>,
    #[serde(rename = "schemaVersion")]
    schema_version: Option<u64>,
    manifests: Option<serde::de::IgnoredAny>,
    layers: Option<serde::de::IgnoredAny>,
    config: Option<serde::de::IgnoredAny>,
}

impl StoredManifest {
    /// A manifest that was stored somewhere else than in a registry, with its media type found out.
    /// `reference` names it in errors; its digest must be that of the bytes.
    ///
    /// # Errors
    /// It is neither an image manifest nor an image index, or not clearly one of them.
    pub fn from_bytes(bytes: Bytes, reference: &Reference) -> Result<Self, Error> {
        let digest = Digest::of(&bytes);
        check_asked(reference, &digest)?;
        let what = format!("manifest {reference}");
        let media_type = manifest_type(&bytes, None, what.clone(), &what)?;
        Ok(Self { descriptor: describe(&media_type, &digest, bytes.len() as u64), bytes })
    }
}

impl Client {
    /// The descriptor behind a tag or digest by HEAD, which registries do not count as a pull; `None`
    /// if there is no such manifest. Read from a mirror, if one has it.
    ///
    /// # Errors
    /// No registry gave an answer.
    pub async fn head_manifest(&self, reference: &Reference) -> Result<Option<Descriptor>, Error> {
        if let Some(head) = self.shared.options.layouts.head(reference) {
            return Ok(Some(head));
        }
        let mut endpoints = self.endpoints(reference)?.into_iter().peekable();
        while let Some(endpoint) = endpoints.next() {
            let path = format!("manifests/{}", wanted(reference));
            let call = Call::pull(&endpoint, Method::HEAD, path);
            match self.head(call, reference).await {
                Ok(None) | Err(_) if endpoints.peek().is_some() => {}
                outcome => return outcome,
            }
        }
        Ok(None)
    }

    /// As [`Self::head_manifest`], but asked once in a run: whoever asks again gets the same answer,
    /// and whoever asks meanwhile waits for it. Failures are not kept.
    ///
    /// # Errors
    /// As [`Self::head_manifest`].
    pub async fn tagged_manifest(
        &self,
        reference: &Reference,
    ) -> Result<Option<Descriptor>, Error> {
        let answer = {
            let mut tagged = self.shared.tagged.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(tagged.entry(reference.clone()).or_default())
        };
        answer.get_or_try_init(|| self.head_manifest(reference)).await.cloned()
    }

    /// As [`Self::head_manifest`], of the registry itself in the role of a pusher.
    ///
    /// # Errors
    /// The registry gave no answer.
    pub async fn head_target(&self, target: &Reference) -> Result<Option<Descriptor>, Error> {
        let endpoint = self.target(target)?;
        let path = format!("manifests/{}", wanted(target));
        self.head(Call::push(&endpoint, Method::HEAD, path), target).await
    }

    /// As [`Self::manifest`], of the registry itself in the role of a pusher, with a header of the
    /// answer; `None` if there is no such manifest.
    pub(super) async fn target_manifest(
        &self,
        target: &Reference,
        header: HeaderName,
    ) -> Result<Option<(StoredManifest, Option<HeaderValue>)>, Error> {
        let endpoint = self.target(target)?;
        let path = format!("manifests/{}", wanted(target));
        let call = accepting(Call::push(&endpoint, Method::GET, path)).expecting(&[404]);
        let response = self.call(call.about(format!("manifest {target}"))).await?;
        if response.status() == 404 {
            return Ok(None);
        }
        let value = response.headers().get(header).cloned();
        Ok(Some((self.read_manifest(response, target).await?, value)))
    }

    async fn head(
        &self,
        call: Call<'_>,
        reference: &Reference,
    ) -> Result<Option<Descriptor>, Error> {
        let call = accepting(call).expecting(&[404]).about(format!("manifest {reference}"));
        let get = Call { method: Method::GET, ..call.clone() };
        let mut response = self.call(call).await?;
        if response.status() == 404 {
            return Ok(None);
        }
        let headers = response.headers();
        let size = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
        if let (Some(digest), Some(media_type), Some(size)) =
            (header_digest(headers), content_type(headers), size)
            && ACCEPTED.contains(&media_type.as_str())
        {
            check_asked(reference, &digest)?;
            return Ok(Some(describe(&media_type, &digest, size)));
        }
        // A registry that leaves these headers out makes us read the manifest.
        response = self.call(get).await?;
        if response.status() == 404 {
            return Ok(None);
        }
        let stored = self.read_manifest(response, reference).await?;
        Ok(Some(stored.descriptor))
    }

    /// The manifest or index behind a tag or digest, verified against the digest if one is given
    /// and against the registry's own header. A mirror that fails or lies is passed over.
    ///
    /// # Errors
    /// It is not there, is not what was asked for, or no registry gave an answer.
    pub async fn manifest(&self, reference: &Reference) -> Result<StoredManifest, Error> {
        if let Some(stored) = self.shared.options.layouts.manifest(reference)? {
            return Ok(stored);
        }
        let mut endpoints = self.endpoints(reference)?;
        let last = endpoints.pop().unwrap_or_else(|| Endpoint::upstream(reference));
        for endpoint in endpoints {
            if let Ok(stored) = self.manifest_from(&endpoint, reference).await {
                return Ok(stored);
            }
        }
        self.manifest_from(&last, reference).await
    }

    async fn manifest_from(
        &self,
        endpoint: &Endpoint,
        reference: &Reference,
    ) -> Result<StoredManifest, Error> {
        let path = format!("manifests/{}", wanted(reference));
        let call = accepting(Call::pull(endpoint, Method::GET, path))
            .about(format!("manifest {reference}"));
        let retry = self.shared.http.options().retry;
        let mut tries = 1;
        loop {
            let response = self.call(call.clone()).await?;
            match self.read_manifest(response, reference).await {
                Err(error) if error.is_transient() && tries < retry.tries => {
                    tokio::time::sleep(retry.delay(tries, None)).await;
                    tries += 1;
                }
                outcome => return outcome,
            }
        }
    }

    async fn read_manifest(
        &self,
        mut response: Response,
        reference: &Reference,
    ) -> Result<StoredManifest, Error> {
        let bytes = self.shared.http.body(&mut response, MANIFEST_LIMIT).await?;
        add(&self.shared.meter.bytes_down, bytes.len() as u64);
        let found = Digest::of(&bytes);
        let what = format!("manifest {reference}");
        check_asked(reference, &found)?;
        if let Some(told) = header_digest(response.headers())
            && told != found
        {
            return Err(Error::DigestMismatch { what, expected: told, found });
        }
        let request = format!("GET {}", http::redact(response.url()));
        let media_type = manifest_type(&bytes, content_type(response.headers()), request, &what)?;
        Ok(StoredManifest { descriptor: describe(&media_type, &found, bytes.len() as u64), bytes })
    }

    /// The bytes of a blob, in order; the stream ends with an error unless exactly `size` bytes with
    /// the descriptor's digest came. The last piece is given only once all of them are verified. A
    /// transfer that breaks is taken up where it broke.
    ///
    /// # Errors
    /// No registry gave the blob.
    pub async fn blob(
        &self,
        repository: &Reference,
        descriptor: &Descriptor,
    ) -> Result<BoxStream<'static, Result<Bytes, Error>>, Error> {
        let digest = descriptor_digest(descriptor)?;
        let download = Download::begin(self, repository, digest, descriptor.size(), 0).await?;
        Ok(download.into_stream())
    }

    /// Whether the repository holds the blob, asked by HEAD as a puller. A registry that does not
    /// answer HEAD (some answer 401 or 405 where GET works) is taken not to hold it.
    ///
    /// # Errors
    /// The registry could not be asked.
    pub async fn has_blob(&self, repository: &Reference, digest: &Digest) -> Result<bool, Error> {
        let endpoint = Endpoint::upstream(repository);
        let path = format!("blobs/{digest}");
        self.holds(Call::pull(&endpoint, Method::HEAD, path)).await
    }

    pub(super) async fn holds(&self, call: Call<'_>) -> Result<bool, Error> {
        match self.call(call.expecting(&[404])).await {
            Ok(response) => Ok(response.status() == 200),
            Err(Error::Denied { .. } | Error::Status { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

fn accepting(call: Call<'_>) -> Call<'_> {
    call.header(ACCEPT, &ACCEPTED.join(", "))
}

fn check_asked(reference: &Reference, found: &Digest) -> Result<(), Error> {
    match reference.digest() {
        Some(expected) if expected != found => Err(Error::DigestMismatch {
            what: format!("manifest {reference}"),
            expected: *expected,
            found: *found,
        }),
        _ => Ok(()),
    }
}

/// `Docker-Content-Digest`, if it is a digest we can check.
pub(super) fn header_digest(headers: &HeaderMap) -> Option<Digest> {
    headers.get("docker-content-digest")?.to_str().ok()?.trim().parse().ok()
}

fn content_type(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(CONTENT_TYPE)?.to_str().ok()?;
    let essence = value.split(';').next()?.trim().to_ascii_lowercase();
    (!essence.is_empty()).then_some(essence)
}

/// The media type of a manifest: header and document must agree where both say something, and the
/// document must have the fields of one kind only (CVE-2021-41190).
fn manifest_type(
    bytes: &[u8],
    header: Option<String>,
    request: String,
    what: &str,
) -> Result<String, Error> {
    let ambiguous = |reason: String| Error::Ambiguous { what: what.to_owned(), reason };
    let Ok(shape) = serde_json::from_slice::<Shape>(bytes) else {
        return Err(Error::Malformed { request, what: "the answer is no manifest".to_owned() });
    };
    let is_index = shape.manifests.is_some();
    let is_manifest = shape.layers.is_some() || shape.config.is_some();
    if is_index && is_manifest {
        return Err(ambiguous("it has both `manifests` and `layers`".to_owned()));
    }
    let header = header.filter(|header| ACCEPTED.contains(&header.as_str()));
    if let (Some(own), Some(header)) = (&shape.media_type, &header)
        && own != header
    {
        return Err(ambiguous(format!("its `mediaType` is `{own}`, its Content-Type `{header}`")));
    }
    let media_type = match (shape.media_type.or(header), is_index) {
        (Some(media_type), _) => media_type,
        (None, true) => media_type::OCI_INDEX.to_owned(),
        (None, false) => media_type::OCI_MANIFEST.to_owned(),
    };
    let names_index =
        matches!(media_type.as_str(), media_type::OCI_INDEX | media_type::DOCKER_MANIFEST_LIST);
    if !ACCEPTED.contains(&media_type.as_str()) || shape.schema_version == Some(1) {
        return Err(Error::Malformed {
            request,
            what: format!(
                "media type `{media_type}` is neither an image manifest nor an image index"
            ),
        });
    }
    if names_index != is_index || names_index == is_manifest {
        return Err(ambiguous(format!("it is no `{media_type}` by its fields")));
    }
    Ok(media_type)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    #[test]
    fn a_manifest_says_one_thing() {
        let index = r#"{"schemaVersion":2,"manifests":[]}"#;
        let manifest = r#"{"schemaVersion":2,"config":{},"layers":[]}"#;
        let typed = format!(r#"{{"mediaType":"{}","manifests":[]}}"#, media_type::OCI_INDEX);
        for (body, header, wanted) in [
            (index, None, Ok(media_type::OCI_INDEX)),
            (index, Some("application/json"), Ok(media_type::OCI_INDEX)),
            (index, Some(media_type::DOCKER_MANIFEST_LIST), Ok(media_type::DOCKER_MANIFEST_LIST)),
            (manifest, None, Ok(media_type::OCI_MANIFEST)),
            (manifest, Some(media_type::DOCKER_MANIFEST), Ok(media_type::DOCKER_MANIFEST)),
            (&typed, Some(media_type::OCI_INDEX), Ok(media_type::OCI_INDEX)),
            (&typed, Some(media_type::OCI_MANIFEST), Err(Kind::Integrity)),
            (index, Some(media_type::OCI_MANIFEST), Err(Kind::Integrity)),
            (r#"{"manifests":[],"layers":[]}"#, None, Err(Kind::Integrity)),
            (r#"{"schemaVersion":1,"fsLayers":[]}"#, None, Err(Kind::Remote)),
            ("{}", None, Err(Kind::Integrity)),
            ("<html>", None, Err(Kind::Remote)),
            (r#"{"mediaType":"text/x","layers":[]}"#, None, Err(Kind::Remote)),
        ] {
            let header = header.map(str::to_owned);
            let found = manifest_type(body.as_bytes(), header, "GET x".into(), "m");
            let found = found.as_deref().map_err(crate::error::Failure::kind);
            assert_eq!(found, wanted, "{body}");
        }
    }
}
