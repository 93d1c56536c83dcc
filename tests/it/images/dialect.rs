//! What differs between Locust's versions, as far as the checks speak to it.

/// The words of some versions.
#[derive(Debug)]
pub(crate) struct Dialect {
    /// The first version that speaks it.
    since: (u32, u32),
    /// `/swarm`: how many users.
    pub(super) users: &'static str,
    /// `/swarm`: how many start in a second.
    pub(super) rate: &'static str,
    /// `/stats/requests`: the list of workers.
    pub(super) workers: &'static str,
    /// A run of four seconds without web UI.
    pub(super) headless: &'static str,
    /// Whether charts and operators, which speak 1.0's words, can start it.
    pub(super) in_kubernetes: bool,
    /// Whether it starts and ends a load test by itself when its workers are there (2.2).
    pub(super) autostart: bool,
}

/// The words of 0.x.
pub(super) const OLD_HEADLESS: &str = "--no-web -c 2 -r 2 -t 4s";
/// The words of 1.0 and later.
pub(super) const NEW_HEADLESS: &str = "--headless -u 2 -r 2 -t 4s";

/// Newest first.
const DIALECTS: [Dialect; 4] = [
    Dialect {
        since: (2, 2),
        users: "user_count",
        rate: "spawn_rate",
        workers: "workers",
        headless: NEW_HEADLESS,
        in_kubernetes: true,
        autostart: true,
    },
    Dialect {
        since: (1, 2),
        users: "user_count",
        rate: "spawn_rate",
        workers: "workers",
        headless: NEW_HEADLESS,
        in_kubernetes: true,
        autostart: false,
    },
    Dialect {
        since: (1, 0),
        users: "user_count",
        rate: "hatch_rate",
        workers: "workers",
        headless: NEW_HEADLESS,
        in_kubernetes: true,
        autostart: false,
    },
    Dialect {
        since: (0, 0),
        users: "locust_count",
        rate: "hatch_rate",
        workers: "slaves",
        headless: OLD_HEADLESS,
        in_kubernetes: false,
        autostart: false,
    },
];

/// The words of that version of Locust.
pub(crate) fn dialect(version: &str) -> &'static Dialect {
    let mut numbers = version.split('.').map(|part| part.parse().unwrap());
    let version: (u32, u32) = (numbers.next().unwrap(), numbers.next().unwrap());
    DIALECTS.iter().find(|dialect| dialect.since <= version).unwrap()
}
