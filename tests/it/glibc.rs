//! A base on glibc is a cell like any other: `slim-bookworm` (needs the public package index).

use std::process::Command;

use crate::bases::{self, BaseSpec};
use crate::command::{Outcome, Recipe};
use crate::support::registry::FakeRegistry;
use crate::support::tools::Docker;
use tempfile::TempDir;

const CELL: &str = "2.47.0/python3.13/slim-bookworm";
const ALPINE: &str = "2.47.0/python3.13/alpine3.24";

/// Puts the base of `os` on the registry under the tag that `name` would have.
async fn serve(registry: &FakeRegistry, os: &'static str, name: &'static str) {
    let base = bases::make(BaseSpec::new("3.13", os), &crate::base_cache()).await.unwrap();
    let tag = BaseSpec::new("3.13", name).tag();
    base.serve(registry, "library/python", Some(&tag)).unwrap();
}

async fn run(mut command: Command) -> Outcome {
    tokio::task::spawn_blocking(move || Outcome::of(command.output().unwrap())).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
#[cfg(target_arch = "x86_64")]
async fn a_cell_on_glibc_is_made_and_runs() {
    let registry = FakeRegistry::start().await;
    serve(&registry, "slim-bookworm", "slim-bookworm").await;
    let recipe = Recipe::copy();
    let cache = TempDir::new().unwrap();
    let mirror = format!("docker.io={}", registry.address());
    let assemble = |arguments: &[&str]| {
        recipe.command(cache.path(), &[arguments, &["--mirror", &mirror]].concat())
    };
    run(assemble(&["new", CELL])).await.success();
    let lock = recipe.read(&format!("matrix/{CELL}/lock.toml"));
    assert!(lock.contains("-manylinux") && !lock.contains("-musllinux"), "{lock}");
    let made = run(assemble(&[CELL, "-o", "image.tar"])).await.success();
    let said = made.stdout + &made.stderr;
    assert!(said.contains("ELF files fit the base, `debian 12` on glibc 2.36, "), "{said}");
    assert!(said.contains("start check `locust --version` ran (tier "), "{said}");

    // By its own loader, for those who have no namespaces.
    let other = TempDir::new().unwrap();
    let mut command = recipe.command(other.path(), &["check", "image.tar"]);
    command.env("ASSEMBLE_SANDBOX", "loader");
    let said = run(command).await.success().stdout;
    assert!(said.contains("`locust --version` ran (tier loader"), "{said}");
    assert!(said.contains("): locust 2.47.0"), "{said}");

    let image = recipe.path("image.tar").display().to_string();
    let in_docker = tokio::task::spawn_blocking(move || {
        let docker = Docker::start()?;
        docker.run(&["load", "-i", &image]);
        let name = "grubykarol/locust:2.47.0-python3.13-slim-bookworm";
        let python = "import gevent, zmq, msgpack, brotli, locust; print(locust.__version__)";
        Some([
            docker.run(&["run", "--rm", "--network=none", name, "--version"]),
            docker.run(&[
                "run",
                "--rm",
                "--network=none",
                "--entrypoint=python3",
                name,
                "-c",
                python,
            ]),
            docker.run(&["run", "--rm", "--network=none", "--entrypoint=pip", name, "check"]),
        ])
    });
    let Some([version, imported, checked]) = in_docker.await.unwrap() else { return };
    assert!(version.starts_with("locust 2.47.0"), "{version}");
    assert_eq!(imported.trim(), "2.47.0");
    assert!(checked.contains("No broken requirements found"), "{checked}");
}

/// What a base is, its own files say.
#[tokio::test(flavor = "multi_thread")]
#[cfg(target_arch = "x86_64")]
async fn a_base_with_another_c_library_than_the_cell_says_is_refused() {
    for (cell, os, named, found) in [
        (CELL, "alpine3.24", "slim-bookworm", "is `alpine 3.24.0` on musl"),
        (ALPINE, "slim-bookworm", "alpine3.24", "is `debian 12` on glibc 2.36"),
    ] {
        let registry = FakeRegistry::start().await;
        serve(&registry, os, named).await;
        let (recipe, cache) = (Recipe::of(&["idna==3.11"]), TempDir::new().unwrap());
        recipe.edit("matrix/matrix.toml", "docker.io/example", &registry.address());
        let mirror = format!("docker.io={}", registry.address());
        let cell = cell.replace("2.47.0", "1.0");
        fs_err::create_dir_all(recipe.path(&format!("matrix/{cell}"))).unwrap();
        recipe.write(&format!("matrix/{cell}/cell.toml"), "");
        for arguments in [&["lock", &cell][..], &[&cell, "--push"]] {
            let outcome =
                run(recipe.command(cache.path(), &[arguments, &["--mirror", &mirror]].concat()))
                    .await;
            if arguments[0] == "lock" {
                outcome.success();
            } else {
                outcome.failure(5, &[&format!("the cell says os `{named}`, but "), found]);
                assert!(registry.tags("app").is_empty());
            }
        }
    }
}
