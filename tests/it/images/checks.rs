//! One function for each way in which the image is used.

use std::path::Path;

use super::container::{Container, until};
use super::dialect::{NEW_HEADLESS, OLD_HEADLESS};
use super::{Stage, readable_folder};

/// What is looked at, and how.
type Check = (&'static str, fn(&Stage));

/// All of them.
pub(super) const CHECKS: [Check; 7] = [
    ("standalone", standalone),
    ("without a web UI", headless),
    ("under any uid", any_uid),
    ("master and slaves", master_and_slaves),
    ("the chart's start line", chart),
    ("the operator with a mounted home", operator_over_home),
    ("the operator that starts by itself", operator_with_autostart),
];

/// The README's first line, and `docker stop`.
fn standalone(stage: &Stage) {
    let scripts = stage.scripts_at("/locust");
    let container = Container::run(
        &stage.docker,
        &[
            "--name=standalone",
            "--hostname=standalone",
            "--env=ATTACKED_HOST=http://standalone:8089",
            "--publish=8089",
            "--volume",
            &scripts,
            &stage.image,
        ],
    );
    container.wait_for_web_ui();
    container.swarm(stage.dialect, None);
    assert_eq!(container.stop(), "0");
}

/// A server that is tested by containers without a web UI of their own.
fn target(stage: &Stage) -> Container<'_> {
    let container = Container::run(
        &stage.docker,
        &[
            "--name=target",
            "--workdir=/mnt",
            "--entrypoint=python3",
            &stage.image,
            "-m",
            "http.server",
            "8000",
        ],
    );
    let address = format!("{}:8000", container.inspect("{{.NetworkSettings.IPAddress}}"));
    until("the target does not answer", || {
        (crate::support::tools::http_status(&address, "/") == Some(200)).then_some(())
    });
    container
}

/// Starts a run without a web UI that ends by itself.
fn run_headless<'a>(stage: &'a Stage, options: &[&str], words: &str) -> Container<'a> {
    let scripts = format!("--volume={}", stage.scripts_at("/locust:ro"));
    let words = format!("--env=LOCUST_OPTS={words}");
    let common = ["--link=target", "--env=ATTACKED_HOST=http://target:8000", &words, &scripts];
    Container::run(&stage.docker, &[&common, options, &[&stage.image]].concat())
}

/// It has ended well, after requests that were all answered.
fn assert_success(container: &Container<'_>) {
    assert_eq!(container.wait(), "0");
    let (requests, failures) = container.summary();
    assert!(requests > 0 && failures.starts_with("0("), "{requests} requests, failures {failures}");
}

/// `LOCUST_OPTS` in the words of old and new versions.
fn headless(stage: &Stage) {
    let _target = target(stage);
    let runs = [OLD_HEADLESS, NEW_HEADLESS].map(|words| (words, run_headless(stage, &[], words)));
    for (words, container) in &runs {
        assert_success(container);
        let warned = container.logs().contains("docker-entrypoint: warning: LOCUST_OPTS");
        assert_eq!(warned, *words != stage.dialect.headless, "{words}");
    }
}

/// As `OpenShift` starts it, and as a careful chart does.
fn any_uid(stage: &Stage) {
    let _target = target(stage);
    let words = stage.dialect.headless;
    let hardened = ["--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges"];
    let runs = [
        run_headless(stage, &["--user=12345:0"], words),
        run_headless(stage, &hardened, words),
        run_headless(stage, &[&hardened[..], &["--user=12345:0"]].concat(), words),
    ];
    for container in &runs {
        assert_success(container);
    }
}

/// The seed's own lines, but for ports of this machine (it has other tests) and `--rm` (the exit
/// codes are looked at).
fn master_and_slaves(stage: &Stage) {
    let scripts = stage.scripts_at("/locust");
    let master = Container::run(
        &stage.docker,
        &[
            "--name",
            "master",
            "--hostname",
            "master",
            "-p",
            "8089",
            "-p",
            "5557",
            "-p",
            "5558",
            "-v",
            &scripts,
            "-e",
            "ATTACKED_HOST=http://master:8089",
            "-e",
            "LOCUST_MODE=master",
            &stage.image,
        ],
    );
    let slave = |name: &str, mode: &str| {
        Container::run(
            &stage.docker,
            &[
                "--name",
                name,
                "--link",
                "master",
                "--env",
                "NO_PROXY=master",
                "-v",
                &scripts,
                "-e",
                "ATTACKED_HOST=http://master:8089",
                "-e",
                mode,
                "-e",
                "LOCUST_MASTER=master",
                &stage.image,
            ],
        )
    };
    // The old word and the new one.
    let slaves = [slave("slave0", "LOCUST_MODE=slave"), slave("slave1", "LOCUST_MODE=worker")];
    master.wait_for_web_ui();
    master.swarm(stage.dialect, Some(2));
    assert_eq!(slaves[0].stop(), "0");
    assert_eq!(master.stop(), "0");
    // It was told to end by its master.
    assert_eq!(slaves[1].wait(), "0");
}

/// The deliveryhero chart: its own script is the command, with arguments; settings by Locust's own
/// variables; a read-only root and no capabilities, as its values suggest.
fn chart(stage: &Stage) {
    if !stage.dialect.in_kubernetes {
        return;
    }
    let config = readable_folder();
    fs_err::write(
        config.path().join("docker-entrypoint.sh"),
        "#!/bin/sh\nset -ex\npip --version\nexec /opt/venv/bin/locust $@\n",
    )
    .unwrap();
    let config = format!("{}:/config:ro", config.path().display());
    let scripts = stage.scripts_at("/mnt/locust:ro");
    let common = [
        "--entrypoint=sh",
        "--user=1000",
        "--read-only",
        "--cap-drop=ALL",
        "--env=LOCUST_HOST=http://chart-master:8089",
        "--env=LOCUST_LOCUSTFILE=/mnt/locust/locustfile.py",
        "--env=LOCUST_LOGLEVEL=INFO",
        "--volume",
        &config,
        "--volume",
        &scripts,
    ];
    let start = [&*stage.image, "/config/docker-entrypoint.sh"];
    let name = ["--name=chart-master", "--hostname=chart-master"];
    let master =
        Container::run(&stage.docker, &[&common, &name[..], &start, &["--master"]].concat());
    let link = [
        "--link=chart-master",
        "--env=LOCUST_MASTER_NODE_HOST=chart-master",
        "--env=LOCUST_MASTER_NODE_PORT=5557",
    ];
    let worker =
        Container::run(&stage.docker, &[&common, &link[..], &start, &["--worker"]].concat());
    master.wait_for_web_ui();
    master.swarm(stage.dialect, Some(1));
    assert_eq!(master.stop(), "0");
    assert_eq!(worker.wait(), "0");
}

/// locustio/k8s-operator: arguments only, and the scripts over HOME, read-only.
fn operator_over_home(stage: &Stage) {
    if !stage.dialect.in_kubernetes {
        return;
    }
    let scripts = stage.scripts_at("/home/locust:ro");
    let name = ["--name=test-master", "--hostname=test-master"];
    let mount = ["--volume", &*scripts];
    let host = "--host=http://test-master:8089";
    let run = |options: &[&str], arguments: &[&str]| {
        let all = [&mount, options, &[&*stage.image], arguments].concat();
        Container::run(&stage.docker, &all)
    };
    let master = run(&name, &["--master", host]);
    let worker = run(&["--link=test-master"], &["--worker", "--master-host", "test-master"]);
    master.wait_for_web_ui();
    master.swarm(stage.dialect, Some(1));
    assert_eq!(master.stop(), "0");
    assert_eq!(worker.wait(), "0");
}

/// AbdelrhmanHamouda/locust-k8s-operator: arguments only, scripts below `/lotest/src`.
fn operator_with_autostart(stage: &Stage) {
    if !stage.dialect.autostart {
        return;
    }
    let _target = target(stage);
    let scripts = format!("--volume={}", stage.scripts_at("/lotest/src:ro"));
    let libraries = readable_folder();
    let libraries = format!("--volume={}:/opt/locust/lib", libraries.path().display());
    let run = |options: &[&str], arguments: &str| {
        let arguments: Vec<_> = arguments.split(' ').collect();
        let start = [&*stage.image, "--locustfile", "/lotest/src/locustfile.py"];
        let options = [&["--link=target", &scripts, &libraries], options].concat();
        Container::run(&stage.docker, &[&options[..], &start, &arguments].concat())
    };
    let master = run(
        &["--name=lotest-master"],
        "--host=http://target:8000 --users=2 --spawn-rate=2 --run-time=4s --master \
         --master-port=5557 --expect-workers=1 --autostart --autoquit 1 --enable-rebalancing \
         --only-summary",
    );
    let worker =
        run(&["--link=lotest-master"], "--worker --master-port=5557 --master-host=lotest-master");
    assert_success(&master);
    assert_eq!(worker.wait(), "0");
}

/// A path as `docker run --volume` wants it.
pub(super) fn mounted(folder: &Path, place: &str) -> String {
    format!("{}:{place}", folder.display())
}
