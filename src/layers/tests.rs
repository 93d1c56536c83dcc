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
        let (tree, installed) = python(&wheels, &scheme, &[], &store, parallel).unwrap();
        let names: Vec<_> = installed.iter().map(|wheel| wheel.name.to_string()).collect();
        assert!(names.is_sorted());
        assert_eq!(names.len(), 9);
        let path = scheme.purelib.join(shared.0).unwrap();
        assert_eq!(tree.get(&path).unwrap().owner, "demo0");
        let layer = write(&tree, "python", &store).unwrap();
        layers.insert((layer.descriptor.digest().to_string(), layer.diff_id));
    }
    assert_eq!(layers.len(), 1);
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
    let (_, installed) = python(&wheels, &scheme, &rule, &store, 2).unwrap();
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
