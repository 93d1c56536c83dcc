//! From a solution to the lock's distributions: files, hashes, and what builds need.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use pep440_rs::Version;
use pep508_rs::{ExtraName, PackageName, Requirement};

use super::candidates::{Candidates, Goal, Policy};
use super::fetcher::{Fetcher, Metadata, Origin};
use super::solver::{self, End, Solution};
use super::source::{CandidateSource, SdistMetadata};
use super::{Error, facts, report};
use crate::oci::{Digest, Platform};
use crate::package_index::{File, FileKind, SdistSource};
use crate::recipe::lock::{BuildRequirement, Distribution, LockedFile};
use crate::world::Progress;

/// From this version on setuptools makes wheels by itself.
const SETUPTOOLS_WITH_WHEEL: [u64; 2] = [70, 1];

/// What it takes to answer a question.
pub(super) struct Answering<'a, S, H> {
    pub(super) source: &'a S,
    pub(super) hook: &'a H,
    pub(super) progress: &'a dyn Progress,
}

impl<S: CandidateSource, H: SdistMetadata> Answering<'_, S, H> {
    pub(super) async fn answer(&self, policy: &Policy) -> Result<Vec<Distribution>, Error> {
        let mut fetcher = Fetcher::new(self.source, self.hook, policy);
        let solution = solve(&mut fetcher).await?;
        let mut distributions = Vec::new();
        for (name, (version, goals)) in &solution.versions {
            let candidates = fetcher.project(name).await?;
            self.notice(&mut fetcher, &solution, &candidates, version, goals).await?;
            distributions.push(Distribution {
                name: name.clone(),
                version: version.clone(),
                requires: solution.requires.get(name).into_iter().flatten().cloned().collect(),
                files: self.files(policy, &candidates, version, goals).await?,
            });
        }
        Ok(distributions)
    }

    /// Tells what a reader of the lock would not see.
    async fn notice(
        &self,
        fetcher: &mut Fetcher<'_, S, H>,
        solution: &Solution,
        candidates: &Arc<Candidates>,
        version: &Version,
        goals: &BTreeSet<usize>,
    ) -> Result<(), Error> {
        let name = candidates.name();
        let mut notices = BTreeSet::new();
        for &goal in goals {
            if let Some(why) = candidates.yanked(goal, version) {
                let why = if why.is_empty() { String::new() } else { format!(": {why}") };
                notices.insert(format!("`{name}` {version} is yanked{why}"));
            }
            if let Metadata::Known(core, origin) =
                fetcher.metadata(candidates, version, goal).await?
            {
                notices.extend(tell(name, version, &origin));
                let of_project = solution.extras.iter().filter(|(of, _)| of == name);
                let missing = of_project.filter(|(_, extra)| !provides(&core, extra));
                notices.extend(missing.map(|(_, extra)| {
                    format!("`{name}` {version} has no extra `{extra}`: ignored")
                }));
            }
        }
        for notice in notices {
            self.progress.notice(&notice);
        }
        Ok(())
    }

    /// The file of each target, one entry for all targets that share it and its build.
    async fn files(
        &self,
        policy: &Policy,
        candidates: &Candidates,
        version: &Version,
        goals: &BTreeSet<usize>,
    ) -> Result<Vec<LockedFile>, Error> {
        let mut files: Vec<LockedFile> = Vec::new();
        let mut notices = BTreeSet::new();
        for &goal in goals {
            let (Some(file), Some(place)) =
                (candidates.file(goal, version), policy.goals.get(goal))
            else {
                continue;
            };
            let name = candidates.name();
            let (sha256, size, build) = match file.kind {
                FileKind::Wheel(_) => {
                    let (sha256, size) = self.identify(name, file).await?;
                    (sha256, size, Vec::new())
                }
                FileKind::Sdist => {
                    let sdist = self.source.sdist(name, file).await;
                    let sdist = sdist.map_err(|source| Error::Index {
                        what: format!("`{}`", file.file_name),
                        source,
                    })?;
                    let (build, is_late) = self.build(policy, place, file, &sdist).await?;
                    if is_late {
                        notices.insert(format!(
                            "what the build of `{}` needs is newer than the date limit",
                            file.file_name
                        ));
                    }
                    (sdist.digest, sdist.size, build)
                }
            };
            let platform = place.target.platform.clone();
            let same = files
                .iter_mut()
                .find(|known| known.file_name == file.file_name && known.build == build);
            match same {
                Some(known) => known.platforms.push(platform),
                None => files.push(LockedFile {
                    file_name: file.file_name.clone(),
                    size,
                    sha256,
                    upload_time: file.upload_time,
                    platforms: vec![platform],
                    build,
                }),
            }
        }
        for notice in notices {
            self.progress.notice(&notice);
        }
        let all: BTreeSet<&Platform> = policy.goals.iter().map(|g| &g.target.platform).collect();
        for file in &mut files {
            file.platforms.sort();
            if file.platforms.iter().collect::<BTreeSet<_>>() == all {
                // Every platform of the cell.
                file.platforms.clear();
            }
        }
        files.sort_by(|a, b| (&a.file_name, &a.platforms).cmp(&(&b.file_name, &b.platforms)));
        Ok(files)
    }

    async fn identify(&self, name: &PackageName, file: &File) -> Result<(Digest, u64), Error> {
        match (file.sha256, file.size) {
            (Some(sha256), Some(size)) => Ok((sha256, size)),
            _ => self
                .source
                .identify(name, file)
                .await
                .map_err(|source| Error::Index { what: format!("`{}`", file.file_name), source }),
        }
    }

    /// The wheels that building the sdist with the goal's Python needs, sorted by name, and whether the
    /// date limit had to give way: many an old sdist is older than any wheel of what it needs.
    async fn build(
        &self,
        policy: &Policy,
        goal: &Goal,
        file: &File,
        sdist: &SdistSource,
    ) -> Result<(Vec<BuildRequirement>, bool), Error> {
        let answer = match self.build_within(policy, goal, sdist, false).await {
            Err(Error::NoSolution { .. }) if policy.exclude_newer.is_some() => {
                self.build_within(policy, goal, sdist, true).await.map(|wheels| (wheels, true))
            }
            answer => answer.map(|wheels| (wheels, false)),
        };
        answer.map_err(|source| Error::Build {
            file: file.file_name.clone(),
            source: Box::new(source),
        })
    }

    async fn build_within(
        &self,
        policy: &Policy,
        goal: &Goal,
        sdist: &SdistSource,
        is_lenient: bool,
    ) -> Result<Vec<BuildRequirement>, Error> {
        let mut requirements = sdist.build_requires.clone();
        let limit = policy.exclude_newer;
        let build = Policy::for_build(goal, requirements.clone(), limit, is_lenient)?;
        let wheels = self.build_wheels(&build).await?;
        let find = |name: &str| wheels.iter().find(|wheel| wheel.name.as_ref() == name);
        let backend = sdist.build_backend.as_deref();
        let uses_setuptools = sdist.legacy || backend.is_some_and(|b| b.starts_with("setuptools"));
        let is_old = find("setuptools")
            .is_some_and(|wheel| wheel.version < Version::new(SETUPTOOLS_WITH_WHEEL));
        if uses_setuptools && is_old && find("wheel").is_none() {
            requirements.extend("wheel".parse::<Requirement>());
            let build = Policy::for_build(goal, requirements, limit, is_lenient)?;
            return self.build_wheels(&build).await;
        }
        Ok(wheels)
    }

    async fn build_wheels(&self, policy: &Policy) -> Result<Vec<BuildRequirement>, Error> {
        let mut fetcher = Fetcher::new(self.source, self.hook, policy);
        let solution = solve(&mut fetcher).await?;
        let mut wheels = Vec::new();
        for (name, (version, _)) in &solution.versions {
            let candidates = fetcher.project(name).await?;
            let Some(file) = candidates.file(0, version) else {
                continue;
            };
            let (sha256, size) = self.identify(name, file).await?;
            wheels.push(BuildRequirement {
                name: name.clone(),
                version: version.clone(),
                file_name: file.file_name.clone(),
                size,
                sha256,
                upload_time: file.upload_time,
            });
        }
        Ok(wheels)
    }
}

async fn solve<S: CandidateSource, H: SdistMetadata>(
    fetcher: &mut Fetcher<'_, S, H>,
) -> Result<Solution, Error> {
    match solver::solve(fetcher).await? {
        End::Solved(solution) => Ok(solution),
        End::Contradiction(proof, asked) => {
            let projects: BTreeMap<PackageName, Arc<Candidates>> = facts::projects(&proof)
                .into_iter()
                .filter_map(|name| Some((name.clone(), Arc::clone(fetcher.known(&name)?))))
                .collect();
            Err(report::no_solution(proof, &asked, &projects, fetcher.policy()))
        }
    }
}

fn provides(core: &crate::python::CoreMetadata, extra: &ExtraName) -> bool {
    core.provides_extra.contains(extra)
}

/// Where the requirements of an sdist were read, if that is worth telling.
fn tell(name: &PackageName, version: &Version, origin: &Origin) -> Option<String> {
    match origin {
        Origin::Trusted => None,
        Origin::Unreliable => Some(format!(
            "the requirements of `{name}` {version} were read from its sdist, which is too old to \
             vouch for them"
        )),
        Origin::Assumed => Some(format!(
            "the sdist of `{name}` {version} names no requirements: assumed to have none"
        )),
    }
}
