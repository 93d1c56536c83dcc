//! The words of the OCI image and distribution specifications, over `oci-spec` (pure).
//!
//! `oci-spec` types are used to *read*; whatever is written goes through [`json::to_canonical_vec`],
//! since those types hold hash maps and know only some fields. Base configs are edited as JSON
//! values and never re-typed.

pub mod decompress;
pub mod digest;
pub mod json;
pub mod media_type;
pub mod platform;
pub mod reference;
pub mod tar;

pub use digest::Digest;
pub use oci_spec::image::{Descriptor, ImageIndex, ImageManifest, MediaType};
pub use platform::Platform;
pub use reference::Reference;

/// A descriptor's digest as our type. `oci-spec` checked its grammar when it was parsed.
///
/// # Errors
/// The digest's algorithm is not one we can compute.
pub fn descriptor_digest(descriptor: &Descriptor) -> Result<Digest, digest::ParseError> {
    descriptor.digest().as_ref().parse()
}
