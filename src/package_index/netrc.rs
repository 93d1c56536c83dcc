//! `.netrc`: which user and password a host gets (pure).

use std::fmt;

/// A user and a password. Never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The user's name, may be empty.
    pub user: String,
    /// The password or token, may be empty.
    pub password: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(…)")
    }
}

/// The `machine` entries of a `.netrc` in the file's order. `default` is left out on purpose: it would
/// hand a password to whatever host a page names. `macdef` is skipped.
#[derive(Clone, Debug, Default)]
pub struct Netrc {
    machines: Vec<(String, Credentials)>,
}

impl Netrc {
    /// Reads the file's text. Words that mean nothing are skipped, as other readers do.
    pub fn parse(text: &str) -> Self {
        let mut machines: Vec<(String, Credentials)> = Vec::new();
        let mut is_machine = false;
        let mut words = words(text).into_iter();
        while let Some(word) = words.next() {
            match word.as_str() {
                "machine" => {
                    let host = words.next().unwrap_or_default().to_ascii_lowercase();
                    let none = Credentials { user: String::new(), password: String::new() };
                    machines.push((host, none));
                    is_machine = true;
                }
                "default" => is_machine = false,
                key @ ("login" | "password" | "account") => {
                    let value = words.next().unwrap_or_default();
                    if is_machine && let Some((_, credentials)) = machines.last_mut() {
                        match key {
                            "login" => credentials.user = value,
                            "password" => credentials.password = value,
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        Self { machines }
    }

    /// What the first entry for `host` says.
    pub fn credentials(&self, host: &str) -> Option<&Credentials> {
        self.machines
            .iter()
            .find(|(machine, _)| machine.eq_ignore_ascii_case(host))
            .map(|(_, credentials)| credentials)
    }
}

/// Words outside comments and macros; `"a \"b"` is one word.
fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut in_macro = false;
    for line in text.lines() {
        if in_macro {
            in_macro = !line.trim().is_empty();
            continue;
        }
        let mut rest = line.trim_start();
        while !rest.is_empty() && !rest.starts_with('#') {
            let (word, after) = next_word(rest);
            if word == "macdef" {
                in_macro = true;
                break;
            }
            words.push(word);
            rest = after.trim_start();
        }
    }
    words
}

fn next_word(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find(char::is_whitespace).unwrap_or(text.len());
        return (text[..end].to_owned(), &text[end..]);
    };
    let mut word = String::new();
    let mut characters = quoted.char_indices();
    while let Some((index, character)) = characters.next() {
        match character {
            '"' => return (word, &quoted[index + 1..]),
            '\\' => word.extend(characters.next().map(|(_, escaped)| escaped)),
            other => word.push(other),
        }
    }
    (word, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_credentials() {
        let netrc = Netrc::parse(
            "# comment\nmachine One.example login anna password s3cret\n\
             macdef init\nmachine evil.example login x password y\n\n\
             machine two.example\n  login \"b \\\"c\"\n  password p#w # said twice\n\
             default login any password thing\nmachine one.example login late password late\n",
        );
        let found = |host: &str| {
            netrc
                .credentials(host)
                .map(|credentials| (credentials.user.as_str(), credentials.password.as_str()))
        };
        assert_eq!(found("one.example"), Some(("anna", "s3cret")));
        assert_eq!(found("TWO.example"), Some(("b \"c", "p#w")));
        assert_eq!(found("evil.example"), None);
        assert_eq!(found("other.example"), None);
        assert!(!format!("{netrc:?}").contains("s3cret"));
    }
}
