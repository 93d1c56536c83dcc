//! Where people run `assemble`: on a machine, as root in a container with Docker's own rules, as nobody
//! in particular in one, and where the kernel is told to refuse what the sandbox would ask of it. An sdist
//! is built and the image is started in each; what comes out is the same to the byte.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use crate::bases::{self, BaseSpec};
use crate::command::{Outcome, PROGRAM};
use crate::platforms::project;
use crate::project::{CELL, text};
use crate::support::skip;
use crate::support::tools::{Docker, succeed};

/// A seccomp profile.
const OLD_KERNEL: &str = r#"{
    "defaultAction": "SCMP_ACT_ALLOW",
    "syscalls": [{
        "names": ["unshare", "seccomp", "landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self"],
        "action": "SCMP_ACT_ERRNO"
    }]
}"#;

/// An image with no file: programs and libraries are this machine's, mounted below `/usr`.
fn empty_image(docker: &Docker, folder: &Path) {
    let mut tar = tar::Builder::new(Vec::new());
    let mut entry = |path: &str, kind, target: &str, mode| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(0);
        if target.is_empty() {
            tar.append_data(&mut header, path, &[][..]).unwrap();
        } else {
            tar.append_link(&mut header, path, target).unwrap();
        }
    };
    for name in ["bin", "lib", "lib64", "sbin"] {
        entry(name, tar::EntryType::Symlink, &format!("usr/{name}"), 0o777);
    }
    for name in ["dev/", "etc/", "proc/", "sys/", "usr/"] {
        entry(name, tar::EntryType::Directory, "", 0o755);
    }
    entry("tmp/", tar::EntryType::Directory, "", 0o1777);
    let file = folder.join("empty.tar");
    fs_err::write(&file, tar.into_inner().unwrap()).unwrap();
    docker.run(&["import", &file.display().to_string(), "empty"]);
}

#[tokio::test(flavor = "multi_thread")]
#[cfg(target_arch = "x86_64")]
async fn the_image_is_the_same_in_every_place() {
    if !Path::new("/lib").is_symlink() {
        return skip("this machine's libraries are not all below /usr");
    }
    let project = project(Some("'pure'")).await;
    let spec = BaseSpec::new("3.13", "alpine3.24");
    let base = bases::make(spec, &crate::base_cache()).await.unwrap();
    // Readable for everybody.
    let layout = project.path("base");
    succeed(std::process::Command::new("cp").arg("-r").arg(base.path()).arg(&layout));
    for folder in [project.path(""), layout.clone()] {
        fs_err::set_permissions(folder, Permissions::from_mode(0o755)).unwrap();
    }
    let named = format!("{}/library/python:{}", project.registry.address(), spec.tag());
    let base = format!("{named}={}", layout.display());
    let folder = |name: &str| project.path(format!("places/{name}"));
    let arguments = |name: &str| {
        let folder = folder(name);
        fs_err::create_dir_all(&folder).unwrap();
        fs_err::set_permissions(&folder, Permissions::from_mode(0o777)).unwrap();
        let folder = folder.display();
        ["-o", &format!("{folder}/image.tar"), "--cache-dir", &format!("{folder}/cache")]
            .map(str::to_owned)
            .into_iter()
            .chain([CELL, "--platform", "linux/amd64", "--base-layout", &base].map(str::to_owned))
            .collect::<Vec<_>>()
    };
    let own = arguments("own");
    let own: Vec<&str> = own.iter().map(String::as_str).collect();
    let output = project.run(&own).await;
    assert!(output.status.success(), "{}", text(&output));
    let expected = fs_err::read(folder("own").join("image.tar")).unwrap();

    // What a job is kept from without namespaces, on this machine's kernel.
    let image = folder("own").join("image.tar").display().to_string();
    let mut command = project.command(&["check", &image, "--cache-dir", "other"]);
    command.env("ASSEMBLE_SANDBOX", "loader");
    let said = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let said = text(&said);
    let loader = said.split("(tier ").nth(1).and_then(|rest| rest.split(')').next());
    let loader = loader.unwrap_or_else(|| panic!("{said}"));
    assert!(loader.starts_with("loader"), "{said}");

    // As a kernel would be that knows neither namespaces nor Landlock nor filters.
    project.write("old-kernel.json", OLD_KERNEL);
    let old_kernel =
        format!("--security-opt=seccomp={}", project.path("old-kernel.json").display());
    let places: Vec<_> = [
        ("root", &["--user=0"][..], loader),
        ("nobody", &["--user=1000:1000"], loader),
        (
            "old-kernel",
            &["--user=1000:1000", &old_kernel],
            "loader; within reach: the host's files, the host's processes, \
             the host's local sockets, the network",
        ),
        (
            "nobody-confining",
            &["--user=1000:1000", "--security-opt=seccomp=unconfined"],
            "namespaces",
        ),
    ]
    .into_iter()
    .map(|(name, options, tier)| {
        let options: Vec<String> = options.iter().map(ToString::to_string).collect();
        (name, options, tier.to_owned(), arguments(name))
    })
    .collect();
    let root = project.path("");
    let said = tokio::task::spawn_blocking(move || {
        let docker = Docker::start()?;
        empty_image(&docker, &root);
        let root = root.display().to_string();
        let mounted = [
            "--volume=/usr:/usr:ro".to_owned(),
            format!("--volume={PROGRAM}:/assemble:ro"),
            format!("--volume={root}:{root}"),
            format!("--workdir={root}"),
        ];
        let places = places.into_iter().map(|(name, options, tier, arguments)| {
            let mut command = docker.command(&["run", "--rm", "--network=none", "--env=HOME=/tmp"]);
            command.args(options).args(&mounted).args(["empty", "/assemble"]).args(arguments);
            command.args(["--no-index", "--find-links", "wheels"]);
            (name, tier, Outcome::of(command.output().unwrap()))
        });
        Some(places.collect::<Vec<_>>())
    });
    for (name, tier, outcome) in said.await.unwrap().unwrap_or_default() {
        let Outcome { stdout, stderr, .. } = outcome.success();
        let started = format!("start check `demo --version` ran (tier {tier}): demo on x86_64");
        assert!(stdout.contains(&started), "{name}: {stdout}{stderr}");
        let image = fs_err::read(folder(name).join("image.tar")).unwrap();
        assert!(image == expected, "{name}: {stdout}{stderr}");
    }
}
