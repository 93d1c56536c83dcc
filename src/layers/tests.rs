//! Many wheels at once, through the store.

use std::str::FromStr as _;

use pep440_rs::Version;
use pep508_rs::PackageName;
use tempfile::TempDir;

use super::wheel::tests::Wheel;
use super::*;
use crate::error::{Failure as _, Kind};

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
    let scheme = Scheme::for_base((3, 13));
    let mut layers = std::collections::BTreeSet::new();
    for parallel in [0, 1, 2, 4, 100] {
        wheels.rotate_left(4);
        let made = python(&wheels, &scheme, &[], &store, parallel).unwrap();
        let (tree, installed) = (&made.tree, &made.installed);
        let names: Vec<_> = installed.iter().map(|wheel| wheel.name.to_string()).collect();
        assert!(names.is_sorted());
        assert_eq!(names.len(), 9);
        let path = scheme.purelib.join(shared.0).unwrap();
        assert_eq!(tree.get(&path).unwrap().owner, "demo0");
        let layer = made.layer("python", &store).unwrap();
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
    let made = python(wheels, &Scheme::for_base((3, 13)), prune, store, 2).unwrap();
    let layer = made.layer("x", store).unwrap();
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
        keys.insert(kept::layer_key(wheels, &Scheme::for_base((3, 13)), prune));
    }
    assert_eq!(layers.len(), cases.len() - 1, "two rules do what one does");
    assert_eq!(keys.len(), cases.len());
}

#[test]
fn a_damaged_part_is_found_and_made_again() {
    let (_folder, store) = store();
    let wheels = [wheel(&store, "a", &[("a.py", b"1")]), wheel(&store, "b", &[("b.py", b"2")])];
    let expected = made(&wheels, &[], &store);
    let scheme = Scheme::for_base((3, 13));
    let again = python(&wheels, &scheme, &[], &store, 2).unwrap();
    let [damaged, gone] = again.segments[..] else { panic!("{:?}", again.segments) };
    let mut bytes = store.read(&damaged.digest).unwrap().unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs_err::write(store.blob_path(&damaged.digest), bytes).unwrap();
    fs_err::remove_file(store.blob_path(&gone.digest)).unwrap();
    let error = again.layer("x", &store).unwrap_err();
    assert!(matches!(error, Error::Segment { digest } if digest == damaged.digest), "{error}");
    assert!(error.hint().is_some());
    assert_eq!(made(&wheels, &[], &store), expected);
}

#[test]
fn figures_are_kept_too() {
    let (_folder, store) = store();
    let wheels = [wheel(&store, "a", &[("a.py", b"1"), ("a/b.so", b"\x7fELF")])];
    let prune = [Prune::new(["a.py"], "test").unwrap()];
    let scheme = Scheme::for_base((3, 13));
    let first = python(&wheels, &scheme, &prune, &store, 2).unwrap();
    assert!(first.installed[0].has_native && first.installed[0].pruned[0].files == 1);
    fs_err::remove_file(store.blob_path(&wheels[0].digest)).unwrap();
    let again = python(&wheels, &scheme, &prune, &store, 2).unwrap();
    assert_eq!((&again.tree, &again.installed), (&first.tree, &first.installed));
    assert_eq!(again.segments, first.segments);
}

#[test]
fn the_first_error_by_name_is_reported() {
    let (_folder, store) = store();
    let scheme = Scheme::for_base((3, 13));
    let mut wheels =
        vec![wheel(&store, "b", &[("same.py", b"1")]), wheel(&store, "a", &[("same.py", b"2")])];
    for parallel in [1, 2] {
        let error = python(&wheels, &scheme, &[], &store, parallel).unwrap_err();
        assert_eq!(error.kind(), Kind::Unsatisfiable);
        assert_eq!(
            error.to_string(),
            "two things lie at `/usr/local/lib/python3.13/site-packages/same.py`: a file of `a` and a file of `b`, with other contents"
        );
        wheels.reverse();
    }
    // What clashes can be pruned.
    let rule = [Prune::new(["same.py"], "both bring it").unwrap()];
    let installed = python(&wheels, &scheme, &rule, &store, 2).unwrap().installed;
    assert!(installed.iter().all(|wheel| wheel.pruned[0].files == 1));
}

#[test]
fn a_wheel_that_was_damaged_in_the_cache_is_absent() {
    let (_folder, store) = store();
    let wheel = wheel(&store, "a", &[]);
    fs_err::write(store.blob_path(&wheel.digest), b"other").unwrap();
    let error = python(std::slice::from_ref(&wheel), &Scheme::for_base((3, 13)), &[], &store, 1)
        .unwrap_err();
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
    assert!(python(&[file], &Scheme::for_base((3, 6)), &[], &store, 1).is_ok());
}
