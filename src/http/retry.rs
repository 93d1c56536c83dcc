//! What is tried again, and when.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::time::{Duration, SystemTime};

use reqwest::StatusCode;
use reqwest::header::{DATE, HeaderMap, RETRY_AFTER};

/// How often and how patiently a request is tried. Only requests that change nothing when they are
/// sent twice are tried twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    /// All tries together, at least 1.
    pub tries: u32,
    /// The wait before the second try; it doubles with each try.
    pub first: Duration,
    /// The longest wait, also where a server asks for more.
    pub longest: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Self { tries: 5, first: Duration::from_millis(500), longest: Duration::from_mins(1) }
    }
}

impl Retry {
    /// How long to wait after `tries` failures: what the server asks for, else twice as long as the
    /// time before; never more than [`Self::longest`], and a random quarter more or less so that a
    /// hundred jobs that failed together do not come back together. A server is never asked earlier
    /// than it said, unless it said too long.
    pub fn delay(&self, tries: u32, asked: Option<Duration>) -> Duration {
        let [first, second, ..] = RandomState::new().build_hasher().finish().to_le_bytes();
        let jitter = f64::from(u16::from_le_bytes([first, second])) / 65536.0;
        let own = self.first.saturating_mul(1 << tries.saturating_sub(1).min(16));
        let wait = match asked {
            Some(asked) => asked.min(self.longest).mul_f64(1.0 + jitter / 4.0),
            None => own.min(self.longest).mul_f64(0.75 + jitter / 2.0),
        };
        wait.min(self.longest)
    }
}

/// Whether a status says "not now" rather than "no": 408, 429, the gateway and server errors, and the
/// two codes that nginx and Cloudflare made up.
pub fn is_transient(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 429 | 499 | 500 | 502 | 503 | 504 | 522)
}

/// What `Retry-After` asks for, in seconds or as a date (RFC 9110, 10.2.3). A date is measured against
/// the response's own `Date`: the server's clock, not ours.
pub fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = |text: &str| -> Option<SystemTime> { httpdate::parse_http_date(text).ok() };
    let now = date(headers.get(DATE)?.to_str().ok()?)?;
    Some(date(text)?.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let date = "Tue, 01 Sep 2026 12:00:00 GMT";
        for (value, wanted) in [
            ("7", Some(7)),
            (" 0 ", Some(0)),
            ("99999999999", Some(99_999_999_999)),
            ("Tue, 01 Sep 2026 12:01:30 GMT", Some(90)),
            ("Tue, 01 Sep 2026 11:00:00 GMT", Some(0)),
            ("soon", None),
            ("-3", None),
            ("", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(DATE, date.parse().unwrap());
            headers.insert(RETRY_AFTER, value.parse().unwrap());
            assert_eq!(retry_after(&headers), wanted.map(Duration::from_secs), "{value}");
        }
        assert_eq!(retry_after(&HeaderMap::new()), None);
    }

    #[test]
    fn delays_grow_and_are_capped() {
        let retry =
            Retry { tries: 5, first: Duration::from_secs(1), longest: Duration::from_secs(10) };
        for (tries, asked, least, most) in [
            (1, None, 0.75, 1.25),
            (3, None, 3.0, 5.0),
            (30, None, 7.5, 10.0),
            (1, Some(4), 4.0, 5.0),
            (1, Some(3600), 10.0, 10.0),
            (1, Some(u64::MAX), 10.0, 10.0),
        ] {
            let delay = retry.delay(tries, asked.map(Duration::from_secs)).as_secs_f64();
            assert!((least..=most).contains(&delay), "{tries} {asked:?}: {delay}");
        }
    }
}
