//! What a run cost its registries.

use std::sync::atomic::{AtomicU64, Ordering};

/// What a run cost. Bytes are of bodies, not headers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Cost {
    /// HTTP requests sent, redirects, retries and token requests included.
    pub requests: u64,
    /// Bytes of blobs and manifests sent, also those that had to be sent twice.
    pub bytes_up: u64,
    /// Bytes of blobs and manifests received.
    pub bytes_down: u64,
    /// Bytes of blobs that a registry mounted from another repository.
    pub bytes_mounted: u64,
    /// Blobs uploaded.
    pub blobs_uploaded: u64,
    /// Blobs mounted.
    pub blobs_mounted: u64,
    /// Blobs that were there already.
    pub blobs_existing: u64,
}

impl Cost {
    /// What was spent since `earlier`, of the same client.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            requests: self.requests - earlier.requests,
            bytes_up: self.bytes_up - earlier.bytes_up,
            bytes_down: self.bytes_down - earlier.bytes_down,
            bytes_mounted: self.bytes_mounted - earlier.bytes_mounted,
            blobs_uploaded: self.blobs_uploaded - earlier.blobs_uploaded,
            blobs_mounted: self.blobs_mounted - earlier.blobs_mounted,
            blobs_existing: self.blobs_existing - earlier.blobs_existing,
        }
    }
}

/// The counters behind [`Cost`].
#[derive(Debug, Default)]
pub(super) struct Meter {
    pub(super) bytes_up: AtomicU64,
    pub(super) bytes_down: AtomicU64,
    pub(super) bytes_mounted: AtomicU64,
    pub(super) blobs_uploaded: AtomicU64,
    pub(super) blobs_mounted: AtomicU64,
    pub(super) blobs_existing: AtomicU64,
}

/// Adds to a counter.
pub(super) fn add(counter: &AtomicU64, amount: u64) {
    counter.fetch_add(amount, Ordering::Relaxed);
}

impl Meter {
    pub(super) fn read(&self, requests: u64) -> Cost {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Cost {
            requests,
            bytes_up: get(&self.bytes_up),
            bytes_down: get(&self.bytes_down),
            bytes_mounted: get(&self.bytes_mounted),
            blobs_uploaded: get(&self.blobs_uploaded),
            blobs_mounted: get(&self.blobs_mounted),
            blobs_existing: get(&self.blobs_existing),
        }
    }
}
