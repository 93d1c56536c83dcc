//! The sandbox's promises, kept or broken by a static busybox: no Python is needed.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use assemble::error::{Failure, Kind};
use assemble::sandbox::{Ending, Error, Job, Lent, Outcome, Promise, Sandbox, Tier};
use fs_err as fs;
use fs_err::os::unix::fs::symlink;
use nix::sys::resource::{Resource, getrlimit};
use tempfile::TempDir;

use crate::support::{skip, tool};

const TIERS: [Tier; 2] = [Tier::Namespaces, Tier::Loader];

/// Where Debian's `busybox-static` puts it.
const BUSYBOX: [&str; 2] = ["/bin/busybox", "/usr/bin/busybox"];

/// A base of one static program, and a work folder beside it.
struct Scene {
    folder: TempDir,
}

impl Scene {
    /// `None`, said loudly, if this machine has no static busybox.
    fn new() -> Option<Self> {
        let busybox = BUSYBOX.iter().map(Path::new).find(|path| {
            fs::read(path).is_ok_and(|bytes| bytes.starts_with(b"\x7fELF") && is_static(&bytes))
        });
        let Some(busybox) = busybox else {
            skip("a static busybox is missing (Debian: busybox-static)");
            return None;
        };
        let folder = TempDir::new().unwrap();
        let root = folder.path().join("rootfs");
        fs::create_dir_all(root.join("usr/bin")).unwrap();
        fs::create_dir_all(root.join("etc")).unwrap();
        fs::create_dir(folder.path().join("work")).unwrap();
        symlink("usr/bin", root.join("bin")).unwrap();
        fs::copy(busybox, root.join("usr/bin/busybox")).unwrap();
        for applet in [
            "sh", "cat", "ls", "touch", "env", "sleep", "id", "yes", "nc", "mount", "unshare",
            "readlink",
        ] {
            symlink("busybox", root.join("usr/bin").join(applet)).unwrap();
        }
        fs::write(root.join("etc/base"), "the base\n").unwrap();
        Some(Self { folder })
    }

    fn root(&self) -> PathBuf {
        self.folder.path().join("rootfs")
    }

    fn work(&self) -> PathBuf {
        self.folder.path().join("work")
    }

    fn job(&self, script: &str) -> Job {
        Job {
            rootfs: self.root(),
            work: self.work(),
            lent: Vec::new(),
            argv: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
            env: BTreeMap::from([("PATH".to_owned(), "/bin".to_owned())]),
            time_limit: Duration::from_secs(20),
            output_limit: 1 << 20,
        }
    }
}

/// Whether an ELF file has no program header of type `PT_INTERP`.
fn is_static(elf: &[u8]) -> bool {
    let count = usize::from(elf[56]);
    (0..count).all(|n| elf[64 + n * 56] != 3)
}

fn sandbox(tier: Tier) -> Sandbox {
    Sandbox { launcher: env!("CARGO_BIN_EXE_assemble").into(), force_loader: tier == Tier::Loader }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

/// Runs it, and says loudly if this machine only has the loader.
fn run(tier: Tier, job: &Job) -> Option<Outcome> {
    let outcome = block_on(sandbox(tier).run(job)).unwrap();
    if outcome.tier != tier {
        skip(&format!("no user namespaces here: {:?}", outcome.refusal));
        return None;
    }
    Some(outcome)
}

fn log(outcome: &Outcome) -> String {
    String::from_utf8(outcome.log.clone()).unwrap()
}

/// Processes that have `marker` in their command line.
fn processes(marker: &str) -> usize {
    fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| fs::read(entry.ok()?.path().join("cmdline")).ok())
        .filter(|line| line.windows(marker.len()).any(|part| part == marker.as_bytes()))
        .count()
}

#[test]
fn the_end_of_a_program_is_told() {
    let Some(scene) = Scene::new() else {
        return;
    };
    for tier in TIERS {
        for (script, ending) in [
            ("exit 0", Ending::Exited(0)),
            ("exit 7", Ending::Exited(7)),
            // Not itself: the first process of a pid namespace is deaf to its own signals.
            ("sh -c 'kill -9 $$'; exit $?", Ending::Exited(137)),
        ] {
            let Some(outcome) = run(tier, &scene.job(script)) else {
                continue;
            };
            assert_eq!(outcome.ending, ending, "{tier} {script}");
            assert_eq!(outcome.success, ending == Ending::Exited(0));
        }
    }
}

#[test]
fn output_is_interleaved_and_input_is_empty() {
    let Some(scene) = Scene::new() else {
        return;
    };
    for tier in TIERS {
        let job = scene.job("echo a; echo b >&2; cat; echo c");
        let Some(outcome) = run(tier, &job) else {
            continue;
        };
        assert_eq!(log(&outcome), "a\nb\nc\n", "{tier}");
    }
}

#[test]
fn the_environment_is_exact() {
    let Some(scene) = Scene::new() else {
        return;
    };
    for tier in TIERS {
        let mut job = scene.job("");
        job.argv = vec!["env".into()];
        job.env.insert("TMPDIR".into(), "/build/tmp".into());
        let Some(outcome) = run(tier, &job) else {
            continue;
        };
        let (path, tmp) = match tier {
            Tier::Namespaces => ("/bin".into(), "/build/tmp".into()),
            Tier::Loader => (
                format!("{}/bin", scene.root().display()),
                format!("{}/tmp", scene.work().display()),
            ),
        };
        let text = log(&outcome);
        let mut lines: Vec<_> = text.lines().collect();
        lines.sort_unstable();
        assert_eq!(lines, [format!("PATH={path}"), format!("TMPDIR={tmp}")]);
    }
}

#[test]
fn only_the_work_folder_can_be_written_and_seen() {
    let Some(scene) = Scene::new() else {
        return;
    };
    fs::write(scene.folder.path().join("secret"), "the host's").unwrap();
    fs::write(scene.work().join("given"), "given\n").unwrap();
    let script = format!(
        "cat given /build/given /etc/base
         for f in / /etc /usr /usr/bin /bin /dev /proc /sys; do touch $f/new 2>/dev/null && echo wrote $f; done
         echo x 2>/dev/null >/etc/base && echo wrote base
         echo 1 2>/dev/null >/proc/sys/kernel/panic && echo wrote sysctl
         mount -o remount,rw / 2>/dev/null && echo remounted
         mount -o remount,rw,bind /usr 2>/dev/null && echo remounted usr
         unshare -r true 2>/dev/null && echo nested
         cat {secret} 2>/dev/null && echo saw the host
         [ -e /root ] || [ -e /home ] || [ -e /etc/passwd ] && echo saw the host
         echo made > /build/made
         echo scratch > /tmp/scratch && cat /tmp/scratch
         ls /",
        secret = scene.folder.path().join("secret").display()
    );
    let Some(outcome) = run(Tier::Namespaces, &scene.job(&script)) else {
        return;
    };
    assert_eq!(
        log(&outcome),
        "given\ngiven\nthe base\nscratch\nbin\nbuild\ndev\netc\nproc\nsys\ntmp\nusr\n"
    );
    assert_eq!(fs::read_to_string(scene.work().join("made")).unwrap(), "made\n");
    // The cached base has not even got new mount points.
    assert_eq!(fs::read_dir(scene.root()).unwrap().count(), 3);
    // What the job made is ours to read and remove.
    fs::remove_dir_all(scene.work()).unwrap();
}

#[test]
fn there_is_no_network() {
    let Some(scene) = Scene::new() else {
        return;
    };
    for tier in TIERS {
        if run(tier, &scene.job("true")).is_some() {
            there_is_no_network_in(tier, &scene);
        }
    }
}

fn there_is_no_network_in(tier: Tier, scene: &Scene) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let script = format!(
        "nc -w 2 127.0.0.1 {port} </dev/null; echo status $?; cat /proc/net/dev /proc/net/route"
    );
    let text = log(&run(tier, &scene.job(&script)).unwrap());
    let said = match tier {
        Tier::Namespaces => "nreachable",
        Tier::Loader => "ddress family not supported",
    };
    assert!(text.contains(said) && text.contains("status 1"), "{text}");
    // In place, the host's is not to be read.
    let devices: Vec<_> = text
        .lines()
        .filter_map(|line| line.split_once(':'))
        .filter(|(_, counters)| counters.split_whitespace().count() == 16)
        .map(|(name, _)| name.trim())
        .collect();
    assert!(devices.iter().all(|name| *name == "lo" || name.ends_with('0')), "{devices:?}");
    listener.set_nonblocking(true).unwrap();
    assert!(listener.accept().is_err());
}

#[test]
fn nothing_outlives_the_job() {
    let Some(scene) = Scene::new() else {
        return;
    };
    for (tier, seconds) in TIERS.into_iter().zip([97_531, 97_532]) {
        let marker = seconds.to_string();
        let script = format!(
            "setsid sleep {marker} & (setsid sh -c 'sleep {marker} & sleep {marker}' &) ; sleep 0.2; echo done"
        );
        let begin = Instant::now();
        let Some(outcome) = run(tier, &scene.job(&script)) else {
            continue;
        };
        assert!(log(&outcome).ends_with("done\n"), "{}", log(&outcome));
        assert!(begin.elapsed() < Duration::from_mins(2));
        assert_eq!(processes(&marker), 0, "{tier}");
    }
}

#[test]
fn a_time_limit_kills_everything() {
    let Some(scene) = Scene::new() else {
        return;
    };
    for (tier, seconds) in TIERS.into_iter().zip([97_541, 97_542]) {
        let marker = seconds.to_string();
        let mut job = scene.job(&format!("echo early; setsid sleep {marker} & sleep {marker}"));
        job.time_limit = Duration::from_millis(2_700);
        let begin = Instant::now();
        let error = block_on(sandbox(tier).run(&job)).unwrap_err();
        assert!(begin.elapsed() < Duration::from_mins(2), "{tier}");
        assert!(matches!(error, Error::TimeLimit { .. }), "{error}");
        assert_eq!(error.to_string(), "`/bin/sh` was killed after 2.7 seconds");
        assert_eq!(error.log(), Some(&b"early\n"[..]));
        assert_eq!(processes(&marker), 0, "{tier}");
    }
}

#[test]
fn an_output_limit_kills_everything() {
    let Some(scene) = Scene::new() else {
        return;
    };
    for (tier, seconds) in TIERS.into_iter().zip([97_551, 97_552]) {
        let marker = seconds.to_string();
        let mut job = scene.job(&format!("sleep {marker} & yes"));
        job.output_limit = 10_000;
        let error = block_on(sandbox(tier).run(&job)).unwrap_err();
        assert!(matches!(error, Error::OutputLimit { limit: 10_000, .. }), "{error}");
        assert_eq!(error.log().unwrap().len(), 10_000);
        assert_eq!(processes(&marker), 0, "{tier}");
        // Exactly the limit is allowed.
        job = scene.job("printf 1234");
        job.output_limit = 4;
        assert!(block_on(sandbox(tier).run(&job)).is_ok());
    }
}

#[test]
fn a_dropped_run_leaves_nothing() {
    let Some(scene) = Scene::new() else {
        return;
    };
    for (tier, seconds) in TIERS.into_iter().zip([97_561, 97_562]) {
        let marker = seconds.to_string();
        let job = scene.job(&format!("setsid sleep {marker} & sleep {marker}"));
        let sandbox = sandbox(tier);
        let cut =
            async { tokio::time::timeout(Duration::from_millis(700), sandbox.run(&job)).await };
        assert!(block_on(cut).is_err());
        let begin = Instant::now();
        while processes(&marker) > 0 && begin.elapsed() < Duration::from_mins(2) {
            std::thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(processes(&marker), 0, "{tier}");
    }
}

#[test]
fn the_umask_and_the_limits_are_the_jobs() {
    let Some(scene) = Scene::new() else {
        return;
    };
    let (_, files) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    let expected = format!("0022\n0\n8388608\n16777216\n80\n{}\n", files.min(16384));
    for tier in TIERS {
        let job = scene.job("umask; ulimit -c; ulimit -f; ulimit -v; ulimit -t; ulimit -Hn");
        let Some(outcome) = run(tier, &job) else {
            continue;
        };
        assert_eq!(log(&outcome), expected, "{tier}");
    }
}

/// Seen from outside, where nothing is hidden.
#[test]
fn there_are_no_privileges() {
    let Some(scene) = Scene::new() else {
        return;
    };
    for (tier, seconds) in TIERS.into_iter().zip([97_571, 97_572]) {
        if run(tier, &scene.job("true")).is_none() {
            continue;
        }
        let marker = seconds.to_string();
        let job = scene.job(&format!("sleep {marker}"));
        let sandbox = sandbox(tier);
        let looked = async {
            let begin = Instant::now();
            while begin.elapsed() < Duration::from_secs(15) {
                tokio::time::sleep(Duration::from_millis(50)).await;
                let status = status(&format!("sleep\0{marker}"));
                if status.is_some() {
                    return status;
                }
            }
            None
        };
        let status = block_on(async {
            tokio::select! {
                outcome = sandbox.run(&job) => panic!("{outcome:?}"),
                status = looked => status,
            }
        });
        let status = status.unwrap_or_else(|| panic!("{tier}: not found"));
        for line in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
            assert!(status.contains(&format!("{line}:\t0000000000000000\n")), "{tier}: {status}");
        }
        assert!(status.contains("NoNewPrivs:\t1\n"), "{tier}: {status}");
    }
}

/// `/proc/<pid>/status` of the process whose command line ends with that.
fn status(end: &str) -> Option<String> {
    fs::read_dir("/proc").unwrap().find_map(|entry| {
        let process = entry.ok()?.path();
        let line = fs::read(process.join("cmdline")).ok()?;
        let found = line.strip_suffix(b"\0")?.ends_with(end.as_bytes());
        found.then(|| fs::read_to_string(process.join("status")).ok()).flatten()
    })
}

#[test]
fn what_is_lent_is_found_and_stays_as_it_is() {
    let Some(scene) = Scene::new() else {
        return;
    };
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("word"), "lent\n").unwrap();
    for tier in TIERS {
        let mut job = scene.job("cat $FILE; echo more 2>/dev/null >>$FILE && echo written; true");
        // A name that the base has is covered by it.
        job.lent = ["tools", "etc"]
            .map(|name| Lent {
                name: name.to_owned(),
                folder: folder.path().to_path_buf(),
                program: None,
            })
            .to_vec();
        for file in ["/tools/word", "/etc/word"] {
            job.env.insert("FILE".to_owned(), file.to_owned());
            let Some(outcome) = run(tier, &job) else {
                continue;
            };
            let expected =
                if outcome.left.contains(&Promise::Files) { "lent\nwritten\n" } else { "lent\n" };
            assert_eq!(log(&outcome), expected, "{tier} {file}");
        }
    }
    // A folder that is not there is an error, not an empty one.
    let mut job = scene.job("true");
    let nowhere = Path::new("/nowhere").to_path_buf();
    job.lent = vec![Lent { name: "tools".to_owned(), folder: nowhere, program: None }];
    let error = block_on(sandbox(Tier::Namespaces).run(&job)).unwrap_err();
    assert!(error.to_string().contains("/nowhere"), "{error}");
}

#[test]
fn programs_that_cannot_run_are_named() {
    let Some(scene) = Scene::new() else {
        return;
    };
    let mut foreign = fs::read(scene.root().join("usr/bin/busybox")).unwrap();
    foreign[18..20]
        .copy_from_slice(&if cfg!(target_arch = "x86_64") { 183_u16 } else { 62 }.to_le_bytes());
    fs::write(scene.root().join("usr/bin/foreign"), foreign).unwrap();
    fs::write(scene.root().join("usr/bin/text"), "hello").unwrap();
    symlink("/etc/../../../../../../bin/sh", scene.root().join("etc/sh")).unwrap();
    for (program, kind, message) in [
        ("/bin/none", Kind::Unsatisfiable, "the base has no program `/bin/none`"),
        ("none", Kind::Unsatisfiable, "the base has no program `none`"),
        (
            "/bin/text",
            Kind::Unsatisfiable,
            "`/bin/text` of the base is neither an ELF file nor a script",
        ),
    ] {
        let mut job = scene.job("");
        job.argv[0] = program.to_owned();
        let error = block_on(sandbox(Tier::Namespaces).run(&job)).unwrap_err();
        assert_eq!((error.kind(), error.to_string().as_str()), (kind, message));
    }
    let mut job = scene.job("");
    job.argv[0] = "/bin/foreign".into();
    let error = block_on(sandbox(Tier::Loader).run(&job)).unwrap_err();
    assert!(matches!(error, Error::ForeignArchitecture { .. }), "{error}");
    assert!(error.hint().is_some());
    // Links are the base's, so this one leads to the base's shell.
    job = scene.job("cat /etc/base");
    job.argv[0] = "/etc/sh".into();
    if let Some(outcome) = run(Tier::Namespaces, &job) {
        assert_eq!(log(&outcome), "the base\n");
    }
}

#[test]
fn scripts_run_in_both_tiers() {
    let Some(scene) = Scene::new() else {
        return;
    };
    let script = scene.work().join("script");
    fs::write(&script, "#!/bin/sh -e\necho $1\nfalse\necho never\n").unwrap();
    fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    for tier in TIERS {
        let mut job = scene.job("");
        job.argv = vec!["/build/script".into(), "word".into()];
        let Some(outcome) = run(tier, &job) else {
            continue;
        };
        assert_eq!(log(&outcome), "word\n", "{tier}");
        assert_eq!(outcome.ending, Ending::Exited(1));
    }
}

#[test]
fn a_launcher_that_is_none_is_an_error() {
    let Some(scene) = Scene::new() else {
        return;
    };
    let with = |launcher: &str| Sandbox { launcher: launcher.into(), force_loader: false };
    let missing = block_on(with("/nowhere/assemble").run(&scene.job("")));
    assert!(matches!(missing, Err(Error::Launch { .. })), "{missing:?}");
    let wrong = block_on(with("/bin/true").run(&scene.job("")));
    assert!(matches!(wrong, Err(Error::NoReport { .. })), "{wrong:?}");
}

#[test]
fn refused_namespaces_fall_back_to_the_loader() {
    let Some(scene) = Scene::new() else {
        return;
    };
    // A user namespace in which no further one may be made, as a container's rules forbid it.
    let launcher = launcher(&scene, "echo 0 >/proc/sys/user/max_user_namespaces");
    let Some(launcher) = launcher else { return };
    let sandbox = Sandbox { launcher, force_loader: false };
    let outcome = match block_on(sandbox.run(&scene.job("echo here > made; echo done"))) {
        Err(Error::NoReport { log, .. }) => {
            return skip(&format!("no namespaces to refuse: {}", String::from_utf8_lossy(&log)));
        }
        outcome => outcome.unwrap(),
    };
    assert_eq!(outcome.tier, Tier::Loader);
    assert_eq!(log(&outcome), "done\n");
    let refusal = outcome.refusal.unwrap();
    assert!(refusal.starts_with("unshare: no more user namespaces"), "{refusal}");
    assert_eq!(fs::read_to_string(scene.work().join("made")).unwrap(), "here\n");
}

/// A launcher that runs the sandbox in a user and a mount namespace where something was done.
fn launcher(scene: &Scene, done: &str) -> Option<PathBuf> {
    let unshare = tool("unshare")?;
    let launcher = scene.folder.path().join("launcher");
    fs::write(
        &launcher,
        format!(
            "#!/bin/sh\nexec {} -Urm /bin/sh -c '{done}; exec {} \"$@\"' sh \"$@\"\n",
            unshare.display(),
            env!("CARGO_BIN_EXE_assemble")
        ),
    )
    .unwrap();
    fs::set_permissions(&launcher, std::fs::Permissions::from_mode(0o755)).unwrap();
    Some(launcher)
}

/// A compiler starts itself again for each of its parts, and asks `/proc` where it is. In a container part
/// of `/proc` is hidden, and then the kernel lets nobody mount another.
#[test]
fn a_lent_program_finds_itself_where_there_is_no_proc() {
    let Some(scene) = Scene::new() else {
        return;
    };
    let Some(launcher) = launcher(&scene, "mount -t tmpfs none /proc/tty") else { return };
    let mut job = scene.job("echo /proc/*; ls /proc/self; readlink /proc/self/exe");
    job.lent = vec![Lent {
        name: "tools".to_owned(),
        folder: scene.root(),
        program: Some("usr/bin/busybox".to_owned()),
    }];
    let outcome = match block_on(Sandbox { launcher, force_loader: false }.run(&job)) {
        Err(Error::NoReport { log, .. }) => {
            return skip(&format!("no namespaces: {}", String::from_utf8_lossy(&log)));
        }
        outcome => outcome.unwrap(),
    };
    assert_eq!(outcome.tier, Tier::Namespaces, "{:?}", outcome.refusal);
    assert_eq!(log(&outcome), "/proc/self\nexe\n/tools/usr/bin/busybox\n");
}
