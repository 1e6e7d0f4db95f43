//! What the templates show.

use anyhow::Result;
use askama::Template;
use axum::http::StatusCode;
use axum::response::{Html, IntoResponse, Response};
use uuid::Uuid;

use super::App;
use super::traffic::Progress;
use crate::bank::{Account, Entry};
use crate::journeys::{Journey, milliseconds};
use crate::operations::Relay;
use crate::reactor::{DeadLetter, Flagged, Owner, State};
use crate::stage::Kafka;

/// The countries of new owners. The reactor knows the risk of all but the last: that is how a dead letter comes about.
pub const COUNTRIES: [(&str, &str); 9] = [
    ("AT", "Austria"),
    ("CH", "Switzerland"),
    ("DE", "Germany"),
    ("ES", "Spain"),
    ("FR", "France"),
    ("IT", "Italy"),
    ("KY", "Cayman Islands"),
    ("PA", "Panama"),
    ("NO", "Norway"),
];

/// What all pages show: how the parts of the system are.
pub struct Pulse {
    pub relay: Relay,
    pub reactor: State,
    pub kafka: Kafka,
    /// The address of the page, at which it can be asked for again.
    pub page: String,
}

impl Pulse {
    /// Asks all parts.
    pub async fn take(app: &App, page: impl Into<String>) -> Result<Self> {
        let (relay, reactor) = tokio::try_join!(app.operations.relay(), app.reactor.state())?;
        Ok(Self { relay, reactor, kafka: app.stage.kafka(), page: page.into() })
    }

    /// Whether the page belongs to the section of the navigation.
    pub fn is_in(&self, section: &str) -> bool {
        match section {
            "/" => self.page == "/" || self.page.starts_with("/accounts"),
            section => self.page == section,
        }
    }

    pub fn is_kafka_running(&self) -> bool {
        self.kafka == Kafka::Running
    }

    pub fn is_disconnected(&self) -> bool {
        self.relay.connection == "disconnected"
    }

    pub fn is_kafka_changing(&self) -> bool {
        self.kafka == Kafka::Changing
    }

    pub fn kafka_text(&self) -> &'static str {
        match self.kafka {
            Kafka::Running if self.is_disconnected() => "connecting",
            Kafka::Running => "running",
            Kafka::Stopped => "stopped",
            Kafka::Changing => "one moment",
        }
    }

    pub fn outbox_text(&self) -> String {
        match (self.relay.waiting, self.relay.is_paused) {
            (0, false) => "empty".into(),
            (0, true) => "stopped".into(),
            (waiting, _) => format!("{waiting} waiting"),
        }
    }

    pub fn reactor_text(&self) -> String {
        match (self.reactor.is_paused, self.reactor.dead_letters, self.reactor.retries) {
            (true, ..) => "stopped".into(),
            (false, 0, 0) => "checking".into(),
            (false, 0, retries) => format!("{retries} again later"),
            (false, 1, _) => "1 dead letter".into(),
            (false, dead, _) => format!("{dead} dead letters"),
        }
    }

    pub fn copy_text(&self) -> &'static str {
        match self.reactor.copy_state.as_str() {
            "following" => "complete, and follows",
            "rebuilding" => "being rebuilt",
            "filling" => "filling",
            _ => "waiting",
        }
    }

    pub fn median(&self) -> Option<String> {
        self.reactor.median.map(milliseconds)
    }

    pub fn slowest(&self) -> Option<String> {
        self.reactor.slowest.map(milliseconds)
    }

    /// Whether something goes on that sends no notification when it ends.
    pub fn is_unsettled(&self) -> bool {
        self.kafka_text() != "running"
            || self.relay.waiting > 0
            || self.reactor.retries > 0
            || self.reactor.copy_state != "following"
    }
}

/// A form's problem, in a sentence.
pub struct Problem {
    pub form: &'static str,
    pub text: String,
}

/// The fields of the form for transfers, as they were given.
#[derive(Default, serde::Deserialize)]
pub struct TransferForm {
    pub command: Uuid,
    #[serde(default)]
    pub source: String,
    #[serde(default)]
    pub target: String,
    #[serde(default)]
    pub amount: String,
    #[serde(default)]
    pub reference: String,
}

/// The fields of the form for new accounts.
#[derive(Default, serde::Deserialize)]
pub struct OpenForm {
    pub command: Uuid,
    #[serde(default)]
    pub name: String,
    #[serde(default)]
    pub email: String,
    #[serde(default)]
    pub country: String,
    #[serde(default)]
    pub deposit: String,
    #[serde(default)]
    pub daily_limit: String,
}

#[derive(Template)]
#[template(path = "accounts.html")]
pub struct AccountsPage {
    pub pulse: Pulse,
    pub accounts: Vec<Account>,
    pub journeys: Vec<Journey>,
    pub transfer: TransferForm,
    pub opening: OpenForm,
    pub problem: Option<Problem>,
    pub done: Option<Uuid>,
    pub countries: &'static [(&'static str, &'static str)],
}

impl AccountsPage {
    /// The problem of a form.
    pub fn problem_of(&self, form: &str) -> Option<&str> {
        self.problem.as_ref().filter(|problem| problem.form == form).map(|problem| problem.text.as_str())
    }

    /// What the last command has done.
    pub fn news(&self) -> Option<String> {
        let journey = self.journeys.iter().find(|journey| journey.is_of(&self.done))?;
        let [from, to] = &journey.names;
        Some(format!("{from} has sent {} to {to}.", journey.sent.amount))
    }
}

#[derive(Template)]
#[template(path = "account.html")]
pub struct AccountPage {
    pub pulse: Pulse,
    pub account: Account,
    pub sent_today: String,
    pub entries: Vec<Entry>,
    pub problem: Option<Problem>,
    pub email: String,
}

impl AccountPage {
    /// How many events there are.
    pub fn version(&self) -> i64 {
        self.entries.first().map_or(0, |entry| entry.version)
    }
}

#[derive(Template)]
#[template(path = "reactor.html")]
pub struct ReactorPage {
    pub pulse: Pulse,
    pub owners: Vec<Owner>,
    pub flagged: Vec<Flagged>,
    pub dead_letters: Vec<DeadLetter>,
}

impl ReactorPage {
    /// The countries whose risk keeps transfers from being checked.
    pub fn unknown_countries(&self) -> Vec<(&'static str, &'static str)> {
        let is_missing = |code: &str| {
            let is_open = self.owners.iter().any(|owner| owner.country == code && owner.risk.is_none());
            is_open && self.dead_letters.iter().any(|dead| dead.country.as_deref() == Some(code))
        };
        COUNTRIES.iter().filter(|(code, _)| is_missing(code)).copied().collect()
    }
}

#[derive(Template)]
#[template(path = "operations.html")]
pub struct OperationsPage {
    pub pulse: Pulse,
    pub transfers: i64,
    pub money: String,
    pub traffic: Progress,
}

impl OperationsPage {
    /// Transfers that the reactor has neither checked nor given up; or, for a moment, those that it has and the bank's own
    /// projection has not.
    pub fn on_their_way(&self) -> i64 {
        (self.transfers - self.pulse.reactor.checked - self.pulse.reactor.dead_letters).abs()
    }

    /// Whether the books of both databases agree.
    pub fn agrees(&self) -> bool {
        self.transfers == self.pulse.reactor.checked && self.money == self.pulse.reactor.money
    }
}

#[derive(Template)]
#[template(path = "error.html")]
pub struct ErrorPage {
    pub title: &'static str,
    pub text: String,
}

/// Renders a page.
pub fn show(status: StatusCode, page: &impl Template) -> Response {
    match page.render() {
        Ok(html) => (status, Html(html)).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("The page cannot be shown: {error}\n"))
            .into_response(),
    }
}

/// An error that a page cannot help.
pub struct Failed(anyhow::Error);

impl<E: Into<anyhow::Error>> From<E> for Failed {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl IntoResponse for Failed {
    fn into_response(self) -> Response {
        eprintln!("error: {:#}", self.0);
        let text = "A part of the bank does not answer. Please try again in a moment.".into();
        show(StatusCode::SERVICE_UNAVAILABLE, &ErrorPage { title: "Not available", text })
    }
}
