//! Layers by what they do, and hostile ones by the name of the attack.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;

use tar::{EntryType, Header};
use tempfile::TempDir;

use super::*;
use crate::oci::MediaType;

/// One entry of a tar: its type, its name, and its content or link target.
type Row<'a> = (EntryType, &'a str, &'a str);

const FILE: EntryType = EntryType::Regular;
const FOLDER: EntryType = EntryType::Directory;
const SYMLINK: EntryType = EntryType::Symlink;
const LINK: EntryType = EntryType::Link;

/// A tar with names exactly as given: the writer of a library would refuse some.
fn tar(rows: &[Row<'_>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (kind, name, text) in rows {
        let is_link = matches!(*kind, EntryType::Symlink | EntryType::Link);
        let mut header = Header::new_ustar();
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(*kind);
        header.set_mode(if *kind == FOLDER { 0o1777 } else { 0o4755 });
        header.set_uid(7);
        header.set_gid(7);
        header.set_mtime(1_000_000_000);
        header.set_size(if is_link { 0 } else { text.len() as u64 });
        if is_link {
            header.as_mut_bytes()[157..157 + text.len()].copy_from_slice(text.as_bytes());
        }
        header.set_cksum();
        bytes.extend(header.as_bytes());
        if !is_link {
            bytes.extend(text.as_bytes());
            bytes.resize(bytes.len().next_multiple_of(512), 0);
        }
    }
    bytes.resize(bytes.len() + 1024, 0);
    bytes
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    writer.write_all(bytes).unwrap();
    writer.finish().unwrap()
}

struct Scene {
    folder: TempDir,
    store: Store,
}

impl Scene {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        fs::write(folder.path().join("secret"), "outside").unwrap();
        let store = Store::open(folder.path().join("cache")).unwrap();
        Self { folder, store }
    }

    fn layer(&self, tar: &[u8], blob: &[u8]) -> (Descriptor, Digest) {
        let digest = self.store.put(blob).unwrap();
        let descriptor = Descriptor::new(
            MediaType::ImageLayerGzip,
            blob.len() as u64,
            digest.to_string().parse::<oci_spec::image::Digest>().unwrap(),
        );
        (descriptor, Digest::of(tar))
    }

    fn unpack(&self, layers: &[&[Row<'_>]]) -> Result<PathBuf, Error> {
        let layers: Vec<_> = layers
            .iter()
            .map(|rows| {
                let tar = tar(rows);
                self.layer(&tar, &gzip(&tar))
            })
            .collect();
        unpack(&layers, &self.store)
    }
}

/// `type mode path [-> target | = content]`, one a line.
fn listing(root: &Path) -> String {
    use std::os::unix::fs::PermissionsExt as _;
    fn walk(root: &Path, below: &Path, out: &mut String) {
        let mut names: Vec<_> = fs::read_dir(root.join(below))
            .unwrap()
            .map(|entry| below.join(entry.unwrap().file_name()))
            .collect();
        names.sort();
        for name in names {
            let path = root.join(&name);
            let metadata = fs::symlink_metadata(&path).unwrap();
            let mode = metadata.permissions().mode() & 0o7777;
            let name_shown = name.display();
            if metadata.is_symlink() {
                let target = fs::read_link(&path).unwrap();
                writeln!(out, "l {name_shown} -> {}", target.display()).unwrap();
            } else if metadata.is_dir() {
                writeln!(out, "d {mode:o} {name_shown}").unwrap();
                walk(root, &name, out);
            } else {
                let content = fs::read_to_string(&path).unwrap();
                writeln!(out, "f {mode:o} {name_shown} = {content}").unwrap();
            }
        }
    }
    let mut out = String::new();
    walk(root, Path::new(""), &mut out);
    out
}

#[test]
fn layers_are_applied_bottom_first() {
    let scene = Scene::new();
    let root = scene
        .unpack(&[
            &[
                (FOLDER, "./", ""),
                (FOLDER, "usr/", ""),
                (FILE, "usr/lib/so.1", "one"),
                (SYMLINK, "lib", "usr/lib"),
                (SYMLINK, "usr/lib/so", "/usr/lib/so.1"),
                (LINK, "usr/lib/hard", "./lib/so.1"),
                (LINK, "usr/lib/soft", "usr/lib/so"),
                (FILE, "etc/gone", "x"),
                (FILE, "etc/kept", "x"),
                (FILE, "opt/a/b/c", "x"),
                (FILE, "swap", "a file"),
                (FILE, "/absolute", "below the root"),
            ],
            &[
                (FILE, "lib/new", "through the link"),
                (FILE, "etc/.wh.gone", ""),
                (FILE, "etc/.wh.never", ""),
                (FILE, "opt/d", "stays"),
                (FILE, "opt/.wh..wh..opq", ""),
                (FILE, "opt/e", "stays"),
                (FILE, "opt/.wh..wh.plnk", ""),
                (FOLDER, "swap", ""),
                (FILE, "swap/in", "a folder now"),
            ],
        ])
        .unwrap();
    assert_eq!(
        listing(&root),
        "\
f 755 absolute = below the root
d 755 etc
f 755 etc/kept = x
l lib -> usr/lib
d 755 opt
f 755 opt/d = stays
f 755 opt/e = stays
d 777 swap
f 755 swap/in = a folder now
d 777 usr
d 755 usr/lib
f 755 usr/lib/hard = one
f 755 usr/lib/new = through the link
l usr/lib/so -> /usr/lib/so.1
f 755 usr/lib/so.1 = one
l usr/lib/soft -> /usr/lib/so.1
"
    );
    let modified = fs::metadata(root.join("etc/kept")).unwrap().modified().unwrap();
    assert_eq!(modified.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs(), 1_000_000_000);
}

#[test]
fn whiteouts_spare_what_their_own_layer_brings() {
    let scene = Scene::new();
    let root = scene
        .unpack(&[
            &[(FILE, "a/low", "x"), (FILE, "a/sub/low", "x")],
            &[(FILE, "a/sub/high", "x"), (FILE, ".wh.a", ""), (FILE, "a/high", "x")],
        ])
        .unwrap();
    assert_eq!(listing(&root), "d 755 a\nf 755 a/high = x\nd 755 a/sub\nf 755 a/sub/high = x\n");
}

#[test]
fn hostile_tars() {
    let secret = |scene: &Scene| scene.folder.path().join("secret").display().to_string();
    let outside = secret(&Scene::new());
    let parent = Path::new(&outside).parent().unwrap().display().to_string();
    let attacks: &[(&str, &[Row<'_>])] = &[
        ("dotdot", &[(FILE, "../escaped", "x")]),
        ("dotdot inside", &[(FILE, "a/../../escaped", "x")]),
        ("dotdot folder", &[(FOLDER, "..", "")]),
        ("symlink then file", &[(SYMLINK, "s", "../../.."), (FILE, "s/escaped", "x")]),
        ("absolute symlink then file", &[(SYMLINK, "s", &parent), (FILE, "s/escaped", "x")]),
        ("symlink then folder", &[(SYMLINK, "s", "../.."), (FOLDER, "s/escaped", "")]),
        (
            "chain of symlinks",
            &[
                (FOLDER, "d", ""),
                (SYMLINK, "d/one", ".."),
                (SYMLINK, "two", "d/one/.."),
                (FILE, "two/escaped", "x"),
            ],
        ),
        ("hard link out", &[(LINK, "h", "../../../secret")]),
        ("absolute hard link out", &[(LINK, "h", &outside)]),
        ("hard link through a symlink", &[(SYMLINK, "s", "../../.."), (LINK, "h", "s/secret")]),
        ("hard link to a folder", &[(FOLDER, "d", ""), (LINK, "h", "d")]),
        ("file below a file", &[(FILE, "f", "x"), (FILE, "f/x", "x")]),
        ("whiteout of ..", &[(FILE, "a/.wh...", "")]),
        ("whiteout of .", &[(FILE, "a/.wh..", "")]),
        ("whiteout of nothing", &[(FILE, "a/.wh.", "")]),
        ("whiteout through a symlink", &[(SYMLINK, "s", "../../.."), (FILE, "s/.wh.secret", "")]),
        ("opaque through a symlink", &[(SYMLINK, "s", "../../.."), (FILE, "s/.wh..wh..opq", "")]),
        ("file without a name", &[(FILE, "./", "x")]),
        ("unknown type", &[(EntryType::new(b'Z'), "z", "x")]),
    ];
    for (attack, rows) in attacks {
        let scene = Scene::new();
        let error = scene.unpack(&[rows]).expect_err(attack);
        assert!(matches!(error, Error::Refused { .. }), "{attack}: {error:?}");
        assert_eq!(error.kind(), Kind::Integrity, "{attack}");
        assert_eq!(
            fs::read_to_string(scene.folder.path().join("secret")).unwrap(),
            "outside",
            "{attack}"
        );
        assert_eq!(fs::read_dir(scene.folder.path()).unwrap().count(), 2, "{attack}");
        for left in ["cache/tmp", "cache/trees"] {
            let left = scene.folder.path().join(left);
            // The store's own folder is there as long as it is.
            for entry in fs::read_dir(&left).unwrap() {
                let entries = fs::read_dir(entry.unwrap().path()).unwrap();
                assert_eq!(entries.count(), 0, "{attack}: {}", left.display());
            }
        }
    }
}

#[test]
fn harmless_oddities_are_survived() {
    let scene = Scene::new();
    let root = scene
        .unpack(&[&[
            (EntryType::Char, "dev/null", ""),
            (EntryType::Block, "dev/sda", ""),
            (EntryType::Fifo, "pipe", ""),
            (SYMLINK, "s", "/etc/passwd"),
            (FILE, "s", "replaces the link"),
            (FILE, "twice", "first"),
            (FILE, "twice", "second"),
            (LINK, "twice", "twice"),
        ]])
        .unwrap();
    assert_eq!(listing(&root), "f 755 s = replaces the link\nf 755 twice = second\n");
}

#[test]
fn every_compression_and_only_the_promised_bytes() {
    let tar = tar(&[(FILE, "f", "content")]);
    let other = self::tar(&[(FILE, "f", "c0ntent")]);
    let zstd = |bytes: &[u8]| {
        ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
    };
    let mut frames = zstd(&tar[..700]);
    frames.extend(b"\x51\x2a\x4d\x18\x03\x00\x00\x00abc");
    frames.extend(zstd(&tar[700..]));
    let mut members = gzip(&tar[..700]);
    members.extend(gzip(&tar[700..]));
    for blob in [tar.clone(), gzip(&tar), members, zstd(&tar), frames.clone()] {
        let scene = Scene::new();
        let root = unpack(&[scene.layer(&tar, &blob)], &scene.store).unwrap();
        assert_eq!(listing(&root), "f 755 f = content\n");
        // The second time nothing is read.
        let (descriptor, diff_id) = scene.layer(&tar, &blob);
        let digest = descriptor_digest(&descriptor).unwrap();
        fs::remove_file(scene.store.blob_path(&digest)).unwrap();
        assert_eq!(unpack(&[(descriptor, diff_id)], &scene.store).unwrap(), root);
    }
    let scene = Scene::new();
    let lie = scene.layer(&tar, &gzip(&other));
    assert!(matches!(unpack(&[lie], &scene.store), Err(Error::DiffId { .. })));
    for cut in [&gzip(&tar)[..60], &zstd(&tar)[..30], &frames[..frames.len() - 5]] {
        let cut = scene.layer(&tar, cut);
        let error = unpack(&[cut], &scene.store).unwrap_err();
        assert_eq!(error.kind(), Kind::Integrity, "{error:?}");
    }
    let (descriptor, diff_id) = scene.layer(&tar, &tar);
    let digest = descriptor_digest(&descriptor).unwrap();
    fs::write(scene.store.blob_path(&digest), "damaged").unwrap();
    assert!(matches!(
        unpack(&[(descriptor, diff_id)], &scene.store),
        Err(Error::Absent(absent)) if absent == digest
    ));
    assert_eq!(fs::read_dir(scene.store.root().join("trees")).unwrap().count(), 0);
}

#[test]
fn a_bomb_is_stopped() {
    let scene = Scene::new();
    let big = "0".repeat(100_000);
    let tar = tar(&[(FILE, "a", &big), (FILE, "b", &big)]);
    let layer = scene.layer(&tar, &gzip(&tar));
    let limits = Limits { entries: 10, bytes: 150_000 };
    let error = unpack_within(&[layer], &scene.store, limits).unwrap_err();
    assert!(matches!(
        error,
        Error::Refused { source: confine::Error::TooLarge { what: "bytes", .. }, .. }
    ));
}

#[test]
fn folders_that_lie_too_deep() {
    let scene = Scene::new();
    let deep = "d/".repeat(48);
    // Every name is short: each link stands for the way so far.
    let names: Vec<[String; 2]> =
        (0..6).map(|n| [format!("l{n}/{deep}"), format!("l{}", n + 1)]).collect();
    let mut rows = vec![(FOLDER, &*deep, ""), (SYMLINK, "l0", &*deep)];
    for [folder, link] in &names {
        rows.extend([(FOLDER, &**folder, ""), (SYMLINK, &**link, &**folder)]);
    }
    let error = scene.unpack(&[&rows]).unwrap_err();
    let Error::Refused { source, .. } = &error else { panic!("{error:?}") };
    let said = source.to_string();
    assert_eq!(said, "the archive is too large: more than 255 folders in one another");
    // What was unpacked so far could be removed: this is the only folder.
    let only = scene.store.temporary_directory().unwrap();
    assert_eq!(fs::read_dir(only.path().parent().unwrap()).unwrap().count(), 1);
}

#[test]
fn a_sparse_file() {
    let scene = Scene::new();
    let mut header = Header::new_gnu();
    header.set_path("hole").unwrap();
    header.set_mode(0o644);
    header.set_entry_type(EntryType::GNUSparse);
    header.set_size(0);
    let gnu = header.as_gnu_mut().unwrap();
    gnu.set_real_size(8 << 30);
    gnu.sparse[0].set_offset(8 << 30);
    gnu.sparse[0].set_length(0);
    header.set_cksum();
    let mut tar = header.as_bytes().to_vec();
    tar.resize(tar.len() + 1024, 0);
    let error = unpack(&[scene.layer(&tar, &gzip(&tar))], &scene.store).unwrap_err();
    let Error::Refused { source, .. } = &error else { panic!("{error:?}") };
    assert!(matches!(source, confine::Error::EntryKind { .. }), "{source:?}");
}

#[test]
fn headers_that_are_too_long() {
    let scene = Scene::new();
    for kind in [b'L', b'K', b'x'] {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::new(kind));
        header.set_size(4 << 20);
        header.set_cksum();
        let mut tar = header.as_bytes().to_vec();
        tar.resize(tar.len() + (4 << 20), b'n');
        let layer = scene.layer(&tar, &gzip(&tar));
        let error = unpack(&[layer], &scene.store).unwrap_err();
        let Error::Damaged { source, .. } = &error else { panic!("{error:?}") };
        assert_eq!(source.to_string(), "an entry's headers have more than 1048576 bytes");
    }
}

#[test]
fn a_damaged_tree_is_found_and_made_anew() {
    let scene = Scene::new();
    let tar = tar(&[
        (FOLDER, "lib", ""),
        (FILE, "lib/os.py", "x = 1"),
        (FILE, "lib/re.py", ""),
        (SYMLINK, "python", "lib/os.py"),
    ]);
    let layer = scene.layer(&tar, &gzip(&tar));
    let layers = [layer.clone()];
    let root = unpack(&layers, &scene.store).unwrap();
    let right = listing(&root);
    assert_eq!(unpacked(&[layer.1], &scene.store).unwrap(), Some(root.clone()));
    let damages: [fn(&Path) -> std::io::Result<()>; 6] = [
        |root| fs::write(root.join("lib/os.py"), "x = 2"),
        |root| fs::write(root.join("lib/re.py"), "x"),
        |root| fs::remove_file(root.join("python")),
        |root| fs::write(root.join("lib/more.py"), ""),
        |root| fs::remove_dir_all(root.join("lib")),
        |root| {
            let key = key_of(root);
            let record = root.ancestors().nth(3).unwrap().join("keyed/rootfs-listing").join(key);
            fs::write(record, "damaged")
        },
    ];
    for (number, damage) in damages.into_iter().enumerate() {
        damage(&root).unwrap();
        assert_eq!(unpacked(&[layer.1], &scene.store).unwrap(), None, "damage {number}");
        assert!(!root.exists(), "damage {number}");
        assert_eq!(unpack(&layers, &scene.store).unwrap(), root);
        assert_eq!(listing(&root), right, "damage {number}");
        assert_eq!(unpacked(&[layer.1], &scene.store).unwrap(), Some(root.clone()));
    }
}

fn key_of(root: &Path) -> &std::ffi::OsStr {
    root.file_name().unwrap()
}
