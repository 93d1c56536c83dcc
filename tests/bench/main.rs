//! How long whole commands take, side by side with the fastest tools that do a part of the same.
//!
//! ```text
//! cargo bench
//! ```
//!
//! Every case starts its commands in turn, so that what disturbs the machine disturbs all of them, and
//! takes medians. Peers that are missing are left out. The base is made from packages and served on
//! loopback; wheels come from the package index, once. The table goes to standard output, and as a
//! plot to `target/bench/results.svg`.
#![expect(clippy::print_stdout, reason = "a program's output")]

use std::error::Error;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use fs_err as fs;
use nix::sys::resource::{UsageWho, getrusage};
use serde_json::Value;

use crate::bases::BaseSpec;
use crate::support::registry::FakeRegistry;

#[path = "../bases/mod.rs"]
#[expect(dead_code, unused_imports, reason = "each target uses its part")]
mod bases;

mod plot;

#[path = "../support/mod.rs"]
#[expect(dead_code, reason = "each target uses its part")]
mod support;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// What everything is measured on, and one that shares nearly all of it.
const CELL: &str = "2.47.0/python3.13/alpine3.24";
const OTHER: &str = "2.46.0/python3.13/alpine3.24";

/// Runs of each command.
const RUNS: usize = 9;

/// How this program is told to run one command and to say what it took: a child's peak memory is only
/// known to its parent, and only as the largest of all children.
const MEASURE: &str = "--measure-one";

/// What one run took.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
struct Run {
    wall: Duration,
    /// KiB
    peak: i64,
}

/// A command and how it did.
struct Contender {
    name: &'static str,
    /// A shell's words.
    command: String,
    /// Puts things as they should be before a run; not measured.
    before: String,
    runs: Vec<Run>,
}

struct Case {
    name: &'static str,
    contenders: Vec<Contender>,
}

fn main() -> ExitCode {
    // A sandbox stage must change namespaces before any thread exists.
    if let Some(code) = assemble::sandbox::run_stage(std::env::args_os()) {
        return code;
    }
    let mut arguments = std::env::args().skip(1);
    let outcome = match (arguments.next().as_deref(), arguments.next()) {
        (Some(MEASURE), Some(command)) => measure_one(&command),
        _ => bench(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn bench() -> Result<()> {
    let project = Path::new(env!("CARGO_MANIFEST_DIR"));
    let place = project.join("target/bench");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let spec = BaseSpec::new("3.13", "alpine3.24");
    let (registry, base) = runtime.block_on(async {
        let base = bases::make(spec, &project.join("target/bases")).await?;
        Ok::<_, bases::Error>((FakeRegistry::start().await, base))
    })?;
    base.serve(&registry, "library/python", Some(&spec.tag()))?;

    let scene = Scene::new(project, &place, &registry.address())?;
    let mut cases = scene.cases();
    for case in &mut cases {
        println!("{} …", case.name);
        for round in 0..=RUNS {
            for contender in &mut case.contenders {
                shell(&contender.before)?;
                let run = measure(&contender.command)?;
                // The first round warms up.
                if round > 0 {
                    contender.runs.push(run);
                }
            }
        }
    }
    let machine = machine();
    println!("\n{}", table(&cases, &machine));
    let plot = place.join("results.svg");
    fs::write(&plot, plot::svg(&bars(&cases), &machine))?;
    println!("plot: {}", plot.display());
    Ok(())
}

/// Where everything lies, with warm caches.
struct Scene {
    place: PathBuf,
    /// The program with the flags of every run.
    assemble: String,
}

impl Scene {
    fn new(project: &Path, place: &Path, mirror: &str) -> Result<Self> {
        fs::create_dir_all(place)?;
        let at = |name: &str| place.join(name).display().to_string();
        let assemble = format!(
            "{} --root {} --cache-dir {} --mirror docker.io={mirror} -q",
            env!("CARGO_BIN_EXE_assemble"),
            at("project"),
            at("cache"),
        );
        let scene = Self { place: place.to_owned(), assemble };
        let Self { assemble, .. } = &scene;
        // Pinned bases: a tag would be asked for in every run.
        shell(&format!(
            "rm -rf {0} {1} {2} && mkdir -p {0} && cp -r {3}/matrix {3}/layers {0}/",
            at("project"),
            at("layout"),
            at("tree"),
            project.display(),
        ))?;
        shell(&format!("{assemble} lock --base {CELL}"))?;
        shell(&format!("{assemble} {CELL} -o {}", at("first.tar")))?;
        // What the other cell finds: the results of this one.
        shell(&format!("rm -rf {0}.kept && cp -r {0} {0}.kept", at("cache/keyed")))?;
        shell(&format!("{assemble} new {OTHER} && {assemble} lock --base {OTHER}"))?;
        shell(&format!("{assemble} {OTHER} -o {}", at("other.tar")))?;
        shell(&format!("{assemble} {CELL} --format oci -o {}", at("layout")))?;
        scene.unpack()?;
        Ok(scene)
    }

    fn at(&self, name: &str) -> String {
        self.place.join(name).display().to_string()
    }

    /// The layer with the distributions as peers want it: as a folder, and as a tar.
    fn unpack(&self) -> Result<()> {
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
        let mut gzip = flate2::read::GzDecoder::new(fs::File::open(blob(layer))?);
        std::io::copy(&mut gzip, &mut fs::File::create(self.place.join("tree.tar"))?)?;
        let mut tar = tar::Archive::new(fs::File::open(self.place.join("tree.tar"))?);
        Ok(tar.unpack(self.place.join("tree"))?)
    }

    fn cases(&self) -> Vec<Case> {
        let at = |name: &str| self.at(name);
        let assemble = &self.assemble;
        let ours = |command: String, before: String| Contender {
            name: "assemble",
            command,
            before,
            runs: Vec::new(),
        };
        let forget = format!("cd {} && rm -rf layers distributions parts", at("cache/keyed"));
        let restore = format!("rm -rf {0} && cp -r {0}.kept {0}", at("cache/keyed"));
        let nothing = || "true".to_owned();
        let out = at("out.tar");
        vec![
            Case {
                name: "repeat → archive",
                contenders: [ours(format!("{assemble} {CELL} -o {out}"), nothing())]
                    .into_iter()
                    .chain(self.copying())
                    .chain(self.building())
                    .collect(),
            },
            Case {
                name: "new cell, most wheels known",
                contenders: [ours(format!("{assemble} {OTHER} -o {out}"), restore)]
                    .into_iter()
                    .chain(self.building())
                    .collect(),
            },
            Case {
                name: "first assembly, wheels cached",
                contenders: [ours(format!("{assemble} {CELL} -o {out}"), forget)]
                    .into_iter()
                    .chain(self.building())
                    .collect(),
            },
            Case {
                name: "lock, metadata cached",
                contenders: [ours(format!("{assemble} lock {CELL}"), nothing())]
                    .into_iter()
                    .chain(self.resolving())
                    .collect(),
            },
        ]
    }

    /// What only moves bytes.
    fn copying(&self) -> Vec<Contender> {
        let (from, to) = (self.at("first.tar"), self.at("copy.tar"));
        let layout = self.at("layout");
        let archive = self.at("skopeo.tar");
        peers(vec![
            ("cp", format!("cp {from} {to}"), "true".to_owned()),
            (
                "skopeo",
                format!("skopeo copy -q oci:{layout} oci-archive:{archive}"),
                format!("rm -f {archive}"),
            ),
        ])
    }

    /// What makes a layer of a tree that is there already.
    fn building(&self) -> Vec<Contender> {
        let (layout, work) = (self.at("layout"), self.at("umoci"));
        let tag = CELL.replace('/', "-");
        peers(vec![
            (
                "crane",
                format!(
                    "crane append --oci-empty-base -f {} -t x/y:z -o {}",
                    self.at("tree.tar"),
                    self.at("crane.tar")
                ),
                "true".to_owned(),
            ),
            (
                "umoci",
                format!("umoci insert --image {work}:{tag} --tag new {}/usr /usr", self.at("tree")),
                format!("rm -rf {work} && cp -r {layout} {work}"),
            ),
        ])
    }

    fn resolving(&self) -> Vec<Contender> {
        let requirements = self.at("requirements.in");
        let version = CELL.split('/').next().unwrap_or_default();
        peers(vec![(
            "uv",
            format!(
                "uv pip compile -q --python-version 3.13 --python-platform x86_64-unknown-linux-musl \
                 {requirements} -o {}",
                self.at("requirements.txt")
            ),
            format!(
                "echo locust=={version} > {requirements} && rm -f {}",
                self.at("requirements.txt")
            ),
        )])
    }
}

/// Those whose program is on `PATH`.
fn peers(all: Vec<(&'static str, String, String)>) -> Vec<Contender> {
    all.into_iter()
        .filter(|(name, ..)| shell(&format!("command -v {name}")).is_ok())
        .map(|(name, command, before)| Contender { name, command, before, runs: Vec::new() })
        .collect()
}

fn shell(command: &str) -> Result<()> {
    let output = Command::new("sh").args(["-c", command]).stdin(Stdio::null()).output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{command}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr)).into())
}

/// Runs the command from a small process of its own.
fn measure(command: &str) -> Result<Run> {
    let output = Command::new(std::env::current_exe()?)
        .args([MEASURE, command])
        .stdin(Stdio::null())
        .output()?;
    let text = String::from_utf8(output.stdout)?;
    let mut words = text.split_whitespace();
    match (words.next().and_then(|w| w.parse().ok()), words.next().and_then(|w| w.parse().ok())) {
        (Some(nanoseconds), Some(peak)) => {
            Ok(Run { wall: Duration::from_nanos(nanoseconds), peak })
        }
        _ => Err(format!("{command}: {text}").into()),
    }
}

fn measure_one(command: &str) -> Result<()> {
    let mut words = command.split_whitespace();
    let program = words.next().ok_or("no command")?;
    let begin = Instant::now();
    let output = Command::new(program).args(words).stdout(Stdio::null()).output()?;
    let wall = begin.elapsed();
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into());
    }
    println!("{} {}", wall.as_nanos(), getrusage(UsageWho::RUSAGE_CHILDREN)?.max_rss());
    Ok(())
}

impl Contender {
    fn median(&self) -> Run {
        let mut walls: Vec<_> = self.runs.iter().map(|run| run.wall).collect();
        let mut peaks: Vec<_> = self.runs.iter().map(|run| run.peak).collect();
        walls.sort();
        peaks.sort_unstable();
        Run { wall: walls[walls.len() / 2], peak: peaks[peaks.len() / 2] }
    }

    fn fastest(&self) -> Duration {
        self.runs.iter().map(|run| run.wall).min().unwrap_or_default()
    }
}

/// Processor and programs. Writing to a `String` cannot fail.
fn machine() -> String {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut text = format!("{cores} × {}", model.map_or("?", |(_, name)| name));
    for (name, flag) in [
        ("cp", "--version"),
        ("umoci", "--version"),
        ("skopeo", "--version"),
        ("crane", "version"),
        ("uv", "--version"),
    ] {
        if let Ok(output) = Command::new(name).arg(flag).output() {
            let version = String::from_utf8_lossy(&output.stdout).into_owned();
            let version = version.lines().next().unwrap_or_default();
            let version = version.split(' ').next_back().unwrap_or_default();
            let _never = write!(text, ", {name} {version}");
        }
    }
    text
}

/// Markdown.
fn table(cases: &[Case], machine: &str) -> String {
    let mut text = format!("{machine}; medians of {RUNS} runs in turn\n\n");
    text += "| case | program | ms | fastest, ms | assemble takes | peak MiB |\n";
    text += "| --- | --- | ---: | ---: | ---: | ---: |\n";
    for case in cases {
        let ours = case.contenders[0].median().wall.as_secs_f64();
        for contender in &case.contenders {
            let Run { wall, peak } = contender.median();
            let ratio = ours / wall.as_secs_f64();
            #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
            let peak = peak as f64 / 1024.0;
            let _never = writeln!(
                text,
                "| {} | {} | {:.1} | {:.1} | {ratio:.2} × | {peak:.0} |",
                case.name,
                contender.name,
                wall.as_secs_f64() * 1e3,
                contender.fastest().as_secs_f64() * 1e3,
            );
        }
    }
    text
}

fn bars(cases: &[Case]) -> Vec<plot::Group> {
    let bar = |contender: &Contender| plot::Bar {
        name: contender.name,
        milliseconds: contender.median().wall.as_secs_f64() * 1e3,
    };
    cases
        .iter()
        .map(|case| plot::Group {
            name: case.name,
            bars: case.contenders.iter().map(bar).collect(),
        })
        .collect()
}
