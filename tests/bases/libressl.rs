//! LibreSSL for the Pythons that were linked against it: OpenSSL 1.1, and a library with the names
//! that only LibreSSL has, compiled from the C file beside this one.

use std::process::Command;

use bytes::Bytes;

use super::{BaseSpec, Because as _, Error, Result, python};

/// Compiles for musl; of Debian's `musl-tools`.
pub(crate) const COMPILER: &str = "musl-gcc";

/// The names such a Python was linked to, if it was.
pub(crate) fn sonames(spec: &BaseSpec) -> Option<[&'static str; 2]> {
    match python::minor(spec) {
        6 => Some(["libssl.so.45", "libcrypto.so.43"]),
        8 => Some(["libssl.so.47", "libcrypto.so.45"]),
        _ => None,
    }
}

/// The library, which needs those libraries of OpenSSL, given with their file names.
pub(crate) fn compile(openssl: &[(String, Bytes)]) -> Result<Bytes> {
    let doing = || "compile the names of LibreSSL".to_owned();
    let folder = tempfile::TempDir::new().because(doing)?;
    let place = |name: &str| folder.path().join(name);
    fs_err::write(place("libressl.c"), include_str!("libressl.c")).because(doing)?;
    let mut command = Command::new(COMPILER);
    command
        .current_dir(folder.path())
        .args(["-shared", "-fPIC", "-O2", "-s", "-o", "out", "libressl.c"])
        // OpenSSL's own needs are the base's business.
        .arg("-Wl,--allow-shlib-undefined");
    for (name, bytes) in openssl {
        fs_err::write(place(name), bytes).because(doing)?;
        command.arg(name);
    }
    let output = command.output().because(|| format!("run {COMPILER} (Debian: musl-tools)"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(Error::new(format!("{}: {said}", doing())));
    }
    Ok(fs_err::read(place("out")).because(doing)?.into())
}
