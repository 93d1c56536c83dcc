//! The same inputs give the same bytes, wherever, whenever and however they are assembled.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use super::{Stage, stage};
use crate::command::{CELL, PROGRAM, Recipe, run};

/// A run with everything different that must not matter.
struct Elsewhere<'a> {
    umask: &'a str,
    jobs: &'a str,
    zone: &'a str,
    language: &'a str,
}

impl Elsewhere<'_> {
    /// Assembles a fresh copy of the recipe with this cache; the archive's bytes.
    fn assemble(&self, stage: &Stage, cache: &Path) -> Vec<u8> {
        let recipe = Recipe::copy();
        // What stands in layer.toml counts, not what a checkout did.
        let script = recipe.path("layers/entrypoint/docker-entrypoint.sh");
        fs_err::set_permissions(script, Permissions::from_mode(0o600)).unwrap();
        let mut command = Command::new("sh");
        command
            .args(["-c", "umask $0; exec \"$@\"", self.umask, PROGRAM, CELL])
            .args(["-o", "image.tar", "-j", self.jobs])
            .args(stage.local())
            .current_dir(recipe.path("."))
            .env_clear()
            .env("ASSEMBLE_CACHE_DIR", cache)
            .env("TZ", self.zone)
            .env("LANG", self.language)
            .env("LC_ALL", self.language);
        run(&mut command).success();
        fs_err::read(recipe.path("image.tar")).unwrap()
    }
}

#[test]
fn two_assemblies_are_the_same_bytes() {
    let Some(stage) = stage() else { return };
    let expected = fs_err::read(&stage.archive).unwrap();
    let caches = [TempDir::new().unwrap(), TempDir::new().unwrap()];
    let strict = Elsewhere { umask: "077", jobs: "1", zone: "Asia/Tokyo", language: "tr_TR.UTF-8" };
    let lax = Elsewhere { umask: "000", jobs: "8", zone: "America/New_York", language: "C" };
    for (elsewhere, cache, what) in [
        (&strict, &caches[0], "cold, one at a time"),
        (&lax, &caches[1], "cold, eight at a time"),
        (&strict, &caches[1], "warm, made by the other"),
        (&lax, &caches[0], "warm, made by the other"),
    ] {
        assert!(elsewhere.assemble(&stage, cache.path()) == expected, "{what}");
    }
}

#[test]
fn a_source_date_epoch_changes_no_layer() {
    let Some(stage) = stage() else { return };
    let folder = TempDir::new().unwrap();
    let layout = folder.path().join("layout");
    let assemble = |epoch: Option<&str>| {
        let path = layout.display().to_string();
        let mirror = stage.mirror();
        let arguments = [CELL, "--json", "--format", "oci", "-o", &path, "--mirror", &mirror];
        let mut command = stage.recipe.command(&stage.cache, &arguments);
        command.envs(epoch.map(|epoch| ("SOURCE_DATE_EPOCH", epoch)));
        let report = run(&mut command).success().json();
        let digest = report["images"][0]["digest"].as_str().unwrap().to_owned();
        let manifest = document(&layout, &digest);
        let config = document(&layout, manifest["config"]["digest"].as_str().unwrap());
        (digest, manifest, config)
    };
    let (usual, usual_manifest, usual_config) = assemble(None);
    assert_eq!(usual, stage.digest());
    let (dated, dated_manifest, dated_config) = assemble(Some("86400"));
    assert_ne!(usual, dated);
    assert_eq!(usual_manifest["layers"], dated_manifest["layers"]);
    assert_eq!(dated_config["created"], "1970-01-02T00:00:00Z");
    assert_ne!(usual_config["created"], dated_config["created"]);
    assert_eq!(usual_config["rootfs"], dated_config["rootfs"]);
    // And it is the same each time.
    assert_eq!(assemble(Some("86400")).0, dated);
}

#[test]
fn without_namespaces_the_image_is_the_same() {
    let Some(stage) = stage() else { return };
    let cache = TempDir::new().unwrap();
    let mut command = stage.recipe.command(cache.path(), &[CELL, "--json", "-o", "loader.tar"]);
    command.args(stage.local()).env("ASSEMBLE_SANDBOX", "loader");
    let outcome = run(&mut command).success();
    let report = outcome.json();
    assert_eq!(report["images"][0]["digest"], stage.digest());
    let built = &report["images"][0]["images"][0]["built"][0];
    assert_eq!(built["name"], "zope-interface", "{report:#}");
    assert_eq!(built["tier"], "loader");
    assert_eq!(built["pure-fallback"], true);
    for said in ["zope-interface was built through the base's loader", "as pure Python"] {
        assert!(outcome.stderr.contains(said), "not said: {said}\n{}", outcome.stderr);
    }
}

fn document(layout: &Path, digest: &str) -> serde_json::Value {
    let path = layout.join("blobs").join(digest.replace(':', "/"));
    serde_json::from_slice(&fs_err::read(path).unwrap()).unwrap()
}
