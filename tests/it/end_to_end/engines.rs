//! Engines and tools take the image, and it works.

use std::collections::BTreeMap;
use std::io::Read;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use super::{Stage, name, stage};
use crate::command::{CELL, TAG, run};
use crate::support::package_index::Published;
use crate::support::tool;
use crate::support::tools::{Docker, Podman, http, http_status, succeed};

/// How long a container may take to do something.
const PATIENCE: Duration = Duration::from_mins(3);

/// A load test of whatever the host is.
const LOCUSTFILE: &str = "\
from locust import HttpUser, constant, task

class Visitor(HttpUser):
    wait_time = constant(0.05)

    @task
    def front_page(self):
        self.client.get('/')
";

/// A folder that any uid can read, for mounting.
fn readable_folder() -> TempDir {
    let folder = TempDir::new().unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs_err::set_permissions(folder.path(), mode).unwrap();
    folder
}

/// Asks until there is an answer.
fn until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(started.elapsed() < PATIENCE, "{what}");
        std::thread::sleep(Duration::from_millis(500));
    }
}

#[test]
fn docker_loads_it_and_it_serves_a_load_test() {
    let Some(stage) = stage() else { return };
    let Some(docker) = Docker::start() else { return };
    let archive = stage.archive.to_str().unwrap();
    let said = docker.run(&["load", "--input", archive]);
    assert_eq!(said.trim(), format!("Loaded image: grubykarol/locust:{TAG}"));
    serves_a_load_test(&docker);
    pip_works(&stage, &docker);
    containerd_imports_it(&stage, &docker);
}

fn serves_a_load_test(docker: &Docker) {
    let scripts = readable_folder();
    fs_err::write(scripts.path().join("locustfile.py"), LOCUSTFILE).unwrap();
    let mount = format!("{}:/locust:ro", scripts.path().display());
    // It tests its own web UI, as in the README.
    let host = "ATTACKED_HOST=http://127.0.0.1:8089";
    let container = docker.run(&[
        "run",
        "--detach",
        "--publish=127.0.0.1::8089",
        "--volume",
        &mount,
        "--env",
        host,
        &name(),
    ]);
    let container = container.trim();
    let logs = || {
        let output = docker.command(&["logs", container]).output().unwrap();
        format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        )
    };
    let address = docker.run(&["port", container, "8089"]);
    let address = address.lines().next().unwrap();
    until("the web UI does not answer", || {
        assert_eq!(
            docker.run(&["inspect", "-f", "{{.State.Running}}", container]).trim(),
            "true",
            "{}",
            logs()
        );
        (http_status(address, "/") == Some(200)).then_some(())
    });
    let (code, body) = http(address, "GET", "/", "").unwrap();
    assert!(code == 200 && body.contains("<title>Locust</title>"), "{body}");

    let (code, answer) = http(address, "POST", "/swarm", "user_count=3&spawn_rate=3").unwrap();
    let answer: Value = serde_json::from_str(&answer).unwrap();
    assert!(code == 200 && answer["success"] == true, "{answer}");
    let stats = until("no requests were counted", || {
        let (_, stats) = http(address, "GET", "/stats/requests", "")?;
        let stats: Value = serde_json::from_str(&stats).ok()?;
        (total(&stats)["num_requests"].as_u64()? >= 30).then_some(stats)
    });
    assert_eq!(stats["state"], "running", "{stats:#}");
    assert_eq!(stats["user_count"], 3, "{stats:#}");
    assert_eq!(total(&stats)["num_failures"], 0, "{stats:#}");
    assert_eq!(stats["errors"], serde_json::json!([]));

    // Were it to ignore the signal, it would be killed in the end, and the exit code would say so.
    let asked = Instant::now();
    docker.run(&["stop", "--time=120", container]);
    assert!(asked.elapsed() < Duration::from_mins(1), "{:?}\n{}", asked.elapsed(), logs());
    let ended =
        docker.run(&["inspect", "-f", "{{.State.ExitCode}} {{.State.OOMKilled}}", container]);
    assert_eq!(ended.trim(), "0 false", "{}", logs());
}

/// The row of all requests together.
fn total(stats: &Value) -> &Value {
    let rows = stats["stats"].as_array().unwrap();
    rows.iter().find(|row| row["name"] == "Aggregated").unwrap()
}

/// pip takes the tree for one of its own.
fn pip_works(stage: &Stage, docker: &Docker) {
    let wheels = readable_folder();
    let extra = Published::wheel("extra-1.0-py3-none-any.whl", &["locust"], 10);
    fs_err::write(wheels.path().join(&extra.file_name), extra.bytes).unwrap();
    let mount = format!("{}:/wheels:ro", wheels.path().display());
    let shell = |user: &[&str], script: &str| {
        let run = ["run", "--rm", "--network=none", "--volume", &mount, "--entrypoint=sh"];
        docker.run(&[&run, user, &[&name(), "-euc", script]].concat())
    };
    let list = "pip list --format=json --disable-pip-version-check";
    let said = shell(&[], &format!("pip check && {list}"));
    let (checked, listed) = said.split_once('\n').unwrap();
    assert_eq!(checked, "No broken requirements found.");
    let listed: Value = serde_json::from_str(listed).unwrap();
    let mut found: BTreeMap<String, String> = BTreeMap::new();
    for entry in listed.as_array().unwrap() {
        let field = |key: &str| entry[key].as_str().unwrap();
        let normal = field("name").to_lowercase().replace(['.', '_'], "-");
        found.insert(normal, field("version").to_owned());
    }
    // The base's own.
    assert!(found.remove("pip").is_some());
    assert_eq!(found, stage.distributions().into_iter().collect());

    // On top, as the image's own user: into its home, and it goes again.
    let install =
        "pip install -q --disable-pip-version-check --no-index --find-links /wheels extra";
    let where_is = "python3 -c 'import extra; print(extra.__file__)'";
    let said =
        shell(&[], &format!("id -u; {install}; {where_is}; pip uninstall -qy extra; pip check"));
    assert_eq!(
        said.lines().collect::<Vec<_>>(),
        [
            "1000",
            "/home/locust/.local/lib/python3.13/site-packages/extra/__init__.py",
            "No broken requirements found.",
        ]
    );
    // As root: beside what we installed; and what we installed goes without a trace.
    let script = format!(
        "export PIP_ROOT_USER_ACTION=ignore\n{install}; {where_is}\n\
         pip uninstall -qy extra locust\n\
         cd /usr/local/lib/python3.13/site-packages\n\
         ls -d locust locust-* extra* /usr/local/bin/locust 2>/dev/null || true\n\
         python3 -c 'import locust' 2>&1 | tail -n 1"
    );
    assert_eq!(
        shell(&["--user=0"], &script).lines().collect::<Vec<_>>(),
        [
            "/usr/local/lib/python3.13/site-packages/extra/__init__.py",
            "ModuleNotFoundError: No module named 'locust'",
        ]
    );
}

fn containerd_imports_it(stage: &Stage, docker: &Docker) {
    let Some(ctr) = tool("ctr") else { return };
    let ctr = |arguments: &[&str]| {
        let mut command = Command::new(&ctr);
        command.arg("--address").arg(docker.containerd()).args(["--namespace", "test"]);
        succeed(command.args(arguments))
    };
    ctr(&["images", "import", stage.archive.to_str().unwrap()]);
    let listed = ctr(&["images", "list"]);
    let line =
        listed.lines().find(|line| line.starts_with(&name())).unwrap_or_else(|| panic!("{listed}"));
    assert!(line.contains(stage.digest()), "{line}");
    assert!(ctr(&["images", "check"]).contains("complete"));
}

#[test]
fn podman_loads_it_and_it_runs() {
    let Some(stage) = stage() else { return };
    let Some(podman) = Podman::start() else { return };
    podman.run(&["load", "--quiet", "--input", stage.archive.to_str().unwrap()]);
    let version = podman.run(&["run", "--rm", "--network=none", &name(), "--version"]);
    assert!(
        version.starts_with("locust 2.47.0 from /usr/local/lib/python3.13/site-packages/locust"),
        "{version}"
    );
    let user = ["run", "--rm", "--network=none", "--entrypoint=id", &name(), "-u"];
    assert_eq!(podman.run(&user).trim(), "1000");
}

#[test]
fn skopeo_reads_the_archive_either_way() {
    let Some(stage) = stage() else { return };
    let Some(skopeo) = tool("skopeo") else { return };
    let skopeo = |arguments: &[&str]| succeed(Command::new(&skopeo).args(arguments));
    let archive = stage.archive.display();
    let (docker, oci) = (format!("docker-archive:{archive}"), format!("oci-archive:{archive}"));
    let config = |image: &str| -> Value {
        serde_json::from_str(&skopeo(&["inspect", "--config", image])).unwrap()
    };
    assert_eq!(config(&docker), config(&oci));
    assert_eq!(skopeo(&["inspect", "--format={{.Digest}}", &oci]).trim(), stage.digest());
    let listed: Value = serde_json::from_str(&skopeo(&["list-tags", &docker])).unwrap();
    assert_eq!(listed["Tags"], serde_json::json!([format!("grubykarol/locust:{TAG}")]));

    // Copying reads every byte of every blob.
    let folder = TempDir::new().unwrap();
    let copied = format!("dir:{}", folder.path().join("oci").display());
    skopeo(&["--insecure-policy", "copy", "--quiet", "--preserve-digests", &oci, &copied]);
    assert_eq!(skopeo(&["inspect", "--format={{.Digest}}", &copied]).trim(), stage.digest());
    let copied = format!("dir:{}", folder.path().join("docker").display());
    skopeo(&["--insecure-policy", "copy", "--quiet", &docker, &copied]);
    assert_eq!(config(&copied)["rootfs"], config(&oci)["rootfs"]);
}

/// What a file system holds at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    kind: char,
    mode: u32,
    owner: (u64, u64),
    /// Of a file or link.
    content: Vec<u8>,
}

#[test]
fn umoci_unpacks_what_the_layers_hold() {
    let Some(stage) = stage() else { return };
    let Some(umoci) = tool("umoci") else { return };
    if !nix::unistd::geteuid().is_root() {
        return crate::support::skip("owners can be given by root only");
    }
    let folder = TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (layout, bundle) = (path("layout"), path("bundle"));
    let arguments = [CELL, "--format", "oci", "-o", &layout, "--mirror", &stage.mirror()];
    run(&mut stage.recipe.command(&stage.cache, &arguments)).success();
    let tags = succeed(Command::new(&umoci).args(["ls", "--layout", &layout]));
    assert_eq!(tags.trim(), TAG);
    let image = format!("{layout}:{TAG}");
    succeed(Command::new(&umoci).args(["unpack", "--image", &image, &bundle]));

    let manifest = layout_document(Path::new(&layout), stage.digest());
    let mut expected = BTreeMap::new();
    for layer in manifest["layers"].as_array().unwrap() {
        let blob = layer["digest"].as_str().unwrap().replace(':', "/");
        add_layer(&mut expected, &Path::new(&layout).join("blobs").join(blob));
    }
    assert!(expected.len() > 2000, "{}", expected.len());
    let mut found = BTreeMap::new();
    let rootfs = PathBuf::from(&bundle).join("rootfs");
    add_folder(&mut found, &rootfs, &rootfs);
    for (path, entry) in &expected {
        assert!(
            found.get(path) == Some(entry),
            "{path}: {:?}",
            found.get(path).map(|e| (e.kind, e.mode, e.owner))
        );
    }
    let unexpected: Vec<_> = found.keys().filter(|path| !expected.contains_key(*path)).collect();
    assert!(unexpected.is_empty(), "{unexpected:?}");
}

fn layout_document(layout: &Path, digest: &str) -> Value {
    let path = layout.join("blobs").join(digest.replace(':', "/"));
    serde_json::from_slice(&fs_err::read(path).unwrap()).unwrap()
}

/// The layer over what is there: a directory's attributes too are the upper layer's.
fn add_layer(tree: &mut BTreeMap<String, Entry>, blob: &Path) {
    let file = fs_err::File::open(blob).unwrap();
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(file));
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().display().to_string();
        let path = path.trim_start_matches("./").trim_end_matches('/').to_owned();
        let header = entry.header();
        let kind = match header.entry_type() {
            tar::EntryType::Directory => 'd',
            tar::EntryType::Symlink => 'l',
            _ => 'f',
        };
        let (mode, owner) =
            (header.mode().unwrap(), (header.uid().unwrap(), header.gid().unwrap()));
        let content = if let Some(target) = entry.link_name_bytes() {
            let target = target.into_owned();
            if header_is_hard_link(&entry) {
                let target = String::from_utf8(target).unwrap();
                let same = tree[target.trim_start_matches("./")].clone();
                tree.insert(path, same);
                continue;
            }
            target
        } else {
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            content
        };
        // A link has no mode of its own.
        let mode = if kind == 'l' { 0 } else { mode & 0o7777 };
        assert!(!path.contains(".wh."), "{path}");
        tree.insert(path, Entry { kind, mode, owner, content });
    }
}

fn header_is_hard_link<R: Read>(entry: &tar::Entry<'_, R>) -> bool {
    entry.header().entry_type() == tar::EntryType::Link
}

fn add_folder(tree: &mut BTreeMap<String, Entry>, root: &Path, folder: &Path) {
    for entry in fs_err::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let meta = fs_err::symlink_metadata(&path).unwrap();
        let (kind, content) = if meta.is_dir() {
            add_folder(tree, root, &path);
            ('d', Vec::new())
        } else if meta.is_symlink() {
            let target = fs_err::read_link(&path).unwrap();
            ('l', target.into_os_string().into_encoded_bytes())
        } else {
            ('f', fs_err::read(&path).unwrap())
        };
        let mode = if kind == 'l' { 0 } else { meta.mode() & 0o7777 };
        let owner = (meta.uid().into(), meta.gid().into());
        let name = path.strip_prefix(root).unwrap().display().to_string();
        tree.insert(name, Entry { kind, mode, owner, content });
    }
}
