//! Package indexes: pages, and who is asked as whom.

use assemble::package_index::netrc::Netrc;
use assemble::package_index::{Config, FileKind, Location, Sources, page as pages};
use assemble::python::WheelFilename;
use url::Url;

/// What a page offers are files of the project it was asked for, each once, at http addresses, and found by
/// their names.
pub(super) fn page(bytes: &[u8]) {
    let project = "demo-pkg".parse().unwrap();
    let url = Url::parse("https://index.example/simple/demo-pkg/").unwrap();
    for kind in ["", "application/vnd.pypi.simple.v1+json", "text/html; charset=utf-8"] {
        let Ok(page) = pages::parse(&project, &url, kind, bytes) else { continue };
        let mut count = 0;
        for (version, files) in &page.versions {
            assert!(files.windows(2).all(|pair| pair[0].file_name < pair[1].file_name));
            for file in files {
                count += 1;
                if let FileKind::Wheel(tags) = &file.kind {
                    let wheel: WheelFilename = file.file_name.parse().unwrap();
                    assert_eq!((&wheel.name, &wheel.version), (&project, version));
                    assert_eq!(wheel.tags, **tags);
                }
                let Location::Remote(address) = &file.location else {
                    panic!("a page names a file of this machine: {file:?}");
                };
                let address = address.url(&file.file_name).unwrap();
                assert!(matches!(address.scheme(), "http" | "https"), "{address}");
                assert!(!file.file_name.is_empty(), "{file:?}");
                // Each look goes through all of the page.
                if count <= 8 {
                    let found = pages::find(&project, &file.file_name, &url, kind, bytes).unwrap();
                    assert_eq!(format!("{:?}", found.unwrap()), format!("{file:?}"));
                }
            }
        }
        assert!(count <= bytes.len(), "more files than bytes");
    }
}

/// Passwords of a netrc file or an index's address are shown by nothing.
pub(super) fn settings(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let netrc = Netrc::parse(text);
    for host in ["index.example", "localhost", ""] {
        if let Some(found) = netrc.credentials(host) {
            // Only what is long enough not to be a part of the frame around it.
            let shown = format!("{found:?}");
            assert!(!shown.contains("correct-horse-battery"), "{shown}");
        }
    }
    // Elsewhere in an address, in its path say, nobody can know that it is one.
    if !text.lines().all(is_where_passwords_are) {
        return;
    }
    let sources = Sources {
        pip_conf: vec![text.to_owned()],
        netrc: Some(text.to_owned()),
        ..Sources::default()
    };
    match Config::from_sources(&sources) {
        Ok(config) => {
            let shown = format!("{config:?}");
            assert!(!shown.contains("correct-horse-battery"), "{shown}");
        }
        Err(error) => {
            let shown = format!("{error} {error:?}");
            assert!(!shown.contains("correct-horse-battery"), "{shown}");
        }
    }
}

/// Whether the password of the seeds, if the line has it, stands where an address or netrc has one.
fn is_where_passwords_are(line: &str) -> bool {
    let rest = line
        .strip_prefix("index-url = https://user:correct-horse-battery@index.example/")
        .or_else(|| {
            line.strip_prefix("machine index.example login me password correct-horse-battery")
        })
        .unwrap_or(line);
    !rest.contains("correct-horse-battery")
}
