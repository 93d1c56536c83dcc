//! What can go wrong between us and a registry.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use reqwest::StatusCode;
use serde::Deserialize;

use super::credentials;
use crate::error::{Failure, Kind};
use crate::http;
use crate::oci::{Digest, digest};

/// A registry refused, lied, or could not be reached.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No usable answer.
    #[error(transparent)]
    Http(#[from] http::Error),
    /// Credentials cannot be read.
    #[error(transparent)]
    Credentials(credentials::Error),
    /// It is not there, or we are not to know.
    #[error("{what} is not in the registry: {request}: {status}{said}")]
    NotFound {
        /// `manifest docker.io/library/python:3.13`
        what: String,
        /// Method and redacted address.
        request: String,
        /// 404.
        status: StatusCode,
        /// What the registry said.
        said: Box<Said>,
    },
    /// 401 or 403.
    #[error("{registry} refused access: {request}: {status}{said}")]
    Denied {
        /// The registry.
        registry: String,
        /// Method and redacted address.
        request: String,
        /// 401 or 403.
        status: StatusCode,
        /// What the registry said.
        said: Box<Said>,
        /// Whether we came without credentials.
        anonymous: bool,
        /// Where credentials were looked for.
        looked_in: Vec<String>,
    },
    /// The token server gave no token.
    #[error("no token: {request}: {status}{said}")]
    Token {
        /// Method and redacted address.
        request: String,
        /// Its status.
        status: StatusCode,
        /// What it said.
        said: Box<Said>,
        /// Whether we came without credentials.
        anonymous: bool,
        /// Where credentials were looked for.
        looked_in: Vec<String>,
    },
    /// Any other status that does not mean success.
    #[error("{request}: {status}{said}")]
    Status {
        /// Method and redacted address.
        request: String,
        /// The status.
        status: StatusCode,
        /// What the registry said.
        said: Box<Said>,
    },
    /// The token realm is not one to send credentials to.
    #[error("the token realm that {registry} names is refused: {reason}")]
    Realm {
        /// The registry.
        registry: String,
        /// Why.
        reason: String,
    },
    /// An upload's `Location` leads where it must not, or is missing.
    #[error("{request}: the upload's location is refused: {reason}")]
    Location {
        /// Method and redacted address.
        request: String,
        /// Why.
        reason: String,
    },
    /// The answer is not what the specification says.
    #[error("{request}: {what}")]
    Malformed {
        /// Method and redacted address.
        request: String,
        /// What is wrong with it.
        what: String,
    },
    /// A digest in a document is not one we can check.
    #[error("a descriptor's digest cannot be checked")]
    Digest(#[from] digest::ParseError),
    /// Other bytes than asked for.
    #[error("digest mismatch of {what}: expected {expected}, found {found}")]
    DigestMismatch {
        /// `blob … of …`
        what: String,
        /// Asked for.
        expected: Digest,
        /// What the bytes have.
        found: Digest,
    },
    /// More or fewer bytes than promised.
    #[error("size mismatch of {what}: expected {expected} bytes, found {found}")]
    SizeMismatch {
        /// `blob … of …`
        what: String,
        /// Promised.
        expected: u64,
        /// How many came; one more than promised if it went on.
        found: u64,
    },
    /// A manifest that says two things at once (CVE-2021-41190).
    #[error("{what} is ambiguous: {reason}")]
    Ambiguous {
        /// `manifest …`
        what: String,
        /// How.
        reason: String,
    },
    /// A local file that was to be uploaded, or to stand in for a registry, cannot be read.
    #[error("cannot read `{}`", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file that was to be an OCI image layout is none, or holds another image.
    #[error("`{}` cannot be used: {reason}", path.display())]
    Layout {
        /// The folder or tar.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The machine's files forbid it.
    #[error("`{reference}` is blocked: registries.conf says so of `{prefix}`")]
    Blocked {
        /// What was asked for.
        reference: String,
        /// The rule.
        prefix: String,
    },
    /// The network is not to be used.
    #[error("{request} is needed, but the network is not to be used")]
    Offline {
        /// Method and redacted address.
        request: String,
    },
    /// The name cannot be made into an address.
    #[error("`{0}` is no registry's address")]
    Address(String),
    /// Others write the tag all the time.
    #[error("`{reference}` changed each of {attempts} times after it was written")]
    Contended {
        /// The tag.
        reference: String,
        /// How often it was tried.
        attempts: usize,
    },
    /// A manifest is pushed under a digest that is not its own.
    #[error("`{0}` names neither a tag nor the digest of what is pushed")]
    Target(String),
}

impl Error {
    /// Whether the same request may succeed later.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Http(error) => error.is_transient(),
            Self::Status { status, said, .. }
            | Self::Denied { status, said, .. }
            | Self::Token { status, said, .. } => is_transient(*status, said),
            _ => false,
        }
    }

    /// The status, where the failure is one.
    pub fn status(&self) -> Option<StatusCode> {
        match self {
            Self::NotFound { status, .. }
            | Self::Denied { status, .. }
            | Self::Token { status, .. }
            | Self::Status { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// What the registry said beside its status.
    pub fn said(&self) -> Option<&Said> {
        match self {
            Self::NotFound { said, .. }
            | Self::Denied { said, .. }
            | Self::Token { said, .. }
            | Self::Status { said, .. } => Some(said),
            _ => None,
        }
    }

    /// Whether the registry named this error code.
    pub fn has_code(&self, wanted: &str) -> bool {
        self.said().is_some_and(|said| said.codes.iter().any(|code| code == wanted))
    }
}

/// Whether an answer says "not now": by its status, by its code, or by the text of GitHub's secondary
/// rate limit, which comes as 403.
pub(super) fn is_transient(status: StatusCode, said: &Said) -> bool {
    let limited = |code: &String| matches!(code.as_str(), "TOOMANYREQUESTS" | "UNAVAILABLE");
    http::retry::is_transient(status)
        || said.codes.iter().any(limited)
        || (status == StatusCode::FORBIDDEN && said.text.to_lowercase().contains("rate limit"))
}

impl Failure for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::Http(error) => error.kind(),
            Self::Credentials(error) => error.kind(),
            Self::DigestMismatch { .. } | Self::SizeMismatch { .. } | Self::Ambiguous { .. } => {
                Kind::Integrity
            }
            Self::Address(_)
            | Self::Target(_)
            | Self::Blocked { .. }
            | Self::Layout { .. }
            | Self::Offline { .. } => Kind::Usage,
            Self::File { .. } => Kind::Unexpected,
            _ => Kind::Remote,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Http(error) => error.hint(),
            Self::Credentials(error) => error.hint(),
            Self::NotFound { .. } => {
                Some("check the name and the tag; a private repository looks the same".into())
            }
            Self::Denied { anonymous, looked_in, said, status, .. }
            | Self::Token { anonymous, looked_in, said, status, .. } => {
                Some(access_hint(*anonymous, looked_in, is_transient(*status, said)))
            }
            Self::Status { status, .. } if *status == StatusCode::TOO_MANY_REQUESTS => {
                Some("the registry limits requests: wait, or log in for a higher limit".into())
            }
            Self::Offline { .. } => {
                Some("run once without --offline: what is fetched stays in the cache".into())
            }
            _ => None,
        }
    }
}

fn access_hint(anonymous: bool, looked_in: &[String], limited: bool) -> String {
    if limited {
        return "the registry limits requests: wait, or log in for a higher limit".into();
    }
    let places = if looked_in.is_empty() { "nowhere".to_owned() } else { looked_in.join(", ") };
    if anonymous {
        format!(
            "no credentials were found; looked in: {places}\nlog in with a tool that writes one of these, or check the repository's name"
        )
    } else {
        format!("the credentials may be wrong or lack the right; looked in: {places}")
    }
}

/// What a registry said beside its status, cut and cleaned for a terminal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Said {
    /// The specification's error codes: `NAME_UNKNOWN`.
    pub codes: Vec<String>,
    /// The message, at most a few hundred characters.
    pub text: String,
    /// What it asked for by `Retry-After`.
    pub retry_after: Option<Duration>,
}

impl fmt::Display for Said {
    /// With a colon before it, or nothing.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for code in &self.codes {
            write!(f, ": {code}")?;
        }
        if self.text.is_empty() {
            return Ok(());
        }
        write!(f, ": {}", self.text)
    }
}

#[derive(Deserialize)]
struct Errors {
    errors: Vec<OneError>,
}

#[derive(Deserialize)]
struct OneError {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: Option<String>,
}

impl Said {
    /// Reads an error's body, as far as the limit allows. A body that breaks off says what had come.
    pub(super) async fn read(http: &http::Client, response: &mut reqwest::Response) -> Self {
        let retry_after = http::retry::retry_after(response.headers());
        let said = match http.body_start(response, http::ERROR_BODY_LIMIT).await {
            Ok((body, _)) => Self::parse(&body),
            Err(_broken) => Self::default(),
        };
        Self { retry_after, ..said }
    }

    /// Understands the specification's JSON; of anything else takes the readable part.
    pub fn parse(body: &[u8]) -> Self {
        if let Ok(Errors { errors }) = serde_json::from_slice(body) {
            let codes = errors
                .iter()
                .map(|error| clean(&error.code, 60))
                .filter(|code| !code.is_empty())
                .collect();
            let messages: Vec<&str> = errors
                .iter()
                .filter_map(|error| error.message.as_deref())
                .filter(|message| !message.is_empty())
                .collect();
            let text = clean(&messages.join("; "), 300);
            return Self { codes, text, retry_after: None };
        }
        let Ok(text) = std::str::from_utf8(body) else {
            return Self::default();
        };
        let lower = text.to_ascii_lowercase();
        let text = match (lower.find("<title>"), lower.find("</title>")) {
            (Some(start), Some(end)) if start + 7 <= end => &text[start + 7..end],
            _ if lower.trim_start().starts_with('<') => "",
            _ => text,
        };
        Self { codes: Vec::new(), text: clean(text, 300), retry_after: None }
    }
}

/// One line without control characters, at most `limit` characters.
fn clean(text: &str, limit: usize) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    words.join(" ").chars().filter(|character| !character.is_control()).take(limit).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_registries_say() {
        for (body, shown) in [
            (
                r#"{"errors":[{"code":"DENIED","message":"no\nway\u001b[2J"}]}"#,
                ": DENIED: no way[2J",
            ),
            (r#"{"errors":[{"code":"A"},{"code":"B","message":null}]}"#, ": A: B"),
            ("plain words\n", ": plain words"),
            ("<html><TITLE>502 Bad Gateway</TITLE><body>x", ": 502 Bad Gateway"),
            ("<html><body>x", ""),
            ("</title><title>", ""),
            ("", ""),
        ] {
            assert_eq!(Said::parse(body.as_bytes()).to_string(), shown, "{body}");
        }
        assert_eq!(Said::parse(b"\x1f\x8b\xff").to_string(), "");
        assert_eq!(Said::parse(&b"x".repeat(5000)).text.len(), 300);
    }

    #[test]
    fn the_secondary_rate_limit_is_not_for_ever() {
        let said = Said::parse(b"You have exceeded a secondary rate limit.");
        assert!(is_transient(StatusCode::FORBIDDEN, &said));
        assert!(!is_transient(StatusCode::FORBIDDEN, &Said::parse(b"no")));
        let code = Said::parse(br#"{"errors":[{"code":"TOOMANYREQUESTS"}]}"#);
        assert!(is_transient(StatusCode::BAD_REQUEST, &code));
    }
}
