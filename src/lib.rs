#![doc = include_str!("ARCHITECTURE.md")]

pub mod error;




pub use error::{Error, Failure, Kind, Result};
