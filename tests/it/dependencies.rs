//! Dependencies are what `.deny.toml` and the architecture text say: no licence, no source and no
//! second version that nobody argued for. Needs no network; `cargo deny check` reads the same file and
//! asks for advisories too.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use serde_json::Value;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn rules() -> toml::Table {
    fs_err::read_to_string(root().join(".deny.toml")).unwrap().parse().unwrap()
}

fn strings(list: &toml::Value) -> BTreeSet<String> {
    list.as_array().unwrap().iter().map(|item| item.as_str().unwrap().to_owned()).collect()
}

/// Every package that is built on any of the targets, ourselves left out.
fn packages() -> Vec<Value> {
    let mut command = Command::new(env!("CARGO"));
    command.args(["metadata", "--offline", "--locked", "--format-version", "1"]);
    for target in strings(&rules()["graph"]["targets"]) {
        command.args(["--filter-platform", &target]);
    }
    let output = command.current_dir(root()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let Value::Array(mut packages) = metadata["packages"].take() else { panic!("no packages") };
    packages.retain(|package| package["name"] != "assemble");
    assert!(packages.len() > 100, "{} packages", packages.len());
    packages
}

/// `name version`
fn shown(package: &Value) -> String {
    format!("{} {}", package["name"].as_str().unwrap(), package["version"].as_str().unwrap())
}

/// Whether an SPDX expression can be met with these licences: `A AND (B OR C WITH D)`. In old manifests
/// `/` means `OR`. A parenthesis is a word of its own here.
fn is_met(expression: &str, allowed: &BTreeSet<String>, used: &mut BTreeSet<String>) -> bool {
    fn any(words: &mut Vec<String>, met: &mut dyn FnMut(&str) -> bool) -> bool {
        let mut found = all(words, met);
        while words.last().is_some_and(|word| word == "OR" || word == "/") {
            words.pop();
            found |= all(words, met);
        }
        found
    }
    fn all(words: &mut Vec<String>, met: &mut dyn FnMut(&str) -> bool) -> bool {
        let mut found = one(words, met);
        while words.last().is_some_and(|word| word == "AND") {
            words.pop();
            found &= one(words, met);
        }
        found
    }
    fn one(words: &mut Vec<String>, met: &mut dyn FnMut(&str) -> bool) -> bool {
        let mut word = words.pop().expect("a licence");
        if word == "(" {
            let found = any(words, met);
            assert_eq!(words.pop().as_deref(), Some(")"));
            return found;
        }
        if words.last().is_some_and(|word| word == "WITH") {
            words.pop();
            word = format!("{word} WITH {}", words.pop().expect("an exception"));
        }
        met(&word)
    }
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " / ");
    let mut words: Vec<String> = spaced.split_whitespace().rev().map(str::to_owned).collect();
    let found = any(&mut words, &mut |licence| {
        let is_allowed = allowed.contains(licence);
        if is_allowed {
            used.insert(licence.to_owned());
        }
        is_allowed
    });
    assert!(words.is_empty(), "`{expression}` goes on with {words:?}");
    found
}

#[test]
fn licences_are_those_that_were_allowed() {
    let allowed = strings(&rules()["licenses"]["allow"]);
    let mut used = BTreeSet::new();
    let mut wrong = Vec::new();
    for package in packages() {
        let licence = package["license"].as_str().unwrap_or("none");
        if !is_met(licence, &allowed, &mut used) {
            wrong.push(format!("{}: {licence}", shown(&package)));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(used, allowed, "a licence is allowed that nobody has");
}

#[test]
fn expressions_of_licences_are_read() {
    let allowed = BTreeSet::from(["A".to_owned(), "B WITH x".to_owned()]);
    for (expression, expected) in [
        ("A", true),
        ("B", false),
        ("B WITH x", true),
        ("C/A", true),
        ("C OR A AND B", false),
        ("(C OR A) AND (B WITH x OR D)", true),
        ("A AND C OR D", false),
    ] {
        assert_eq!(is_met(expression, &allowed, &mut BTreeSet::new()), expected, "{expression}");
    }
}

#[test]
fn everything_comes_from_one_registry_and_is_check_summed() {
    let lock = fs_err::read_to_string(root().join("Cargo.lock")).unwrap();
    let lock: toml::Table = lock.parse().unwrap();
    for package in lock["package"].as_array().unwrap() {
        let name = package["name"].as_str().unwrap();
        if name != "assemble" {
            let source = package["source"].as_str().unwrap();
            assert_eq!(source, "registry+https://github.com/rust-lang/crates.io-index", "{name}");
            assert_eq!(package["checksum"].as_str().unwrap().len(), 64, "{name}");
        }
    }
}

#[test]
fn second_versions_have_reasons() {
    let rules = rules();
    let mut skipped = BTreeSet::new();
    for item in rules["bans"]["skip"].as_array().unwrap() {
        assert!(item["reason"].as_str().unwrap().len() > 5, "{item}");
        skipped.insert(item["crate"].as_str().unwrap().to_owned());
    }
    let mut versions: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for package in packages() {
        let name = package["name"].as_str().unwrap().to_owned();
        let version = package["version"].as_str().unwrap().to_owned();
        versions.entry(name).or_default().insert(version);
    }
    let mut needed = BTreeSet::new();
    for (name, versions) in versions.iter().filter(|(_, versions)| versions.len() > 1) {
        let mut is_skipped = |version: &String| {
            let found = skipped.iter().find(|rule| {
                let (skipped, prefix) = rule.split_once('@').unwrap();
                let rest = version.strip_prefix(prefix);
                skipped == name && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
            });
            needed.extend(found.cloned());
            found.is_some()
        };
        let left = versions.iter().filter(|version| !is_skipped(version)).count();
        assert_eq!(left, 1, "{name} {versions:?}: more than one that `skip` does not name");
    }
    assert_eq!(needed, skipped, "`skip` names what is not there twice");
}

#[test]
fn every_dependency_is_argued_for_once() {
    let text = fs_err::read_to_string(root().join("src/ARCHITECTURE.md")).unwrap();
    let table = text.split("## Dependencies").nth(1).unwrap().split("\n## ").next().unwrap();
    let mut argued = BTreeMap::new();
    for line in table.lines().filter(|line| line.starts_with("| `")) {
        let names = line.trim_matches('|').split('|').next().unwrap();
        for name in names.split('`').skip(1).step_by(2) {
            *argued.entry(name.to_owned()).or_insert(0) += 1;
        }
    }
    let manifest = fs_err::read_to_string(root().join("Cargo.toml")).unwrap();
    let manifest: toml::Table = manifest.parse().unwrap();
    let expected: BTreeMap<_, _> =
        manifest["dependencies"].as_table().unwrap().keys().map(|name| (name.clone(), 1)).collect();
    assert_eq!(argued, expected);
    for name in manifest["dev-dependencies"].as_table().unwrap().keys() {
        assert!(text.contains(&format!("`{name}`")), "`{name}` of the tests is not argued for");
    }
}
