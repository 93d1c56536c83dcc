//! Wheels become a layer's tar in pieces: all of them are installed first, side by side, so that it is
//! known what lies where and whose it is; then what no earlier run compressed is.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use pep508_rs::PackageName;

use super::archive::{self, Compressed, Section, Segment};
use super::content;
use super::kept::{self, Distribution};
use super::tree::{Known, Node};
use super::{
    Error, Installed, LaidOut, Layer, Modules, Options, Treatment, Tree, WheelFile, wheel,
};
use crate::oci::Digest;
use crate::store::Store;
use crate::world::side_by_side;

/// Wheels whose files stay at hand between being installed and being compressed; each holds up to three
/// files open, and a process may hold 1024. What is beyond is installed again.
const MOST_OPEN: usize = 100;

/// Wheels, and what earlier runs made of them.
#[derive(Clone, Debug)]
pub struct Found {
    /// Sorted by name, version and file name.
    wheels: Vec<WheelFile>,
    /// What each is found by, and what was found.
    kept: Vec<(Digest, Option<Distribution>)>,
}

impl Found {
    /// The wheels of which no earlier run kept what they become: only these have to be looked at.
    pub fn missing(&self) -> impl Iterator<Item = &WheelFile> {
        self.wheels
            .iter()
            .zip(&self.kept)
            .filter(|(_, (_, kept))| kept.is_none())
            .map(|(one, _)| one)
    }
}

/// Looks for what earlier runs made of these wheels, on at most `parallel` threads; their order does not
/// matter.
///
/// # Errors
/// The store cannot be read.
pub fn find(
    wheels: &[WheelFile],
    options: &Options,
    store: &Store,
    parallel: usize,
) -> Result<Found, Error> {
    let mut wheels = wheels.to_vec();
    wheels.sort_by(|one, other| {
        (&one.name, &one.version, &one.file_name).cmp(&(
            &other.name,
            &other.version,
            &other.file_name,
        ))
    });
    let kept = side_by_side(wheels.len(), parallel, |number| {
        let wheel = &wheels[number];
        let key = kept::distribution_key(wheel, options);
        kept::distribution(&key, wheel, store).map(|kept| (key, kept))
    });
    let kept = kept.into_iter().collect::<Result<_, _>>()?;
    Ok(Found { wheels, kept })
}

/// What is known of a layer of wheels before its bytes are put together.
#[derive(Debug)]
pub struct Python {
    /// What lies where, and whose it is.
    pub tree: Tree<Known>,
    /// All of it.
    pub compressed: Compressed,
    /// Figures, sorted by name and version.
    pub installed: Vec<Installed>,
}

impl Python {
    /// Ends the layer; returns it with the figures.
    ///
    /// # Errors
    /// The store cannot be written.
    pub fn layer(self, created_by: &str, store: &Store) -> Result<(Layer, Vec<Installed>), Error> {
        Ok((archive::finish(self.compressed, created_by, store)?.0, self.installed))
    }
}

/// Installs wheels from the store, and compresses what they bring, on at most `parallel` threads.
/// What an earlier run did is not done again. `bytecode` has compiled modules of this run's; those of
/// earlier runs are found.
///
/// Neither `parallel` nor the cache changes the result, or which error is reported.
///
/// # Errors
/// A wheel is absent from the store, hostile or broken, or two distributions want different things at
/// one place; a part of the treatment applies to none. [`Error::Uncompiled`] if nothing else is wrong
/// with a wheel and the options want bytecode that is not there.
pub fn python(
    found: Found,
    options: &Options,
    bytecode: &BTreeMap<PackageName, Modules>,
    store: &Store,
    parallel: usize,
) -> Result<Python, Error> {
    let Found { wheels, kept } = found;
    let context = Context { options, bytecode, store };
    let parts = context.install_all(&wheels, kept, parallel)?;
    let mut tree = Tree::default();
    for part in &parts {
        tree.merge(part.listing.clone())?;
    }
    let mut linked: BTreeMap<&str, u64> = BTreeMap::new();
    let links = options.treatment.smallest_duplicate.map(|size| tree.link_duplicates(size));
    for (path, size) in links.iter().flatten() {
        if let Some(entry) = tree.get(path) {
            *linked.entry(&entry.owner).or_default() += size;
        }
    }
    let mut installed: Vec<Installed> = parts.iter().map(|part| part.installed.clone()).collect();
    for one in &mut installed {
        let size = linked.get(one.name.as_ref()).copied().unwrap_or_default();
        one.linked += size;
        one.bytes_installed -= size;
    }
    check_applied(&installed, &options.treatment)?;
    let compressed = context.compress(&tree, parts, parallel)?;
    Ok(Python { tree, compressed, installed })
}

/// A distribution on its way into a layer.
struct Part<'a> {
    wheel: &'a WheelFile,
    key: Digest,
    listing: Tree<Known>,
    installed: Installed,
    /// All of it, if an earlier run compressed that.
    segments: Option<Vec<Segment>>,
    /// Its files, if they are at hand.
    files: Option<Tree>,
    /// Whether the store knows that it was installed.
    is_kept: bool,
}

/// What is to be kept of a part when it is compressed.
enum Keep {
    /// All of the distribution's own, by the distribution's key.
    Whole(Tree<Known>, Box<Installed>, Digest),
    /// What is in this layer of it, by what that is.
    Own(Digest),
}

/// What installing depends on, besides the wheel.
#[derive(Clone, Copy)]
struct Context<'a> {
    options: &'a Options,
    bytecode: &'a BTreeMap<PackageName, Modules>,
    store: &'a Store,
}

impl<'a> Context<'a> {
    /// Every wheel's own part, from the cache or made now, in the order of `wheels`.
    fn install_all(
        self,
        wheels: &'a [WheelFile],
        kept: Vec<(Digest, Option<Distribution>)>,
        parallel: usize,
    ) -> Result<Vec<Part<'a>>, Error> {
        let missing = (0..wheels.len()).filter(|number| kept[*number].1.is_none());
        let mut missing: Vec<(usize, u64)> =
            missing.map(|number| (number, stored_size(&wheels[number], self.store))).collect();
        // The largest first: nobody waits for a large one that was begun last.
        missing.sort_by_key(|(_, size)| Reverse(*size));
        let all: u64 = missing.iter().map(|(_, size)| size).sum();
        let results = side_by_side(missing.len(), parallel, |position| {
            let (number, size) = missing[position];
            let wheel = &wheels[number];
            // One with most of the bytes would be the only one in the end.
            let share = size * parallel as u64;
            let inside = usize::try_from(share.div_ceil(all.max(1))).unwrap_or(1);
            let (files, installed) = self.install(wheel, inside)?;
            let listing = files.known();
            Ok((listing, installed, (position < MOST_OPEN).then_some(files)))
        });
        // Files were unpacked here, and this thread goes on.
        content::give_back();
        let numbers = missing.into_iter().map(|(number, _)| number);
        let mut made: BTreeMap<usize, _> = numbers.zip(results).collect();
        let mut uncompiled = Vec::new();
        let mut parts = Vec::with_capacity(wheels.len());
        for (number, (wheel, (key, kept))) in wheels.iter().zip(kept).enumerate() {
            parts.push(match (kept, made.remove(&number)) {
                (Some(Distribution { listing, installed, segments }), _) => {
                    Part { wheel, key, listing, installed, segments, files: None, is_kept: true }
                }
                (None, Some(Err(Error::Uncompiled { wheels }))) => {
                    uncompiled.extend(wheels);
                    continue;
                }
                (None, Some(result)) => {
                    let (listing, installed, files) = result?;
                    Part { wheel, key, listing, installed, segments: None, files, is_kept: false }
                }
                // Whatever is not kept is made.
                (None, None) => continue,
            });
        }
        if uncompiled.is_empty() {
            return Ok(parts);
        }
        Err(Error::Uncompiled { wheels: uncompiled })
    }

    /// Compresses what the parts have in the whole tree: what is another's, or a hard link there, is no
    /// part of theirs. Where several bring the same file, it is the first one's, and once in the layer.
    fn compress(
        self,
        whole: &Tree<Known>,
        parts: Vec<Part<'a>>,
        parallel: usize,
    ) -> Result<Compressed, Error> {
        let late: BTreeSet<String> = parts
            .iter()
            .filter(|part| part.wheel.requested)
            .map(|part| part.wheel.name.to_string())
            .collect();
        let mut sections = BTreeMap::new();
        let mut keeps = BTreeMap::new();
        for part in parts {
            let Part { wheel, key, listing, installed, segments, files, is_kept } = part;
            let owner = wheel.name.to_string();
            let is_own = |path: &_| {
                whole.get(path).is_some_and(|entry| {
                    entry.owner == owner && !matches!(entry.node, Node::HardLink(_))
                })
            };
            if listing.iter().all(|(path, _)| is_own(path)) {
                let section = if let Some(segments) = segments {
                    Section::Kept(segments)
                } else {
                    keeps.insert(owner.clone(), Keep::Whole(listing, Box::new(installed), key));
                    self.section(wheel, files, |_| {})
                };
                sections.insert(owner, section);
                continue;
            }
            let mut own = listing.clone();
            own.retain(is_own);
            if !is_kept {
                kept::keep_distribution(&key, (&listing, &installed), None, self.store)?;
            }
            let key = kept::tree_key(&own);
            let section = if let Some(segments) = kept::part(&key, self.store)? {
                Section::Kept(segments)
            } else {
                keeps.insert(owner.clone(), Keep::Own(key));
                let only_own = move |files: &mut Tree| files.retain(|path| own.get(path).is_some());
                self.section(wheel, files, only_own)
            };
            sections.insert(owner, section);
        }
        let (compressed, of_owners) =
            archive::compress(whole, sections, &late, self.store, parallel)?;
        let mut made = Vec::new();
        for (owner, segments) in of_owners {
            if let Some(keep) = keeps.remove(&owner) {
                made.push((keep, segments));
            }
        }
        let kept = side_by_side(made.len(), parallel, |number| match &made[number] {
            (Keep::Whole(listing, installed, key), segments) => {
                kept::keep_distribution(key, (listing, installed), Some(segments), self.store)
            }
            (Keep::Own(key), segments) => kept::keep_part(key, segments, self.store),
        });
        kept.into_iter().collect::<Result<(), Error>>()?;
        Ok(compressed)
    }

    /// A wheel's files, narrowed down, if they are at hand; else it is installed again when it is its turn.
    fn section(
        self,
        wheel: &'a WheelFile,
        files: Option<Tree>,
        narrow: impl FnOnce(&mut Tree) + 'a,
    ) -> Section<'a> {
        match files {
            Some(mut files) => {
                narrow(&mut files);
                Section::Files(Arc::new(files))
            }
            None => Section::Later(Box::new(move || {
                let (mut files, _) = self.install(wheel, 1)?;
                narrow(&mut files);
                Ok(files)
            })),
        }
    }

    /// Installs one wheel of the store, with its compiled modules: those of this run, or of an earlier
    /// one.
    fn install(self, wheel: &WheelFile, parallel: usize) -> Result<(Tree, Installed), Error> {
        let Self { options, bytecode, store } = self;
        let laid_out = lay_out(wheel, options, store, parallel)?;
        let (Some(rule), Some(compiler)) = (&options.treatment.bytecode, &options.compiler) else {
            return laid_out.finish(&Modules::new());
        };
        if let Some(ours) = bytecode.get(&wheel.name) {
            return laid_out.finish(ours);
        }
        let modules = laid_out.modules(rule)?;
        if modules.is_empty() {
            return laid_out.finish(&modules);
        }
        match compiler.cached(&modules, store)? {
            Some(kept) => laid_out.finish(&kept),
            None => Err(Error::Uncompiled { wheels: vec![wheel.name.clone()] }),
        }
    }
}

/// Compressed bytes; 0 if it is absent, which installing it will find.
fn stored_size(wheel: &WheelFile, store: &Store) -> u64 {
    fs_err::metadata(store.blob_path(&wheel.digest)).map_or(0, |meta| meta.len())
}

/// Lays out one wheel of the store, on at most `parallel` threads.
pub(super) fn lay_out(
    wheel: &WheelFile,
    options: &Options,
    store: &Store,
    parallel: usize,
) -> Result<LaidOut, Error> {
    let file = store.open_verified(&wheel.digest)?.ok_or_else(|| Error::Absent {
        file_name: wheel.file_name.clone(),
        digest: wheel.digest,
    })?;
    wheel::lay_out(file, wheel, &options.scheme, &options.treatment, (store, parallel))
}

/// A repair that repairs nothing is a mistake, not a wish.
fn check_applied(installed: &[Installed], treatment: &Treatment) -> Result<(), Error> {
    for launcher in &treatment.launchers {
        if !installed.iter().any(|one| one.launchers.contains(&launcher.script)) {
            return Err(Error::Unapplied { what: format!("command `{}`", launcher.script) });
        }
    }
    for replacement in &treatment.replacements {
        if !installed.iter().any(|one| one.replaced.contains(&replacement.path)) {
            return Err(Error::Unapplied { what: format!("file `{}`", replacement.path) });
        }
    }
    Ok(())
}
