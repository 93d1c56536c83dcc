//! What the fake registry answers, and how it fails and lies.

use std::convert::Infallible;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use assemble::oci::Digest;
use base64::Engine as _;
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::{Request, Response, StatusCode};
use serde_json::json;
use url::form_urlencoded;

use super::{Action, Auth, Blob, Grants, Logged, Repository, State, Upload};

type Body = UnsyncBoxBody<Bytes, io::Error>;

fn full(bytes: impl Into<Bytes>) -> Body {
    http_body_util::Full::new(bytes.into())
        .map_err(|never: Infallible| match never {})
        .boxed_unsync()
}

fn error(status: u16, code: &str) -> Response<Body> {
    let body = json!({"errors": [{"code": code, "message": "said by the fake registry"}]});
    Response::builder()
        .status(status)
        .header("content-type", "application/json")
        .body(full(body.to_string()))
        .unwrap()
}

fn empty(status: u16) -> Response<Body> {
    Response::builder().status(status).header("content-length", "0").body(full("")).unwrap()
}

pub(super) fn resolve(repository: &Repository, reference: &str) -> Option<Digest> {
    match reference.parse() {
        Ok(digest) => Some(digest),
        Err(_) => repository.tags.get(reference).copied(),
    }
}

/// Writes the request down, applies the faults, and answers.
pub(super) async fn answer(
    shared: &Mutex<State>,
    address: SocketAddr,
    request: Request<Incoming>,
) -> Result<Response<Body>, io::Error> {
    let (parts, body) = request.into_parts();
    let method = parts.method.as_str().to_owned();
    let path = parts.uri.path_and_query().map_or_else(String::new, ToString::to_string);
    let sent = Arc::new(AtomicU64::new(0));
    let (position, action) = {
        let mut state = shared.lock().unwrap();
        let headers = parts
            .headers
            .iter()
            .map(|(name, value)| {
                let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
                (name.as_str().to_owned(), value)
            })
            .collect();
        let logged = Logged {
            method: method.clone(),
            path: path.clone(),
            headers,
            status: 0,
            bytes_in: 0,
            bytes_out: 0,
        };
        state.log.push((logged, Arc::clone(&sent)));
        let fault = state
            .faults
            .iter_mut()
            .find_map(|fault| fault.takes(&method, &path).then(|| fault.action.clone()));
        (state.log.len() - 1, fault)
    };
    let dropped = || io::Error::other("dropped by the test");
    match &action {
        Some(Action::Reset) => return Err(dropped()),
        Some(Action::Stall) => return std::future::pending().await,
        _ => {}
    }

    let limit = match &action {
        Some(Action::ResetRequestAfter(limit)) => *limit,
        _ => usize::MAX,
    };
    let (bytes, whole) = read_body(body, limit).await;
    if let Some((logged, _)) = shared.lock().unwrap().log.get_mut(position) {
        logged.bytes_in = bytes.len() as u64;
    }
    if !whole {
        keep_partial(&mut shared.lock().unwrap(), &parts.uri, &bytes);
        return Err(dropped());
    }

    let mut response = match &action {
        Some(Action::Respond { status, headers, body }) => headers
            .iter()
            .fold(Response::builder().status(*status), |builder, (name, value)| {
                builder.header(name, value)
            })
            .body(full(body.clone()))
            .unwrap(),
        Some(Action::RedirectTo(host)) => Response::builder()
            .status(307)
            .header("location", format!("http://{host}{path}"))
            .body(full(""))
            .unwrap(),
        _ => route(&mut shared.lock().unwrap(), address, &parts, &bytes),
    };
    response
        .headers_mut()
        .entry("docker-distribution-api-version")
        .or_insert_with(|| "registry/2.0".parse().unwrap());
    if matches!(action, Some(Action::ResetAfterEffect)) {
        return Err(dropped());
    }
    let drip = match &action {
        Some(Action::Drip(pause)) => Some(std::time::Duration::from_millis(*pause)),
        _ => None,
    };
    let cut = action.and_then(|action| distort(&mut response, action));
    if let Some((logged, _)) = shared.lock().unwrap().log.get_mut(position) {
        logged.status = response.status().as_u16();
    }
    if let Some(pause) = drip {
        return Ok(dripping(response, pause).await);
    }
    Ok(response.map(|body| {
        let frames = counted(body.into_data_stream(), sent, cut);
        UnsyncBoxBody::new(StreamBody::new(frames))
    }))
}

/// The answer, a byte at a time.
async fn dripping(response: Response<Body>, pause: std::time::Duration) -> Response<Body> {
    let (parts, body) = response.into_parts();
    let bytes = body.collect().await.unwrap().to_bytes();
    let frames = stream::unfold(bytes, move |mut bytes| async move {
        if bytes.is_empty() {
            return None;
        }
        tokio::time::sleep(pause).await;
        let first = bytes.split_to(1);
        Some((Ok(Frame::data(first)), bytes))
    });
    Response::from_parts(parts, UnsyncBoxBody::new(StreamBody::new(frames)))
}

/// Makes the right answer wrong; returns after how many bytes it is cut and whether it then stalls.
fn distort(response: &mut Response<Body>, action: Action) -> Option<(u64, bool)> {
    match action {
        Action::Body(other) => {
            response.headers_mut().remove("content-length");
            *response.body_mut() = full(other);
        }
        Action::Header(name, value) => {
            let name: hyper::header::HeaderName = name.parse().unwrap();
            response.headers_mut().insert(name, value.parse().unwrap());
        }
        Action::WithoutHeader(name) => {
            response.headers_mut().remove(name);
        }
        Action::ResetBodyAfter(after) => return Some((after, false)),
        Action::StallBodyAfter(after) => return Some((after, true)),
        _ => {}
    }
    None
}

/// The request's body up to `limit` bytes, and whether it came whole.
async fn read_body(mut body: Incoming, limit: usize) -> (Vec<u8>, bool) {
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else {
            return (bytes, false);
        };
        if let Ok(data) = frame.into_data() {
            bytes.extend_from_slice(&data);
        }
        if bytes.len() >= limit {
            bytes.truncate(limit);
            return (bytes, false);
        }
    }
    (bytes, true)
}

/// An upload keeps what had come when the connection broke.
fn keep_partial(state: &mut State, uri: &hyper::Uri, bytes: &[u8]) {
    if let Some((_, id)) = uri.path().split_once("/blobs/uploads/")
        && let Some(upload) = state.uploads.get_mut(id)
    {
        upload.bytes.extend_from_slice(bytes);
    }
}

/// The body's bytes, counted; with a cut, an error or silence after that many of them.
fn counted(
    body: impl Stream<Item = Result<Bytes, io::Error>> + Send + 'static,
    sent: Arc<AtomicU64>,
    cut: Option<(u64, bool)>,
) -> impl Stream<Item = Result<Frame<Bytes>, io::Error>> + Send + 'static {
    stream::unfold((Box::pin(body), sent, cut, false), |(mut body, sent, cut, over)| async move {
        if over {
            if cut.is_some_and(|(_, stalls)| stalls) {
                std::future::pending::<()>().await;
            }
            // The bytes before the cut must be on their way before the connection breaks.
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            let broken = Err(io::Error::other("cut by the test"));
            return Some((broken, (body, sent, None, false)));
        }
        let mut data = match body.next().await? {
            Ok(data) => data,
            Err(error) => return Some((Err(error), (body, sent, cut, false))),
        };
        let mut over = false;
        if let Some((after, _)) = cut {
            let left = after.saturating_sub(sent.load(Ordering::Relaxed));
            if data.len() as u64 >= left {
                data.truncate(usize::try_from(left).unwrap());
                over = true;
            }
        }
        sent.fetch_add(data.len() as u64, Ordering::Relaxed);
        Some((Ok(Frame::data(data)), (body, sent, cut, over)))
    })
}

fn query(uri: &hyper::Uri) -> Vec<(String, String)> {
    form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()).into_owned().collect()
}

fn value<'a>(pairs: &'a [(String, String)], name: &str) -> Option<&'a str> {
    pairs.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
}

fn route(
    state: &mut State,
    address: SocketAddr,
    parts: &hyper::http::request::Parts,
    body: &[u8],
) -> Response<Body> {
    let path = parts.uri.path();
    if path == "/token" {
        return token(state, parts, body);
    }
    let Some(rest) = path.strip_prefix("/v2/") else {
        return error(404, "UNSUPPORTED");
    };
    let method = parts.method.as_str();
    let (repository, kind, name) = if let Some((repository, name)) = rest.split_once("/manifests/")
    {
        (repository, "manifests", name)
    } else if let Some((repository, name)) = rest.split_once("/blobs/uploads/") {
        (repository, "uploads", name)
    } else if let Some((repository, name)) = rest.split_once("/blobs/") {
        (repository, "blobs", name)
    } else if let Some(repository) = rest.strip_suffix("/tags/list") {
        (repository, "tags", "")
    } else {
        ("", "", "")
    };
    if let Some(refusal) = refuse(state, address, parts, repository) {
        return refusal;
    }
    if !["GET", "HEAD"].contains(&method) && state.habits.read_only {
        return error(405, "UNSUPPORTED");
    }
    match (method, kind) {
        ("GET" | "HEAD", "") => empty(200),
        ("GET" | "HEAD", "manifests") => get_manifest(state, repository, name),
        ("PUT", "manifests") => put_manifest(state, parts, repository, name, body),
        ("GET" | "HEAD", "blobs") => get_blob(state, parts, repository, name),
        ("POST", "uploads") => post_upload(state, address, parts, repository, body),
        (_, "uploads") => upload(state, address, parts, repository, name, body),
        ("GET", "tags") => {
            let tags: Vec<String> = state
                .repositories
                .get(repository)
                .map(|repository| repository.tags.keys().cloned().collect())
                .unwrap_or_default();
            let body = json!({"name": repository, "tags": tags});
            Response::new(full(body.to_string()))
        }
        _ => error(405, "UNSUPPORTED"),
    }
}

fn basic(parts: &hyper::http::request::Parts) -> Option<(String, String)> {
    let header = parts.headers.get("authorization")?.to_str().ok()?;
    let (scheme, value) = header.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = base64::engine::general_purpose::STANDARD.decode(value).ok()?;
    let text = String::from_utf8(decoded).ok()?;
    let (user, password) = text.split_once(':')?;
    Some((user.to_owned(), password.to_owned()))
}

/// The 401 for a request that is not allowed.
fn refuse(
    state: &State,
    address: SocketAddr,
    parts: &hyper::http::request::Parts,
    repository: &str,
) -> Option<Response<Body>> {
    let challenge = |value: String| {
        let mut response = error(401, "UNAUTHORIZED");
        response.headers_mut().insert("www-authenticate", value.parse().unwrap());
        Some(response)
    };
    match &state.auth {
        Auth::Open => None,
        Auth::Basic { user, password } => match basic(parts) {
            Some((given, secret)) if given == *user && secret == *password => None,
            _ => challenge("Basic realm=\"the fake registry\"".to_owned()),
        },
        Auth::Token { realm, .. } => {
            let writes = !["GET", "HEAD"].contains(&parts.method.as_str());
            let actions: &[&str] = if writes { &["pull", "push"] } else { &["pull"] };
            let granted = parts
                .headers
                .get("authorization")
                .and_then(|value| value.to_str().ok())
                .and_then(|value| value.strip_prefix("Bearer "))
                .and_then(|token| state.tokens.get(token));
            let allowed = granted.is_some_and(|granted| {
                actions.iter().all(|action| {
                    repository.is_empty()
                        || granted.contains(&(repository.to_owned(), (*action).to_owned()))
                })
            });
            if allowed {
                return None;
            }
            let realm = realm.clone().unwrap_or_else(|| format!("http://{address}/token"));
            let scope = if repository.is_empty() {
                String::new()
            } else {
                format!(",scope=\"repository:{repository}:{}\"", actions.join(","))
            };
            challenge(format!("Bearer realm=\"{realm}\",service=\"fake\"{scope}"))
        }
    }
}

/// Gives a token for the scopes asked for, or for fewer.
fn token(state: &mut State, parts: &hyper::http::request::Parts, body: &[u8]) -> Response<Body> {
    let Auth::Token { user, password, anonymous_pull, .. } = state.auth.clone() else {
        return error(404, "UNSUPPORTED");
    };
    let posted = parts.method == "POST";
    if posted && !state.habits.oauth {
        return error(404, "UNSUPPORTED");
    }
    let pairs = if posted {
        form_urlencoded::parse(body).into_owned().collect()
    } else {
        query(&parts.uri)
    };
    let known = if posted {
        let right = |name: &str, wanted: &str| value(&pairs, name) == Some(wanted);
        let known = match value(&pairs, "grant_type") {
            Some("refresh_token") => right("refresh_token", &password),
            Some("password") => right("username", &user) && right("password", &password),
            _ => false,
        };
        if !known {
            return error(401, "UNAUTHORIZED");
        }
        true
    } else {
        match basic(parts) {
            None => false,
            Some(given) if given == (user, password) => true,
            Some(_) => return error(401, "UNAUTHORIZED"),
        }
    };
    let mut grants = Grants::new();
    for (_, scopes) in pairs.iter().filter(|(name, _)| name == "scope") {
        for scope in scopes.split(' ') {
            let mut fields = scope.splitn(3, ':');
            let (Some("repository"), Some(name), Some(actions)) =
                (fields.next(), fields.next(), fields.next())
            else {
                continue;
            };
            for action in actions.split(',') {
                if known || (anonymous_pull && action == "pull") {
                    grants.insert((name.to_owned(), action.to_owned()));
                }
            }
        }
    }
    state.counter += 1;
    let token = format!("token-{}", state.counter);
    state.tokens.insert(token.clone(), grants);
    let mut answer = json!({});
    answer[if posted { "access_token" } else { "token" }] = json!(token);
    if state.habits.expires_in > 0 {
        answer["expires_in"] = json!(state.habits.expires_in);
    }
    Response::builder()
        .header("content-type", "application/json")
        .body(full(answer.to_string()))
        .unwrap()
}

fn get_manifest(state: &State, repository: &str, name: &str) -> Response<Body> {
    let found = state.repositories.get(repository).and_then(|repository| {
        let digest = resolve(repository, name)?;
        Some((digest, repository.manifests.get(&digest)?.clone()))
    });
    let Some((digest, (media_type, bytes))) = found else {
        return error(404, "MANIFEST_UNKNOWN");
    };
    let mut builder = Response::builder();
    if state.habits.conditions {
        builder = builder.header("etag", format!("\"{digest}\""));
    }
    builder
        .header("content-type", media_type)
        .header("docker-content-digest", digest.to_string())
        .header("content-length", bytes.len())
        .body(full(bytes))
        .unwrap()
}

fn put_manifest(
    state: &mut State,
    parts: &hyper::http::request::Parts,
    repository: &str,
    name: &str,
    body: &[u8],
) -> Response<Body> {
    let content_type = parts
        .headers
        .get("content-type")
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
        .to_owned();
    let Ok(document) = serde_json::from_slice::<serde_json::Value>(body) else {
        return error(400, "MANIFEST_INVALID");
    };
    if document["mediaType"].as_str().is_some_and(|own| own != content_type) {
        return error(400, "MANIFEST_INVALID");
    }
    let digest = Digest::of(body);
    if name.contains(':') && name != digest.to_string() {
        return error(400, "DIGEST_INVALID");
    }
    let immutable = state.habits.immutable_tags;
    let condition = parts.headers.get("if-match").filter(|_| state.habits.conditions);
    if let Some(condition) = condition.and_then(|value| value.to_str().ok()) {
        let now = state.repositories.get(repository).and_then(|entry| entry.tags.get(name));
        if now.is_none_or(|now| condition != format!("\"{now}\"")) {
            return error(412, "PRECONDITION_FAILED");
        }
    }
    let subject = document["subject"]["digest"].as_str().filter(|_| state.habits.referrers);
    let entry = state.repositories.entry(repository.to_owned()).or_default();
    let digests = |list: &serde_json::Value| -> Vec<Digest> {
        list.as_array()
            .into_iter()
            .flatten()
            .filter_map(|descriptor| descriptor["digest"].as_str()?.parse().ok())
            .collect()
    };
    let mut blobs = digests(&document["layers"]);
    blobs.extend(digests(&json!([document["config"]])));
    if !blobs.iter().all(|digest| entry.blobs.contains(digest)) {
        return error(400, "MANIFEST_BLOB_UNKNOWN");
    }
    let manifests = digests(&document["manifests"]);
    if !manifests.iter().all(|digest| entry.manifests.contains_key(digest)) {
        return error(400, "MANIFEST_BLOB_UNKNOWN");
    }
    if !name.contains(':') {
        match entry.tags.get(name) {
            Some(tagged) if immutable && *tagged != digest => {
                return error(409, "TAG_INVALID");
            }
            _ => entry.tags.insert(name.to_owned(), digest),
        };
    }
    entry.manifests.insert(digest, (content_type, Bytes::copy_from_slice(body)));
    let builder = match subject {
        Some(subject) => Response::builder().header("oci-subject", subject),
        None => Response::builder(),
    };
    builder
        .status(201)
        .header("location", format!("/v2/{repository}/manifests/{digest}"))
        .header("docker-content-digest", digest.to_string())
        .body(full(""))
        .unwrap()
}

fn get_blob(
    state: &State,
    parts: &hyper::http::request::Parts,
    repository: &str,
    name: &str,
) -> Response<Body> {
    let found = name.parse::<Digest>().ok().and_then(|digest| {
        let repository = state.repositories.get(repository)?;
        let blob = repository.blobs.get(&digest).and_then(|d| state.blobs.get(d))?;
        Some((digest, blob.clone()))
    });
    let Some((digest, blob)) = found else {
        return error(404, "BLOB_UNKNOWN");
    };
    let size = blob.size();
    let range = parts
        .headers
        .get("range")
        .and_then(|value| value.to_str().ok()?.strip_prefix("bytes="))
        .filter(|_| !state.habits.ignores_ranges)
        .and_then(|range| range.split_once('-'))
        .and_then(|(start, end)| {
            let start = start.parse::<u64>().ok()?;
            let end = end.parse::<u64>().map_or(size, |end| (end + 1).min(size));
            Some((start, end))
        });
    let (status, start, end) = match range {
        Some((start, end)) if start >= end => {
            return Response::builder()
                .status(416)
                .header("content-range", format!("bytes */{size}"))
                .body(full(""))
                .unwrap();
        }
        Some((start, end)) => (StatusCode::PARTIAL_CONTENT, start, end),
        None => (StatusCode::OK, 0, size),
    };
    let mut builder = Response::builder()
        .status(status)
        .header("content-type", "application/octet-stream")
        .header("docker-content-digest", digest.to_string())
        .header("content-length", end - start)
        .header("accept-ranges", "bytes");
    if status == StatusCode::PARTIAL_CONTENT {
        builder = builder.header("content-range", format!("bytes {start}-{}/{size}", end - 1));
    }
    let body = if parts.method == "HEAD" {
        full("")
    } else {
        match blob {
            Blob::Memory(bytes) => {
                let start = usize::try_from(start).unwrap();
                full(bytes.slice(start..usize::try_from(end).unwrap()))
            }
            Blob::File { path, .. } => file_body(&path, start, end),
        }
    };
    builder.body(body).unwrap()
}

/// A part of a file, 64 KiB at a time.
fn file_body(path: &Path, start: u64, end: u64) -> Body {
    let mut file = fs_err::File::open(path).unwrap();
    file.seek(SeekFrom::Start(start)).unwrap();
    let frames = stream::unfold((file.take(end - start), false), |(mut file, over)| async move {
        if over {
            return None;
        }
        let mut buffer = vec![0; 1 << 16];
        match file.read(&mut buffer) {
            Ok(0) => None,
            Ok(read) => {
                buffer.truncate(read);
                Some((Ok(Frame::data(Bytes::from(buffer))), (file, false)))
            }
            Err(error) => Some((Err(error), (file, true))),
        }
    });
    UnsyncBoxBody::new(StreamBody::new(frames))
}

fn location(state: &State, address: SocketAddr, repository: &str, id: &str) -> String {
    let size = state.uploads.get(id).map_or(0, |upload| upload.bytes.len());
    let host =
        if state.habits.absolute_locations { format!("http://{address}") } else { String::new() };
    let query =
        if state.habits.location_query { format!("?_state={id}.{size}") } else { String::new() };
    format!("{host}/v2/{repository}/blobs/uploads/{id}{query}")
}

fn session(
    state: &State,
    address: SocketAddr,
    repository: &str,
    id: &str,
    status: u16,
) -> Response<Body> {
    let size = state.uploads.get(id).map_or(0, |upload| upload.bytes.len());
    Response::builder()
        .status(status)
        .header("location", location(state, address, repository, id))
        .header("range", format!("0-{}", size.saturating_sub(1)))
        .header("docker-upload-uuid", id)
        .header("content-length", "0")
        .body(full(""))
        .unwrap()
}

fn created(repository: &str, digest: &Digest) -> Response<Body> {
    Response::builder()
        .status(201)
        .header("location", format!("/v2/{repository}/blobs/{digest}"))
        .header("docker-content-digest", digest.to_string())
        .header("content-length", "0")
        .body(full(""))
        .unwrap()
}

fn post_upload(
    state: &mut State,
    address: SocketAddr,
    parts: &hyper::http::request::Parts,
    repository: &str,
    body: &[u8],
) -> Response<Body> {
    let pairs = query(&parts.uri);
    let mount = value(&pairs, "mount").and_then(|digest| digest.parse::<Digest>().ok());
    if let (Some(digest), Some(from)) = (mount, value(&pairs, "from")) {
        let readable = match &state.auth {
            Auth::Token { .. } => parts
                .headers
                .get("authorization")
                .and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "))
                .and_then(|token| state.tokens.get(token))
                .is_some_and(|granted| granted.contains(&(from.to_owned(), "pull".to_owned()))),
            _ => true,
        };
        let there = state
            .repositories
            .get(from)
            .is_some_and(|repository| repository.blobs.contains(&digest));
        if state.habits.mounts && readable && there {
            let entry = state.repositories.entry(repository.to_owned());
            entry.or_default().blobs.insert(digest);
            return created(repository, &digest);
        }
    } else if mount.is_some() {
        // Quay does not take a mount without `from`.
        return error(400, "UNSUPPORTED");
    }
    if let Some(digest) = value(&pairs, "digest") {
        return finish(state, repository, digest, body.to_vec());
    }
    state.counter += 1;
    let id = format!("upload-{}", state.counter);
    state
        .uploads
        .insert(id.clone(), Upload { repository: repository.to_owned(), bytes: Vec::new() });
    session(state, address, repository, &id, 202)
}

fn finish(state: &mut State, repository: &str, digest: &str, bytes: Vec<u8>) -> Response<Body> {
    let found = Digest::of(&bytes);
    if digest.parse() != Ok(found) {
        return error(400, "DIGEST_INVALID");
    }
    state.blobs.insert(found, Blob::Memory(bytes.into()));
    let entry = state.repositories.entry(repository.to_owned());
    entry.or_default().blobs.insert(found);
    created(repository, &found)
}

fn upload(
    state: &mut State,
    address: SocketAddr,
    parts: &hyper::http::request::Parts,
    repository: &str,
    id: &str,
    body: &[u8],
) -> Response<Body> {
    let Some(upload) = state.uploads.get(id) else {
        return error(404, "BLOB_UPLOAD_UNKNOWN");
    };
    let size = upload.bytes.len();
    if upload.repository != repository {
        return error(404, "BLOB_UPLOAD_UNKNOWN");
    }
    let pairs = query(&parts.uri);
    let carried = format!("{id}.{size}");
    if state.habits.location_query
        && parts.method != "GET"
        && parts.method != "DELETE"
        && value(&pairs, "_state") != Some(carried.as_str())
    {
        return error(400, "BLOB_UPLOAD_INVALID");
    }
    let start = parts
        .headers
        .get("content-range")
        .and_then(|value| value.to_str().ok()?.split_once('-')?.0.parse::<usize>().ok());
    let mut range_refused = session(state, address, repository, id, 416);
    match parts.method.as_str() {
        "GET" => session(state, address, repository, id, 204),
        "DELETE" => {
            state.uploads.remove(id);
            empty(204)
        }
        "PUT" if body.len() > state.habits.largest_put => error(413, "SIZE_INVALID"),
        "PATCH" if state.habits.refuses_chunks => error(405, "UNSUPPORTED"),
        "PATCH" | "PUT" if start.is_some_and(|start| start != size) => {
            range_refused.headers_mut().remove("content-length");
            range_refused
        }
        "PATCH" => {
            if let Some(upload) = state.uploads.get_mut(id) {
                upload.bytes.extend_from_slice(body);
            }
            session(state, address, repository, id, 202)
        }
        "PUT" => {
            let digest = value(&pairs, "digest").unwrap_or_default().to_owned();
            let mut bytes = state.uploads.remove(id).map(|upload| upload.bytes).unwrap_or_default();
            bytes.extend_from_slice(body);
            finish(state, repository, &digest, bytes)
        }
        _ => error(405, "UNSUPPORTED"),
    }
}
