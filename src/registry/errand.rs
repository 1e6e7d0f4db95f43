//! Asks a Schema Registry one thing after the other, and hands over each answer when it is there.
//!
//! Runs in: a thread of its own.

use event_outbox_policy::registry::answer::Answer;
use event_outbox_policy::registry::connection::RegistryConnection;
use event_outbox_policy::registry::failure::Failure;
use event_outbox_policy::registry::references;
use event_outbox_policy::registry::registration::{self, Referred};
use event_outbox_policy::registry::request::{New, Request};

use super::client::Client;

/// What to have done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// A schema is registered, which refers to these others.
    Register(New, Vec<Referred>),
    /// A question is answered.
    Ask(Request),
}

/// Asks all of it, unless a failure is of all requests, or nobody takes the answers any more. Each answer comes with the place of
/// its order.
pub fn run(
    connection: RegistryConnection,
    orders: &[Order],
    mut take: impl FnMut(usize, Result<Answer, Failure>) -> bool,
) {
    let client = Client::new(connection);
    for (place, order) in orders.iter().enumerate() {
        let answer = match &client {
            Ok(client) => carry_out(client, order),
            Err(failure) => Err(failure.clone()),
        };
        let is_last = answer.as_ref().is_err_and(|failure| failure.class.is_of_all());
        if !take(place, answer) || is_last {
            return;
        }
    }
}

/// Has one thing done. A schema that is asked for comes with those that it refers to.
fn carry_out(client: &Client, order: &Order) -> Result<Answer, Failure> {
    let ask = |request: &Request| client.ask(request);
    match order {
        Order::Register(schema, others) => registration::register(schema.clone(), others, ask),
        Order::Ask(request) => match ask(request)? {
            Answer::Schema(found) if !found.references.is_empty() => {
                references::resolve(found, ask).map(Answer::Schema)
            }
            answer => Ok(answer),
        },
    }
}
