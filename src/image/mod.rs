//! Chapter 5: base + layers + changes → a new image (pure: bytes in, bytes out).

//!
//! An [`Image`] is written in OCI's media types throughout, whatever types its base has: the layers'
//! bytes are the same in both families, and only OCI manifests carry annotations. Nothing here reads
//! a clock: `created` is an argument.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::base::Base;
use crate::layers::Layer;
use crate::oci::{
    Descriptor, Digest, Platform, Reference, descriptor_digest, json::to_canonical_vec, media_type,
};
use crate::plan::ConfigChange;

mod config;
pub mod error;
#[cfg(test)]
pub(crate) mod fixture;
pub mod validate;

pub use error::Error;

/// The most layers an image may have: what containerd's snapshotters can mount.
pub const LAYERS_MAX: usize = 127;
/// The most bytes of a manifest or index: what registries must take (distribution-spec, *Pushing
/// Manifests*).
pub const MANIFEST_MAX: usize = 4 * 1024 * 1024;

/// An image of one platform: a value; every edit makes a new one. Digests are over the very bytes
/// that will be stored.
#[derive(Clone, Debug)]
pub struct Image {
    /// What it runs on.
    pub platform: Platform,
    /// The OCI manifest's bytes.
    pub manifest: Vec<u8>,
    /// Media type, digest, size and platform of the manifest.
    pub descriptor: Descriptor,
    /// The config's bytes.
    pub config: Vec<u8>,
    /// The config's digest: the image ID.
    pub config_digest: Digest,
    /// Bottom first, base's and ours.
    pub layers: Vec<ImageLayer>,
}

impl Image {
    /// The manifest's digest.
    pub fn digest(&self) -> Digest {
        Digest::of(&self.manifest)
    }

    /// Bytes of the config and of all layers as they are stored and moved.
    pub fn size(&self) -> u64 {
        let layers: u64 = self.layers.iter().map(|layer| layer.descriptor.size()).sum();
        self.config.len() as u64 + layers
    }
}

/// A layer of an image and where its bytes are.
#[derive(Clone, Debug)]
pub struct ImageLayer {
    /// As in the manifest.
    pub descriptor: Descriptor,
    /// Of the uncompressed tar.
    pub diff_id: Digest,
    /// Where its bytes can be had.
    pub source: BlobSource,
}

/// Where a blob's bytes can be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BlobSource {
    /// In the store.
    Store,
    /// In that repository; the store may have it too.
    Registry(Reference),
}

/// One or more images of one cell, ready to be written.
#[derive(Clone, Debug)]
pub struct Artifact {
    /// One per platform, in the order of the request.
    pub images: Vec<Image>,
    /// An OCI index over them, where there is more than one.
    pub index: Option<(Vec<u8>, Descriptor)>,
}

/// Puts `layers` on `base` and changes its config.
///
/// - The manifest and all it names have OCI media types; the base's annotations are not carried over.
/// - Annotations are `created`, `base.name` and `base.digest` of the specification, and the given
///   ones. Those of the specification (`org.opencontainers.image.…`) become labels too, unless
///   `change` sets the same label: Docker and registries' pages show labels only.
/// - The same arguments give the same bytes.
///
/// # Errors
/// The base is malformed, is for another platform, has a layer that may not be passed on, or the
/// image would be larger than runtimes or registries take.
pub fn stack(
    base: &Base,
    layers: &[Layer],
    change: &ConfigChange,
    annotations: &BTreeMap<String, String>,
    created: Timestamp,
) -> Result<Image, Error> {
    let base_layers = base.manifest.layers();
    if base_layers.len() != base.diff_ids.len() {
        return Err(Error::DiffIds { layers: base_layers.len(), diff_ids: base.diff_ids.len() });
    }
    let count = base_layers.len() + layers.len();
    if count > LAYERS_MAX {
        return Err(Error::TooManyLayers(count));
    }

    let mut annotations = annotations.clone();
    annotations.extend([
        (media_type::CREATED.to_owned(), created.to_string()),
        (media_type::BASE_NAME.to_owned(), base_name(&base.reference)),
        (media_type::BASE_DIGEST.to_owned(), base.digest.to_string()),
    ]);
    let mut change = change.clone();
    for (key, value) in &annotations {
        if key.starts_with(media_type::IMAGE_PREFIX) && !change.labels.contains_key(key) {
            change.labels.insert(key.clone(), value.clone());
        }
    }

    let config =
        config::edit(&base.config, base_layers.len(), &base.platform, layers, &change, created)?;
    let platform = platform_of(&config, &base.platform)?;
    let config = to_canonical_vec(&config)?;
    let config_digest = Digest::of(&config);

    let from_base = base_layers.iter().zip(&base.diff_ids).map(|(descriptor, diff_id)| {
        Ok(ImageLayer {
            descriptor: convert_layer(descriptor)?,
            diff_id: *diff_id,
            source: BlobSource::Registry(base.reference.clone()),
        })
    });
    let ours = layers.iter().map(|layer| {
        Ok(ImageLayer {
            descriptor: convert_layer(&layer.descriptor)?,
            diff_id: layer.diff_id,
            source: BlobSource::Store,
        })
    });
    let layers = from_base.chain(ours).collect::<Result<Vec<_>, Error>>()?;

    let manifest = document(&json!({
        "schemaVersion": 2,
        "mediaType": media_type::OCI_MANIFEST,
        "config": {
            "mediaType": media_type::OCI_CONFIG,
            "digest": config_digest,
            "size": config.len(),
        },
        "layers": layers.iter().map(|layer| &layer.descriptor).collect::<Vec<_>>(),
        "annotations": annotations,
    }))?;
    let mut in_index = Map::from_iter([
        ("os".to_owned(), json!(platform.os)),
        ("architecture".to_owned(), json!(platform.architecture)),
    ]);
    if let Some(variant) = &platform.variant {
        in_index.insert("variant".into(), json!(variant));
    }
    let descriptor = serde_json::from_value(json!({
        "mediaType": media_type::OCI_MANIFEST,
        "digest": Digest::of(&manifest),
        "size": manifest.len(),
        "platform": in_index,
    }))?;
    Ok(Image { platform, manifest, descriptor, config, config_digest, layers })
}

/// An OCI index over the images, in the order given. Annotations that all of the images have are
/// the index's too.
///
/// # Errors
/// Two images are for one platform, or the index would be larger than registries take.
pub fn index(images: &[Image]) -> Result<(Vec<u8>, Descriptor), Error> {
    let mut common: Option<Map<String, Value>> = None;
    for (position, image) in images.iter().enumerate() {
        if images[..position].iter().any(|earlier| earlier.platform.matches(&image.platform)) {
            return Err(Error::DuplicatePlatform(Box::new(image.platform.clone())));
        }
        let manifest: Value = serde_json::from_slice(&image.manifest)?;
        let annotations = manifest["annotations"].as_object();
        let shared = common.as_ref().or(annotations).into_iter().flatten();
        common = Some(
            shared
                .filter(|(key, value)| annotations.and_then(|map| map.get(*key)) == Some(value))
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect(),
        );
    }
    let bytes = document(&json!({
        "schemaVersion": 2,
        "mediaType": media_type::OCI_INDEX,
        "manifests": images.iter().map(|image| &image.descriptor).collect::<Vec<_>>(),
        "annotations": common.unwrap_or_default(),
    }))?;
    let descriptor = serde_json::from_value(json!({
        "mediaType": media_type::OCI_INDEX,
        "digest": Digest::of(&bytes),
        "size": bytes.len(),
    }))?;
    Ok((bytes, descriptor))
}

/// The bytes of a manifest or index, checked to be small enough.
fn document(value: &Value) -> Result<Vec<u8>, Error> {
    let bytes = to_canonical_vec(value)?;
    if bytes.len() >= MANIFEST_MAX {
        return Err(Error::TooLarge(bytes.len()));
    }
    Ok(bytes)
}

/// `base.name` is fully qualified and names what `base.digest` is the digest of (image-spec,
/// *Pre-Defined Annotation Keys*); the digest stands there, not here.
fn base_name(reference: &Reference) -> String {
    match (reference.tag(), reference.digest()) {
        (Some(tag), _) => format!("{}:{tag}", reference.name()),
        (None, Some(_)) => reference.to_string(),
        (None, None) => format!("{reference}:latest"),
    }
}

fn platform_of(config: &Value, selected: &Platform) -> Result<Platform, Error> {
    let config =
        config.as_object().ok_or(Error::Config { field: "the config", expected: "an object" })?;
    let mut platform = config::platform(config).map_err(Error::not_a_string)?;
    // Older builders wrote the variant into the index only.
    if platform.variant.is_none() {
        platform.variant.clone_from(&selected.variant);
    }
    Ok(platform)
}

/// The layer's descriptor in OCI's types. The layer's own annotations stay: they speak of its bytes,
/// which stay too. `urls` and embedded `data` go.
fn convert_layer(layer: &Descriptor) -> Result<Descriptor, Error> {
    let digest = descriptor_digest(layer)?;
    let media_type = match layer.media_type().as_ref() {
        media_type::OCI_LAYER_TAR | media_type::DOCKER_LAYER_TAR => media_type::OCI_LAYER_TAR,
        media_type::OCI_LAYER_GZIP | media_type::DOCKER_LAYER_GZIP => media_type::OCI_LAYER_GZIP,
        media_type::OCI_LAYER_ZSTD | media_type::DOCKER_LAYER_ZSTD => media_type::OCI_LAYER_ZSTD,
        // Foreign (nondistributable) layers lie at addresses of their own: no registry or archive of
        // ours would hold their bytes.
        _ => return Err(Error::layer_type(layer, digest)),
    };
    let mut descriptor = Map::from_iter([
        ("mediaType".to_owned(), json!(media_type)),
        ("digest".to_owned(), json!(digest)),
        ("size".to_owned(), json!(layer.size())),
    ]);
    if let Some(annotations) = layer.annotations() {
        descriptor.insert("annotations".into(), json!(annotations));
    }
    Ok(serde_json::from_value(descriptor.into())?)
}

impl Artifact {
    /// An artifact of `images`, in the order of the request, with an index over them if there is more
    /// than one.
    ///
    /// # Errors
    /// There is none, or [`index`] refuses them.
    pub fn new(images: Vec<Image>) -> Result<Self, Error> {
        let index = match images.len() {
            0 => return Err(Error::NoImage),
            1 => None,
            _ => Some(index(&images)?),
        };
        Ok(Self { images, index })
    }

    /// The digest of what a tag will name.
    pub fn digest(&self) -> Digest {
        self.index.as_ref().map_or_else(|| self.images[0].digest(), |(bytes, _)| Digest::of(bytes))
    }

    /// What a tag will name: the index, or the only image's manifest.
    pub fn descriptor(&self) -> &Descriptor {
        self.index.as_ref().map_or_else(|| &self.images[0].descriptor, |(_, descriptor)| descriptor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(bytes: &[u8]) -> Value {
        serde_json::from_slice(bytes).unwrap()
    }

    /// Stacks nothing on a base with these layers.
    fn bare(base: &Base) -> Result<Image, Error> {
        let change = ConfigChange::default();
        stack(base, &[], &change, &BTreeMap::new(), Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn a_docker_base_is_converted_whole() {
        let (image, blobs) = fixture::image("linux/amd64");
        let config = value(&image.config);
        assert_eq!(config["config"]["Entrypoint"], json!(["/start"]));
        assert_eq!(config["config"]["Cmd"], Value::Null);
        assert_eq!(
            config["config"]["Labels"],
            json!({
                "kept": "yes",
                "org.opencontainers.image.base.digest": Digest::of(b"the index"),
                "org.opencontainers.image.base.name": "docker.io/library/python:3.13-alpine3.24",
                "org.opencontainers.image.created": "2026-01-02T03:04:05Z",
                "org.opencontainers.image.title": "app",
                // Asked for as a label, so not the annotation's.
                "org.opencontainers.image.version": "1",
            })
        );
        let layers = &image.layers;
        assert_eq!(
            value(&image.manifest),
            json!({
                "schemaVersion": 2,
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "config": {
                    "mediaType": "application/vnd.oci.image.config.v1+json",
                    "digest": Digest::of(&image.config), "size": image.config.len(),
                },
                "layers": [
                    {
                        "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
                        "digest": layers[0].descriptor.digest().to_string(),
                        "size": layers[0].descriptor.size(),
                        "annotations": {"a": "2", "z": "1"},
                    },
                    {
                        "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
                        "digest": layers[1].descriptor.digest().to_string(),
                        "size": layers[1].descriptor.size(),
                    },
                ],
                "annotations": {
                    "org.opencontainers.image.base.digest": Digest::of(b"the index"),
                    "org.opencontainers.image.base.name": "docker.io/library/python:3.13-alpine3.24",
                    "org.opencontainers.image.created": "2026-01-02T03:04:05Z",
                    "org.opencontainers.image.title": "app",
                    "org.opencontainers.image.version": "2",
                    "vendor.platform": "linux/amd64",
                },
            })
        );
        assert_eq!(
            layers[0].source,
            BlobSource::Registry("python:3.13-alpine3.24".parse().unwrap())
        );
        assert_eq!(layers[1].source, BlobSource::Store);

        let roots = [image.descriptor.clone()];
        let valid = validate::validate("the image", &roots, &blobs).unwrap();
        assert_eq!((valid.images.len(), valid.blobs), (1, 4));
        assert_eq!(valid.images[0].config_digest, image.config_digest);
        assert_eq!(
            valid.images[0].diff_ids,
            layers.iter().map(|layer| layer.diff_id).collect::<Vec<_>>()
        );
    }

    #[test]
    fn the_same_arguments_give_the_same_bytes() {
        let (first, _) = fixture::image("linux/amd64");
        let (second, _) = fixture::image("linux/amd64");
        assert_eq!(first.manifest, second.manifest);
        assert_eq!(first.config, second.config);
        // Goldens: a change here changes every image anybody built.
        assert_eq!(
            first.config_digest.to_string(),
            "sha256:49cd834fe1e0c59d366cdacddb4e5a9678cf0630bd051d32e45d74c2df5d0305"
        );
    }

    #[test]
    fn layers_of_every_kind_are_mapped_or_refused() {
        let tar = fixture::tar(b"x");
        let oci = "application/vnd.oci.image.layer";
        let docker = "application/vnd.docker.image.rootfs";
        for (from, to) in [
            (format!("{oci}.v1.tar"), Some("tar")),
            (format!("{oci}.v1.tar+gzip"), Some("tar+gzip")),
            (format!("{oci}.v1.tar+zstd"), Some("tar+zstd")),
            (format!("{docker}.diff.tar"), Some("tar")),
            (format!("{docker}.diff.tar.gzip"), Some("tar+gzip")),
            (format!("{docker}.diff.tar.zstd"), Some("tar+zstd")),
            (format!("{docker}.foreign.diff.tar.gzip"), None),
            (format!("{oci}.nondistributable.v1.tar+gzip"), None),
            (format!("{oci}.v1.tar+gzip+encrypted"), None),
            ("application/octet-stream".into(), None),
        ] {
            let base = fixture::base("linux/amd64", &[(&from, tar.clone(), tar.clone())]);
            let made = bare(&base).ok();
            let found = made.map(|made| made.layers[0].descriptor.media_type().to_string());
            assert_eq!(found, to.map(|to| format!("{oci}.v1.{to}")), "{from}");
        }
    }

    #[test]
    fn limits() {
        let tar = fixture::tar(b"x");
        let many = |count| {
            let layer = (media_type::OCI_LAYER_TAR, tar.clone(), tar.clone());
            fixture::base("linux/amd64", &vec![layer; count])
        };
        assert!(bare(&many(LAYERS_MAX)).is_ok());
        assert!(matches!(bare(&many(LAYERS_MAX + 1)), Err(Error::TooManyLayers(128))));
        let annotations = [("x".to_owned(), "y".repeat(MANIFEST_MAX))].into();
        assert!(matches!(
            stack(&many(1), &[], &ConfigChange::default(), &annotations, Timestamp::UNIX_EPOCH),
            Err(Error::TooLarge(_))
        ));
    }

    #[test]
    fn names_of_bases() {
        let digest = Digest::of(b"");
        for (reference, name) in [
            ("python:3", "docker.io/library/python:3".to_owned()),
            ("python", "docker.io/library/python:latest".to_owned()),
            (&format!("python:3@{digest}"), "docker.io/library/python:3".to_owned()),
            (&format!("r.example/python@{digest}"), format!("r.example/python@{digest}")),
        ] {
            assert_eq!(base_name(&reference.parse().unwrap()), name);
        }
    }

    #[test]
    fn an_index_over_platforms() {
        let (amd64, mut blobs) = fixture::image("linux/amd64");
        let (arm64, more) = fixture::image("linux/arm64/v8");
        blobs.extend(more);
        let artifact = Artifact::new(vec![arm64.clone(), amd64.clone()]).unwrap();
        let (bytes, descriptor) = artifact.index.clone().unwrap();
        let index = value(&bytes);
        assert_eq!(index["manifests"][0]["platform"]["variant"], "v8");
        assert_eq!(index["manifests"][1]["platform"]["architecture"], "amd64");
        // What differs is not the index's.
        assert_eq!(index["annotations"]["org.opencontainers.image.version"], "2");
        assert_eq!(index["annotations"]["vendor.platform"], Value::Null);

        blobs.insert(Digest::of(&bytes), bytes);
        assert_eq!(artifact.descriptor(), &descriptor);
        let valid = validate::validate("the index", &[descriptor], &blobs).unwrap();
        // Our layer is shared.
        assert_eq!((valid.images.len(), valid.blobs), (2, 8));

        assert!(Artifact::new(vec![amd64.clone()]).unwrap().index.is_none());
        assert!(matches!(Artifact::new(vec![]), Err(Error::NoImage)));
        assert!(matches!(
            Artifact::new(vec![amd64.clone(), amd64]),
            Err(Error::DuplicatePlatform(_))
        ));
    }
}
