//! Every image of the matrix, in a real Docker, used in every way the README and the charts use it.

mod checks;
mod container;
mod dialect;

use std::path::Path;

use tempfile::TempDir;

use crate::bases::{self, BaseSpec};
use crate::command::{self, Outcome, Recipe};
use crate::support::registry::FakeRegistry;
use crate::support::tool;
use crate::support::tools::Docker;
pub(crate) use container::{swarm, wait_for_web_ui};
use dialect::Dialect;
pub(crate) use dialect::dialect;

/// This project.
const PROJECT: &str = env!("CARGO_MANIFEST_DIR");

/// One cell's image in a Docker of its own.
#[derive(Debug)]
struct Stage {
    docker: Docker,
    /// `grubykarol/locust:…`
    image: String,
    dialect: &'static Dialect,
    scripts: TempDir,
}

/// A folder that any uid can read, for mounting.
pub(crate) fn readable_folder() -> TempDir {
    let folder = TempDir::new().unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs_err::set_permissions(folder.path(), mode).unwrap();
    folder
}

impl Stage {
    /// Assembles the cell on a made base and loads it; `None`, said aloud, where a tool is missing.
    fn make(cell: &'static str) -> Option<Self> {
        Self::of(cell, |spec, archive| assemble(spec, cell, archive))
    }

    /// As [`Self::make`], with the archive that `assemble` writes.
    fn of(cell: &'static str, assemble: impl FnOnce(BaseSpec, &Path) -> Outcome) -> Option<Self> {
        let (locust, python, os) = parts(cell);
        let spec = BaseSpec::new(python, os);
        for name in spec.tools() {
            tool(name)?;
        }
        let docker = Docker::start()?;
        let output = TempDir::new().unwrap();
        let archive = output.path().join("image.tar");
        assemble(spec, &archive).success();
        docker.run(&["load", "--input", archive.to_str().unwrap()]);
        let scripts = readable_folder();
        let locustfile = include_str!("locustfile.py");
        fs_err::write(scripts.path().join("locustfile.py"), locustfile).unwrap();
        Some(Self {
            docker,
            image: format!("grubykarol/locust:{locust}-python{python}-{os}"),
            dialect: dialect(locust),
            scripts,
        })
    }

    /// The scripts' folder, mounted there.
    fn scripts_at(&self, place: &str) -> String {
        checks::mounted(self.scripts.path(), place)
    }
}

/// Locust, Python, OS.
fn parts(cell: &'static str) -> (&'static str, &'static str, &'static str) {
    let mut parts = cell.split('/');
    let mut next = || parts.next().unwrap();
    (next(), next().strip_prefix("python").unwrap(), next())
}

/// Runs the program on this project's own recipe, on a base that is served on loopback under the tag
/// that the cell asks for.
fn assemble(spec: BaseSpec, cell: &'static str, archive: &Path) -> Outcome {
    let output = archive.to_str().unwrap();
    run_with_base(spec, cell, &Recipe::copy(), &[&[cell, "--root", PROJECT, "--output", output]])
}

/// Runs the program on a recipe, with that base, once for each of the arguments; the last outcome.
fn run_with_base(spec: BaseSpec, cell: &'static str, recipe: &Recipe, runs: &[&[&str]]) -> Outcome {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let registry = runtime.block_on(async {
        let base = bases::make(spec, &crate::base_cache()).await.unwrap();
        let registry = FakeRegistry::start().await;
        let (_, python, os) = parts(cell);
        base.serve(&registry, "library/python", Some(&format!("{python}-{os}"))).unwrap();
        registry
    });
    let mirror = format!("docker.io={}", registry.address());
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache");
    let run = |arguments: &&[&str]| {
        command::run(&mut recipe.command(&cache, &[arguments, &["--mirror", &mirror][..]].concat()))
    };
    let (last, before) = runs.split_last().unwrap();
    for arguments in before {
        run(arguments).success();
    }
    run(last)
}

/// All checks on one cell.
fn use_it(cell: &'static str) {
    let Some(stage) = Stage::make(cell) else { return };
    for (name, check) in checks::CHECKS {
        let started = std::time::Instant::now();
        check(&stage);
        eprintln!("{cell}: {name}: {:?}", started.elapsed());
    }
}

/// A test for each cell, and the list of them.
macro_rules! cells {
    ($($test:ident $cell:literal)*) => {
        $(
            #[test]
            fn $test() {
                use_it($cell);
            }
        )*
        const CELLS: &[&str] = &[$($cell),*];
    };
}

cells! {
    locust_2_47_on_python_3_14 "2.47.0/python3.14/alpine3.24"
    locust_2_47_on_python_3_13 "2.47.0/python3.13/alpine3.24"
    locust_2_47_on_python_3_12 "2.47.0/python3.12/alpine3.23"
    locust_2_32_on_python_3_12 "2.32.0/python3.12/alpine3.23"
    locust_2_15_on_python_3_11 "2.15.1/python3.11/alpine3.23"
    locust_2_0_on_python_3_10 "2.0.0/python3.10/alpine3.23"
    locust_1_6_on_python_3_9 "1.6.0/python3.9/alpine3.22"
    locust_0_14_on_python_3_8 "0.14.6/python3.8/alpine3.20"
    locust_0_11_on_python_3_7 "0.11.0/python3.7/alpine3.18"
    locust_0_10_on_python_3_6 "0.10.0/python3.6/alpine3.9"
}

#[test]
fn a_cell_is_refused_on_another_python() {
    let folder = TempDir::new().unwrap();
    let archive = folder.path().join("image.tar");
    let spec = BaseSpec::new("3.13", "alpine3.24");
    assemble(spec, "1.6.0/python3.9/alpine3.22", &archive).failure(
        5,
        &["says python 3.9, but docker.io/library/python:3.9-alpine3.22", "holds 3.13.2"],
    );
    assert!(!archive.exists());
}

/// Locust 0.10.0 as it was when it was new: every version of spring 2019, nothing mended, all that is C
/// and C++ compiled from source by setuptools without `pyproject.toml`: gevent with its bundled libev and
/// c-ares (autoconf), greenlet (C++'s rules), msgpack (C++), pyzmq with its bundled libzmq (C++). It runs
/// load tests in a real Docker.
///
/// From nothing it takes five minutes of a processor, most of it one file after the other.
#[test]
fn locust_0_10_as_it_was_in_2019() {
    const CELL: &str = "0.10.0/python3.6/alpine3.9";
    let recipe = Recipe::copy();
    recipe.write(
        "layers/locust/layer.toml",
        "kind = \"python\"\nrequirements = [{ requirement = \"locustio=={locust}\" }]\n\
         [[constraint]]\nrequirement = \"ziglang==0.17.1\"\nreason = \"the one it was seen with\"\n\
         [compiler]\nuse = \"zig\"\nreason = \"nothing of 2019 has a wheel for musl\"\n\
         [check]\ncommand = [\"locust\", \"--version\"]\n",
    );
    fs_err::remove_dir_all(recipe.path(&format!("matrix/{}", command::CELL))).unwrap();
    recipe.write(
        &format!("matrix/{CELL}/cell.toml"),
        "[exclude-newer]\ndate = \"2019-04-01T00:00:00Z\"\nreason = \"as it was\"\n",
    );
    let stage = Stage::of(CELL, |spec, archive| {
        let output = archive.to_str().unwrap();
        run_with_base(spec, CELL, &recipe, &[&["lock"], &[CELL, "--output", output]])
    });
    let Some(stage) = stage else { return };
    // Not master and slaves: they need what the project's own recipe mends in this version.
    for (name, check) in &checks::CHECKS[..3] {
        let started = std::time::Instant::now();
        check(&stage);
        eprintln!("{CELL} of 2019: {name}: {:?}", started.elapsed());
    }
}

#[test]
fn no_cell_is_forgotten() {
    let recipe = assemble::recipe::Recipe::open(Path::new(PROJECT)).unwrap();
    let mut found: Vec<_> = recipe.matrix.cells.iter().map(|cell| cell.path.as_str()).collect();
    found.sort_unstable();
    let mut known = CELLS.to_vec();
    known.sort_unstable();
    assert_eq!(found, known);
}
