//! What a good wheel becomes.

use super::*;

fn listing(tree: &Tree) -> Vec<String> {
    tree.iter().map(|(path, entry)| format!("{:o} {path}", entry.mode)).collect()
}

fn text(tree: &Tree, path: &str) -> String {
    let path = ContainerPath::parse(path).unwrap();
    match &tree.get(&path).unwrap().node {
        Node::File(content) => String::from_utf8(content.read().unwrap().to_vec()).unwrap(),
        other => panic!("{other:?}"),
    }
}

const SITE: &str = "/usr/local/lib/python3.13/site-packages";

#[test]
fn every_part_of_a_wheel_finds_its_place() {
    let mut wheel = Wheel::demo()
        .with("demo/ext.so", b"\x7fELF...")
        .with("demo/run.sh", b"#!/bin/sh\n")
        .with("demo/", b"")
        .but("demo/", |entry| entry.mode = 0o040_755)
        .but("demo/run.sh", |entry| entry.mode = 0o100_755)
        .with("Demo_Pkg-1.0.data/purelib/demo_extra.py", b"")
        .with("Demo_Pkg-1.0.data/platlib/demo_native.py", b"")
        .with("Demo_Pkg-1.0.data/headers/demo.h", b"")
        .with("Demo_Pkg-1.0.data/data/share/man/man1/demo.1", b"")
        .with("Demo_Pkg-1.0.data/scripts/demo-sh", b"#!/bin/sh\n")
        .with("Demo_Pkg-1.0.data/scripts/demo-py", b"#!python\nmain()\n")
        .with("Demo_Pkg-1.0.data/scripts/demo-script.py", b"#!python\nold()\n")
        .with("Demo_Pkg-1.0.dist-info/entry_points.txt", b"[console_scripts]\ndemo = demo:main\n")
        .with("Demo_Pkg-1.0.dist-info/INSTALLER", b"liar\n")
        .with("Demo_Pkg-1.0.dist-info/REQUESTED", b"")
        .with("Demo_Pkg-1.0.dist-info/direct_url.json", b"{}")
        .with("Demo_Pkg-1.0.dist-info/licenses/LICENSE", b"free\n");
    let (tree, installed) = wheel.install(&[]).unwrap();
    assert_eq!(
        listing(&tree),
        [
            "755 /usr/local/bin/demo",
            "755 /usr/local/bin/demo-py",
            "755 /usr/local/bin/demo-sh",
            "644 /usr/local/include/python3.13/Demo-Pkg/demo.h",
            "644 /usr/local/lib/python3.13/site-packages/Demo_Pkg-1.0.dist-info/INSTALLER",
            "644 /usr/local/lib/python3.13/site-packages/Demo_Pkg-1.0.dist-info/METADATA",
            "644 /usr/local/lib/python3.13/site-packages/Demo_Pkg-1.0.dist-info/RECORD",
            "644 /usr/local/lib/python3.13/site-packages/Demo_Pkg-1.0.dist-info/WHEEL",
            "644 /usr/local/lib/python3.13/site-packages/Demo_Pkg-1.0.dist-info/entry_points.txt",
            "644 /usr/local/lib/python3.13/site-packages/Demo_Pkg-1.0.dist-info/licenses/LICENSE",
            "644 /usr/local/lib/python3.13/site-packages/demo/__init__.py",
            "644 /usr/local/lib/python3.13/site-packages/demo/ext.so",
            "755 /usr/local/lib/python3.13/site-packages/demo/run.sh",
            "644 /usr/local/lib/python3.13/site-packages/demo_extra.py",
            "644 /usr/local/lib/python3.13/site-packages/demo_native.py",
            "644 /usr/local/share/man/man1/demo.1",
        ]
    );
    assert_eq!(text(&tree, "/usr/local/bin/demo-py"), "#!/usr/local/bin/python3.13\nmain()\n");
    assert!(text(&tree, "/usr/local/bin/demo").contains("from demo import main\n"));
    assert_eq!(text(&tree, &format!("{SITE}/Demo_Pkg-1.0.dist-info/INSTALLER")), "assemble\n");
    assert_eq!(installed.files, 16);
    assert_eq!(installed.tags, ["py2-none-any", "py3-none-any"]);
    assert!(installed.has_native);
    assert!(installed.notices.is_empty());

    wheel.file.requested = true;
    let (requested, _) = wheel.install(&[]).unwrap();
    assert_eq!(requested.len(), 17);
    let path = format!("{SITE}/Demo_Pkg-1.0.dist-info/REQUESTED");
    assert_eq!(text(&requested, &path), "");
}

#[test]
fn record_lists_exactly_what_is_installed() {
    let wheel = Wheel::demo()
        .with("Demo_Pkg-1.0.data/scripts/demo-py", b"#!python\nmain()\n")
        .with("demo/tests/a.py", b"12345")
        .with("demo/tests/b.pyx", b"123")
        .with("demo/c.pyx", b"1")
        .with("Demo_Pkg-1.0.dist-info/tests/kept.pyx", b"");
    let rules = [
        Prune::new(["**/tests"], "not needed at run time").unwrap(),
        Prune::new(["**/*.pyx"], "sources").unwrap(),
    ];
    let (tree, installed) = wheel.install(&rules).unwrap();
    assert_eq!(installed.pruned, [Pruned { files: 2, bytes: 8 }, Pruned { files: 1, bytes: 1 }]);
    assert!(!installed.has_native);
    let record_path = format!("{SITE}/Demo_Pkg-1.0.dist-info/RECORD");
    let record = text(&tree, &record_path);
    assert!(record.lines().is_sorted());
    let record = Record::parse(record.as_bytes()).unwrap();
    let root = ContainerPath::parse(SITE).unwrap();
    let expected: BTreeMap<String, Row> = tree
        .iter()
        .map(|(path, entry)| {
            let Node::File(content) = &entry.node else { panic!("{path}") };
            let bytes = content.read().unwrap();
            let row =
                if path.to_string() == record_path { Row::default() } else { Row::of(&bytes) };
            (path.relative_to(&root), row)
        })
        .collect();
    assert_eq!(record.rows, expected);
    assert!(expected.contains_key("../../../bin/demo-py"));
    assert!(expected.contains_key("Demo_Pkg-1.0.dist-info/tests/kept.pyx"));
    assert_eq!(installed.bytes_installed, tree.files().map(|(_, size)| size).sum::<u64>());
}

#[test]
fn the_root_goes_where_wheel_says() {
    let scheme = Scheme {
        platlib: ContainerPath::parse("/usr/local/lib64/python3.13/site-packages").unwrap(),
        ..Scheme::for_base((3, 13))
    };
    let wheel = Wheel::demo()
        .with(
            "Demo_Pkg-1.0.dist-info/WHEEL",
            b"Wheel-Version: 1.9\r\nRoot-Is-Purelib: False\r\n\r\n",
        )
        .with("Demo_Pkg-1.0.data/purelib/pure.py", b"");
    let (tree, installed) =
        install(&wheel.pack(), &wheel.file, &scheme, &Treatment::default()).unwrap();
    let record =
        text(&tree, "/usr/local/lib64/python3.13/site-packages/Demo_Pkg-1.0.dist-info/RECORD");
    assert!(
        record.contains("\n../../../lib/python3.13/site-packages/pure.py,sha256=")
            || record.starts_with("../../../lib/python3.13/site-packages/pure.py,sha256="),
        "{record}"
    );
    assert_eq!(
        installed.notices,
        [
            "`Demo_Pkg-1.0-py3-none-any.whl` has Wheel-Version 1.9: what is newer than 1.0 is not known"
        ]
    );
}

#[test]
fn a_prebuilt_command_gives_way_to_the_launcher_but_others_stay() {
    let wheel = Wheel::demo()
        .with("Demo_Pkg-1.0.data/scripts/demo", b"#!python\nold\n")
        .with("Demo_Pkg-1.0.data/scripts/demo.exe", b"MZ")
        .with("Demo_Pkg-1.0.data/scripts/demo2", b"#!python\n")
        .with(
            "Demo_Pkg-1.0.dist-info/entry_points.txt",
            b"[gui_scripts]\ndemo = demo:main [gui]\n",
        );
    let (tree, _) = wheel.install(&[]).unwrap();
    assert!(text(&tree, "/usr/local/bin/demo").contains("main()"));
    let path = |text| ContainerPath::parse(text).unwrap();
    assert!(tree.get(&path("/usr/local/bin/demo.exe")).is_none());
    assert!(tree.get(&path("/usr/local/bin/demo2")).is_some());
}

#[test]
fn names_that_differ_in_case_and_folders_in_record_are_fine() {
    let mut wheel = Wheel::demo()
        .with("demo/README", b"1")
        .with("demo/readme", b"2")
        .with("demo/ü.py", b"")
        .but("demo/ü.py", |entry| entry.flags = 1 << 11);
    let packed = wheel.pack();
    let (tree, _) = wheel.install(&[]).unwrap();
    assert_eq!(text(&tree, &format!("{SITE}/demo/README")), "1");
    assert_eq!(text(&tree, &format!("{SITE}/demo/ü.py")), "");
    let members = members::read(on_disk(&packed), None, 2).unwrap();
    let record = members["Demo_Pkg-1.0.dist-info/RECORD"].content.read().unwrap();
    let record = String::from_utf8(record.to_vec()).unwrap();
    wheel.record = Some(format!("demo/,,\n{record}"));
    assert!(wheel.install(&[]).is_ok());
}

#[test]
fn deflated_entries_are_unpacked() {
    let data = vec![b'a'; 1 << 20];
    let wheel = Wheel::demo().with("demo/big", &data).but("demo/big", |entry| entry.deflate = true);
    let (tree, _) = wheel.install(&[]).unwrap();
    assert_eq!(text(&tree, &format!("{SITE}/demo/big")).len(), 1 << 20);
}

#[test]
fn what_finds_no_room_aside_is_unpacked_when_it_is_used() {
    // 72 MiB, in pieces that are unpacked at once.
    let data = |number: u8| -> Vec<u8> {
        (0..4_u32 << 20).map(|n| (n / 64 % 251) as u8 ^ number).collect()
    };
    let mut wheel = Wheel::demo();
    for number in 0..18 {
        let name = format!("demo/{number}");
        wheel = wheel.with(&name, &data(number)).but(&name, |entry| entry.deflate = true);
    }
    let (tree, _) = wheel.install(&[]).unwrap();
    let is_part = |number: u8| {
        let path = ContainerPath::parse(&format!("{SITE}/demo/{number}")).unwrap();
        let Node::File(content) = &tree.get(&path).unwrap().node else { panic!("{path}") };
        assert!(content.read().unwrap() == data(number));
        content.part().is_some()
    };
    let waiting = (0..18).filter(|number| is_part(*number)).count();
    assert_eq!(waiting, 16);
}

#[test]
fn repairs_are_in_the_record() {
    use crate::recipe::python::{Launcher, Replacement, When};
    let replacement = |count| Replacement {
        path: "demo/__init__.py".into(),
        from: "x = 1\n".into(),
        to: "x = 2\n".into(),
        count,
        when: When::new(),
        reason: "test".into(),
    };
    let wheel = Wheel::demo().with(
        "Demo_Pkg-1.0.dist-info/entry_points.txt",
        b"[console_scripts]\ndemo = demo:main\nother = demo:main\n",
    );
    let treatment = Treatment {
        launchers: vec![Launcher {
            script: "demo".into(),
            before: vec!["import early".into()],
            when: When::new(),
            reason: "test".into(),
        }],
        replacements: vec![replacement(1)],
        ..Treatment::default()
    };
    let (tree, _) = wheel.treated(&treatment).unwrap();
    let module = text(&tree, &format!("{SITE}/demo/__init__.py"));
    assert_eq!(module, "x = 2\n");
    let launcher = text(&tree, "/usr/local/bin/demo");
    assert!(launcher.contains("from demo import main\nimport early\nif __name__"), "{launcher}");
    assert!(!text(&tree, "/usr/local/bin/other").contains("early"));
    let record = text(&tree, &format!("{SITE}/Demo_Pkg-1.0.dist-info/RECORD"));
    for (path, content) in [("demo/__init__.py", &module), ("../../../bin/demo", &launcher)] {
        let row = format!("{path},{},{}\n", Hash::of(content.as_bytes()), content.len());
        assert!(record.contains(&row), "{row} {record}");
    }

    let wrong = Treatment { replacements: vec![replacement(2)], ..Treatment::default() };
    let error = wheel.treated(&wrong).unwrap_err();
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert_eq!(
        source,
        "its `demo/__init__.py` has the text that is to be replaced 1 times, expected 2"
    );
    assert_eq!(crate::error::Failure::kind(&error), crate::error::Kind::Usage);
}

#[test]
fn bytecode_is_in_the_record_and_in_the_figures() {
    let wheel = Wheel::demo().with("demo/other.py", b"").with("demo/data.txt", b"");
    let rule = Prune::new(["demo/__init__.py"], "test").unwrap();
    let (_folder, store) = store();
    let laid_out = lay_out(
        on_disk(&wheel.pack()),
        &wheel.file,
        &Scheme::for_base((3, 13)),
        &Treatment::default(),
        (&store, 1),
    )
    .unwrap();
    let all = Prune::new(["**"], "test").unwrap();
    assert_eq!(laid_out.modules(&all).unwrap().len(), 2);
    let modules: Vec<_> = laid_out.modules(&rule).unwrap().into_keys().collect();
    let library = Scheme::for_base((3, 13)).purelib;
    assert_eq!(modules, [library.join("demo/__init__.py").unwrap()]);
    let path = library.join("demo/__pycache__/__init__.cpython-313.pyc").unwrap();
    let bytecode = BTreeMap::from([(path.clone(), "code".into())]);
    let (tree, installed) = laid_out.finish(&bytecode).unwrap();
    assert_eq!(tree.get(&path).unwrap().node, Node::File("code".into()));
    assert_eq!(installed.bytecode, 4);
    let record = library.join("Demo_Pkg-1.0.dist-info/RECORD").unwrap();
    let Node::File(record) = &tree.get(&record).unwrap().node else { panic!("no RECORD") };
    let row = format!("demo/__pycache__/__init__.cpython-313.pyc,{},4\n", Hash::of(b"code"));
    assert!(String::from_utf8_lossy(&record.read().unwrap()).contains(&row));
}
