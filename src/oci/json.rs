//! One JSON writer for everything whose digest matters.

use serde::Serialize;
use serde_json::Value;

/// Compact JSON with the keys of every object in byte order, whatever features of `serde_json` other
/// crates switch on.
///
/// # Errors
/// `value` has a map with keys that are not strings.
pub fn to_canonical_vec(value: &impl Serialize) -> Result<Vec<u8>, serde_json::Error> {
    fn write(value: &Value, out: &mut Vec<u8>) -> Result<(), serde_json::Error> {
        match value {
            Value::Object(map) => {
                let mut members: Vec<_> = map.iter().collect();
                members.sort_by_key(|(left, _)| *left);
                out.push(b'{');
                for (position, (key, value)) in members.into_iter().enumerate() {
                    if position > 0 {
                        out.push(b',');
                    }
                    serde_json::to_writer(&mut *out, key)?;
                    out.push(b':');
                    write(value, out)?;
                }
                out.push(b'}');
            }
            Value::Array(items) => {
                out.push(b'[');
                for (position, item) in items.iter().enumerate() {
                    if position > 0 {
                        out.push(b',');
                    }
                    write(item, out)?;
                }
                out.push(b']');
            }
            scalar => serde_json::to_writer(&mut *out, scalar)?,
        }
        Ok(())
    }
    let mut out = Vec::new();
    write(&serde_json::to_value(value)?, &mut out)?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    #[test]
    fn sorts_keys_at_every_depth() {
        let value = serde_json::json!({"b": [{"z": 1, "a": "\n"}], "a": null});
        assert_eq!(
            super::to_canonical_vec(&value).unwrap(),
            br#"{"a":null,"b":[{"a":"\n","z":1}]}"#
        );
    }
}
