//! What a good wheel becomes.

use super::*;

fn listing(tree: &Tree) -> Vec<String> {
    tree.iter().map(|(path, entry)| format!("{:o} {path}", entry.mode)).collect()
}

fn text(tree: &Tree, path: &str) -> String {
    let path = ContainerPath::parse(path).unwrap();
    match &tree.get(&path).unwrap().node {
        Node::File(bytes) => String::from_utf8(bytes.to_vec()).unwrap(),
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
            let Node::File(bytes) = &entry.node else { panic!("{path}") };
            let row = if path.to_string() == record_path { Row::default() } else { Row::of(bytes) };
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
    let members = members::read(&packed).unwrap();
    let record = &members["Demo_Pkg-1.0.dist-info/RECORD"].bytes;
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
