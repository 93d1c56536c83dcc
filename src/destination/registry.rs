//! An artifact → a registry: blobs, then manifests, then tags, so that a name never stands for an
//! image of which something is missing.
//!
//! A push of what is there already costs one HEAD per tag. Base layers are mounted from the base's
//! repository where it is on the same registry, else streamed from the store or straight from the
//! base's registry: they need not be on this machine.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use crate::error::{Failure, Kind};
use crate::image::{Artifact, BlobSource, Image, ImageLayer};
use crate::oci::{Descriptor, Digest, Reference, descriptor_digest, digest};
use crate::registry::{self, BlobBytes, Client, Cost, Pushed};
use crate::store;
use crate::world::World;

/// Why an artifact could not be pushed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The registry failed us.
    #[error(transparent)]
    Registry(#[from] registry::Error),
    /// The cache failed us.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// A layer in the cache is not what its name says.
    #[error("layer {digest} was damaged in the cache")]
    Damaged {
        /// Its name.
        digest: Digest,
        /// What the upload found.
        #[source]
        source: registry::Error,
    },
    /// A digest in a document is not one we can check.
    #[error(transparent)]
    Digest(#[from] digest::ParseError),
    /// A manifest is no JSON.
    #[error("a manifest to be pushed cannot be read")]
    Manifest(#[from] serde_json::Error),
    /// Others write the tag all the time.
    #[error("`{reference}` changed each of {attempts} times after it was written")]
    Contended {
        /// The tag.
        reference: String,
        /// How often it was tried.
        attempts: usize,
    },
}

impl Failure for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::Registry(error) => error.kind(),
            Self::Store(error) => error.kind(),
            Self::Damaged { .. } => Kind::Integrity,
            Self::Digest(_) | Self::Manifest(_) => Kind::Unexpected,
            Self::Contended { .. } => Kind::Remote,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Registry(error) => error.hint(),
            Self::Store(error) => error.hint(),
            Self::Damaged { .. } => Some("it was removed: run the same command again".into()),
            Self::Digest(_) | Self::Manifest(_) => None,
            Self::Contended { .. } => Some("run the same command again".into()),
        }
    }

    fn heals(&self) -> bool {
        matches!(self, Self::Damaged { .. })
    }
}

/// What a push came to.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct PushReport {
    /// Of the manifest or index that every tag names now.
    pub digest: Digest,
    /// In the order they were given.
    pub tags: Vec<PushedTag>,
    /// What the world's registry client spent meanwhile: if cells are pushed at the same time, theirs
    /// too.
    pub cost: Cost,
}

impl PushReport {
    /// One line for each tag.
    pub fn lines(&self) -> Vec<String> {
        let line = |tag: &PushedTag| {
            let how = if tag.existing { " (was there)" } else { "" };
            format!("{}@{}{how}", tag.reference, self.digest)
        };
        self.tags.iter().map(line).collect()
    }
}

/// A tag that names the artifact now.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct PushedTag {
    /// `registry/repository:tag`
    pub reference: String,
    /// Whether it named it before.
    pub existing: bool,
}

/// Pushes the artifact under every one of `references`. `Ok` means that all tags name it and that
/// everything it names is in its repository.
///
/// # Errors
/// A registry refused or failed, or bytes are not what they should be. Tags that were not reached
/// stand as they were.
pub async fn push(
    artifact: &Artifact,
    references: &[Reference],
    world: &World,
) -> Result<PushReport, Error> {
    let before = world.registry.cost();
    let digest = descriptor_digest(artifact.descriptor())?;
    let mut tags = Vec::new();
    for reference in references {
        let there = world.registry.head_target(reference).await?;
        let existing = match &there {
            Some(descriptor) => descriptor_digest(descriptor)? == digest,
            None => false,
        };
        tags.push(PushedTag { reference: reference.to_string(), existing });
    }
    for (position, reference) in references.iter().enumerate() {
        if tags[position].existing {
            continue;
        }
        // Where one tag of a repository names it, the repository has all of it.
        let complete = references[..position].iter().any(|done| done.name() == reference.name())
            || references
                .iter()
                .zip(&tags)
                .any(|(other, tag)| tag.existing && other.name() == reference.name());
        push_one(artifact, reference, complete, world).await?;
    }
    for warning in world.registry.take_warnings() {
        world.progress.notice(&warning);
    }
    let cost = world.registry.cost().since(&before);
    Ok(PushReport { digest, tags, cost })
}

async fn push_one(
    artifact: &Artifact,
    reference: &Reference,
    complete: bool,
    world: &World,
) -> Result<(), Error> {
    if !complete {
        push_blobs(artifact, reference, Need::Missing, world).await?;
    }
    world.progress.step(&format!("tagging {reference}"));
    match push_manifests(artifact, reference, complete, world).await {
        Err(error) if lacks_blobs(&error) => {
            // It said it had a blob, or mounted it, and does not have it: it was being collected, or
            // one part of the registry does not know yet what another knows.
            push_blobs(artifact, reference, Need::All, world).await?;
            push_manifests(artifact, reference, false, world).await
        }
        outcome => outcome,
    }
}

fn lacks_blobs(error: &Error) -> bool {
    match error {
        Error::Registry(error) => ["MANIFEST_BLOB_UNKNOWN", "BLOB_UNKNOWN", "MANIFEST_UNKNOWN"]
            .iter()
            .any(|code| error.has_code(code)),
        _ => false,
    }
}

/// Which blobs are uploaded.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    /// Those that the registry says it lacks.
    Missing,
    /// All, whatever it says.
    All,
}

/// Layers in parallel, then configs.
pub(super) async fn push_blobs(
    artifact: &Artifact,
    target: &Reference,
    need: Need,
    world: &World,
) -> Result<(), Error> {
    let mut layers = BTreeMap::new();
    for layer in artifact.images.iter().flat_map(|image| &image.layers) {
        layers.entry(descriptor_digest(&layer.descriptor)?).or_insert(layer);
    }
    stream::iter(layers.into_values().map(Ok::<_, Error>))
        .try_for_each_concurrent(world.parallel.max(1), |layer| {
            push_layer(layer, target, need, world)
        })
        .await?;
    let mut configs = BTreeMap::new();
    for image in &artifact.images {
        configs.insert(image.config_digest, image);
    }
    let configs: Vec<_> =
        configs.into_values().map(|image| push_config(image, target, need, world)).collect();
    stream::iter(configs).buffered(world.parallel.max(1)).try_collect::<()>().await
}

async fn push_config(
    image: &Image,
    target: &Reference,
    need: Need,
    world: &World,
) -> Result<(), Error> {
    let manifest: crate::oci::ImageManifest = serde_json::from_slice(&image.manifest)?;
    let bytes = BlobBytes::Memory(Bytes::copy_from_slice(&image.config));
    push_blob(&world.registry, target, manifest.config(), bytes, &[], need).await?;
    Ok(())
}

async fn push_layer(
    layer: &ImageLayer,
    target: &Reference,
    need: Need,
    world: &World,
) -> Result<(), Error> {
    let digest = descriptor_digest(&layer.descriptor)?;
    let file = world.store.blob_path(&digest);
    let stored = fs_err::metadata(&file).is_ok_and(|meta| meta.len() == layer.descriptor.size());
    let from = match &layer.source {
        BlobSource::Store => {
            let file = BlobBytes::File(file);
            let pushed = push_blob(&world.registry, target, &layer.descriptor, file, &[], need);
            let pushed = pushed.await.or_else(|error| damaged(error, digest, world))?;
            report(layer, pushed, target, world);
            return Ok(());
        }
        BlobSource::Registry(reference) => reference,
    };
    let mounts = [from.clone()];
    let mut damaged = None;
    // What the cache or a mirror damaged is had from the next better place.
    for (source, client) in [
        stored.then_some((BlobBytes::File(file), world.registry.clone())),
        Some((BlobBytes::Registry(from.clone()), world.registry.clone())),
        Some((BlobBytes::Registry(from.clone()), world.registry.without_mirrors())),
    ]
    .into_iter()
    .flatten()
    {
        match push_blob(&client, target, &layer.descriptor, source, &mounts, need).await {
            Err(error) if error.kind() == Kind::Integrity => damaged = Some(error),
            Err(error) => return Err(error),
            Ok(pushed) => {
                report(layer, pushed, target, world);
                return Ok(());
            }
        }
    }
    damaged.map_or(Ok(()), Err)
}

/// What is wrong in the cache is taken out of it, or every run would find the same.
fn damaged(error: Error, digest: Digest, world: &World) -> Result<Pushed, Error> {
    match error {
        Error::Registry(source) if !world.store.verify(&digest)? => {
            Err(Error::Damaged { digest, source })
        }
        error => Err(error),
    }
}

async fn push_blob(
    client: &Client,
    target: &Reference,
    descriptor: &Descriptor,
    source: BlobBytes,
    mounts: &[Reference],
    need: Need,
) -> Result<Pushed, Error> {
    Ok(match need {
        Need::Missing => client.push_blob(target, descriptor, source, mounts).await?,
        Need::All => client.upload_blob(target, descriptor, source).await?,
    })
}

fn report(layer: &ImageLayer, pushed: Pushed, target: &Reference, world: &World) {
    let how = match pushed {
        Pushed::Existing => "is in",
        Pushed::Mounted => "was mounted in",
        Pushed::Uploaded => "was uploaded to",
    };
    let digest = layer.descriptor.digest().to_string();
    let short = digest.get(..19).unwrap_or(&digest);
    world.progress.step(&format!("layer {short} {how} {}", target.name()));
}

/// The images' manifests by their digests, if an index names them; then what the tag is to name.
async fn push_manifests(
    artifact: &Artifact,
    reference: &Reference,
    complete: bool,
    world: &World,
) -> Result<(), Error> {
    let registry = &world.registry;
    let media_type = |descriptor: &Descriptor| descriptor.media_type().to_string();
    if let Some((index, descriptor)) = &artifact.index {
        if !complete {
            let manifests = artifact.images.iter().map(|image| async {
                let digest = descriptor_digest(&image.descriptor)?;
                let target = reference.with_digest(digest);
                let bytes = Bytes::copy_from_slice(&image.manifest);
                registry
                    .push_manifest(&target, &media_type(&image.descriptor), bytes)
                    .await
                    .map_err(Error::from)
                    .map(|_digest| ())
            });
            stream::iter(manifests.collect::<Vec<_>>())
                .buffered(world.parallel.max(1))
                .try_collect::<()>()
                .await?;
        }
        let bytes = Bytes::copy_from_slice(index);
        registry.push_manifest(reference, &media_type(descriptor), bytes).await?;
    } else if let [image] = artifact.images.as_slice() {
        let bytes = Bytes::copy_from_slice(&image.manifest);
        registry.push_manifest(reference, &media_type(&image.descriptor), bytes).await?;
    }
    Ok(())
}
