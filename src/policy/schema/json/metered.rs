//! Documents for the validator that count each look at a value. A check that looks too often ends: a schema may ask for work
//! that grows with the power of a document's depth.

use std::borrow::Cow;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use jsonschema::json::{Array, Json, NodeIdentity, Object};
use jsonschema::types::JsonType;
use serde_json::{Map, Number, Value};

use crate::schema::interrupt;

thread_local! {
    /// How many further steps may be taken.
    static LEFT: Cell<u64> = const { Cell::new(0) };
}

/// Unwinds when no steps are left.
struct Exhausted;

/// Does something in no more than so many steps; `None` if it would take more.
pub fn limited<R>(steps: u64, work: impl FnOnce() -> R) -> Option<R> {
    LEFT.set(steps);
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(done) => Some(done),
        Err(cause) if cause.is::<Exhausted>() => None,
        Err(cause) => resume_unwind(cause),
    }
}

fn step(cost: usize) {
    let cost = cost as u64 + 1;
    let before = LEFT.get();
    match before.checked_sub(cost) {
        Some(left) => {
            LEFT.set(left);
            interrupt::after(before, cost);
        }
        None => resume_unwind(Box::new(Exhausted)),
    }
}

/// Documents as serde_json has them.
pub struct Metered;

/// A value of a document.
#[derive(Clone, Copy)]
pub struct Node<'a>(pub &'a Value);

impl Json for Metered {
    type Node<'a> = Node<'a>;
    type PreparedKey = String;
    type StringBuffer = ();

    const KEYS_PER_LOOKUP: usize = 2;
    const ACYCLIC: bool = true;

    fn prepare_key(key: &str) -> String {
        key.to_owned()
    }

    fn with_string_node<T>((): &mut (), string: &str, f: impl FnOnce(Node<'_>) -> T) -> T {
        f(Node(&Value::String(string.to_owned())))
    }
}

impl<'a> jsonschema::json::Node<'a, Metered> for Node<'a> {
    type Object = Members<'a>;
    type Array = Elements<'a>;
    type Number = &'a Number;

    fn as_object(&self) -> Option<Members<'a>> {
        step(0);
        self.0.as_object().map(Members)
    }

    fn as_array(&self) -> Option<Elements<'a>> {
        step(0);
        self.0.as_array().map(|elements| Elements(elements))
    }

    fn as_string(&self) -> Option<Cow<'a, str>> {
        let text = self.0.as_str()?;
        // What is done with it takes time by its length, as regular expressions do.
        step(text.len());
        Some(Cow::Borrowed(text))
    }

    fn as_number(&self) -> Option<&'a Number> {
        step(0);
        self.0.as_number()
    }

    fn as_boolean(&self) -> Option<bool> {
        step(0);
        self.0.as_bool()
    }

    fn is_null(&self) -> bool {
        step(0);
        self.0.is_null()
    }

    fn json_type(&self) -> JsonType {
        step(0);
        match self.0 {
            Value::Null => JsonType::Null,
            Value::Bool(_) => JsonType::Boolean,
            Value::Number(_) => JsonType::Number,
            Value::String(_) => JsonType::String,
            Value::Array(_) => JsonType::Array,
            Value::Object(_) => JsonType::Object,
        }
    }

    fn to_value(&self) -> Cow<'a, Value> {
        step(weight(self.0));
        Cow::Borrowed(self.0)
    }

    fn identity(&self) -> Option<NodeIdentity> {
        Some(NodeIdentity::new(std::ptr::from_ref::<Value>(self.0) as usize))
    }
}

/// How much work a look at a whole value may be: `const`, `enum` and `uniqueItems` compare them.
fn weight(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len() / 8,
        Value::Array(elements) => elements.len(),
        Value::Object(members) => members.len(),
        _ => 0,
    }
}

/// The members of an object.
pub struct Members<'a>(&'a Map<String, Value>);

impl<'a> Object<'a, Metered> for Members<'a> {
    type Node = Node<'a>;
    type MemberName = &'a str;
    type MembersIter = Iter<serde_json::map::Iter<'a>>;

    fn len(&self) -> usize {
        self.0.len()
    }

    fn get(&self, key: &String) -> Option<Node<'a>> {
        step(0);
        self.0.get(key.as_str()).map(Node)
    }

    fn members(&self) -> Self::MembersIter {
        Iter(self.0.iter())
    }
}

/// The elements of an array.
pub struct Elements<'a>(&'a [Value]);

impl<'a> Array<'a, Metered> for Elements<'a> {
    type Node = Node<'a>;
    type ElementsIter = Iter<std::slice::Iter<'a, Value>>;

    fn len(&self) -> usize {
        self.0.len()
    }

    fn elements(&self) -> Self::ElementsIter {
        Iter(self.0.iter())
    }
}

/// Goes through values, and counts each.
pub struct Iter<I>(I);

impl<'a> Iterator for Iter<serde_json::map::Iter<'a>> {
    type Item = (&'a str, Node<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        step(0);
        self.0.next().map(|(name, value)| (name.as_str(), Node(value)))
    }
}

impl<'a> Iterator for Iter<std::slice::Iter<'a, Value>> {
    type Item = Node<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        step(0);
        self.0.next().map(Node)
    }
}
