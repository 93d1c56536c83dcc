//! The resolver against uv: the same questions to the same package index, for the same targets.
//!
//! Needs `uv` on PATH, a Python that uv can run, and the public package index. Where the answers differ
//! on purpose, the table says so.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;
use std::process::Stdio;

use assemble::error::Failure as _;
use assemble::package_index::{Client, Config, Sources};
use assemble::python::Target;
use assemble::resolve::{NoBuild, Question, resolve_from};
use assemble::store::Store;
use assemble::world::Quiet;
use assemble::{Kind, http};
use futures_util::StreamExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use crate::support;

/// Both see the package index as it was then (but for yanks, which have no date).
const LIMIT: &str = "2026-11-01T00:00:00Z";

/// Requirements, Python, architecture.
const QUESTIONS: &[(&str, &str, &str)] = &[
    ("locust==2.47.0", "3.13.1", "x86_64"),
    ("locust==2.47.0", "3.14.0", "aarch64"),
    ("locust==2.32.0 configargparse==1.7", "3.12.7", "x86_64"),
    ("flask", "3.13.1", "x86_64"),
    ("django celery redis", "3.13.1", "x86_64"),
    ("fastapi[standard]", "3.13.1", "aarch64"),
    ("requests[socks] httpx[http2,cli]", "3.13.1", "x86_64"),
    ("numpy pandas", "3.13.1", "x86_64"),
    ("scipy scikit-learn matplotlib", "3.12.7", "aarch64"),
    ("sqlalchemy[asyncio] alembic psycopg[binary]", "3.13.1", "x86_64"),
    ("boto3 s3fs", "3.13.1", "x86_64"),
    ("starlette<0.14 fastapi", "3.11.9", "x86_64"),
    ("poetry<1.5 keyring>=24", "3.11.9", "x86_64"),
    ("jupyterlab>=4", "3.13.1", "x86_64"),
    ("grpcio<2.0dev protobuf", "3.13.1", "x86_64"),
    ("google-cloud-storage google-cloud-bigquery", "3.13.1", "x86_64"),
    ("ansible-core", "3.13.1", "aarch64"),
    ("pytest pytest-xdist pytest-cov tox", "3.13.1", "x86_64"),
    ("black ruff mypy isort", "3.8.18", "x86_64"),
    ("aiohttp uvloop gunicorn uvicorn[standard]", "3.13.1", "x86_64"),
    ("pydantic<2 pydantic-settings", "3.12.7", "x86_64"),
    ("pydantic<2", "3.12.7", "x86_64"),
    ("cryptography pyopenssl paramiko", "3.9.20", "x86_64"),
    ("sphinx furo myst-parser", "3.12.7", "x86_64"),
    ("mkdocs-material", "3.13.1", "x86_64"),
    ("streamlit", "3.12.7", "x86_64"),
    ("dask[complete]", "3.12.7", "x86_64"),
    ("langchain openai", "3.12.7", "x86_64"),
    ("scrapy", "3.13.1", "x86_64"),
    ("transformers tokenizers", "3.12.7", "aarch64"),
    ("opentelemetry-sdk opentelemetry-exporter-otlp", "3.13.1", "x86_64"),
    ("urllib3<2 requests botocore", "3.10.15", "x86_64"),
    ("werkzeug<2 flask", "3.9.20", "x86_64"),
    ("jinja2==2.11.3 markupsafe>=2.1 flask<2", "3.9.20", "x86_64"),
];

/// Nothing fits these.
const IMPOSSIBLE: &[(&str, &str, &str)] = &[
    ("tensorflow", "3.13.1", "x86_64"),
    ("flask==1.1.2 jinja2>=3.2", "3.9.20", "x86_64"),
    ("locust==2.47.0", "3.8.18", "x86_64"),
    ("jupyterlab<4 notebook>=7", "3.12.7", "x86_64"),
    ("boto3==1.34.0 botocore<1.34", "3.12.7", "x86_64"),
    ("apache-airflow==2.9.3 sqlalchemy>=2", "3.12.7", "x86_64"),
];

type Pins = BTreeSet<String>;

#[tokio::test]
async fn uv_answers_the_same() {
    let Some(uv) = support::tool("uv") else {
        return;
    };
    let folder = tempfile::TempDir::new().unwrap();
    let store = Store::open(folder.path().join("store")).unwrap();
    let client = http::Client::new(http::Options::default()).unwrap();
    let config = Config::from_sources(&Sources::default()).unwrap();
    let index = Client::new(client, config, store);

    let (uv, cache, index) = (&uv, &folder.path().join("uv"), &index);
    let possible = QUESTIONS.iter().map(|question| (question, true));
    let impossible = IMPOSSIBLE.iter().map(|question| (question, false));
    let differences: Vec<String> = futures_util::stream::iter(possible.chain(impossible))
        .map(|(&(requirements, python, machine), is_possible)| async move {
            let theirs = ask_uv(uv, cache, requirements, python, machine).await;
            let ours = ask_ourselves(index, requirements, python, machine).await;
            let mut text = format!("{requirements} on {python} {machine}:\n");
            match (&ours, &theirs) {
                (Ok(ours), Ok(theirs)) if ours == theirs && is_possible => {
                    return String::new();
                }
                (Err(_), Err(_)) if !is_possible => return String::new(),
                _ => describe(&mut text, &ours, &theirs),
            }
            text
        })
        .buffered(4)
        .collect()
        .await;
    let differences = differences.concat();
    assert!(differences.is_empty(), "{differences}");
}

fn describe(text: &mut String, ours: &Result<Pins, String>, theirs: &Result<Pins, String>) {
    match (ours, theirs) {
        (Ok(ours), Ok(theirs)) => {
            let list = |pins: BTreeSet<&String>| {
                let pins: Vec<&str> = pins.into_iter().map(String::as_str).collect();
                pins.join(" ")
            };
            writeln!(text, "  only ours: {}", list(ours.difference(theirs).collect())).unwrap();
            writeln!(text, "  only uv's: {}", list(theirs.difference(ours).collect())).unwrap();
        }
        (Err(ours), _) => writeln!(text, "  we fail: {ours}").unwrap(),
        (_, Err(theirs)) => writeln!(text, "  uv fails: {theirs}").unwrap(),
    }
}

async fn ask_uv(
    uv: &Path,
    cache: &Path,
    requirements: &str,
    python: &str,
    machine: &str,
) -> Result<Pins, String> {
    let platform = format!("{machine}-unknown-linux-musl");
    let mut command = Command::new(uv);
    command
        .args(["pip", "compile", "-", "--quiet", "--no-config"])
        .args(["--no-header", "--no-annotate", "--exclude-newer", LIMIT])
        .args(["--python-version", python, "--python-platform", &platform])
        .env("UV_CACHE_DIR", cache)
        .env("UV_PYTHON_DOWNLOADS", "never")
        .env_remove("UV_DEFAULT_INDEX")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let lines = requirements.replace(' ', "\n");
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(lines.as_bytes()).await.unwrap();
    drop(stdin);
    let output = child.wait_with_output().await.unwrap();
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    let pins = String::from_utf8(output.stdout).unwrap();
    Ok(pins.lines().map(str::to_owned).collect())
}

async fn ask_ourselves(
    index: &Client,
    requirements: &str,
    python: &str,
    machine: &str,
) -> Result<Pins, String> {
    let architecture = if machine == "x86_64" { "amd64" } else { "arm64" };
    let platform = format!("linux/{architecture}").parse().unwrap();
    let question = Question {
        requirements: requirements
            .split(' ')
            .map(|requirement| requirement.parse().unwrap())
            .collect(),
        constraints: Vec::new(),
        overrides: BTreeMap::new(),
        targets: vec![Target::new(python, "alpine3.22", &platform).unwrap()],
        exclude_newer: Some(LIMIT.parse().unwrap()),
        prefer: BTreeMap::new(),
    };
    match resolve_from(&question, index, &NoBuild, &Quiet).await {
        Ok(distributions) => Ok(distributions
            .iter()
            .map(|distribution| format!("{}=={}", distribution.name, distribution.version))
            .collect()),
        // That nothing fits is an answer, all else is none.
        Err(error) if error.kind() == Kind::Unsatisfiable => Err(error.to_string()),
        Err(error) => panic!("{error}: {:?}", std::error::Error::source(&error)),
    }
}
