//! An sdist becomes a wheel by PEP 517, with the base's own Python in the sandbox: no network, only
//! the locked build requirements, an exact environment. The result is found again by everything that
//! went in.
//!
//! The folder of a build, seen by the job as `/build`:
//!
//! ```text
//! build_wheel.py   the small PEP 517 frontend of ours
//! job.json         what it has to do          result.json   what it says
//! env/             the build requirements     src/          the sdist
//! tmp/             TMPDIR                     out/          the wheel
//! ```
//!
//! With a compiler there is more: see [`toolchain`].

use std::io::{BufReader, Read, Seek};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use cap_std::ambient_authority;
use cap_std::fs::Dir;
use fs_err as fs;
use pep440_rs::Version;
use pep508_rs::PackageName;
use serde::{Deserialize, Serialize};

use crate::oci::Digest;
use crate::sandbox::{Job, Outcome, Promise, Sandbox, Tier};
use crate::store::{self, Store};
use crate::world::on_thread;

mod build_system;
mod error;
mod log;
mod request;
pub(super) mod shared;
pub mod toolchain;
pub(super) mod twin;
mod unpack;

pub use error::{Error, Stopped};
use log::{shows_no_compiler, tail};
pub use request::{BuildRequest, StoredFile};
pub use toolchain::Toolchain;

/// The frontend, run by the base's Python.
const DRIVER: &str = include_str!("build_wheel.py");
/// gevent's bundled libraries take three minutes with a cold compiler; twenty is a hang.
const TIME_LIMIT: Duration = Duration::from_mins(20);
/// Compilers are talkative.
const OUTPUT_LIMIT: u64 = 64 << 20;
/// Documents that a build may make us read.
const LARGEST_DOCUMENT: u64 = 1 << 20;

/// A wheel that was built, now or before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuiltWheel {
    /// Of the wheel's bytes, which are in the store.
    pub digest: Digest,
    /// As the backend named it.
    pub file_name: String,
    /// Which way the build ran.
    pub tier: Tier,
    /// Why it did not run in namespaces, if they were refused.
    pub refusal: Option<String>,
    /// What the kernel let it reach against the sandbox's promises.
    pub left: Vec<Promise>,
    /// The sdist has sources for a compiler, but no compiled module is in the wheel: the project
    /// fell back to Python. Worth a notice, since it is slower.
    pub pure_fallback: bool,
    /// It was built before.
    pub from_cache: bool,
    /// Of the build's log, which is in the store; `None` if the build ran on another machine.
    pub log: Option<Digest>,
}

/// A [`BuiltWheel`] as it is kept.
#[derive(Serialize, Deserialize)]
struct Record {
    wheel: Digest,
    file_name: String,
    tier: Tier,
    refusal: Option<String>,
    #[serde(default)]
    left: Vec<Promise>,
    pure_fallback: bool,
    log: Option<Digest>,
}

/// What the frontend says.
#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Said {
    Wheel(String),
    Missing(Vec<String>),
}

impl BuildRequest {
    fn failed(&self, outcome: &Outcome, log: PathBuf) -> Error {
        Error::Failed {
            project: self.project(),
            ending: outcome.ending,
            tier: outcome.tier,
            lacks_compiler: self.toolchain.is_none() && shows_no_compiler(&outcome.log),
            tail: tail(&outcome.log),
            log,
        }
    }

    fn wrong_wheel(&self, found: Option<String>, log: PathBuf) -> Error {
        Error::WrongWheel { project: self.project(), found, log }
    }
}

/// The wheel of an earlier build with the same inputs. Needs neither the base's files nor the
/// sdist's.
///
/// # Errors
/// The disk said no.
pub fn cached(request: &BuildRequest, store: &Store) -> Result<Option<BuiltWheel>, Error> {
    let Some(record) = store.record("built-wheels", &request.key())? else {
        return Ok(None);
    };
    let Ok(record) = serde_json::from_slice::<Record>(&record) else {
        return Ok(None);
    };
    if !store.verify(&record.wheel)? {
        return Ok(None);
    }
    Ok(Some(BuiltWheel {
        digest: record.wheel,
        file_name: record.file_name,
        tier: record.tier,
        refusal: record.refusal,
        left: record.left,
        pure_fallback: record.pure_fallback,
        from_cache: true,
        log: record.log,
    }))
}

/// Builds the sdist with the Python of the base unpacked at `rootfs`, unless it was built before.
/// `target` is the unpacked base that a toolchain compiles for, if it is another one.
///
/// # Errors
/// A file is absent from the store or hostile, the build fails or runs into a limit, or there is no
/// way to run it here.
pub async fn build(
    request: &BuildRequest,
    rootfs: &Path,
    target: Option<&Path>,
    store: &Store,
    sandbox: &Sandbox,
) -> Result<BuiltWheel, Error> {
    if let Some(wheel) = cached(request, store)? {
        return Ok(wheel);
    }
    let work = store.temporary_directory()?;
    let target = target.unwrap_or(rootfs);
    let (sdist, work) = on_thread({
        let (request, store, target) = (request.clone(), store.clone(), target.to_path_buf());
        move || prepare(&request, &store, &target, work.path()).map(|sdist| (sdist, work))
    })
    .await?;
    let mut lent = Vec::new();
    if let Some(toolchain) = &request.toolchain {
        let bases = (rootfs, target);
        let ready = Box::pin(toolchain.ready(bases, sdist.has_cxx, store, sandbox)).await?;
        ready.copy_cache(work.path())?;
        lent = ready.lent;
    }
    let ran = sandbox
        .run(&Job {
            rootfs: rootfs.to_path_buf(),
            work: work.path().to_path_buf(),
            lent,
            argv: vec![
                format!("python{}.{}", request.python.0, request.python.1),
                // No site-packages of the base's, no user's, no byte code. Not -I: it would ignore
                // PYTHONHASHSEED.
                "-S".into(),
                "-s".into(),
                "-B".into(),
                "/build/build_wheel.py".into(),
            ],
            env: request.environment(),
            time_limit: TIME_LIMIT,
            output_limit: OUTPUT_LIMIT,
        })
        .await;
    let outcome = match ran {
        Ok(outcome) => outcome,
        Err(error) => return Err(not_run(request, store, error)?),
    };
    on_thread({
        let (request, store) = (request.clone(), store.clone());
        move || take(&request, &store, work.path(), sdist, &outcome)
    })
    .await
}

/// Fills the build's folder.
fn prepare(
    request: &BuildRequest,
    store: &Store,
    target: &Path,
    work: &Path,
) -> Result<unpack::Sdist, Error> {
    let disk = |source| Error::Disk { path: work.to_path_buf(), source };
    let open = |file: &StoredFile| {
        let opened = store.open_verified(&file.digest)?;
        opened.ok_or_else(|| Error::Absent { file_name: file.file_name.clone() })
    };
    for folder in ["env", "src", "out", "tmp"] {
        fs::create_dir(work.join(folder)).map_err(disk)?;
    }
    for file in &request.build_requirements {
        unpack::wheel(&file.file_name, open(file)?, &work.join("env"))?;
    }
    let file = &request.sdist;
    let sdist = unpack::sdist(&file.file_name, open(file)?, &work.join("src"))?;
    let system = build_system::read(
        &request.sdist.file_name,
        read_document(&work.join("src"), "pyproject.toml").map_err(disk)?,
    )?;
    let job = serde_json::to_vec(&system).map_err(|e| disk(e.into()))?;
    fs::write(work.join("job.json"), job).map_err(disk)?;
    fs::write(work.join("build_wheel.py"), DRIVER).map_err(disk)?;
    if let Some(toolchain) = &request.toolchain {
        toolchain.write(target, request.python, work)?;
    }
    Ok(sdist)
}

/// A small regular file below `folder`, which is full of foreign things: links are not followed out
/// of it, pipes are not opened. `None` if there is no such file.
fn read_document(folder: &Path, name: &str) -> std::io::Result<Option<Vec<u8>>> {
    let folder = Dir::open_ambient_dir(folder, ambient_authority())?;
    if !folder.metadata(name).is_ok_and(|found| found.is_file()) {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    folder.open(name)?.take(LARGEST_DOCUMENT).read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}

/// Takes the wheel out of the build's folder and remembers it.
fn take(
    request: &BuildRequest,
    store: &Store,
    work: &Path,
    sdist: unpack::Sdist,
    outcome: &Outcome,
) -> Result<BuiltWheel, Error> {
    let disk = |source| Error::Disk { path: work.to_path_buf(), source };
    let log = store.put(&outcome.log)?;
    let log_path = store.blob_path(&log);
    let said = read_document(work, "result.json")
        .map_err(disk)?
        .and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let file_name = match said {
        Some(Said::Missing(missing)) => {
            return Err(Error::Missing { project: request.project(), missing, log: log_path });
        }
        _ if !outcome.success => return Err(request.failed(outcome, log_path)),
        None => return Err(request.wrong_wheel(None, log_path)),
        Some(Said::Wheel(file_name)) => file_name,
    };
    if !is_wheel_of(&file_name, &request.name, &request.version) {
        return Err(request.wrong_wheel(Some(file_name), log_path));
    }
    let folder = Dir::open_ambient_dir(work, ambient_authority()).map_err(disk)?;
    let path = Path::new("out").join(&file_name);
    if !folder.metadata(&path).is_ok_and(|found| found.is_file()) {
        return Err(request.wrong_wheel(None, log_path));
    }
    let mut wheel = folder.open(&path).map_err(disk)?.into_std();
    let damaged = |source| Error::Damaged { file_name: file_name.clone(), source };
    let has_extension = has_extension(&wheel).map_err(damaged)?;
    wheel.rewind().map_err(disk)?;
    let (digest, file_name) = if has_extension {
        (store::copy_into(store, &mut wheel)?.0, file_name)
    } else {
        let mut bytes = Vec::new();
        wheel.read_to_end(&mut bytes).map_err(disk)?;
        let (bytes, file_name) = twin::plain(bytes, &file_name).map_err(damaged)?;
        (store.put(&bytes)?, file_name)
    };
    let record = Record {
        wheel: digest,
        file_name,
        tier: outcome.tier,
        refusal: outcome.refusal.clone(),
        left: outcome.left.clone(),
        pure_fallback: sdist.has_extension_sources && !has_extension,
        log: Some(log),
    };
    let json = serde_json::to_vec(&record).map_err(|e| disk(e.into()))?;
    store.put_record("built-wheels", &request.key(), &json)?;
    Ok(BuiltWheel {
        digest: record.wheel,
        file_name: record.file_name,
        tier: record.tier,
        refusal: record.refusal,
        left: record.left,
        pure_fallback: record.pure_fallback,
        from_cache: false,
        log: record.log,
    })
}

/// What to say about a job that did not run to its end.
fn not_run(
    request: &BuildRequest,
    store: &Store,
    error: crate::sandbox::Error,
) -> Result<Error, Error> {
    let Some(output) = error.log().map(<[u8]>::to_vec) else {
        return Ok(Error::Sandbox { project: request.project(), source: Box::new(error) });
    };
    let log = store.put(&output)?;
    Ok(Error::Stopped {
        project: request.project(),
        why: Stopped(Box::new(error)),
        tail: tail(&output),
        log: store.blob_path(&log),
    })
}

/// Whether a file name is that of a wheel of this project and version (binary distribution format:
/// `{name}-{version}(-{build})?-{python}-{abi}-{platform}.whl`).
fn is_wheel_of(file_name: &str, name: &PackageName, version: &Version) -> bool {
    let Some(stem) = file_name.strip_suffix(".whl") else {
        return false;
    };
    let parts: Vec<&str> = stem.split('-').collect();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.+!".contains(c);
    (5..=6).contains(&parts.len())
        && stem.chars().all(plain)
        && PackageName::from_str(parts[0]).is_ok_and(|found| found == *name)
        && Version::from_str(parts[1]).is_ok_and(|found| found == *version)
}

/// Whether a wheel holds an ELF file.
pub(super) fn has_extension(wheel: impl Read + Seek) -> std::io::Result<bool> {
    let mut archive = unpack::open_zip(BufReader::new(wheel))?;
    for number in 0..archive.len() {
        let mut start = Vec::new();
        archive.by_index(number)?.take(4).read_to_end(&mut start)?;
        if start == object::elf::ELFMAG {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wheels_of_the_request() {
        let (name, version) = ("zope.interface".parse().unwrap(), "8.7".parse().unwrap());
        for (file_name, fits) in [
            ("zope_interface-8.7-cp313-cp313-linux_x86_64.whl", true),
            ("zope.interface-8.7.0-1-py3-none-any.whl", true),
            ("zope_interface-8.8-py3-none-any.whl", false),
            ("zope-8.7-py3-none-any.whl", false),
            ("zope_interface-8.7.whl", false),
            ("zope_interface-8.7-py3-none-any.zip", false),
            ("zope_interface-8.7-py3-none-../any.whl", false),
            ("", false),
        ] {
            assert_eq!(is_wheel_of(file_name, &name, &version), fits, "{file_name}");
        }
    }
}
