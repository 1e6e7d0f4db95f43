//! Decides what to do when Kafka no longer has what a subscription would read next.

use std::fmt;
use std::str::FromStr;

/// What a subscription does about lost data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnDataLoss {
    /// The partition stops until somebody decides.
    Stop,
    /// It goes on with the first record that Kafka has.
    Earliest,
    /// It goes on with the next record that is written.
    Latest,
}

impl FromStr for OnDataLoss {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "stop" => Ok(Self::Stop),
            "earliest" => Ok(Self::Earliest),
            "latest" => Ok(Self::Latest),
            _ => Err(()),
        }
    }
}

/// What was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// Kafka has deleted records that were not read yet: those from the first offset up to the one before the second.
    Expired(i64, i64),
    /// Kafka's log ends before the next offset, so it has lost records that were read. New ones will get their offsets: the
    /// first that is new, and the next that would have been read.
    Truncated(i64, i64),
    /// The topic was deleted and created again; this offset was to be read next.
    Recreated(i64),
}

/// How a partition goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Continuation {
    /// It stops.
    Stop,
    /// It is read from this offset on.
    At(i64),
}

impl Loss {
    /// What was lost if Kafka has the offsets from `low` up to the one before `high`, and `offset` was to be read. `None` if it
    /// can be read: others have written meanwhile.
    #[must_use]
    pub fn of(offset: i64, low: i64, high: i64) -> Option<Self> {
        if offset < low {
            Some(Self::Expired(offset, low))
        } else if offset > high {
            Some(Self::Truncated(high, offset))
        } else {
            None
        }
    }

    /// The lost offsets: the first, and the one after the last.
    #[must_use]
    pub fn range(&self) -> (i64, i64) {
        match *self {
            Self::Expired(from, to) | Self::Truncated(from, to) => (from, to),
            Self::Recreated(next) => (0, next),
        }
    }
}

impl OnDataLoss {
    /// How a partition goes on of which Kafka has the offsets from `low` up to the one before `high`.
    #[must_use]
    pub fn continuation(self, low: i64, high: i64) -> Continuation {
        match self {
            Self::Stop => Continuation::Stop,
            Self::Earliest => Continuation::At(low),
            Self::Latest => Continuation::At(high),
        }
    }
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Expired(from, to) => {
                write!(
                    f,
                    "Kafka has deleted the records from offset {from} to {} before they were read",
                    to - 1
                )
            }
            Self::Truncated(from, to) => write!(
                f,
                "Kafka has lost the records from offset {from} to {}, which were read before; new ones get their offsets",
                to - 1
            ),
            Self::Recreated(next) => {
                write!(f, "the topic was deleted and created again; offset {next} was to be read next")
            }
        }
    }
}

/// The offset that librdkafka's text about a truncated log names as the end of what the log has in common with the one that was
/// read.
#[must_use]
pub fn broker_end_offset(text: &str) -> Option<i64> {
    let (_, rest) = text.split_once("broker end offset is ")?;
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    rest[..end].parse().ok()
}

/// What to type to have a partition read again that stopped because of this loss. What was read before a truncated log differs
/// is not read again.
#[must_use]
pub fn remedy(loss: &Loss, subscription: &str, topic: &str, partition: i32) -> String {
    let quote = |text: &str| format!("'{}'", text.replace('\'', "''"));
    let place = match loss {
        Loss::Truncated(from, _) => from.to_string(),
        Loss::Expired(..) | Loss::Recreated(_) => "earliest".into(),
    };
    format!(
        "To go on with what Kafka has, run SELECT inbox.seek({}, {}, {}, {partition}).",
        quote(subscription),
        quote(&place),
        quote(topic)
    )
}

/// What to type if a projection has lost records: its table may have rows of which a lost record was the end.
#[must_use]
pub fn projection_remedy(projection: &str) -> String {
    format!(
        "To fill the table again with what Kafka has, run SELECT inbox.rebuild('{}').",
        projection.replace('\'', "''")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_is_told_by_where_the_offset_lies() {
        assert_eq!(Loss::of(5, 10, 20), Some(Loss::Expired(5, 10)));
        assert_eq!(Loss::of(25, 10, 20), Some(Loss::Truncated(20, 25)));
        assert_eq!([10, 20].map(|offset| Loss::of(offset, 10, 20)), [None, None]);
        assert_eq!(
            Loss::Expired(5, 10).to_string(),
            "Kafka has deleted the records from offset 5 to 9 before they were read"
        );
        assert_eq!(Loss::Recreated(7).range(), (0, 7));
    }

    #[test]
    fn the_end_that_librdkafka_names() {
        let text = "Partition log truncation detected at offset 9 (leader epoch 3): broker end offset is 4 \
                    (offset leader epoch 5). Reset to INVALID.: Local: Partition log truncation detected (broker 2)";
        assert_eq!(broker_end_offset(text), Some(4));
        assert_eq!(
            broker_end_offset("No epoch found: broker end offset is -1 (offset leader epoch -1)."),
            None
        );
        assert_eq!(broker_end_offset("Broker: Offset out of range"), None);
    }

    #[test]
    fn the_subscription_says_how_to_go_on() {
        let goes_on = |text: &str| text.parse::<OnDataLoss>().unwrap().continuation(10, 20);
        assert_eq!(goes_on("stop"), Continuation::Stop);
        assert_eq!(goes_on("earliest"), Continuation::At(10));
        assert_eq!(goes_on("latest"), Continuation::At(20));
        assert_eq!("first".parse::<OnDataLoss>(), Err(()));
    }

    #[test]
    fn the_remedy_is_valid_sql() {
        assert!(
            remedy(&Loss::Recreated(7), "o'k", "t", 3).contains("inbox.seek('o''k', 'earliest', 't', 3)")
        );
        assert!(remedy(&Loss::Truncated(5, 9), "s", "t", 3).contains("inbox.seek('s', '5', 't', 3)"));
    }
}
