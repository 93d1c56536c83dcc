//! Each untruth of the files, one at a time.

use std::sync::Arc;

use super::*;
use crate::gate::inventory::File;
use crate::python::record::Hash;

const SITE: &str = "usr/local/lib/python3.13/site-packages";

fn file(path: &str, text: &str, mode: u32) -> (String, Node) {
    (path.to_owned(), Node::File(Arc::new(File::made(path, text.as_bytes(), mode))))
}

fn link(path: &str, target: &str) -> (String, Node) {
    (path.to_owned(), Node::Link(target.to_owned()))
}

/// A distribution with one module, one command and a RECORD; `change` may spoil it.
fn image(change: impl FnOnce(&mut Vec<(String, Node)>)) -> Inventory {
    let module = "def main(): pass\n";
    let script = "#!/usr/local/bin/python3.13\n";
    let entry_points = "[console_scripts]\ndemo = demo.cli:main\n";
    let row =
        |path: &str, text: &str| format!("{path},{},{}\n", Hash::of(text.as_bytes()), text.len());
    let record = row("demo/__init__.py", module)
        + &row("demo/cli.py", module)
        + &row("../../../bin/demo", script)
        + &row("demo-1.dist-info/entry_points.txt", entry_points)
        + "demo-1.dist-info/RECORD,,\n";
    let mut nodes = vec![
        file(&format!("{SITE}/demo/__init__.py"), module, 0o644),
        file(&format!("{SITE}/demo/cli.py"), module, 0o644),
        file("usr/local/bin/demo", script, 0o755),
        file(&format!("{SITE}/demo-1.dist-info/entry_points.txt"), entry_points, 0o644),
        file(&format!("{SITE}/demo-1.dist-info/RECORD"), &record, 0o644),
    ];
    change(&mut nodes);
    Inventory::made(nodes)
}

fn base() -> Inventory {
    Inventory::made([
        file("usr/local/bin/python3.13", "", 0o755),
        file("bin/busybox", "", 0o755),
        link("bin/sh", "/bin/busybox"),
        link("usr/bin/env", "/bin/busybox"),
    ])
}

fn problems(ours: &Inventory) -> Vec<String> {
    check(&Stack::of(ours, &base())).iter().map(ToString::to_string).collect()
}

#[test]
fn a_true_image_has_no_findings() {
    let ours = image(|nodes| {
        nodes.extend([
            link("usr/local/bin/again", "demo"),
            link("usr/local/bin/shell", "/bin/sh"),
            file("usr/local/bin/start", "#!/usr/bin/env sh\n", 0o755),
            file("etc/data", "#!/not/run", 0o644),
        ]);
    });
    assert_eq!(problems(&ours), Vec::<String>::new());
}

#[test]
fn each_untruth_is_found() {
    type Change = fn(&mut Vec<(String, Node)>);
    let cases: [(Change, &str); 9] = [
        (
            |nodes| drop(nodes.remove(0)),
            "demo 1: `/usr/local/lib/python3.13/site-packages/demo/__init__.py` is in RECORD and \
             not in the layers",
        ),
        (
            |nodes| nodes[0] = file(&nodes[0].0.clone(), "def main(): pasT\n", 0o644),
            "demo 1: `/usr/local/lib/python3.13/site-packages/demo/__init__.py` has another hash \
             than RECORD says",
        ),
        (
            |nodes| nodes[0] = file(&nodes[0].0.clone(), "", 0o644),
            "demo 1: `/usr/local/lib/python3.13/site-packages/demo/__init__.py` has 0 bytes, and \
             RECORD says otherwise",
        ),
        (
            |nodes| nodes.push(file(&format!("{SITE}/stray.py"), "", 0o644)),
            "a layer's own file: `/usr/local/lib/python3.13/site-packages/stray.py` is in no RECORD",
        ),
        (
            |nodes| nodes.push(file("usr/bin/x", "#!python\n", 0o755)),
            "a layer's own file: `/usr/bin/x` has the interpreter `python`, which is no absolute path",
        ),
        (
            |nodes| nodes.push(file("usr/bin/x", "#!/bin/bash -e\n", 0o755)),
            "a layer's own file: `/usr/bin/x` has the interpreter `/bin/bash`, which is not in the \
             image",
        ),
        (
            |nodes| nodes.push(file("usr/bin/x", "#!/usr/bin/env -S bash -e\n", 0o755)),
            "a layer's own file: `/usr/bin/x` has the interpreter `bash`, which is on no PATH of \
             the image",
        ),
        (
            |nodes| nodes.push(link("usr/bin/x", "../lib/gone")),
            "a layer's own file: `/usr/bin/x` points to `../lib/gone`, which is not in the image",
        ),
        (
            |nodes| drop(nodes.pop()),
            "demo 1: `/usr/local/lib/python3.13/site-packages/demo-1.dist-info/RECORD` cannot be \
             used: there is none",
        ),
    ];
    for (change, expected) in cases {
        let found = problems(&image(change));
        assert!(found.iter().any(|found| found == expected), "{expected}: {found:#?}");
    }
}

#[test]
fn a_command_needs_its_module() {
    let ours = image(|nodes| {
        let path = format!("{SITE}/demo-1.dist-info/entry_points.txt");
        nodes[3] =
            file(&path, "[console_scripts]\nd = demo.gone:main\njson = json.tool:main\n", 0o644);
    });
    let found = problems(&ours);
    let expected = "demo 1: `/usr/local/lib/python3.13/site-packages/demo-1.dist-info/entry_points.txt` \
                    has the command `d` of `demo.gone`, which is no module";
    assert!(found.iter().any(|found| found == expected), "{found:#?}");
    assert!(!found.iter().any(|found| found.contains("json")), "{found:#?}");
}
