//! One integration-test binary; the `mod` list says what belongs where.

#[path = "../bases/mod.rs"]
mod bases;
#[path = "../support/mod.rs"]
#[expect(dead_code, reason = "each target uses its part")]
mod support;

/// What every reader of foreign bytes promises.
#[path = "../fuzz/mod.rs"]
#[expect(unreachable_pub, reason = "the fuzz programs take it for a library")]
#[cfg(test)]
mod fuzz;

/// Objects made for tests.
#[path = "../../src/gate/fixture.rs"]
#[expect(dead_code, reason = "each target uses its part")]
mod elf;

/// The documents' tables are true.
#[cfg(test)]
mod architecture;
/// Images are started before they are written.
#[cfg(test)]
mod check;
/// How the other modules run the program.
#[cfg(test)]
mod command;
/// Killed at any moment, two at once, a damaged cache.
#[cfg(test)]
mod crash;
/// Dependencies: licences, sources, second versions.
#[cfg(test)]
mod dependencies;
/// Stripped, linked, compiled: nothing is harmed (needs the public package index).
#[cfg(test)]
mod deviations;
/// The main job on real parts, from the lock to a load test in a container.
#[cfg(test)]
mod end_to_end;
/// The entrypoint script, under every shell it has to run in.
#[cfg(test)]
mod entrypoint;
/// Every exit code, each way to it, and what is said.
#[cfg(test)]
mod errors;
/// A hostile build script, in each tier of the sandbox.
#[cfg(test)]
mod fence;
/// What the base cannot load is not published.
#[cfg(test)]
mod gate;
/// A base on glibc is a cell like any other.
#[cfg(test)]
mod glibc;
/// Hostile input: the fuzz targets' corpus.
#[cfg(test)]
mod hostile;
/// What the matrix makes, run as its users run it.
#[cfg(test)]
mod images;
/// The fixtures' own test.
#[cfg(test)]
mod made_bases;
/// Many cells at once, by the command: matrix, new, lock, assemble, size.
mod matrix;
/// The resolver against uv, on the real index.
#[cfg(test)]
mod oracle;
/// Package indexes: a fake one with every dialect.
#[cfg(test)]
mod package_index;
/// Where the program runs: in containers of several kinds, with and without namespaces.
#[cfg(test)]
mod places;
/// Images for several architectures.
#[cfg(test)]
mod platforms;
/// What the command line prints and does not do.
#[cfg(test)]
mod printed;
/// A small project of its own.
#[cfg(test)]
mod project;
/// The README's examples, run.
#[cfg(test)]
mod readme;
/// Registries: a fake one with every fault, and a real one.
#[cfg(test)]
mod registry;
/// What foreign code can and cannot do.
#[cfg(test)]
mod sandbox;
/// Servers on loopback and a small recipe for one run.
#[cfg(test)]
mod scene;
/// Builds of sdists by a base's own Python.
#[cfg(test)]
mod sdist;
/// Built wheels that machines share.
#[cfg(test)]
mod wheel_cache;
/// The installer against pip, on real wheels.
#[cfg(test)]
mod wheels;
/// C and C++ in sdists, compiled with zig (needs the public package index).
#[cfg(test)]
mod zig;

/// Where bases are kept that were made once.
fn base_cache() -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("target/bases")
}
