//! Images for two architectures from one machine.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::bases::{self, Architecture, BaseSpec, MediaTypes};
use crate::elf::Object;
use crate::project::{CELL, Project, text};
use crate::support::tool;
use crate::support::tools::{DockerRegistry, Podman, succeed};

const BOTH: [&str; 2] = ["linux/amd64", "linux/arm64"];
const CHECK: &str = "[check]\ncommand = [\"demo\", \"--version\"]\n";

/// A project for both architectures on the made base of both: `demo` is a wheel with a compiled
/// module for each, or an sdist whose backend writes `content` as a module.
pub(crate) async fn project(sdist: Option<&str>) -> Project {
    let project = Project::new(&BOTH, CHECK).await;
    let spec = BaseSpec::new("3.13", "alpine3.24");
    let cache = crate::base_cache();
    let bases = [
        bases::make(spec, &cache).await.unwrap(),
        bases::make(spec.on(Architecture::Arm64), &cache).await.unwrap(),
    ];
    let name = "library/python";
    let types = MediaTypes::Oci;
    bases::serve_index(&bases, types, &project.registry, name, &spec.tag()).unwrap();
    let entry_points = "[console_scripts]\ndemo = demo:main\n";
    let main = "import platform\ndef main():\n    print('demo on', platform.machine())\n";
    if let Some(content) = sdist {
        project.write("sdist/demo-1.0/pyproject.toml", concat!(
            "[project]\nname = \"demo\"\nversion = \"1.0\"\n",
            "[build-system]\nrequires = []\nbuild-backend = \"backend\"\nbackend-path = [\".\"]\n"
        ));
        project
            .write("sdist/demo-1.0/PKG-INFO", "Metadata-Version: 2.2\nName: demo\nVersion: 1.0\n");
        project.write("sdist/demo-1.0/demo.c", "int demo;\n");
        project.write("sdist/demo-1.0/backend.py", &format!(
            r#"
import os, zipfile
def build_wheel(out, config=None, metadata=None):
    name = "demo-1.0-cp313-cp313-linux_" + os.uname().machine + ".whl"
    files = {{
        "demo.py": {main:?},
        "demo_data/x": {content},
        "demo-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: demo\nVersion: 1.0\n",
        "demo-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: false\nTag: cp313-cp313-linux_x86_64\n",
        "demo-1.0.dist-info/entry_points.txt": {entry_points:?},
    }}
    import base64, hashlib
    record = ""
    with zipfile.ZipFile(os.path.join(out, name), "w") as file:
        for path, text in files.items():
            data = text if isinstance(text, bytes) else text.encode()
            file.writestr(zipfile.ZipInfo(path), data)
            digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")
            record += "%s,sha256=%s,%d\n" % (path, digest, len(data))
        record += "demo-1.0.dist-info/RECORD,,\n"
        file.writestr(zipfile.ZipInfo("demo-1.0.dist-info/RECORD"), record)
    return name
"#
        ));
        pack(&project.path("sdist"), &project.path("wheels/demo-1.0.tar.gz"));
    } else {
        for machine in ["x86_64", "aarch64"] {
            let object = Object::of(machine).needs(&format!("libc.musl-{machine}.so.1"));
            let module = format!("_demo.cpython-313-{machine}-linux-musl.so");
            project.wheel(
                "demo",
                &format!("cp313-cp313-musllinux_1_2_{machine}"),
                &[
                    ("demo.py", main.as_bytes().to_vec()),
                    (&module, object.to_bytes()),
                    ("demo-1.0.dist-info/entry_points.txt", entry_points.as_bytes().to_vec()),
                ],
            );
        }
    }
    project.succeed(&["new", CELL]).await;
    project
}

fn pack(folder: &Path, to: &Path) {
    let file = fs_err::File::create(to).unwrap();
    let gzip = flate2::write::GzEncoder::new(file, flate2::Compression::new(6));
    let mut tar = tar::Builder::new(gzip);
    tar.append_dir_all("", folder).unwrap();
    tar.into_inner().unwrap().finish().unwrap();
}

fn entries(project: &Project) -> (String, Vec<(String, String)>) {
    let tag = "1.0-python3.13-alpine3.24";
    let (kind, bytes) = project.registry.manifest("demo", tag).unwrap();
    let index: Value = serde_json::from_slice(&bytes).unwrap();
    let entries = index["manifests"].as_array().cloned().unwrap_or_default();
    let entries = entries
        .iter()
        .map(|entry| {
            let architecture = entry["platform"]["architecture"].as_str().unwrap().to_owned();
            (architecture, entry["digest"].as_str().unwrap().to_owned())
        })
        .collect();
    (kind, entries)
}

#[tokio::test(flavor = "multi_thread")]
#[cfg(target_arch = "x86_64")]
async fn one_lock_gives_one_index_and_each_platform_has_its_own_modules() {
    let project = project(None).await;
    let said = project.succeed(&["--push", "--check"]).await;
    assert!(said.contains("linux/amd64: start check `demo --version` ran"), "{said}");
    assert!(said.contains("linux/arm64: start check not run: "), "{said}");
    assert!(said.contains("built for aarch64, and this machine is x86_64"), "{said}");
    let (kind, entries) = entries(&project);
    assert_eq!(kind, "application/vnd.oci.image.index.v1+json");
    let architectures: Vec<_> = entries.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(architectures, ["amd64", "arm64"]);

    // An archive holds this machine's, a layout all.
    let said = project.succeed(&["-o", "image.tar"]).await;
    assert!(said.contains("note: an archive holds one platform: linux/amd64 is made"), "{said}");
    let said = project.succeed(&["check", "image.tar"]).await;
    assert!(said.contains("demo on x86_64") && !said.contains("arm64"), "{said}");
    project.succeed(&["--format", "oci", "-o", "layout"]).await;
    let said = project.succeed(&["check", "layout"]).await;
    assert!(said.contains("for linux/amd64") && said.contains("for linux/arm64"), "{said}");
    let said = project.succeed(&["-o", "arm64.tar", "--platform", "linux/arm64"]).await;
    assert!(said.contains("linux/arm64: 1 ELF files fit the base"), "{said}");

    emulator_is_used(&project).await;

    let Some(skopeo) = tool("skopeo") else { return };
    let name = format!("docker://{}/demo:1.0-python3.13-alpine3.24", project.registry.address());
    for architecture in ["amd64", "arm64"] {
        let mut command = Command::new(&skopeo);
        let own = ["--override-arch", architecture, "inspect", "--config", "--tls-verify=false"];
        command.args(own).arg(&name);
        let config = tokio::task::spawn_blocking(move || succeed(&mut command)).await.unwrap();
        assert!(config.contains(&format!("\"architecture\": \"{architecture}\"")), "{config}");
    }
}

/// Others pull each platform of an index out of a real registry.
#[tokio::test(flavor = "multi_thread")]
#[cfg(target_arch = "x86_64")]
async fn others_pull_either_platform_of_a_pushed_index() {
    let Some(real) = DockerRegistry::start() else { return };
    let project = project(None).await;
    let matrix = fs_err::read_to_string(project.path("matrix/matrix.toml")).unwrap();
    let own = format!("repository = \"{}/", project.registry.address());
    let there = format!("repository = \"{}/", real.address());
    project.write("matrix/matrix.toml", &matrix.replace(&own, &there));
    let output = project.run(&["--push", "--json"]).await;
    assert!(output.status.success(), "{}", text(&output));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let images = report["images"][0]["images"].as_array().unwrap().clone();
    let name = format!("{}/demo:1.0-python3.13-alpine3.24", real.address());
    let pulled = tokio::task::spawn_blocking(move || {
        for (image, architecture) in images.iter().zip(["amd64", "arm64"]) {
            let digest = image["digest"].as_str().unwrap();
            assert!(image["platform"].as_str().unwrap().contains(architecture), "{image}");
            if let Some(skopeo) = tool("skopeo") {
                let folder = tempfile::TempDir::new().unwrap();
                let copied = format!("dir:{}", folder.path().display());
                succeed(
                    Command::new(&skopeo)
                        .args(["--insecure-policy", "--override-arch", architecture, "copy"])
                        .args(["--quiet", "--preserve-digests", "--src-tls-verify=false"])
                        .args([&format!("docker://{name}"), &copied]),
                );
                let manifest = fs_err::read(folder.path().join("manifest.json")).unwrap();
                assert_eq!(assemble::oci::Digest::of(&manifest).to_string(), digest);
            }
            // Storage of its own for each: one name holds one platform there.
            let Some(podman) = Podman::start() else { continue };
            let platform = format!("--platform=linux/{architecture}");
            podman.run(&["pull", "--quiet", "--tls-verify=false", &platform, &name]);
            let format = "--format={{.Architecture}} {{.Digest}}";
            let found = podman.run(&["image", "inspect", format, &name]);
            assert!(found.starts_with(architecture), "{found}");
            assert!(found.contains(digest) || found.contains(index_digest(&report)), "{found}");
        }
    });
    pulled.await.unwrap();
}

/// What the tag names.
fn index_digest(report: &Value) -> &str {
    report["images"][0]["digest"].as_str().unwrap()
}

/// An emulator that is registered, here for one process and its children alone, runs the start check.
async fn emulator_is_used(project: &Project) {
    let (Some(qemu), Some(unshare)) = (tool("qemu-aarch64-static"), tool("unshare")) else {
        return;
    };
    let zeros = "\\x00".repeat(8);
    let mask = "\\xff".repeat(8);
    let magic = format!("\\x7fELF\\x02\\x01\\x01\\x00{zeros}\\x02\\x00\\xb7\\x00");
    let mask = format!("\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\x00{mask}\\xfe\\xff\\xff\\xff");
    let script = format!(
        "set -e\nmount -t binfmt_misc none /proc/sys/fs/binfmt_misc || exit 77\n\
         printf '%s' ':arm64:M::{magic}:{mask}:{}:F' > /proc/sys/fs/binfmt_misc/register\n\
         exec {} check arm64.tar --cache-dir emulated\n",
        qemu.display(),
        env!("CARGO_BIN_EXE_assemble"),
    );
    let mut command = Command::new(unshare);
    command.args(["--user", "--map-root-user", "--mount", "sh", "-c", &script]);
    command.current_dir(project.path("")).env_clear().env("HOME", project.path("home"));
    command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let said = text(&output);
    if output.status.code() == Some(77) || said.contains("unshare failed") {
        return crate::support::skip(&format!("no emulator can be registered here: {said}"));
    }
    assert!(said.contains("): demo on aarch64"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
#[cfg(target_arch = "x86_64")]
async fn an_sdist_without_compiled_code_is_built_by_the_twin() {
    let project = project(Some("'pure'")).await;
    let said = project.succeed(&["--push"]).await;
    assert!(
        said.contains("demo 1.0 for linux/arm64/v8 was built on the base for linux/amd64"),
        "{said}"
    );
    assert_eq!(entries(&project).1.len(), 2);
    let output = project.run(&["--push", "--json"]).await;
    let result: Value = serde_json::from_slice(&output.stdout).unwrap();
    let built = &result["images"][0]["images"][1]["built"][0];
    assert_eq!(built["built-on"], "linux/amd64");
    assert_eq!(built["wheel"], "demo-1.0-cp313-none-any.whl");
    let native = &result["images"][0]["images"][0]["built"][0];
    assert_eq!(native["wheel"], built["wheel"]);

    project.succeed(&["--format", "oci", "-o", "layout"]).await;
    let (layout, root) = (project.path("layout"), project.path("root"));
    unpack(&layout, &entries(&project).1[1].1, &root);
    if let Some(said) = emulated(&root, &["demo", "--version"]) {
        assert!(said.contains("demo on aarch64"), "{said}");
    }
}

/// What a command of the unpacked arm64 image says on this machine, by emulation: only tests use it.
pub(crate) fn emulated(root: &Path, command: &[&str]) -> Option<String> {
    let qemu = tool("qemu-aarch64-static")?;
    let place = |path: &str| root.join(path);
    let libraries = format!("{}:{}", place("usr/local/lib").display(), place("usr/lib").display());
    let output = Command::new(qemu)
        .arg(place("lib/ld-musl-aarch64.so.1"))
        .args(["--library-path", &libraries])
        .arg(place("usr/local/bin/python3.13"))
        .arg(place("usr/local/bin").join(command[0]))
        .args(&command[1..])
        .output()
        .unwrap();
    Some(text(&output))
}

/// The project's own cell for both architectures, from the public package index: `zope.interface` has
/// no wheel for musl, so its sdist is built for each.
#[tokio::test(flavor = "multi_thread")]
#[cfg(target_arch = "x86_64")]
async fn the_project_s_own_cell_is_made_for_both_and_runs_on_both() {
    const CELL: &str = "2.47.0/python3.13/alpine3.24";
    let project = project(None).await;
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    let address = project.registry.address();
    for file in ["layer.toml", "docker-entrypoint.sh"] {
        let below = format!("layers/entrypoint/{file}");
        project.write(&below, &fs_err::read_to_string(own.join(&below)).unwrap());
    }
    let layer = fs_err::read_to_string(own.join("layers/locust/layer.toml")).unwrap();
    project.write("layers/locust/layer.toml", &layer);
    let matrix = fs_err::read_to_string(own.join("matrix/matrix.toml")).unwrap();
    let matrix = matrix
        .replace("[\"linux/amd64\"]", "[\"linux/amd64\", \"linux/arm64\"]")
        .replace("docker.io/grubykarol/", &format!("{address}/"));
    assert!(matrix.contains("linux/arm64"), "{matrix}");
    fs_err::remove_dir_all(project.path("matrix")).unwrap();
    project.write("matrix/matrix.toml", &matrix);
    let mirror = format!("docker.io={address}");
    for arguments in [
        &["new", CELL, "--mirror", &mirror][..],
        &[CELL, "--push", "--format", "oci", "-o", "layout", "--mirror", &mirror],
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_assemble"));
        command.args(arguments).current_dir(project.path("")).env("HOME", project.path("home"));
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        let said = text(&output);
        assert!(output.status.success(), "{said}");
        if arguments[0] == CELL {
            assert!(said.contains("linux/amd64: start check `locust --version` ran"), "{said}");
            assert!(said.contains("zope-interface 8.7 for linux/arm64"), "{said}");
        }
    }
    let tag = "2.47.0-python3.13-alpine3.24";
    let index = project.registry.manifest("locust", tag).unwrap().1;
    let index: Value = serde_json::from_slice(&index).unwrap();
    let arm64 = index["manifests"][1]["digest"].as_str().unwrap();
    let root = project.path("root");
    unpack(&project.path("layout"), arm64, &root);
    if let Some(said) = emulated(&root, &["locust", "--version"]) {
        assert!(said.starts_with("locust 2.47.0 "), "{said}");
    }
}

/// Unpacks the image with that manifest, as any tool would.
pub(crate) fn unpack(layout: &Path, manifest: &str, root: &Path) {
    let blob = |digest: &str| {
        fs_err::File::open(layout.join("blobs").join(digest.replace(':', "/"))).unwrap()
    };
    let manifest: Value = serde_json::from_reader(blob(manifest)).unwrap();
    for layer in manifest["layers"].as_array().unwrap() {
        let gzip = flate2::read::GzDecoder::new(blob(layer["digest"].as_str().unwrap()));
        let mut tar = tar::Archive::new(gzip);
        tar.set_overwrite(true);
        tar.unpack(root).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
#[cfg(target_arch = "x86_64")]
async fn an_sdist_with_compiled_code_is_not_for_another_machine() {
    let project = project(Some("b'\\x7fELF'")).await;
    let output = project.run(&["--push", "--platform", "linux/arm64"]).await;
    let said = text(&output);
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains("demo 1.0 cannot be built for linux/arm64/v8 here"), "{said}");
}

/// Compiled code for another machine is had from a machine of that kind, by the shared cache.
#[tokio::test(flavor = "multi_thread")]
#[cfg(target_arch = "x86_64")]
async fn compiled_code_for_another_machine_is_found_where_its_own_kind_built_it() {
    use assemble::base::rootfs;
    use assemble::layers::sdist::{BuildRequest, StoredFile};
    use assemble::oci::{Digest, media_type};

    let project = project(Some("b'\\x7fELF'")).await;
    let spec = BaseSpec::new("3.13", "alpine3.24").on(Architecture::Arm64);
    let config = bases::make(spec, &crate::base_cache()).await.unwrap().config().unwrap();
    let diff_ids: Vec<Digest> =
        serde_json::from_value(config["rootfs"]["diff_ids"].clone()).unwrap();
    let sdist = fs_err::read(project.path("wheels/demo-1.0.tar.gz")).unwrap();
    // What an arm64 machine would ask for.
    let request = BuildRequest {
        name: "demo".parse().unwrap(),
        version: "1.0".parse().unwrap(),
        sdist: StoredFile { file_name: "demo-1.0.tar.gz".into(), digest: Digest::of(&sdist) },
        build_requirements: Vec::new(),
        alternatives: Vec::new(),
        python: (3, 13),
        rootfs_key: rootfs::key(&diff_ids),
        toolchain: None,
        env: std::collections::BTreeMap::new(),
    };
    let tag = "cp313-cp313-linux_aarch64";
    let object = Object::of("aarch64").needs("libc.musl-aarch64.so.1").to_bytes();
    let wheel = crate::project::wheel(
        "demo",
        tag,
        &[
            ("demo.py", b"def main():\n    pass\n".to_vec()),
            ("_demo.cpython-313-aarch64-linux-musl.so", object),
            (
                "demo-1.0.dist-info/entry_points.txt",
                b"[console_scripts]\ndemo = demo:main\n".into(),
            ),
        ],
    );
    let size = wheel.len();
    let registry = &project.registry;
    let entry = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": media_type::OCI_MANIFEST,
        "artifactType": "application/vnd.assemble.wheel.v1",
        "config": {
            "mediaType": "application/vnd.oci.empty.v1+json",
            "digest": registry.put_blob("wheels", b"{}".to_vec()),
            "size": 2,
        },
        "layers": [{
            "mediaType": "application/vnd.assemble.wheel.v1+zip",
            "digest": registry.put_blob("wheels", wheel),
            "size": size,
            "annotations": { "org.opencontainers.image.title": format!("demo-1.0-{tag}.whl") },
        }],
        "annotations": {
            "assemble.wheel.key": request.key(),
            "assemble.wheel.project": "demo",
            "assemble.wheel.version": "1.0",
            "assemble.wheel.python": "3.13",
            "assemble.wheel.platform": "linux/arm64",
            "assemble.wheel.tier": "namespaces",
            "assemble.wheel.pure-fallback": "false",
        },
    });
    let name = format!("wheel-{}", request.key().hex());
    let entry = entry.to_string();
    registry.put_manifest("wheels", Some(&name), media_type::OCI_MANIFEST, entry);
    let repository = format!("{}/wheels", registry.address());
    let foreign = ["--push", "--json", "--platform", "linux/arm64"];
    let output = project.run(&foreign).await;
    assert_eq!(output.status.code(), Some(3), "{}", text(&output));
    let output = project.run(&[&foreign[..], &["--wheel-cache", &repository]].concat()).await;
    assert!(output.status.success(), "{}", text(&output));
    let result: Value = serde_json::from_slice(&output.stdout).unwrap();
    let image = &result["images"][0]["images"][0];
    assert_eq!(image["built"][0]["wheel"], format!("demo-1.0-{tag}.whl"));
    assert_eq!(image["built"][0]["built-on"], Value::Null);
    assert_eq!(image["built"][0]["found-in"], format!("{repository}:{name}"));
    assert_eq!(image["checked"]["elf-files"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_machines_at_once_make_one_index() {
    let project = project(None).await;
    project.succeed(&["--push"]).await;
    let (_, at_once) = entries(&project);
    let digest = |project: &Project| project.registry.tags("demo")["1.0-python3.13-alpine3.24"];
    let expected = digest(&project);
    let tag = "1.0-python3.13-alpine3.24";

    // One after the other, from nothing: `index` on the first makes it.
    let again = self::project(None).await;
    let arm64 = ["index", CELL, "--platform", "linux/arm64", "--cache-dir", "a"];
    let amd64 = ["index", CELL, "--platform", "linux/amd64", "--cache-dir", "b"];
    again.succeed(&arm64).await;
    assert_eq!(entries(&again).1.len(), 1);
    // Both at once, and one of them is repeated.
    let (first, second) = tokio::join!(again.run(&amd64), again.run(&arm64));
    assert!(first.status.success() && second.status.success(), "{}", text(&first));
    let found: Vec<_> = entries(&again).1.into_iter().map(|(name, _)| name).collect();
    assert_eq!(found, ["amd64", "arm64"]);
    assert_eq!(at_once.len(), 2);

    // Both at once, from nothing: nobody is lost, and it is the index made at once.
    let third = self::project(None).await;
    let (first, second) = tokio::join!(third.run(&amd64), third.run(&arm64));
    assert!(first.status.success() && second.status.success(), "{}{}", text(&first), text(&second));
    let found: Vec<_> = entries(&third).1.into_iter().map(|(name, _)| name).collect();
    assert_eq!(found, ["amd64", "arm64"]);
    // What was one index keeps its digest if a platform is added again.
    let said = project.succeed(&arm64).await;
    assert!(said.contains("(was there)"), "{said}");
    assert_eq!(digest(&project), expected, "{tag}");
}
