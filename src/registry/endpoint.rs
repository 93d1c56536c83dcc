//! Where a registry's API is.

use std::sync::PoisonError;

use url::Url;

use super::credentials::canonical;
use super::{Client, Error};
use crate::http::redirect;
use crate::oci::Reference;

/// How a host is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scheme {
    /// TLS.
    Https,
    /// Plain.
    Http,
}

/// One repository at one host: the registry's own or a mirror's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Endpoint {
    /// As credentials know it: `docker.io`, or the mirror's host.
    pub(super) registry: String,
    /// `registry-1.docker.io`, `localhost:5000`
    pub(super) host: String,
    /// The repository there, with the mirror's prefix.
    pub(super) repository: String,
}

impl Endpoint {
    /// The registry that a reference names.
    pub(super) fn upstream(reference: &Reference) -> Self {
        let registry = canonical(reference.registry()).to_owned();
        Self { host: api_host(&registry), registry, repository: reference.repository().to_owned() }
    }

    /// The registry as a whole: its base address.
    pub(super) fn of_registry(registry: &str) -> Self {
        let registry = canonical(registry).to_owned();
        Self { host: api_host(&registry), registry, repository: String::new() }
    }

    /// A repository, given as `host[:port]/repository`.
    fn at(place: &str) -> Self {
        let (registry, repository) = place.split_once('/').unwrap_or((place, ""));
        Self { repository: repository.to_owned(), ..Self::of_registry(registry) }
    }

    /// A mirror, given as `host[:port][/prefix]`.
    fn mirror(mirror: &str, reference: &Reference) -> Self {
        let (host, prefix) = mirror.split_once('/').unwrap_or((mirror, ""));
        let prefix = prefix.trim_matches('/');
        let repository = if prefix.is_empty() {
            reference.repository().to_owned()
        } else {
            format!("{prefix}/{}", reference.repository())
        };
        Self { registry: host.to_owned(), host: host.to_owned(), repository }
    }
}

/// Who answers for a registry.
fn api_host(registry: &str) -> String {
    match registry {
        "docker.io" => "registry-1.docker.io".to_owned(),
        other => other.to_owned(),
    }
}

impl Client {
    /// Where to read from: mirrors in their order, then the registry itself, or what stands in for it.
    /// There is always a last one, and its word counts.
    pub(super) fn endpoints(&self, reference: &Reference) -> Result<Vec<Endpoint>, Error> {
        let upstream = Endpoint::upstream(reference);
        let route = self.shared.options.conf.route(reference);
        if let Some(prefix) = route.blocked_by {
            return Err(Error::Blocked { reference: reference.to_string(), prefix });
        }
        let mut endpoints = Vec::new();
        if self.mirrors {
            let given = self.shared.options.mirrors.get(&upstream.registry);
            let given = given.into_iter().flatten();
            endpoints.extend(given.map(|mirror| Endpoint::mirror(mirror, reference)));
            endpoints.extend(route.mirrors.iter().map(|place| Endpoint::at(place)));
        }
        endpoints.push(route.location.map_or(upstream, |place| Endpoint::at(&place)));
        Ok(endpoints)
    }

    /// Where to write. Mirrors and other locations are for reading.
    pub(super) fn target(&self, reference: &Reference) -> Result<Endpoint, Error> {
        match self.shared.options.conf.route(reference).blocked_by {
            Some(prefix) => Err(Error::Blocked { reference: reference.to_string(), prefix }),
            None => Ok(Endpoint::upstream(reference)),
        }
    }

    /// The address of something below `/v2/<repository>/`; of `/v2/` for a registry as a whole.
    pub(super) fn url(&self, endpoint: &Endpoint, path: &str) -> Result<Url, Error> {
        let malformed = || Error::Address(endpoint.host.clone());
        let address = |scheme: &str| {
            let below = match endpoint.repository.as_str() {
                "" => String::new(),
                repository => format!("{repository}/{path}"),
            };
            let text = format!("{scheme}://{}/v2/{below}", endpoint.host);
            Url::parse(&text).map_err(|_malformed| malformed())
        };
        let url = address("https")?;
        // A host with a user name or path in it would be another host than it looks.
        if !url.username().is_empty() || url.password().is_some() {
            return Err(malformed());
        }
        match self.scheme(endpoint, &url) {
            Scheme::Https => Ok(url),
            Scheme::Http => address("http"),
        }
    }

    fn scheme(&self, endpoint: &Endpoint, url: &Url) -> Scheme {
        let schemes = self.shared.schemes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = schemes.get(&endpoint.host) {
            return *known;
        }
        if self.shared.trust.is_insecure(&endpoint.host) || redirect::is_loopback(url) {
            Scheme::Http
        } else {
            Scheme::Https
        }
    }

    /// Remembers that a host on loopback wants TLS after all.
    pub(super) fn speak_tls(&self, endpoint: &Endpoint) {
        self.shared
            .schemes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(endpoint.host.clone(), Scheme::Https);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http;
    use crate::registry::Options;
    use crate::registry::registries_conf::RegistriesConf;

    #[test]
    fn plain_http_where_it_was_chosen() {
        let mut conf = RegistriesConf::default();
        conf.add(
            "[[registry]]\nprefix = '*.lab.example'\ninsecure = true\n\
             [[registry]]\nprefix = 'tls.lab.example'\n",
        )
        .unwrap();
        let options = Options {
            insecure: ["chosen.example:5000".to_owned()].into(),
            conf,
            ..Options::default()
        };
        let client = Client::new(http::Client::new(http::Options::default()).unwrap(), options);
        for (reference, scheme) in [
            ("chosen.example:5000/a", "http"),
            ("chosen.example/a", "https"),
            ("a.lab.example/a", "http"),
            ("a.lab.example:5000/a", "http"),
            ("tls.lab.example/a", "https"),
            ("lab.example/a", "https"),
            ("localhost:5000/a", "http"),
        ] {
            let endpoint = client.target(&reference.parse().unwrap()).unwrap();
            assert_eq!(client.url(&endpoint, "x").unwrap().scheme(), scheme, "{reference}");
        }
    }
}
