//! What is in flight: handed to Kafka, and not yet settled.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use event_outbox_policy::delivery::id_ring::IdRing;

use crate::outbox::table::identity::RowIdentity;
use crate::settings::relay::Limits;

/// An event in flight, as far as it is needed to settle it.
#[derive(Debug)]
pub struct Ticket {
    /// Its row.
    pub row: RowIdentity,
    /// Its topic.
    pub topic: Arc<str>,
    /// When it was emitted, in microseconds since 1970.
    pub emitted_at: i64,
    /// The time that its record tells, in the same way.
    pub record_time: i64,
    /// With whom it keeps order.
    pub lane: Option<u64>,
    /// Whether it was sent without others of its topic, so that a refusal is its own.
    pub sole_in_flight: bool,
    /// Whether nothing is known yet of what the broker made of it.
    pub is_open: bool,
    /// When it was handed over, among all: set when it is added to the window.
    pub place: u64,
    /// What the event weighs in memory, in bytes.
    pub weight: usize,
}

/// The events in flight by id, bounded in number and in bytes.
#[derive(Debug, Default)]
pub struct Window {
    tickets: IdRing<Ticket>,
    bytes: usize,
    /// Events handed over so far.
    handed_over: u64,
}

impl Window {
    /// The ticket of the event with this id, if it is in flight.
    #[must_use]
    pub fn ticket(&self, id: i64) -> Option<&Ticket> {
        self.tickets.get(id)
    }

    /// The broker has answered for this event, though it is not settled yet. Gives its topic, if that is news.
    pub fn answered(&mut self, id: i64) -> Option<Arc<str>> {
        let ticket = self.tickets.get_mut(id)?;
        std::mem::take(&mut ticket.is_open).then(|| ticket.topic.clone())
    }

    /// The event itself is no longer in memory, only what is known of it.
    pub fn lighten(&mut self, id: i64) {
        if let Some(ticket) = self.tickets.get_mut(id) {
            self.bytes -= std::mem::take(&mut ticket.weight);
        }
    }

    /// Of how many events of a topic nothing is known yet. Looks at each in flight: for rare occasions.
    #[must_use]
    pub fn count_open(&self, topic: &str) -> usize {
        self.tickets.values().filter(|ticket| ticket.is_open && *ticket.topic == *topic).count()
    }

    /// Takes in an event that was handed over.
    pub fn add(&mut self, mut ticket: Ticket) {
        self.handed_over += 1;
        ticket.place = self.handed_over;
        self.bytes += ticket.weight;
        if let Some(before) = self.tickets.insert(ticket.row.id, ticket) {
            self.bytes -= before.weight;
        }
    }

    /// Lets go of an event that is settled.
    pub fn remove(&mut self, id: i64) -> Option<Ticket> {
        let ticket = self.tickets.remove(id)?;
        self.bytes -= ticket.weight;
        Some(ticket)
    }

    /// Lets go of all but these.
    pub fn keep_only(&mut self, ids: &HashSet<i64>) {
        self.tickets.retain(|id| ids.contains(&id));
        self.bytes = self.tickets.values().map(|ticket| ticket.weight).sum();
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tickets.len()
    }

    /// The one with the lowest id.
    #[must_use]
    pub fn oldest(&self) -> Option<&Ticket> {
        self.tickets.first()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tickets.is_empty()
    }

    /// Room for more.
    #[must_use]
    pub fn room(&self, limits: Limits) -> Room {
        Room {
            events: limits.events.saturating_sub(self.len()),
            bytes: limits.bytes.saturating_sub(self.bytes),
            empty: self.is_empty(),
            reserved: (0, 0),
        }
    }

    /// Whether there is so much room that reading the table for more is worth it: this share of all (a
    /// fourth, a tenth …), lest each acknowledgement cost a read of its own.
    #[must_use]
    pub fn is_worth_filling(&self, limits: Limits, share: usize) -> bool {
        let room = self.room(limits);
        self.is_empty()
            || (room.events >= limits.events.div_ceil(share) && room.bytes >= limits.bytes / share)
    }

    /// The lanes of all events in flight, each as often as it has events.
    pub fn lanes(&self) -> impl Iterator<Item = u64> {
        self.tickets.values().filter_map(|ticket| ticket.lane)
    }

    /// Of each topic the place of the event that was handed over first, of those that nothing is known of. Looks at each
    /// event: for rare occasions.
    #[must_use]
    pub fn first_places(&self) -> HashMap<Arc<str>, u64> {
        let mut first: HashMap<Arc<str>, u64> = HashMap::new();
        for ticket in self.tickets.values().filter(|ticket| ticket.is_open) {
            match first.get_mut(&ticket.topic) {
                Some(place) => *place = ticket.place.min(*place),
                None => {
                    first.insert(ticket.topic.clone(), ticket.place);
                }
            }
        }
        first
    }

    /// The topics of all events in flight, each as often as it has events.
    pub fn topics(&self) -> impl Iterator<Item = &Arc<str>> {
        self.tickets.values().map(|ticket| &ticket.topic)
    }
}

/// Room in the window, while a batch is put together.
#[derive(Debug, Clone, Copy)]
pub struct Room {
    events: usize,
    bytes: usize,
    empty: bool,
    reserved: (usize, usize),
}

impl Room {
    /// Keeps a quarter back for those who read later.
    pub fn reserve(&mut self) {
        self.reserved = (self.events / 4, self.bytes / 4);
    }

    /// Those who read now may have all.
    pub fn end_reserve(&mut self) {
        self.reserved = (0, 0);
    }

    /// Whether there is room for one more event of so many bytes. One that is larger than all the room is taken alone.
    #[must_use]
    pub fn fits(&self, weight: usize) -> bool {
        let (events, bytes) = self.reserved;
        self.events > events && (self.empty || weight.saturating_add(bytes) <= self.bytes)
    }

    /// Takes the room of an event.
    pub fn take(&mut self, weight: usize) {
        self.events = self.events.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(weight);
        self.empty = false;
    }
}
