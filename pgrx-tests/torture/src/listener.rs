//! A listener for the notifications of published events. It records when it was disconnected.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::Duration;

use anyhow::{Result, anyhow};
use postgres::Client;
use postgres::fallible_iterator::FallibleIterator;
use serde_json::Value;

use super::clock;
use super::dial::Dial;
use super::evidence::{Notice, Span};

const RECONNECT: Duration = Duration::from_millis(20);
/// How often it checks whether it shall end.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// How often each topic has been deleted.
pub type Generations = Arc<Vec<AtomicUsize>>;

/// What the listener has heard.
#[derive(Debug, Default)]
pub struct Heard {
    /// The notifications.
    pub notices: Vec<Notice>,
    /// When it was disconnected.
    pub deaf: Vec<Span>,
}

/// A thread that listens.
pub struct Listener {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Heard>,
}

struct Ear {
    dial: Dial,
    listen: String,
    topics: HashMap<String, usize>,
    generations: Generations,
    heard: Heard,
}

impl Listener {
    /// Starts the thread once the listener listens.
    pub fn start(dial: &Dial, topics: &[String], generations: &Generations) -> Result<Self> {
        let listen: String = topics.iter().map(|topic| format!("LISTEN \"outbox:{topic}\";")).collect();
        let client = dial.connect(&listen).ok_or_else(|| anyhow!("the listener finds no server"))?;
        let stop = Arc::new(AtomicBool::new(false));
        let ear = Ear {
            dial: dial.clone(),
            listen,
            topics: topics.iter().enumerate().map(|(number, topic)| (topic.clone(), number)).collect(),
            generations: generations.clone(),
            heard: Heard::default(),
        };
        let until = stop.clone();
        Ok(Self { stop, thread: spawn(move || ear.listen(client, &until)) })
    }

    /// Ends the thread, after it has heard all that was sent before.
    pub fn stop(self) -> Result<Heard> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow!("the listener panicked"))
    }
}

impl Ear {
    fn listen(mut self, mut client: Client, stop: &AtomicBool) -> Heard {
        loop {
            // Read before listening, so that all that was sent before the end is heard.
            let is_last = stop.load(Ordering::Relaxed);
            if self.hear(&mut client).is_err() || client.is_closed() {
                let from = clock::now();
                loop {
                    if let Some(again) = self.dial.connect(&self.listen) {
                        client = again;
                        break;
                    }
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    sleep(RECONNECT);
                }
                self.heard.deaf.push(Span { from, to: clock::now() });
            }
            if is_last {
                return self.heard;
            }
        }
    }

    fn hear(&mut self, client: &mut Client) -> Result<(), postgres::Error> {
        let mut notifications = client.notifications();
        let mut waiting = notifications.timeout_iter(LOOK_EVERY);
        while let Some(notification) = waiting.next()? {
            let notice =
                serde_json::from_str(notification.payload()).ok().and_then(|told| self.notice(&told));
            self.heard.notices.extend(notice);
        }
        Ok(())
    }

    /// Parses a notification of a batch or of a single event.
    fn notice(&self, told: &Value) -> Option<Notice> {
        let topic = *self.topics.get(told["topic"].as_str()?)?;
        let single = told["offset"].as_i64();
        let offset = |name: &str| single.or_else(|| told[name].as_i64());
        Some(Notice {
            topic,
            generation: self.generations[topic].load(Ordering::Relaxed),
            partition: i32::try_from(told["partition"].as_i64()?).ok()?,
            offsets: (offset("first_offset")?, offset("last_offset")?),
            at: clock::now(),
        })
    }
}
