//! `WWW-Authenticate` (RFC 9110, 11.6.1): which schemes a server takes, and with what parameters
//! (pure).

use std::collections::BTreeMap;

/// One challenge. Scheme and parameter names are in lower case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Challenge {
    /// `bearer`, `basic`, `negotiate`, …
    pub scheme: String,
    /// `realm`, `service`, `scope`, `error`, …
    pub parameters: BTreeMap<String, String>,
}

/// What we can do about a 401.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Method {
    /// Send user name and password.
    Basic,
    /// Get a token at `realm` and send that.
    Bearer {
        /// The token server's address.
        realm: String,
        /// What it should call the registry.
        service: Option<String>,
        /// The scopes that the registry asked for.
        scopes: Vec<String>,
    },
}

/// The challenges of all `WWW-Authenticate` headers of a response, in order. What cannot be read is
/// left out.
pub fn parse<'a>(headers: impl IntoIterator<Item = &'a str>) -> Vec<Challenge> {
    headers.into_iter().flat_map(parse_one).collect()
}

/// The first challenge that we can meet.
pub fn choose(challenges: &[Challenge]) -> Option<Method> {
    challenges.iter().find_map(|challenge| {
        let parameter = |name: &str| challenge.parameters.get(name).cloned();
        match challenge.scheme.as_str() {
            "basic" => Some(Method::Basic),
            "bearer" => Some(Method::Bearer {
                realm: parameter("realm")?,
                service: parameter("service").filter(|service| !service.is_empty()),
                scopes: parameter("scope")
                    .unwrap_or_default()
                    .split_whitespace()
                    .map(str::to_owned)
                    .collect(),
            }),
            _ => None,
        }
    })
}

/// A cursor over one header's text.
struct Text<'a>(&'a str);

impl<'a> Text<'a> {
    fn skip(&mut self, skipped: impl Fn(char) -> bool) {
        self.0 = self.0.trim_start_matches(skipped);
    }

    /// A token (RFC 9110, 5.6.2), maybe empty.
    fn token(&mut self) -> &'a str {
        let end = self
            .0
            .find(|c: char| !(c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c)))
            .unwrap_or(self.0.len());
        let (token, rest) = self.0.split_at(end);
        self.0 = rest;
        token
    }

    fn take(&mut self, wanted: char) -> bool {
        match self.0.strip_prefix(wanted) {
            Some(rest) => {
                self.0 = rest;
                true
            }
            None => false,
        }
    }

    /// The rest of a quoted string after its first quote; `None` if it does not end.
    fn quoted(&mut self) -> Option<String> {
        let mut value = String::new();
        let mut characters = self.0.char_indices();
        while let Some((position, character)) = characters.next() {
            match character {
                '"' => {
                    self.0 = &self.0[position + 1..];
                    return Some(value);
                }
                '\\' => value.push(characters.next()?.1),
                other => value.push(other),
            }
        }
        None
    }

    /// A value that is not quoted. Wider than a token: some registries write addresses bare.
    fn bare(&mut self) -> &'a str {
        let end = self.0.find(|c: char| c == ',' || c.is_whitespace()).unwrap_or(self.0.len());
        let (value, rest) = self.0.split_at(end);
        self.0 = rest;
        value
    }
}

fn parse_one(header: &str) -> Vec<Challenge> {
    let mut challenges: Vec<Challenge> = Vec::new();
    let mut text = Text(header);
    loop {
        text.skip(|c| c == ',' || c.is_whitespace());
        let word = text.token();
        if word.is_empty() {
            return challenges;
        }
        let before = text.0;
        text.skip(char::is_whitespace);
        if !text.take('=') {
            // A scheme; a token68 after it (`Negotiate YII=`) is no parameter and is skipped.
            text.0 = before;
            text.skip(char::is_whitespace);
            challenges
                .push(Challenge { scheme: word.to_ascii_lowercase(), parameters: BTreeMap::new() });
            let start = text.0;
            let token68 = text.bare();
            let follows = text.0.trim_start();
            let is_parameter = token68.trim_end_matches('=').contains(['=', '"']);
            if token68.is_empty()
                || is_parameter
                || !(follows.is_empty() || follows.starts_with(','))
            {
                text.0 = start;
            }
            continue;
        }
        text.skip(char::is_whitespace);
        let value = if text.take('"') {
            match text.quoted() {
                Some(value) => value,
                None => return challenges,
            }
        } else {
            text.bare().to_owned()
        };
        if let Some(challenge) = challenges.last_mut() {
            challenge.parameters.entry(word.to_ascii_lowercase()).or_insert(value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(headers: &[&str]) -> String {
        parse(headers.iter().copied())
            .iter()
            .map(|challenge| {
                let parameters: Vec<String> = challenge
                    .parameters
                    .iter()
                    .map(|(name, value)| format!("{name}={value}"))
                    .collect();
                format!("{}[{}]", challenge.scheme, parameters.join(";"))
            })
            .collect::<Vec<_>>()
            .join(" ")
    }

    #[test]
    fn reads_challenges() {
        for (headers, wanted) in [
            (&[r#"Basic realm="x""#][..], "basic[realm=x]"),
            (&["Basic"], "basic[]"),
            (&["BASIC realm=x"], "basic[realm=x]"),
            (
                &[
                    r#"Bearer realm="https://a.example/token",service="r.example",scope="repository:a/b:pull,push""#,
                ],
                "bearer[realm=https://a.example/token;scope=repository:a/b:pull,push;service=r.example]",
            ),
            (
                &["Bearer realm=https://a.example/t?x=1,service=r"],
                "bearer[realm=https://a.example/t?x=1;service=r]",
            ),
            (&[r#"Bearer realm = "a" , service = "b""#], "bearer[realm=a;service=b]"),
            (&[r#"Basic realm="a \"quoted\" \\ name""#], r#"basic[realm=a "quoted" \ name]"#),
            (&[r#"Negotiate, Basic realm="x""#], "negotiate[] basic[realm=x]"),
            (&[r#"Negotiate YIIabc==, Basic realm="x""#], "negotiate[] basic[realm=x]"),
            (&["Negotiate", r#"Bearer realm="x""#], "negotiate[] bearer[realm=x]"),
            (
                &[r#"Basic realm="a", Bearer realm="b",error="insufficient_scope""#],
                "basic[realm=a] bearer[error=insufficient_scope;realm=b]",
            ),
            (&[r#"Bearer realm="never ends"#], "bearer[]"),
            (&[""], ""),
            (&[",,,"], ""),
            (&["=x"], ""),
        ] {
            assert_eq!(shown(headers), wanted, "{headers:?}");
        }
    }

    #[test]
    fn chooses_the_first_it_can_do() {
        let choose = |header: &str| choose(&parse([header]));
        assert_eq!(choose("Negotiate, Basic realm=x"), Some(Method::Basic));
        assert_eq!(choose("Bearer service=x, Basic realm=x"), Some(Method::Basic));
        assert_eq!(choose("Negotiate"), None);
        assert_eq!(
            choose(r#"Bearer realm="r",service="",scope="repository:a:pull repository:b:pull""#),
            Some(Method::Bearer {
                realm: "r".into(),
                service: None,
                scopes: vec!["repository:a:pull".into(), "repository:b:pull".into()],
            })
        );
    }

    proptest::proptest! {
        #[test]
        fn ends_on_any_text(text in ".{0,80}") {
            let _challenges = parse([text.as_str()]);
        }
    }
}
