//! An image index → the one manifest for a platform (pure).

use serde::Deserialize;

use crate::oci::{Descriptor, Platform, media_type};

/// What an index holds, as far as the choice needs it.
#[derive(Deserialize)]
struct Index {
    manifests: Vec<serde_json::Value>,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(rename = "mediaType")]
    media_type: String,
    platform: Option<EntryPlatform>,
    annotations: Option<serde_json::Map<String, serde_json::Value>>,
}

#[derive(Deserialize)]
struct EntryPlatform {
    os: String,
    architecture: String,
    variant: Option<String>,
}

/// Why nothing was chosen.
#[derive(Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The document is no index.
    Malformed(String),
    /// There are images, but none for the platform; sorted.
    NoSuchPlatform(Vec<Platform>),
}

/// The manifest for `wanted`. The same variant goes before one that means the same; among equals the
/// first wins (image-spec, *Image Index*). Attestations and other things that are no images (a
/// `vnd.docker.reference.type`, the platform `unknown/unknown`) are passed over.
///
/// # Errors
/// It is no index, or it has no such platform.
pub fn select_manifest(index: &[u8], wanted: &Platform) -> Result<(Descriptor, Platform), Refusal> {
    let malformed = |error: serde_json::Error| Refusal::Malformed(error.to_string());
    let index: Index = serde_json::from_slice(index).map_err(malformed)?;
    let mut images = Vec::new();
    for value in index.manifests {
        let entry: Entry = serde_json::from_value(value.clone()).map_err(malformed)?;
        if let Some(platform) = image_platform(entry) {
            images.push((platform, value));
        }
    }
    let chosen = images
        .iter()
        .find(|(platform, _)| platform == wanted)
        .or_else(|| images.iter().find(|(platform, _)| platform.matches(wanted)));
    if let Some((platform, value)) = chosen {
        let descriptor = serde_json::from_value(value.clone()).map_err(malformed)?;
        return Ok((descriptor, platform.clone()));
    }
    let mut available: Vec<Platform> = images.into_iter().map(|(platform, _)| platform).collect();
    available.sort();
    available.dedup();
    Err(Refusal::NoSuchPlatform(available))
}

/// The platform of an entry that is an image; `None` for everything else.
fn image_platform(entry: Entry) -> Option<Platform> {
    let is_manifest =
        matches!(entry.media_type.as_str(), media_type::OCI_MANIFEST | media_type::DOCKER_MANIFEST);
    let annotations = entry.annotations.unwrap_or_default();
    if !is_manifest || annotations.contains_key(media_type::DOCKER_REFERENCE_TYPE) {
        return None;
    }
    let platform = entry.platform?;
    (platform.os != "unknown").then(|| Platform {
        os: platform.os,
        architecture: platform.architecture,
        variant: platform.variant.filter(|variant| !variant.is_empty()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Digest;
    use serde_json::{Value, json};

    fn entry(platform: &str, content: &str) -> Value {
        let platform: Platform = platform.parse().unwrap();
        let mut value = json!({
            "mediaType": media_type::DOCKER_MANIFEST,
            "digest": Digest::of(content.as_bytes()).to_string(),
            "size": 1,
            "platform": {"os": platform.os, "architecture": platform.architecture},
        });
        if let Some(variant) = platform.variant {
            value["platform"]["variant"] = json!(variant);
        }
        value
    }

    fn select(entries: &[Value], wanted: &str) -> Result<String, Vec<String>> {
        let index = json!({"schemaVersion": 2, "manifests": entries}).to_string();
        match select_manifest(index.as_bytes(), &wanted.parse().unwrap()) {
            Ok((descriptor, _)) => Ok(descriptor.digest().to_string()),
            Err(Refusal::NoSuchPlatform(available)) => {
                Err(available.iter().map(ToString::to_string).collect())
            }
            Err(Refusal::Malformed(reason)) => Err(vec![reason]),
        }
    }

    #[test]
    fn chooses_by_platform() {
        let mut attestation = entry("linux/amd64", "attestation");
        attestation["annotations"] = json!({"vnd.docker.reference.type": "attestation-manifest"});
        let mut artifact = entry("linux/amd64", "artifact");
        artifact["mediaType"] = json!("application/vnd.example");
        let mut nameless = entry("linux/amd64", "nameless");
        nameless.as_object_mut().unwrap().remove("platform");
        let entries = vec![
            attestation,
            artifact,
            nameless,
            entry("unknown/unknown", "unknown"),
            entry("linux/amd64/v3", "amd64v3"),
            entry("linux/amd64", "amd64"),
            entry("linux/amd64", "amd64 again"),
            entry("linux/arm64/v8", "arm64"),
            entry("linux/arm/v6", "armv6"),
            entry("linux/arm/v7", "armv7"),
        ];
        for (wanted, found) in [
            ("linux/amd64", "amd64"),
            ("linux/amd64/v3", "amd64v3"),
            ("linux/arm64", "arm64"),
            ("linux/arm64/v8", "arm64"),
            ("linux/arm", "armv7"),
            ("linux/arm/v6", "armv6"),
        ] {
            let digest = Digest::of(found.as_bytes()).to_string();
            assert_eq!(select(&entries, wanted), Ok(digest), "{wanted}");
        }
        let available =
            ["linux/amd64", "linux/amd64/v3", "linux/arm/v6", "linux/arm/v7", "linux/arm64/v8"]
                .map(str::to_owned)
                .to_vec();
        assert_eq!(select(&entries, "linux/s390x"), Err(available));
        assert_eq!(select(&[], "linux/amd64"), Err(vec![]));
        assert!(select_manifest(b"{}", &"linux/amd64".parse().unwrap()).is_err());
    }
}
