//! One HTTP client for both kinds of server: TLS, proxies, redirects, retries, redaction, limits.
//!
//! Nothing here knows what a registry or a package index is. What comes in is a request, what goes
//! out is a response of any status or an error that says method, redacted address and reason.
//! Redirects are followed by hand (see [`redirect`]); a body is never read without a limit; time is
//! limited between two signs of progress, in total only for documents that are read at once.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use reqwest::header;
use reqwest::{Method, Request, Response, Url};
use tokio::time::Instant;

mod certificates;
pub mod error;
mod names;
pub mod redact;
pub mod redirect;
pub mod retry;
pub mod watch;

pub use error::Error;
pub use redact::redact;
pub use redirect::Trust;
pub use retry::Retry;
pub use watch::Watch;

/// The most bytes that are read of an error's body: 64 KiB.
pub const ERROR_BODY_LIMIT: usize = 64 << 10;

/// A document that is read at once may take that many progress timeouts in all.
const DOCUMENT_TIMEOUTS: u32 = 5;

/// How many redirects are followed for one request.
const MOST_REDIRECTS: usize = 10;

/// How the client reaches the world. The defaults are what a person at a terminal wants.
#[derive(Clone, Debug)]
pub struct Options {
    /// A PEM file of certificate authorities that are trusted beside the system's.
    pub ca_bundle: Option<PathBuf>,
    /// Folders that hold `<host[:port]>/{*.crt,*.cert,*.key}` (containers-certs.d(5)).
    pub certs_d: Vec<PathBuf>,
    /// Within this time a connection must stand.
    pub connect_timeout: Duration,
    /// Within this time something must move: a byte sent, a byte received, or the answer begun.
    pub progress_timeout: Duration,
    /// What is tried again, and when.
    pub retry: Retry,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            ca_bundle: None,
            certs_d: Vec::new(),
            connect_timeout: Duration::from_secs(15),
            progress_timeout: Duration::from_mins(1),
            retry: Retry::default(),
        }
    }
}

/// A client with its connections. Cheap to clone; clones share connections and the count.
#[derive(Clone, Debug)]
pub struct Client {
    shared: Arc<Shared>,
    requests: Arc<AtomicU64>,
}

#[derive(Debug)]
struct Shared {
    options: Options,
    /// Those of [`Options::ca_bundle`].
    authorities: Vec<reqwest::Certificate>,
    /// For requests through [`Client::following`].
    following: OnceLock<reqwest::Client>,
    /// For everything else: by proxy as the environment says.
    proxied: OnceLock<reqwest::Client>,
    /// For loopback, which no proxy can reach.
    direct: OnceLock<reqwest::Client>,
    /// For hosts with certificates of their own, made when they are first met.
    by_host: Mutex<BTreeMap<String, Option<reqwest::Client>>>,
    names: Arc<names::Names>,
}

impl Client {
    /// Makes a client. Proxies come from `HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY`. The system's
    /// certificate authorities, hundreds of files, are read when a request needs them.
    ///
    /// # Errors
    /// The bundle of certificate authorities cannot be read.
    pub fn new(options: Options) -> Result<Self, Error> {
        // A second client of the process finds the provider installed: that is no failure.
        let _installed = rustls::crypto::ring::default_provider().install_default();
        let authorities = match &options.ca_bundle {
            Some(path) => certificates::read_authorities(path)?,
            None => Vec::new(),
        };
        let shared = Shared {
            authorities,
            following: OnceLock::new(),
            proxied: OnceLock::new(),
            direct: OnceLock::new(),
            by_host: Mutex::default(),
            names: Arc::default(),
            options,
        };
        Ok(Self { shared: Arc::new(shared), requests: Arc::default() })
    }

    /// The same connections with a count of its own, which starts at 0.
    #[must_use]
    pub fn counted(self) -> Self {
        Self { requests: Arc::default(), ..self }
    }

    /// How many requests were sent, redirects and retries included. Requests of [`Self::following`] are not
    /// known here.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// What the client was made with.
    pub fn options(&self) -> &Options {
        &self.shared.options
    }

    /// The client below, which follows redirects to `https` or loopback and knows neither retries nor
    /// limits.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn following(&self) -> Result<&reqwest::Client, Error> {
        self.shared.made(&self.shared.following, true, redirect::policy)
    }

    /// Sends one request once; no redirect is followed. A response of any status is `Ok`.
    ///
    /// # Errors
    /// No response came, or nothing moved for the progress timeout.
    pub async fn send_once(
        &self,
        request: Request,
        watch: Option<&Watch>,
    ) -> Result<Response, Error> {
        let method = request.method().clone();
        let url = request.url().clone();
        let client = self.client_for(&url)?;
        self.requests.fetch_add(1, Ordering::Relaxed);
        let own = Watch::default();
        let watch = watch.unwrap_or(&own);
        tokio::select! {
            answer = client.execute(request) => {
                answer.map_err(|source| Error::unreachable(&method, &url, source))
            }
            () = watch.stalled(self.shared.options.progress_timeout) => {
                Err(Error::stalled(&method, &url, self.shared.options.progress_timeout))
            }
        }
    }

    /// Sends a request and follows redirects of GET and HEAD by the rules of [`redirect`].
    ///
    /// # Errors
    /// As [`Self::send_once`], or a redirect that leads where it must not.
    pub async fn send(&self, request: Request, trust: &Trust) -> Result<Response, Error> {
        let reads = matches!(*request.method(), Method::GET | Method::HEAD);
        let origin = request.url().clone();
        let mut request = request;
        for _ in 0..=MOST_REDIRECTS {
            let again = if reads { request.try_clone() } else { None };
            let from = request.url().clone();
            let response = self.send_once(request, None).await?;
            let Some(mut next) = again.filter(|_| redirect::is_redirect(response.status())) else {
                return Ok(response);
            };
            let target = redirect::target(&from, response.headers())
                .and_then(|target| {
                    trust.check(&origin, &target)?;
                    Ok(target)
                })
                .map_err(|reason| Error::redirect(next.method(), &from, reason))?;
            if !redirect::is_same_host(&origin, &target) {
                for name in [header::AUTHORIZATION, header::COOKIE, header::PROXY_AUTHORIZATION] {
                    next.headers_mut().remove(name);
                }
            }
            *next.url_mut() = target;
            request = next;
        }
        Err(Error::redirect(&Method::GET, &origin, redirect::Refusal::TooMany))
    }

    /// As [`Self::send`], and again after connection errors and transient statuses. The last response
    /// is returned whatever its status is.
    ///
    /// # Errors
    /// As [`Self::send`], from the last try.
    pub async fn send_with_retries(
        &self,
        request: Request,
        trust: &Trust,
    ) -> Result<Response, Error> {
        let retry = &self.shared.options.retry;
        let mut request = request;
        let mut tries = 1;
        loop {
            let again = request.try_clone().filter(|_| tries < retry.tries);
            let outcome = self.send(request, trust).await;
            let Some(again) = again else {
                return outcome;
            };
            let delay = match &outcome {
                Ok(response) if retry::is_transient(response.status()) => {
                    retry.delay(tries, retry::retry_after(response.headers()))
                }
                Err(error) if error.is_transient() => retry.delay(tries, None),
                _ => return outcome,
            };
            tokio::time::sleep(delay).await;
            request = again;
            tries += 1;
        }
    }

    /// The next piece of a response's body; `None` at its end.
    ///
    /// # Errors
    /// The connection broke or nothing came for the progress timeout.
    pub async fn chunk(&self, response: &mut Response) -> Result<Option<Bytes>, Error> {
        let timeout = self.shared.options.progress_timeout;
        match tokio::time::timeout(timeout, response.chunk()).await {
            Ok(Ok(chunk)) => Ok(chunk),
            Ok(Err(source)) => Err(Error::unreachable(&Method::GET, response.url(), source)),
            Err(_elapsed) => Err(Error::stalled(&Method::GET, response.url(), timeout)),
        }
    }

    /// The whole body, if it is at most `limit` bytes.
    ///
    /// # Errors
    /// It is longer, the connection broke, or nothing came for the progress timeout.
    pub async fn body(&self, response: &mut Response, limit: usize) -> Result<Bytes, Error> {
        let (bytes, whole) = self.body_start(response, limit).await?;
        if whole {
            return Ok(bytes);
        }
        Err(Error::too_large(&Method::GET, response.url(), limit))
    }

    /// At most `limit` bytes of the body, and whether these are all.
    ///
    /// # Errors
    /// The connection broke, or nothing came for the progress timeout.
    pub async fn body_start(
        &self,
        response: &mut Response,
        limit: usize,
    ) -> Result<(Bytes, bool), Error> {
        let mut bytes = BytesMut::new();
        // A document is short: whoever gives it a byte at a time is not waited for.
        let timeout = self.shared.options.progress_timeout * DOCUMENT_TIMEOUTS;
        let deadline = Instant::now() + timeout;
        while let Some(chunk) = tokio::time::timeout_at(deadline, self.chunk(response))
            .await
            .map_err(|_elapsed| Error::stalled(&Method::GET, response.url(), timeout))??
        {
            let room = limit - bytes.len();
            bytes.extend_from_slice(&chunk[..chunk.len().min(room)]);
            if chunk.len() > room {
                return Ok((bytes.freeze(), false));
            }
        }
        Ok((bytes.freeze(), true))
    }

    fn client_for(&self, url: &Url) -> Result<reqwest::Client, Error> {
        let host = redirect::host_and_port(url);
        let mut by_host = self.shared.by_host.lock().unwrap_or_else(PoisonError::into_inner);
        let special = if let Some(known) = by_host.get(&host) {
            known.clone()
        } else {
            let special = certificates::host_client(
                &self.shared.options,
                &host,
                &self.shared.names,
                redirect::is_loopback(url),
            )?;
            by_host.insert(host, special.clone());
            special
        };
        special.map_or_else(|| self.common(url).cloned(), Ok)
    }

    fn common(&self, url: &Url) -> Result<&reqwest::Client, Error> {
        let shared = &*self.shared;
        let by_hand = reqwest::redirect::Policy::none;
        if redirect::is_loopback(url) {
            shared.made(&shared.direct, false, by_hand)
        } else {
            shared.made(&shared.proxied, true, by_hand)
        }
    }
}

impl Shared {
    fn made<'a>(
        &self,
        place: &'a OnceLock<reqwest::Client>,
        proxied: bool,
        policy: fn() -> reqwest::redirect::Policy,
    ) -> Result<&'a reqwest::Client, Error> {
        if let Some(made) = place.get() {
            return Ok(made);
        }
        let made =
            certificates::build(&self.options, &self.authorities, &self.names, proxied, policy)?;
        Ok(place.get_or_init(|| made))
    }
}

/// A client that follows redirects by itself: one there is, or ours, made when it is first needed.
#[derive(Clone, Debug)]
pub enum Following {
    /// One there is.
    Made(reqwest::Client),
    /// [`Client::following`] of this.
    Ours(Client),
}

impl Following {
    /// The client.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn client(&self) -> Result<&reqwest::Client, Error> {
        match self {
            Self::Made(client) => Ok(client),
            Self::Ours(client) => client.following(),
        }
    }
}

impl From<reqwest::Client> for Following {
    fn from(client: reqwest::Client) -> Self {
        Self::Made(client)
    }
}

impl From<Client> for Following {
    fn from(client: Client) -> Self {
        Self::Ours(client)
    }
}
