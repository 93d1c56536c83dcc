//! Lossless edits of a base's config (image-spec, *Image Configuration*).
//!
//! The config stays a JSON value: what this module does not know (`Healthcheck`, `Shell`, `OnBuild`,
//! a vendor's keys) is carried over as it is.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::Error;
use crate::layers::Layer;
use crate::oci::Platform;
use crate::plan::ConfigChange;

/// The base's config with `change` applied, a history entry and a `diff_id` for each of `layers`
/// appended, and `created` set. `base_layers` is the number of layers in the base's manifest.
///
/// # Errors
/// The base's config is malformed, is for another platform, or is out of step with its manifest.
pub(super) fn edit(
    base: &Value,
    base_layers: usize,
    platform: &Platform,
    layers: &[Layer],
    change: &ConfigChange,
    created: Timestamp,
) -> Result<Value, Error> {
    let mut config = base
        .as_object()
        .ok_or(Error::Config { field: "the config", expected: "an object" })?
        .clone();
    check_platform(&config, platform)?;
    append_diff_ids(&mut config, base_layers, layers)?;
    append_history(&mut config, base_layers, layers, created)?;
    apply(object(&mut config, "config")?, change)?;
    config.insert("created".into(), created.to_string().into());
    Ok(Value::Object(config))
}

/// The platform a config says it is for.
///
/// # Errors
/// The field, `os` or `architecture`, that is missing: both are REQUIRED.
pub(super) fn platform(config: &Map<String, Value>) -> Result<Platform, &'static str> {
    let text = |field: &'static str| {
        config
            .get(field)
            .and_then(Value::as_str)
            .filter(|value| !value.is_empty())
            .map(str::to_owned)
            .ok_or(field)
    };
    Ok(Platform {
        os: text("os")?,
        architecture: text("architecture")?,
        variant: text("variant").ok(),
    })
}

/// How many entries of a history have a layer.
pub(super) fn entries_with_layer(history: &[Value]) -> usize {
    history.iter().filter(|entry| entry.get("empty_layer") != Some(&Value::Bool(true))).count()
}

fn check_platform(config: &Map<String, Value>, wanted: &Platform) -> Result<(), Error> {
    let found = platform(config).map_err(Error::not_a_string)?;
    let mut completed = found.clone();
    // Older builders wrote the variant into the index only.
    if completed.variant.is_none() {
        completed.variant.clone_from(&wanted.variant);
    }
    if completed.matches(wanted) {
        return Ok(());
    }
    Err(Error::Platform { expected: Box::new(wanted.clone()), found: Box::new(found) })
}

fn append_diff_ids(
    config: &mut Map<String, Value>,
    base_layers: usize,
    layers: &[Layer],
) -> Result<(), Error> {
    let rootfs = object(config, "rootfs")?;
    rootfs.insert("type".into(), "layers".into());
    let diff_ids = array(rootfs, "diff_ids", "rootfs.diff_ids")?;
    if diff_ids.len() != base_layers {
        return Err(Error::DiffIds { layers: base_layers, diff_ids: diff_ids.len() });
    }
    diff_ids.extend(layers.iter().map(|layer| json!(layer.diff_id)));
    Ok(())
}

/// Readers walk history and layers together, each entry without `empty_layer` taking the next
/// layer. A base whose history is short or absent is valid (history is OPTIONAL), so it is filled
/// up: otherwise our entries would be taken for its layers'. A history with more entries than layers
/// cannot be repaired.
fn append_history(
    config: &mut Map<String, Value>,
    base_layers: usize,
    layers: &[Layer],
    created: Timestamp,
) -> Result<(), Error> {
    let history = array(config, "history", "history")?;
    let entries = entries_with_layer(history);
    if entries > base_layers {
        return Err(Error::History { entries, layers: base_layers });
    }
    let unknown = json!({"comment": "the base's history does not say what made this layer"});
    history.extend(std::iter::repeat_n(unknown, base_layers - entries));
    history.extend(
        layers
            .iter()
            .map(|layer| json!({"created": created.to_string(), "created_by": layer.created_by})),
    );
    Ok(())
}

fn apply(config: &mut Map<String, Value>, change: &ConfigChange) -> Result<(), Error> {
    if let Some(entrypoint) = &change.entrypoint {
        config.insert("Entrypoint".into(), json!(entrypoint));
        // The base's Cmd was written for the base's Entrypoint.
        config.remove("Cmd");
    }
    for (key, value) in [
        ("Cmd", change.cmd.as_ref().map(|value| json!(value))),
        ("User", change.user.as_ref().map(|value| json!(value))),
        ("WorkingDir", change.working_dir.as_ref().map(|value| json!(value))),
        ("StopSignal", change.stop_signal.as_ref().map(|value| json!(value))),
    ] {
        if let Some(value) = value {
            config.insert(key.into(), value);
        }
    }
    set_env(config, change)?;
    for (key, added) in [("ExposedPorts", &change.exposed_ports), ("Volumes", &change.volumes)] {
        if added.is_empty() {
            continue;
        }
        let set = object(config, key)?;
        for member in added {
            let (valid, what) = match key {
                "Volumes" => (member.starts_with('/'), "a volume"),
                _ => (is_port(member), "an exposed port"),
            };
            if !valid {
                return Err(Error::Change { what, value: member.clone() });
            }
            set.entry(member.as_str()).or_insert_with(|| json!({}));
        }
    }
    if !change.labels.is_empty() {
        let labels = object(config, "Labels")?;
        for (key, value) in &change.labels {
            labels.insert(key.clone(), value.clone().into());
        }
    }
    Ok(())
}

/// Replaces in place and appends what is new, sorted. Where the base names a variable twice the last
/// one counts, so all of them are replaced by one.
fn set_env(config: &mut Map<String, Value>, change: &ConfigChange) -> Result<(), Error> {
    if change.env.is_empty() {
        return Ok(());
    }
    let env = array(config, "Env", "config.Env")?;
    let mut rest = change.env.clone();
    let mut edited = Vec::with_capacity(env.len() + rest.len());
    for entry in env.iter() {
        let text = entry
            .as_str()
            .ok_or(Error::Config { field: "config.Env", expected: "an array of strings" })?;
        let name = text.split_once('=').map_or(text, |(name, _)| name);
        if !change.env.contains_key(name) {
            edited.push(entry.clone());
        } else if let Some(value) = rest.remove(name) {
            edited.push(format!("{name}={value}").into());
        }
    }
    for (name, value) in &rest {
        if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
            return Err(Error::Change { what: "an environment variable", value: name.clone() });
        }
        edited.push(format!("{name}={value}").into());
    }
    *env = edited;
    Ok(())
}

/// `port/tcp`, `port/udp` or `port` (image-spec, `ExposedPorts`).
fn is_port(text: &str) -> bool {
    let (port, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    port.bytes().all(|byte| byte.is_ascii_digit())
        && port.parse::<u16>().is_ok_and(|port| port > 0)
        && matches!(protocol, "tcp" | "udp" | "sctp")
}

/// The object at `key`; absent and `null` become an empty one, as Go's decoders read them.
fn object<'a>(
    parent: &'a mut Map<String, Value>,
    key: &'static str,
) -> Result<&'a mut Map<String, Value>, Error> {
    let value = parent.entry(key).or_insert(Value::Null);
    if value.is_null() {
        *value = json!({});
    }
    value.as_object_mut().ok_or(Error::Config { field: key, expected: "an object" })
}

/// The array at `key`; absent and `null` become an empty one.
fn array<'a>(
    parent: &'a mut Map<String, Value>,
    key: &str,
    field: &'static str,
) -> Result<&'a mut Vec<Value>, Error> {
    let value = parent.entry(key).or_insert(Value::Null);
    if value.is_null() {
        *value = json!([]);
    }
    value.as_array_mut().ok_or(Error::Config { field, expected: "an array" })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::fixture::layer;
    use super::*;

    fn created() -> Timestamp {
        "2026-01-02T03:04:05Z".parse().unwrap()
    }

    fn amd64() -> Platform {
        "linux/amd64".parse().unwrap()
    }

    /// Edits a config whose base has as many layers as it has `diff_ids`.
    fn edited(base: &Value, layers: &[Layer], change: &ConfigChange) -> Result<Value, Error> {
        let count = base["rootfs"]["diff_ids"].as_array().map_or(0, Vec::len);
        edit(base, count, &amd64(), layers, change, created())
    }

    fn config_only(base: &Value, change: &ConfigChange) -> Value {
        let base = json!({"os": "linux", "architecture": "amd64", "config": base});
        edited(&base, &[], change).unwrap()["config"].clone()
    }

    #[test]
    fn nothing_is_lost_and_everything_is_in_step() {
        let base = json!({
            "architecture": "amd64", "os": "linux", "created": "2020-01-01T00:00:00Z",
            "author": "somebody", "docker_version": "20.10", "os.features": ["x"],
            "config": {
                "Env": ["PATH=/bin"], "Cmd": ["python3"], "Labels": {"a": "1"},
                "Healthcheck": {"Test": ["NONE"]}, "Shell": ["/bin/ash"], "OnBuild": ["RUN x"],
                "Unknown": {"deep": [1, 2.5, null]},
            },
            "history": [{"created_by": "ADD"}, {"created_by": "CMD", "empty_layer": true}],
            "rootfs": {"type": "layers", "diff_ids": ["sha256:a"]},
        });
        let layers = [layer(b"one", "install"), layer(b"two", "copy")];
        let change = ConfigChange {
            entrypoint: Some(vec!["/start".into()]),
            labels: [("b".to_owned(), "2".to_owned())].into(),
            ..ConfigChange::default()
        };
        assert_eq!(
            edited(&base, &layers, &change).unwrap(),
            json!({
                "architecture": "amd64", "os": "linux", "created": "2026-01-02T03:04:05Z",
                "author": "somebody", "docker_version": "20.10", "os.features": ["x"],
                "config": {
                    "Env": ["PATH=/bin"], "Entrypoint": ["/start"], "Labels": {"a": "1", "b": "2"},
                    "Healthcheck": {"Test": ["NONE"]}, "Shell": ["/bin/ash"], "OnBuild": ["RUN x"],
                    "Unknown": {"deep": [1, 2.5, null]},
                },
                "history": [
                    {"created_by": "ADD"},
                    {"created_by": "CMD", "empty_layer": true},
                    {"created": "2026-01-02T03:04:05Z", "created_by": "install"},
                    {"created": "2026-01-02T03:04:05Z", "created_by": "copy"},
                ],
                "rootfs": {
                    "type": "layers",
                    "diff_ids": ["sha256:a", layers[0].diff_id, layers[1].diff_id],
                },
            })
        );
    }

    #[test]
    fn each_change() {
        let strings = |items: &[&str]| items.iter().map(ToString::to_string).collect::<Vec<_>>();
        let env = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
        };
        let none = ConfigChange::default();
        for (base, change, expected) in [
            (json!(null), none.clone(), json!({})),
            (
                json!({"Entrypoint": ["/e"], "Cmd": ["c"]}),
                none.clone(),
                json!({"Entrypoint": ["/e"], "Cmd": ["c"]}),
            ),
            (
                json!({"Cmd": ["c"]}),
                ConfigChange { entrypoint: Some(vec![]), ..none.clone() },
                json!({"Entrypoint": []}),
            ),
            (
                json!({"Entrypoint": ["/e"], "Cmd": ["c"]}),
                ConfigChange { cmd: Some(strings(&["d"])), ..none.clone() },
                json!({"Entrypoint": ["/e"], "Cmd": ["d"]}),
            ),
            (
                json!({"Cmd": ["c"]}),
                ConfigChange {
                    entrypoint: Some(strings(&["/e"])),
                    cmd: Some(strings(&["d"])),
                    ..none.clone()
                },
                json!({"Entrypoint": ["/e"], "Cmd": ["d"]}),
            ),
            (
                json!({"Env": ["B=1", "PATH=/a", "A=2", "BARE", "B=3"]}),
                ConfigChange {
                    env: env(&[("Z", "z"), ("PATH", "/b:/a"), ("C", "x=y"), ("B", "9")]),
                    ..none.clone()
                },
                json!({"Env": ["B=9", "PATH=/b:/a", "A=2", "BARE", "C=x=y", "Z=z"]}),
            ),
            (
                json!({"ExposedPorts": {"80/tcp": {}}, "Volumes": null}),
                ConfigChange {
                    exposed_ports: strings(&["8089/tcp", "80/tcp", "53/udp", "9"]),
                    volumes: strings(&["/data"]),
                    ..none.clone()
                },
                json!({
                    "ExposedPorts": {"80/tcp": {}, "8089/tcp": {}, "53/udp": {}, "9": {}},
                    "Volumes": {"/data": {}},
                }),
            ),
            (
                json!({"User": "0", "WorkingDir": "/", "StopSignal": "SIGTERM"}),
                ConfigChange {
                    user: Some("1000:1000".into()),
                    working_dir: Some("/w".into()),
                    stop_signal: Some("SIGINT".into()),
                    ..none.clone()
                },
                json!({"User": "1000:1000", "WorkingDir": "/w", "StopSignal": "SIGINT"}),
            ),
        ] {
            assert_eq!(config_only(&base, &change), expected, "{base} {change:?}");
        }
    }

    #[test]
    fn refuses_what_no_config_can_carry() {
        for change in [
            ConfigChange { exposed_ports: vec!["http".into()], ..ConfigChange::default() },
            ConfigChange { exposed_ports: vec!["+80/tcp".into()], ..ConfigChange::default() },
            ConfigChange { exposed_ports: vec!["65536".into()], ..ConfigChange::default() },
            ConfigChange { volumes: vec!["data".into()], ..ConfigChange::default() },
            ConfigChange { env: [("A=B".into(), String::new())].into(), ..ConfigChange::default() },
        ] {
            let base = json!({"os": "linux", "architecture": "amd64"});
            assert!(matches!(edited(&base, &[], &change), Err(Error::Change { .. })), "{change:?}");
        }
    }

    #[test]
    fn history_is_brought_in_step_or_refused() {
        let by = |text: &str| json!({"created_by": text});
        let empty = json!({"created_by": "ENV", "empty_layer": true});
        let unknown = json!({"comment": "the base's history does not say what made this layer"});
        let ours = json!({"created": "2026-01-02T03:04:05Z", "created_by": "install"});
        for (history, expected) in [
            // In step, `empty_layer` false or absent.
            (
                json!([by("a"), empty, {"created_by": "b", "empty_layer": false}]),
                Some(json!([by("a"), empty, {"created_by": "b", "empty_layer": false}, ours])),
            ),
            // ggcr's TestRebaseNoHistory.
            (json!(null), Some(json!([unknown, unknown, ours]))),
            (json!([]), Some(json!([unknown, unknown, ours]))),
            (json!([by("a"), empty]), Some(json!([by("a"), empty, unknown, ours]))),
            // ggcr's TestRebaseMalformedHistory.
            (json!([by("a"), by("b"), by("c")]), None),
            (json!({}), None),
        ] {
            let base = json!({
                "os": "linux", "architecture": "amd64", "history": history,
                "rootfs": {"type": "layers", "diff_ids": ["sha256:a", "sha256:b"]},
            });
            let made = edited(&base, &[layer(b"one", "install")], &ConfigChange::default());
            assert_eq!(made.ok().map(|made| made["history"].clone()), expected, "{history}");
        }
    }

    #[test]
    fn platform_and_diff_ids_must_agree() {
        let change = ConfigChange::default();
        for (os, architecture, variant, wanted, fits) in [
            ("linux", "arm64", json!("v8"), "linux/arm64", true),
            ("linux", "arm64", json!(null), "linux/arm64/v8", true),
            ("linux", "arm", json!(null), "linux/arm/v6", true),
            ("linux", "arm", json!("v7"), "linux/arm/v6", false),
            ("linux", "amd64", json!(""), "linux/arm64", false),
            ("", "amd64", json!(null), "linux/amd64", false),
        ] {
            let base = json!({"os": os, "architecture": architecture, "variant": variant});
            let made = edit(&base, 0, &wanted.parse().unwrap(), &[], &change, created());
            assert_eq!(made.is_ok(), fits, "{base} {wanted}");
        }
        let base = json!({"os": "linux", "architecture": "amd64", "rootfs": {"diff_ids": ["x"]}});
        assert!(matches!(
            edit(&base, 2, &amd64(), &[], &change, created()),
            Err(Error::DiffIds { layers: 2, diff_ids: 1 })
        ));
    }

    proptest! {
        #[test]
        fn unknown_keys_survive(keys in proptest::collection::btree_map("x-[a-z]{1,8}", any::<i64>(), 0..8)) {
            let mut base = json!({"os": "linux", "architecture": "amd64", "config": keys});
            base.as_object_mut().unwrap().extend(
                keys.iter().map(|(key, value)| (key.clone(), json!(value))),
            );
            let change = ConfigChange { user: Some("1".into()), ..ConfigChange::default() };
            let made = edited(&base, &[layer(b"one", "x")], &change).unwrap();
            for (key, value) in &keys {
                prop_assert_eq!(&made[key], &json!(value));
                prop_assert_eq!(&made["config"][key], &json!(value));
            }
        }
    }
}
