//! Flags, variables and the machine's container files become what the HTTP and registry clients take.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::args::Shared;
use super::convert::key_value;
use super::environment::Environment;
use super::error::Error;
use crate::error::{Doing, Result};
use crate::http;
use crate::registry::{self, credentials};
use crate::store::Store;

/// The HTTP client of all doors.
///
/// # Errors
/// The bundle of authorities cannot be read.
pub(super) fn http(shared: &Shared, environment: &Environment) -> Result<http::Client> {
    http::Client::new(http::Options {
        ca_bundle: shared.ca_bundle.clone(),
        certs_d: certs_d(environment),
        ..http::Options::default()
    })
    .doing(|| "start".into())
}

/// Where certificates per host are kept: by the person, by the machine, by Docker
/// (containers-certs.d(5)).
fn certs_d(environment: &Environment) -> Vec<PathBuf> {
    let own = config_home(environment).map(|folder| folder.join("containers/certs.d"));
    let machine = ["/etc/containers/certs.d", "/etc/docker/certs.d"].map(PathBuf::from);
    own.into_iter().chain(machine).collect()
}

/// `$XDG_CONFIG_HOME`, or `~/.config`.
fn config_home(environment: &Environment) -> Option<PathBuf> {
    environment.path("XDG_CONFIG_HOME").or_else(|| Some(environment.path("HOME")?.join(".config")))
}

/// How registries are spoken to.
///
/// # Errors
/// A flag, a variable or a credentials file that means nothing.
pub(super) fn registries(
    shared: &Shared,
    environment: &Environment,
    store: &Store,
) -> Result<registry::Options> {
    Ok(registry::Options {
        keychain: keychain(environment)?,
        mirrors: mirrors(shared, environment).doing(|| "start".into())?,
        sessions: Some(store.root().join("uploads")),
        ..plain(shared)
    })
}

/// What needs neither files nor variables.
pub(super) fn plain(shared: &Shared) -> registry::Options {
    registry::Options {
        insecure: shared.plain_http.iter().cloned().collect(),
        offline: shared.offline,
        ..registry::Options::default()
    }
}

/// Where credentials are, by the environment.
pub(super) fn sources(environment: &Environment) -> credentials::Sources {
    credentials::Sources {
        pull_auth_file: environment.path("ASSEMBLE_PULL_AUTH_FILE"),
        push_auth_file: environment.path("ASSEMBLE_PUSH_AUTH_FILE"),
        docker_auth_config: environment.get("DOCKER_AUTH_CONFIG").map(str::to_owned),
        registry_auth_file: environment.path("REGISTRY_AUTH_FILE"),
        docker_config_dir: environment.path("DOCKER_CONFIG"),
        xdg_runtime_dir: environment.path("XDG_RUNTIME_DIR"),
        xdg_config_home: environment.path("XDG_CONFIG_HOME"),
        home: environment.path("HOME"),
        helper_path: environment.get("PATH").map(str::to_owned),
    }
}

/// All credentials there are.
///
/// # Errors
/// A file cannot be read.
pub(super) fn keychain(environment: &Environment) -> Result<credentials::Keychain> {
    credentials::Keychain::load(sources(environment))
        .doing(|| "read the registry credentials".into())
}

fn mirrors(
    shared: &Shared,
    environment: &Environment,
) -> std::result::Result<BTreeMap<String, Vec<String>>, Error> {
    let mut mirrors: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let variable = environment.get("ASSEMBLE_MIRRORS").unwrap_or_default();
    // Flags come first, so that they are tried first.
    let pairs = shared.mirrors.iter().map(String::as_str).chain(variable.split(','));
    for pair in pairs.map(str::trim).filter(|pair| !pair.is_empty()) {
        let (host, mirror) = key_value(pair, "--mirror HOST=MIRROR")?;
        mirrors.entry(host).or_default().push(mirror);
    }
    Ok(mirrors)
}
