//! Which versions of a project may be chosen for a target, by which file, and why the others may not
//! (pure).
//!
//! Of a version the best wheel counts (by tag, then by build tag), else its sdist. Files that are
//! yanked, too new, or for another Python do not count.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;
use pep440_rs::{Version, VersionSpecifier, VersionSpecifiers};
use pep508_rs::{MarkerEnvironment, PackageName, Requirement, VersionOrUrl};

use super::ranges::{self, Range};
use super::{Error, Question};
use crate::package_index::{File, FileKind, Location, Project};
use crate::python::{Tags, Target, WheelTags};

/// One of the question's targets, and what is worked out from it once.
#[derive(Clone, Debug)]
pub(super) struct Goal {
    pub(super) target: Target,
    pub(super) python: Version,
    pub(super) markers: MarkerEnvironment,
    pub(super) tags: Tags,
}

impl Goal {
    pub(super) fn new(target: &Target) -> Self {
        Self {
            target: target.clone(),
            python: target.version(),
            markers: target.markers(),
            tags: target.tags(),
        }
    }
}

/// The question, as far as it decides about candidates.
#[derive(Clone, Debug)]
pub(super) struct Policy {
    pub(super) goals: Vec<Goal>,
    pub(super) exclude_newer: Option<Timestamp>,
    /// Whether a file may be newer than the limit where there is no older one.
    is_lenient: bool,
    /// No sdists: what is resolved is needed for building one.
    pub(super) only_wheels: bool,
    pub(super) requirements: Vec<Requirement>,
    pub(super) constraints: Vec<Requirement>,
    pub(super) overrides: BTreeMap<PackageName, Option<Requirement>>,
    pub(super) prefer: BTreeMap<PackageName, Version>,
    /// Projects of which a direct requirement names a pre-release.
    prereleases: BTreeSet<PackageName>,
    /// Versions that a direct requirement pins: they may be yanked.
    pinned: BTreeMap<PackageName, BTreeSet<Version>>,
}

impl Policy {
    pub(super) fn new(question: &Question) -> Result<Self, Error> {
        if question.targets.is_empty() {
            return Err(Error::NoTarget);
        }
        let mut prereleases = BTreeSet::new();
        let mut pinned: BTreeMap<PackageName, BTreeSet<Version>> = BTreeMap::new();
        let direct = || {
            let overrides = question.overrides.values().flatten();
            question.requirements.iter().chain(&question.constraints).chain(overrides)
        };
        for requirement in direct() {
            match &requirement.version_or_url {
                None => {}
                Some(VersionOrUrl::Url(_)) => {
                    return Err(Error::Url { requirement: without_url(requirement) });
                }
                Some(VersionOrUrl::VersionSpecifier(specifiers)) => {
                    if specifiers.iter().any(VersionSpecifier::any_prerelease) {
                        prereleases.insert(requirement.name.clone());
                    }
                    if let Some(version) = ranges::pinned(specifiers) {
                        let versions = pinned.entry(requirement.name.clone()).or_default();
                        versions.insert(version.clone());
                    }
                }
            }
        }
        Ok(Self {
            goals: question.targets.iter().map(Goal::new).collect(),
            exclude_newer: question.exclude_newer,
            is_lenient: false,
            only_wheels: false,
            requirements: question.requirements.clone(),
            constraints: question.constraints.clone(),
            overrides: question.overrides.clone(),
            prefer: question.prefer.clone(),
            prereleases,
            pinned,
        })
    }

    /// For what the build of an sdist needs on one of the targets: wheels, and of the question nothing
    /// but the date limit. If `is_lenient`, that gives way for a project that has nothing older: the
    /// file that came soonest after it is taken.
    pub(super) fn for_build(
        goal: &Goal,
        requirements: Vec<Requirement>,
        exclude_newer: Option<Timestamp>,
        is_lenient: bool,
    ) -> Result<Self, Error> {
        let question = Question {
            requirements,
            constraints: Vec::new(),
            overrides: BTreeMap::new(),
            targets: vec![goal.target.clone()],
            exclude_newer,
            prefer: BTreeMap::new(),
        };
        Ok(Self { only_wheels: true, is_lenient, ..Self::new(&question)? })
    }

    /// Whether a direct requirement, a constraint or an override pins the project to one version.
    pub(super) fn is_pinned(&self, name: &PackageName) -> bool {
        self.pinned.contains_key(name)
    }

    /// Some of the targets: `python 3.13.1 (cp313/musllinux_1_2_x86_64)`.
    pub(super) fn describe(&self, goals: &BTreeSet<usize>) -> String {
        let mut tags: BTreeMap<&Version, Vec<String>> = BTreeMap::new();
        for goal in goals.iter().filter_map(|&goal| self.goals.get(goal)) {
            tags.entry(&goal.python).or_default().push(goal.tags.describe());
        }
        let pythons: Vec<String> = tags
            .iter()
            .map(|(python, tags)| format!("python {python} ({})", tags.join(", ")))
            .collect();
        pythons.join(" and ")
    }
}

/// The requirement's name and extras: an address may hold credentials.
pub(super) fn without_url(requirement: &Requirement) -> String {
    let mut requirement = requirement.clone();
    requirement.clear_url();
    requirement.to_string()
}

/// Why a version is no candidate. The order is that of closeness: of several reasons the last one
/// is told.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Reason {
    /// No file fits the tags.
    NoFile {
        target: String,
        /// There is an sdist, but wheels are needed.
        only_wheels: bool,
    },
    /// Requires-Python, of the file or in the metadata.
    Python { needs: String, has: Version },
    /// The metadata cannot be used.
    Metadata(String),
    /// Uploaded after the limit.
    Newer(Timestamp),
    /// There is a limit, and nobody knows when it was uploaded.
    NoUploadTime,
    /// PEP 592.
    Yanked(String),
    /// It requires another version of itself.
    Itself(String),
    /// A constraint of the question.
    Constraint(String),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoFile { target, only_wheels: false } => {
                write!(f, "no wheel for {target} and no sdist")
            }
            Self::NoFile { target, only_wheels: true } => {
                write!(f, "no wheel for {target}, and a build needs wheels")
            }
            Self::Python { needs, has } => write!(f, "needs python {needs}, not {has}"),
            Self::Metadata(why) => write!(f, "its metadata is unusable: {why}"),
            Self::Newer(limit) => write!(f, "uploaded after {limit}"),
            Self::NoUploadTime => f.write_str("its upload time is not known, and a limit is set"),
            Self::Yanked(why) if why.is_empty() => f.write_str("yanked"),
            Self::Yanked(why) => write!(f, "yanked: {why}"),
            Self::Itself(range) => write!(f, "requires itself, in another version: {range}"),
            Self::Constraint(text) => write!(f, "your constraint `{text}` forbids it"),
        }
    }
}

/// What a version of a project is for one target.
#[derive(Clone, Debug)]
enum Fit {
    Usable {
        file: usize,
        yanked: Option<String>,
        /// When it was uploaded, if that was after the limit.
        late: Option<Timestamp>,
    },
    Out(Reason),
}

/// The candidates of a project.
#[derive(Debug)]
pub(super) struct Candidates {
    name: PackageName,
    project: Arc<Project>,
    goals: Vec<BTreeMap<Version, Fit>>,
    /// Versions that some target can use, yanked ones among them, sorted: no other version can ever be
    /// chosen.
    usable: Vec<Version>,
    prefer: Option<Version>,
    prereleases: bool,
    pinned: BTreeSet<Version>,
}

impl Candidates {
    pub(super) fn new(name: &PackageName, project: Arc<Project>, policy: &Policy) -> Self {
        let goals: Vec<BTreeMap<Version, Fit>> = policy
            .goals
            .iter()
            .map(|goal| {
                project
                    .versions
                    .iter()
                    .map(|(version, files)| (version.clone(), fit(files, goal, policy)))
                    .collect()
            })
            .collect();
        let usable = project
            .versions
            .keys()
            .filter(|version| {
                goals.iter().any(|fits| matches!(fits.get(version), Some(Fit::Usable { .. })))
            })
            .cloned()
            .collect();
        Self {
            name: name.clone(),
            project,
            goals,
            usable,
            prefer: policy.prefer.get(name).cloned(),
            prereleases: policy.prereleases.contains(name),
            pinned: policy.pinned.get(name).cloned().unwrap_or_default(),
        }
    }

    pub(super) fn name(&self) -> &PackageName {
        &self.name
    }

    /// The version to try first: the old lock's, else the newest; a pre-release only if one was asked
    /// for by name or no final release is left, a yanked version only if the
    /// question pins it and nothing else is left.
    pub(super) fn choose(&self, goal: usize, range: &Range) -> Option<&Version> {
        self.choose_from(goal, range, |_| true)
    }

    /// As [`Self::choose`], among versions that every one of the other goals can use, too.
    pub(super) fn choose_shared(&self, goals: &[usize], range: &Range) -> Option<&Version> {
        let (&first, others) = goals.split_first()?;
        self.choose_from(first, range, |version| {
            others.iter().all(|&goal| self.file(goal, version).is_some())
        })
    }

    fn choose_from(
        &self,
        goal: usize,
        range: &Range,
        also: impl Fn(&Version) -> bool,
    ) -> Option<&Version> {
        let fits = self.goals.get(goal)?;
        let mut prerelease = None;
        let mut yanked = None;
        let mut soonest: Option<(Timestamp, &Version)> = None;
        if let Some(prefer) = &self.prefer
            && range.contains(prefer)
            && matches!(fits.get(prefer), Some(Fit::Usable { .. }))
            && also(prefer)
        {
            return Some(prefer);
        }
        for version in self.usable.iter().rev() {
            if !range.contains(version) || !also(version) {
                continue;
            }
            match fits.get(version) {
                Some(Fit::Usable { yanked: None, late: Some(late), .. }) => {
                    let is_final = self.prereleases || !version.any_prerelease();
                    if is_final && soonest.is_none_or(|(time, _)| *late < time) {
                        soonest = Some((*late, version));
                    }
                }
                Some(Fit::Usable { yanked: None, .. }) => {
                    if self.prereleases || !version.any_prerelease() {
                        return Some(version);
                    }
                    prerelease = prerelease.or(Some(version));
                }
                Some(Fit::Usable { .. }) if yanked.is_none() && self.is_pinned(version) => {
                    yanked = Some(version);
                }
                _ => {}
            }
        }
        prerelease.or(soonest.map(|(_, version)| version)).or(yanked)
    }

    fn is_pinned(&self, version: &Version) -> bool {
        self.pinned.iter().any(|pinned| {
            pinned == version || (!pinned.is_local() && *pinned == version.clone().without_local())
        })
    }

    /// The reason for which the version's file was yanked.
    pub(super) fn yanked(&self, goal: usize, version: &Version) -> Option<&str> {
        match self.goals.get(goal)?.get(version)? {
            Fit::Usable { yanked, .. } => yanked.as_deref(),
            Fit::Out(_) => None,
        }
    }

    /// The file that stands for the version on the goal's target.
    pub(super) fn file(&self, goal: usize, version: &Version) -> Option<&File> {
        match self.goals.get(goal)?.get(version)? {
            Fit::Usable { file, .. } => self.project.versions.get(version)?.get(*file),
            Fit::Out(_) => None,
        }
    }

    /// The wheels of the version for whatever platform; those most like the goal's target first. The system
    /// counts more than the Python: what some were built with for Windows only is in those.
    pub(super) fn foreign_wheels(&self, goal: &Goal, version: &Version) -> Vec<&File> {
        let (major, minor, _) = goal.target.python;
        let own = [format!("cp{major}{minor}"), format!("py{major}"), format!("py{major}{minor}")];
        let likeness = |wheel: &WheelTags| {
            let python = wheel.python.split('.').any(|tag| own.iter().any(|o| o == tag))
                || wheel.abi.split('.').any(|tag| tag == "abi3");
            let platform = |part: &str| wheel.platform.contains(part);
            (platform("linux"), python, platform(goal.target.machine()))
        };
        let files = self.project.versions.get(version).into_iter().flatten();
        let mut wheels: Vec<_> = files
            .filter_map(|file| match &file.kind {
                FileKind::Wheel(wheel) => Some((Reverse(likeness(wheel)), &file.file_name, file)),
                FileKind::Sdist => None,
            })
            .collect();
        wheels.sort_by_key(|&(likeness, file_name, _)| (likeness, file_name));
        wheels.into_iter().map(|(.., file)| file).collect()
    }

    /// The greatest set around `version` that holds no other version that could be chosen. Rejecting
    /// it rejects the version and nothing more, and keeps the solver's sets small.
    pub(super) fn gap(&self, version: &Version) -> Range {
        Range::singleton(version.clone()).widen_versions(&self.usable)
    }

    /// The greatest set around `range` that holds no version outside of it that could be chosen.
    pub(super) fn widen(&self, range: &Range) -> Range {
        range.widen_versions(&self.usable)
    }

    /// Versions that some target can use, sorted.
    pub(super) fn usable(&self) -> &[Version] {
        &self.usable
    }

    /// All versions on the package index, sorted.
    pub(super) fn all(&self) -> impl DoubleEndedIterator<Item = &Version> {
        self.project.versions.keys()
    }

    /// Why the version is no candidate for the goal's target; `None` if it is one, and nobody has to
    /// pin it.
    pub(super) fn reason(&self, goal: usize, version: &Version) -> Option<Reason> {
        match self.goals.get(goal)?.get(version)? {
            Fit::Usable { yanked, .. } => yanked.clone().map(Reason::Yanked),
            Fit::Out(reason) => Some(reason.clone()),
        }
    }
}

/// Chooses a version's file.
fn fit(files: &[File], goal: &Goal, policy: &Policy) -> Fit {
    let mut best = None;
    let mut reason = Reason::NoFile {
        target: goal.tags.describe(),
        only_wheels: policy.only_wheels
            && files.iter().any(|file| matches!(file.kind, FileKind::Sdist)),
    };
    for (position, file) in files.iter().enumerate() {
        let rank = match &file.kind {
            FileKind::Wheel(wheel) => match goal.tags.priority(wheel) {
                Some(priority) => (1, priority, wheel.build.clone()),
                None => continue,
            },
            FileKind::Sdist if policy.only_wheels => continue,
            // Of two sdists the `.tar.gz` is the one that PEP 625 names.
            FileKind::Sdist => (0, u32::from(file.file_name.ends_with(".tar.gz")), None),
        };
        if let Some(rejected) = reject(file, goal, policy) {
            reason = reason.max(rejected);
            continue;
        }
        let rank = (file.yanked.is_none(), late(file, policy).is_none(), rank);
        if best.as_ref().is_none_or(|(known, _)| rank > *known) {
            best = Some((rank, position));
        }
    }
    match best {
        Some((_, position)) => {
            let file = files.get(position);
            Fit::Usable {
                file: position,
                yanked: file.and_then(|file| file.yanked.clone()),
                late: file.and_then(|file| late(file, policy)),
            }
        }
        None => Fit::Out(reason),
    }
}

/// When the file was uploaded, if that was after the limit.
fn late(file: &File, policy: &Policy) -> Option<Timestamp> {
    file.upload_time.filter(|time| policy.exclude_newer.is_some_and(|limit| *time > limit))
}

/// Why the file does not count, its tags and yanks aside.
fn reject(file: &File, goal: &Goal, policy: &Policy) -> Option<Reason> {
    if let Some(limit) = policy.exclude_newer.filter(|_| !policy.is_lenient) {
        match (file.upload_time, &file.location) {
            (Some(time), _) if time > limit => return Some(Reason::Newer(limit)),
            // The user's own folder has no upload times, and what lies there was put there on purpose.
            (Some(_), _) | (None, Location::Local(_)) => {}
            (None, Location::Remote(_)) => return Some(Reason::NoUploadTime),
        }
    }
    requires_python(file.requires_python.as_deref(), goal)
}

/// Requires-Python counts with its upper bounds, for the target's full version.
pub(super) fn requires_python(needs: Option<&VersionSpecifiers>, goal: &Goal) -> Option<Reason> {
    needs.filter(|specifiers| !specifiers.contains(&goal.python)).map(|specifiers| Reason::Python {
        needs: specifiers.to_string(),
        has: goal.python.clone(),
    })
}
