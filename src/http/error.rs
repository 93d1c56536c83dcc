//! What can go wrong below the level of statuses.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use reqwest::{Method, Url};

use super::redact::redact;
use super::redirect::Refusal;
use crate::error::{Failure, Kind};

/// No usable response. Addresses in here are redacted.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The client cannot be made.
    #[error("the HTTP client cannot be made")]
    Client {
        /// Why.
        #[source]
        source: reqwest::Error,
    },
    /// A file of certificates or keys cannot be used.
    #[error("certificates cannot be read: `{}`", path.display())]
    Certificates {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No connection, or it broke.
    #[error("{method} {url}: no answer")]
    Unreachable {
        /// The request's method.
        method: Method,
        /// The request's address.
        url: String,
        /// Why; it does not repeat the address.
        #[source]
        source: reqwest::Error,
    },
    /// The connection stood, but nothing moved.
    #[error("{method} {url}: nothing moved for {seconds} s")]
    Stalled {
        /// The request's method.
        method: Method,
        /// The request's address.
        url: String,
        /// For how long.
        seconds: u64,
    },
    /// The body is longer than anything that makes sense there.
    #[error("{method} {url}: the answer is longer than {limit} bytes")]
    TooLarge {
        /// The request's method.
        method: Method,
        /// The request's address.
        url: String,
        /// The limit.
        limit: usize,
    },
    /// A redirect leads where it must not.
    #[error("{method} {url}: redirect refused: {refusal}")]
    Redirect {
        /// The request's method.
        method: Method,
        /// The address that redirected.
        url: String,
        /// Why.
        refusal: Refusal,
    },
}

impl Error {
    pub(crate) fn unreachable(method: &Method, url: &Url, source: reqwest::Error) -> Self {
        Self::Unreachable { method: method.clone(), url: redact(url), source: source.without_url() }
    }

    pub(crate) fn stalled(method: &Method, url: &Url, timeout: Duration) -> Self {
        Self::Stalled { method: method.clone(), url: redact(url), seconds: timeout.as_secs() }
    }

    pub(crate) fn too_large(method: &Method, url: &Url, limit: usize) -> Self {
        Self::TooLarge { method: method.clone(), url: redact(url), limit }
    }

    pub(crate) fn redirect(method: &Method, url: &Url, refusal: Refusal) -> Self {
        Self::Redirect { method: method.clone(), url: redact(url), refusal }
    }

    /// Whether the same request may succeed later: the network failed, not a rule or a certificate.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { source, .. } => {
                !source.is_builder() && !is_certificate_failure(source)
            }
            Self::Stalled { .. } => true,
            _ => false,
        }
    }
}

/// Whether the chain of causes ends in TLS: asking again gives the same certificate.
pub(crate) fn is_certificate_failure(error: &(dyn std::error::Error + 'static)) -> bool {
    if error.is::<rustls::Error>() {
        return true;
    }
    // An io::Error does not give what it wraps as its source, but that one's source.
    let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
    wrapped.is_some_and(|inner| is_certificate_failure(inner))
        || error.source().is_some_and(is_certificate_failure)
}

impl Failure for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::Client { .. } => Kind::Unexpected,
            Self::Certificates { .. } => Kind::Usage,
            _ => Kind::Remote,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Unreachable { source, .. } if is_certificate_failure(source) => Some(
                "if the server's certificate is signed by an authority of your own, name its PEM \
                 file with --ca-bundle"
                    .into(),
            ),
            Self::Unreachable { source, .. } if source.is_connect() => Some(
                "check the host's name and the network; HTTPS_PROXY and NO_PROXY are used".into(),
            ),
            Self::Redirect { .. } => {
                Some("redirects are followed to https and to loopback only".into())
            }
            _ => None,
        }
    }
}
