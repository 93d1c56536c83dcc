//! The story: base → resolve → plan → layers → image → destination.

use std::collections::BTreeMap;
use std::path::Path;

use jiff::Timestamp;
use pep440_rs::Version;
use pep508_rs::PackageName;
use serde::Serialize;

use crate::base::{self, Base};
use crate::check::{self, Start, Subject};
use crate::destination;
use crate::error::{Doing, Result};
use crate::gate;
use crate::image::{self, Artifact, Image};
use crate::layers::{self, Built};
use crate::oci::{Digest, Platform, Reference};
use crate::plan::{self, Plan};
use crate::recipe::Cell;
use crate::recipe::lock::{BasePin, Inputs, Lock};
use crate::request::{Check, Destination, Request};
use crate::resolve::{self, Question};
use crate::size;
use crate::world::{Work, World, host_platform, on_thread};

/// What became of one cell.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Assembled {
    /// The cell's path.
    pub cell: String,
    /// The image's full name with tag.
    pub reference: String,
    /// What the tag names: the manifest's digest, or the index's if there are several platforms.
    pub digest: Digest,
    /// One per platform.
    pub images: Vec<AssembledImage>,
    /// The places it was written to, as text.
    pub written: Vec<String>,
}

/// One platform of an assembled cell. Sizes are bytes.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct AssembledImage {
    /// What it runs on.
    pub platform: Platform,
    /// The manifest's digest.
    pub digest: Digest,
    /// What it stands on: `docker.io/library/python:3.13-alpine3.24@sha256:…`.
    pub base: String,
    /// Whether the lock pins that. If not, the same build may give another image tomorrow.
    pub base_pinned: bool,
    /// Config and all layers, compressed.
    pub size: u64,
    /// The layers on top of the base, compressed.
    pub added_size: u64,
    /// The tars of the layers on top of the base.
    pub added_uncompressed_size: u64,
    /// The sdists among its distributions and how they became wheels.
    pub built: Vec<Built>,
    /// What was checked before it was written.
    pub checked: gate::Report,
    /// Whether it was seen to start.
    pub start: Start,
}

/// How often one cell is begun again because something in the cache was damaged.
const MOST_HEALINGS: usize = 8;

/// Assembles one cell, from the base image to the places it is written to.
///
/// The same request, lock and base digest give the same image digest on any machine. What was damaged
/// in the cache is made anew.
///
/// # Errors
/// Any room's, with what was being done.
pub async fn assemble(request: &Request, world: &World) -> Result<Assembled> {
    for _ in 0..MOST_HEALINGS {
        match attempt(request, world).await {
            Err(error) if error.heals() => {
                let cell = &request.cell.path;
                world.progress.notice(&format!("the cache was damaged: {cell} is begun again"));
            }
            outcome => return outcome,
        }
    }
    attempt(request, world).await
}

async fn attempt(request: &Request, world: &World) -> Result<Assembled> {
    let cell = &request.cell;
    let Ready { artifact, images, prepared } = Box::pin(make(request, world)).await?;
    let written = write(&artifact, request, prepared, world).await?;
    Ok(Assembled {
        cell: cell.path.clone(),
        reference: cell.reference.to_string(),
        digest: artifact.digest(),
        images,
        written,
    })
}

async fn write(
    artifact: &Artifact,
    request: &Request,
    prepared: destination::Prepared,
    world: &World,
) -> Result<Vec<String>> {
    let names = std::slice::from_ref(&request.cell.reference);
    destination::write(artifact, names, &request.destinations, prepared, world)
        .await
        .doing(|| format!("write {}", request.cell.reference))
}

/// A cell that may be published.
struct Ready {
    artifact: Artifact,
    images: Vec<AssembledImage>,
    prepared: destination::Prepared,
}

/// The images of a cell, checked, with all blobs in the store that their destinations need.
async fn make(request: &Request, world: &World) -> Result<Ready> {
    let cell = &request.cell;
    let mut images = Vec::new();
    let mut reports = Vec::new();
    let mut prepared = destination::Prepared::default();
    let platforms = platforms(request, world);
    for platform in &platforms {
        // What holds all platforms' images is written when they are there.
        let early = if platforms.len() == 1 { &request.destinations[..] } else { &[] };
        let (image, report, written) = assemble_platform(request, platform, early, world).await?;
        images.push(image);
        reports.push(report);
        prepared = written;
    }
    let artifact = Artifact::new(images).doing(|| format!("make the index of {}", cell.path))?;
    Ok(Ready { artifact, images: reports, prepared })
}

/// What is made of the request's platforms: archives alone hold one, this machine's if it is there.
fn platforms(request: &Request, world: &World) -> Vec<Platform> {
    let only_archives = !request.destinations.is_empty()
        && request.destinations.iter().all(|place| matches!(place, Destination::Archive(_)));
    let host = host_platform();
    let own = request.platforms.iter().find(|platform| platform.matches(&host));
    match own {
        Some(own) if only_archives && request.platforms.len() > 1 => {
            world.progress.notice(&format!(
                "an archive holds one platform: {own} is made (--platform selects another, \
                 --format oci makes all)"
            ));
            vec![own.clone()]
        }
        _ => request.platforms.clone(),
    }
}

async fn assemble_platform(
    request: &Request,
    platform: &Platform,
    early: &[Destination],
    world: &World,
) -> Result<(Image, AssembledImage, destination::Prepared)> {
    let cell = &request.cell;
    let base = stand_on(request, platform, world).await?;
    let plan = plan::plan(request, &base).doing(|| format!("plan {}", cell.path))?;
    let making = || format!("make the layers of {} for {platform}", cell.path);
    let made = layers::build(&plan, request, &base, world).await.doing(making)?;
    let base_comes_here =
        request.destinations.iter().any(Destination::is_on_disk) || request.check == Check::Start;
    if base_comes_here {
        Work::Fetch
            .time(&*world.progress, base::fetch_layers(&base, world))
            .await
            .doing(|| format!("fetch the layers of {}", base.reference))?;
    }
    let doing = || format!("check {} for {platform}", cell.path);
    let target = gate::target(cell.python(), cell.os(), &base).doing(doing)?;
    let with_files = request.check != Check::Off;
    let overridden = plan.deviations.overridden();
    let expected = gate::Expected { target: &target, os: cell.os(), overridden: &overridden };
    let checking = gate::check(made.outlines(), &base, &expected, with_files, world);
    let checking = Work::Check.time(&*world.progress, checking);
    let built = made.built.clone();
    let writing = async {
        let layers = made.join(world).await.doing(making)?;
        let image = image::stack(&base, &layers, &plan.config, &plan.annotations, plan.created)
            .doing(|| format!("stack the image of {} for {platform}", cell.path))?;
        let names = std::slice::from_ref(&cell.reference);
        let prepared = destination::prepare(&image, names, early, world).await;
        Ok::<_, crate::Error>((layers, image, prepared))
    };
    // What a layer holds is known before its bytes are in one place.
    let (made, checked) = tokio::join!(writing, checking);
    let (layers, image, prepared) = made?;
    let checked = checked.doing(doing)?;
    let prepared = prepared.doing(|| format!("write {}", cell.reference))?;
    let start = match (request.check, &plan.start_check) {
        (Check::Off, _) => Start::NotRun("--no-check".into()),
        (_, None) => Start::NotRun("no layer has a [check] command".into()),
        (Check::Cheap, Some(_)) if !base_comes_here => {
            Start::NotRun("the base is not on this machine; --check fetches it".into())
        }
        (_, Some(command)) => {
            let subject = Subject::of_image(&image).doing(doing)?;
            world.progress.step(&format!("starting {}", command.join(" ")));
            let starting = check::start(&subject, command, world);
            Work::Check.time(&*world.progress, starting).await.doing(doing)?
        }
    };
    let report = AssembledImage {
        platform: platform.clone(),
        digest: image.digest(),
        base: base.reference.with_digest(base.digest).to_string(),
        base_pinned: plan.base.pinned,
        size: image.size(),
        added_size: layers.iter().map(|layer| layer.descriptor.size()).sum(),
        added_uncompressed_size: layers.iter().map(|layer| layer.uncompressed_size).sum(),
        built,
        checked,
        start,
    };
    Ok((image, report, prepared))
}

/// What was found of an image that was made before.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Checked {
    /// As it was named.
    pub image: String,
    /// What it runs on.
    pub platform: Platform,
    /// Of its layers that `assemble` made.
    pub checked: gate::Report,
    /// Whether it starts.
    pub start: Start,
}

/// Checks every image in a layout or archive.
///
/// # Errors
/// It cannot be read, something in it is wrong, or it does not start.
pub async fn check_file(path: &Path, world: &World) -> Result<Vec<Checked>> {
    let name = path.display().to_string();
    let doing = || format!("check {name}");
    let (store, file) = (world.store.clone(), path.to_owned());
    let valid = on_thread(move || destination::import(&file, &store)).await.doing(doing)?;
    let mut checked = Vec::new();
    for image in &valid.images {
        let subject = Subject::of_store(&image.digest, &world.store).doing(doing)?;
        checked.push(check_subject(&name, &image.platform, &subject, world).await?);
    }
    Ok(checked)
}

/// Checks the image that a registry has for `platform`.
///
/// # Errors
/// It cannot be had, something in it is wrong, or it does not start.
pub async fn check_reference(
    reference: &Reference,
    platform: &Platform,
    world: &World,
) -> Result<Checked> {
    let doing = || format!("check {reference} for {platform}");
    let image = base::fetch(reference, None, platform, world).await.doing(doing)?;
    base::fetch_layers(&image, world).await.doing(doing)?;
    let subject = Subject::of_base(&image);
    check_subject(&reference.to_string(), &image.platform, &subject, world).await
}

async fn check_subject(
    name: &str,
    platform: &Platform,
    subject: &Subject,
    world: &World,
) -> Result<Checked> {
    let doing = || format!("check {name} for {platform}");
    let own = subject.own_layers();
    if own == 0 {
        world.progress.notice(&format!("{name}: no layer was made by assemble: none is looked at"));
    }
    let label = subject.config["config"]["Labels"][plan::DEVIATIONS].as_str();
    let overridden = plan::overridden(label.unwrap_or_default());
    let config = (&subject.config, &overridden);
    let checked =
        gate::check_image(&subject.layers, own, config, platform, world).await.doing(doing)?;
    let start = match subject.command(plan::START_CHECK) {
        Some(command) => check::start(subject, &command, world).await.doing(doing)?,
        None => Start::NotRun(format!("no label {} names a command", plan::START_CHECK)),
    };
    Ok(Checked { image: name.to_owned(), platform: platform.clone(), checked, start })
}

/// What [`assemble`] would do, for each platform; nothing is fetched but the base's manifest and
/// config.
///
/// # Errors
/// The base cannot be read, or the lock does not fit it.
pub async fn plan(request: &Request, world: &World) -> Result<Vec<Plan>> {
    let mut plans = Vec::new();
    for platform in &request.platforms {
        let base = stand_on(request, platform, world).await?;
        let planned = plan::plan(request, &base);
        plans.push(planned.doing(|| format!("plan {}", request.cell.path))?);
    }
    Ok(plans)
}

/// What the bytes of one platform's image are: its layers are made, nothing is written anywhere.
///
/// # Errors
/// As [`assemble`], and the base's layers must be there to be weighed.
pub async fn weigh(request: &Request, platform: &Platform, world: &World) -> Result<size::Report> {
    let doing = || format!("weigh {} for {platform}", request.cell.path);
    let base = stand_on(request, platform, world).await?;
    let plan = plan::plan(request, &base).doing(doing)?;
    let made = layers::build(&plan, request, &base, world).await.doing(doing)?;
    base::fetch_layers(&base, world).await.doing(doing)?;
    let store = world.store.clone();
    let installed = made.installed.clone();
    let layers = made.join(world).await.doing(doing)?;
    on_thread(move || size::weigh(&plan, &base, &layers, &installed, &store)).await.doing(doing)
}

async fn stand_on(request: &Request, platform: &Platform, world: &World) -> Result<Base> {
    let cell = &request.cell;
    let pin = request.lock.base.as_ref().map(|pin| &pin.digest);
    let fetching = base::fetch(&cell.base, pin, platform, world);
    Work::Fetch
        .time(&*world.progress, fetching)
        .await
        .doing(|| format!("read the base {} for {platform}", cell.base))
}

/// What a lock keeps of an older one, and what it may use.
#[derive(Clone, Debug, Default)]
pub struct LockOptions {
    /// The lock there is.
    pub older: Option<Lock>,
    /// Ignore the older lock's versions.
    pub upgrade: bool,
    /// Ignore the older lock's versions of these.
    pub upgrade_packages: Vec<PackageName>,
    /// Files uploaded later do not exist; else the cell's own limit, else the older lock's.
    pub exclude_newer: Option<Timestamp>,
    /// Ask the registry for the base's digest and pin it. Else an older pin stays.
    pub pin_base: bool,
}

/// Resolves one cell for its own Python, OS and platforms.
///
/// The same inputs, options and package index give the same lock.
///
/// # Errors
/// No resolution, or no server.
pub async fn lock(
    cell: &Cell,
    layers: &[crate::recipe::Layer],
    options: &LockOptions,
    world: &World,
) -> Result<Lock> {
    let doing = || format!("lock {}", cell.path);
    let targets = resolve::targets(cell).doing(doing)?;
    let mut inputs = resolve::inputs(cell, layers, &targets).doing(doing)?;
    let older = options.older.as_ref();
    inputs.exclude_newer = options
        .exclude_newer
        .or(inputs.exclude_newer)
        .or(older.and_then(|lock| lock.inputs.exclude_newer).filter(|_| !options.upgrade));
    let mut question = Question::of(&inputs, targets).doing(doing)?;
    question.prefer = preferences(options);
    let distributions = Work::Resolve
        .time(&*world.progress, resolve::resolve(&question, world))
        .await
        .doing(doing)?;
    let compiler = Work::Resolve
        .time(&*world.progress, resolve::compiler(inputs.compiler, &question, world))
        .await
        .doing(doing)?;
    let base = if options.pin_base {
        let digest = base::digest(&cell.base, world)
            .await
            .doing(|| format!("pin the base {}", cell.base))?;
        Some(BasePin { digest })
    } else {
        older.and_then(|lock| lock.base.clone())
    };
    Ok(Lock { inputs, base, compiler, distributions })
}

fn preferences(options: &LockOptions) -> BTreeMap<PackageName, Version> {
    let older = options.older.iter().filter(|_| !options.upgrade);
    older
        .flat_map(|lock| lock.distributions.iter().chain(&lock.compiler))
        .filter(|distribution| !options.upgrade_packages.contains(&distribution.name))
        .map(|distribution| (distribution.name.clone(), distribution.version.clone()))
        .collect()
}

/// Compares a lock with the recipe: the error names every input that changed.
///
/// # Errors
/// The inputs differ.
pub fn check_inputs(lock: &Lock, cell: &Cell, layers: &[crate::recipe::Layer]) -> Result<()> {
    let doing = || format!("use the lock of {}", cell.path);
    let now = Inputs::of(cell, layers, cell.python().to_owned())
        .map_err(|problem| resolve::Error::Recipe { cell: cell.path.clone(), problem })
        .doing(doing)?;
    let differences = lock.inputs.differences(&now);
    if differences.is_empty() {
        return Ok(());
    }
    Err(resolve::Error::Drift { cell: cell.path.clone(), differences }).doing(doing)
}
