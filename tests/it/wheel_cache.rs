//! Built wheels that machines share: found and verified elsewhere, a lie refused, an absence told.

use std::path::Path;
use std::process::Command;

use assemble::oci::{Digest, media_type};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::command::{Outcome, run};
use crate::elf::Object;
use crate::project::wheel;
use crate::scene::{CELL, Scene};
use crate::support::package_index::Fault as IndexFault;
use crate::support::registry::{Action, FakeRegistry, Fault, Habits};
use crate::support::tools::{DockerRegistry, http, succeed};
use crate::support::{skip, tool};

/// It holds no compiled code, whatever its backend calls it.
const FILE: &str = "source-1.0-cp313-none-any.whl";

/// A backend that makes a small wheel which says that it was made for this machine.
const BACKEND: &str = r#"
    import base64, hashlib, os, zipfile
    files = {
        "source.py": b"built = True\n",
        "source-1.0.dist-info/METADATA": b"Metadata-Version: 2.1\nName: source\nVersion: 1.0\n",
        "source-1.0.dist-info/WHEEL":
            b"Wheel-Version: 1.0\nRoot-Is-Purelib: false\nTag: cp313-cp313-linux_x86_64\n",
    }
    record = ""
    name = "source-1.0-cp313-cp313-linux_x86_64.whl"
    with zipfile.ZipFile(os.path.join(folder, name), "w") as wheel:
        for path, data in files.items():
            wheel.writestr(zipfile.ZipInfo(path), data)
            digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")
            record += "%s,sha256=%s,%d\n" % (path, digest, len(data))
        record += "source-1.0.dist-info/RECORD,,\n"
        wheel.writestr(zipfile.ZipInfo("source-1.0.dist-info/RECORD"), record)
    return name
"#;

/// A scene whose one distribution has to be built, locked.
async fn scene() -> Scene {
    let scene = Scene::new().await;
    scene.publish_source(BACKEND.trim()).await;
    scene.locked()
}

/// A machine that never made anything: its own cache.
fn machine(scene: &Scene, cache: &TempDir, arguments: &[&str]) -> Command {
    let mut command = scene.command(&[&[CELL, "--push", "--json"], arguments].concat());
    command.env("ASSEMBLE_CACHE_DIR", cache.path());
    command
}

fn on(scene: &Scene, cache: &TempDir, arguments: &[&str]) -> Outcome {
    run(&mut machine(scene, cache, arguments))
}

fn image(outcome: &Outcome) -> (String, Value) {
    let result = outcome.json();
    let image = &result["images"][0];
    (image["digest"].as_str().unwrap().to_owned(), image["images"][0]["built"][0].clone())
}

/// The sdist cannot be had any more: nothing can be built.
fn forbid_builds(scene: &Scene) {
    scene.index.fault(IndexFault {
        path: "source-1.0.tar.gz".into(),
        times: usize::MAX,
        status: 404,
        headers: Vec::new(),
        body: String::new(),
    });
    scene.index.clear_log();
}

fn sdists_fetched(scene: &Scene) -> usize {
    scene.index.requests("source-1.0.tar.gz").len()
}

/// What is remembered of builds in a cache.
fn remembered(cache: &Path) -> usize {
    fs_err::read_dir(cache.join("keyed/built-wheels")).map_or(0, Iterator::count)
}

fn the_tag(registry: &FakeRegistry) -> String {
    let tags = registry.tags("wheels");
    assert_eq!(tags.len(), 1, "{tags:?}");
    tags.into_keys().next().unwrap()
}

/// Neither namespaces nor the base's loader: more namespaces are forbidden, and nothing in the cache may
/// be executed.
#[tokio::test(flavor = "multi_thread")]
#[cfg(target_arch = "x86_64")]
async fn where_nothing_of_a_base_runs_wheels_of_others_do() {
    let Some(unshare) = tool("unshare") else { return };
    let scene = scene().await;
    let repository = format!("{}/wheels", scene.registry.address());
    let [a, b] = [(); 2].map(|()| TempDir::new().unwrap());
    let cached = ["--wheel-cache", &*repository];
    let (first, _) = image(&on(&scene, &a, &[&cached[..], &["--push-wheels"]].concat()).success());

    let script = format!(
        "mount -t tmpfs -o noexec tmpfs {} && echo 0 >/proc/sys/user/max_user_namespaces || exit 77\n\
         exec \"$@\"\n",
        b.path().display()
    );
    let confined = |arguments: &[&str]| {
        let own = machine(&scene, &b, arguments);
        let mut command = Command::new(&unshare);
        command.args(["--user", "--map-root-user", "--mount", "sh", "-c", &script, "sh"]);
        command.arg(own.get_program()).args(own.get_args()).env_clear();
        command.envs(own.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.current_dir(scene.recipe.path("")).env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        run(&mut command)
    };
    let refused = confined(&[]);
    if refused.code == Some(77) || refused.stderr.contains("unshare failed") {
        return skip(&format!("no namespaces to forbid: {}", refused.stderr));
    }
    let hint = "a cache folder on a `noexec` mount cannot be used";
    refused.failure(1, &["source 1.0 cannot be built here", "Permission denied", hint]);
    let (second, found) = image(&confined(&cached).success());
    assert_eq!(second, first);
    assert_eq!(found["wheel"], FILE);
}

#[tokio::test(flavor = "multi_thread")]
#[cfg(target_arch = "x86_64")]
async fn what_one_machine_built_a_cold_one_finds_and_builds_nothing() {
    let Some(registry) = DockerRegistry::start() else { return };
    let scene = scene().await;
    let matrix = scene.recipe.read("matrix/matrix.toml");
    let repository = format!("{}/team/wheels", registry.address());
    scene.recipe.write("matrix/matrix.toml", &format!("wheels = \"{repository}\"\n{matrix}"));

    // Configured and empty: built. Whoever does not ask for it writes nothing there.
    let [a, b] = [(); 2].map(|()| TempDir::new().unwrap());
    let (first, built) = image(&on(&scene, &a, &[]).success());
    assert_eq!((&built["from-cache"], &built["found-in"]), (&json!(false), &Value::Null));
    let tags = || http(registry.address(), "GET", "/v2/team/wheels/tags/list", "").unwrap();
    assert_eq!(tags().0, 404);
    // What was built before it was asked to share is shared too.
    let said = on(&scene, &a, &["--push-wheels"]).success();
    assert!(said.stderr.contains(&format!("{FILE} is in {repository} now")), "{}", said.stderr);
    let listed: Value = serde_json::from_str(&tags().1).unwrap();
    let tag = listed["tags"][0].as_str().unwrap().to_owned();
    assert_eq!(listed["tags"].as_array().unwrap().len(), 1);

    forbid_builds(&scene);
    let outcome = on(&scene, &b, &[]).success();
    let (second, found) = image(&outcome);
    assert_eq!(second, first);
    assert_eq!(found["wheel"], FILE);
    assert_eq!(found["from-cache"], true);
    assert_eq!(found["found-in"], format!("{repository}:{tag}"));
    assert_eq!(found["tier"], built["tier"]);
    assert_eq!(sdists_fetched(&scene), 0);
    // The base's manifest and config, one HEAD of the image's tag; and the wheel's manifest and itself.
    let with = outcome.json()["cost"]["requests"].as_u64().unwrap();
    let again = on(&scene, &b, &[]).success();
    assert_eq!(image(&again).1["found-in"], Value::Null);
    let without = again.json()["cost"]["requests"].as_u64().unwrap();
    assert!(with >= without + 2, "{with} {without}");

    // Without a network, what was found stays found.
    let offline = scene.command(&[CELL, "--offline", "-o", "image.tar", "--no-check"]);
    let mut offline = offline;
    offline.env("ASSEMBLE_CACHE_DIR", b.path());
    run(&mut offline).success();

    // Others can read it.
    let Some(skopeo) = tool("skopeo") else { return };
    let name = format!("docker://{repository}:{tag}");
    let raw =
        succeed(Command::new(&skopeo).args(["inspect", "--raw", "--tls-verify=false", &name]));
    let raw: Value = serde_json::from_str(&raw).unwrap();
    assert_eq!(raw["artifactType"], "application/vnd.assemble.wheel.v1");
    assert_eq!(raw["layers"][0]["annotations"]["org.opencontainers.image.title"], FILE);
}

#[tokio::test(flavor = "multi_thread")]
#[cfg(target_arch = "x86_64")]
async fn either_tier_makes_the_same_entry_for_the_same_key() {
    let scene = scene().await;
    let shared = FakeRegistry::start().await;
    let mut entries = Vec::new();
    for (tier, repository) in [("", "one"), ("loader", "other")] {
        let cache = TempDir::new().unwrap();
        let name = format!("{}/{repository}", shared.address());
        let mut command = machine(&scene, &cache, &["--push-wheels", "--wheel-cache", &name]);
        run(command.env("ASSEMBLE_SANDBOX", tier)).success();
        let (tag, digest) = shared.tags(repository).into_iter().next().unwrap();
        let bytes = shared.manifest(repository, &digest.to_string()).unwrap().1;
        let mut entry: Value = serde_json::from_slice(&bytes).unwrap();
        let how = entry["annotations"]["assemble.wheel.tier"].take();
        assert_eq!(how == "loader", tier == "loader");
        entries.push((tag, entry));
    }
    assert_eq!(entries[0], entries[1]);
}

#[tokio::test(flavor = "multi_thread")]
#[cfg(target_arch = "x86_64")]
async fn an_entry_costs_what_it_must() {
    let scene = scene().await;
    let shared = FakeRegistry::start().await;
    let name = format!("{}/wheels", shared.address());
    let [a, b] = [(); 2].map(|()| TempDir::new().unwrap());
    on(&scene, &a, &["--push-wheels", "--wheel-cache", &name]).success();
    let methods: Vec<_> = shared.log().into_iter().map(|logged| logged.method).collect();
    // It is looked for; the wheel and the empty config are looked for and uploaded; then the tag.
    assert_eq!(methods, ["GET", "HEAD", "POST", "PUT", "HEAD", "POST", "PUT", "PUT"]);
    for (cache, arguments, expected) in [
        (&b, &["--wheel-cache", &name][..], &["GET", "GET"][..]),
        (&b, &["--wheel-cache", &name], &[]),
        (&b, &["--wheel-cache", &name, "--push-wheels"], &["HEAD"]),
        (&a, &["--wheel-cache", "none"], &[]),
        (&a, &["--wheel-cache", &name, "--offline"], &[]),
    ] {
        shared.clear_log();
        let outcome = on(&scene, cache, arguments);
        assert_eq!(outcome.code == Some(0), !arguments.contains(&"--offline"), "{outcome:?}");
        let methods: Vec<_> = shared.log().into_iter().map(|logged| logged.method).collect();
        assert_eq!(methods, expected, "{arguments:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[cfg(target_arch = "x86_64")]
async fn a_cache_that_lies_is_refused_and_nothing_of_it_remembered() {
    let scene = scene().await;
    let shared = FakeRegistry::start().await;
    let name = format!("{}/wheels", shared.address());
    let cache = TempDir::new().unwrap();
    on(&scene, &cache, &["--push-wheels", "--wheel-cache", &name]).success();
    let tag = the_tag(&shared);
    let (kind, honest) = shared.manifest("wheels", &tag).unwrap();
    scene.registry.forget("example/app");
    forbid_builds(&scene);
    let tagged = |bytes: &[u8]| {
        shared.put_manifest("wheels", Some(&tag), media_type::OCI_MANIFEST, bytes.to_vec())
    };
    let with_file = |title: &str, bytes: Vec<u8>| {
        let mut entry: Value = serde_json::from_slice(&honest).unwrap();
        entry["layers"][0]["size"] = bytes.len().into();
        entry["layers"][0]["annotations"]["org.opencontainers.image.title"] = title.into();
        entry["layers"][0]["digest"] = shared.put_blob("wheels", bytes).to_string().into();
        entry.to_string().into_bytes()
    };
    let changed = |place: &str, value: &str| {
        let mut entry: Value = serde_json::from_slice(&honest).unwrap();
        *entry.pointer_mut(place).unwrap() = value.into();
        entry.to_string().into_bytes()
    };
    let ours = |files: &[(&str, Vec<u8>)]| wheel("source", "cp313-cp313-linux_x86_64", files);
    let arm64 = Object::of("aarch64").to_bytes();
    let other_key = Digest::of(b"another build").to_string();
    for (entry, said) in [
        (changed("/annotations/assemble.wheel.key", &other_key), "has another build's key"),
        (changed("/annotations/assemble.wheel.version", "2.0"), "another project or version"),
        (changed("/annotations/assemble.wheel.platform", "linux/arm64"), "another platform"),
        (changed("/artifactType", "application/x"), "is no wheel of assemble"),
        (
            with_file("other-1.0-py3-none-any.whl", wheel("other", "py3-none-any", &[])),
            "holds another file: `other-1.0-py3-none-any.whl`",
        ),
        (with_file("../../x-1.0-py3-none-any.whl", ours(&[])), "holds another file"),
        (with_file(FILE, wheel("other", "cp313-cp313-linux_x86_64", &[])), "which is refused"),
        (with_file(FILE, b"no zip".to_vec()), "which is refused"),
        (
            with_file(FILE, ours(&[("source.cpython-313-x86_64-linux-musl.so", arm64)])),
            "which is not made for linux/amd64",
        ),
    ] {
        tagged(&entry);
        let cold = TempDir::new().unwrap();
        let outcome = on(&scene, &cold, &["--wheel-cache", &name]);
        let place = format!("`{name}:{tag}`");
        outcome
            .failure(5, &["the shared wheel cache is wrong", &place, said, "--wheel-cache none"]);
        assert_eq!(remembered(cold.path()), 0, "{said}");
        assert!(scene.registry.tags("example/app").is_empty());
    }

    // The right entry, but other bytes.
    shared.put_manifest("wheels", Some(&tag), &kind, honest.clone());
    let entry: Value = serde_json::from_slice(&honest).unwrap();
    let size = usize::try_from(entry["layers"][0]["size"].as_u64().unwrap()).unwrap();
    shared.fault(Fault::on("GET", "/blobs/", Action::Body(vec![0; size])));
    let cold = TempDir::new().unwrap();
    let outcome = on(&scene, &cold, &["--wheel-cache", &name]);
    outcome.failure(5, &["is damaged", "digest mismatch"]);
    assert_eq!(remembered(cold.path()), 0);
    // Nothing of that is left: the same machine goes on as soon as the cache is right.
    let outcome = on(&scene, &cold, &["--wheel-cache", &name]).success();
    assert_eq!(image(&outcome).1["found-in"], format!("{name}:{tag}"));
}

#[tokio::test(flavor = "multi_thread")]
#[cfg(target_arch = "x86_64")]
async fn a_cache_that_cannot_be_used_is_told_and_the_wheel_is_built() {
    let scene = scene().await;
    let reference = image(&on(&scene, &TempDir::new().unwrap(), &[]).success()).0;
    let shared = FakeRegistry::start().await;
    let name = format!("{}/wheels", shared.address());
    let html = Action::Respond { status: 200, headers: Vec::new(), body: b"<html>".to_vec() };
    for fault in [
        Fault::status("*", "", 401, "UNAUTHORIZED"),
        Fault::status("*", "", 403, "DENIED"),
        Fault::on("*", "", html),
    ] {
        shared.heal();
        shared.fault(fault.always());
        let outcome = on(&scene, &TempDir::new().unwrap(), &["--wheel-cache", &name]).success();
        let told = format!("note: the wheel cache {name} is not used: ");
        assert!(outcome.stderr.contains(&told), "{}", outcome.stderr);
        let (digest, built) = image(&outcome);
        assert_eq!((digest, &built["from-cache"]), (reference.clone(), &json!(false)));
    }
    shared.heal();
    // Nobody is there, and nobody has the right to write.
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let nobody = format!("{nobody}/wheels");
    let cache = TempDir::new().unwrap();
    let outcome = on(&scene, &cache, &["--wheel-cache", &nobody]).success();
    assert!(outcome.stderr.contains(&format!("{nobody} is not used: ")), "{}", outcome.stderr);
    assert_eq!(image(&outcome).0, reference);
    shared.set_habits(Habits { read_only: true, ..Habits::default() });
    let outcome = on(&scene, &cache, &["--wheel-cache", &name, "--push-wheels"]).success();
    let told = format!("note: the wheel cache {name} is not written: ");
    assert!(outcome.stderr.contains(&told), "{}", outcome.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_repository_is_said() {
    let scene = Scene::new().await.locked();
    for (arguments, said) in [
        (&["--push-wheels"][..], "--push-wheels, but no wheel cache is named"),
        (&["--wheel-cache", "r.example/wheels:1"], "`r.example/wheels:1` names more than a repo"),
        (&["--wheel-cache", "https://r.example/w"], "the reference is not usable"),
    ] {
        let arguments = [&[CELL], arguments].concat();
        scene.run(&arguments).failure(2, &["use the wheel cache", said]);
    }
    let matrix = scene.recipe.read("matrix/matrix.toml");
    scene.recipe.write("matrix/matrix.toml", &format!("wheels = \"r.example/w:1\"\n{matrix}"));
    scene.run(&[CELL]).failure(2, &["matrix.toml", "`wheels` names more than a repository"]);
}
