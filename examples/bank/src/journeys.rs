//! The way of each transfer: from the event store to Kafka, into the reactor's inbox, and to its check.

use std::collections::{HashMap, HashSet};

use anyhow::Result;
use uuid::Uuid;

use crate::bank::{Bank, Sent};
use crate::live::Heard;
use crate::operations::Operations;
use crate::reactor::{Checked, DeadLetter, Reactor};

/// Transfers that are shown.
const SHOWN: i64 = 12;

/// A transfer and how far it has come.
pub struct Journey {
    /// The transfer.
    pub sent: Sent,
    /// The names of who sends and who receives.
    pub names: [String; 2],
    /// The stations in their order.
    pub stations: [Station; 4],
    /// What the reactor found.
    pub findings: Vec<String>,
}

/// A station on the way.
pub struct Station {
    /// Its name.
    pub name: &'static str,
    /// Whether the event was there, and when.
    pub state: State,
}

/// Whether an event has come to a station.
#[derive(Clone, Debug, PartialEq)]
pub enum State {
    /// It has, this many milliseconds after it was stored, if that is known.
    Reached(Option<f64>),
    /// It is about to.
    Next(&'static str),
    /// It cannot.
    Failed(String),
    /// It has not come so far.
    Ahead,
}

impl Station {
    /// The class of its style.
    pub fn class(&self) -> &'static str {
        match self.state {
            State::Reached(_) => "reached",
            State::Next(_) => "next",
            State::Failed(_) => "failed",
            State::Ahead => "ahead",
        }
    }

    /// What is written below it.
    pub fn text(&self) -> String {
        match &self.state {
            State::Reached(Some(after)) => milliseconds(*after),
            State::Reached(None) => "passed".into(),
            State::Next(text) => (*text).into(),
            State::Failed(error) => error.clone(),
            State::Ahead => "–".into(),
        }
    }

    /// Whether something is wrong with it.
    pub fn is_failed(&self) -> bool {
        matches!(self.state, State::Failed(_))
    }
}

impl Journey {
    /// Whether the event is still on its way, and not held up for good.
    pub fn is_under_way(&self) -> bool {
        self.stations.iter().any(|station| matches!(station.state, State::Next(_)))
    }

    /// From the store to the check, if it has come so far.
    pub fn total(&self) -> Option<String> {
        match self.stations[3].state {
            State::Reached(Some(after)) => Some(milliseconds(after)),
            _ => None,
        }
    }

    /// Whether it belongs to this command.
    pub fn is_of(&self, command: &Option<Uuid>) -> bool {
        command.is_some() && self.sent.command == *command
    }
}

/// A duration for people.
pub fn milliseconds(after: f64) -> String {
    match after {
        0.0 => "0 ms".into(),
        short if short < 1.0 => "< 1 ms".into(),
        short if short < 1_000.0 => format!("{short:.0} ms"),
        long if long < 60_000.0 => format!("{:.1} s", long / 1_000.0),
        longer => format!("{:.0} min", longer / 60_000.0),
    }
}

/// The newest transfers with their ways.
pub async fn newest(
    bank: &Bank,
    operations: &Operations,
    reactor: &Reactor,
    heard: &Heard,
    names: &HashMap<i64, String>,
    is_reactor_paused: bool,
) -> Result<Vec<Journey>> {
    let sent = bank.recent(SHOWN).await?;
    let ids: Vec<Uuid> = sent.iter().map(|sent| sent.event_id).collect();
    // In the order of the way, so that an event that moves on meanwhile is seen at one of the stations.
    let waiting = operations.waiting(&ids).await?;
    let dead: HashMap<Uuid, DeadLetter> =
        reactor.dead_letters().await?.into_iter().filter_map(|dead| Some((dead.event_id?, dead))).collect();
    let mut checked = reactor.checked(&ids).await?;
    let blocked: HashSet<i64> = dead.values().map(|dead| dead.source).collect();
    let name = |number: &i64| names.get(number).cloned().unwrap_or_else(|| number.to_string());
    let journey = |sent: Sent| {
        let id = sent.event_id;
        let checked = checked.remove(&id);
        let place = Place {
            waiting: waiting.get(&id).map(Option::as_deref),
            checked: checked.as_ref(),
            dead: dead.get(&id),
            heard: checked.as_ref().and_then(|checked| heard.stored(checked.position)),
            is_reactor_paused,
            is_account_blocked: blocked.contains(&sent.source),
        };
        let stations = stations(sent.stored_at, &place);
        let names = [name(&sent.source), name(&sent.target)];
        Journey { names, stations, findings: checked.map_or_else(Vec::new, |checked| checked.findings), sent }
    };
    Ok(sent.into_iter().map(journey).collect())
}

/// Where an event is, by all that was asked.
struct Place<'a> {
    /// It waits in the outbox, with the error of its last attempt.
    waiting: Option<Option<&'a str>>,
    checked: Option<&'a Checked>,
    dead: Option<&'a DeadLetter>,
    /// When the inbox said that it had stored it.
    heard: Option<f64>,
    is_reactor_paused: bool,
    is_account_blocked: bool,
}

fn stations(stored_at: f64, place: &Place) -> [Station; 4] {
    let after = |at: f64| State::Reached(Some((at - stored_at).max(0.0)));
    let passed = || State::Reached(None);
    let (kafka, inbox, check) = if let Some(checked) = place.checked {
        let inbox = place.heard.map_or_else(passed, |at| after(at.min(checked.checked_at)));
        (after(checked.produced_at), inbox, after(checked.checked_at))
    } else if let Some(dead) = place.dead {
        (passed(), passed(), State::Failed(format!("dead letter: {}", dead.error)))
    } else if let Some(error) = place.waiting {
        let kafka = error.map_or(State::Next("waits in the outbox"), |error| State::Failed(error.into()));
        (kafka, State::Ahead, State::Ahead)
    } else if place.is_reactor_paused {
        (passed(), State::Next("waits for the reactor"), State::Ahead)
    } else if place.is_account_blocked {
        (passed(), passed(), State::Next("on its way"))
    } else {
        (passed(), State::Next("on its way"), State::Ahead)
    };
    [
        Station { name: "Store", state: State::Reached(Some(0.0)) },
        Station { name: "Kafka", state: kafka },
        Station { name: "Inbox", state: inbox },
        Station { name: "Checked", state: check },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn states(place: &Place) -> [State; 4] {
        stations(1_000.0, place).map(|station| station.state)
    }

    fn nowhere() -> Place<'static> {
        Place {
            waiting: None,
            checked: None,
            dead: None,
            heard: None,
            is_reactor_paused: false,
            is_account_blocked: false,
        }
    }

    #[test]
    fn what_waits_in_the_outbox_has_reached_nothing_else() {
        let found = states(&Place { waiting: Some(None), ..nowhere() });
        assert_eq!(found[1..], [State::Next("waits in the outbox"), State::Ahead, State::Ahead]);
    }

    #[test]
    fn each_station_has_its_time() {
        let checked =
            Checked { position: 1, produced_at: 1_003.0, checked_at: 1_009.0, findings: Vec::new() };
        let found = states(&Place { checked: Some(&checked), heard: Some(1_007.0), ..nowhere() });
        assert_eq!(found[1..], [3.0, 7.0, 9.0].map(|after| State::Reached(Some(after))));
        // The notification can be later than the check, and the broker's clock has milliseconds only.
        let checked = Checked { produced_at: 999.0, ..checked };
        let found = states(&Place { checked: Some(&checked), heard: Some(1_011.0), ..nowhere() });
        assert_eq!(found[1..], [0.0, 9.0, 9.0].map(|after| State::Reached(Some(after))));
    }

    #[test]
    fn durations_are_for_people() {
        let text = [0.4, 12.6, 1_250.0, 120_000.0].map(milliseconds);
        assert_eq!(text, ["< 1 ms", "13 ms", "1.2 s", "2 min"]);
    }
}
