//! What the command line prints, where it prints it, and what it leaves alone.

use assemble::Kind;
use assemble::oci::Digest;
use serde_json::json;

use crate::scene::{BASE, CELL, Scene, put_base};
use crate::support::package_index::Published;

/// A scene whose image has a start script too, and whose `app` needs `driver`.
async fn scene() -> Scene {
    let scene = Scene::new().await;
    scene.recipe.edit("matrix/matrix.toml", "[\"app\"]", "[\"app\", \"start\"]");
    scene.recipe.write("layers/start/start.sh", "#!/bin/sh\nexec app @version@\n");
    scene.recipe.write(
        "layers/start/layer.toml",
        "kind = \"files\"\n\
         [[file]]\nfrom = \"start.sh\"\nto = \"/start.sh\"\nmode = \"0755\"\n\
         substitute = { \"@version@\" = \"{app}\" }\n\
         [[directory]]\npath = \"/work\"\nmode = \"0775\"\nowner = \"1000:0\"\n\
         [[link]]\npath = \"/bin/app\"\ntarget = \"/start.sh\"\n\
         [config]\nentrypoint = [\"/start.sh\"]\nuser = \"1000:1000\"\nworking-dir = \"/work\"\n\
         exposed-ports = [\"80/tcp\"]\n\
         [config.env]\nPATH = \"/work/bin:$PATH\"\n\
         [config.labels]\n\"org.opencontainers.image.version\" = \"{app}\"\n",
    );
    scene.index.publish("app", Published::wheel("app-1.0-py3-none-any.whl", &["driver"], 1000));
    scene.index.publish("driver", Published::wheel("driver-2.0-py3-none-any.whl", &[], 10));
    scene.locked()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_says_everything_and_does_nothing() {
    let scene = scene().await;
    let blobs = || fs_err::read_dir(scene.cache.path().join("blobs/sha256")).unwrap().count();
    let before = blobs();
    scene.registry.clear_log();
    scene.index.clear_log();
    let plan = ["plan", CELL, "--push", "-o", "out/image.tar", "--annotation", "team=load"];
    let text = scene.run(&plan).success().stdout;
    let address = scene.registry.address();
    for said in [
        format!("{address}/example/app:1.0-python3.13-alpine3.24 for linux/amd64"),
        format!("base {address}/{BASE}:3.13-alpine3.24"),
        "python 3.13.15, 1 layers".into(),
        "(not pinned)".into(),
        "layer app (assemble: app==1.0)".into(),
        "app-1.0-py3-none-any.whl (".into(),
        "driver-2.0-py3-none-any.whl (".into(),
        "layer start (assemble: layers/start)".into(),
        "/start.sh  0755 0:0 (from start.sh)".into(),
        "/work/  0775 1000:0".into(),
        "/bin/app -> /start.sh".into(),
        "Entrypoint [\"/start.sh\"]".into(),
        "Cmd is cleared".into(),
        "User 1000:1000".into(),
        "WorkingDir /work".into(),
        "ExposedPorts 80/tcp".into(),
        "Env PATH=/work/bin:/usr/local/bin".into(),
        "Label org.opencontainers.image.version=1.0".into(),
        "Label org.opencontainers.image.base.digest=sha256:".into(),
        "Label team=load".into(),
        "created 2026-01-02T03:04:05Z".into(),
        "to out/image.tar (archive)".into(),
        format!("to {address}/example/app:1.0-python3.13-alpine3.24 (registry)"),
    ] {
        assert!(text.contains(&said), "not said: {said}\n{text}");
    }

    // As JSON it is complete too.
    let plan = [&plan[..], &["--json", "-q"]].concat();
    let outcome = scene.run(&plan).success();
    assert_eq!(outcome.stderr, "");
    let json = &outcome.json()[0];
    assert_eq!(json["cell"], CELL);
    assert_eq!(json["platform"], "linux/amd64");
    assert_eq!(json["base"]["python"], "3.13.15");
    let wheel = Published::wheel("driver-2.0-py3-none-any.whl", &[], 10);
    let driver = &json["distributions"][1];
    assert_eq!(driver["file-name"], wheel.file_name.as_str());
    assert_eq!(driver["sha256"], wheel.digest().to_string());
    assert_eq!(driver["size"], wheel.bytes.len());
    assert_eq!(json["config"]["entrypoint"], serde_json::json!(["/start.sh"]));
    assert_eq!(json["annotations"]["team"], "load");
    assert_eq!(json["destinations"].as_array().unwrap().len(), 2);

    // The registry was asked for the base's documents, the index for nothing; no file was made.
    for request in scene.registry.log() {
        assert!(matches!(&*request.method, "GET" | "HEAD"), "{request:?}");
        assert!(request.path.starts_with("/v2/library/python/"), "{request:?}");
    }
    assert!(scene.index.requests("").is_empty());
    assert!(blobs() <= before + 2, "more than the manifest and the config");
    assert_eq!(scene.temporary_files(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn results_go_to_stdout_and_the_rest_to_stderr() {
    let scene = scene().await;
    let arguments = [CELL, "--json", "-o", "image.tar", "--digest-file", "out/digest"];
    let outcome = scene.run(&arguments).success();
    let report = outcome.json();
    let image = &report["images"][0];
    let digest = image["digest"].as_str().unwrap();
    assert_eq!(scene.recipe.read("out/digest"), digest);
    let name = format!("{}/example/app:1.0-python3.13-alpine3.24", scene.registry.address());
    assert_eq!(image["reference"], name.as_str());
    assert!(image["images"][0]["size"].as_u64() > image["images"][0]["added-size"].as_u64());
    assert!(report["cost"]["requests"].as_u64().unwrap() > 0);
    assert!(report["cost"]["bytes-down"].as_u64().unwrap() > 0);
    // Not a terminal: whole lines, nothing else.
    assert!(!outcome.stderr.contains(['\u{1b}', '\r']), "{:?}", outcome.stderr);
    let lines: Vec<_> = outcome.stderr.lines().collect();
    let expected =
        ["fetching app-1.0-py3-none-any.whl", "installing and compressing", "layer start"];
    for line in expected.into_iter().chain(["writing image.tar"]) {
        assert!(lines.contains(&line), "{lines:?}");
    }

    // Quiet is quiet, and what is in the cache is not fetched.
    let outcome = scene.run(&[CELL, "-q", "-o", "image.tar"]).success();
    assert_eq!(outcome.stderr, "");
    assert!(outcome.stdout.starts_with(&format!("{name}@{digest}\n")), "{}", outcome.stdout);
    let outcome = scene.run(&[CELL, "-o", "image.tar"]).success();
    assert!(!outcome.stderr.contains("fetching"), "{}", outcome.stderr);
    let offline = scene.run(&[CELL, "--offline", "-o", "offline.tar"]).success();
    assert!(offline.stdout.contains(digest));

    // A layout has the same image.
    scene.run(&[CELL, "--format", "oci", "-o", "layout"]).success();
    let manifest = scene.recipe.path("layout/blobs").join(digest.replace(':', "/"));
    assert_eq!(Digest::of(&fs_err::read(manifest).unwrap()).to_string(), digest);
    let index: serde_json::Value =
        serde_json::from_str(&scene.recipe.read("layout/index.json")).unwrap();
    assert_eq!(index["manifests"][0]["digest"], digest);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_changes_only_as_it_is_told() {
    let scene = Scene::new().await;
    scene.recipe.edit("layers/app/layer.toml", "app==1.0", "app");
    let publish = |project: &str, version: &str, requires: &[&str], day: &str| {
        let file = format!("{project}-{version}-py3-none-any.whl");
        let mut wheel = Published::wheel(&file, requires, 10);
        wheel.upload_time = Some(format!("{day}T12:00:00Z"));
        scene.index.publish(project, wheel);
    };
    let lock = format!("matrix/{CELL}/lock.toml");
    let versions = || {
        let table: toml::Table = scene.recipe.read(&lock).parse().unwrap();
        let list = table["distribution"].as_array().unwrap().clone();
        let text = |value: &toml::Value| value.as_str().unwrap().to_owned();
        let pairs = list.iter().map(|entry| text(&entry["name"]) + " " + &text(&entry["version"]));
        pairs.collect::<Vec<_>>()
    };
    publish("app", "1.0", &["driver"], "2026-01-10");
    publish("driver", "1.0", &[], "2026-01-10");
    let first = scene.run(&["lock", "-q", "--json"]).success().json();
    assert_eq!(versions(), ["app 1.0", "driver 1.0"]);
    let both = json!([{"name": "app", "version": "1.0"}, {"name": "driver", "version": "1.0"}]);
    let expected = json!({"locks": [{
        "cell": CELL, "existed": false, "changed": true, "distributions": 2, "from-source": 0,
        "added": both, "removed": [], "moved": [],
    }]});
    assert_eq!(first, expected);
    publish("app", "1.1", &["driver"], "2026-02-10");
    publish("driver", "1.1", &[], "2026-02-10");
    publish("driver", "1.2", &[], "2026-03-10");
    scene.run(&["lock"]).success();
    assert_eq!(versions(), ["app 1.0", "driver 1.0"]);
    let outcome = scene.run(&["lock", "--upgrade-package", "driver", "--json"]).success();
    assert_eq!(versions(), ["app 1.0", "driver 1.2"]);
    let moved = &outcome.json()["locks"][0];
    assert_eq!(moved["moved"], json!([{"name": "driver", "from": "1.0", "to": "1.2"}]));
    assert_eq!((&moved["changed"], &moved["added"]), (&json!(true), &json!([])));
    let same = scene.run(&["lock", "--check", "--json"]).success().json();
    assert_eq!(same["locks"][0]["changed"], false);
    assert!(outcome.stderr.contains("driver 1.0 → 1.2"), "{}", outcome.stderr);
    // A limit is recorded and holds, until everything is to be the newest.
    scene.run(&["lock", "--upgrade", "--exclude-newer", "2026-02-28"]).success();
    assert_eq!(versions(), ["app 1.1", "driver 1.1"]);
    assert!(scene.recipe.read(&lock).contains("exclude-newer = \"2026-02-28T23:59:59Z\""));
    scene.run(&["lock", "--upgrade-package", "driver"]).success();
    assert_eq!(versions(), ["app 1.1", "driver 1.1"]);
    scene.run(&["lock", "--upgrade"]).success();
    assert_eq!(versions(), ["app 1.1", "driver 1.2"]);
    // No address stands in it.
    let text = scene.recipe.read(&lock);
    assert!(!text.contains("http") && !text.contains("127.0.0.1"), "{text}");

    // A pinned base stays what it was when its tag moves.
    let outcome = scene.run(&["lock", "--base"]).success();
    assert!(outcome.stderr.contains("the base is pinned to sha256:"), "{}", outcome.stderr);
    let manifest = scene.registry.manifest(BASE, "3.13-alpine3.24").unwrap().1;
    let pinned = Digest::of(&manifest).to_string();
    assert!(scene.recipe.read(&lock).contains(&pinned));
    put_base(&scene.registry, "arm64");
    let plan = scene.run(&["plan", CELL, "--json"]).success().json();
    assert_eq!(plan[0]["base"]["digest"], pinned.as_str());
    assert_eq!(plan[0]["base"]["pinned"], true);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_help_names_every_command_and_exit_code() {
    let scene = Scene::new().await;
    let help = scene.run(&["--help"]).success().stdout;
    for kind in Kind::ALL {
        let code = format!("\n{:5}  ", kind.exit_code());
        assert!(help.contains(&code), "{code:?}\n{help}");
    }
    for words in
        ["lock", "plan", "new", "--push", "--output", "--mirror", "--index-url", "Examples:"]
    {
        assert!(help.contains(words), "{words}\n{help}");
    }
    for command in ["lock", "plan", "new"] {
        let help = scene.run(&[command, "--help"]).success().stdout;
        assert!(help.contains(&format!("Usage: assemble {command}")), "{help}");
    }
}
