//! Says why nothing fits: as a list of facts that cannot all hold (pure).
//!
//! The solver's proof is a tree of derivations. Its leaves are the facts: requirements, and versions that
//! cannot be had. They are told in the order of the chain from the question down, each fact once,
//! versions with the same fact together.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use pep440_rs::Version;
use pep508_rs::PackageName;

use super::Error;
use super::candidates::{Candidates, Policy, Reason};
use super::facts::{Edge, Facts, Node};
use super::ranges::{self, Range};
use super::solver::{Asked, Proof};

/// How many lines one project's requirements on another may take.
const LINES: usize = 4;

/// The error for a question without a solution.
pub(super) fn no_solution(
    proof: Proof,
    asked: &Asked,
    projects: &BTreeMap<PackageName, Arc<Candidates>>,
    policy: &Policy,
) -> Error {
    let facts = Facts::new(proof, asked);
    let goals = facts.goals();
    let mut teller =
        Teller { projects, policy, goals: &goals, lines: Vec::new(), reasons: BTreeSet::new() };
    for node in facts.order() {
        teller.tell_edges(&node, facts.edges.get(&node).map_or(&[], Vec::as_slice));
        if let Node::Project(name) = &node {
            teller.tell_out(name, facts.out.get(name));
            teller.tell_nothing(name, facts.nothing.get(name));
        }
    }
    Error::NoSolution {
        target: policy.describe(&goals),
        report: teller.lines.join("\n"),
        hint: teller.hint(),
    }
}

struct Teller<'a> {
    projects: &'a BTreeMap<PackageName, Arc<Candidates>>,
    policy: &'a Policy,
    /// The targets that the proof is about.
    goals: &'a BTreeSet<usize>,
    lines: Vec<String>,
    reasons: BTreeSet<Reason>,
}

impl Teller<'_> {
    fn say(&mut self, line: &str) {
        self.lines.push(format!("  {line}"));
    }

    /// ` on linux/arm64`, where the proof is about other targets as well.
    fn only_on(&self, goals: &BTreeSet<usize>) -> String {
        if goals == self.goals {
            return String::new();
        }
        let platforms = goals.iter().filter_map(|&goal| self.policy.goals.get(goal));
        let platforms: Vec<String> =
            platforms.map(|goal| goal.target.platform.to_string()).collect();
        format!(" on {}", platforms.join(" and "))
    }

    /// Versions of the project in words, if any exists: `1.0`, `1.0 to 1.4 (5 versions)`; the flag says
    /// whether these are all that could be chosen.
    fn versions(&self, name: &PackageName, range: &Range) -> Option<(String, bool)> {
        let usable = self.projects.get(name)?.usable();
        let inside: Vec<&Version> = usable.iter().filter(|v| range.contains(*v)).collect();
        let runs = runs(usable.iter(), &inside.iter().copied().collect());
        (!inside.is_empty()).then_some((runs, inside.len() == usable.len()))
    }

    fn tell_edges(&mut self, from: &Node, edges: &[Edge]) {
        let mut by_target: BTreeMap<&Node, Vec<&Edge>> = BTreeMap::new();
        for edge in edges {
            by_target.entry(&edge.to).or_default().push(edge);
        }
        // `b[x]>=1` is a requirement on `b>=1` as well: said once.
        let extras: Vec<(PackageName, Range)> = edges
            .iter()
            .filter_map(|edge| match &edge.to {
                Node::Extra(name, _) => Some((name.clone(), edge.range.clone())),
                _ => None,
            })
            .collect();
        for (to, edges) in by_target {
            let mut lines = Vec::new();
            for edge in &edges {
                if let Node::Project(name) = to
                    && extras.contains(&(name.clone(), edge.range.clone()))
                {
                    continue;
                }
                lines.extend(self.edge(from, edge));
            }
            lines.sort_by(|a: &(Option<Version>, String), b| b.0.cmp(&a.0));
            let rest = if lines.len() > LINES {
                lines.truncate(1);
                self.summary(from, to, &edges)
            } else {
                None
            };
            self.say_newest_first(lines);
            if let Some(rest) = rest {
                self.say(&rest);
            }
        }
    }

    /// Many requirements of a project on another in one line, weaker than they are together.
    fn summary(&self, from: &Node, to: &Node, edges: &[&Edge]) -> Option<String> {
        let union = |ranges: &mut dyn Iterator<Item = &Range>| {
            ranges.fold(Range::empty(), |all, range| all.union(range))
        };
        let versions = union(&mut edges.iter().map(|edge| &edge.from_versions));
        let (versions, _) = self.versions(from.name()?, &versions)?;
        let ranges = union(&mut edges.iter().map(|edge| &edge.range));
        let (start, end) = ranges.bounding_range()?;
        let hull = Range::from_range_bounds((start.cloned(), end.cloned()));
        let (from, to, hull) = (from.text(), to.text(), ranges::describe(&hull));
        Some(format!("`{from}` {versions}: each requires a part of `{to}{hull}`"))
    }

    /// One requirement in words, with the newest version that has it.
    fn edge(&self, from: &Node, edge: &Edge) -> Option<(Option<Version>, String)> {
        let to = edge.to.text();
        let required = if edge.range.is_empty() {
            format!("`{to}` in versions that exclude each other")
        } else {
            format!("`{to}{}`", ranges::describe(&edge.range))
        };
        let only_on = self.only_on(&edge.goals);
        let Some(name) = from.name() else {
            return Some((None, format!("you require {required}{only_on}")));
        };
        let (versions, all) = self.versions(name, &edge.from_versions)?;
        let newest = self.newest(name, &edge.from_versions);
        let from = from.text();
        let line = if all && versions.contains(' ') {
            format!("every version of `{from}` requires {required}{only_on}")
        } else if versions.contains(' ') {
            format!("`{from}` {versions} require {required}{only_on}")
        } else {
            format!("`{from}` {versions} requires {required}{only_on}")
        };
        Some((newest, line))
    }

    fn tell_out(&mut self, name: &PackageName, out: Option<&BTreeMap<Reason, Range>>) {
        let mut lines = Vec::new();
        for (reason, range) in out.into_iter().flatten() {
            self.reasons.insert(reason.clone());
            if let Reason::Constraint(text) = reason {
                self.say(&format!("your constraint `{text}` leaves other versions out"));
            } else if let Some((versions, _)) = self.versions(name, range) {
                let newest = self.newest(name, range);
                lines.push((newest, format!("`{name}` {versions}: {reason}")));
            }
        }
        self.say_newest_first(lines);
    }

    /// The newest version in the range that could be chosen.
    fn newest(&self, name: &PackageName, range: &Range) -> Option<Version> {
        let mut usable = self.projects.get(name)?.usable().iter().rev();
        usable.find(|version| range.contains(*version)).cloned()
    }

    /// Newest first: these are what the reader has in mind.
    fn say_newest_first(&mut self, mut lines: Vec<(Option<Version>, String)>) {
        lines.sort_by(|a, b| b.0.cmp(&a.0));
        for (_, line) in lines {
            self.say(&line);
        }
    }

    fn tell_nothing(&mut self, name: &PackageName, nothing: Option<&BTreeMap<usize, Range>>) {
        let Some(nothing) = nothing else {
            return;
        };
        let Some(candidates) = self.projects.get(name).map(Arc::clone) else {
            return;
        };
        let all: Vec<&Version> = candidates.all().collect();
        let Some((oldest, newest)) = all.first().zip(all.last()) else {
            self.say(&format!("`{name}` is not on the package index"));
            return;
        };
        let mut by_reason: BTreeMap<Reason, BTreeSet<&Version>> = BTreeMap::new();
        let mut exists = false;
        for (&goal, range) in nothing {
            for version in all.iter().filter(|v| range.contains(**v)) {
                exists = true;
                if let Some(reason) = candidates.reason(goal, version) {
                    by_reason.entry(reason).or_default().insert(version);
                }
            }
        }
        if !exists {
            let has = if oldest == newest {
                format!("only {oldest}")
            } else {
                format!("{oldest} to {newest}")
            };
            self.say(&format!("`{name}` has no such version: the package index has {has}"));
        }
        let mut lines: Vec<(Option<Version>, String)> = Vec::new();
        for (reason, versions) in by_reason {
            let runs = runs(all.iter().copied(), &versions);
            let newest = versions.last().map(|&version| version.clone());
            lines.push((newest, format!("`{name}` {runs}: {reason}")));
            self.reasons.insert(reason);
        }
        self.say_newest_first(lines);
    }

    fn hint(&self) -> Option<String> {
        let mut hints = Vec::new();
        let any = |test: fn(&Reason) -> bool| self.reasons.iter().any(test);
        if any(|r| matches!(r, Reason::Newer(_) | Reason::NoUploadTime)) {
            hints.push("a later --exclude-newer would admit more versions");
        }
        if any(|r| matches!(r, Reason::Yanked(_))) {
            hints.push(
                "a yanked version counts if a requirement or constraint of yours pins it with `==`",
            );
        }
        if any(|r| matches!(r, Reason::NoFile { .. })) {
            hints.push("another base may have wheels, or an override can put another project in");
        }
        if any(|r| matches!(r, Reason::Python { .. })) {
            hints.push("a cell with another python may fit");
        }
        (!hints.is_empty()).then(|| hints.join("\n"))
    }
}

/// `1.0, 1.2 to 1.4 (3 versions)`: the versions `inside`, joined where none of `all` lies between.
fn runs<'v>(all: impl Iterator<Item = &'v Version>, inside: &BTreeSet<&'v Version>) -> String {
    let mut runs: Vec<(&Version, &Version, usize)> = Vec::new();
    let mut is_open = false;
    for version in all {
        let is_inside = inside.contains(version);
        match runs.last_mut() {
            Some((_, last, count)) if is_inside && is_open => {
                *last = version;
                *count += 1;
            }
            _ if is_inside => runs.push((version, version, 1)),
            _ => {}
        }
        is_open = is_inside;
    }
    let more = runs.len().saturating_sub(LINES);
    let mut words: Vec<String> = runs
        .iter()
        .skip(if more > 1 { more } else { 0 })
        .map(|(first, last, count)| match count {
            1 => first.to_string(),
            2 => format!("{first} and {last}"),
            _ => format!("{first} to {last} ({count} versions)"),
        })
        .collect();
    if more > 1 {
        words.insert(0, format!("{more} older ranges"));
    }
    words.join(", ")
}
