//! Writing: what it costs, in which order, and past which faults.

use assemble::destination::registry::push;
use assemble::error::{Failure as _, Kind};
use assemble::image::{Artifact, BlobSource, Image, ImageLayer};
use assemble::oci::{Descriptor, Digest, Reference, media_type};
use assemble::registry::{BlobBytes, Client, Observer, Options, Pushed};
use assemble::world::World;
use serde_json::json;

use super::{client, descriptor, layer, noise, reference, stock, world};
use crate::support::registry::{Action, FakeRegistry, Fault, Habits};

fn respond(status: u16, headers: &[(&str, &str)]) -> Action {
    let headers = headers.iter().map(|&(name, value)| (name.to_owned(), value.to_owned()));
    Action::Respond { status, headers: headers.collect(), body: Vec::new() }
}

/// An image on a base that lies in `from`, with one layer of our own in the store.
fn image(world: &World, from: &Reference, base_layers: &[Vec<u8>], platform: &str) -> Image {
    let own = noise(platform.len() as u64 + 1000, 40_000);
    world.store.put(&own).unwrap();
    let mut layers: Vec<ImageLayer> = base_layers
        .iter()
        .map(|bytes| ImageLayer {
            descriptor: layer(bytes),
            diff_id: Digest::of(b"base"),
            source: BlobSource::Registry(from.clone()),
        })
        .collect();
    layers.push(ImageLayer {
        descriptor: layer(&own),
        diff_id: Digest::of(b"own"),
        source: BlobSource::Store,
    });
    let config = json!({"architecture": platform}).to_string().into_bytes();
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": media_type::OCI_MANIFEST,
        "config": descriptor(media_type::OCI_CONFIG, &config),
        "layers": layers.iter().map(|layer| layer.descriptor.clone()).collect::<Vec<_>>(),
    })
    .to_string()
    .into_bytes();
    Image {
        platform: platform.parse().unwrap(),
        descriptor: descriptor(media_type::OCI_MANIFEST, &manifest),
        manifest,
        config_digest: Digest::of(&config),
        config,
        layers,
    }
}

fn single(world: &World, from: &Reference, base_layers: &[Vec<u8>]) -> Artifact {
    Artifact { images: vec![image(world, from, base_layers, "linux/amd64")], index: None }
}

fn double(world: &World, from: &Reference, base_layers: &[Vec<u8>]) -> Artifact {
    let images = vec![
        image(world, from, base_layers, "linux/amd64"),
        image(world, from, base_layers, "linux/arm64/v8"),
    ];
    let descriptors: Vec<&Descriptor> = images.iter().map(|image| &image.descriptor).collect();
    let index = json!({
        "schemaVersion": 2,
        "mediaType": media_type::OCI_INDEX,
        "manifests": descriptors,
    })
    .to_string()
    .into_bytes();
    let described = descriptor(media_type::OCI_INDEX, &index);
    Artifact { images, index: Some((index, described)) }
}

#[tokio::test]
async fn blobs_before_manifests_before_tags_and_the_second_time_one_head_per_tag() {
    let registry = FakeRegistry::start().await;
    let folder = tempfile::tempdir().unwrap();
    let world = world(folder.path(), Options::default());
    let stocked = stock(&registry, "base", Some("1"), 1, false);
    let from = reference(&registry, "base:1");
    let artifact = double(&world, &from, &stocked.layers);
    let tags = [reference(&registry, "mine/app:1"), reference(&registry, "mine/app:latest")];
    let report = push(&artifact, &tags, &world).await.unwrap();

    let wanted = assemble::oci::descriptor_digest(artifact.descriptor()).unwrap();
    assert_eq!(report.digest, wanted);
    for tag in ["1", "latest"] {
        assert_eq!(registry.tags("mine/app").get(tag), Some(&wanted));
    }
    let rank = |line: &String| {
        let (method, path) = line.split_once(' ').unwrap();
        match method {
            "PUT" if path.contains("/blobs/") => Some(0),
            "POST" => Some(0),
            "PUT" if path.contains("/manifests/sha256:") => Some(1),
            "PUT" => Some(2),
            _ => None,
        }
    };
    let order: Vec<_> = registry.lines().iter().filter_map(rank).collect();
    assert!(order.is_sorted(), "{:?}", registry.lines());
    assert_eq!(order.iter().filter(|rank| **rank == 1).count(), 2);
    assert_eq!(order.iter().filter(|rank| **rank == 2).count(), 2);
    // The layers' bytes before the configs'.
    let puts: Vec<_> = registry
        .log()
        .into_iter()
        .filter(|l| l.method == "PUT" && l.path.contains("/blobs/"))
        .collect();
    let sizes: Vec<bool> = puts.iter().map(|put| put.bytes_in > 1000).collect();
    assert!(sizes.is_sorted_by(|left, right| left >= right), "{sizes:?}");
    // Two base layers mounted, two of our own and two configs uploaded; none of the base's bytes
    // came here.
    assert_eq!((report.cost.blobs_mounted, report.cost.blobs_uploaded), (2, 4));
    assert_eq!(report.cost.bytes_mounted, 370_000);
    assert_eq!(registry.count("GET", "/blobs/"), 0);
    assert_eq!(report.cost.requests, registry.log().len() as u64);
    assert_eq!(registry.open_uploads(), 0);

    registry.clear_log();
    let again = push(&artifact, &tags, &world).await.unwrap();
    assert_eq!(
        registry.lines(),
        ["HEAD /v2/mine/app/manifests/1", "HEAD /v2/mine/app/manifests/latest"]
    );
    assert!(again.tags.iter().all(|tag| tag.existing));
    assert_eq!((again.cost.requests, again.cost.bytes_up), (2, 0));

    // One more tag of the same: its HEAD, and one PUT.
    registry.clear_log();
    let more = [tags[0].clone(), reference(&registry, "mine/app:more")];
    push(&artifact, &more, &world).await.unwrap();
    assert_eq!(registry.log().len(), 3, "{:?}", registry.lines());
}

#[tokio::test]
async fn a_second_cell_uploads_only_what_is_new() {
    let registry = FakeRegistry::start().await;
    let folder = tempfile::tempdir().unwrap();
    let world = world(folder.path(), Options::default());
    let stocked = stock(&registry, "base", Some("1"), 1, false);
    let from = reference(&registry, "base:1");
    let artifact = single(&world, &from, &stocked.layers);
    push(&artifact, &[reference(&registry, "one:1")], &world).await.unwrap();
    let report = push(&artifact, &[reference(&registry, "two:1")], &world).await.unwrap();
    assert_eq!(report.cost.blobs_uploaded, 0);
    assert_eq!(report.cost.blobs_mounted, 4);
    // The manifest only.
    assert_eq!(report.cost.bytes_up, artifact.images[0].manifest.len() as u64);
}

#[tokio::test]
async fn a_base_elsewhere_is_streamed_through() {
    let registry = FakeRegistry::start().await;
    let hub = FakeRegistry::start().await;
    let folder = tempfile::tempdir().unwrap();
    let world = world(folder.path(), Options::default());
    let stocked = stock(&hub, "base", Some("1"), 1, false);
    let from = reference(&hub, "base:1");
    let artifact = single(&world, &from, &stocked.layers);
    let tag = reference(&registry, "mine/app:1");
    let report = push(&artifact, std::slice::from_ref(&tag), &world).await.unwrap();
    assert_eq!((report.cost.blobs_mounted, report.cost.blobs_uploaded), (0, 4));
    assert_eq!(registry.count("POST", "mount="), 0);
    for bytes in &stocked.layers {
        assert_eq!(registry.blob("mine/app", &Digest::of(bytes)).unwrap(), *bytes);
        assert!(!world.store.blob_path(&Digest::of(bytes)).exists());
    }
}

#[tokio::test]
async fn a_source_that_lies_completes_nothing_and_tags_nothing() {
    let registry = FakeRegistry::start().await;
    let hub = FakeRegistry::start().await;
    let folder = tempfile::tempdir().unwrap();
    let world = world(folder.path(), Options::default());
    let stocked = stock(&hub, "base", Some("1"), 1, false);
    let mut flipped = stocked.layers[0].clone();
    flipped[5] ^= 1;
    let digest = Digest::of(&stocked.layers[0]);
    hub.fault(Fault::on("GET", &digest.to_string(), Action::Body(flipped)).always());
    let from = reference(&hub, "base:1");
    let artifact = single(&world, &from, &stocked.layers);
    let tag = reference(&registry, "mine/app:1");
    let error = push(&artifact, std::slice::from_ref(&tag), &world).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Integrity, "{error}");
    assert!(registry.blob("mine/app", &digest).is_none());
    assert!(registry.tags("mine/app").is_empty());
    assert_eq!(registry.count("PUT", "/manifests/"), 0);
}

#[tokio::test]
async fn a_damaged_cache_is_not_pushed() {
    let registry = FakeRegistry::start().await;
    let folder = tempfile::tempdir().unwrap();
    let world = world(folder.path(), Options::default());
    let artifact = single(&world, &reference(&registry, "base:1"), &[]);
    let own = &artifact.images[0].layers[0].descriptor;
    let digest = assemble::oci::descriptor_digest(own).unwrap();
    fs_err::write(world.store.blob_path(&digest), noise(3, 40_000)).unwrap();
    let tag = reference(&registry, "mine/app:1");
    let error = push(&artifact, std::slice::from_ref(&tag), &world).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Integrity, "{error}");
    assert_eq!(registry.count("PUT", "/manifests/"), 0);
    assert_eq!(registry.open_uploads(), 0);

    // A base layer that is damaged here is had from its registry.
    let stocked = stock(&registry, "base", Some("1"), 1, false);
    let digest = Digest::of(&stocked.layers[0]);
    fs_err::write(world.store.blob_path(&digest), noise(4, 300_000)).unwrap();
    registry.set_habits(Habits { mounts: false, ..Habits::default() });
    let from = reference(&registry, "base:1");
    let artifact = single(&world, &from, &stocked.layers);
    world.store.put(&noise(11 + 1000, 40_000)).unwrap();
    push(&artifact, std::slice::from_ref(&tag), &world).await.unwrap();
    assert_eq!(registry.blob("mine/app", &digest).unwrap(), stocked.layers[0]);
}

#[tokio::test]
async fn a_registry_that_forgot_a_blob_gets_it_again() {
    let registry = FakeRegistry::start().await;
    let folder = tempfile::tempdir().unwrap();
    let world = world(folder.path(), Options::default());
    let stocked = stock(&registry, "base", Some("1"), 1, false);
    let from = reference(&registry, "base:1");
    let artifact = single(&world, &from, &stocked.layers);
    registry.fault(Fault::on("HEAD", "/v2/mine/app/blobs/", respond(200, &[])).always());
    let tag = reference(&registry, "mine/app:1");
    let report = push(&artifact, std::slice::from_ref(&tag), &world).await.unwrap();
    assert_eq!(report.cost.blobs_uploaded, 4);
    assert_eq!(registry.tags("mine/app").len(), 1);
}

#[tokio::test]
async fn immutable_tags() {
    let registry = FakeRegistry::start().await;
    registry.set_habits(Habits { immutable_tags: true, ..Habits::default() });
    let client = client(Options::default());
    let stocked = stock(&registry, "a/b", Some("1"), 1, false);
    let other = stock(&registry, "a/b", None, 7, false);
    let tag = reference(&registry, "a/b:1");
    let put = |bytes: Vec<u8>| client.push_manifest(&tag, media_type::OCI_MANIFEST, bytes.into());
    assert_eq!(put(stocked.manifest.clone()).await.unwrap(), stocked.digest);
    registry.fault(Fault::status("PUT", "/manifests/", 400, "ImageTagAlreadyExists").always());
    assert_eq!(put(stocked.manifest.clone()).await.unwrap(), stocked.digest);
    let error = put(other.manifest).await.unwrap_err();
    assert!(error.to_string().contains("ImageTagAlreadyExists"), "{error}");
}

/// Pushes one blob past a fault; returns the client, how it went, and whether it is there whole.
async fn push_past(
    registry: &FakeRegistry,
    options: Options,
    size: usize,
) -> (Client, Result<Pushed, assemble::registry::Error>) {
    let bytes = noise(42, size);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("layer");
    fs_err::write(&file, &bytes).unwrap();
    let client = client(options);
    let target = reference(registry, "mine/app:1");
    let outcome = client.push_blob(&target, &layer(&bytes), BlobBytes::File(file), &[]).await;
    if outcome.is_ok() {
        assert_eq!(registry.blob("mine/app", &Digest::of(&bytes)).unwrap(), bytes);
    } else {
        assert!(registry.blob("mine/app", &Digest::of(&bytes)).is_none());
    }
    (client, outcome)
}

fn chunked() -> Options {
    Options { chunk_above: 100_000, chunk_size: 100_000, ..Options::default() }
}

#[tokio::test]
async fn a_blob_is_one_post_and_one_put() {
    for size in [0, 1, 1_000_000] {
        for (absolute_locations, location_query) in [(true, true), (false, false), (false, true)] {
            let registry = FakeRegistry::start().await;
            registry.set_habits(Habits { absolute_locations, location_query, ..Habits::default() });
            let (client, outcome) = push_past(&registry, Options::default(), size).await;
            assert_eq!(outcome.unwrap(), Pushed::Uploaded);
            assert_eq!(registry.log().len(), 3, "{:?}", registry.lines());
            assert_eq!(client.cost().bytes_up, size as u64);
            let put = &registry.log()[2];
            assert_eq!(put.header("content-length"), Some(size.to_string().as_str()));
            assert_eq!(put.header("transfer-encoding"), None);
        }
    }
}

#[tokio::test]
async fn a_long_blob_goes_in_chunks() {
    let registry = FakeRegistry::start().await;
    let (client, outcome) = push_past(&registry, chunked(), 250_000).await;
    assert_eq!(outcome.unwrap(), Pushed::Uploaded);
    let ranges: Vec<_> = registry
        .log()
        .iter()
        .filter(|logged| logged.method == "PATCH")
        .map(|logged| logged.header("content-range").unwrap().to_owned())
        .collect();
    assert_eq!(ranges, ["0-99999", "100000-199999", "200000-249999"]);
    assert_eq!(client.cost().bytes_up, 250_000);

    let registry = FakeRegistry::start().await;
    registry.fault(
        Fault::on(
            "POST",
            "/uploads/",
            Action::Header("oci-chunk-min-length".into(), "200000".into()),
        )
        .always(),
    );
    push_past(&registry, chunked(), 250_000).await.1.unwrap();
    assert_eq!(registry.count("PATCH", "/uploads/"), 2);
}

#[tokio::test]
async fn a_broken_upload_goes_on_where_the_registry_is() {
    let registry = FakeRegistry::start().await;
    registry.fault(Fault::on("PATCH", "/uploads/", Action::ResetRequestAfter(30_000)).after(1));
    let (_, outcome) = push_past(&registry, chunked(), 250_000).await;
    assert_eq!(outcome.unwrap(), Pushed::Uploaded);
    assert_eq!(registry.count("POST", "/uploads/"), 1, "{:?}", registry.lines());
    let starts: Vec<_> = registry
        .log()
        .iter()
        .filter(|logged| logged.method == "PATCH")
        .map(|logged| logged.header("content-range").unwrap().to_owned())
        .collect();
    assert_eq!(starts, ["0-99999", "100000-199999", "130000-229999", "230000-249999"]);

    // Also after a single PUT that broke.
    let registry = FakeRegistry::start().await;
    registry.fault(Fault::on("PUT", "/uploads/", Action::ResetRequestAfter(30_000)));
    push_past(&registry, Options::default(), 250_000).await.1.unwrap();
    assert_eq!(registry.count("POST", "/uploads/"), 1, "{:?}", registry.lines());
    assert_eq!(registry.count("PATCH", "/uploads/"), 1);
}

#[tokio::test]
async fn faults_of_uploads_that_are_survived() {
    for (name, options, fault) in [
        ("POST reset", Options::default(), Fault::on("POST", "", Action::Reset).times(2)),
        ("POST 500", Options::default(), Fault::status("POST", "", 500, "UNKNOWN").times(2)),
        ("PUT 500", Options::default(), Fault::status("PUT", "", 500, "UNKNOWN").times(2)),
        ("PUT 429", Options::default(), Fault::status("PUT", "", 429, "TOOMANYREQUESTS")),
        ("PUT stall", Options::default(), Fault::on("PUT", "", Action::Stall)),
        ("PUT 404", Options::default(), Fault::status("PUT", "", 404, "BLOB_UPLOAD_UNKNOWN")),
        ("PUT invalid", Options::default(), Fault::status("PUT", "", 400, "BLOB_UPLOAD_INVALID")),
        ("PUT 413", Options::default(), Fault::status("PUT", "", 413, "SIZE_INVALID")),
        ("PUT lost", Options::default(), Fault::on("PUT", "", Action::ResetAfterEffect)),
        ("PATCH 500", chunked(), Fault::status("PATCH", "", 500, "UNKNOWN").times(2)),
        ("PATCH 405", chunked(), Fault::status("PATCH", "", 405, "UNSUPPORTED").always()),
        ("PATCH 404", chunked(), Fault::status("PATCH", "", 404, "BLOB_UPLOAD_UNKNOWN").after(1)),
        ("PATCH lost", chunked(), Fault::on("PATCH", "", Action::ResetAfterEffect).after(1)),
        ("PATCH 416", chunked(), Fault::status("PATCH", "", 416, "RANGE_INVALID").after(1)),
        ("PUT lost in chunks", chunked(), Fault::on("PUT", "", Action::ResetAfterEffect)),
        (
            "PATCH overwrites",
            chunked(),
            Fault::on("PATCH", "", Action::Header("range".into(), "0-99999".into())).after(1),
        ),
        (
            "PUT digest invalid in chunks",
            chunked(),
            Fault::status("PUT", "", 400, "DIGEST_INVALID"),
        ),
    ] {
        let registry = FakeRegistry::start().await;
        registry.fault(fault);
        let (client, outcome) = push_past(&registry, options, 250_000).await;
        assert!(outcome.is_ok(), "{name}: {outcome:?} {:#?}", registry.lines());
        assert!(registry.log().len() <= 16, "{name}: {:#?}", registry.lines());
        assert_eq!(client.cost().requests, registry.log().len() as u64, "{name}");
    }
}

#[tokio::test]
async fn faults_of_uploads_that_are_said() {
    let kind = Kind::Remote;
    for (name, fault, most) in [
        ("POST 403", Fault::status("POST", "", 403, "DENIED").always(), 2),
        ("POST 404", Fault::status("POST", "", 404, "NAME_UNKNOWN").always(), 2),
        ("POST 405", Fault::status("POST", "", 405, "UNSUPPORTED").always(), 2),
        ("PUT 403", Fault::status("PUT", "", 403, "DENIED").always(), 4),
        ("PUT 400", Fault::status("PUT", "", 400, "DIGEST_INVALID").always(), 4),
        ("PUT 413", Fault::status("PUT", "", 413, "SIZE_INVALID").always(), 9),
        ("PUT reset", Fault::on("PUT", "", Action::Reset).always(), 24),
        (
            "POST without location",
            Fault::on("POST", "", Action::WithoutHeader("location".into())).always(),
            2,
        ),
        ("PUT 202", Fault::on("PUT", "", respond(202, &[])).always(), 4),
    ] {
        let registry = FakeRegistry::start().await;
        registry.fault(fault);
        let (_, outcome) = push_past(&registry, Options::default(), 50_000).await;
        let error = outcome.unwrap_err();
        assert_eq!(error.kind(), kind, "{name}: {error}");
        assert!(registry.log().len() <= most, "{name}: {:#?}", registry.lines());
    }
    let registry = FakeRegistry::start().await;
    registry.set_habits(Habits { read_only: true, ..Habits::default() });
    let error = push_past(&registry, Options::default(), 50_000).await.1.unwrap_err();
    assert!(error.to_string().contains("405"), "{error}");
}

#[tokio::test]
async fn mounts_that_do_not_work_are_uploads() {
    for (name, habits, fault, posts) in [
        ("202", Habits { mounts: false, ..Habits::default() }, None, 1),
        ("401", Habits::default(), Some(Fault::status("POST", "mount=", 401, "UNAUTHORIZED")), 2),
        ("403", Habits::default(), Some(Fault::status("POST", "mount=", 403, "DENIED")), 2),
        ("404", Habits::default(), Some(Fault::status("POST", "mount=", 404, "NAME_UNKNOWN")), 2),
        ("405", Habits::default(), Some(Fault::status("POST", "mount=", 405, "UNSUPPORTED")), 2),
    ] {
        let registry = FakeRegistry::start().await;
        registry.set_habits(habits);
        if let Some(fault) = fault {
            registry.fault(fault);
        }
        let bytes = noise(1, 10_000);
        registry.put_blob("base", bytes.clone());
        let client = client(Options::default());
        let target = reference(&registry, "mine/app:1");
        let from = reference(&registry, "base:1");
        let source = BlobBytes::Registry(from.clone());
        let pushed = client.push_blob(&target, &layer(&bytes), source, &[from]).await.unwrap();
        assert_eq!(pushed, Pushed::Uploaded, "{name}");
        assert_eq!(registry.count("POST", ""), posts, "{name}: {:?}", registry.lines());
        assert_eq!(registry.open_uploads(), 0, "{name}");
    }
    // Neither from another registry nor from the target itself.
    let registry = FakeRegistry::start().await;
    let bytes = noise(1, 10_000);
    let client = client(Options::default());
    let target = reference(&registry, "mine/app:1");
    let foreign: Reference = "docker.io/library/python:3.13".parse().unwrap();
    let source = BlobBytes::Memory(bytes.clone().into());
    let mounts = [foreign, target.clone()];
    client.push_blob(&target, &layer(&bytes), source, &mounts).await.unwrap();
    assert_eq!(registry.count("POST", "mount="), 0);
}

#[tokio::test]
async fn pushing_a_blob_twice_at_once_uploads_it_once() {
    let registry = FakeRegistry::start().await;
    let bytes = noise(1, 200_000);
    let client = client(Options::default());
    let targets = ["one:1", "one:2", "two:1", "two:2", "three:1"];
    let pushes = targets.map(|target| {
        let (client, target) = (client.clone(), reference(&registry, target));
        let source = BlobBytes::Memory(bytes.clone().into());
        let blob = layer(&bytes);
        async move { client.push_blob(&target, &blob, source, &[]).await.unwrap() }
    });
    let mut came = futures_util::future::join_all(pushes).await;
    came.sort_by_key(|pushed| format!("{pushed:?}"));
    let mounted = [Pushed::Mounted; 2];
    let existing = [Pushed::Existing; 2];
    assert_eq!(came, [&existing[..], &mounted, &[Pushed::Uploaded]].concat());
    assert_eq!(registry.count("PUT", "/blobs/"), 1);
}

#[tokio::test]
async fn an_upload_is_gone_on_with_by_the_next_process() {
    let registry = FakeRegistry::start().await;
    let sessions = tempfile::tempdir().unwrap();
    let options = || Options { sessions: Some(sessions.path().join("uploads")), ..chunked() };
    let bytes = noise(42, 450_000);
    let target = reference(&registry, "mine/app:1");
    let killed = {
        let (client, target, bytes) = (client(options()), target.clone(), bytes.clone());
        registry.fault(Fault::on("PATCH", "", Action::Stall).after(2));
        tokio::spawn(async move {
            let source = BlobBytes::Memory(bytes.clone().into());
            client.push_blob(&target, &layer(&bytes), source, &[]).await
        })
    };
    while registry.count("PATCH", "") < 3 {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    killed.abort();
    registry.heal();
    registry.clear_log();
    let (client, outcome) = push_past(&registry, options(), 450_000).await;
    assert_eq!(outcome.unwrap(), Pushed::Uploaded);
    assert_eq!(client.cost().bytes_up, 250_000, "{:?}", registry.lines());
    assert_eq!(fs_err::read_dir(sessions.path().join("uploads")).unwrap().count(), 0);
    assert_eq!(registry.open_uploads(), 0);
}

#[tokio::test]
async fn a_manifest_goes_under_its_own_digest_only() {
    let registry = FakeRegistry::start().await;
    let client = client(Options::default());
    let target = reference(&registry, "a/b").with_digest(Digest::of(b"other"));
    let manifest = b"{}".to_vec();
    let error =
        client.push_manifest(&target, media_type::OCI_MANIFEST, manifest.into()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Usage);
    assert_eq!(registry.log().len(), 0);
}

#[tokio::test]
async fn what_a_registry_warns_of_is_told_once() {
    let registry = FakeRegistry::start().await;
    stock(&registry, "a/b", Some("1"), 1, false);
    let warning = Action::Header("warning".into(), "299 - \"quota is low\"".into());
    registry.fault(Fault::on("*", "", warning).always());
    let client = client(Options::default());
    let tag = reference(&registry, "a/b:1");
    client.manifest(&tag).await.unwrap();
    client.manifest(&tag).await.unwrap();
    let told = client.take_warnings();
    assert_eq!(told, [format!("{} says: quota is low", registry.address())]);
    client.manifest(&tag).await.unwrap();
    assert!(client.take_warnings().is_empty());
}

#[tokio::test]
async fn how_far_an_upload_is_can_be_seen() {
    let broken = Fault::on("PATCH", "", Action::ResetRequestAfter(30_000)).after(1);
    // A chunk that broke is said to be sent, and then the registry says how far it is.
    for (options, fault, expected) in [
        (Options::default(), None, &[250_000][..]),
        (chunked(), None, &[100_000, 200_000, 250_000]),
        (chunked(), Some(broken), &[100_000, 200_000, 230_000, 250_000]),
    ] {
        let registry = FakeRegistry::start().await;
        if let Some(fault) = fault {
            registry.fault(fault);
        }
        let seen = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
        let tell = std::sync::Arc::clone(&seen);
        let observer = Observer::new(move |what, done, total| {
            tell.lock().unwrap().push((what.to_owned(), done, total));
        });
        push_past(&registry, Options { observer, ..options }, 250_000).await.1.unwrap();
        let seen = seen.lock().unwrap();
        let what = format!("uploading {} to mine/app", Digest::of(&noise(42, 250_000)));
        assert!(
            seen.iter().all(|(told, done, total)| {
                *told == what && *total == 250_000 && *done <= 250_000
            })
        );
        let positions: Vec<u64> = seen.iter().map(|(_, done, _)| *done).collect();
        assert_eq!(positions, expected);
    }
}

#[tokio::test]
async fn what_a_registry_says_it_stored_is_compared() {
    let other = Digest::of(b"other").to_string();
    let lie = || Action::Header("docker-content-digest".into(), other.clone());
    let registry = FakeRegistry::start().await;
    registry.fault(Fault::on("PUT", "/blobs/", lie()).always());
    let client = client(Options::default());
    let target = reference(&registry, "mine/app:1");
    let bytes = noise(5, 1000);
    let source = BlobBytes::Memory(bytes.clone().into());
    let error = client.push_blob(&target, &layer(&bytes), source.clone(), &[]).await.unwrap_err();
    assert_eq!((error.kind(), registry.count("PUT", "")), (Kind::Integrity, 1), "{error}");

    // Saying nothing is no lie.
    registry.heal();
    for header in ["docker-content-digest", "location"] {
        registry.fault(Fault::on("PUT", "", Action::WithoutHeader(header.into())).always());
    }
    client.push_blob(&target, &layer(&bytes), source, &[]).await.unwrap();
    let manifest = b"{\"schemaVersion\":2}".to_vec();
    let put =
        |bytes: Vec<u8>| client.push_manifest(&target, media_type::OCI_MANIFEST, bytes.into());
    assert_eq!(put(manifest.clone()).await.unwrap(), Digest::of(&manifest));
    registry.heal();
    registry.fault(Fault::on("PUT", "/manifests/", lie()));
    assert_eq!(put(manifest).await.unwrap_err().kind(), Kind::Integrity);
}

#[tokio::test]
async fn a_registry_that_does_not_know_yet_what_it_took_is_told_again() {
    let registry = FakeRegistry::start().await;
    let folder = tempfile::tempdir().unwrap();
    let world = world(folder.path(), Options::default());
    let stocked = stock(&registry, "base", Some("1"), 1, false);
    let from = reference(&registry, "base:1");
    let artifact = double(&world, &from, &stocked.layers);
    let tag = [reference(&registry, "mine/app:1")];
    // The manifests were taken, and the index is refused for want of one of them.
    registry.fault(Fault::status("PUT", "/manifests/1", 404, "MANIFEST_UNKNOWN"));
    let report = push(&artifact, &tag, &world).await.unwrap();
    assert_eq!(registry.tags("mine/app")["1"], report.digest);
    assert_eq!(registry.count("PUT", "/manifests/sha256:"), 4);

    // The tag was taken, and is not there yet: a second push writes it again, and no blob.
    registry.clear_log();
    registry.fault(Fault::status("HEAD", "/manifests/1", 404, "MANIFEST_UNKNOWN"));
    let report = push(&artifact, &tag, &world).await.unwrap();
    assert_eq!((report.cost.blobs_uploaded, report.cost.blobs_mounted), (0, 0));
    assert_eq!(registry.count("PUT", "/blobs/"), 0, "{:?}", registry.lines());
    assert_eq!(registry.count("PUT", "/manifests/"), 3);
}
