//! Two layers and a config as an OCI layout, and that layout on a registry.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use assemble::oci::json::to_canonical_vec;
use assemble::oci::{Digest, media_type};
use serde_json::{Value, json};

use super::rootfs::Rootfs;
use super::{Architecture, BaseSpec, Because as _, Error, Result};
use crate::support::registry::FakeRegistry;

/// When the base says it was created.
const CREATED: &str = "2026-01-01T00:00:00Z";

/// Whose words a manifest is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MediaTypes {
    /// `application/vnd.oci.…`
    Oci,
    /// `application/vnd.docker.…`
    Docker,
}

impl MediaTypes {
    /// What tells the folder of such a base from that of an OCI base.
    pub(crate) fn suffix(self) -> &'static str {
        match self {
            Self::Oci => "",
            Self::Docker => "-docker",
        }
    }

    /// Manifest, config, layer, index.
    fn names(self) -> [&'static str; 4] {
        match self {
            Self::Oci => [
                media_type::OCI_MANIFEST,
                media_type::OCI_CONFIG,
                media_type::OCI_LAYER_GZIP,
                media_type::OCI_INDEX,
            ],
            Self::Docker => [
                media_type::DOCKER_MANIFEST,
                media_type::DOCKER_CONFIG,
                media_type::DOCKER_LAYER_GZIP,
                media_type::DOCKER_MANIFEST_LIST,
            ],
        }
    }
}

/// A base on disk: an OCI layout with one image.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    path: PathBuf,
    /// The manifest's descriptor in `index.json`.
    manifest: Value,
}

/// Writes the layout of an image with that Python in these layers, bottom first, to an empty folder.
pub(crate) fn write(
    spec: &BaseSpec,
    version: &str,
    layers: &[Rootfs],
    folder: &Path,
) -> Result<()> {
    let [manifest_type, config_type, layer_type, _] = spec.media_types.names();
    let blobs = folder.join("blobs/sha256");
    fs_err::create_dir_all(&blobs).because(|| "make the base's layout".into())?;
    let store = |bytes: &[u8]| {
        let digest = Digest::of(bytes);
        fs_err::write(blobs.join(digest.hex()), bytes)
            .because(|| "write a blob of the base".into())?;
        Ok::<_, Error>(digest)
    };
    let mut diff_ids = Vec::new();
    let mut descriptors = Vec::new();
    for layer in layers {
        let tar = layer.to_tar()?;
        let mut gzip = flate2::GzBuilder::new().write(Vec::new(), flate2::Compression::new(6));
        gzip.write_all(&tar).because(|| "compress a layer".into())?;
        let packed = gzip.finish().because(|| "compress a layer".into())?;
        diff_ids.push(Digest::of(&tar));
        descriptors.push(json!({
            "mediaType": layer_type,
            "digest": store(&packed)?,
            "size": packed.len(),
        }));
    }
    let encode = |value: &Value| to_canonical_vec(value).because(|| "write JSON".into());
    let config = encode(&config(spec, version, &diff_ids))?;
    let manifest = encode(&json!({
        "schemaVersion": 2,
        "mediaType": manifest_type,
        "config": {
            "mediaType": config_type,
            "digest": store(&config)?,
            "size": config.len(),
        },
        "layers": descriptors,
    }))?;
    let index = encode(&json!({
        "schemaVersion": 2,
        "mediaType": media_type::OCI_INDEX,
        "manifests": [{
            "mediaType": manifest_type,
            "digest": store(&manifest)?,
            "size": manifest.len(),
            "platform": platform(spec.architecture),
            "annotations": { media_type::REF_NAME: spec.tag() },
        }],
    }))?;
    let version = json!({ "imageLayoutVersion": "1.0.0" });
    fs_err::write(folder.join("oci-layout"), encode(&version)?)
        .and_then(|()| fs_err::write(folder.join("index.json"), index))
        .because(|| "write the base's layout".into())
}

fn platform(architecture: Architecture) -> Value {
    match architecture {
        Architecture::Amd64 => json!({ "os": "linux", "architecture": "amd64" }),
        Architecture::Arm64 => json!({ "os": "linux", "architecture": "arm64", "variant": "v8" }),
    }
}

/// The config as the official image has it: two layers among the history's lines.
fn config(spec: &BaseSpec, version: &str, diff_ids: &[Digest]) -> Value {
    let path = "/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin";
    let instruction = |text: &str, is_empty: bool| {
        let mut entry = json!({ "created": CREATED, "created_by": text });
        if is_empty {
            entry["empty_layer"] = true.into();
            entry["comment"] = "buildkit.dockerfile.v0".into();
        }
        entry
    };
    let mut config = platform(spec.architecture);
    config["created"] = CREATED.into();
    config["config"] = json!({
        "Env": [
            format!("PATH={path}"),
            "LANG=C.UTF-8".to_owned(),
            format!("PYTHON_VERSION={version}"),
        ],
        "Cmd": ["python3"],
        "WorkingDir": "/",
    });
    config["rootfs"] = json!({ "type": "layers", "diff_ids": diff_ids });
    config["history"] = json!([
        instruction("ADD rootfs.tar.gz / # made from packages", false),
        instruction("CMD [\"/bin/sh\"]", true),
        instruction(&format!("ENV PATH={path}"), true),
        instruction("ENV LANG=C.UTF-8", true),
        instruction(&format!("ENV PYTHON_VERSION={version}"), true),
        instruction("RUN /bin/sh -c # python made from packages", false),
        instruction("CMD [\"python3\"]", true),
    ]);
    config
}

impl Layout {
    /// Opens a finished base.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let index = fs_err::read(path.join("index.json")).because(|| "open the base".into())?;
        let index: Value = serde_json::from_slice(&index).because(|| "open the base".into())?;
        Ok(Self { path: path.to_owned(), manifest: index["manifests"][0].clone() })
    }

    /// The layout's folder.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The manifest's digest.
    pub(crate) fn digest(&self) -> Result<Digest> {
        digest(&self.manifest)
    }

    /// The manifest as JSON.
    pub(crate) fn manifest(&self) -> Result<Value> {
        self.document(&self.digest()?)
    }

    /// The config as JSON.
    pub(crate) fn config(&self) -> Result<Value> {
        self.document(&digest(&self.manifest()?["config"])?)
    }

    fn document(&self, digest: &Digest) -> Result<Value> {
        let bytes = fs_err::read(self.blob(digest)).because(|| "read the base".into())?;
        serde_json::from_slice(&bytes).because(|| "read the base".into())
    }

    /// Where a blob of it lies.
    pub(crate) fn blob(&self, digest: &Digest) -> PathBuf {
        self.path.join("blobs/sha256").join(digest.hex())
    }

    /// The layers' digests, bottom first.
    pub(crate) fn layers(&self) -> Result<Vec<Digest>> {
        let manifest = self.manifest()?;
        let layers = manifest["layers"].as_array().map(Vec::as_slice);
        layers.unwrap_or_default().iter().map(digest).collect()
    }

    /// Unpacks all layers over each other into `folder`, which becomes a root file system.
    pub(crate) fn unpack(&self, folder: &Path) -> Result<()> {
        for layer in self.layers()? {
            let file = fs_err::File::open(self.blob(&layer)).because(|| "open a layer".into())?;
            let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(file));
            archive.set_preserve_permissions(true);
            archive.unpack(folder).because(|| format!("unpack {layer} of the base"))?;
        }
        Ok(())
    }

    /// Puts the image into a registry as `repository:tag`, or by digest only; its digest.
    pub(crate) fn serve(
        &self,
        registry: &FakeRegistry,
        repository: &str,
        tag: Option<&str>,
    ) -> Result<Digest> {
        let manifest = self.manifest()?;
        let layers = manifest["layers"].as_array().map(Vec::as_slice);
        for blob in layers.unwrap_or_default().iter().chain([&manifest["config"]]) {
            let digest = digest(blob)?;
            let size = blob["size"].as_u64().unwrap_or_default();
            registry.put_blob_file(repository, digest, size, &self.blob(&digest));
        }
        let media_type = self.manifest["mediaType"].as_str().unwrap_or_default();
        let bytes = fs_err::read(self.blob(&self.digest()?)).because(|| "read the base".into())?;
        Ok(registry.put_manifest(repository, tag, media_type, bytes))
    }
}

fn digest(descriptor: &Value) -> Result<Digest> {
    let digest = descriptor["digest"].as_str().unwrap_or_default();
    digest.parse().because(|| "read a descriptor".into())
}

/// Puts several bases into a registry behind one tag, as the official image is: an index with a
/// manifest and an attestation for each platform. Returns the index's digest.
pub(crate) fn serve_index(
    bases: &[Layout],
    media_types: MediaTypes,
    registry: &FakeRegistry,
    repository: &str,
    tag: &str,
) -> Result<Digest> {
    let [_, _, _, index_type] = media_types.names();
    let encode = |value: &Value| to_canonical_vec(value).because(|| "write JSON".into());
    let mut manifests = Vec::new();
    let mut attestations = Vec::new();
    for base in bases {
        let digest = base.serve(registry, repository, None)?;
        let mut descriptor = base.manifest.clone();
        if let Some(descriptor) = descriptor.as_object_mut() {
            descriptor.remove("annotations");
        }
        manifests.push(descriptor);
        let empty = registry.put_blob(repository, &b"{}"[..]);
        let attestation = encode(&json!({
            "schemaVersion": 2,
            "mediaType": media_type::OCI_MANIFEST,
            "config": { "mediaType": media_type::OCI_CONFIG, "digest": empty, "size": 2 },
            "layers": [{
                "mediaType": "application/vnd.in-toto+json",
                "digest": empty,
                "size": 2,
                "annotations": { "in-toto.io/predicate-type": digest },
            }],
        }))?;
        let size = attestation.len();
        attestations.push(json!({
            "mediaType": media_type::OCI_MANIFEST,
            "digest": registry.put_manifest(repository, None, media_type::OCI_MANIFEST, attestation),
            "size": size,
            "platform": { "os": "unknown", "architecture": "unknown" },
            "annotations": {
                media_type::DOCKER_REFERENCE_TYPE: "attestation-manifest",
                "vnd.docker.reference.digest": digest,
            },
        }));
    }
    if media_types == MediaTypes::Oci {
        manifests.append(&mut attestations);
    }
    let index = encode(&json!({
        "schemaVersion": 2,
        "mediaType": index_type,
        "manifests": manifests,
    }))?;
    Ok(registry.put_manifest(repository, Some(tag), index_type, index))
}
