//! Servers on loopback and a small recipe: what a run needs, without anything real but the program.

use std::io::{Cursor, Write as _};
use std::process::Command;

use assemble::oci::media_type;
use serde_json::json;
use tempfile::TempDir;

use crate::bases::{self, BaseSpec};
use crate::command::{Outcome, Recipe, run};
use crate::support::package_index::{FakePackageIndex, Published};
use crate::support::registry::FakeRegistry;

/// The cell that [`Recipe::of`] makes.
pub(crate) const CELL: &str = "1.0/python3.13/alpine3.24";

/// Where the scene's base is.
pub(crate) const BASE: &str = "library/python";

/// Servers on loopback, a recipe and a cache.
pub(crate) struct Scene {
    pub(crate) registry: FakeRegistry,
    pub(crate) index: FakePackageIndex,
    pub(crate) recipe: Recipe,
    pub(crate) cache: TempDir,
}

impl Scene {
    /// The recipe asks for `app==1.0`, a wheel on the index; the base has a few files.
    pub(crate) async fn new() -> Self {
        let scene = Self {
            registry: FakeRegistry::start().await,
            index: FakePackageIndex::start().await,
            recipe: Recipe::of(&["app==1.0"]),
            cache: TempDir::new().unwrap(),
        };
        let matrix = "matrix/matrix.toml";
        scene.recipe.edit(matrix, "docker.io", &scene.registry.address());
        put_base(&scene.registry, "amd64");
        scene.index.publish("app", Published::wheel("app-1.0-py3-none-any.whl", &[], 1000));
        scene
    }

    /// Asks for `source==1.0` instead, which has to be built by a real base, with this body of its
    /// backend's `build_wheel`.
    pub(crate) async fn publish_source(&self, body: &str) {
        let spec = BaseSpec::new("3.13", "alpine3.24");
        let base = bases::make(spec, &crate::base_cache()).await.unwrap();
        base.serve(&self.registry, BASE, Some(&spec.tag())).unwrap();
        self.recipe.edit("layers/app/layer.toml", "app==1.0", "source==1.0");
        let backend = format!(
            "def get_requires_for_build_wheel(config=None):\n    return []\n\
             def build_wheel(folder, config=None, metadata=None):\n    {body}\n"
        );
        let project = "[build-system]\nrequires = []\nbuild-backend = \"backend\"\n\
                       backend-path = [\".\"]\n[project]\nname = \"source\"\nversion = \"1.0\"\n";
        let metadata = "Metadata-Version: 2.2\nName: source\nVersion: 1.0\n";
        let files =
            [("backend.py", &*backend), ("pyproject.toml", project), ("PKG-INFO", metadata)];
        self.index.publish("source", Published::sdist("source-1.0.tar.gz", &files));
    }

    /// `assemble <arguments>`, which reaches the scene's servers only and knows no environment.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.recipe.command(self.cache.path(), arguments);
        command
            .env_clear()
            .env("HOME", self.recipe.path(""))
            .env("ASSEMBLE_CACHE_DIR", self.cache.path())
            .env("PIP_CONFIG_FILE", "/dev/null")
            .env("PIP_INDEX_URL", self.index.url(""));
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Outcome {
        run(&mut self.command(arguments))
    }

    pub(crate) fn locked(self) -> Self {
        self.run(&["lock", CELL]).success();
        self
    }

    /// What is left where files are written before they have their name.
    pub(crate) fn temporary_files(&self) -> Vec<String> {
        let mut found = Vec::new();
        for folder in [self.cache.path().join("tmp"), self.recipe.path("")] {
            for entry in fs_err::read_dir(folder).unwrap() {
                let name = entry.unwrap().file_name().into_string().unwrap();
                if !matches!(name.as_str(), "matrix" | "layers") {
                    found.push(name);
                }
            }
        }
        found
    }
}

/// An image with a Python's name and no more in it than tells an Alpine with a shell, for this architecture.
pub(crate) fn put_base(registry: &FakeRegistry, architecture: &str) {
    let machine = if architecture == "amd64" { "x86_64" } else { "aarch64" };
    let loader = format!("lib/ld-musl-{machine}.so.1");
    let mut tar = tar::Builder::new(Vec::new());
    for (name, text) in [
        ("bin/sh", "a shell"),
        ("etc/os-release", "ID=alpine\nVERSION_ID=3.24.0\n"),
        (&*loader, "a loader"),
    ] {
        let mut header = tar::Header::new_ustar();
        header.set_mode(0o644);
        header.set_size(text.len() as u64);
        tar.append_data(&mut header, name, text.as_bytes()).unwrap();
    }
    let tar = tar.into_inner().unwrap();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&tar).unwrap();
    let layer = gzip.finish().unwrap();
    let config = json!({
        "os": "linux",
        "architecture": architecture,
        "config": { "Env": ["PATH=/usr/local/bin", "PYTHON_VERSION=3.13.15"] },
        "rootfs": { "type": "layers", "diff_ids": [assemble::oci::Digest::of(&tar)] },
        "history": [{ "created_by": "the test" }],
    });
    let config = config.to_string().into_bytes();
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": media_type::OCI_MANIFEST,
        "config": {
            "mediaType": media_type::OCI_CONFIG,
            "size": config.len(),
            "digest": registry.put_blob(BASE, config),
        },
        "layers": [{
            "mediaType": media_type::OCI_LAYER_GZIP,
            "size": layer.len(),
            "digest": registry.put_blob(BASE, layer),
        }],
    });
    let manifest = manifest.to_string().into_bytes();
    registry.put_manifest(BASE, Some("3.13-alpine3.24"), media_type::OCI_MANIFEST, manifest);
}

/// The wheel with a file more, which its RECORD does not know.
pub(crate) fn with_entry(wheel: Published, name: &str) -> Published {
    let mut writer = zip::ZipWriter::new_append(Cursor::new(wheel.bytes)).unwrap();
    writer.start_file(name, zip::write::SimpleFileOptions::default()).unwrap();
    writer.write_all(b"print('not in RECORD')").unwrap();
    Published { bytes: writer.finish().unwrap().into_inner(), ..wheel }
}
