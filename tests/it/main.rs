//! One integration-test binary; the `mod` list says what belongs where.

#[path = "../support/mod.rs"]
#[expect(dead_code, reason = "each target uses its part")]
mod support;

/// Package indexes: a fake one with every dialect.
#[cfg(test)]
mod package_index;
/// Registries: a fake one with every fault, and a real one.
#[cfg(test)]
mod registry;

