//! Cells whose Python nobody packages for musl: they cannot run here, nor build their sdists.
//!
//! What is checked: the lock is for the recipe as it stands; every wheel of it can be had, is for that
//! Python, musl and platform, and installs with a true RECORD; nothing in the tree was made for glibc;
//! what is left to build is known; and the cell cannot be assembled by mistake on another Python.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::Path;
use std::str::FromStr as _;

use assemble::http;
use assemble::layers::{self, Options, Scheme, Treatment, WheelFile};
use assemble::oci::descriptor_digest;
use assemble::package_index::{Client, Config, Sources};
use assemble::python::Target;
use assemble::python::wheel_filename::WheelFilename;
use assemble::recipe::{Lock, Recipe};
use assemble::store::Store;
use tempfile::TempDir;

use super::{PROJECT, parts};
use crate::bases::BaseSpec;

/// sdists of those cells: what is not looked at.
const LEFT_TO_BUILD: [&str; 3] = ["flask-basicauth", "roundrobin", "zope-interface"];

/// All checks on one cell.
pub(super) fn look_at_it(cell: &'static str) {
    is_refused_on_another_python(cell);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(its_wheels_install(cell));
}

fn is_refused_on_another_python(cell: &'static str) {
    let (_, python, os) = parts(cell);
    let folder = TempDir::new().unwrap();
    let archive = folder.path().join("image.tar");
    let said = format!("says python {python}, but docker.io/library/python:{python}-{os}");
    let spec = BaseSpec::new("3.13", "alpine3.24");
    super::assemble(spec, cell, &archive).failure(5, &[&said, "holds 3.13.2"]);
    assert!(!archive.exists());
}

async fn its_wheels_install(path: &'static str) {
    let recipe = Recipe::open(Path::new(PROJECT)).unwrap();
    let cell = recipe.matrix.cells.iter().find(|cell| cell.path == path).unwrap();
    let lock_path = recipe.lock_path(cell);
    let lock = Lock::parse(&fs_err::read_to_string(&lock_path).unwrap(), &lock_path).unwrap();
    assemble::assemble::check_inputs(&lock, cell, &recipe.layers).unwrap();

    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache");
    let store = Store::open(cache).unwrap();
    let http = http::Client::new(http::Options::default()).unwrap();
    let config = Config::from_sources(&Sources::default()).unwrap();
    let index = Client::new(http, config, store.clone());
    for platform in &cell.platforms {
        let target = Target::new(&lock.inputs.python, &lock.inputs.os, platform).unwrap();
        let tags = target.tags();
        let mut wheels = Vec::new();
        for distribution in &lock.distributions {
            let file = distribution.files.iter().find(|file| file.is_for(platform)).unwrap();
            if !file.is_wheel() {
                assert!(LEFT_TO_BUILD.contains(&distribution.name.as_ref()), "{}", file.file_name);
                continue;
            }
            let name = WheelFilename::from_str(&file.file_name).unwrap();
            assert_eq!(tags.reject_reason(&name), None, "{}", file.file_name);
            let (digest, _) = index
                .fetch(&distribution.name, &file.file_name, Some(&file.sha256), Some(file.size))
                .await
                .unwrap();
            wheels.push(WheelFile {
                name: distribution.name.clone(),
                version: distribution.version.clone(),
                file_name: file.file_name.clone(),
                digest,
                requested: false,
            });
        }
        let scheme = Scheme::for_base(minor(cell.python()));
        let options = Options { scheme, treatment: Treatment::default(), compiler: None };
        let made = layers::python(&wheels, &options, &BTreeMap::new(), &store, 2).unwrap();
        assert_eq!(made.installed.len(), wheels.len());
        assert!(made.installed.iter().any(|figures| figures.has_native), "{path}");
        let layer = made.layer("test", &store).unwrap();
        assert_nothing_is_for_glibc(
            &store.blob_path(&descriptor_digest(&layer.descriptor).unwrap()),
        );
    }
}

/// Such files name the versions of its functions that they need.
fn assert_nothing_is_for_glibc(layer: &Path) {
    let file = fs_err::File::open(layer).unwrap();
    let mut archive = tar::Archive::new(flate2::read::MultiGzDecoder::new(file));
    let mut libraries = 0;
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        if bytes.starts_with(b"\x7fELF") {
            libraries += 1;
            let glibc = bytes.windows(6).any(|window| window == b"GLIBC_");
            assert!(!glibc, "{} was made for glibc", entry.path().unwrap().display());
        }
    }
    assert!(libraries > 10, "{libraries}");
}

/// `3.14` as two numbers.
fn minor(python: &str) -> (u8, u8) {
    let (major, minor) = python.split_once('.').unwrap();
    (major.parse().unwrap(), minor.parse().unwrap())
}
