//! What an append decides, against a model: a list of events, and an application that retries whatever it may retry.

use event_outbox_policy::store::append::{Decision, Expected, decide};
use proptest::prelude::*;

/// A stream of ids.
#[derive(Debug, Default)]
struct Stream(Vec<u32>);

impl Stream {
    fn version(&self) -> i64 {
        self.0.len() as i64
    }

    fn known(&self, ids: &[u32]) -> Vec<Option<i64>> {
        let version = |id: &u32| self.0.iter().position(|known| known == id).map(|at| at as i64 + 1);
        ids.iter().map(version).collect()
    }

    fn append(&mut self, expected: Expected, ids: &[u32]) -> Result<i64, Decision> {
        match decide(expected, self.version(), &self.known(ids)) {
            Decision::Store => {
                self.0.extend(ids);
                Ok(self.version())
            }
            Decision::Stored(version) => Ok(version),
            refused => Err(refused),
        }
    }
}

fn expected() -> impl Strategy<Value = Expected> {
    prop_oneof![
        Just(Expected::Any),
        Just(Expected::NoStream),
        Just(Expected::StreamExists),
        (1..12i64).prop_map(Expected::Version),
    ]
}

/// Few ids, so that they meet again; each once in an append.
fn ids() -> impl Strategy<Value = Vec<u32>> {
    prop_oneof![
        (0..20u32, 1..4u32).prop_map(|(first, count)| (first..first + count).collect()),
        prop::sample::subsequence((0..20u32).collect::<Vec<_>>(), 1..4).prop_shuffle(),
    ]
}

proptest! {
    #[test]
    fn appends_keep_the_stream_right(appends in prop::collection::vec((expected(), ids()), 1..40)) {
        let mut stream = Stream::default();
        for (expected, ids) in appends {
            let before = stream.0.clone();
            let version = stream.version();
            match stream.append(expected, &ids) {
                Ok(after) if stream.0.len() > before.len() => {
                    prop_assert!(expected.is_met_by(version), "{:?} is not met by {}", expected, version);
                    prop_assert_eq!(&stream.0[before.len()..], &ids[..]);
                    prop_assert_eq!(after, stream.version());
                    // A retry of what was stored does nothing, whatever came meanwhile.
                    let with_others = Stream([&stream.0[..], &[100, 101]].concat());
                    let retried = Stream(with_others.0.clone()).append(expected, &ids);
                    prop_assert_eq!(retried, Ok(after));
                }
                Ok(after) => {
                    // Just these events end with this version.
                    let last = after as usize;
                    prop_assert_eq!(&stream.0[last - ids.len()..last], &ids[..]);
                }
                Err(refused) => {
                    prop_assert_eq!(&stream.0, &before);
                    let is_new = ids.iter().all(|id| !before.contains(id));
                    prop_assert_eq!(is_new, refused == Decision::WrongVersion);
                    prop_assert!(!is_new || !expected.is_met_by(version));
                }
            }
            // No id is twice in a stream.
            let mut sorted = stream.0.clone();
            sorted.sort_unstable();
            sorted.dedup();
            prop_assert_eq!(sorted.len(), stream.0.len());
        }
    }

    #[test]
    fn any_expects_nothing(version in 0..100i64, ids in 1..5usize) {
        prop_assert_eq!(decide(Expected::Any, version, &vec![None; ids]), Decision::Store);
    }
}
