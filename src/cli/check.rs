//! `assemble check`: what a word means, and what is looked at then.

use std::path::Path;

use super::args::Check;
use super::convert;
use super::environment::Environment;
use super::error::Error;
use crate::assemble::{self, Checked};
use crate::error::{Doing, Result};
use crate::oci::{Platform, Reference};
use crate::recipe::Recipe;
use crate::world::{World, host_platform};

/// Checks everything that is named: a file that exists, else a cell, else a reference.
///
/// # Errors
/// A word is none of them, or an image is wrong or does not start.
pub(super) async fn run(
    recipe: &Recipe,
    flags: &Check,
    environment: &Environment,
    world: &World,
) -> Result<Vec<Checked>> {
    let doing = || "understand the command line".to_owned();
    let platform: Option<Platform> = flags
        .platform
        .as_deref()
        .map(|text| text.parse().map_err(Error::Platform))
        .transpose()
        .doing(doing)?;
    let mut checked = Vec::new();
    for what in &flags.what {
        let path = Path::new(what);
        let is_layout = path.join("oci-layout").is_file();
        if path.is_file() || is_layout {
            let found = assemble::check_file(path, world).await?;
            checked.extend(found.into_iter().filter(|checked| {
                platform.as_ref().is_none_or(|wanted| checked.platform.matches(wanted))
            }));
            continue;
        }
        let selected = recipe.matrix.select(std::slice::from_ref(what));
        let is_cell = selected.as_ref().is_ok_and(|cells| !cells.is_empty());
        if !is_cell && let Ok(reference) = what.parse::<Reference>() {
            let platform = platform.clone().unwrap_or_else(host_platform);
            checked.push(assemble::check_reference(&reference, &platform, world).await?);
            continue;
        }
        for cell in selected.doing(|| "select cells".into())? {
            let request = convert::check_request(recipe, cell, platform.as_ref(), environment)?;
            let assembled = assemble::assemble(&request, world).await?;
            checked.extend(assembled.images.into_iter().map(|image| Checked {
                image: cell.path.clone(),
                platform: image.platform,
                checked: image.checked,
                start: image.start,
            }));
        }
    }
    Ok(checked)
}
