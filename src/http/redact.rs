//! Addresses as they may be shown.

use url::Url;

/// Query keys whose values are no secrets; all other values are left out. Presigned addresses carry
/// their signature in the query.
const SHOWN: [&str; 8] = ["digest", "from", "last", "mount", "n", "ns", "scope", "service"];

/// The address without user name, password and the values of unknown query keys.
pub fn redact(url: &Url) -> String {
    let mut shown = url.clone();
    if !url.username().is_empty() || url.password().is_some() {
        // Addresses that cannot have user names do not have them.
        let _cannot = shown.set_username("").and_then(|()| shown.set_password(None));
    }
    shown.set_fragment(None);
    if url.query().is_none() {
        return shown.into();
    }
    shown.set_query(None);
    let pairs: Vec<String> = url
        .query_pairs()
        .map(|(key, value)| {
            if SHOWN.contains(&key.as_ref()) {
                format!("{key}={value}")
            } else {
                format!("{key}=…")
            }
        })
        .collect();
    format!("{shown}?{}", pairs.join("&"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hides_secrets() {
        for (url, shown) in [
            ("https://a.example/x", "https://a.example/x"),
            ("https://u:p@a.example:444/x", "https://a.example:444/x"),
            ("https://u@a.example/x", "https://a.example/x"),
            (
                "https://s.example/b?X-Amz-Signature=0f&digest=sha256:1#f",
                "https://s.example/b?X-Amz-Signature=…&digest=sha256:1",
            ),
        ] {
            assert_eq!(redact(&Url::parse(url).unwrap()), shown);
        }
    }
}
