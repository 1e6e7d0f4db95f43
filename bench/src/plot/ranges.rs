//! Draws the median, the 99th percentile and the maximum on a logarithmic axis.

use std::path::Path;

use anyhow::Result;
use plotters::style::RGBColor;
use plotters::style::text_anchor::HPos;

use super::sheet::{INK, LEFT, PALE, RIGHT, Sheet, TOP, tick_label};
use crate::goals::short;

const ROW: i32 = 30;
const HEADING: i32 = 26;
const GAP: i32 = 10;

/// One row.
#[derive(Clone)]
pub struct Range {
    /// The label to its left.
    pub label: String,
    /// The colour of its marks.
    pub color: RGBColor,
    /// p50, p99 and the maximum.
    pub marks: [f64; 3],
}

/// Draws groups, each with a heading and its rows.
pub fn draw(file: &Path, title: &str, unit: &str, groups: &[(String, Vec<Range>)]) -> Result<()> {
    let height = groups.iter().map(|(_, ranges)| HEADING + ROW * ranges.len() as i32 + GAP).sum();
    let sheet = Sheet::new(file, title, height)?;
    let marks = || groups.iter().flat_map(|(_, ranges)| ranges).flat_map(|range| range.marks);
    let lowest = marks().fold(f64::INFINITY, f64::min).max(0.01).log10().floor() as i32;
    let highest = (marks().fold(0.0, f64::max).max(0.1).log10().ceil() as i32).max(lowest + 1);
    let place = |number: f64| {
        let share = (number.max(0.01).log10() - f64::from(lowest)) / f64::from(highest - lowest);
        LEFT + (f64::from(RIGHT - LEFT) * share.clamp(0.0, 1.0)).round() as i32
    };
    for power in lowest..=highest {
        sheet.vertical_grid(place(10_f64.powi(power)), &tick_label(10_f64.powi(power)))?;
    }
    sheet.unit(unit)?;
    let mut y = TOP;
    for (heading, ranges) in groups {
        sheet.text((24, y + HEADING / 2), heading, 13, PALE, HPos::Left)?;
        y += HEADING;
        for range in ranges {
            let middle = y + ROW / 2;
            let [p50, p99, max] = range.marks.map(place);
            sheet.text((LEFT - 10, middle), &range.label, 13, INK, HPos::Right)?;
            sheet.line(vec![(p50, middle), (max, middle)], range.color, 2)?;
            sheet.line(vec![(max, middle - 6), (max, middle + 6)], range.color, 2)?;
            sheet.dot((p99, middle), 5, range.color, false)?;
            sheet.dot((p50, middle), 6, range.color, true)?;
            let [p50, p99, _] = range.marks.map(short);
            sheet.text((max + 10, middle), &format!("{p50} · {p99}"), 12, PALE, HPos::Left)?;
            y += ROW;
        }
        y += GAP;
    }
    sheet.finish()
}
