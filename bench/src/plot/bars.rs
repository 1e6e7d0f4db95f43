//! Draws horizontal bars in groups: the median, and the range of the rounds.

use std::path::Path;

use anyhow::Result;
use plotters::style::RGBColor;
use plotters::style::text_anchor::HPos;

use super::sheet::{INK, LEFT, PALE, RIGHT, Sheet, TOP, tick_label, ticks};
use crate::goals::short;

const ROW: i32 = 26;
const BAR: i32 = 16;
const HEADING: i32 = 26;
const GAP: i32 = 10;

/// One bar.
pub struct Bar {
    /// The label to its left.
    pub label: String,
    /// The colour of the bar.
    pub color: RGBColor,
    /// The smallest value, the median and the largest value.
    pub spread: [f64; 3],
}

/// A group of bars below a heading.
pub struct Group {
    /// The heading; empty for no heading.
    pub label: String,
    /// The bars, from top to bottom.
    pub bars: Vec<Bar>,
}

impl Group {
    fn height(&self) -> i32 {
        let heading = if self.label.is_empty() { 0 } else { HEADING };
        heading + ROW * self.bars.len() as i32 + GAP
    }
}

/// Draws all groups on one axis.
pub fn draw(file: &Path, title: &str, unit: &str, groups: &[Group]) -> Result<()> {
    let sheet = Sheet::new(file, title, groups.iter().map(Group::height).sum())?;
    let largest = groups.iter().flat_map(|group| &group.bars).map(|bar| bar.spread[2]).fold(0.0, f64::max);
    let ticks = ticks(largest);
    let end = ticks.last().copied().unwrap_or(1.0);
    let place = |number: f64| LEFT + (f64::from(RIGHT - LEFT) * number / end).round() as i32;
    for tick in &ticks {
        sheet.vertical_grid(place(*tick), &tick_label(*tick))?;
    }
    sheet.unit(unit)?;
    let mut y = TOP;
    for group in groups {
        if !group.label.is_empty() {
            sheet.text((24, y + HEADING / 2), &group.label, 13, PALE, HPos::Left)?;
            y += HEADING;
        }
        for bar in &group.bars {
            let middle = y + ROW / 2;
            let [min, median, max] = bar.spread.map(place);
            sheet.text((LEFT - 10, middle), &bar.label, 13, INK, HPos::Right)?;
            sheet.block((LEFT, middle - BAR / 2), (median, middle + BAR / 2), bar.color)?;
            if max > min {
                sheet.line(vec![(min, middle), (max, middle)], INK, 1)?;
                for x in [min, max] {
                    sheet.line(vec![(x, middle - 4), (x, middle + 4)], INK, 1)?;
                }
            }
            sheet.text((max.max(median) + 8, middle), &short(bar.spread[1]), 13, INK, HPos::Left)?;
            y += ROW;
        }
        y += GAP;
    }
    sheet.line(vec![(LEFT, TOP - 8), (LEFT, sheet.floor)], INK, 1)?;
    sheet.finish()
}
