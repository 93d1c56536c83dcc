//! A report as one page that needs nothing else: tables that are always there, and a treemap where
//! scripts run (pure).

use std::fmt::Write as _;

use super::{Report, Weight};

/// `@name@` in it is replaced; everything else is the page.
const TEMPLATE: &str = include_str!("page.html");

/// The page for `report`; `size` writes bytes for people.
///
/// It names no other resource, and the same report gives the same bytes.
pub fn page(report: &Report, size: impl Fn(u64) -> String) -> String {
    let size = &size;
    let values = [
        ("title", escape(&format!("{}: what its bytes are", report.cell))),
        ("reference", escape(&report.reference)),
        ("platform", escape(&report.platform)),
        ("sums", sums(report, size)),
        ("layers", layers(report, size)),
        ("distributions", distributions(report, size)),
        ("pruned", pruned(report, size)),
        ("data", data(report)),
    ];
    let mut page = String::new();
    let mut rest = TEMPLATE;
    while let Some((before, after)) = rest.split_once('@') {
        page.push_str(before);
        let known = values
            .iter()
            .find_map(|(name, value)| Some((after.strip_prefix(name)?.strip_prefix('@')?, value)));
        if let Some((after, value)) = known {
            page.push_str(value);
            rest = after;
        } else {
            page.push('@');
            rest = after;
        }
    }
    page + rest
}

fn sums(report: &Report, size: &dyn Fn(u64) -> String) -> String {
    let mut text = String::new();
    for (bytes, words) in [
        (report.image.compressed, "to pull, compressed"),
        (report.image.unpacked, "unpacked"),
        (report.added.compressed, "added to the base, compressed"),
        (report.added.unpacked, "added, unpacked"),
        (report.pruned.iter().map(|rule| rule.bytes).sum(), "left out by pruning, unpacked"),
    ] {
        let _never = write!(text, "<div><b>{}</b><span>{words}</span></div>", size(bytes));
    }
    text
}

fn layers(report: &Report, size: &dyn Fn(u64) -> String) -> String {
    let mut text = head(&["", "n:Unpacked", "n:Compressed", "n:Files"]);
    for layer in &report.layers {
        row(&mut text, &escape(&layer.name), &layer.weight, size, "");
    }
    row(&mut text, "<b>the image</b>", &report.image, size, "");
    text
}

fn distributions(report: &Report, size: &dyn Fn(u64) -> String) -> String {
    let mut text = head(&["", "n:Unpacked", "n:Compressed", "n:Files", "Share of what is added"]);
    let largest = report.distributions.iter().map(|share| share.weight.unpacked).max();
    let largest = largest.unwrap_or_default();
    for share in &report.distributions {
        let version = share.version.as_deref().unwrap_or("no distribution’s");
        let name = format!("{} <small>{}</small>", escape(&share.name), escape(version));
        // Bars are as long as they can be; what stands beside them is the share.
        let tenths = |of: u64| share.weight.unpacked * 1000 / of.max(1);
        let (long, part) = (tenths(largest), tenths(report.added.unpacked));
        let bar = format!(
            "<td class=\"share\"><i style=\"--w:{}.{}\"></i><small>{}.{} %</small></td>",
            long / 10,
            long % 10,
            part / 10,
            part % 10
        );
        row(&mut text, &name, &share.weight, size, &bar);
    }
    text
}

fn pruned(report: &Report, size: &dyn Fn(u64) -> String) -> String {
    if report.pruned.is_empty() {
        return String::new();
    }
    let mut text = "<h2>Left out</h2>\n<div class=\"wide\"><table>".to_owned();
    text.push_str(&head(&["Files", "Why", "n:Unpacked", "n:Files"]));
    for rule in &report.pruned {
        let _never = writeln!(
            text,
            "<tr><td><code>{}</code></td><td>{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td></tr>",
            escape(&rule.paths.join(" ")),
            escape(&rule.reason),
            size(rule.bytes),
            rule.files
        );
    }
    text.push_str("</table></div>");
    text
}

/// A head; `n:` marks a column of numbers.
fn head(names: &[&str]) -> String {
    let mut text = "<thead><tr>".to_owned();
    for name in names {
        let _never = match name.strip_prefix("n:") {
            Some(name) => write!(text, "<th scope=\"col\" class=\"n\">{name}</th>"),
            None => write!(text, "<th scope=\"col\">{name}</th>"),
        };
    }
    text + "</tr></thead>\n"
}

fn row(text: &mut String, name: &str, weight: &Weight, size: &dyn Fn(u64) -> String, more: &str) {
    let _never = writeln!(
        text,
        "<tr><td>{name}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td>{more}</tr>",
        size(weight.unpacked),
        size(weight.compressed),
        weight.files
    );
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// The tree as JSON that nothing can end early: no file's name closes the element it stands in.
fn data(report: &Report) -> String {
    serde_json::to_string(&report.tree).unwrap_or_default().replace('<', "\\u003c")
}
