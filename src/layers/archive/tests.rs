//! Golden layers, and one property per rule of the archive.

#![expect(
    clippy::needless_raw_string_hashes,
    reason = "snapbox writes them so (SNAPSHOTS=overwrite)"
)]

use std::fmt::Write as _;
use std::io::Read as _;

use proptest::prelude::*;
use tar::EntryType;

use super::*;
use crate::oci::{Digest, descriptor_digest};

/// `type mode uid:gid mtime size sha256 path`, as golden layers are written.
fn listing(bytes: &[u8]) -> String {
    let mut text = String::new();
    for entry in tar::Archive::new(bytes).entries().unwrap() {
        let mut entry = entry.unwrap();
        let mut data = Vec::new();
        entry.read_to_end(&mut data).unwrap();
        let header = entry.header();
        let link = entry
            .link_name()
            .unwrap()
            .map_or(String::new(), |target| format!(" -> {}", target.display()));
        writeln!(
            text,
            "{} {:04o} {}:{} {} {} {} {}{link}",
            char::from(header.entry_type().as_byte()),
            header.mode().unwrap(),
            header.uid().unwrap(),
            header.gid().unwrap(),
            header.mtime().unwrap(),
            data.len(),
            &Digest::of(&data).hex()[..8],
            entry.path().unwrap().display(),
        )
        .unwrap();
    }
    text
}

/// The tree that a tar describes, without its folders.
fn read(bytes: &[u8]) -> Tree {
    let mut tree = Tree::default();
    for entry in tar::Archive::new(bytes).entries().unwrap() {
        let mut entry = entry.unwrap();
        let mut data = Vec::new();
        entry.read_to_end(&mut data).unwrap();
        // The crate applies PAX `path` and `linkpath`, but `uid` only if asked.
        let pax = entry.pax_extensions().unwrap().map_or(BTreeMap::new(), |records| {
            records
                .map(|record| record.unwrap())
                .map(|record| {
                    (record.key().unwrap().to_owned(), record.value().unwrap().to_owned())
                })
                .collect()
        });
        let id = |key, plain: u64| pax.get(key).map_or(plain, |id: &String| id.parse().unwrap());
        let header = entry.header();
        let node = match header.entry_type() {
            EntryType::Directory => continue,
            EntryType::Symlink => {
                let target = entry.link_name_bytes().unwrap().into_owned();
                Node::Symlink(String::from_utf8(target).unwrap())
            }
            EntryType::Link => {
                let target = entry.link_name_bytes().unwrap().into_owned();
                let target = format!("/{}", String::from_utf8(target).unwrap());
                Node::HardLink(ContainerPath::parse(&target).unwrap())
            }
            _ => Node::File(data.into()),
        };
        let path = String::from_utf8(entry.path_bytes().into_owned()).unwrap();
        let found = Entry {
            node,
            mode: header.mode().unwrap(),
            uid: u32::try_from(id("uid", header.uid().unwrap())).unwrap(),
            gid: u32::try_from(id("gid", header.gid().unwrap())).unwrap(),
            owner: "x".into(),
        };
        tree.insert(ContainerPath::parse(&format!("/{path}")).unwrap(), found).unwrap();
    }
    tree
}

fn tree(entries: impl IntoIterator<Item = (String, Entry)>) -> Tree {
    let mut tree = Tree::default();
    for (path, entry) in entries {
        // Clashes of random trees are left out.
        let _clash = tree.insert(ContainerPath::parse(&path).unwrap(), entry);
    }
    tree
}

fn fixed() -> Tree {
    let long = "l".repeat(90);
    let file =
        |path: &str, bytes: &'static str, mode| (path.to_owned(), Entry::file(bytes, mode, "x"));
    let link = |path: &str, target: &str| {
        let entry = Entry { node: Node::Symlink(target.to_owned()), ..Entry::file("", 0o777, "x") };
        (path.to_owned(), entry)
    };
    tree([
        file("/usr/local/bin/app", "#!/usr/local/bin/python3.13\n", 0o755),
        file("/usr/local/lib/a/b.py", "", 0o644),
        file("/usr/local/lib/a-b.py", "x = 1\n", 0o644),
        file("/usr/local/lib/ü.py", "x = 2\n", 0o644),
        file("/tmp/note", "", 0o600),
        // Fits prefix and name; needs PAX.
        file(&format!("/opt/{long}/{long}"), "", 0o644),
        file(&format!("/opt/{}", long.repeat(2)), "", 0o644),
        link("/opt/app", "/usr/local/bin/app"),
        link("/opt/far", &long.repeat(2)),
        (
            "/home/app".to_owned(),
            Entry {
                node: Node::Directory,
                uid: 1000,
                gid: 4_000_000_000,
                ..Entry::file("", 0o1777, "x")
            },
        ),
    ])
}

#[test]
fn golden_listing() {
    let bytes = write_tar(&fixed(), &Late::new(), Vec::new()).unwrap();
    let ls = |n: usize| "l".repeat(n);
    let expected = snapbox::str![[r#"
5 0755 0:0 315532800 0 e3b0c442 home/
5 1777 1000:4000000000 315532800 0 e3b0c442 home/app/
5 0755 0:0 315532800 0 e3b0c442 opt/
5 0755 0:0 315532800 0 e3b0c442 opt/<90 l>/
5 1777 0:0 315532800 0 e3b0c442 tmp/
5 0755 0:0 315532800 0 e3b0c442 usr/
5 0755 0:0 315532800 0 e3b0c442 usr/local/
5 0755 0:0 315532800 0 e3b0c442 usr/local/bin/
5 0755 0:0 315532800 0 e3b0c442 usr/local/lib/
5 0755 0:0 315532800 0 e3b0c442 usr/local/lib/a/
2 0777 0:0 315532800 0 e3b0c442 opt/app -> /usr/local/bin/app
2 0777 0:0 315532800 0 e3b0c442 opt/far -> <180 l>
0 0644 0:0 315532800 0 e3b0c442 opt/<90 l>/<90 l>
0 0644 0:0 315532800 0 e3b0c442 opt/<180 l>
0 0600 0:0 315532800 0 e3b0c442 tmp/note
0 0755 0:0 315532800 28 b51987aa usr/local/bin/app
0 0644 0:0 315532800 6 9e26bf36 usr/local/lib/a-b.py
0 0644 0:0 315532800 0 e3b0c442 usr/local/lib/a/b.py
0 0644 0:0 315532800 6 4205c480 usr/local/lib/ü.py
sha256:077f216df4bb2e70547595eacfbd52754a8715279b16868bb90c176bb8d88c26
"#]];
    let seen = listing(&bytes).replace(&ls(180), "<180 l>").replace(&ls(90), "<90 l>");
    snapbox::assert_data_eq!(seen + &Digest::of(&bytes).to_string(), expected);
}

/// A new version of the compressor may find other matches, which would change every layer's digest.
#[test]
fn golden_gzip() {
    let folder = tempfile::TempDir::new().unwrap();
    let store = Store::open(folder.path()).unwrap();
    // Text that compresses as source code does, from a fixed generator.
    let mut state = 1_u32;
    let text: String = (0..200_000)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            ["def ", "self", ".x", " = ", "(", ")\n", "    ", "return "][(state >> 29) as usize]
        })
        .collect();
    let mut tree = fixed();
    let path = ContainerPath::parse("/usr/local/lib/big.py").unwrap();
    tree.insert(path, Entry::file(text, 0o644, "x")).unwrap();
    let (layer, _) = write(&tree, "test", &store, 2).unwrap();
    let gzip = store.read(&descriptor_digest(&layer.descriptor).unwrap()).unwrap().unwrap();
    assert_eq!(gzip[..10], [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255]);
    let mut tar = Vec::new();
    flate2::read::GzDecoder::new(&gzip[..]).read_to_end(&mut tar).unwrap();
    assert_eq!(layer.diff_id, Digest::of(&tar));
    assert_eq!(layer.uncompressed_size, tar.len() as u64);
    assert_eq!(layer.created_by, "test");
    let seen = format!(
        "{} {}\ndiff_id {}\nuncompressed {}",
        layer.descriptor.digest(),
        layer.descriptor.size(),
        layer.diff_id,
        layer.uncompressed_size
    );
    snapbox::assert_data_eq!(
        seen,
        snapbox::str![[r#"
sha256:94f9652d74c378fb129c0e2613753bbd5c7efe253980c261df84b2a45dd9f7f3 134039
diff_id sha256:9736fbf694c046b0ac32835b5e909ec0371d6c8df994a575fab926bccf04364c
uncompressed 691712
"#]]
    );
}

#[test]
fn the_trailer_and_nothing_else_ends_it() {
    let bytes = write_tar(&Tree::default(), &Late::new(), Vec::new()).unwrap();
    assert_eq!(bytes, [0; 1024]);
}

#[test]
fn a_full_disk_is_an_error() {
    struct Full(usize);
    impl Write for Full {
        fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
            self.0 = self
                .0
                .checked_sub(buffer.len())
                .ok_or_else(|| io::Error::from(io::ErrorKind::StorageFull))?;
            Ok(buffer.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let size = write_tar(&fixed(), &Late::new(), Vec::new()).unwrap().len();
    for room in [0, 512, size / 2, size - 1] {
        assert!(write_tar(&fixed(), &Late::new(), Full(room)).is_err(), "{room}");
    }
    assert!(write_tar(&fixed(), &Late::new(), Full(size)).is_ok());
}

fn any_tree() -> impl Strategy<Value = Vec<(String, Entry)>> {
    let name = prop_oneof![
        4 => "[a-c.-]{1,3}".prop_filter("dots", |name| name != "." && name != ".."),
        1 => "[a-zü]{95,150}",
    ];
    let path = prop::collection::vec(name, 1..4).prop_map(|parts| format!("/{}", parts.join("/")));
    let node = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..1500).prop_map(|bytes| Node::File(bytes.into())),
        "[a-z/.ü]{1,120}".prop_map(Node::Symlink),
    ];
    let mode = prop_oneof![Just(0o644_u32), Just(0o755)];
    let owner = prop_oneof![Just("x"), Just("a"), Just("é")];
    let entry = (node, mode, any::<u32>(), 0..3_000_000_u32, owner).prop_map(
        |(node, mode, uid, gid, owner)| Entry { node, mode, uid, gid, owner: owner.into() },
    );
    prop::collection::vec((path, entry), 0..12)
}

proptest! {
    #[test]
    fn tar_to_tree_to_tar(entries in any_tree()) {
        let tree = tree(entries);
        let bytes = write_tar(&tree, &Late::new(), Vec::new()).unwrap();
        let again = read(&bytes);
        // A tar does not say who put something there.
        let mut owned = Tree::default();
        for (path, entry) in again {
            let owner = tree.get(&path).map_or(String::new(), |entry| entry.owner.clone());
            owned.put(path, Entry { owner, ..entry });
        }
        prop_assert_eq!(&owned, &tree);
        prop_assert_eq!(write_tar(&owned, &Late::new(), Vec::new()).unwrap(), bytes);
    }

    #[test]
    fn order_of_insertion_does_not_matter(entries in any_tree()) {
        let first = tree(entries);
        let mut again = Tree::default();
        for (path, entry) in first.iter().collect::<Vec<_>>().into_iter().rev() {
            again.insert(path.clone(), entry.clone()).unwrap();
        }
        prop_assert_eq!(
            write_tar(&first, &Late::new(), Vec::new()).unwrap(),
            write_tar(&again, &Late::new(), Vec::new()).unwrap()
        );
    }

    #[test]
    fn folders_come_before_what_lies_in_them_and_all_is_sorted(
        entries in any_tree(),
        late in prop::collection::btree_set("[xaé]", 0..3),
    ) {
        let tree = tree(entries);
        let bytes = write_tar(&tree, &late, Vec::new()).unwrap();
        let mut sizes = BTreeMap::<&str, u64>::new();
        for (_, entry) in tree.iter() {
            let size = if let Node::File(content) = &entry.node { content.size() } else { 0 };
            *sizes.entry(&entry.owner).or_default() += size;
        }
        let mut folders = BTreeSet::new();
        // Those behind the last file.
        let mut together = Vec::new();
        let mut files = Vec::new();
        for entry in tar::Archive::new(&bytes[..]).entries().unwrap() {
            let entry = entry.unwrap();
            let path = entry.path().unwrap().to_str().unwrap().to_owned();
            if let Some((parent, _)) = path.trim_end_matches('/').rsplit_once('/') {
                prop_assert!(folders.contains(parent), "{path}");
            }
            if let Some(path) = path.strip_suffix('/') {
                prop_assert!(folders.insert(path.to_owned()), "{path}");
                together.push(path.to_owned());
                prop_assert!(together.is_sorted());
            } else {
                let here = ContainerPath::parse(&format!("/{path}")).unwrap();
                let owner = &*tree.get(&here).unwrap().owner;
                files.push((late.contains(owner), std::cmp::Reverse(sizes[owner]), owner, path));
                together.clear();
            }
        }
        // Each folder comes with what needs it.
        prop_assert!(together.is_empty());
        prop_assert!(files.is_sorted());
    }
}

/// Large enough to be cut several times, within files and between them.
#[test]
fn any_number_of_threads_makes_the_gzip_of_the_tar() {
    let mut state = 7_u32;
    let mut random = |length: usize| -> Vec<u8> {
        (0..length)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 28) as u8
            })
            .collect()
    };
    let sizes = [0, 1, 3 * segment::CUT + 5, segment::CUT - 1024, 70_000, segment::CUT];
    let tree = tree(sizes.iter().enumerate().map(|(number, size)| {
        let owner = ["b", "a"][number % 2];
        (format!("/opt/{owner}/{number}"), Entry::file(random(*size), 0o644, owner))
    }));
    let expected = write_tar(&tree, &Late::new(), Vec::new()).unwrap();
    let mut layers = Vec::new();
    for parallel in [1, 2, 5] {
        let folder = tempfile::TempDir::new().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let (layer, _) = write(&tree, "test", &store, parallel).unwrap();
        let gzip = store.read(&descriptor_digest(&layer.descriptor).unwrap()).unwrap().unwrap();
        // Not the decoder of several members: there is one, and nothing behind it.
        let mut tar = Vec::new();
        let mut decoder = flate2::bufread::GzDecoder::new(&gzip[..]);
        decoder.read_to_end(&mut tar).unwrap();
        assert!(decoder.into_inner().is_empty());
        assert!(tar == expected);
        assert_eq!(layer.diff_id, Digest::of(&tar));
        assert_eq!(layer.uncompressed_size, tar.len() as u64);
        layers.push((layer.descriptor, layer.diff_id));
    }
    assert!(layers.iter().all(|layer| *layer == layers[0]));
}

#[test]
fn hard_links_come_behind_their_files_and_name_them_from_the_root() {
    let long = "l".repeat(90);
    let file = |path: String, mode| (path, Entry::file("same", mode, "x"));
    let mut linked = tree([
        file("/usr/lib/b.so".into(), 0o755),
        file(format!("/usr/lib/{long}/{long}.so"), 0o755),
        file("/usr/lib/a.so".into(), 0o755),
        // Another mode is another file.
        file("/usr/lib/c.so".into(), 0o644),
        file(format!("/usr/{long}/{long}.so"), 0o600),
        file(format!("/usr/{long}/{long}2.so"), 0o600),
    ]);
    assert_eq!(linked.known().link_duplicates(5), []);
    let mut known = linked.known();
    let saved: Vec<_> =
        known.link_duplicates(4).into_iter().map(|(path, size)| (path.to_string(), size)).collect();
    for (path, entry) in known.iter() {
        if let Node::HardLink(target) = &entry.node {
            let node = Node::HardLink(target.clone());
            linked.put(path.clone(), Entry { node, ..Entry::file("", entry.mode, "x") });
        }
    }
    let links = [
        "/usr/lib/b.so",
        &format!("/usr/lib/{long}/{long}.so"),
        &format!("/usr/{long}/{long}2.so"),
    ];
    assert_eq!(saved, links.map(|path| (path.to_owned(), 4)));
    let bytes = write_tar(&linked, &Late::new(), Vec::new()).unwrap();
    assert_eq!(read(&bytes), linked);
    let mut seen = std::collections::BTreeSet::new();
    for entry in tar::Archive::new(&*bytes).entries().unwrap() {
        let entry = entry.unwrap();
        if entry.header().entry_type() == EntryType::Link {
            let target = entry.link_name().unwrap().unwrap();
            assert!(target.is_relative() && seen.contains(&*target), "{target:?}");
        }
        seen.insert(entry.path().unwrap().into_owned());
    }
}
