//! The cases: what is started in turn, and what may take how much.

use std::process::Command;

use fs_err as fs;

use crate::cache::put_away;
use crate::scene::{FETCHED, KNOWN, LARGE, PUSHED, Scene};
use crate::support::registry::FakeRegistry;
use crate::{CELL, CELLS, Case, Contender, OTHER, Result, Target, measure, report, shell};

/// What the program says of making a layer, with `--timings`.
const LAYER: [&str; 2] = ["compress", "hash"];

impl Scene {
    pub(crate) fn cases(&self) -> Result<Vec<Case>> {
        let at = |name: &str| self.at(name);
        let ours = self.ours("project");
        let (forget, restore) = (self.cache.restore(FETCHED), self.cache.restore(KNOWN));
        let unread = self.cache.restore_unread(FETCHED);
        let make = |name, cell: &str, flags: &str, before: &str| {
            let before = format!("{} && {before}", remove(&at("out.tar")));
            contender(name, format!("{ours} {cell} {flags} -o {}", at("out.tar")), &before)
        };
        let bound =
            format!("{} {} {}", std::env::current_exe()?.display(), measure::BOUND, at("tree.tar"));
        // The layer with the distributions is known, the one with the file is not.
        let plain = self.ours("plain");
        let plain = format!("{plain} {CELL} --no-check --timings -o {}", at("plain.tar"));
        let (nothing, first) = ("true", at("first.tar"));
        Ok(vec![
            Case {
                name: "repeat → archive",
                contenders: [
                    make("assemble", CELL, "--no-check", nothing),
                    contender(
                        "assemble, it is there",
                        format!("{ours} {CELL} -o {first}"),
                        nothing,
                    ),
                    make("assemble, checked", CELL, "", nothing),
                ]
                .into_iter()
                .chain(self.copying())
                .chain(self.building())
                .collect(),
                targets: vec![
                    Target::Times("assemble, checked", "crane", 1.0 / 20.0),
                    Target::Times("assemble, checked", "umoci", 1.0 / 8.0),
                    Target::Times("assemble, checked", "cp", 2.0),
                ],
            },
            Case {
                name: "new cell, 90 % of its wheels known",
                contenders: [
                    make("assemble", OTHER, "--no-check", &restore),
                    make("assemble, checked", OTHER, "", &restore),
                ]
                .into_iter()
                .chain(self.building())
                .collect(),
                targets: vec![
                    Target::Times("assemble", "crane", 1.0 / 5.0),
                    Target::Times("assemble", "umoci", 1.0 / 2.0),
                ],
            },
            Case {
                name: "first assembly, wheels cached",
                contenders: [
                    make("assemble", CELL, "--no-check", &forget),
                    make("assemble, base not read", CELL, "--no-check", &unread),
                    Contender {
                        name: "assemble, its layer",
                        lines: &LAYER,
                        ..make("", CELL, "--no-check --timings", &forget)
                    },
                    Contender {
                        name: "assemble, a layer of a file",
                        lines: &LAYER,
                        ..contender(
                            "",
                            plain,
                            &format!("{} && {restore}", remove(&at("plain.tar"))),
                        )
                    },
                    contender("bound", bound, nothing),
                ]
                .into_iter()
                .chain(self.building())
                .collect(),
                targets: vec![
                    Target::Times("assemble", "crane", 1.0),
                    Target::Times("assemble, its layer", "bound", 1.3),
                    Target::Times("assemble, a layer of a file", "bound", 1.3),
                ],
            },
            Case {
                name: "lock, metadata cached",
                contenders: [
                    contender("assemble", format!("{ours} lock {CELL}"), nothing),
                    contender(
                        "assemble, offline",
                        format!("{ours} --offline lock {CELL}"),
                        nothing,
                    ),
                ]
                .into_iter()
                .chain(self.resolving())
                .collect(),
                targets: vec![
                    Target::Times("assemble", "uv", 0.5),
                    Target::Times("assemble, offline", "uv, offline", 0.5),
                ],
            },
        ])
    }

    /// Registries, many cells, large layers.
    pub(crate) fn further_cases(&self) -> Vec<Case> {
        let nothing = "true";
        let cells = self.at("cells");
        let unread = self.cache.restore_unread(FETCHED);
        let unread = format!("{} && {unread}", remove(&self.at("large.tar")));
        vec![
            Case {
                name: "push, nothing new",
                contenders: [contender("assemble", self.push(), nothing)]
                    .into_iter()
                    .chain(self.asking())
                    .collect(),
                targets: vec![Target::Over("assemble", "curl", 30.0)],
            },
            Case {
                name: "50 cells, warm",
                contenders: vec![contender(
                    "assemble",
                    format!("{} -o {cells}", self.ours("many")),
                    &format!("{} && mkdir {cells}", remove(&cells)),
                )],
                targets: Vec::new(),
            },
            Case {
                name: "layer of 1 GiB",
                contenders: vec![contender(
                    "assemble",
                    format!("{} {CELL} --no-check -o {}", self.ours(LARGE), self.at("large.tar")),
                    &unread,
                )],
                targets: Vec::new(),
            },
        ]
    }

    fn push(&self) -> String {
        format!("{} {CELL} --no-check --push", self.ours(PUSHED))
    }

    /// What the registry takes to say what a tag names.
    fn asking(&self) -> Vec<Contender> {
        let tag = CELL.replace('/', "-");
        let command = format!("curl -sfI http://{}/v2/pushed/manifests/{tag}", self.registry);
        peers(vec![("curl", command, "true".to_owned())])
    }

    /// Requests of a push that finds everything there.
    pub(crate) fn requests(&self, registry: &FakeRegistry) -> Result<String> {
        registry.clear_log();
        shell(&self.push())?;
        let lines = registry.lines();
        let tags = lines.iter().filter(|line| line.contains("/v2/pushed/manifests/")).count();
        Ok(format!("A push of nothing new: {} requests, {tags} of them for tags.", lines.len()))
    }

    pub(crate) fn sizes(&self) -> Result<String> {
        let ours = fs::metadata(self.layer()?)?.len();
        let gzip = Command::new("gzip").args(["-6", "-c", &self.at("tree.tar")]).output()?;
        Ok(format!("The layer has {ours} bytes; gzip -6 makes {} of its tar.", gzip.stdout.len()))
    }

    /// What a cell of many costs beside one alone.
    pub(crate) fn cells(cases: &[Case]) -> String {
        let wall = |name: &str| {
            let case = cases.iter().find(|case| case.name.starts_with(name));
            case.map_or(0.0, |case| {
                let last = case.contenders.iter().rfind(|one| one.name.starts_with("assemble"));
                last.map_or(0.0, |one| report::milliseconds(one.median().wall))
            })
        };
        #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
        let each = wall("50 cells") / CELLS as f64;
        let alone = wall("repeat");
        format!("{CELLS} cells take {each:.1} ms each, one alone {alone:.1} ms.")
    }

    /// What only moves bytes.
    fn copying(&self) -> Vec<Contender> {
        let (from, to) = (self.at("first.tar"), self.at("copy.tar"));
        let layout = self.at("layout");
        let archive = self.at("skopeo.tar");
        peers(vec![
            ("cp", format!("cp {from} {to}"), remove(&to)),
            (
                "skopeo",
                format!("skopeo copy -q oci:{layout} oci-archive:{archive}"),
                remove(&archive),
            ),
        ])
    }

    /// What makes a layer of a tree that is there already.
    fn building(&self) -> Vec<Contender> {
        let (layout, work) = (self.at("layout"), self.at("umoci"));
        let tag = CELL.replace('/', "-");
        let (containers, script) = (self.at("containers"), self.at("buildah.sh"));
        let buildah = format!("buildah --root {containers} --runroot {containers}.run");
        let buildah = format!("{buildah} --storage-driver vfs");
        let text = format!(
            "set -e\nc=$({buildah} from scratch)\n{buildah} copy -q $c {tree} /\n\
             {buildah} commit -q $c oci-archive:{archive}\n",
            tree = self.at("tree"),
            archive = self.at("buildah.tar"),
        );
        let old = [&containers, &format!("{containers}.run"), &self.at("buildah.tar")];
        let written =
            format!("{} && printf '%s' '{text}' > {script}", put_away(&old.map(String::as_str)));
        let archive = self.at("crane.tar");
        let mut all = vec![
            (
                "crane",
                format!(
                    "crane append --oci-empty-base -f {} -t x/y:z -o {archive}",
                    self.at("tree.tar")
                ),
                remove(&archive),
            ),
            (
                "umoci",
                format!("umoci insert --image {work}:{tag} --tag new {}/usr /usr", self.at("tree")),
                format!("{} && cp -r {layout} {work}", put_away(&[&work])),
            ),
        ];
        // Not every machine lets it unshare.
        if shell(&format!("{written} && sh {script}")).is_ok() {
            all.push(("buildah", format!("sh {script}"), written));
        }
        peers(all)
    }

    fn resolving(&self) -> Vec<Contender> {
        let (from, to) = (self.at("requirements.in"), self.at("requirements.txt"));
        let version = CELL.split('/').next().unwrap_or_default();
        let command = |flag: &str| {
            format!(
                "uv pip compile -q {flag} --python-version 3.13 \
                 --python-platform x86_64-unknown-linux-musl --cache-dir {} {from} -o {to}",
                self.at("uv")
            )
        };
        let before = format!("echo locust=={version} > {from} && rm -f {to}");
        peers(vec![
            ("uv", command(""), before.clone()),
            ("uv, offline", command("--offline"), before),
        ])
    }
}

fn contender(name: &'static str, command: String, before: &str) -> Contender {
    Contender { name, command, before: before.to_owned(), lines: &[], runs: Vec::new(), peak: 0 }
}

/// Those whose program is on `PATH`.
fn peers(all: Vec<(&'static str, String, String)>) -> Vec<Contender> {
    all.into_iter()
        .filter(|(_, command, _)| {
            let program = command.split(' ').next().unwrap_or_default();
            shell(&format!("command -v {program}")).is_ok()
        })
        .map(|(name, command, before)| contender(name, command, &before))
        .collect()
}

/// A shell's words that delete what a command wrote, so that the next one gets the memory that it was in.
fn remove(path: &str) -> String {
    format!("rm -rf {path}")
}
