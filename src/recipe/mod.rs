//! The two data directories, `matrix/` and `layers/`, and the locks, as types: text in, values out.
//!
//! Only [`matrix::Matrix::open`], [`Recipe::open`] and [`Recipe::status`] touch the disk; every parser
//! below is pure.
//! Nothing here knows what the images are of: `{columns}` come from the matrix's own path template.

pub mod cell;
pub mod columns;
pub mod error;
pub mod floating;
pub mod layer;
pub mod lock;
pub mod matrix;
pub mod python;
pub mod status;

use std::path::{Path, PathBuf};

pub use cell::{Cell, Exceptions};
pub use columns::Columns;
pub use error::Error;
pub use floating::Floating;
pub use layer::{Brick, Layer};
pub use lock::Lock;
pub use matrix::{Matrix, Settings};
pub use python::Python;
pub use status::{State, Status};

/// A matrix and the layers its stack names, read and checked.
#[derive(Clone, Debug)]
pub struct Recipe {
    /// The settings all cells share, and the cells.
    pub matrix: Matrix,
    /// The stack, bottom first.
    pub layers: Vec<Layer>,
}

impl Recipe {
    /// Reads `matrix/` and `layers/` below `root`.
    ///
    /// # Errors
    /// A file is missing or wrong: which one, and where in it.
    pub fn open(root: &Path) -> Result<Self, Error> {
        let matrix = Matrix::open(&root.join("matrix"))?;
        let layers = matrix
            .settings
            .layers
            .iter()
            .map(|name| Layer::open(&root.join("layers").join(name), name))
            .collect::<Result<Vec<_>, _>>()?;
        let python = layers.iter().filter(|layer| matches!(layer.brick, Brick::Python(_))).count();
        if python > 1 {
            return Err(Error::Invalid {
                path: matrix.folder.join("matrix.toml"),
                problem: "`layers` names more than one layer of kind `python`: their requirements \
                          would have to be resolved together, so write them into one layer"
                    .into(),
            });
        }
        Ok(Self { matrix, layers })
    }

    /// Where the lock of `cell` lies.
    pub fn lock_path(&self, cell: &Cell) -> PathBuf {
        self.matrix.folder.join(&cell.path).join("lock.toml")
    }
}
