//! Owns the client of a Schema Registry: one request after the other, each with a deadline and a bound on its answer.
//!
//! Runs in: a thread of its own. OpenSSL is the server's.

use std::io::Read;
use std::path::Path;
use std::time::Duration;

use event_outbox_policy::kafka::redactor::Redactor;
use event_outbox_policy::registry::answer::{self, Answer};
use event_outbox_policy::registry::connection::RegistryConnection;
use event_outbox_policy::registry::failure::{Class, Failure};
use event_outbox_policy::registry::request::{MEDIA_TYPE, Request};
use ureq::tls::{Certificate, ClientCert, PemItem, PrivateKey, RootCerts, TlsConfig, TlsProvider, parse_pem};
use ureq::{Agent, Body, http};

/// How long a server may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a server may take for an answer, connection included.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);

/// The most bytes of an answer. Larger schemas would be a burden for each session that decodes by them.
const MAX_ANSWER: u64 = 4 << 20;

/// The most bytes of the headers of an answer.
const MAX_HEADERS: usize = 64 << 10;

/// A client.
pub struct Client {
    agent: Agent,
    connection: RegistryConnection,
    redactor: Redactor,
}

impl Client {
    /// A client for this registry. Reads the files that the connection names, but connects to nobody yet.
    ///
    /// # Errors
    /// A file cannot be read, or has no certificates.
    pub fn new(connection: RegistryConnection) -> Result<Self, Failure> {
        let tls = tls(&connection)?;
        let config = Agent::config_builder()
            .http_status_as_error(false)
            // A redirection could carry the login elsewhere.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_global(Some(ANSWER_TIMEOUT))
            .max_response_header_size(MAX_HEADERS)
            .user_agent("event_outbox")
            .accept(MEDIA_TYPE)
            .tls_config(tls)
            .build();
        Ok(Self { agent: config.new_agent(), redactor: connection.redactor(), connection })
    }

    /// Asks the registry's servers one after the other, until one answers.
    ///
    /// # Errors
    /// None answers, or the one that does has not done it. The text has no secrets.
    pub fn ask(&self, request: &Request) -> Result<Answer, Failure> {
        let mut failure = Failure::new(Class::Unavailable, "the registry has no address");
        for server in self.connection.url.servers() {
            match self.ask_server(server, request) {
                Err(Failure { class: Class::Unavailable, text }) => {
                    failure = Failure { class: Class::Unavailable, text };
                }
                answered => return answered.map_err(|failure| self.redacted(failure)),
            }
        }
        Err(self.redacted(failure))
    }

    fn redacted(&self, failure: Failure) -> Failure {
        Failure::new(failure.class, &self.redactor.redact(&failure.text))
    }

    fn ask_server(&self, server: &str, request: &Request) -> Result<Answer, Failure> {
        let no_answer = |error: ureq::Error| {
            let text = format!("the registry at {server} does not answer: {error}");
            Failure::new(class_of(&error), &text)
        };
        let mut response = self.send(server, request).map_err(no_answer)?;
        let mut body = Vec::new();
        // One more, to see that there is more.
        let read = response.body_mut().as_reader().take(MAX_ANSWER + 1).read_to_end(&mut body);
        read.map_err(|error| no_answer(ureq::Error::from(error)))?;
        if body.len() as u64 > MAX_ANSWER {
            let text = format!("the registry's answer is larger than {MAX_ANSWER} bytes");
            return Err(Failure::new(Class::Unreadable, &text));
        }
        answer::read(request, response.status().as_u16(), &body)
    }

    fn send(&self, server: &str, request: &Request) -> Result<http::Response<Body>, ureq::Error> {
        let http = request.http();
        let url = format!("{server}{}", http.path);
        let authorization = self.connection.authorization();
        let authorization = authorization.as_deref().map(|value| ("Authorization", value));
        match &http.body {
            None => {
                let request =
                    authorization.into_iter().fold(self.agent.get(url), |to, (n, v)| to.header(n, v));
                request.call()
            }
            Some(body) => {
                let request = self.agent.post(url).header("Content-Type", MEDIA_TYPE);
                let request = authorization.into_iter().fold(request, |to, (name, v)| to.header(name, v));
                request.send(body.as_bytes())
            }
        }
    }
}

/// Whether another server could do better.
fn class_of(error: &ureq::Error) -> Class {
    match error {
        // The token or the user has a character that no header can have.
        ureq::Error::Http(_) => Class::Unauthorized,
        ureq::Error::LargeResponseHeader(..) | ureq::Error::Protocol(_) => Class::NotARegistry,
        _ => Class::Unavailable,
    }
}

fn tls(connection: &RegistryConnection) -> Result<TlsConfig, Failure> {
    let roots = match &connection.ca {
        // Those of OpenSSL, whose place the system says.
        None => RootCerts::PlatformVerifier,
        Some(file) => RootCerts::new_with_certs(&certificates(file)?),
    };
    let identity = connection.identity.as_ref().map(|(chain, key)| identity(chain, key)).transpose()?;
    let builder = TlsConfig::builder().provider(TlsProvider::NativeTls).root_certs(roots);
    Ok(builder.client_cert(identity).build())
}

fn identity(chain: &Path, key: &Path) -> Result<ClientCert, Failure> {
    let chain = certificates(chain)?;
    let key = PrivateKey::from_pem(&read(key, "ssl.key.location")?);
    let key =
        key.map_err(|_| misconfigured("schema.registry.ssl.key.location has no key that can be read"))?;
    Ok(ClientCert::new_with_certs(&chain, key))
}

fn certificates(file: &Path) -> Result<Vec<Certificate<'static>>, Failure> {
    let text = read(file, "ssl.ca.location")?;
    let items = parse_pem(&text).filter_map(Result::ok);
    let certificates: Vec<_> = items
        .filter_map(|item| match item {
            PemItem::Certificate(certificate) => Some(certificate),
            _ => None,
        })
        .collect();
    if certificates.is_empty() {
        return Err(misconfigured("a file of the schema.registry.ssl properties has no certificate"));
    }
    Ok(certificates)
}

/// The path is in no text: not everyone who can read the text may know it.
fn read(file: &Path, property: &str) -> Result<Vec<u8>, Failure> {
    std::fs::read(file).map_err(|error| {
        misconfigured(&format!("the file of schema.registry.{property} cannot be read: {error}"))
    })
}

fn misconfigured(text: &str) -> Failure {
    Failure::new(Class::Unauthorized, text)
}
