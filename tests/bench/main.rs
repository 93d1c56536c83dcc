//! How long whole commands take, side by side with the fastest tools that do a part of the same, and
//! whether they are as fast and as small as they should be.
//!
//! ```text
//! cargo bench [-- --runs 3]
//! ```
//!
//! Every case starts its commands in turn, so that what disturbs the machine disturbs all of them, and
//! takes medians. Peers that are missing are left out. The base is made from packages and served on
//! loopback; wheels come from the package index, once. Nothing lies where a command is going to write,
//! unless its name says so: freeing what an older file took is no part of its work. The tables go to
//! standard output as Markdown, and the times as a plot to `target/bench/results.svg`.
//!
//! Peers get the tree that we have to make first, and none of them starts the image: `assemble` alone
//! leaves that out too (`--no-check`), `assemble, checked` does not. What the base's Python compiled
//! for an earlier run is there in all cases.
#![expect(clippy::print_stdout, reason = "a program's output")]

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use fs_err as fs;
use serde_json::Value;

use crate::bases::BaseSpec;
use crate::cache::{AWAY, Cache, put_away};
use crate::measure::Run;
use crate::support::registry::FakeRegistry;

#[path = "../bases/mod.rs"]
#[expect(dead_code, unused_imports, reason = "each target uses its part")]
mod bases;

mod cache;
mod measure;
mod plot;
mod report;

#[path = "../support/mod.rs"]
#[expect(dead_code, reason = "each target uses its part")]
mod support;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// What everything is measured on, and the version before it, which shares all wheels but one.
const CELL: &str = "2.47.0/python3.13/alpine3.24";
const OTHER: &str = "2.46.7/python3.13/alpine3.24";

/// What the program says of making a layer, with `--timings`.
const LAYER: [&str; 2] = ["compress", "hash"];

/// States of the cache: all that is fetched or built is there and other images were made on the base, but
/// no wheel was ever put into a layer; then [`CELL`] is made, and [`OTHER`] never was.
const FETCHED: &str = "fetched";
const KNOWN: &str = "known";

/// Runs of each command, unless `--runs` says another number.
const RUNS: usize = 9;

/// Cells of the large matrix.
const CELLS: usize = 50;

/// A command and how it did.
struct Contender {
    name: &'static str,
    /// A shell's words.
    command: String,
    /// Puts things as they should be before a run; not measured.
    before: String,
    /// Lines of `--timings` whose sum is taken; the whole run's time if there are none.
    lines: &'static [&'static str],
    runs: Vec<Run>,
    /// KiB
    peak: u64,
}

/// What one program may take beside another.
enum Target {
    /// So many times what the other one takes.
    Times(&'static str, &'static str, f64),
    /// So many milliseconds more.
    Over(&'static str, &'static str, f64),
}

struct Case {
    name: &'static str,
    contenders: Vec<Contender>,
    targets: Vec<Target>,
}

fn main() -> ExitCode {
    // A sandbox stage must change namespaces before any thread exists.
    if let Some(code) = assemble::sandbox::run_stage(std::env::args_os()) {
        return code;
    }
    // Cargo says what it runs.
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    let outcome = match (arguments.next().as_deref(), arguments.next()) {
        (Some(measure::TIME), Some(command)) => measure::time_one(&command),
        (Some(measure::LINES), Some(command)) => measure::lines_of_one(&command),
        (Some(measure::MEMORY), Some(command)) => measure::memory_of_one(&command),
        (Some(measure::BOUND), Some(tar)) => measure::bound(Path::new(&tar)),
        (Some("--runs"), Some(runs)) => {
            runs.parse().map_err(Into::into).and_then(|runs: usize| bench(runs.max(1)))
        }
        _ => bench(RUNS),
    };
    match outcome {
        Ok(text) => {
            println!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn bench(runs: usize) -> Result<String> {
    let project = Path::new(env!("CARGO_MANIFEST_DIR"));
    let place = project.join("target/bench");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let spec = BaseSpec::new("3.13", "alpine3.24");
    let (registry, base) = runtime.block_on(async {
        let base = bases::make(spec, &project.join("target/bases")).await?;
        Ok::<_, bases::Error>((FakeRegistry::start().await, base))
    })?;
    base.serve(&registry, "library/python", Some(&spec.tag()))?;

    println!("making what is measured …");
    let scene = Scene::new(project, &place, &registry.address())?;
    let mut cases = scene.cases()?;
    cases.extend(scene.further_cases());
    for case in &mut cases {
        println!("{} …", case.name);
        for round in 0..=runs {
            // Nobody is always the one behind the peer that leaves most behind.
            let count = case.contenders.len();
            for turn in 0..count {
                let contender = &mut case.contenders[(round + turn) % count];
                shell(&contender.before)?;
                scene.settle()?;
                let run = measure::time(&contender.command, contender.lines)?;
                // The first round warms up.
                if round > 0 {
                    contender.runs.push(run);
                }
            }
        }
        for contender in &mut case.contenders {
            shell(&contender.before)?;
            contender.peak = measure::memory(&contender.command)?;
        }
    }
    let further = [scene.sizes()?, Scene::cells(&cases), scene.requests(&registry)?];
    shell(&format!("rm -rf {AWAY}"))?;
    let plot = place.join("results.svg");
    fs::write(&plot, plot::svg(&bars(&cases), &report::machine()))?;
    Ok(format!("\n{}\nplot: {}", report::markdown(&cases, &further, runs), plot.display()))
}

/// Where everything lies, with warm caches.
struct Scene {
    place: PathBuf,
    /// The program with the flags of every run.
    assemble: String,
    cache: Cache,
    registry: String,
}

impl Scene {
    fn new(project: &Path, place: &Path, registry: &str) -> Result<Self> {
        fs::create_dir_all(place)?;
        let at = |name: &str| place.join(name).display().to_string();
        let assemble = format!(
            "{} --cache-dir {} --mirror docker.io={registry} -q",
            env!("CARGO_BIN_EXE_assemble"),
            at("cache"),
        );
        let cache = Cache(place.join("cache"));
        let scene =
            Self { place: place.to_owned(), assemble, cache, registry: registry.to_owned() };
        let ours = scene.ours("project");
        for old in ["project", "pushed", "many", "large", "plain", "layout", "tree"] {
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
    fn settle(&self) -> Result<()> {
        let inputs = ["cache/blobs", "cache/keyed", "tree", "tree.tar", "first.tar", "layout"];
        let inputs = inputs.map(|name| self.at(name)).join(" ");
        shell(&format!("sync && find {inputs} -type f -print0 | xargs -0 cat >/dev/null"))
    }

    /// The recipe with changes: pushed to the registry, with many cells, with a large layer.
    fn recipes(&self) -> Result<()> {
        let cell = format!("matrix/{CELL}");
        for name in ["pushed", "many", "large", "plain"] {
            let (from, to) = (self.at("project"), self.at(name));
            shell(&format!(
                "mkdir -p {to}/{cell} && cp -r {from}/layers {to}/ && \
                 cp {from}/matrix/matrix.toml {to}/matrix/ && cp {from}/{cell}/lock.toml {to}/{cell}/"
            ))?;
        }
        let repository = format!("{}/locust", self.registry);
        self.edit("pushed", &[("docker.io/grubykarol/locust", &repository)])?;
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
        let large = self.add_layer("large")?;
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

    fn at(&self, name: &str) -> String {
        self.place.join(name).display().to_string()
    }

    /// The program with a recipe.
    fn ours(&self, recipe: &str) -> String {
        format!("{} --root {}", self.assemble, self.at(recipe))
    }

    /// The layer with the distributions as peers want it: as a folder, and as a tar.
    fn unpack(&self) -> Result<()> {
        let mut gzip = flate2::read::GzDecoder::new(fs::File::open(self.layer()?)?);
        std::io::copy(&mut gzip, &mut fs::File::create(self.place.join("tree.tar"))?)?;
        let mut tar = tar::Archive::new(fs::File::open(self.place.join("tree.tar"))?);
        Ok(tar.unpack(self.place.join("tree"))?)
    }

    fn layer(&self) -> Result<PathBuf> {
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

    fn cases(&self) -> Result<Vec<Case>> {
        let at = |name: &str| self.at(name);
        let ours = self.ours("project");
        let (forget, restore) = (self.cache.restore(FETCHED), self.cache.restore(KNOWN));
        let unread = self.cache.restore_unread(FETCHED);
        let make = |name, cell: &str, flags: &str, before: &str| {
            let before = format!("{} && {before}", remove(&at("out.tar")));
            contender(name, format!("{ours} {cell} {flags} -o {}", at("out.tar")), &before)
        };
        let bound =
            format!("{} {} {}", std::env::current_exe()?.display(), measure::BOUND, at("tree.tar"));
        // The layer with the distributions is known, the one with the file is not.
        let plain = self.ours("plain");
        let plain = format!("{plain} {CELL} --no-check --timings -o {}", at("plain.tar"));
        let (nothing, first) = ("true", at("first.tar"));
        Ok(vec![
            Case {
                name: "repeat → archive",
                contenders: [
                    make("assemble", CELL, "--no-check", nothing),
                    contender(
                        "assemble, it is there",
                        format!("{ours} {CELL} -o {first}"),
                        nothing,
                    ),
                    make("assemble, checked", CELL, "", nothing),
                ]
                .into_iter()
                .chain(self.copying())
                .chain(self.building())
                .collect(),
                targets: vec![
                    Target::Times("assemble, checked", "crane", 1.0 / 20.0),
                    Target::Times("assemble, checked", "umoci", 1.0 / 8.0),
                    Target::Times("assemble, checked", "cp", 2.0),
                ],
            },
            Case {
                name: "new cell, 90 % of its wheels known",
                contenders: [
                    make("assemble", OTHER, "--no-check", &restore),
                    make("assemble, checked", OTHER, "", &restore),
                ]
                .into_iter()
                .chain(self.building())
                .collect(),
                targets: vec![
                    Target::Times("assemble", "crane", 1.0 / 5.0),
                    Target::Times("assemble", "umoci", 1.0 / 2.0),
                ],
            },
            Case {
                name: "first assembly, wheels cached",
                contenders: [
                    make("assemble", CELL, "--no-check", &forget),
                    make("assemble, base not read", CELL, "--no-check", &unread),
                    Contender {
                        name: "assemble, its layer",
                        lines: &LAYER,
                        ..make("", CELL, "--no-check --timings", &forget)
                    },
                    Contender {
                        name: "assemble, a layer of a file",
                        lines: &LAYER,
                        ..contender(
                            "",
                            plain,
                            &format!("{} && {restore}", remove(&at("plain.tar"))),
                        )
                    },
                    contender("bound", bound, nothing),
                ]
                .into_iter()
                .chain(self.building())
                .collect(),
                targets: vec![
                    Target::Times("assemble", "crane", 1.0),
                    Target::Times("assemble, its layer", "bound", 1.3),
                    Target::Times("assemble, a layer of a file", "bound", 1.3),
                ],
            },
            Case {
                name: "lock, metadata cached",
                contenders: [
                    contender("assemble", format!("{ours} lock {CELL}"), nothing),
                    contender(
                        "assemble, offline",
                        format!("{ours} --offline lock {CELL}"),
                        nothing,
                    ),
                ]
                .into_iter()
                .chain(self.resolving())
                .collect(),
                targets: vec![
                    Target::Times("assemble", "uv", 0.5),
                    Target::Times("assemble, offline", "uv, offline", 0.5),
                ],
            },
        ])
    }

    /// Registries, many cells, large layers.
    fn further_cases(&self) -> Vec<Case> {
        let nothing = "true";
        let cells = self.at("cells");
        let unread = self.cache.restore_unread(FETCHED);
        let unread = format!("{} && {unread}", remove(&self.at("large.tar")));
        vec![
            Case {
                name: "push, nothing new",
                contenders: [contender("assemble", self.push(), nothing)]
                    .into_iter()
                    .chain(self.asking())
                    .collect(),
                targets: vec![Target::Over("assemble", "curl", 30.0)],
            },
            Case {
                name: "50 cells, warm",
                contenders: vec![contender(
                    "assemble",
                    format!("{} -o {cells}", self.ours("many")),
                    &format!("{} && mkdir {cells}", remove(&cells)),
                )],
                targets: Vec::new(),
            },
            Case {
                name: "layer of 1 GiB",
                contenders: vec![contender(
                    "assemble",
                    format!("{} {CELL} --no-check -o {}", self.ours("large"), self.at("large.tar")),
                    &unread,
                )],
                targets: Vec::new(),
            },
        ]
    }

    fn push(&self) -> String {
        format!("{} {CELL} --no-check --push", self.ours("pushed"))
    }

    /// What the registry takes to say what a tag names.
    fn asking(&self) -> Vec<Contender> {
        let tag = CELL.replace('/', "-");
        let command = format!("curl -sfI http://{}/v2/locust/manifests/{tag}", self.registry);
        peers(vec![("curl", command, "true".to_owned())])
    }

    /// Requests of a push that finds everything there.
    fn requests(&self, registry: &FakeRegistry) -> Result<String> {
        registry.clear_log();
        shell(&self.push())?;
        let lines = registry.lines();
        let tags = lines.iter().filter(|line| line.contains("/v2/locust/manifests/")).count();
        Ok(format!("A push of nothing new: {} requests, {tags} of them for tags.", lines.len()))
    }

    fn sizes(&self) -> Result<String> {
        let ours = fs::metadata(self.layer()?)?.len();
        let gzip = Command::new("gzip").args(["-6", "-c", &self.at("tree.tar")]).output()?;
        Ok(format!("The layer has {ours} bytes; gzip -6 makes {} of its tar.", gzip.stdout.len()))
    }

    /// What a cell of many costs beside one alone.
    fn cells(cases: &[Case]) -> String {
        let wall = |name: &str| {
            let case = cases.iter().find(|case| case.name.starts_with(name));
            case.map_or(0.0, |case| {
                let last = case.contenders.iter().rfind(|one| one.name.starts_with("assemble"));
                last.map_or(0.0, |one| report::milliseconds(one.median().wall))
            })
        };
        #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
        let each = wall("50 cells") / CELLS as f64;
        let alone = wall("repeat");
        format!("{CELLS} cells take {each:.1} ms each, one alone {alone:.1} ms.")
    }

    /// What only moves bytes.
    fn copying(&self) -> Vec<Contender> {
        let (from, to) = (self.at("first.tar"), self.at("copy.tar"));
        let layout = self.at("layout");
        let archive = self.at("skopeo.tar");
        peers(vec![
            ("cp", format!("cp {from} {to}"), remove(&to)),
            (
                "skopeo",
                format!("skopeo copy -q oci:{layout} oci-archive:{archive}"),
                remove(&archive),
            ),
        ])
    }

    /// What makes a layer of a tree that is there already.
    fn building(&self) -> Vec<Contender> {
        let (layout, work) = (self.at("layout"), self.at("umoci"));
        let tag = CELL.replace('/', "-");
        let (containers, script) = (self.at("containers"), self.at("buildah.sh"));
        let buildah = format!("buildah --root {containers} --runroot {containers}.run");
        let buildah = format!("{buildah} --storage-driver vfs");
        let text = format!(
            "set -e\nc=$({buildah} from scratch)\n{buildah} copy -q $c {tree} /\n\
             {buildah} commit -q $c oci-archive:{archive}\n",
            tree = self.at("tree"),
            archive = self.at("buildah.tar"),
        );
        let old = [&containers, &format!("{containers}.run"), &self.at("buildah.tar")];
        let written =
            format!("{} && printf '%s' '{text}' > {script}", put_away(&old.map(String::as_str)));
        let archive = self.at("crane.tar");
        let mut all = vec![
            (
                "crane",
                format!(
                    "crane append --oci-empty-base -f {} -t x/y:z -o {archive}",
                    self.at("tree.tar")
                ),
                remove(&archive),
            ),
            (
                "umoci",
                format!("umoci insert --image {work}:{tag} --tag new {}/usr /usr", self.at("tree")),
                format!("{} && cp -r {layout} {work}", put_away(&[&work])),
            ),
        ];
        // Not every machine lets it unshare.
        if shell(&format!("{written} && sh {script}")).is_ok() {
            all.push(("buildah", format!("sh {script}"), written));
        }
        peers(all)
    }

    fn resolving(&self) -> Vec<Contender> {
        let (from, to) = (self.at("requirements.in"), self.at("requirements.txt"));
        let version = CELL.split('/').next().unwrap_or_default();
        let command = |flag: &str| {
            format!(
                "uv pip compile -q {flag} --python-version 3.13 \
                 --python-platform x86_64-unknown-linux-musl --cache-dir {} {from} -o {to}",
                self.at("uv")
            )
        };
        let before = format!("echo locust=={version} > {from} && rm -f {to}");
        peers(vec![
            ("uv", command(""), before.clone()),
            ("uv, offline", command("--offline"), before),
        ])
    }
}

fn contender(name: &'static str, command: String, before: &str) -> Contender {
    Contender { name, command, before: before.to_owned(), lines: &[], runs: Vec::new(), peak: 0 }
}

/// Those whose program is on `PATH`.
fn peers(all: Vec<(&'static str, String, String)>) -> Vec<Contender> {
    all.into_iter()
        .filter(|(_, command, _)| {
            let program = command.split(' ').next().unwrap_or_default();
            shell(&format!("command -v {program}")).is_ok()
        })
        .map(|(name, command, before)| contender(name, command, &before))
        .collect()
}

/// A shell's words that delete what a command wrote, so that the next one gets the memory that it was in.
fn remove(path: &str) -> String {
    format!("rm -rf {path}")
}

fn shell(command: &str) -> Result<()> {
    let output = Command::new("sh").args(["-c", command]).stdin(Stdio::null()).output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{command}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr)).into())
}

fn bars(cases: &[Case]) -> Vec<plot::Group> {
    let bar = |contender: &Contender| plot::Bar {
        name: contender.name,
        milliseconds: report::milliseconds(contender.median().wall),
    };
    cases
        .iter()
        .map(|case| plot::Group {
            name: case.name,
            bars: case.contenders.iter().map(bar).collect(),
        })
        .collect()
}
