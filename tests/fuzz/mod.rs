//! What every reader of foreign bytes promises of *any* bytes.
//!
//! A target is a function that takes bytes and panics if a promise is broken: that nothing panics is
//! the least of them. libFuzzer calls them by the programs below `cargo/` (see `run`), the suite with
//! every file below `corpus/`: the seeds, and each input that once broke something, named
//! `found-<what>`.

mod archives;
mod names;
mod pages;
mod recipes;
mod registries;
mod rows;

/// A target: it panics if a promise is broken.
pub type Target = fn(&[u8]);

/// All targets by their names, which are those of the folders below `corpus/` too.
pub const TARGETS: &[(&str, Target)] = &[
    ("challenge", registries::challenge),
    ("config", registries::config),
    ("documents", registries::documents),
    ("entry_points", names::entry_points),
    ("metadata", names::metadata),
    ("page", pages::page),
    ("recipe", recipes::recipe),
    ("record", names::record),
    ("reference", registries::reference),
    ("rootfs", archives::rootfs),
    ("settings", pages::settings),
    ("wheel", archives::wheel),
    ("wheel_name", names::wheel_name),
];

/// Runs the target of that name, as the programs below `cargo/` do.
///
/// # Panics
/// If a promise is broken, or if there is no such target.
pub fn run(name: &str, bytes: &[u8]) {
    let found = TARGETS.iter().find(|(candidate, _)| *candidate == name);
    let (_, target) = found.expect("a target");
    target(bytes);
}
