//! Faults of the inbox: of its worker, of sessions that receive, and of what operators do to a subscription.

use std::fmt;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use postgres::Client;

use crate::receivers::{DATABASE, HANDLE, HANDLER, SESSIONS, SUBSCRIPTIONS};
use crate::stage::Stage;
use crate::topics::{self, VOLATILE};
use event_outbox_lab::{process, wait};

const DEADLINE: Duration = Duration::from_secs(60);

/// How far below the first record that was not handled a seek goes.
const SOUGHT: usize = 200;

/// What is done to the inbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// Its worker is terminated.
    TerminateWorker,
    /// Its worker gets SIGKILL, which restarts the server.
    KillWorker,
    /// All sessions that receive are terminated.
    TerminateReceivers,
    /// One of them gets SIGKILL.
    KillReceiver,
    /// The processes of the handler are terminated.
    TerminateHandlers,
    /// The process of the projection is terminated.
    TerminateProjection,
    /// The table of the projection is locked for a while.
    LockProjection,
    /// The handler fails at all events for a while.
    HandlerFails,
    /// The handler terminates its own process at all events for a while.
    HandlerEndsItself,
    /// The handler is taken away, and set again.
    OtherHandler,
    /// A subscription is paused for a while.
    Pause,
    /// A partition is read again from an offset that was handled.
    Seek,
    /// All dead letters are received again, and die again.
    Redrive,
    /// Another subscription comes and goes.
    OtherSubscription,
    /// A replay comes and goes.
    Replay,
}

impl Trouble {
    /// All of them.
    pub const ALL: [Self; 15] = [
        Self::TerminateWorker,
        Self::KillWorker,
        Self::TerminateReceivers,
        Self::KillReceiver,
        Self::TerminateHandlers,
        Self::TerminateProjection,
        Self::LockProjection,
        Self::HandlerFails,
        Self::HandlerEndsItself,
        Self::OtherHandler,
        Self::Pause,
        Self::Seek,
        Self::Redrive,
        Self::OtherSubscription,
        Self::Replay,
    ];
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TerminateWorker => "worker terminated",
            Self::KillWorker => "worker killed",
            Self::TerminateReceivers => "receivers terminated",
            Self::KillReceiver => "a receiver killed",
            Self::TerminateHandlers => "handlers terminated",
            Self::TerminateProjection => "the projection terminated",
            Self::LockProjection => "the projection's table locked",
            Self::HandlerFails => "the handler fails",
            Self::HandlerEndsItself => "the handler ends its own process",
            Self::OtherHandler => "unhandle, handle",
            Self::Pause => "pause, resume",
            Self::Seek => "seek",
            Self::Redrive => "redrive",
            Self::OtherSubscription => "subscribe, unsubscribe",
            Self::Replay => "replay, unsubscribe",
        })
    }
}

const WORKER: &str =
    "SELECT pid FROM inbox.consumers WHERE database = current_database() AND pid IS NOT NULL";
const END_RECEIVERS: &str =
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'torture receiver'";
const RECEIVERS: &str = "SELECT pid FROM pg_stat_activity WHERE application_name = 'torture receiver'";
const END_HANDLERS: &str =
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'torture_handler'";
const END_PROJECTION: &str = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                               WHERE backend_type = 'event_outbox projection'";
const SET_MOOD: &str = "UPDATE torture.mood SET mood = $1";
const REDRIVE: &str = "SELECT inbox.redrive($1, since => '-infinity')";

/// Whether nobody has received, or will by a prepared transaction, from a subscription.
const NOBODY_RECEIVES: &str = "SELECT NOT EXISTS (SELECT FROM pg_prepared_xacts WHERE gid LIKE 'receiver %') \
    AND NOT EXISTS (SELECT FROM pg_locks AS l JOIN inbox.subscription AS s ON l.classid = s.id::oid \
                     WHERE l.locktype = 'advisory' AND l.objsubid = 3 AND s.name = $1 \
                       AND l.database = (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database()))";

/// The first record of a partition that was neither handled nor is dead.
const FIRST_UNHANDLED: &str = "SELECT coalesce(min(o), (SELECT p.next_offset FROM inbox.partitions AS p \
                                                WHERE p.subscription = $1 AND p.topic = $2 AND p.partition = $3)) \
    FROM (SELECT o FROM inbox.partitions AS p CROSS JOIN generate_series(0, p.next_offset - 1) AS o \
           WHERE p.subscription = $1 AND p.topic = $2 AND p.partition = $3 \
          EXCEPT \
          SELECT h.\"offset\" FROM torture.handled AS h \
           WHERE h.subscription = $1 AND h.topic = $2 AND h.partition = $3 \
             AND NOT EXISTS (SELECT FROM torture.seeks AS k \
                              WHERE k.place > h.place AND k.subscription = $1 AND k.topic = $2 AND k.partition = $3 \
                                AND h.\"offset\" >= k.from_offset) \
          EXCEPT \
          SELECT d.\"offset\" FROM inbox.dead_letters AS d JOIN inbox.subscription AS s ON s.id = d.subscription_id \
           WHERE s.name = $1 AND d.topic = $2 AND d.partition = $3) AS o";
const NOTE_SEEK: &str = "INSERT INTO torture.seeks \
    VALUES (nextval(pg_get_serial_sequence('torture.handled', 'place')), $1, $2, $3, $4)";
const SEEK: &str = "SELECT inbox.seek($1, $2, topic => $3, partition => $4)";
const PARTITIONS: &str =
    "SELECT topic, partition FROM inbox.partitions WHERE subscription = $1 ORDER BY 1, 2";

impl Stage {
    fn inbox(&self) -> Result<Client> {
        self.cluster.connect(DATABASE)
    }

    pub(super) fn trouble_inbox(&mut self, trouble: Trouble) -> Result<()> {
        let mut client = self.inbox()?;
        match trouble {
            Trouble::TerminateWorker => {
                let worker = worker(&mut client)?;
                client.execute("SELECT pg_terminate_backend($1)", &[&worker])?;
                Ok(())
            }
            Trouble::KillWorker => {
                let worker = worker(&mut client)?;
                kill(worker, client)
            }
            Trouble::KillReceiver => {
                let receivers = client.query(RECEIVERS, &[])?;
                let receiver = receivers.first().context("no receiver is connected")?.get(0);
                kill(receiver, client)
            }
            Trouble::TerminateReceivers => self.repeat(&mut client, END_RECEIVERS),
            Trouble::TerminateHandlers => self.repeat(&mut client, END_HANDLERS),
            Trouble::TerminateProjection => self.repeat(&mut client, END_PROJECTION),
            Trouble::LockProjection => {
                let mut lock = client.transaction()?;
                lock.batch_execute("LOCK TABLE torture.latest IN SHARE MODE")?;
                self.hold(200, 3000);
                Ok(lock.rollback()?)
            }
            Trouble::HandlerFails => self.put_handler_into(&mut client, "fail"),
            Trouble::HandlerEndsItself => self.put_handler_into(&mut client, "end"),
            Trouble::OtherHandler => {
                client.execute("SELECT inbox.unhandle($1)", &[&HANDLER])?;
                self.hold(0, 1500);
                client.execute(HANDLE, &[&HANDLER])?;
                Ok(())
            }
            Trouble::Pause => {
                let name = *self.random.one_of(&SUBSCRIPTIONS);
                client.execute("SELECT inbox.pause($1, 'torture')", &[&name])?;
                self.hold(200, 2000);
                client.execute("SELECT inbox.resume($1)", &[&name])?;
                Ok(())
            }
            Trouble::Seek => self.seek(client),
            Trouble::Redrive => {
                for name in SUBSCRIPTIONS {
                    client.execute(REDRIVE, &[&name])?;
                }
                Ok(())
            }
            Trouble::OtherSubscription => self.subscribe_and_leave(client),
            Trouble::Replay => {
                let sql = "SELECT inbox.replay($1, now() - interval '20 s')";
                let name: String = client.query_one(sql, &[&SESSIONS])?.get(0);
                self.receive_some(&mut client, &name)?;
                client.execute("SELECT inbox.unsubscribe($1)", &[&name])?;
                Ok(())
            }
        }
    }

    /// What the handler does instead of its work, for a while.
    fn put_handler_into(&mut self, client: &mut Client, mood: &str) -> Result<()> {
        client.execute(SET_MOOD, &[&mood])?;
        self.hold(500, 2500);
        client.execute(SET_MOOD, &[&"good"])?;
        Ok(())
    }

    fn repeat(&mut self, client: &mut Client, sql: &str) -> Result<()> {
        for _ in 0..self.random.between(1, 5) {
            client.execute(sql, &[])?;
            self.hold(20, 300);
        }
        Ok(())
    }

    fn subscribe_and_leave(&mut self, mut client: Client) -> Result<()> {
        let topics = &topics::names()[..VOLATILE];
        wait::until_ok("another subscription", DEADLINE, || {
            Ok(client.execute("SELECT inbox.subscribe('other', $1, 'earliest')", &[&topics]).ok())
        })?;
        self.receive_some(&mut client, "other")?;
        client.execute("SELECT inbox.unsubscribe('other')", &[])?;
        Ok(())
    }

    /// Receives for a while from a subscription that is not judged.
    fn receive_some(&mut self, client: &mut Client, name: &str) -> Result<()> {
        for _ in 0..self.random.between(1, 10) {
            client.execute("SELECT FROM inbox.receive($1, 500)", &[&name])?;
            self.hold(20, 200);
        }
        Ok(())
    }

    /// Goes back in some partitions, while no session receives: so it is known what comes again.
    fn seek(&mut self, mut client: Client) -> Result<()> {
        let Some(receivers) = &self.receivers else { bail!("there are no receivers") };
        let sharing = Arc::clone(&receivers.sharing);
        let nobody_begins = sharing.rounds.write().unwrap_or_else(PoisonError::into_inner);
        wait::until_ok("the sessions to have received", DEADLINE, || {
            Ok(client.query_one(NOBODY_RECEIVES, &[&SESSIONS])?.get::<_, bool>(0).then_some(()))
        })?;
        let partitions = client.query(PARTITIONS, &[&SESSIONS])?;
        for row in partitions {
            if !self.random.permille(400) {
                continue;
            }
            let (topic, partition): (String, i32) = (row.get(0), row.get(1));
            let back = i64::try_from(self.random.below(SOUGHT))?;
            wait::until_ok("a seek", DEADLINE, || {
                let mut transaction = client.transaction()?;
                let first: i64 =
                    transaction.query_one(FIRST_UNHANDLED, &[&SESSIONS, &topic, &partition])?.get(0);
                let to = (first - back).max(0);
                transaction.execute(NOTE_SEEK, &[&SESSIONS, &topic, &partition, &to])?;
                let sought = transaction.execute(SEEK, &[&SESSIONS, &to.to_string(), &topic, &partition]);
                Ok(match sought {
                    Ok(_) => Some(transaction.commit()?),
                    // Kafka may not answer at once.
                    Err(_) => None,
                })
            })?;
        }
        drop(nobody_begins);
        Ok(())
    }
}

/// The pid of the inbox worker.
fn worker(client: &mut Client) -> Result<i32> {
    wait::until_ok("an inbox worker", DEADLINE, || Ok(client.query_opt(WORKER, &[])?.map(|row| row.get(0))))
}

/// Kills a process of the server, and waits until the server has ended all its sessions.
fn kill(pid: i32, mut witness: Client) -> Result<()> {
    process::send(u32::try_from(pid)?, libc::SIGKILL)?;
    wait::until("the server to end all its sessions", DEADLINE, || witness.simple_query("").err())
        .map(drop)
        .map_err(|error| anyhow!("{error:#}"))
}
