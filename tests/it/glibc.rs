//! A base on glibc is a cell like any other: `slim-bookworm` (needs the public package index).

use std::path::Path;
use std::process::Command;

use assemble::gate::elf;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::bases::{self, Architecture, BaseSpec, MediaTypes};
use crate::command::{Outcome, Recipe};
use crate::platforms::unpack;
use crate::support::package_index::Published;
use crate::support::registry::FakeRegistry;
use crate::support::tool;
use crate::support::tools::Docker;

const CELL: &str = "2.47.0/python3.13/slim-bookworm";
const ALPINE: &str = "2.47.0/python3.13/alpine3.24";

/// Puts the base of `os` on the registry under the tag that `name` would have.
async fn serve(registry: &FakeRegistry, os: &'static str, name: &'static str) {
    let base = bases::make(BaseSpec::new("3.13", os), &crate::base_cache()).await.unwrap();
    let tag = BaseSpec::new("3.13", name).tag();
    base.serve(registry, "library/python", Some(&tag)).unwrap();
}

async fn run(mut command: Command) -> Outcome {
    tokio::task::spawn_blocking(move || Outcome::of(command.output().unwrap())).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
#[cfg(target_arch = "x86_64")]
async fn a_cell_on_glibc_is_made_and_runs() {
    let registry = FakeRegistry::start().await;
    serve(&registry, "slim-bookworm", "slim-bookworm").await;
    let recipe = Recipe::copy();
    let cache = TempDir::new().unwrap();
    let mirror = format!("docker.io={}", registry.address());
    let assemble = |arguments: &[&str]| {
        recipe.command(cache.path(), &[arguments, &["--mirror", &mirror]].concat())
    };
    run(assemble(&["new", CELL])).await.success();
    let lock = recipe.read(&format!("matrix/{CELL}/lock.toml"));
    assert!(lock.contains("-manylinux") && !lock.contains("-musllinux"), "{lock}");
    let made = run(assemble(&[CELL, "-o", "image.tar"])).await.success();
    let said = made.stdout + &made.stderr;
    assert!(said.contains("ELF files fit the base, `debian 12` on glibc 2.36, "), "{said}");
    assert!(said.contains("start check `locust --version` ran (tier "), "{said}");

    // By its own loader, for those who have no namespaces.
    let other = TempDir::new().unwrap();
    let mut command = recipe.command(other.path(), &["check", "image.tar"]);
    command.env("ASSEMBLE_SANDBOX", "loader");
    let said = run(command).await.success().stdout;
    assert!(said.contains("`locust --version` ran (tier loader"), "{said}");
    assert!(said.contains("): locust 2.47.0"), "{said}");

    let image = recipe.path("image.tar").display().to_string();
    let in_docker = tokio::task::spawn_blocking(move || {
        let docker = Docker::start()?;
        docker.run(&["load", "-i", &image]);
        let name = "grubykarol/locust:2.47.0-python3.13-slim-bookworm";
        let python = "import gevent, zmq, msgpack, brotli, locust; print(locust.__version__)";
        Some([
            docker.run(&["run", "--rm", "--network=none", name, "--version"]),
            docker.run(&[
                "run",
                "--rm",
                "--network=none",
                "--entrypoint=python3",
                name,
                "-c",
                python,
            ]),
            docker.run(&["run", "--rm", "--network=none", "--entrypoint=pip", name, "check"]),
        ])
    });
    let Some([version, imported, checked]) = in_docker.await.unwrap() else { return };
    assert!(version.starts_with("locust 2.47.0"), "{version}");
    assert_eq!(imported.trim(), "2.47.0");
    assert!(checked.contains("No broken requirements found"), "{checked}");
}

/// What a base is, its own files say.
#[tokio::test(flavor = "multi_thread")]
#[cfg(target_arch = "x86_64")]
async fn a_base_with_another_c_library_than_the_cell_says_is_refused() {
    for (cell, os, named, found) in [
        (CELL, "alpine3.24", "slim-bookworm", "is `alpine 3.24.0` on musl"),
        (ALPINE, "slim-bookworm", "alpine3.24", "is `debian 12` on glibc 2.36"),
    ] {
        let registry = FakeRegistry::start().await;
        serve(&registry, os, named).await;
        let (recipe, cache) = (Recipe::of(&["idna==3.11"]), TempDir::new().unwrap());
        recipe.edit("matrix/matrix.toml", "docker.io/example", &registry.address());
        let mirror = format!("docker.io={}", registry.address());
        let cell = cell.replace("2.47.0", "1.0");
        fs_err::create_dir_all(recipe.path(&format!("matrix/{cell}"))).unwrap();
        recipe.write(&format!("matrix/{cell}/cell.toml"), "");
        for arguments in [&["lock", &cell][..], &[&cell, "--push"]] {
            let outcome =
                run(recipe.command(cache.path(), &[arguments, &["--mirror", &mirror]].concat()))
                    .await;
            if arguments[0] == "lock" {
                outcome.success();
            } else {
                outcome.failure(5, &[&format!("the cell says os `{named}`, but "), found]);
                assert!(registry.tags("app").is_empty());
            }
        }
    }
}

/// The modules in C of the two sdists.
const MODULES: [&str; 2] = ["_newer", "markupsafe._speedups"];

const COMPILER: &str = "\n[[constraint]]\nrequirement = \"ziglang==0.17.1\"\n\
    reason = \"the one it was seen with\"\n[compiler]\nuse = \"zig\"\nreason = \"no wheel for 3.13\"\n";

/// What would be other symbols from glibc 2.38 on: it has an `fmod` of its own version since.
const NEWER: &str = r#"
#include <Python.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#if __GLIBC_PREREQ(2, 38)
#error "these are not the headers of bookworm"
#endif
static PyObject *read_number(PyObject *self, PyObject *text) {
    const char *word = PyUnicode_AsUTF8(text);
    unsigned more = 0;
    if (word == NULL) return NULL;
    sscanf(word, "%u", &more);
    return PyFloat_FromDouble(fmod((double)strtol(word, NULL, 10) + more, 1000.0));
}
static PyMethodDef methods[] = {{"read_number", read_number, METH_O, ""}, {NULL}};
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_newer", NULL, -1, methods};
PyMODINIT_FUNC PyInit__newer(void) { return PyModule_Create(&module); }
"#;

/// An sdist of it, in a folder. Its build needs a module in C that runs where it does, and asks whether
/// there is what came with glibc 2.38.
fn write_sdist(folder: &Path) {
    let setup = "import subprocess, markupsafe._speedups\nfrom setuptools import setup, Extension\n\
        probe = 'char strlcpy(void);int main(void){return strlcpy();}'\n\
        open('probe.c', 'w').write(probe)\n\
        assert subprocess.call(['cc', 'probe.c', '-o', 'probe']), 'strlcpy is found'\n\
        setup(name='newer', version='1.0', ext_modules=[Extension('_newer', ['newer.c'],\n\
        define_macros=[('_GNU_SOURCE', None)], libraries=['m'],\n\
        extra_compile_args=['-mtune=native', '-march=native'])])\n";
    let project = "[build-system]\nrequires = [\"setuptools\", \"markupsafe==3.0.3\"]\n\
        build-backend = \"setuptools.build_meta\"\n";
    let metadata = "Metadata-Version: 2.2\nName: newer\nVersion: 1.0\n";
    let files = [
        ("newer.c", NEWER),
        ("setup.py", setup),
        ("pyproject.toml", project),
        ("PKG-INFO", metadata),
    ];
    fs_err::create_dir_all(folder).unwrap();
    let sdist = Published::sdist("newer-1.0.tar.gz", &files);
    fs_err::write(folder.join("newer-1.0.tar.gz"), sdist.bytes).unwrap();
}

/// Sdists are compiled here for the glibc of either base, not for the newest that the compiler knows:
/// what comes out needs nothing that the base lacks, and is imported on both. All again, from the
/// lock's files alone, by the base's own loader: the same images.
#[tokio::test(flavor = "multi_thread")]
#[cfg(target_arch = "x86_64")]
async fn c_is_compiled_for_the_glibc_of_either_base() {
    let spec = BaseSpec::new("3.13", "slim-bookworm");
    let cache = crate::base_cache();
    let bases = [
        bases::make(spec, &cache).await.unwrap(),
        bases::make(spec.on(Architecture::Arm64), &cache).await.unwrap(),
    ];
    let registry = FakeRegistry::start().await;
    let types = MediaTypes::Oci;
    bases::serve_index(&bases, types, &registry, "library/python", &spec.tag()).unwrap();
    let cell = "1.0/python3.13/slim-bookworm";
    let recipe = Recipe::of(&["newer==1.0", "markupsafe==2.1.5"]);
    fs_err::remove_dir_all(recipe.path("matrix/1.0")).unwrap();
    recipe.write(&format!("matrix/{cell}/cell.toml"), "");
    recipe.edit("matrix/matrix.toml", "[\"linux/amd64\"]", "[\"linux/amd64\", \"linux/arm64\"]");
    write_sdist(&recipe.path("links"));
    let import = format!("import {}; print('read', _newer.read_number('21'))", MODULES.join(", "));
    let layer = "layers/app/layer.toml";
    let check = json!(["python3", "-c", import]);
    recipe.write(layer, &format!("{}{COMPILER}[check]\ncommand = {check}\n", recipe.read(layer)));
    let cache = recipe.path("cache");
    let mirror = format!("docker.io={}", registry.address());
    let assemble = |arguments: &[&str]| {
        let places = ["--mirror", &mirror, "--find-links", "links"];
        recipe.command(&cache, &[arguments, &places].concat())
    };
    run(assemble(&["lock"])).await.success();

    let output = [cell, "--format", "oci", "-o", "layout", "--json"];
    let report = run(assemble(&output)).await.success().json();
    let images = report["images"][0]["images"].as_array().unwrap();
    for (number, machine) in ["x86_64", "aarch64"].iter().enumerate() {
        let image = &images[number];
        for (built, name) in image["built"].as_array().unwrap().iter().zip(["markupsafe", "newer"])
        {
            let wheel = built["wheel"].as_str().unwrap();
            assert!(wheel.starts_with(name), "{built}");
            assert!(wheel.ends_with(&format!("-cp313-cp313-linux_{machine}.whl")), "{built}");
            assert_eq!(built["pure-fallback"], false, "{built}");
        }
        assert_eq!(image["checked"]["elf-files"], 2, "{image}");
        assert_eq!(image["checked"]["base"], "`debian 12` on glibc 2.36", "{image}");
        let root = recipe.path(machine);
        unpack(&recipe.path("layout"), image["digest"].as_str().unwrap(), &root);
        for module in MODULES {
            look_at(&root, module, machine);
        }
    }
    let start = images[0]["start"].to_string();
    assert!(start.contains("read 42.0"), "{start}");
    if let Some(said) = emulated(&recipe.path("aarch64"), &import) {
        assert_eq!(said.trim(), "read 42.0");
    }

    for made in ["trees/toolchain", "trees/toolchain-cache", "keyed"] {
        fs_err::remove_dir_all(cache.join(made)).unwrap();
    }
    // Where the tags point to is a record as well.
    run(assemble(&["plan"])).await.success();
    fs_err::remove_dir_all(recipe.path("layout")).unwrap();
    let mut again = assemble(&[&output[..], &["--offline"]].concat());
    again.env("ASSEMBLE_SANDBOX", "loader");
    let again = run(again).await.success().json();
    assert_eq!(again["images"][0]["digest"], report["images"][0]["digest"]);
    let built = &again["images"][0]["images"][1]["built"][0];
    assert_eq!((&built["tier"], &built["from-cache"]), (&"loader".into(), &Value::Bool(false)));
}

/// The module is for that machine, asks for what the base has, and says nothing of where it was made.
fn look_at(root: &Path, module: &str, machine: &str) {
    let name = module.replace('.', "/");
    let site = root.join("usr/local/lib/python3.13/site-packages");
    let path = site.join(format!("{name}.cpython-313-{machine}-linux-gnu.so"));
    let bytes = fs_err::read(path).unwrap();
    let found = elf::read(&*bytes).unwrap().unwrap();
    let expected = if machine == "x86_64" { 62 } else { 183 };
    assert_eq!(found.machine, expected, "{module}");
    assert!(found.needed.contains(&"libc.so.6".to_owned()), "{found:?}");
    for library in &found.needed {
        let place = root.join(format!("usr/lib/{machine}-linux-gnu/{library}"));
        assert!(place.is_file(), "{module} needs {library}");
    }
    // Whatever has the form of a version, wherever it stands.
    let text = String::from_utf8_lossy(&bytes);
    let versions: Vec<u32> = text
        .split("GLIBC_2.")
        .skip(1)
        .filter_map(|rest| rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok())
        .collect();
    assert!(!versions.is_empty() && versions.iter().all(|minor| *minor <= 36), "{versions:?}");
    for word in [".debug_", ".symtab", "/tmp/", "/build/"] {
        assert!(!text.contains(word), "{module} has {word}");
    }
}

/// What the Python of an unpacked arm64 image says on this machine, by emulation.
fn emulated(root: &Path, code: &str) -> Option<String> {
    let libraries = root.join("usr/lib/aarch64-linux-gnu");
    let output = Command::new(tool("qemu-aarch64-static")?)
        .arg(libraries.join("ld-linux-aarch64.so.1"))
        .arg("--library-path")
        .arg(&libraries)
        .arg(root.join("usr/local/bin/python3.13"))
        .args(["-c", code])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    Some(String::from_utf8(output.stdout).unwrap())
}
