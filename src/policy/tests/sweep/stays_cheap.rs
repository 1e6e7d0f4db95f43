//! A long writing transaction costs one longer sweep when it ends, and nothing before that.

use event_outbox_policy::reading::floor::Floor;

use crate::postgres::{Op, Postgres};
use crate::relay::{IN_ORDER, Relay};
use crate::schedule::{Xid, short_transaction};

const WINDOW: usize = 1000;

/// Runs one pass, and delivers and settles all events that it found.
fn pass(relay: &mut Relay<Floor>, postgres: &mut Postgres) {
    let passes = relay.passes;
    while relay.passes == passes {
        relay.step(postgres).unwrap();
    }
    relay.deliver_all();
    relay.step(postgres).unwrap();
}

#[test]
fn beside_a_long_writing_transaction() {
    let mut postgres = Postgres::new();
    let mut relay = Relay::new(Floor::new(), IN_ORDER, WINDOW, WINDOW);
    (0..50).for_each(|_| short_transaction(&mut postgres, Xid::First));
    pass(&mut relay, &mut postgres);

    let long = postgres.begin();
    for op in [Op::AssignXid, Op::NextVal, Op::Insert] {
        postgres.run(long, op);
    }
    let from = postgres.last_id();
    for _ in 0..1000 {
        (0..5).for_each(|_| short_transaction(&mut postgres, Xid::First));
        let known = postgres.last_id() - 5;
        pass(&mut relay, &mut postgres);
        assert!(*relay.starts.last().unwrap() >= known - 5, "never further back than one pass");
    }
    let emitted = postgres.last_id();
    assert!(relay.ids_swept <= 2 * emitted, "{} ids swept for {emitted}", relay.ids_swept);

    postgres.run(long, Op::Commit);
    pass(&mut relay, &mut postgres);
    assert_eq!(*relay.starts.last().unwrap(), from - 1, "once back to where it began");
    pass(&mut relay, &mut postgres);
    assert_eq!(*relay.starts.last().unwrap(), emitted, "and no more");
    relay.come_to_rest(&mut postgres).unwrap();
}

#[test]
fn beside_transactions_that_overlap_every_pass() {
    let mut postgres = Postgres::new();
    let mut relay = Relay::new(Floor::new(), IN_ORDER, WINDOW, WINDOW);
    let mut open = None;
    for _ in 0..1000 {
        if let Some(transaction) = open {
            postgres.run(transaction, Op::Commit);
        }
        let transaction = postgres.begin();
        for op in [Op::AssignXid, Op::NextVal, Op::Insert] {
            postgres.run(transaction, op);
        }
        open = Some(transaction);
        (0..9).for_each(|_| short_transaction(&mut postgres, Xid::First));
        pass(&mut relay, &mut postgres);
    }
    let emitted = postgres.last_id();
    assert!(relay.ids_swept <= 3 * emitted, "{} ids swept for {emitted}", relay.ids_swept);
}
