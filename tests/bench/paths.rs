//! Peak memory of all that is done with an image, with the distributions alone and with a layer of 1 GiB
//! beside them.
//!
//! Each is done once, as users do it, checks included; what it begins with is what those before it left.

use std::fmt::Write as _;

use crate::report::{MEMORY, mib, word};
use crate::scene::{LARGE, PUSHED, Scene};
use crate::{CELL, Result, measure, shell};

/// The layers above which all must hold.
const RECIPES: [&str; 2] = [PUSHED, LARGE];

/// What is done, and with what the cache is left before it.
enum Step {
    /// Nothing is there.
    Nothing,
    /// The base is there, and bytecode; no wheel, page or piece of a layer is.
    Base,
    /// All that those before it left.
    Go,
}

/// A Markdown table, and whether all is as small as it should be.
pub(crate) fn peaks(scene: &Scene) -> Result<String> {
    let mut rows: Vec<(&str, Vec<f64>)> = Vec::new();
    for recipe in RECIPES {
        let out = scene.at("paths");
        let cache = scene.at("paths-cache");
        shell(&format!("rm -rf {out} {cache} && mkdir {out}"))?;
        let program = format!("{} --root {}", scene.program(&cache), scene.at(recipe));
        let image = format!("{}/{recipe}:{}", scene.registry, CELL.replace('/', "-"));
        let steps = [
            ("nothing there → archive", Step::Nothing, format!("{CELL} -o {out}/first.tar")),
            ("base there → archive", Step::Base, format!("{CELL} -o {out}/second.tar")),
            ("the same again → archive", Step::Go, format!("{CELL} -o {out}/third.tar")),
            ("→ OCI layout", Step::Go, format!("{CELL} --format oci -o {out}/layout")),
            ("push, everything new", Step::Go, format!("{CELL} --push")),
            ("push, nothing new", Step::Go, format!("{CELL} --push")),
            ("check of the archive", Step::Go, format!("check {out}/first.tar")),
            ("check of the layout", Step::Go, format!("check {out}/layout")),
            ("check of what was pushed", Step::Go, format!("check {image}")),
            ("size, as a page", Step::Go, format!("size {CELL} --html {out}/page.html")),
            ("lock", Step::Go, format!("lock --check {CELL}")),
            ("nothing there → lock", Step::Nothing, format!("lock --check {CELL}")),
            ("nothing there → push", Step::Nothing, format!("{CELL} --push")),
        ];
        for (name, step, words) in steps {
            shell(&before(&step, scene, &cache))?;
            let peak = mib(measure::memory(&format!("{program} {words}"))?);
            match rows.iter_mut().find(|(known, _)| *known == name) {
                Some((_, peaks)) => peaks.push(peak),
                None => rows.push((name, vec![peak])),
            }
        }
    }
    let mut text = String::from("| peak memory, MiB | distributions | with 1 GiB | |\n");
    text += "| --- | ---: | ---: | --- |\n";
    for (name, peaks) in rows {
        let is_met = peaks.len() == RECIPES.len() && peaks.iter().all(|peak| *peak <= MEMORY);
        let figures: Vec<String> = peaks.iter().map(|peak| format!("{peak:.1}")).collect();
        let _never = writeln!(text, "| {name} | {} | {} |", figures.join(" | "), word(is_met));
    }
    Ok(text)
}

/// A shell's words.
fn before(step: &Step, scene: &Scene, cache: &str) -> String {
    match step {
        Step::Nothing => format!("rm -rf {cache}"),
        Step::Go => "true".to_owned(),
        Step::Base => format!(
            "cd {cache}/keyed && \
             rm -rf package-index-page wheel-metadata layers distributions parts bytes begins && \
             grep -h '^sha256' {} | cut -d '\"' -f 2 | (cd ../blobs/sha256 && xargs rm -f)",
            scene.at(&format!("project/matrix/{CELL}/lock.toml")),
        ),
    }
}
