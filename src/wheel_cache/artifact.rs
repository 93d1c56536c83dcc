//! An entry's manifest (pure): image-spec, *Guidelines for Artifact Usage*.
//!
//! ```text
//! artifactType  application/vnd.assemble.wheel.v1
//! config        the empty JSON object
//! layers        one: the wheel, its title the wheel's file name
//! annotations   assemble.wheel.key, .project, .version, .python, .platform: what was built
//!               assemble.wheel.tier, .pure-fallback: how
//! ```

use serde::Deserialize;
use serde_json::{Value, json};

use super::Error;
use crate::oci::json::to_canonical_vec;
use crate::oci::{Descriptor, Digest, Platform, media_type};
use crate::registry;
use crate::sandbox::Tier;

/// Changes when an entry would be read differently.
const ARTIFACT: &str = "application/vnd.assemble.wheel.v1";
const LAYER: &str = "application/vnd.assemble.wheel.v1+zip";
const EMPTY_TYPE: &str = "application/vnd.oci.empty.v1+json";
const TITLE: &str = "org.opencontainers.image.title";
/// The empty JSON object, the config of what has none.
pub(super) const EMPTY: &[u8] = b"{}";
/// Far above any wheel that is built: 1 GiB.
const LARGEST: u64 = 1 << 30;

/// What was built, or is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Build {
    /// Over all that goes in.
    pub key: Digest,
    /// Normalised name.
    pub project: String,
    /// Its version.
    pub version: String,
    /// `3.13`
    pub python: String,
    /// Of the base whose Python ran the build.
    pub platform: Platform,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wheel {
    /// As the backend named it: unchecked.
    pub file_name: String,
    /// Of its bytes.
    pub digest: Digest,
    /// In bytes.
    pub size: u64,
    /// Which way the build ran, as its builder says.
    pub tier: Tier,
    /// Whether it has sources for a compiler and no compiled module, as its builder says.
    pub pure_fallback: bool,
}

/// An entry as it is pushed.
pub(super) struct Artifact {
    pub(super) layer: Descriptor,
    pub(super) config: Descriptor,
    /// Canonical.
    pub(super) manifest: Vec<u8>,
}

/// The wheel's descriptor, as far as fetching needs it.
pub(super) fn layer(wheel: &Wheel) -> Result<Descriptor, registry::Error> {
    let value = json!({"mediaType": LAYER, "digest": wheel.digest, "size": wheel.size});
    serde_json::from_value(value).map_err(|error| registry::Error::Malformed {
        request: wheel.file_name.clone(),
        what: error.to_string(),
    })
}

/// The entry of a build: the same bytes for the same build and wheel.
pub(super) fn write(build: &Build, wheel: &Wheel) -> Result<Artifact, Error> {
    let config = json!({"mediaType": EMPTY_TYPE, "digest": Digest::of(EMPTY), "size": EMPTY.len()});
    let layer = json!({
        "mediaType": LAYER,
        "digest": wheel.digest,
        "size": wheel.size,
        "annotations": {TITLE: wheel.file_name},
    });
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": media_type::OCI_MANIFEST,
        "artifactType": ARTIFACT,
        "config": config,
        "layers": [layer],
        "annotations": {
            "assemble.wheel.key": build.key,
            "assemble.wheel.project": build.project,
            "assemble.wheel.version": build.version,
            "assemble.wheel.python": build.python,
            "assemble.wheel.platform": build.platform.to_string(),
            "assemble.wheel.tier": wheel.tier,
            "assemble.wheel.pure-fallback": wheel.pure_fallback.to_string(),
        },
    });
    Ok(Artifact {
        layer: serde_json::from_value(layer)?,
        config: serde_json::from_value(config)?,
        manifest: to_canonical_vec(&manifest)?,
    })
}

#[derive(Deserialize)]
struct Manifest {
    layers: Vec<Layer>,
    annotations: Annotations,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Layer {
    media_type: String,
    digest: Digest,
    size: u64,
    annotations: Titled,
}

#[derive(Deserialize)]
struct Titled {
    #[serde(rename = "org.opencontainers.image.title")]
    title: String,
}

#[derive(Deserialize)]
struct Annotations {
    #[serde(rename = "assemble.wheel.key")]
    key: Digest,
    #[serde(rename = "assemble.wheel.project")]
    project: String,
    #[serde(rename = "assemble.wheel.version")]
    version: String,
    #[serde(rename = "assemble.wheel.python")]
    python: String,
    #[serde(rename = "assemble.wheel.platform")]
    platform: String,
    #[serde(rename = "assemble.wheel.tier")]
    tier: Tier,
    #[serde(rename = "assemble.wheel.pure-fallback")]
    pure_fallback: String,
}

/// The wheel of an entry, if it is an entry of that very build.
pub(super) fn read(bytes: &[u8], build: &Build) -> Result<Wheel, &'static str> {
    let manifest = serde_json::from_slice::<Value>(bytes).map_err(|_error| "is no JSON")?;
    if manifest["artifactType"] != ARTIFACT {
        return Err("is no wheel of assemble");
    }
    let manifest: Manifest =
        serde_json::from_value(manifest).map_err(|_error| "does not say what it is")?;
    let said = manifest.annotations;
    if said.key != build.key {
        return Err("has another build's key");
    }
    let platform = said.platform.parse::<Platform>().ok();
    if !platform.is_some_and(|platform| platform.matches(&build.platform)) {
        return Err("was built on another platform");
    }
    if said.project != build.project || said.version != build.version {
        return Err("is of another project or version");
    }
    if said.python != build.python {
        return Err("was built by another Python");
    }
    let [layer] = <[Layer; 1]>::try_from(manifest.layers).map_err(|_other| "has not one file")?;
    if layer.media_type != LAYER {
        return Err("has a file that is no wheel");
    }
    if layer.size > LARGEST {
        return Err("is larger than any wheel");
    }
    Ok(Wheel {
        file_name: layer.annotations.title,
        digest: layer.digest,
        size: layer.size,
        tier: said.tier,
        pure_fallback: said.pure_fallback == "true",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn build() -> Build {
        Build {
            key: Digest::of(b"all that goes in"),
            project: "zope-interface".into(),
            version: "8.7".into(),
            python: "3.13".into(),
            platform: "linux/amd64".parse().unwrap(),
        }
    }

    fn wheel() -> Wheel {
        Wheel {
            file_name: "zope_interface-8.7-cp313-cp313-linux_x86_64.whl".into(),
            digest: Digest::of(b"wheel"),
            size: 5,
            tier: Tier::Namespaces,
            pure_fallback: true,
        }
    }

    #[test]
    fn an_entry_is_canonical_and_read_back() {
        let artifact = write(&build(), &wheel()).unwrap();
        assert_eq!(read(&artifact.manifest, &build()), Ok(wheel()));
        let text = String::from_utf8(artifact.manifest).unwrap();
        assert_eq!(
            text,
            concat!(
                r#"{"annotations":{"assemble.wheel.key":"sha256:KEY","#,
                r#""assemble.wheel.platform":"linux/amd64","#,
                r#""assemble.wheel.project":"zope-interface","#,
                r#""assemble.wheel.pure-fallback":"true","assemble.wheel.python":"3.13","#,
                r#""assemble.wheel.tier":"namespaces","assemble.wheel.version":"8.7"},"#,
                r#""artifactType":"application/vnd.assemble.wheel.v1","#,
                r#""config":{"digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060"#,
                r#"f61caaff8a","mediaType":"application/vnd.oci.empty.v1+json","size":2},"#,
                r#""layers":[{"annotations":{"org.opencontainers.image.title":"#,
                r#""zope_interface-8.7-cp313-cp313-linux_x86_64.whl"},"digest":"sha256:WHEEL","#,
                r#""mediaType":"application/vnd.assemble.wheel.v1+zip","size":5}],"#,
                r#""mediaType":"application/vnd.oci.image.manifest.v1+json","schemaVersion":2}"#,
            )
            .replace("KEY", &build().key.hex())
            .replace("WHEEL", &wheel().digest.hex())
        );
    }

    #[test]
    fn another_builds_entry_is_none() {
        let bytes = write(&build(), &wheel()).unwrap().manifest;
        let manifest: Value = serde_json::from_slice(&bytes).unwrap();
        let other = Digest::of(b"other").to_string();
        let note = |name: &str| format!("/annotations/assemble.wheel.{name}");
        for (place, value, problem) in [
            ("/artifactType".to_owned(), json!("x"), "is no wheel of assemble"),
            (note("key"), json!(other), "has another build's key"),
            (note("key"), json!("sha256:../x"), "does not say what it is"),
            (note("platform"), json!("linux/arm64"), "was built on another platform"),
            (note("project"), json!("zope"), "is of another project or version"),
            (note("version"), json!("8.8"), "is of another project or version"),
            (note("python"), json!("3.12"), "was built by another Python"),
            (note("tier"), json!("magic"), "does not say what it is"),
            ("/layers".to_owned(), json!([]), "has not one file"),
            ("/layers/0/mediaType".to_owned(), json!("x"), "has a file that is no wheel"),
            ("/layers/0/size".to_owned(), json!(-1), "does not say what it is"),
            ("/layers/0/size".to_owned(), json!(u64::MAX), "is larger than any wheel"),
            ("/layers/0/digest".to_owned(), json!("sha512:0"), "does not say what it is"),
        ] {
            let mut lie = manifest.clone();
            *lie.pointer_mut(&place).unwrap() = value;
            let found = read(&serde_json::to_vec(&lie).unwrap(), &build());
            assert_eq!(found, Err(problem), "{place}");
        }
    }
}
