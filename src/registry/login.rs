//! Whether a registry takes a credential, asked before it is written anywhere.

use reqwest::Method;

use super::call::Call;
use super::credentials::{Credential, Role};
use super::endpoint::Endpoint;
use super::{Client, Error, Options};

impl Client {
    /// Shows a credential to the registry (`host[:port]`, as in names) at its base address
    /// (distribution-spec, *Determining Support*). Returns whether it asked for one at all: an open
    /// registry takes any.
    ///
    /// # Errors
    /// The registry or its token server refused the credential, or could not be reached.
    pub async fn log_in(&self, registry: &str, credential: Credential) -> Result<bool, Error> {
        let keychain = self.shared.options.keychain.clone();
        let keychain = keychain.with_identity(Role::Push, registry, credential);
        // Nothing that was learnt before is good for another identity.
        let options = Options { keychain, ..self.shared.options.clone() };
        let client = Self::new(self.shared.http.clone(), options);
        let endpoint = Endpoint::of_registry(registry);
        let mut call = Call::push(&endpoint, Method::GET, String::new())
            .about(format!("the API of {registry}"));
        // For the registry as such: the token server looks at the identity alone.
        call.scopes = Vec::new();
        client.call(call).await?;
        Ok(client.shared.authorizer.was_challenged(&endpoint.host, Role::Push).await)
    }
}
