//! A container that a check looks at, and what Locust in it says.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::dialect::Dialect;
use crate::support::tools::{Docker, http};

/// How long a container may take to do something, on a machine that has other work.
const PATIENCE: Duration = Duration::from_mins(5);

/// Asks until there is an answer.
pub(super) fn until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(started.elapsed() < PATIENCE, "{what}");
        // Each question to Docker is a program of its own, and as much work as the image's.
        std::thread::sleep(Duration::from_millis(500));
    }
}

/// A container, gone when dropped; what it wrote is shown if the test fails.
#[derive(Debug)]
pub(super) struct Container<'a> {
    docker: &'a Docker,
    id: String,
    title: String,
}

impl<'a> Container<'a> {
    /// `docker run --detach <arguments>`
    pub(super) fn run(docker: &'a Docker, arguments: &[&str]) -> Self {
        let id = docker.run(&[&["run", "--detach"], arguments].concat());
        Self { docker, id: id.trim().to_owned(), title: arguments.join(" ") }
    }

    /// What `docker inspect` says of it.
    pub(super) fn inspect(&self, format: &str) -> String {
        self.docker.run(&["inspect", "--format", format, &self.id]).trim().to_owned()
    }

    /// Both streams, in no certain order.
    pub(super) fn logs(&self) -> String {
        let output = self.docker.command(&["logs", &self.id]).output().unwrap();
        [output.stdout, output.stderr]
            .iter()
            .map(|stream| String::from_utf8_lossy(stream).into_owned())
            .collect()
    }

    /// Where its port 8089 is, seen from this machine.
    fn web(&self) -> String {
        format!("{}:8089", self.inspect("{{.NetworkSettings.IPAddress}}"))
    }

    fn is_running(&self) -> bool {
        self.inspect("{{.State.Running}}") == "true"
    }

    /// Waits until its web UI answers.
    pub(super) fn wait_for_web_ui(&self) {
        wait_for_web_ui(&self.web(), || assert!(self.is_running(), "{} ended", self.title));
    }

    /// See [`swarm`].
    pub(super) fn swarm(&self, dialect: &Dialect, workers: Option<usize>) {
        swarm(&self.web(), dialect, workers);
    }

    /// `docker stop`; the exit code, 137 if it had to be killed.
    pub(super) fn stop(&self) -> String {
        self.docker.run(&["stop", "--time=30", &self.id]);
        self.inspect("{{.State.ExitCode}}")
    }

    /// Waits until it ends by itself; the exit code.
    pub(super) fn wait(&self) -> String {
        until(&format!("{} does not end", self.title), || (!self.is_running()).then_some(()));
        self.inspect("{{.State.ExitCode}}")
    }

    /// Requests and failures of the summary that a run without web UI prints at its end.
    pub(super) fn summary(&self) -> (u64, String) {
        let logs = self.logs();
        let mut found = None;
        for line in logs.lines() {
            let words: Vec<_> = line.split_whitespace().collect();
            if let ["Aggregated" | "Total", requests, failures, ..] = words[..]
                && let Ok(requests) = requests.parse()
            {
                found = Some((requests, failures.to_owned()));
                // Tables with percentiles follow.
                if !failures.contains('(') {
                    continue;
                }
                if requests > 0 {
                    return (requests, failures.to_owned());
                }
            }
        }
        found.unwrap_or_else(|| panic!("no summary"))
    }
}

impl Drop for Container<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- docker run {}\n{}---", self.title, self.logs());
        }
        let _removed = self.docker.command(&["rm", "--force", "--volumes", &self.id]).output();
    }
}

/// Waits until the web UI at that address answers.
pub(crate) fn wait_for_web_ui(address: &str, assert_running: impl Fn()) {
    let page = until("the web UI does not answer", || {
        assert_running();
        http(address, "GET", "/", "").filter(|(status, _)| *status == 200)
    });
    assert!(page.1.contains("<title>Locust"), "{}", page.1);
}

/// Starts a load test through the web UI's API, when all workers have come, and waits for requests:
/// none may fail. It is left running.
pub(crate) fn swarm(web: &str, dialect: &Dialect, workers: Option<usize>) {
    let stats = || -> Option<Value> {
        let (code, body) = http(web, "GET", "/stats/requests", "")?;
        (code == 200).then(|| serde_json::from_str(&body).unwrap())
    };
    if let Some(workers) = workers {
        until("not all workers came", || {
            let stats = stats()?;
            let found = stats[dialect.workers].as_array()?;
            let ready = found.iter().filter(|worker| worker["state"] == "ready").count();
            (ready == workers).then_some(())
        });
    }
    let form = format!("{}=2&{}=2", dialect.users, dialect.rate);
    let (code, answer) = http(web, "POST", "/swarm", &form).unwrap();
    assert!(code == 200 && answer.contains("true"), "{code} {answer}");
    let stats = until("there were too few requests", || {
        stats().filter(|stats| total(stats)["num_requests"].as_u64().unwrap_or_default() >= 20)
    });
    assert_eq!(total(&stats)["num_failures"], 0, "{stats:#}");
    assert_eq!(stats["errors"], serde_json::json!([]), "{stats:#}");
    assert_eq!(stats["user_count"], 2, "{stats:#}");
}

/// The row of all requests together: the last one, whatever it is called.
fn total(stats: &Value) -> &Value {
    stats["stats"].as_array().and_then(|rows| rows.last()).unwrap_or(&Value::Null)
}
