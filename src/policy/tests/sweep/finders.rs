//! Algorithms that choose the ids of a pass: the floor, and others to compare it with.

use std::collections::BTreeMap;

use event_outbox_policy::reading::floor::{Floor, Horizon, Reached};

/// The interface that the simulated relay calls.
pub trait Finder {
    fn begin(&mut self, seen: Horizon) -> i64;
    /// `last` is the highest id that was processed.
    fn end(&mut self, reached: Reached, last: i64);
    fn abandon(&mut self);
    fn rewind(&mut self, to: i64);
    fn unfinished(&self) -> bool;
}

impl Finder for Floor {
    fn begin(&mut self, seen: Horizon) -> i64 {
        Floor::begin(self, seen).after
    }
    fn end(&mut self, reached: Reached, _: i64) {
        Floor::end(self, reached);
    }
    fn abandon(&mut self) {
        Floor::abandon(self);
    }
    fn rewind(&mut self, to: i64) {
        Floor::rewind(self, to);
    }
    fn unfinished(&self) -> bool {
        Floor::unfinished(self)
    }
}

/// "WHERE id > the last one I saw".
#[derive(Debug, Default)]
pub struct NaiveCursor {
    last: i64,
    cut: bool,
}

impl Finder for NaiveCursor {
    fn begin(&mut self, _: Horizon) -> i64 {
        self.last
    }
    fn end(&mut self, reached: Reached, last: i64) {
        self.last = last;
        self.cut = reached != Reached::End;
    }
    fn abandon(&mut self) {
        self.cut = true;
    }
    fn rewind(&mut self, to: i64) {
        self.last = self.last.min(to);
        self.cut = true;
    }
    fn unfinished(&self) -> bool {
        self.cut
    }
}

/// The floor together with a literal version of its rule, with one floor per transaction. It never starts lower than that.
#[derive(Debug, Default)]
pub struct Compared {
    floor: Floor,
    rule: Rule,
}

#[derive(Debug, Default)]
struct Rule {
    next: i64,
    last_id: i64,
    in_progress: BTreeMap<u64, i64>,
    open: Option<(i64, BTreeMap<u64, i64>, i64)>,
}

impl Finder for Compared {
    fn begin(&mut self, seen: Horizon) -> i64 {
        let rule = &mut self.rule;
        let xids = seen.running.iter().copied().chain(seen.snapshot_xmax..seen.next_xid);
        let now: BTreeMap<u64, i64> =
            xids.map(|xid| (xid, *rule.in_progress.get(&xid).unwrap_or(&rule.last_id))).collect();
        let finished =
            rule.in_progress.iter().filter(|(xid, _)| !now.contains_key(xid)).map(|(_, &floor)| floor);
        let expected = finished.chain([rule.next]).min().unwrap();
        rule.open = Some((seen.last_id, now, i64::MAX));
        let after = self.floor.begin(seen).after;
        assert!(after >= expected, "starts at {after}, {expected} would do");
        after
    }
    fn end(&mut self, reached: Reached, _: i64) {
        let rule = &mut self.rule;
        let (last_id, now, rewound) = rule.open.take().unwrap();
        rule.next = last_id.min(rewound);
        if let Reached::Id(id) = reached {
            rule.next = rule.next.min(id);
        }
        (rule.last_id, rule.in_progress) = (last_id, now);
        self.floor.end(reached);
    }
    fn abandon(&mut self) {
        self.rule.open = None;
        self.floor.abandon();
    }
    fn rewind(&mut self, to: i64) {
        self.rule.next = self.rule.next.min(to);
        if let Some((_, _, rewound)) = &mut self.rule.open {
            *rewound = to.min(*rewound);
        }
        self.floor.rewind(to);
    }
    fn unfinished(&self) -> bool {
        self.floor.unfinished()
    }
}
