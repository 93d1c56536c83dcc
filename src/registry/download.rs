//! A blob on its way in: hashed as it flows, taken up again where it broke.

use std::io::{self, Write as _};

use bytes::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt as _};
use reqwest::header::{CONTENT_RANGE, RANGE};
use reqwest::{Method, Response};

use super::call::Call;
use super::cost::add;
use super::endpoint::Endpoint;
use super::layouts::Reading;
use super::{Client, Error};
use crate::http;
use crate::oci::digest::DigestWriter;
use crate::oci::{Digest, Reference};

/// How often a transfer is taken up again altogether, however far it came each time.
const MOST_RESUMPTIONS: u32 = 100;

/// A transfer. It reads from one endpoint at a time and changes over to the next when that fails.
pub(super) struct Download {
    client: Client,
    endpoints: Vec<Endpoint>,
    what: String,
    digest: Digest,
    size: u64,
    /// The bytes given so far, and before it started.
    offset: u64,
    /// Only where all bytes pass by.
    hasher: Option<DigestWriter<io::Sink>>,
    response: Option<Response>,
    /// A blob on this disk, which needs no endpoint.
    local: Option<Reading>,
    /// Bytes of the response that were given already.
    skip: u64,
    /// Failures since something was given, and altogether.
    failures: u32,
    resumptions: u32,
    /// Whether a response ended before its time without breaking.
    ended_early: bool,
    over: bool,
}

impl Download {
    /// Opens a blob at `offset`. What starts later than at 0 is not verified by its digest.
    pub(super) async fn begin(
        client: &Client,
        repository: &Reference,
        digest: Digest,
        size: u64,
        offset: u64,
    ) -> Result<Self, Error> {
        let mut download = Self {
            client: client.clone(),
            endpoints: client.endpoints(repository)?,
            what: format!("blob {digest} of {}", repository.name()),
            digest,
            size,
            offset,
            hasher: (offset == 0).then(|| DigestWriter::new(io::sink())),
            response: None,
            local: client.shared.options.layouts.open(repository, &digest, size, offset).await?,
            skip: 0,
            failures: 0,
            resumptions: 0,
            ended_early: false,
            over: false,
        };
        if let Some(local) = &download.local {
            download.what.clone_from(&local.what);
        } else if size > offset {
            download.open().await?;
        }
        Ok(download)
    }

    /// Opens the blob where we are, at the first endpoint that gives it. The others before it are not
    /// asked again.
    async fn open(&mut self) -> Result<(), Error> {
        loop {
            let outcome = self.open_first().await;
            match outcome {
                Err(_) if self.endpoints.len() > 1 => {
                    self.endpoints.remove(0);
                }
                outcome => return outcome,
            }
        }
    }

    async fn open_first(&mut self) -> Result<(), Error> {
        let endpoint = &self.endpoints[0];
        let mut call = Call::pull(endpoint, Method::GET, format!("blobs/{}", self.digest))
            .about(self.what.clone());
        if self.offset > 0 {
            call = call.header(RANGE, &format!("bytes={}-", self.offset));
        }
        let response = self.client.call(call).await?;
        let malformed = |what: String| Error::Malformed {
            request: format!("GET {}", http::redact(response.url())),
            what,
        };
        let (start, length) = match response.status().as_u16() {
            200 => (0, self.size),
            206 => {
                let range = response.headers().get(CONTENT_RANGE);
                let range = range.and_then(|value| value.to_str().ok()).unwrap_or_default();
                let start = parse_content_range(range)
                    .filter(|&start| start == self.offset)
                    .ok_or_else(|| {
                        malformed(format!("`Content-Range: {range}` is not the range asked for"))
                    })?;
                (start, self.size - start)
            }
            status => return Err(malformed(format!("status {status} comes with no blob"))),
        };
        if let Some(told) = response.content_length()
            && told != length
        {
            return Err(Error::SizeMismatch {
                what: self.what.clone(),
                expected: length,
                found: told,
            });
        }
        self.skip = self.offset - start;
        self.response = Some(response);
        Ok(())
    }

    /// The next piece; `None` after the last. After an error nothing more comes.
    pub(super) async fn next(&mut self) -> Option<Result<Bytes, Error>> {
        if self.over {
            return None;
        }
        let outcome = self.step().await;
        if !matches!(outcome, Ok(Some(_))) || self.offset == self.size {
            self.over = true;
        }
        outcome.transpose()
    }

    async fn step(&mut self) -> Result<Option<Bytes>, Error> {
        if self.size == self.offset {
            return self.verified().map(|()| None);
        }
        if let Some(local) = &mut self.local {
            return match local.piece().await? {
                Some(chunk) => self.accept(chunk).await,
                None => Err(Error::SizeMismatch {
                    what: self.what.clone(),
                    expected: self.size,
                    found: self.offset,
                }),
            };
        }
        loop {
            let Some(response) = &mut self.response else {
                self.open().await?;
                continue;
            };
            match self.client.shared.http.chunk(response).await {
                Ok(Some(chunk)) => {
                    add(&self.client.shared.meter.bytes_down, chunk.len() as u64);
                    if let Some(chunk) = self.accept(chunk).await? {
                        return Ok(Some(chunk));
                    }
                }
                // Without a length an end that comes early may be a broken connection: once.
                Ok(None) if !self.ended_early => {
                    self.ended_early = true;
                    self.response = None;
                }
                Ok(None) => {
                    return Err(Error::SizeMismatch {
                        what: self.what.clone(),
                        expected: self.size,
                        found: self.offset,
                    });
                }
                Err(error) => self.broke(error).await?,
            }
        }
    }

    /// Waits, to open the blob again where it broke; gives up where that makes no sense.
    async fn broke(&mut self, error: http::Error) -> Result<(), Error> {
        let retry = self.client.shared.http.options().retry;
        self.response = None;
        self.failures += 1;
        self.resumptions += 1;
        if !error.is_transient()
            || self.failures >= retry.tries
            || self.resumptions >= MOST_RESUMPTIONS
        {
            return Err(error.into());
        }
        tokio::time::sleep(retry.delay(self.failures, None)).await;
        Ok(())
    }

    /// Takes a piece in; `None` if all of it was given before.
    async fn accept(&mut self, mut chunk: Bytes) -> Result<Option<Bytes>, Error> {
        let known = self.skip.min(chunk.len() as u64);
        self.skip -= known;
        chunk = chunk.slice(usize::try_from(known).unwrap_or(chunk.len())..);
        if chunk.is_empty() {
            return Ok(None);
        }
        let length = chunk.len() as u64;
        if length > self.size - self.offset {
            return Err(self.too_long());
        }
        if let Some(hasher) = &mut self.hasher {
            // A sink takes everything.
            let _never = hasher.write_all(&chunk);
        }
        self.offset += length;
        self.failures = 0;
        if self.offset == self.size {
            self.check_end().await?;
            self.verified()?;
        }
        Ok(Some(chunk))
    }

    /// Nothing may come after the last byte. What breaks now does no harm.
    async fn check_end(&mut self) -> Result<(), Error> {
        let Some(response) = &mut self.response else {
            return Ok(());
        };
        match self.client.shared.http.chunk(response).await {
            Ok(Some(more)) if !more.is_empty() => Err(self.too_long()),
            _ => Ok(()),
        }
    }

    fn too_long(&self) -> Error {
        Error::SizeMismatch { what: self.what.clone(), expected: self.size, found: self.size + 1 }
    }

    fn verified(&mut self) -> Result<(), Error> {
        let Some(hasher) = self.hasher.take() else {
            return Ok(());
        };
        let (_, found, _) = hasher.finish();
        if found == self.digest {
            return Ok(());
        }
        Err(Error::DigestMismatch { what: self.what.clone(), expected: self.digest, found })
    }

    pub(super) fn into_stream(self) -> BoxStream<'static, Result<Bytes, Error>> {
        stream::unfold(self, |mut download| async move {
            let piece = download.next().await?;
            Some((piece, download))
        })
        .boxed()
    }
}

/// The start of `bytes 5-9/10`.
fn parse_content_range(value: &str) -> Option<u64> {
    let (start, rest) = value.trim().strip_prefix("bytes ")?.split_once('-')?;
    rest.split_once('/')?;
    start.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_ranges() {
        for (value, start) in [
            ("bytes 5-9/10", Some(5)),
            ("bytes 0-0/*", Some(0)),
            ("bytes */10", None),
            ("5-9/10", None),
            ("bytes 5-9", None),
            ("", None),
        ] {
            assert_eq!(parse_content_range(value), start, "{value}");
        }
    }
}
