//! What documents say, and whether they agree: indexes, manifests, configs.

use serde_json::{Map, Value};

use super::bytes::compression_of;
use super::{Examination, Problem, ValidImage};
use crate::image::{LAYERS_MAX, config};
use crate::oci::{Descriptor, Digest, Platform, descriptor_digest, media_type};

/// How deep indexes may nest. Real ones do not; an endless chain is an attack.
pub(super) const DEPTH_MAX: usize = 3;
/// How many documents one index may lead to. Indexes that name others many times over would make a
/// few kilobytes the work of years.
const DOCUMENTS_MAX: usize = 1000;

/// A family of media types: one manifest must not mix them (they mean the same, but readers differ).
#[derive(Clone, Copy, PartialEq, Eq)]
enum Family {
    Oci,
    Docker,
}

impl Examination<'_> {
    pub(super) fn wrong(&mut self, what: &str, reason: impl Into<String>) {
        self.problems.push(Problem::Document { what: what.to_owned(), reason: reason.into() });
    }

    /// A manifest or index.
    pub(super) fn document(&mut self, descriptor: &Descriptor, depth: usize) {
        let media_type = descriptor.media_type().to_string();
        let (noun, family) = match media_type.as_str() {
            media_type::OCI_MANIFEST => ("manifest", Family::Oci),
            media_type::DOCKER_MANIFEST => ("manifest", Family::Docker),
            media_type::OCI_INDEX | media_type::DOCKER_MANIFEST_LIST => ("index", Family::Oci),
            _ => {
                let what = format!("descriptor of {}", descriptor.digest());
                return self.wrong(&what, format!("unknown media type `{media_type}`"));
            }
        };
        let what = format!("{noun} {}", descriptor.digest());
        let Some((digest, document)) = self.json(descriptor, &what) else {
            return;
        };
        // Content-addressed bytes mean one thing only (CVE-2021-41190): the type in the body, if
        // any, is the descriptor's, and it is not both an index and a manifest.
        if let Some(found) = document.get("mediaType")
            && found.as_str() != Some(&media_type)
        {
            self.wrong(&what, format!("media type is {found}, not `{media_type}`"));
        }
        if document.get("schemaVersion") != Some(&Value::from(2)) {
            self.wrong(&what, "schemaVersion is not 2");
        }
        let other = match noun {
            "index" => "layers",
            _ => "manifests",
        };
        if document.contains_key(other) {
            return self.wrong(&what, format!("it has `{other}`, so its type is ambiguous"));
        }
        if noun == "index" {
            self.index(&document, &what, depth);
        } else {
            self.manifest(descriptor, digest, &document, &what, family);
        }
    }

    fn index(&mut self, document: &Map<String, Value>, what: &str, depth: usize) {
        if depth >= DEPTH_MAX {
            return self.wrong(what, "indexes are nested too deep");
        }
        let Some(manifests) = self.descriptors(document, "manifests", what) else {
            return;
        };
        for manifest in &manifests {
            self.documents += 1;
            if self.documents > DOCUMENTS_MAX {
                let reason = format!("it leads to more than {DOCUMENTS_MAX} documents");
                return self.wrong(what, reason);
            }
            let is_attestation = manifest
                .annotations()
                .as_ref()
                .is_some_and(|map| map.contains_key(media_type::DOCKER_REFERENCE_TYPE));
            if is_attestation {
                let what = format!("attestation {}", manifest.digest());
                self.bytes(manifest, &what);
            } else {
                self.document(manifest, depth + 1);
            }
        }
    }

    fn manifest(
        &mut self,
        descriptor: &Descriptor,
        digest: Digest,
        document: &Map<String, Value>,
        what: &str,
        family: Family,
    ) {
        let Some(layers) = self.descriptors(document, "layers", what) else {
            return;
        };
        if layers.len() > LAYERS_MAX {
            self.wrong(what, format!("more than {LAYERS_MAX} layers"));
        }
        let config = document.get("config").cloned().map(serde_json::from_value::<Descriptor>);
        let config = match config {
            Some(Ok(config)) => config,
            Some(Err(error)) => return self.wrong(what, format!("`config`: {error}")),
            None => return self.wrong(what, "it has no `config`"),
        };
        let expected = match family {
            Family::Oci => media_type::OCI_CONFIG,
            Family::Docker => media_type::DOCKER_CONFIG,
        };
        if config.media_type().as_ref() != expected {
            self.wrong(what, format!("its config is `{}`, not `{expected}`", config.media_type()));
        }
        for layer in &layers {
            let (oci, docker) = compression_of(layer).1;
            if !(if family == Family::Oci { oci } else { docker }) {
                self.wrong(
                    what,
                    format!(
                        "layer {} is `{}`, which does not belong in a `{}`",
                        layer.digest(),
                        layer.media_type(),
                        descriptor.media_type(),
                    ),
                );
            }
        }
        let diff_ids: Vec<_> = layers.iter().map(|layer| self.layer(layer)).collect();

        let config_what = format!("config {}", config.digest());
        let Some((config_digest, config)) = self.json(&config, &config_what) else {
            return;
        };
        self.config(&config, &config_what, &layers, &diff_ids);
        match config::platform(&config) {
            Ok(platform) => {
                self.check_platform(descriptor, &platform, what);
                let layers: Result<Vec<_>, _> = layers.iter().map(descriptor_digest).collect();
                if let (Ok(layers), Some(diff_ids)) = (layers, diff_ids.into_iter().collect()) {
                    self.valid.images.push(ValidImage {
                        platform,
                        digest,
                        config_digest,
                        layers,
                        diff_ids,
                    });
                }
            }
            Err(field) => self.wrong(&config_what, format!("`{field}` is not a string")),
        }
    }

    fn config(
        &mut self,
        config: &Map<String, Value>,
        what: &str,
        layers: &[Descriptor],
        found: &[Option<Digest>],
    ) {
        let rootfs = config.get("rootfs").unwrap_or(&Value::Null);
        if rootfs["type"] != "layers" {
            self.wrong(what, "rootfs.type is not `layers`");
        }
        let none = Vec::new();
        let expected = rootfs["diff_ids"].as_array().unwrap_or(&none);
        if expected.len() != layers.len() {
            self.wrong(what, format!("{} diff_ids for {} layers", expected.len(), layers.len()));
        }
        for ((layer, expected), found) in layers.iter().zip(expected).zip(found) {
            let expected = expected.as_str().unwrap_or_default();
            if let Some(found) = *found
                && found.to_string() != expected
            {
                self.problems.push(Problem::DiffId {
                    what: format!("layer {}", layer.digest()),
                    expected: expected.to_owned(),
                    found,
                });
            }
        }
        // History is OPTIONAL, but if it is there it must be in step.
        match config.get("history") {
            None | Some(Value::Null) => {}
            Some(Value::Array(history)) => {
                let entries = config::entries_with_layer(history);
                if !history.is_empty() && entries != layers.len() {
                    self.wrong(
                        what,
                        format!(
                            "{entries} history entries with a layer for {} layers",
                            layers.len()
                        ),
                    );
                }
            }
            Some(_) => self.wrong(what, "history is not an array"),
        }
    }

    fn check_platform(&mut self, descriptor: &Descriptor, platform: &Platform, what: &str) {
        let Some(named) = descriptor.platform() else {
            return;
        };
        let named = Platform {
            os: named.os().to_string(),
            architecture: named.architecture().to_string(),
            variant: named.variant().clone(),
        };
        let mut found = platform.clone();
        if found.variant.is_none() {
            found.variant.clone_from(&named.variant);
        }
        if !found.matches(&named) {
            self.wrong(
                what,
                format!("its descriptor is for {named}, but its config for {platform}"),
            );
        }
    }

    fn descriptors(
        &mut self,
        document: &Map<String, Value>,
        key: &str,
        what: &str,
    ) -> Option<Vec<Descriptor>> {
        let Some(value) = document.get(key) else {
            self.wrong(what, format!("it has no `{key}`"));
            return None;
        };
        serde_json::from_value(value.clone())
            .map_err(|error| self.wrong(what, format!("`{key}`: {error}")))
            .ok()
    }

    /// A verified JSON object and its digest.
    fn json(
        &mut self,
        descriptor: &Descriptor,
        what: &str,
    ) -> Option<(Digest, Map<String, Value>)> {
        let (digest, bytes) = self.bytes(descriptor, what)?;
        match serde_json::from_slice(&bytes) {
            Ok(object) => Some((digest, object)),
            Err(error) => {
                self.wrong(what, error.to_string());
                None
            }
        }
    }
}
