//! Why an image could not be made, or is not one.

use crate::error::{Failure, Kind};
use crate::oci::{Descriptor, Digest, Platform};

use super::validate::Problem;

/// The base, the layers and the changes do not make an image.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The base's config is not an image config.
    #[error("the base's config cannot be edited: `{field}` is not {expected}")]
    Config {
        /// Where in the config.
        field: &'static str,
        /// What must be there.
        expected: &'static str,
    },
    /// The base's config is for another platform than was asked for.
    #[error("the base's config is for {found}, not for {expected}")]
    Platform {
        /// What was asked for.
        expected: Box<Platform>,
        /// What the config says.
        found: Box<Platform>,
    },
    /// Manifest and config of the base disagree.
    #[error("the base's manifest has {layers} layers, but its config has {diff_ids} diff_ids")]
    DiffIds {
        /// Of the manifest.
        layers: usize,
        /// Of the config.
        diff_ids: usize,
    },
    /// The base's history speaks of layers that are not there.
    #[error(
        "the base's history has {entries} entries with a layer, but the base has {layers} layers"
    )]
    History {
        /// Entries that are not `empty_layer`.
        entries: usize,
        /// Layers of the base.
        layers: usize,
    },
    /// A layer whose bytes may not be passed on, or of an unknown kind.
    #[error("layer {digest} of the base cannot be used: its media type is `{media_type}`")]
    LayerType {
        /// Of the layer.
        digest: Digest,
        /// As the manifest has it.
        media_type: String,
    },
    /// A digest in the base's manifest is not a sha256 digest.
    #[error("the base's manifest cannot be used")]
    Digest(#[from] crate::oci::digest::ParseError),
    /// More layers than container runtimes mount.
    #[error("the image would have {0} layers; runtimes take at most {max}", max = super::LAYERS_MAX)]
    TooManyLayers(usize),
    /// A manifest or index that registries refuse.
    #[error("the image's manifest would have {0} bytes; registries take at most {max}", max = super::MANIFEST_MAX)]
    TooLarge(usize),
    /// A change that no config can carry.
    #[error("{what} cannot be set in an image config: `{value}`")]
    Change {
        /// `an exposed port`
        what: &'static str,
        /// As given.
        value: String,
    },
    /// An artifact of nothing.
    #[error("there is no image to write")]
    NoImage,
    /// Two images for one platform.
    #[error("there are two images for {0}")]
    DuplicatePlatform(Box<Platform>),
    /// What was read or written is not a valid image.
    #[error("{what} is not a valid image: {}", first(problems))]
    Invalid {
        /// Which document was asked about.
        what: String,
        /// All that is wrong, in the order it was found; never empty.
        problems: Vec<Problem>,
    },
    /// A JSON document could not be written or read back.
    #[error("a document of the image cannot be written")]
    Json(#[from] serde_json::Error),
}

fn first(problems: &[Problem]) -> String {
    match problems {
        [] => String::new(),
        [only] => only.to_string(),
        [first, rest @ ..] => format!("{first} (and {} more)", rest.len()),
    }
}

impl Error {
    pub(super) fn not_a_string(field: &'static str) -> Self {
        Self::Config { field, expected: "a string" }
    }

    pub(super) fn layer_type(descriptor: &Descriptor, digest: Digest) -> Self {
        Self::LayerType { digest, media_type: descriptor.media_type().to_string() }
    }
}

impl Failure for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::Config { .. }
            | Self::DiffIds { .. }
            | Self::History { .. }
            | Self::Digest(_)
            | Self::Invalid { .. } => Kind::Integrity,
            Self::Platform { .. }
            | Self::LayerType { .. }
            | Self::TooManyLayers(_)
            | Self::TooLarge(_) => Kind::Unsatisfiable,
            Self::Change { .. } | Self::NoImage | Self::DuplicatePlatform(_) => Kind::Usage,
            Self::Json(_) => Kind::Unexpected,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Invalid { problems, .. } if problems.len() > 1 => {
                Some(problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
            }
            Self::LayerType { .. } => Some(
                "choose a base whose layers are tar, gzip or zstd and may be distributed".into(),
            ),
            _ => None,
        }
    }
}
