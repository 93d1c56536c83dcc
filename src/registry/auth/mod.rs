//! Proving who we are, when a registry asks (distribution, *token.md* and *oauth.md*).
//!
//! Nothing is sent before a registry has challenged us; from then on its challenge and tokens are
//! remembered, per host, role and set of scopes. Tokens live in memory only.
//!
//! A token server may be on another host than the registry: that is the rule, not the exception. It
//! gets the registry's credentials only over `https`, or over plain HTTP where the registry itself is
//! spoken to in plain HTTP. A registry that lies about its realm gains nothing by it: what it could
//! steal are its own credentials, which it could have asked for by `Basic`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use reqwest::{Method as Verb, Request, StatusCode, Url};
use serde::Deserialize;
use tokio::sync::Mutex;
use url::form_urlencoded;

use super::credentials::{Credential, Role, Secret};
use super::error::{Error, Said};
use crate::http;

pub mod challenge;

use challenge::Method;

/// The most bytes that are read of a token answer: some clouds' tokens carry whole group lists.
const TOKEN_BODY_LIMIT: usize = 256 << 10;
/// What a token is good for if its server does not say (token.md).
const DEFAULT_LIFETIME: u64 = 60;
/// A token is renewed this long before its end, or at half of its life if that is shorter.
const EARLY: u64 = 30;

/// What an action on a repository needs: `repository:library/python:pull`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Scope(String);

impl Scope {
    /// To read a repository.
    pub fn pull(repository: &str) -> Self {
        Self(format!("repository:{repository}:pull"))
    }

    /// To read and write a repository.
    pub fn push(repository: &str) -> Self {
        Self(format!("repository:{repository}:pull,push"))
    }
}

/// For whom and for what a request is authorised.
#[derive(Clone, Debug)]
pub struct Subject {
    /// `host[:port]` of the API.
    pub host: String,
    /// The registry as credentials know it.
    pub registry: String,
    /// The repository that the request is about.
    pub repository: String,
    /// The role we speak in.
    pub role: Role,
    /// What the request needs; the one for writing first, since a few registries look at no other.
    pub scopes: Vec<Scope>,
}

/// The challenges and tokens of a run. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Authorizer {
    hosts: Arc<Mutex<Hosts>>,
}

/// By host and role. Each is locked alone, so that one slow token server stops nobody else.
type Hosts = BTreeMap<(String, Role), Arc<Mutex<Host>>>;

/// What is known about a host.
#[derive(Debug, Default)]
struct Host {
    method: Option<Method>,
    tokens: BTreeMap<Vec<String>, Token>,
    /// Scopes that the registry asked for beyond ours, per set of ours.
    asked: BTreeMap<Vec<Scope>, Vec<String>>,
}

#[derive(Clone, Debug)]
struct Token {
    secret: Secret,
    until: Instant,
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    token: Option<String>,
    #[serde(default)]
    access_token: Option<String>,
    #[serde(default)]
    expires_in: Option<u64>,
}

impl Authorizer {
    async fn host(&self, subject: &Subject) -> Arc<Mutex<Host>> {
        let mut hosts = self.hosts.lock().await;
        let key = (subject.host.clone(), subject.role);
        Arc::clone(hosts.entry(key).or_default())
    }

    /// The `Authorization` for a request; `None` as long as the registry has not asked.
    pub(super) async fn authorization(
        &self,
        subject: &Subject,
        doors: &Doors<'_>,
    ) -> Result<Option<HeaderValue>, Error> {
        let host = self.host(subject).await;
        // Held while a token is fetched, so that ten parallel requests fetch one.
        let mut host = host.lock().await;
        let Some(method) = host.method.clone() else {
            return Ok(None);
        };
        let credential = doors.credential(subject).await?;
        match (method, credential) {
            (Method::Basic, Credential::Password { user, password }) => {
                Ok(Some(basic(&user, &password)))
            }
            (Method::Basic, _) => Ok(None),
            (Method::Bearer { .. }, Credential::RegistryToken(token)) => bearer(&token).map(Some),
            (Method::Bearer { realm, service, .. }, credential) => {
                let scopes = wanted(&host, subject);
                if let Some(token) = host.tokens.get(&scopes)
                    && token.until > Instant::now()
                {
                    return bearer(&token.secret).map(Some);
                }
                let asked = TokenRequest {
                    role: subject.role,
                    realm: doors.realm(&realm)?,
                    service,
                    scopes: scopes.clone(),
                    credential,
                };
                let token = asked.fetch(doors).await?;
                let value = bearer(&token.secret)?;
                host.tokens.insert(scopes, token);
                Ok(Some(value))
            }
        }
    }

    /// Whether a host asked for credentials in a role.
    pub(super) async fn was_challenged(&self, host: &str, role: Role) -> bool {
        let host = self.hosts.lock().await.get(&(host.to_owned(), role)).cloned();
        match host {
            Some(host) => host.lock().await.method.is_some(),
            None => false,
        }
    }

    /// Learns from a 401; returns whether it asked for something we can do. `sent` is what the refused
    /// request carried.
    pub(super) async fn learn(
        &self,
        subject: &Subject,
        headers: &HeaderMap,
        sent: Option<&HeaderValue>,
    ) -> bool {
        let texts =
            headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok());
        let Some(method) = challenge::choose(&challenge::parse(texts)) else {
            return false;
        };
        let host = self.host(subject).await;
        let mut host = host.lock().await;
        if let Method::Bearer { scopes, .. } = &method {
            let own = wanted(&host, subject);
            if scopes.iter().any(|scope| !covered(scope, &own)) {
                host.asked.insert(subject.scopes.clone(), scopes.clone());
            }
            if sent.is_some() {
                // The token that was refused is good for nothing; another may have got a new one.
                host.tokens.retain(|_, token| bearer(&token.secret).ok().as_ref() != sent);
            }
        }
        host.method = Some(method);
        true
    }
}

/// The scopes to ask for: what the registry named first, then ours.
fn wanted(host: &Host, subject: &Subject) -> Vec<String> {
    let named = host.asked.get(&subject.scopes).into_iter().flatten();
    let mut scopes: Vec<String> = named.cloned().collect();
    for Scope(own) in &subject.scopes {
        if !scopes.contains(own) {
            scopes.push(own.clone());
        }
    }
    scopes
}

/// Whether one of `scopes` gives what `scope` does.
fn covered(scope: &str, scopes: &[String]) -> bool {
    let split = |scope: &str| -> Option<(String, Vec<String>)> {
        let (resource, actions) = scope.rsplit_once(':')?;
        Some((resource.to_owned(), actions.split(',').map(str::to_owned).collect()))
    };
    let Some((resource, actions)) = split(scope) else {
        return false;
    };
    scopes
        .iter()
        .filter_map(|own| split(own))
        .any(|(own, given)| own == resource && actions.iter().all(|action| given.contains(action)))
}

/// What a token is fetched through.
pub(super) struct Doors<'a> {
    pub(super) http: &'a http::Client,
    pub(super) keychain: &'a super::credentials::Keychain,
    pub(super) trust: &'a http::Trust,
    /// The registry's own address.
    pub(super) registry: &'a Url,
}

impl Doors<'_> {
    async fn credential(&self, subject: &Subject) -> Result<Credential, Error> {
        self.keychain
            .credential(subject.role, &subject.registry, &subject.repository)
            .await
            .map_err(Error::Credentials)
    }

    fn realm(&self, realm: &str) -> Result<Url, Error> {
        let refused = |reason: String| Error::Realm {
            registry: http::redirect::host_and_port(self.registry),
            reason,
        };
        let url = Url::parse(realm).map_err(|error| refused(error.to_string()))?;
        self.trust.check(self.registry, &url).map_err(|refusal| refused(refusal.to_string()))?;
        Ok(url)
    }
}

struct TokenRequest {
    role: Role,
    realm: Url,
    service: Option<String>,
    scopes: Vec<String>,
    credential: Credential,
}

impl TokenRequest {
    async fn fetch(&self, doors: &Doors<'_>) -> Result<Token, Error> {
        if let Credential::IdentityToken(token) = &self.credential {
            let mut response = self.send(self.post(token), doors).await?;
            // A server without OAuth2 says 404 or 405 (oauth.md): the old way may still do.
            if !matches!(response.status(), StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED)
            {
                return self.read(&mut response, &Verb::POST, doors).await;
            }
        }
        let mut response = self.send(self.get(), doors).await?;
        self.read(&mut response, &Verb::GET, doors).await
    }

    async fn send(&self, request: Request, doors: &Doors<'_>) -> Result<reqwest::Response, Error> {
        Ok(doors.http.send_with_retries(request, doors.trust).await?)
    }

    fn get(&self) -> Request {
        let mut url = self.realm.clone();
        {
            let mut query = url.query_pairs_mut();
            if let Some(service) = &self.service {
                query.append_pair("service", service);
            }
            for scope in &self.scopes {
                query.append_pair("scope", scope);
            }
        }
        if url.query() == Some("") {
            url.set_query(None);
        }
        let mut request = Request::new(Verb::GET, url);
        let authorization = match &self.credential {
            Credential::Password { user, password } => Some(basic(user, password)),
            Credential::IdentityToken(token) => Some(basic("<token>", token)),
            _ => None,
        };
        if let Some(value) = authorization {
            request.headers_mut().insert(AUTHORIZATION, value);
        }
        request
    }

    fn post(&self, token: &Secret) -> Request {
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.append_pair("grant_type", "refresh_token");
        form.append_pair("refresh_token", token.reveal());
        form.append_pair("client_id", "assemble");
        if let Some(service) = &self.service {
            form.append_pair("service", service);
        }
        form.append_pair("scope", &self.scopes.join(" "));
        let mut request = Request::new(Verb::POST, self.realm.clone());
        let form_type = HeaderValue::from_static("application/x-www-form-urlencoded");
        request.headers_mut().insert(CONTENT_TYPE, form_type);
        *request.body_mut() = Some(form.finish().into());
        request
    }

    async fn read(
        &self,
        response: &mut reqwest::Response,
        verb: &Verb,
        doors: &Doors<'_>,
    ) -> Result<Token, Error> {
        let status = response.status();
        let request = format!("{verb} {}", http::redact(&self.realm));
        if !status.is_success() {
            let said = Said::read(doors.http, response).await;
            return Err(Error::Token {
                request,
                status,
                said: said.into(),
                anonymous: self.credential == Credential::Anonymous,
                looked_in: doors.keychain.looked_in(self.role),
            });
        }
        let body = doors.http.body(response, TOKEN_BODY_LIMIT).await?;
        let malformed =
            |what: &str| Error::Malformed { request: request.clone(), what: what.to_owned() };
        // The parser's message could quote the token.
        let answer: Answer = serde_json::from_slice(&body)
            .map_err(|_secret| malformed("the token server's answer is no token"))?;
        let secret = answer
            .token
            .filter(|token| !token.is_empty())
            .or(answer.access_token)
            .filter(|token| !token.is_empty())
            .ok_or_else(|| malformed("the token server's answer holds no token"))?;
        // Some servers write 0; `issued_at` is not looked at, since clocks differ.
        let lifetime = answer
            .expires_in
            .filter(|&seconds| seconds > 0)
            .unwrap_or(DEFAULT_LIFETIME)
            .min(24 * 3600);
        let good_for = Duration::from_secs(lifetime - EARLY.min(lifetime / 2));
        Ok(Token { secret: Secret::new(secret), until: Instant::now() + good_for })
    }
}

fn basic(user: &str, password: &Secret) -> HeaderValue {
    let encoded = STANDARD.encode(format!("{user}:{}", password.reveal()));
    let mut value = HeaderValue::try_from(format!("Basic {encoded}"))
        .unwrap_or_else(|_impossible| HeaderValue::from_static("Basic"));
    value.set_sensitive(true);
    value
}

fn bearer(token: &Secret) -> Result<HeaderValue, Error> {
    let mut value =
        HeaderValue::try_from(format!("Bearer {}", token.reveal())).map_err(|_secret| {
            Error::Malformed {
                request: "bearer token".to_owned(),
                what: "it holds characters that no header may have".to_owned(),
            }
        })?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_are_covered_by_wider_ones() {
        let own = vec!["repository:a:pull,push".to_owned(), "repository:b:pull".to_owned()];
        for (scope, wanted) in [
            ("repository:a:pull", true),
            ("repository:a:push,pull", true),
            ("repository:a:delete", false),
            ("repository:b:push", false),
            ("repository:c:pull", false),
            ("nonsense", false),
        ] {
            assert_eq!(covered(scope, &own), wanted, "{scope}");
        }
    }
}
