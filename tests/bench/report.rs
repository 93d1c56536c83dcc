//! What was measured, as Markdown.

use std::fmt::Write as _;
use std::process::Command;
use std::time::Duration;

use fs_err as fs;

use crate::measure::Run;
use crate::{Case, Contender, Target};

/// Peak memory of every command of ours, MiB.
pub(crate) const MEMORY: f64 = 32.0;

impl Contender {
    pub(crate) fn median(&self) -> Run {
        let middle = |mut times: Vec<Duration>| {
            times.sort();
            times.get(times.len() / 2).copied().unwrap_or_default()
        };
        Run {
            wall: middle(self.runs.iter().map(|run| run.wall).collect()),
            cpu: middle(self.runs.iter().map(|run| run.cpu).collect()),
        }
    }

    fn fastest(&self) -> Duration {
        self.runs.iter().map(|run| run.wall).min().unwrap_or_default()
    }
}

pub(crate) fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// KiB as MiB.
pub(crate) fn mib(kib: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    let kib = kib as f64;
    kib / 1024.0
}

/// Everything. Writing to a `String` cannot fail.
pub(crate) fn markdown(cases: &[Case], further: &[String], runs: usize) -> String {
    let mut text = format!("{}; medians of {runs} runs in turn\n\n", machine());
    text += "| case | program | ms | fastest | ms of processors | assemble takes | peak MiB |\n";
    text += "| --- | --- | ---: | ---: | ---: | ---: | ---: |\n";
    for case in cases {
        let ours = case.contenders[0].median().wall.as_secs_f64();
        for contender in &case.contenders {
            let Run { wall, cpu } = contender.median();
            let _never = writeln!(
                text,
                "| {} | {} | {:.1} | {:.1} | {:.1} | {:.2} × | {:.0} |",
                case.name,
                contender.name,
                milliseconds(wall),
                milliseconds(contender.fastest()),
                milliseconds(cpu),
                ours / wall.as_secs_f64(),
                mib(contender.peak),
            );
        }
    }
    text += "\n| target | wanted | measured | |\n| --- | ---: | ---: | --- |\n";
    for case in cases {
        for target in &case.targets {
            text += &verdict(case, target);
        }
    }
    for case in cases {
        let ours = case.contenders.iter().filter(|one| one.name.starts_with("assemble"));
        let peak = mib(ours.map(|one| one.peak).max().unwrap_or_default());
        let _never = writeln!(
            text,
            "| {}: peak memory | ≤ {MEMORY:.0} MiB | {peak:.1} MiB | {} |",
            case.name,
            word(peak <= MEMORY)
        );
    }
    for line in further {
        let _never = writeln!(text, "\n{line}");
    }
    text
}

pub(crate) fn word(is_met: bool) -> &'static str {
    if is_met { "met" } else { "missed" }
}

fn verdict(case: &Case, target: &Target) -> String {
    let wall = |name: &str| {
        let found = case.contenders.iter().find(|contender| contender.name == name);
        found.map(|contender| milliseconds(contender.median().wall))
    };
    let (Target::Times(ours, peer, _) | Target::Over(ours, peer, _)) = target;
    let (Some(ours), Some(theirs)) = (wall(ours), wall(peer)) else {
        return format!("| {}: {ours} beside {peer} | | {peer} is not here | |\n", case.name);
    };
    let name = case.name;
    match target {
        Target::Times(program, _, most) => {
            let found = ours / theirs;
            let word = word(found <= *most);
            format!("| {name}: {program} beside {peer} | ≤ {most:.2} × | {found:.2} × | {word} |\n")
        }
        Target::Over(program, _, most) => {
            let found = ours - theirs;
            let word = word(found <= *most);
            format!("| {name}: {program} over {peer} | ≤ {most:.0} ms | {found:.1} ms | {word} |\n")
        }
    }
}

/// Processor and programs.
pub(crate) fn machine() -> String {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut text = format!("{cores} × {}", model.map_or("?", |(_, name)| name));
    for (name, flag) in [
        ("cp", "--version"),
        ("umoci", "--version"),
        ("skopeo", "--version"),
        ("buildah", "--version"),
        ("crane", "version"),
        ("uv", "--version"),
    ] {
        if let Ok(output) = Command::new(name).arg(flag).output() {
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            let is_number = |word: &&str| word.starts_with(|c: char| c.is_ascii_digit());
            // Some say `v1`.
            let mut words = said.split_whitespace().map(|word| word.trim_start_matches('v'));
            let version = words.find(is_number).unwrap_or("?");
            let _never = write!(text, ", {name} {version}");
        }
    }
    text
}
