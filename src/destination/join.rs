//! Images → the index that a tag names, beside what is there: for platforms that are assembled on
//! machines of their own.
//!
//! Registries have no agreed way to write a tag only if it is still what was read (conditional
//! requests are an extension that few servers have). So whoever writes waits longer than a write
//! takes, reads again, and joins again if another machine was between: of two machines at once the one
//! that was overwritten finds out, and the last index has both. Entries are in the order of their
//! platforms: whoever comes first, the index has the same bytes.

use std::time::Duration;

use bytes::Bytes;
use futures_util::TryStreamExt as _;
use serde_json::{Map, Value, json};
use tokio::time::{Instant, sleep};

use super::registry::{self, Error, Need, PushReport, PushedTag};
use crate::image::{Artifact, Image};
use crate::oci::json::to_canonical_vec;
use crate::oci::{Digest, ImageManifest, Platform, Reference, descriptor_digest, media_type};
use crate::world::World;

/// How often it is tried: each time another machine was between.
const ATTEMPTS: usize = 10;
/// The least time between writing and reading again; far above what reading, joining and writing
/// take, during which another machine may overwrite what it has not seen.
const SETTLE: Duration = Duration::from_secs(2);

/// Pushes the artifact's images by their digests and names them in the index behind each of
/// `references`; images for other platforms that are there stay. `Ok` means that every tag named all
/// of them some time after it was written.
///
/// # Errors
/// A registry refused or failed, what is there is no image or index, or others write all the time.
pub async fn join(
    artifact: &Artifact,
    references: &[Reference],
    world: &World,
) -> Result<PushReport, Error> {
    let before = world.registry.cost();
    let mut tags = Vec::new();
    let mut last = None;
    for (position, reference) in references.iter().enumerate() {
        let is_new_repository =
            references[..position].iter().all(|done| done.name() != reference.name());
        if is_new_repository {
            registry::push_blobs(artifact, reference, Need::Missing, world).await?;
            for image in &artifact.images {
                let target = reference.with_digest(image.digest());
                let bytes = Bytes::copy_from_slice(&image.manifest);
                let kind = image.descriptor.media_type().to_string();
                world.registry.push_manifest(&target, &kind, bytes).await?;
            }
        }
        let (digest, existing) = join_one(&artifact.images, reference, world).await?;
        last = Some(digest);
        tags.push(PushedTag { reference: reference.to_string(), existing });
    }
    let digest = last.unwrap_or_else(|| artifact.digest());
    Ok(PushReport { digest, tags, cost: world.registry.cost().since(&before) })
}

/// Returns the index's digest, and whether it had all of them before.
async fn join_one(
    images: &[Image],
    reference: &Reference,
    world: &World,
) -> Result<(Digest, bool), Error> {
    for attempt in 0..ATTEMPTS {
        let begun = Instant::now();
        let there = read(reference, world).await?;
        let bytes = to_canonical_vec(&joined(there.as_ref(), images)?)?;
        let digest = Digest::of(&bytes);
        if there.is_some_and(|there| there.digest == digest) {
            return Ok((digest, attempt == 0));
        }
        world.progress.step(&format!("tagging {reference}"));
        world.registry.push_manifest(reference, media_type::OCI_INDEX, bytes.into()).await?;
        sleep(SETTLE.max(begun.elapsed() * 2)).await;
        // The next round reads it again, and ends if nobody was between.
    }
    Err(Error::Contended { reference: reference.to_string(), attempts: ATTEMPTS })
}

/// What a tag names.
#[derive(Debug)]
struct There {
    digest: Digest,
    /// Entries of an index; a single image is an index with one entry.
    entries: Vec<Value>,
    annotations: Map<String, Value>,
}

async fn read(reference: &Reference, world: &World) -> Result<Option<There>, Error> {
    let client = world.registry.without_mirrors();
    let Some(found) = client.head_target(reference).await? else { return Ok(None) };
    let digest = descriptor_digest(&found)?;
    let stored = client.manifest(&reference.with_digest(digest)).await?;
    let mut document: Value = serde_json::from_slice(&stored.bytes)?;
    let annotations = match document["annotations"].take() {
        Value::Object(annotations) => annotations,
        _ => Map::new(),
    };
    if let Value::Array(entries) = document["manifests"].take() {
        return Ok(Some(There { digest, entries, annotations }));
    }
    let manifest: ImageManifest = serde_json::from_slice(&stored.bytes)?;
    let pieces: Vec<Bytes> = client.blob(reference, manifest.config()).await?.try_collect().await?;
    let config: Value = serde_json::from_slice(&pieces.concat())?;
    let mut entry = serde_json::to_value(&stored.descriptor)?;
    entry["platform"] = json!({ "os": config["os"], "architecture": config["architecture"] });
    if let Some(variant) = config["variant"].as_str().filter(|variant| !variant.is_empty()) {
        entry["platform"]["variant"] = variant.into();
    }
    Ok(Some(There { digest, entries: vec![entry], annotations }))
}

/// The index with these images in the places of those for the same platforms.
fn joined(there: Option<&There>, images: &[Image]) -> Result<Value, Error> {
    let mut entries: Vec<Value> = there.map(|there| there.entries.clone()).unwrap_or_default();
    let replaced: Vec<Value> = entries
        .iter()
        .filter(|entry| {
            let platform = platform_of(entry);
            platform.is_some_and(|found| images.iter().any(|own| found.matches(&own.platform)))
        })
        .map(|entry| entry["digest"].clone())
        .collect();
    // Docker's attestations go with the image that they are about.
    entries.retain(|entry| {
        let about = &entry["annotations"]["vnd.docker.reference.digest"];
        !replaced.contains(&entry["digest"]) && !replaced.contains(about)
    });
    let mut annotations = there.map(|there| there.annotations.clone());
    for image in images {
        entries.push(serde_json::to_value(&image.descriptor)?);
        let manifest: Value = serde_json::from_slice(&image.manifest)?;
        let own = manifest["annotations"].as_object().cloned().unwrap_or_default();
        let shared = annotations.unwrap_or_else(|| own.clone());
        annotations =
            Some(shared.into_iter().filter(|(key, value)| own.get(key) == Some(value)).collect());
    }
    // A stable sort: what is no image stays behind, in its order.
    entries.sort_by_key(|entry| {
        let platform = platform_of(entry);
        (platform.is_none(), platform)
    });
    Ok(json!({
        "schemaVersion": 2,
        "mediaType": media_type::OCI_INDEX,
        "manifests": entries,
        "annotations": annotations.unwrap_or_default(),
    }))
}

/// `None` for attestations and other things that are no images.
fn platform_of(entry: &Value) -> Option<Platform> {
    let platform = &entry["platform"];
    let field = |name: &str| platform[name].as_str().map(str::to_owned);
    let found = Platform {
        os: field("os")?,
        architecture: field("architecture")?,
        variant: field("variant").filter(|variant| !variant.is_empty()),
    };
    (found.os != "unknown").then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::fixture;

    fn image(platform: &str) -> Image {
        fixture::image(platform).0
    }

    fn there(value: &Value) -> There {
        There {
            digest: Digest::of(b"there"),
            entries: value["manifests"].as_array().unwrap().clone(),
            annotations: value["annotations"].as_object().unwrap().clone(),
        }
    }

    #[test]
    fn whoever_comes_first_the_index_is_the_one_made_at_once() {
        let [amd64, arm64] = ["linux/amd64", "linux/arm64/v8"].map(image);
        let at_once = crate::image::index(&[amd64.clone(), arm64.clone()]).unwrap().0;
        for order in [[&amd64, &arm64], [&arm64, &amd64]] {
            let first = joined(None, std::slice::from_ref(order[0])).unwrap();
            let second = joined(Some(&there(&first)), std::slice::from_ref(order[1])).unwrap();
            assert_eq!(to_canonical_vec(&second).unwrap(), at_once);
            // Again changes nothing.
            let again = joined(Some(&there(&second)), std::slice::from_ref(order[0])).unwrap();
            assert_eq!(again, second);
        }
    }

    #[test]
    fn others_stay_and_an_older_one_goes_with_its_attestation() {
        let own = image("linux/amd64");
        let old = Digest::of(b"old").to_string();
        let other = json!({
            "digest": Digest::of(b"other").to_string(), "size": 1, "x-unknown": true,
            "platform": { "os": "linux", "architecture": "s390x" },
        });
        let unknown = json!({ "os": "unknown", "architecture": "unknown" });
        let attestation = |about: &str| {
            json!({
                "digest": Digest::of(about.as_bytes()).to_string(), "platform": unknown,
                "annotations": { "vnd.docker.reference.digest": about },
            })
        };
        let kept = attestation(other["digest"].as_str().unwrap());
        let index = json!({
            "manifests": [
                { "digest": old, "platform": { "os": "linux", "architecture": "amd64" } },
                attestation(&old), kept, other,
            ],
            "annotations": { "only": "theirs" },
        });
        let found = joined(Some(&there(&index)), std::slice::from_ref(&own)).unwrap();
        let own = serde_json::to_value(&own.descriptor).unwrap();
        assert_eq!(found["manifests"], json!([own, other, kept]));
        assert_eq!(found["annotations"], json!({}));
    }
}
