//! Manifests about manifests: found by the registry or by the fallback tag, and nobody's is lost.

use std::time::Duration;

use assemble::error::{Failure as _, Kind};
use assemble::oci::{Digest, media_type};
use assemble::registry::{Error, Options, Referred};
use futures_util::future::join_all;
use serde_json::{Value, json};

use super::{client, descriptor, reference};
use crate::support::registry::{FakeRegistry, Fault, Habits};

/// On loopback a write takes no time.
fn hasty() -> Options {
    Options { settle: Duration::from_millis(100), ..Options::default() }
}

/// A manifest about `subject`: an artifact without layers.
fn about(subject: &Digest, number: u32) -> Vec<u8> {
    json!({
        "schemaVersion": 2,
        "mediaType": media_type::OCI_MANIFEST,
        "artifactType": "application/vnd.example.sbom",
        "config": descriptor("application/vnd.oci.empty.v1+json", b"{}"),
        "layers": [],
        "subject": {"mediaType": media_type::OCI_MANIFEST, "digest": subject, "size": 7},
        "annotations": {"number": number.to_string()},
    })
    .to_string()
    .into_bytes()
}

#[tokio::test]
async fn a_referrer_is_found_from_its_subject() {
    let registry = FakeRegistry::start().await;
    registry.put_blob("a/b", b"{}".to_vec());
    let client = client(hasty());
    let repository = reference(&registry, "a/b:1");
    let subject = Digest::of(b"the image");
    let push = |number| {
        client.push_referrer(&repository, media_type::OCI_MANIFEST, about(&subject, number).into())
    };

    registry.set_habits(Habits { referrers: true, ..Habits::default() });
    assert_eq!(push(0).await.unwrap().1, Referred::ByRegistry);
    assert!(registry.tags("a/b").is_empty());

    registry.set_habits(Habits::default());
    for (number, how) in [(1, Referred::ByTag), (2, Referred::ByTag), (1, Referred::Existing)] {
        let (digest, referred) = push(number).await.unwrap();
        assert_eq!((digest, referred), (Digest::of(&about(&subject, number)), how));
    }
    let tag = format!("sha256-{}", subject.hex());
    let (kind, index) = registry.manifest("a/b", &tag).unwrap();
    assert_eq!(kind, media_type::OCI_INDEX);
    let index: serde_json::Value = serde_json::from_slice(&index).unwrap();
    let entries = index["manifests"].as_array().unwrap();
    assert_eq!(entries.len(), 2);
    assert_eq!(entries[1]["annotations"]["number"], "2");
    assert_eq!(entries[1]["artifactType"], "application/vnd.example.sbom");
    assert_eq!(entries[1]["digest"], Digest::of(&about(&subject, 2)).to_string());

    for refused in [&b"{}"[..], b"text"] {
        let bytes = refused.to_vec().into();
        let outcome = client.push_referrer(&repository, media_type::OCI_MANIFEST, bytes).await;
        assert!(outcome.is_err());
    }
}

fn entries(registry: &FakeRegistry, subject: &Digest) -> Vec<String> {
    let tag = format!("sha256-{}", subject.hex());
    let index: Value = serde_json::from_slice(&registry.manifest("a/b", &tag).unwrap().1).unwrap();
    let entries = index["manifests"].as_array().unwrap().iter();
    entries.map(|entry| entry["digest"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn several_at_once_are_all_found_from_their_subject() {
    for conditions in [false, true] {
        let registry = FakeRegistry::start().await;
        registry.put_blob("a/b", b"{}".to_vec());
        registry.set_habits(Habits { conditions, ..Habits::default() });
        let repository = reference(&registry, "a/b:1");
        let subject = Digest::of(b"the image");
        // Each is a process of its own.
        let pushes = (0..5).map(|number| {
            let (client, repository) = (client(hasty()), repository.clone());
            async move {
                let bytes = about(&subject, number).into();
                client.push_referrer(&repository, media_type::OCI_MANIFEST, bytes).await
            }
        });
        for outcome in join_all(pushes).await {
            assert_eq!(outcome.unwrap().1, Referred::ByTag);
        }
        let mut found = entries(&registry, &subject);
        let mut expected: Vec<_> =
            (0..5).map(|number| Digest::of(&about(&subject, number)).to_string()).collect();
        found.sort();
        expected.sort();
        assert_eq!(found, expected, "{conditions}");
        let conditional = |wanted: bool| {
            let log = registry.log().into_iter();
            let tags = log.filter(|logged| {
                logged.method == "PUT" && logged.path.contains("/manifests/sha256-")
            });
            tags.filter(|put| put.header("if-match").is_some() == wanted).count()
        };
        // Nothing can be asked of a tag that is not there.
        assert!(conditional(false) >= 1);
        assert_eq!(conditional(true) > 0, conditions, "{:?}", registry.lines());
    }
}

#[tokio::test]
async fn a_tag_that_always_changes_is_given_up() {
    let registry = FakeRegistry::start().await;
    registry.put_blob("a/b", b"{}".to_vec());
    registry.set_habits(Habits { conditions: true, ..Habits::default() });
    let repository = reference(&registry, "a/b:1");
    let subject = Digest::of(b"the image");
    let client = client(hasty());
    let push = |number| {
        client.push_referrer(&repository, media_type::OCI_MANIFEST, about(&subject, number).into())
    };
    push(0).await.unwrap();
    registry.clear_log();
    let changed = Fault::status("PUT", "/manifests/sha256-", 412, "PRECONDITION_FAILED");
    registry.fault(changed.always());
    let error = push(1).await.unwrap_err();
    assert!(matches!(error, Error::Contended { attempts: 10, .. }), "{error}");
    assert_eq!(error.kind(), Kind::Remote);
    assert_eq!(registry.count("PUT", "/manifests/sha256-"), 10);
    assert_eq!(entries(&registry, &subject).len(), 1);
}
