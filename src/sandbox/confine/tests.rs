//! What a confined folder lets through.

use tempfile::TempDir;

use super::*;

const LIMITS: Limits = Limits { entries: 100, bytes: 100 };

fn path(name: &str) -> EntryPath {
    EntryPath::parse(name.as_bytes()).unwrap()
}

fn folder() -> (TempDir, ConfinedFolder) {
    let outer = TempDir::new().unwrap();
    fs::create_dir(outer.path().join("in")).unwrap();
    fs::write(outer.path().join("secret"), "outside").unwrap();
    let folder = ConfinedFolder::open(&outer.path().join("in"), LIMITS).unwrap();
    (outer, folder)
}

#[test]
fn names() {
    for (name, shown) in [
        ("./a//b/", "a/b"),
        ("/etc/passwd", "etc/passwd"),
        ("", ""),
        ("./", ""),
        ("a/..b/...", "a/..b/..."),
    ] {
        assert_eq!(path(name).to_string(), shown);
    }
    for bad in ["..", "a/../b", "../x", "/..", "a\0b"] {
        assert!(EntryPath::parse(bad.as_bytes()).is_err(), "{bad:?}");
    }
}

#[test]
fn links_on_the_way_stay_inside() {
    let (outer, mut folder) = folder();
    folder.directory(&path("usr/lib"), 0o755).unwrap();
    folder.symlink(&path("lib"), b"usr/lib").unwrap();
    folder.symlink(&path("lib64"), b"/usr/lib").unwrap();
    folder.symlink(&path("usr/up"), b"../usr/./lib").unwrap();
    for name in ["lib/a", "lib64/b", "usr/up/c", "lib/new/d"] {
        folder.file(&path(name), 0o644, None, &mut &b"x"[..]).unwrap();
    }
    let mut found: Vec<_> = fs::read_dir(outer.path().join("in/usr/lib"))
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    found.sort();
    assert_eq!(found, ["a", "b", "c", "new"]);
}

#[test]
fn links_that_leave_are_refused() {
    let (outer, mut folder) = folder();
    let out = outer.path().to_str().unwrap().as_bytes().to_vec();
    folder.symlink(&path("up"), b"..").unwrap();
    folder.symlink(&path("deep"), b"a/../../..").unwrap();
    folder.symlink(&path("host"), &out).unwrap();
    folder.symlink(&path("loop"), b"loop").unwrap();
    folder.symlink(&path("nowhere"), b"missing").unwrap();
    for name in ["up/x", "deep/x", "host/x", "loop/x", "nowhere/x"] {
        assert!(
            matches!(
                folder.file(&path(name), 0o644, None, &mut &b"x"[..]),
                Err(Error::Link { .. })
            ),
            "{name}"
        );
    }
    // A file may replace a link; it never goes through it.
    folder.symlink(&path("s"), b"../secret").unwrap();
    folder.file(&path("s"), 0o644, None, &mut &b"x"[..]).unwrap();
    for target in ["up/secret", "secret", "host/secret", ""] {
        assert!(
            matches!(folder.hard_link(&path("hard"), &path(target)), Err(Error::Link { .. })),
            "{target}"
        );
    }
    assert_eq!(fs::read_to_string(outer.path().join("secret")).unwrap(), "outside");
    assert_eq!(fs::read_dir(outer.path()).unwrap().count(), 2);
}

#[test]
fn bits_and_limits() {
    let (outer, mut folder) = folder();
    folder.file(&path("suid"), 0o4755, Some(12), &mut &b"x"[..]).unwrap();
    folder.file(&path("dark"), 0o000, None, &mut &b"x"[..]).unwrap();
    folder.directory(&path("shut"), 0o1555).unwrap();
    let mode = |name: &str| {
        fs::symlink_metadata(outer.path().join("in").join(name)).unwrap().permissions().mode()
            & 0o7777
    };
    assert_eq!(mode("suid"), 0o755);
    assert_eq!(mode("dark"), 0o400);
    assert_eq!(mode("shut"), 0o755);
    let big = folder.file(&path("big"), 0o644, None, &mut io::repeat(0));
    assert!(matches!(big, Err(Error::TooLarge { what: "bytes", .. })));
    folder.bytes = 0;
    let mut last = Ok(());
    for n in 0..=LIMITS.entries {
        last = folder.directory(&path(&n.to_string()), 0o755);
    }
    assert!(matches!(last, Err(Error::TooLarge { what: "entries", .. })));
}

#[test]
fn resolves_with_the_root_as_slash() {
    let (outer, mut folder) = folder();
    folder.directory(&path("usr/bin"), 0o755).unwrap();
    folder.file(&path("usr/bin/p"), 0o755, None, &mut &b"x"[..]).unwrap();
    folder.symlink(&path("bin"), b"/usr/bin").unwrap();
    folder.symlink(&path("usr/bin/q"), b"../../../bin/p").unwrap();
    let root = outer.path().join("in");
    for name in ["/usr/bin/p", "/bin/p", "/bin/q", "/../bin/q"] {
        assert_eq!(resolve(&root, Path::new(name)).unwrap(), root.join("usr/bin/p"));
    }
    assert!(resolve(&root, Path::new("/bin/none")).is_err());
}
