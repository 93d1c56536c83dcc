//! Each way an ELF file cannot fit, with objects made for it.

use std::sync::Arc;

use super::*;
use crate::gate::fixture::Object;
use crate::gate::inventory::{File, Node};

const SITE: &str = "usr/local/lib/python3.13/site-packages";

fn node(path: &str, bytes: &[u8]) -> (String, Node) {
    (path.to_owned(), Node::File(Arc::new(File::made(path, bytes, 0o755))))
}

fn check(ours: &Inventory, base: &Inventory, target: &Target) -> Verdict {
    super::check(&Stack::of(ours, base), target, 2)
}

fn target(os: &str, platform: &str) -> Target {
    Target::new("3.13", os, &platform.parse().unwrap()).unwrap()
}

/// One module of the distribution `demo 1.0` and its other files.
fn ours(module: &str, object: &Object, others: &[(&str, &Object)]) -> Inventory {
    let mut rows = vec![format!("{module},,")];
    let mut nodes = vec![node(&format!("{SITE}/{module}"), &object.to_bytes())];
    for (path, object) in others {
        rows.push(format!("{path},,"));
        nodes.push(node(&format!("{SITE}/{path}"), &object.to_bytes()));
    }
    nodes.push(node(&format!("{SITE}/demo-1.0.dist-info/RECORD"), rows.join("\n").as_bytes()));
    Inventory::made(nodes)
}

fn musl() -> Inventory {
    Inventory::made([
        node("lib/ld-musl-x86_64.so.1", &Object::of("x86_64").to_bytes()),
        node("usr/lib/libz.so.1", &Object::of("x86_64").to_bytes()),
        node(
            "usr/local/lib/python3.13/lib-dynload/math.cpython-313-x86_64-linux-musl.so",
            &Object::of("x86_64").to_bytes(),
        ),
    ])
}

fn glibc() -> Inventory {
    let libc = Object::of("x86_64").defines("libc.so.6").defines("GLIBC_2.2.5");
    Inventory::made([
        node("lib/x86_64-linux-gnu/libc.so.6", &libc.defines("GLIBC_2.36").to_bytes()),
        node("lib64/ld-linux-x86-64.so.2", &Object::of("x86_64").to_bytes()),
    ])
}

const MODULE: &str = "demo/_c.cpython-313-x86_64-linux-musl.so";
const GNU_MODULE: &str = "demo/_c.cpython-313-x86_64-linux-gnu.so";

#[test]
fn each_misfit_is_found() {
    let own = || Object::of("x86_64").needs("libc.musl-x86_64.so.1");
    let gnu = || Object::of("x86_64").needs("libc.so.6");
    let bundled = || own().needs("libfoo-1.so").runs_from("$ORIGIN/../demo.libs");
    for (what, os, module, object, expected) in [
        ("a fitting module", "alpine3.24", MODULE, own(), None),
        ("the stable ABI", "alpine3.24", "demo/_c.abi3.so", own(), None),
        ("no tag", "alpine3.24", "demo/libdemo.so", own(), None),
        (
            "a manylinux wheel",
            "alpine3.24",
            "demo/_c.abi3.so",
            gnu().version("libc.so.6", "GLIBC_2.17"),
            Some("needs `libc.so.6` of glibc, and the base has musl"),
        ),
        (
            "a manylinux module's name",
            "alpine3.24",
            GNU_MODULE,
            own(),
            Some(
                "is an extension module for `cpython-313-x86_64-linux-gnu`: python 3.13 of the \
                 base imports `cpython-313-x86_64-linux-musl`",
            ),
        ),
        (
            "another Python",
            "alpine3.24",
            "demo/_c.cpython-312-x86_64-linux-musl.so",
            own(),
            Some(
                "is an extension module for `cpython-312-x86_64-linux-musl`: python 3.13 of the \
                 base imports `cpython-313-x86_64-linux-musl`",
            ),
        ),
        (
            "another machine",
            "alpine3.24",
            MODULE,
            Object::of("aarch64").needs("libc.musl-aarch64.so.1"),
            Some("is made for aarch64, not for x86_64"),
        ),
        (
            "a missing library",
            "alpine3.24",
            MODULE,
            own().needs("libfoo.so.3"),
            Some("needs `libfoo.so.3`, which is neither in the layers nor in the base"),
        ),
        (
            "a bundled library that is not there",
            "alpine3.24",
            MODULE,
            bundled(),
            Some("needs `libfoo-1.so`, which is neither in the layers nor in the base"),
        ),
        (
            "a program of glibc's",
            "alpine3.24",
            "demo/bin/tool",
            Object::of("x86_64").interpreter("/lib64/ld-linux-x86-64.so.2"),
            Some("asks for the loader `/lib64/ld-linux-x86-64.so.2`, which is not in the image"),
        ),
        (
            "a program of musl's",
            "alpine3.24",
            "demo/bin/tool",
            own().interpreter("/lib/ld-musl-x86_64.so.1"),
            None,
        ),
        (
            "glibc on glibc",
            "slim-bookworm",
            GNU_MODULE,
            gnu().version("libc.so.6", "GLIBC_2.36"),
            None,
        ),
        (
            "musl on glibc",
            "slim-bookworm",
            "demo/_c.abi3.so",
            own(),
            Some("needs `libc.musl-x86_64.so.1` of musl, and the base has glibc"),
        ),
    ] {
        let target = target(os, "linux/amd64");
        let ours = ours(module, &object, &[]);
        let base = if os.starts_with("alpine") { musl() } else { glibc() };
        let verdict = check(&ours, &base, &target);
        let problems: Vec<_> = verdict.findings.iter().map(|f| f.problem.as_str()).collect();
        assert_eq!(problems, expected.into_iter().collect::<Vec<_>>(), "{what}");
        for finding in &verdict.findings {
            assert_eq!(finding.owner, "demo 1.0");
            assert_eq!(finding.path, format!("/{SITE}/{module}"));
        }
    }
}

#[test]
fn too_new_symbols_of_glibc() {
    let object = Object::of("x86_64").needs("libc.so.6").version("libc.so.6", "GLIBC_2.38");
    let ours = ours(GNU_MODULE, &object, &[]);
    let target = target("bookworm", "linux/amd64");
    let without_versions = Inventory::made([node("lib/libc.so.6", b"\x7fELF of nothing")]);
    for (base, has) in [(without_versions, "glibc 2.36"), (glibc(), "`GLIBC_2.36` at most")] {
        let verdict = check(&ours, &base, &target);
        let problem = format!("needs `GLIBC_2.38` of `libc.so.6`, and the base has {has}");
        assert_eq!(verdict.findings.iter().map(|f| &f.problem).collect::<Vec<_>>(), [&problem]);
    }
}

#[test]
fn libraries_come_from_the_layers_and_the_base() {
    let target = target("alpine3.24", "linux/amd64");
    let module = Object::of("x86_64").needs("libc.musl-x86_64.so.1");
    let library = Object::of("x86_64").needs("libc.musl-x86_64.so.1");
    let bundling = module.clone().needs("libfoo-1.so").runs_from("$ORIGIN/../demo.libs");
    let whole = ours(MODULE, &bundling, &[("demo.libs/libfoo-1.so", &library)]);
    assert_eq!(check(&whole, &musl(), &target), Verdict { files: 2, ..Verdict::default() });

    let of_base = ours(MODULE, &module.clone().needs("libz.so.1"), &[]);
    assert_eq!(check(&of_base, &musl(), &target).findings, []);

    // Loaded by the distribution itself before it is needed.
    let preloaded = ours(MODULE, &module.needs("libbar.so"), &[("demo/lib/libbar.so", &library)]);
    assert_eq!(check(&preloaded, &musl(), &target).findings, []);
}

/// A base whose Python and libraries say what they have.
fn speaking() -> Inventory {
    let own = |object: Object| object.needs("libc.musl-x86_64.so.1");
    let python =
        own(Object::of("x86_64")).needs("$ORIGIN/../lib/libpython3.13.so.1.0").exports("_start");
    let libpython = own(Object::of("x86_64")).exports("PyModule_Create2");
    let libc = Object::of("x86_64").exports("memcpy").exports("strlcpy");
    Inventory::made([
        node("usr/local/bin/python3.13", &python.to_bytes()),
        node("usr/local/lib/libpython3.13.so.1.0", &libpython.to_bytes()),
        node("lib/ld-musl-x86_64.so.1", &libc.to_bytes()),
    ])
}

#[test]
fn symbols_are_those_of_the_interpreter_the_libraries_and_the_distribution() {
    let target = target("alpine3.24", "linux/amd64");
    let own = || Object::of("x86_64").needs("libc.musl-x86_64.so.1").exports("PyInit__c");
    let library = Object::of("x86_64").exports("foo");
    let others = [("demo.libs/libfoo-1.so", &library)];
    let bundling = || own().needs("libfoo-1.so").runs_from("$ORIGIN/../demo.libs");
    let python = || own().uses("PyModule_Create2").uses("memcpy");
    for (what, object, others, expected) in [
        ("of python and libc", python(), &others[..0], None),
        ("of its own library", bundling().uses("foo"), &others, None),
        ("of another file of its distribution", own().uses("foo"), &others, None),
        (
            "of nobody",
            python().uses("foo"),
            &others[..0],
            Some("needs the symbol `foo`, which neither its libraries nor the base's python have"),
        ),
        (
            "many of nobody",
            bundling().uses("a").uses("b").uses("c").uses("d").uses("memcpy"),
            &others,
            Some(
                "needs the symbols `a`, `b`, `c` and 1 more, which neither its libraries nor the \
                 base's python have",
            ),
        ),
    ] {
        let found = check(&ours(MODULE, &object, others), &speaking(), &target).findings;
        let problems: Vec<_> = found.iter().map(|finding| finding.problem.as_str()).collect();
        assert_eq!(problems, expected.into_iter().collect::<Vec<_>>(), "{what}");
        // Where the base cannot be looked into, nothing is claimed.
        let found = check(&ours(MODULE, &object, others), &musl(), &target).findings;
        assert_eq!(found, [], "{what}");
    }
}

#[test]
fn a_module_for_another_python_may_lie_beside_the_right_one() {
    let target = target("alpine3.24", "linux/amd64");
    let object = Object::of("x86_64").needs("libc.musl-x86_64.so.1");
    let other = "demo/_c.cpython-312-x86_64-linux-musl.so";
    assert_eq!(check(&ours(other, &object, &[]), &musl(), &target).findings.len(), 1);
    let both = ours(other, &object, &[(MODULE, &object)]);
    assert_eq!(check(&both, &musl(), &target).findings, []);
}

#[test]
fn old_pythons_name_modules_as_their_base_does() {
    let target = Target::new("3.8", "alpine3.11", &"linux/amd64".parse().unwrap()).unwrap();
    let object = Object::of("x86_64").needs("libc.musl-x86_64.so.1").to_bytes();
    let module = |system: &str| {
        Inventory::made([node(&format!("opt/_c.cpython-38-x86_64-linux-{system}.so"), &object)])
    };
    let base = Inventory::made([node(
        "usr/local/lib/python3.8/lib-dynload/math.cpython-38-x86_64-linux-gnu.so",
        &object,
    )]);
    assert_eq!(check(&module("gnu"), &Inventory::default(), &target).findings, []);
    assert_eq!(check(&module("musl"), &Inventory::default(), &target).findings, []);
    assert_eq!(check(&module("gnu"), &base, &target).findings.len(), 0);
    let found = check(&module("musl"), &base, &target).findings;
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].owner, "a layer's own file");
}

#[test]
fn a_file_that_only_begins_as_elf_is_damaged() {
    let ours = Inventory::made([node("opt/x", b"\x7fELF\x02\x01\x01")]);
    let found = check(&ours, &musl(), &target("alpine3.24", "linux/amd64")).findings;
    assert!(found[0].problem.starts_with("is a damaged ELF file: "), "{found:?}");
}
