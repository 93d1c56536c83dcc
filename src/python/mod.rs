//! The words of the PyPA specifications (pure). Versions, specifiers, markers and requirements are
//! `pep440_rs`'s and `pep508_rs`'s.

pub mod entry_points;
pub mod metadata;
pub mod record;
pub mod releases;
pub mod tags;
pub mod target;
pub mod wheel_filename;

pub use entry_points::EntryPoints;
pub use metadata::CoreMetadata;
pub use tags::Tags;
pub use target::Target;
pub use wheel_filename::{WheelFilename, WheelTags};
