//! Who we are, to whom, and to whom not.

use assemble::error::{Failure as _, Kind};
use assemble::registry::credentials::{Credential, Keychain, Role, Secret, Sources};
use assemble::registry::{BlobBytes, Client, Options};
use base64::Engine as _;

use super::{client, descriptor, layer, never_authorized, noise, read, reference, stock};
use crate::support::registry::{Action, Auth, FakeRegistry, Fault, Habits};

fn basic() -> Auth {
    Auth::Basic { user: "user".into(), password: "pass:word".into() }
}

fn token(anonymous_pull: bool) -> Auth {
    Auth::Token { user: "user".into(), password: "pass:word".into(), anonymous_pull, realm: None }
}

/// A client with the user's credentials for a registry, from a config document.
fn known_to(registry: &FakeRegistry) -> Client {
    let auth = base64::engine::general_purpose::STANDARD.encode("user:pass:word");
    let config = serde_json::json!({"auths": {registry.address(): {"auth": auth}}});
    let keychain = Keychain::load(Sources {
        docker_auth_config: Some(config.to_string()),
        ..Sources::default()
    });
    client(Options { keychain: keychain.unwrap(), ..Options::default() })
}

#[tokio::test]
async fn an_open_registry_gets_no_credentials() {
    let registry = FakeRegistry::start().await;
    let stocked = stock(&registry, "a/b", Some("1"), 1, false);
    let client = known_to(&registry);
    let tag = reference(&registry, "a/b:1");
    assert_eq!(client.manifest(&tag).await.unwrap().bytes, stocked.manifest);
    assert!(never_authorized(&registry));
    assert_eq!(registry.log().len(), 1);
}

#[tokio::test]
async fn basic_credentials_are_sent_when_asked_for_and_remembered() {
    let registry = FakeRegistry::start().await;
    stock(&registry, "a/b", Some("1"), 1, false);
    registry.set_auth(basic());
    let client = known_to(&registry);
    let tag = reference(&registry, "a/b:1");
    client.manifest(&tag).await.unwrap();
    client.manifest(&tag).await.unwrap();
    let sent: Vec<bool> =
        registry.log().iter().map(|logged| logged.header("authorization").is_some()).collect();
    assert_eq!(sent, [false, true, true]);
}

#[tokio::test]
async fn without_credentials_the_error_says_where_they_were_looked_for() {
    let registry = FakeRegistry::start().await;
    registry.set_auth(basic());
    let keychain = Keychain::load(Sources {
        registry_auth_file: Some("/nonexistent/auth.json".into()),
        ..Sources::default()
    });
    let client = client(Options { keychain: keychain.unwrap(), ..Options::default() });
    let tag = reference(&registry, "a/b:1");
    let error = client.manifest(&tag).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Remote);
    assert!(error.hint().unwrap().contains("/nonexistent/auth.json"), "{:?}", error.hint());
    assert!(error.to_string().contains("401"), "{error}");
    // Once without, and not again: there is nothing new to say.
    assert!(registry.log().len() <= 2, "{:?}", registry.lines());
}

#[tokio::test]
async fn wrong_credentials_are_not_repeated_for_ever_nor_shown() {
    let registry = FakeRegistry::start().await;
    registry.set_auth(basic());
    let wrong = Credential::Password { user: "user".into(), password: Secret::new("hunter2") };
    let keychain = Keychain::default().with_identity(Role::Pull, &registry.address(), wrong);
    let client = client(Options { keychain, ..Options::default() });
    let error = client.manifest(&reference(&registry, "a/b:1")).await.unwrap_err();
    assert!(registry.log().len() <= 3, "{:?}", registry.lines());
    let shown = format!("{error} {error:?} {:?} {client:?}", error.hint());
    assert!(!shown.contains("hunter2") && !shown.contains("aHVudGVyMg"), "{shown}");
}

#[tokio::test]
async fn one_token_serves_many_requests() {
    let registry = FakeRegistry::start().await;
    let stocked = stock(&registry, "a/b", Some("1"), 1, false);
    registry.set_auth(token(true));
    let client = client(Options::default());
    let tag = reference(&registry, "a/b:1");
    client.head_manifest(&tag).await.unwrap().unwrap();
    client.manifest(&tag).await.unwrap();
    for bytes in &stocked.layers {
        assert_eq!(read(&client, &tag, &layer(bytes)).await.unwrap(), *bytes);
    }
    assert_eq!(registry.count("*", "/token"), 1);
    assert_eq!(registry.log().len(), 6, "{:?}", registry.lines());
    let asked = &registry.lines()[1];
    assert_eq!(asked, "GET /token?service=fake&scope=repository%3Aa%2Fb%3Apull");
}

#[tokio::test]
async fn a_token_that_ended_early_is_renewed_once() {
    let registry = FakeRegistry::start().await;
    stock(&registry, "a/b", Some("1"), 1, false);
    registry.set_auth(token(true));
    let client = client(Options::default());
    let tag = reference(&registry, "a/b:1");
    client.manifest(&tag).await.unwrap();
    registry.revoke_tokens();
    client.manifest(&tag).await.unwrap();
    assert_eq!(registry.count("*", "/token"), 2);
    assert_eq!(registry.log().len(), 6, "{:?}", registry.lines());
}

#[tokio::test]
async fn a_token_that_is_refused_is_not_fetched_for_ever() {
    let registry = FakeRegistry::start().await;
    stock(&registry, "a/b", Some("1"), 1, false);
    registry.set_auth(token(true));
    let address = registry.address();
    let challenge = format!("Bearer realm=\"http://{address}/token\",service=\"fake\"");
    let refused = Action::Respond {
        status: 401,
        headers: vec![("www-authenticate".into(), challenge)],
        body: Vec::new(),
    };
    // Once may be an accident.
    registry.fault(Fault::on("GET", "/v2/", refused.clone()).times(2));
    let tag = reference(&registry, "a/b:1");
    client(Options::default()).manifest(&tag).await.unwrap();
    assert_eq!((registry.count("GET", "/v2/"), registry.count("GET", "/token")), (3, 2));
    registry.clear_log();
    registry.fault(Fault::on("GET", "/v2/", refused).always());
    let error = client(Options::default()).manifest(&tag).await.unwrap_err();
    assert!(error.to_string().contains("refused access"), "{error}");
    assert_eq!((registry.count("GET", "/v2/"), registry.count("GET", "/token")), (3, 2));
}

#[tokio::test]
async fn parallel_requests_share_a_token() {
    let registry = FakeRegistry::start().await;
    let stocked = stock(&registry, "a/b", Some("1"), 1, false);
    registry.set_auth(token(true));
    let client = client(Options::default());
    let tag = reference(&registry, "a/b:1");
    client.head_manifest(&tag).await.unwrap();
    let blob = layer(&stocked.layers[0]);
    let reads = (0..8).map(|_| read(&client, &tag, &blob));
    for bytes in futures_util::future::join_all(reads).await {
        assert_eq!(bytes.unwrap(), stocked.layers[0]);
    }
    assert_eq!(registry.count("*", "/token"), 1);
}

#[tokio::test]
async fn a_push_asks_for_its_scope_first_and_for_the_source_of_a_mount() {
    let registry = FakeRegistry::start().await;
    let stocked = stock(&registry, "base/python", Some("1"), 1, false);
    registry.set_auth(token(true));
    let client = known_to(&registry);
    let target = reference(&registry, "mine/app:1");
    let source = reference(&registry, "base/python:1");
    let pushed = client
        .push_blob(
            &target,
            &layer(&stocked.layers[0]),
            BlobBytes::Registry(source.clone()),
            std::slice::from_ref(&source),
        )
        .await
        .unwrap();
    assert_eq!(pushed, assemble::registry::Pushed::Mounted);
    let lines = registry.lines();
    let mount = lines.iter().find(|line| {
        line.contains("/token")
            && line.contains(
                "scope=repository%3Amine%2Fapp%3Apull%2Cpush&scope=repository%3Abase%2Fpython%3Apull",
            )
    });
    assert!(mount.is_some(), "{lines:?}");
    assert_eq!(client.cost().bytes_up, 0);
}

#[tokio::test]
async fn an_identity_token_goes_by_post_and_falls_back_to_get() {
    for oauth in [true, false] {
        let registry = FakeRegistry::start().await;
        stock(&registry, "a/b", Some("1"), 1, false);
        // Without OAuth2 the identity token does for a password.
        registry.set_auth(Auth::Token {
            user: "<token>".into(),
            password: "identity".into(),
            anonymous_pull: false,
            realm: None,
        });
        registry.set_habits(Habits { oauth, ..Habits::default() });
        let credential = Credential::IdentityToken(Secret::new("identity"));
        let keychain =
            Keychain::default().with_identity(Role::Pull, &registry.address(), credential);
        let client = client(Options { keychain, ..Options::default() });
        client.manifest(&reference(&registry, "a/b:1")).await.unwrap();
        assert_eq!(registry.count("POST", "/token"), 1, "{oauth}");
        assert_eq!(registry.count("GET", "/token"), usize::from(!oauth), "{oauth}");
        assert!(registry.lines().iter().all(|line| !line.contains("identity")));
    }
}

#[tokio::test]
async fn pull_and_push_are_different_people() {
    let registry = FakeRegistry::start().await;
    stock(&registry, "a/b", Some("1"), 1, false);
    registry.set_auth(token(true));
    let pusher = Credential::Password { user: "user".into(), password: Secret::new("pass:word") };
    let keychain = Keychain::default().with_identity(Role::Push, &registry.address(), pusher);
    let client = client(Options { keychain, ..Options::default() });
    let tag = reference(&registry, "a/b:1");
    client.manifest(&tag).await.unwrap();
    let pulling = registry.log().iter().filter(|l| l.path.contains("/token")).count();
    assert_eq!(pulling, 1);
    assert!(registry.log()[1].header("authorization").is_none());
    let bytes = noise(5, 1000);
    let source = BlobBytes::Memory(bytes.clone().into());
    client.push_blob(&tag, &layer(&bytes), source, &[]).await.unwrap();
    assert!(registry.blob("a/b", &assemble::oci::Digest::of(&bytes)).is_some());
}

#[tokio::test]
async fn nothing_secret_crosses_to_another_host() {
    let registry = FakeRegistry::start().await;
    let storage = FakeRegistry::start().await;
    for auth in [basic(), token(false)] {
        let stocked = stock(&registry, "a/b", Some("1"), 1, false);
        stock(&storage, "a/b", None, 1, false);
        registry.heal();
        registry.set_auth(auth);
        registry.fault(Fault::on("GET", "/blobs/", Action::RedirectTo(storage.address())).always());
        let client = known_to(&registry);
        let tag = reference(&registry, "a/b:1");
        client.manifest(&tag).await.unwrap();
        let bytes = read(&client, &tag, &layer(&stocked.layers[0])).await.unwrap();
        assert_eq!(bytes, stocked.layers[0]);
        assert!(registry.log().iter().any(|logged| logged.header("authorization").is_some()));
        assert!(never_authorized(&storage), "{:?}", storage.log());
        assert!(!storage.log().is_empty());
    }
}

#[tokio::test]
async fn a_challenge_from_where_we_were_redirected_is_not_answered() {
    let registry = FakeRegistry::start().await;
    let storage = FakeRegistry::start().await;
    let stocked = stock(&registry, "a/b", Some("1"), 1, false);
    registry.set_auth(token(false));
    storage.set_auth(basic());
    registry.fault(Fault::on("GET", "/blobs/", Action::RedirectTo(storage.address())).always());
    let client = known_to(&registry);
    let tag = reference(&registry, "a/b:1");
    let blob = layer(&stocked.layers[0]);
    assert!(read(&client, &tag, &blob).await.is_err());
    assert!(never_authorized(&storage));
    // What the stranger said has not spoilt what the registry said.
    registry.heal();
    assert_eq!(read(&client, &tag, &blob).await.unwrap(), stocked.layers[0]);
}

#[tokio::test]
async fn a_realm_on_an_internal_address_is_refused() {
    let registry = FakeRegistry::start().await;
    stock(&registry, "a/b", Some("1"), 1, false);
    for realm in [
        "http://169.254.169.254/latest",
        "http://elsewhere.example/token",
        "file:///etc/passwd",
        "http://user:secret@127.0.0.1/",
        "not an address",
    ] {
        let Auth::Token { user, password, anonymous_pull, .. } = token(false) else { continue };
        let realm = Some(realm.to_owned());
        registry.set_auth(Auth::Token { user, password, anonymous_pull, realm: realm.clone() });
        let client = known_to(&registry);
        let error = client.manifest(&reference(&registry, "a/b:1")).await.unwrap_err();
        assert!(matches!(error, assemble::registry::Error::Realm { .. }), "{realm:?}: {error}");
    }
}

#[tokio::test]
async fn a_token_server_that_gives_no_token() {
    let registry = FakeRegistry::start().await;
    stock(&registry, "a/b", Some("1"), 1, false);
    registry.set_auth(token(true));
    for body in ["{}", r#"{"token":""}"#, "secret-token", "{\"token\": 3}"] {
        registry.heal();
        registry.fault(Fault::on("GET", "/token", Action::Body(body.into())).always());
        let client = client(Options::default());
        let error = client.manifest(&reference(&registry, "a/b:1")).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Remote);
        assert!(!format!("{error}{error:?}").contains("secret-token"), "{error}");
    }
}

#[tokio::test]
async fn a_mirror_never_gets_the_registrys_credentials() {
    let registry = FakeRegistry::start().await;
    let mirror = FakeRegistry::start().await;
    let stocked = stock(&registry, "a/b", Some("1"), 1, false);
    registry.set_auth(basic());
    mirror.set_auth(basic());
    let auth = base64::engine::general_purpose::STANDARD.encode("user:pass:word");
    let config = serde_json::json!({"auths": {registry.address(): {"auth": auth}}});
    let keychain = Keychain::load(Sources {
        docker_auth_config: Some(config.to_string()),
        ..Sources::default()
    })
    .unwrap();
    let mirrors = super::mirrors(&registry, &mirror, "");
    let client = client(Options { keychain, mirrors, ..Options::default() });
    let tag = reference(&registry, "a/b:1");
    assert_eq!(client.manifest(&tag).await.unwrap().bytes, stocked.manifest);
    assert!(!mirror.log().is_empty());
    assert!(never_authorized(&mirror));
}

#[tokio::test]
async fn an_upload_location_elsewhere_gets_no_credentials() {
    let registry = FakeRegistry::start().await;
    let other = FakeRegistry::start().await;
    registry.set_auth(basic());
    let bytes = noise(3, 5000);
    let digest = assemble::oci::Digest::of(&bytes);
    for (location, wanted) in [
        (format!("http://{}/v2/x/blobs/uploads/1", other.address()), true),
        ("http://169.254.169.254/v2/x/blobs/uploads/1".to_owned(), false),
        ("http://elsewhere.example/v2/x/blobs/uploads/1".to_owned(), false),
        ("ftp://elsewhere.example/".to_owned(), false),
    ] {
        registry.heal();
        registry.fault(
            Fault::on(
                "POST",
                "/blobs/uploads/",
                Action::Header("location".into(), location.clone()),
            )
            .always(),
        );
        other.heal();
        other.fault(
            Fault::on(
                "PUT",
                "/blobs/uploads/",
                Action::Respond { status: 201, headers: vec![], body: vec![] },
            )
            .always(),
        );
        let client = known_to(&registry);
        let target = reference(&registry, "mine/app:1");
        let source = BlobBytes::Memory(bytes.clone().into());
        let blob = descriptor("application/octet-stream", &bytes);
        let outcome = client.push_blob(&target, &blob, source, &[]).await;
        assert_eq!(outcome.is_ok(), wanted, "{location}: {outcome:?}");
        assert!(never_authorized(&other));
    }
    assert!(other.lines().iter().any(|line| line.contains(&digest.hex())));
}
