//! `assemble login` and `assemble logout`, for machines that have no other tool.

use std::ffi::OsStr;
use std::io::Read as _;
use std::path::PathBuf;

use super::args::{Login, Logout, Shared};
use super::environment::Environment;
use super::error::Error;
use super::network;
use crate::error::{Doing, Result};
use crate::registry;
use crate::registry::credentials::keep::{self, Account};
use crate::registry::credentials::{Credential, Keychain, Role, Secret};
use crate::world::Progress;

/// More than any token: Amazon's have two kibibytes.
const PASSWORD_LIMIT: u64 = 64 << 10;

/// Shows the credential to the registry and keeps it where it was taken.
///
/// # Errors
/// It was refused, or the file cannot be changed.
pub(super) async fn login(
    flags: &Login,
    shared: &Shared,
    environment: &Environment,
    progress: &dyn Progress,
) -> Result<()> {
    let doing = || format!("log in to {}", flags.registry);
    let account: Account = flags.registry.parse().doing(doing)?;
    let file = file(environment).doing(doing)?;
    let password = password().doing(doing)?;
    let user = flags.username.clone();
    let credential = Credential::Password { user, password: password.clone() };
    let http = network::http(shared, environment)?;
    let client = registry::Client::new(http, network::plain(shared));
    let asked = client.log_in(account.registry(), credential.clone()).await.doing(doing)?;
    let helpers = environment.get("PATH").map(OsStr::new);
    let helper =
        keep::store(&file, &account, &flags.username, &password, helpers).await.doing(doing)?;
    if !asked {
        progress.notice(&format!("{} asked for no credentials: it is open", account.registry()));
    }
    let place = match helper {
        Some(name) => format!("docker-credential-{name}"),
        None => format!("`{}`", file.display()),
    };
    progress.notice(&format!("logged in to {account}; the credentials are in {place}"));
    // A file that goes before may have other credentials for the same place.
    let keychain = Keychain::load(network::sources(environment)).doing(doing)?;
    let repository = account.to_string();
    let repository = repository.split_once('/').map_or("", |(_, path)| path);
    for role in [Role::Pull, Role::Push] {
        let shown = keychain.credential(role, account.registry(), repository).await.doing(doing)?;
        if shown != credential {
            let verb = if role == Role::Pull { "pull" } else { "push" };
            let places = keychain.looked_in(role).join(", ");
            progress.notice(&format!(
                "they are not used to {verb}: other credentials for {account} come first in {places}"
            ));
        }
    }
    Ok(())
}

/// Takes the registry's credentials out of the file that `login` writes to.
///
/// # Errors
/// The file cannot be changed.
pub(super) async fn logout(
    flags: &Logout,
    environment: &Environment,
    progress: &dyn Progress,
) -> Result<()> {
    let doing = || format!("log out of {}", flags.registry);
    let account: Account = flags.registry.parse().doing(doing)?;
    let file = file(environment).doing(doing)?;
    let helpers = environment.get("PATH").map(OsStr::new);
    let there = keep::forget(&file, &account, helpers).await.doing(doing)?;
    let what = if there { "removed from" } else { "not in" };
    progress.notice(&format!("credentials for {account} were {what} `{}`", file.display()));
    Ok(())
}

fn file(environment: &Environment) -> std::result::Result<PathBuf, Error> {
    network::sources(environment).login_file().ok_or(Error::NoLoginFile)
}

/// Standard input without the line end that `echo` adds.
fn password() -> std::result::Result<Secret, Error> {
    let mut text = String::new();
    std::io::stdin().take(PASSWORD_LIMIT).read_to_string(&mut text).map_err(Error::Disk)?;
    let text = text.strip_suffix('\n').unwrap_or(&text);
    let text = text.strip_suffix('\r').unwrap_or(text);
    if text.is_empty() {
        return Err(Error::NoPassword);
    }
    Ok(Secret::new(text))
}
