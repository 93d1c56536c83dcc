//! Reading: references, mirrors, bases.

use std::path::Path;

use assemble::base;
use assemble::error::{Failure as _, Kind};
use assemble::oci::{Digest, Platform, descriptor_digest, media_type};
use assemble::registry::layouts::Layouts;
use assemble::registry::{BlobBytes, Options};
use serde_json::json;

use super::{
    Stocked, client, descriptor, layer, mirrors, noise, read, reference, stock, stock_index, world,
};
use crate::support::registry::{Action, FakeRegistry, Fault};

fn amd64() -> Platform {
    "linux/amd64".parse().unwrap()
}

#[tokio::test]
async fn a_manifest_by_tag_and_by_digest() {
    let registry = FakeRegistry::start().await;
    let stocked = stock(&registry, "a/b", Some("1"), 1, true);
    let client = client(Options::default());
    let tag = reference(&registry, "a/b:1");
    let head = client.head_manifest(&tag).await.unwrap().unwrap();
    assert_eq!(descriptor_digest(&head).unwrap(), stocked.digest);
    assert_eq!(head.media_type().as_ref(), media_type::DOCKER_MANIFEST);
    let manifest = client.manifest(&tag.with_digest(stocked.digest)).await.unwrap();
    assert_eq!(manifest.bytes, stocked.manifest);
    assert_eq!(manifest.descriptor, head);
    assert_eq!(client.head_manifest(&reference(&registry, "a/b:2")).await.unwrap(), None);
    let absent = client.manifest(&reference(&registry, "a/b:2")).await.unwrap_err();
    assert_eq!(absent.kind(), Kind::Remote);
    assert!(absent.to_string().contains("MANIFEST_UNKNOWN"), "{absent}");
    assert_eq!(client.cost().requests, 4);
    assert_eq!(client.cost().bytes_down, stocked.manifest.len() as u64);
}

#[tokio::test]
async fn blobs_of_every_size() {
    let registry = FakeRegistry::start().await;
    let client = client(Options::default());
    let from = reference(&registry, "a/b");
    for length in [0, 1, 65_536, 1_000_000] {
        let bytes = noise(9, length);
        registry.put_blob("a/b", bytes.clone());
        assert_eq!(read(&client, &from, &layer(&bytes)).await.unwrap(), bytes);
    }
    let digest = Digest::of(&noise(9, 1));
    assert!(client.has_blob(&from, &digest).await.unwrap());
    assert!(!client.has_blob(&from, &Digest::of(b"absent")).await.unwrap());
}

#[tokio::test]
async fn a_mirror_is_asked_first_and_passed_over_when_it_fails_or_lies() {
    let lie = json!({"schemaVersion": 2, "layers": [], "config": {}}).to_string();
    for (fault, reads) in [
        (None, 0),
        (Some(Fault::status("*", "", 404, "NAME_UNKNOWN").always()), 2),
        (Some(Fault::status("*", "", 403, "DENIED").always()), 2),
        (Some(Fault::on("*", "", Action::Body(lie.clone().into_bytes())).always()), 2),
        (Some(Fault::on("*", "", Action::Reset).always()), 2),
        (Some(Fault::on("*", "", Action::Stall).always()), 2),
    ] {
        let registry = FakeRegistry::start().await;
        let mirror = FakeRegistry::start().await;
        let stocked = stock(&registry, "a/b", Some("1"), 1, false);
        stock(&mirror, "hub/a/b", Some("1"), 1, false);
        let shown = format!("{fault:?}");
        if let Some(fault) = fault {
            mirror.fault(fault);
        }
        let options =
            Options { mirrors: mirrors(&registry, &mirror, "/hub"), ..Options::default() };
        let client = client(options);
        let pinned = reference(&registry, "a/b:1").with_digest(stocked.digest);
        assert_eq!(client.manifest(&pinned).await.unwrap().bytes, stocked.manifest, "{shown}");
        let blob = layer(&stocked.layers[0]);
        let bytes = match read(&client, &pinned, &blob).await {
            // A lie that is found out at the end cannot be taken back: the caller asks again.
            Err(lie) if lie.kind() == Kind::Integrity => {
                read(&client.without_mirrors(), &pinned, &blob).await
            }
            outcome => outcome,
        };
        assert_eq!(bytes.unwrap(), stocked.layers[0], "{shown}");
        assert_eq!(registry.log().len(), reads, "{shown}: {:?}", registry.lines());
        assert!(mirror.count("GET", "/v2/hub/a/b/") > 0, "{shown}");
    }
}

#[tokio::test]
async fn a_base_is_read_once_and_then_costs_one_head_or_nothing() {
    let registry = FakeRegistry::start().await;
    let stocked = stock(&registry, "library/python", None, 1, false);
    let index = stock_index(&registry, "library/python", "3.13", &stocked);
    let folder = tempfile::tempdir().unwrap();
    let tag = reference(&registry, "library/python:3.13");

    let first = world(folder.path(), Options::default());
    let base = base::fetch(&tag, None, &amd64(), &first).await.unwrap();
    assert_eq!(base.digest, index);
    assert_eq!(descriptor_digest(&base.manifest_descriptor).unwrap(), stocked.digest);
    assert_eq!(base.env("PYTHON_VERSION"), Some("3.13.9"));
    assert_eq!(base.env("ODD"), None);
    assert_eq!(base.diff_ids, [Digest::of(b"one"), Digest::of(b"two")]);
    assert_eq!(base.config["unknown"], json!({"kept": [1, 2]}));
    assert_eq!(registry.log().len(), 4, "{:?}", registry.lines());

    // A tag is asked for once in a run, so that all of its cells stand on the same base.
    registry.clear_log();
    base::fetch(&tag, None, &amd64(), &first).await.unwrap();
    assert_eq!(registry.lines(), Vec::<String>::new());

    let second = world(folder.path(), Options::default());
    base::fetch(&tag, None, &amd64(), &second).await.unwrap();
    assert_eq!(registry.lines(), ["HEAD /v2/library/python/manifests/3.13"]);

    registry.clear_log();
    let third = world(folder.path(), Options::default());
    base::fetch(&tag, Some(&index), &amd64(), &third).await.unwrap();
    assert_eq!(registry.lines(), Vec::<String>::new());

    let offline = world(folder.path(), Options { offline: true, ..Options::default() });
    let cached = base::fetch(&tag, None, &amd64(), &offline).await.unwrap();
    assert_eq!(cached.digest, index);
    let other = reference(&registry, "library/python:3.12");
    let error = base::fetch(&other, None, &amd64(), &offline).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Usage, "{error}");
    assert_eq!(registry.lines(), Vec::<String>::new());
}

#[tokio::test]
async fn a_base_without_the_platform_says_which_it_has() {
    let registry = FakeRegistry::start().await;
    let stocked = stock(&registry, "a/b", Some("single"), 1, true);
    stock_index(&registry, "a/b", "index", &stocked);
    let folder = tempfile::tempdir().unwrap();
    let world = world(folder.path(), Options::default());
    for tag in ["single", "index"] {
        let tag = reference(&registry, &format!("a/b:{tag}"));
        assert!(base::fetch(&tag, None, &amd64(), &world).await.is_ok());
        let arm = "linux/arm64".parse().unwrap();
        let error = base::fetch(&tag, None, &arm, &world).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Unsatisfiable);
        assert!(error.to_string().ends_with("it has: linux/amd64"), "{error}");
    }
    let absent = reference(&registry, "a/b:absent");
    let error = base::fetch(&absent, None, &amd64(), &world).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Remote);
}

#[tokio::test]
async fn layers_come_into_the_store_also_past_a_lying_mirror_and_a_damaged_cache() {
    let registry = FakeRegistry::start().await;
    let mirror = FakeRegistry::start().await;
    let stocked = stock(&registry, "a/b", Some("1"), 1, false);
    let size = stocked.layers[0].len() as u64;
    let digest = Digest::of(&stocked.layers[0]);
    let folder = tempfile::tempdir().unwrap();
    let lie = folder.path().join("lie");
    fs_err::write(&lie, noise(77, stocked.layers[0].len())).unwrap();
    mirror.put_blob_file("a/b", digest, size, &lie);
    let options = Options { mirrors: mirrors(&registry, &mirror, ""), ..Options::default() };
    let world = world(folder.path(), options);
    let tag = reference(&registry, "a/b:1");
    let base = base::fetch(&tag, None, &amd64(), &world).await.unwrap();
    base::fetch_layers(&base, &world).await.unwrap();
    for layer in &stocked.layers {
        assert!(world.store.verify(&Digest::of(layer)).unwrap());
    }
    registry.clear_log();
    base::fetch_layers(&base, &world).await.unwrap();
    assert_eq!(registry.log().len(), 0);
    fs_err::write(world.store.blob_path(&digest), b"damaged").unwrap();
    base::fetch_layers(&base, &world).await.unwrap();
    assert!(world.store.verify(&digest).unwrap());
    // The store's own folder stays while it lives; nothing is left in it.
    let runs = fs_err::read_dir(world.store.root().join("tmp")).unwrap();
    let runs: Vec<_> = runs.map(|run| run.unwrap().path()).collect();
    assert_eq!(runs.len(), 1, "{runs:?}");
    assert_eq!(fs_err::read_dir(&runs[0]).unwrap().count(), 0);
}

#[tokio::test]
async fn registries_conf_says_where_to_read() {
    let registry = FakeRegistry::start().await;
    let mirror = FakeRegistry::start().await;
    let stocked = stock(&registry, "a/b", Some("1"), 1, false);
    stock(&mirror, "hub/b", Some("1"), 1, false);
    let tag = reference(&registry, "a/b:1");
    let pulling = |text: &str| {
        let mut conf = assemble::registry::registries_conf::RegistriesConf::default();
        conf.add(&text.replace("UP", &registry.address()).replace("MIRROR", &mirror.address()))
            .unwrap();
        client(Options { conf, ..Options::default() })
    };

    // First the mirror, and behind it the registry itself.
    let client = pulling("[[registry]]\nprefix = 'UP/a'\nmirror = [{location = 'MIRROR/hub'}]");
    assert_eq!(client.manifest(&tag).await.unwrap().bytes, stocked.manifest);
    assert_eq!(mirror.lines(), ["GET /v2/hub/b/manifests/1"]);
    assert_eq!(registry.log().len(), 0);
    mirror.fault(Fault::status("*", "", 503, "UNAVAILABLE").always());
    assert_eq!(client.manifest(&tag).await.unwrap().bytes, stocked.manifest);
    let blob = layer(&stocked.layers[0]);
    assert_eq!(read(&client, &tag, &blob).await.unwrap(), stocked.layers[0]);
    mirror.heal();

    // Another location stands in for reading, never for writing.
    registry.clear_log();
    let client = pulling("[[registry]]\nprefix = 'UP/a'\nlocation = 'MIRROR/hub'");
    let head = client.head_manifest(&tag).await.unwrap().unwrap();
    assert_eq!(descriptor_digest(&head).unwrap(), stocked.digest);
    assert_eq!(registry.log().len(), 0);
    client.head_target(&tag).await.unwrap();
    assert_eq!(registry.lines(), ["HEAD /v2/a/b/manifests/1"]);

    registry.clear_log();
    let client = pulling("[[registry]]\nprefix = 'UP/a'\nblocked = true");
    for error in
        [client.manifest(&tag).await.unwrap_err(), client.head_target(&tag).await.unwrap_err()]
    {
        assert!(error.to_string().contains("is blocked"), "{error}");
        assert_eq!(error.kind(), Kind::Usage);
    }
    assert_eq!(registry.log().len(), 0);
}

/// An image as an OCI layout in `folder`, under the name that `skopeo copy … oci:folder:1` gives.
fn layout_of(folder: &Path, stocked: &Stocked, registry: &FakeRegistry) {
    let blobs = folder.join("blobs/sha256");
    fs_err::create_dir_all(&blobs).unwrap();
    let manifest: serde_json::Value = serde_json::from_slice(&stocked.manifest).unwrap();
    let mut parts = vec![stocked.manifest.clone()];
    parts.extend(stocked.layers.iter().cloned());
    let config = manifest["config"]["digest"].as_str().unwrap().parse().unwrap();
    parts.push(registry.blob("a/b", &config).unwrap().to_vec());
    for part in parts {
        fs_err::write(blobs.join(Digest::of(&part).hex()), part).unwrap();
    }
    fs_err::write(folder.join("oci-layout"), r#"{"imageLayoutVersion": "1.0.0"}"#).unwrap();
    let mut image =
        serde_json::to_value(descriptor(media_type::OCI_MANIFEST, &stocked.manifest)).unwrap();
    image["annotations"] = json!({"org.opencontainers.image.ref.name": "1"});
    let mut other = serde_json::to_value(descriptor(media_type::OCI_MANIFEST, b"other")).unwrap();
    other["annotations"] = json!({"org.opencontainers.image.ref.name": "2"});
    let index = json!({"schemaVersion": 2, "manifests": [image, other]});
    fs_err::write(folder.join("index.json"), index.to_string()).unwrap();
}

#[tokio::test]
async fn a_base_on_disk_stands_in_for_its_reference() {
    let registry = FakeRegistry::start().await;
    let stocked = stock(&registry, "a/b", Some("1"), 1, false);
    let tag = reference(&registry, "a/b:1");
    let folder = tempfile::tempdir().unwrap();
    let layout = folder.path().join("layout");
    layout_of(&layout, &stocked, &registry);
    let archive = folder.path().join("layout.tar");
    let mut tar = tar::Builder::new(fs_err::File::create(&archive).unwrap());
    tar.append_dir_all(".", &layout).unwrap();
    tar.finish().unwrap();
    registry.clear_log();

    for (number, path) in [&layout, &archive].into_iter().enumerate() {
        let mut layouts = Layouts::default();
        layouts.add(tag.clone(), path).unwrap();
        let options = Options { layouts: layouts.clone(), offline: true, ..Options::default() };
        let world = world(&folder.path().join(number.to_string()), options);
        let base = base::fetch(&tag, None, &amd64(), &world).await.unwrap();
        assert_eq!(base.digest, stocked.digest);
        base::fetch_layers(&base, &world).await.unwrap();
        for layer in &stocked.layers {
            assert!(world.store.verify(&Digest::of(layer)).unwrap());
        }
        let other = reference(&registry, "a/b:2");
        assert!(base::fetch(&other, None, &amd64(), &world).await.is_err());

        // It is pushed straight from there, too.
        let target = FakeRegistry::start().await;
        let pushing = client(Options { layouts, ..Options::default() });
        let blob = layer(&stocked.layers[0]);
        let from = BlobBytes::Registry(tag.clone());
        pushing.push_blob(&reference(&target, "x:1"), &blob, from, &[]).await.unwrap();
        assert_eq!(target.blob("x", &Digest::of(&stocked.layers[0])).unwrap(), stocked.layers[0]);
    }
    assert_eq!(registry.lines(), Vec::<String>::new());

    // What is damaged is found out, and is not had from elsewhere behind the person's back.
    let damaged = layout.join("blobs/sha256").join(Digest::of(&stocked.layers[1]).hex());
    fs_err::write(&damaged, noise(5, stocked.layers[1].len())).unwrap();
    let mut layouts = Layouts::default();
    layouts.add(tag.clone(), &layout).unwrap();
    let lying = world(&folder.path().join("lying"), Options { layouts, ..Options::default() });
    let base = base::fetch(&tag, None, &amd64(), &lying).await.unwrap();
    let error = base::fetch_layers(&base, &lying).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Integrity);
    assert!(error.to_string().contains("layout"), "{error}");

    for (path, reference) in
        [("absent", &tag), ("cache", &tag), ("layout", &reference(&registry, "a/b:3"))]
    {
        let error = Layouts::default().add(reference.clone(), &folder.path().join(path));
        assert!(error.is_err(), "{path}");
    }
}
