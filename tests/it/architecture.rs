//! The documents' tables are true: module edges, words that may not occur, exit codes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use assemble::Kind;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    fs_err::read_to_string(path).unwrap()
}

/// Every `.rs` file below `folder`.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs_err::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// The source without its test modules and without comments.
fn product_lines(text: &str) -> Vec<String> {
    let text = text.split("\n#[cfg(test)]\nmod tests").next().unwrap_or_default();
    text.lines().map(|line| line.split("//").next().unwrap_or_default().to_owned()).collect()
}

/// The room of a source file: `src/oci/digest.rs` → `oci`, `src/request.rs` → `request`.
fn room(path: &Path) -> String {
    let below = path.strip_prefix(root().join("src")).unwrap();
    let first = below.components().next().unwrap().as_os_str().to_str().unwrap();
    first.trim_end_matches(".rs").to_owned()
}

fn permitted_edges() -> BTreeMap<String, BTreeSet<String>> {
    let text = read("src/ARCHITECTURE.md");
    let table = text.split("## Permitted edges").nth(1).unwrap().split("\n## ").next().unwrap();
    let mut edges = BTreeMap::new();
    for line in table.lines().filter(|line| line.starts_with("| `")) {
        let mut cells = line.trim_matches('|').split('|').map(|cell| {
            cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<BTreeSet<String>>()
        });
        let room = cells.next().unwrap().into_iter().next().unwrap();
        assert!(edges.insert(room, cells.next().unwrap_or_default()).is_none());
    }
    assert!(edges.len() > 15, "the table was not read: {edges:?}");
    edges
}

#[test]
fn rooms_use_only_the_rooms_they_may() {
    let edges = permitted_edges();
    let mut wrong = Vec::new();
    for path in sources(&root().join("src")) {
        let room = room(&path);
        if matches!(room.as_str(), "lib" | "main" | "error") {
            continue;
        }
        let permitted = edges.get(&room).unwrap_or_else(|| panic!("`{room}` is not in the table"));
        for line in product_lines(&read(&path)) {
            for after in line.split("crate::").skip(1) {
                let used: Vec<String> = if let Some(list) = after.strip_prefix('{') {
                    list.split(['}', ';'])
                        .next()
                        .unwrap_or_default()
                        .split(',')
                        .map(|item| item.trim().split("::").next().unwrap_or_default().to_owned())
                        .collect()
                } else {
                    let end = after.find(|c: char| !c.is_alphanumeric() && c != '_');
                    vec![after[..end.unwrap_or(after.len())].to_owned()]
                };
                for used in used {
                    let own = used == room || used.is_empty();
                    let common =
                        matches!(used.as_str(), "error" | "Error" | "Failure" | "Kind" | "Result");
                    if !own && !common && !permitted.contains(&used) {
                        wrong.push(format!("{}: {room} uses {used}", path.display()));
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn rooms_do_not_go_in_circles() {
    let mut left = permitted_edges();
    // Take away rooms that use none of those left: what remains at the end is a cycle.
    while let Some(room) = left
        .iter()
        .find(|(_, used)| used.iter().all(|used| !left.contains_key(used)))
        .map(|(room, _)| room.clone())
    {
        left.remove(&room);
    }
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn pure_rooms_touch_no_world() {
    let pure = ["src/oci", "src/python", "src/image", "src/plan", "src/request.rs", "src/error.rs"];
    let doors =
        ["tokio", "reqwest", "std::fs", "fs_err", "std::env", "SystemTime", "Instant", "async fn"];
    let mut wrong = Vec::new();
    for place in pure {
        let place = root().join(place);
        let files = if place.is_dir() { sources(&place) } else { vec![place] };
        for path in files {
            for line in product_lines(&read(&path)) {
                for door in doors {
                    if line.contains(door) {
                        wrong.push(format!("{}: {door}", path.display()));
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn only_the_command_line_prints_and_nothing_knows_the_application() {
    let mut wrong = Vec::new();
    for path in sources(&root().join("src")) {
        let text = read(&path);
        if room(&path) != "cli" {
            for line in product_lines(&text) {
                for word in ["println!", "eprintln!", "print!(", "stdout()", "stderr()"] {
                    // The sandbox's stages are processes of their own and speak through their pipe.
                    if line.contains(word) && room(&path) != "sandbox" {
                        wrong.push(format!("{}: {word}", path.display()));
                    }
                }
            }
        }
        let product = text.split("\n#[cfg(test)]\nmod tests").next().unwrap().to_lowercase();
        for (number, line) in product.lines().enumerate() {
            // Examples in doc comments may name a real image; code may not.
            if !line.trim_start().starts_with("//") && line.contains("locust") {
                wrong.push(format!("{}:{}: knows the application", path.display(), number + 1));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn files_stay_readable() {
    let long: Vec<_> = ["src", "tests"]
        .iter()
        .flat_map(|folder| sources(&root().join(folder)))
        .map(|path| (read(&path).lines().count(), path))
        .filter(|(lines, _)| *lines > 800)
        .collect();
    assert!(long.is_empty(), "want splitting: {long:?}");
}

#[test]
fn the_readme_lists_the_exit_codes_there_are() {
    let readme = read("README.md");
    for kind in Kind::ALL {
        let row = format!("| {} | {kind:?} |", kind.exit_code());
        assert!(readme.contains(&row), "no row `{row}`");
    }
}

/// Package registries are named by their ecosystem, never by their address.
#[test]
fn no_address_of_a_package_registry() {
    let hosts = [
        ["pypi", "org"].join("."),
        ["pythonhosted", "org"].join("."),
        ["deb.debian", "org"].join("."),
        ["npmjs", "org"].join("."),
    ];
    let mut wrong = Vec::new();
    let mut folders = vec![root().to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs_err::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() {
                if !matches!(name.as_str(), "target" | ".git" | "out") {
                    folders.push(path);
                }
            } else if let Ok(text) = fs_err::read_to_string(&path) {
                for host in &hosts {
                    if text.contains(host.as_str()) {
                        wrong.push(format!("{}: {host}", path.display()));
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
