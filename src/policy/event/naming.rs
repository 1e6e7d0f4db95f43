//! Owns the convention for names of events: an entity and what has happened to it, in the past tense, such as `order.placed`
//! or `OrderPlaced`.

use super::capture::change::Action;

/// Past tenses that do not end in `ed`.
const IRREGULAR: [&str; 56] = [
    "become",
    "been",
    "begun",
    "bought",
    "bound",
    "broken",
    "brought",
    "built",
    "caught",
    "chosen",
    "cut",
    "done",
    "drawn",
    "driven",
    "fallen",
    "fed",
    "found",
    "frozen",
    "given",
    "gone",
    "held",
    "hidden",
    "hit",
    "kept",
    "known",
    "laid",
    "left",
    "lent",
    "lost",
    "made",
    "met",
    "paid",
    "put",
    "read",
    "rebuilt",
    "resent",
    "reset",
    "run",
    "seen",
    "sent",
    "set",
    "shown",
    "shut",
    "sold",
    "spent",
    "split",
    "spoken",
    "stolen",
    "sunk",
    "swept",
    "taken",
    "told",
    "thrown",
    "withdrawn",
    "won",
    "written",
];

/// How a name breaks the convention.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Breach {
    /// It has no entity, or nothing that has happened to it.
    NoEntity,
    /// What has happened is not in the past tense.
    NotPast,
}

impl Breach {
    /// What is wrong, as a sentence.
    #[must_use]
    pub fn detail(self) -> &'static str {
        match self {
            Self::NoEntity => "The name has one word, and so no entity to which something has happened.",
            Self::NotPast => "The name does not end in a verb in the past tense.",
        }
    }
}

/// Checks a name. A version behind it, such as `.v2`, does not count.
///
/// # Errors
/// How it breaks the convention.
pub fn check(name: &str) -> Result<(), Breach> {
    let mut words = Words(name).filter(|word| !is_version(word));
    let (Some(last), has_entity) = (words.next(), words.next().is_some()) else {
        return Err(Breach::NoEntity);
    };
    let is_past = is_past(last);
    match (has_entity, is_past) {
        (_, false) if has_entity => Err(Breach::NotPast),
        (false, _) => Err(Breach::NoEntity),
        _ => Ok(()),
    }
}

fn is_past(word: &str) -> bool {
    // What a row that was there before its capture is called.
    if word.eq_ignore_ascii_case(Action::Snapshot.word()) {
        return true;
    }
    let ends_in_ed = word.len() > 2 && word.as_bytes()[word.len() - 2..].eq_ignore_ascii_case(b"ed");
    ends_in_ed || IRREGULAR.iter().any(|past| word.eq_ignore_ascii_case(past))
}

fn is_version(word: &str) -> bool {
    let digits = word.strip_prefix(['v', 'V']).unwrap_or(word);
    !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
}

/// The words of a name from the last to the first: between dots, slashes, colons, hyphens, underscores and blanks, and from one
/// capital letter to the next that follows a small one.
struct Words<'a>(&'a str);

impl<'a> Iterator for Words<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        let is_between = |character: char| ".:/-_ ".contains(character);
        let rest = self.0.trim_end_matches(is_between);
        let mut start = 0;
        let mut before: Option<char> = None;
        for (at, character) in rest.char_indices() {
            if is_between(character) {
                start = at + 1;
            } else if character.is_uppercase() && before.is_some_and(char::is_lowercase) {
                start = at;
            }
            before = Some(character);
        }
        self.0 = &rest[..start];
        Some(&rest[start..]).filter(|word| !word.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_has_happened_to_an_entity() {
        for good in [
            "order.placed",
            "OrderPlaced",
            "com.example.order.paid",
            "order_line-SENT",
            "com.example.order.placed.v2",
            "orderPlacedV2",
            "invoice/written",
            "größe.geändered",
            "HTTPRequest.Failed",
            "orders.snapshot",
        ] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        for (wrong, breach) in [
            ("", Breach::NoEntity),
            ("placed", Breach::NoEntity),
            ("order", Breach::NoEntity),
            ("v2", Breach::NoEntity),
            ("...", Breach::NoEntity),
            ("order.place", Breach::NotPast),
            ("PlaceOrder", Breach::NotPast),
            ("order.ed", Breach::NotPast),
            ("orders.updates.v1", Breach::NotPast),
            ("order.é", Breach::NotPast),
        ] {
            assert_eq!(check(wrong), Err(breach), "{wrong}");
        }
    }

    #[test]
    fn the_words() {
        let words = |name| Words(name).collect::<Vec<_>>();
        assert_eq!(words("a.bC-DEf_"), ["DEf", "C", "b", "a"]);
        assert_eq!(words("--"), Vec::<&str>::new());
    }

    proptest! {
        #[test]
        fn any_name_can_be_checked(name in "\\PC{0,30}", entity in "[a-z]{1,9}", verb in "[a-z]{1,9}ed") {
            let _ = check(&name);
            prop_assert_eq!(check(&format!("{entity}.{verb}")), Ok(()));
        }
    }
}
