//! Asks a Schema Registry one thing after the other, and hands over each answer when it is there.
//!
//! Runs in: a thread of its own.

use event_outbox_policy::registry::answer::Answer;
use event_outbox_policy::registry::connection::RegistryConnection;
use event_outbox_policy::registry::failure::Failure;
use event_outbox_policy::registry::references;
use event_outbox_policy::registry::request::Request;

use super::client::Client;

/// Asks all of it, unless a failure is of all requests, or nobody takes the answers any more. Each answer comes with the place of
/// its request.
pub fn run(
    connection: RegistryConnection,
    requests: &[Request],
    mut take: impl FnMut(usize, Result<Answer, Failure>) -> bool,
) {
    let client = Client::new(connection);
    for (place, request) in requests.iter().enumerate() {
        let answer = match &client {
            Ok(client) => ask(client, request),
            Err(failure) => Err(failure.clone()),
        };
        let is_last = answer.as_ref().is_err_and(|failure| failure.class.is_of_all());
        if !take(place, answer) || is_last {
            return;
        }
    }
}

/// Asks for one thing, and if that is a schema, for those that it refers to.
fn ask(client: &Client, request: &Request) -> Result<Answer, Failure> {
    match client.ask(request)? {
        Answer::Schema(found) if !found.references.is_empty() => {
            references::resolve(found, |request| client.ask(request)).map(Answer::Schema)
        }
        answer => Ok(answer),
    }
}
