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
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use fs_err as fs;

use crate::bases::BaseSpec;
use crate::cache::AWAY;
use crate::measure::Run;
use crate::scene::Scene;
use crate::support::registry::FakeRegistry;

#[path = "../bases/mod.rs"]
#[expect(dead_code, unused_imports, reason = "each target uses its part")]
mod bases;

mod cache;
mod cases;
mod measure;
mod paths;
mod plot;
mod report;
mod scene;

#[path = "../support/mod.rs"]
#[expect(dead_code, reason = "each target uses its part")]
mod support;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// What everything is measured on, and the version before it, which shares its wheels but for its own and
/// those that were released since that was locked.
const CELL: &str = "2.47.0/python3.13/alpine3.24";
const OTHER: &str = "2.46.7/python3.13/alpine3.24";

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
    let requests = scene.requests(&registry)?;
    println!("memory of all paths …");
    let paths = paths::peaks(&scene)?;
    let further = [paths, scene.shared()?, scene.sizes()?, Scene::cells(&cases), requests];
    shell(&format!("rm -rf {AWAY}"))?;
    let plot = place.join("results.svg");
    fs::write(&plot, plot::svg(&bars(&cases), &report::machine()))?;
    Ok(format!("\n{}\nplot: {}", report::markdown(&cases, &further, runs), plot.display()))
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
