//! The bases made from packages are what they say: they run, and two makings have the same bytes.

use std::path::Path;
use std::process::{Command, Output};

use tempfile::TempDir;

use crate::bases::{self, Architecture, BaseSpec, MediaTypes};
use crate::support::registry::FakeRegistry;
use crate::support::tool;
use crate::support::tools::{Docker, DockerRegistry, Podman, http_status, succeed};

/// Runs the unpacked base's Python through its loader, in place: needs neither root nor namespaces.
fn python(rootfs: &Path, arguments: &[&str]) -> Output {
    let place = |path: &str| rootfs.join(path);
    let libraries = format!("{}:{}", place("usr/local/lib").display(), place("usr/lib").display());
    Command::new(place("lib/ld-musl-x86_64.so.1"))
        .arg(place("usr/local/bin/python3"))
        .args(arguments)
        .env_clear()
        .env("LD_LIBRARY_PATH", libraries)
        .output()
        .unwrap()
}

#[tokio::test]
#[cfg(target_arch = "x86_64")]
async fn each_python_runs_with_all_its_libraries() {
    for (version, os, installed) in [
        ("3.14", "alpine3.24", &["pip"][..]),
        ("3.13", "alpine3.24", &["pip"]),
        ("3.12", "alpine3.23", &["pip"]),
        ("3.11", "alpine3.23", &["pip", "setuptools", "wheel"]),
        ("3.10", "alpine3.23", &["pip", "setuptools", "wheel"]),
        ("3.9", "alpine3.22", &["pip", "setuptools", "wheel"]),
        ("3.7", "alpine3.18", &["pip", "setuptools", "wheel"]),
        ("3.8", "alpine3.20", &["pip", "setuptools", "wheel"]),
        ("3.6", "alpine3.9", &["pip", "setuptools", "wheel"]),
    ] {
        let spec = BaseSpec::new(version, os);
        if !spec.tools().iter().all(|name| tool(name).is_some()) {
            continue;
        }
        let base = bases::make(spec, &crate::base_cache()).await.unwrap();
        let folder = TempDir::new().unwrap();
        base.unpack(folder.path()).unwrap();
        for (arguments, said) in [
            (
                &[
                    "-c",
                    "import bz2, ctypes, hashlib, lzma, pyexpat, select, socket, sqlite3, ssl, zlib\n\
                     ssl.create_default_context()\n\
                     hashlib.new('sha512', b'').hexdigest()\n\
                     assert hashlib.pbkdf2_hmac('sha256', b'p', b's', 2).hex().startswith('1998f3d3')\n\
                     ctypes.CFUNCTYPE(ctypes.c_int)(lambda: 1)()\n\
                     sqlite3.connect(':memory:').execute('select 1')\n\
                     import xml.etree.ElementTree as tree; tree.fromstring('<a/>')\n\
                     print(zlib.decompress(zlib.compress(b'it runs')).decode())",
                ][..],
                "it runs".to_owned(),
            ),
            (&["-m", "pip", "--version"], format!("(python {version})")),
        ] {
            let output = python(folder.path(), arguments);
            let stdout = String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success(), "{version} {arguments:?}: {output:?}");
            assert!(stdout.contains(&said), "{version} {arguments:?}: {output:?}");
        }
        // As in the official image: setuptools and wheel up to 3.11, nothing else.
        let output = python(folder.path(), &["-m", "pip", "list", "--format=freeze"]);
        let stdout = String::from_utf8_lossy(&output.stdout);
        let found: Vec<_> =
            stdout.lines().filter_map(|line| Some(line.split_once("==")?.0)).collect();
        assert_eq!(found, installed, "{version}: {output:?}");
    }
}

#[tokio::test]
async fn the_same_layers_come_in_either_kind_of_manifest() {
    let spec = BaseSpec::new("3.13", "alpine3.24");
    let oci = bases::make(spec, &crate::base_cache()).await.unwrap();
    let docker = bases::make(spec.typed(MediaTypes::Docker), &crate::base_cache()).await.unwrap();
    assert_eq!(oci.layers().unwrap(), docker.layers().unwrap());
    assert_eq!(oci.config().unwrap(), docker.config().unwrap());
    assert_ne!(oci.digest().unwrap(), docker.digest().unwrap());
}

#[tokio::test]
async fn real_tools_accept_the_base() {
    let Some(skopeo) = tool("skopeo") else { return };
    let base =
        bases::make(BaseSpec::new("3.13", "alpine3.24"), &crate::base_cache()).await.unwrap();
    let layout = format!("oci:{}:3.13-alpine3.24", base.path().display());
    let digest = base.digest().unwrap().to_string();

    if let Some(registry) = DockerRegistry::start() {
        let name = format!("docker://{}/library/python:test", registry.address());
        succeed(Command::new(&skopeo).args([
            "--insecure-policy",
            "copy",
            "--preserve-digests",
            "--dest-tls-verify=false",
            &layout,
            &name,
        ]));
        let format = "--format={{.Digest}}";
        let found =
            succeed(Command::new(&skopeo).args(["inspect", "--tls-verify=false", format, &name]));
        assert_eq!(found.trim(), digest);
        assert!(registry.storage().is_dir());
    }

    let folder = TempDir::new().unwrap();
    let archive = folder.path().join("base.tar");
    let target = format!("docker-archive:{}:base:made", archive.display());
    succeed(Command::new(&skopeo).args(["--insecure-policy", "copy", &layout, &target]));
    let archive = archive.to_str().unwrap();
    let hello = ["base:made", "python3", "-c", "print('hello')"];
    if let Some(docker) = Docker::start() {
        docker.run(&["load", "--input", archive]);
        assert_eq!(docker.run(&[&["run", "--rm"], &hello[..]].concat()), "hello\n");
        let server = ["base:made", "python3", "-m", "http.server", "8000"];
        let run = ["run", "--detach", "--publish=127.0.0.1::8000"];
        let container = docker.run(&[&run, &server[..]].concat());
        let address = docker.run(&["port", container.trim(), "8000"]);
        let started = std::time::Instant::now();
        while http_status(address.trim(), "/") != Some(200) {
            assert!(started.elapsed().as_secs() < 180, "{}", docker.log());
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    }
    if let Some(podman) = Podman::start() {
        podman.run(&["load", "--input", archive]);
        let run = ["run", "--rm", "--network=none"];
        assert_eq!(podman.run(&[&run, &hello[..]].concat()), "hello\n");
    }
}

#[tokio::test]
async fn the_loopback_registry_serves_it_as_the_hub_does() {
    let spec = BaseSpec::new("3.13", "alpine3.24");
    let base = bases::make(spec, &crate::base_cache()).await.unwrap();
    let registry = FakeRegistry::start().await;
    let name = "library/python";
    let digest = base.serve(&registry, name, Some(&spec.tag())).unwrap();
    assert_eq!(digest, base.digest().unwrap());
    let all = [base];
    let index = bases::serve_index(&all, MediaTypes::Oci, &registry, name, "3.13").unwrap();
    assert_eq!(registry.tags(name)["3.13"], index);

    let Some(skopeo) = tool("skopeo") else { return };
    for tag in ["3.13", "3.13-alpine3.24"] {
        let image = format!("docker://{}/{name}:{tag}", registry.address());
        let command = ["inspect", "--config", "--tls-verify=false", &image];
        let mut command = {
            let mut skopeo = Command::new(&skopeo);
            skopeo.args(command);
            skopeo
        };
        // The registry is a task of this thread's runtime.
        let config = tokio::task::spawn_blocking(move || succeed(&mut command)).await.unwrap();
        assert!(config.contains("PYTHON_VERSION=3.13.2"), "{config}");
    }
}

#[tokio::test]
async fn bases_for_arm64_are_made_on_any_machine() {
    for (version, os) in [("3.13", "alpine3.24"), ("3.12", "alpine3.20"), ("3.11", "alpine3.17")] {
        let spec = BaseSpec::new(version, os).on(Architecture::Arm64);
        let base = bases::make(spec, &crate::base_cache()).await.unwrap();
        assert_eq!(base.config().unwrap()["architecture"], "arm64");
        let folder = TempDir::new().unwrap();
        base.unpack(folder.path()).unwrap();
        let mut libraries = 0;
        for entry in fs_err::read_dir(folder.path().join("usr/lib")).unwrap() {
            let path = entry.unwrap().path();
            let bytes = fs_err::read(&path).unwrap();
            // ELF, *e_machine*: 183 is AArch64.
            assert_eq!(bytes[18..20], 183_u16.to_le_bytes(), "{}", path.display());
            libraries += 1;
        }
        assert!(libraries >= 12, "{libraries}");
        assert!(folder.path().join("lib/ld-musl-aarch64.so.1").is_file());
    }
}
