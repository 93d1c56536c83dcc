#![doc = include_str!("ARCHITECTURE.md")]

pub mod assemble;
pub mod error;
pub mod request;
pub mod world;

pub mod base;
pub mod check;
pub mod destination;
pub mod gate;
pub mod image;
pub mod layers;
pub mod plan;
pub mod recipe;
pub mod resolve;
pub mod size;

pub mod beside;
pub mod http;
pub mod oci;
pub mod package_index;
pub mod python;
pub mod registry;
pub mod room;
pub mod sandbox;
pub mod store;
pub mod wheel_cache;

pub mod cli;

pub use error::{Error, Failure, Kind, Result};
