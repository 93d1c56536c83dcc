//! What is measured, and where it lies.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use fs_err as fs;
use serde_json::Value;

use crate::cache::{Cache, put_away};
use crate::{CELL, CELLS, OTHER, Result, shell};

/// States of the cache: all that is fetched or built is there and other images were made on the base, but
/// no wheel was ever put into a layer; then [`CELL`] is made, and [`OTHER`] never was.
pub(crate) const FETCHED: &str = "fetched";
pub(crate) const KNOWN: &str = "known";

/// Recipes: one whose repository is on the registry at hand, and the same with a layer of 1 GiB.
pub(crate) const PUSHED: &str = "pushed";
pub(crate) const LARGE: &str = "large";

/// Where everything lies, with warm caches.
pub(crate) struct Scene {
    place: PathBuf,
    pub(crate) cache: Cache,
    pub(crate) registry: String,
}

impl Scene {
    pub(crate) fn new(project: &Path, place: &Path, registry: &str) -> Result<Self> {
        fs::create_dir_all(place)?;
        let at = |name: &str| place.join(name).display().to_string();
        let cache = Cache(place.join("cache"));
        let scene = Self { place: place.to_owned(), cache, registry: registry.to_owned() };
        let ours = scene.ours("project");
        for old in ["project", PUSHED, "many", LARGE, "plain", "layout", "tree"] {
            shell(&put_away(&[&at(old)]))?;
        }
        shell(&format!(
            "mkdir -p {0} && cp -r {1}/matrix {1}/layers {0}/",
            at("project"),
            project.display(),
        ))?;
        // Pinned bases: a tag would be asked for in every run.
        shell(&format!(
            "{ours} lock --base {CELL} && {ours} new {OTHER} && {ours} lock --base {OTHER}"
        ))?;
        // What an earlier bench made is not to be found.
        let matrix = place.join("project/matrix");
        scene.cache.keep_fetched(FETCHED, &matrix)?;
        shell(&scene.cache.restore(FETCHED))?;
        shell(&format!("{ours} {CELL} -o {}", at("first.tar")))?;
        shell(&format!("{ours} {CELL} --no-check -o {}", at("unchecked.tar")))?;
        scene.cache.keep(KNOWN)?;
        shell(&format!("{ours} {OTHER} -o {}", at("other.tar")))?;
        scene.cache.keep_fetched(FETCHED, &matrix)?;
        scene.cache.add(FETCHED, KNOWN)?;
        shell(&format!("{ours} {CELL} --no-check --format oci -o {}", at("layout")))?;
        scene.unpack()?;
        scene.recipes()?;
        Ok(scene)
    }

    /// Waits for what others wrote, and reads what commands begin with, so that nobody pays for who went
    /// before.
    pub(crate) fn settle(&self) -> Result<()> {
        let inputs = ["cache/blobs", "cache/keyed", "tree", "tree.tar", "first.tar", "layout"];
        let inputs = inputs.map(|name| self.at(name)).join(" ");
        shell(&format!("sync && find {inputs} -type f -print0 | xargs -0 cat >/dev/null"))
    }

    /// The recipe with changes: pushed to the registry, with many cells, with a large layer.
    fn recipes(&self) -> Result<()> {
        let cell = format!("matrix/{CELL}");
        for name in [PUSHED, "many", LARGE, "plain"] {
            let (from, to) = (self.at("project"), self.at(name));
            shell(&format!(
                "mkdir -p {to}/{cell} && cp -r {from}/layers {to}/ && \
                 cp {from}/matrix/matrix.toml {to}/matrix/ && cp {from}/{cell}/lock.toml {to}/{cell}/"
            ))?;
        }
        for name in [PUSHED, LARGE] {
            let repository = format!("{}/{name}", self.registry);
            self.edit(name, &[("docker.io/grubykarol/locust", &repository)])?;
        }
        self.edit(
            "many",
            &[
                ("{locust}/python{python}/{os}", "{locust}/python{python}/{os}/{copy}"),
                ("\"{locust}-python{python}-{os}\"", "\"{locust}-python{python}-{os}-{copy}\""),
            ],
        )?;
        let many = format!("{}/{cell}", self.at("many"));
        for number in 0..CELLS {
            shell(&format!("mkdir {many}/c{number} && cp {many}/lock.toml {many}/c{number}/"))?;
        }
        shell(&format!("rm {many}/lock.toml"))?;
        let large = self.add_layer(LARGE)?;
        shell(&format!("truncate -s 1G {large}"))?;
        let plain = self.add_layer("plain")?;
        shell(&format!("cp {} {plain}", self.at("tree.tar")))
    }

    /// Another layer of the recipe, with the recipe's name and one file; returns where that is to lie.
    fn add_layer(&self, recipe: &str) -> Result<String> {
        let added = format!("\"locust\", \"{recipe}\", \"entrypoint\"");
        self.edit(recipe, &[("\"locust\", \"entrypoint\"", &added)])?;
        let folder = self.at(&format!("{recipe}/layers/{recipe}"));
        shell(&format!("mkdir {folder}"))?;
        let text = "kind = \"files\"\n\n[[file]]\nfrom = \"file\"\nto = \"/file\"\n";
        fs::write(format!("{folder}/layer.toml"), text)?;
        Ok(format!("{folder}/file"))
    }

    fn edit(&self, recipe: &str, changes: &[(&str, &str)]) -> Result<()> {
        let path = self.place.join(recipe).join("matrix/matrix.toml");
        let mut text = fs::read_to_string(&path)?;
        for (from, to) in changes {
            if !text.contains(from) {
                return Err(format!("{} has no `{from}`", path.display()).into());
            }
            text = text.replacen(from, to, 1);
        }
        Ok(fs::write(path, text)?)
    }

    pub(crate) fn at(&self, name: &str) -> String {
        self.place.join(name).display().to_string()
    }

    /// The program with a cache.
    pub(crate) fn program(&self, cache: &str) -> String {
        let program = env!("CARGO_BIN_EXE_assemble");
        format!("{program} --cache-dir {cache} --mirror docker.io={} -q", self.registry)
    }

    /// The program with a recipe.
    pub(crate) fn ours(&self, recipe: &str) -> String {
        format!("{} --root {}", self.program(&self.cache.to_string()), self.at(recipe))
    }

    /// The layer with the distributions as peers want it: as a folder, and as a tar.
    fn unpack(&self) -> Result<()> {
        let mut gzip = flate2::read::GzDecoder::new(fs::File::open(self.layer()?)?);
        std::io::copy(&mut gzip, &mut fs::File::create(self.place.join("tree.tar"))?)?;
        let mut tar = tar::Archive::new(fs::File::open(self.place.join("tree.tar"))?);
        Ok(tar.unpack(self.place.join("tree"))?)
    }

    pub(crate) fn layer(&self) -> Result<PathBuf> {
        let layout = self.place.join("layout");
        let blob = |descriptor: &Value| {
            let digest = descriptor["digest"].as_str().unwrap_or_default();
            layout.join("blobs").join(digest.replace(':', "/"))
        };
        let index: Value = serde_json::from_slice(&fs::read(layout.join("index.json"))?)?;
        let manifest: Value = serde_json::from_slice(&fs::read(blob(&index["manifests"][0]))?)?;
        let layers = manifest["layers"].as_array().ok_or("no layers")?;
        // The entrypoint lies on top of it.
        let layer = layers.len().checked_sub(2).and_then(|n| layers.get(n)).ok_or("no layer")?;
        Ok(blob(layer))
    }

    /// How many of the files in the lock of [`OTHER`] are those of [`CELL`] too.
    pub(crate) fn shared(&self) -> Result<String> {
        let files = |cell: &str| -> Result<BTreeSet<String>> {
            let lock = self.place.join("project/matrix").join(cell).join("lock.toml");
            let lock = fs::read_to_string(lock)?;
            let digests = lock.lines().filter_map(|line| line.strip_prefix("sha256 = "));
            Ok(digests.map(str::to_owned).collect())
        };
        let (ours, theirs) = (files(CELL)?, files(OTHER)?);
        let known = theirs.intersection(&ours).count();
        Ok(format!("Of the {} files in the new cell's lock {known} were known.", theirs.len()))
    }
}
