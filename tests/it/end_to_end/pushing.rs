//! Into a real registry and back by clients that are not ours.

use std::path::Path;
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use super::{Stage, stage};
use crate::command::{CELL, Recipe, TAG, run};
use crate::support::tool;
use crate::support::tools::{Docker, Podman, succeed};

/// A copy of the warm cache without anything of the base: what sdists became is known, so nobody
/// needs the base's layers.
fn cache_without_base(stage: &Stage) -> TempDir {
    let cache = TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    link(&stage.cache, cache.path());
    for layer in stage.base.layers().unwrap() {
        fs_err::remove_file(cache.path().join("blobs/sha256").join(layer.hex())).unwrap();
    }
    fs_err::remove_dir_all(cache.path().join("trees")).unwrap();
    cache
}

fn link(from: &Path, to: &Path) {
    fs_err::create_dir_all(to).unwrap();
    for entry in fs_err::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        // Unpacked bases are not needed.
        if entry.file_type().unwrap().is_file() {
            fs_err::hard_link(entry.path(), to).unwrap();
        } else if entry.file_name() == "trees" {
            fs_err::create_dir_all(to).unwrap();
        } else {
            link(&entry.path(), &to);
        }
    }
}

fn push(stage: &Stage, recipe: &Recipe, cache: &Path) -> Value {
    let arguments = [CELL, "--push", "--json", "--mirror", &stage.mirror()];
    run(&mut recipe.command(cache, &arguments)).success().json()
}

#[test]
fn a_pushed_image_is_what_others_pull() {
    let Some(stage) = stage() else { return };
    let repository = format!("{}/pushed/locust", stage.registry.address());
    let recipe = Recipe::copy().pushed_to(&repository);
    let cache = cache_without_base(&stage);
    let report = push(&stage, &recipe, cache.path());
    let image = format!("{repository}:{TAG}");
    assert_eq!(report["images"][0]["reference"], image.as_str());
    // The image's name is no part of the image.
    assert_eq!(report["images"][0]["digest"], stage.digest());

    // The registry has the base, in another repository: not a byte of it is moved.
    let layers = stage.base.layers().unwrap();
    let cost = &report["cost"];
    assert_eq!(cost["blobs-mounted"], layers.len(), "{cost}");
    assert_eq!(cost["blobs-uploaded"], 3, "two layers and the config: {cost}");
    assert!(cost["bytes-down"].as_u64().unwrap() < 20_000, "{cost}");
    for layer in layers {
        assert!(!cache.path().join("blobs/sha256").join(layer.hex()).exists());
    }

    // Again: one question about the base's tag, and one per tag, the floating ones included.
    let report = push(&stage, &recipe, cache.path());
    let cost = &report["cost"];
    let tags = report["images"][0]["written"].as_array().unwrap().len();
    assert!(tags > 1, "{report}");
    assert_eq!(cost["requests"], 1 + tags, "{cost}");
    for nothing in ["bytes-up", "blobs-uploaded", "blobs-mounted"] {
        assert_eq!(cost[nothing], 0, "{cost}");
    }
    let written = report["images"][0]["written"][0].as_str().unwrap();
    assert_eq!(written, format!("{image}@{} (was there)", stage.digest()));

    others_pull(&stage, &image);
}

fn others_pull(stage: &Stage, image: &str) {
    if let Some(skopeo) = tool("skopeo") {
        let remote = format!("docker://{image}");
        let digest = succeed(Command::new(&skopeo).args([
            "inspect",
            "--tls-verify=false",
            "--format={{.Digest}}",
            &remote,
        ]));
        assert_eq!(digest.trim(), stage.digest());
        let folder = TempDir::new().unwrap();
        let copied = format!("dir:{}", folder.path().display());
        succeed(
            Command::new(&skopeo)
                .args(["--insecure-policy", "copy", "--quiet", "--preserve-digests"])
                .args(["--src-tls-verify=false", &remote, &copied]),
        );
    }
    if let Some(podman) = Podman::start() {
        podman.run(&["pull", "--quiet", "--tls-verify=false", image]);
        let digest = podman.run(&["image", "inspect", "--format={{.Digest}}", image]);
        assert_eq!(digest.trim(), stage.digest());
    }
    if let Some(docker) = Docker::start() {
        let said = docker.run(&["pull", image]);
        assert!(said.contains(&format!("Digest: {}", stage.digest())), "{said}");
        let version = docker.run(&["run", "--rm", "--network=none", image, "--version"]);
        assert!(version.starts_with("locust 2.47.0"), "{version}");
    }
}

#[test]
fn an_image_is_pushed_and_written_at_once() {
    let Some(stage) = stage() else { return };
    let repository = format!("{}/both/locust", stage.registry.address());
    let recipe = Recipe::copy().pushed_to(&repository);
    let arguments =
        [CELL, "--push", "-o", "both.tar", "--digest-file", "digest", "--mirror", &stage.mirror()];
    let outcome = run(&mut recipe.command(&stage.cache, &arguments)).success();
    assert_eq!(recipe.read("digest"), stage.digest());
    assert!(recipe.path("both.tar").is_file());
    let first = outcome.stdout.lines().next().unwrap();
    assert_eq!(first, format!("{repository}:{TAG}@{}", stage.digest()));
    assert!(outcome.stdout.contains("both.tar ("), "{}", outcome.stdout);
}
