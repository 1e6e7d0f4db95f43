//! Owns the layout of Debezium's outbox event router: the header `id`, and the additional fields that its property
//! `table.fields.additional.placement` places in headers.

use uuid::Uuid;

use super::draft::Event;

/// The header that has the event's id.
pub const ID: &str = "id";

/// The router's default for topics: `outbox.event.${routedByValue}`.
const TOPIC_PREFIX: &str = "outbox.event.";

/// A column of the outbox table, under the name that the router expects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Column {
    Id,
    AggregateType,
    AggregateId,
    Type,
}

/// A column that is sent as a header, too.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Field {
    column: Column,
    header: String,
}

/// The additional fields, in their order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AdditionalFields(Vec<Field>);

impl AdditionalFields {
    /// Reads them in the router's own notation: `column:header[:name],…`. Nothing if there is another column, or another
    /// placement.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let fields = text.split(',').map(str::trim).filter(|field| !field.is_empty());
        fields.map(Field::parse).collect::<Option<_>>().map(Self)
    }

    /// Writes the headers of the layout, without the author's own.
    pub fn write(&self, event: &Event<'_>, mut put: impl FnMut(&str, Option<&[u8]>)) {
        let mut id = Uuid::encode_buffer();
        let id = Uuid::from_bytes(event.event_id).hyphenated().encode_lower(&mut id);
        put(ID, Some(id.as_bytes()));
        for Field { column, header } in &self.0 {
            let value = match column {
                Column::Id => Some(id.as_bytes()),
                Column::AggregateType => {
                    Some(event.topic.strip_prefix(TOPIC_PREFIX).unwrap_or(event.topic).as_bytes())
                }
                Column::AggregateId => event.key.as_deref(),
                Column::Type => event.event_type.as_deref().map(str::as_bytes),
            };
            put(header, value);
        }
    }

    /// How many bytes of the event's parts are sent a second time, as headers.
    #[must_use]
    pub fn repeated_bytes(&self, event: &Event<'_>) -> usize {
        let mut bytes = 0;
        self.write(event, |_, value| bytes += value.map_or(0, <[u8]>::len));
        bytes
    }
}

impl Field {
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(':').map(str::trim);
        let name = parts.next()?;
        let column = match name {
            "id" => Column::Id,
            "aggregatetype" => Column::AggregateType,
            "aggregateid" => Column::AggregateId,
            "type" => Column::Type,
            _ => return None,
        };
        parts.next().filter(|placement| *placement == "header")?;
        let header = parts.next().unwrap_or(name);
        let is_sound = !header.is_empty() && !header.contains('\0') && parts.next().is_none();
        is_sound.then(|| Self { column, header: header.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use super::*;

    fn written(fields: &str, event: &Event<'_>) -> Vec<(String, Option<String>)> {
        let mut out = Vec::new();
        AdditionalFields::parse(fields).unwrap().write(event, |name, value| {
            out.push((name.to_owned(), value.map(|value| String::from_utf8(value.to_vec()).unwrap())));
        });
        out
    }

    #[test]
    fn what_is_repeated_counts() {
        let event = Event { topic: "t", key: Some(Cow::Borrowed(b"12345")), ..Event::default() };
        let bytes = |fields: &str| AdditionalFields::parse(fields).unwrap().repeated_bytes(&event);
        assert_eq!((bytes(""), bytes("aggregateid:header,type:header")), (36, 41));
    }

    #[test]
    fn the_id_comes_first() {
        let event = Event {
            event_id: [0x11; 16],
            topic: "outbox.event.order",
            key: Some(Cow::Borrowed(b"7")),
            event_type: Some("Placed".into()),
            ..Event::default()
        };
        let id = "11111111-1111-1111-1111-111111111111";
        let pair = |name: &str, value: &str| (name.to_owned(), Some(value.to_owned()));
        assert_eq!(written("", &event), [pair("id", id)]);
        assert_eq!(
            written(
                " type:header:eventType, aggregatetype:header ,aggregateid:header:key,id:header:again,",
                &event
            ),
            [
                pair("id", id),
                pair("eventType", "Placed"),
                pair("aggregatetype", "order"),
                pair("key", "7"),
                pair("again", id)
            ]
        );
        let bare = Event { topic: "orders", ..Event::default() };
        let found = written("aggregatetype:header,aggregateid:header,type:header", &bare);
        assert_eq!(
            found[1..],
            [pair("aggregatetype", "orders"), ("aggregateid".into(), None), ("type".into(), None)]
        );
    }

    #[test]
    fn what_the_router_would_not_do_is_refused() {
        for wrong in [
            "x:header",
            "type",
            "type:",
            "type:envelope",
            "type:partition",
            "type:header:",
            "type:header:a:b",
            ":header",
        ] {
            assert_eq!(AdditionalFields::parse(wrong), None, "{wrong}");
        }
    }
}
