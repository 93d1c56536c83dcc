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

/// A Python that says what it has, on musl: no version tells there that a wheel is for a newer one.
#[tokio::test(flavor = "multi_thread")]
async fn a_symbol_that_nobody_has_is_found_on_musl() {
    let python = musl().interpreter("/lib/ld-musl-x86_64.so.1").exports("PyModule_Create2");
    let mut files = base();
    files.retain(|(path, _)| !path.contains("bin/python") && !path.contains("ld-musl"));
    files.push(("usr/local/bin/python3.13", python.to_bytes()));
    files.push(("lib/ld-musl-x86_64.so.1", Object::of("x86_64").exports("strlcpy").to_bytes()));
    let module = || musl().exports("PyInit__c").uses("PyModule_Create2").uses("strlcpy");
    for (object, problem) in [
        (module(), None),
        (module().uses("qsort_r"), Some("needs the symbol `qsort_r`, which neither its libraries")),
    ] {
        let project = Project::new(&["linux/amd64"], "").await;
        project.serve_base(&files);
        project.wheel("demo", TAG, &[(MODULE, object.to_bytes())]);
        project.succeed(&["new", CELL]).await;
        let output = project.run(&["--push"]).await;
        let said = text(&output);
        assert_eq!(output.status.code(), Some(if problem.is_some() { 3 } else { 0 }), "{said}");
        assert!(said.contains(problem.unwrap_or("1 ELF files fit the base")), "{said}");
        assert_eq!(project.registry.tags("demo").is_empty(), problem.is_some(), "{said}");
    }
}

/// On glibc the versions of symbols tell, even where a wheel's tag lies.
#[tokio::test(flavor = "multi_thread")]
async fn a_symbol_that_is_too_new_is_found_on_glibc() {
    let own = || Object::of("x86_64").needs("libc.so.6");
    let python = own().interpreter("/lib64/ld-linux-x86-64.so.2");
    let libc = Object::of("x86_64").defines("libc.so.6").defines("GLIBC_2.2.5");
    let files = [
        ("lib/x86_64-linux-gnu/libc.so.6", libc.defines("GLIBC_2.36").to_bytes()),
        ("lib64/ld-linux-x86-64.so.2", Object::of("x86_64").to_bytes()),
        ("usr/local/bin/python3.13", python.to_bytes()),
        ("etc/os-release", b"ID=debian\nVERSION_ID=12\nVERSION_CODENAME=bookworm\n".to_vec()),
    ];
    let file = "demo/_c.cpython-313-x86_64-linux-gnu.so";
    for (version, problem) in [
        ("GLIBC_2.36", None),
        (
            "GLIBC_2.38",
            Some("needs `GLIBC_2.38` of `libc.so.6`, and the base has `GLIBC_2.36` at most"),
        ),
    ] {
        let project = Project::new(&["linux/amd64"], "").await;
        project.serve_base_as("3.13-slim-bookworm", &files);
        let object = own().version("libc.so.6", version);
        project.wheel("demo", "cp313-cp313-manylinux_2_17_x86_64", &[(file, object.to_bytes())]);
        project.succeed(&["new", "1.0/python3.13/slim-bookworm"]).await;
        let output = project.run(&["--push"]).await;
        let said = text(&output);
        assert_eq!(output.status.code(), Some(if problem.is_some() { 3 } else { 0 }), "{said}");
        let expected = "1 ELF files fit the base, `debian 12` on glibc 2.36, ";
        assert!(said.contains(problem.unwrap_or(expected)), "{said}");
        assert_eq!(project.registry.tags("demo").is_empty(), problem.is_some(), "{said}");
    }
}

/// The verdict is the same whatever is in the cache: the base's files are read for it where they are
/// not known, and never again.
#[tokio::test(flavor = "multi_thread")]
async fn the_base_is_read_once_and_looked_at_always() {
    let reading = "reading the base's files";
    let layer_reads =
        |project: &Project| project.registry.count("GET", "/v2/library/python/blobs/");
    for object in [musl(), musl().needs("libz.so.1")] {
        let (project, output) = pushed(&[(MODULE, object.to_bytes())]).await;
        let said = text(&output);
        assert!(output.status.success(), "{said}");
        assert!(said.contains(reading), "{said}");
        assert!(said.contains("1 ELF files fit the base, `alpine 3.24.1` on musl, "), "{said}");
        assert!(said.contains("start check not run: no layer has a [check] command"), "{said}");
        // Its config, and its layer, which is mounted.
        assert_eq!(layer_reads(&project), 2, "{:?}", project.registry.lines());

        // Other layers on the same base.
        project.wheel("demo", TAG, &[(MODULE, object.uses("gone").to_bytes())]);
        project.succeed(&["lock", CELL, "--upgrade"]).await;
        project.registry.clear_log();
        let again = project.succeed(&["--push"]).await;
        assert!(!again.contains(reading), "{again}");
        assert!(again.contains("1 ELF files fit the base, `alpine 3.24.1` on musl, "), "{again}");
        assert_eq!(layer_reads(&project), 0, "{:?}", project.registry.lines());

        // Damaged records heal.
        for kind in ["gate", "inventory-3"] {
            let records = project.path(format!("home/.cache/assemble/keyed/{kind}"));
            for record in fs_err::read_dir(records).unwrap() {
                fs_err::write(record.unwrap().path(), "damaged").unwrap();
            }
        }
        let healed = project.succeed(&["--push"]).await;
        assert!(healed.contains("1 ELF files fit the base, `alpine 3.24.1` on musl, "), "{healed}");
    }
}

/// Without the network there is no verdict on a base that was never read, and so no image.
#[tokio::test(flavor = "multi_thread")]
async fn a_base_that_cannot_be_read_is_no_base_that_fits() {
    let project = Project::new(&["linux/amd64"], "").await;
    project.serve_base(&base());
    project.wheel("demo", "py3-none-any", &[("demo.py", Vec::new())]);
    project.succeed(&["new", CELL]).await;
    project.succeed(&["plan", CELL]).await;
    let output = project.run(&[CELL, "--offline", "-o", "image.tar"]).await;
    let said = text(&output);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("could not fetch the layers of "), "{said}");
    assert!(said.contains("is needed, but the network is not to be used"), "{said}");
    assert!(!project.path("image.tar").exists());
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
    assert!(said.contains("is `alpine 3.19.1` on musl"), "{said}");
    assert!(!project.path("image.tar").exists());
}

/// As `pip check` would say it in the container, for a lock that somebody edited.
#[tokio::test(flavor = "multi_thread")]
async fn distributions_that_do_not_satisfy_each_other_are_not_published() {
    let metadata = "Metadata-Version: 2.1\nName: demo\nVersion: 1.0\nRequires-Dist: other>=1\n\
                    Requires-Dist: never; python_version < '3.13'\n";
    let demo = [("demo-1.0.dist-info/METADATA", metadata.as_bytes().to_vec())];
    let dropped = "[[override]]\ndrop = \"other\"\nreason = \"it is never imported\"\n";
    for (more, expected) in [
        ("", Ok("links are true, requirements are met\n")),
        (dropped, Ok("links are true, requirements are met but those of overridden other\n")),
        (
            "",
            Err("1 requirement of the installed distributions is not met\n  demo 1.0: \
                 `/usr/local/lib/python3.13/site-packages/demo-1.0.dist-info/METADATA` requires \
                 `other`, which is not installed"),
        ),
    ] {
        let project = Project::new(&["linux/amd64"], more).await;
        project.serve_base(&base());
        project.wheel("demo", "py3-none-any", &demo);
        project.wheel("other", "py3-none-any", &[("other.py", Vec::new())]);
        project.succeed(&["new", CELL]).await;
        if expected.is_err() {
            let path = format!("matrix/{CELL}/lock.toml");
            let lock = fs_err::read_to_string(project.path(&path)).unwrap();
            let end = lock.find("[[distribution]]\nname = \"other\"").unwrap();
            project.write(&path, &lock[..end]);
        }
        let output = project.run(&["--push"]).await;
        let said = text(&output);
        assert_eq!(output.status.code(), Some(if expected.is_ok() { 0 } else { 3 }), "{said}");
        assert!(said.contains(expected.unwrap_or_else(|problem| problem)), "{said}");
        assert_eq!(project.registry.tags("demo").is_empty(), expected.is_err(), "{said}");
        // The label tells those who check the image later.
        if more == dropped {
            let name = format!("{}/demo:1.0-python3.13-alpine3.24", project.registry.address());
            let said = project.succeed(&["check", &name]).await;
            assert!(said.contains("are met but those of overridden other"), "{said}");
        }
        let output = project.run(&["--push", "--no-check"]).await;
        assert!(output.status.success(), "{}", text(&output));
    }
}
