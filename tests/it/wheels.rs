//! The installer against pip: the same wheels, and then the trees compared.
//!
//! Needs `python3` with `venv`, `tar`, and the public package index, from which pip gets wheels for the
//! Python it runs on. Where the trees differ on purpose, [`compare`] says so.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::str::FromStr as _;

use assemble::layers::{Options, Scheme, Treatment, WheelFile, find, python};
use assemble::oci::descriptor_digest;
use assemble::python::WheelFilename;
use assemble::store::Store;
use tempfile::TempDir;

use crate::support;

/// Each is awkward in a way of its own: data files, commands that are programs, headers, compiled
/// parts beside bundled libraries, pip itself, thousands of files.
const AWKWARD: &[&str] = &[
    "jupyterlab",
    "ruff",
    "greenlet",
    "pybind11-global",
    "numpy",
    "pip",
    "cmake",
    "setuptools",
    "ansible-core",
    "gevent",
];

/// Path below `/usr/local` → mode and bytes.
type Files = BTreeMap<String, (u32, Vec<u8>)>;

#[test]
fn pip_installs_the_same() {
    let (Some(host), Some(tar)) = (support::tool("python3"), support::tool("tar")) else {
        return;
    };
    let folder = TempDir::new().unwrap();
    let environment = folder.path().join("venv");
    let venv = Command::new(&host).args(["-m", "venv"]).arg(&environment).output().unwrap();
    if !venv.status.success() {
        support::skip("python3 has no venv");
        return;
    }
    let host = environment.join("bin/python3");
    let wheels = folder.path().join("wheels");
    pip(&host, |pip| {
        pip.args(["download", "--no-deps", "--only-binary", ":all:", "--dest"])
            .arg(&wheels)
            .args(AWKWARD)
    });
    let minor = output(Command::new(&host).args(["-c", "import sys; print(sys.version_info[1])"]));
    let minor = minor.trim().parse().unwrap();

    let theirs = folder.path().join("theirs");
    pip(&host, |pip| {
        pip.args(["install", "--no-deps", "--no-compile", "--no-index", "--ignore-installed"])
            .args(["--prefix", "/usr/local", "--root"])
            .arg(&theirs)
            .args(paths(&wheels))
    });
    let ours = folder.path().join("ours");
    install(&wheels, minor, &folder.path().join("store"), &tar, &ours);

    compare(&files(&ours.join("usr/local")), &files(&theirs.join("usr/local")));
    let site_packages = ours.join(format!("usr/local/lib/python3.{minor}/site-packages"));
    let verified = output(Command::new(&host).args(["-c", VERIFY]).arg(&site_packages));
    assert_eq!(verified.trim(), AWKWARD.len().to_string());
}

/// Every file that RECORD lists has the hash and size it says, and only RECORD itself has none.
const VERIFY: &str = r#"
import base64, hashlib, importlib.metadata, sys
distributions = list(importlib.metadata.distributions(path=[sys.argv[1]]))
for distribution in distributions:
    assert distribution.read_text("INSTALLER") == "assemble\n"
    for file in distribution.files:
        data = file.locate().read_bytes()
        if file.hash is None:
            assert file.name == "RECORD", file
            continue
        digest = base64.urlsafe_b64encode(hashlib.new(file.hash.mode, data).digest())
        assert digest.rstrip(b"=").decode() == file.hash.value, file
        assert len(data) == file.size, file
print(len(distributions))
"#;

fn pip(python: &Path, arguments: impl FnOnce(&mut Command) -> &mut Command) {
    let mut command = Command::new(python);
    command.args(["-m", "pip", "--quiet", "--disable-pip-version-check"]);
    output(arguments(&mut command));
}

fn output(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let messages = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {messages}");
    String::from_utf8(output.stdout).unwrap()
}

fn paths(folder: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<_> =
        fs_err::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

/// Installs the wheels into a layer, and has another program unpack it.
fn install(wheels: &Path, minor: u8, store: &Path, tar: &Path, to: &Path) {
    let store = Store::open(store).unwrap();
    let wheels: Vec<WheelFile> = paths(wheels)
        .iter()
        .map(|path| {
            let file_name = path.file_name().unwrap().to_str().unwrap().to_owned();
            let WheelFilename { name, version, .. } = WheelFilename::from_str(&file_name).unwrap();
            let digest = store.put(&fs_err::read(path).unwrap()).unwrap();
            WheelFile { name, version, file_name, digest, requested: true }
        })
        .collect();
    let options = Options {
        scheme: Scheme::for_base((3, minor)),
        treatment: Treatment::default(),
        compiler: None,
    };
    let found = find(&wheels, &options, &store, 2).unwrap();
    let made = python(found, &options, &BTreeMap::new(), &store, 2).unwrap();
    assert_eq!(made.installed.len(), AWKWARD.len());
    let (layer, _) = made.layer("wheels", &store).unwrap();
    let blob = store.blob_path(&descriptor_digest(&layer.descriptor).unwrap());
    fs_err::create_dir(to).unwrap();
    output(Command::new(tar).arg("-xzf").arg(blob).arg("-C").arg(to));
}

fn files(root: &Path) -> Files {
    let mut files = Files::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for path in paths(&folder) {
            let metadata = fs_err::symlink_metadata(&path).unwrap();
            assert!(!metadata.is_symlink(), "{}", path.display());
            if metadata.is_dir() {
                folders.push(path);
                continue;
            }
            let name = path.strip_prefix(root).unwrap().to_str().unwrap();
            // pip puts headers elsewhere if it runs in a virtual environment.
            let name = name.replace("include/site/", "include/");
            files.insert(
                name,
                (metadata.permissions().mode() & 0o777, fs_err::read(&path).unwrap()),
            );
        }
    }
    files
}

/// Panics with all differences but those that are meant.
fn compare(ours: &Files, theirs: &Files) {
    let mut differences = Vec::new();
    for path in ours.keys().filter(|path| !theirs.contains_key(*path)) {
        differences.push(format!("only ours: {path}"));
    }
    for (path, (mode, bytes)) in theirs {
        let file = path.rsplit('/').next().unwrap();
        let Some((our_mode, our_bytes)) = ours.get(path) else {
            // pip has a special case for itself, and remembers from where a local wheel came.
            if file != "direct_url.json" && !path.starts_with("bin/pip3.") {
                differences.push(format!("only theirs: {path}"));
            }
            continue;
        };
        // What it may be depends on pip's umask.
        if our_mode & 0o111 != mode & 0o111 {
            differences.push(format!("{path}: mode {our_mode:o}, theirs {mode:o}"));
        }
        let is_ours_to_write =
            path.contains(".dist-info/") && matches!(file, "RECORD" | "INSTALLER");
        if our_bytes != bytes && !is_ours_to_write && !are_launchers_of_one(our_bytes, bytes) {
            differences.push(format!("{path}: other contents"));
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

/// Whether both are scripts that import and call the same; interpreter and wording may differ.
fn are_launchers_of_one(ours: &[u8], theirs: &[u8]) -> bool {
    let [Ok(ours), Ok(theirs)] = [ours, theirs].map(std::str::from_utf8) else {
        return false;
    };
    let both_begin = ours.starts_with("#!/usr/local/bin/python3.") && theirs.starts_with("#!");
    let calls = |text: &str| -> Vec<String> {
        let lines = text.lines().map(str::trim);
        let calls = lines.filter(|line| line.starts_with("from ") || line.starts_with("sys.exit("));
        calls.map(str::to_owned).collect()
    };
    let rest = |text: &str| text.split_once('\n').map(|(_, rest)| rest.to_owned());
    both_begin
        && (rest(ours) == rest(theirs) || (calls(ours).len() == 2 && calls(ours) == calls(theirs)))
}
