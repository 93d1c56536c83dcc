//! Where a request may be sent on to, and with what.
//!
//! `Authorization` never crosses from one host and port to another (distribution-spec, *API*); a
//! redirect, an upload's `Location` or a token realm leads to `https`, or to plain HTTP only where
//! that was chosen: from loopback to loopback, or to a host named by the user. Addresses that only
//! this machine or its cloud can reach are refused to servers that are not there themselves.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use reqwest::StatusCode;
use reqwest::header::{HeaderMap, LOCATION};
use url::{Host, Url};

/// Hosts (`host[:port]`) that may be spoken to in plain HTTP although they are not loopback, and all
/// hosts below a domain (`*.example.com`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trust {
    /// By the user's explicit choice.
    pub insecure: BTreeSet<String>,
    /// What the domains in `insecure` do not concern.
    pub secure: BTreeSet<String>,
}

/// Why a redirect is not followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// There is no address in it, or none that can be read.
    NoTarget,
    /// More than ten, one after the other.
    TooMany,
    /// Another scheme than `http` and `https`.
    Scheme(String),
    /// Plain HTTP to a host that is neither loopback nor chosen.
    Insecure(String),
    /// An address of this machine or its link, given by a server elsewhere.
    Internal(String),
    /// A user name or password in the address.
    Credentials,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoTarget => write!(f, "it names no address"),
            Self::TooMany => write!(f, "there are too many"),
            Self::Scheme(scheme) => write!(f, "scheme `{scheme}`"),
            Self::Insecure(host) => write!(f, "plain HTTP to `{host}`"),
            Self::Internal(host) => write!(f, "internal address `{host}`"),
            Self::Credentials => write!(f, "the address holds a user name"),
        }
    }
}

impl Trust {
    /// Whether `host[:port]` may be spoken to in plain HTTP: by what is said of the host itself, else
    /// of the longest domain it is below.
    pub fn is_insecure(&self, host: &str) -> bool {
        if self.insecure.contains(host) || self.secure.contains(host) {
            return self.insecure.contains(host);
        }
        let longest = |patterns: &BTreeSet<String>| {
            let below = patterns.iter().filter(|pattern| is_below(host, pattern));
            below.map(String::len).max().unwrap_or(0)
        };
        longest(&self.insecure) > longest(&self.secure)
    }

    /// Whether a server that was asked at `origin` may send us to `target`.
    ///
    /// # Errors
    /// It may not.
    pub fn check(&self, origin: &Url, target: &Url) -> Result<(), Refusal> {
        if !target.username().is_empty() || target.password().is_some() {
            return Err(Refusal::Credentials);
        }
        if is_same_host(origin, target) && origin.scheme() == target.scheme() {
            return Ok(());
        }
        let host = host_and_port(target);
        if is_loopback(target) {
            return if is_loopback(origin) && matches!(target.scheme(), "http" | "https") {
                Ok(())
            } else {
                Err(Refusal::Internal(host))
            };
        }
        if is_link_local(target) {
            return Err(Refusal::Internal(host));
        }
        match target.scheme() {
            "https" => Ok(()),
            "http" if self.is_insecure(&host) => Ok(()),
            "http" => Err(Refusal::Insecure(host)),
            scheme => Err(Refusal::Scheme(scheme.to_owned())),
        }
    }
}

/// Whether `host[:port]` is below the domain of `*.domain`. A pattern without a port is for all ports.
pub fn is_below(host: &str, pattern: &str) -> bool {
    let Some(domain) = pattern.strip_prefix('*').filter(|domain| domain.starts_with('.')) else {
        return false;
    };
    let name = host.rsplit_once(':').map_or(host, |(name, _port)| name);
    [host, name].iter().any(|host| host.len() > domain.len() && host.ends_with(domain))
}

/// What the raw client follows.
pub(super) fn policy() -> reqwest::redirect::Policy {
    reqwest::redirect::Policy::custom(|attempt| {
        if attempt.previous().len() > 10 {
            return attempt.error("too many redirects");
        }
        let origin = attempt.previous().first();
        let verdict = origin.map_or(Ok(()), |origin| Trust::default().check(origin, attempt.url()));
        match verdict {
            Ok(()) => attempt.follow(),
            Err(refusal) => attempt.error(format!("redirect refused: {refusal}")),
        }
    })
}

/// Whether the status says that the answer is elsewhere.
pub fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

/// The address in `Location`, which may be relative to `from`.
///
/// # Errors
/// There is none, or it cannot be read.
pub fn target(from: &Url, headers: &HeaderMap) -> Result<Url, Refusal> {
    headers
        .get(LOCATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|location| from.join(location).ok())
        .ok_or(Refusal::NoTarget)
}

/// Whether two addresses have the same host and port; the port may be the scheme's.
pub fn is_same_host(left: &Url, right: &Url) -> bool {
    left.host() == right.host() && left.port_or_known_default() == right.port_or_known_default()
}

/// `host` or `host:port`; the port is left out where it is the scheme's.
pub fn host_and_port(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// Whether the host is this machine: `localhost`, a name below it, `127.0.0.0/8`, `::1`.
pub fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => {
            address.is_loopback() || address.to_ipv4_mapped().is_some_and(|v4| v4.is_loopback())
        }
        None => false,
    }
}

/// Whether the host is an address that has no meaning beyond the link: cloud metadata lives there.
fn is_link_local(url: &Url) -> bool {
    let address = match url.host() {
        Some(Host::Ipv4(address)) => IpAddr::V4(address),
        Some(Host::Ipv6(address)) => {
            address.to_ipv4_mapped().map_or(IpAddr::V6(address), IpAddr::V4)
        }
        _ => return false,
    };
    match address {
        IpAddr::V4(address) => {
            address.is_link_local() || address.is_unspecified() || address.is_broadcast()
        }
        IpAddr::V6(address) => address.is_unicast_link_local() || address.is_unspecified(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leads_only_where_it_may() {
        let insecure = BTreeSet::from(["plain.example:5000".to_owned()]);
        let trust = Trust { insecure, ..Trust::default() };
        for (origin, target, allowed) in [
            ("https://r.example/v2/", "https://s3.example/x", true),
            ("https://r.example/v2/", "http://s3.example/x", false),
            ("https://r.example/v2/", "http://plain.example:5000/x", true),
            ("https://r.example/v2/", "http://plain.example/x", false),
            ("https://r.example/v2/", "http://127.0.0.1:80/x", false),
            ("https://r.example/v2/", "https://localhost/x", false),
            ("https://r.example/v2/", "https://[::ffff:127.0.0.1]/x", false),
            ("https://r.example/v2/", "https://169.254.169.254/latest", false),
            ("https://r.example/v2/", "https://[fe80::1]/latest", false),
            ("https://r.example/v2/", "https://0.0.0.0/latest", false),
            ("https://r.example/v2/", "file:///etc/passwd", false),
            ("https://r.example/v2/", "https://u:p@r.example/", false),
            ("http://127.0.0.1:5000/v2/", "http://localhost:5001/x", true),
            ("http://127.0.0.1:5000/v2/", "http://169.254.169.254/", false),
            ("http://plain.example/v2/", "http://plain.example/x", true),
            ("https://r.example/v2/", "http://r.example/x", false),
        ] {
            let (from, to) = (Url::parse(origin).unwrap(), Url::parse(target).unwrap());
            assert_eq!(trust.check(&from, &to).is_ok(), allowed, "{origin} {target}");
        }
    }

    #[test]
    fn hosts_are_compared_with_their_ports() {
        for (left, right, same) in [
            ("https://a.example/x", "https://a.example:443/y", true),
            ("https://a.example/x", "https://a.example:444/y", false),
            ("https://A.example/x", "https://a.example/y", true),
            ("https://a.example/x", "https://a.example.evil/y", false),
        ] {
            let (left, right) = (Url::parse(left).unwrap(), Url::parse(right).unwrap());
            assert_eq!(is_same_host(&left, &right), same, "{left} {right}");
        }
    }

    #[test]
    fn a_domain_is_for_the_hosts_below_it() {
        let set = |hosts: &[&str]| hosts.iter().map(ToString::to_string).collect();
        let trust = Trust {
            insecure: set(&["*.plain.example", "*.in.tls.plain.example", "*.port.example:5000"]),
            secure: set(&["one.plain.example", "*.tls.plain.example"]),
        };
        for (host, insecure) in [
            ("a.plain.example", true),
            ("a.b.plain.example", true),
            ("a.plain.example:5000", true),
            ("plain.example", false),
            (".plain.example", false),
            ("notplain.example", false),
            ("a.plain.example.org", false),
            ("one.plain.example", false),
            ("one.plain.example:80", true),
            ("a.tls.plain.example", false),
            ("a.in.tls.plain.example", true),
            ("a.port.example:5000", true),
            ("a.port.example", false),
        ] {
            assert_eq!(trust.is_insecure(host), insecure, "{host}");
        }
    }
}
