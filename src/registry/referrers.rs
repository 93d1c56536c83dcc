//! Manifests about manifests: signatures, attestations, lists of parts (distribution-spec, *Pushing
//! Manifests with Subject*).

use bytes::Bytes;
use reqwest::Method;
use reqwest::header::{CONTENT_TYPE, ETAG, HeaderValue, IF_MATCH};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::call::Call;
use super::cost::add;
use super::push::check_stored;
use super::{Client, Error, wanted};
use crate::oci::{Digest, Reference, media_type};

/// How often the fallback tag is written: each time somebody else was between.
const ATTEMPTS: usize = 10;

/// How a manifest with a subject came to be found from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Referred {
    /// The registry lists referrers by itself.
    ByRegistry,
    /// The index under the tag `sha256-<hex>` names it now.
    ByTag,
    /// The index under that tag named it before.
    Existing,
}

impl Client {
    /// Puts a manifest that has a `subject` into `repository`, under its digest, and sees to it that
    /// it is found from its subject: by the registry, or by the fallback tag. Returns its digest.
    ///
    /// The fallback tag is read, changed and written, and others may do so at the same time: it is
    /// written only if it is still what was read where the registry knows such conditions, and in any
    /// case read again after [`Options::settle`](super::Options::settle), until it names the manifest.
    ///
    /// # Errors
    /// The manifest has no `subject`, the registry refused, or others write the tag all the time.
    pub async fn push_referrer(
        &self,
        repository: &Reference,
        media_type: &str,
        bytes: Bytes,
    ) -> Result<(Digest, Referred), Error> {
        let digest = Digest::of(&bytes);
        let target = repository.with_digest(digest);
        let malformed = |what: &str| Error::Malformed {
            request: format!("manifest {target}"),
            what: what.to_owned(),
        };
        let manifest: Value =
            serde_json::from_slice(&bytes).map_err(|_error| malformed("it is no JSON"))?;
        let subject: Digest = manifest["subject"]["digest"]
            .as_str()
            .and_then(|subject| subject.parse().ok())
            .ok_or_else(|| malformed("it has no `subject` with a digest we can check"))?;
        let size = bytes.len() as u64;
        let endpoint = self.target(&target)?;
        let call = Call::push(&endpoint, Method::PUT, format!("manifests/{digest}"))
            .header(CONTENT_TYPE, media_type)
            .body(bytes)
            .about(format!("repository {}", target.name()));
        let response = self.call(call).await?;
        add(&self.shared.meter.bytes_up, size);
        check_stored(&response, &digest, || format!("manifest {target}"))?;
        if response.headers().contains_key("oci-subject") {
            return Ok((digest, Referred::ByRegistry));
        }
        let entry = descriptor(&manifest, media_type, &digest, size);
        let referred = self.name_by_tag(repository, &subject, entry).await?;
        Ok((digest, referred))
    }

    /// Adds a descriptor to the index under the subject's fallback tag (*Referrers Tag Schema*).
    async fn name_by_tag(
        &self,
        repository: &Reference,
        subject: &Digest,
        entry: Value,
    ) -> Result<Referred, Error> {
        let tag = format!("sha256-{}", subject.hex());
        let target = repository
            .without_digest()
            .with_tag(&tag)
            .map_err(|_never| Error::Target(format!("{}:{tag}", repository.name())))?;
        for attempt in 0..ATTEMPTS {
            let begun = Instant::now();
            let (mut index, condition) = self.index_by_tag(&target).await?;
            let entries = index["manifests"].as_array_mut().ok_or_else(|| Error::Malformed {
                request: format!("manifest {target}"),
                what: "the fallback tag names no image index".to_owned(),
            })?;
            if entries.iter().any(|there| there["digest"] == entry["digest"]) {
                return Ok(if attempt == 0 { Referred::Existing } else { Referred::ByTag });
            }
            entries.push(entry.clone());
            if self.put_index(&target, Bytes::from(index.to_string()), condition).await? {
                // Whoever read before this wrote, and does not know conditions, writes within that time.
                sleep(self.shared.options.settle.max(begun.elapsed() * 2)).await;
            }
        }
        Err(Error::Contended { reference: target.to_string(), attempts: ATTEMPTS })
    }

    /// What the tag names now, and the `ETag` by which the registry knows it; an empty index if it
    /// names nothing. Read where it will be written: a mirror may be behind.
    async fn index_by_tag(
        &self,
        target: &Reference,
    ) -> Result<(Value, Option<HeaderValue>), Error> {
        let Some((stored, etag)) = self.target_manifest(target, ETAG).await? else {
            let empty =
                json!({"schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": []});
            return Ok((empty, None));
        };
        let index = serde_json::from_slice(&stored.bytes).map_err(|_error| Error::Malformed {
            request: format!("manifest {target}"),
            what: "it is no JSON".to_owned(),
        })?;
        Ok((index, etag))
    }

    /// Puts the index; whether it was taken. It is not if the tag is no longer what the condition says.
    async fn put_index(
        &self,
        target: &Reference,
        bytes: Bytes,
        condition: Option<HeaderValue>,
    ) -> Result<bool, Error> {
        let endpoint = self.target(target)?;
        let (digest, length) = (Digest::of(&bytes), bytes.len() as u64);
        let mut call = Call::push(&endpoint, Method::PUT, format!("manifests/{}", wanted(target)))
            .header(CONTENT_TYPE, media_type::OCI_INDEX)
            .body(bytes)
            .about(format!("repository {}", target.name()));
        if let Some(etag) = condition {
            call.headers.insert(IF_MATCH, etag);
            call = call.expecting(&[412]);
        }
        let response = self.call(call).await?;
        add(&self.shared.meter.bytes_up, length);
        if response.status() == 412 {
            return Ok(false);
        }
        check_stored(&response, &digest, || format!("manifest {target}"))?;
        Ok(true)
    }
}

/// The descriptor as the index has it: with what clients choose by.
fn descriptor(manifest: &Value, media_type: &str, digest: &Digest, size: u64) -> Value {
    let mut entry = json!({
        "mediaType": media_type,
        "digest": digest.to_string(),
        "size": size,
    });
    let own = &manifest["artifactType"];
    let artifact_type = if own.is_string() { own } else { &manifest["config"]["mediaType"] };
    if artifact_type.is_string() {
        entry["artifactType"] = artifact_type.clone();
    }
    if manifest["annotations"].is_object() {
        entry["annotations"] = manifest["annotations"].clone();
    }
    entry
}
