//! One integration-test binary; the `mod` list says what belongs where.

#[path = "../bases/mod.rs"]
mod bases;
#[path = "../support/mod.rs"]
#[expect(dead_code, reason = "each target uses its part")]
mod support;

/// The fixtures' own test.
#[cfg(test)]
mod made_bases;
/// Package indexes: a fake one with every dialect.
#[cfg(test)]
mod package_index;
/// Registries: a fake one with every fault, and a real one.
#[cfg(test)]
mod registry;

/// Where bases are kept that were made once.
fn base_cache() -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("target/bases")
}
