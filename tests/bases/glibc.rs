//! The lower layer of a base on glibc: Debian's own packages, as `python:<X.Y>-slim-<release>` has them.
//! The tools are `BusyBox`'s, but for the shell.

use super::rootfs::Rootfs;
use super::system::{Parts, applets, members, one};
use super::{Architecture, BaseSpec, Result};

/// What the layer is made of.
pub(crate) const PACKAGES: [&str; 8] = [
    "base-files",
    "busybox-static",
    "ca-certificates",
    "dash",
    "libc6",
    "libgcc-s1",
    "libstdc++6",
    "netbase",
];

/// Fills the layer. Since bookworm all programs and libraries lie in `/usr`; packages that still say
/// otherwise come through the links at the top.
pub(crate) fn fill(spec: &BaseSpec, parts: &Parts, rootfs: &mut Rootfs) -> Result<()> {
    let (folders, loader) = match spec.architecture {
        Architecture::Amd64 => (&["bin", "lib", "lib64", "sbin"][..], "lib64/ld-linux-x86-64.so.2"),
        Architecture::Arm64 => (&["bin", "lib", "sbin"][..], "lib/ld-linux-aarch64.so.1"),
    };
    for folder in folders {
        rootfs.directory(&format!("usr/{folder}"), 0o755);
        rootfs.link(folder, &format!("usr/{folder}"));
    }
    let triplet = format!("{}-linux-gnu", spec.architecture.machine());
    for package in ["libc6", "libgcc-s1", "libstdc++6"] {
        let is_library =
            |path: &str| path.trim_start_matches("usr/").starts_with(&format!("lib/{triplet}/"));
        for (path, bytes) in members(parts, package, is_library)? {
            let path = format!("usr/{}", path.trim_start_matches("usr/"));
            rootfs.program(&path, bytes);
            // `libstdc++.so.6.0.30` is asked for as `libstdc++.so.6`.
            if let Some((folder, name)) = path.rsplit_once('/')
                && let Some(soname) = name.strip_prefix("libstdc++.so.6.").map(|_| "libstdc++.so.6")
            {
                rootfs.link(&format!("{folder}/{soname}"), name);
            }
        }
    }
    let name = loader.rsplit('/').next().unwrap_or(loader);
    rootfs.link(&format!("usr/{loader}"), &format!("/lib/{triplet}/{name}"));

    rootfs.program(
        "usr/bin/busybox",
        one(parts, "busybox-static", |path| path.ends_with("bin/busybox"))?,
    );
    for (folder, applet) in applets() {
        let folder = folder.rsplit('/').next().unwrap_or(folder);
        rootfs.link(&format!("usr/{folder}/{applet}"), "/bin/busybox");
    }
    rootfs.program("usr/bin/dash", one(parts, "dash", |path| path.ends_with("bin/dash"))?);
    rootfs.link("usr/bin/sh", "dash");

    rootfs
        .file("usr/lib/os-release", one(parts, "base-files", |path| path == "usr/lib/os-release")?);
    rootfs.link("etc/os-release", "../usr/lib/os-release");
    for name in ["protocols", "services"] {
        let path = format!("etc/{name}");
        rootfs.file(&path, one(parts, "netbase", |found| found == path)?);
    }
    rootfs.file(
        "etc/passwd",
        "root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin\n\
         nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
    );
    rootfs.file("etc/group", "root:x:0:\ndaemon:x:1:\ntty:x:5:\nusers:x:100:\nnogroup:x:65534:\n");
    rootfs.file("etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n");
    rootfs.file("etc/hosts", "127.0.0.1\tlocalhost\n::1\tlocalhost\n");
    Ok(())
}
