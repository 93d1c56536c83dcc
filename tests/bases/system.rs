//! The lower layer: musl, a shell, shared libraries, certificates and the files in `/etc`.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::download::Client;
use super::rootfs::Rootfs;
use super::wheels::{self, Wheel};
use super::{Architecture, BaseSpec, Error, Result, cpython, debian, glibc, libressl, python};

/// The first release of Debian whose musl (1.2.5) has what `CPython` 3.13 was linked against.
const SUITE: &str = "trixie";

/// What the layer is made of.
#[derive(Debug)]
pub(crate) struct Parts {
    /// Debian packages by name.
    packages: BTreeMap<String, Bytes>,
    /// Each library with the wheel it is in.
    libraries: Vec<(Library, Bytes)>,
}

/// A shared library that a wheel bundles.
#[derive(Clone, Debug)]
struct Library {
    project: &'static str,
    version: &'static str,
    tags: String,
    /// What its file in the wheel is called before the hash: `libssl`.
    name: &'static str,
    /// What programs ask for: `libssl.so.3`.
    soname: &'static str,
}

/// The libraries that a Python of that kind loads. Built on musl where there is such a wheel. The
/// others were built with an old glibc and use only functions that musl has under the same names;
/// musl's loader takes their `libc.so.6` for itself.
fn libraries(spec: &BaseSpec) -> Vec<Library> {
    let machine = spec.architecture.machine();
    let musl = format!("cp313-musllinux_1_2_{machine}");
    let glibc = |python: &str| format!("{python}-manylinux_2_17_{machine}");
    let library = |wheel: (&'static str, &'static str, &str), name, soname| Library {
        project: wheel.0,
        version: wheel.1,
        tags: wheel.2.to_owned(),
        name,
        soname,
    };
    let openssl_3 = ("psycopg-binary", "3.3.9", &*musl);
    let openssl_1_1 = ("psycopg2-binary", "2.9.3", "cp310-musllinux_1_1_x86_64");
    let pysam = ("pysam", "0.24.1", &*musl);
    let mut libraries = vec![
        library(pysam, "libbz2", "libbz2.so.1"),
        library(pysam, "liblzma", "liblzma.so.5"),
        library(("pyproj", "3.8.0", &musl), "libsqlite3", "libsqlite3.so.0"),
        library(("pillow", "8.4.0", &glibc("cp310")), "libz", "libz.so.1"),
    ];
    let minor = python::minor(spec);
    if is_new(spec) {
        libraries.extend([
            library(openssl_3, "libssl", "libssl.so.3"),
            library(openssl_3, "libcrypto", "libcrypto.so.3"),
        ]);
    } else {
        libraries.extend([
            library(openssl_1_1, "libssl", "libssl.so.1.1"),
            library(openssl_1_1, "libcrypto", "libcrypto.so.1.1"),
            // The same for all that `ctypes` calls.
            library(("cffi", "1.14.0", "cp38-cp38-manylinux1_x86_64"), "libffi", "libffi.so.6"),
        ]);
    }
    if is_new(spec) && spec.architecture == Architecture::Arm64 {
        let cffi = ("cffi", "1.15.1", &*glibc("cp311"));
        libraries.push(library(cffi, "libffi", "libffi.so.8"));
    }
    // 3.13 has its own, as sources have. For arm64 only wheels of 36 MB bundle it: such a base does
    // without.
    let has_own = minor >= 13 || cpython::sources(spec).is_some();
    if !has_own && spec.architecture == Architecture::Amd64 {
        let fiona = ("fiona", "1.9.6", "cp312-manylinux2014_x86_64");
        libraries.push(library(fiona, "libexpat", "libexpat.so.1"));
    }
    libraries
}

/// Whether that Python was built for OpenSSL 3 and libffi 3.4; what is compiled here always is.
fn is_new(spec: &BaseSpec) -> bool {
    python::minor(spec) > 10 || cpython::sources(spec).is_some()
}

/// Fetches everything.
pub(crate) async fn fetch(client: &Client, spec: &BaseSpec) -> Result<Parts> {
    if let Some(suite) = spec.debian() {
        let packages = debian::fetch(client, suite, spec.architecture, &glibc::PACKAGES).await?;
        return Ok(Parts { packages, libraries: Vec::new() });
    }
    let mut names = vec!["busybox-static", "ca-certificates", "musl"];
    if spec.architecture == Architecture::Amd64 && is_new(spec) {
        names.push("libffi8");
    }
    if cpython::sources(spec).is_some() {
        names.extend(cpython::HEADERS);
    }
    let libraries = libraries(spec).into_iter().map(|library| async move {
        let wheel =
            Wheel { project: library.project, version: library.version, tags: &library.tags };
        let bytes = wheels::fetch(client, wheel).await?;
        Ok::<_, Error>((library, bytes))
    });
    let (packages, libraries) = tokio::try_join!(
        debian::fetch(client, SUITE, spec.architecture, &names),
        futures_util::future::try_join_all(libraries)
    )?;
    Ok(Parts { packages, libraries })
}

/// The layer.
pub(crate) fn layer(spec: &BaseSpec, parts: &Parts) -> Result<Rootfs> {
    let mut rootfs = Rootfs::default();
    folders(&mut rootfs);
    if spec.debian().is_some() {
        glibc::fill(spec, parts, &mut rootfs)?;
    } else {
        fill(spec, parts, &mut rootfs)?;
    }
    let certificates = members(parts, "ca-certificates", |path| path.contains("/mozilla/"))?;
    let bundle: Vec<_> = certificates.values().map(|bytes| &bytes[..]).collect();
    rootfs.file("etc/ssl/certs/ca-certificates.crt", bundle.concat());
    rootfs.link("etc/ssl/cert.pem", "certs/ca-certificates.crt");
    Ok(rootfs)
}

/// The folders that are in every image.
fn folders(rootfs: &mut Rootfs) {
    for folder in [
        "dev",
        "home",
        "media",
        "mnt",
        "opt",
        "proc",
        "run",
        "srv",
        "sys",
        "usr/sbin",
        "usr/share",
        "var/cache",
        "var/lib",
        "var/log",
    ] {
        rootfs.directory(folder, 0o755);
    }
    rootfs.directory("root", 0o700);
    rootfs.directory("tmp", 0o1777);
    rootfs.directory("var/tmp", 0o1777);
    rootfs.link("var/run", "../run");
}

/// What is Alpine's own.
fn fill(spec: &BaseSpec, parts: &Parts, rootfs: &mut Rootfs) -> Result<()> {
    let machine = spec.architecture.machine();
    let loader = format!("ld-musl-{machine}.so.1");
    // Loader and libc are one file.
    let musl = one(parts, "musl", |path| path.ends_with("-linux-musl/libc.so"))?;
    rootfs.program(&format!("lib/{loader}"), musl);
    rootfs.link(&format!("lib/libc.musl-{machine}.so.1"), &loader);

    let busybox = one(parts, "busybox-static", |path| path.ends_with("bin/busybox"))?;
    rootfs.program("bin/busybox", busybox);
    for (folder, applet) in applets() {
        rootfs.link(&format!("{folder}/{applet}"), "/bin/busybox");
    }

    let mut openssl = Vec::new();
    for (library, wheel) in &parts.libraries {
        let beginning = format!("{}-", library.name);
        let (name, bytes) = wheels::member(wheel, |path| {
            let name = path.rsplit('/').next().unwrap_or_default();
            path.contains(".libs") && name.starts_with(&beginning)
        })?;
        // Under the wheel's own name too: its libraries find each other by these.
        rootfs.program(&format!("usr/lib/{name}"), bytes.clone());
        rootfs.link(&format!("usr/lib/{}", library.soname), &name);
        if matches!(library.name, "libssl" | "libcrypto") {
            openssl.push((name, bytes));
        }
    }
    if let Some(sonames) = libressl::sonames(spec) {
        rootfs.program("usr/lib/libressl.so", libressl::compile(&openssl)?);
        for soname in sonames {
            rootfs.link(&format!("usr/lib/{soname}"), "libressl.so");
        }
    }
    if parts.packages.contains_key("libffi8") {
        let libffi = one(parts, "libffi8", |path| path.contains("/libffi.so.8."))?;
        rootfs.program("usr/lib/libffi.so.8", libffi);
    }

    etc(spec, rootfs);
    Ok(())
}

/// The headers that came with it, by their paths.
pub(crate) fn headers(parts: &Parts) -> Result<BTreeMap<String, Bytes>> {
    let mut headers = BTreeMap::new();
    for package in cpython::HEADERS {
        headers.extend(members(parts, package, |path| path.starts_with("usr/include/"))?);
    }
    Ok(headers)
}

/// The files that say whose system it is.
fn etc(spec: &BaseSpec, rootfs: &mut Rootfs) {
    let release = spec.os.trim_start_matches("alpine");
    rootfs.file("etc/alpine-release", format!("{release}.0\n"));
    rootfs.file(
        "etc/os-release",
        format!(
            "NAME=\"Alpine Linux\"\nID=alpine\nVERSION_ID={release}.0\n\
             PRETTY_NAME=\"Alpine Linux v{release}\"\n"
        ),
    );
    rootfs.file(
        "etc/passwd",
        "root:x:0:0:root:/root:/bin/sh\n\
         bin:x:1:1:bin:/bin:/sbin/nologin\n\
         daemon:x:2:2:daemon:/sbin:/sbin/nologin\n\
         nobody:x:65534:65534:nobody:/:/sbin/nologin\n",
    );
    rootfs.file(
        "etc/group",
        "root:x:0:root\nbin:x:1:root,bin,daemon\ndaemon:x:2:root,bin,daemon\n\
         tty:x:5:\nusers:x:100:\nnogroup:x:65533:\nnobody:x:65534:\n",
    );
    rootfs.file("etc/shells", "/bin/sh\n/bin/ash\n");
    rootfs.file(
        "etc/profile",
        "export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\numask 022\n",
    );
    rootfs.file("etc/hostname", "localhost\n");
    rootfs.file("etc/hosts", "127.0.0.1\tlocalhost\n::1\tlocalhost\n");
    rootfs.file("etc/nsswitch.conf", "hosts: files dns\n");
}

/// Every applet of `BusyBox` and its folder.
pub(crate) fn applets() -> impl Iterator<Item = (&'static str, &'static str)> {
    APPLETS
        .iter()
        .flat_map(|(folder, applets)| applets.split_whitespace().map(move |name| (*folder, name)))
}

/// The files of a package that are wanted.
pub(crate) fn members(
    parts: &Parts,
    package: &str,
    wanted: impl Fn(&str) -> bool,
) -> Result<BTreeMap<String, Bytes>> {
    let bytes = parts.packages.get(package);
    debian::members(bytes.map(|bytes| &bytes[..]).unwrap_or_default(), wanted)
}

/// The first file of a package that is wanted.
pub(crate) fn one(parts: &Parts, package: &str, wanted: impl Fn(&str) -> bool) -> Result<Bytes> {
    members(parts, package, wanted)?
        .into_values()
        .next()
        .ok_or_else(|| Error::new(format!("Debian's {package} lacks the file it is fetched for")))
}

/// The applets of Debian's `busybox-static`, where Alpine has them.
const APPLETS: [(&str, &str); 4] = [
    (
        "bin",
        "arch ash base64 cat chgrp chmod chown cp cpio cttyhack date dd df dmesg \
         dnsdomainname dumpkmap echo ed egrep false fatattr fgrep getopt grep gunzip gzip \
         hostname ionice ipcalc kill link linux32 linux64 ln login ls lzop mkdir mknod \
         mktemp more mount mt mv netstat nuke pidof ping ping6 ps pwd readlink resume rev \
         rm rmdir run-parts sed setpriv sh sleep stat stty su sync tar touch true umount \
         uname uncompress usleep vi watch zcat",
    ),
    (
        "sbin",
        "acpid adjtimex arp blockdev depmod devmem fdisk findfs freeramdisk fstrim getty \
         halt hwclock ifconfig ifdown ifup init insmod ip klogd loadkmap logread losetup \
         lsmod mdev mkdosfs mke2fs mkswap modinfo modprobe nameif pivot_root poweroff \
         reboot rmmod route run-init start-stop-daemon sulogin swapoff swapon switch_root \
         sysctl syslogd tc tunctl udhcpc uevent vconfig watchdog",
    ),
    (
        "usr/bin",
        "[ [[ ar ascii awk basename bc blkdiscard bunzip2 bzcat bzip2 cal chvt clear cmp \
         crc32 crontab cut dc deallocvt diff dirname dos2unix du dumpleases env expand \
         expr factor fallocate find fold free ftpget ftpput getfattr groups head hexdump \
         hostid id install killall last less logger logname lsscsi lzcat lzma md5sum \
         microcom mkfifo mkpasswd nc nl nproc nsenter nslookup od openvt passwd paste \
         patch printf realpath renice reset seq setkeycodes setsid sha1sum sha256sum \
         sha3sum sha512sum shred shuf sort ssl_client strings svc svok tac tail taskset \
         tee telnet test tftp time timeout top tr traceroute traceroute6 truncate ts tty \
         udhcpc6 unexpand uniq unix2dos unlink unlzma unshare unxz unzip uptime uudecode \
         uuencode w wc wget which who whoami xargs xxd xz xzcat yes",
    ),
    (
        "usr/sbin",
        "arping brctl chroot crond fsfreeze httpd i2cdetect i2cdump i2cget i2cset \
         i2ctransfer loadfont mim nbd-client nologin partprobe rdate telnetd ubirename \
         udhcpd",
    ),
];
