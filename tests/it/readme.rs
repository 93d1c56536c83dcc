//! The README's examples are run as they stand there: a comment before each says how.
//!
//! | comment | what happens |
//! | --- | --- |
//! | `test: file NAME` | it is written to that file, beside the scripts |
//! | `test: run` | a shell runs it, with the image in a real registry and a real Docker |
//! | `test: run, web UI` | then the web UI at port 8089 answers |
//! | `test: run, load test` | and a load test runs |
//! | `test: run, load test with N workers` | the same when N workers have come |
//! | `test: assemble` | a shell runs it where `matrix/` and `layers/` are |
//! | `test: assemble, proxy` | the same through a proxy, which must have been used |
//! | `test: cluster` | a shell runs it, with a `kubectl` that asks no cluster |
//! | `test: manifest` | it is YAML and names an image of the matrix |
//! | `test: ci` | it is YAML, and each `assemble matrix …` in it answers |
//!
//! `PowerShell` is turned into shell: its line ends, and the folder of the scripts.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::Value;
use tempfile::TempDir;

use crate::command::{CELL, PROGRAM, Recipe, TAG, run};
use crate::images::{dialect, readable_folder, swarm, wait_for_web_ui};
use crate::support::tools::{Docker, DockerRegistry, Network, succeed};
use crate::support::{optional_tool, skip, tool};

/// Where the README says that the web UI is.
const WEB_UI: &str = "127.0.0.1:8089";

/// One example.
#[derive(Debug)]
struct Example {
    /// `sh`
    language: String,
    /// What its comment says after `test: `.
    test: Option<String>,
    text: String,
    /// Where it begins.
    line: usize,
}

fn examples() -> Vec<Example> {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let readme = fs_err::read_to_string(readme).unwrap();
    let lines: Vec<_> = readme.lines().collect();
    let mut found = Vec::new();
    let mut position = 0;
    while position < lines.len() {
        if let Some(language) = lines[position].strip_prefix("```") {
            let length = lines[position + 1..].iter().position(|line| *line == "```").unwrap();
            let before = position.checked_sub(1).map_or("", |before| lines[before]);
            let test = before.strip_prefix("<!-- test: ").and_then(|c| c.strip_suffix(" -->"));
            found.push(Example {
                language: language.to_owned(),
                test: test.map(str::to_owned),
                text: lines[position + 1..][..length].join("\n") + "\n",
                line: position + 1,
            });
            position += length + 1;
        }
        position += 1;
    }
    found
}

#[test]
fn each_example_says_how_it_is_tested() {
    let examples = examples();
    let is_executed = |example: &&Example| {
        ["sh", "powershell", "yaml", "python"].contains(&example.language.as_str())
    };
    let untested: Vec<_> =
        examples.iter().filter(is_executed).filter(|example| example.test.is_none()).collect();
    assert!(untested.is_empty(), "{untested:#?}");
    assert!(examples.iter().filter(is_executed).count() >= 20);
}

/// The examples whose comment begins so, with the rest of it.
fn tested<'a>(
    examples: &'a [Example],
    how: &'a str,
) -> impl Iterator<Item = (&'a Example, &'a str)> {
    examples.iter().filter_map(move |example| {
        let rest = example.test.as_ref()?.strip_prefix(how)?;
        Some((example, rest.trim_start_matches(", ").trim()))
    })
}

/// A registry that has the base and, when something was pushed, our images.
#[derive(Debug)]
struct Registry {
    registry: DockerRegistry,
    recipe: Recipe,
}

impl Registry {
    fn start() -> Option<Self> {
        if cfg!(not(target_arch = "x86_64")) {
            skip("the lock is for amd64");
            return None;
        }
        let skopeo = tool("skopeo")?;
        let registry = DockerRegistry::start()?;
        let base = crate::end_to_end::made_base();
        succeed(
            Command::new(skopeo)
                .args(["--insecure-policy", "copy", "--preserve-digests"])
                .arg("--dest-tls-verify=false")
                .arg(format!("oci:{}:3.13-alpine3.24", base.path().display()))
                .arg(format!("docker://{}/library/python:3.13-alpine3.24", registry.address())),
        );
        let repository = format!("{}/grubykarol/locust", registry.address());
        Some(Self { recipe: Recipe::copy().pushed_to(&repository), registry })
    }

    fn mirrors(&self) -> String {
        format!("docker.io={}", self.registry.address())
    }
}

/// The cache that other tests have filled.
fn warm_cache() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache")
}

/// A folder of programs for the front of PATH: `assemble`, and a `docker` that knows `compose` where
/// only the older, separate program is installed.
fn programs() -> TempDir {
    let folder = TempDir::new().unwrap();
    std::os::unix::fs::symlink(PROGRAM, folder.path().join("assemble")).unwrap();
    if let (Some(docker), Some(compose)) =
        (optional_tool("docker"), optional_tool("docker-compose"))
    {
        let script = format!(
            "#!/bin/sh\nif [ \"${{1-}}\" = compose ]; then shift; exec {} \"$@\"; fi\n\
             exec {} \"$@\"\n",
            compose.display(),
            docker.display()
        );
        executable(&folder.path().join("docker"), &script);
    }
    folder
}

fn executable(path: &Path, script: &str) {
    fs_err::write(path, script).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs_err::set_permissions(path, mode).unwrap();
}

/// The example as a shell runs it.
#[expect(clippy::disallowed_methods, reason = "where other programs are is the machine's to say")]
fn shell(example: &Example, programs: &Path, folder: &Path) -> Command {
    let text = match example.language.as_str() {
        "powershell" => {
            example.text.replace("`\n", "\\\n").replace(r"c:\locust-scripts", "$MY_SCRIPTS")
        }
        _ => example.text.clone(),
    };
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = Command::new("sh");
    command
        .args(["-euc", &text])
        .env("PATH", format!("{}:{path}", programs.display()))
        .current_dir(folder)
        .stdin(Stdio::null());
    command
}

/// Only one process of this machine at a time may have containers at port 8089.
fn ports() -> std::fs::File {
    let path = std::env::temp_dir().join("assemble-port-8089.lock");
    let file = fs_err::File::create(path).unwrap().into_parts().0;
    file.lock().unwrap();
    file
}

#[test]
fn the_image_is_used_as_the_readme_says() {
    let Some(registry) = Registry::start() else { return };
    let pushed = [CELL, "--push", "--mirror", &registry.mirrors()];
    run(&mut registry.recipe.command(&warm_cache(), &pushed)).success();
    // It is the mirror of Docker's own registry.
    let mirror = format!("--registry-mirror=http://{}", registry.registry.address());
    let Some(docker) = Docker::start_with(&[&mirror]) else { return };
    let _ports = ports();

    let examples = examples();
    let scripts = readable_folder();
    for (example, name) in tested(&examples, "file ") {
        fs_err::write(scripts.path().join(name), &example.text).unwrap();
    }
    let network = compose_network(&docker, scripts.path());
    let programs = programs();
    for (example, then) in tested(&examples, "run") {
        if example.text.contains("docker compose") && network.is_none() {
            continue;
        }
        let mut command = shell(example, programs.path(), scripts.path());
        command
            .env("MY_SCRIPTS", scripts.path())
            .env("COMPOSE_FILE", "compose.yaml:network.yaml")
            .env("COMPOSE_PROJECT_NAME", "readme");
        let output = docker.is_for(&mut command).output().unwrap();
        let said = |stream: &[u8]| String::from_utf8_lossy(stream).into_owned();
        assert!(
            output.status.success(),
            "README.md line {}: {}\n{}{}{}",
            example.line,
            output.status,
            said(&output.stdout),
            said(&output.stderr),
            logs(&docker)
        );
        if then.is_empty() {
            continue;
        }
        wait_for_web_ui(WEB_UI, || {
            assert!(!containers(&docker).is_empty(), "README.md line {}", example.line);
        });
        if let Some(workers) = then.strip_prefix("load test") {
            let workers = workers.split_whitespace().find_map(|word| word.parse().ok());
            swarm(WEB_UI, dialect("2.47.0"), workers);
        }
    }
    // The examples end what they start.
    assert_eq!(containers(&docker), [""; 0], "{}", logs(&docker));
}

/// A network as compose would make it, but one that the tests' firewall rule is for; `None`, said
/// aloud, where compose is missing.
fn compose_network<'a>(docker: &'a Docker, folder: &Path) -> Option<Network<'a>> {
    tool("docker-compose")?;
    let network = docker.network("readme");
    let text = "networks: { default: { name: readme, external: true } }\n";
    fs_err::write(folder.join("network.yaml"), text).unwrap();
    Some(network)
}

fn containers(docker: &Docker) -> Vec<String> {
    let listed = docker.run(&["ps", "--all", "--format={{.Names}}"]);
    listed.lines().map(str::to_owned).collect()
}

/// What all containers wrote.
fn logs(docker: &Docker) -> String {
    let mut all = String::new();
    for name in containers(docker) {
        let output = docker.command(&["logs", &name]).output().unwrap();
        all.push_str("--- ");
        all.push_str(&name);
        all.push('\n');
        all.push_str(&String::from_utf8_lossy(&output.stdout));
        all.push_str(&String::from_utf8_lossy(&output.stderr));
    }
    all
}

#[test]
fn the_image_is_built_as_the_readme_says() {
    let Some(registry) = Registry::start() else { return };
    let Some(docker) = Docker::start() else { return };
    let programs = programs();
    for (example, how) in tested(&examples(), "assemble") {
        let proxy = Proxy::start();
        let cold = TempDir::new().unwrap();
        let through_proxy = how == "proxy";
        let cache = if through_proxy { cold.path().to_owned() } else { warm_cache() };
        let folder = registry.recipe.path("");
        // For its environment only.
        let mut command = registry.recipe.command(&cache, &[]);
        let own = command.get_envs().map(|(name, value)| (name.to_owned(), value.map(Into::into)));
        let own: Vec<(_, Option<std::ffi::OsString>)> = own.collect();
        command = shell(example, programs.path(), &folder);
        for (name, value) in own {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command.env("ASSEMBLE_MIRRORS", registry.mirrors());
        command.env("http_proxy", "").env("https_proxy", format!("http://{}", proxy.address));
        if !through_proxy {
            command.env_remove("http_proxy").env_remove("https_proxy");
        }
        let output = docker.is_for(&mut command).output().unwrap();
        assert!(
            output.status.success(),
            "README.md line {}: {}",
            example.line,
            String::from_utf8_lossy(&output.stderr)
        );
        assert_eq!(proxy.used.load(Ordering::Relaxed) > 0, through_proxy, "{}", example.line);
    }
    let images = docker.run(&["images", "--format={{.Repository}}:{{.Tag}}"]);
    assert!(images.contains(TAG), "{images}");
    assert!(registry.recipe.path(&format!("images/locust-{TAG}.tar")).is_file());
}

/// An HTTP proxy that opens tunnels (`CONNECT`), and counts them.
#[derive(Debug)]
struct Proxy {
    address: String,
    used: Arc<AtomicUsize>,
}

impl Proxy {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let used = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&used);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let count = Arc::clone(&count);
                // A connection that breaks is the client's to complain about.
                std::thread::spawn(move || tunnel(client, &count).is_ok());
            }
        });
        Self { address, used }
    }
}

fn tunnel(mut client: TcpStream, used: &AtomicUsize) -> std::io::Result<()> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        client.read_exact(&mut byte)?;
        head.extend(byte);
    }
    let head = String::from_utf8_lossy(&head);
    let mut words = head.split(' ');
    let (Some("CONNECT"), Some(target)) = (words.next(), words.next()) else {
        return client.write_all(b"HTTP/1.1 405 Method Not Allowed\r\n\r\n");
    };
    let mut server = TcpStream::connect(target)?;
    used.fetch_add(1, Ordering::Relaxed);
    client.write_all(b"HTTP/1.1 200 OK\r\n\r\n")?;
    let (mut up, mut server_up) = (client.try_clone()?, server.try_clone()?);
    let upload = std::thread::spawn(move || {
        let copied = std::io::copy(&mut up, &mut server_up);
        server_up.shutdown(Shutdown::Write).and(copied.map(drop))
    });
    std::io::copy(&mut server, &mut client)?;
    client.shutdown(Shutdown::Write)?;
    upload.join().unwrap_or(Ok(()))
}

/// What the YAML of an example says; `None`, said aloud, where nothing can read it.
fn yaml(example: &Example) -> Option<Value> {
    let python = tool("python3")?;
    let read = "import json, sys, yaml; print(json.dumps(yaml.safe_load(sys.stdin)))";
    let imports = Command::new(&python).args(["-c", "import yaml"]).output().unwrap();
    if !imports.status.success() {
        skip("python3's yaml is missing");
        return None;
    }
    let mut child = Command::new(&python)
        .args(["-c", read])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(example.text.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "README.md line {}", example.line);
    Some(serde_json::from_slice(&output.stdout).unwrap())
}

/// There is no cluster here: `kubectl` shows what it would send to one.
#[test]
fn what_a_cluster_is_sent_is_as_the_readme_says() {
    let Some(kubectl) = tool("kubectl") else { return };
    let (programs, scripts) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let script =
        format!("#!/bin/sh\nexec {} \"$@\" --dry-run=client --output=json\n", kubectl.display());
    executable(&programs.path().join("kubectl"), &script);
    fs_err::write(scripts.path().join("locustfile.py"), "# a test\n").unwrap();
    let examples = examples();
    let [(example, _)] = tested(&examples, "cluster").collect::<Vec<_>>()[..] else { panic!() };
    let sent = succeed(&mut shell(example, programs.path(), scripts.path()));
    let sent: Value = serde_json::from_str(&sent).unwrap();
    assert_eq!(sent["data"]["locustfile.py"], "# a test\n");
    // It is what the chart's values and the operator's resource name.
    let name = sent["metadata"]["name"].as_str().unwrap().to_owned();
    let named = tested(&examples, "manifest").filter(|(it, _)| it.text.contains(&name)).count();
    assert!(named > 0, "{sent}");
}

#[test]
fn manifests_name_an_image_of_the_matrix() {
    let mut looked_at = 0;
    for (example, _) in tested(&examples(), "manifest") {
        let Some(manifest) = yaml(example) else { return };
        let image = if let Value::String(image) = &manifest["spec"]["image"] {
            image.clone()
        } else {
            // The chart's values.
            let part = |name: &str| manifest["image"][name].as_str().unwrap().to_owned();
            format!("{}:{}", part("repository"), part("tag"))
        };
        assert_eq!(image, format!("grubykarol/locust:{TAG}"), "README.md line {}", example.line);
        looked_at += 1;
    }
    assert_eq!(looked_at, 3);
}

#[test]
fn ci_jobs_are_made_as_the_readme_says() {
    let recipe = Recipe::copy();
    let mut looked_at = 0;
    for (example, _) in tested(&examples(), "ci") {
        let Some(_jobs) = yaml(example) else { return };
        for rest in example.text.split("assemble matrix ").skip(1) {
            let rest = rest.split(['\n', ')', '>']).next().unwrap();
            let arguments: Vec<_> = ["matrix"].into_iter().chain(rest.split_whitespace()).collect();
            let cells = run(&mut recipe.command(&warm_cache(), &arguments)).success().stdout;
            assert!(cells.contains("3.13"), "README.md line {}: {cells}", example.line);
            looked_at += 1;
        }
    }
    assert_eq!(looked_at, 2);
}
