//! A stateful registry in this process, on loopback, that can be told to fail and to lie.
//!
//! It implements the distribution specification's pull and push as `docker-registry` does, refuses
//! what that refuses (a manifest whose blobs are missing, a blob of another digest), and writes
//! every request down.
#![expect(clippy::unwrap_used, reason = "a broken fixture must fail the test")]

mod serve;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use assemble::oci::Digest;
use bytes::Bytes;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::TcpListener;

use serve::{answer, resolve};

/// A registry on `127.0.0.1`. It stops when it is dropped.
#[derive(Debug)]
pub(crate) struct FakeRegistry {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    server: tokio::task::JoinHandle<()>,
}

/// One request as the registry saw it.
#[derive(Clone, Debug)]
pub(crate) struct Logged {
    /// `GET`, …
    pub(crate) method: String,
    /// With query: `/v2/library/python/manifests/3.13`
    pub(crate) path: String,
    /// Names in lower case, in the order they came.
    pub(crate) headers: Vec<(String, String)>,
    /// The status answered; 0 if the connection was dropped instead.
    pub(crate) status: u16,
    /// Bytes of the request's body that were read.
    pub(crate) bytes_in: u64,
    /// Bytes of the response's body that were sent.
    pub(crate) bytes_out: u64,
}

impl Logged {
    /// The first value of a header.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }
}

/// What happens instead of, or to, the answer.
#[derive(Clone, Debug)]
pub(crate) enum Action {
    /// Another answer; the request has no effect.
    Respond {
        /// Its status.
        status: u16,
        /// Its headers.
        headers: Vec<(String, String)>,
        /// Its body.
        body: Vec<u8>,
    },
    /// The connection is closed without an answer; the request has no effect.
    Reset,
    /// The request has its effect, then the connection is closed without an answer.
    ResetAfterEffect,
    /// This many bytes of the request's body are kept by the upload, then the connection is closed.
    ResetRequestAfter(usize),
    /// The right answer, cut by a closed connection after this many bytes of its body.
    ResetBodyAfter(u64),
    /// No answer ever.
    Stall,
    /// The right answer, but nothing comes after this many bytes of its body.
    StallBodyAfter(u64),
    /// The right answer with another body (and its true length).
    Body(Vec<u8>),
    /// The right answer with a header set.
    Header(String, String),
    /// The right answer without a header.
    WithoutHeader(String),
    /// The right answer, a byte at a time with this many milliseconds between.
    Drip(u64),
    /// 307 to the same path on another `host:port`.
    RedirectTo(String),
}

/// A switch: which requests it concerns, and what happens to them.
#[derive(Clone, Debug)]
pub(crate) struct Fault {
    method: String,
    path: String,
    skip: usize,
    times: usize,
    action: Action,
}

impl Fault {
    /// `action` on the next request with that method (`*` for all) whose path and query contain
    /// `path`.
    pub(crate) fn on(method: &str, path: &str, action: Action) -> Self {
        Self { method: method.to_owned(), path: path.to_owned(), skip: 0, times: 1, action }
    }

    /// An answer with that status and the specification's error body.
    pub(crate) fn status(method: &str, path: &str, status: u16, code: &str) -> Self {
        let body = json!({"errors": [{"code": code, "message": "made by the test"}]});
        Self::on(
            method,
            path,
            Action::Respond {
                status,
                headers: vec![("content-type".into(), "application/json".into())],
                body: body.to_string().into_bytes(),
            },
        )
    }

    /// Lets the first `skip` matching requests pass.
    pub(crate) fn after(mut self, skip: usize) -> Self {
        self.skip = skip;
        self
    }

    /// Happens `times` times.
    pub(crate) fn times(mut self, times: usize) -> Self {
        self.times = times;
        self
    }

    /// Happens always.
    pub(crate) fn always(self) -> Self {
        self.times(usize::MAX)
    }

    /// Adds a header to an [`Action::Respond`].
    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        if let Action::Respond { headers, .. } = &mut self.action {
            headers.push((name.to_owned(), value.to_owned()));
        }
        self
    }

    fn takes(&mut self, method: &str, path: &str) -> bool {
        if (self.method != "*" && self.method != method) || !path.contains(&self.path) {
            return false;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return false;
        }
        if self.times == 0 {
            return false;
        }
        self.times = self.times.saturating_sub(1);
        true
    }
}

/// Who may do what.
#[derive(Clone, Debug, Default)]
pub(crate) enum Auth {
    /// Everybody everything.
    #[default]
    Open,
    /// `Basic` for every request.
    Basic {
        /// User name.
        user: String,
        /// Password.
        password: String,
    },
    /// `Bearer`, with tokens from `/token` of the same address.
    Token {
        /// User name.
        user: String,
        /// Password.
        password: String,
        /// Whether a token to pull is given without credentials.
        anonymous_pull: bool,
        /// Another realm in the challenge than the own token endpoint.
        realm: Option<String>,
    },
}

/// Ways in which real registries differ.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own")]
pub(crate) struct Habits {
    /// Mounts are done (201); otherwise answered with an upload session (202).
    pub(crate) mounts: bool,
    /// Tags cannot be moved to another digest.
    pub(crate) immutable_tags: bool,
    /// PATCH is answered with 405.
    pub(crate) refuses_chunks: bool,
    /// PUT with a longer body is answered with 413, as by a proxy that limits it.
    pub(crate) largest_put: usize,
    /// `Location` is absolute, otherwise a path.
    pub(crate) absolute_locations: bool,
    /// `Location` carries state in its query that must come back.
    pub(crate) location_query: bool,
    /// `Range` requests are answered with the whole blob.
    pub(crate) ignores_ranges: bool,
    /// Every write is answered with 405.
    pub(crate) read_only: bool,
    /// `OAuth2` POST at the token endpoint; otherwise 404.
    pub(crate) oauth: bool,
    /// Manifests with a subject are listed by it, and the answer says so.
    pub(crate) referrers: bool,
    /// Manifests have an `ETag`, and PUT heeds `If-Match`.
    pub(crate) conditions: bool,
    /// `expires_in` of tokens, in seconds; left out if 0.
    pub(crate) expires_in: u64,
}

impl Default for Habits {
    fn default() -> Self {
        Self {
            mounts: true,
            immutable_tags: false,
            refuses_chunks: false,
            largest_put: usize::MAX,
            absolute_locations: true,
            location_query: true,
            ignores_ranges: false,
            read_only: false,
            oauth: true,
            referrers: false,
            conditions: false,
            expires_in: 300,
        }
    }
}

#[derive(Clone, Debug)]
enum Blob {
    Memory(Bytes),
    File { path: PathBuf, size: u64 },
}

impl Blob {
    fn size(&self) -> u64 {
        match self {
            Self::Memory(bytes) => bytes.len() as u64,
            Self::File { size, .. } => *size,
        }
    }
}

#[derive(Debug, Default)]
struct Repository {
    blobs: BTreeSet<Digest>,
    manifests: BTreeMap<Digest, (String, Bytes)>,
    tags: BTreeMap<String, Digest>,
}

#[derive(Debug)]
struct Upload {
    repository: String,
    bytes: Vec<u8>,
}

/// What a token allows: `(repository, action)`.
type Grants = BTreeSet<(String, String)>;

#[derive(Debug, Default)]
struct State {
    blobs: BTreeMap<Digest, Blob>,
    repositories: BTreeMap<String, Repository>,
    uploads: BTreeMap<String, Upload>,
    tokens: BTreeMap<String, Grants>,
    log: Vec<(Logged, Arc<AtomicU64>)>,
    faults: Vec<Fault>,
    auth: Auth,
    habits: Habits,
    counter: u64,
}

impl FakeRegistry {
    /// Starts an empty, open, faultless registry on a free port.
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new(State::default()));
        let shared = Arc::clone(&state);
        let server = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let Ok((stream, _)) = listener.accept().await else {
                    return;
                };
                let state = Arc::clone(&shared);
                connections.spawn(async move {
                    let service = service_fn(move |request| {
                        let state = Arc::clone(&state);
                        async move { answer(&state, address, request).await }
                    });
                    // A client that hangs up is no failure of the fixture.
                    let _ended = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
                while connections.try_join_next().is_some() {}
            }
        });
        Self { address, state, server }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// `127.0.0.1:PORT`
    pub(crate) fn address(&self) -> String {
        self.address.to_string()
    }

    /// Stores a blob in a repository.
    pub(crate) fn put_blob(&self, repository: &str, bytes: impl Into<Bytes>) -> Digest {
        let bytes = bytes.into();
        let digest = Digest::of(&bytes);
        self.put(repository, digest, Blob::Memory(bytes));
        digest
    }

    /// Serves a blob from a file, which is neither read nor checked now.
    pub(crate) fn put_blob_file(&self, repository: &str, digest: Digest, size: u64, path: &Path) {
        let path = path.to_owned();
        self.put(repository, digest, Blob::File { path, size });
    }

    fn put(&self, repository: &str, digest: Digest, blob: Blob) {
        let mut state = self.state();
        state.blobs.insert(digest, blob);
        let repository = state.repositories.entry(repository.to_owned());
        repository.or_default().blobs.insert(digest);
    }

    /// Stores a manifest or index in a repository, unchecked, and points `tag` at it.
    pub(crate) fn put_manifest(
        &self,
        repository: &str,
        tag: Option<&str>,
        media_type: &str,
        bytes: impl Into<Bytes>,
    ) -> Digest {
        let bytes = bytes.into();
        let digest = Digest::of(&bytes);
        let mut state = self.state();
        let repository = state.repositories.entry(repository.to_owned()).or_default();
        repository.manifests.insert(digest, (media_type.to_owned(), bytes));
        if let Some(tag) = tag {
            repository.tags.insert(tag.to_owned(), digest);
        }
        digest
    }

    /// Forgets a repository, its manifests and tags.
    pub(crate) fn forget(&self, repository: &str) {
        self.state().repositories.remove(repository);
    }

    /// The media type and bytes behind a tag or digest.
    pub(crate) fn manifest(&self, repository: &str, reference: &str) -> Option<(String, Bytes)> {
        let state = self.state();
        let repository = state.repositories.get(repository)?;
        let digest = resolve(repository, reference)?;
        repository.manifests.get(&digest).cloned()
    }

    /// The tags of a repository.
    pub(crate) fn tags(&self, repository: &str) -> BTreeMap<String, Digest> {
        self.state()
            .repositories
            .get(repository)
            .map(|repository| repository.tags.clone())
            .unwrap_or_default()
    }

    /// A blob's bytes, if the repository has it.
    pub(crate) fn blob(&self, repository: &str, digest: &Digest) -> Option<Bytes> {
        let state = self.state();
        state
            .repositories
            .get(repository)?
            .blobs
            .get(digest)
            .and_then(|digest| state.blobs.get(digest))
            .map(|blob| match blob {
                Blob::Memory(bytes) => bytes.clone(),
                Blob::File { path, .. } => fs_err::read(path).unwrap().into(),
            })
    }

    /// Adds a fault. The first that matches a request takes it.
    pub(crate) fn fault(&self, fault: Fault) {
        self.state().faults.push(fault);
    }

    /// Removes all faults.
    pub(crate) fn heal(&self) {
        self.state().faults.clear();
    }

    /// Sets who may do what.
    pub(crate) fn set_auth(&self, auth: Auth) {
        self.state().auth = auth;
    }

    /// Forgets all tokens given so far, as if they had expired.
    pub(crate) fn revoke_tokens(&self) {
        self.state().tokens.clear();
    }

    /// Sets how it differs from others.
    pub(crate) fn set_habits(&self, habits: Habits) {
        self.state().habits = habits;
    }

    /// How many uploads are begun and neither finished nor cancelled.
    pub(crate) fn open_uploads(&self) -> usize {
        self.state().uploads.len()
    }

    /// Every request so far.
    pub(crate) fn log(&self) -> Vec<Logged> {
        let state = self.state();
        state
            .log
            .iter()
            .map(|(logged, sent)| Logged {
                bytes_out: sent.load(Ordering::Relaxed),
                ..logged.clone()
            })
            .collect()
    }

    /// `METHOD /path` of every request so far.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.log().iter().map(|logged| format!("{} {}", logged.method, logged.path)).collect()
    }

    /// How many requests with that method (`*` for all) had `path` in path and query.
    pub(crate) fn count(&self, method: &str, path: &str) -> usize {
        self.log()
            .iter()
            .filter(|logged| method == "*" || logged.method == method)
            .filter(|logged| logged.path.contains(path))
            .count()
    }

    /// Forgets the log.
    pub(crate) fn clear_log(&self) {
        self.state().log.clear();
    }
}

impl Drop for FakeRegistry {
    fn drop(&mut self) {
        self.server.abort();
    }
}
