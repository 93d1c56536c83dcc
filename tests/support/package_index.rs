//! A package index in this process, on loopback, that writes every request down and can be told to
//! speak HTML, to know no ranges, to want a password, to fail and to lie.
#![expect(clippy::unwrap_used, reason = "a broken fixture must fail the test")]

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt::Write as _;
use std::io::{Cursor, Write as _};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use assemble::oci::Digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// A package index on `127.0.0.1`. It stops when it is dropped.
#[derive(Debug)]
pub(crate) struct FakePackageIndex {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    server: tokio::task::JoinHandle<()>,
}

/// How the index behaves. The default is the least that a modern index does, and all that it may.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own")]
pub(crate) struct Switches {
    /// Pages are HTML (PEP 503), whatever is asked for.
    pub(crate) html: bool,
    /// Files can be asked for in parts.
    pub(crate) ranges: bool,
    /// METADATA is served beside wheels (PEP 658).
    pub(crate) core_metadata: bool,
    /// Pages have hashes.
    pub(crate) hashes: bool,
    /// Pages have sizes and upload times (PEP 700).
    pub(crate) sizes: bool,
    /// Pages have an `ETag` and can be revalidated.
    pub(crate) etag: bool,
    /// Pages are compressed if the client takes that.
    pub(crate) gzip: bool,
    /// User and password that are wanted.
    pub(crate) auth: Option<(String, String)>,
    /// `http://host:port` of another index that has the files.
    pub(crate) files_at: Option<String>,
}

impl Default for Switches {
    fn default() -> Self {
        Self {
            html: false,
            ranges: true,
            core_metadata: false,
            hashes: true,
            sizes: true,
            etag: false,
            gzip: false,
            auth: None,
            files_at: None,
        }
    }
}

/// A file and what the page says about it.
#[derive(Clone, Debug)]
pub(crate) struct Published {
    pub(crate) file_name: String,
    pub(crate) bytes: Vec<u8>,
    pub(crate) metadata: Option<Vec<u8>>,
    pub(crate) requires_python: Option<String>,
    pub(crate) yanked: Option<String>,
    pub(crate) upload_time: Option<String>,
    /// A lie about the bytes.
    pub(crate) sha256: Option<Digest>,
}

/// One request as the index saw it.
#[derive(Clone, Debug)]
pub(crate) struct Logged {
    pub(crate) path: String,
    pub(crate) range: Option<String>,
    pub(crate) authorization: Option<String>,
    pub(crate) status: u16,
    /// Bytes of the answer's body.
    pub(crate) bytes_out: usize,
}

/// An answer that is given instead, to paths that contain `path`, `times` times.
#[derive(Clone, Debug)]
pub(crate) struct Fault {
    pub(crate) path: String,
    pub(crate) times: usize,
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: String,
}

#[derive(Debug, Default)]
struct State {
    projects: BTreeMap<String, Vec<Published>>,
    switches: Switches,
    faults: Vec<Fault>,
    log: Vec<Logged>,
}

impl FakePackageIndex {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::<Mutex<State>>::default();
        let shared = Arc::clone(&state);
        let server = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let state = Arc::clone(&shared);
                tokio::spawn(async move {
                    let service = service_fn(move |request| {
                        let answer = answer(&state, address, &request);
                        async move { Ok::<_, Infallible>(answer) }
                    });
                    // A client that goes away is no failure of the index.
                    let _gone = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        Self { address, state, server }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// `http://127.0.0.1:…`
    pub(crate) fn origin(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The root of the Simple API, with `user:password@` if given.
    pub(crate) fn url(&self, userinfo: &str) -> String {
        format!("http://{userinfo}{}/simple/", self.address)
    }

    pub(crate) fn switch(&self, change: impl FnOnce(&mut Switches)) {
        change(&mut self.state().switches);
    }

    /// Publishes a file of the project; `project` is its normalised name.
    pub(crate) fn publish(&self, project: &str, file: Published) {
        let mut state = self.state();
        let files = state.projects.entry(project.to_owned()).or_default();
        files.retain(|old| old.file_name != file.file_name);
        files.push(file);
    }

    pub(crate) fn fault(&self, fault: Fault) {
        self.state().faults.push(fault);
    }

    /// The requests so far whose path contains `path`.
    pub(crate) fn requests(&self, path: &str) -> Vec<Logged> {
        let state = self.state();
        let matching = state.log.iter().filter(|logged| logged.path.contains(path));
        matching.cloned().collect()
    }

    /// Forgets the requests so far.
    pub(crate) fn clear_log(&self) {
        self.state().log.clear();
    }
}

impl Drop for FakePackageIndex {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Published {
    /// A file with these bytes.
    pub(crate) fn new(file_name: &str, bytes: Vec<u8>) -> Self {
        Self {
            file_name: file_name.to_owned(),
            bytes,
            metadata: None,
            requires_python: None,
            yanked: None,
            upload_time: Some("2026-01-02T03:04:05.000006Z".to_owned()),
            sha256: None,
        }
    }

    /// A wheel that can be installed: a module named as the project, METADATA with `requires`, WHEEL
    /// and RECORD. `padding` bytes that do not compress come first.
    pub(crate) fn wheel(file_name: &str, requires: &[&str], padding: usize) -> Self {
        let mut parts = file_name.split('-');
        let (name, version) = (parts.next().unwrap(), parts.next().unwrap());
        let mut metadata = format!("Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n");
        for requirement in requires {
            writeln!(metadata, "Requires-Dist: {requirement}").unwrap();
        }
        let tag = file_name.trim_end_matches(".whl").rsplitn(4, '-').take(3).collect::<Vec<_>>();
        let info = format!("{name}-{version}.dist-info");
        let wheel = format!(
            "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: {}-{}-{}\n",
            tag[2], tag[1], tag[0]
        );
        let mut state = 1_u32;
        let noise = (0..padding)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 17;
                state ^= state << 5;
                state.to_le_bytes()[1]
            })
            .collect::<Vec<u8>>();
        let mut files = vec![
            (format!("{name}/__init__.py"), b"".to_vec()),
            (format!("{name}/noise.bin"), noise),
            (format!("{info}/METADATA"), metadata.clone().into_bytes()),
            (format!("{info}/WHEEL"), wheel.into_bytes()),
        ];
        let mut record = String::new();
        for (path, bytes) in &files {
            let hash = base64::engine::general_purpose::URL_SAFE_NO_PAD
                .encode(Digest::of(bytes).as_bytes());
            writeln!(record, "{path},sha256={hash},{}", bytes.len()).unwrap();
        }
        writeln!(record, "{info}/RECORD,,").unwrap();
        files.push((format!("{info}/RECORD"), record.into_bytes()));
        Self { metadata: Some(metadata.into_bytes()), ..Self::new(file_name, zip(&files)) }
    }

    /// A `.tar.gz` sdist with these files below `{name}-{version}/`.
    pub(crate) fn sdist(file_name: &str, files: &[(&str, &str)]) -> Self {
        let top = file_name.trim_end_matches(".tar.gz");
        let gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        let mut builder = tar::Builder::new(gzip);
        for (path, text) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(text.len() as u64);
            header.set_mode(0o644);
            builder.append_data(&mut header, format!("{top}/{path}"), text.as_bytes()).unwrap();
        }
        Self::new(file_name, builder.into_inner().unwrap().finish().unwrap())
    }

    /// The digest of the bytes.
    pub(crate) fn digest(&self) -> Digest {
        Digest::of(&self.bytes)
    }
}

fn zip(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut writer = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for (name, bytes) in files {
        writer.start_file(name.as_str(), zip::write::SimpleFileOptions::default()).unwrap();
        writer.write_all(bytes).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

fn answer(
    state: &Mutex<State>,
    address: SocketAddr,
    request: &Request<Incoming>,
) -> Response<Full<Bytes>> {
    let mut state = state.lock().unwrap();
    let response = state.answer(address, request);
    let bytes_out = hyper::body::Body::size_hint(response.body()).exact().unwrap();
    let text = |name| {
        let value = request.headers().get(name)?;
        Some(value.to_str().unwrap().to_owned())
    };
    state.log.push(Logged {
        path: request.uri().path().to_owned(),
        range: text(header::RANGE),
        authorization: text(header::AUTHORIZATION),
        status: response.status().as_u16(),
        bytes_out: usize::try_from(bytes_out).unwrap(),
    });
    response
}

fn plain(status: StatusCode) -> Response<Full<Bytes>> {
    let body = status.canonical_reason().unwrap_or_default();
    Response::builder()
        .status(status)
        .header(header::CONTENT_TYPE, "text/plain")
        .body(Full::from(body))
        .unwrap()
}

impl State {
    fn answer(
        &mut self,
        address: SocketAddr,
        request: &Request<Incoming>,
    ) -> Response<Full<Bytes>> {
        let path = request.uri().path();
        let fault =
            self.faults.iter_mut().find(|fault| fault.times > 0 && path.contains(&fault.path));
        if let Some(fault) = fault {
            fault.times -= 1;
            let mut response = Response::builder().status(fault.status);
            for (name, value) in &fault.headers {
                response = response.header(*name, value);
            }
            return response.body(Full::from(fault.body.clone())).unwrap();
        }
        if let Some((user, password)) = &self.switches.auth {
            let wanted = format!("Basic {}", STANDARD.encode(format!("{user}:{password}")));
            let found = request.headers().get(header::AUTHORIZATION);
            if found.is_none_or(|found| found != wanted.as_str()) {
                return plain(StatusCode::UNAUTHORIZED);
            }
        }
        if let Some(project) = path.strip_prefix("/simple/").and_then(|rest| rest.strip_suffix('/'))
        {
            return self.page(address, project, request);
        }
        path.strip_prefix("/files/")
            .map_or_else(|| plain(StatusCode::NOT_FOUND), |name| self.file(name, request))
    }

    fn page(
        &self,
        address: SocketAddr,
        project: &str,
        request: &Request<Incoming>,
    ) -> Response<Full<Bytes>> {
        let Some(files) = self.projects.get(project) else {
            return plain(StatusCode::NOT_FOUND);
        };
        let (content_type, mut body) = if self.switches.html {
            ("text/html; charset=utf-8", self.html(files))
        } else {
            let body = self.json(project, files, address).to_string();
            ("application/vnd.pypi.simple.v1+json", body.into_bytes())
        };
        let mut response = Response::builder().header(header::CONTENT_TYPE, content_type);
        if self.switches.etag {
            let etag = format!("\"{}\"", Digest::of(&body).hex());
            let known = request.headers().get(header::IF_NONE_MATCH);
            let is_known = known.is_some_and(|known| known == etag.as_str());
            response = response.header(header::ETAG, etag);
            if is_known {
                let response = response.status(StatusCode::NOT_MODIFIED);
                return response.body(Full::default()).unwrap();
            }
        }
        let takes_gzip = request.headers().get(header::ACCEPT_ENCODING);
        if self.switches.gzip && takes_gzip.is_some_and(|value| value == "gzip") {
            let mut gzip =
                flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
            gzip.write_all(&body).unwrap();
            body = gzip.finish().unwrap();
            response = response.header(header::CONTENT_ENCODING, "gzip");
        }
        response.body(Full::from(body)).unwrap()
    }

    fn json(&self, project: &str, files: &[Published], address: SocketAddr) -> Value {
        let own = format!("http://{address}");
        let origin = self.switches.files_at.as_deref().unwrap_or(&own);
        let entry = |file: &Published| {
            let mut entry = json!({
                "filename": file.file_name,
                "url": format!("{origin}/files/{}", file.file_name),
                "hashes": {},
                "requires-python": file.requires_python,
                "yanked": file.yanked.clone().map_or(Value::Bool(false), Value::String),
            });
            if self.switches.hashes {
                let digest = file.sha256.unwrap_or_else(|| file.digest());
                entry["hashes"] = json!({"sha256": digest.hex()});
            }
            if self.switches.sizes {
                entry["size"] = json!(file.bytes.len());
                entry["upload-time"] = json!(file.upload_time);
            }
            if self.switches.core_metadata
                && let Some(metadata) = &file.metadata
            {
                entry["core-metadata"] = json!({"sha256": Digest::of(metadata).hex()});
            }
            entry
        };
        json!({
            "meta": {"api-version": "1.1"},
            "name": project,
            "files": files.iter().map(entry).collect::<Vec<_>>(),
        })
    }

    fn html(&self, files: &[Published]) -> Vec<u8> {
        let escape = |text: &str| {
            text.replace('&', "&amp;")
                .replace('<', "&lt;")
                .replace('>', "&gt;")
                .replace('"', "&quot;")
        };
        let mut page = "<!DOCTYPE html>\n<html><body>\n".to_owned();
        for file in files {
            let origin = self.switches.files_at.as_deref().unwrap_or("../..");
            write!(page, "<a href=\"{origin}/files/{}", file.file_name).unwrap();
            if self.switches.hashes {
                let digest = file.sha256.unwrap_or_else(|| file.digest());
                write!(page, "#sha256={}", digest.hex()).unwrap();
            }
            page.push('"');
            for (name, value) in
                [("data-requires-python", &file.requires_python), ("data-yanked", &file.yanked)]
            {
                if let Some(value) = value {
                    write!(page, " {name}=\"{}\"", escape(value)).unwrap();
                }
            }
            if self.switches.core_metadata
                && let Some(metadata) = &file.metadata
            {
                let hex = Digest::of(metadata).hex();
                write!(page, " data-core-metadata=\"sha256={hex}\"").unwrap();
            }
            writeln!(page, ">{}</a><br>", file.file_name).unwrap();
        }
        page.push_str("</body></html>\n");
        page.into_bytes()
    }

    fn file(&self, name: &str, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let all = || self.projects.values().flatten();
        if let Some(wheel) = name.strip_suffix(".metadata") {
            let metadata = all()
                .find(|file| file.file_name == wheel)
                .filter(|_| self.switches.core_metadata)
                .and_then(|file| file.metadata.clone());
            return metadata.map_or_else(
                || plain(StatusCode::NOT_FOUND),
                |metadata| Response::new(Full::from(metadata)),
            );
        }
        let Some(file) = all().find(|file| file.file_name == name) else {
            return plain(StatusCode::NOT_FOUND);
        };
        let size = file.bytes.len();
        let range = request.headers().get(header::RANGE).filter(|_| self.switches.ranges).and_then(
            |range| {
                let (first, last) = range.to_str().ok()?.strip_prefix("bytes=")?.split_once('-')?;
                match first {
                    "" => Some(size.saturating_sub(last.parse().ok()?)..size),
                    first => Some(first.parse().ok()?..last.parse::<usize>().ok()? + 1),
                }
            },
        );
        let Some(range) = range else {
            return Response::new(Full::from(file.bytes.clone()));
        };
        let content_range = format!("bytes {}-{}/{size}", range.start, range.end - 1);
        Response::builder()
            .status(StatusCode::PARTIAL_CONTENT)
            .header(header::CONTENT_RANGE, content_range)
            .body(Full::from(file.bytes[range].to_vec()))
            .unwrap()
    }
}
