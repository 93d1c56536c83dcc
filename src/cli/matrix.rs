//! `assemble matrix`: how every cell stands, for people and for CI systems.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use serde::Serialize;
use serde_json::{Value, json};

use super::args::{Matrix as Flags, MatrixFormat, Only, Shared};
use super::print;
use super::table::table;
use crate::error::{Doing, Result};
use crate::oci::{Digest, Platform, Reference, descriptor_digest};
use crate::recipe::{Cell, Columns, Recipe, State, Status};
use crate::world::World;

/// The most jobs that one GitHub matrix may have.
const GITHUB_MOST: usize = 256;
/// The most jobs that one GitLab `parallel: matrix` may have.
const GITLAB_MOST: usize = 200;

/// One cell, as `--json` prints it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Row {
    /// The path below `matrix/`.
    cell: String,
    /// What the path says.
    columns: Columns,
    /// The image's name and tag.
    reference: String,
    tag: String,
    /// The floating tags it owns.
    floating: Vec<String>,
    platforms: Vec<Platform>,
    /// The base's name and tag.
    base: String,
    #[serde(flatten)]
    status: Status,
    /// Only with `--published`.
    #[serde(skip_serializing_if = "Option::is_none")]
    published: Option<Published>,
}

/// What a cell's tags name in the registry; `None` where there is no such tag.
#[derive(Debug, Serialize)]
struct Published {
    digest: Option<Digest>,
    floating: BTreeMap<String, Option<Digest>>,
}

/// Runs the command.
pub(super) async fn run(
    recipe: &Recipe,
    flags: &Flags,
    shared: &Shared,
    world: &World,
) -> Result<()> {
    let cells = recipe.matrix.select(&flags.cells).doing(|| "select cells".into())?;
    let ask = flags.published || flags.only.contains(&Only::Unpublished);
    let mut rows = stream::iter(cells.into_iter().map(|cell| row(recipe, cell, ask, world)))
        .buffered(world.parallel)
        .try_collect::<Vec<Row>>()
        .await?;
    rows.retain(|row| flags.only.iter().all(|only| row.is(*only)));
    match flags.format {
        Some(MatrixFormat::Github) => {
            warn_above(GITHUB_MOST, "GitHub runs", rows.len(), world);
            print(shared, &github(&rows), |value| format!("{value}\n"))
        }
        Some(MatrixFormat::Gitlab) => {
            warn_above(GITLAB_MOST, "GitLab runs", rows.len(), world);
            let document = gitlab(&rows);
            print(shared, &document, yaml)
        }
        None => print(shared, &rows, |rows| text(rows)),
    }
}

fn warn_above(most: usize, who: &str, jobs: usize, world: &World) {
    if jobs > most {
        world.progress.notice(&format!(
            "{jobs} cells: {who} at most {most} jobs of one matrix; select fewer cells"
        ));
    }
}

async fn row(recipe: &Recipe, cell: &Cell, ask: bool, world: &World) -> Result<Row> {
    let status = recipe.status(cell).doing(|| format!("look at {}", cell.path))?;
    let tag = |reference: &Reference| reference.tag().unwrap_or_default().to_owned();
    let published = if ask {
        let digest = published(&cell.reference, world).await?;
        let mut floating = BTreeMap::new();
        for reference in &cell.floating {
            floating.insert(tag(reference), published(reference, world).await?);
        }
        Some(Published { digest, floating })
    } else {
        None
    };
    Ok(Row {
        cell: cell.path.clone(),
        columns: cell.columns.clone(),
        reference: cell.reference.to_string(),
        tag: cell.tag().to_owned(),
        floating: cell.floating.iter().map(tag).collect(),
        platforms: cell.platforms.clone(),
        base: cell.base.to_string(),
        status,
        published,
    })
}

/// What the tag names in its own registry: a mirror may be behind.
async fn published(reference: &Reference, world: &World) -> Result<Option<Digest>> {
    let doing = || format!("ask for {reference}");
    let registry = world.registry.without_mirrors();
    let found = registry.head_manifest(reference).await.doing(doing)?;
    found
        .map(|descriptor| descriptor_digest(&descriptor))
        .transpose()
        .map_err(crate::registry::Error::from)
        .doing(doing)
}

impl Row {
    fn is(&self, only: Only) -> bool {
        match only {
            Only::Locked => self.status.state == State::Locked,
            Only::Stale => matches!(self.status.state, State::Stale { .. }),
            Only::NoLock => self.status.state == State::NoLock,
            Only::Unpinned => self.status.base_pin.is_none(),
            Only::Unpublished => self.published.as_ref().is_none_or(|p| p.digest.is_none()),
        }
    }

    fn platforms(&self, separator: &str) -> String {
        let names: Vec<_> = self.platforms.iter().map(ToString::to_string).collect();
        names.join(separator)
    }
}

/// The rows as a person reads them.
fn text(rows: &[Row]) -> String {
    let cells: Vec<_> = rows
        .iter()
        .map(|row| {
            let pinned = if row.status.base_pin.is_some() { "pinned" } else { "not pinned" };
            let published = row.published.as_ref().map(|published| match &published.digest {
                Some(digest) => short(digest),
                None => "no".to_owned(),
            });
            [
                row.cell.clone(),
                row.status.state.word().to_owned(),
                pinned.to_owned(),
                row.platforms(" "),
                published.unwrap_or_default(),
                row.floating.join(" "),
            ]
        })
        .collect();
    let head = ["CELL", "LOCK", "BASE", "PLATFORMS", "PUBLISHED", "ALSO TAGGED"];
    let table = table(head, &cells);
    let mut lines = table.lines();
    let mut text = String::new();
    let mut line = |words: &str| {
        let _never = writeln!(text, "{words}");
    };
    line(lines.next().unwrap_or_default());
    for (row, words) in rows.iter().zip(lines) {
        line(words);
        match &row.status.state {
            State::Locked | State::NoLock => {}
            State::Stale { changes } => changes.iter().for_each(|c| line(&format!("  {c}"))),
            State::Damaged { problem } => {
                problem.lines().for_each(|problem| line(&format!("  {problem}")));
            }
        }
        let Some(published) = &row.published else { continue };
        for (tag, digest) in &published.floating {
            match digest {
                Some(digest) if Some(digest) != published.digest.as_ref() => {
                    line(&format!("  {tag} names another image: {}", short(digest)));
                }
                None => line(&format!("  {tag} is not published")),
                Some(_) => {}
            }
        }
    }
    line("");
    line(&summary(rows));
    text
}

/// `3 cells: 2 locked, 1 stale; 1 base is not pinned (…)`
fn summary(rows: &[Row]) -> String {
    let mut counts: Vec<(&str, usize)> = Vec::new();
    for word in ["locked", "stale", "no lock", "damaged"] {
        let count = rows.iter().filter(|row| row.status.state.word() == word).count();
        if count > 0 {
            counts.push((word, count));
        }
    }
    let counts: Vec<_> = counts.iter().map(|(word, count)| format!("{count} {word}")).collect();
    let cells = if rows.len() == 1 { "1 cell".to_owned() } else { format!("{} cells", rows.len()) };
    let mut text =
        if counts.is_empty() { cells } else { format!("{cells}: {}", counts.join(", ")) };
    let open = rows.iter().filter(|row| row.status.base_pin.is_none()).count();
    if open > 0 {
        let bases = if open == 1 { "1 base is" } else { &format!("{open} bases are") };
        let _never = write!(text, "; {bases} not pinned (`assemble lock --base` pins them)");
    }
    text
}

/// `sha256:` and the first twelve digits.
pub(super) fn short(digest: &Digest) -> String {
    let text = digest.to_string();
    text.get(..19).unwrap_or(&text).to_owned()
}

/// What `fromJSON` takes as a job's `strategy.matrix`.
fn github(rows: &[Row]) -> Value {
    let include = rows.iter().map(|row| {
        let columns = row.columns.0.iter().map(|(name, value)| (name.clone(), json!(value)));
        let mut job: serde_json::Map<String, Value> = columns.collect();
        job.insert("cell".to_owned(), json!(row.cell));
        job.insert("tag".to_owned(), json!(row.tag));
        job.insert("platforms".to_owned(), json!(row.platforms(",")));
        Value::Object(job)
    });
    json!({ "include": include.collect::<Vec<_>>() })
}

/// A hidden job with one `parallel: matrix` entry for each cell: a job of the user's extends it.
fn gitlab(rows: &[Row]) -> Value {
    let entries = rows.iter().map(|row| {
        let variable = |name: &str| {
            let letters = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' });
            letters.collect::<String>().to_ascii_uppercase()
        };
        let columns = row.columns.0.iter().map(|(name, value)| (variable(name), json!(value)));
        let mut variables: serde_json::Map<String, Value> = columns.collect();
        variables.insert("CELL".to_owned(), json!(row.cell));
        variables.insert("TAG".to_owned(), json!(row.tag));
        variables.insert("PLATFORMS".to_owned(), json!(row.platforms(",")));
        Value::Object(variables)
    });
    json!({ ".cells": { "parallel": { "matrix": entries.collect::<Vec<_>>() } } })
}

/// What [`gitlab`] makes, as YAML: a JSON string is a YAML string.
fn yaml(document: &Value) -> String {
    let mut text = ".cells:\n  parallel:\n    matrix:\n".to_owned();
    let entries = document[".cells"]["parallel"]["matrix"].as_array();
    for entry in entries.into_iter().flatten() {
        let variables = entry.as_object().into_iter().flatten();
        for (number, (name, value)) in variables.enumerate() {
            let dash = if number == 0 { "-" } else { " " };
            let _never = writeln!(text, "      {dash} {name}: {value}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(cell: &str, state: State, pinned: bool) -> Row {
        let template = "{locust}/python{python}/{os}";
        let columns = Columns::extract(template, cell).unwrap();
        let tag = columns.expand("{locust}-python{python}-{os}").unwrap();
        Row {
            cell: cell.to_owned(),
            columns,
            reference: format!("docker.io/library/app:{tag}"),
            tag,
            floating: Vec::new(),
            platforms: ["linux/amd64", "linux/arm64"].map(|p| p.parse().unwrap()).to_vec(),
            base: "docker.io/library/python:3".to_owned(),
            status: Status { state, base_pin: pinned.then(|| Digest::of(b"base")) },
            published: None,
        }
    }

    #[test]
    fn ci_systems_get_one_job_for_each_cell() {
        let rows = [
            row("1.0/python3.13/alpine3.24", State::Locked, true),
            row("0.9/python3.9/alpine3.20", State::NoLock, false),
        ];
        assert_eq!(
            github(&rows).to_string(),
            r#"{"include":[{"cell":"1.0/python3.13/alpine3.24","locust":"1.0","os":"alpine3.24","platforms":"linux/amd64,linux/arm64","python":"3.13","tag":"1.0-python3.13-alpine3.24"},{"cell":"0.9/python3.9/alpine3.20","locust":"0.9","os":"alpine3.20","platforms":"linux/amd64,linux/arm64","python":"3.9","tag":"0.9-python3.9-alpine3.20"}]}"#
        );
        assert_eq!(
            yaml(&gitlab(&rows[..1])),
            r#".cells:
  parallel:
    matrix:
      - CELL: "1.0/python3.13/alpine3.24"
        LOCUST: "1.0"
        OS: "alpine3.24"
        PLATFORMS: "linux/amd64,linux/arm64"
        PYTHON: "3.13"
        TAG: "1.0-python3.13-alpine3.24"
"#
        );
    }

    #[test]
    fn people_see_states_reasons_and_what_is_open() {
        let mut stale = row(
            "0.9/python3.9/alpine3.20",
            State::Stale { changes: vec!["os: locked for `x`, now `y`".into()] },
            false,
        );
        stale.published = Some(Published { digest: None, floating: BTreeMap::new() });
        let mut newest = row("1.0/python3.13/alpine3.24", State::Locked, true);
        newest.floating = vec!["1".into(), "latest".into()];
        newest.published = Some(Published {
            digest: Some(Digest::of(b"image")),
            floating: BTreeMap::from([
                ("1".to_owned(), Some(Digest::of(b"image"))),
                ("latest".to_owned(), Some(Digest::of(b"older"))),
            ]),
        });
        let (image, older) = (short(&Digest::of(b"image")), short(&Digest::of(b"older")));
        assert_eq!(
            text(&[stale, newest]),
            format!(
                "\
CELL                       LOCK    BASE        PLATFORMS                PUBLISHED            ALSO TAGGED
0.9/python3.9/alpine3.20   stale   not pinned  linux/amd64 linux/arm64  no
  os: locked for `x`, now `y`
1.0/python3.13/alpine3.24  locked  pinned      linux/amd64 linux/arm64  {image}  1 latest
  latest names another image: {older}

2 cells: 1 locked, 1 stale; 1 base is not pinned (`assemble lock --base` pins them)
"
            )
        );
    }
}
