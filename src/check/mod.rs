//! Whether an image starts: its own files are unpacked, and a command of it is run in the sandbox.
//!
//! The first tier, which runs nothing, is [`crate::gate::files`]. A result is kept by the image's
//! config, which names all that is in it.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::base::{Base, rootfs};
use crate::image::Image;
use crate::oci::{Descriptor, Digest, ImageManifest};
use crate::sandbox::{self, Job, Promise, Tier};
use crate::store::{self, Store};
use crate::world::{World, on_thread};

pub mod error;

pub use error::Error;

/// Changes when the same image would be started differently.
const RECORDS: &str = "start-check-1";
/// A program that only says its version is faster, even on a slow disk.
const TIME_LIMIT: Duration = Duration::from_mins(2);
/// More is no version.
const OUTPUT_LIMIT: u64 = 1 << 20;
/// Lines shown of a program that failed.
const TAIL: usize = 20;

/// What came of starting an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Start {
    /// The command ended with 0.
    #[serde(rename_all = "kebab-case")]
    Ran {
        /// The command.
        command: Vec<String>,
        /// Which way it ran.
        tier: Tier,
        /// Why it did not run in namespaces, if they were refused.
        refusal: Option<String>,
        /// What the kernel let it reach against the sandbox's promises.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        left: Vec<Promise>,
        /// The first line it said.
        said: String,
        /// Whether an earlier run saw it.
        from_cache: bool,
    },
    /// It was not run.
    NotRun(String),
}

impl std::fmt::Display for Start {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ran { command, tier, left, said, from_cache, .. } => {
                let cached = if *from_cache { ", seen before" } else { "" };
                let left = sandbox::within_reach(left);
                write!(f, "`{}` ran (tier {tier}{left}{cached}): {said}", command.join(" "))
            }
            Self::NotRun(why) => write!(f, "not run: {why}"),
        }
    }
}

/// An image whose layers are all in the store.
#[derive(Clone, Debug)]
pub struct Subject {
    /// Bottom first, each with its `diff_id`.
    pub layers: Vec<(Descriptor, Digest)>,
    /// Over the config's bytes.
    pub config_digest: Digest,
    /// The config.
    pub config: Value,
}

impl Subject {
    /// An image that was just made.
    ///
    /// # Errors
    /// Its config is no JSON.
    pub fn of_image(image: &Image) -> Result<Self, Error> {
        Ok(Self {
            layers: image.layers.iter().map(|l| (l.descriptor.clone(), l.diff_id)).collect(),
            config_digest: image.config_digest,
            config: parse("the config", &image.config)?,
        })
    }

    /// An image that was pulled as a base is.
    pub fn of_base(base: &Base) -> Self {
        let layers = base.manifest.layers().iter().cloned();
        Self {
            layers: layers.zip(base.diff_ids.iter().copied()).collect(),
            config_digest: Digest::of(&base.config_bytes),
            config: base.config.clone(),
        }
    }

    /// An image whose manifest, config and layers are in the store.
    ///
    /// # Errors
    /// One is not there, or is not what it should be.
    pub fn of_store(manifest: &Digest, store: &Store) -> Result<Self, Error> {
        let manifest: ImageManifest = parse("the manifest", &stored(manifest, store)?)?;
        let config_digest = crate::oci::descriptor_digest(manifest.config())?;
        let config: Value = parse("the config", &stored(&config_digest, store)?)?;
        let diff_ids: Vec<Digest> = parse_value(&config["rootfs"]["diff_ids"])?;
        if diff_ids.len() != manifest.layers().len() {
            let problem = "it has another number of diff_ids than the manifest has layers";
            return Err(Error::Document { document: "the config", problem: problem.to_owned() });
        }
        let layers = manifest.layers().iter().cloned().zip(diff_ids).collect();
        Ok(Self { layers, config_digest, config })
    }

    /// The start command that a label of the image names; `None` if there is none.
    pub fn command(&self, label: &str) -> Option<Vec<String>> {
        serde_json::from_str(self.config["config"]["Labels"][label].as_str()?).ok()
    }

    /// How many of the topmost layers `assemble` made, by the image's history.
    pub fn own_layers(&self) -> usize {
        let entries = self.config["history"].as_array();
        entries
            .into_iter()
            .flatten()
            .rev()
            .filter(|entry| entry["empty_layer"] != Value::Bool(true))
            .take_while(|entry| {
                entry["created_by"].as_str().is_some_and(|text| text.starts_with("assemble:"))
            })
            .count()
            .min(self.layers.len())
    }

    fn environment(&self) -> BTreeMap<String, String> {
        let entries = self.config["config"]["Env"].as_array();
        let mut environment: BTreeMap<String, String> = entries
            .into_iter()
            .flatten()
            .filter_map(|entry| entry.as_str()?.split_once('='))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        // The image is read-only here.
        environment.insert("PYTHONDONTWRITEBYTECODE".to_owned(), "1".to_owned());
        environment
    }
}

fn parse<T: serde::de::DeserializeOwned>(document: &'static str, bytes: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(bytes)
        .map_err(|error| Error::Document { document, problem: error.to_string() })
}

fn parse_value<T: serde::de::DeserializeOwned>(value: &Value) -> Result<T, Error> {
    T::deserialize(value)
        .map_err(|error| Error::Document { document: "the config", problem: error.to_string() })
}

fn stored(digest: &Digest, store: &Store) -> Result<Vec<u8>, Error> {
    store.read(digest)?.ok_or_else(|| Error::Document {
        document: "a document",
        problem: format!("{digest} is not in the cache"),
    })
}

/// Unpacks the image and runs `command` in it, with the image's own environment; it must end with 0.
/// An image for another machine is run only if this one has an emulator registered.
///
/// # Errors
/// It does not start, or cannot be unpacked.
pub async fn start(subject: &Subject, command: &[String], world: &World) -> Result<Start, Error> {
    let words: Vec<&[u8]> = command.iter().map(String::as_bytes).collect();
    let key = store::key(&[&[subject.config_digest.as_bytes().as_slice()], &words[..]].concat());
    if let Some(record) = world.store.record(RECORDS, &key)?
        && let Ok(mut start @ Start::Ran { .. }) = serde_json::from_slice(&record)
    {
        if let Start::Ran { from_cache, .. } = &mut start {
            *from_cache = true;
        }
        return Ok(start);
    }
    let (layers, store) = (subject.layers.clone(), world.store.clone());
    let unpacked = on_thread(move || rootfs::unpack_once(&layers, &store)).await?;
    let work = world.store.temporary_directory()?;
    let job = Job {
        rootfs: unpacked.path().to_path_buf(),
        work: work.path().to_path_buf(),
        lent: Vec::new(),
        argv: command.to_vec(),
        env: subject.environment(),
        time_limit: TIME_LIMIT,
        output_limit: OUTPUT_LIMIT,
    };
    let text = command.join(" ");
    let outcome = match world.sandbox.run_emulated(&job).await {
        Ok(outcome) => outcome,
        Err(error @ sandbox::Error::ForeignArchitecture { .. }) => {
            return Ok(Start::NotRun(format!("{error} and has no emulator registered")));
        }
        Err(error @ (sandbox::Error::NoTier { .. } | sandbox::Error::OtherSystem { .. })) => {
            return Ok(Start::NotRun(error.to_string()));
        }
        Err(source) => return Err(Error::Sandbox { command: text, source: Box::new(source) }),
    };
    if !outcome.success {
        return Err(Error::DoesNotStart {
            command: text,
            ending: outcome.ending,
            tier: outcome.tier,
            tail: tail(&outcome.log),
        });
    }
    let said = String::from_utf8_lossy(&outcome.log);
    let started = Start::Ran {
        command: command.to_vec(),
        tier: outcome.tier,
        refusal: outcome.refusal,
        left: outcome.left,
        said: said.lines().map(clean).next().unwrap_or_default(),
        from_cache: false,
    };
    let record = serde_json::to_vec(&started).map_err(|error| Error::Disk(error.into()))?;
    world.store.put_record(RECORDS, &key, &record)?;
    Ok(started)
}

fn clean(line: &str) -> String {
    line.chars().filter(|c| !c.is_control()).collect()
}

fn tail(log: &[u8]) -> String {
    let text = String::from_utf8_lossy(log);
    let lines: Vec<String> = text.lines().map(clean).collect();
    let shown = &lines[lines.len().saturating_sub(TAIL)..];
    shown.iter().flat_map(|line| ["\n", line]).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn subject(config: Value) -> Subject {
        let layer = json!({
            "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
            "digest": Digest::of(b"layer"),
            "size": 5,
        });
        let layer: Descriptor = serde_json::from_value(layer).unwrap();
        Subject {
            layers: vec![(layer, Digest::of(b"tar")); 4],
            config_digest: Digest::of(b"config"),
            config,
        }
    }

    #[test]
    fn the_history_says_which_layers_are_ours() {
        let entry = |text: &str| json!({ "created_by": text });
        let empty = json!({ "created_by": "CMD", "empty_layer": true });
        for (history, own) in [
            (
                json!([
                    entry("ADD"),
                    entry("RUN"),
                    empty,
                    entry("assemble: a"),
                    entry("assemble: b")
                ]),
                2,
            ),
            (json!([entry("ADD"), entry("assemble: a"), entry("RUN")]), 0),
            (json!([entry("ADD")]), 0),
            (Value::Null, 0),
        ] {
            assert_eq!(subject(json!({ "history": history })).own_layers(), own, "{history}");
        }
    }

    #[test]
    fn the_label_says_how_it_starts() {
        for (label, command) in [
            (json!("[\"x\",\"--version\"]"), Some(vec!["x".to_owned(), "--version".to_owned()])),
            (json!("off"), None),
            (Value::Null, None),
        ] {
            let config = json!({ "config": { "Labels": { "l": label }, "Env": ["A=1=2", "B"] } });
            let subject = subject(config);
            assert_eq!(subject.command("l"), command);
            assert_eq!(subject.environment()["A"], "1=2");
        }
    }

    #[test]
    fn the_tail_is_short() {
        let lines: Vec<String> = (0..50).map(|number| format!("line {number}\x1b")).collect();
        let tail = tail(lines.join("\n").as_bytes());
        assert_eq!(tail.lines().count(), TAIL + 1);
        assert!(tail.ends_with("\nline 49"));
    }
}
