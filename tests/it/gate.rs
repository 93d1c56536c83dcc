//! Nothing is published that its base cannot load: wheels that lie about their platform, and more.

use crate::elf::Object;
use crate::project::{CELL, Project, text};

const TAG: &str = "cp313-cp313-musllinux_1_2_x86_64";
const MODULE: &str = "demo/_c.cpython-313-x86_64-linux-musl.so";

/// A base with musl, zlib and nothing to run.
fn base() -> Vec<(&'static str, Vec<u8>)> {
    let object = Object::of("x86_64").to_bytes();
    vec![
        ("lib/ld-musl-x86_64.so.1", object.clone()),
        ("usr/lib/libz.so.1", object.clone()),
        (
            "usr/local/lib/python3.13/lib-dynload/math.cpython-313-x86_64-linux-musl.so",
            object.clone(),
        ),
        ("usr/local/bin/python3.13", object),
        ("etc/os-release", b"ID=alpine\nVERSION_ID=3.24.1\n".to_vec()),
    ]
}

fn musl() -> Object {
    Object::of("x86_64").needs("libc.musl-x86_64.so.1")
}

async fn pushed(files: &[(&str, Vec<u8>)]) -> (Project, std::process::Output) {
    let project = Project::new(&["linux/amd64"], "").await;
    project.serve_base(&base());
    project.wheel("demo", TAG, files);
    project.succeed(&["new", CELL]).await;
    let output = project.run(&["--push"]).await;
    (project, output)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_base_cannot_load_is_not_published() {
    for (file, object, problem) in [
        (
            "demo/_c.abi3.so",
            Object::of("x86_64").needs("libc.so.6").version("libc.so.6", "GLIBC_2.17"),
            "needs `libc.so.6` of glibc, and the base has musl",
        ),
        (
            MODULE,
            Object::of("aarch64").needs("libc.musl-aarch64.so.1"),
            "is made for aarch64, not for x86_64",
        ),
        (
            "demo/_c.cpython-312-x86_64-linux-musl.so",
            musl(),
            "is an extension module for `cpython-312-x86_64-linux-musl`",
        ),
        (
            MODULE,
            musl().needs("libfoo.so.3"),
            "needs `libfoo.so.3`, which is neither in the layers nor in the base",
        ),
    ] {
        let (project, output) = pushed(&[(file, object.to_bytes())]).await;
        let text = text(&output);
        assert_eq!(output.status.code(), Some(3), "{text}");
        let path = format!("demo 1.0: `/usr/local/lib/python3.13/site-packages/{file}` {problem}");
        assert!(text.contains(&path), "{text}");
        assert!(project.registry.tags("demo").is_empty(), "{text}");
        assert_eq!(project.registry.count("PUT", ""), 0, "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wheel_that_bundles_everything_costs_no_download_of_the_base() {
    let bundling = musl().needs("libfoo-1.so").runs_from("$ORIGIN/../demo.libs");
    let (project, output) =
        pushed(&[(MODULE, bundling.to_bytes()), ("demo.libs/libfoo-1.so", musl().to_bytes())])
            .await;
    let said = text(&output);
    assert!(output.status.success(), "{said}");
    assert!(
        said.contains("2 ELF files fit the base (the base's own files were not needed)"),
        "{said}"
    );
    assert!(said.contains("start check not run: no layer has a [check] command"), "{said}");
    // Its config, and the layer once: streamed to the other repository, or mounted.
    let layer_reads = project.registry.count("GET", "/v2/library/python/blobs/");
    assert!(layer_reads <= 2, "{:?}", project.registry.lines());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_library_of_the_base_is_found_there() {
    let (project, output) = pushed(&[(MODULE, musl().needs("libz.so.1").to_bytes())]).await;
    let said = text(&output);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("reading the base's files"), "{said}");
    assert!(said.contains("1 ELF files fit the base, "), "{said}");
    // Next time its inventory is known.
    project.registry.clear_log();
    let again = project.succeed(&["--push"]).await;
    assert!(!again.contains("reading the base's files"), "{again}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_base_that_is_another_os_is_refused() {
    let project = Project::new(&["linux/amd64"], "").await;
    let mut files = base();
    files.pop();
    files.push(("etc/os-release", b"ID=alpine\nVERSION_ID=3.19.1\n".to_vec()));
    project.serve_base(&files);
    project.wheel("demo", "py3-none-any", &[("demo.py", Vec::new())]);
    project.succeed(&["new", CELL]).await;
    let output = project.run(&[CELL, "-o", "image.tar"]).await;
    let said = text(&output);
    assert_eq!(output.status.code(), Some(5), "{said}");
    assert!(said.contains("the cell says os `alpine3.24`, but "), "{said}");
    assert!(said.contains("is `alpine 3.19.1`"), "{said}");
    assert!(!project.path("image.tar").exists());
}
