//! Chapter 1: the image we stand on, as manifest and config; its layers stay where they are until
//! somebody needs their bytes.
//!
//! Manifests and configs are kept in the store under their digests: a pinned base that was read
//! before costs no request at all, a tag costs one HEAD, which registries do not count as a pull.

use std::io::Write as _;
use std::path::PathBuf;

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use crate::error::{Failure as _, Kind};
use crate::oci::{
    Descriptor, Digest, ImageManifest, Platform, Reference, descriptor_digest, media_type,
};
use crate::registry::{self, StoredManifest};
use crate::store::{self, BlobWriter};
use crate::world::{World, on_thread};

pub mod error;
pub mod rootfs;
pub mod select;

pub use error::Error;

/// The most bytes a config may have: 8 MiB, far above any real one.
const CONFIG_LIMIT: u64 = 8 << 20;

/// Records of what tags named when they were last asked for; used only where the network is not.
const TAGS: &str = "tag";

/// A base image of one platform.
#[derive(Clone, Debug)]
pub struct Base {
    /// As the recipe names it: `docker.io/library/python:3.13-alpine3.24`.
    pub reference: Reference,
    /// The digest of what the reference names: the index if it names one (annotation `base.digest`).
    pub digest: Digest,
    /// The platform that was selected.
    pub platform: Platform,
    /// Of the selected manifest.
    pub manifest_descriptor: Descriptor,
    /// The selected manifest's very bytes.
    pub manifest_bytes: Bytes,
    /// The selected manifest, parsed. Docker or OCI.
    pub manifest: ImageManifest,
    /// The config's very bytes.
    pub config_bytes: Bytes,
    /// The config as JSON: never re-typed, so that no field is lost.
    pub config: serde_json::Value,
    /// Of the uncompressed layers, bottom first.
    pub diff_ids: Vec<Digest>,
}

impl Base {
    /// The value of an environment variable in the config: `PYTHON_VERSION`.
    pub fn env(&self, name: &str) -> Option<&str> {
        self.config["config"]["Env"]
            .as_array()?
            .iter()
            .filter_map(|entry| entry.as_str()?.split_once('='))
            .find(|(key, _)| *key == name)
            .map(|(_, value)| value)
    }
}

/// The digest of what a reference names today, without reading it: its own digest, else what the
/// registry said about the tag when it was first asked in this run, so that all platforms and all
/// cells stand on the same base.
///
/// # Errors
/// There is no such tag, or the registry could not be asked.
pub async fn digest(reference: &Reference, world: &World) -> Result<Digest, Error> {
    if let Some(digest) = reference.digest() {
        return Ok(*digest);
    }
    let key = store::key(&[reference.to_string().as_bytes()]);
    let found = match world.registry.tagged_manifest(reference).await {
        Ok(found) => found,
        Err(offline @ registry::Error::Offline { .. }) => {
            let record = world.store.record(TAGS, &key)?;
            let known = record
                .and_then(|bytes| String::from_utf8(bytes).ok())
                .and_then(|text| text.parse().ok());
            return known.ok_or_else(|| offline.into());
        }
        Err(error) => return Err(error.into()),
    };
    let Some(descriptor) = found else {
        return Err(Error::Absent { reference: reference.to_string() });
    };
    let digest = checkable(reference, &descriptor)?;
    world.store.put_record(TAGS, &key, digest.to_string().as_bytes())?;
    Ok(digest)
}

/// Reads manifest and config of `reference` for `platform`. `pin` is the digest the lock pins the
/// reference to; without it the tag is resolved now. What the store has is not fetched again.
///
/// # Errors
/// The registry or the store failed, the base does not exist, is not for the platform, or one of its
/// documents is not what the image specification says.
pub async fn fetch(
    reference: &Reference,
    pin: Option<&Digest>,
    platform: &Platform,
    world: &World,
) -> Result<Base, Error> {
    let named = match pin {
        Some(pin) => *pin,
        None => digest(reference, world).await?,
    };
    let mut stored = read_manifest(reference, named, world).await?;
    for warning in world.registry.take_warnings() {
        world.progress.notice(&warning);
    }
    let mut selected = None;
    if is_index(&stored.descriptor) {
        let chosen = select::select_manifest(&stored.bytes, platform);
        let (descriptor, found) = chosen.map_err(|refusal| refuse(reference, platform, refusal))?;
        stored = read_manifest(reference, checkable(reference, &descriptor)?, world).await?;
        if is_index(&stored.descriptor) {
            return Err(malformed(reference, "the manifest in the index is an index itself"));
        }
        if stored.descriptor.size() != descriptor.size() {
            return Err(malformed(reference, "the index names another size of the manifest"));
        }
        selected = Some(found);
    }
    let manifest: ImageManifest = serde_json::from_slice(&stored.bytes)
        .map_err(|error| malformed(reference, &format!("manifest: {error}")))?;
    let config_bytes = read_config(reference, manifest.config(), world).await?;
    let config: serde_json::Value = serde_json::from_slice(&config_bytes)
        .map_err(|error| malformed(reference, &format!("config: {error}")))?;
    let platform = match selected {
        Some(platform) => platform,
        None => check_platform(reference, &config, platform)?,
    };
    let diff_ids = diff_ids(reference, &config)?;
    if diff_ids.len() != manifest.layers().len() {
        let (ids, layers) = (diff_ids.len(), manifest.layers().len());
        let reason = format!("the config has {ids} diff_ids, the manifest {layers} layers");
        return Err(malformed(reference, &reason));
    }
    Ok(Base {
        reference: reference.clone(),
        digest: named,
        platform,
        manifest_descriptor: stored.descriptor,
        manifest_bytes: stored.bytes,
        manifest,
        config_bytes,
        config,
        diff_ids,
    })
}

/// The base's root file system, unpacked once into the cache by confined extraction: layers are
/// fetched into the store, verified by digest and `diff_id`, and applied bottom first.
pub async fn rootfs(base: &Base, world: &World) -> Result<PathBuf, Error> {
    let _turn = world.store.turn("rootfs", &rootfs::key(&base.diff_ids)).await;
    let (diff_ids, store) = (base.diff_ids.clone(), world.store.clone());
    if let Some(there) = on_thread(move || rootfs::unpacked(&diff_ids, &store)).await? {
        return Ok(there);
    }
    // Unpacking a damaged one would fail only after much work.
    for layer in base.manifest.layers() {
        let _removed_if_damaged = world.store.verify(&checkable(&base.reference, layer)?)?;
    }
    fetch_layers(base, world).await?;
    let layers: Vec<_> =
        base.manifest.layers().iter().cloned().zip(base.diff_ids.iter().copied()).collect();
    let store = world.store.clone();
    Ok(on_thread(move || rootfs::unpack(&layers, &store)).await?)
}

/// Fetches one layer of the base into the store, unless it seems to be there: whoever reads it
/// verifies it.
///
/// # Errors
/// The registry or the store failed, or other bytes came than the descriptor says.
pub async fn fetch_layer(base: &Base, layer: &Descriptor, world: &World) -> Result<(), Error> {
    if world.store.seems_to_have(&checkable(&base.reference, layer)?, layer.size()) {
        return Ok(());
    }
    fetch_blob(&base.reference, layer, world).await
}

/// Fetches all layers of the base into the store, a few at a time.
///
/// # Errors
/// As [`fetch_layer`].
pub async fn fetch_layers(base: &Base, world: &World) -> Result<(), Error> {
    stream::iter(base.manifest.layers().iter().map(Ok))
        .try_for_each_concurrent(world.parallel.max(1), |layer| fetch_layer(base, layer, world))
        .await
}

/// Streams a blob into the store. A mirror that gave other bytes is not believed a second time.
async fn fetch_blob(reference: &Reference, blob: &Descriptor, world: &World) -> Result<(), Error> {
    let digest = checkable(reference, blob)?;
    let _turn = world.store.turn("blob", &digest).await;
    if world.store.verify(&digest)? {
        return Ok(());
    }
    match fetch_once(reference, blob, &digest, world, &world.registry).await {
        Err(error) if error.kind() == Kind::Integrity => {
            let upstream = world.registry.without_mirrors();
            fetch_once(reference, blob, &digest, world, &upstream).await
        }
        outcome => outcome,
    }
}

async fn fetch_once(
    reference: &Reference,
    blob: &Descriptor,
    digest: &Digest,
    world: &World,
    registry: &registry::Client,
) -> Result<(), Error> {
    let mut stream = registry.blob(reference, blob).await?;
    let mut writer = world.store.writer()?;
    let what = format!("blob {digest} of {}", reference.name());
    let mut done = 0;
    while let Some(piece) = stream.next().await {
        let piece = piece?;
        done += piece.len() as u64;
        write(&mut writer, &piece, world)?;
        world.progress.bytes(&what, done, blob.size());
    }
    writer.commit_as(digest, &what)?;
    Ok(())
}

fn write(writer: &mut BlobWriter, piece: &[u8], world: &World) -> Result<(), Error> {
    writer
        .write_all(piece)
        .map_err(|source| store::Error::Disk { path: world.store.root().to_owned(), source }.into())
}

/// A manifest or index by its digest: from the store, else from the registry into the store.
async fn read_manifest(
    reference: &Reference,
    digest: Digest,
    world: &World,
) -> Result<StoredManifest, Error> {
    let pinned = reference.with_digest(digest);
    let _turn = world.store.turn("blob", &digest).await;
    if let Some(bytes) = world.store.read(&digest)? {
        return Ok(StoredManifest::from_bytes(bytes.into(), &pinned)?);
    }
    let stored = world.registry.manifest(&pinned).await?;
    world.store.put(&stored.bytes)?;
    Ok(stored)
}

async fn read_config(
    reference: &Reference,
    config: &Descriptor,
    world: &World,
) -> Result<Bytes, Error> {
    if config.size() > CONFIG_LIMIT {
        let reason = format!("its config has {} bytes", config.size());
        return Err(malformed(reference, &reason));
    }
    fetch_blob(reference, config, world).await?;
    let digest = checkable(reference, config)?;
    match world.store.read(&digest)? {
        Some(bytes) => Ok(bytes.into()),
        None => Err(malformed(reference, "its config vanished from the cache")),
    }
}

fn is_index(descriptor: &Descriptor) -> bool {
    matches!(
        descriptor.media_type().as_ref(),
        media_type::OCI_INDEX | media_type::DOCKER_MANIFEST_LIST
    )
}

fn checkable(reference: &Reference, descriptor: &Descriptor) -> Result<Digest, Error> {
    descriptor_digest(descriptor)
        .map_err(|source| Error::Digest { reference: reference.to_string(), source })
}

fn malformed(reference: &Reference, reason: &str) -> Error {
    Error::Malformed { reference: reference.to_string(), reason: reason.to_owned() }
}

fn refuse(reference: &Reference, platform: &Platform, refusal: select::Refusal) -> Error {
    match refusal {
        select::Refusal::Malformed(reason) => malformed(reference, &format!("index: {reason}")),
        select::Refusal::NoSuchPlatform(available) => Error::NoSuchPlatform {
            reference: reference.to_string(),
            platform: platform.clone(),
            available,
        },
    }
}

/// The platform that a single manifest's config says, if it is the one asked for.
fn check_platform(
    reference: &Reference,
    config: &serde_json::Value,
    wanted: &Platform,
) -> Result<Platform, Error> {
    let field = |name: &str| config[name].as_str().unwrap_or_default().to_owned();
    let found = Platform {
        os: field("os"),
        architecture: field("architecture"),
        variant: config["variant"].as_str().filter(|v| !v.is_empty()).map(str::to_owned),
    };
    if found.matches(wanted) {
        return Ok(found);
    }
    Err(Error::NoSuchPlatform {
        reference: reference.to_string(),
        platform: wanted.clone(),
        available: vec![found],
    })
}

fn diff_ids(reference: &Reference, config: &serde_json::Value) -> Result<Vec<Digest>, Error> {
    config["rootfs"]["diff_ids"]
        .as_array()
        .ok_or_else(|| malformed(reference, "the config has no diff_ids"))?
        .iter()
        .map(|id| {
            id.as_str()
                .and_then(|id| id.parse().ok())
                .ok_or_else(|| malformed(reference, &format!("the config's diff_id {id} is none")))
        })
        .collect()
}
