//! The disk says no: 1. The user says stop: 130. Nothing half-written stays behind.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::command::{Outcome, PROGRAM, run};
use crate::scene::{BASE, CELL, Scene};
use crate::support::registry::{Action, Fault};

#[tokio::test(flavor = "multi_thread")]
async fn a_place_that_cannot_be_written_is_1() {
    let scene = Scene::new().await.locked();
    let taken = scene.recipe.path("matrix/matrix.toml").display().to_string();
    for place in [format!("{taken}/image.tar"), "/proc/image.tar".to_owned()] {
        let said = format!("`{place}` cannot be written");
        scene.run(&[CELL, "-o", &place]).failure(1, &[&said, "hint: free space"]);
        let digest_file = [CELL, "-o", "image.tar", "--digest-file", &place];
        scene.run(&digest_file).failure(1, &["could not write the digest", "os error"]);
        fs_err::remove_file(scene.recipe.path("image.tar")).unwrap();
    }
    scene
        .run(&[CELL, "--cache-dir", &format!("{taken}/cache")])
        .failure(1, &["could not open the cache", "--cache-dir"]);
    assert_eq!(scene.temporary_files(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_1_and_leaves_nothing() {
    let scene = Scene::new().await.locked();
    let wheel =
        crate::support::package_index::Published::wheel("app-1.0-py3-none-any.whl", &[], 200_000);
    scene.index.publish("app", wheel);
    scene.run(&["lock", "--upgrade"]).success();
    // As on a full disk, files end at some point (given in blocks of 512 bytes).
    let full = |blocks: u64| {
        let arguments = [CELL, "-o", "image.tar"];
        let inner = scene.command(&arguments);
        let script = format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$@\"");
        let mut command = Command::new("sh");
        command
            .args(["-c", &script, "sh", PROGRAM])
            .args(arguments)
            .current_dir(scene.recipe.path(""))
            .env_clear()
            .envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
        run(&mut command)
    };
    // No room for the wheel.
    full(128).failure(1, &["could not make the layers", "File too large", "hint: free space"]);
    assert_eq!(scene.temporary_files(), [""; 0]);
    // Room for the layer, not for the archive around it.
    let report = scene.run(&[CELL, "--json", "-o", "image.tar"]).success().json();
    fs_err::remove_file(scene.recipe.path("image.tar")).unwrap();
    let layer = report["images"][0]["images"][0]["added-size"].as_u64().unwrap();
    full(layer / 512 + 2)
        .failure(1, &["`image.tar` cannot be written", "File too large", "hint: free space"]);
    assert_eq!(scene.temporary_files(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_is_130_and_leaves_nothing() {
    let scene = Scene::new().await.locked();
    let manifest = scene.registry.manifest(BASE, "3.13-alpine3.24").unwrap().1;
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
    let layer = manifest["layers"][0]["digest"].as_str().unwrap().to_owned();
    let out = TempDir::new().unwrap();
    let archive = out.path().join("image.tar").display().to_string();
    for (method, path, action, arguments) in [
        ("GET", layer.as_str(), Action::StallBodyAfter(10), [CELL, "-o", &archive]),
        ("GET", "/manifests/", Action::Stall, [CELL, "-o", &archive]),
        ("PUT", "/blobs/uploads/", Action::Stall, [CELL, "--push", "-q"]),
    ] {
        // The base's manifest must be asked for, not remembered.
        let fresh = TempDir::new().unwrap();
        let cache = fresh.path().display().to_string();
        scene.registry.clear_log();
        scene.registry.fault(Fault::on(method, path, action).always());
        let child = scene
            .command(&arguments)
            .args(["--cache-dir", &cache])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let started = Instant::now();
        while scene.registry.count(method, path) == 0 {
            assert!(started.elapsed() < Duration::from_mins(1), "{method} {path}: not asked");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        // Some bytes are on their way to the disk.
        tokio::time::sleep(Duration::from_millis(200)).await;
        let asked = Instant::now();
        kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGINT).unwrap();
        let outcome = Outcome::of(child.wait_with_output().unwrap());
        outcome.failure(130, &["error: could not finish", "interrupted"]);
        assert!(asked.elapsed() < Duration::from_secs(30), "{:?}", asked.elapsed());
        let left = |folder: &std::path::Path| fs_err::read_dir(folder).unwrap().count();
        assert_eq!(left(out.path()), 0);
        assert_eq!(left(&fresh.path().join("tmp")), 0);
        assert_eq!(scene.temporary_files(), [""; 0]);
        scene.registry.heal();
    }
}

#[tokio::test(flavor = "multi_thread")]
#[cfg(target_arch = "x86_64")]
async fn ctrl_c_ends_a_build_too() {
    let scene = Scene::new().await;
    scene.publish_source("print('begun'); __import__('time').sleep(987)").await;
    let scene = scene.locked();
    for tier in ["", "loader"] {
        let child = scene
            .command(&[CELL])
            .env("ASSEMBLE_SANDBOX", tier)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let started = Instant::now();
        while builders(child.id()).is_empty() {
            assert!(started.elapsed() < Duration::from_mins(3), "the build did not begin");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
        let builders = builders(child.id());
        let asked = Instant::now();
        kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGINT).unwrap();
        let outcome = Outcome::of(child.wait_with_output().unwrap());
        outcome.failure(130, &["interrupted"]);
        assert!(asked.elapsed() < Duration::from_secs(30), "{:?}", asked.elapsed());
        assert_eq!(scene.temporary_files(), [""; 0]);
        for pid in builders {
            while std::path::Path::new(&format!("/proc/{pid}")).exists() {
                assert!(asked.elapsed() < Duration::from_mins(2), "{tier}: {pid} is still there");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

/// The processes below this one, by their ids.
fn builders(parent: u32) -> Vec<u32> {
    let mut below = vec![parent];
    let mut position = 0;
    while let Some(pid) = below.get(position) {
        let children = format!("/proc/{pid}/task");
        for task in fs_err::read_dir(children).into_iter().flatten().flatten() {
            let listed = fs_err::read_to_string(task.path().join("children")).unwrap_or_default();
            below.extend(listed.split_whitespace().map(|pid| pid.parse::<u32>().unwrap()));
        }
        position += 1;
    }
    below.split_off(1)
}
