//! METADATA of wheels that lie on an index: PEP 658, else ranges, else the whole wheel.

use reqwest::StatusCode;
use reqwest::header::HeaderMap;
use url::Url;

use super::{Client, FILE_LIMIT, Inner, check_size, keep, longer, url_of};
use crate::oci::Digest;
use crate::package_index::error::Error;
use crate::package_index::transfer::{Part, Wanted, redact};
use crate::package_index::wheel_archive::{self, Partial, Step};
use crate::package_index::{File, Location, local};
use crate::python::{CoreMetadata, WheelFilename};
use crate::store;

/// The kind of the records of what wheels say of themselves.
const METADATA: &str = "wheel-metadata";

impl Client {
    pub(super) async fn read_wheel_metadata(
        &self,
        file: &File,
        wheel: &WheelFilename,
    ) -> Result<CoreMetadata, Error> {
        let url = match &file.location {
            Location::Local(path) => return parse(file, &local::metadata(path, file, wheel)?),
            Location::Remote(address) => &url_of(file, address)?,
        };
        // The address is in the key too: an index that claims another's hash gains nothing.
        let key =
            file.sha256.map(|digest| store::key(&[digest.as_bytes(), redact(url).as_bytes()]));
        let Inner { config, store, .. } = &*self.inner;
        if let Some(key) = &key
            && let Some(bytes) = store.record(METADATA, key)?
        {
            return parse(file, &bytes);
        }
        if let Some(digest) = &file.sha256
            && self.stored(digest)?.is_some()
        {
            return parse(file, &local::metadata(&store.blob_path(digest), file, wheel)?);
        }
        if config.offline {
            return Err(Error::Offline(file.file_name.clone()));
        }
        let bytes = match self.served_metadata(file, url).await? {
            Some(bytes) => bytes,
            None => self.metadata_by_ranges(file, wheel, url).await?,
        };
        let metadata = parse(file, &bytes)?;
        if let Some(key) = &key {
            store.put_record(METADATA, key, &bytes)?;
        }
        Ok(metadata)
    }

    /// PEP 658: the index has METADATA beside the wheel. `None` if it said so but does not.
    async fn served_metadata(&self, file: &File, url: &Url) -> Result<Option<Vec<u8>>, Error> {
        let Some(digest) = &file.core_metadata else {
            return Ok(None);
        };
        let mut url = url.clone();
        url.set_path(&format!("{}.metadata", url.path()));
        let Inner { config, transfer, .. } = &*self.inner;
        let limit = wheel_archive::METADATA_LIMIT;
        let answer = transfer.get(config, &url, HeaderMap::new(), limit).await?;
        match answer.status {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND | StatusCode::GONE => return Ok(None),
            _ => return Err(answer.refused(&url)),
        }
        let found = Digest::of(&answer.body);
        match digest {
            Some(expected) if *expected != found => Err(store::Error::Mismatch {
                what: format!("`{}.metadata`", file.file_name),
                expected: *expected,
                found,
            }
            .into()),
            _ => Ok(Some(answer.body)),
        }
    }

    async fn metadata_by_ranges(
        &self,
        file: &File,
        wheel: &WheelFilename,
        url: &Url,
    ) -> Result<Vec<u8>, Error> {
        let Inner { config, store, transfer, .. } = &*self.inner;
        let mut wanted = match file.size {
            Some(0) => Wanted::Last(1),
            Some(size) => Wanted::Bytes(size.saturating_sub(wheel_archive::TAIL)..size),
            None => Wanted::Last(wheel_archive::TAIL),
        };
        let limit = file.size.unwrap_or(FILE_LIMIT);
        let mut partial: Option<Partial> = None;
        // Tail, directory, zip64 record, file, and the file again if its header is a long one.
        for _ in 0..6 {
            let part = transfer
                .part(config, url, &wanted, store, limit)
                .await
                .map_err(|error| longer(file, file.size, error))?;
            let (bytes, total) = match part {
                Part::Bytes(bytes, total) => (bytes, total),
                Part::Whole(writer, size) => {
                    let (digest, _) = keep(file, file.sha256.as_ref(), writer, size)?;
                    return local::metadata(&store.blob_path(&digest), file, wheel);
                }
                Part::Refused => break,
            };
            check_size(&file.file_name, file.size, total)?;
            let offset = match &wanted {
                Wanted::Last(length) => total.saturating_sub(*length),
                Wanted::Bytes(range) => range.start,
            };
            let partial = partial.get_or_insert_with(|| Partial::new(total));
            partial.add(offset, bytes);
            match wheel_archive::metadata(partial, wheel)
                .map_err(|e| local::not_a_wheel(file, e))?
            {
                Step::Done(bytes) => return Ok(bytes),
                Step::Need(range) => wanted = Wanted::Bytes(range),
            }
        }
        let (digest, _) = self.fetch_file(file, file.sha256.as_ref(), file.size).await?;
        local::metadata(&store.blob_path(&digest), file, wheel)
    }
}

fn parse(file: &File, bytes: &[u8]) -> Result<CoreMetadata, Error> {
    let mut metadata = CoreMetadata::parse(bytes)
        .map_err(|source| Error::Metadata { file_name: file.file_name.clone(), source })?;
    // A wheel is what was built: whatever its METADATA says, nothing of it can change any more.
    metadata.is_static = true;
    Ok(metadata)
}
