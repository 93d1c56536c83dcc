//! A blob on its way out.
//!
//! The short way is one PUT. Chunks (PATCH, PATCH, …, PUT) are for what is too long for one body, for
//! registries and proxies that refuse the short way, and for going on after a failure from where the
//! registry says it is. Not every registry does chunks right, so each way is the other's fallback. The
//! registry has the last word either way: it completes a blob under its digest or not at all.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures_util::stream;
use reqwest::header::{CONTENT_RANGE, CONTENT_TYPE, HeaderMap, RANGE};
use reqwest::{Method, Url};

use super::call::{Call, Streamed};
use super::cost::add;
use super::endpoint::Endpoint;
use super::error::Error;
use super::push::check_stored;
use super::session::Memory;
use super::{BlobBytes, Client};
use crate::http::Watch;
use crate::oci::Digest;

mod reader;

use reader::Reader;

/// An upload that the registry has begun.
#[derive(Clone, Debug)]
pub(super) struct Session {
    /// Where the next request goes. It changes with every answer.
    pub(super) location: Url,
    /// Bytes per chunk.
    pub(super) chunk_size: u64,
}

/// How often an upload is taken up again altogether, however far it came each time.
const MOST_ROUNDS: u32 = 100;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Whole,
    Chunks,
}

/// Whose fault a failure is.
enum Broken {
    /// The bytes could not be had, or are not what they should be.
    Source(Error),
    /// The registry or the way there.
    Registry(Error),
}

/// What to do after a failure.
enum Next {
    /// Ask the registry how far it is.
    Resume,
    /// A new session.
    Restart,
    /// A new session, the other way.
    Change(Way),
    GiveUp,
}

pub(super) struct Upload<'a> {
    client: &'a Client,
    endpoint: &'a Endpoint,
    digest: Digest,
    size: u64,
    source: &'a BlobBytes,
    memory: Memory,
}

/// How an upload is going.
struct State {
    way: Way,
    offset: u64,
    /// Whether the way was changed: it is changed once.
    changed: bool,
    /// Since the registry last took a chunk, and altogether.
    failures: u32,
    rounds: u32,
}

impl<'a> Upload<'a> {
    pub(super) fn new(
        client: &'a Client,
        endpoint: &'a Endpoint,
        digest: Digest,
        size: u64,
        source: &'a BlobBytes,
    ) -> Self {
        let folder = client.shared.options.sessions.as_deref();
        Self {
            client,
            endpoint,
            digest,
            size,
            source,
            memory: Memory::new(folder, endpoint, &digest, size),
        }
    }

    /// Uploads; `begun` is a session that was opened already.
    pub(super) async fn run(&self, begun: Option<Session>) -> Result<(), Error> {
        let mut state =
            State { way: Way::Whole, offset: 0, changed: false, failures: 0, rounds: 0 };
        let mut session = begun;
        if self.size > self.client.shared.options.chunk_above {
            state.way = Way::Chunks;
        }
        // A shorter one may have been refused in one piece when it was begun.
        if let Some(old) = self.recalled(&mut state).await
            && let Some(unused) = session.replace(old)
        {
            self.client.cancel(self.endpoint, &unused).await;
        }
        loop {
            let mut current = if let Some(session) = session.take() {
                session
            } else {
                state.offset = 0;
                self.client.new_session(self.endpoint).await?
            };
            let outcome = match state.way {
                Way::Whole => self.whole(&current).await,
                Way::Chunks => self.chunks(&mut current, &mut state).await,
            };
            let error = match outcome {
                Ok(()) => {
                    self.memory.forget();
                    return Ok(());
                }
                Err(Broken::Source(error)) => return self.give_up(&current, error).await,
                Err(Broken::Registry(error)) => error,
            };
            state.failures += 1;
            state.rounds += 1;
            let tries = self.client.shared.http.options().retry.tries;
            if state.failures >= tries || state.rounds >= MOST_ROUNDS {
                return self.give_up(&current, error).await;
            }
            if error.is_transient() {
                self.pause(&error, state.failures).await;
            }
            session = match next(&error, &state) {
                Next::GiveUp => return self.give_up(&current, error).await,
                Next::Resume => match self.reached(&current, &mut state).await {
                    // The last answer may have been lost, not the blob.
                    None if self.is_there().await => return Ok(()),
                    resumed => resumed,
                },
                Next::Restart => None,
                Next::Change(way) => {
                    self.client.cancel(self.endpoint, &current).await;
                    (state.way, state.changed) = (way, true);
                    None
                }
            };
        }
    }

    async fn give_up(&self, session: &Session, error: Error) -> Result<(), Error> {
        self.memory.forget();
        self.client.cancel(self.endpoint, session).await;
        Err(error)
    }

    async fn pause(&self, error: &Error, failures: u32) {
        let retry = self.client.shared.http.options().retry;
        let asked = error.said().and_then(|said| said.retry_after);
        tokio::time::sleep(retry.delay(failures, asked)).await;
    }

    async fn is_there(&self) -> bool {
        let path = format!("blobs/{}", self.digest);
        let head = Call::push(self.endpoint, Method::HEAD, path);
        self.client.holds(head).await.unwrap_or(false)
    }

    /// A session of an earlier run, if the registry still knows it.
    async fn recalled(&self, state: &mut State) -> Option<Session> {
        let location = self.memory.recall()?;
        let own = self.client.url(self.endpoint, "").ok()?;
        self.client.shared.trust.check(&own, &location).ok()?;
        let session =
            Session { location, chunk_size: self.client.shared.options.chunk_size.max(1) };
        let reached = self.reached(&session, state).await;
        if reached.is_none() {
            self.memory.forget();
        }
        reached
    }

    /// Asks how far a session is; `None` if it cannot be gone on with.
    async fn reached(&self, session: &Session, state: &mut State) -> Option<Session> {
        let call = Call::push(self.endpoint, Method::GET, String::new())
            .to(session.location.clone())
            .expecting(&[400, 404, 405]);
        let response = self.client.call(call).await.ok()?;
        if !response.status().is_success() {
            return None;
        }
        let offset = parse_range(response.headers())?;
        if offset == 0 || offset > self.size {
            return None;
        }
        // An answer without a location leaves the old one good.
        let next = self.client.session(self.endpoint, &response);
        (state.offset, state.way) = (offset, Way::Chunks);
        Some(next.unwrap_or_else(|_none| session.clone()))
    }

    /// POST was; PUT with everything.
    async fn whole(&self, session: &Session) -> Result<(), Broken> {
        let reader = self.reader(0).await?;
        self.put(session, reader, 0).await
    }

    async fn reader(&self, offset: u64) -> Result<Reader, Broken> {
        Reader::open(self.client, self.source, self.digest, self.size, offset)
            .await
            .map_err(Broken::Source)
    }

    /// The last request: what is left of the bytes from `offset`, and the digest.
    async fn put(&self, session: &Session, reader: Reader, offset: u64) -> Result<(), Broken> {
        let mut location = session.location.clone();
        let digest = self.digest.to_string();
        location.query_pairs_mut().append_pair("digest", &digest);
        let call = Call::push(self.endpoint, Method::PUT, String::new())
            .to(location)
            .about(format!("upload of {digest}"))
            .header(CONTENT_TYPE, "application/octet-stream");
        let shared = Arc::new(tokio::sync::Mutex::new(reader));
        let response = self.send(&call, &shared, (offset, self.size - offset)).await?;
        if response.status() != 201 && response.status() != 204 && response.status() != 200 {
            return Err(Broken::Registry(Error::Malformed {
                request: format!("PUT {}", crate::http::redact(response.url())),
                what: format!("status {} does not complete an upload", response.status()),
            }));
        }
        check_stored(&response, &self.digest, || {
            format!("blob {digest} of {}/{}", self.endpoint.registry, self.endpoint.repository)
        })
        .map_err(Broken::Source)
    }

    /// PATCH from where we are to the end, then PUT with nothing.
    async fn chunks(&self, session: &mut Session, state: &mut State) -> Result<(), Broken> {
        let reader = self.reader(state.offset).await?;
        let reader = Arc::new(tokio::sync::Mutex::new(reader));
        while state.offset < self.size {
            let length = session.chunk_size.min(self.size - state.offset);
            let end = state.offset + length;
            let call = Call::push(self.endpoint, Method::PATCH, String::new())
                .to(session.location.clone())
                .about("upload".to_owned())
                .header(CONTENT_TYPE, "application/octet-stream")
                .header(CONTENT_RANGE, &format!("{}-{}", state.offset, end - 1));
            let response = self.send(&call, &reader, (state.offset, length)).await?;
            let reached = parse_range(response.headers()).unwrap_or(end);
            *session = self.client.session(self.endpoint, &response).map_err(Broken::Registry)?;
            self.memory.remember(&session.location);
            state.offset = end;
            state.failures = 0;
            if reached != end {
                // It took less, or something is in there that is not ours.
                return Err(Broken::Registry(Error::Malformed {
                    request: format!("PATCH {}", crate::http::redact(response.url())),
                    what: format!("the registry is at byte {reached}, we are at {end}"),
                }));
            }
        }
        let nothing = Reader::nothing();
        self.put(session, nothing, self.size).await
    }

    /// Sends `length` bytes of the reader, which is at `offset`.
    async fn send(
        &self,
        call: &Call<'_>,
        reader: &Arc<tokio::sync::Mutex<Reader>>,
        (offset, length): (u64, u64),
    ) -> Result<reqwest::Response, Broken> {
        let failure: Arc<Mutex<Option<Error>>> = Arc::default();
        let watch = Watch::default();
        let feed = Feed {
            reader: Arc::clone(reader),
            left: length,
            what: format!("uploading {} to {}", self.digest, self.endpoint.repository),
            sent: offset,
            total: self.size,
            watch: watch.clone(),
            failure: Arc::clone(&failure),
            client: self.client.clone(),
        };
        let body = reqwest::Body::wrap_stream(stream::unfold(feed, Feed::next));
        let streamed = Streamed { body, length, watch };
        self.client.call_once(call, streamed).await.map_err(|error| {
            let source = failure.lock().unwrap_or_else(PoisonError::into_inner).take();
            source.map_or(Broken::Registry(error), Broken::Source)
        })
    }
}

/// A part of a reader as a request's body.
struct Feed {
    reader: Arc<tokio::sync::Mutex<Reader>>,
    left: u64,
    what: String,
    /// Bytes of the blob, with those of earlier requests.
    sent: u64,
    total: u64,
    watch: Watch,
    failure: Arc<Mutex<Option<Error>>>,
    client: Client,
}

impl Feed {
    async fn next(mut self) -> Option<(Result<Bytes, std::io::Error>, Self)> {
        if self.left == 0 {
            return None;
        }
        let piece = self.reader.lock().await.next(self.left).await;
        self.watch.moved();
        match piece {
            Ok(piece) => {
                let length = piece.len() as u64;
                self.left -= length;
                self.sent += length;
                self.client.shared.options.observer.tell(&self.what, self.sent, self.total);
                add(&self.client.shared.meter.bytes_up, length);
                Some((Ok(piece), self))
            }
            Err(error) => {
                // The request breaks off; the true reason is told beside it.
                *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                self.left = 0;
                Some((Err(std::io::Error::other("the bytes to upload cannot be had")), self))
            }
        }
    }
}

fn next(error: &Error, state: &State) -> Next {
    let other = match state.way {
        Way::Whole => Way::Chunks,
        Way::Chunks => Way::Whole,
    };
    if error.is_transient() {
        // Some registries drop the connection instead of saying that a body is too long for them.
        let too_long = state.way == Way::Whole && state.failures == 3 && !state.changed;
        return if too_long { Next::Change(other) } else { Next::Resume };
    }
    let status = error.status().map(|status| status.as_u16());
    match (state.way, status) {
        // The challenge has been learnt meanwhile.
        (_, Some(401)) if state.failures <= 2 => Next::Restart,
        (_, Some(416)) => Next::Resume,
        (_, Some(404)) => Next::Restart,
        (_, Some(400)) if error.has_code("BLOB_UPLOAD_INVALID") => Next::Restart,
        // Put together wrongly, by us or by them: in one piece it must be right.
        (Way::Chunks, Some(400..=499 | 501)) | (Way::Whole, Some(405 | 411 | 413 | 501))
            if !state.changed =>
        {
            Next::Change(other)
        }
        (Way::Chunks, None) if matches!(error, Error::Malformed { .. }) && !state.changed => {
            Next::Change(other)
        }
        _ => Next::GiveUp,
    }
}

/// How many bytes the registry has, from `Range: 0-99`. An upload of nothing is `0-0` too, as if it
/// had one byte: taken for nothing.
fn parse_range(headers: &HeaderMap) -> Option<u64> {
    let value = headers.get(RANGE)?.to_str().ok()?.trim();
    let value = value.strip_prefix("bytes=").unwrap_or(value);
    let (start, end) = value.split_once('-')?;
    if start.trim() != "0" {
        return None;
    }
    match end.trim().parse().ok()? {
        0 => Some(0),
        end => u64::checked_add(end, 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_uploads() {
        for (value, reached) in [
            ("0-99", Some(100)),
            ("bytes=0-99", Some(100)),
            ("0-0", Some(0)),
            ("0--1", None),
            ("1-99", None),
            ("0-18446744073709551615", None),
            ("x", None),
        ] {
            let headers = HeaderMap::from_iter([(RANGE, value.parse().unwrap())]);
            assert_eq!(parse_range(&headers), reached, "{value}");
        }
    }
}
