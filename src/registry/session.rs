//! Unfinished uploads, remembered across runs.
//!
//! ```text
//! <folder>/<hex>    {"location": "https://…", "size": 123456789}
//! ```
//!
//! The name is the digest over registry, repository and blob. A location is worth as much as the
//! registry makes it worth: it is kept readable for its owner only, and asked before it is used.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use fs_err as fs;
use serde::{Deserialize, Serialize};
use url::Url;

use super::endpoint::Endpoint;
use crate::beside;
use crate::oci::Digest;

/// Where an upload that was begun is remembered. What the disk refuses is forgotten: the upload is
/// then begun anew, which is never wrong.
#[derive(Clone, Debug)]
pub(super) struct Memory {
    file: Option<PathBuf>,
    size: u64,
}

#[derive(Deserialize, Serialize)]
struct Record {
    location: String,
    size: u64,
}

impl Memory {
    pub(super) fn new(
        folder: Option<&Path>,
        endpoint: &Endpoint,
        digest: &Digest,
        size: u64,
    ) -> Self {
        // No name of a host or repository has a line feed.
        let key = format!("{}\n{}\n{digest}", endpoint.host, endpoint.repository);
        Self { file: folder.map(|folder| folder.join(Digest::of(key.as_bytes()).hex())), size }
    }

    /// The location remembered, if it is for a blob of the same size.
    pub(super) fn recall(&self) -> Option<Url> {
        let bytes = fs::read(self.file.as_ref()?).ok()?;
        let record: Record = serde_json::from_slice(&bytes).ok()?;
        (record.size == self.size).then(|| Url::parse(&record.location).ok()).flatten()
    }

    pub(super) fn remember(&self, location: &Url) {
        let Some(file) = &self.file else { return };
        let record = Record { location: location.to_string(), size: self.size };
        let _forgotten = write(file, &record);
    }

    pub(super) fn forget(&self) {
        if let Some(file) = &self.file {
            let _gone = fs::remove_file(file);
        }
    }
}

fn write(file: &Path, record: &Record) -> std::io::Result<()> {
    let folder = beside::parent(file);
    fs::create_dir_all(folder)?;
    beside::sweep(folder);
    let mut temporary = beside::file(file, 0o600)?;
    temporary.write_all(&serde_json::to_vec(record)?)?;
    temporary.persist(file)?;
    Ok(())
}
