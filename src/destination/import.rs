//! A layout or archive → the store: what is on disk is looked at as what was just made.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use fs_err as fs;

use super::archive::Archive;
use super::layout::Layout;
use super::{Error, validate};
use crate::image::validate::{Blobs, Valid};
use crate::oci::Digest;
use crate::store::Store;

/// Copies all images of the layout or archive at `path` into the store, after validating it.
///
/// # Errors
/// As [`validate`], or the disk said no.
pub fn import(path: &Path, store: &Store) -> Result<Valid, Error> {
    let valid = validate(path)?;
    let is_folder = fs::metadata(path).map_err(|e| Error::read(path, e))?.is_dir();
    let blobs: Box<dyn Blobs> =
        if is_folder { Box::new(Layout::open(path)?) } else { Box::new(Archive::open(path)?) };
    let mut wanted: BTreeSet<Digest> = BTreeSet::new();
    for image in &valid.images {
        wanted.extend([image.digest, image.config_digest]);
        wanted.extend(&image.layers);
    }
    for digest in wanted {
        if store.verify(&digest)? {
            continue;
        }
        let mut blob = blobs.open(&digest).map_err(|e| Error::read(path, e))?;
        let mut writer = store.writer()?;
        io::copy(&mut blob, &mut writer).map_err(|e| Error::read(path, e))?;
        writer.commit_as(&digest, "a blob")?;
    }
    Ok(valid)
}
