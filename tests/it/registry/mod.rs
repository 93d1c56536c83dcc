//! The registry client, the base and the push, against a fake registry and a real one.

mod auth;
mod faults;
mod login;
mod pull;
mod push;
mod real;
mod referrers;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use assemble::http;
use assemble::oci::{Descriptor, Digest, Reference, media_type};
use assemble::registry::{Client, Error, Options};
use assemble::world::World;
use assemble::{package_index, sandbox, store};
use bytes::Bytes;
use futures_util::TryStreamExt as _;
use serde_json::json;

use crate::support::registry::FakeRegistry;

/// An HTTP client that is as brave as the real one, but in a hurry.
fn http() -> http::Client {
    http_with(None)
}

fn http_with(ca_bundle: Option<&Path>) -> http::Client {
    http::Client::new(http::Options {
        ca_bundle: ca_bundle.map(Path::to_owned),
        progress_timeout: Duration::from_millis(400),
        retry: http::Retry {
            tries: 4,
            first: Duration::from_millis(5),
            longest: Duration::from_millis(1500),
        },
        ..http::Options::default()
    })
    .unwrap()
}

fn client(options: Options) -> Client {
    Client::new(http(), options)
}

fn reference(registry: &FakeRegistry, rest: &str) -> Reference {
    format!("{}/{rest}", registry.address()).parse().unwrap()
}

fn descriptor(media_type: &str, bytes: &[u8]) -> Descriptor {
    let value = json!({
        "mediaType": media_type,
        "digest": Digest::of(bytes),
        "size": bytes.len(),
    });
    serde_json::from_value(value).unwrap()
}

fn layer(bytes: &[u8]) -> Descriptor {
    descriptor(media_type::OCI_LAYER_GZIP, bytes)
}

/// Bytes that do not repeat.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// Reads a blob to its end.
async fn read(client: &Client, from: &Reference, blob: &Descriptor) -> Result<Vec<u8>, Error> {
    let pieces: Vec<Bytes> = client.blob(from, blob).await?.try_collect().await?;
    Ok(pieces.concat())
}

fn world(folder: &Path, options: Options) -> World {
    let store = store::Store::open(folder.join("cache")).unwrap();
    let http = http();
    World {
        registry: Client::new(http.clone(), options),
        package_index: package_index::Client::new(
            http,
            package_index::Config::from_sources(&package_index::config::Sources::default())
                .unwrap(),
            store.clone(),
        ),
        store,
        wheel_cache: None,
        sandbox: sandbox::Sandbox { launcher: "/nonexistent".into(), force_loader: false },
        progress: Arc::new(assemble::world::Quiet),
        parallel: 4,
        root: folder.to_owned(),
    }
}

/// An image as a registry has it.
struct Stocked {
    layers: Vec<Vec<u8>>,
    manifest: Vec<u8>,
    digest: Digest,
}

/// Puts an image with two layers into the fake registry.
fn stock(
    registry: &FakeRegistry,
    repository: &str,
    tag: Option<&str>,
    seed: u64,
    docker: bool,
) -> Stocked {
    let layers = vec![noise(seed, 300_000), noise(seed + 1, 70_000)];
    let config = json!({
        "os": "linux",
        "architecture": "amd64",
        "config": {"Env": ["PATH=/usr/bin", "PYTHON_VERSION=3.13.9", "ODD"]},
        "rootfs": {"type": "layers", "diff_ids": [
            Digest::of(b"one"), Digest::of(b"two"),
        ]},
        "unknown": {"kept": [1, 2]},
    })
    .to_string()
    .into_bytes();
    let (manifest_type, config_type, layer_type) = if docker {
        (media_type::DOCKER_MANIFEST, media_type::DOCKER_CONFIG, media_type::DOCKER_LAYER_GZIP)
    } else {
        (media_type::OCI_MANIFEST, media_type::OCI_CONFIG, media_type::OCI_LAYER_GZIP)
    };
    registry.put_blob(repository, config.clone());
    for layer in &layers {
        registry.put_blob(repository, layer.clone());
    }
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": manifest_type,
        "config": descriptor(config_type, &config),
        "layers": layers.iter().map(|bytes| descriptor(layer_type, bytes)).collect::<Vec<_>>(),
    })
    .to_string()
    .into_bytes();
    let digest = registry.put_manifest(repository, tag, manifest_type, manifest.clone());
    Stocked { layers, manifest, digest }
}

/// An index over an image for amd64, with an attestation beside it.
fn stock_index(registry: &FakeRegistry, repository: &str, tag: &str, stocked: &Stocked) -> Digest {
    let attestation = b"{\"schemaVersion\":2,\"config\":{},\"layers\":[]}".to_vec();
    let attested =
        registry.put_manifest(repository, None, media_type::OCI_MANIFEST, attestation.clone());
    let index = json!({
        "schemaVersion": 2,
        "mediaType": media_type::OCI_INDEX,
        "manifests": [
            {
                "mediaType": media_type::OCI_MANIFEST,
                "digest": attested,
                "size": attestation.len(),
                "platform": {"os": "unknown", "architecture": "unknown"},
                "annotations": {"vnd.docker.reference.type": "attestation-manifest"},
            },
            {
                "mediaType": media_type::OCI_MANIFEST,
                "digest": stocked.digest,
                "size": stocked.manifest.len(),
                "platform": {"os": "linux", "architecture": "amd64"},
            },
        ],
    })
    .to_string();
    registry.put_manifest(repository, Some(tag), media_type::OCI_INDEX, index)
}

/// No `Authorization` anywhere in the log.
fn never_authorized(registry: &FakeRegistry) -> bool {
    registry.log().iter().all(|logged| logged.header("authorization").is_none())
}

fn mirrors(
    of: &FakeRegistry,
    mirror: &FakeRegistry,
    prefix: &str,
) -> BTreeMap<String, Vec<String>> {
    BTreeMap::from([(of.address(), vec![format!("{}{prefix}", mirror.address())])])
}
