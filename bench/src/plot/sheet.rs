//! Owns the canvas of a plot: a white sheet with a title, in pixels.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

pub const INK: RGBColor = RGBColor(0x24, 0x29, 0x2f);
pub const PALE: RGBColor = RGBColor(0x65, 0x6d, 0x76);
const GRID: RGBColor = RGBColor(0xe3, 0xe6, 0xea);

const FONT: &str = "Helvetica, Arial, sans-serif";
pub const WIDTH: i32 = 900;
/// The left and the right end of the rows: labels stand before, numbers after them.
pub const LEFT: i32 = 190;
pub const RIGHT: i32 = WIDTH - 110;
/// The height of the title.
pub const TOP: i32 = 62;
/// The height of the axis.
const BOTTOM: i32 = 48;

/// A sheet, drawn from top to bottom.
pub struct Sheet<'a> {
    area: DrawingArea<SVGBackend<'a>, Shift>,
    /// The lower end of the rows.
    pub floor: i32,
}

impl<'a> Sheet<'a> {
    /// A sheet with this height for the rows.
    pub fn new(file: &'a Path, title: &str, rows: i32) -> Result<Self> {
        let floor = TOP + rows;
        let size = (WIDTH as u32, u32::try_from(floor + BOTTOM)?);
        let area = SVGBackend::new(file, size).into_drawing_area();
        area.fill(&WHITE).map_err(broken)?;
        let sheet = Self { area, floor };
        sheet.text((24, 30), title, 18, INK, HPos::Left)?;
        Ok(sheet)
    }

    /// Draws text, vertically centred at `at`.
    pub fn text(&self, at: (i32, i32), text: &str, size: i32, color: RGBColor, side: HPos) -> Result<()> {
        let style = (FONT, size).into_font().color(&color).pos(Pos::new(side, VPos::Center));
        self.area.draw(&Text::new(text.to_string(), at, style)).map_err(broken)
    }

    /// Draws a filled rectangle.
    pub fn block(&self, from: (i32, i32), to: (i32, i32), color: RGBColor) -> Result<()> {
        self.area.draw(&Rectangle::new([from, to], color.filled())).map_err(broken)
    }

    /// Draws a line through points.
    pub fn line(&self, points: Vec<(i32, i32)>, color: RGBColor, width: u32) -> Result<()> {
        self.area.draw(&PathElement::new(points, color.stroke_width(width))).map_err(broken)
    }

    /// Draws a circle, filled or hollow.
    pub fn dot(&self, at: (i32, i32), radius: i32, color: RGBColor, filled: bool) -> Result<()> {
        let style = if filled { color.filled() } else { color.stroke_width(2) };
        if !filled {
            self.area.draw(&Circle::new(at, radius, WHITE.filled())).map_err(broken)?;
        }
        self.area.draw(&Circle::new(at, radius, style)).map_err(broken)
    }

    /// Draws a vertical grid line across all rows, with its number.
    pub fn vertical_grid(&self, x: i32, label: &str) -> Result<()> {
        self.line(vec![(x, TOP - 8), (x, self.floor)], GRID, 1)?;
        self.text((x, self.floor + 14), label, 12, PALE, HPos::Center)
    }

    /// Draws a horizontal grid line, with its number.
    pub fn horizontal_grid(&self, y: i32, label: &str) -> Result<()> {
        self.line(vec![(LEFT, y), (RIGHT, y)], GRID, 1)?;
        self.text((LEFT - 8, y), label, 12, PALE, HPos::Right)
    }

    /// Writes the label of the axis below the rows.
    pub fn unit(&self, unit: &str) -> Result<()> {
        self.text((i32::midpoint(LEFT, RIGHT), self.floor + 34), unit, 12, PALE, HPos::Center)
    }

    /// Writes the file.
    pub fn finish(self) -> Result<()> {
        self.area.present().map_err(broken)
    }
}

/// Converts the backend's errors, which do not implement all that `anyhow` requires.
fn broken(error: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("drawing: {error}")
}

/// About five round numbers from zero to at least `max`, and the step between them.
pub fn ticks(max: f64) -> Vec<f64> {
    if max <= 0.0 || !max.is_finite() {
        return vec![0.0, 1.0];
    }
    let rough = max / 5.0;
    let power = 10_f64.powf(rough.log10().floor());
    let step =
        [1.0, 2.0, 2.5, 5.0, 10.0].map(|factor| factor * power).into_iter().find(|step| *step >= rough);
    let step = step.unwrap_or(10.0 * power);
    let count = (max / step).ceil() as usize;
    (0..=count).map(|n| n as f64 * step).collect()
}

/// Formats a number for an axis.
pub fn tick_label(number: f64) -> String {
    match number {
        n if n >= 1e6 => format!("{}M", n / 1e6),
        n if n >= 1e3 => format!("{}k", n / 1e3),
        n => format!("{n}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_reach_the_maximum() {
        assert_eq!(ticks(870_000.0), [0.0, 200_000.0, 400_000.0, 600_000.0, 800_000.0, 1_000_000.0]);
        assert_eq!(ticks(12.0), [0.0, 2.5, 5.0, 7.5, 10.0, 12.5]);
        assert_eq!([1_000_000.0, 250_000.0, 7.5].map(tick_label), ["1M", "250k", "7.5"]);
    }
}
