//! Servers that refuse, are not there, or hand out something else: 4 and 5; and foreign code that
//! fails.

use crate::scene::{BASE, CELL, Scene, with_entry};
use crate::support::package_index::{Fault as IndexFault, Published};
use crate::support::registry::{Action, Auth, Fault};

#[tokio::test(flavor = "multi_thread")]
async fn a_base_that_is_not_there_is_4() {
    let scene = Scene::new().await.locked();
    let address = scene.registry.address();
    scene.recipe.edit("matrix/matrix.toml", "library/python", "library/pyhton");
    let absent = format!("base `{address}/library/pyhton:3.13-alpine3.24` does not exist");
    scene.run(&[CELL]).failure(4, &[&absent, "check the base's name and tag"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_does_not_answer_is_4() {
    let scene = Scene::new().await.locked();
    // A port that was free a moment ago.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let address = free.to_string();
    scene.recipe.edit("matrix/matrix.toml", &scene.registry.address(), &address);
    let outcome = scene.run(&[CELL]);
    outcome.failure(4, &["could not read the base", &address, "onnection refused"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_package_index_that_fails_is_4() {
    let scene = Scene::new().await;
    let refuse = |path: &str, times| {
        scene.index.fault(IndexFault {
            path: path.into(),
            times,
            status: 403,
            headers: vec![("content-type", "text/plain".into())],
            body: "closed for the day".into(),
        });
    };
    let said = ["GET http://127.0.0.1", "403 Forbidden: closed for the day", "hint: "];
    refuse("/simple/app", 1);
    scene.run(&["lock"]).failure(4, &said);
    scene.run(&["lock"]).success();
    refuse("/files/app", 1);
    scene.run(&[CELL]).failure(4, &said);
    scene.run(&[CELL]).success();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_push_is_4_and_says_who_came() {
    let scene = Scene::new().await.locked();
    for (status, code) in [(401, "UNAUTHORIZED"), (403, "DENIED")] {
        let refuse = Fault::status("POST", "/blobs/uploads/", status, code);
        scene.registry.fault(refuse.always());
        let outcome = scene.run(&[CELL, "--push"]);
        outcome.failure(
            4,
            &[
                "refused access: POST http://127.0.0.1",
                &status.to_string(),
                "made by the test",
                "hint: ",
            ],
        );
        scene.registry.heal();
    }
    // Credentials that the registry does not take.
    scene.registry.set_auth(Auth::Basic { user: "me".into(), password: "right".into() });
    let anonymous = scene.run(&[CELL, "--push"]);
    anonymous.failure(4, &["refused access", "401", "hint: "]);
    let encoded = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, "me:s3cret");
    let auths = format!(r#"{{"auths":{{"{}":{{"auth":"{encoded}"}}}}}}"#, scene.registry.address());
    let mut command = scene.command(&[CELL, "--push"]);
    let outcome = crate::command::run(command.env("DOCKER_AUTH_CONFIG", auths));
    for secret in ["s3cret", &encoded] {
        assert!(!outcome.stderr.contains(secret), "{}", outcome.stderr);
    }
    outcome.failure(4, &["refused access", "401", "hint: "]);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_file_under_the_same_name_is_5() {
    let scene = Scene::new().await.locked();
    let other = Published::wheel("app-1.0-py3-none-any.whl", &[], 999);
    // The index says so itself, or hands it out under the old hash.
    let honest = other.clone();
    let before = Published::wheel("app-1.0-py3-none-any.whl", &[], 1000);
    let mut same_size = with_entry(other, "app/extra.py");
    same_size.bytes.resize(before.bytes.len(), 0);
    let lying = Published { sha256: Some(before.digest()), ..same_size };
    for (published, said) in [(honest, "package index says"), (lying, "digest mismatch")] {
        scene.index.publish("app", published);
        let outcome = scene.run(&[CELL]);
        let expected = before.digest().to_string();
        outcome.failure(5, &[said, "`app-1.0-py3-none-any.whl`", "expected", &expected]);
    }
    assert_eq!(scene.temporary_files(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_or_tampered_wheel_is_5() {
    for (entry, said) in [
        ("../evil.py", "`../evil.py`"),
        ("/etc/evil.py", "`/etc/evil.py`"),
        ("app/extra.py", "app/extra.py"),
    ] {
        let scene = Scene::new().await;
        let wheel = Published::wheel("app-1.0-py3-none-any.whl", &[], 10);
        scene.index.publish("app", with_entry(wheel, entry));
        let scene = scene.locked();
        scene.run(&[CELL]).failure(5, &["app-1.0-py3-none-any.whl", said]);
        assert_eq!(scene.temporary_files(), [""; 0]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_base_with_other_bytes_is_5() {
    let scene = Scene::new().await.locked();
    let manifest = scene.registry.manifest(BASE, "3.13-alpine3.24").unwrap().1;
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
    let layer = &manifest["layers"][0];
    let size = usize::try_from(layer["size"].as_u64().unwrap()).unwrap();
    let digest = layer["digest"].as_str().unwrap();
    scene.registry.fault(Fault::on("GET", digest, Action::Body(vec![b'x'; size])).always());
    scene.run(&[CELL]).failure(5, &["digest mismatch", digest]);
    assert_eq!(scene.temporary_files(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
#[cfg(target_arch = "x86_64")]
async fn a_failing_build_shows_the_end_of_its_log() {
    let scene = Scene::new().await;
    let body = "for number in range(99): print('step', number)\n    raise SystemError('no gcc')";
    scene.publish_source(body).await;
    let scene = scene.locked();
    let outcome = scene
        .run(&[CELL])
        .failure(3, &["source 1.0", "step 98", "SystemError: no gcc", "hint: the whole log is "]);
    // The end, not all of it.
    assert!(!outcome.stderr.contains("step 11\n"), "{}", outcome.stderr);
    let log = outcome.stderr.trim_end().rsplit(' ').next().unwrap();
    assert!(fs_err::read_to_string(log).unwrap().starts_with("step 0\n"));
    assert_eq!(scene.temporary_files(), [""; 0]);
}
