//! The compiler that a cell's sdists are built with: resolved like everything else, for the machines
//! that builds run on.

use super::answer::Answering;
use super::candidates::Policy;
use super::{CandidateSource, Error, NoBuild, Question};
use crate::oci::Platform;
use crate::python::Target;
use crate::recipe::lock::Distribution;
use crate::recipe::python::Toolchain;
use crate::world::{Progress, World};

/// The machines that builds can run on: the same for every lock, wherever it is written.
const HOSTS: [&str; 2] = ["amd64", "arm64"];
/// `zig cc` of older versions lacks what real sdists need.
const ZIG: &str = "ziglang>=0.13";

/// The wheels of the compiler, one for each machine that builds run on; `None` if there is to be none.
///
/// It is not installed, so a date limit of the question gives way where nothing within it would do;
/// that is told. A constraint of the question on the compiler's project holds.
///
/// # Errors
/// No version fits, or the package index is out of reach.
pub async fn compiler(
    toolchain: Toolchain,
    question: &Question,
    world: &World,
) -> Result<Option<Distribution>, Error> {
    match toolchain {
        Toolchain::None => Ok(None),
        Toolchain::Zig => {
            let progress = world.progress.as_ref();
            compiler_from(ZIG, question, &world.package_index, progress).await.map(Some)
        }
    }
}

/// As [`compiler`], with candidates from `source`.
pub(super) async fn compiler_from<S: CandidateSource>(
    requirement: &str,
    question: &Question,
    source: &S,
    progress: &dyn Progress,
) -> Result<Distribution, Error> {
    let requirement: pep508_rs::Requirement =
        requirement.parse().map_err(|error: pep508_rs::Pep508Error| Error::Requirement {
            text: requirement.to_owned(),
            problem: error.message.to_string(),
        })?;
    let Some(target) = question.targets.first() else {
        return Err(Error::NoTarget);
    };
    let host = |architecture: &str| Target {
        platform: Platform {
            os: "linux".to_owned(),
            architecture: architecture.to_owned(),
            variant: None,
        },
        ..target.clone()
    };
    let name = requirement.name.clone();
    let mut own = Question {
        requirements: vec![requirement],
        targets: HOSTS.map(host).to_vec(),
        overrides: std::collections::BTreeMap::new(),
        ..question.clone()
    };
    own.constraints.retain(|constraint| constraint.name == name);
    let answering = Answering { source, hook: &NoBuild, progress };
    let mut answer = answering.answer(&policy(&own)?).await;
    if let (Err(Error::NoSolution { .. }), Some(limit)) = (&answer, own.exclude_newer.take()) {
        answer = answering.answer(&policy(&own)?).await;
        if answer.is_ok() {
            progress.notice(&format!("the compiler `{name}` is newer than the date limit {limit}"));
        }
    }
    let compiler = answer?.into_iter().find(|found| found.name == name);
    compiler.ok_or(Error::NoTarget)
}

fn policy(question: &Question) -> Result<Policy, Error> {
    let mut policy = Policy::new(question)?;
    policy.only_wheels = true;
    Ok(policy)
}
