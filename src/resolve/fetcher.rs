//! Asks for pages and metadata ahead of need. What arrives when decides how long the solver waits,
//! never what it decides.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::error::Error as _;
use std::sync::Arc;

use futures_util::StreamExt as _;
use futures_util::future::{BoxFuture, FutureExt as _};
use futures_util::stream::FuturesUnordered;
use pep440_rs::Version;
use pep508_rs::PackageName;

use super::Error;
use super::candidates::{Candidates, Policy};
use super::ranges::Range;
use super::source::{CandidateSource, SdistMetadata};
use crate::error::{Failure, Kind};
use crate::package_index::{self, File, FileKind, SdistSource};
use crate::python::CoreMetadata;

/// How many requests are under way at once.
const REQUESTS: usize = 32;

/// Where the requirements of a distribution were read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// In its wheel, in a wheel of the same version for another platform, in an sdist that vouches for
    /// them (metadata 2.2), or in what a build said.
    Trusted,
    /// In an old sdist, which may not tell all.
    Unreliable,
    /// Nowhere: the sdist tells nothing.
    Assumed,
}

/// What is known of a version's file.
#[derive(Clone, Debug)]
pub(super) enum Metadata {
    Known(Arc<CoreMetadata>, Origin),
    /// The version is out.
    Unusable(String),
}

/// A wheel's metadata is the same for all targets; an sdist's may differ.
type MetadataKey = (String, Option<usize>);

enum Want {
    Project(PackageName),
    Metadata { key: MetadataKey, candidates: Arc<Candidates>, version: Version, goal: usize },
}

enum Answer {
    Project(PackageName, Result<Arc<Candidates>, Error>),
    Metadata(MetadataKey, Result<Metadata, Error>),
}

pub(super) struct Fetcher<'a, S, H> {
    source: &'a S,
    hook: &'a H,
    policy: &'a Policy,
    queue: VecDeque<Want>,
    running: FuturesUnordered<BoxFuture<'a, Answer>>,
    /// Asked for, each with a range that somebody required.
    asked: BTreeMap<PackageName, Range>,
    asked_metadata: BTreeSet<MetadataKey>,
    projects: BTreeMap<PackageName, Result<Arc<Candidates>, Error>>,
    metadata: BTreeMap<MetadataKey, Result<Metadata, Error>>,
}

impl<'a, S: CandidateSource, H: SdistMetadata> Fetcher<'a, S, H> {
    pub(super) fn new(source: &'a S, hook: &'a H, policy: &'a Policy) -> Self {
        Self {
            source,
            hook,
            policy,
            queue: VecDeque::new(),
            running: FuturesUnordered::new(),
            asked: BTreeMap::new(),
            asked_metadata: BTreeSet::new(),
            projects: BTreeMap::new(),
            metadata: BTreeMap::new(),
        }
    }

    pub(super) fn policy(&self) -> &'a Policy {
        self.policy
    }

    /// Asks for the project's page, and then for the metadata of the version that `range` makes likely.
    pub(super) fn want_project(&mut self, name: &PackageName, range: &Range) {
        if !self.asked.contains_key(name) {
            self.asked.insert(name.clone(), range.clone());
            self.queue.push_back(Want::Project(name.clone()));
        }
    }

    /// Asks for the metadata of the version on every goal.
    pub(super) fn want_metadata(&mut self, candidates: &Arc<Candidates>, version: &Version) {
        for goal in 0..self.policy.goals.len() {
            if let Some(file) = candidates.file(goal, version)
                // An sdist is fetched whole: not on suspicion.
                && matches!(file.kind, FileKind::Wheel(_))
            {
                let key = key(file, goal);
                self.enqueue_metadata(key, candidates, version, goal);
            }
        }
    }

    fn enqueue_metadata(
        &mut self,
        key: MetadataKey,
        candidates: &Arc<Candidates>,
        version: &Version,
        goal: usize,
    ) {
        if self.asked_metadata.insert(key.clone()) {
            self.queue.push_back(Want::Metadata {
                key,
                candidates: Arc::clone(candidates),
                version: version.clone(),
                goal,
            });
        }
    }

    /// The project's candidates, waiting for them if need be.
    ///
    /// # Errors
    /// The package index failed.
    pub(super) async fn project(&mut self, name: &PackageName) -> Result<Arc<Candidates>, Error> {
        self.want_project(name, &Range::full());
        loop {
            if let Some(candidates) = self.known(name) {
                return Ok(Arc::clone(candidates));
            }
            if let Some(Err(error)) = self.projects.remove(name) {
                return Err(error);
            }
            self.hurry(|want| matches!(want, Want::Project(wanted) if wanted == name));
            self.pump().await;
        }
    }

    /// The project's candidates, if they have been asked for and have come.
    pub(super) fn known(&self, name: &PackageName) -> Option<&Arc<Candidates>> {
        self.projects.get(name)?.as_ref().ok()
    }

    /// The metadata of the version's file on the goal's target, waiting for it if need be.
    ///
    /// # Errors
    /// The package index failed.
    pub(super) async fn metadata(
        &mut self,
        candidates: &Arc<Candidates>,
        version: &Version,
        goal: usize,
    ) -> Result<Metadata, Error> {
        let Some(file) = candidates.file(goal, version) else {
            return Ok(Metadata::Unusable("it has no file".to_owned()));
        };
        let wanted = key(file, goal);
        self.enqueue_metadata(wanted.clone(), candidates, version, goal);
        loop {
            match self.metadata.get(&wanted) {
                Some(Ok(metadata)) => return Ok(metadata.clone()),
                Some(Err(_)) => {
                    if let Some(Err(error)) = self.metadata.remove(&wanted) {
                        return Err(error);
                    }
                }
                None => {}
            }
            self.hurry(|want| matches!(want, Want::Metadata { key, .. } if *key == wanted));
            self.pump().await;
        }
    }

    /// Moves a request to the front.
    fn hurry(&mut self, is_wanted: impl Fn(&Want) -> bool) {
        if let Some(place) = self.queue.iter().position(is_wanted)
            && let Some(want) = self.queue.remove(place)
        {
            self.queue.push_front(want);
        }
    }

    /// Starts what may be started and waits for one answer.
    async fn pump(&mut self) {
        while self.running.len() < REQUESTS
            && let Some(want) = self.queue.pop_front()
        {
            self.running.push(start(self.source, self.hook, self.policy, want));
        }
        match self.running.next().await {
            None => {}
            Some(Answer::Metadata(key, answer)) => {
                self.metadata.insert(key, answer);
            }
            Some(Answer::Project(name, answer)) => {
                if let Ok(candidates) = &answer {
                    let range = self.asked.get(&name).cloned().unwrap_or_else(Range::full);
                    if let Some(version) = candidates.choose(0, &range).cloned() {
                        self.want_metadata(&Arc::clone(candidates), &version);
                    }
                }
                self.projects.insert(name, answer);
            }
        }
    }
}

fn key(file: &File, goal: usize) -> MetadataKey {
    let goal = match file.kind {
        FileKind::Wheel(_) => None,
        FileKind::Sdist => Some(goal),
    };
    (file.file_name.clone(), goal)
}

fn start<'a, S: CandidateSource, H: SdistMetadata>(
    source: &'a S,
    hook: &'a H,
    policy: &'a Policy,
    want: Want,
) -> BoxFuture<'a, Answer> {
    match want {
        Want::Project(name) => async move {
            let answer = source
                .project(&name)
                .await
                .map(|project| Arc::new(Candidates::new(&name, project, policy)))
                .map_err(|source| Error::Index { what: format!("`{name}`"), source });
            Answer::Project(name, answer)
        }
        .boxed(),
        Want::Metadata { key, candidates, version, goal } => async move {
            let reader =
                Reader { source, hook, policy, candidates: &candidates, version: &version, goal };
            let answer = reader.read().await;
            Answer::Metadata(key, answer)
        }
        .boxed(),
    }
}

/// Reads the metadata of one version's file.
struct Reader<'r, S, H> {
    source: &'r S,
    hook: &'r H,
    policy: &'r Policy,
    candidates: &'r Candidates,
    version: &'r Version,
    goal: usize,
}

impl<S: CandidateSource, H: SdistMetadata> Reader<'_, S, H> {
    async fn read(&self) -> Result<Metadata, Error> {
        let Some(file) = self.candidates.file(self.goal, self.version) else {
            return Ok(Metadata::Unusable("it has no file".to_owned()));
        };
        let metadata = match file.kind {
            FileKind::Wheel(_) => or_unusable(file, self.source.wheel_metadata(file).await)?
                .map(|metadata| (metadata, Origin::Trusted)),
            FileKind::Sdist => {
                let sdist = self.source.sdist(self.candidates.name(), file).await;
                match or_unusable(file, sdist)? {
                    Ok(sdist) => self.read_sdist(sdist).await?,
                    Err(why) => Err(why),
                }
            }
        };
        let metadata = match metadata {
            Ok(known) => known,
            Err(why) => return Ok(Metadata::Unusable(why)),
        };
        let (core, origin) = metadata;
        if core.name != *self.candidates.name() {
            return Ok(Metadata::Unusable(format!("it is that of `{}`", core.name)));
        }
        Ok(Metadata::Known(core, origin))
    }

    async fn read_sdist(
        &self,
        sdist: SdistSource,
    ) -> Result<Result<(Arc<CoreMetadata>, Origin), String>, Error> {
        if let Some(metadata) = sdist.metadata.as_ref().filter(|m| m.is_static) {
            return Ok(Ok((Arc::new(metadata.clone()), Origin::Trusted)));
        }
        let Some(goal) = self.policy.goals.get(self.goal) else {
            return Ok(Err("it has no target".to_owned()));
        };
        for wheel in self.candidates.foreign_wheels(goal, self.version) {
            let answer = self.source.wheel_metadata(wheel).await;
            if let Ok(metadata) = or_unusable(wheel, answer)? {
                return Ok(Ok((metadata, Origin::Trusted)));
            }
        }
        let name = self.candidates.name();
        match self.hook.metadata(name, &sdist, &goal.target).await {
            Ok(Some(metadata)) => return Ok(Ok((Arc::new(metadata), Origin::Trusted))),
            Ok(None) => {}
            Err(why) => return Ok(Err(why)),
        }
        let Some(metadata) = sdist.metadata else {
            let metadata = CoreMetadata {
                name: name.clone(),
                version: self.version.clone(),
                requires_dist: Vec::new(),
                requires_python: None,
                provides_extra: Vec::new(),
                is_static: false,
            };
            return Ok(Ok((Arc::new(metadata), Origin::Assumed)));
        };
        let origin =
            if metadata.requires_dist.is_empty() { Origin::Assumed } else { Origin::Unreliable };
        Ok(Ok((Arc::new(metadata), origin)))
    }
}

/// A file that is broken makes its version unusable; a package index that is out of reach ends the
/// resolution.
fn or_unusable<T>(
    file: &File,
    answer: Result<T, package_index::Error>,
) -> Result<Result<T, String>, Error> {
    match answer {
        Ok(value) => Ok(Ok(value)),
        Err(source) => match source.kind() {
            Kind::Integrity | Kind::Usage | Kind::Unsatisfiable | Kind::Drift => {
                let mut why = source.to_string();
                let mut cause = source.source();
                while let Some(deeper) = cause {
                    why = format!("{why}: {deeper}");
                    cause = deeper.source();
                }
                Ok(Err(why))
            }
            Kind::Unexpected | Kind::Remote | Kind::Interrupted => {
                Err(Error::Index { what: format!("`{}`", file.file_name), source })
            }
        },
    }
}
