use serde_json::{Value, json};

use super::documents::DEPTH_MAX;
use super::*;
use crate::image::fixture;
use crate::oci::media_type;

type Store = BTreeMap<Digest, Vec<u8>>;

fn texts(roots: &[Descriptor], blobs: &Store) -> Vec<String> {
    let (_, problems) = examine(roots, blobs);
    problems.iter().map(ToString::to_string).collect()
}

/// Rebuilds the fixture's manifest and config as `edit` leaves them; returns the problems with
/// the digests cut out.
fn problems_after(edit: impl Fn(&mut Value, &mut Value)) -> Vec<String> {
    let (image, mut blobs) = fixture::image("linux/amd64");
    let mut manifest: Value = serde_json::from_slice(&image.manifest).unwrap();
    let mut config: Value = serde_json::from_slice(&image.config).unwrap();
    edit(&mut manifest, &mut config);
    let config = serde_json::to_vec(&config).unwrap();
    if manifest["config"].is_object() {
        manifest["config"]["digest"] = json!(Digest::of(&config));
        manifest["config"]["size"] = json!(config.len());
    }
    let manifest = serde_json::to_vec(&manifest).unwrap();
    let root = serde_json::from_value(json!({
        "mediaType": media_type::OCI_MANIFEST,
        "digest": Digest::of(&manifest), "size": manifest.len(),
        "platform": {"os": "linux", "architecture": "amd64"},
    }))
    .unwrap();
    for bytes in [config, manifest] {
        blobs.insert(Digest::of(&bytes), bytes);
    }
    texts(&[root], &blobs)
        .into_iter()
        .map(|text| {
            let mut cut = String::new();
            let mut rest = text.as_str();
            while let Some(at) = rest.find("sha256:") {
                cut.push_str(&rest[..at]);
                cut.push('#');
                rest = &rest[at + 71..];
            }
            cut + rest
        })
        .collect()
}

#[test]
fn every_blob_is_read_to_its_last_byte() {
    let (image, blobs) = fixture::image("linux/amd64");
    let roots = [image.descriptor.clone()];
    assert_eq!(texts(&roots, &blobs), Vec::<String>::new());
    for digest in blobs.keys() {
        let mut absent = blobs.clone();
        absent.remove(digest);
        let found = texts(&roots, &absent);
        assert!(
            found.len() == 1 && found[0].ends_with(&format!("{digest} is missing")),
            "{found:?}"
        );

        let mut flipped = blobs.clone();
        let bytes = flipped.get_mut(digest).unwrap();
        // The last byte of a gzip stream is of its length: decompressing fails as well, but the
        // digest is what is reported.
        *bytes.last_mut().unwrap() ^= 1;
        let found = texts(&roots, &flipped);
        assert!(found.len() == 1 && found[0].starts_with("digest mismatch of "), "{found:?}");

        for change in [
            |bytes: &mut Vec<u8>| bytes.push(b'x'),
            |bytes: &mut Vec<u8>| {
                bytes.pop();
            },
        ] {
            let mut resized = blobs.clone();
            change(resized.get_mut(digest).unwrap());
            let found = texts(&roots, &resized);
            assert!(found.len() == 1 && found[0].starts_with("size mismatch of "), "{found:?}");
        }
    }
}

#[test]
fn contradictions() {
    let (image, _) = fixture::image("linux/amd64");
    let oci = image.layers[1].diff_id;
    for (edit, expected) in [
        (
            Box::new(|m: &mut Value, _: &mut Value| m["manifests"] = json!([]))
                as Box<dyn Fn(&mut Value, &mut Value)>,
            "manifest #: it has `manifests`, so its type is ambiguous",
        ),
        (
            Box::new(|m, _| m["mediaType"] = json!(media_type::DOCKER_MANIFEST)),
            "manifest #: media type is \"application/vnd.docker.distribution.manifest.v2+json\", not `application/vnd.oci.image.manifest.v1+json`",
        ),
        (Box::new(|m, _| m["schemaVersion"] = json!(1)), "manifest #: schemaVersion is not 2"),
        (
            Box::new(|m, _| m["config"]["mediaType"] = json!(media_type::DOCKER_CONFIG)),
            "manifest #: its config is `application/vnd.docker.container.image.v1+json`, not `application/vnd.oci.image.config.v1+json`",
        ),
        (
            Box::new(|m, _| m["config"]["data"] = json!("e30=")),
            "config #: the copy embedded in its descriptor is another one",
        ),
        (
            Box::new(|m, _| m["layers"][0]["mediaType"] = json!(media_type::DOCKER_LAYER_GZIP)),
            "manifest #: layer # is `application/vnd.docker.image.rootfs.diff.tar.gzip`, which does not belong in a `application/vnd.oci.image.manifest.v1+json`",
        ),
        (
            Box::new(|_, c| c["rootfs"]["type"] = json!(null)),
            "config #: rootfs.type is not `layers`",
        ),
        (
            Box::new(|_, c| {
                c["rootfs"]["diff_ids"].as_array_mut().unwrap().pop();
            }),
            "config #: 1 diff_ids for 2 layers",
        ),
        (
            Box::new(move |_, c| c["rootfs"]["diff_ids"][0] = json!(oci)),
            "diff_id mismatch of layer #: expected #, found #",
        ),
        (
            Box::new(|_, c| {
                c["history"].as_array_mut().unwrap().pop();
            }),
            "config #: 1 history entries with a layer for 2 layers",
        ),
        (
            Box::new(|_, c| c["architecture"] = json!("arm64")),
            "manifest #: its descriptor is for linux/amd64, but its config for linux/arm64",
        ),
        (Box::new(|_, c| c["os"] = json!(null)), "config #: `os` is not a string"),
    ] {
        assert_eq!(problems_after(edit), [expected]);
    }
    assert!(problems_after(|_, config| config["history"] = json!(null)).is_empty());
}

#[test]
fn indexes_do_not_nest_for_ever() {
    let mut blobs = Store::new();
    let mut root =
        json!({"mediaType": media_type::OCI_MANIFEST, "size": 0, "digest": Digest::of(b"")});
    for _ in 0..=DEPTH_MAX {
        let bytes = serde_json::to_vec(&json!({
            "schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": [root],
        }))
        .unwrap();
        root = json!({
            "mediaType": media_type::OCI_INDEX, "size": bytes.len(), "digest": Digest::of(&bytes),
        });
        blobs.insert(Digest::of(&bytes), bytes);
    }
    let found = texts(&[serde_json::from_value(root).unwrap()], &blobs);
    assert!(found.len() == 1 && found[0].ends_with("nested too deep"), "{found:?}");

    // Each names the one below it four hundred times: that is 64 million manifests.
    let mut root =
        json!({"mediaType": media_type::OCI_MANIFEST, "size": 0, "digest": Digest::of(b"")});
    for _ in 0..DEPTH_MAX {
        let bytes = serde_json::to_vec(&json!({
            "schemaVersion": 2, "mediaType": media_type::OCI_INDEX,
            "manifests": vec![root; 400],
        }))
        .unwrap();
        root = json!({
            "mediaType": media_type::OCI_INDEX, "size": bytes.len(), "digest": Digest::of(&bytes),
        });
        blobs.insert(Digest::of(&bytes), bytes);
    }
    let found = texts(&[serde_json::from_value(root).unwrap()], &blobs);
    assert!(found.iter().any(|one| one.ends_with("leads to more than 1000 documents")));
}
