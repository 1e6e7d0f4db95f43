//! Draws the plots. The figures are their only input.

mod bars;
mod lines;
mod ranges;
mod sheet;

use std::path::Path;

use anyhow::Result;
use plotters::style::RGBColor;
use serde_json::Value;

use crate::figures::Figures;
use bars::{Bar, Group};
use ranges::Range;

const OURS: RGBColor = RGBColor(0x1f, 0x6f, 0xb5);
const OURS_LIGHT: RGBColor = RGBColor(0x8f, 0xb9, 0xdd);
const DEBEZIUM: RGBColor = RGBColor(0xc8, 0x4b, 0x4b);
const POLLING: RGBColor = RGBColor(0xe0, 0xa0, 0x30);
const LIMIT: RGBColor = RGBColor(0x7a, 0x82, 0x8c);
const LIMIT_LIGHT: RGBColor = RGBColor(0xb9, 0xbf, 0xc6);

/// Draws a plot for each scenario that has figures.
pub fn draw(figures: &Figures, directory: &Path) -> Result<()> {
    let file = |name: &str| directory.join(format!("{name}.svg"));
    drain(figures).map_or(Ok(()), |groups| {
        bars::draw(&file("drain"), "Draining a backlog of 200-byte events", "events/s", &groups)
    })?;
    latency(figures).map_or(Ok(()), |groups| {
        let title = "Latency from commit to a consumer (● p50, ○ p99, | max)";
        ranges::draw(&file("latency"), title, "milliseconds", &groups)
    })?;
    emit(figures).map_or(Ok(()), |groups| {
        bars::draw(&file("emit"), "Transactions of one event each", "transactions/s", &groups)
    })?;
    if let Some(points) = figures.value("sustained.backlog").and_then(Value::as_array) {
        let points: Vec<_> = (1..).map(f64::from).zip(points.iter().filter_map(Value::as_f64)).collect();
        let title = "Eight writers as fast as they can: events waiting";
        lines::draw(&file("sustained"), title, "seconds", "events", OURS, &points)?;
    }
    flat(figures).map_or(Ok(()), |groups| {
        bars::draw(&file("flat"), "Draining under adverse conditions", "events/s", &groups)
    })?;
    cost(figures).map_or(Ok(()), |groups| {
        let title = "CPU time of PostgreSQL and relay for an event";
        bars::draw(&file("cost"), title, "microseconds", &groups)
    })?;
    memory(figures)
        .map_or(Ok(()), |groups| bars::draw(&file("memory"), "Memory of the relay", "MB", &groups))?;
    scale(figures).map_or(Ok(()), |groups| {
        bars::draw(&file("scale"), "Draining events of other sizes", "MB/s", &groups)
    })
}

/// The bar of a figure, if the figure exists.
fn bar(figures: &Figures, key: &str, label: &str, color: RGBColor) -> Option<Bar> {
    let spread = figures.spread(key).or_else(|| figures.get(key).map(|number| [number; 3]))?;
    Some(Bar { label: label.into(), color, spread })
}

/// The groups that have bars; `None` if no group has any.
fn filled(groups: Vec<Group>) -> Option<Vec<Group>> {
    let groups: Vec<_> = groups.into_iter().filter(|group| !group.bars.is_empty()).collect();
    (!groups.is_empty()).then_some(groups)
}

fn drain(figures: &Figures) -> Option<Vec<Group>> {
    let bars = |list: &[(&str, &str, RGBColor)]| {
        list.iter().filter_map(|(key, label, color)| bar(figures, key, label, *color)).collect()
    };
    let own = bars(&[
        ("drain.ours", "event_outbox", OURS),
        ("drain.debezium", "Debezium", DEBEZIUM),
        ("drain.polling", "polling relay", POLLING),
        ("drain.rdkafka", "rdkafka alone", LIMIT),
    ]);
    let cloudevents = bars(&[
        ("drain.ours_cloudevents", "event_outbox", OURS_LIGHT),
        ("drain.rdkafka_cloudevents", "rdkafka alone", LIMIT_LIGHT),
    ]);
    filled(vec![
        Group { label: "two headers".into(), bars: own },
        Group { label: "with CloudEvents headers".into(), bars: cloudevents },
    ])
}

fn latency(figures: &Figures) -> Option<Vec<(String, Vec<Range>)>> {
    let contenders = [
        ("ours", "event_outbox", OURS),
        ("debezium", "Debezium", DEBEZIUM),
        ("polling", "polling relay", POLLING),
        ("bare", "bare rdkafka", LIMIT),
        ("bare_writing", "bare, beside commits", LIMIT),
    ];
    let groups = [(100, "100 events/s"), (2000, "2000 events/s")].map(|(rate, label)| {
        let ranges = contenders.iter().filter_map(|(name, label, color)| {
            let figure = |percentile| figures.get(&format!("latency.{rate}.{name}.{percentile}_ms"));
            let marks = [figure("p50")?, figure("p99")?, figure("max")?];
            Some(Range { label: (*label).into(), color: *color, marks })
        });
        (label.to_string(), ranges.collect::<Vec<_>>())
    });
    groups.iter().any(|(_, ranges)| !ranges.is_empty()).then(|| groups.to_vec())
}

fn emit(figures: &Figures) -> Option<Vec<Group>> {
    let variants = [
        ("none", "no outbox", LIMIT_LIGHT),
        ("insert", "bare INSERT", LIMIT),
        ("emit", "emit()", OURS),
        ("notify", "INSERT + NOTIFY", POLLING),
        ("emit_relay", "emit(), publishing", OURS_LIGHT),
    ];
    let groups = [(1, "1 client"), (8, "8 clients"), (32, "32 clients")].map(|(clients, label)| Group {
        label: label.into(),
        bars: variants
            .iter()
            .filter_map(|(name, label, color)| {
                bar(figures, &format!("emit.{clients}.{name}_tps"), label, *color)
            })
            .collect(),
    });
    filled(groups.into())
}

fn flat(figures: &Figures) -> Option<Vec<Group>> {
    let cases = [
        ("free_rate", "1M pending, undisturbed", OURS),
        ("100k_rate", "100k pending", OURS_LIGHT),
        ("10m_rate", "10M pending", OURS_LIGHT),
        ("held_xmin_rate", "xmin horizon held", OURS_LIGHT),
        ("long_writer_rate", "long writing transaction", OURS_LIGHT),
    ];
    let bars = cases
        .iter()
        .filter_map(|(name, label, color)| bar(figures, &format!("flat.{name}"), label, *color))
        .collect();
    filled(vec![Group { label: String::new(), bars }])
}

fn cost(figures: &Figures) -> Option<Vec<Group>> {
    let contenders = [
        ("ours", "event_outbox", OURS),
        ("debezium", "Debezium", DEBEZIUM),
        ("polling", "polling relay", POLLING),
        ("bare", "rows and rdkafka", LIMIT),
    ];
    let rates = [(100, "100 events/s"), (2_000, "2,000 events/s"), (10_000, "10,000 events/s")];
    let groups = rates.map(|(rate, label)| Group {
        label: label.into(),
        bars: contenders
            .iter()
            .filter_map(|(name, label, color)| {
                bar(figures, &format!("cost.{rate}.{name}.whole_us"), label, *color)
            })
            .collect(),
    });
    filled(groups.into())
}

fn memory(figures: &Figures) -> Option<Vec<Group>> {
    let groups = ["drain", "flat", "sustained", "scale"].map(|name| Group {
        label: name.into(),
        bars: [("idle", LIMIT_LIGHT), ("peak", OURS)]
            .iter()
            .filter_map(|(what, color)| bar(figures, &format!("memory.{name}.{what}_mb"), what, *color))
            .collect(),
    });
    filled(groups.into())
}

fn scale(figures: &Figures) -> Option<Vec<Group>> {
    let sizes = [("100b", "100 B"), ("1kb", "1 kB"), ("10kb", "10 kB"), ("100kb", "100 kB")];
    let groups = sizes.map(|(size, label)| Group {
        label: label.into(),
        bars: [("ours", "event_outbox", OURS), ("rdkafka", "rdkafka alone", LIMIT)]
            .iter()
            .filter_map(|(who, label, color)| {
                bar(figures, &format!("scale.{size}.{who}_mb_s"), label, *color)
            })
            .collect(),
    });
    filled(groups.into())
}
