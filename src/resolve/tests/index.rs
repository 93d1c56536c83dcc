//! A package index in memory, written as text.
//!
//! ```text
//! a-1.0-py3-none-any.whl        one file
//!   requires b>=1; python_version > "3"
//!   requires-python >=3.8       on the page
//!   needs-python >=3.8          in the metadata only
//!   extra fast
//!   yanked broken
//!   uploaded 2024-01-01
//! a-1.0.tar.gz                  metadata 2.1; `static` makes it 2.2, `bare` leaves PKG-INFO out
//!   build setuptools>=40
//!   backend flit_core.buildapi
//! ```

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use pep440_rs::Version;
use pep508_rs::{PackageName, Requirement};

use crate::oci::Digest;
use crate::package_index::{Address, Error, File, FileKind, Location, Project, SdistSource};
use crate::python::{CoreMetadata, Target, WheelFilename};
use crate::recipe::lock::Distribution;
use crate::resolve::compiler::compiler_from;
use crate::resolve::source::{CandidateSource, NoBuild};
use crate::resolve::{self, Question};
use crate::world::Progress;

/// The index, and a seed that decides how late each answer arrives.
#[derive(Debug, Default)]
pub(super) struct Index {
    projects: BTreeMap<PackageName, Project>,
    metadata: BTreeMap<String, CoreMetadata>,
    sdists: BTreeMap<String, SdistSource>,
    pub(super) seed: AtomicU64,
}

fn split(file_name: &str) -> (PackageName, Version, FileKind) {
    if std::path::Path::new(file_name).extension() == Some("whl".as_ref()) {
        let wheel: WheelFilename = file_name.parse().unwrap();
        return (wheel.name, wheel.version, FileKind::Wheel(wheel.tags.into()));
    }
    let stem =
        file_name.strip_suffix(".tar.gz").or_else(|| file_name.strip_suffix(".zip")).unwrap();
    let (name, version) = stem.rsplit_once('-').unwrap();
    (name.parse().unwrap(), version.parse().unwrap(), FileKind::Sdist)
}

impl Index {
    pub(super) fn new(text: &str) -> Self {
        let mut index = Self::default();
        let mut lines = text.lines().filter(|line| !line.trim().is_empty()).peekable();
        while let Some(line) = lines.next() {
            let file_name = line.trim();
            let (name, version, kind) = split(file_name);
            let mut file = File {
                file_name: file_name.to_owned(),
                kind,
                location: Location::Remote(Address::new(
                    &url::Url::parse(&format!("https://files.invalid/{file_name}")).unwrap(),
                    file_name,
                )),
                size: Some(file_name.len() as u64),
                sha256: Some(Digest::of(file_name.as_bytes())),
                requires_python: None,
                upload_time: None,
                yanked: None,
                core_metadata: None,
            };
            let mut metadata = CoreMetadata {
                name: name.clone(),
                version: version.clone(),
                requires_dist: Vec::new(),
                requires_python: None,
                provides_extra: Vec::new(),
                is_static: false,
            };
            let mut sdist = SdistSource {
                digest: Digest::of(file_name.as_bytes()),
                size: file_name.len() as u64,
                metadata: None,
                build_requires: Vec::new(),
                build_backend: None,
                legacy: true,
            };
            let mut is_bare = false;
            while let Some(line) = lines.next_if(|line| line.starts_with("  ")) {
                let (word, rest) = line.trim().split_once(' ').unwrap_or((line.trim(), ""));
                match word {
                    "requires" => metadata.requires_dist.push(rest.parse().unwrap()),
                    "requires-python" => {
                        file.requires_python = Some(std::sync::Arc::new(rest.parse().unwrap()));
                    }
                    "needs-python" => metadata.requires_python = Some(rest.parse().unwrap()),
                    "extra" => metadata.provides_extra.push(rest.parse().unwrap()),
                    "yanked" => file.yanked = Some(rest.to_owned()),
                    "uploaded" => {
                        file.upload_time = Some(format!("{rest}T12:00:00Z").parse().unwrap());
                    }
                    "local" => file.location = Location::Local(file_name.into()),
                    "static" => metadata.is_static = true,
                    "bare" => is_bare = true,
                    "build" => sdist.build_requires.push(rest.parse().unwrap()),
                    "backend" => {
                        sdist.build_backend = Some(rest.to_owned());
                        sdist.legacy = false;
                    }
                    "broken" => metadata.name = "broken".parse().unwrap(),
                    "unidentified" => file.sha256 = None,
                    _ => panic!("{line}"),
                }
            }
            sdist.metadata = (!is_bare).then(|| metadata.clone());
            index.sdists.insert(file_name.to_owned(), sdist);
            index.metadata.insert(file_name.to_owned(), metadata);
            let project = index.projects.entry(name).or_default();
            project.versions.entry(version).or_default().push(file);
        }
        index
    }

    /// Answers later or sooner, as the seed wants it.
    async fn dawdle(&self) {
        let mut seed = self.seed.load(Ordering::Relaxed);
        if seed == 0 {
            return;
        }
        // xorshift
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        self.seed.store(seed, Ordering::Relaxed);
        for _ in 0..seed % 17 {
            tokio::task::yield_now().await;
        }
    }
}

impl CandidateSource for Index {
    async fn project(&self, name: &PackageName) -> Result<Arc<Project>, Error> {
        self.dawdle().await;
        Ok(Arc::new(self.projects.get(name).cloned().unwrap_or_default()))
    }

    async fn wheel_metadata(&self, file: &File) -> Result<Arc<CoreMetadata>, Error> {
        self.dawdle().await;
        Ok(Arc::new(self.metadata[&file.file_name].clone()))
    }

    async fn sdist(&self, _: &PackageName, file: &File) -> Result<SdistSource, Error> {
        self.dawdle().await;
        Ok(self.sdists[&file.file_name].clone())
    }

    async fn identify(&self, _: &PackageName, file: &File) -> Result<(Digest, u64), Error> {
        self.dawdle().await;
        Ok((Digest::of(b"identified"), file.size.unwrap_or(7)))
    }
}

/// Keeps the notices.
#[derive(Debug, Default)]
struct Notices(Mutex<Vec<String>>);

impl Progress for Notices {
    fn step(&self, _: &str) {}
    fn notice(&self, message: &str) {
        self.0.lock().unwrap().push(message.to_owned());
    }
    fn bytes(&self, _: &str, _: u64, _: u64) {}
}

/// A target of the tests: `3.13.1` and `amd64`.
pub(super) fn target(python: &str, architecture: &str) -> Target {
    let platform = format!("linux/{architecture}").parse().unwrap();
    Target::new(python, "alpine3.20", &platform).unwrap()
}

/// Requirements, and options that begin with `--`: `--constraint b<2`, `--override b==1`, `--drop b`,
/// `--prefer b==1`, `--exclude-newer 2024-01-01`, `--python 3.8.18`, `--both` (amd64 and arm64).
pub(super) fn question(words: &[&str]) -> Question {
    let parse = |text: &str| text.parse::<Requirement>().unwrap();
    let mut question = Question {
        requirements: Vec::new(),
        constraints: Vec::new(),
        overrides: BTreeMap::new(),
        targets: Vec::new(),
        exclude_newer: None,
        prefer: BTreeMap::new(),
    };
    let mut python = "3.13.1";
    let mut architectures = vec!["amd64"];
    for word in words {
        let (option, value) = word.split_once(' ').unwrap_or((word, ""));
        match option {
            "--constraint" => question.constraints.push(parse(value)),
            "--override" => {
                let instead = parse(value);
                question.overrides.insert(instead.name.clone(), Some(instead));
            }
            "--drop" => {
                question.overrides.insert(value.parse().unwrap(), None);
            }
            "--prefer" => {
                let (name, version) = value.split_once("==").unwrap();
                question.prefer.insert(name.parse().unwrap(), version.parse().unwrap());
            }
            "--exclude-newer" => {
                question.exclude_newer = Some(format!("{value}T00:00:00Z").parse().unwrap());
            }
            "--python" => python = value,
            "--both" => architectures.push("arm64"),
            _ => question.requirements.push(parse(word)),
        }
    }
    question.targets =
        architectures.into_iter().map(|architecture| target(python, architecture)).collect();
    question
}

/// The answer in words: `name version → requires | file [platforms] (build)`, then the notices.
pub(super) async fn answer(index: &Index, words: &[&str]) -> String {
    let notices = Notices::default();
    let answer = resolve::resolve_from(&question(words), index, &NoBuild, &notices).await;
    told(answer, &notices)
}

/// The compiler that a question's cell gets, in the same words.
pub(super) async fn compiler(index: &str, words: &[&str]) -> String {
    let (notices, index) = (Notices::default(), Index::new(index));
    let wanted = "zig>=0.13";
    let answer = compiler_from(wanted, &question(words), &index, &notices).await;
    told(answer.map(|compiler| vec![compiler]), &notices)
}

fn told(answer: Result<Vec<Distribution>, resolve::Error>, notices: &Notices) -> String {
    let mut text = match answer {
        Ok(distributions) => distributions.iter().map(words_of).collect::<String>(),
        Err(error) => {
            let mut text = format!("error: {error}\n");
            let mut cause = std::error::Error::source(&error);
            while let Some(deeper) = cause {
                writeln!(text, "cause: {deeper}").unwrap();
                cause = deeper.source();
            }
            if let Some(hint) = crate::error::Failure::hint(&error) {
                writeln!(text, "hint: {hint}").unwrap();
            }
            text
        }
    };
    for notice in notices.0.lock().unwrap().iter() {
        writeln!(text, "notice: {notice}").unwrap();
    }
    text
}

fn words_of(distribution: &Distribution) -> String {
    let mut text = format!("{} {}", distribution.name, distribution.version);
    if !distribution.requires.is_empty() {
        let names: Vec<String> = distribution.requires.iter().map(ToString::to_string).collect();
        write!(text, " → {}", names.join(" ")).unwrap();
    }
    for file in &distribution.files {
        let stem = format!("{}-{}", distribution.name, distribution.version);
        text += " | ";
        text += file.file_name.strip_prefix(&stem).unwrap_or(&file.file_name);
        for platform in &file.platforms {
            write!(text, " [{platform}]").unwrap();
        }
        let build: Vec<String> =
            file.build.iter().map(|wheel| format!("{} {}", wheel.name, wheel.version)).collect();
        if !build.is_empty() {
            write!(text, " ({})", build.join(", ")).unwrap();
        }
    }
    text + "\n"
}

/// The answer, which must be the same in whatever order the index answers.
pub(super) async fn check(index: &str, words: &[&str]) -> String {
    let index = Index::new(index);
    let expected = answer(&index, words).await;
    for seed in 1..=8u64 {
        index.seed.store(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15), Ordering::Relaxed);
        assert_eq!(answer(&index, words).await, expected, "order of arrival {seed}");
    }
    expected
}
