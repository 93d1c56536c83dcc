//! Whom we believe: the system's certificate authorities, a bundle, and folders per host.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use fs_err as fs;
use reqwest::redirect::Policy;
use reqwest::{Certificate, Identity};

use super::names::Names;
use super::{Error, Options};

/// Bytes that an HTTP/2 server may send of one answer, and of all on one connection, before anybody
/// has read them: they are in memory. 2 MiB at a time are 40 MiB/s from 50 ms away.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 2 << 20;

/// Makes a client that believes the system's authorities and these.
pub(super) fn build(
    options: &Options,
    authorities: &[Certificate],
    names: &Arc<Names>,
    proxied: bool,
    policy: fn() -> Policy,
) -> Result<reqwest::Client, Error> {
    build_with(options, authorities, None, names, proxied, policy)
}

fn build_with(
    options: &Options,
    authorities: &[Certificate],
    identity: Option<&Identity>,
    names: &Arc<Names>,
    proxied: bool,
    policy: fn() -> Policy,
) -> Result<reqwest::Client, Error> {
    let builder = || {
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("assemble/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(options.connect_timeout)
            .tcp_keepalive(Duration::from_secs(30))
            .http2_initial_stream_window_size(STREAM_WINDOW)
            .http2_initial_connection_window_size(CONNECTION_WINDOW)
            .dns_resolver(Arc::clone(names))
            .redirect(policy());
        if !proxied {
            builder = builder.no_proxy();
        }
        if let Some(identity) = identity {
            builder = builder.identity(identity.clone());
        }
        builder
    };
    builder()
        .tls_certs_merge(authorities.iter().cloned())
        .build()
        // A machine without any authorities can still talk to loopback and to plain HTTP hosts; on
        // any other the handshake says what is missing.
        .or_else(|_no_authorities| builder().tls_certs_only(authorities.iter().cloned()).build())
        .map_err(|source| Error::Client { source })
}

/// The certificates of a PEM file.
pub(super) fn read_authorities(path: &Path) -> Result<Vec<Certificate>, Error> {
    let pem =
        fs::read(path).map_err(|source| Error::Certificates { path: path.to_owned(), source })?;
    let certificates = Certificate::from_pem_bundle(&pem)
        .map_err(|source| invalid(path, io::Error::new(io::ErrorKind::InvalidData, source)))?;
    if certificates.is_empty() {
        let empty = io::Error::new(io::ErrorKind::InvalidData, "no certificate in PEM form");
        return Err(invalid(path, empty));
    }
    Ok(certificates)
}

fn invalid(path: &Path, source: io::Error) -> Error {
    Error::Certificates { path: path.to_owned(), source }
}

/// A client for a host that has a folder of certificates, `None` if it has none
/// (containers-certs.d(5): `*.crt` are authorities, `*.cert` with the `*.key` of the same name is
/// the client's identity). All folders count.
pub(super) fn host_client(
    options: &Options,
    host: &str,
    names: &Arc<Names>,
    loopback: bool,
) -> Result<Option<reqwest::Client>, Error> {
    let mut authorities = match &options.ca_bundle {
        Some(path) => read_authorities(path)?,
        None => Vec::new(),
    };
    let mut identity = None;
    let mut found = false;
    for folder in &options.certs_d {
        let folder = folder.join(host);
        let Ok(entries) = fs::read_dir(&folder) else {
            continue;
        };
        let mut files: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
        files.sort();
        for file in files {
            match file.extension().and_then(|extension| extension.to_str()) {
                Some("crt") => authorities.extend(read_authorities(&file)?),
                Some("cert") => identity = Some(read_identity(&file)?),
                _ => continue,
            }
            found = true;
        }
    }
    if !found {
        return Ok(None);
    }
    build_with(options, &authorities, identity.as_ref(), names, !loopback, Policy::none).map(Some)
}

fn read_identity(certificate: &Path) -> Result<Identity, Error> {
    let key = certificate.with_extension("key");
    let read = |path: &Path| {
        fs::read(path).map_err(|source| Error::Certificates { path: path.to_owned(), source })
    };
    let mut pem = read(certificate)?;
    pem.push(b'\n');
    pem.extend(read(&key)?);
    Identity::from_pem(&pem)
        .map_err(|source| invalid(certificate, io::Error::new(io::ErrorKind::InvalidData, source)))
}
