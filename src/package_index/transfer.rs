//! GET with credentials, retries, limits and redaction: all that this room asks of HTTP.

use std::io::{Read as _, Write as _};
use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt as _};
use reqwest::header::{self, HeaderMap, HeaderValue};
use reqwest::{Response, StatusCode};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use url::Url;

use super::config::{Config, take_credentials};
use super::error::Error;
use super::netrc::Credentials;
use crate::http::Following;
use crate::room;
use crate::store::{BlobWriter, Store};

/// How many requests are under way at once.
const PARALLEL: usize = 16;
/// How often a request is tried, and how long is waited before the second try; it doubles.
const TRIES: u32 = 4;
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// The longest pause a server can ask for.
const LONGEST_PAUSE: Duration = Duration::from_mins(1);
/// How long nothing may come.
const STALL: Duration = Duration::from_mins(1);
/// The most that is reserved for an answer on its word.
const MOST_RESERVED: u64 = 16 << 20;
/// How much of an error's body is read.
const ERROR_BODY: usize = 64 << 10;

#[derive(Debug)]
pub(super) struct Transfer {
    http: Following,
    permits: Semaphore,
}

/// An answer with its body, of any status that is not worth another try.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    /// After redirects, without credentials.
    pub(super) url: Url,
    pub(super) body: Vec<u8>,
}

/// The answer to a request for a part.
#[derive(Debug)]
pub(super) enum Part {
    /// The bytes that were asked for, and the whole file's size.
    Bytes(Bytes, u64),
    /// The server does not know ranges and sent the whole file.
    Whole(BlobWriter, u64),
    /// The server knows ranges but not this one.
    Refused,
}

/// What part is wanted.
#[derive(Clone, Debug)]
pub(super) enum Wanted {
    /// The last bytes of a file of unknown size.
    Last(u64),
    Bytes(Range<u64>),
}

/// One try that failed.
struct Failed {
    error: Error,
    is_transient: bool,
    retry_after: Option<Duration>,
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self { error, is_transient: false, retry_after: None }
    }
}

/// Scheme, host, port and path: no user, password, query or fragment.
pub(super) fn redact(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.set_fragment(None);
    take_credentials(&mut url);
    url.into()
}

impl Answer {
    pub(super) fn header(&self, name: header::HeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The error for an answer that is no success.
    pub(super) fn refused(&self, url: &Url) -> Error {
        Error::Status {
            url: redact(url),
            status: self.status,
            message: message(self.header(header::CONTENT_TYPE), &self.body),
        }
    }
}

impl Transfer {
    pub(super) fn new(http: Following) -> Self {
        Self { http, permits: Semaphore::new(PARALLEL) }
    }

    /// Asks for a document of at most `limit` bytes. A success, or any answer that another try would
    /// not change: the caller looks at the status.
    pub(super) async fn get(
        &self,
        config: &Config,
        url: &Url,
        headers: HeaderMap,
        limit: u64,
    ) -> Result<Answer, Error> {
        let headers = &headers;
        with_retries(|| {
            async move {
                let _permit = self.permits.acquire().await;
                let mut response = self.open(config, url, headers.clone()).await?;
                // Many large ones come at once: what grows takes more than its share.
                let length = response.content_length().unwrap_or(0).min(limit).min(MOST_RESERVED);
                let mut body = room::vec(usize::try_from(length).unwrap_or(0));
                while let Some(chunk) = next(&mut response, url).await? {
                    body.extend_from_slice(&chunk);
                    if body.len() as u64 > limit {
                        return Err(too_large(url, limit).into());
                    }
                }
                let is_gzip = response
                    .headers()
                    .get(header::CONTENT_ENCODING)
                    .is_some_and(|coding| coding == "gzip");
                if is_gzip {
                    body = gunzip(&body, url, limit)?;
                }
                Ok(answer(&response, body))
            }
            .boxed()
        })
        .await
    }

    /// Streams a file of at most `limit` bytes into the store's temporary folder; returns its size too.
    pub(super) async fn download(
        &self,
        config: &Config,
        url: &Url,
        store: &Store,
        limit: u64,
    ) -> Result<(BlobWriter, u64), Error> {
        with_retries(|| {
            async move {
                let _permit = self.permits.acquire().await;
                let mut response = self.open(config, url, HeaderMap::new()).await?;
                if response.status() != StatusCode::OK {
                    return Err(refuse(&mut response, url).await);
                }
                drain(&mut response, url, store, limit).await
            }
            .boxed()
        })
        .await
    }

    /// Asks for a part of a file; a whole file that comes instead goes to the store's temporary folder.
    pub(super) async fn part(
        &self,
        config: &Config,
        url: &Url,
        wanted: &Wanted,
        store: &Store,
        limit: u64,
    ) -> Result<Part, Error> {
        let range = match wanted {
            Wanted::Last(length) => format!("bytes=-{length}"),
            Wanted::Bytes(range) => format!("bytes={}-{}", range.start, range.end - 1),
        };
        let most = match wanted {
            Wanted::Last(length) => *length,
            Wanted::Bytes(range) => range.end - range.start,
        };
        let mut headers = HeaderMap::new();
        if let Ok(value) = HeaderValue::from_str(&range) {
            headers.insert(header::RANGE, value);
        }
        let headers = &headers;
        with_retries(|| {
            async move {
                let _permit = self.permits.acquire().await;
                let mut response = self.open(config, url, headers.clone()).await?;
                match response.status() {
                    StatusCode::OK => {
                        let (writer, size) = drain(&mut response, url, store, limit).await?;
                        Ok(Part::Whole(writer, size))
                    }
                    StatusCode::PARTIAL_CONTENT => {
                        let Some((found, total)) = content_range(&response) else {
                            return Ok(Part::Refused);
                        };
                        let is_wanted = match wanted {
                            Wanted::Last(length) => found == (total.saturating_sub(*length)..total),
                            Wanted::Bytes(range) => found == *range,
                        };
                        if !is_wanted {
                            return Ok(Part::Refused);
                        }
                        let mut body = Vec::new();
                        while let Some(chunk) = next(&mut response, url).await? {
                            body.extend_from_slice(&chunk);
                            if body.len() as u64 > most {
                                return Err(too_large(url, most).into());
                            }
                        }
                        if body.len() as u64 != found.end - found.start {
                            return Ok(Part::Refused);
                        }
                        Ok(Part::Bytes(body.into(), total))
                    }
                    StatusCode::RANGE_NOT_SATISFIABLE | StatusCode::NOT_IMPLEMENTED => {
                        Ok(Part::Refused)
                    }
                    _ => Err(refuse(&mut response, url).await),
                }
            }
            .boxed()
        })
        .await
    }

    /// One try, up to the answer's head. A status that may go away by itself is an error here.
    async fn open(
        &self,
        config: &Config,
        url: &Url,
        headers: HeaderMap,
    ) -> Result<Response, Failed> {
        let mut address = url.clone();
        address.set_fragment(None);
        let own = take_credentials(&mut address);
        let http = self.http.client().map_err(Error::from)?;
        let mut request = http.get(address).headers(headers);
        if let Some(Credentials { user, password }) =
            own.as_ref().or_else(|| config.credentials(url))
        {
            request = request.basic_auth(user, Some(password));
        }
        let mut response = timeout(STALL, request.send())
            .await
            .map_err(|_elapsed| stalled(url))?
            .map_err(|error| broken(url, error))?;
        if is_transient(response.status()) {
            let retry_after = retry_after(response.headers());
            let failed = refuse(&mut response, url).await;
            return Err(Failed { is_transient: true, retry_after, ..failed });
        }
        Ok(response)
    }
}

/// Boxed: the tries are large, and every future that waits for one would be too. And no async
/// closure: of its future the compiler cannot tell that it may move between threads.
async fn with_retries<'a, T>(
    mut attempt: impl FnMut() -> BoxFuture<'a, Result<T, Failed>>,
) -> Result<T, Error> {
    let mut pause = FIRST_PAUSE;
    for _ in 1..TRIES {
        match attempt().await {
            Ok(value) => return Ok(value),
            Err(failed) if !failed.is_transient => return Err(failed.error),
            Err(failed) => {
                let wanted = failed.retry_after.unwrap_or(pause).min(LONGEST_PAUSE);
                tokio::time::sleep(wanted).await;
                pause *= 2;
            }
        }
    }
    attempt().await.map_err(|failed| failed.error)
}

fn is_transient(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 429 | 499 | 500 | 502 | 503 | 504 | 522)
}

/// Seconds only: a date would need a clock, and indexes do not send one.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(header::RETRY_AFTER)?.to_str().ok()?;
    seconds.trim().parse().ok().map(Duration::from_secs)
}

async fn next(response: &mut Response, url: &Url) -> Result<Option<Bytes>, Failed> {
    timeout(STALL, response.chunk())
        .await
        .map_err(|_elapsed| stalled(url))?
        .map_err(|error| broken(url, error))
}

async fn drain(
    response: &mut Response,
    url: &Url,
    store: &Store,
    limit: u64,
) -> Result<(BlobWriter, u64), Failed> {
    let mut writer = store.writer().map_err(Error::from)?;
    let mut size = 0;
    while let Some(chunk) = next(response, url).await? {
        size += chunk.len() as u64;
        if size > limit {
            return Err(too_large(url, limit).into());
        }
        writer.write_all(&chunk).map_err(|source| {
            Error::from(crate::store::Error::Disk { path: store.root().to_owned(), source })
        })?;
    }
    Ok((writer, size))
}

async fn refuse(response: &mut Response, url: &Url) -> Failed {
    let mut body = Vec::new();
    // What cannot be read of an error's text is left out of the error.
    while let Ok(Some(chunk)) = next(response, url).await {
        body.extend_from_slice(&chunk);
        if body.len() > ERROR_BODY {
            break;
        }
    }
    answer(response, body).refused(url).into()
}

fn answer(response: &Response, body: Vec<u8>) -> Answer {
    let mut url = response.url().clone();
    take_credentials(&mut url);
    Answer { status: response.status(), headers: response.headers().clone(), url, body }
}

fn stalled(url: &Url) -> Failed {
    Failed {
        error: Error::Stalled { url: redact(url), seconds: STALL.as_secs() },
        is_transient: true,
        retry_after: None,
    }
}

fn broken(url: &Url, error: reqwest::Error) -> Failed {
    Failed {
        is_transient: !error.is_redirect() && !error.is_builder(),
        error: Error::Unreachable { url: redact(url), source: error.without_url() },
        retry_after: None,
    }
}

fn too_large(url: &Url, limit: u64) -> Error {
    Error::TooLarge { url: redact(url), limit }
}

fn gunzip(body: &[u8], url: &Url, limit: u64) -> Result<Vec<u8>, Error> {
    // It says in the end how long it is, modulo 2^32 (RFC 1952).
    let length = body.last_chunk().map_or(0, |length| u64::from(u32::from_le_bytes(*length)));
    let length = length.min(limit).min(MOST_RESERVED);
    let mut bytes = room::vec(usize::try_from(length).unwrap_or(0));
    flate2::read::MultiGzDecoder::new(body)
        .take(limit + 1)
        .read_to_end(&mut bytes)
        .map_err(|source| Error::Encoding { url: redact(url), source })?;
    if bytes.len() as u64 > limit {
        return Err(too_large(url, limit));
    }
    Ok(bytes)
}

/// `bytes 100-199/1000` as the range 100..200 of 1000.
fn content_range(response: &Response) -> Option<(Range<u64>, u64)> {
    let value = response.headers().get(header::CONTENT_RANGE)?;
    let (range, total) = value.to_str().ok()?.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let total = total.parse().ok()?;
    let end = last.parse::<u64>().ok()?.checked_add(1)?;
    let range = first.parse().ok()?..end;
    (range.start < range.end && range.end <= total).then_some((range, total))
}

/// `: ` and what the server says, if it says it in a line of text or as JSON that is usual.
fn message(content_type: Option<&str>, body: &[u8]) -> String {
    let essence = content_type.and_then(|value| value.split(';').next()).unwrap_or_default();
    let text = if essence.ends_with("json") {
        let value: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
        ["/message", "/detail", "/error/message", "/errors/0/message", "/error"]
            .iter()
            .find_map(|pointer| Some(value.pointer(pointer)?.as_str()?.to_owned()))
            .unwrap_or_default()
    } else if essence == "text/plain" {
        String::from_utf8_lossy(body).into_owned()
    } else {
        String::new()
    };
    let line: String = text
        .lines()
        .next()
        .unwrap_or_default()
        .chars()
        .filter(|c| !c.is_control())
        .take(200)
        .collect();
    match line.trim() {
        "" => String::new(),
        line => format!(": {line}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redacts() {
        for (url, shown) in [
            (
                "https://a:b@one.example:8443/simple/x/?token=1#sha256=2",
                "https://one.example:8443/simple/x/",
            ),
            ("http://one.example", "http://one.example/"),
        ] {
            assert_eq!(redact(&Url::parse(url).unwrap()), shown);
        }
    }

    #[test]
    fn messages() {
        for (content_type, body, expected) in [
            (Some("text/plain; charset=utf-8"), "not\u{1b}[31m here\nmore", ": not[31m here"),
            (Some("application/json"), r#"{"errors": [{"message": "no"}]}"#, ": no"),
            (Some("application/json"), r#"{"error": "bad token"}"#, ": bad token"),
            (Some("application/json"), "{", ""),
            (Some("text/html"), "<h1>no</h1>", ""),
            (None, "no", ""),
        ] {
            assert_eq!(message(content_type, body.as_bytes()), expected);
        }
    }
}
