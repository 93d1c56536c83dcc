//! Many cells: how they stand, how one is made, how all are assembled at once, what they weigh.
//!
//! A small matrix of an application that is one wheel and two dependencies, on bases of one file, by
//! the real command.
#![expect(clippy::unwrap_used, reason = "a broken fixture must fail the test")]

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use assemble::oci::{Digest, media_type};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::package_index::{FakePackageIndex, Published};
use crate::support::registry::{FakeRegistry, Fault};
use crate::support::{skip, tool};

/// A project's folder, and the servers that it speaks to.
struct Scene {
    folder: TempDir,
    registry: FakeRegistry,
    index: FakePackageIndex,
}

/// Where images go, and what they are called there.
const REPOSITORY: &str = "made/app";

const NEWEST: &str = "2.10/python3.13/alpine3.24";
const OTHER: &str = "2.10/python3.12/alpine3.24";
const OLDER: &str = "2.9/python3.13/alpine3.24";

impl Scene {
    /// Servers, bases, wheels and an empty matrix.
    async fn new() -> Self {
        let scene = Self {
            folder: TempDir::new().unwrap(),
            registry: FakeRegistry::start().await,
            index: FakePackageIndex::start().await,
        };
        for (python, os) in [("3.13", "alpine3.24"), ("3.12", "alpine3.24")] {
            scene.serve_base(python, os);
        }
        for version in ["2.9", "2.10", "3.0rc1"] {
            let name = format!("app-{version}-py3-none-any.whl");
            scene.index.publish("app", Published::wheel(&name, &["dep", "other-dep"], 900));
        }
        scene.index.publish("dep", Published::wheel("dep-1.0-py3-none-any.whl", &[], 40_000));
        let other = Published::wheel("other_dep-1.0-py3-none-any.whl", &[], 5000);
        scene.index.publish("other-dep", other);
        let address = scene.registry.address();
        scene.write(
            "matrix/matrix.toml",
            &format!(
                r#"
path = "{{app}}/python{{python}}/{{os}}"
tag = "{{app}}-python{{python}}-{{os}}"
repository = "{address}/{REPOSITORY}"
base = "{address}/library/python:{{python}}-{{os}}"
platforms = ["linux/amd64"]
layers = ["app", "note"]

[[floating]]
tags = ["latest", "{{app.major}}"]
newest = "app"
prefer = [{{ python = "3.13" }}]
"#
            ),
        );
        scene.write(
            "layers/app/layer.toml",
            "kind = \"python\"\nrequirements = [{ requirement = \"app=={app}\" }]\n\
             [[prune]]\npaths = [\"other_dep/noise.bin\"]\nreason = \"noise\"\n",
        );
        scene.write(
            "layers/note/layer.toml",
            "kind = \"files\"\n[[file]]\nfrom = \"note\"\nto = \"/note\"\n",
        );
        scene.write("layers/note/note", "the same in all images\n");
        scene
    }

    /// The scene with three locked cells.
    async fn locked() -> Self {
        let scene = Self::new().await;
        for cell in [NEWEST, OTHER, OLDER] {
            scene.make_folder(cell);
        }
        scene.ok(&["lock"]);
        scene
    }

    fn serve_base(&self, python: &str, os: &str) {
        let mut builder = tar::Builder::new(Vec::new());
        let release = os.strip_prefix("alpine").unwrap();
        for (name, bytes) in [
            ("etc/os", os.repeat(3000)),
            ("etc/os-release", format!("ID=alpine\nVERSION_ID={release}.0\n")),
            ("lib/ld-musl-x86_64.so.1", "a loader".to_owned()),
        ] {
            let mut header = tar::Header::new_ustar();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            builder.append_data(&mut header, name, bytes.as_bytes()).unwrap();
        }
        let tar = builder.into_inner().unwrap();
        let mut gzip = flate2::GzBuilder::new().write(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&tar).unwrap();
        let layer = gzip.finish().unwrap();
        let repository = "library/python";
        let size = layer.len();
        let layer = self.registry.put_blob(repository, layer);
        let config = json!({
            "architecture": "amd64", "os": "linux", "created": "2026-01-01T00:00:00Z",
            "config": { "Env": ["PATH=/usr/local/bin:/bin", format!("PYTHON_VERSION={python}.1")] },
            "rootfs": { "type": "layers", "diff_ids": [Digest::of(&tar)] },
            "history": [{ "created_by": "ADD rootfs /" }],
        });
        let config = serde_json::to_vec(&config).unwrap();
        let config_size = config.len();
        let config = self.registry.put_blob(repository, config);
        let manifest = json!({
            "schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST,
            "config": { "mediaType": media_type::OCI_CONFIG, "digest": config, "size": config_size },
            "layers": [{ "mediaType": media_type::OCI_LAYER_GZIP, "digest": layer, "size": size }],
        });
        let tag = format!("{python}-{os}");
        let manifest = serde_json::to_vec(&manifest).unwrap();
        self.registry.put_manifest(repository, Some(&tag), media_type::OCI_MANIFEST, manifest);
    }

    fn path(&self, relative: &str) -> PathBuf {
        self.folder.path().join(relative)
    }

    fn write(&self, relative: &str, text: &str) {
        let path = self.path(relative);
        fs_err::create_dir_all(path.parent().unwrap()).unwrap();
        fs_err::write(path, text).unwrap();
    }

    fn make_folder(&self, cell: &str) {
        fs_err::create_dir_all(self.path("matrix").join(cell)).unwrap();
    }

    /// Runs the command with a cache of its own for each `cache`.
    fn run_with(&self, cache: &str, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_assemble"))
            .args(arguments)
            .args(["--index-url", &self.index.url("")])
            .current_dir(self.folder.path())
            .env_clear()
            .env("ASSEMBLE_CACHE_DIR", self.path(cache))
            .env("HOME", self.folder.path())
            .output()
            .unwrap()
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.run_with("cache", arguments)
    }

    /// Standard output of a run that must succeed.
    fn ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", error_text(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.ok(arguments)).unwrap()
    }
}

fn error_text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn cells_are_shown_as_they_stand() {
    let scene = Scene::locked().await;
    scene.make_folder("3.0rc1/python3.13/alpine3.24");
    scene.ok(&["lock", "--base", NEWEST]);
    let lock = scene.path("matrix").join(OTHER).join("lock.toml");
    let text = fs_err::read_to_string(&lock).unwrap();
    fs_err::write(&lock, text.replace("app==2.10", "app==2.8")).unwrap();

    scene.registry.clear_log();
    assert_eq!(
        scene.ok(&["matrix"]),
        "\
CELL                          LOCK     BASE        PLATFORMS    ALSO TAGGED
2.10/python3.12/alpine3.24    stale    not pinned  linux/amd64
  requirements: locked for `app==2.8`, now `app==2.10`
2.10/python3.13/alpine3.24    locked   pinned      linux/amd64  2 latest
2.9/python3.13/alpine3.24     locked   not pinned  linux/amd64
3.0rc1/python3.13/alpine3.24  no lock  not pinned  linux/amd64

4 cells: 2 locked, 1 stale, 1 no lock; 3 bases are not pinned (`assemble lock --base` pins them)
"
    );
    // Nobody was asked.
    assert_eq!(scene.registry.lines(), Vec::<String>::new());

    let rows = scene.json(&["matrix", "--json", "2.10"]);
    assert_eq!(rows[0]["state"], "stale");
    assert_eq!(rows[0]["changes"][0], "requirements: locked for `app==2.8`, now `app==2.10`");
    assert_eq!(rows[1]["columns"], json!({"app": "2.10", "os": "alpine3.24", "python": "3.13"}));
    assert_eq!(rows[1]["floating"], json!(["2", "latest"]));
    assert!(rows[1]["base-pin"].as_str().unwrap().starts_with("sha256:"));
    assert!(rows[1].get("published").is_none());

    scene.ok(&[NEWEST, "--push"]);
    let rows = scene.json(&["matrix", "--published", "--json"]);
    assert_eq!(rows[0]["published"]["digest"], Value::Null);
    let digest = &rows[1]["published"]["digest"];
    assert_eq!(rows[1]["published"]["floating"], json!({"2": digest, "latest": digest}));
    assert_eq!(*digest, json!(scene.registry.tags(REPOSITORY)["2.10-python3.13-alpine3.24"]));

    // What a CI system makes jobs of.
    let only = ["matrix", "--only", "unpublished", "--only", "locked", "--format", "github"];
    assert_eq!(
        scene.ok(&only),
        "{\"include\":[{\"app\":\"2.9\",\"cell\":\"2.9/python3.13/alpine3.24\",\"os\":\"alpine3.24\",\
         \"platforms\":\"linux/amd64\",\"python\":\"3.13\",\"tag\":\"2.9-python3.13-alpine3.24\"}]}\n"
    );
    let yaml = scene.ok(&["matrix", "--format", "gitlab", "2.9"]);
    assert!(
        yaml.starts_with(".cells:\n  parallel:\n    matrix:\n      - APP: \"2.9\"\n"),
        "{yaml}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_cell_is_locked_or_leaves_nothing() {
    let scene = Scene::new().await;
    let matrix = scene.path("matrix");
    let folders = || fs_err::read_dir(&matrix).unwrap().count();
    for (cell, exit, said) in [
        ("2.10/python3.7/alpine3.24", 2, "there never was a python 3.7 image on alpine3.24"),
        ("2.10/python3.7/alpine3.24", 2, "python3.7 on alpine3.18"),
        ("2.10/3.13/alpine3.24", 2, "does not fit `path ="),
        ("9.9/python3.13/alpine3.24", 3, "app"),
    ] {
        let output = scene.run(&["new", cell]);
        let text = error_text(&output);
        assert_eq!(code(&output), exit, "{cell}: {text}");
        assert!(text.contains(said), "{cell}: {text}");
        assert_eq!(folders(), 1, "{cell}");
    }
    // A package index that fails leaves nothing either.
    scene.index.fault(crate::support::package_index::Fault {
        path: "/simple/dep/".to_owned(),
        times: 1,
        status: 403,
        headers: Vec::new(),
        body: String::new(),
    });
    let output = scene.run_with("other-cache", &["new", NEWEST]);
    assert_eq!((code(&output), folders()), (4, 1), "{}", error_text(&output));

    scene.ok(&["new", "--base", &format!("matrix/{NEWEST}/")]);
    let lock = fs_err::read_to_string(matrix.join(NEWEST).join("lock.toml")).unwrap();
    assert!(lock.contains("requirements = [\"app==2.10\"]") && lock.contains("[base]"), "{lock}");
    scene.ok(&["lock", "--check"]);
    let output = scene.run(&["new", NEWEST]);
    assert_eq!(code(&output), 2);
    assert!(error_text(&output).contains("is there already"));

    // What cannot be made is refused where it is found, too.
    scene.make_folder("2.10/python3.14/buster");
    let output = scene.run(&["plan", NEWEST]);
    assert_eq!(code(&output), 2);
    let text = error_text(&output);
    assert!(text.contains("2.10/python3.14/buster: there never was a python 3.14"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_matrix_is_pushed_at_once_and_nothing_twice() {
    let scene = Scene::locked().await;
    scene.make_folder("3.0rc1/python3.13/alpine3.24");
    scene.ok(&["lock", "3.0rc1"]);
    scene.registry.clear_log();
    scene.index.clear_log();
    let output = scene.run(&["--push", "-j", "4", "--output", "out/"]);
    assert!(output.status.success(), "{}", error_text(&output));
    let text = String::from_utf8(output.stdout).unwrap();
    let cells: Vec<&str> =
        text.lines().skip(1).take(4).map(|line| line.split(' ').next().unwrap()).collect();
    assert_eq!(cells, [OTHER, NEWEST, OLDER, "3.0rc1/python3.13/alpine3.24"]);
    assert!(text.contains("bases that are not pinned may be others tomorrow"), "{text}");
    assert_eq!(fs_err::read_dir(scene.path("out")).unwrap().count(), 4);

    // Files come in once, however many cells want them at the same time.
    for file in ["/dep-1.0-py3-none-any.whl", "/other_dep-1.0-py3-none-any.whl"] {
        assert!(scene.index.requests(file).len() <= 1, "{file}");
    }
    let lines = scene.registry.lines();
    let mut seen = BTreeMap::new();
    for line in &lines {
        *seen.entry(line.clone()).or_insert(0) += 1;
    }
    for (line, times) in &seen {
        let of_base = line.contains("/library/python/");
        assert!(!of_base || *times == 1, "{times} times {line}");
    }
    assert_eq!(
        seen.keys().filter(|line| line.starts_with("GET") && line.contains("/blobs/")).count(),
        3
    );
    // Each blob goes out once; the base's layer is mounted once.
    let uploads: Vec<&str> = lines
        .iter()
        .filter(|line| line.starts_with("PUT") && line.contains("/blobs/uploads/"))
        .map(|line| line.split("digest=").nth(1).unwrap().split('&').next().unwrap())
        .collect();
    let different: BTreeSet<_> = uploads.iter().collect();
    assert_eq!(uploads.len(), different.len(), "{uploads:?}");
    assert_eq!(lines.iter().filter(|line| line.contains("mount=")).count(), 1);

    // Floating tags are where they belong, though all cells were pushed side by side.
    let tags = scene.registry.tags(REPOSITORY);
    let newest = tags["2.10-python3.13-alpine3.24"];
    assert_eq!((tags["latest"], tags["2"]), (newest, newest));
    assert_eq!(tags.len(), 4 + 2);

    // An older cell that is made again takes nothing away.
    scene.ok(&[OLDER, "--push"]);
    assert_eq!(scene.registry.tags(REPOSITORY), tags);
    let plan = scene.ok(&["plan", NEWEST, "--push"]);
    assert!(
        plan.contains("\n  also tagged 2\n  also tagged latest\n") && plan.contains(":latest"),
        "{plan}"
    );

    // How many work at once changes nothing.
    let again = scene.run_with("second-cache", &["-j", "1", "--output", "again/"]);
    let again = String::from_utf8(again.stdout).unwrap();
    let table = |text: &str| text.lines().take(5).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(table(&again), table(&text));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_cell_stops_the_rest_or_does_not() {
    let scene = Scene::locked().await;
    // One cell has no lock, one's base is not there: exit codes 6 and 4.
    scene.make_folder("2.9/python3.12/alpine3.24");
    scene.serve_base("3.11", "alpine3.24");
    scene.make_folder("2.9/python3.11/alpine3.24");
    scene.ok(&["lock", "2.9/python3.11"]);
    scene.registry.fault(Fault::status("*", "/manifests/3.11", 403, "DENIED").always());
    let output = scene.run(&["--keep-going", "-q", "--output", "out/"]);
    let (text, errors) = (String::from_utf8_lossy(&output.stdout), error_text(&output));
    assert_eq!(code(&output), 6, "{errors}");
    let rows: Vec<String> = text
        .lines()
        .skip(1)
        .take(5)
        .map(|line| line.split_whitespace().take(2).collect::<Vec<_>>().join(" "))
        .map(|row| row.split(':').next().unwrap().to_owned())
        .collect();
    assert_eq!(
        rows,
        [
            format!("{OTHER} sha256"),
            format!("{NEWEST} sha256"),
            "2.9/python3.11/alpine3.24 failed".to_owned(),
            "2.9/python3.12/alpine3.24 failed".to_owned(),
            format!("{OLDER} sha256"),
        ]
    );
    // Errors are said even by those who are quiet, each with its cell, in the matrix's order.
    let first = errors.find("2.9/python3.11/alpine3.24: error: could not read the base").unwrap();
    let second = errors.find("2.9/python3.12/alpine3.24: error: could not use the lock").unwrap();
    assert!(first < second, "{errors}");
    assert!(errors.trim_end().ends_with("2 of 5 cells failed"), "{errors}");
    assert_eq!(fs_err::read_dir(scene.path("out")).unwrap().count(), 3);

    let output = scene.run(&["--json", "--keep-going", "2.9", "--output", "out/"]);
    let result: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(result["images"].as_array().unwrap().len(), 1);
    assert_eq!(result["failed"][1]["cell"], "2.9/python3.12/alpine3.24");
    assert_eq!(result["failed"][1]["exit-code"], 6);

    // Who does not keep going hears of the first failure in the matrix's order, and how to go on.
    let output = scene.run(&["-j", "1", "2.9", "--output", "none/"]);
    let errors = error_text(&output);
    assert_eq!(code(&output), 4, "{errors}");
    assert!(errors.contains("1 of 3 cells failed") && errors.contains("--keep-going"), "{errors}");
    assert!(!scene.path("none").exists());

    // A base that nobody can ask for spoils one lock, not all.
    let output = scene.run(&["lock", "--base", "--keep-going"]);
    assert_eq!(code(&output), 4);
    let pinned = scene.json(&["matrix", "--json"]);
    let pinned: Vec<bool> =
        pinned.as_array().unwrap().iter().map(|row| row["base-pin"].is_string()).collect();
    assert_eq!(pinned, [true, true, false, true, true]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_weighed() {
    let scene = Scene::locked().await;
    let report = scene.json(&["size", NEWEST, "--json", "--html", "out/size.html"]);
    let names: Vec<&str> = report["distributions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|share| share["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["dep", "app", "other_dep", "note"]);
    let sum = |key: &str| -> u64 {
        let shares = report["distributions"].as_array().unwrap();
        shares.iter().map(|share| share[key].as_u64().unwrap()).sum()
    };
    // Unpacked sizes are exact; estimates lose a byte each to rounding at most.
    assert_eq!(sum("unpacked"), report["added"]["unpacked"].as_u64().unwrap());
    assert_eq!(sum("files"), report["added"]["files"].as_u64().unwrap());
    let added = report["added"]["compressed"].as_u64().unwrap();
    assert!((added - 4..=added).contains(&sum("compressed")), "{added}");
    // And they are the image's: its manifest says the same.
    let image = scene.json(&[NEWEST, "--json", "--output", "out/image.tar"]);
    assert_eq!(image["images"][0]["images"][0]["added-size"], added);
    assert_eq!(report["pruned"][0]["bytes"], 5000);
    assert_eq!(report["pruned"][0]["from"], json!({"other-dep": 5000}));
    let pruned = report["distributions"].as_array().unwrap().iter();
    assert_eq!(pruned.map(|share| share["pruned"].as_u64().unwrap()).sum::<u64>(), 5000);
    let text = scene.ok(&["size", NEWEST]);
    assert!(text.contains("5.00 kB in 1 files: other_dep/noise.bin (noise)"), "{text}");
    let output = scene.run(&["size", "2.10"]);
    assert_eq!(code(&output), 2);

    let page = scene.path("out/size.html");
    let html = fs_err::read_to_string(&page).unwrap();
    assert!(html.contains("<small>2.10</small>"));
    in_browser(&page);
}

/// The page draws its treemap in a real browser, without an error, does what a hand wants, and looks like
/// something.
fn in_browser(page: &Path) {
    let Some(chromium) = tool("chromium") else { return };
    let browse = |page: &Path, place: &str, arguments: &[&str]| {
        let profile = TempDir::new().unwrap();
        Command::new(&chromium)
            .args(["--headless=new", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=2000"])
            .args(["--window-size=1200,900", "--enable-logging=stderr"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .args(arguments)
            .arg(format!("file://{}{place}", page.display()))
            .output()
            .unwrap()
    };
    let dump = browse(page, "", &["--dump-dom"]);
    if !dump.status.success() {
        return skip("chromium does not run here");
    }
    let dom = String::from_utf8_lossy(&dump.stdout);
    let console = error_text(&dump);
    assert!(!console.contains("Uncaught"), "{console}");
    assert!(dom.contains("<section id=\"treemap\" aria-label=\"Treemap\">"), "it is not shown");
    let tiles = dom.matches("<button class=\"d0").count();
    assert!(tiles >= 2, "{tiles} tiles");
    assert!(dom.contains("aria-label=\"app, "), "tiles say what they are");
    assert!(dom.contains("dep 1.0<i>"), "distributions have labels");
    // One level down, by the address.
    let below = browse(page, "#app/dep%201.0", &["--dump-dom"]);
    let below = String::from_utf8_lossy(&below.stdout);
    assert!(below.contains("aria-current=\"page\">dep 1.0 · "), "the place is shown");
    assert!(below.contains("noise.bin"));

    let driven = page.with_file_name("driven.html");
    let script = include_str!("drive_page.js");
    let html = fs_err::read_to_string(page).unwrap();
    fs_err::write(&driven, format!("{html}<script>{script}</script>")).unwrap();
    let driven = browse(&driven, "", &["--dump-dom"]);
    let driven = String::from_utf8_lossy(&driven.stdout);
    for said in [
        "hover: app",
        "away: nothing",
        "click: app\n",
        "click again: app/dep 1.0\n",
        "escape: app with dep 1.0 in focus\n",
        "arrow: moved\n",
        "back: app/dep 1.0\n",
        "other size: drawn anew\n",
        "end: of it\n",
    ] {
        assert!(driven.contains(said), "no `{said}` in {driven}");
    }

    let picture = page.with_extension("png");
    browse(page, "", &[&format!("--screenshot={}", picture.display())]);
    let bytes = fs_err::read(&picture).unwrap();
    assert!(bytes.starts_with(b"\x89PNG") && bytes.len() > 15_000, "{} bytes", bytes.len());
}
