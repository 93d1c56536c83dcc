//! `assemble size`: what an image's bytes are.

use std::fmt::Write as _;
use std::path::Path;

use super::args::{Assemble, Shared, Size as Flags};
use super::environment::Environment;
use super::error::Error;
use super::report::size;
use super::table::table;
use super::{convert, print};
use crate::assemble;
use crate::error::{Doing, Result};
use crate::recipe::Recipe;
use crate::size::{Report, page};
use crate::world::World;

/// Runs the command.
pub(super) async fn run(
    recipe: &Recipe,
    flags: &Flags,
    shared: &Shared,
    environment: &Environment,
    world: &World,
) -> Result<()> {
    let understand = || "understand the command line".to_owned();
    let meant = Assemble {
        cells: vec![flags.cell.clone()],
        platforms: flags.platform.iter().cloned().collect(),
        ..Assemble::default()
    };
    let mut requests = convert::requests(recipe, &meant, environment)?;
    let request = match (requests.pop(), requests.len()) {
        (Some((_, request)), 0) => request?,
        (_, others) => {
            return Err(Error::OneCellOnly { flag: "size", cells: others + 1 }).doing(understand);
        }
    };
    let Some(platform) = request.platforms.first() else { return Ok(()) };
    let report = assemble::weigh(&request, platform, world).await?;
    if let Some(path) = &flags.html {
        write(path, &page(&report, size))?;
        world.progress.step(&format!("wrote {}", path.display()));
    }
    print(shared, &report, text)
}

fn write(path: &Path, page: &str) -> Result<()> {
    convert::write_beside(path, page.as_bytes())
        .map_err(Error::Disk)
        .doing(|| "write the page".into())
}

/// The report as a person reads it.
fn text(report: &Report) -> String {
    let mut text = format!("{} for {}\n\n", report.reference, report.platform);
    let mut rows: Vec<[String; 4]> = Vec::new();
    for layer in &report.layers {
        let weight = &layer.weight;
        let files = weight.files.to_string();
        rows.push([layer.name.clone(), size(weight.unpacked), size(weight.compressed), files]);
    }
    for (name, weight) in [("all", &report.image), ("added", &report.added)] {
        let files = weight.files.to_string();
        rows.push([name.to_owned(), size(weight.unpacked), size(weight.compressed), files]);
    }
    text.push_str(&table(["LAYER", ">UNPACKED", ">COMPRESSED", ">FILES"], &rows));
    let rows: Vec<_> = report
        .distributions
        .iter()
        .map(|share| {
            let version = share.version.as_deref().map(|version| format!(" {version}"));
            [
                format!("{}{}", share.name, version.unwrap_or_default()),
                size(share.weight.unpacked),
                format!("≈ {}", size(share.weight.compressed)),
                share.weight.files.to_string(),
                if share.pruned > 0 { size(share.pruned) } else { String::new() },
            ]
        })
        .collect();
    text.push('\n');
    let head = ["DISTRIBUTION", ">UNPACKED", ">COMPRESSED", ">FILES", ">PRUNED"];
    text.push_str(&table(head, &rows));
    text.push_str("≈ each file deflated alone, scaled to what its layer really takes\n");
    if !report.pruned.is_empty() {
        text.push_str("\nleft out:\n");
    }
    for rule in &report.pruned {
        let _never = writeln!(
            text,
            "  {} in {} files: {} ({})",
            size(rule.bytes),
            rule.files,
            rule.paths.join(" "),
            rule.reason
        );
    }
    text
}
