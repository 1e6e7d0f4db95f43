//! Draws a line over time.

use std::path::Path;

use anyhow::Result;
use plotters::style::RGBColor;
use plotters::style::text_anchor::HPos;

use super::sheet::{LEFT, PALE, RIGHT, Sheet, TOP, tick_label, ticks};

const HEIGHT: i32 = 240;

/// Draws one line. The axes begin at zero.
pub fn draw(
    file: &Path,
    title: &str,
    x_unit: &str,
    y_unit: &str,
    color: RGBColor,
    points: &[(f64, f64)],
) -> Result<()> {
    let sheet = Sheet::new(file, title, HEIGHT)?;
    let (x_ticks, y_ticks) = (
        ticks(points.iter().map(|p| p.0).fold(0.0, f64::max)),
        ticks(points.iter().map(|p| p.1).fold(0.0, f64::max)),
    );
    let (x_end, y_end) = (x_ticks.last().copied().unwrap_or(1.0), y_ticks.last().copied().unwrap_or(1.0));
    let x = |number: f64| LEFT + (f64::from(RIGHT - LEFT) * number / x_end).round() as i32;
    let y = |number: f64| sheet.floor - (f64::from(sheet.floor - TOP) * number / y_end).round() as i32;
    for tick in &x_ticks {
        sheet.vertical_grid(x(*tick), &tick_label(*tick))?;
    }
    for tick in &y_ticks {
        sheet.horizontal_grid(y(*tick), &tick_label(*tick))?;
    }
    sheet.text((24, TOP), y_unit, 12, PALE, HPos::Left)?;
    sheet.unit(x_unit)?;
    sheet.line(points.iter().map(|(at, number)| (x(*at), y(number.max(0.0)))).collect(), color, 2)?;
    sheet.finish()
}
