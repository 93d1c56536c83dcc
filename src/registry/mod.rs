//! The distribution specification's client: the door to container registries.
//!
//! It speaks to every registry there is about repositories, manifests and blobs, and to none about
//! images: what belongs together and in which order it is pushed is the destination's to know.
//! Every byte that comes in is hashed before it is given on as complete; every request is counted.
//!
//! | file | holds |
//! | --- | --- |
//! | `endpoint`, `registries_conf` | where a registry's API is, and its mirrors |
//! | `call` | one request with authorisation, retries and redirects |
//! | `auth`, `credentials`, `login` | who we are, and how we prove it |
//! | `pull`, `download`, `layouts` | manifests and blobs in |
//! | `push`, `upload`, `referrers` | manifests and blobs out |
//! | `warnings` | what registries want people to know |

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{OnceCell, Semaphore};

use crate::http;
use crate::oci::{Descriptor, Digest, Reference};

pub mod auth;
mod call;
mod cost;
pub mod credentials;
mod download;
mod endpoint;
pub mod error;
pub mod layouts;
mod login;
mod pull;
mod push;
mod referrers;
pub mod registries_conf;
mod session;
mod upload;
mod warnings;

pub use cost::Cost;
pub use error::Error;
pub use referrers::Referred;

/// A manifest or an image index is at most this long: 4 MiB, as registries have it
/// (distribution-spec, *Pushing Manifests*).
pub const MANIFEST_LIMIT: usize = 4 << 20;

/// How registries are to be spoken to.
#[derive(Clone, Debug)]
pub struct Options {
    /// Who we are.
    pub keychain: credentials::Keychain,
    /// By registry, as in names (`docker.io`): `host[:port][/prefix]` of mirrors, asked in this order
    /// before the registry itself, for pulls only. A mirror never gets the registry's credentials.
    pub mirrors: BTreeMap<String, Vec<String>>,
    /// What the machine's files say; its mirrors are asked after those of `mirrors`.
    pub conf: registries_conf::RegistriesConf,
    /// Images on this disk that are read instead of the registry's.
    pub layouts: layouts::Layouts,
    /// `host[:port]` of registries and mirrors that are spoken to in plain HTTP, or `*.domain`.
    /// Loopback need not be named.
    pub insecure: BTreeSet<String>,
    /// No request is sent.
    pub offline: bool,
    /// How many blobs are uploaded to one registry at once, at least 1.
    pub uploads: usize,
    /// A blob longer than this many bytes is uploaded in chunks, a shorter one in a single request.
    /// The default stays below what proxies before registries take in one body.
    pub chunk_above: u64,
    /// A chunk's size in bytes, where the registry does not ask for more.
    pub chunk_size: u64,
    /// How long a tag that others may write at the same time is left alone before it is read again; far
    /// above what reading, changing and writing it take.
    pub settle: Duration,
    /// Who is told how far uploads are.
    pub observer: Observer,
    /// A folder that remembers unfinished chunked uploads across runs; `None` forgets them.
    pub sessions: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            keychain: credentials::Keychain::default(),
            mirrors: BTreeMap::new(),
            conf: registries_conf::RegistriesConf::default(),
            layouts: layouts::Layouts::default(),
            insecure: BTreeSet::new(),
            offline: false,
            uploads: 4,
            chunk_above: 96 << 20,
            chunk_size: 16 << 20,
            settle: Duration::from_secs(2),
            observer: Observer::default(),
            sessions: None,
        }
    }
}

/// Told how far uploads are: what, bytes done, bytes in all. An upload that is taken up again goes back
/// to where the registry is.
#[derive(Clone, Default)]
pub struct Observer(Option<Arc<Told>>);

type Told = dyn Fn(&str, u64, u64) + Send + Sync;

impl Observer {
    /// Tells `told`, on the thread that moves the bytes.
    pub fn new(told: impl Fn(&str, u64, u64) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(told)))
    }

    fn tell(&self, what: &str, done: u64, total: u64) {
        if let Some(told) = &self.0 {
            told(what, done, total);
        }
    }
}

impl fmt::Debug for Observer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Observer" } else { "nobody" })
    }
}

/// A client for all registries of a run. Cheap to clone; tokens and costs are shared.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
    mirrors: bool,
}

/// Whoever holds it may push.
type Turn = Arc<tokio::sync::Mutex<()>>;

struct Shared {
    http: http::Client,
    options: Options,
    trust: http::Trust,
    authorizer: auth::Authorizer,
    meter: cost::Meter,
    warnings: warnings::Warnings,
    /// Loopback hosts that turned out to speak TLS, or not.
    schemes: Mutex<BTreeMap<String, endpoint::Scheme>>,
    /// Which repositories are known to hold a blob: `(registry, digest)` → repositories.
    holders: Mutex<BTreeMap<(String, Digest), BTreeSet<String>>>,
    /// One push of a blob to a registry at a time: the second finds it there or mounts it.
    pushing: Mutex<BTreeMap<(String, Digest), Turn>>,
    uploading: Mutex<BTreeMap<String, Arc<Semaphore>>>,
    /// What tags named when they were first asked for.
    tagged: Mutex<BTreeMap<Reference, Answer>>,
}

/// What a registry said about a tag, once it has.
type Answer = Arc<OnceCell<Option<Descriptor>>>;

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("options", &self.shared.options)
            .field("mirrors", &self.mirrors)
            .finish_non_exhaustive()
    }
}

/// A manifest or index as the registry stores it.
#[derive(Clone, Debug)]
pub struct StoredManifest {
    /// Media type, digest and size of `bytes`.
    pub descriptor: Descriptor,
    /// The very bytes: the digest is over them.
    pub bytes: Bytes,
}

/// How a blob came to be in the target repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pushed {
    /// It was there.
    Existing,
    /// The registry took it from another of its repositories.
    Mounted,
    /// It was uploaded.
    Uploaded,
}

/// Where the bytes of a blob to be pushed are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BlobBytes {
    /// In a file.
    File(PathBuf),
    /// Here: configs and other small documents.
    Memory(Bytes),
    /// In that repository: they are streamed through, and never whole in memory.
    Registry(Reference),
}

impl Client {
    /// A client that has not spoken to anyone yet.
    pub fn new(http: http::Client, mut options: Options) -> Self {
        options.insecure.extend(options.conf.insecure());
        let trust =
            http::Trust { insecure: options.insecure.clone(), secure: options.conf.secure() };
        Self {
            shared: Arc::new(Shared {
                http: http.counted(),
                options,
                trust,
                authorizer: auth::Authorizer::default(),
                meter: cost::Meter::default(),
                warnings: warnings::Warnings::default(),
                schemes: Mutex::default(),
                holders: Mutex::default(),
                pushing: Mutex::default(),
                uploading: Mutex::default(),
                tagged: Mutex::default(),
            }),
            mirrors: true,
        }
    }

    /// The same client that asks no mirrors: for asking again after a mirror lied.
    #[must_use]
    pub fn without_mirrors(&self) -> Self {
        Self { mirrors: false, ..self.clone() }
    }

    /// What this client's requests cost so far. Clones share it.
    pub fn cost(&self) -> Cost {
        self.shared.meter.read(self.shared.http.requests())
    }
}

/// `name:tag@digest` as an address wants it: the digest if there is one, else the tag, else `latest`.
fn wanted(reference: &Reference) -> String {
    match (reference.digest(), reference.tag()) {
        (Some(digest), _) => digest.to_string(),
        (None, Some(tag)) => tag.to_owned(),
        (None, None) => "latest".to_owned(),
    }
}

/// A descriptor of media type, digest and size, and nothing else.
fn describe(media_type: &str, digest: &Digest, size: u64) -> Descriptor {
    use std::str::FromStr as _;
    let digest = oci_spec::image::Sha256Digest::from_str(&digest.hex());
    #[expect(clippy::expect_used, reason = "64 lower-case hex digits are one by our own type")]
    let digest = digest.expect("a digest is a digest");
    Descriptor::new(media_type.into(), size, digest)
}
