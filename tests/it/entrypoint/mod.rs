//! What the images' start script promises, under each shell an image may have: the rows of the
//! contract as tables. Locust itself is a stand-in that writes down what it was started with.

mod scene;

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support;
use scene::{Run, Scene, shells, wait};

/// The newest version before 1.0, which speaks of slaves, and the newest of all.
const OLD: &str = "0.14.6";
const NEW: &str = "2.47.0";

const HOST: (&str, &str) = ("ATTACKED_HOST", "http://h");
const MASTER: (&str, &str) = ("LOCUST_MASTER", "m");

type Environment = [(&'static str, &'static str)];

/// A scene for each shell, with a locustfile where one is expected.
fn scenes(version: &str) -> Vec<Scene> {
    shells()
        .iter()
        .map(|shell| Scene::new(shell, version).with(Scene::scripts, "locustfile.py"))
        .collect()
}

/// Runs it under each shell: Locust must be started with this command line.
fn starts(version: &str, environment: &Environment, arguments: &[&str], expected: &str) {
    for scene in scenes(version) {
        let run = scene.run(environment, arguments);
        assert_eq!(
            run.command_line(),
            expected,
            "{version} {environment:?} {arguments:?} in {scene:?}"
        );
        assert_eq!(run.code, Some(0));
    }
}

/// Runs it: this must be all that happens.
fn refuses(scene: &Scene, environment: &Environment, message: &str) {
    let run = scene.run(environment, &[]);
    let what = format!("{environment:?} in {scene:?}");
    assert_eq!(run.stderr, format!("docker-entrypoint: {message}\n"), "{what}");
    assert_eq!(run.stdout, "", "{what}");
    assert_eq!(run.code, Some(64), "{what}");
    assert!(run.seen.is_none(), "{what}");
}

#[test]
fn errors_are_one_line_on_stderr_and_64() {
    let no_host = "You need to set the URL of the host to be tested (ATTACKED_HOST).";
    let bad_mode = "LOCUST_MODE must be standalone, master, slave or worker, not 'bogus'.";
    let no_master = "You need to set LOCUST_MASTER (the master's host name or IP) in slave mode.";
    let no_master_for_worker =
        "You need to set LOCUST_MASTER (the master's host name or IP) in worker mode.";
    let bad_port =
        |value| format!("LOCUST_MASTER_BIND_PORT must be a port number (1-65535), not '{value}'.");
    let master = ("LOCUST_MODE", "master");
    let slave = ("LOCUST_MODE", "slave");
    let worker = ("LOCUST_MODE", "worker");
    let port = |value| ("LOCUST_MASTER_BIND_PORT", value);
    for scene in [OLD, NEW].into_iter().flat_map(scenes) {
        refuses(&scene, &[], no_host);
        refuses(&scene, &[("LOCUST_MODE", "")], no_host);
        refuses(&scene, &[master], no_host);
        refuses(&scene, &[("LOCUST_OPTS", "--no-web -c 3")], no_host);
        refuses(&scene, &[HOST, ("LOCUST_MODE", "bogus")], bad_mode);
        refuses(&scene, &[("LOCUST_MODE", " bogus\r")], bad_mode);
        refuses(&scene, &[HOST, slave], no_master);
        refuses(&scene, &[slave, ("LOCUST_MASTER", "")], no_master);
        refuses(&scene, &[worker], no_master_for_worker);
        for value in ["abc", "0", "65536", "-1", "5557.0", "99999999999999999999", "1 2"] {
            refuses(&scene, &[HOST, master, port(value)], &bad_port(value));
            refuses(&scene, &[MASTER, slave, port(value)], &bad_port(value));
        }
        refuses(
            &scene,
            &[MASTER, worker, ("LOCUST_MASTER_NODE_PORT", "x")],
            "LOCUST_MASTER_NODE_PORT must be a port number (1-65535), not 'x'.",
        );
        // Whatever a value holds.
        refuses(
            &scene,
            &[("LOCUST_MODE", "a\nb\tc")],
            "LOCUST_MODE must be standalone, master, slave or worker, not 'a b c'.",
        );
    }
}

#[test]
fn a_missing_file_is_an_error_if_nothing_is_mounted() {
    for scene in shells().iter().map(|shell| Scene::new(shell, NEW)) {
        let scripts = scene.scripts();
        let scripts = scripts.display();
        let missing =
            |file| format!("No '{file}' in {scripts}. Mount your scripts there: -v $PWD:{scripts}");
        refuses(&scene, &[HOST], &missing("locustfile.py"));
        refuses(&scene, &[HOST, ("LOCUST_FILE", "a.py")], &missing("a.py"));

        // Not ours to judge: more than one file, another folder, an address, the master's file.
        for file in ["a.py,b.py", "/mnt/a.py", "http://h/a.py", "-", "../home/a.py"] {
            let scene = Scene::new(scene.shell(), NEW).with(Scene::home, "a.py");
            let run = scene.run(&[HOST, ("LOCUST_FILE", file)], &[]);
            assert_eq!(run.command_line(), format!("-f {file} --host=http://h"));
        }
        for arguments in [["-f", "/a.py"], ["--locustfile", "/a.py"]] {
            let run = Scene::new(scene.shell(), NEW).run(&[HOST], &arguments);
            assert_eq!(run.code, Some(0), "{run:?}");
        }
        // A hidden file is enough to say that something is mounted; then Locust speaks.
        for name in [".hidden", "..data", "other.py"] {
            let scene = Scene::new(scene.shell(), NEW).with(Scene::scripts, name);
            assert_eq!(scene.run(&[HOST], &[]).code, Some(0), "{name}");
        }
    }
}

#[test]
fn a_folder_that_cannot_be_entered_is_an_error() {
    for scene in scenes(NEW) {
        fs_err::remove_dir_all(scene.scripts()).unwrap();
        let arguments: [&[&str]; 2] = [&[], &["--headless"]];
        for (environment, arguments) in [&[HOST][..], &[]].into_iter().zip(arguments) {
            let run = scene.run(environment, arguments);
            let expected = format!("Cannot enter {} as user ", scene.scripts().display());
            assert!(run.said()[0].starts_with(&expected), "{run:?}");
            assert_eq!((run.code, run.said().len()), (Some(64), 1));
            assert!(run.seen.is_none());
        }
    }
}

#[test]
fn a_script_without_a_version_says_so() {
    for shell in shells() {
        let scene = Scene::new(&shell, "@locust@");
        refuses(
            &scene,
            &[HOST],
            "This script was installed without a Locust version, it has '@locust@'.",
        );
    }
}

#[test]
fn modes_become_options() {
    let port = ("LOCUST_MASTER_BIND_PORT", "6666");
    for (version, worker) in [(OLD, "--slave"), (NEW, "--worker")] {
        for mode in ["", "standalone", " Standalone "] {
            let mode = ("LOCUST_MODE", mode);
            let expected = "-f locustfile.py --host=http://h";
            starts(version, &[HOST, mode], &[], expected);
            starts(version, &[HOST, mode, MASTER, port], &[], expected);
        }
        for mode in ["master", "MASTER", "mAster\r"] {
            let mode = ("LOCUST_MODE", mode);
            let expected = "-f locustfile.py --host=http://h --master --master-bind-port=";
            starts(version, &[HOST, mode], &[], &format!("{expected}5557"));
            starts(version, &[HOST, mode, port], &[], &format!("{expected}6666"));
        }
        for mode in ["slave", "worker", "Slave", "WORKER"] {
            let mode = ("LOCUST_MODE", mode);
            let options = format!("{worker} --master-host=m --master-port");
            let expected = format!("-f locustfile.py {options}=5557");
            starts(version, &[mode, MASTER], &[], &expected);
            let expected = format!("-f locustfile.py --host=http://h {options}=6666");
            starts(version, &[HOST, mode, MASTER, port], &[], &expected);
        }
    }
    starts(NEW, &[HOST], &[], "-f locustfile.py --host=http://h");
}

#[test]
fn values_have_more_than_one_name() {
    let worker = ("LOCUST_MODE", "worker");
    let expected = "-f a.py --host=http://h";
    for file in ["LOCUST_FILE", "LOCUST_LOCUSTFILE"] {
        for host in ["ATTACKED_HOST", "LOCUST_HOST"] {
            starts(NEW, &[(file, "a.py"), (host, "http://h")], &[], expected);
        }
    }
    starts(
        NEW,
        &[HOST, ("LOCUST_HOST", "x"), ("LOCUST_FILE", "a.py"), ("LOCUST_LOCUSTFILE", "x")],
        &[],
        expected,
    );
    for master in ["LOCUST_MASTER", "LOCUST_MASTER_HOST", "LOCUST_MASTER_NODE_HOST"] {
        starts(
            NEW,
            &[worker, (master, "m"), ("LOCUST_MASTER_NODE_PORT", "6666")],
            &[],
            "-f locustfile.py --worker --master-host=m --master-port=6666",
        );
    }
    // A master does not bind where workers are told to connect.
    starts(
        NEW,
        &[HOST, ("LOCUST_MODE", "master"), ("LOCUST_MASTER_NODE_PORT", "6666")],
        &[],
        "-f locustfile.py --host=http://h --master --master-bind-port=5557",
    );
}

#[test]
fn an_empty_host_is_the_locustfiles_own() {
    let empty = ("ATTACKED_HOST", "");
    let warning = "warning: ATTACKED_HOST is empty, so the host is the one the locustfile names.";
    for scene in scenes(NEW) {
        let run = scene.run(&[empty], &[]);
        assert_eq!(run.command_line(), "-f locustfile.py");
        assert_eq!(run.said(), [warning]);
        let run = scene.run(&[empty], &["--headless"]);
        assert_eq!(run.command_line(), "-f locustfile.py --headless");
        assert_eq!(run.said(), [warning]);
        let run = scene.run(&[empty, ("LOCUST_MODE", "worker"), MASTER], &[]);
        assert_eq!(run.said(), [""; 0], "a worker asks its master");
        let run = scene.run(&[empty, ("LOCUST_HOST", "http://h")], &[]);
        assert_eq!(run.command_line(), "-f locustfile.py --host=http://h");
        assert_eq!(run.said(), [""; 0]);
    }
}

#[test]
fn options_may_say_what_variables_do() {
    for host in ["-H http://h", "-Hhttp://h", "--host http://h", "--host=http://h"] {
        let words: Vec<&str> = host.split(' ').collect();
        let expected = format!("-f locustfile.py {host}");
        starts(NEW, &[("LOCUST_MODE", "standalone")], &words, &expected);
    }
    starts(NEW, &[("LOCUST_OPTS", "-H http://h -t 3s")], &[], "-f locustfile.py -H http://h -t 3s");
    starts(
        NEW,
        &[("LOCUST_MODE", "worker")],
        &["--master-host", "m"],
        "-f locustfile.py --worker --master-port=5557 --master-host m",
    );
    starts(NEW, &[("LOCUST_FILE", "a.py")], &["--worker"], "-f a.py --worker");
}

#[test]
fn options_are_split_at_blanks_and_nowhere_globbed() {
    for scene in scenes(NEW) {
        let scene = scene.with(Scene::scripts, "a.py").with(Scene::scripts, "b.py");
        let options = "  -t 3s\t* ?.py\n[ab].py ~ '--tags  x' \\* $HOME `id` $(id) ";
        let run = scene.run(&[HOST, ("LOCUST_OPTS", options), ("IFS", "t")], &[]);
        assert_eq!(
            run.command_line(),
            r"-f locustfile.py --host=http://h -t 3s * ?.py [ab].py ~ '--tags x' \* $HOME `id` $(id)"
        );
    }
}

/// `LOCUST_OPTS`, what becomes of it, and how often that is said.
type Translation = (&'static str, &'static str, usize);

fn translates(version: &str, environment: &Environment, table: &[Translation]) {
    for scene in scenes(version) {
        for (options, expected, warnings) in table {
            let mut environment = environment.to_vec();
            environment.push(("LOCUST_OPTS", options));
            let run = scene.run(&environment, &[]);
            let line = run.command_line();
            let (_, found) = line.split_once("@ ").unwrap_or((&line, ""));
            assert_eq!(found, *expected, "`{options}` for {version}");
            assert_eq!(run.said().len(), *warnings, "`{options}`: {}", run.stderr);
            for said in run.said() {
                assert!(said.starts_with("warning: LOCUST_OPTS: "), "{said}");
                assert!(said.contains(version), "{said}");
            }
        }
    }
}

/// Ends the part of the command line that is not `LOCUST_OPTS`.
const MARKED_HOST: (&str, &str) = ("ATTACKED_HOST", "@");

#[test]
fn old_spellings_become_new_ones() {
    let table = [
        ("--no-web", "--headless", 1),
        ("-c 10 -r 10", "--users 10 -r 10", 1),
        ("-c10 --clients=3 --clients 4", "--users=10 --users=3 --users 4", 3),
        ("--hatch-rate 2 --hatch-rate=2", "--spawn-rate 2 --spawn-rate=2", 2),
        ("--expect-slaves=2", "--expect-workers=2", 1),
        ("--slave", "--worker", 1),
        ("--port=1 --port 1", "--web-port=1 --web-port 1", 2),
        ("--no-reset-stats -t 1", "-t 1", 1),
        (
            "--headless -u 1 -u2 --spawn-rate=2 --expect-workers 2 --web-port 1",
            "--headless -u 1 -u2 --spawn-rate=2 --expect-workers 2 --web-port 1",
            0,
        ),
        ("-r 1 -t 2 -P 3 -f x -L y", "-r 1 -t 2 -P 3 -f x -L y", 0),
        ("--csv=--no-web -conf --clientsx x=y", "--csv=--no-web -conf --clientsx x=y", 0),
    ];
    translates(NEW, &[MARKED_HOST], &table);
    let said = scenes(NEW).into_iter().map(|scene| {
        let run = scene.run(&[HOST, ("LOCUST_OPTS", "-c3")], &[]);
        run.stderr
    });
    for stderr in said {
        assert_eq!(
            stderr,
            "docker-entrypoint: warning: LOCUST_OPTS: '-c' is '--users' in Locust 2.47.0.\n"
        );
    }
}

#[test]
fn new_spellings_become_old_ones() {
    let table = [
        ("--headless", "--no-web", 1),
        ("-u 10 -u3 --users=4", "--clients 10 --clients=3 --clients=4", 3),
        ("--users 4", "--clients 4", 1),
        ("--spawn-rate=2 --spawn-rate 3", "--hatch-rate=2 --hatch-rate 3", 2),
        ("--expect-workers 2", "--expect-slaves 2", 1),
        ("--worker", "--slave", 1),
        (
            "--no-web -c 1 --hatch-rate 2 --expect-slaves=2 --no-reset-stats --port 3",
            "--no-web -c 1 --hatch-rate 2 --expect-slaves=2 --no-reset-stats --port 3",
            0,
        ),
    ];
    for version in ["0.9.0", "0.10.0", OLD] {
        translates(version, &[MARKED_HOST], &table);
    }
}

#[test]
fn the_rate_has_the_name_it_has_in_that_version() {
    let hatch = [
        ("--spawn-rate=2", "--hatch-rate=2", 1),
        ("--hatch-rate 2", "--hatch-rate 2", 0),
        ("-c 1", "--users 1", 1),
    ];
    let spawn = [("--spawn-rate=2", "--spawn-rate=2", 0), ("--hatch-rate 2", "--spawn-rate 2", 1)];
    for version in ["1.0", "1.0.3", "1.1.1"] {
        translates(version, &[MARKED_HOST], &hatch);
    }
    // As numbers: 2.9 < 2.10 < 2.47, and a version may have letters.
    for version in ["1.2", "1.2.3", "1.10.0", "2.0.0", "2.0b3", "10.0.0"] {
        translates(version, &[MARKED_HOST], &spawn);
    }
}

#[test]
fn a_worker_is_given_no_run_time_where_it_would_end() {
    let environment =
        [("LOCUST_MODE", "worker"), ("LOCUST_MASTER", "m"), ("LOCUST_MASTER_BIND_PORT", "1")];
    let options = "-t 10s -t10s --run-time=1m --run-time 1m --tags a";
    for (version, expected, warnings) in [
        ("0.10.0", "--tags a", 4),
        ("1.6.0", "--tags a", 4),
        ("2.15.1", "--tags a", 4),
        ("2.26.0", "--tags a", 4),
        ("2.27.0", options, 0),
        ("2.47.0", options, 0),
    ] {
        for scene in scenes(version) {
            let with_options = [&environment[..], &[("LOCUST_OPTS", options)]].concat();
            let run = scene.run(&with_options, &[]);
            let line = run.command_line();
            let (_, found) = line.split_once("--master-port=1 ").unwrap();
            assert_eq!(found, expected, "{version}");
            assert_eq!(run.said().len(), warnings, "{version}");

            // A master needs it, and what is said as an argument is the person's own.
            let run = scene.run(&[HOST, ("LOCUST_OPTS", "-t 1s")], &[]);
            assert!(run.command_line().ends_with(" -t 1s"), "{version}");
            let run = scene.run(&environment, &["-t", "1s"]);
            assert!(run.command_line().ends_with(" -t 1s"), "{version}");
        }
    }
}

#[test]
fn arguments_alone_pass_straight_through() {
    for version in [OLD, NEW] {
        for (arguments, expected) in [
            (&["--headless", "-u", "1"][..], "--headless -u 1"),
            (&["locust", "--headless"], "--headless"),
            (&["locust"], ""),
            (&["--worker", "--master-host", "m"], "--worker --master-host m"),
            (&["--no-web", "-c", "1", "-t", "1s"], "--no-web -c 1 -t 1s"),
            (&["MyUser", "--tags", "a b", "*"], "MyUser --tags \"a b\" *"),
            (&[""], "\"\""),
        ] {
            starts(version, &[], arguments, expected);
            // Empty is unset, and these are Locust's own.
            let own = [
                ("LOCUST_MODE", ""),
                ("LOCUST_OPTS", ""),
                ("LOCUST_MASTER", ""),
                ("LOCUST_HOST", "http://h"),
                ("LOCUST_LOCUSTFILE", "a.py"),
                ("LOCUST_MASTER_BIND_PORT", "6666"),
            ];
            starts(version, &own, arguments, expected);
            for scene in scenes(version) {
                let seen = scene.run(&own, arguments).seen.unwrap();
                assert!(!seen.environment.contains_key("LOCUST_MASTER"));
                assert_eq!(seen.environment["LOCUST_MASTER_BIND_PORT"], "6666");
                assert_eq!(seen.environment["LOCUST_LOCUSTFILE"], "a.py");
            }
        }
    }
}

#[test]
fn arguments_beside_variables_come_last() {
    let expected = "-f locustfile.py --host=http://h -t 3s --tags \"a b\" -c 1 *";
    let arguments = ["--tags", "a b", "-c", "1", "*"];
    let options = ("LOCUST_OPTS", "-t 3s");
    starts(NEW, &[HOST, options], &arguments, expected);
    starts(NEW, &[HOST], &["MyUser"], "-f locustfile.py --host=http://h MyUser");
    starts(NEW, &[HOST], &["locust"], "-f locustfile.py --host=http://h");
    starts(OLD, &[HOST], &["locust", "--headless"], "-f locustfile.py --host=http://h --headless");
    for seed in [("LOCUST_FILE", "a.py"), ("LOCUST_OPTS", "-t 3s"), ("LOCUST_MODE", "master")] {
        for scene in scenes(NEW) {
            let run = scene.run(&[seed], &["--headless"]);
            assert_eq!(run.code, Some(64), "{seed:?} without a host is an error");
        }
    }
}

#[test]
fn help_and_version_need_nothing() {
    for version in [OLD, NEW] {
        for word in ["-h", "--help", "-V", "--version"] {
            starts(version, &[], &[word], word);
            let bad = [("LOCUST_MODE", "bogus"), ("LOCUST_MASTER_BIND_PORT", "x"), MASTER];
            starts(version, &bad, &["locust", word], word);
            for scene in scenes(version) {
                let seen = scene.run(&bad, &[word]).seen.unwrap();
                assert!(!seen.environment.contains_key("LOCUST_MASTER"));
                assert!(!seen.environment.contains_key("LOCUST_MASTER_BIND_PORT"));
            }
        }
    }
}

#[test]
fn programs_run_untouched() {
    for scene in scenes(NEW) {
        let shell = scene.path();
        let run = scene.run(&[MASTER], &["env"]);
        assert_eq!(run.code, Some(0), "{run:?}");
        assert!(run.stdout.contains("LOCUST_MASTER=m\n"), "{}", run.stdout);
        assert!(run.stdout.contains(&format!("PATH={shell}\n")));
        assert!(run.seen.is_none());

        let run = scene.run(&[], &["/bin/sh", "-c", "echo \"$1\"; exit 9", "sh", "a  b"]);
        assert_eq!((run.stdout.as_str(), run.code), ("a  b\n", Some(9)));

        // Words that only the shell knows are no programs; nor is a folder or a plain file.
        for word in ["if", "unset", "say", "/bin", "./locustfile.py"] {
            let run = scene.run(&[], &[word]);
            assert_eq!(run.command_line(), word);
        }
    }
}

#[test]
fn the_working_folder_is_where_the_scripts_are() {
    let folder = |run: Run| run.seen.unwrap().folder;
    for shell in shells() {
        for arguments in [&[][..], &["--headless"]] {
            let scene = Scene::new(&shell, NEW)
                .with(Scene::scripts, "locustfile.py")
                .with(Scene::home, "locustfile.py");
            assert_eq!(folder(scene.run(&[HOST], arguments)), scene.scripts());
        }
        // The official image's: scripts are mounted over the home folder, and only options given.
        let scene = Scene::new(&shell, NEW).with(Scene::home, "locustfile.py");
        assert_eq!(folder(scene.run(&[], &["--headless"])), scene.home());
        let scene = scene.with(Scene::scripts, ".hidden");
        assert_eq!(folder(scene.run(&[], &["--headless"])), scene.scripts());
        let scene = Scene::new(&shell, NEW);
        assert_eq!(folder(scene.run(&[], &["--headless"])), scene.scripts());
    }
}

#[test]
fn the_environment_stays_but_for_what_clashes() {
    let kept = [
        HOST,
        ("LOCUST_MODE", "Slave"),
        ("LOCUST_OPTS", " -t  3s * "),
        ("LOCUST_FILE", "a.py"),
        ("LOCUST_MASTER_HOST", "other"),
        ("LOCUST_HOST", "tcp://broker:1883"),
        ("MASTER_PORT", "tcp://10.0.0.1:5557"),
        ("host", "a"),
        ("port", "b"),
        ("mode", "c"),
        ("TRICK", "x"),
        ("HOME", "/h"),
    ];
    let removed = [MASTER, ("LOCUST_MASTER_BIND_PORT", "6666")];
    for version in [OLD, NEW] {
        for scene in scenes(version) {
            let run = scene.run(&[&kept[..], &removed].concat(), &[]);
            let mut expected: std::collections::BTreeMap<_, _> =
                kept.map(|(name, value)| (name.into(), value.into())).into();
            expected.insert("PATH".to_owned(), scene.path());
            assert_eq!(run.seen.unwrap().environment, expected);
            let emptied = [HOST, ("LOCUST_MASTER", ""), ("LOCUST_MASTER_BIND_PORT", "")];
            let seen = scene.run(&emptied, &[]).seen.unwrap();
            assert_eq!(seen.environment.len(), 2, "{:?}", seen.environment);
        }
    }
}

#[test]
fn service_links_are_ignored_and_said() {
    let links = [
        ("LOCUST_PORT", "tcp://10.0.0.1:8089"),
        ("LOCUST_PORT_8089_TCP", "tcp://10.0.0.1:8089"),
        ("LOCUST_WEB_PORT", "udp://10.0.0.1:8089"),
        ("LOCUST_MASTER_BIND_PORT", "tcp://10.0.0.1:5557"),
        ("LOCUST_MASTER_NODE_PORT", "sctp://10.0.0.1:5557"),
    ];
    // Lines of another variable that look like one: neither may be taken for it.
    let trick = ("TRICK", "x\nLOCUST_FILE=tcp://x\nLOCUST_USERS=tcp://x");
    let plain = [HOST, trick, ("LOCUST_FILE", "a.py"), ("LOCUST_MODE", "master")];
    for scene in scenes(NEW) {
        let run = scene.run(&[&plain[..], &links].concat(), &[]);
        assert_eq!(run.command_line(), "-f a.py --host=http://h --master --master-bind-port=5557");
        let mut said: Vec<_> = run.said().into_iter().map(str::to_owned).collect();
        let mut expected = links.map(|(name, value)| {
            format!(
                "warning: ignored {name}='{value}', which looks like a Kubernetes service link."
            )
        });
        said.sort();
        expected.sort();
        assert_eq!(said, expected);
        let seen = run.seen.unwrap();
        for (name, _) in links {
            assert!(!seen.environment.contains_key(name), "{name}");
        }

        // With arguments alone too, and for programs.
        let run = scene.run(&links[..1], &["--headless"]);
        assert!(!run.seen.unwrap().environment.contains_key("LOCUST_PORT"));
        let run = scene.run(&links[..1], &["env"]);
        assert!(!run.stdout.contains("LOCUST_PORT"), "{}", run.stdout);
    }
}

#[test]
fn values_reach_locust_as_they_are() {
    for value in ["a b", "a;touch x", "$(touch x)", "`touch x`", "*", "a\nb", "\"", "'", "\\"] {
        for scene in scenes(NEW) {
            let environment = [
                ("ATTACKED_HOST", value),
                ("LOCUST_FILE", value),
                ("LOCUST_MODE", "worker"),
                ("LOCUST_MASTER", value),
            ];
            let seen = scene.run(&environment, &[value]).seen.unwrap();
            let expected = [
                "-f",
                value,
                &format!("--host={value}"),
                "--worker",
                &format!("--master-host={value}"),
                "--master-port=5557",
                value,
            ];
            assert_eq!(seen.arguments, expected);
            assert!(!scene.scripts().join("x").exists());
        }
    }
}

#[test]
fn locust_takes_the_place_of_the_shell() {
    for scene in scenes(NEW) {
        for code in [0, 1, 2, 7, 64, 255] {
            scene.exits_with(&code.to_string());
            let ways: [(&Environment, &[&str]); 3] =
                [(&[HOST], &[]), (&[], &["--headless"]), (&[], &["--help"])];
            for (environment, arguments) in ways {
                let run = scene.run(environment, arguments);
                assert_eq!(run.code, Some(code));
                assert_eq!(run.seen.unwrap().pid, run.pid);
                assert_eq!((run.stdout.as_str(), run.stderr.as_str()), ("", ""));
            }
        }
    }
}

/// `docker stop`: the kernel gives PID 1 of a namespace no signal that it does not handle.
#[test]
fn a_container_ends_at_once_with_locusts_own_code() {
    let Some(unshare) = support::tool("unshare") else {
        return;
    };
    let unshare = unshare.to_str().unwrap();
    let unprivileged = [unshare, "--user", "--map-root-user"];
    let namespace = ["--pid", "--fork", "--kill-child"];
    let privileged = [unshare, "--pid", "--fork", "--kill-child"];
    let wrapper = [&unprivileged[..], &namespace].concat();
    let works = |wrapper: &[&str]| {
        let mut probe = Command::new(wrapper[0]);
        let status = probe.args(&wrapper[1..]).arg("true").output().unwrap().status;
        status.success()
    };
    let wrapper = if works(&privileged) {
        privileged.to_vec()
    } else if works(&wrapper) {
        wrapper
    } else {
        return support::skip("unshare cannot make a PID namespace here");
    };
    for scene in scenes(NEW) {
        let child = scene.start(&wrapper, &[HOST]);
        let seen = scene.seen().unwrap();
        assert_eq!(seen.pid, 1);
        kill(only_child_of(child.id()), Signal::SIGTERM).unwrap();
        let sent = Instant::now();
        let output = wait(child);
        assert_eq!(output.status.code(), Some(7), "{output:?}");
        assert!(sent.elapsed() < Duration::from_mins(1));
    }
}

fn only_child_of(pid: u32) -> Pid {
    let children = fs_err::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    Pid::from_raw(children.trim().parse().unwrap())
}

#[test]
fn shellcheck_finds_nothing() {
    let Some(shellcheck) = support::tool("shellcheck") else {
        return;
    };
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let output = Command::new(shellcheck)
        .args(["--severity", "style"])
        .arg(root.join("layers/entrypoint/docker-entrypoint.sh"))
        .arg(root.join("tests/it/entrypoint/locust"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}
