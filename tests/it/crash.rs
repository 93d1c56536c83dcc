//! Killed at any moment, two at once, every file of the cache damaged: the same digest or a clear
//! error, never a wrong image, and nothing wrong left behind.
//!
//! `ASSEMBLE_CRASH_ROUNDS` says how often is killed, `ASSEMBLE_CRASH_SEED` when.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use assemble::oci::{Digest, media_type};
use assemble::{destination, store};
use serde_json::{Value, json};

use crate::support::package_index::{FakePackageIndex, Published};
use crate::support::registry::{Action, FakeRegistry, Fault, Habits};

const CELL: &str = "1.0/python3.13/alpine3.24";
const TAG: &str = "1.0-python3.13-alpine3.24";
const BASE: &str = "library/python";
const TARGET: &str = "mine/app";

/// A recipe, its servers, and a cache of its own.
struct Scene {
    folder: tempfile::TempDir,
    registry: FakeRegistry,
    index: FakePackageIndex,
}

impl Scene {
    async fn new() -> Self {
        let registry = FakeRegistry::start().await;
        let index = FakePackageIndex::start().await;
        let scene = Self { folder: tempfile::tempdir().unwrap(), registry, index };
        let address = scene.registry.address();
        scene.write(
            "project/matrix/matrix.toml",
            &format!(
                "path = \"{{app}}/python{{python}}/{{os}}\"\n\
                 tag = \"{{app}}-python{{python}}-{{os}}\"\n\
                 repository = \"{address}/{TARGET}\"\n\
                 base = \"{address}/{BASE}:{{python}}-{{os}}\"\n\
                 platforms = [\"linux/amd64\"]\n\
                 layers = [\"app\", \"files\"]\n"
            ),
        );
        scene.write("project/matrix/1.0/python3.13/alpine3.24/.keep", "");
        scene.write(
            "project/layers/app/layer.toml",
            "kind = \"python\"\nrequirements = [{ requirement = \"demo\" }]\nscheme = \"base\"\n",
        );
        scene.write(
            "project/layers/files/layer.toml",
            "kind = \"files\"\n[[file]]\nfrom = \"start\"\nto = \"/start\"\nmode = \"0755\"\n",
        );
        scene.write("project/layers/files/start", "#!/bin/sh\nexec python3 -m demo\n");
        scene.stock_base();
        for (project, file, requires, padding) in [
            ("demo", "demo-1.0-py3-none-any.whl", &["part>=1"][..], 400_000),
            ("demo", "demo-0.9-py3-none-any.whl", &[], 10),
            ("part", "part-1.5-py3-none-any.whl", &["leaf"], 2_000_000),
            ("leaf", "leaf-2.0-py3-none-any.whl", &[], 1_000),
        ] {
            scene.index.publish(project, Published::wheel(file, requires, padding));
        }
        scene
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.folder.path().join(path);
        fs_err::create_dir_all(path.parent().unwrap()).unwrap();
        fs_err::write(path, text).unwrap();
    }

    /// A base with one layer that holds what can be unpacked.
    fn stock_base(&self) {
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o755);
        header.set_size(2);
        // By its loader's name it is told to be what its tag says.
        for path in ["lib/ld-musl-x86_64.so.1", "bin/sh", "usr/local/lib/python3.13/os.py"] {
            tar.append_data(&mut header, path, &b"#\n"[..]).unwrap();
        }
        let plain = tar.into_inner().unwrap();
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        std::io::Write::write_all(&mut gzip, &plain).unwrap();
        let layer = gzip.finish().unwrap();
        let config = json!({
            "os": "linux",
            "architecture": "amd64",
            "config": {"Env": ["PATH=/usr/local/bin:/usr/bin:/bin", "PYTHON_VERSION=3.13.9"]},
            "rootfs": {"type": "layers", "diff_ids": [Digest::of(&plain)]},
        })
        .to_string();
        let describe = |kind: &str, bytes: &[u8]| json!({"mediaType": kind, "digest": Digest::of(bytes), "size": bytes.len()});
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": media_type::OCI_MANIFEST,
            "config": describe(media_type::OCI_CONFIG, config.as_bytes()),
            "layers": [describe(media_type::OCI_LAYER_GZIP, &layer)],
        })
        .to_string();
        self.registry.put_blob(BASE, config);
        self.registry.put_blob(BASE, layer);
        let tag = Some("3.13-alpine3.24");
        self.registry.put_manifest(BASE, tag, media_type::OCI_MANIFEST, manifest);
    }

    fn project(&self) -> PathBuf {
        self.folder.path().join("project")
    }

    fn lock_path(&self) -> PathBuf {
        self.project().join("matrix").join(CELL).join("lock.toml")
    }

    fn cache(&self) -> PathBuf {
        self.folder.path().join("cache")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_assemble"));
        command
            .args(arguments)
            .args(["--index-url", &self.index.url("")])
            .env_clear()
            .env("HOME", self.folder.path())
            .env("ASSEMBLE_CACHE_DIR", self.cache())
            .current_dir(self.project())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    fn succeed(&self, arguments: &[&str]) {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", said(&output));
    }

    /// Assembles into `image.tar` and returns the digest, of an archive that was read again.
    fn assemble(&self) -> Digest {
        self.succeed(&["-o", "image.tar"]);
        destination::validate(&self.project().join("image.tar")).unwrap();
        self.digest_of("image.tar")
    }

    /// What an archive's index names.
    fn digest_of(&self, archive: &str) -> Digest {
        let file = fs_err::File::open(self.project().join(archive)).unwrap();
        let mut archive = tar::Archive::new(file);
        let mut entries = archive.entries().unwrap().map(Result::unwrap);
        let index = entries.find(|entry| entry.path().unwrap().ends_with("index.json")).unwrap();
        let index: Value = serde_json::from_reader(index).unwrap();
        index["manifests"][0]["digest"].as_str().unwrap().parse().unwrap()
    }

    /// Every blob in the cache has the digest that is its name.
    fn check_cache(&self) {
        let store = store::Store::open(self.cache()).unwrap();
        for entry in fs_err::read_dir(self.cache().join("blobs/sha256")).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            let digest: Digest = format!("sha256:{name}").parse().unwrap();
            assert!(store.verify(&digest).unwrap(), "{name} is not what its name says");
        }
    }

    /// The tag is not there, or all it names is. Returns what it names.
    fn check_registry(&self) -> Option<Digest> {
        let tagged = *self.registry.tags(TARGET).get(TAG)?;
        let (_, manifest) = self.registry.manifest(TARGET, TAG).unwrap();
        assert_eq!(Digest::of(&manifest), tagged);
        let manifest: Value = serde_json::from_slice(&manifest).unwrap();
        let layers = manifest["layers"].as_array().unwrap();
        for part in layers.iter().chain([&manifest["config"]]) {
            let digest: Digest = part["digest"].as_str().unwrap().parse().unwrap();
            let blob = self.registry.blob(TARGET, &digest).expect("a tag without a blob");
            assert_eq!(Digest::of(&blob), digest);
        }
        Some(tagged)
    }

    /// What runs left that has not its name yet, of all folders that anything is written to.
    fn leftovers(&self) -> Vec<PathBuf> {
        let mut all = everything(&self.cache().join("tmp"));
        for folder in [self.project(), self.cache().join("uploads")] {
            if folder.is_dir() {
                all.extend(everything(&folder));
            }
        }
        let tmp = self.cache().join("tmp");
        all.retain(|path| path.starts_with(&tmp) || path.to_string_lossy().contains(".assemble-"));
        all
    }

    /// Nothing wrong lies anywhere.
    fn check(&self, lock: &str, digest: Digest) {
        self.check_cache();
        if let Some(tagged) = self.check_registry() {
            assert_eq!(tagged, digest);
        }
        if let Ok(text) = fs_err::read_to_string(self.lock_path()) {
            assert_eq!(text, lock);
        }
        let image = self.project().join("image.tar");
        if image.exists() {
            destination::validate(&image).unwrap();
            assert_eq!(self.digest_of("image.tar"), digest);
        }
    }

    /// As if nothing had ever been done.
    fn clear(&self) {
        for path in [self.cache(), self.project().join("image.tar"), self.lock_path()] {
            let _absent = if path.is_dir() {
                fs_err::remove_dir_all(&path)
            } else {
                fs_err::remove_file(&path)
            };
        }
        self.registry.forget(TARGET);
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[expect(clippy::disallowed_methods, reason = "how long to go on is the machine's to say")]
fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// A number below `limit`; the same ones for the same seed.
fn draw(state: &mut u64, limit: u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state % limit.max(1)
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_moment() {
    let scene = Scene::new().await;
    let commands = [&["lock"][..], &["-o", "image.tar"], &["--push"]];
    // Undisturbed: what must come out every time, and how long each takes.
    let took: Vec<Duration> = commands
        .iter()
        .map(|arguments| {
            let start = Instant::now();
            scene.succeed(arguments);
            start.elapsed()
        })
        .collect();
    let lock = fs_err::read_to_string(scene.lock_path()).unwrap();
    let digest = scene.check_registry().expect("it was pushed");
    scene.check(&lock, digest);

    let mut state = number("ASSEMBLE_CRASH_SEED", 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let (mut killed, mut left, rounds) = (0, 0, number("ASSEMBLE_CRASH_ROUNDS", 12));
    for round in 0..rounds {
        if round % 3 == 0 {
            scene.clear();
        }
        let step = usize::try_from(round % 3).unwrap();
        let limit = u64::try_from(took[step].as_micros()).unwrap();
        // Sometimes twice before it may finish: the second meets what the first left.
        for _ in 0..=draw(&mut state, 2) {
            let mut child = scene.command(commands[step]).spawn().unwrap();
            std::thread::sleep(Duration::from_micros(draw(&mut state, limit)));
            child.kill().unwrap();
            let ended = child.wait().unwrap();
            killed += u64::from(ended.code().is_none());
            scene.check(&lock, digest);
        }
        left += u64::from(!scene.leftovers().is_empty());
        scene.succeed(commands[step]);
        scene.check(&lock, digest);
        assert_eq!(scene.leftovers(), Vec::<PathBuf>::new(), "round {round}");
    }
    println!("{rounds} rounds, {killed} kills, {left} of them left something that was swept");
    if rounds >= 3 {
        assert_eq!(scene.check_registry(), Some(digest));
        assert_eq!(scene.assemble(), digest);
    }
    assert!(killed > rounds / 3, "{killed} of {rounds} rounds were killed before their end");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_at_once_on_one_cache() {
    let scene = Scene::new().await;
    scene.succeed(&["lock"]);
    let lock = fs_err::read_to_string(scene.lock_path()).unwrap();
    for arguments in [[["lock"; 2]; 2], [["-o", "one.tar"], ["-o", "two.tar"]], [["--push"; 2]; 2]]
    {
        fs_err::remove_dir_all(scene.cache()).unwrap();
        let both: Vec<_> = arguments
            .iter()
            .map(|arguments| {
                let distinct = if arguments[0] == arguments[1] { 1 } else { 2 };
                scene.command(&arguments[..distinct]).spawn().unwrap()
            })
            .collect();
        for child in both {
            let output = child.wait_with_output().unwrap();
            assert!(output.status.success(), "{arguments:?}: {}", said(&output));
        }
        scene.check_cache();
    }
    assert_eq!(fs_err::read_to_string(scene.lock_path()).unwrap(), lock);
    let digest = scene.check_registry().expect("it was pushed");
    for archive in ["one.tar", "two.tar"] {
        destination::validate(&scene.project().join(archive)).unwrap();
        assert_eq!(scene.digest_of(archive), digest);
    }
}

/// A folder's content, what is below it included.
fn everything(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs_err::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.is_symlink() {
            found.extend(everything(&path));
        }
        found.push(path);
    }
    found
}

/// Waits, for as long as it takes.
async fn until(mut holds: impl FnMut() -> bool) {
    while !holds() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Killed twice in the middle of a layer's upload in chunks: each run goes on where the one before
/// was, by what it left on disk.
#[tokio::test(flavor = "multi_thread")]
async fn an_upload_in_chunks_goes_on_after_kills() {
    const CHUNK: usize = 16 << 20;
    let scene = Scene::new().await;
    // Three chunks that deflate cannot make smaller. It is sent so because one request is refused.
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut noise = Vec::with_capacity(2 * CHUNK + CHUNK / 4);
    while noise.len() < noise.capacity() {
        noise.extend(draw(&mut state, u64::MAX).to_le_bytes());
    }
    fs_err::write(scene.project().join("layers/files/noise"), noise).unwrap();
    scene.write(
        "project/layers/files/layer.toml",
        "kind = \"files\"\n[[file]]\nfrom = \"noise\"\nto = \"/noise\"\n",
    );
    scene.registry.set_habits(Habits { largest_put: CHUNK, ..Habits::default() });
    scene.succeed(&["lock"]);
    let digest = scene.assemble();

    let mut sent_from = Vec::new();
    for _ in 0..2 {
        scene.registry.clear_log();
        // One chunk is taken, the next is never answered.
        scene.registry.fault(Fault::on("PATCH", "uploads", Action::Stall).after(1));
        let mut child = scene.command(&["--push"]).spawn().unwrap();
        until(|| scene.registry.count("PATCH", "uploads") == 2).await;
        child.kill().unwrap();
        child.wait().unwrap();
        scene.registry.heal();
        sent_from.extend(ranges(&scene.registry));
        assert_eq!(scene.check_registry(), None, "a tag on an incomplete image");
        assert_eq!(files(&scene.cache().join("uploads")).len(), 1);
    }
    scene.registry.clear_log();
    scene.succeed(&["--push"]);
    sent_from.extend(ranges(&scene.registry));
    let chunk = |number: usize| number * CHUNK;
    assert_eq!(sent_from, [chunk(0), chunk(1), chunk(1), chunk(2), chunk(2)]);
    assert_eq!(scene.check_registry(), Some(digest));
    assert_eq!(files(&scene.cache().join("uploads")), Vec::<PathBuf>::new());
    assert_eq!(scene.registry.open_uploads(), 0, "sessions that nobody ends");
    assert_eq!(scene.leftovers(), Vec::<PathBuf>::new());
}

/// Where the chunks that the registry saw begin.
fn ranges(registry: &FakeRegistry) -> Vec<usize> {
    let log = registry.log();
    log.iter()
        .filter(|request| request.method == "PATCH")
        .map(|request| {
            let range = request.header("content-range").unwrap();
            range.split('-').next().unwrap().parse().unwrap()
        })
        .collect()
}

/// Every file below a folder, sorted.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs_err::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn what_two_layers_begin_with_was_damaged() {
    let scene = Scene::new().await;
    scene.succeed(&["lock"]);
    scene.assemble();
    let newer = Published::wheel("demo-1.1-py3-none-any.whl", &["part>=1"], 10);
    scene.index.publish("demo", newer);
    scene.succeed(&["lock", "--upgrade"]);
    let fresh = scene.folder.path().join("fresh");
    scene.succeed(&["-o", "image.tar", "--cache-dir", &fresh.display().to_string()]);
    let expected = scene.digest_of("image.tar");
    let begins = scene.cache().join("keyed/begins");
    assert_eq!(files(&begins).len(), 1, "the second layer copies what the first began with");
    for path in files(&scene.cache().join("blobs")) {
        let mut bytes = fs_err::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs_err::write(&path, bytes).unwrap();
    }
    assert_eq!(scene.assemble(), expected);
    assert_eq!(files(&begins).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_file_of_the_cache_damaged_in_turn() {
    let scene = Scene::new().await;
    scene.succeed(&["lock"]);
    let lock = fs_err::read_to_string(scene.lock_path()).unwrap();
    let digest = scene.assemble();
    let all = files(&scene.cache());
    assert!(all.len() > 8, "{all:?}");
    for (number, path) in all.iter().enumerate() {
        let Ok(mut bytes) = fs_err::read(path) else { continue };
        match number % 3 {
            0 => bytes.truncate(bytes.len() / 2),
            1 => {
                let middle = bytes.len() / 2;
                bytes.iter_mut().skip(middle).take(1).for_each(|byte| *byte ^= 1);
            }
            _ => bytes.clear(),
        }
        fs_err::write(path, bytes).unwrap();
        let shown = path.strip_prefix(scene.cache()).unwrap().display();
        fs_err::remove_file(scene.project().join("image.tar")).unwrap();
        let output = scene.run(&["-o", "image.tar"]);
        assert!(output.status.success(), "{shown}: {}", said(&output));
        destination::validate(&scene.project().join("image.tar")).unwrap();
        assert_eq!(scene.digest_of("image.tar"), digest, "{shown}");
        scene.succeed(&["lock"]);
        assert_eq!(fs_err::read_to_string(scene.lock_path()).unwrap(), lock, "{shown}");
    }
    // The same length, so that only its digest tells; and found out while it is pushed.
    for path in files(&scene.cache().join("blobs")) {
        let Ok(mut bytes) = fs_err::read(&path) else { continue };
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs_err::write(&path, bytes).unwrap();
        scene.registry.forget(TARGET);
        scene.succeed(&["--push"]);
        assert_eq!(scene.check_registry(), Some(digest), "{}", path.display());
    }
    // All at once, and for a push.
    for path in files(&scene.cache()) {
        fs_err::write(path, "damaged").unwrap();
    }
    scene.succeed(&["--push"]);
    assert_eq!(scene.check_registry(), Some(digest));
}
