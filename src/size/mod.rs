//! What an image's bytes are: by layer, by distribution, by file, and what pruning took.
//!
//! Comes in: the base, the finished layers in the store, and the figures of the installed
//! distributions. Goes out: a [`Report`], and a page to explore it ([`page`]). The layers are read back
//! from the store, so what is reported is what is shipped.
//!
//! *Unpacked* is the bytes of files. *Compressed* is true for layers; a file's or distribution's part
//! of its layer is an estimate: every file is deflated alone, and the layer's true size is divided in
//! that proportion.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::base::Base;
use crate::error::{Failure, Kind as Fault};
use crate::layers::{Installed, Layer};
use crate::oci::{Digest, descriptor_digest, digest};
use crate::plan::Plan;
use crate::store::Store;

mod kind;
mod page;
mod read;
mod tree;

pub use kind::Kind;
pub use page::page;
pub use tree::Node;

/// What an image's bytes are. Sizes are bytes.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Report {
    /// The cell's path.
    pub cell: String,
    /// The image's full name.
    pub reference: String,
    /// What it runs on.
    pub platform: String,
    /// All layers.
    pub image: Weight,
    /// The layers on top of the base.
    pub added: Weight,
    /// Bottom first, the base's layers before ours.
    pub layers: Vec<LayerWeight>,
    /// The largest first: distributions, and what else lies in our layers under the layer's name.
    pub distributions: Vec<Share>,
    /// What each rule of the layers' files took, in their order.
    pub pruned: Vec<PrunedRule>,
    /// Everything as a tree: layers, distributions, folders, files.
    #[serde(skip)]
    pub tree: Node,
}

/// How much something is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Weight {
    /// Regular files.
    pub files: u64,
    /// Their bytes.
    pub unpacked: u64,
    /// Bytes of the compressed layer, or an estimated part of them.
    pub compressed: u64,
}

/// One layer.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct LayerWeight {
    /// The folder below `layers/`, or what the base's history says made it.
    pub name: String,
    /// Of its compressed bytes.
    pub digest: Digest,
    /// Whether it is the base's.
    pub is_base: bool,
    /// How much it is.
    #[serde(flatten)]
    pub weight: Weight,
}

/// One distribution, or the rest of a layer.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Share {
    /// Its name as its `.dist-info` has it; the layer's for what no RECORD lists.
    pub name: String,
    /// Its version.
    pub version: Option<String>,
    /// The layer it lies in.
    pub layer: String,
    /// How much it is; `compressed` is an estimate.
    #[serde(flatten)]
    pub weight: Weight,
    /// Unpacked bytes that pruning took from it.
    pub pruned: u64,
}

/// What one rule took.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct PrunedRule {
    /// The rule's patterns.
    pub paths: Vec<String>,
    /// Why.
    pub reason: String,
    /// Files.
    pub files: u64,
    /// Their unpacked bytes.
    pub bytes: u64,
    /// Unpacked bytes by distribution.
    pub from: BTreeMap<String, u64>,
}

/// Why an image could not be weighed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A layer cannot be read.
    #[error("layer {layer} cannot be read")]
    Read {
        /// Which.
        layer: Digest,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A digest in the base's manifest is not one we can check.
    #[error(transparent)]
    Digest(#[from] digest::ParseError),
}

impl Failure for Error {
    fn kind(&self) -> Fault {
        Fault::Unexpected
    }
}

/// Weighs the image of `plan` on `base`: `layers` are the plan's, in its order, and `installed` the
/// figures of their distributions. All layers lie in the store.
///
/// # Errors
/// A layer is absent from the store or cannot be read.
pub fn weigh(
    plan: &Plan,
    base: &Base,
    layers: &[Layer],
    installed: &[Installed],
    store: &Store,
) -> Result<Report, Error> {
    let mut report = Report {
        cell: plan.cell.clone(),
        reference: plan.reference.to_string(),
        platform: plan.platform.to_string(),
        image: Weight::default(),
        added: Weight::default(),
        layers: Vec::new(),
        distributions: Vec::new(),
        pruned: pruned(plan, installed),
        tree: Node::group(plan.reference.to_string()),
    };
    for (descriptor, name) in base.manifest.layers().iter().zip(base_names(base)) {
        let digest = descriptor_digest(descriptor)?;
        let (files, unpacked) = read::sums(&digest, store)?;
        let weight = Weight { files, unpacked, compressed: descriptor.size() };
        report.tree.children.push(Node::leaf(name.clone(), weight, Kind::Base));
        report.layers.push(LayerWeight { name, digest, is_base: true, weight });
    }
    for (planned, layer) in plan.layers.iter().zip(layers) {
        let digest = descriptor_digest(&layer.descriptor)?;
        let files = read::files(&digest, store)?;
        let compressed = layer.descriptor.size();
        let (shares, node) = divide(&planned.name, files, compressed, installed);
        let weight = Weight { files: node.files(), unpacked: node.unpacked, compressed };
        report.added = report.added.plus(weight);
        report.distributions.extend(shares);
        report.tree.children.push(node);
        let name = planned.name.clone();
        report.layers.push(LayerWeight { name, digest, is_base: false, weight });
    }
    for layer in &report.layers {
        report.image = report.image.plus(layer.weight);
    }
    report.distributions.sort_by(|a, b| {
        let size = |share: &Share| (share.weight.unpacked, share.weight.compressed);
        size(b).cmp(&size(a)).then_with(|| a.name.cmp(&b.name))
    });
    report.tree.finish();
    Ok(report)
}

impl Weight {
    fn plus(self, other: Self) -> Self {
        Self {
            files: self.files + other.files,
            unpacked: self.unpacked + other.unpacked,
            compressed: self.compressed + other.compressed,
        }
    }
}

/// A layer's files by owner: one share each, and the layer as a node.
fn divide(
    layer: &str,
    files: Vec<read::File>,
    compressed: u64,
    installed: &[Installed],
) -> (Vec<Share>, Node) {
    let all: u64 = files.iter().map(|file| file.deflated).sum();
    let estimate = |deflated: u64| {
        let share = u128::from(compressed) * u128::from(deflated) / u128::from(all.max(1));
        u64::try_from(share).unwrap_or(compressed)
    };
    let mut owners: BTreeMap<Option<(String, String)>, Vec<read::File>> = BTreeMap::new();
    for file in files {
        owners.entry(file.owner.clone()).or_default().push(file);
    }
    let mut shares = Vec::new();
    let mut node = Node::group(layer.to_owned());
    for (owner, files) in owners {
        let weight = Weight {
            files: files.len() as u64,
            unpacked: files.iter().map(|file| file.unpacked).sum(),
            compressed: estimate(files.iter().map(|file| file.deflated).sum()),
        };
        let figures = owner.as_ref().and_then(|(name, _)| {
            installed.iter().find(|figures| normalised(figures.name.as_ref()) == normalised(name))
        });
        let pruned =
            figures.map_or(0, |figures| figures.pruned.iter().map(|rule| rule.bytes).sum());
        let mut below = tree::of_files(&files, estimate);
        let layer = layer.to_owned();
        if let Some((name, version)) = owner {
            below.name = format!("{name} {version}");
            node.children.push(below);
            shares.push(Share { name, version: Some(version), layer, weight, pruned });
        } else {
            // Not anybody's: it lies in the layer itself.
            node.children.extend(below.children);
            shares.push(Share { name: layer.clone(), version: None, layer, weight, pruned });
        }
    }
    node.finish();
    // What rounding lost is the archive's own.
    node.compressed = compressed;
    (shares, node)
}

/// PEP 503, as far as names of `.dist-info` folders differ from it.
fn normalised(name: &str) -> String {
    name.to_ascii_lowercase().replace(['_', '.'], "-")
}

fn pruned(plan: &Plan, installed: &[Installed]) -> Vec<PrunedRule> {
    plan.deviations
        .prune
        .iter()
        .enumerate()
        .map(|(number, rule)| {
            let mut taken = PrunedRule {
                paths: rule.paths.clone(),
                reason: rule.reason.clone(),
                files: 0,
                bytes: 0,
                from: BTreeMap::new(),
            };
            for figures in installed {
                let Some(pruned) = figures.pruned.get(number).filter(|rule| rule.files > 0) else {
                    continue;
                };
                taken.files += pruned.files;
                taken.bytes += pruned.bytes;
                taken.from.insert(figures.name.to_string(), pruned.bytes);
            }
            taken
        })
        .collect()
}

/// What made each layer of the base, by its history; numbers where it says nothing.
fn base_names(base: &Base) -> Vec<String> {
    let history = base.config["history"].as_array();
    let mut made = history
        .into_iter()
        .flatten()
        .filter(|entry| entry["empty_layer"].as_bool() != Some(true))
        .map(|entry| entry["created_by"].as_str().unwrap_or_default().trim());
    let count = base.manifest.layers().len();
    (1..=count)
        .map(|number| {
            let words = made.next().unwrap_or_default();
            let words = words.strip_prefix("/bin/sh -c #(nop) ").unwrap_or(words).trim();
            let words = words.trim_start_matches("RUN /bin/sh -c ");
            let end = words.char_indices().nth(48).map_or(words.len(), |(end, _)| end);
            let short = words[..end].split_whitespace().collect::<Vec<_>>().join(" ");
            let dots = if end < words.len() { "…" } else { "" };
            match short.as_str() {
                "" => format!("base layer {number}"),
                short => format!("base layer {number}: {short}{dots}"),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests;
