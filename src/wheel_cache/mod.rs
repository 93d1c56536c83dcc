//! Wheels that were built from sdists, shared through a registry: the door to that cache.
//!
//! An entry is an OCI artifact (image-spec, *Guidelines for Artifact Usage*) under the tag
//! `wheel-<hex of the build's key>`: whoever would build the same finds it, and builds nothing. The key
//! is over all that goes into a build, so an entry is never out of date and is never replaced. Its
//! bytes follow from the build and the wheel alone. (A tag `sha256-<hex>` would be taken for the
//! specification's list of referrers.)
//!
//! A cache that cannot be reached is no failure: the wheel is built. What a cache says is checked
//! before it is used, and a wrong entry is an error; that a wheel is what its build would give cannot
//! be checked without building it, so whoever may write there is trusted as the package index is.
//!
//! | file | holds |
//! | --- | --- |
//! | `artifact` | the manifest of an entry, to and from bytes (pure) |

use std::collections::BTreeSet;
use std::io::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures_util::StreamExt as _;

use crate::error::{Failure as _, Kind};
use crate::oci::{Digest, Reference, media_type};
use crate::registry::{self, BlobBytes};
use crate::store::{self, Store};

mod artifact;
pub mod error;

pub use artifact::{Build, Wheel};
pub use error::Error;

/// A cache in a registry. Cheap to clone; clones share what they learnt about it.
#[derive(Clone, Debug)]
pub struct Cache {
    registry: registry::Client,
    repository: Reference,
    writes: bool,
    learnt: Arc<Learnt>,
}

/// What a run knows about the cache.
#[derive(Debug, Default)]
struct Learnt {
    /// It failed once: nothing more is asked of it.
    cannot_be_read: AtomicBool,
    cannot_be_written: AtomicBool,
    /// Keys of entries that are there, and of those that were asked for in vain.
    there: Mutex<BTreeSet<Digest>>,
    absent: Mutex<BTreeSet<Digest>>,
}

/// What looking for a wheel came to.
#[derive(Debug)]
pub enum Looked {
    /// There it is. Its bytes are in the store, of the digest that the entry says.
    Found(Wheel),
    /// Nobody has built it, or the cache failed before.
    Absent,
    /// The cache failed just now; told once.
    Failed(registry::Error),
}

/// What keeping a wheel came to.
#[derive(Debug)]
pub enum Kept {
    /// It is there now.
    Written,
    /// It was there, the cache is not to be written, or it failed before.
    Nothing,
    /// The cache failed just now; told once.
    Failed(registry::Error),
}

impl Cache {
    /// The cache in `repository`, whose tag and digest do not matter. It is written only if `writes`.
    pub fn new(registry: &registry::Client, repository: &Reference, writes: bool) -> Self {
        Self {
            // A mirror may be behind, and none is needed for what can be built.
            registry: registry.without_mirrors(),
            repository: repository.clone(),
            writes,
            learnt: Arc::default(),
        }
    }

    /// Whether wheels that were built here go there.
    pub fn writes(&self) -> bool {
        self.writes
    }

    /// `registry.example/team/wheels`
    pub fn name(&self) -> String {
        self.repository.name()
    }

    /// The name of a build's entry, whether it is there or not.
    ///
    /// # Errors
    /// Never: such a tag meets the grammar of tags.
    pub fn entry(&self, build: &Build) -> Result<Reference, Error> {
        let tag = format!("wheel-{}", build.key.hex());
        self.repository.with_tag(&tag).map_err(Error::Name)
    }

    /// The wheel of that build, if somebody put it there: fetched into the store and verified by its
    /// digest. Its contents are the caller's to check. Costs one request if there is none, else two.
    ///
    /// # Errors
    /// The entry is not what it should be, or the disk said no. A registry that cannot be reached or
    /// refuses is no error.
    pub async fn find(&self, build: &Build, store: &Store) -> Result<Looked, Error> {
        if self.learnt.cannot_be_read.load(Ordering::Relaxed) {
            return Ok(Looked::Absent);
        }
        let entry = self.entry(build)?;
        let stored = match self.registry.manifest(&entry).await {
            Ok(stored) => stored,
            Err(registry::Error::NotFound { .. }) => {
                insert(&self.learnt.absent, build.key);
                return Ok(Looked::Absent);
            }
            Err(error) => return self.unreadable(&entry, error),
        };
        let wheel = artifact::read(&stored.bytes, build)
            .map_err(|problem| Error::wrong(&entry, problem.to_owned()))?;
        if !store.verify(&wheel.digest)?
            && let Err(failure) = self.fetch(&entry, &wheel, store).await
        {
            return match failure {
                Broken::Registry(error) => self.unreadable(&entry, error),
                Broken::Store(error) => Err(error.into()),
            };
        }
        insert(&self.learnt.there, build.key);
        Ok(Looked::Found(wheel))
    }

    /// Puts a wheel that was built there, unless there is an entry. Its bytes are in the store.
    ///
    /// # Errors
    /// The wheel cannot be described. A registry that cannot be reached or refuses is no error.
    pub async fn keep(&self, build: &Build, wheel: &Wheel, store: &Store) -> Result<Kept, Error> {
        if !self.writes
            || self.learnt.cannot_be_written.load(Ordering::Relaxed)
            || has(&self.learnt.there, &build.key)
        {
            return Ok(Kept::Nothing);
        }
        let entry = self.entry(build)?;
        let kept = self.write(&entry, build, wheel, store).await?;
        if !matches!(kept, Kept::Failed(_)) {
            insert(&self.learnt.there, build.key);
        } else if self.learnt.cannot_be_written.swap(true, Ordering::Relaxed) {
            return Ok(Kept::Nothing);
        }
        Ok(kept)
    }

    async fn write(
        &self,
        entry: &Reference,
        build: &Build,
        wheel: &Wheel,
        store: &Store,
    ) -> Result<Kept, Error> {
        let registry = &self.registry;
        // Whoever was told a moment ago that there is none need not ask again.
        if !has(&self.learnt.absent, &build.key) {
            match registry.head_target(entry).await {
                Ok(Some(_there)) => return Ok(Kept::Nothing),
                Ok(None) => {}
                Err(error) => return Ok(Kept::Failed(error)),
            }
        }
        let artifact = artifact::write(build, wheel)?;
        let file = BlobBytes::File(store.blob_path(&wheel.digest));
        let config = BlobBytes::Memory(Bytes::from_static(artifact::EMPTY));
        for (descriptor, bytes) in [(&artifact.layer, file), (&artifact.config, config)] {
            if let Err(error) = registry.push_blob(entry, descriptor, bytes, &[]).await {
                return Ok(Kept::Failed(error));
            }
        }
        let manifest = Bytes::from(artifact.manifest);
        match registry.push_manifest(entry, media_type::OCI_MANIFEST, manifest).await {
            Ok(_digest) => Ok(Kept::Written),
            Err(error) => Ok(Kept::Failed(error)),
        }
    }

    /// A lie is an error; everything else is a cache that is not there.
    fn unreadable(&self, entry: &Reference, error: registry::Error) -> Result<Looked, Error> {
        if error.kind() == Kind::Integrity {
            return Err(Error::Damaged { entry: entry.to_string(), source: Box::new(error) });
        }
        if self.learnt.cannot_be_read.swap(true, Ordering::Relaxed) {
            return Ok(Looked::Absent);
        }
        Ok(Looked::Failed(error))
    }

    async fn fetch(&self, entry: &Reference, wheel: &Wheel, store: &Store) -> Result<(), Broken> {
        let layer = artifact::layer(wheel).map_err(Broken::Registry)?;
        let mut stream = self.registry.blob(entry, &layer).await.map_err(Broken::Registry)?;
        let mut writer = store.writer().map_err(Broken::Store)?;
        while let Some(piece) = stream.next().await {
            let piece = piece.map_err(Broken::Registry)?;
            writer.write_all(&piece).map_err(|source| {
                Broken::Store(store::Error::Disk { path: store.root().to_owned(), source })
            })?;
        }
        writer.commit_as(&wheel.digest, &format!("wheel of {entry}")).map_err(Broken::Store)?;
        Ok(())
    }
}

/// Whose fault it is that a wheel did not come.
enum Broken {
    Registry(registry::Error),
    Store(store::Error),
}

fn insert(keys: &Mutex<BTreeSet<Digest>>, key: Digest) {
    keys.lock().unwrap_or_else(PoisonError::into_inner).insert(key);
}

fn has(keys: &Mutex<BTreeSet<Digest>>, key: &Digest) -> bool {
    keys.lock().unwrap_or_else(PoisonError::into_inner).contains(key)
}
