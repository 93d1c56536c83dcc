//! What is wrong with flags, files, locks and requirements: 2, 3 and 6.

use crate::scene::{CELL, Scene, put_base};
use crate::support::package_index::Published;

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_flag_or_variable_is_2() {
    let scene = Scene::new().await.locked();
    scene.run(&["--colour"]).failure(2, &["unexpected argument '--colour'", "Usage:"]);
    scene.run(&["nothing/like/it"]).failure(2, &["no cell is called `nothing/like/it`", CELL]);
    let platform = [CELL, "--platform", "linux/s390x"];
    scene.run(&platform).failure(2, &["is not made for linux/s390x, only for linux/amd64"]);
    scene
        .run(&["lock", "--exclude-newer", "yesterday"])
        .failure(2, &["--exclude-newer is neither a date nor RFC 3339: `yesterday`"]);
    for garbage in ["soon", "1.5", "99999999999999999999"] {
        let mut command = scene.command(&[CELL]);
        let outcome = crate::command::run(command.env("SOURCE_DATE_EPOCH", garbage));
        let said = format!("SOURCE_DATE_EPOCH is not a number of seconds: `{garbage}`");
        outcome.failure(2, &[&said]);
    }
    assert_eq!(scene.temporary_files(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_file_is_2_and_named_with_its_line() {
    let scene = Scene::new().await.locked();
    for (file, text, said) in [
        ("layers/app/layer.toml", "kind = \"python\"\nrequirments = []\n", "`requirments`"),
        ("layers/app/layer.toml", "kind = \"python\"\n[[prune]\n", "line 2"),
        ("matrix/matrix.toml", "\ntags = \"x\"\n", "`tags`"),
        ("matrix/1.0/python3.13/alpine3.24/cell.toml", "\npython = \"3.14\"\n", "`python`"),
        ("matrix/1.0/python3.13/alpine3.24/lock.toml", "\nversions = []\n", "`versions`"),
    ] {
        let whole = scene.recipe.read(file);
        scene.recipe.write(file, text);
        scene.run(&[CELL]).failure(2, &[file, "line 2", said]);
        scene.recipe.write(file, &whole);
    }
    scene.run(&[CELL]).success();
    let elsewhere = scene.cache.path().to_str().unwrap();
    scene.run(&["--root", elsewhere]).failure(2, &["matrix.toml", "use --root"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_match_its_lock_is_6() {
    let scene = Scene::new().await;
    let fix = format!("hint: run `assemble lock {CELL}`");
    scene.run(&[CELL]).failure(6, &[&format!("{CELL} has no lock"), &fix]);
    scene.run(&["lock", "--check"]).failure(6, &["there was no lock", &fix]);
    scene.run(&["lock"]).success();
    scene.run(&["lock", "--check"]).success();
    let lock = format!("matrix/{CELL}/lock.toml");
    let locked = scene.recipe.read(&lock);

    scene.recipe.edit("layers/app/layer.toml", "app==1.0", "app>=1.0");
    let inputs = ["was made from other inputs", "requirements", "app==1.0", "app>=1.0", &fix];
    scene.run(&[CELL]).failure(6, &inputs);
    scene.run(&["plan", CELL]).failure(6, &inputs);
    scene.run(&["lock", "--check"]).failure(6, &["the lock of", "would change", "app>=1.0"]);
    assert_eq!(scene.recipe.read(&lock), locked);

    // A newer version on the index changes no lock by itself.
    scene.run(&["lock"]).success();
    scene.index.publish("app", Published::wheel("app-1.1-py3-none-any.whl", &[], 10));
    scene.run(&["lock", "--check"]).success();
    let upgrade = ["lock", "--check", "--upgrade-package", "app"];
    scene.run(&upgrade).failure(6, &["would change: app 1.0 → 1.1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nothing_fits_is_3_with_the_chain_and_the_reasons() {
    let scene = Scene::new().await;
    let publish = |project: &str, file: &str, requires: &[&str]| {
        scene.index.publish(project, Published::wheel(file, requires, 10));
    };
    publish("app", "app-1.0-py3-none-any.whl", &["driver>=2"]);
    publish("driver", "driver-1.0-py3-none-any.whl", &[]);
    publish("driver", "driver-2.0-cp312-cp312-musllinux_1_2_x86_64.whl", &[]);
    publish("driver", "driver-2.1-cp313-cp313-manylinux_2_28_x86_64.whl", &[]);
    let mut yanked = Published::wheel("driver-2.2-py3-none-any.whl", &[], 10);
    yanked.yanked = Some("it breaks".into());
    scene.index.publish("driver", yanked);
    let mut later = Published::wheel("driver-2.3-py3-none-any.whl", &[], 10);
    later.requires_python = Some(">=3.14".into());
    scene.index.publish("driver", later);
    let chain = [
        "app",
        "driver>=2",
        "cp313",
        "musllinux_1_2_x86_64",
        "2.0",
        "2.1",
        "yanked",
        "2.2",
        "it breaks",
        ">=3.14",
        "2.3",
    ];
    scene.run(&["lock"]).failure(3, &chain);
    assert!(!scene.recipe.path(&format!("matrix/{CELL}/lock.toml")).exists());
    assert_eq!(scene.temporary_files(), [""; 0]);

    scene.recipe.edit("layers/app/layer.toml", "app==1.0", "nobody-has-this");
    scene.run(&["lock"]).failure(3, &["nobody-has-this"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_base_without_the_platform_is_3() {
    let scene = Scene::new().await.locked();
    put_base(&scene.registry, "arm64");
    scene.run(&[CELL]).failure(3, &["has no image for `linux/amd64`", "it has: linux/arm64"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_base_with_another_python_is_told() {
    let scene = Scene::new().await.locked();
    // 3.13's image under the tag of 3.12: the tag would lie.
    let wrong = "matrix/1.0/python3.12/alpine3.24";
    scene.recipe.write(&format!("{wrong}/cell.toml"), "");
    let manifest = scene.registry.manifest(crate::scene::BASE, "3.13-alpine3.24").unwrap();
    scene.registry.put_manifest(
        crate::scene::BASE,
        Some("3.12-alpine3.24"),
        &manifest.0,
        manifest.1,
    );
    scene.run(&["lock", wrong]).success();
    scene.run(&[wrong]).failure(5, &["says python 3.12, but", "holds 3.13.15"]);
}
