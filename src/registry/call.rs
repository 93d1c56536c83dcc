//! One request to a registry: authorised when asked, tried again when that is safe, redirected by the
//! rules, and turned into an error that says what was asked, what came, and what to do.

use bytes::Bytes;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, Request, Response, StatusCode, Url};

use super::Client;
use super::auth::{Doors, Scope, Subject};
use super::credentials::{Credential, Role};
use super::endpoint::Endpoint;
use super::error::{Error, Said, is_transient};
use crate::http::{self, Watch, redirect, retry};

/// How often a 401 is answered with another try: once for the first challenge, once for a wider scope
/// or an expired token.
const MOST_CHALLENGES: u32 = 2;

/// A request, before it has an address and an authorisation.
#[derive(Clone, Debug)]
pub(super) struct Call<'a> {
    pub(super) endpoint: &'a Endpoint,
    pub(super) method: Method,
    pub(super) target: Target,
    pub(super) headers: HeaderMap,
    pub(super) body: Option<Bytes>,
    pub(super) role: Role,
    pub(super) scopes: Vec<Scope>,
    /// Statuses that are an answer and no failure, beside 2xx.
    pub(super) expected: &'static [u16],
    /// What is asked for, in words: `manifest docker.io/library/python:3.13`.
    pub(super) what: String,
}

/// Where a request goes.
#[derive(Clone, Debug)]
pub(super) enum Target {
    /// Below `/v2/<repository>/`.
    Path(String),
    /// To an address that the registry gave, already checked.
    Url(Url),
}

impl<'a> Call<'a> {
    /// To read in the role of a puller.
    pub(super) fn pull(endpoint: &'a Endpoint, method: Method, path: String) -> Self {
        Self {
            endpoint,
            method,
            target: Target::Path(path),
            headers: HeaderMap::new(),
            body: None,
            role: Role::Pull,
            scopes: vec![Scope::pull(&endpoint.repository)],
            expected: &[],
            what: endpoint.repository.clone(),
        }
    }

    /// To read or write in the role of a pusher; one token serves both.
    pub(super) fn push(endpoint: &'a Endpoint, method: Method, path: String) -> Self {
        Self {
            role: Role::Push,
            scopes: vec![Scope::push(&endpoint.repository)],
            ..Self::pull(endpoint, method, path)
        }
    }

    pub(super) fn to(self, url: Url) -> Self {
        Self { target: Target::Url(url), ..self }
    }

    pub(super) fn expecting(self, expected: &'static [u16]) -> Self {
        Self { expected, ..self }
    }

    pub(super) fn about(self, what: String) -> Self {
        Self { what, ..self }
    }

    pub(super) fn body(self, bytes: Bytes) -> Self {
        Self { body: Some(bytes), ..self }
    }

    pub(super) fn header(mut self, name: HeaderName, value: &str) -> Self {
        // Values are ours or have been headers before; one that cannot be is not sent.
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.append(name, value);
        }
        self
    }

    fn subject(&self) -> Subject {
        Subject {
            host: self.endpoint.host.clone(),
            registry: self.endpoint.registry.clone(),
            repository: self.endpoint.repository.clone(),
            role: self.role,
            scopes: self.scopes.clone(),
        }
    }
}

/// A body that is made while it is sent.
pub(super) struct Streamed {
    pub(super) body: reqwest::Body,
    pub(super) length: u64,
    pub(super) watch: Watch,
}

impl Client {
    fn address(&self, call: &Call<'_>) -> Result<Url, Error> {
        match &call.target {
            Target::Path(path) => self.url(call.endpoint, path),
            Target::Url(url) => Ok(url.clone()),
        }
    }

    fn doors<'a>(&'a self, registry: &'a Url) -> Doors<'a> {
        Doors {
            http: &self.shared.http,
            keychain: &self.shared.options.keychain,
            trust: &self.shared.trust,
            registry,
        }
    }

    /// What to show at an address: nothing at another host than the endpoint's.
    async fn authorization(
        &self,
        call: &Call<'_>,
        url: &Url,
    ) -> Result<Option<HeaderValue>, Error> {
        let own = self.url(call.endpoint, "")?;
        if !redirect::is_same_host(&own, url) {
            return Ok(None);
        }
        self.shared.authorizer.authorization(&call.subject(), &self.doors(&own)).await
    }

    /// The request with its authorisation, and that authorisation.
    async fn prepare(
        &self,
        call: &Call<'_>,
        url: &Url,
    ) -> Result<(Request, Option<HeaderValue>), Error> {
        if self.shared.options.offline {
            return Err(Error::Offline {
                request: format!("{} {}", call.method, http::redact(url)),
            });
        }
        let authorization = self.authorization(call, url).await?;
        let mut request = Request::new(call.method.clone(), url.clone());
        *request.headers_mut() = call.headers.clone();
        if let Some(value) = &authorization {
            request.headers_mut().insert(AUTHORIZATION, value.clone());
        }
        Ok((request, authorization))
    }

    /// Sends a request whose body can be sent again, as often as it takes.
    pub(super) async fn call(&self, call: Call<'_>) -> Result<Response, Error> {
        let retry = self.shared.http.options().retry;
        let (mut tries, mut challenges) = (1, 0);
        loop {
            let url = self.address(&call)?;
            let (mut request, authorization) = self.prepare(&call, &url).await?;
            if let Some(bytes) = &call.body {
                *request.body_mut() = Some(bytes.clone().into());
            }
            let mut response = match self.shared.http.send(request, &self.shared.trust).await {
                Ok(response) => response,
                Err(error) if error.is_transient() && tries < retry.tries => {
                    tokio::time::sleep(retry.delay(tries, None)).await;
                    tries += 1;
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            self.shared.warnings.hear(&call.endpoint.registry, response.headers());
            let status = response.status();
            if status.is_success() || call.expected.contains(&status.as_u16()) {
                return Ok(response);
            }
            let own = redirect::is_same_host(&url, response.url());
            if status == StatusCode::UNAUTHORIZED && own && challenges < MOST_CHALLENGES {
                challenges += 1;
                // Asking again makes sense only with something else to show.
                if self.learn(&call, &response, authorization.as_ref()).await
                    && self.authorization(&call, &url).await? != authorization
                {
                    continue;
                }
            }
            let asked = retry::retry_after(response.headers());
            let said = Said::read(&self.shared.http, &mut response).await;
            if status == StatusCode::BAD_REQUEST
                && url.scheme() == "http"
                && redirect::is_loopback(&url)
                // An address that the registry gave stays as it is: asking again would not end.
                && matches!(call.target, Target::Path(_))
                && said.text.contains("HTTPS")
            {
                // Go's and nginx's words for "this port speaks TLS".
                self.speak_tls(call.endpoint);
                continue;
            }
            if is_transient(status, &said) && tries < retry.tries {
                tokio::time::sleep(retry.delay(tries, asked)).await;
                tries += 1;
                continue;
            }
            return Err(self.refusal(&call, response.url(), status, said).await);
        }
    }

    /// Sends a body that cannot be sent again, once. The caller knows how to go on after a failure;
    /// after a 401 it finds the challenge learnt.
    pub(super) async fn call_once(
        &self,
        call: &Call<'_>,
        streamed: Streamed,
    ) -> Result<Response, Error> {
        let url = self.address(call)?;
        let (mut request, authorization) = self.prepare(call, &url).await?;
        request.headers_mut().insert(reqwest::header::CONTENT_LENGTH, streamed.length.into());
        *request.body_mut() = Some(streamed.body);
        let http = &self.shared.http;
        let mut response = http.send_once(request, Some(&streamed.watch)).await?;
        self.shared.warnings.hear(&call.endpoint.registry, response.headers());
        let status = response.status();
        if status.is_success() || call.expected.contains(&status.as_u16()) {
            return Ok(response);
        }
        if status == StatusCode::UNAUTHORIZED {
            self.learn(call, &response, authorization.as_ref()).await;
        }
        let said = Said::read(http, &mut response).await;
        Err(self.refusal(call, &url, status, said).await)
    }

    async fn learn(
        &self,
        call: &Call<'_>,
        response: &Response,
        sent: Option<&HeaderValue>,
    ) -> bool {
        let subject = call.subject();
        let authorizer = &self.shared.authorizer;
        authorizer.learn(&subject, response.headers(), sent).await
    }

    async fn refusal(&self, call: &Call<'_>, url: &Url, status: StatusCode, said: Said) -> Error {
        let request = format!("{} {}", call.method, http::redact(url));
        match status {
            StatusCode::NOT_FOUND => {
                Error::NotFound { what: call.what.clone(), request, status, said: said.into() }
            }
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                let keychain = &self.shared.options.keychain;
                let subject = call.subject();
                let credential =
                    keychain.credential(subject.role, &subject.registry, &subject.repository).await;
                Error::Denied {
                    registry: subject.registry,
                    request,
                    status,
                    said: said.into(),
                    anonymous: matches!(credential, Ok(Credential::Anonymous)),
                    looked_in: keychain.looked_in(call.role),
                }
            }
            _ => Error::Status { request, status, said: said.into() },
        }
    }
}
