//! A plan's layers, made: files are fetched, sdists are built, trees are written.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use pep508_rs::PackageName;

use super::archive::Parts;
use super::built::{Built, twin_of, wheel_of};
use super::bytecode::Compiler;
use super::installing::lay_out;
use super::path::ContainerPath;
use super::{
    Error, Files, Found, Installed, Layer, Modules, Options, Outline, Python, Scheme, Treatment,
    Tree, WheelFile, archive, files, kept, python,
};
use crate::base::{self, Base};
use crate::oci::{Digest, descriptor_digest};
use crate::plan::{Content, Plan};
use crate::recipe::layer::{self as recipe, parse_mode, parse_owner};
use crate::request::Request;
use crate::store::Turn;
use crate::world::{Work, World, on_thread};

/// Downloads wait for servers, not for processors: at least this many at once.
const LEAST_DOWNLOADS: usize = 8;

/// All layers of a plan, and how its sdists became wheels.
#[derive(Debug)]
pub struct Made {
    /// Bottom first.
    layers: Vec<Begun>,
    /// Sorted by name.
    pub built: Vec<Built>,
    /// What became of each distribution, sorted by name and version.
    pub installed: Vec<Installed>,
}

/// A layer whose tar is known.
#[derive(Debug)]
enum Begun {
    Stored(Box<Layer>, Option<Parts>),
    Pieces(Box<Pieces>),
}

/// A layer that has all its pieces, but no name yet.
#[derive(Debug)]
struct Pieces {
    made: Python,
    created_by: String,
    key: Digest,
    /// Nobody else makes it meanwhile.
    _turn: Turn,
}

impl Made {
    /// What is known of the layers by now, bottom first.
    pub fn outlines(&self) -> Vec<Outline> {
        let outline = |layer: &Begun| match layer {
            Begun::Stored(layer, parts) => Outline {
                digest: descriptor_digest(&layer.descriptor).ok(),
                diff_id: layer.diff_id,
                parts: parts.clone(),
            },
            Begun::Pieces(layer) => {
                let archive::Compressed { parts, diff_id, .. } = &layer.made.compressed;
                Outline { digest: None, diff_id: *diff_id, parts: Some(parts.clone()) }
            }
        };
        self.layers.iter().map(outline).collect()
    }

    /// Ends the layers; bottom first.
    ///
    /// # Errors
    /// The store cannot be written.
    pub async fn join(self, world: &World) -> Result<Vec<Layer>, Error> {
        let mut layers = Vec::new();
        for layer in self.layers {
            layers.push(match layer {
                Begun::Stored(layer, _) => *layer,
                Begun::Pieces(layer) => {
                    let store = world.store.clone();
                    let joining = on_thread(move || {
                        let Pieces { made, created_by, key, _turn } = *layer;
                        let (layer, installed) = made.layer(&created_by, &store)?;
                        kept::keep_layer(&key, &layer, &installed, &store)?;
                        Ok::<_, Error>(layer)
                    });
                    Work::Hash.time(&*world.progress, joining).await?
                }
            });
        }
        Ok(layers)
    }
}

/// Makes every layer of the plan; what is left to do is to put their bytes together.
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
                let (layer, parts) = files_layer(tree, &planned.name, created_by, world).await?;
                Begun::Stored(Box::new(layer), parts)
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
) -> Result<(Begun, Vec<Installed>), Error> {
    let treatment = Treatment::of(&plan.deviations)?;
    let compiler = treatment.bytecode.is_some().then(|| Compiler {
        python: plan.base.python_minor(),
        rootfs_key: base::rootfs::key(&base.diff_ids),
    });
    let options =
        Options { scheme: Scheme::for_base(plan.base.python_minor()), treatment, compiler };
    let key = kept::layer_key(&wheels, &options);
    // Cells that want the same layer at the same time: one makes it, the others find it.
    let turn = world.store.turn("layer", &key).await;
    let kept = kept::layer(&key, created_by, &world.store)?;
    let (layer, installed) = if let Some((layer, installed)) = kept {
        (Begun::Stored(Box::new(layer), None), installed)
    } else {
        // What an earlier run made of a wheel is enough.
        let mut found = find(&wheels, &options, world).await?;
        let mut wanted = fetchable(plan, |wheel| found.missing().any(|m| m.digest == *wheel));
        // Whoever installs it verifies it.
        wanted.retain(|(_, _, sha256, size)| !world.store.seems_to_have(sha256, *size));
        Work::Fetch.time(&*world.progress, fetch(wanted, world)).await?;
        let mut is_complete = false;
        world.progress.step("installing and compressing");
        let mut bytecode = BTreeMap::new();
        let made = loop {
            match install(found, &options, &bytecode, world).await {
                Err(Error::Uncompiled { wheels: names }) => {
                    let uncompiled = wheels.iter().filter(|wheel| names.contains(&wheel.name));
                    let uncompiled: Vec<_> = uncompiled.cloned().collect();
                    bytecode.extend(compile(&uncompiled, &options, base, world).await?);
                }
                // A part was damaged and is removed now, or a wheel is needed after all because it
                // brings what another one brings too.
                Err(Error::Segment { .. } | Error::Absent { .. }) if !is_complete => {
                    is_complete = true;
                    let wanted = fetchable(plan, |_| true);
                    Work::Fetch.time(&*world.progress, fetch(wanted, world)).await?;
                }
                made => break made?,
            }
            found = find(&wheels, &options, world).await?;
        };
        let installed = made.installed.clone();
        let created_by = created_by.to_owned();
        let pieces = Pieces { made, created_by, key, _turn: turn };
        (Begun::Pieces(Box::new(pieces)), installed)
    };
    for notice in installed.iter().flat_map(|figures| &figures.notices) {
        world.progress.notice(notice);
    }
    Ok((layer, installed))
}

/// What earlier runs made of the wheels.
async fn find(wheels: &[WheelFile], options: &Options, world: &World) -> Result<Found, Error> {
    let (wheels, options) = (wheels.to_vec(), options.clone());
    let (store, parallel) = (world.store.clone(), world.parallel);
    on_thread(move || super::find(&wheels, &options, &store, parallel)).await
}

/// The plan's wheels that come from a package index, if they are wanted.
fn fetchable(plan: &Plan, is_wanted: impl Fn(&Digest) -> bool) -> Vec<Wanted> {
    plan.distributions
        .iter()
        .filter(|file| file.is_wheel() && is_wanted(&file.sha256))
        .map(|d| (d.name.clone(), d.file_name.clone(), d.sha256, d.size))
        .collect()
}

/// The compiled modules of these wheels.
async fn compile(
    wheels: &[WheelFile],
    options: &Options,
    base: &Base,
    world: &World,
) -> Result<BTreeMap<PackageName, Modules>, Error> {
    let mut made = BTreeMap::new();
    let (Some(rule), Some(compiler)) = (&options.treatment.bytecode, &options.compiler) else {
        return Ok(made);
    };
    // Bytecode is the same on every architecture.
    let twin = twin_of(base, world).await?;
    let rootfs = base::rootfs(twin.as_ref().unwrap_or(base), world).await?;
    for wheel in wheels {
        world.progress.step(&format!("compiling {}", wheel.name));
        let (one, options, store) = (wheel.clone(), options.clone(), world.store.clone());
        let laid_out = on_thread(move || lay_out(&one, &options, &store, 1)).await?;
        let modules = laid_out.modules(rule)?;
        let bytecode = compiler.compile(&modules, &rootfs, &world.store, &world.sandbox).await?;
        made.insert(wheel.name.clone(), bytecode);
    }
    Ok(made)
}

/// Installs the wheels, and compresses what they bring.
async fn install(
    found: Found,
    options: &Options,
    bytecode: &BTreeMap<PackageName, Modules>,
    world: &World,
) -> Result<Python, Error> {
    let (options, bytecode) = (options.clone(), bytecode.clone());
    let (store, parallel) = (world.store.clone(), world.parallel);
    let installing = on_thread(move || python(found, &options, &bytecode, &store, parallel));
    Work::Compress.time(&*world.progress, installing).await
}

async fn files_layer(
    tree: Tree,
    name: &str,
    created_by: &str,
    world: &World,
) -> Result<(Layer, Option<Parts>), Error> {
    let key = kept::tree_key(&tree.known());
    let _turn = world.store.turn("layer", &key).await;
    if let Some((layer, _)) = kept::layer(&key, created_by, &world.store)? {
        return Ok((layer, None));
    }
    world.progress.step(&format!("layer {name}"));
    let (store, parallel) = (world.store.clone(), world.parallel);
    let created_by = created_by.to_owned();
    let writing = on_thread(move || {
        let (layer, parts) = archive::write(&tree, &created_by, &store, parallel)?;
        kept::keep_layer(&key, &layer, &[], &store)?;
        Ok((layer, Some(parts)))
    });
    Work::Compress.time(&*world.progress, writing).await
}

/// A file of the lock: whose it is, its name, its digest and its size.
pub(super) type Wanted = (PackageName, String, Digest, u64);

/// Files of the lock, into the store.
pub(super) async fn fetch(wanted: Vec<Wanted>, world: &World) -> Result<(), Error> {
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
