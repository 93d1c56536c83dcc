//! The start check's first tier (pure): what can be said of an image without running it.

use std::collections::BTreeSet;

use super::error::Finding;
use super::inventory::{Inventory, Node};
use super::owners::{Distribution, place};
use super::stack::Stack;
use crate::python::entry_points::EntryPoints;

/// What can be told from the files alone: RECORDs are complete and true, commands have their modules,
/// scripts their interpreters, links their targets.
pub fn check(stack: &Stack<'_>) -> Vec<Finding> {
    let Stack { ours, all, owners, .. } = stack;
    let mut findings = Vec::new();
    for distribution in &owners.distributions {
        records(distribution, ours, &mut findings);
        commands(distribution, ours, all, &mut findings);
    }
    let sites: BTreeSet<&str> = owners.distributions.iter().map(|d| d.site.as_str()).collect();
    for (path, node) in ours.iter() {
        let mut find = |problem: String| {
            findings.push(Finding { owner: owners.owner(path), path: format!("/{path}"), problem });
        };
        match node {
            Node::File(file) => {
                let in_site = sites.iter().any(|site| is_below(path, site));
                if in_site && !owners.is_owned(path) {
                    find("is in no RECORD".to_owned());
                }
                if let Some(line) = file.interpreter.as_ref().filter(|_| file.mode & 0o111 != 0) {
                    interpreter(line, all).into_iter().for_each(&mut find);
                }
            }
            Node::Link(target) => {
                if !all.has(path) {
                    find(format!("points to `{target}`, which is not in the image"));
                }
            }
            Node::Directory | Node::Other => {}
        }
    }
    findings.sort();
    findings
}

fn is_below(path: &str, folder: &str) -> bool {
    path.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'))
}

fn records(distribution: &Distribution, ours: &Inventory, findings: &mut Vec<Finding>) {
    let mut find = |path: String, problem: String| {
        findings.push(Finding {
            owner: distribution.name.clone(),
            path: format!("/{path}"),
            problem,
        });
    };
    let own = format!("{}/{}/RECORD", distribution.site, distribution.dist_info);
    let record = match &distribution.record {
        Ok(record) => record,
        Err(problem) => return find(own, format!("cannot be used: {problem}")),
    };
    for (name, row) in &record.rows {
        let path = place(&distribution.site, name);
        let Some(file) = ours.file(&path) else {
            find(path, "is in RECORD and not in the layers".to_owned());
            continue;
        };
        if row.size.is_some_and(|size| size != file.size) {
            find(path, format!("has {} bytes, and RECORD says otherwise", file.size));
        } else if let Some(hash) = row.hash.as_ref().map(ToString::to_string)
            && hash.starts_with("sha256=")
            && hash != file.hash
        {
            find(path, "has another hash than RECORD says".to_owned());
        }
    }
}

fn commands(
    distribution: &Distribution,
    ours: &Inventory,
    all: &Inventory,
    findings: &mut Vec<Finding>,
) {
    let path = format!("{}/{}/entry_points.txt", distribution.site, distribution.dist_info);
    let Some(text) = ours.file(&path).and_then(|file| file.text.as_ref()) else { return };
    let mut find = |problem: String| {
        findings.push(Finding {
            owner: distribution.name.clone(),
            path: format!("/{path}"),
            problem,
        });
    };
    let found = match EntryPoints::parse(text) {
        Ok(found) => found,
        Err(error) => return find(format!("cannot be used: {error}")),
    };
    for (name, reference) in found.console_scripts.iter().chain(&found.gui_scripts) {
        let first = reference.module.split('.').next().unwrap_or_default();
        // A module of the base's may be built in.
        if !has_module(ours, &distribution.site, first) {
            continue;
        }
        if !has_module(all, &distribution.site, &reference.module) {
            find(format!("has the command `{name}` of `{}`, which is no module", reference.module));
        }
    }
}

/// Whether the module can be imported by its path below `site`: a file, a package, or a folder, as
/// namespaces are.
fn has_module(files: &Inventory, site: &str, module: &str) -> bool {
    let path = format!("{site}/{}", module.replace('.', "/"));
    if files.has(&format!("{path}.py")) || files.has(&path) {
        return true;
    }
    let (folder, name) = path.rsplit_once('/').unwrap_or(("", &path));
    let start = format!("{folder}/{name}.");
    let mut below = files.files().filter_map(|(path, _)| path.strip_prefix(&start));
    below.any(|ending| ending == "so" || ending.strip_suffix(".so").is_some())
}

/// Why the first line of a script names nothing that runs.
fn interpreter(line: &str, all: &Inventory) -> Option<String> {
    let mut words = line.split_whitespace();
    let program = words.next().unwrap_or_default();
    if !program.starts_with('/') {
        return Some(format!("has the interpreter `{program}`, which is no absolute path"));
    }
    if !all.has(program) {
        return Some(format!("has the interpreter `{program}`, which is not in the image"));
    }
    if !program.ends_with("/env") {
        return None;
    }
    let name = words.find(|word| !word.starts_with('-') && !word.contains('='))?;
    let folders = ["/usr/local/bin", "/usr/local/sbin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];
    let there = folders.iter().any(|folder| all.has(&format!("{folder}/{name}")));
    (!there).then(|| format!("has the interpreter `{name}`, which is on no PATH of the image"))
}

#[cfg(test)]
mod tests;
