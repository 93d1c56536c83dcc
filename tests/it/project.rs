//! A small project of its own: a matrix with one cell, a layer, wheels in a folder, and a registry
//! with a base. The `assemble` program is run as a user runs it.

use std::io::{Cursor, Write as _};
use std::path::Path;
use std::process::{Command, Output};

use assemble::oci::{Digest, media_type};
use assemble::python::record::{Record, Row};
use serde_json::json;
use tempfile::TempDir;

use crate::support::registry::FakeRegistry;

/// The one cell.
pub(crate) const CELL: &str = "1.0/python3.13/alpine3.24";

pub(crate) struct Project {
    folder: TempDir,
    pub(crate) registry: FakeRegistry,
}

impl Project {
    /// A project whose layer installs `demo`, for these platforms; `more` ends the layer's file.
    pub(crate) async fn new(platforms: &[&str], more: &str) -> Self {
        let project =
            Self { folder: TempDir::new().unwrap(), registry: FakeRegistry::start().await };
        let address = project.registry.address();
        project.write(
            "matrix/matrix.toml",
            &format!(
                "path = \"{{demo}}/python{{python}}/{{os}}\"\n\
                 tag = \"{{demo}}-python{{python}}-{{os}}\"\n\
                 repository = \"{address}/demo\"\n\
                 base = \"{address}/library/python:{{python}}-{{os}}\"\n\
                 platforms = {platforms:?}\n\
                 layers = [\"demo\"]\n"
            ),
        );
        project.write(
            "layers/demo/layer.toml",
            &format!(
                "kind = \"python\"\nrequirements = [{{ requirement = \"demo=={{demo}}\" }}]\n{more}"
            ),
        );
        fs_err::create_dir_all(project.path("wheels")).unwrap();
        project
    }

    pub(crate) fn path(&self, below: impl AsRef<Path>) -> std::path::PathBuf {
        self.folder.path().join(below)
    }

    pub(crate) fn write(&self, below: &str, text: &str) {
        let path = self.path(below);
        fs_err::create_dir_all(path.parent().unwrap()).unwrap();
        fs_err::write(path, text).unwrap();
    }

    /// Puts a wheel into the folder of wheels.
    pub(crate) fn wheel(&self, name: &str, tag: &str, files: &[(&str, Vec<u8>)]) {
        let bytes = wheel(name, tag, files);
        fs_err::write(self.path(format!("wheels/{name}-1.0-{tag}.whl")), bytes).unwrap();
    }

    /// A base of one layer for linux/amd64, under the tag of the cell.
    pub(crate) fn serve_base(&self, files: &[(&str, Vec<u8>)]) {
        self.serve_base_as("3.13-alpine3.24", files);
    }

    /// The same under another tag.
    pub(crate) fn serve_base_as(&self, tag: &str, files: &[(&str, Vec<u8>)]) {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, bytes) in files {
            let mut header = tar::Header::new_ustar();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o755);
            builder.append_data(&mut header, path, bytes.as_slice()).unwrap();
        }
        let layer = builder.into_inner().unwrap();
        let config = serde_json::to_vec(&json!({
            "os": "linux",
            "architecture": "amd64",
            "config": { "Env": ["PATH=/usr/local/bin", "PYTHON_VERSION=3.13.2"] },
            "rootfs": { "type": "layers", "diff_ids": [Digest::of(&layer)] },
            "history": [{ "created_by": "ADD" }],
        }))
        .unwrap();
        let name = "library/python";
        let manifest = serde_json::to_vec(&json!({
            "schemaVersion": 2,
            "mediaType": media_type::OCI_MANIFEST,
            "config": {
                "mediaType": media_type::OCI_CONFIG,
                "digest": self.registry.put_blob(name, config.clone()),
                "size": config.len(),
            },
            "layers": [{
                "mediaType": media_type::OCI_LAYER_TAR,
                "digest": self.registry.put_blob(name, layer.clone()),
                "size": layer.len(),
            }],
        }))
        .unwrap();
        self.registry.put_manifest(name, Some(tag), media_type::OCI_MANIFEST, manifest);
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_assemble"));
        command
            .args(arguments)
            .args(["--no-index", "--find-links", "wheels"])
            .current_dir(self.folder.path())
            .env_clear()
            .env("HOME", self.path("home"));
        command
    }

    /// Runs `assemble` off the runtime's threads: the registry is a task of theirs.
    pub(crate) async fn run(&self, arguments: &[&str]) -> Output {
        let mut command = self.command(arguments);
        tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
    }

    /// As [`Self::run`]; it must succeed. Returns both streams.
    pub(crate) async fn succeed(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments).await;
        let text = text(&output);
        assert!(output.status.success(), "{arguments:?}: {text}");
        text
    }
}

/// Both streams.
pub(crate) fn text(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// A wheel `name-1.0` with a true RECORD, and a METADATA unless it is given.
pub(crate) fn wheel(name: &str, tag: &str, files: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let info = format!("{name}-1.0.dist-info");
    let mut files: Vec<(String, Vec<u8>)> =
        files.iter().map(|(path, bytes)| ((*path).to_owned(), bytes.clone())).collect();
    let metadata = format!("Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n");
    let wheel =
        format!("Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: false\nTag: {tag}\n");
    if !files.iter().any(|(path, _)| path.ends_with("/METADATA")) {
        files.push((format!("{info}/METADATA"), metadata.into_bytes()));
    }
    files.push((format!("{info}/WHEEL"), wheel.into_bytes()));
    let mut record = Record::default();
    for (path, bytes) in &files {
        record.rows.insert(path.clone(), Row::of(bytes));
    }
    record.rows.insert(format!("{info}/RECORD"), Row::default());
    files.push((format!("{info}/RECORD"), record.to_bytes()));
    let mut writer = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for (path, bytes) in files {
        writer.start_file(path, zip::write::SimpleFileOptions::default()).unwrap();
        writer.write_all(&bytes).unwrap();
    }
    writer.finish().unwrap().into_inner()
}
