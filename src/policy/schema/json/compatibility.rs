//! Whether a JSON Schema accepts all that another accepts: for a subset of what schemas can say. What it cannot compare, it
//! takes for incompatible unless it is the same in both.
//!
//! Compared are `type`, `enum`, `const`, the bounds of numbers, lengths and counts, `multipleOf`, `required`, `properties`,
//! `additionalProperties`, `items`, `allOf`, `anyOf`, `oneOf`, and `$ref` within the schema.

use std::collections::HashSet;
use std::sync::OnceLock;

use serde_json::{Map, Value};

use crate::schema::fault::{Fault, Path};
use crate::schema::interrupt;
use crate::schema::limits::{MAX_DEPTH, MAX_VALUES};

/// Says nothing about what is accepted, or is compared with the keyword that it belongs to.
const ANNOTATIONS: [&str; 16] = [
    "$schema",
    "$id",
    "id",
    "$comment",
    "$anchor",
    "$defs",
    "definitions",
    "title",
    "description",
    "default",
    "examples",
    "deprecated",
    "readOnly",
    "writeOnly",
    "contentMediaType",
    "contentEncoding",
];

/// The kinds of values.
const TYPES: [&str; 7] = ["null", "boolean", "integer", "number", "string", "array", "object"];

/// Checks that a schema accepts every document that another one accepts.
///
/// # Errors
/// The first place at which it may not.
pub fn accepts_all(new: &Value, old: &Value) -> Result<(), Fault> {
    let mut check = Check { new, old, seen: HashSet::new(), left: MAX_VALUES / 20 };
    check.pair(new, old, &Path::Root)
}

/// A schema that accepts everything.
fn anything<'a>() -> &'a Value {
    static EMPTY: OnceLock<Value> = OnceLock::new();
    EMPTY.get_or_init(|| Value::Object(Map::new()))
}

struct Check<'a> {
    new: &'a Value,
    old: &'a Value,
    /// Pairs of schemas that are being, or were, compared, by address.
    seen: HashSet<(usize, usize)>,
    left: usize,
}

impl<'a> Check<'a> {
    fn pair(&mut self, new: &'a Value, old: &'a Value, path: &Path<'_>) -> Result<(), Fault> {
        interrupt::after(self.left as u64, 1);
        self.left =
            self.left.checked_sub(1).ok_or_else(|| path.fault("comparing the schemas takes too long"))?;
        if path.depth() > MAX_DEPTH {
            return Err(path.fault("the schemas are nested too deeply to be compared"));
        }
        let new = resolve(new, self.new)
            .ok_or_else(|| path.fault("the new schema has a reference that is not followed"))?;
        let old = resolve(old, self.old)
            .ok_or_else(|| path.fault("the old schema has a reference that is not followed"))?;
        let key = (std::ptr::from_ref(new) as usize, std::ptr::from_ref(old) as usize);
        if !self.seen.insert(key) {
            return Ok(());
        }
        let checked = match (new, old) {
            (Value::Bool(true), _) | (_, Value::Bool(false)) => Ok(()),
            (Value::Object(_), Value::Object(_)) => self.objects(new, old, path),
            (Value::Object(_), _) => self.objects(new, anything(), path),
            _ => Err(path.fault("the new schema accepts nothing here")),
        };
        if checked.is_err() {
            self.seen.remove(&key);
        }
        checked
    }

    fn objects(&mut self, new: &'a Value, old: &'a Value, path: &Path<'_>) -> Result<(), Fault> {
        for (name, wanted) in new.as_object().into_iter().flatten() {
            if !ANNOTATIONS.contains(&&**name) {
                self.implied(name, wanted, new, old, path)?;
            }
        }
        Ok(())
    }

    /// Checks that the old schema implies what a keyword says: by itself, by one of what it combines, or by each of its
    /// alternatives.
    fn implied(
        &mut self,
        name: &str,
        wanted: &'a Value,
        new: &'a Value,
        old: &'a Value,
        path: &Path<'_>,
    ) -> Result<(), Fault> {
        let Err(fault) = self.keyword(name, wanted, new, old, path) else { return Ok(()) };
        let mut holds_for = |branch: &'a Value| {
            let branch = resolve(branch, self.old).filter(|branch| branch.is_object());
            branch.is_some_and(|branch| self.keyword(name, wanted, new, branch, path).is_ok())
        };
        let branches = |name: &str| old.get(name).and_then(Value::as_array).map_or(&[][..], |all| all).iter();
        if branches("allOf").any(&mut holds_for) {
            return Ok(());
        }
        for alternatives in ["anyOf", "oneOf"] {
            if branches(alternatives).len() > 0 && branches(alternatives).all(&mut holds_for) {
                return Ok(());
            }
        }
        Err(fault)
    }

    /// Checks that the old schema implies what a keyword of the new one says.
    fn keyword(
        &mut self,
        name: &str,
        wanted: &'a Value,
        new: &'a Value,
        old: &'a Value,
        path: &Path<'_>,
    ) -> Result<(), Fault> {
        let types = types_of(old);
        if let Some(kind) = kind_of(name)
            && !types.iter().any(|of| *of == kind || kind == "number" && *of == "integer")
        {
            return Ok(());
        }
        let stricter = || path.fault(format!("{name} is stricter, or cannot be compared"));
        let holds = |holds: bool| if holds { Ok(()) } else { Err(stricter()) };
        match name {
            "type" => {
                let wider = types_of(new);
                let fits = |of: &&str| wider.contains(of) || *of == "integer" && wider.contains(&"number");
                match types.iter().find(|of| !fits(of)) {
                    None => Ok(()),
                    Some(lost) => Err(path.fault(format!("the type {lost} is not accepted any more"))),
                }
            }
            "enum" | "const" => {
                let accepted = values_of(name, wanted);
                let known = ["enum", "const"].iter().find_map(|name| Some(values_of(name, old.get(name)?)));
                holds(known.is_some_and(|known| known.iter().all(|value| accepted.contains(value))))
            }
            "minimum" | "exclusiveMinimum" | "minLength" | "minItems" | "minProperties" => holds(
                bound(old, name).zip(wanted.as_f64()).is_some_and(|(old, new)| old >= new)
                    || is_no_bound(name, wanted),
            ),
            "maximum" | "exclusiveMaximum" | "maxLength" | "maxItems" | "maxProperties" => {
                holds(bound(old, name).zip(wanted.as_f64()).is_some_and(|(old, new)| old <= new))
            }
            "multipleOf" => {
                let ratio = bound(old, name).zip(wanted.as_f64()).map(|(old, new)| old / new);
                holds(ratio.is_some_and(|ratio| ratio.fract() == 0.0))
            }
            "required" => {
                let known = names_of(old.get("required"));
                match names_of(Some(wanted)).into_iter().find(|name| !known.contains(name)) {
                    None => Ok(()),
                    Some(added) => Err(Path::Member(path, added).fault("it is required now")),
                }
            }
            "properties" => self.properties(wanted, old, path),
            "additionalProperties" => self.additional(wanted, new, old, path),
            "items"
                if !wanted.is_array()
                    && new.get("prefixItems").is_none()
                    && old.get("prefixItems").is_none() =>
            {
                let items = old.get("items").unwrap_or_else(anything);
                if items.is_array() {
                    Err(stricter())
                } else {
                    self.pair(wanted, items, &Path::Member(path, "items"))
                }
            }
            "allOf" => elements(wanted).try_for_each(|branch| self.pair(branch, old, path)),
            "anyOf" | "oneOf" => self.alternatives(wanted, old, path),
            _ => holds(old.get(name) == Some(wanted) && (!has_reference(wanted) || self.new == self.old)),
        }
    }

    fn properties(&mut self, wanted: &'a Value, old: &'a Value, path: &Path<'_>) -> Result<(), Fault> {
        let known = old.get("properties").and_then(Value::as_object);
        for (name, schema) in wanted.as_object().into_iter().flatten() {
            let before = match known.and_then(|known| known.get(name)) {
                Some(before) => before,
                None if old.get("patternProperties").is_some() => anything(),
                None => old.get("additionalProperties").unwrap_or_else(anything),
            };
            self.pair(schema, before, &Path::Member(path, name))?;
        }
        Ok(())
    }

    fn additional(
        &mut self,
        wanted: &'a Value,
        new: &'a Value,
        old: &'a Value,
        path: &Path<'_>,
    ) -> Result<(), Fault> {
        if new.get("patternProperties") != old.get("patternProperties") {
            return Err(path.fault("patternProperties is not the same"));
        }
        let named = new.get("properties").and_then(Value::as_object);
        for (name, before) in old.get("properties").and_then(Value::as_object).into_iter().flatten() {
            if !named.is_some_and(|named| named.contains_key(name)) {
                self.pair(wanted, before, &Path::Member(path, name)).map_err(|fault| Fault {
                    reason: format!("the property is gone: {}", fault.reason),
                    ..fault
                })?;
            }
        }
        let before = old.get("additionalProperties").unwrap_or_else(anything);
        self.pair(wanted, before, path)
            .map_err(|_| path.fault("additionalProperties is stricter, or cannot be compared"))
    }

    /// Each old alternative, or the old schema as a whole, must fit a new one.
    fn alternatives(&mut self, wanted: &'a Value, old: &'a Value, path: &Path<'_>) -> Result<(), Fault> {
        let before = ["anyOf", "oneOf"].iter().find_map(|name| old.get(name)?.as_array());
        let whole = std::slice::from_ref(old);
        for (at, branch) in before.map_or(whole, |branches| branches).iter().enumerate() {
            if !elements(wanted).any(|accepted| self.pair(accepted, branch, path).is_ok()) {
                return Err(Path::Element(path, at).fault("the alternative is not accepted any more"));
            }
        }
        Ok(())
    }
}

/// The schema that a reference leads to, or the schema itself. `None` if it leads out of the document, or is not alone.
fn resolve<'a>(schema: &'a Value, document: &'a Value) -> Option<&'a Value> {
    let mut schema = schema;
    for _ in 0..MAX_DEPTH {
        if schema.get("$dynamicRef").is_some() || schema.get("$recursiveRef").is_some() {
            return None;
        }
        let Some(reference) = schema.get("$ref") else { return Some(schema) };
        let alone = schema.as_object()?.keys().all(|name| name == "$ref" || ANNOTATIONS.contains(&&**name));
        let pointer = reference.as_str()?.strip_prefix('#')?;
        if !alone || pointer.contains('%') {
            return None;
        }
        schema = document.pointer(pointer)?;
    }
    None
}

fn has_reference(value: &Value) -> bool {
    match value {
        Value::Array(elements) => elements.iter().any(has_reference),
        Value::Object(members) => members.contains_key("$ref") || members.values().any(has_reference),
        _ => false,
    }
}

fn elements(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// The kinds of values that a schema accepts, going by its type and its values.
fn types_of(schema: &Value) -> Vec<&str> {
    let of_value = |value: &Value| match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.as_f64().is_some_and(|number| number.fract() == 0.0) => "integer",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    match schema.get("type") {
        Some(Value::String(name)) => vec![name],
        Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).collect(),
        _ => match ["enum", "const"].iter().find_map(|name| Some(values_of(name, schema.get(name)?))) {
            Some(values) => values.into_iter().map(of_value).collect(),
            None => TYPES.to_vec(),
        },
    }
}

/// The kind of values that a keyword concerns; `None` if it is all.
fn kind_of(keyword: &str) -> Option<&'static str> {
    Some(match keyword {
        "minimum" | "maximum" | "exclusiveMinimum" | "exclusiveMaximum" | "multipleOf" => "number",
        "minLength" | "maxLength" | "pattern" => "string",
        "items" | "prefixItems" | "additionalItems" | "minItems" | "maxItems" | "uniqueItems"
        | "contains" | "minContains" | "maxContains" | "unevaluatedItems" => "array",
        "properties"
        | "required"
        | "additionalProperties"
        | "minProperties"
        | "maxProperties"
        | "patternProperties"
        | "propertyNames"
        | "dependentRequired"
        | "dependentSchemas"
        | "dependencies"
        | "unevaluatedProperties" => "object",
        _ => return None,
    })
}

fn values_of<'a>(keyword: &str, value: &'a Value) -> Vec<&'a Value> {
    if keyword == "const" { vec![value] } else { elements(value).collect() }
}

fn names_of(value: Option<&Value>) -> Vec<&str> {
    value.into_iter().flat_map(elements).filter_map(Value::as_str).collect()
}

fn bound(schema: &Value, keyword: &str) -> Option<f64> {
    schema.get(keyword)?.as_f64()
}

/// Whether a lower bound of a count excludes nothing.
fn is_no_bound(keyword: &str, value: &Value) -> bool {
    keyword.starts_with("min") && keyword != "minimum" && value.as_f64() == Some(0.0)
}
