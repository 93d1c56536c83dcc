//! Images are started before they are written, and again by `assemble check`.

use crate::bases::{self, BaseSpec};
use crate::project::{CELL, Project, text};

const CHECK: &str = "[check]\ncommand = [\"demo\", \"--version\"]\n";

async fn project(main: &str) -> Project {
    let project = Project::new(&["linux/amd64"], CHECK).await;
    let spec = BaseSpec::new("3.13", "alpine3.24");
    let base = bases::make(spec, &crate::base_cache()).await.unwrap();
    base.serve(&project.registry, "library/python", Some(&spec.tag())).unwrap();
    let entry_points = "[console_scripts]\ndemo = demo:main\n";
    project.wheel(
        "demo",
        "py3-none-any",
        &[
            ("demo.py", main.as_bytes().to_vec()),
            ("demo-1.0.dist-info/entry_points.txt", entry_points.as_bytes().to_vec()),
        ],
    );
    project.succeed(&["new", CELL]).await;
    project
}

const GOOD: &str = "import sys\ndef main():\n    print('demo 1.0 on', sys.implementation.name)\n";

#[tokio::test(flavor = "multi_thread")]
#[cfg(target_arch = "x86_64")]
async fn an_image_is_started_and_what_was_seen_is_remembered() {
    let project = project(GOOD).await;
    let said = project.succeed(&[CELL, "-o", "image.tar"]).await;
    assert!(said.contains("start check `demo --version` ran (tier "), "{said}");
    assert!(said.contains("): demo 1.0 on cpython"), "{said}");
    let again = project.succeed(&["check", "image.tar"]).await;
    assert!(again.contains(", seen before): demo 1.0 on cpython"), "{again}");

    // The second tier, for those who have no namespaces, on another machine's cache.
    let mut command = project.command(&["check", "image.tar", "--cache-dir", "other"]);
    command.env("ASSEMBLE_SANDBOX", "loader");
    let loader = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let loader = text(&loader);
    assert!(loader.contains("ran (tier loader"), "{loader}");
    assert!(loader.contains("): demo 1.0 on cpython"), "{loader}");

    // A layout, a reference and the cell itself.
    project.succeed(&[CELL, "--push", "--format", "oci", "-o", "layout"]).await;
    let reference = format!("{}/demo:1.0-python3.13-alpine3.24", project.registry.address());
    for what in ["layout", &reference, CELL] {
        let said = project.succeed(&["check", what, "--cache-dir", "third"]).await;
        assert!(said.contains("demo 1.0 on cpython"), "{what}: {said}");
        assert!(said.contains("RECORDs, commands, scripts and links are true"), "{what}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[cfg(target_arch = "x86_64")]
async fn an_image_that_does_not_start_is_not_written_unless_asked_for() {
    let project = project("import gone\n").await;
    let output = project.run(&[CELL, "-o", "image.tar"]).await;
    let said = text(&output);
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains("the image does not start: `demo --version` ended with exit code 1"));
    assert!(said.contains("ModuleNotFoundError: No module named 'gone'"), "{said}");
    assert!(!project.path("image.tar").exists());

    let said = project.succeed(&[CELL, "-o", "image.tar", "--no-check"]).await;
    assert!(said.contains("start check not run: --no-check"), "{said}");
    let said = project.succeed(&["check", "image.tar"]).await;
    assert!(said.contains("start check not run: no label "), "{said}");

    // A push leaves the base where it is; --check fetches it.
    let said = project.succeed(&[CELL, "--push", "--cache-dir", "empty"]).await;
    assert!(said.contains("start check not run: the base is not on this machine"), "{said}");
    let output = project.run(&[CELL, "--push", "--check", "--cache-dir", "empty"]).await;
    assert_eq!(output.status.code(), Some(3), "{}", text(&output));
}
