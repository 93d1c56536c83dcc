//! A plan's layers, made: files are fetched, sdists are built, trees are written.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use pep440_rs::Version;
use pep508_rs::PackageName;
use serde::Serialize;

use super::bytecode::Compiler;
use super::path::ContainerPath;
use super::sdist::{BuildRequest, StoredFile, Toolchain, toolchain};
use super::{
    Error, Files, Installed, Layer, Modules, Options, Scheme, Treatment, Tree, WheelFile, archive,
    files, kept, python, sdist,
};
use crate::base::{self, Base};
use crate::oci::{Digest, Platform, Reference};
use crate::plan::{Content, Plan, PlannedDistribution};
use crate::python::Target;
use crate::recipe::Cell;
use crate::recipe::layer::{self as recipe, parse_mode, parse_owner};
use crate::request::Request;
use crate::sandbox::Tier;
use crate::world::{Work, World, host_platform};

/// Downloads wait for servers, not for processors: at least this many at once.
const LEAST_DOWNLOADS: usize = 8;

/// All layers of a plan, and how its sdists became wheels.
#[derive(Clone, Debug)]
pub struct Made {
    /// Bottom first.
    pub layers: Vec<Layer>,
    /// Sorted by name.
    pub built: Vec<Built>,
    /// What became of each distribution, sorted by name and version.
    pub installed: Vec<Installed>,
}

/// An sdist that became a wheel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Built {
    /// Normalised name.
    pub name: PackageName,
    /// Version.
    pub version: Version,
    /// The wheel.
    pub wheel: String,
    /// The base's platform that it was built on, if that is not the image's: then it is pure Python, or
    /// there was a compiler.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub built_on: Option<Platform>,
    /// The wheel of the compiler that was at hand.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compiler: Option<String>,
    /// How the build ran, now or when it was cached.
    pub tier: Tier,
    /// Whether it has C sources but no compiled code: it fell back to pure Python.
    pub pure_fallback: bool,
    /// Whether it was built by an earlier run.
    pub from_cache: bool,
    /// The entry of the shared wheel cache that it came from in this run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub found_in: Option<Reference>,
}

/// Makes every layer of the plan.
///
/// # Errors
/// A file cannot be had or is not what the lock says, an sdist cannot be built, or a layer's files
/// clash.
pub async fn build(
    plan: &Plan,
    request: &Request,
    base: &Base,
    world: &World,
) -> Result<Made, Error> {
    let mut wheels = Vec::new();
    let mut built = Vec::new();
    for distribution in &plan.distributions {
        let mut wheel = WheelFile {
            name: distribution.name.clone(),
            version: distribution.version.clone(),
            file_name: distribution.file_name.clone(),
            digest: distribution.sha256,
            requested: distribution.requested,
        };
        if !distribution.is_wheel() {
            let building = wheel_of(distribution, (plan, &request.cell), base, world);
            let (digest, figures) = Work::Build.time(&*world.progress, building).await?;
            wheel.file_name.clone_from(&figures.wheel);
            wheel.digest = digest;
            built.push(figures);
        }
        wheels.push(wheel);
    }
    let mut layers = Vec::new();
    let mut installed = Vec::new();
    for (planned, brick) in plan.layers.iter().zip(&request.layers) {
        let created_by = &planned.created_by;
        layers.push(match &planned.content {
            Content::Python => {
                let wheels = wheels.clone();
                let (layer, figures) = python_layer(plan, wheels, created_by, base, world).await?;
                installed = figures;
                layer
            }
            Content::Files(content) => {
                let content = read_files(content, &brick.folder)?;
                let tree = files(&planned.name, &content)?;
                files_layer(tree, &planned.name, created_by, world).await?
            }
        });
    }
    Ok(Made { layers, built, installed })
}

/// All distributions as a layer, and their figures. If an earlier run made the same, no wheel is
/// looked at.
async fn python_layer(
    plan: &Plan,
    wheels: Vec<WheelFile>,
    created_by: &str,
    base: &Base,
    world: &World,
) -> Result<(Layer, Vec<Installed>), Error> {
    let treatment = Treatment::of(&plan.deviations)?;
    let compiler = treatment.bytecode.is_some().then(|| Compiler {
        python: plan.base.python_minor(),
        rootfs_key: base::rootfs::key(&base.diff_ids),
    });
    let options =
        Options { scheme: Scheme::for_base(plan.base.python_minor()), treatment, compiler };
    let key = kept::layer_key(&wheels, &options);
    // Cells that want the same layer at the same time: one makes it, the others find it.
    let _turn = world.store.turn("layer", &key).await;
    let (layer, installed) = if let Some(kept) = kept::layer(&key, created_by, &world.store)? {
        kept
    } else {
        // What an earlier run made of a wheel is enough.
        let missing = missing(&wheels, &options, world).await?;
        let wanted = fetchable(plan, |wheel| missing.iter().any(|m| m.digest == *wheel));
        Work::Fetch.time(&*world.progress, fetch(wanted, world)).await?;
        let bytecode = bytecode(&missing, &options, base, world).await?;
        world.progress.step("installing and compressing");
        let made = match join(&wheels, &options, &bytecode, created_by, world).await {
            // A part was damaged and is removed now, or a wheel is needed after all because it brings
            // what another one brings too.
            Err(Error::Segment { .. } | Error::Absent { .. }) => {
                let wanted = fetchable(plan, |_| true);
                Work::Fetch.time(&*world.progress, fetch(wanted, world)).await?;
                join(&wheels, &options, &bytecode, created_by, world).await?
            }
            made => made?,
        };
        kept::keep_layer(&key, &made.0, &made.1, &world.store)?;
        made
    };
    for notice in installed.iter().flat_map(|figures| &figures.notices) {
        world.progress.notice(notice);
    }
    Ok((layer, installed))
}

/// The wheels that have to be installed anew.
async fn missing(
    wheels: &[WheelFile],
    options: &Options,
    world: &World,
) -> Result<Vec<WheelFile>, Error> {
    let (wheels, options, store) = (wheels.to_vec(), options.clone(), world.store.clone());
    on_thread(move || {
        let missing = super::missing(&wheels, &options, &store)?;
        Ok(missing.into_iter().cloned().collect())
    })
    .await
}

/// The plan's wheels that come from a package index, if they are wanted.
fn fetchable(plan: &Plan, is_wanted: impl Fn(&Digest) -> bool) -> Vec<Wanted> {
    plan.distributions
        .iter()
        .filter(|file| file.is_wheel() && is_wanted(&file.sha256))
        .map(|d| (d.name.clone(), d.file_name.clone(), d.sha256, d.size))
        .collect()
}

/// The compiled modules of every wheel that has to be installed anew, where that is wanted.
async fn bytecode(
    missing: &[WheelFile],
    options: &Options,
    base: &Base,
    world: &World,
) -> Result<BTreeMap<PackageName, Modules>, Error> {
    let (Some(rule), Some(compiler)) = (&options.treatment.bytecode, &options.compiler) else {
        return Ok(BTreeMap::new());
    };
    let mut made = BTreeMap::new();
    for wheel in missing {
        let (one, options, store) = (wheel.clone(), options.clone(), world.store.clone());
        let laid_out = on_thread(move || super::lay_out(&one, &options, &store)).await?;
        let modules = on_thread({
            let rule = rule.clone();
            move || laid_out.modules(&rule)
        })
        .await?;
        if modules.is_empty() {
            continue;
        }
        let bytecode = if let Some(bytecode) = compiler.cached(&modules, &world.store)? {
            bytecode
        } else {
            // Bytecode is the same on every architecture.
            let twin = twin_of(base, world).await?;
            let rootfs = base::rootfs(twin.as_ref().unwrap_or(base), world).await?;
            world.progress.step(&format!("compiling {}", wheel.name));
            compiler.compile(&modules, &rootfs, &world.store, &world.sandbox).await?
        };
        made.insert(wheel.name.clone(), bytecode);
    }
    Ok(made)
}

/// The layer and the figures of its distributions.
async fn join(
    wheels: &[WheelFile],
    options: &Options,
    bytecode: &BTreeMap<PackageName, Modules>,
    created_by: &str,
    world: &World,
) -> Result<(Layer, Vec<Installed>), Error> {
    let (wheels, options, bytecode) = (wheels.to_vec(), options.clone(), bytecode.clone());
    let (store, parallel) = (world.store.clone(), world.parallel);
    let installing = on_thread(move || python(&wheels, &options, &bytecode, &store, parallel));
    let made = Work::Compress.time(&*world.progress, installing).await?;
    let (store, created_by) = (world.store.clone(), created_by.to_owned());
    let joining = on_thread(move || Ok((made.layer(&created_by, &store)?, made.installed)));
    Work::Hash.time(&*world.progress, joining).await
}

async fn files_layer(
    tree: Tree,
    name: &str,
    created_by: &str,
    world: &World,
) -> Result<Layer, Error> {
    let key = kept::tree_key(&tree.known());
    let _turn = world.store.turn("layer", &key).await;
    if let Some((layer, _)) = kept::layer(&key, created_by, &world.store)? {
        return Ok(layer);
    }
    world.progress.step(&format!("layer {name}"));
    let (store, parallel) = (world.store.clone(), world.parallel);
    let created_by = created_by.to_owned();
    on_thread(move || {
        let layer = archive::write(&tree, &created_by, &store, parallel)?;
        kept::keep_layer(&key, &layer, &[], &store)?;
        Ok(layer)
    })
    .await
}

/// Runs work that keeps a processor or a disk busy on a thread of its own.
async fn on_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(failed) => match failed.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_cancelled) => Err(Error::Cancelled),
        },
    }
}

/// A file of the lock: whose it is, its name, its digest and its size.
type Wanted = (PackageName, String, Digest, u64);

/// Files of the lock, into the store.
async fn fetch(wanted: Vec<Wanted>, world: &World) -> Result<(), Error> {
    stream::iter(wanted)
        .map(|(name, file_name, sha256, size)| async move {
            if !world.store.blob_path(&sha256).exists() {
                world.progress.step(&format!("fetching {file_name}"));
            }
            world.package_index.fetch(&name, &file_name, Some(&sha256), Some(size)).await
        })
        .buffer_unordered(world.parallel.max(LEAST_DOWNLOADS))
        .try_for_each(|_stored| async { Ok(()) })
        .await
        .map_err(Error::from)
}

/// An sdist's wheel: from the cache, or built now by the base's own Python.
async fn wheel_of(
    distribution: &PlannedDistribution,
    (plan, cell): (&Plan, &Cell),
    base: &Base,
    world: &World,
) -> Result<(Digest, Built), Error> {
    let (major, minor) = plan.base.python_minor();
    let request_on = |on: &Base| -> Result<(BuildRequest, Option<Wanted>), Error> {
        let (toolchain, compiler) = toolchain(distribution, (plan, cell), base, on)?.unzip();
        let request = BuildRequest {
            name: distribution.name.clone(),
            version: distribution.version.clone(),
            sdist: StoredFile {
                file_name: distribution.file_name.clone(),
                digest: distribution.sha256,
            },
            build_requirements: distribution
                .build
                .iter()
                .map(|need| StoredFile { file_name: need.file_name.clone(), digest: need.sha256 })
                .collect(),
            python: (major.into(), minor.into()),
            rootfs_key: base::rootfs::key(&on.diff_ids),
            toolchain,
            env: BTreeMap::new(),
        };
        Ok((request, compiler))
    };
    // What a machine of the image's own kind built fits as it is.
    let native = match request_on(base) {
        Ok((own, _)) => sdist::shared::native(&own, &base.platform, world).await?,
        // Nothing runs there that could have.
        Err(_no_compiler) => None,
    };
    let twin = if native.is_some() { None } else { twin_of(base, world).await? };
    let build_base = twin.as_ref().unwrap_or(base);
    let (request, compiler) = request_on(build_base)?;
    // The machine that compiled code is for: the image's, if there is a compiler to see to it.
    let code_for = if request.toolchain.is_some() { &base.platform } else { &build_base.platform };
    // Other cells may want the same wheel now.
    let turn = world.store.turn("sdist", &request.key()).await;
    let found = match native {
        Some(found) => Some(found),
        None => sdist::shared::find(&request, code_for, world).await?,
    };
    let found_in = found.as_ref().and_then(|found| found.entry.clone());
    let wheel = if let Some(found) = found {
        found.wheel
    } else {
        // Boxed: it would be in every caller's future.
        Box::pin(build_now(distribution, &request, compiler.clone(), (build_base, base), world))
            .await?
    };
    sdist::shared::keep(&request, code_for, &wheel, world).await?;
    drop(turn);
    tell(distribution, &wheel, compiler.is_some(), world);
    let mut made = (wheel.digest, wheel.file_name);
    if let Some(twin) = twin.as_ref().filter(|_| request.toolchain.is_none()) {
        made =
            sdist::twin::for_any(&request, made, (&twin.platform, &base.platform), &world.store)?;
        world.progress.notice(&format!(
            "{} {} for {} was built on the base for {}: it is pure Python",
            distribution.name, distribution.version, base.platform, twin.platform
        ));
    }
    let figures = Built {
        name: distribution.name.clone(),
        version: distribution.version.clone(),
        wheel: made.1,
        built_on: twin.map(|twin| twin.platform),
        compiler: compiler.map(|(_, file_name, ..)| file_name),
        tier: wheel.tier,
        pure_fallback: wheel.pure_fallback,
        from_cache: wheel.from_cache,
        found_in,
    };
    Ok((made.0, figures))
}

/// The sdist's wheel, built now on the first of the bases, for the second.
async fn build_now(
    distribution: &PlannedDistribution,
    request: &BuildRequest,
    compiler: Option<Wanted>,
    (base, target): (&Base, &Base),
    world: &World,
) -> Result<sdist::BuiltWheel, Error> {
    let own = (
        distribution.name.clone(),
        distribution.file_name.clone(),
        distribution.sha256,
        distribution.size,
    );
    let needs = distribution
        .build
        .iter()
        .map(|need| (need.name.clone(), need.file_name.clone(), need.sha256, need.size));
    let wanted = std::iter::once(own).chain(needs).chain(compiler);
    fetch(wanted.collect(), world).await?;
    world.progress.step("unpacking the base for its Python");
    let rootfs = base::rootfs(base, world).await?;
    let is_cross = request.toolchain.as_ref().is_some_and(|own| own.cross.is_some());
    let target = if is_cross { Some(base::rootfs(target, world).await?) } else { None };
    world.progress.step(&format!("building {}", distribution.file_name));
    let (store, sandbox) = (&world.store, &world.sandbox);
    Ok(sdist::build(request, &rootfs, target.as_deref(), store, sandbox).await?)
}

/// What a reader of the result would not see.
fn tell(
    distribution: &PlannedDistribution,
    wheel: &sdist::BuiltWheel,
    has_compiler: bool,
    world: &World,
) {
    if wheel.pure_fallback {
        let why = match (has_compiler, &wheel.log) {
            (false, _) => "there is no compiler".to_owned(),
            (true, None) => "they were not compiled".to_owned(),
            (true, Some(log)) => {
                format!(
                    "they were not compiled; its log is {}",
                    world.store.blob_path(log).display()
                )
            }
        };
        world.progress.notice(&format!(
            "{} {} was built as pure Python: its C parts are optional, and {why}",
            distribution.name, distribution.version
        ));
    }
    if wheel.tier == Tier::Loader {
        world.progress.notice(&format!(
            "{} was built through the base's loader, without namespaces: {}",
            distribution.name,
            wheel.refusal.as_deref().unwrap_or("as was asked for")
        ));
    }
}

/// What compiles the distribution, and the file that it is; `None` if nothing shall.
fn toolchain(
    distribution: &PlannedDistribution,
    (plan, cell): (&Plan, &Cell),
    base: &Base,
    build_base: &Base,
) -> Result<Option<(Toolchain, Wanted)>, Error> {
    let Some(compiler) = &plan.compiler else { return Ok(None) };
    let project = || format!("{} {}", distribution.name, distribution.version);
    let host = &build_base.platform;
    let runs_here = |platform: &Platform| platform.architecture == host.architecture;
    let file = compiler
        .files
        .iter()
        .find(|file| file.platforms.is_empty() || file.platforms.iter().any(runs_here))
        .ok_or_else(|| sdist::Error::NoCompiler { project: project(), host: host.clone() })?;
    let no_target =
        || sdist::Error::NoTarget { project: project(), platform: base.platform.clone() };
    let target = Target::new(cell.python(), cell.os(), &base.platform);
    let target = target.map_err(|_unknown| no_target())?;
    let triple = toolchain::target_triple(&target).ok_or_else(no_target)?;
    let is_cross = host.architecture != base.platform.architecture;
    let toolchain = Toolchain {
        wheel: StoredFile { file_name: file.file_name.clone(), digest: file.sha256 },
        target: triple,
        rootfs_key: base::rootfs::key(&base.diff_ids),
        cross: is_cross.then(|| format!("linux-{}", target.machine())),
    };
    let wanted = (compiler.name.clone(), file.file_name.clone(), file.sha256, file.size);
    Ok(Some((toolchain, wanted)))
}

/// The same base for this machine, if `base` is for another: programs of that one do not run here.
/// `None` also if there is no such twin; running the base then says why it cannot be done.
async fn twin_of(base: &Base, world: &World) -> Result<Option<Base>, Error> {
    let host = host_platform();
    if base.platform.architecture == host.architecture {
        return Ok(None);
    }
    match base::fetch(&base.reference, Some(&base.digest), &host, world).await {
        Ok(twin) => Ok(Some(twin)),
        Err(base::Error::NoSuchPlatform { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The bytes of a files layer, with its substitutions made.
fn read_files(content: &recipe::Files, folder: &std::path::Path) -> Result<Files, Error> {
    let invalid = |problem: String| Error::Recipe { folder: folder.to_owned(), problem };
    let path = |text: &str| ContainerPath::parse(text).map_err(|error| invalid(error.to_string()));
    let mode =
        |text: &Option<String>, default| parse_mode(text.as_deref(), default).map_err(invalid);
    let owner = |text: &Option<String>| parse_owner(text.as_deref()).map_err(invalid);
    let mut contents = Files::default();
    for file in &content.files {
        let from = folder.join(&file.from);
        let mut content = super::Content::of_file(from).map_err(Error::Disk)?;
        for (text, value) in &file.substitute {
            content = substitute(&content.read().map_err(Error::Disk)?, text, value)
                .ok_or_else(|| invalid(format!("`{}` does not hold `{text}`", file.from)))?
                .into();
        }
        let (uid, gid) = owner(&file.owner)?;
        contents.files.push(super::files::File {
            to: path(&file.to)?,
            content,
            mode: mode(&file.mode, 0o644)?,
            uid,
            gid,
        });
    }
    for directory in &content.directories {
        let (uid, gid) = owner(&directory.owner)?;
        contents.directories.push(super::files::Directory {
            path: path(&directory.path)?,
            mode: mode(&directory.mode, 0o755)?,
            uid,
            gid,
        });
    }
    for link in &content.links {
        contents
            .symlinks
            .push(super::files::Symlink { path: path(&link.path)?, target: link.target.clone() });
    }
    Ok(contents)
}

/// `bytes` with every `text` replaced by `value`; `None` if there is none to replace.
fn substitute(bytes: &Bytes, text: &str, value: &str) -> Option<Bytes> {
    let whole = std::str::from_utf8(bytes).ok()?;
    (!text.is_empty() && whole.contains(text)).then(|| whole.replace(text, value).into())
}
