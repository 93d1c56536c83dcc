//! Every image of the matrix whose Python can be had, in a real Docker, used in every way the README
//! and the charts use it. Cells without such a Python are checked as far as files can be.

mod checks;
mod container;
mod dialect;

use std::path::Path;

use tempfile::TempDir;

use crate::bases::{self, BaseSpec};
use crate::command::{Recipe, run};
use crate::support::registry::FakeRegistry;
use crate::support::tool;
use crate::support::tools::Docker;
use dialect::Dialect;

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
fn readable_folder() -> TempDir {
    let folder = TempDir::new().unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs_err::set_permissions(folder.path(), mode).unwrap();
    folder
}

impl Stage {
    /// Assembles the cell on a made base and loads it; `None`, said aloud, where a tool is missing.
    fn make(locust: &str, python: &'static str, os: &'static str) -> Option<Self> {
        let spec = BaseSpec::new(python, os);
        if let Some(compiler) = spec.compiler() {
            tool(compiler)?;
        }
        let docker = Docker::start()?;
        let output = TempDir::new().unwrap();
        let archive = output.path().join("image.tar");
        assemble(spec, &format!("{locust}/python{python}/{os}"), &archive);
        docker.run(&["load", "--input", archive.to_str().unwrap()]);
        let scripts = readable_folder();
        let locustfile = include_str!("locustfile.py");
        fs_err::write(scripts.path().join("locustfile.py"), locustfile).unwrap();
        Some(Self {
            docker,
            image: format!("grubykarol/locust:{locust}-python{python}-{os}"),
            dialect: dialect::dialect(locust),
            scripts,
        })
    }

    /// The scripts' folder, mounted there.
    fn scripts_at(&self, place: &str) -> String {
        checks::mounted(self.scripts.path(), place)
    }
}

/// Runs the program on this project's own recipe, on a base that is served on loopback.
fn assemble(spec: BaseSpec, cell: &str, archive: &Path) {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let registry = runtime.block_on(async {
        let base = bases::make(spec, &crate::base_cache()).await.unwrap();
        let registry = FakeRegistry::start().await;
        base.serve(&registry, "library/python", Some(&spec.tag())).unwrap();
        registry
    });
    let mirror = format!("docker.io={}", registry.address());
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache");
    let output = archive.to_str().unwrap();
    let arguments = [cell, "--root", PROJECT, "--mirror", &mirror, "--output", output];
    run(&mut Recipe::copy().command(&cache, &arguments)).success();
}

/// All checks on one cell.
fn use_it(locust: &str, python: &'static str, os: &'static str) {
    let Some(stage) = Stage::make(locust, python, os) else { return };
    for (name, check) in checks::CHECKS {
        let started = std::time::Instant::now();
        check(&stage);
        eprintln!("{locust} on {python}: {name}: {:?}", started.elapsed());
    }
}

#[test]
fn locust_2_47_on_python_3_13() {
    use_it("2.47.0", "3.13", "alpine3.24");
}
