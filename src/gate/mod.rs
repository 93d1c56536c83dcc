//! Before anything is published: whether our layers fit the base, and are what they say.
//!
//! What a layer holds is read from its tar once and kept as an [`inventory`]; [`abi`] and [`files`]
//! look at inventories only. The base's layers are fetched for it only if a file of ours needs
//! something that neither our layers nor the C library bring: wheels that bundle everything cost
//! no download.

use crate::base::{self, Base};
use crate::layers::Layer;
use crate::oci::{Descriptor, Digest, Platform, descriptor_digest};
use crate::python::target::{Libc, Target};
use crate::world::World;

pub mod abi;
pub mod elf;
pub mod error;
pub mod files;
#[cfg(test)]
pub(crate) mod fixture;
pub mod inventory;
pub mod owners;

pub use error::{Error, Finding};
use inventory::{Inventory, StoredLayer};

/// What was looked at, and how far.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Report {
    /// ELF files of our layers.
    pub elf_files: usize,
    /// Whether the base's own files were known: if not, what depends on them was left out.
    pub base_known: bool,
    /// Whether RECORDs, commands, scripts and links were looked at too.
    pub files_checked: bool,
}

/// The C library, machine and Python that a cell's path and platform stand for.
///
/// # Errors
/// One of them is not known here.
pub fn target(python: &str, os: &str, base: &Base) -> Result<Target, Error> {
    Ok(Target::new(python, os, &base.platform)?)
}

/// Checks `layers` on top of `base`: every ELF file always, the rest if `with_files`.
///
/// # Errors
/// [`Error::Refused`] names each file that the base cannot load, [`Error::Untrue`] each that is not
/// what it says; [`Error::OtherOs`] if the base is not the OS of the target; or a layer cannot be had
/// or read.
pub async fn check(
    layers: &[Layer],
    base: &Base,
    (target, os): (&Target, &str),
    with_files: bool,
    world: &World,
) -> Result<Report, Error> {
    let layers = layers
        .iter()
        .map(|layer| {
            let digest = descriptor_digest(&layer.descriptor)?;
            Ok(StoredLayer { digest, diff_id: layer.diff_id })
        })
        .collect::<Result<Vec<_>, Error>>()?;
    let Some(ours) = read(layers.clone(), world).await? else {
        let absent =
            layers.into_iter().find(|layer| !world.store.blob_path(&layer.digest).exists());
        return Err(absent.map_or(Error::Cancelled, |layer| Error::Absent(layer.digest)));
    };
    let of_base = inventory::layers_of(base)?;
    let mut below = read(of_base.clone(), world).await?;
    let mut verdict = abi::check(&ours, below.as_ref(), target);
    if verdict.base_decides {
        world.progress.step("reading the base's files: a library is looked for there");
        base::fetch_layers(base, world).await?;
        below = read(of_base, world).await?;
        verdict = abi::check(&ours, below.as_ref(), target);
    }
    if let Some(below) = &below {
        agrees(below, target, os, base)?;
    }
    if !verdict.findings.is_empty() {
        return Err(Error::Refused { platform: base.platform.clone(), findings: verdict.findings });
    }
    if with_files {
        let findings = files::check(&ours, below.as_ref());
        if !findings.is_empty() {
            return Err(Error::Untrue { findings });
        }
    }
    Ok(Report { elf_files: verdict.files, base_known: below.is_some(), files_checked: with_files })
}

/// Checks the `own` topmost layers of an image whose layers are all in the store. Its OS and Python
/// are what its files and config say.
///
/// # Errors
/// As [`check`].
pub async fn check_image(
    layers: &[(Descriptor, Digest)],
    own: usize,
    config: &serde_json::Value,
    platform: &Platform,
    world: &World,
) -> Result<Report, Error> {
    let layers = layers
        .iter()
        .map(|(layer, diff_id)| {
            Ok(StoredLayer { digest: descriptor_digest(layer)?, diff_id: *diff_id })
        })
        .collect::<Result<Vec<_>, Error>>()?;
    let (below, ours) = layers.split_at(layers.len().saturating_sub(own));
    let (Some(below), Some(ours)) =
        (read(below.to_vec(), world).await?, read(ours.to_vec(), world).await?)
    else {
        return Err(layers.first().map_or(Error::Cancelled, |layer| Error::Absent(layer.digest)));
    };
    if own == 0 {
        return Ok(Report { elf_files: 0, base_known: true, files_checked: false });
    }
    let variables = config["config"]["Env"].as_array();
    let python = variables
        .into_iter()
        .flatten()
        .find_map(|entry| entry.as_str()?.strip_prefix("PYTHON_VERSION="))
        .unwrap_or_default();
    let text = below.file("/etc/os-release").and_then(|file| file.text.as_deref());
    let target = Target::new(python, &os_release(text.unwrap_or_default()).name(), platform)?;
    let verdict = abi::check(&ours, Some(&below), &target);
    if !verdict.findings.is_empty() {
        return Err(Error::Refused { platform: platform.clone(), findings: verdict.findings });
    }
    let findings = files::check(&ours, Some(&below));
    if !findings.is_empty() {
        return Err(Error::Untrue { findings });
    }
    Ok(Report { elf_files: verdict.files, base_known: true, files_checked: true })
}

async fn read(layers: Vec<StoredLayer>, world: &World) -> Result<Option<Inventory>, Error> {
    let store = world.store.clone();
    match tokio::task::spawn_blocking(move || Inventory::of(&layers, &store)).await {
        Ok(result) => result,
        Err(failed) => match failed.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_cancelled) => Err(Error::Cancelled),
        },
    }
}

/// Whether the base's own files say the OS and the C library that the cell's path says.
fn agrees(below: &Inventory, target: &Target, os: &str, base: &Base) -> Result<(), Error> {
    let other = |found: String| Error::OtherOs {
        wanted: os.to_owned(),
        base: base.reference.to_string(),
        found,
    };
    let is_musl = below
        .files()
        .any(|(path, _)| path.rsplit('/').next().is_some_and(|name| name.starts_with("ld-musl-")));
    match (target.libc, is_musl) {
        (Libc::Musl { .. }, false) => {
            return Err(other("without musl's loader".to_owned()));
        }
        (Libc::Glibc { .. }, true) => return Err(other("on musl".to_owned())),
        _ => {}
    }
    let text = below.file("/etc/os-release").and_then(|file| file.text.as_deref());
    match text.map(os_release) {
        Some(found) if !is_os(&found, os) => {
            Err(other(format!("`{} {}`", found.id, found.version)))
        }
        // A base without the file says nothing.
        _ => Ok(()),
    }
}

/// What `/etc/os-release` says (os-release(5)).
#[derive(Debug, Default, PartialEq, Eq)]
struct OsRelease {
    id: String,
    version: String,
    names: String,
}

fn os_release(text: &str) -> OsRelease {
    let value = |key: &str| {
        text.lines()
            .filter_map(|line| line.split_once('='))
            .find(|(found, _)| found.trim() == key)
            .map(|(_, value)| value.trim().trim_matches(['"', '\'']).to_owned())
            .unwrap_or_default()
    };
    OsRelease {
        id: value("ID"),
        version: value("VERSION_ID"),
        names: format!("{} {}", value("VERSION_CODENAME"), value("VERSION")),
    }
}

impl OsRelease {
    /// `alpine3.24`, `bookworm`: as tags of bases have it.
    fn name(&self) -> String {
        if self.id == "alpine" {
            let release: Vec<&str> = self.version.splitn(3, ['.', '_']).take(2).collect();
            return format!("alpine{}", release.join("."));
        }
        self.names.split_whitespace().next().unwrap_or_default().to_owned()
    }
}

/// Whether that is `alpine3.24`, `slim-bookworm`, …
fn is_os(found: &OsRelease, os: &str) -> bool {
    if let Some(release) = os.strip_prefix("alpine") {
        let version = found.version.strip_prefix(release);
        return found.id == "alpine"
            && version.is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '_']));
    }
    let name = os.strip_prefix("slim-").unwrap_or(os);
    found.names.split(|c: char| !c.is_ascii_alphanumeric()).any(|word| word == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_base_says_what_it_is() {
        let alpine = os_release("NAME=\"Alpine Linux\"\nID=alpine\nVERSION_ID=3.24.1\n");
        let debian = os_release(
            "ID=debian\nVERSION_ID=\"12\"\nVERSION=\"12 (bookworm)\"\nVERSION_CODENAME=bookworm\n",
        );
        let jessie = os_release("ID=debian\nVERSION_ID=\"8\"\nVERSION=\"8 (jessie)\"\n");
        for (found, os, expected) in [
            (&alpine, "alpine3.24", true),
            (&alpine, "alpine3.2", false),
            (&alpine, "bookworm", false),
            (&debian, "slim-bookworm", true),
            (&debian, "bookworm", true),
            (&debian, "trixie", false),
            (&debian, "alpine3.24", false),
            (&jessie, "slim-jessie", true),
        ] {
            assert_eq!(is_os(found, os), expected, "{found:?} {os}");
        }
        assert_eq!(alpine.name(), "alpine3.24");
        assert_eq!(debian.name(), "bookworm");
    }
}
