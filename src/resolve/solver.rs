//! Finds one set of versions by the `pubgrub` crate's algorithm, whose loop is driven from here so that it can
//! wait for the package index.
//!
//! A project is as many packages as there are targets: a requirement that counts on one target only
//! pulls the project in on that one, and only there it needs a file. A package [`Package::Same`],
//! which has no requirements, keeps the versions of a project equal on all targets. An extra is a
//! package that requires its project in the same version.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use pep440_rs::Version;
use pep508_rs::{ExtraName, PackageName, VersionOrUrl};
use pubgrub::{ConflictId, DerivationTree, Id, State, Term};

use super::Error;
use super::candidates::{Candidates, Reason, requires_python};
use super::fetcher::{Fetcher, Metadata};
use super::package::{Package, Types};
use super::priority::{Conflicts, Priorities};
use super::ranges::{self, Range};
use super::requirements::{self, Dependency};
use super::source::{CandidateSource, SdistMetadata};

/// Facts that cannot all hold, and how that follows.
pub(super) type Proof = DerivationTree<Package, Range, Reason>;

/// What was decided.
#[derive(Debug, Default)]
pub(super) struct Solution {
    /// The version of every project, and the targets that have it.
    pub(super) versions: BTreeMap<PackageName, (Version, BTreeSet<usize>)>,
    /// The extras that are installed.
    pub(super) extras: BTreeSet<(PackageName, ExtraName)>,
    /// The projects that a project requires on some target, itself not among them.
    pub(super) requires: BTreeMap<PackageName, BTreeSet<PackageName>>,
}

/// How a solver ends.
pub(super) enum End {
    Solved(Solution),
    /// The facts that cannot all hold, and for each range in which nothing was found the range as it
    /// was asked for.
    Contradiction(Proof, Asked),
}

/// What was asked for where nothing was found: the widened range and the true one.
pub(super) type Asked = BTreeMap<Package, Vec<(Range, Range)>>;

/// Solves the fetcher's question.
///
/// # Errors
/// The package index failed.
pub(super) async fn solve<S: CandidateSource, H: SdistMetadata>(
    fetcher: &mut Fetcher<'_, S, H>,
) -> Result<End, Error> {
    Solver::new(fetcher).run().await
}

struct Solver<'s, 'a, S, H> {
    fetcher: &'s mut Fetcher<'a, S, H>,
    state: State<Types>,
    next: Id<Package>,
    priorities: Priorities,
    conflicts: Conflicts,
    /// Decisions whose requirements the state knows, each with the projects it requires.
    added: BTreeMap<(Package, Version), BTreeSet<PackageName>>,
    /// How many versions of a project were tried.
    tried: BTreeMap<PackageName, usize>,
    asked: Asked,
}

impl<'s, 'a, S: CandidateSource, H: SdistMetadata> Solver<'s, 'a, S, H> {
    fn new(fetcher: &'s mut Fetcher<'a, S, H>) -> Self {
        let state = State::init(Package::Root, Version::new([0]));
        let next = state.root_package;
        Self {
            fetcher,
            state,
            next,
            priorities: Priorities::default(),
            conflicts: Conflicts::default(),
            added: BTreeMap::new(),
            tried: BTreeMap::new(),
            asked: BTreeMap::new(),
        }
    }

    async fn run(mut self) -> Result<End, Error> {
        self.constrain();
        loop {
            match self.state.unit_propagation(self.next) {
                Err(proof) => {
                    let asked = std::mem::take(&mut self.asked);
                    return Ok(End::Contradiction(proof, asked));
                }
                Ok(conflicts) => {
                    for (affected, conflict) in conflicts {
                        self.record(affected, &conflict);
                    }
                }
            }
            for package in self.conflicts.reprioritise(&mut self.priorities) {
                let id = self.state.package_store.alloc(package);
                // Nothing to take back if it is not decided.
                let _decisions_taken_back = self.state.backtrack_package(id);
            }
            let (priorities, packages) = (&self.priorities, &self.state.package_store);
            let picked = self
                .state
                .partial_solution
                .pick_highest_priority_pkg(|id, _| priorities.get(&packages[id]));
            let Some((id, range)) = picked else {
                return Ok(End::Solved(self.solution()));
            };
            let range = range.clone();
            self.next = id;
            self.decide(id, &range).await?;
        }
    }

    /// Constraints are facts about projects, whoever requires them.
    fn constrain(&mut self) {
        let policy = self.fetcher.policy();
        for constraint in &policy.constraints {
            let Some(VersionOrUrl::VersionSpecifier(specifiers)) = &constraint.version_or_url
            else {
                continue;
            };
            let outside = ranges::from_specifiers(specifiers).complement();
            for (goal, place) in policy.goals.iter().enumerate() {
                if outside.is_empty() || !constraint.evaluate_markers(&place.markers, &[]) {
                    continue;
                }
                let package = Package::On(constraint.name.clone(), goal);
                let id = self.state.package_store.alloc(package);
                let reason = Reason::Constraint(constraint.to_string());
                self.state.add_unavailable(id, outside.clone(), reason);
            }
        }
    }

    fn record(&mut self, affected: Id<Package>, conflict: &ConflictId<Types>) {
        let packages = &self.state.package_store;
        let involved = self.state.conflict_packages(conflict).map(|id| &packages[id]);
        self.conflicts.record(&packages[affected], involved, &packages[self.next]);
    }

    /// What the partial solution says about the package, if it is required.
    fn required(&mut self, package: Package) -> Option<Range> {
        let id = self.state.package_store.alloc(package);
        match self.state.partial_solution.term_intersection_for_package(id) {
            Some(Term::Positive(range)) => Some(range.clone()),
            _ => None,
        }
    }

    async fn decide(&mut self, id: Id<Package>, range: &Range) -> Result<(), Error> {
        let package = self.state.package_store[id].clone();
        match &package {
            Package::Root => self.decide_root(id),
            Package::Same(name) => {
                let candidates = self.fetcher.project(name).await?;
                self.decide_same(id, name, &candidates, range);
                Ok(())
            }
            Package::On(name, goal) | Package::Extra(name, _, goal) => {
                let candidates = self.fetcher.project(name).await?;
                let Some(version) = self.choose(&package, name, *goal, &candidates, range) else {
                    let wide = candidates.widen(range);
                    let asked = (wide.clone(), range.clone());
                    self.asked.entry(package).or_default().push(asked);
                    self.state.add_no_versions(id, wide);
                    return Ok(());
                };
                self.prefetch(name, *goal, &candidates, &version, range);
                self.decide_version(id, package, &candidates, version).await
            }
        }
    }

    fn choose(
        &mut self,
        package: &Package,
        name: &PackageName,
        goal: usize,
        candidates: &Candidates,
        range: &Range,
    ) -> Option<Version> {
        let mut narrow = range.clone();
        if matches!(package, Package::Extra(..))
            && let Some(project) = self.required(Package::On(name.clone(), goal))
        {
            narrow = narrow.intersection(&project);
        }
        let mut goals = vec![goal];
        for other in 0..self.fetcher.policy().goals.len() {
            if other != goal
                && let Some(required) = self.required(Package::On(name.clone(), other))
            {
                goals.push(other);
                narrow = narrow.intersection(&required);
            }
        }
        // The last one decides; the others spare the solver a detour.
        candidates
            .choose_shared(&goals, &narrow)
            .or_else(|| candidates.choose(goal, &narrow))
            .or_else(|| candidates.choose(goal, range))
            .cloned()
    }

    /// Where many versions were tried, more will be: their metadata is asked for at once.
    fn prefetch(
        &mut self,
        name: &PackageName,
        goal: usize,
        candidates: &Arc<Candidates>,
        version: &Version,
        range: &Range,
    ) {
        self.fetcher.want_metadata(candidates, version);
        let tried = self.tried.entry(name.clone()).or_default();
        *tried += 1;
        let ahead = match *tried {
            5 | 10 => 10,
            20 => 20,
            tried if tried >= 40 && tried % 20 == 0 => 50,
            _ => return,
        };
        let mut rest = range.clone();
        for _ in 0..ahead {
            let Some(next) = candidates.choose(goal, &rest).cloned() else {
                break;
            };
            rest = rest.difference(&Range::singleton(next.clone()));
            self.fetcher.want_metadata(candidates, &next);
        }
    }

    fn decide_root(&mut self, id: Id<Package>) -> Result<(), Error> {
        let policy = self.fetcher.policy();
        let mut requirements = Vec::new();
        for (goal, place) in policy.goals.iter().enumerate() {
            let active = requirements::active(&policy.requirements, None, place, &policy.overrides)
                .map_err(|requirement| Error::Url { requirement })?;
            requirements.extend(active.into_iter().map(|dependency| (goal, dependency)));
        }
        let version = Version::new([0]);
        let mut packages = Vec::new();
        let mut names = BTreeSet::new();
        for (goal, dependency) in requirements {
            self.require(goal, &dependency, &mut packages);
            names.insert(dependency.name);
        }
        self.added.insert((Package::Root, version.clone()), names);
        self.add(id, version, Range::full(), packages);
        Ok(())
    }

    fn decide_same(
        &mut self,
        id: Id<Package>,
        name: &PackageName,
        candidates: &Candidates,
        range: &Range,
    ) {
        let versions = candidates.usable().iter().rev();
        let Some(version) = versions.into_iter().find(|v| range.contains(v)).cloned() else {
            self.state.add_no_versions(id, candidates.widen(range));
            return;
        };
        let key = (Package::Same(name.clone()), version.clone());
        if self.added.insert(key, BTreeSet::new()).is_some() {
            self.state.partial_solution.add_decision(id, version);
            return;
        }
        let gap = candidates.gap(&version);
        let others = gap.complement();
        if !others.is_empty() {
            // Another version on any target would mean another version on all.
            for goal in 0..self.fetcher.policy().goals.len() {
                let on = Package::On(name.clone(), goal);
                let on = self.state.package_store.alloc(on);
                self.state.add_dependency(on, others.clone(), (id, others.clone()));
            }
        }
        self.add(id, version, gap, Vec::new());
    }

    async fn decide_version(
        &mut self,
        id: Id<Package>,
        package: Package,
        candidates: &Arc<Candidates>,
        version: Version,
    ) -> Result<(), Error> {
        if self.added.contains_key(&(package.clone(), version.clone())) {
            self.state.partial_solution.add_decision(id, version);
            return Ok(());
        }
        let (Package::On(name, goal) | Package::Extra(name, _, goal)) = package.clone() else {
            return Ok(());
        };
        let gap = candidates.gap(&version);
        let metadata = self.fetcher.metadata(candidates, &version, goal).await?;
        let policy = self.fetcher.policy();
        let Some(place) = policy.goals.get(goal) else {
            return Ok(());
        };
        let core = match metadata {
            Metadata::Known(core, _) => core,
            Metadata::Unusable(why) => {
                self.state.add_unavailable(id, gap, Reason::Metadata(why));
                return Ok(());
            }
        };
        if let Some(reason) = requires_python(core.requires_python.as_ref(), place) {
            self.state.add_unavailable(id, gap, reason);
            return Ok(());
        }
        let extra = match &package {
            Package::Extra(_, extra, _) => Some(extra),
            _ => None,
        };
        let active = requirements::active(&core.requires_dist, extra, place, &policy.overrides);
        let dependencies = match active {
            Ok(dependencies) => dependencies,
            Err(requirement) => {
                let why = format!("it requires an address: `{requirement}`");
                self.state.add_unavailable(id, gap, Reason::Metadata(why));
                return Ok(());
            }
        };
        let mut packages = Vec::new();
        if extra.is_some() {
            let on = Package::On(name.clone(), goal);
            self.priorities.meet(&on, false);
            packages.push((on, gap.clone()));
        } else if policy.goals.len() > 1 {
            packages.push((Package::Same(name.clone()), gap.clone()));
        }
        let mut names = BTreeSet::new();
        for dependency in dependencies {
            if dependency.name == name && !dependency.range.contains(&version) {
                let text = ranges::describe(&dependency.range);
                self.state.add_unavailable(id, gap, Reason::Itself(text));
                return Ok(());
            }
            self.require(goal, &dependency, &mut packages);
            if dependency.name != name {
                names.insert(dependency.name);
            }
        }
        // It is there when it is there.
        packages.retain(|(required, _)| *required != package);
        self.added.insert((package, version.clone()), names);
        self.add(id, version, gap, packages);
        Ok(())
    }

    /// Notes a requirement: asks for its project, and adds its packages.
    fn require(
        &mut self,
        goal: usize,
        dependency: &Dependency,
        packages: &mut Vec<(Package, Range)>,
    ) {
        let Dependency { name, extras, range, is_pinned } = dependency;
        self.fetcher.want_project(name, range);
        let is_pinned = *is_pinned || self.fetcher.policy().is_pinned(name);
        let on = Package::On(name.clone(), goal);
        for extra in extras {
            let extra = Package::Extra(name.clone(), extra.clone(), goal);
            self.priorities.meet(&extra, is_pinned);
            // The extra's range is its project's, whichever version it will be.
            let id = self.state.package_store.alloc(extra.clone());
            let project = self.state.package_store.alloc(on.clone());
            self.state.add_dependency(id, range.clone(), (project, range.clone()));
            packages.push((extra, range.clone()));
        }
        self.priorities.meet(&on, is_pinned);
        if extras.is_empty() {
            packages.push((on, range.clone()));
        }
    }

    fn add(
        &mut self,
        id: Id<Package>,
        version: Version,
        versions: Range,
        packages: Vec<(Package, Range)>,
    ) {
        let conflict = self.state.add_package_version_dependencies(id, version, versions, packages);
        if let Some(conflict) = conflict {
            self.record(id, &conflict);
        }
    }

    fn solution(&self) -> Solution {
        let mut solution = Solution::default();
        for (id, version) in self.state.partial_solution.extract_solution() {
            let package = self.state.package_store[id].clone();
            let (Package::On(name, goal) | Package::Extra(name, _, goal)) = &package else {
                continue;
            };
            let (_, goals) = solution
                .versions
                .entry(name.clone())
                .or_insert_with(|| (version.clone(), BTreeSet::new()));
            goals.insert(*goal);
            if let Package::Extra(_, extra, _) = &package {
                solution.extras.insert((name.clone(), extra.clone()));
            }
            let requires = solution.requires.entry(name.clone()).or_default();
            if let Some(names) = self.added.get(&(package, version)) {
                requires.extend(names.iter().cloned());
            }
        }
        solution
    }
}
