//! Chapter 3: what would be done, as a printable value (pure).
//!
//! Comes in: a request (recipe and lock) and a base's manifest and config. Goes out: a [`Plan`] that
//! names every file, layer, config change and destination. Nothing is fetched or built here.

use std::collections::BTreeMap;

use jiff::Timestamp;
use pep440_rs::Version;
use pep508_rs::PackageName;
use serde::Serialize;
use serde_json::json;

use crate::base::Base;
use crate::error::{Failure, Kind};
use crate::oci::{Digest, Platform, Reference, media_type};
use crate::python::metadata::exact_requirement;
use crate::recipe::layer::{Brick, ConfigRequest, Files};
use crate::recipe::lock::{BuildRequirement, Distribution};
use crate::request::{Check, Destination, Request};

mod deviations;

pub use deviations::{DEVIATIONS, Deviations, overridden};

/// The label that says how to see that an image starts: a command as JSON, or `off` if it was not to
/// be checked.
pub const START_CHECK: &str = "assemble.start-check";

/// What will be made of one cell for one platform.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Plan {
    /// `2.47.0/python3.13/alpine3.24`
    pub cell: String,
    /// The image's name.
    #[serde(serialize_with = "as_text")]
    pub reference: Reference,
    /// The floating tags that go with it when it is pushed.
    pub floating: Vec<String>,
    /// What it runs on.
    pub platform: Platform,
    /// What it stands on.
    pub base: PlannedBase,
    /// What compiles the C and C++ in sdists: its wheels, one for each machine that builds run on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compiler: Option<Distribution>,
    /// Everything that is installed, sorted by name.
    pub distributions: Vec<PlannedDistribution>,
    /// Bottom first, on top of the base's.
    pub layers: Vec<PlannedLayer>,
    /// What changes in the base's config.
    pub config: ConfigChange,
    /// On the manifest.
    pub annotations: BTreeMap<String, String>,
    /// The image's `created`.
    pub created: Timestamp,
    /// Where the image is not what its distributions' projects published, and why. The image says so
    /// itself, in the label [`DEVIATIONS`].
    pub deviations: Deviations,
    /// The command that shows that it starts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_check: Option<Vec<String>>,
    /// Where it goes.
    pub destinations: Vec<Destination>,
}

/// The base, as a plan shows it.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct PlannedBase {
    /// As the recipe names it.
    #[serde(serialize_with = "as_text")]
    pub reference: Reference,
    /// What the name stands for now, or is pinned to.
    pub digest: Digest,
    /// Whether the lock pins it.
    pub pinned: bool,
    /// Its `PYTHON_VERSION`.
    pub python: Version,
    /// How many layers it has.
    pub layers: usize,
    /// Their compressed bytes.
    pub size: u64,
}

impl PlannedBase {
    /// Major and minor version of its Python.
    pub fn python_minor(&self) -> (u8, u8) {
        let part = |position: usize| {
            let release = self.python.release();
            release.get(position).and_then(|part| u8::try_from(*part).ok()).unwrap_or_default()
        };
        (part(0), part(1))
    }
}

/// A distribution and the one file of it that is installed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct PlannedDistribution {
    /// Normalised name.
    pub name: PackageName,
    /// Version.
    pub version: Version,
    /// Wheel or sdist.
    pub file_name: String,
    /// Bytes of the file.
    pub size: u64,
    /// Over the file's bytes.
    pub sha256: Digest,
    /// sdists only: what the build needs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub build: Vec<BuildRequirement>,
    /// sdists only: what the build needs where it runs on another of the cell's platforms, if that is
    /// something else: programs for that one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub build_elsewhere: Vec<BuildElsewhere>,
    /// Whether the recipe asks for it itself (the `REQUESTED` file).
    pub requested: bool,
}

/// What the build of an sdist needs on these platforms.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct BuildElsewhere {
    /// As the lock has them.
    pub platforms: Vec<Platform>,
    /// The wheels.
    pub build: Vec<BuildRequirement>,
}

impl PlannedDistribution {
    /// The wheels that its build needs on `platform`, as far as the lock knows it.
    pub fn build_on(&self, platform: &Platform) -> &[BuildRequirement] {
        let is_it = |locked: &Platform| platform.matches(locked);
        let elsewhere = self.build_elsewhere.iter().find(|e| e.platforms.iter().any(is_it));
        elsewhere.map_or(&self.build, |found| &found.build)
    }

    /// Whether its file is a wheel and needs no build.
    pub fn is_wheel(&self) -> bool {
        crate::python::wheel_filename::is_wheel(&self.file_name)
    }
}

/// One of our layers.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct PlannedLayer {
    /// The folder below `layers/`.
    pub name: String,
    /// The history entry.
    pub created_by: String,
    /// What it is made of.
    pub content: Content,
}

/// What a layer is made of.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Content {
    /// All of the plan's distributions, with the plan's deviations.
    Python,
    /// Files of the layer's folder; templates are expanded.
    Files(Files),
}

/// What is changed in the base's config. `None` and absent mean: as the base has it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ConfigChange {
    /// Set: the base's `Cmd` is cleared, as a Dockerfile does.
    pub entrypoint: Option<Vec<String>>,
    /// Set after the entrypoint.
    pub cmd: Option<Vec<String>>,
    /// Set or replaced by name; values are final.
    pub env: BTreeMap<String, String>,
    /// `uid:gid`
    pub user: Option<String>,
    /// `WorkingDir`
    pub working_dir: Option<String>,
    /// Added: `8089/tcp`
    pub exposed_ports: Vec<String>,
    /// Added.
    pub volumes: Vec<String>,
    /// Added or replaced.
    pub labels: BTreeMap<String, String>,
    /// `StopSignal`
    pub stop_signal: Option<String>,
}

/// Why no plan can be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The tag says one Python, the base holds another.
    #[error("{cell} says python {wanted}, but {base} holds {found}")]
    OtherPython {
        /// The cell.
        cell: String,
        /// The path's Python.
        wanted: String,
        /// The base.
        base: Reference,
        /// Its `PYTHON_VERSION`, or why there is none.
        found: String,
    },
    /// A layer's file does not fit this cell or base.
    #[error("layer `{layer}`: {problem}")]
    Layer {
        /// The layer.
        layer: String,
        /// What is wrong.
        problem: String,
    },
    /// The exceptions and deviations do not fit this cell.
    #[error("{cell}: {problem}")]
    Cell {
        /// The cell.
        cell: String,
        /// What is wrong.
        problem: String,
    },
    /// The lock was to have a compiler and has none.
    #[error("the lock of {cell} names no compiler, though it was made for one")]
    NoCompiler {
        /// The cell.
        cell: String,
    },
    /// The lock has no file of a distribution for the platform.
    #[error("the lock has no file for {platform}")]
    NoFile {
        /// The platform.
        platform: Platform,
    },
}

impl Failure for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::OtherPython { .. } => Kind::Integrity,
            Self::Layer { .. } | Self::Cell { .. } => Kind::Usage,
            Self::NoCompiler { .. } | Self::NoFile { .. } => Kind::Drift,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::OtherPython { .. } => Some(
                "the path is the only place these facts stand: rename the cell's folder, or point \
                 `base` in matrix.toml at the right image"
                    .into(),
            ),
            Self::Layer { .. } | Self::Cell { .. } => None,
            Self::NoCompiler { .. } | Self::NoFile { .. } => {
                Some("run `assemble lock` for this cell again".into())
            }
        }
    }
}

/// Plans one cell for the platform of `base`.
///
/// # Errors
/// The base does not hold the Python that the cell's path says; a layer's templates do not fit.
pub fn plan(request: &Request, base: &Base) -> Result<Plan, Error> {
    let platform = &base.platform;
    let python = python_of(request, base)?;
    let distributions = distributions(request, platform)?;
    let layers = request
        .layers
        .iter()
        .map(|layer| {
            let content = match &layer.brick {
                Brick::Python(_) => Content::Python,
                Brick::Files(files) => Content::Files(
                    expand_files(files, request)
                        .map_err(|problem| Error::Layer { layer: layer.name.clone(), problem })?,
                ),
            };
            let created_by = match &content {
                Content::Python => {
                    format!("assemble: {}", request.lock.inputs.requirements.join(" "))
                }
                Content::Files(_) => format!("assemble: layers/{}", layer.name),
            };
            Ok(PlannedLayer { name: layer.name.clone(), created_by, content })
        })
        .collect::<Result<Vec<_>, Error>>()?;
    let mut config = ConfigChange::default();
    for layer in &request.layers {
        add_config(&mut config, &layer.config, request, base)
            .map_err(|problem| Error::Layer { layer: layer.name.clone(), problem })?;
    }
    if !request.lock.inputs.compiler.is_none() && request.lock.compiler.is_none() {
        return Err(Error::NoCompiler { cell: request.cell.path.clone() });
    }
    let created = created(request, base);
    let planned_base = PlannedBase {
        reference: base.reference.clone(),
        digest: base.digest,
        pinned: request.lock.base.is_some(),
        python,
        layers: base.manifest.layers().len(),
        size: base.manifest.layers().iter().map(oci_spec::image::Descriptor::size).sum(),
    };
    let cell = |problem| Error::Cell { cell: request.cell.path.clone(), problem };
    let deviations = Deviations::of(request, planned_base.python_minor()).map_err(cell)?;
    if deviations != Deviations::default() {
        config.labels.insert(DEVIATIONS.to_owned(), deviations.to_json().map_err(cell)?);
    }
    config.labels.insert(media_type::BASE_NAME.to_owned(), base.reference.to_string());
    config.labels.insert(media_type::BASE_DIGEST.to_owned(), base.digest.to_string());
    config.labels.insert(media_type::CREATED.to_owned(), created.to_string());
    let start_check = request.layers.iter().rev().find_map(|layer| layer.start_check.clone());
    match (request.check, &start_check) {
        (Check::Off, _) => drop(config.labels.insert(START_CHECK.to_owned(), "off".to_owned())),
        (_, Some(command)) => {
            drop(config.labels.insert(START_CHECK.to_owned(), json!(command).to_string()));
        }
        (_, None) => {}
    }
    config.labels.extend(request.annotations.clone());
    // Registries' pages read labels, other tools annotations: the image-spec's own keys are both.
    let annotations = config
        .labels
        .iter()
        .filter(|(key, _)| key.starts_with("org.opencontainers.image."))
        .map(|(key, value)| (key.clone(), value.clone()))
        .chain(request.annotations.clone())
        .collect();
    Ok(Plan {
        cell: request.cell.path.clone(),
        reference: request.cell.reference.clone(),
        floating: request
            .cell
            .floating
            .iter()
            .filter_map(|reference| reference.tag().map(str::to_owned))
            .collect(),
        platform: platform.clone(),
        base: planned_base,
        compiler: request.lock.compiler.clone(),
        distributions,
        layers,
        config,
        annotations,
        created,
        deviations,
        start_check,
        destinations: request.destinations.clone(),
    })
}

/// The base's Python version, which must be the one that the cell's path states.
fn python_of(request: &Request, base: &Base) -> Result<Version, Error> {
    let other = |found: String| Error::OtherPython {
        cell: request.cell.path.clone(),
        wanted: request.cell.python().to_owned(),
        base: base.reference.clone(),
        found,
    };
    let text = base.env("PYTHON_VERSION").ok_or_else(|| {
        other("no Python that it names (there is no PYTHON_VERSION in its config)".to_owned())
    })?;
    let version: Version =
        text.parse().map_err(|_ignored| other(format!("PYTHON_VERSION `{text}`")))?;
    let minor: String =
        version.release().iter().take(2).map(u64::to_string).collect::<Vec<_>>().join(".");
    if minor == request.cell.python() { Ok(version) } else { Err(other(version.to_string())) }
}

fn distributions(
    request: &Request,
    platform: &Platform,
) -> Result<Vec<PlannedDistribution>, Error> {
    // The base's own words may be more precise: `linux/arm64/v8` for `linux/arm64`.
    let locked = request.lock.inputs.platforms.iter().find(|locked| platform.matches(locked));
    let Some(locked) = locked else {
        return Err(Error::NoFile { platform: platform.clone() });
    };
    let requested: Vec<PackageName> = request
        .lock
        .inputs
        .requirements
        .iter()
        .filter_map(|text| exact_requirement(text).ok())
        .map(|requirement| requirement.name)
        .collect();
    let mut planned: Vec<_> = request
        .lock
        .distributions
        .iter()
        .filter_map(|distribution| {
            let file = distribution.files.iter().find(|file| file.is_for(locked))?;
            Some(PlannedDistribution {
                name: distribution.name.clone(),
                version: distribution.version.clone(),
                file_name: file.file_name.clone(),
                size: file.size,
                sha256: file.sha256,
                build: file.build.clone(),
                build_elsewhere: distribution
                    .files
                    .iter()
                    .filter(|other| other.sha256 == file.sha256 && other.build != file.build)
                    .map(|other| BuildElsewhere {
                        platforms: other.platforms.clone(),
                        build: other.build.clone(),
                    })
                    .collect(),
                requested: requested.contains(&distribution.name),
            })
        })
        .collect();
    planned.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(planned)
}

fn expand_files(files: &Files, request: &Request) -> Result<Files, String> {
    let mut files = files.clone();
    for file in &mut files.files {
        for value in file.substitute.values_mut() {
            *value = request.cell.columns.expand(value).map_err(|error| error.to_string())?;
        }
    }
    Ok(files)
}

/// Adds what a layer asks for; a later layer wins, as a later Dockerfile line does.
fn add_config(
    config: &mut ConfigChange,
    asked: &ConfigRequest,
    request: &Request,
    base: &Base,
) -> Result<(), String> {
    fn set<T: Clone>(change: &mut Option<T>, asked: Option<&T>) {
        if let Some(asked) = asked {
            *change = Some(asked.clone());
        }
    }
    set(&mut config.entrypoint, asked.entrypoint.as_ref());
    set(&mut config.cmd, asked.cmd.as_ref());
    set(&mut config.user, asked.user.as_ref());
    set(&mut config.working_dir, asked.working_dir.as_ref());
    set(&mut config.stop_signal, asked.stop_signal.as_ref());
    config.exposed_ports.extend(asked.exposed_ports.iter().cloned());
    config.volumes.extend(asked.volumes.iter().cloned());
    for list in [&mut config.exposed_ports, &mut config.volumes] {
        list.sort();
        list.dedup();
    }
    for (name, value) in &asked.env {
        let expanded = expand_variables(value, |variable| {
            config.env.get(variable).map(String::as_str).or_else(|| base.env(variable))
        })?;
        config.env.insert(name.clone(), expanded);
    }
    for (key, template) in &asked.labels {
        let value = request.cell.columns.expand(template).map_err(|error| error.to_string())?;
        config.labels.insert(key.clone(), value);
    }
    Ok(())
}

/// `$NAME` becomes the variable's value so far; it must have one. `$$` is a dollar sign.
fn expand_variables<'a>(
    text: &str,
    value: impl Fn(&str) -> Option<&'a str>,
) -> Result<String, String> {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        if let Some(after) = after.strip_prefix('$') {
            out.push('$');
            rest = after;
            continue;
        }
        let end =
            after.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(after.len());
        let (name, tail) = after.split_at(end);
        out.push_str(
            value(name).ok_or_else(|| format!("`{text}`: the base has no variable `{name}`"))?,
        );
        rest = tail;
    }
    out.push_str(rest);
    Ok(out)
}

/// The image's time: `SOURCE_DATE_EPOCH`, else the newest of what went in. Never "now".
fn created(request: &Request, base: &Base) -> Timestamp {
    request.created.unwrap_or_else(|| {
        let base_created =
            base.config.get("created").and_then(|value| value.as_str()?.parse().ok());
        let newest = [request.lock.newest_upload(), base_created].into_iter().flatten().max();
        let second = newest.map_or(0, Timestamp::as_second);
        Timestamp::from_second(second).unwrap_or(Timestamp::UNIX_EPOCH)
    })
}

fn as_text<S: serde::Serializer>(reference: &Reference, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(reference)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_need_a_value() {
        let value = |name: &str| (name == "PATH").then_some("/bin");
        assert_eq!(expand_variables("/x:$PATH", value).unwrap(), "/x:/bin");
        assert_eq!(expand_variables("$PATH:$$5", value).unwrap(), "/bin:$5");
        assert_eq!(
            expand_variables("$HOME", value).unwrap_err(),
            "`$HOME`: the base has no variable `HOME`"
        );
    }
}
