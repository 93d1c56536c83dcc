//! Wheels and base layers.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;

use assemble::base::rootfs as unpacking;
use assemble::layers::tree::Node;
use assemble::layers::{Scheme, Treatment, WheelFile, wheel as installing};
use assemble::oci::{Descriptor, Digest, MediaType};
use assemble::package_index::wheel_archive::{METADATA_LIMIT, Partial, Step, metadata};
use assemble::python::WheelFilename;
use assemble::python::record::{Record, Row as RecordRow};
use assemble::store::Store;
use bytes::Bytes;

use super::rows::{Row, rows, tar, zip};

/// What wheels of rows are.
const STEM: &str = "demo_pkg-1.0";

/// A wheel, byte by byte or as rows with a true RECORD. What is installed lies below the root under
/// plain names, RECORD is true, it is as large as it may be, and its METADATA is what the resolver
/// read.
pub(super) fn wheel(bytes: &[u8]) {
    let packed;
    let mut stem = STEM;
    let bytes = if bytes.starts_with(b"PK") {
        stem = stem_of(bytes).unwrap_or(STEM);
        bytes
    } else {
        let names = ["METADATA", "WHEEL", "RECORD"].map(|name| format!("{STEM}.dist-info/{name}"));
        let Some(archive) = with_record(rows(bytes), &names) else { return };
        packed = archive;
        &packed
    };
    let file_name = format!("{stem}-py3-none-any.whl");
    let Ok(name) = file_name.parse::<WheelFilename>() else { return };
    let early = early_metadata(bytes, &name);
    let file = WheelFile {
        name: name.name.clone(),
        version: name.version.clone(),
        file_name,
        digest: Digest::of(bytes),
        requested: true,
    };
    let scheme = Scheme::for_base((3, 13));
    let treatment = Treatment { strip: true, ..Treatment::default() };
    let mut archive = tempfile::tempfile().unwrap();
    archive.write_all(bytes).unwrap();
    let folder = tempfile::TempDir::new().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let laid_out = installing::lay_out(archive, &file, &scheme, &treatment, (&store, 1));
    let Ok(laid_out) = laid_out else { return };
    let Ok((tree, installed)) = laid_out.finish(&BTreeMap::new()) else { return };

    let mut contents = BTreeMap::new();
    let mut size = 0;
    for (path, entry) in tree.iter() {
        let relative = path.as_relative();
        assert!(!relative.starts_with('/'), "{path}");
        let plain = |part: &str| !matches!(part, "" | "." | "..") && !part.starts_with(".wh.");
        assert!(relative.split('/').all(plain), "{path}");
        assert!(!relative.contains(['\0', '\\', '\n']), "{path}");
        assert!(matches!(entry.mode, 0o644 | 0o755), "{path}: {:o}", entry.mode);
        let Node::File(content) = &entry.node else { panic!("{path} is no file") };
        let unpacked = content.read().unwrap();
        size += unpacked.len() as u64;
        contents.insert(path.relative_to(&scheme.purelib), unpacked);
    }
    assert_eq!(size, installed.bytes_installed);
    assert!(size <= (64 << 20) + 110 * bytes.len() as u64, "{size} of {}", bytes.len());
    let info = |name: &str| {
        let found = contents.iter().find(|(path, _)| {
            path.split_once(".dist-info/")
                .is_some_and(|(folder, rest)| rest == name && !folder.contains('/'))
        });
        found.unwrap_or_else(|| panic!("no {name}")).1.clone()
    };
    let record = Record::parse(&info("RECORD")).unwrap();
    assert!(record.rows.keys().eq(contents.keys()), "{record:?}");
    for (path, row) in &record.rows {
        if let Some(hash) = &row.hash {
            assert_eq!(hash, &hash.again(&contents[path]), "{path}");
        }
    }
    assert_eq!(early, Some(info("METADATA").to_vec()), "resolver and installer read other files");
}

/// The distribution whose `.dist-info` the archive names first.
fn stem_of(bytes: &[u8]) -> Option<&str> {
    const INFO: &[u8] = b".dist-info/";
    let end = bytes.windows(INFO.len()).position(|window| window == INFO)?;
    let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || b"._-+!".contains(byte);
    let start = bytes[..end].iter().rposition(|byte| !is_part(byte)).map_or(0, |at| at + 1);
    std::str::from_utf8(&bytes[start..end]).ok()
}

/// What the resolver reads of it, piece by piece.
fn early_metadata(bytes: &[u8], name: &WheelFilename) -> Option<Vec<u8>> {
    let mut partial = Partial::new(bytes.len() as u64);
    for _question in 0..100 {
        match metadata(&partial, name).ok()? {
            Step::Done(found) => {
                assert!(found.len() as u64 <= METADATA_LIMIT);
                return Some(found);
            }
            Step::Need(range) => {
                let (start, end) = (usize::try_from(range.start), usize::try_from(range.end));
                let piece = bytes.get(start.unwrap()..end.unwrap());
                let piece = piece.unwrap_or_else(|| panic!("{range:?} of {}", bytes.len()));
                partial.add(range.start, Bytes::copy_from_slice(piece));
            }
        }
    }
    panic!("it goes on asking");
}

/// The archive of the rows, with a true RECORD and with WHEEL and METADATA if they have none.
fn with_record<'a>(mut rows: Vec<Row<'a>>, names: &'a [String; 3]) -> Option<Vec<u8>> {
    let contents = [
        "Metadata-Version: 2.1\nName: demo-pkg\nVersion: 1.0\n",
        "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    ];
    let has = |rows: &[Row<'_>], name: &str| rows.iter().any(|row| row.name == name.as_bytes());
    for (name, content) in names.iter().zip(contents) {
        if !has(&rows, name) {
            let content = content.as_bytes().to_vec();
            rows.push(Row { kind: b's', mode: 0o644, name: name.as_bytes(), content });
        }
    }
    if !has(&rows, &names[2]) {
        let mut record = Record::default();
        for row in &rows {
            let name = String::from_utf8_lossy(row.name).into_owned();
            record.rows.insert(name, RecordRow::of(&row.content));
        }
        record.rows.insert(names[2].clone(), RecordRow::default());
        let content = record.to_bytes();
        rows.push(Row { kind: b's', mode: 0o644, name: names[2].as_bytes(), content });
    }
    zip(&rows)
}

/// Base layers: a tar or compressed tar byte by byte, or rows, a `--` line between layers. Nothing
/// appears outside of the folder, what is there stays, and links of what is unpacked that leave the
/// folder were not followed.
pub(super) fn rootfs(bytes: &[u8]) {
    thread_local! {
        static SCENE: (tempfile::TempDir, Store) = {
            let folder = tempfile::tempdir().unwrap();
            fs_err::create_dir(folder.path().join("outside")).unwrap();
            fs_err::write(folder.path().join("outside/canary"), "sings").unwrap();
            let store = Store::open(folder.path().join("cache")).unwrap();
            (folder, store)
        };
    }
    let is_raw = bytes.get(257..262) == Some(b"ustar")
        || bytes.starts_with(&[0x1f, 0x8b])
        || bytes.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]);
    let layers: Vec<Vec<u8>> = if is_raw {
        vec![bytes.to_vec()]
    } else {
        let text = bytes.split(|byte| *byte == b'\n').collect::<Vec<_>>();
        text.split(|line| *line == b"--")
            .take(4)
            .map(|lines| tar(&rows(&lines.join(&b'\n'))))
            .collect()
    };
    SCENE.with(|(folder, store)| {
        let layers: Vec<_> = layers
            .iter()
            .map(|blob| {
                let digest = store.put(blob).unwrap();
                let name: oci_spec::image::Digest = digest.to_string().parse().unwrap();
                let descriptor = Descriptor::new(MediaType::ImageLayer, blob.len() as u64, name);
                (descriptor, diff_id(blob))
            })
            .collect();
        if let Ok(unpacked) = unpacking::unpack_once(&layers, store) {
            check_unpacked(unpacked.path(), bytes.len() as u64);
        }
        for (descriptor, _) in &layers {
            let hex = descriptor.digest().digest();
            let _shared = fs_err::remove_file(store.root().join("blobs/sha256").join(hex));
        }
        assert_eq!(names(folder.path()), ["cache", "outside"]);
        assert_eq!(names(&folder.path().join("outside")), ["canary"]);
        let canary = fs_err::read_to_string(folder.path().join("outside/canary")).unwrap();
        assert_eq!(canary, "sings");
        let run = store.root().join("tmp").join(&names(&store.root().join("tmp"))[0]);
        assert!(names(&run).is_empty(), "something is left");
        assert_eq!(names(store.root()), ["blobs", "keyed", "tmp", "trees"]);
    });
}

/// As the config would have it: of the uncompressed bytes, as far as they can be had.
fn diff_id(blob: &[u8]) -> Digest {
    use std::io::Read as _;
    if !blob.starts_with(&[0x1f, 0x8b]) {
        return Digest::of(blob);
    }
    let mut plain = Vec::new();
    let reader = flate2::read::MultiGzDecoder::new(blob);
    match reader.take(64 << 20).read_to_end(&mut plain) {
        Ok(_) => Digest::of(&plain),
        Err(_) => Digest::of(blob),
    }
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs_err::read_dir(folder).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// Only files, folders and links; no bit that gives rights; no more bytes than could have come.
fn check_unpacked(folder: &Path, input: u64) {
    use std::os::unix::fs::PermissionsExt as _;
    let mut folders = vec![folder.to_owned()];
    let mut size = 0;
    while let Some(folder) = folders.pop() {
        for entry in fs_err::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let metadata = fs_err::symlink_metadata(&path).unwrap();
            let shown = path.display();
            assert!(
                metadata.is_dir() || metadata.is_file() || metadata.is_symlink(),
                "{shown} is something else"
            );
            if metadata.is_symlink() {
                continue;
            }
            assert_eq!(metadata.permissions().mode() & 0o7000, 0, "{shown}");
            if metadata.is_dir() {
                folders.push(path);
            } else {
                size += metadata.len();
            }
        }
    }
    // Deflate's ratio; hard links count each time.
    assert!(size <= 1100 * input.max(1024), "{size} bytes of {input}");
}
