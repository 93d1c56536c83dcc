//! Flags, variables and the machine's container files become what the HTTP and registry clients take.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use fs_err as fs;

use super::args::Shared;
use super::convert::key_value;
use super::environment::Environment;
use super::error::Error;
use crate::error::{Doing, Result};
use crate::oci::Reference;
use crate::recipe::Settings;
use crate::registry::layouts::Layouts;
use crate::registry::registries_conf::RegistriesConf;
use crate::registry::{self, credentials};
use crate::store::Store;
use crate::{http, wheel_cache};

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
        conf: conf(environment).doing(|| "read registries.conf".into())?,
        layouts: layouts(shared)?,
        sessions: Some(store.root().join("uploads")),
        ..plain(shared)
    })
}

/// The bases that lie on this disk.
fn layouts(shared: &Shared) -> Result<Layouts> {
    let mut layouts = Layouts::default();
    for text in &shared.base_layouts {
        let doing = || format!("use --base-layout {text}");
        let (reference, path) = key_value(text, "--base-layout REF=PATH").doing(doing)?;
        let reference = reference.parse().map_err(Error::Reference).doing(doing)?;
        layouts.add(reference, Path::new(&path)).doing(doing)?;
    }
    Ok(layouts)
}

/// The machine's and the person's `registries.conf`, and what lies in the folders beside them, in the
/// order of containers-registries.conf(5): one main file, then all additions.
fn conf(environment: &Environment) -> std::result::Result<RegistriesConf, Error> {
    let mut conf = RegistriesConf::default();
    // A file that is named stands alone.
    if let Some(path) = environment.path("CONTAINERS_REGISTRIES_CONF") {
        let text = fs::read_to_string(&path).map_err(Error::Disk)?;
        add(&mut conf, &path, &text)?;
        return Ok(conf);
    }
    let own = config_home(environment).map(|folder| folder.join("containers"));
    let machine = PathBuf::from("/etc/containers");
    for folder in own.iter().chain([&machine]) {
        let path = folder.join("registries.conf");
        if let Some(text) = text_if_there(&path)? {
            add(&mut conf, &path, &text)?;
            break;
        }
    }
    for folder in [&machine].into_iter().chain(&own) {
        let Ok(entries) = fs::read_dir(folder.join("registries.conf.d")) else { continue };
        let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
        paths.retain(|path| path.extension().is_some_and(|ending| ending == "conf"));
        paths.sort();
        for path in paths {
            if let Some(text) = text_if_there(&path)? {
                add(&mut conf, &path, &text)?;
            }
        }
    }
    Ok(conf)
}

fn add(conf: &mut RegistriesConf, path: &Path, text: &str) -> std::result::Result<(), Error> {
    conf.add(text).map_err(|reason| Error::RegistriesConf { path: path.to_owned(), reason })
}

/// The text; `None` where there is no such file, or it is not ours to read.
fn text_if_there(path: &Path) -> std::result::Result<Option<String>, Error> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) => match error.kind() {
            ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::PermissionDenied => {
                Ok(None)
            }
            _ => Err(Error::Disk(error)),
        },
    }
}

/// The shared cache of built wheels: by the flag, the variable or the recipe, the first that says
/// something. Without the network there is none.
///
/// # Errors
/// What is named is no repository, or is to be written and not named.
pub(super) fn wheel_cache(
    shared: &Shared,
    environment: &Environment,
    settings: &Settings,
    registry: &registry::Client,
) -> Result<Option<wheel_cache::Cache>> {
    let doing = || "use the wheel cache".to_owned();
    let named = shared.wheel_cache.as_deref().or_else(|| environment.get("ASSEMBLE_WHEEL_CACHE"));
    let repository = match named {
        Some("none") => None,
        Some(name) => {
            let reference: Reference = name.parse().map_err(Error::Reference).doing(doing)?;
            if reference.tag().is_some() || reference.digest().is_some() {
                return Err(Error::NoRepository(name.to_owned())).doing(doing);
            }
            Some(reference)
        }
        None => settings.wheels.clone(),
    };
    match repository {
        Some(_) if shared.offline => Ok(None),
        Some(repository) => {
            Ok(Some(wheel_cache::Cache::new(registry, &repository, shared.push_wheels)))
        }
        None if shared.push_wheels => Err(Error::NoWheelCache).doing(doing),
        None => Ok(None),
    }
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
