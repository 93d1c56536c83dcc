//! What was typed and what the environment says become what is meant: a [`World`], requests, options.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fs_err as fs;
use jiff::Timestamp;

use super::args::{Assemble, Format, Shared};
use super::environment::Environment;
use super::error::Error;
use super::network;
use crate::error::{Doing, Result};
use crate::oci::Platform;
use crate::recipe::{Cell, Layer, Lock, Recipe};
use crate::request::{Check, Destination, Request};
use crate::store::Store;
use crate::world::{Progress, World};
use crate::{beside, package_index, registry, sandbox};

/// Opens the world: cache, clients, sandbox.
///
/// # Errors
/// A flag or variable that means nothing; an unusable cache.
pub(super) fn world(
    shared: &Shared,
    environment: &Environment,
    progress: Arc<dyn Progress>,
) -> Result<World> {
    let doing = || "start".to_owned();
    let store = Store::open(cache_folder(shared, environment).doing(doing)?)
        .doing(|| "open the cache".into())?;
    let http = network::http(shared, environment)?;
    let mut options = network::registries(shared, environment, &store)?;
    let told = Arc::clone(&progress);
    options.observer =
        registry::Observer::new(move |what, done, total| told.bytes(what, done, total));
    let registry = registry::Client::new(http.clone(), options);
    let package_index =
        package_index::Client::new(http, package_index_config(shared, environment)?, store.clone());
    Ok(World {
        store,
        registry,
        package_index,
        // The recipe may name one, and is read later.
        wheel_cache: None,
        sandbox: sandbox::Sandbox {
            launcher: PathBuf::from("/proc/self/exe"),
            force_loader: environment.get("ASSEMBLE_SANDBOX") == Some("loader"),
        },
        progress,
        parallel: shared
            .jobs
            .or_else(|| std::thread::available_parallelism().ok().map(Into::into))
            .unwrap_or(1)
            .max(1),
        root: shared.root.clone(),
    })
}

fn cache_folder(shared: &Shared, environment: &Environment) -> std::result::Result<PathBuf, Error> {
    shared
        .cache_dir
        .clone()
        .or_else(|| environment.path("ASSEMBLE_CACHE_DIR"))
        .or_else(|| Some(environment.path("XDG_CACHE_HOME")?.join("assemble")))
        .or_else(|| Some(environment.path("HOME")?.join(".cache/assemble")))
        .ok_or(Error::NoCacheFolder)
}

pub(super) fn key_value(
    text: &str,
    form: &'static str,
) -> std::result::Result<(String, String), Error> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() && !value.is_empty() => {
            Ok((key.to_owned(), value.to_owned()))
        }
        _ => Err(Error::Form { form, found: text.to_owned() }),
    }
}

fn package_index_config(
    shared: &Shared,
    environment: &Environment,
) -> Result<package_index::Config> {
    let own = |name: &str| environment.get(name).map(str::to_owned);
    // pip's own order, the strongest last: global, user, and the file that is named.
    let mut pip_conf = vec![PathBuf::from("/etc/pip.conf")];
    let config_folder = environment
        .path("XDG_CONFIG_HOME")
        .or_else(|| Some(environment.path("HOME")?.join(".config")));
    pip_conf.extend(environment.path("HOME").map(|home| home.join(".pip/pip.conf")));
    pip_conf.extend(config_folder.map(|folder| folder.join("pip/pip.conf")));
    if environment.get("PIP_CONFIG_FILE") == Some("/dev/null") {
        pip_conf.clear();
    } else {
        pip_conf.extend(environment.path("PIP_CONFIG_FILE"));
    }
    let netrc =
        environment.path("NETRC").or_else(|| Some(environment.path("HOME")?.join(".netrc")));
    let text = |path: PathBuf| fs::read_to_string(path).ok();
    package_index::Config::from_sources(&package_index::Sources {
        index_url: shared.index_url.clone(),
        extra_index_urls: shared.extra_index_url.clone(),
        find_links: shared.find_links.iter().map(|p| p.display().to_string()).collect(),
        no_index: shared.no_index,
        offline: shared.offline,
        uv_default_index: own("UV_DEFAULT_INDEX"),
        uv_index_url: own("UV_INDEX_URL"),
        uv_index: own("UV_INDEX"),
        uv_extra_index_url: own("UV_EXTRA_INDEX_URL"),
        uv_find_links: own("UV_FIND_LINKS"),
        pip_index_url: own("PIP_INDEX_URL"),
        pip_extra_index_url: own("PIP_EXTRA_INDEX_URL"),
        pip_find_links: own("PIP_FIND_LINKS"),
        pip_no_index: own("PIP_NO_INDEX"),
        pip_conf: pip_conf.into_iter().filter_map(text).collect(),
        netrc: netrc.and_then(text),
    })
    .doing(|| "configure the package index".into())
}

/// The lock of a cell, found to match its inputs.
///
/// # Errors
/// There is none, it is damaged, or an input changed.
pub(super) fn lock_of(recipe: &Recipe, cell: &Cell) -> Result<Lock> {
    let doing = || format!("use the lock of {}", cell.path);
    let path = recipe.lock_path(cell);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(Error::NoLock { cell: cell.path.clone() }).doing(doing);
        }
        Err(error) => return Err(Error::Disk(error)).doing(doing),
    };
    let lock = Lock::parse(&text, &path).doing(doing)?;
    crate::assemble::check_inputs(&lock, cell, &recipe.layers)?;
    Ok(lock)
}

/// Each selected cell's path, and its request or why there is none, in the matrix's order.
pub(super) type CellRequests = Vec<(String, Result<Request>)>;

/// One request per selected cell, in the matrix's order, or why that cell cannot be made.
///
/// # Errors
/// A flag that does not fit.
pub(super) fn requests(
    recipe: &Recipe,
    flags: &Assemble,
    environment: &Environment,
) -> Result<CellRequests> {
    let doing = || "understand the command line".to_owned();
    let cells = recipe.matrix.select(&flags.cells).doing(|| "select cells".into())?;
    if flags.digest_file.is_some() && cells.len() > 1 {
        return Err(Error::OneCellOnly { flag: "--digest-file", cells: cells.len() }).doing(doing);
    }
    let created = created(environment).doing(doing)?;
    let annotations = flags
        .annotations
        .iter()
        .map(|text| key_value(text, "--annotation KEY=VALUE"))
        .collect::<std::result::Result<_, _>>()
        .doing(doing)?;
    let several = cells.len() > 1;
    let request = |cell: &Cell| {
        Ok(Request {
            lock: lock_of(recipe, cell)?,
            platforms: platforms(cell, &flags.platforms).doing(doing)?,
            created,
            check: check(flags),
            annotations: BTreeMap::clone(&annotations),
            destinations: destinations(cell, flags, several),
            layers: Vec::<Layer>::clone(&recipe.layers),
            cell: cell.clone(),
        })
    };
    Ok(cells.into_iter().map(|cell| (cell.path.clone(), request(cell))).collect())
}

/// As [`requests`], for the index behind each cell's tag.
///
/// # Errors
/// As [`requests`].
pub(super) fn index_requests(
    recipe: &Recipe,
    flags: &Assemble,
    environment: &Environment,
) -> Result<CellRequests> {
    let mut requests = requests(recipe, flags, environment)?;
    for request in requests.iter_mut().filter_map(|(_, request)| request.as_mut().ok()) {
        let name = request.cell.reference.clone();
        request.destinations.retain(|place| {
            place.is_on_disk() && (flags.output.is_some() || flags.format.is_some())
        });
        request.destinations.push(Destination::Index(vec![name]));
    }
    Ok(requests)
}

/// A request that makes one cell to look at it, and writes nothing.
///
/// # Errors
/// A platform that the cell does not have, or no fitting lock.
pub(super) fn check_request(
    recipe: &Recipe,
    cell: &Cell,
    platform: Option<&Platform>,
    environment: &Environment,
) -> Result<Request> {
    let doing = || "understand the command line".to_owned();
    let wanted: Vec<String> = platform.iter().map(ToString::to_string).collect();
    Ok(Request {
        lock: lock_of(recipe, cell)?,
        platforms: platforms(cell, &wanted).doing(doing)?,
        created: created(environment).doing(doing)?,
        check: Check::Start,
        annotations: BTreeMap::new(),
        destinations: Vec::new(),
        layers: Vec::<Layer>::clone(&recipe.layers),
        cell: cell.clone(),
    })
}

fn check(flags: &Assemble) -> Check {
    match (flags.no_check, flags.check) {
        (true, _) => Check::Off,
        (false, true) => Check::Start,
        (false, false) => Check::Cheap,
    }
}

/// `SOURCE_DATE_EPOCH`, whole seconds (the reproducible-builds specification); anything else is an
/// error, since ignoring it would give an image that is not what was asked for.
fn created(environment: &Environment) -> std::result::Result<Option<Timestamp>, Error> {
    environment
        .get("SOURCE_DATE_EPOCH")
        .map(|text| {
            let second = text.parse().ok();
            second
                .and_then(|second| Timestamp::from_second(second).ok())
                .ok_or_else(|| Error::SourceDateEpoch(text.to_owned()))
        })
        .transpose()
}

fn platforms(cell: &Cell, wanted: &[String]) -> std::result::Result<Vec<Platform>, Error> {
    if wanted.is_empty() {
        return Ok(cell.platforms.clone());
    }
    let mut platforms = Vec::new();
    for text in wanted.iter().flat_map(|text| text.split(',')) {
        let wanted: Platform = text.parse().map_err(Error::Platform)?;
        let platform = cell.platforms.iter().find(|has| has.matches(&wanted));
        platforms.push(platform.cloned().ok_or_else(|| Error::NoSuchPlatform {
            cell: cell.path.clone(),
            wanted,
            have: cell.platforms.clone(),
        })?);
    }
    platforms.sort();
    platforms.dedup();
    Ok(platforms)
}

fn destinations(cell: &Cell, flags: &Assemble, several: bool) -> Vec<Destination> {
    let mut destinations = Vec::new();
    if !flags.push || flags.output.is_some() || flags.format.is_some() {
        let format = flags.format.unwrap_or(Format::Tar);
        let name = file_name(cell, format);
        let path = match &flags.output {
            None => PathBuf::from(name),
            // `-o folder/`, or a folder that is there, or several cells: a file in it for each cell.
            Some(path) if several || is_folder(path, format) => path.join(name),
            Some(path) => path.clone(),
        };
        destinations.push(match format {
            Format::Tar => Destination::Archive(path),
            Format::Oci => Destination::Layout(path),
        });
    }
    if flags.push {
        destinations.push(Destination::Registry(cell.references()));
    }
    destinations
}

/// Whether `--output` means a folder to put things into: an archive's own name ends in `.tar`, a
/// layout's is any that is not an existing folder of something else.
fn is_folder(path: &Path, format: Format) -> bool {
    match format {
        Format::Tar => path.extension().is_none_or(|ending| ending != "tar") || path.is_dir(),
        Format::Oci => {
            path.as_os_str().to_string_lossy().ends_with('/')
                || (path.is_dir() && !path.join("oci-layout").exists())
        }
    }
}

/// `locust-2.47.0-python3.13-alpine3.24.tar`: the repository's last part and the tag.
fn file_name(cell: &Cell, format: Format) -> String {
    let repository = cell.reference.repository();
    let last = repository.rsplit('/').next().unwrap_or(repository);
    let ending = match format {
        Format::Tar => ".tar",
        Format::Oci => "",
    };
    format!("{last}-{}{ending}", cell.tag())
}

/// The lock there is, whether its inputs still hold or not; `None` if there is none.
///
/// # Errors
/// It cannot be read.
pub(super) fn older_lock(recipe: &Recipe, cell: &Cell) -> Result<Option<Lock>> {
    let doing = || format!("read the lock of {}", cell.path);
    let path = recipe.lock_path(cell);
    match fs::read_to_string(&path) {
        Ok(text) => Lock::parse(&text, &path).doing(doing).map(Some),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::Disk(error)).doing(doing),
    }
}

/// The text of a lock.
pub(super) fn lock_text(lock: &Lock) -> std::result::Result<String, Error> {
    lock.to_toml().map_err(|error| Error::Disk(std::io::Error::other(error)))
}

/// Writes a file beside its place and renames it: it is complete, or as it was. Folders that had to
/// be made for it do not stay without it.
pub(super) fn write_beside(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    use std::io::Write as _;
    let folder = beside::parent(path);
    let missing: Vec<_> = folder.ancestors().take_while(|folder| !folder.exists()).collect();
    let write = || {
        fs::create_dir_all(folder)?;
        beside::sweep(folder);
        let mut file = beside::file(path, 0o600)?;
        file.write_all(bytes)?;
        file.as_file().sync_data()?;
        make_readable(file.as_file())?;
        file.persist(path).map_err(|error| error.error)?;
        Ok(())
    };
    let outcome = write();
    if outcome.is_err() {
        // Deepest first; a folder that somebody else uses by now is not empty and stays.
        for folder in missing {
            let _used = fs::remove_dir(folder);
        }
    }
    outcome
}

/// Temporary files are private; what is left for others has the mode of an ordinary file.
fn make_readable(file: &std::fs::File) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    file.set_permissions(std::fs::Permissions::from_mode(0o644))
}

/// The moment a limit means: RFC 3339, or the end of a day in UTC.
pub(super) fn end_of(text: &str) -> std::result::Result<Timestamp, Error> {
    let error = || Error::Date(text.to_owned());
    if let Ok(moment) = text.parse::<Timestamp>() {
        return Ok(moment);
    }
    let _day: jiff::civil::Date = text.parse().map_err(|_ignored| error())?;
    format!("{text}T23:59:59Z").parse().map_err(|_ignored| error())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_moments_in_utc() {
        assert_eq!(end_of("2026-10-29").unwrap().to_string(), "2026-10-29T23:59:59Z");
        assert_eq!(
            end_of("2026-10-29T00:00:00+01:00").unwrap().to_string(),
            "2026-10-28T23:00:00Z"
        );
        assert!(end_of("yesterday").is_err());
    }

    #[test]
    fn pairs_have_both_sides() {
        assert_eq!(key_value("a=b=c", "K=V").unwrap(), ("a".to_owned(), "b=c".to_owned()));
        assert!(key_value("a=", "K=V").is_err());
        assert!(key_value("=b", "K=V").is_err());
        assert!(key_value("ab", "K=V").is_err());
    }
}
