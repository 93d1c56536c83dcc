//! The package index client against a real server on loopback, and local folders.

use std::net::SocketAddr;
use std::path::Path;

use assemble::package_index::{Client, Config, Error, FileKind, Sources};
use assemble::store::Store;
use assemble::{Failure as _, Kind};
use futures_util::future::join_all;
use pep508_rs::PackageName;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::support::package_index::{FakePackageIndex, Fault, Published, Switches};

const WHEEL: &str = "foo_bar-1.0-py3-none-any.whl";

fn name(text: &str) -> PackageName {
    text.parse().unwrap()
}

fn http() -> reqwest::Client {
    // Twice is no error: the tests of this binary share the process.
    let _installed = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().no_proxy().build().unwrap()
}

fn client(store: &Path, sources: &Sources) -> Client {
    let config = Config::from_sources(sources).unwrap();
    Client::new(http(), config, Store::open(store).unwrap())
}

/// A client of one index.
fn of(store: &Path, index: &FakePackageIndex) -> Client {
    let index_url = Some(index.url(""));
    let sources = Sources { index_url, ..Sources::default() };
    client(store, &sources)
}

fn foo_bar() -> Published {
    Published {
        requires_python: Some(">=3.8".to_owned()),
        yanked: Some("broken & <bad>".to_owned()),
        ..Published::wheel(WHEEL, &["baz>=2"], 100_000)
    }
}

async fn requires(client: &Client) -> Result<Vec<String>, Error> {
    let project = client.project(&name("foo-bar")).await?;
    let file = &project.versions.values().next().unwrap()[0];
    let metadata = client.wheel_metadata(file).await?;
    Ok(metadata.requires_dist.iter().map(ToString::to_string).collect())
}

#[tokio::test]
async fn json_and_html_and_three_ways_to_metadata() {
    for html in [false, true] {
        for sizes in [false, true] {
            // PEP 658, ranges, neither: how many requests, and at most how many bytes.
            for (core_metadata, ranges, requests, bytes) in
                [(true, true, 1, 100), (false, true, 1, 33_000), (false, false, 1, 110_000)]
            {
                let folder = TempDir::new().unwrap();
                let index = FakePackageIndex::start().await;
                let case = Switches {
                    html,
                    sizes,
                    core_metadata,
                    ranges,
                    gzip: ranges,
                    ..Switches::default()
                };
                index.switch(|switches| *switches = case.clone());
                index.publish("foo-bar", foo_bar());
                let client = of(folder.path(), &index);

                let project = client.project(&name("foo-bar")).await.unwrap();
                let (version, files) = project.versions.first_key_value().unwrap();
                assert_eq!(version.to_string(), "1.0");
                let file = &files[0];
                assert!(matches!(&file.kind, FileKind::Wheel(tags) if *tags.platform == *"any"));
                assert_eq!(file.sha256, Some(foo_bar().digest()));
                assert_eq!(file.requires_python.as_ref().unwrap().to_string(), ">=3.8");
                assert_eq!(file.yanked.as_deref(), Some("broken & <bad>"));
                assert_eq!(file.size.is_some(), sizes && !html);
                assert_eq!(file.upload_time.is_some(), sizes && !html);

                assert_eq!(requires(&client).await.unwrap(), ["baz>=2"], "{case:?}");
                let log = index.requests("/files/");
                assert_eq!(log.len(), requests, "{case:?}: {log:?}");
                let sent: usize = log.iter().map(|logged| logged.bytes_out).sum();
                assert!(sent <= bytes, "{case:?}: {sent}");
            }
        }
    }
}

#[tokio::test]
async fn everything_is_asked_for_once() {
    let folder = TempDir::new().unwrap();
    let index = FakePackageIndex::start().await;
    index.publish("foo-bar", foo_bar());
    let client = of(folder.path(), &index);
    let answers = join_all((0..20).map(|_| requires(&client))).await;
    assert!(answers.iter().all(|answer| answer.as_ref().unwrap() == &["baz>=2"]));
    let fetches = join_all((0..20).map(|_| client.fetch_foo_bar())).await;
    assert!(fetches.iter().all(|size| *size == foo_bar().bytes.len() as u64));
    assert_eq!(index.requests("/simple/").len(), 1);
    assert_eq!(index.requests("/files/").len(), 2, "a range and the whole");

    // The next run finds metadata and file on disk, and asks for the page again.
    index.clear_log();
    let client = of(folder.path(), &index);
    assert_eq!(requires(&client).await.unwrap(), ["baz>=2"]);
    client.fetch_foo_bar().await;
    assert_eq!(index.requests("").len(), 1);

    // A damaged blob is fetched again.
    let blob = Store::open(folder.path()).unwrap().blob_path(&foo_bar().digest());
    fs_err::write(&blob, b"damaged").unwrap();
    assert_eq!(client.fetch_foo_bar().await, foo_bar().bytes.len() as u64);
}

#[tokio::test]
async fn a_page_is_asked_for_once_however_many_of_its_files_are_wanted() {
    let folder = TempDir::new().unwrap();
    let index = FakePackageIndex::start().await;
    let others = ["foo_bar-2.0-py3-none-any.whl", "foo_bar-2.0-py3-none-win32.whl"]
        .map(|file_name| Published::wheel(file_name, &[], 0));
    index.publish("foo-bar", foo_bar());
    for other in &others {
        index.publish("foo-bar", other.clone());
    }
    let client = of(folder.path(), &index);
    client.fetch_foo_bar().await;
    for (number, other) in others.iter().enumerate() {
        let fetched =
            client.fetch(&name("foo-bar"), &other.file_name, Some(&other.digest()), None).await;
        assert_eq!(fetched.unwrap().0, other.digest());
        assert_eq!(index.requests("/simple/").len(), 1 + number);
        // The page that the next one looks at is on disk, and damaged.
        for record in fs_err::read_dir(folder.path().join("keyed/package-index-page")).unwrap() {
            fs_err::write(record.unwrap().path(), b"damaged").unwrap();
        }
    }
}

trait FetchFooBar {
    async fn fetch_foo_bar(&self) -> u64;
}

impl FetchFooBar for Client {
    async fn fetch_foo_bar(&self) -> u64 {
        let digest = foo_bar().digest();
        let size = foo_bar().bytes.len() as u64;
        let (found, size) =
            self.fetch(&name("foo-bar"), WHEEL, Some(&digest), Some(size)).await.unwrap();
        assert_eq!(found, digest);
        size
    }
}

#[tokio::test]
async fn pages_are_revalidated_and_serve_offline() {
    let folder = TempDir::new().unwrap();
    let index = FakePackageIndex::start().await;
    index.switch(|switches| switches.etag = true);
    index.publish("foo-bar", foo_bar());
    for status in [200, 304] {
        index.clear_log();
        let client = of(folder.path(), &index);
        assert_eq!(requires(&client).await.unwrap(), ["baz>=2"]);
        assert_eq!(index.requests("/simple/")[0].status, status);
        let unknown = client.project(&name("unknown")).await.unwrap();
        assert!(unknown.versions.is_empty());
    }
    index.clear_log();
    let offline = client(
        folder.path(),
        &Sources { index_url: Some(index.url("")), offline: true, ..Sources::default() },
    );
    assert_eq!(requires(&offline).await.unwrap(), ["baz>=2"]);
    assert!(offline.project(&name("unknown")).await.unwrap().versions.is_empty());
    let error = offline.project(&name("never-asked-for")).await.unwrap_err();
    assert!(matches!(error, Error::Offline(_)));
    let error =
        offline.fetch(&name("foo-bar"), WHEEL, Some(&foo_bar().digest()), None).await.unwrap_err();
    assert!(matches!(error, Error::Offline(_)), "{error:?}");
    assert!(index.requests("").is_empty());
}

#[tokio::test]
async fn wrong_bytes_are_refused() {
    let other = Published::wheel(WHEEL, &["evil"], 10);
    for (published, expected_size, kind) in [
        // The index says the digest of other bytes, and the lock has that one.
        (Published { sha256: Some(foo_bar().digest()), ..other.clone() }, None, Kind::Integrity),
        // The index has replaced the file and says so.
        (other.clone(), None, Kind::Integrity),
        // The lock has another size.
        (foo_bar(), Some(5), Kind::Integrity),
    ] {
        let folder = TempDir::new().unwrap();
        let index = FakePackageIndex::start().await;
        index.publish("foo-bar", published);
        let client = of(folder.path(), &index);
        let error = client
            .fetch(&name("foo-bar"), WHEEL, Some(&foo_bar().digest()), expected_size)
            .await
            .unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        if expected_size.is_none() {
            let store = Store::open(folder.path()).unwrap();
            assert!(!store.blob_path(&foo_bar().digest()).exists());
        }
    }
}

#[tokio::test]
async fn unusable_metadata_is_about_one_file() {
    let lies = Published::wheel("other-1.0-py3-none-any.whl", &[], 10);
    let unreadable = Published::wheel(WHEEL, &["what is this"], 10);
    let no_wheel = Published::new(WHEEL, b"<html>sorry</html>".to_vec());
    let cut = {
        let bytes = foo_bar().bytes;
        Published::new(WHEEL, bytes[..bytes.len() - 10].to_vec())
    };
    for file in [lies, unreadable, no_wheel, cut] {
        for ranges in [true, false] {
            let folder = TempDir::new().unwrap();
            let index = FakePackageIndex::start().await;
            index.switch(|switches| switches.ranges = ranges);
            let file = Published { file_name: WHEEL.to_owned(), ..file.clone() };
            index.publish("foo-bar", file);
            let error = requires(&of(folder.path(), &index)).await.unwrap_err();
            assert!(error.is_about_one_file(), "{error:?}");
        }
    }
}

#[tokio::test]
async fn credentials() {
    let index = FakePackageIndex::start().await;
    let files = FakePackageIndex::start().await;
    index.publish("foo-bar", foo_bar());
    files.publish("foo-bar", foo_bar());
    let auth = Some(("anna".to_owned(), "s3:cret".to_owned()));
    index.switch(|switches| switches.auth = auth.clone());
    let folder = TempDir::new().unwrap();

    // Without: refused, and the secret is nowhere.
    for userinfo in ["", "anna:wr0ng@"] {
        let sources = Sources { index_url: Some(index.url(userinfo)), ..Sources::default() };
        let client = client(folder.path(), &sources);
        let error = client.project(&name("foo-bar")).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Remote);
        assert!(error.hint().unwrap().contains("netrc"));
        let shown = format!("{error} {error:?} {client:?}");
        assert!(shown.contains("401") && !shown.contains("wr0ng"), "{shown}");
    }

    // In the address, for pages and files of that host.
    let sources = Sources { index_url: Some(index.url("anna:s3%3Acret@")), ..Sources::default() };
    let here = client(folder.path(), &sources);
    assert_eq!(requires(&here).await.unwrap(), ["baz>=2"]);
    assert_eq!(here.fetch_foo_bar().await, foo_bar().bytes.len() as u64);

    // Never for files of another one.
    let folder = TempDir::new().unwrap();
    index.switch(|switches| switches.files_at = Some(files.origin()));
    let elsewhere = client(folder.path(), &sources);
    elsewhere.fetch_foo_bar().await;
    assert_eq!(files.requests("/files/").len(), 1);
    assert_eq!(files.requests("/files/")[0].authorization, None);

    // Nor after a redirect to it.
    let folder = TempDir::new().unwrap();
    index.fault(Fault {
        path: "/simple/foo-bar/".into(),
        times: 1,
        status: 302,
        headers: vec![("location", format!("{}foo-bar/", files.url("")))],
        body: String::new(),
    });
    client(folder.path(), &sources).fetch_foo_bar().await;
    assert_eq!(files.requests("/simple/")[0].authorization, None);

    // From .netrc.
    let folder = TempDir::new().unwrap();
    let sources = Sources {
        index_url: Some(index.url("")),
        netrc: Some("machine 127.0.0.1 login anna password s3:cret".into()),
        ..Sources::default()
    };
    client(folder.path(), &sources).fetch_foo_bar().await;
}

#[tokio::test]
async fn the_first_index_that_knows_a_project_has_all_of_its_files() {
    let private = FakePackageIndex::start().await;
    let public = FakePackageIndex::start().await;
    private.publish("foo-bar", foo_bar());
    public.publish("foo-bar", Published::wheel("foo_bar-99.0-py3-none-any.whl", &[], 0));
    let old = Published::wheel("foo_bar-0.9-py3-none-any.whl", &[], 0);
    public.publish("foo-bar", old.clone());
    public.publish("baz", Published::wheel("baz-2.0-py3-none-any.whl", &[], 0));
    let sources = Sources {
        index_url: Some(public.url("")),
        extra_index_urls: vec![private.url("")],
        ..Sources::default()
    };
    let folder = TempDir::new().unwrap();
    let both = client(folder.path(), &sources);
    let versions = |project: &assemble::package_index::Project| {
        let versions = project.versions.keys().map(ToString::to_string);
        versions.collect::<Vec<_>>()
    };
    let project = both.project(&name("foo-bar")).await.unwrap();
    assert_eq!(versions(&project), ["1.0"]);
    assert!(public.requests("foo-bar").is_empty());
    let project = both.project(&name("baz")).await.unwrap();
    assert_eq!(versions(&project), ["2.0"]);

    // A hash makes any index good enough; without one it is not.
    let file = old.file_name.as_str();
    let fetched = both.fetch(&name("foo-bar"), file, Some(&old.digest()), None).await;
    assert_eq!(fetched.unwrap().0, old.digest());
    let error = both.fetch(&name("foo-bar"), file, None, None).await.unwrap_err();
    assert!(matches!(error, Error::NoSuchFile { .. }), "{error:?}");

    // An index that refuses does not hand its projects to the next one.
    public.clear_log();
    private.fault(Fault {
        path: "/simple/baz/".into(),
        times: 1,
        status: 403,
        headers: vec![("content-type", "text/plain".into())],
        body: "not yours\nat all".into(),
    });
    let error = client(folder.path(), &sources).project(&name("baz")).await.unwrap_err();
    let expected = format!("GET {}baz/: 403 Forbidden: not yours", private.url(""));
    assert_eq!(error.to_string(), expected);
    assert!(public.requests("").is_empty());
}

#[tokio::test]
async fn what_may_go_away_is_tried_again() {
    let folder = TempDir::new().unwrap();
    let index = FakePackageIndex::start().await;
    index.publish("foo-bar", foo_bar());
    let fault = |path: &str, times, status, headers: Vec<(&'static str, String)>| Fault {
        path: path.into(),
        times,
        status,
        headers,
        body: "{\"message\": \"slow down\"}".into(),
    };
    let now = ("retry-after", "0".to_owned());
    let json = ("content-type", "application/json".to_owned());
    index.fault(fault("/simple/", 2, 503, vec![now.clone()]));
    index.fault(fault("/files/", 3, 429, vec![now.clone()]));
    let client = of(folder.path(), &index);
    assert_eq!(requires(&client).await.unwrap(), ["baz>=2"]);
    assert_eq!(index.requests("/simple/").len(), 3);
    assert_eq!(index.requests("/files/").len(), 4);

    index.fault(fault("/simple/", 9, 500, vec![now, json]));
    let error = client.project(&name("other")).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Remote);
    let text = error.to_string();
    assert!(text.ends_with("500 Internal Server Error: slow down"), "{text}");
    assert_eq!(index.requests("/simple/other/").len(), 4);

    // Nobody listens there: said with the reason, and without the password.
    let address = index.url("anna:s3cret@");
    drop(index);
    let sources = Sources { index_url: Some(address), ..Sources::default() };
    let gone = self::client(folder.path(), &sources);
    let error = gone.project(&name("foo-bar")).await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
    assert!(!format!("{error} {error:?}").contains("s3cret"));
}

/// Answers the connections in turn, each with these bytes, and closes them.
async fn canned(answers: Vec<Vec<u8>>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        for answer in answers {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                request.push(stream.read_u8().await.unwrap());
            }
            stream.write_all(&answer).await.unwrap();
        }
    });
    address
}

#[tokio::test]
async fn a_cut_connection_is_tried_again_and_never_taken_for_the_end() {
    let wheel = foo_bar().bytes;
    let hex = foo_bar().digest().hex();
    let page = format!("<a href=\"/{WHEEL}#sha256={hex}\">x</a>").into_bytes();
    let whole = |body: &[u8], length: usize| {
        let mut answer = format!(
            "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-type: text/html\r\n\
             content-length: {length}\r\n\r\n"
        )
        .into_bytes();
        answer.extend_from_slice(body);
        answer
    };
    let address = canned(vec![
        Vec::new(),
        whole(&page[..9], page.len()),
        whole(&page, page.len()),
        whole(&wheel[..5000], wheel.len()),
        whole(&wheel, wheel.len()),
    ])
    .await;
    let folder = TempDir::new().unwrap();
    let sources = Sources { index_url: Some(format!("http://{address}/")), ..Sources::default() };
    let client = client(folder.path(), &sources);
    assert_eq!(client.fetch_foo_bar().await, wheel.len() as u64);
}

#[tokio::test]
async fn folders_of_files() {
    let folder = TempDir::new().unwrap();
    let links = folder.path().join("links");
    fs_err::create_dir(&links).unwrap();
    let sdist = Published::sdist(
        "foo_bar-2.0.tar.gz",
        &[
            ("PKG-INFO", "Metadata-Version: 2.2\nName: foo-bar\nVersion: 2.0\n"),
            ("pyproject.toml", "[build-system]\nrequires = ['flit']\nbuild-backend = 'flit'\n"),
        ],
    );
    for file in [&foo_bar(), &sdist] {
        fs_err::write(links.join(&file.file_name), &file.bytes).unwrap();
    }
    fs_err::write(links.join("README"), "not a distribution").unwrap();
    let sources = Sources {
        no_index: true,
        find_links: vec![links.to_str().unwrap().to_owned()],
        ..Sources::default()
    };
    let client = client(&folder.path().join("cache"), &sources);
    let project = client.project(&name("foo-bar")).await.unwrap();
    assert_eq!(project.versions.len(), 2);
    assert_eq!(requires(&client).await.unwrap(), ["baz>=2"]);
    client.fetch_foo_bar().await;
    // What lies there is not asked for elsewhere.
    let index = FakePackageIndex::start().await;
    index.publish("foo-bar", foo_bar());
    let both = Sources { no_index: false, index_url: Some(index.url("")), ..sources.clone() };
    self::client(&folder.path().join("other"), &both).fetch_foo_bar().await;
    assert!(index.requests("").is_empty());
    let file = &project.versions.values().nth(1).unwrap()[0];
    let source = client.sdist_source(&name("foo-bar"), file).await.unwrap();
    assert_eq!(source.digest, sdist.digest());
    assert_eq!(source.size, sdist.bytes.len() as u64);
    assert!(source.metadata.unwrap().is_static);
    assert_eq!(source.build_backend.as_deref(), Some("flit"));

    let missing = Sources { find_links: vec!["/no/such/folder".into()], ..sources };
    let error = self::client(&folder.path().join("cache"), &missing)
        .project(&name("foo-bar"))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), Kind::Usage);
}

#[tokio::test]
async fn sdists_of_an_index() {
    let folder = TempDir::new().unwrap();
    let index = FakePackageIndex::start().await;
    let sdist = Published::sdist("foo-bar-2.0.tar.gz", &[("setup.py", "")]);
    index.publish("foo-bar", sdist.clone());
    let client = of(folder.path(), &index);
    let project = client.project(&name("foo-bar")).await.unwrap();
    let file = &project.versions.values().next().unwrap()[0];
    for _ in 0..2 {
        let source = client.sdist_source(&name("foo-bar"), file).await.unwrap();
        assert_eq!(source.digest, sdist.digest());
        assert!(source.legacy && source.metadata.is_none());
    }
    assert_eq!(index.requests("/files/").len(), 1);
}
