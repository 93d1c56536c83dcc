//! The main job on real parts: a real base in a real registry, the committed lock, real wheels.

mod engines;
mod pushing;
mod reproducible;
mod unprivileged;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use serde_json::Value;
use tempfile::TempDir;

use crate::bases::{self, BaseSpec, Layout};
use crate::command::{CELL, Recipe, TAG, run};
use crate::support::tools::{DockerRegistry, succeed};
use crate::support::{self, skip};

/// What all of these tests share, for as long as one of them runs.
#[derive(Debug)]
struct Stage {
    /// Has the base.
    registry: DockerRegistry,
    base: Layout,
    /// An unchanged copy of this project's.
    recipe: Recipe,
    /// Warm: the wheels, the base's layers and the built sdist.
    cache: PathBuf,
    /// What was assembled from `recipe`.
    archive: PathBuf,
    /// What that printed.
    report: Value,
    /// The lock's files under their own names.
    wheelhouse: TempDir,
}

static STAGE: Mutex<Weak<Stage>> = Mutex::new(Weak::new());

/// The stage; `None`, said aloud, where a tool for it is missing.
fn stage() -> Option<Arc<Stage>> {
    // One that could not be made is tried again by the next test, which then fails for itself.
    let mut current = STAGE.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(stage) = current.upgrade() {
        return Some(stage);
    }
    let stage = Arc::new(Stage::make()?);
    *current = Arc::downgrade(&stage);
    Some(stage)
}

impl Stage {
    fn make() -> Option<Self> {
        if cfg!(not(target_arch = "x86_64")) {
            skip("the lock is for amd64");
            return None;
        }
        let skopeo = support::tool("skopeo")?;
        let registry = DockerRegistry::start()?;
        let base = made_base();
        succeed(
            std::process::Command::new(skopeo)
                .args(["--insecure-policy", "copy", "--preserve-digests"])
                .arg("--dest-tls-verify=false")
                .arg(format!("oci:{}:3.13-alpine3.24", base.path().display()))
                .arg(format!("docker://{}/library/python:3.13-alpine3.24", registry.address())),
        );
        let recipe = Recipe::copy();
        // Kept between runs, so that only the first one downloads the wheels.
        let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache");
        let mut stage = Self {
            registry,
            base,
            archive: recipe.path("out/image.tar"),
            recipe,
            cache,
            report: Value::Null,
            wheelhouse: TempDir::new().unwrap(),
        };
        let out = stage.archive.display().to_string();
        let mirror = stage.mirror();
        let outcome = run(&mut stage
            .recipe
            .command(&stage.cache, &[CELL, "--json", "-o", &out, "--mirror", &mirror]));
        stage.report = outcome.success().json();
        stage.fill_wheelhouse();
        Some(stage)
    }

    /// `docker.io=127.0.0.1:PORT`
    fn mirror(&self) -> String {
        format!("docker.io={}", self.registry.address())
    }

    /// Of the assembled image.
    fn digest(&self) -> &str {
        self.report["images"][0]["digest"].as_str().unwrap()
    }

    /// The committed lock.
    fn lock(&self) -> toml::Table {
        self.recipe.read(&format!("matrix/{CELL}/lock.toml")).parse().unwrap()
    }

    /// Name and version of everything in the lock, sorted.
    fn distributions(&self) -> Vec<(String, String)> {
        let lock = self.lock();
        let list = lock["distribution"].as_array().unwrap();
        let text = |value: &toml::Value| value.as_str().unwrap().to_owned();
        list.iter().map(|entry| (text(&entry["name"]), text(&entry["version"]))).collect()
    }

    /// Runs that must start with an empty cache find the files here, without any network.
    fn fill_wheelhouse(&self) {
        let mut tables = vec![toml::Value::Table(self.lock())];
        while let Some(value) = tables.pop() {
            match value {
                toml::Value::Table(table) => {
                    if let (Some(file), Some(sha256)) = (table.get("file"), table.get("sha256")) {
                        self.add_to_wheelhouse(file.as_str().unwrap(), sha256.as_str().unwrap());
                    }
                    tables.extend(table.into_iter().map(|(_, value)| value));
                }
                toml::Value::Array(list) => tables.extend(list),
                _ => {}
            }
        }
    }

    fn add_to_wheelhouse(&self, name: &str, sha256: &str) {
        let blob = self.cache.join("blobs/sha256").join(sha256);
        let file = self.wheelhouse.path().join(name);
        // A build requirement that was not needed now, as the built wheel was in the cache.
        if blob.is_file() && !file.exists() {
            fs_err::copy(blob, file).unwrap();
        }
    }

    /// Arguments for a run that reaches nothing but the registry.
    fn local(&self) -> Vec<String> {
        let wheelhouse = self.wheelhouse.path().display().to_string();
        ["--no-index", "--find-links", &wheelhouse, "--mirror", &self.mirror()]
            .map(str::to_owned)
            .to_vec()
    }
}

/// CPython 3.13 on musl, as an OCI layout.
pub(crate) fn made_base() -> Layout {
    let spec = BaseSpec::new("3.13", "alpine3.24");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(bases::make(spec, &crate::base_cache())).unwrap()
}

/// `docker.io/grubykarol/locust:…`
fn name() -> String {
    format!("docker.io/grubykarol/locust:{TAG}")
}
