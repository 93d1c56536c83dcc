//! Plans, results and errors as text.

use std::error::Error as _;
use std::fmt::Write as _;

use super::cells::{Outcomes, failed_word};
use super::table::table;
use crate::assemble::{Assembled, Checked};
use crate::error::Error;
use crate::gate;
use crate::plan::{Content, DEVIATIONS, Deviations, Plan};
use crate::recipe::layer::Files;
use crate::registry::Cost;

/// An error as a person reads it: what could not be done, why, and what to do next.
pub(super) fn error(error: &Error) -> String {
    let mut text = format!("error: {error}");
    let mut cause = error.source();
    while let Some(source) = cause {
        // `write!` to a String cannot fail.
        let _never = write!(text, "\n  {}", source.to_string().trim_end().replace('\n', "\n  "));
        cause = source.source();
    }
    for line in error.hint().iter().flat_map(|hint| hint.lines()) {
        let _never = write!(text, "\nhint: {line}");
    }
    text
}

/// Bytes with three significant digits: `9.87 MB` (decimal, as registries count).
pub(super) fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["kB", "MB", "GB", "TB"];
    if bytes < 1000 {
        return format!("{bytes} B");
    }
    let mut unit = 0;
    let mut divisor: u64 = 1000;
    while bytes / divisor >= 1000 && unit + 1 < UNITS.len() {
        divisor *= 1000;
        unit += 1;
    }
    let hundredths = u128::from(bytes) * 100 / u128::from(divisor);
    let (whole, rest) = (hundredths / 100, hundredths % 100);
    match whole {
        0..=9 => format!("{whole}.{rest:02} {}", UNITS[unit]),
        10..=99 => format!("{whole}.{} {}", rest / 10, UNITS[unit]),
        _ => format!("{whole} {}", UNITS[unit]),
    }
}

/// A plan as a person reads it.
pub(super) fn plan(plan: &Plan) -> String {
    let mut text = String::new();
    let mut line = |indent: usize, words: String| {
        let _never = writeln!(text, "{:indent$}{words}", "");
    };
    line(0, format!("{} for {}", plan.reference, plan.platform));
    plan.floating.iter().for_each(|tag| line(2, format!("also tagged {tag}")));
    let pinned = if plan.base.pinned { "pinned" } else { "not pinned" };
    line(2, format!("base {}", plan.base.reference));
    line(4, format!("{} ({pinned})", plan.base.digest));
    line(
        4,
        format!(
            "python {}, {} layers, {}",
            plan.base.python,
            plan.base.layers,
            size(plan.base.size)
        ),
    );
    for layer in &plan.layers {
        line(2, format!("layer {} ({})", layer.name, layer.created_by));
        match &layer.content {
            Content::Python => {
                for item in &plan.distributions {
                    let how = if item.is_wheel() {
                        String::new()
                    } else {
                        let needs: Vec<_> = item
                            .build
                            .iter()
                            .map(|need| format!("{} {}", need.name, need.version))
                            .collect();
                        format!(", built from source with {}", needs.join(", "))
                    };
                    line(
                        4,
                        format!(
                            "{} {}  {} ({}{how})",
                            item.name,
                            item.version,
                            item.file_name,
                            size(item.size)
                        ),
                    );
                }
                if let Some(compiler) = &plan.compiler {
                    let files = compiler.files.iter().map(|file| file.file_name.as_str());
                    let files = files.collect::<Vec<_>>().join(", ");
                    line(
                        4,
                        format!(
                            "sources are compiled with {} {} ({files})",
                            compiler.name, compiler.version
                        ),
                    );
                }
            }
            Content::Files(content) => {
                for words in files(content) {
                    line(4, words);
                }
            }
        }
    }
    for words in deviations(&plan.deviations) {
        line(2, words);
    }
    let config = &plan.config;
    line(2, "config".to_owned());
    let words = |list: &Vec<String>| serde_json::json!(list).to_string();
    // The base's command would become the entrypoint's arguments.
    let cleared = config.entrypoint.is_some();
    for (key, value) in [
        ("Entrypoint", config.entrypoint.as_ref().map(words)),
        ("Cmd", config.cmd.as_ref().map(words).or_else(|| cleared.then(|| "is cleared".into()))),
        ("User", config.user.clone()),
        ("WorkingDir", config.working_dir.clone()),
        ("StopSignal", config.stop_signal.clone()),
        (
            "ExposedPorts",
            (!config.exposed_ports.is_empty()).then(|| config.exposed_ports.join(" ")),
        ),
        ("Volumes", (!config.volumes.is_empty()).then(|| config.volumes.join(" "))),
    ] {
        if let Some(value) = value {
            line(4, format!("{key} {value}"));
        }
    }
    for (name, value) in &config.env {
        line(4, format!("Env {name}={value}"));
    }
    // The deviations are told above, one line each.
    for (key, value) in config.labels.iter().filter(|(key, _)| *key != DEVIATIONS) {
        line(4, format!("Label {key}={value}"));
    }
    line(2, format!("created {}", plan.created));
    for destination in &plan.destinations {
        line(2, format!("to {destination}"));
    }
    text
}

/// Every deviation and its reason, one line each.
fn deviations(all: &Deviations) -> Vec<String> {
    let mut lines = Vec::new();
    let mut add = |what: String, reason: &str| lines.push(format!("{what}: {reason}"));
    for item in &all.requirements {
        add(format!("also {}", item.requirement), &item.reason);
    }
    for item in &all.constraints {
        add(format!("constraint {}", item.requirement), &item.reason);
    }
    for item in &all.overrides {
        match &item.drop {
            Some(name) => add(format!("override: no {name}"), &item.reason),
            None => add(format!("override {}", item.what()), &item.reason),
        }
    }
    if let Some(limit) = &all.exclude_newer {
        add(format!("nothing newer than {}", limit.date), &limit.reason);
    }
    for item in &all.launchers {
        add(
            format!("command {} runs `{}` first", item.script, item.before.join("; ")),
            &item.reason,
        );
    }
    for item in &all.replacements {
        let what = format!(
            "in {} {:?} becomes {:?} ({} times)",
            item.path, item.from, item.to, item.count
        );
        add(what, &item.reason);
    }
    for item in &all.prune {
        add(format!("without {}", item.paths.join(" ")), &item.reason);
    }
    if let Some(item) = &all.strip {
        add("shared objects are stripped".to_owned(), &item.reason);
    }
    if let Some(item) = &all.duplicates {
        let smallest = size(item.smallest);
        add(format!("equal files of at least {smallest} are hard links"), &item.reason);
    }
    if let Some(item) = &all.bytecode {
        let what = if item.paths.is_empty() { "all modules".into() } else { item.paths.join(" ") };
        add(format!("bytecode of {what}"), &item.reason);
    }
    if let Some(item) = &all.compiler {
        add(format!("sdists are compiled with {}", item.uses), &item.reason);
    }
    lines.extend(all.without.iter().map(|what| format!("without {what}")));
    lines
}

/// What a files layer holds, one line each.
fn files(content: &Files) -> Vec<String> {
    let rights = |mode: &Option<String>, usual: &str, owner: &Option<String>| {
        let (mode, owner) = (mode.as_deref(), owner.as_deref());
        format!("{} {}", mode.unwrap_or(usual), owner.unwrap_or("0:0"))
    };
    let files = content.files.iter().map(|file| {
        let rights = rights(&file.mode, "0644", &file.owner);
        format!("{}  {rights} (from {})", file.to, file.from)
    });
    let directories = content.directories.iter().map(|directory| {
        format!("{}/  {}", directory.path, rights(&directory.mode, "0755", &directory.owner))
    });
    let links = content.links.iter().map(|link| format!("{} -> {}", link.path, link.target));
    files.chain(directories).chain(links).collect()
}

/// A result as a person reads it.
pub(super) fn assembled(result: &Assembled) -> String {
    let mut text = format!("{}@{}\n", result.reference, result.digest);
    for image in &result.images {
        let _never = writeln!(
            text,
            "  {}: {} compressed, {} of it added ({} unpacked)",
            image.platform,
            size(image.size),
            size(image.added_size),
            size(image.added_uncompressed_size)
        );
    }
    for image in &result.images {
        let _never = writeln!(text, "  {}: {}", image.platform, looked_at(&image.checked));
        let _never = writeln!(text, "  {}: start check {}", image.platform, image.start);
    }
    if let Some(image) = result.images.iter().find(|image| !image.base_pinned) {
        let _never = writeln!(
            text,
            "  the base is not pinned: {} today (`assemble lock --base {}` pins it)",
            image.base, result.cell
        );
    }
    for place in &result.written {
        let _never = writeln!(text, "  {place}");
    }
    text
}

/// What became of several cells: one line for each image or failure, then where the images are.
pub(super) fn summary(outcomes: &Outcomes<Assembled>) -> String {
    let mut rows: Vec<[String; 6]> = Vec::new();
    let many = outcomes.done.iter().any(|result| result.images.len() > 1);
    for result in &outcomes.done {
        for image in &result.images {
            let platform = if many { image.platform.to_string() } else { String::new() };
            let pinned = if image.base_pinned { "pinned" } else { "not pinned" };
            rows.push([
                result.cell.clone(),
                platform,
                super::matrix::short(&image.digest),
                size(image.size),
                size(image.added_size),
                pinned.to_owned(),
            ]);
        }
    }
    for (cell, error) in &outcomes.failed {
        let blank = String::new;
        rows.push([cell.clone(), blank(), failed_word(error.kind()), blank(), blank(), blank()]);
    }
    // Both halves are in the matrix's order, which is that of the paths.
    rows.sort_by(|a, b| a[0].cmp(&b[0]));
    let mut text = table(["CELL", "PLATFORM", "DIGEST", ">SIZE", ">ADDED", "BASE"], &rows);
    let places = outcomes.done.iter().flat_map(|result| &result.written);
    for (number, place) in places.enumerate() {
        let _never = writeln!(text, "{}  {place}", if number == 0 { "written:\n" } else { "" });
    }
    let open = outcomes.done.iter().filter(|result| result.images.iter().any(|i| !i.base_pinned));
    let open: Vec<&str> = open.map(|result| result.cell.as_str()).collect();
    if !open.is_empty() {
        let _never = writeln!(
            text,
            "bases that are not pinned may be others tomorrow: `assemble lock --base {}` pins them",
            open.join(" ")
        );
    }
    text
}

/// What was found of an image that was made before.
pub(super) fn checked(result: &Checked) -> String {
    format!(
        "{} for {}\n  {}\n  start check {}\n",
        result.image,
        result.platform,
        looked_at(&result.checked),
        result.start
    )
}

fn looked_at(report: &gate::Report) -> String {
    let files =
        if report.files_checked { ", RECORDs, commands, scripts and links are true" } else { "" };
    let requirements = match (report.files_checked, report.overridden.join(", ")) {
        (false, _) => String::new(),
        (true, names) if names.is_empty() => ", requirements are met".to_owned(),
        (true, names) => format!(", requirements are met but those of overridden {names}"),
    };
    let base = if report.base.is_empty() { String::new() } else { format!(", {}", report.base) };
    format!("{} ELF files fit the base{base}{files}{requirements}", report.elf_files)
}

/// What a run moved over the network.
pub(super) fn cost(cost: &Cost) -> String {
    if cost.requests == 0 {
        return String::new();
    }
    format!(
        "registry: {} request{}, {} down, {} up ({} blobs), {} mounted ({} blobs), {} blobs were there\n",
        cost.requests,
        if cost.requests == 1 { "" } else { "s" },
        size(cost.bytes_down),
        size(cost.bytes_up),
        cost.blobs_uploaded,
        size(cost.bytes_mounted),
        cost.blobs_mounted,
        cost.blobs_existing
    )
}

#[cfg(test)]
mod tests {
    #[test]
    fn sizes_have_three_digits() {
        for (bytes, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.00 kB"),
            (12_345, "12.3 kB"),
            (999_999, "999 kB"),
            (9_876_543, "9.87 MB"),
            (123_456_789_012, "123 GB"),
        ] {
            assert_eq!(super::size(bytes), text);
        }
    }
}
