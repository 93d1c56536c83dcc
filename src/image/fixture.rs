//! A small base and layers for unit tests, with real bytes.

use std::collections::BTreeMap;
use std::io::Write as _;

use flate2::{Compression, GzBuilder};
use serde_json::{Value, json};

use super::{Image, stack};
use crate::base::Base;
use crate::layers::Layer;
use crate::oci::{Digest, media_type};
use crate::plan::ConfigChange;

/// A layer's tar that holds one file.
pub(crate) fn tar(content: &[u8]) -> Vec<u8> {
    let mut header = tar::Header::new_ustar();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    let mut builder = tar::Builder::new(Vec::new());
    builder.append_data(&mut header, "file", content).unwrap();
    builder.into_inner().unwrap()
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzBuilder::new().write(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A layer of one file with that content, and its compressed bytes.
pub(crate) fn layer_bytes(content: &[u8], created_by: &str) -> (Layer, Vec<u8>) {
    let tar = tar(content);
    let bytes = gzip(&tar);
    let layer = Layer {
        descriptor: serde_json::from_value(json!({
            "mediaType": media_type::OCI_LAYER_GZIP,
            "digest": Digest::of(&bytes),
            "size": bytes.len(),
        }))
        .unwrap(),
        diff_id: Digest::of(&tar),
        uncompressed_size: tar.len() as u64,
        created_by: created_by.to_owned(),
    };
    (layer, bytes)
}

pub(crate) fn layer(content: &[u8], created_by: &str) -> Layer {
    layer_bytes(content, created_by).0
}

/// A base with these layers (media type, stored bytes, tar). Its manifest is Docker's, with
/// annotations, embedded config data and a layer annotation that a conversion must deal with.
pub(crate) fn base(platform: &str, layers: &[(&str, Vec<u8>, Vec<u8>)]) -> Base {
    let platform: crate::oci::Platform = platform.parse().unwrap();
    let diff_ids: Vec<_> = layers.iter().map(|(_, _, tar)| Digest::of(tar)).collect();
    let mut history = vec![json!({"created_by": "ENV A", "empty_layer": true})];
    history.extend(layers.iter().map(|_| json!({"created_by": "ADD rootfs"})));
    let mut config = json!({
        "os": platform.os, "architecture": platform.architecture,
        "created": "2020-01-01T00:00:00Z",
        "config": {
            "Env": ["PATH=/usr/local/bin:/bin", "PYTHON_VERSION=3.13.1"], "Cmd": ["python3"],
            "Labels": {"org.opencontainers.image.version": "base", "kept": "yes"},
        },
        "history": history,
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    if let Some(variant) = &platform.variant {
        config["variant"] = json!(variant);
    }
    let config_bytes = serde_json::to_vec(&config).unwrap();
    let manifest: Value = json!({
        "schemaVersion": 2, "mediaType": media_type::DOCKER_MANIFEST,
        "config": {
            "mediaType": media_type::DOCKER_CONFIG,
            "digest": Digest::of(&config_bytes), "size": config_bytes.len(), "data": "e30=",
        },
        "layers": layers.iter().map(|(media_type, bytes, _)| json!({
            "mediaType": media_type, "digest": Digest::of(bytes), "size": bytes.len(),
            "annotations": {"z": "1", "a": "2"}, "urls": ["https://example.com/layer"],
        })).collect::<Vec<_>>(),
        "annotations": {"org.opencontainers.image.title": "the base's"},
    });
    let manifest_bytes = serde_json::to_vec(&manifest).unwrap();
    Base {
        reference: "python:3.13-alpine3.24".parse().unwrap(),
        digest: Digest::of(b"the index"),
        platform,
        manifest_descriptor: serde_json::from_value(json!({
            "mediaType": media_type::DOCKER_MANIFEST,
            "digest": Digest::of(&manifest_bytes), "size": manifest_bytes.len(),
        }))
        .unwrap(),
        manifest: serde_json::from_slice(&manifest_bytes).unwrap(),
        manifest_bytes: manifest_bytes.into(),
        config_bytes: config_bytes.into(),
        config,
        diff_ids,
    }
}

/// A Docker base with one gzip layer, and one layer of ours on it, with all of its blobs.
pub(crate) fn image(platform: &str) -> (Image, BTreeMap<Digest, Vec<u8>>) {
    let base_tar = tar(format!("base of {platform}").as_bytes());
    let base_layer = gzip(&base_tar);
    let (ours, our_bytes) = layer_bytes(b"ours", "install");
    let base = base(platform, &[(media_type::DOCKER_LAYER_GZIP, base_layer.clone(), base_tar)]);
    let change = ConfigChange {
        entrypoint: Some(vec!["/start".into()]),
        env: [("PATH".to_owned(), "/opt/bin:/bin".to_owned())].into(),
        exposed_ports: vec!["8089/tcp".into()],
        labels: [("org.opencontainers.image.version".to_owned(), "1".to_owned())].into(),
        ..ConfigChange::default()
    };
    let annotations = [
        ("org.opencontainers.image.version", "2"),
        ("org.opencontainers.image.title", "app"),
        ("vendor.platform", platform),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .into();
    let created = "2026-01-02T03:04:05Z".parse().unwrap();
    let image = stack(&base, &[ours], &change, &annotations, created).unwrap();
    let blobs = [base_layer, our_bytes, image.config.clone(), image.manifest.clone()];
    let blobs = blobs.map(|bytes| (Digest::of(&bytes), bytes)).into();
    (image, blobs)
}
