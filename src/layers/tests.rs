//! Many wheels at once, through the store.

use std::collections::BTreeMap;
use std::str::FromStr as _;

use pep440_rs::Version;
use pep508_rs::PackageName;
use tempfile::TempDir;

use super::wheel::tests::Wheel;
use super::*;
use crate::error::{Failure as _, Kind};
use crate::store::Store;

fn store() -> (TempDir, Store) {
    let folder = TempDir::new().unwrap();
    let store = Store::open(folder.path()).unwrap();
    (folder, store)
}

/// A wheel called `name`, with these files besides its own.
fn wheel(store: &Store, name: &str, files: &[(&str, &[u8])]) -> WheelFile {
    let mut wheel = Wheel::named(name, "1.0");
    for (path, bytes) in files {
        wheel = wheel.with(path, bytes);
    }
    WheelFile { digest: store.put(&wheel.pack()).unwrap(), ..wheel.file }
}

/// Installed for Python 3.13 with these pruning rules.
fn pruned(wheels: &[WheelFile], prune: &[Prune], store: &Store, n: usize) -> Result<Python, Error> {
    let treatment = Treatment { prune: prune.to_vec(), ..Treatment::default() };
    treated(wheels, treatment, store, n)
}

fn treated(
    wheels: &[WheelFile],
    treatment: Treatment,
    store: &Store,
    n: usize,
) -> Result<Python, Error> {
    let options = options(treatment);
    python(find(wheels, &options, store, n)?, &options, &BTreeMap::new(), store, n)
}

fn options(treatment: Treatment) -> Options {
    Options { scheme: Scheme::for_base((3, 13)), treatment, compiler: None }
}

#[test]
fn neither_order_nor_threads_change_the_layer() {
    let (_folder, store) = store();
    let shared: (&str, &[u8]) = ("ns/__init__.py", b"# namespace\n");
    let mut wheels: Vec<WheelFile> = (0..9)
        .map(|number| {
            let module = format!("ns/m{number}.py");
            wheel(&store, &format!("demo{number}"), &[shared, (&module, b"")])
        })
        .collect();
    let mut layers = std::collections::BTreeSet::new();
    for parallel in [0, 1, 2, 4, 100] {
        wheels.rotate_left(4);
        let made = pruned(&wheels, &[], &store, parallel).unwrap();
        let (tree, installed) = (&made.tree, &made.installed);
        let names: Vec<_> = installed.iter().map(|wheel| wheel.name.to_string()).collect();
        assert!(names.is_sorted());
        assert_eq!(names.len(), 9);
        let path = Scheme::for_base((3, 13)).purelib.join(shared.0).unwrap();
        assert_eq!(tree.get(&path).unwrap().owner, "demo0");
        let (layer, _) = made.layer("python", &store).unwrap();
        layers.insert((layer.descriptor.digest().to_string(), layer.diff_id));
    }
    assert_eq!(layers.len(), 1);
}

/// The layer of these wheels as a cache makes it that holds nothing else.
fn made_anew(wheels: &[WheelFile], prune: &[Prune], from: &Store) -> (String, Digest) {
    let (_folder, store) = store();
    for wheel in wheels {
        store.put(&from.read(&wheel.digest).unwrap().unwrap()).unwrap();
    }
    made(wheels, prune, &store)
}

fn made(wheels: &[WheelFile], prune: &[Prune], store: &Store) -> (String, Digest) {
    let made = pruned(wheels, prune, store, 2).unwrap();
    let (layer, _) = made.layer("x", store).unwrap();
    (layer.descriptor.digest().to_string(), layer.diff_id)
}

#[test]
fn what_earlier_runs_kept_changes_no_layer() {
    let (_folder, store) = store();
    let shared: (&str, &[u8]) = ("ns/__init__.py", b"# namespace\n");
    let wheels: Vec<WheelFile> = ["a", "b", "c"]
        .map(|name| wheel(&store, name, &[shared, (&format!("ns/{name}.py"), name.as_bytes())]))
        .into();
    let requested = |wheel: &WheelFile| WheelFile { requested: !wheel.requested, ..wheel.clone() };
    let cases: [(Vec<WheelFile>, Vec<Prune>); 6] = [
        (wheels.clone(), vec![]),
        // Whose the shared file is depends on who else is there.
        (wheels[1..].to_vec(), vec![]),
        (vec![wheels[0].clone(), wheels[2].clone()], vec![]),
        (vec![requested(&wheels[0]), wheels[1].clone()], vec![]),
        (wheels.clone(), vec![Prune::new(["ns/b.py", "x"], "test").unwrap()]),
        (
            wheels.clone(),
            vec![Prune::new(["ns/b.py"], "test").unwrap(), Prune::new(["x"], "test").unwrap()],
        ),
    ];
    let mut layers = std::collections::BTreeSet::new();
    let mut keys = std::collections::BTreeSet::new();
    for (wheels, prune) in &cases {
        let expected = made_anew(wheels, prune, &store);
        for _ in 0..2 {
            assert_eq!(made(wheels, prune, &store), expected);
        }
        layers.insert(expected);
        keys.insert(kept::layer_key(
            wheels,
            &options(Treatment { prune: prune.clone(), ..Treatment::default() }),
        ));
    }
    assert_eq!(layers.len(), cases.len() - 1, "two rules do what one does");
    assert_eq!(keys.len(), cases.len());
}

/// The segments of all distributions.
fn owned(made: &Python) -> Vec<Segment> {
    let parts = made.compressed.parts.0.iter();
    let owned = parts.filter(|part| matches!(part, archive::Part::Owner { .. }));
    owned.flat_map(archive::Part::segments).copied().collect()
}

#[test]
fn what_was_asked_for_comes_last_and_what_is_before_it_is_hashed_once() {
    let (_folder, store) = store();
    let needed = |name| WheelFile {
        requested: false,
        ..wheel(&store, name, &[(&format!("{name}.py"), name.as_bytes()), ("ns/x.py", b"x")])
    };
    let asked_for = |text: &[u8]| WheelFile {
        requested: true,
        ..wheel(&store, "app", &[("app/new/a.py", text), ("ns/x.py", b"x"), ("ns/y.py", b"")])
    };
    let first = [asked_for(b"1"), needed("x"), needed("b")];
    let second = [asked_for(b"2"), first[1].clone(), first[2].clone()];
    let expected = made_anew(&second, &[], &store);
    let folder = store.root().join("keyed/begins");
    let begins = || fs_err::read_dir(&folder).unwrap().count();
    made(&first, &[], &store);
    assert_eq!(begins(), 1);
    let known = pruned(&second, &[], &store, 2).unwrap();
    // Whoever comes first by name has what several bring.
    let path = Scheme::for_base((3, 13)).purelib.join("ns/x.py").unwrap();
    assert_eq!(known.tree.get(&path).unwrap().owner, "app");
    let (layer, _) = known.layer("x", &store).unwrap();
    assert_eq!((layer.descriptor.digest().to_string(), layer.diff_id), expected);
    assert_eq!(begins(), 1);

    let digest = crate::oci::descriptor_digest(&layer.descriptor).unwrap();
    let bytes = store.read(&digest).unwrap().unwrap();
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(&bytes[..]));
    let paths: Vec<String> = archive
        .entries()
        .unwrap()
        .map(|entry| entry.unwrap().path().unwrap().display().to_string())
        .filter_map(|path| {
            path.strip_prefix("usr/local/lib/python3.13/site-packages/").map(str::to_owned)
        })
        .filter(|path| !path.contains("dist-info/"))
        .collect();
    assert_eq!(
        paths,
        ["", "b.py", "x.py", "app/", "app/new/", "ns/", "app/new/a.py", "ns/x.py", "ns/y.py"]
    );

    // What was known is not believed of other parts.
    let states = fs_err::read_dir(&folder).unwrap().next().unwrap();
    fs_err::write(states.unwrap().path(), b"damaged").unwrap();
    assert_eq!(made(&second, &[], &store), expected);
}

#[test]
fn a_layer_begins_with_what_stands_before_the_first_change() {
    let (_folder, store) = store();
    let sized = |name: &str, size: u32, seed: u8| {
        let bytes: Vec<u8> = (0..size).map(|n| (n / 5 % 251) as u8 ^ seed).collect();
        WheelFile { requested: false, ..wheel(&store, name, &[(&format!("{name}/m"), &bytes)]) }
    };
    let wheels = |seeds: [u8; 4]| {
        [
            sized("d", 3 << 20, seeds[0]),
            sized("c", 5 << 19, seeds[1]),
            sized("b", 1 << 20, seeds[2]),
            WheelFile { requested: true, ..sized("a", 9, seeds[3]) },
        ]
    };
    let folder = store.root().join("keyed/begins");
    let begins = || fs_err::read_dir(&folder).unwrap().count();
    made(&wheels([0; 4]), &[], &store);
    assert_eq!(begins(), 3, "behind d, c and b");
    let mut expected = 3;
    // Those that are new, behind the begin that is known.
    for (seeds, new) in [([0, 0, 0, 1], 0), ([0, 0, 1, 1], 1), ([0, 1, 1, 1], 2), ([1; 4], 3)] {
        let wheels = wheels(seeds);
        assert_eq!(made(&wheels, &[], &store), made_anew(&wheels, &[], &store));
        expected += new;
        assert_eq!(begins(), expected, "{seeds:?}");
    }
}

#[test]
fn a_damaged_begin_is_found_and_made_again() {
    let (_folder, store) = store();
    let needed = WheelFile { requested: false, ..wheel(&store, "b", &[("b.py", b"1")]) };
    let asked_for = |text: &[u8]| wheel(&store, "app", &[("app.py", text)]);
    let wheels = [WheelFile { requested: true, ..asked_for(b"2") }, needed.clone()];
    made(&[WheelFile { requested: true, ..asked_for(b"1") }, needed], &[], &store);
    let expected = made_anew(&wheels, &[], &store);
    let damaged = owned(&pruned(&wheels, &[], &store, 2).unwrap())[0].digest;
    let mut bytes = store.read(&damaged).unwrap().unwrap();
    bytes[0] ^= 1;
    fs_err::write(store.blob_path(&damaged), bytes).unwrap();
    let error = pruned(&wheels, &[], &store, 2).unwrap_err();
    assert!(matches!(error, Error::Segment { digest } if digest == damaged), "{error}");
    assert!(!store.blob_path(&damaged).exists());
    assert_eq!(made(&wheels, &[], &store), expected);
    // What is known of the begin is of another one: then it is forgotten, whatever is in the cache.
    let folder = store.root().join("keyed/begins");
    let record = fs_err::read_dir(&folder).unwrap().next().unwrap().unwrap().path();
    let key = record.file_name().unwrap().to_str().unwrap();
    let key = Digest::from_hex(key).unwrap();
    let states = store.record("begins", &key).unwrap().unwrap();
    let mut states: serde_json::Value = serde_json::from_slice(&states).unwrap();
    states["member"][0] = (states["member"][0].as_u64().unwrap() ^ 1).into();
    store.put_record("begins", &key, states.to_string().as_bytes()).unwrap();
    assert!(matches!(pruned(&wheels, &[], &store, 2), Err(Error::Segment { .. })));
    assert_eq!(made(&wheels, &[], &store), expected);
}

#[test]
fn a_large_file_is_compressed_once_wherever_it_lies() {
    let (_folder, store) = store();
    let large =
        |first: u8| -> Vec<u8> { (0..800_000_u32).map(|n| (n / 5 % 251) as u8 ^ first).collect() };
    let first = [wheel(&store, "a", &[("a.py", b"1"), ("a/large", &large(0)), ("a/z", b"")])];
    let second = [wheel(&store, "b", &[("b.py", b"22"), ("b/large", &large(0)), ("b/z", b"3")])];
    let expected = made_anew(&second, &[], &store);
    let segments = |wheels| owned(&pruned(wheels, &[], &store, 2).unwrap());
    let (ours, theirs) = (segments(&first), segments(&second));
    // What stands before the file, its two pieces, and what stands behind.
    assert_eq!((ours.len(), theirs.len()), (4, 4));
    assert_eq!(ours[1..3], theirs[1..3]);
    assert_eq!(ours[1..3].iter().map(|segment| segment.uncompressed).sum::<u64>(), 800_000);
    assert_eq!(made(&second, &[], &store), expected);
    // A piece that is damaged is made again.
    fs_err::write(
        store.blob_path(&ours[2].digest),
        vec![0; usize::try_from(ours[2].size).unwrap()],
    )
    .unwrap();
    let third = [wheel(&store, "c", &[("c/large", &large(0))])];
    let error = pruned(&third, &[], &store, 2).unwrap_err();
    assert!(matches!(error, Error::Segment { digest } if digest == ours[2].digest), "{error}");
    assert_eq!(made(&third, &[], &store), made_anew(&third, &[], &store));
    // Another file of the same length is another one.
    let other = [wheel(&store, "d", &[("d/large", &large(1))])];
    assert_eq!(made(&other, &[], &store), made_anew(&other, &[], &store));
}

#[test]
fn a_damaged_part_is_found_and_made_again() {
    let (_folder, store) = store();
    let wheels = [wheel(&store, "a", &[("a.py", b"1")]), wheel(&store, "b", &[("b.py", b"2")])];
    let expected = made(&wheels, &[], &store);
    let again = pruned(&wheels, &[], &store, 2).unwrap();
    let [first, second] = owned(&again)[..] else { panic!("{:?}", again.compressed) };
    for damaged in [first, second] {
        let mut bytes = store.read(&damaged.digest).unwrap().unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs_err::write(store.blob_path(&damaged.digest), bytes).unwrap();
    }
    let error = pruned(&wheels, &[], &store, 2).unwrap_err();
    assert!(matches!(error, Error::Segment { digest } if digest == first.digest), "{error}");
    assert!(error.hint().is_some());
    // All that are damaged are removed at once.
    assert!([first, second].iter().all(|segment| !segment.is_stored(&store)));
    assert_eq!(made(&wheels, &[], &store), expected);
}

#[test]
fn figures_are_kept_too() {
    let (_folder, store) = store();
    let wheels = [wheel(&store, "a", &[("a.py", b"1"), ("a/b.so", b"\x7fELF")])];
    let prune = [Prune::new(["a.py"], "test").unwrap()];
    let first = pruned(&wheels, &prune, &store, 2).unwrap();
    assert!(first.installed[0].has_native && first.installed[0].pruned[0].files == 1);
    fs_err::remove_file(store.blob_path(&wheels[0].digest)).unwrap();
    let again = pruned(&wheels, &prune, &store, 2).unwrap();
    assert_eq!((&again.tree, &again.installed), (&first.tree, &first.installed));
    assert_eq!(owned(&again), owned(&first));
}

#[test]
fn the_first_error_by_name_is_reported() {
    let (_folder, store) = store();
    let mut wheels =
        vec![wheel(&store, "b", &[("same.py", b"1")]), wheel(&store, "a", &[("same.py", b"2")])];
    for parallel in [1, 2] {
        let error = pruned(&wheels, &[], &store, parallel).unwrap_err();
        assert_eq!(error.kind(), Kind::Unsatisfiable);
        assert_eq!(
            error.to_string(),
            "two things lie at `/usr/local/lib/python3.13/site-packages/same.py`: a file of `a` and a file of `b`, with other contents"
        );
        wheels.reverse();
    }
    // What clashes can be pruned.
    let rule = [Prune::new(["same.py"], "both bring it").unwrap()];
    let installed = pruned(&wheels, &rule, &store, 2).unwrap().installed;
    assert!(installed.iter().all(|wheel| wheel.pruned[0].files == 1));
}

#[test]
fn a_wheel_that_was_damaged_in_the_cache_is_absent() {
    let (_folder, store) = store();
    let wheel = wheel(&store, "a", &[]);
    fs_err::write(store.blob_path(&wheel.digest), b"other").unwrap();
    let error = pruned(std::slice::from_ref(&wheel), &[], &store, 1).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("`a-1.0-py3-none-any.whl` is not in the cache: {}", wheel.digest)
    );
    assert!(error.hint().is_some());
}

#[test]
fn names_of_old_wheels_are_compared_normalised() {
    let (_folder, store) = store();
    let mut old = Wheel::named("Zope.Event", "1.0");
    old.file.version = Version::from_str("1.0.0").unwrap();
    old.file.name = PackageName::from_str("zope-event").unwrap();
    let file = WheelFile { digest: store.put(&old.pack()).unwrap(), ..old.file };
    assert!(pruned(&[file], &[], &store, 1).is_ok());
}

fn library(tree: &Tree<Known>, path: &str) -> tree::Node<Known> {
    let path = Scheme::for_base((3, 13)).purelib.join(path).unwrap();
    tree.get(&path).unwrap().node.clone()
}

#[test]
fn equal_files_of_different_distributions_become_one() {
    let (_folder, store) = store();
    let large = [7_u8; 100];
    let wheels = [
        wheel(&store, "a", &[("a/large.so", &large), ("a/small", b"x")]),
        wheel(&store, "b", &[("b/large.so", &large), ("b/small", b"x")]),
    ];
    let treatment = Treatment { smallest_duplicate: Some(100), ..Treatment::default() };
    let made = treated(&wheels, treatment, &store, 2).unwrap();
    let (tree, installed) = (&made.tree, &made.installed);
    let first = Scheme::for_base((3, 13)).purelib.join("a/large.so").unwrap();
    assert_eq!(library(tree, "a/large.so"), tree::Node::File(Known::of(&large)));
    assert_eq!(library(tree, "b/large.so"), tree::Node::HardLink(first));
    assert_eq!(library(tree, "b/small"), tree::Node::File(Known::of(b"x")));
    let linked: Vec<_> = installed.iter().map(|figures| figures.linked).collect();
    assert_eq!(linked, [0, 100]);
    assert_eq!(installed[0].files, installed[1].files);
    assert_eq!(installed[0].bytes_installed, installed[1].bytes_installed + 100);
    let total: u64 = installed.iter().map(|figures| figures.bytes_installed).sum();
    let files = tree.iter().filter_map(|(_, entry)| match entry.node {
        tree::Node::File(known) => Some(known.size),
        _ => None,
    });
    assert_eq!(total, files.sum::<u64>());

    // The layer's tar has the link last, behind what it names, and once the bytes.
    let (layer, _) = made.layer("x", &store).unwrap();
    let digest = crate::oci::descriptor_digest(&layer.descriptor).unwrap();
    let bytes = store.read(&digest).unwrap().unwrap();
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(&bytes[..]));
    let entries: Vec<(String, Option<String>)> = archive
        .entries()
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            let link = entry.link_name().unwrap().map(|link| link.display().to_string());
            (entry.path().unwrap().display().to_string(), link)
        })
        .collect();
    let library = "usr/local/lib/python3.13/site-packages";
    let link = (format!("{library}/b/large.so"), Some(format!("{library}/a/large.so")));
    assert_eq!(entries.last(), Some(&link));
    assert_eq!(entries.iter().filter(|(path, _)| path.ends_with("large.so")).count(), 2);
    // A second run finds every part, and makes the same; so does one that finds nothing.
    let (_other_folder, other) = super::tests::store();
    for wheel in &wheels {
        other.put(&store.read(&wheel.digest).unwrap().unwrap()).unwrap();
    }
    for store in [&store, &other] {
        let treatment = Treatment { smallest_duplicate: Some(100), ..Treatment::default() };
        let again = treated(&wheels, treatment, store, 1).unwrap();
        assert_eq!(again.layer("x", store).unwrap().0.descriptor, layer.descriptor);
    }
}

#[test]
fn a_repair_that_finds_nothing_to_repair_is_an_error() {
    use crate::recipe::python::{Launcher, Replacement, When};
    let (_folder, store) = store();
    let wheels = [wheel(&store, "a", &[("a.py", b"x = 1\n")])];
    let (when, reason) = (When::new(), "test".to_owned());
    let launcher = Launcher {
        script: "b".into(),
        before: vec!["import b".into()],
        when: when.clone(),
        reason: reason.clone(),
    };
    let replacement = Replacement {
        path: "b.py".into(),
        from: "1".into(),
        to: "2".into(),
        count: 1,
        when,
        reason,
    };
    for (treatment, message) in [
        (
            Treatment { launchers: vec![launcher], ..Treatment::default() },
            "command `b`: no distribution of the layer has it",
        ),
        (
            Treatment { replacements: vec![replacement], ..Treatment::default() },
            "file `b.py`: no distribution of the layer has it",
        ),
    ] {
        let error = treated(&wheels, treatment, &store, 1).unwrap_err();
        assert_eq!(error.to_string(), message);
        assert_eq!(error.kind(), Kind::Usage);
        assert!(error.hint().is_some());
    }
}
