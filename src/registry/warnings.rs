//! What registries want people to know: `Warning: 299 - "…"` (distribution-spec, *Warnings*).

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use reqwest::header::{HeaderMap, WARNING};

use super::Client;

/// More than this many characters of a warning are not shown.
const LONGEST: usize = 300;

/// The warnings that came.
#[derive(Debug, Default)]
pub(super) struct Warnings(Mutex<Heard>);

#[derive(Debug, Default)]
struct Heard {
    all: BTreeSet<String>,
    untold: Vec<String>,
}

impl Warnings {
    /// Takes down what an answer says.
    pub(super) fn hear(&self, registry: &str, headers: &HeaderMap) {
        let texts = headers.get_all(WARNING).iter().filter_map(|value| value.to_str().ok());
        for text in texts.filter_map(text) {
            let warning = format!("{registry} says: {text}");
            let mut heard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if heard.all.insert(warning.clone()) {
                heard.untold.push(warning);
            }
        }
    }
}

impl Client {
    /// What registries have said since the last call, each once in a run.
    pub fn take_warnings(&self) -> Vec<String> {
        let mut heard = self.shared.warnings.0.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut heard.untold)
    }
}

/// The text of a `299` without its quotes; other codes mean caches and nobody here.
fn text(value: &str) -> Option<String> {
    let (_agent, quoted) = value.trim().strip_prefix("299 ")?.split_once(' ')?;
    let inner = quoted.trim().strip_prefix('"')?.strip_suffix('"')?;
    let mut plain = String::new();
    let mut escaped = false;
    for character in inner.chars().filter(|character| !character.is_control()) {
        if character == '\\' && !escaped {
            escaped = true;
            continue;
        }
        escaped = false;
        plain.push(character);
    }
    (!plain.is_empty()).then(|| plain.chars().take(LONGEST).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_warnings() {
        for (value, wanted) in [
            (r#"299 - "your quota is low""#, Some("your quota is low")),
            (r#"299 r.example "say \"when\" \\ now""#, Some(r#"say "when" \ now"#)),
            (r#"110 - "response is stale""#, None),
            (r#"299 - """#, None),
            ("299 - bare", None),
            ("299", None),
        ] {
            assert_eq!(text(value).as_deref(), wanted, "{value}");
        }
        assert_eq!(text(&format!("299 - \"{}\"", "x".repeat(999))).unwrap().len(), LONGEST);
    }

    #[test]
    fn each_is_heard_once() {
        let warnings = Warnings::default();
        let mut headers = HeaderMap::new();
        for text in ["one", "two", "one"] {
            headers.append(WARNING, format!("299 - \"{text}\"").parse().unwrap());
        }
        warnings.hear("r.example", &headers);
        warnings.hear("r.example", &headers);
        let heard = warnings.0.into_inner().unwrap();
        assert_eq!(heard.untold, ["r.example says: one", "r.example says: two"]);
    }
}
