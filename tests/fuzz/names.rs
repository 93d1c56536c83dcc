//! What a distribution says of itself.

use assemble::oci::Platform;
use assemble::python::record::Record;
use assemble::python::{CoreMetadata, EntryPoints, Target, WheelFilename, metadata as fields};

/// A wheel's file name says the same when it is written again.
pub(super) fn wheel_name(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(wheel) = text.parse::<WheelFilename>() else { return };
    let written = wheel.to_string();
    assert_eq!(written.parse().as_ref(), Ok(&wheel), "{written}");
    let platform = Platform { os: "linux".into(), architecture: "amd64".into(), variant: None };
    let tags = Target::new("3.13.1", "alpine3.24", &platform).unwrap().tags();
    assert_eq!(
        tags.priority(&wheel.tags).is_none(),
        tags.reject_reason(&wheel.tags).is_some(),
        "{written}"
    );
}

/// METADATA's requirements say the same when they are written again: a lock's inputs are such text.
pub(super) fn metadata(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        for line in text.lines().take(50) {
            if let Ok(specifiers) = fields::specifiers(line) {
                let written = specifiers.to_string();
                assert_eq!(fields::specifiers(&written).as_ref(), Ok(&specifiers), "{written}");
            }
        }
    }
    let metadata = match CoreMetadata::parse(bytes) {
        Ok(metadata) => metadata,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    assert!(!metadata.name.as_ref().is_empty());
    let written = metadata.version.to_string();
    assert_eq!(written.parse().as_ref(), Ok(&metadata.version), "{written}");
    // A value with a quote of one kind stands between quotes of the other; pep508_rs writes all of them
    // between single ones, so such a value cannot be read again. Nobody but its own file says it.
    let has_both = |line: &[u8]| line.contains(&b'"') && line.contains(&b'\'');
    if bytes.split(|byte| *byte == b'\n').any(has_both) {
        return;
    }
    for requirement in &metadata.requires_dist {
        let written = requirement.to_string();
        assert_eq!(fields::requirement(&written).as_ref(), Ok(requirement), "{written}");
    }
}

/// RECORD is the same table when it is written again, and then the same bytes.
pub(super) fn record(bytes: &[u8]) {
    let Ok(record) = Record::parse(bytes) else { return };
    let written = record.to_bytes();
    let again = Record::parse(&written).unwrap();
    assert_eq!(again, record);
    assert_eq!(again.to_bytes(), written);
}

/// A command is a plain file name, and what it calls are dotted identifiers: both are written into a
/// program.
pub(super) fn entry_points(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(entry_points) = EntryPoints::parse(text) else { return };
    for (name, called) in entry_points.scripts() {
        assert!(!name.is_empty() && !matches!(name, "." | ".."), "{name:?}");
        assert!(!name.contains(['/', '\0', '\n', '\r']), "{name:?}");
        for dotted in [&called.module, &called.attribute] {
            for part in dotted.split('.') {
                let plain = part.chars().all(|c| c.is_alphanumeric() || c == '_');
                assert!(plain && !part.is_empty(), "{called:?}");
            }
        }
    }
}
