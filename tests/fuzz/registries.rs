//! What registries, and the files about them, say.

use std::collections::{BTreeMap, BTreeSet};

use assemble::base::{Base, select};
use assemble::image::{stack, validate};
use assemble::oci::json::to_canonical_vec;
use assemble::oci::{Digest, ImageManifest, Platform, Reference, media_type};
use assemble::plan::ConfigChange;
use assemble::registry::auth::challenge as challenges;
use assemble::registry::credentials::Credential;
use assemble::registry::credentials::config_file::{ConfigFile, Entry};
use assemble::registry::registries_conf::RegistriesConf;
use serde_json::{Value, json};

/// A reference is the same in each of its spellings, and keeps to the grammar.
pub(super) fn reference(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(platform) = text.parse::<Platform>() {
        assert_eq!(platform.to_string().parse().as_ref(), Ok(&platform));
        assert!(platform.matches(&platform));
    }
    let Ok(reference) = text.parse::<Reference>() else { return };
    for written in [reference.to_string(), reference.familiar()] {
        assert_eq!(written.parse().as_ref(), Ok(&reference), "{written}");
    }
    let repository = reference.repository();
    assert!(repository.len() <= 255 && !repository.contains(char::is_uppercase), "{repository}");
    assert!(repository.split('/').all(|part| !matches!(part, "" | "." | "..")), "{repository}");
    assert!(!reference.api_host().contains(['/', '@', '?', '#', ' ']), "{reference}");
    let pinned = reference.with_digest(Digest::of(bytes));
    assert_eq!(pinned.to_string().parse().as_ref(), Ok(&pinned));
    assert_eq!(pinned.without_digest(), reference.without_digest());
    if let Some(tag) = reference.tag() {
        assert_eq!(reference.with_tag(tag), Ok(reference.without_digest()));
    }
}

/// What was understood of challenges is understood of its plainest spelling.
pub(super) fn challenge(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let found = challenges::parse(text.lines());
    let written: Vec<String> = found
        .iter()
        .map(|challenge| {
            let parameters: Vec<String> = challenge
                .parameters
                .iter()
                .map(|(key, value)| {
                    format!("{key}=\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\""))
                })
                .collect();
            format!("{} {}", challenge.scheme, parameters.join(", "))
        })
        .collect();
    let again = challenges::parse(written.iter().map(String::as_str));
    assert_eq!(again, found, "{written:?}");
    let is_ours = |scheme: &str| matches!(scheme, "basic" | "bearer");
    if challenges::choose(&found).is_some() {
        assert!(found.iter().any(|challenge| is_ours(&challenge.scheme)));
    }
}

/// Image documents: parts between `%%` lines, of which a later one names earlier ones as `@0` (digest)
/// and `#0` (size). The last is what a reference names, the first is taken for a config too.
pub(super) fn documents(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let mut blobs: BTreeMap<Digest, Vec<u8>> = BTreeMap::new();
    let mut parts: Vec<(Digest, usize)> = Vec::new();
    let mut documents: Vec<String> = Vec::new();
    for part in text.split("\n%%\n").take(10) {
        let mut part = part.to_owned();
        for (number, (digest, size)) in parts.iter().enumerate() {
            part = part.replace(&format!("@{number}"), &digest.to_string());
            part = part.replace(&format!("#{number}"), &size.to_string());
        }
        let digest = Digest::of(part.as_bytes());
        parts.push((digest, part.len()));
        blobs.insert(digest, part.clone().into_bytes());
        documents.push(part);
    }
    let (Some(first), Some(last)) = (documents.first(), documents.last()) else { return };
    for document in &documents {
        canonical(document);
    }
    selected(last.as_bytes());
    let Ok(root) = serde_json::from_str::<Value>(last) else { return };
    let kind = root["mediaType"].as_str().unwrap_or(media_type::OCI_MANIFEST);
    let size = last.len();
    let descriptor =
        json!({"mediaType": kind, "digest": Digest::of(last.as_bytes()), "size": size});
    let Ok(descriptor) = serde_json::from_value(descriptor) else { return };
    let roots = [descriptor];
    let (valid, problems) = validate::examine(&roots, &blobs);
    assert_eq!((&valid, &problems), (&again(&roots, &blobs).0, &again(&roots, &blobs).1));
    let all: u64 = blobs.values().map(|blob| blob.len() as u64).sum();
    assert!(valid.bytes <= all && valid.blobs <= blobs.len(), "{valid:?}");
    if let (Ok(config), Ok(manifest)) = (serde_json::from_str(first), serde_json::from_str(last)) {
        stacked(first, config, last, manifest);
    }
}

fn again(
    roots: &[assemble::oci::Descriptor],
    blobs: &BTreeMap<Digest, Vec<u8>>,
) -> (validate::Valid, Vec<validate::Problem>) {
    validate::examine(roots, blobs)
}

/// Whether a number in it may change when it is read and written, which figures of images never do.
fn has_float(value: &Value) -> bool {
    match value {
        Value::Number(number) => number.is_f64(),
        Value::Array(items) => items.iter().any(has_float),
        Value::Object(members) => members.values().any(has_float),
        _ => false,
    }
}

/// The canonical text of a value is that value, and its own canonical text.
fn canonical(document: &str) {
    let Ok(value) = serde_json::from_str::<Value>(document) else { return };
    if has_float(&value) {
        return;
    }
    let written = to_canonical_vec(&value).unwrap();
    let again: Value = serde_json::from_slice(&written).unwrap();
    assert_eq!(again, value);
    assert_eq!(to_canonical_vec(&again).unwrap(), written);
}

/// What is chosen from an index is for the platform that was asked for.
fn selected(index: &[u8]) {
    for platform in ["linux/amd64", "linux/arm64/v8", "linux/arm/v7"] {
        let wanted: Platform = platform.parse().unwrap();
        match select::select_manifest(index, &wanted) {
            Ok((_, found)) => assert!(found.matches(&wanted), "{found}"),
            Err(select::Refusal::NoSuchPlatform(there)) => {
                assert!(!there.contains(&wanted), "{there:?}");
            }
            Err(select::Refusal::Malformed(_)) => {}
        }
    }
}

/// Every field of a base's config that is not ours to change is in the image's, as it was.
fn stacked(config_text: &str, config: Value, manifest_text: &str, manifest: ImageManifest) {
    let ids = config["rootfs"]["diff_ids"].as_array().cloned().unwrap_or_default();
    let Some(diff_ids) = ids.iter().map(|id| id.as_str()?.parse().ok()).collect() else { return };
    let Ok(descriptor) = serde_json::from_value(json!({
        "mediaType": media_type::OCI_MANIFEST,
        "digest": Digest::of(manifest_text.as_bytes()),
        "size": manifest_text.len(),
    })) else {
        return;
    };
    let base = Base {
        reference: "docker.io/library/python:3.13-alpine3.24".parse().unwrap(),
        digest: Digest::of(manifest_text.as_bytes()),
        platform: "linux/amd64".parse().unwrap(),
        manifest_descriptor: descriptor,
        manifest_bytes: manifest_text.to_owned().into(),
        manifest,
        config_bytes: config_text.to_owned().into(),
        config,
        diff_ids,
    };
    let change = ConfigChange::default();
    let created = jiff::Timestamp::UNIX_EPOCH;
    let Ok(image) = stack(&base, &[], &change, &BTreeMap::new(), created) else { return };
    assert_eq!(image.config_digest, Digest::of(&image.config));
    let made: Value = serde_json::from_slice(&image.config).unwrap();
    let changed = BTreeSet::from(["config", "created", "history", "rootfs"]);
    let before = base.config.as_object().unwrap();
    if !has_float(&base.config) {
        for (key, value) in before.iter().filter(|(key, _)| !changed.contains(key.as_str())) {
            assert_eq!(made.get(key), Some(value), "`{key}` was changed");
        }
        for (key, value) in before.get("config").and_then(Value::as_object).into_iter().flatten() {
            if key != "Labels" {
                assert_eq!(made["config"].get(key), Some(value), "`config.{key}` was changed");
            }
        }
    }
    let manifest: ImageManifest = serde_json::from_slice(&image.manifest).unwrap();
    assert_eq!(manifest.layers().len(), base.manifest.layers().len());
}

/// `registries.conf` and `config.json`: what is kept secret is not shown.
pub(super) fn config(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        let mut conf = RegistriesConf::default();
        if conf.add(text).is_ok() {
            let once = conf.clone();
            conf.add(text).unwrap();
            assert_eq!(conf.insecure(), once.insecure());
            assert!(conf.insecure().iter().all(|host| !host.contains('/')), "{conf:?}");
        }
    }
    let parsed = ConfigFile::parse(bytes);
    let shown = match &parsed {
        Ok(file) => format!("{file:?}"),
        Err(reason) => reason.clone(),
    };
    for secret in secrets(bytes) {
        assert!(!shown.contains(&secret), "{shown}");
    }
    let Ok(file) = parsed else { return };
    for (registry, repository) in
        [("docker.io", "library/python"), ("localhost:5000", "a/b/c"), ("registry.example", "x")]
    {
        match file.entry(registry, repository) {
            Some(Entry::Credential(Credential::Password { user, .. })) => {
                assert!(!user.contains(':') || !bytes.contains(&b'"') || user.len() < bytes.len());
            }
            Some(Entry::Helper(name)) => assert_eq!(file.helper(registry), Some(name)),
            _ => {}
        }
    }
}

/// Values that nothing may show, and that no other part of the document has in it.
fn secrets(bytes: &[u8]) -> Vec<String> {
    let Ok(document) = serde_json::from_slice::<Value>(bytes) else { return Vec::new() };
    let Some(entries) = document["auths"].as_object() else { return Vec::new() };
    let (mut secret, mut open) = (Vec::new(), vec![document["credsStore"].to_string()]);
    open.push(document["credHelpers"].to_string());
    for (name, entry) in entries {
        open.push(name.clone());
        open.push(entry["username"].to_string());
        for field in ["auth", "password", "identitytoken", "registrytoken"] {
            secret.extend(entry[field].as_str().filter(|text| text.len() > 20).map(str::to_owned));
        }
    }
    secret.retain(|secret| !open.iter().any(|open| open.contains(secret)));
    secret
}
