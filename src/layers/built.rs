//! An sdist of the plan becomes a wheel: which base builds it, what it finds, what is said of it.

use std::collections::BTreeMap;

use pep440_rs::Version;
use pep508_rs::PackageName;
use serde::Serialize;

use super::build::{Wanted, fetch};
use super::sdist::{BuildRequest, StoredFile, Toolchain, toolchain};
use super::{Error, sdist};
use crate::base::{self, Base};
use crate::oci::{Digest, Platform, Reference};
use crate::plan::{Plan, PlannedDistribution};
use crate::python::Target;
use crate::recipe::Cell;
use crate::recipe::lock::BuildRequirement;
use crate::sandbox::{Promise, Tier, within_reach};
use crate::world::{World, host_platform};

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
    /// What the kernel let the build reach against the sandbox's promises.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub left: Vec<Promise>,
    /// Whether it has C sources but no compiled code: it fell back to pure Python.
    pub pure_fallback: bool,
    /// Whether it was built by an earlier run.
    pub from_cache: bool,
    /// The entry of the shared wheel cache that it came from in this run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub found_in: Option<Reference>,
}

/// An sdist's wheel: from the cache, or built now by the base's own Python.
pub(super) async fn wheel_of(
    distribution: &PlannedDistribution,
    (plan, cell): (&Plan, &Cell),
    base: &Base,
    world: &World,
) -> Result<(Digest, Built), Error> {
    let (major, minor) = plan.base.python_minor();
    let request_on = |on: &Base| -> Result<(BuildRequest, Option<Wanted>), Error> {
        let (toolchain, compiler) = toolchain(distribution, (plan, cell), base, on)?.unzip();
        let stored = |need: &BuildRequirement| StoredFile {
            file_name: need.file_name.clone(),
            digest: need.sha256,
        };
        let lists = distribution.build_elsewhere.iter().map(|elsewhere| &elsewhere.build);
        let alternatives = std::iter::once(&distribution.build).chain(lists).flatten();
        let request = BuildRequest {
            name: distribution.name.clone(),
            version: distribution.version.clone(),
            sdist: StoredFile {
                file_name: distribution.file_name.clone(),
                digest: distribution.sha256,
            },
            build_requirements: distribution.build_on(&on.platform).iter().map(stored).collect(),
            alternatives: match &toolchain {
                Some(_) => alternatives.map(stored).collect(),
                None => Vec::new(),
            },
            python: (major.into(), minor.into()),
            rootfs_key: base::rootfs::key(&on.diff_ids),
            toolchain,
            env: BTreeMap::new(),
        };
        Ok((request, compiler))
    };
    // What a machine of the image's own kind built fits as it is.
    let native = match request_on(base) {
        Ok((own, _)) if own.toolchain.is_none() => {
            sdist::shared::native(&own, &base.platform, world).await?
        }
        // With a compiler it is the same as what is built here.
        _ => None,
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
        // Where an entry of the shared cache was compiled, nobody says.
        built_on: twin
            .map(|twin| twin.platform)
            .filter(|_| found_in.is_none() || request.toolchain.is_none()),
        compiler: compiler.map(|(_, file_name, ..)| file_name),
        tier: wheel.tier,
        left: wheel.left,
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
        .build_on(&base.platform)
        .iter()
        .map(|need| (need.name.clone(), need.file_name.clone(), need.sha256, need.size));
    let wanted = std::iter::once(own).chain(needs).chain(compiler);
    fetch(wanted.collect(), world).await?;
    world.progress.step("unpacking the base for its Python");
    let rootfs = base::rootfs(base, world).await?;
    let is_cross = base.platform.architecture != target.platform.architecture;
    let target = if is_cross && request.toolchain.is_some() {
        Some(base::rootfs(target, world).await?)
    } else {
        None
    };
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
            "{} was built through the base's loader, without namespaces: {}{}",
            distribution.name,
            wheel.refusal.as_deref().unwrap_or("as was asked for"),
            within_reach(&wheel.left)
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
    let toolchain = Toolchain {
        wheel: StoredFile { file_name: file.file_name.clone(), digest: file.sha256 },
        wheels: compiler.files.iter().map(|file| file.sha256).collect(),
        target: triple,
        rootfs_key: base::rootfs::key(&base.diff_ids),
        platform: format!("linux-{}", target.machine()),
    };
    let wanted = (compiler.name.clone(), file.file_name.clone(), file.sha256, file.size);
    Ok(Some((toolchain, wanted)))
}

/// The same base for this machine, if `base` is for another: programs of that one do not run here.
/// `None` also if there is no such twin; running the base then says why it cannot be done.
pub(super) async fn twin_of(base: &Base, world: &World) -> Result<Option<Base>, Error> {
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
