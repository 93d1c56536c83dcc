//! Every fault and every lie, by name: the outcome and the number of requests.

use std::time::{Duration, Instant};

use assemble::error::{Failure as _, Kind};
use assemble::oci::{Digest, media_type};
use assemble::registry::Options;

use super::{client, layer, noise, read, reference, stock};
use crate::support::registry::{Action, FakeRegistry, Fault, Habits};

fn respond(status: u16, headers: &[(&str, &str)], body: &[u8]) -> Action {
    let headers = headers.iter().map(|&(name, value)| (name.to_owned(), value.to_owned()));
    Action::Respond { status, headers: headers.collect(), body: body.to_vec() }
}

#[tokio::test]
async fn what_passes_by_itself_is_waited_for() {
    let date = ("date", "Tue, 01 Sep 2026 12:00:00 GMT");
    let later = ("retry-after", "Tue, 01 Sep 2026 12:00:01 GMT");
    for (name, action, least) in [
        ("reset", Action::Reset, 0),
        ("stall", Action::Stall, 400),
        ("408", respond(408, &[], b""), 0),
        ("429 with seconds", respond(429, &[("retry-after", "1")], b""), 1000),
        ("429 with a date", respond(429, &[later, date], b""), 1000),
        ("429 with garbage", respond(429, &[("retry-after", "soon")], b""), 0),
        ("499", respond(499, &[], b""), 0),
        ("500", respond(500, &[], b"<html>"), 0),
        ("502", respond(502, &[], b"<html><title>Bad Gateway</title>"), 0),
        ("503", respond(503, &[("retry-after", "0")], b""), 0),
        ("504", respond(504, &[], b""), 0),
        ("522", respond(522, &[], b""), 0),
        ("403 secondary", respond(403, &[], b"You have exceeded a secondary rate limit"), 0),
        ("400 by code", respond(400, &[], br#"{"errors":[{"code":"TOOMANYREQUESTS"}]}"#), 0),
        ("cut body", Action::ResetBodyAfter(10), 0),
        // A byte in time each time, and never the whole: five times the progress timeout is enough.
        ("slow loris", Action::Drip(100), 2000),
    ] {
        let registry = FakeRegistry::start().await;
        let stocked = stock(&registry, "a/b", Some("1"), 1, false);
        let times = if least > 0 { 1 } else { 2 };
        registry.fault(Fault::on("GET", "/manifests/", action).times(times));
        let client = client(Options::default());
        let started = Instant::now();
        let outcome = client.manifest(&reference(&registry, "a/b:1")).await;
        assert_eq!(outcome.unwrap().bytes, stocked.manifest, "{name}");
        assert_eq!(registry.log().len(), times + 1, "{name}");
        assert!(started.elapsed() >= Duration::from_millis(least), "{name}");
        assert_eq!(client.cost().requests, times as u64 + 1, "{name}");
    }
}

#[tokio::test]
async fn what_does_not_pass_is_said_after_a_few_tries() {
    let registry = FakeRegistry::start().await;
    registry.fault(Fault::status("GET", "", 503, "UNAVAILABLE").always());
    let client = client(Options::default());
    let error = client.manifest(&reference(&registry, "a/b:1")).await.unwrap_err();
    assert_eq!(registry.log().len(), 4);
    assert_eq!(error.kind(), Kind::Remote);
    let shown = error.to_string();
    let url = format!("GET http://{}/v2/a/b/manifests/1", registry.address());
    assert!(shown.contains(&url) && shown.contains("503"), "{shown}");
    assert!(shown.contains("UNAVAILABLE: made by the test"), "{shown}");
}

#[tokio::test]
async fn a_wait_that_is_asked_too_long_is_cut() {
    let registry = FakeRegistry::start().await;
    let stocked = stock(&registry, "a/b", Some("1"), 1, false);
    registry.fault(Fault::on("GET", "", respond(429, &[("retry-after", "86400")], b"")));
    let client = client(Options::default());
    let started = Instant::now();
    let manifest = client.manifest(&reference(&registry, "a/b:1")).await.unwrap();
    assert_eq!(manifest.bytes, stocked.manifest);
    assert!(started.elapsed() < Duration::from_mins(2));
}

#[tokio::test]
async fn what_is_no_is_not_asked_again() {
    for (status, body) in [
        (400, &b"bad"[..]),
        (403, b"{\"errors\":[{\"code\":\"DENIED\",\"message\":\"not yours\"}]}"),
        (404, b""),
        (405, b"<html><body>"),
        (418, b"\x1f\x8b\x08\x00"),
        (501, b""),
    ] {
        let registry = FakeRegistry::start().await;
        registry.fault(Fault::on("GET", "", respond(status, &[], body)).always());
        let client = client(Options::default());
        let error = client.manifest(&reference(&registry, "a/b:1")).await.unwrap_err();
        assert_eq!(registry.log().len(), 1, "{status}");
        assert_eq!(error.kind(), Kind::Remote, "{status}");
        assert!(error.to_string().contains(&status.to_string()), "{error}");
        assert!(error.to_string().len() < 600, "{error}");
    }
}

#[tokio::test]
async fn an_errors_body_is_read_as_far_as_it_makes_sense() {
    let words = br#"{"errors":[{"code":"DENIED","message":"not yours"}]}"#;
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut gzip, words).unwrap();
    let gzip = gzip.finish().unwrap();
    let encoded = [("content-encoding", "gzip"), ("content-type", "application/json")];
    let endless = vec![b'x'; 1 << 20];
    for (name, action, said) in [
        ("plain", respond(400, &[], words), ": DENIED: not yours"),
        // Nobody asked for it: what cannot be read is left out, and no garbage is shown.
        ("gzip", respond(400, &encoded, &gzip), ""),
        ("endless", respond(400, &[], &endless), ": xxxxx"),
        ("html", respond(400, &[], b"<html><title>Sign in</title>"), ": Sign in"),
    ] {
        let registry = FakeRegistry::start().await;
        registry.fault(Fault::on("GET", "", action));
        let client = client(Options::default());
        let error = client.manifest(&reference(&registry, "a/b:1")).await.unwrap_err();
        let shown = error.to_string();
        let (_, after) = shown.split_once("400 Bad Request").unwrap();
        assert!(
            if said.is_empty() { after.is_empty() } else { after.starts_with(said) },
            "{shown}"
        );
        assert!(shown.is_ascii() && shown.len() < 600, "{name}: {shown}");
        assert_eq!(registry.log().len(), 1, "{name}");
    }
}

#[tokio::test]
async fn a_download_is_taken_up_where_it_broke() {
    for (name, action) in
        [("reset", Action::ResetBodyAfter(100_000)), ("stall", Action::StallBodyAfter(100_000))]
    {
        let registry = FakeRegistry::start().await;
        let bytes = noise(1, 500_000);
        registry.put_blob("a/b", bytes.clone());
        registry.fault(Fault::on("GET", "/blobs/", action).times(2));
        let client = client(Options::default());
        let from = reference(&registry, "a/b");
        assert_eq!(read(&client, &from, &layer(&bytes)).await.unwrap(), bytes, "{name}");
        let ranges: Vec<_> = registry
            .log()
            .iter()
            .map(|logged| logged.header("range").unwrap_or_default().to_owned())
            .collect();
        assert_eq!(ranges, ["", "bytes=100000-", "bytes=200000-"], "{name}");
        assert_eq!(client.cost().bytes_down, 500_000, "{name}");
    }
}

#[tokio::test]
async fn a_registry_without_ranges_is_read_again() {
    let registry = FakeRegistry::start().await;
    registry.set_habits(Habits { ignores_ranges: true, ..Habits::default() });
    let bytes = noise(1, 500_000);
    registry.put_blob("a/b", bytes.clone());
    registry.fault(Fault::on("GET", "/blobs/", Action::ResetBodyAfter(100_000)));
    let client = client(Options::default());
    let from = reference(&registry, "a/b");
    assert_eq!(read(&client, &from, &layer(&bytes)).await.unwrap(), bytes);
    assert_eq!(client.cost().bytes_down, 600_000);
}

#[tokio::test]
async fn a_download_that_never_moves_on_ends() {
    let registry = FakeRegistry::start().await;
    let bytes = noise(1, 500_000);
    registry.put_blob("a/b", bytes.clone());
    registry.fault(Fault::on("GET", "/blobs/", Action::ResetBodyAfter(0)).always());
    let client = client(Options::default());
    let error = read(&client, &reference(&registry, "a/b"), &layer(&bytes)).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Remote, "{error}");
    assert_eq!(registry.log().len(), 4);
}

#[tokio::test]
async fn lies_about_manifests() {
    let other = Digest::of(b"other").to_string();
    let header = |name: &str, value: &str| Action::Header(name.into(), value.into());
    let both = br#"{"schemaVersion":2,"manifests":[],"config":{},"layers":[]}"#.to_vec();
    for (name, action, kind) in [
        ("digest header", header("docker-content-digest", &other), Kind::Integrity),
        ("content type", header("content-type", media_type::OCI_INDEX), Kind::Integrity),
        ("other body", Action::Body(b"{\"schemaVersion\":2}".to_vec()), Kind::Integrity),
        ("two things at once", Action::Body(both), Kind::Integrity),
        ("html", respond(200, &[], b"<html>sign in</html>"), Kind::Remote),
        ("schema 1", respond(200, &[], br#"{"schemaVersion":1,"fsLayers":[]}"#), Kind::Remote),
        ("endless", respond(200, &[], &vec![b' '; 5 << 20]), Kind::Remote),
    ] {
        let registry = FakeRegistry::start().await;
        stock(&registry, "a/b", Some("1"), 1, false);
        registry.fault(Fault::on("GET", "/manifests/", action).always());
        let client = client(Options::default());
        let error = client.manifest(&reference(&registry, "a/b:1")).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{name}: {error}");
        assert_eq!(registry.log().len(), 1, "{name}");
    }
    let registry = FakeRegistry::start().await;
    let stocked = stock(&registry, "a/b", Some("1"), 1, false);
    registry
        .fault(Fault::on("*", "", Action::WithoutHeader("docker-content-digest".into())).always());
    let client = client(Options::default());
    let tag = reference(&registry, "a/b:1");
    // Silence is no lie: HEAD without a digest is followed by GET.
    assert!(client.head_manifest(&tag).await.unwrap().is_some());
    assert_eq!(client.manifest(&tag).await.unwrap().bytes, stocked.manifest);
}

#[tokio::test]
async fn lies_about_blobs() {
    let bytes = noise(1, 100_000);
    let mut flipped = bytes.clone();
    flipped[50_000] ^= 1;
    let mut longer = bytes.clone();
    longer.push(0);
    for (name, body) in
        [("flipped", flipped), ("longer", longer), ("shorter", bytes[..99_999].to_vec())]
    {
        let registry = FakeRegistry::start().await;
        registry.put_blob("a/b", bytes.clone());
        registry.fault(Fault::on("GET", "/blobs/", Action::Body(body)).always());
        let client = client(Options::default());
        let error = read(&client, &reference(&registry, "a/b"), &layer(&bytes)).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Integrity, "{name}: {error}");
        // An end that comes too early may be an accident, once.
        let requests = if name == "shorter" { 2 } else { 1 };
        assert_eq!(registry.log().len(), requests, "{name}");
    }
}

#[tokio::test]
async fn redirects_end_and_lead_nowhere_odd() {
    for location in [
        "http://169.254.169.254/latest/meta-data",
        "http://elsewhere.example/x",
        "ftp://elsewhere.example/x",
        "https://user:secret@elsewhere.example/x",
        "http://[",
    ] {
        let registry = FakeRegistry::start().await;
        registry.fault(Fault::on("GET", "", respond(307, &[("location", location)], b"")));
        let client = client(Options::default());
        let error = client.manifest(&reference(&registry, "a/b:1")).await.unwrap_err();
        assert!(error.to_string().contains("redirect refused"), "{location}: {error}");
        assert!(!error.to_string().contains("secret"), "{error}");
        assert_eq!(registry.log().len(), 1);
    }
    let registry = FakeRegistry::start().await;
    registry.fault(Fault::on("GET", "", Action::RedirectTo(registry.address())).always());
    let client = client(Options::default());
    let error = client.manifest(&reference(&registry, "a/b:1")).await.unwrap_err();
    assert!(error.to_string().contains("too many"), "{error}");
    assert_eq!(registry.log().len(), 11);
}

#[tokio::test]
async fn head_that_is_not_answered_means_unknown() {
    for status in [401, 403, 405] {
        let registry = FakeRegistry::start().await;
        let bytes = noise(1, 1000);
        registry.put_blob("a/b", bytes.clone());
        registry.fault(Fault::on("HEAD", "/blobs/", respond(status, &[], b"")).always());
        let client = client(Options::default());
        let from = reference(&registry, "a/b");
        assert!(!client.has_blob(&from, &Digest::of(&bytes)).await.unwrap(), "{status}");
    }
}

#[tokio::test]
async fn offline_means_no_request() {
    let registry = FakeRegistry::start().await;
    stock(&registry, "a/b", Some("1"), 1, false);
    let client = client(Options { offline: true, ..Options::default() });
    let error = client.manifest(&reference(&registry, "a/b:1")).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Usage);
    assert_eq!(registry.log().len(), 0);
}
