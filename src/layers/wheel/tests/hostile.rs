//! Attacks, by name. Each is refused before anything is placed.

use super::*;
use crate::error::{Failure as _, Kind};

/// The whole chain of messages, and its kind.
#[track_caller]
fn refused(wheel: &Wheel, expected: &str) {
    refused_bytes(&wheel.pack(), &wheel.file, expected);
}

#[track_caller]
fn refused_bytes(bytes: &[u8], file: &WheelFile, expected: &str) {
    let error =
        install(bytes, file, &Scheme::for_base((3, 13)), &Treatment::default()).unwrap_err();
    let mut text = String::new();
    let mut source: Option<&dyn std::error::Error> = Some(&error);
    while let Some(error) = source {
        if !text.is_empty() {
            text.push_str(": ");
        }
        text.push_str(&error.to_string());
        source = error.source();
    }
    let expected = format!("`{}` is refused: {expected}", file.file_name);
    assert!(text.starts_with(&expected), "{text}\n{expected}");
    assert_eq!(error.kind(), Kind::Integrity, "{text}");
}

#[test]
fn paths_that_leave_or_hide() {
    for name in [
        "../evil.py",
        "demo/../../evil.py",
        "/etc/passwd",
        "demo\\evil.py",
        "demo//evil.py",
        "./evil.py",
        "demo/evil\0.py",
        "demo/evil\n.py",
        "C:\\evil.py",
        "demo/.wh.__init__.py",
        ".wh..wh..opq",
        "demo/../",
        "/",
        "Demo_Pkg-1.0.data/data/../../etc/passwd",
        "Demo_Pkg-1.0.data/scripts/../../../etc/passwd",
    ] {
        let wheel = Wheel::demo().with(name, b"");
        refused(&wheel, &format!("its entry `{name}` is no plain relative path"));
    }
}

#[test]
fn links_and_devices() {
    for mode in [0o120_777, 0o020_666, 0o060_666, 0o010_644, 0o140_755, 0o040_755] {
        let wheel = Wheel::demo()
            .with("demo/link", b"/etc/passwd")
            .but("demo/link", |entry| entry.mode = mode);
        refused(&wheel, &format!("its entry `demo/link` is no regular file: mode {mode:#o}"));
    }
    let file_as_folder =
        Wheel::demo().with("demo/x/", b"").but("demo/x/", |entry| entry.mode = 0o100_644);
    refused(&file_as_folder, "its entry `demo/x/` is no regular file: mode 0o100644");
    let folder_with_bytes =
        Wheel::demo().with("demo/x/", b"bytes").but("demo/x/", |entry| entry.mode = 0);
    refused(&folder_with_bytes, "its entry `demo/x/` is a folder that holds bytes");
}

#[test]
fn encrypted() {
    let wheel = Wheel::demo().but("demo/__init__.py", |entry| entry.flags = 1);
    refused(&wheel, "its entry `demo/__init__.py` is encrypted");
}

#[test]
fn archives_that_two_readers_read_differently() {
    let ambiguous = "its zip structure is broken or ambiguous: ";
    let mut twice = Wheel::demo();
    twice.entries.push(ZipEntry::new("demo/__init__.py", b"evil\n"));
    refused(&twice, ambiguous);
    let two_names = Wheel::demo().but("demo/__init__.py", |entry| {
        entry.local_name = b"demo/__evil__.py".into();
    });
    refused(&two_names, ambiguous);
    let unlisted = Wheel::demo().with("evil.py", b"").but("evil.py", |entry| entry.listed = false);
    refused(&unlisted, ambiguous);
    refused_bytes(b"not a zip", &Wheel::demo().file, ambiguous);
    refused_bytes(b"", &Wheel::demo().file, ambiguous);
}

#[test]
fn bytes_around_the_archive() {
    let file = Wheel::demo().file;
    let good = Wheel::demo().pack();
    let before = [b"#!/bin/sh\nexit\n", &good[..]].concat();
    refused_bytes(&before, &file, "it has bytes before the zip archive");
    let behind = [&good[..], b"more"].concat();
    refused_bytes(&behind, &file, "it has bytes behind the zip archive");
    // The other archive lies in a comment of the first.
    let mut with_comment = good.clone();
    let length = u16::try_from(good.len()).unwrap().to_le_bytes();
    let end = with_comment.len();
    with_comment[end - 2..].copy_from_slice(&length);
    let nested = [&with_comment[..], &good[..]].concat();
    let error =
        install(&nested, &file, &Scheme::for_base((3, 13)), &Treatment::default()).unwrap_err();
    assert_eq!(error.kind(), Kind::Integrity);
}

#[test]
fn zip_bomb() {
    let zeros = vec![0; 80 << 20];
    let bomb =
        Wheel::demo().with("demo/zeros", &zeros).but("demo/zeros", |entry| entry.deflate = true);
    refused(&bomb, "it unpacks to 83");
    // Says it is small, and is not.
    let liar = Wheel::demo().with("demo/zeros", &zeros[..4096]).but("demo/zeros", |entry| {
        entry.deflate = true;
        entry.declared = 4095;
    });
    refused(&liar, "its entry `demo/zeros` ");
    // Says it is large, and is not.
    let boaster = Wheel::demo().with("demo/zeros", &zeros[..4096]).but("demo/zeros", |entry| {
        entry.deflate = true;
        entry.declared = 4097;
    });
    refused(
        &boaster,
        "its entry `demo/zeros` has another length than declared: expected 4097, found 4096",
    );
    // More than 2 GiB in all, though nothing is there.
    let oversized =
        Wheel::demo().with("demo/zeros", b"").but("demo/zeros", |entry| entry.declared = u32::MAX);
    refused(&oversized, "it unpacks to 429");
}

#[test]
fn damaged_bytes() {
    let mut bytes = Wheel::demo().pack();
    let at = bytes.windows(5).position(|part| part == b"x = 1").unwrap();
    bytes[at] ^= 1;
    refused_bytes(
        &bytes,
        &Wheel::demo().file,
        "its entry `demo/__init__.py` cannot be unpacked: Invalid checksum",
    );
}

#[test]
fn record_that_does_not_match() {
    let file = "demo/__init__.py";
    let hash = Hash::of(b"x = 1\n");
    let other = Hash::of(b"");
    let good = {
        let members = members::read(on_disk(&Wheel::demo().pack()), None, 1).unwrap();
        let record = members["Demo_Pkg-1.0.dist-info/RECORD"].content.read().unwrap();
        String::from_utf8(record.to_vec()).unwrap()
    };
    let row = format!("{file},{hash},6\n");
    assert!(good.contains(&row));
    for (changed, message) in [
        (good.replace(&row, ""), format!("its `{file}` is not in RECORD with a hash")),
        (
            good.replace(&row, &format!("{file},,\n")),
            format!("its `{file}` is not in RECORD with a hash"),
        ),
        (
            good.replace(&row, &format!("{file},{other},6\n")),
            format!("its `{file}` does not match RECORD: expected {other}, found {hash}"),
        ),
        (
            good.replace(&row, &format!("{file},{hash},7\n")),
            format!("its `{file}` does not match RECORD: expected 7 bytes, found 6 bytes"),
        ),
        (
            good.replace(&row, &format!("{file},md5=xx,6\n")),
            format!("its RECORD cannot be used: no hash that can be used for `{file}`"),
        ),
        (
            format!("{good}gone.py,{other},0\n"),
            "its RECORD lists `gone.py`, which is not there".into(),
        ),
    ] {
        let wheel = Wheel { record: Some(changed), ..Wheel::demo() };
        refused(&wheel, &message);
    }
}

#[test]
fn another_distribution_than_the_lock_says() {
    let expected = "expected `demo-pkg 1.0`";
    let mut renamed = Wheel::demo();
    renamed.file.file_name = "evil-1.0-py3-none-any.whl".into();
    refused(&renamed, &format!("its file name says `evil-1.0-py3-none-any.whl`, {expected}"));
    let mut newer = Wheel::demo();
    newer.file.version = Version::from_str("2.0").unwrap();
    newer.file.file_name = "demo_pkg-2.0-py3-none-any.whl".into();
    refused(&newer, "its `.dist-info` folder says `Demo_Pkg 1.0`, expected `demo-pkg 2.0`");
    let metadata = Wheel::demo().with(
        "Demo_Pkg-1.0.dist-info/METADATA",
        b"Metadata-Version: 2.1\nName: evil\nVersion: 1.0\n",
    );
    refused(&metadata, &format!("its METADATA says `evil 1.0`, {expected}"));
    let two = Wheel::demo().with("evil-1.0.dist-info/METADATA", b"");
    refused(
        &two,
        "it must have one `.dist-info` folder, and has `Demo_Pkg-1.0.dist-info`, `evil-1.0.dist-info`",
    );
    let wheel = Wheel::demo();
    refused_bytes(
        &zip(&[ZipEntry::new("a.py", b"")]),
        &wheel.file,
        "it must have one `.dist-info` folder, and has none",
    );
}

#[test]
fn files_of_dist_info_that_are_missing_or_wrong() {
    for file in ["METADATA", "WHEEL"] {
        let path = format!("Demo_Pkg-1.0.dist-info/{file}");
        let mut wheel = Wheel::demo();
        wheel.entries.retain(|entry| entry.name != path.as_bytes());
        refused(&wheel, &format!("it has no `{path}`"));
    }
    let wheel = Wheel::demo();
    refused_bytes(&zip(&wheel.entries), &wheel.file, "it has no `Demo_Pkg-1.0.dist-info/RECORD`");
    for (text, field) in [
        ("Root-Is-Purelib: true\n", "Wheel-Version"),
        ("Wheel-Version: 1.0\n", "Root-Is-Purelib"),
        ("Wheel-Version: 1.0\nRoot-Is-Purelib: 1\n", "Root-Is-Purelib"),
    ] {
        let wheel = Wheel::demo().with("Demo_Pkg-1.0.dist-info/WHEEL", text.as_bytes());
        refused(&wheel, &format!("its WHEEL file has no valid `{field}`"));
    }
}

#[test]
fn places_that_belong_to_another() {
    for (entry, message) in [
        (
            "Demo_Pkg-1.0.data/scripts/python3.13",
            "it would write `/usr/local/bin/python3.13`, the base's interpreter",
        ),
        (
            "Demo_Pkg-1.0.data/data/bin/python",
            "it would write `/usr/local/bin/python`, the base's interpreter",
        ),
        (
            "Demo_Pkg-1.0.data/purelib/pip-26.3.dist-info/RECORD",
            "it would write `/usr/local/lib/python3.13/site-packages/pip-26.3.dist-info/RECORD`, another distribution's records",
        ),
        (
            "Demo_Pkg-1.0.data/data/lib/python3.13/site-packages/pip-26.3.dist-info/RECORD",
            "it would write `/usr/local/lib/python3.13/site-packages/pip-26.3.dist-info/RECORD`, another distribution's records",
        ),
        (
            "Demo_Pkg-1.0.data/etc/passwd",
            "its `Demo_Pkg-1.0.data/etc/passwd` belongs to no installation scheme",
        ),
        (
            "Demo_Pkg-1.0.data/purelib",
            "its `Demo_Pkg-1.0.data/purelib` belongs to no installation scheme",
        ),
        (
            "other-1.0.data/purelib/x.py",
            "its `other-1.0.data/purelib/x.py` belongs to no installation scheme",
        ),
        (
            "Demo_Pkg-1.0.data/purelib/demo/__init__.py",
            "its files get into each other's way: two things lie at `/usr/local/lib/python3.13/site-packages/demo/__init__.py`",
        ),
        (
            "Demo_Pkg-1.0.data/purelib/Demo_Pkg-1.0.dist-info/RECORD",
            "its files get into each other's way: two things lie at",
        ),
        (
            "Demo_Pkg-1.0.data/purelib/demo",
            "its files get into each other's way: two things lie at",
        ),
    ] {
        refused(&Wheel::demo().with(entry, b"evil"), message);
    }
    let launcher = Wheel::demo().with(
        "Demo_Pkg-1.0.dist-info/entry_points.txt",
        b"[console_scripts]\npython3 = demo:main\n",
    );
    refused(&launcher, "it would write `/usr/local/bin/python3`, the base's interpreter");
}

#[test]
fn what_only_a_newer_installer_could_do_is_unsatisfiable() {
    for (path, text, message) in [
        (
            "WHEEL",
            "Wheel-Version: 2.0\nRoot-Is-Purelib: true\n",
            "its Wheel-Version is 2.0, and only 1.x is known",
        ),
        (
            "entry_points.txt",
            "[console_scripts]\nx = os.system('evil'):main\n",
            "its entry_points.txt cannot be used",
        ),
    ] {
        let wheel = Wheel::demo().with(&format!("Demo_Pkg-1.0.dist-info/{path}"), text.as_bytes());
        let error = wheel.install(&[]).unwrap_err();
        assert_eq!(error.kind(), Kind::Unsatisfiable);
        let source = std::error::Error::source(&error).unwrap();
        assert_eq!(source.to_string(), message);
    }
}
