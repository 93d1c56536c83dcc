//! Locks and recipes.

use std::path::Path;

use assemble::recipe::{Brick, Exceptions, Layer, Lock, Matrix, layer};

/// A lock has one text; modes and owners of layers are what they may be; a matrix's cells have
/// references that differ.
pub(super) fn recipe(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let path = Path::new("/recipe/file.toml");
    if let Ok(lock) = Lock::parse(text, path) {
        let written = lock.to_toml().unwrap();
        let again = Lock::parse(&written, path).unwrap();
        assert_eq!(again.to_toml().unwrap(), written);
        assert!(lock.inputs.differences(&again.inputs).is_empty());
        assert_eq!(lock.newest_upload(), again.newest_upload());
    }
    if let Ok(parsed) = Layer::parse(text, Path::new("/recipe"), "layer")
        && let Brick::Files(files) = &parsed.brick
    {
        for file in &files.files {
            let mode = layer::parse_mode(file.mode.as_deref(), 0o644).unwrap();
            assert!(mode <= 0o1777, "{mode:o}");
            layer::parse_owner(file.owner.as_deref()).unwrap();
        }
    }
    if let Ok(exceptions) = Exceptions::parse(text, path) {
        for item in &exceptions.overrides {
            assert!(item.project().is_some(), "{item:?}");
        }
    }
    if text.contains("platforms") && text.contains("layers") {
        matrix(text);
    }
}

/// The matrix with this `matrix.toml` and two cells.
fn matrix(text: &str) {
    thread_local! {
        static FOLDER: tempfile::TempDir = {
            let folder = tempfile::tempdir().unwrap();
            for version in ["1.0", "1.1"] {
                let cell = folder.path().join(version).join("python3.13/alpine3.24");
                fs_err::create_dir_all(cell).unwrap();
            }
            folder
        };
    }
    FOLDER.with(|folder| {
        fs_err::write(folder.path().join("matrix.toml"), text).unwrap();
        let Ok(matrix) = Matrix::open(folder.path()) else { return };
        for (number, cell) in matrix.cells.iter().enumerate() {
            for other in &matrix.cells[..number] {
                assert_ne!(cell.reference, other.reference);
            }
            let written = cell.reference.to_string();
            assert_eq!(written.parse().as_ref(), Ok(&cell.reference));
        }
    });
}
