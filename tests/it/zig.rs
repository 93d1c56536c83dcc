//! C and C++ in sdists, compiled with zig: for this machine, for another one, in both tiers, the same
//! bytes each time (needs the public package index).

use std::path::Path;

use serde_json::Value;

use crate::bases::{self, Architecture, BaseSpec, MediaTypes};
use crate::command::{Recipe, run};
use crate::platforms::{emulated, unpack};
use crate::support::package_index::Published;
use crate::support::registry::FakeRegistry;
use crate::support::skip;

/// The cell of [`Recipe::of`].
const CELL: &str = "1.0/python3.13/alpine3.24";

const COMPILER: &str = "\n[[constraint]]\nrequirement = \"ziglang==0.17.1\"\n\
    reason = \"the one it was seen with\"\n[compiler]\nuse = \"zig\"\nreason = \"no wheel for musl\"\n\
    [check]\ncommand = [\"python3\", \"-c\", \"import zope.interface._zope_interface_coptimizations\"]\n";

/// An sdist whose backend configures as autoconf does: a shell script that links a program, runs it unless
/// it is for another machine, and writes what it found.
const CONFIGURED: [(&str, &str); 4] = [
    (
        "configure",
        r#"#!/bin/sh
set -e
[ -z "$CONFIG_SITE" ] || . "$CONFIG_SITE"
echo 'int main(void) { return 7; }' >conftest.c
cc -c conftest.c
cc -o conftest conftest.o
if [ "$cross_compiling" != yes ]; then ./conftest || [ $? = 7 ]; fi
echo 'answer = @ANSWER@' | sed "s/@ANSWER@/$(expr 6 + 36)/" >found.py
"#,
    ),
    (
        "backend.py",
        r#"
import base64, hashlib, subprocess, zipfile
def build_wheel(folder, config=None, metadata=None):
    subprocess.check_call("sh ./configure", shell=True)
    info = "zzz-1.0.dist-info/"
    wheel = "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    files = [("zzz.py", open("found.py").read()), (info + "WHEEL", wheel),
             (info + "METADATA", open("PKG-INFO").read())]
    record = info + "RECORD,,\n"
    for name, text in files:
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode()
        record += "%s,sha256=%s,%d\n" % (name, digest.rstrip("="), len(text))
    with zipfile.ZipFile(folder + "/zzz-1.0-py3-none-any.whl", "w") as file:
        for name, text in files + [(info + "RECORD", record)]:
            file.writestr(zipfile.ZipInfo(name), text)
    return "zzz-1.0-py3-none-any.whl"
"#,
    ),
    (
        "pyproject.toml",
        "[build-system]\nrequires = []\nbuild-backend = \"backend\"\nbackend-path = [\".\"]\n\
         [project]\nname = \"zzz\"\nversion = \"1.0\"\n",
    ),
    ("PKG-INFO", "Metadata-Version: 2.2\nName: zzz\nVersion: 1.0\n"),
];

/// What the layer's wheel has, found in a layout: the digests of the images.
fn digests(report: &Value) -> Vec<String> {
    let images = report["images"][0]["images"].as_array().unwrap();
    images.iter().map(|image| image["digest"].as_str().unwrap().to_owned()).collect()
}

/// An sdist whose C parts are optional is compiled for both machines by this one. Then everything that
/// was built and unpacked is thrown away, and made again with no server, from the lock's files alone,
/// without namespaces: the same images.
#[test]
#[cfg(target_arch = "x86_64")]
fn c_is_compiled_for_both_machines_twice_the_same() {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let spec = BaseSpec::new("3.13", "alpine3.24");
    let registry = runtime.block_on(async {
        let cache = crate::base_cache();
        let bases = [
            bases::make(spec, &cache).await.unwrap(),
            bases::make(spec.on(Architecture::Arm64), &cache).await.unwrap(),
        ];
        let registry = FakeRegistry::start().await;
        let name = "library/python";
        bases::serve_index(&bases, MediaTypes::Oci, &registry, name, &spec.tag()).unwrap();
        registry
    });
    let recipe = Recipe::of(&["zope.interface==8.7", "zzz==1.0"]);
    fs_err::create_dir(recipe.path("sdists")).unwrap();
    let configured = Published::sdist("zzz-1.0.tar.gz", &CONFIGURED);
    fs_err::write(recipe.path("sdists/zzz-1.0.tar.gz"), &configured.bytes).unwrap();
    recipe.edit("matrix/matrix.toml", "[\"linux/amd64\"]", "[\"linux/amd64\", \"linux/arm64\"]");
    let layer = "layers/app/layer.toml";
    recipe.write(layer, &(recipe.read(layer) + COMPILER));
    let cache = recipe.path("cache");
    let mirror = format!("docker.io={}", registry.address());
    let assemble = |arguments: &[&str]| {
        let mut command = recipe.command(&cache, arguments);
        command.args(["--mirror", &mirror, "--find-links", "sdists"]);
        command
    };

    run(&mut assemble(&["lock"])).success();
    let lock = recipe.read(&format!("matrix/{CELL}/lock.toml"));
    assert!(
        lock.contains("compiler = \"zig\"") && lock.contains("\n[compiler]\nname = "),
        "{lock}"
    );
    for platform in ["linux/amd64", "linux/arm64"] {
        assert!(lock.contains(&format!("platforms = [\"{platform}\"]")), "{lock}");
    }
    let plan = run(&mut assemble(&["plan"])).success().stdout;
    assert!(plan.contains("sdists are compiled with zig: no wheel for musl"), "{plan}");
    assert!(plan.contains("sources are compiled with ziglang "), "{plan}");
    assert!(!plan.contains("built pure"), "{plan}");

    let layout = recipe.path("layout");
    let output = ["--format", "oci", "-o", "layout", "--json"];
    let first = run(&mut assemble(&[&[CELL], &output[..]].concat())).success();
    assert!(!first.stderr.contains("pure Python"), "{}", first.stderr);
    let report = first.json();
    for (number, machine) in ["x86_64", "aarch64"].iter().enumerate() {
        let image = &report["images"][0]["images"][number];
        let built = &image["built"][0];
        let wheel = format!("zope_interface-8.7-cp313-cp313-linux_{machine}.whl");
        assert_eq!(built["wheel"], *wheel, "{built}");
        assert_eq!(built["pure-fallback"], false, "{built}");
        assert!(built["compiler"].as_str().unwrap().starts_with("ziglang-"), "{built}");
        assert_eq!(built["built-on"].is_null(), *machine == "x86_64", "{built}");
        assert_eq!(image["checked"]["elf-files"], 1, "{image}");
    }
    // It was imported here.
    let start = report["images"][0]["images"][0]["start"].to_string();
    assert!(start.contains("namespaces") || start.contains("loader"), "{start}");
    let images = digests(&report);
    let root = recipe.path("root");
    unpack(&layout, &images[1], &root);
    let module = "usr/local/lib/python3.13/site-packages/zope/interface/\
                  _zope_interface_coptimizations.cpython-313-aarch64-linux-musl.so";
    let bytes = fs_err::read(root.join(module)).unwrap();
    for word in [&b".debug_"[..], b".symtab", b"/tmp/", b"/build/"] {
        let found = bytes.windows(word.len()).any(|part| part == word);
        assert!(!found, "{}", String::from_utf8_lossy(word));
    }
    fs_err::write(
        root.join("usr/local/bin/look"),
        "import zope.interface._zope_interface_coptimizations as m\nprint(m.__file__)\n",
    )
    .unwrap();
    if let Some(said) = emulated(&root, &["look"]) {
        assert!(said.contains("cpython-313-aarch64-linux-musl.so"), "{said}");
    }
    // The image itself says what was done.
    let label = registry_label(&layout, &images[0]);
    assert!(label.contains(r#""compiler":{"reason":"no wheel for musl","use":"zig"}"#), "{label}");

    for made in ["trees/toolchain", "trees/toolchain-cache", "keyed/built-wheels"] {
        fs_err::remove_dir_all(cache.join(made)).unwrap();
    }
    for entry in fs_err::read_dir(cache.join("keyed")).unwrap() {
        fs_err::remove_dir_all(entry.unwrap().path()).unwrap();
    }
    // Where the tags point to is a record as well.
    run(&mut assemble(&["plan"])).success();
    fs_err::remove_dir_all(&layout).unwrap();
    let mut again = assemble(&[&[CELL, "--offline"], &output[..]].concat());
    let again = run(again.env("ASSEMBLE_SANDBOX", "loader")).success();
    let report = again.json();
    assert_eq!(digests(&report), images);
    assert_eq!(report["images"][0]["images"][1]["built"].as_array().unwrap().len(), 2, "{report}");
    let built = &report["images"][0]["images"][1]["built"][0];
    assert_eq!((&built["tier"], &built["from-cache"]), (&"loader".into(), &false.into()));
}

/// The deviations in the config of the image with that manifest.
fn registry_label(layout: &Path, manifest: &str) -> String {
    let blob = |digest: &str| -> Value {
        let path = layout.join("blobs").join(digest.replace(':', "/"));
        serde_json::from_slice(&fs_err::read(path).unwrap()).unwrap()
    };
    let config = blob(blob(manifest)["config"]["digest"].as_str().unwrap());
    config["config"]["Labels"]["assemble.deviations"].as_str().unwrap().to_owned()
}

/// Without a compiler, an sdist that cannot do without says what is missing, and what brings it.
#[test]
fn a_missing_compiler_is_named() {
    if cfg!(not(target_arch = "x86_64")) {
        return skip("the base's programs are for x86_64");
    }
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let scene = runtime.block_on(async {
        let scene = crate::scene::Scene::new().await;
        scene
            .publish_source("import subprocess; subprocess.check_call(['gcc', '-c', 'x.c'])")
            .await;
        scene
    });
    let scene = scene.locked();
    let outcome = scene.run(&[CELL, "-o", "image.tar"]);
    outcome.failure(
        3,
        &[
            "source 1.0 did not build",
            "No such file or directory: 'gcc'",
            "[compiler] with use = \"zig\"",
        ],
    );
}
