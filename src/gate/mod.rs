//! Before anything is published: whether our layers fit the base, and are what they say.
//!
//! What a layer holds is read once, from its tar or from the files that this run puts into it, and kept as
//! an [`inventory`]; [`abi`], [`files`], [`requirements`] and [`system`] look at inventories only, ours and
//! the base's. So the verdict is a
//! function of the layers, the base and the cell, and of nothing that happens to be on this machine:
//! where the base was never read before, its layers are fetched for it, once.

use std::collections::BTreeSet;
use std::panic::resume_unwind;
use std::thread;

use pep508_rs::PackageName;
use serde::{Deserialize, Serialize};

use crate::base::{self, Base};
use crate::layers::Outline;
use crate::oci::{Descriptor, Digest, Platform, descriptor_digest};
use crate::python::target::Target;
use crate::store;
use crate::world::{World, on_thread};

pub mod abi;
pub mod elf;
pub mod error;
pub mod files;
#[cfg(test)]
pub(crate) mod fixture;
pub mod inventory;
pub mod names;
pub mod owners;
mod read;
pub mod requirements;
pub mod stack;
pub mod system;

pub use error::{Error, Finding};
use inventory::Inventory;
use stack::Stack;
use system::System;

/// Records of what was found good are kept under this name. A key is over all that went in and
/// [`FORMAT`].
const VERDICTS: &str = "gate";
/// Raised whenever the same layers would be judged otherwise.
const FORMAT: &str = concat!(env!("CARGO_PKG_VERSION"), " gate 1");

/// What was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Report {
    /// ELF files of our layers.
    pub elf_files: usize,
    /// What the base is by its own files, with which all was compared: `` `alpine 3.24.1` on musl ``.
    pub base: String,
    /// Whether RECORDs, commands, scripts, links and requirements were looked at too.
    pub files_checked: bool,
    /// Projects whose requirements are not met, because the recipe overrides them; sorted.
    pub overridden: Vec<String>,
}

/// What a cell says of the image.
#[derive(Clone, Copy, Debug)]
pub struct Expected<'a> {
    /// What wheels were chosen for.
    pub target: &'a Target,
    /// The OS as the cell's path has it.
    pub os: &'a str,
    /// Projects that the recipe replaces or drops, whatever others require.
    pub overridden: &'a BTreeSet<PackageName>,
}

/// The C library, machine and Python that a cell's path and platform stand for.
///
/// # Errors
/// One of them is not known here.
pub fn target(python: &str, os: &str, base: &Base) -> Result<Target, Error> {
    Ok(Target::new(python, os, &base.platform)?)
}

/// Checks `layers` on top of `base`: every ELF file always, the rest if `with_files`. The base's layers
/// are fetched if they were never read before on this machine.
///
/// # Errors
/// [`Error::Refused`] names each file that the base cannot load, [`Error::Untrue`] each that is not
/// what it says, [`Error::Unmet`] each requirement that is not met; [`Error::OtherOs`] if the base is
/// not the OS of the target; or a layer cannot be had or read.
pub async fn check(
    layers: Vec<Outline>,
    base: &Base,
    cell: &Expected<'_>,
    with_files: bool,
    world: &World,
) -> Result<Report, Error> {
    let Expected { target, os, .. } = *cell;
    let of_base = inventory::layers_of(base)?;
    let key = verdict_key(&layers, &of_base, cell, with_files);
    if let Some(record) = world.store.record(VERDICTS, &key)?
        && let Ok(known) = serde_json::from_slice(&record)
    {
        return Ok(known);
    }
    let (below, ours) = tokio::join!(read_base(of_base, base, world), read(layers, world));
    let below = below?;
    let system = System::of(&below, target);
    system.agrees_with(target, os).map_err(|found| Error::OtherOs {
        wanted: os.to_owned(),
        base: base.reference.to_string(),
        found,
    })?;
    let report =
        judge(&ours?, &below, &system, (target, cell.overridden), (with_files, world.parallel))?;
    if let Ok(record) = serde_json::to_vec(&report) {
        world.store.put_record(VERDICTS, &key, &record)?;
    }
    Ok(report)
}

/// Over all that the verdict depends on; only good ones are kept.
fn verdict_key(
    ours: &[Outline],
    below: &[Outline],
    cell: &Expected<'_>,
    with_files: bool,
) -> Digest {
    let cell = format!("{cell:?} {with_files} {}", ours.len());
    let mut parts = vec![FORMAT.as_bytes(), cell.as_bytes()];
    parts.extend(ours.iter().chain(below).map(|layer| &layer.diff_id.as_bytes()[..]));
    store::key(&parts)
}

/// What lies in the base, whose layers are fetched if that is not known.
async fn read_base(layers: Vec<Outline>, base: &Base, world: &World) -> Result<Inventory, Error> {
    // Cells that stand on the same base read it once.
    let _turn = world.store.turn("inventory", &base::rootfs::key(&base.diff_ids)).await;
    match read(layers.clone(), world).await {
        Err(Error::Absent(_)) => {}
        outcome => return outcome,
    }
    world.progress.step("reading the base's files: what stands on them is compared with them");
    base::fetch_layers(base, world).await?;
    read(layers, world).await
}

fn judge(
    ours: &Inventory,
    below: &Inventory,
    base: &System,
    (target, overridden): (&Target, &BTreeSet<PackageName>),
    (with_files, parallel): (bool, usize),
) -> Result<Report, Error> {
    let stack = Stack::of(ours, below);
    let (verdict, rest) = thread::scope(|scope| {
        let rest = scope.spawn(|| {
            with_files
                .then(|| (files::check(&stack), requirements::check(&stack, target, overridden)))
        });
        let verdict = abi::check(&stack, target, parallel);
        (verdict, rest.join().unwrap_or_else(|panic| resume_unwind(panic)))
    });
    if !verdict.findings.is_empty() {
        let platform = target.platform.clone();
        return Err(Error::Refused { platform, findings: verdict.findings });
    }
    let mut report = Report {
        elf_files: verdict.files,
        base: base.to_string(),
        files_checked: with_files,
        overridden: Vec::new(),
    };
    if let Some((findings, unmet)) = rest {
        if !findings.is_empty() {
            return Err(Error::Untrue { findings });
        }
        if !unmet.findings.is_empty() {
            return Err(Error::Unmet { findings: unmet.findings });
        }
        report.overridden = unmet.overridden.iter().map(ToString::to_string).collect();
    }
    Ok(report)
}

/// Checks the `own` topmost layers of an image whose layers are all in the store. Its OS and Python
/// are what its files and config say.
///
/// # Errors
/// As [`check`].
pub async fn check_image(
    layers: &[(Descriptor, Digest)],
    own: usize,
    (config, overridden): (&serde_json::Value, &BTreeSet<PackageName>),
    platform: &Platform,
    world: &World,
) -> Result<Report, Error> {
    let layers = layers
        .iter()
        .map(|(layer, diff_id)| {
            let digest = descriptor_digest(layer)?;
            Ok(Outline { digest: Some(digest), diff_id: *diff_id, parts: None })
        })
        .collect::<Result<Vec<_>, Error>>()?;
    let (below, ours) = layers.split_at(layers.len().saturating_sub(own));
    let below = read(below.to_vec(), world).await?;
    let ours = read(ours.to_vec(), world).await?;
    let variables = config["config"]["Env"].as_array();
    let python = variables
        .into_iter()
        .flatten()
        .find_map(|entry| entry.as_str()?.strip_prefix("PYTHON_VERSION="))
        .unwrap_or_default();
    if own == 0 {
        return Ok(Report {
            elf_files: 0,
            base: String::new(),
            files_checked: false,
            overridden: Vec::new(),
        });
    }
    let target = Target::new(python, &system::os_of(&below), platform)?;
    let system = System::of(&below, &target);
    judge(&ours, &below, &system, (&target, overridden), (true, world.parallel))
}

async fn read(layers: Vec<Outline>, world: &World) -> Result<Inventory, Error> {
    let (store, parallel) = (world.store.clone(), world.parallel);
    on_thread(move || Inventory::of(&layers, &store, parallel)).await
}
