//! Owns the measured figures, under flat keys as in `summary.json`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

/// Repeated measurements of the same thing, in ascending order.
#[derive(Clone, Debug, Default)]
pub struct Samples(Vec<f64>);

impl Samples {
    /// The median: the middle sample, or the mean of the two in the middle.
    pub fn median(&self) -> f64 {
        match self.0.len() {
            0 => f64::NAN,
            n if n % 2 == 1 => self.0[n / 2],
            n => f64::midpoint(self.0[n / 2 - 1], self.0[n / 2]),
        }
    }

    /// The smallest.
    pub fn min(&self) -> f64 {
        self.0.first().copied().unwrap_or(f64::NAN)
    }

    /// The largest.
    pub fn max(&self) -> f64 {
        self.0.last().copied().unwrap_or(f64::NAN)
    }

    /// The given percentile.
    pub fn percentile(&self, percent: f64) -> f64 {
        let last = self.0.len().saturating_sub(1);
        let at = (last as f64 * percent / 100.0).round() as usize;
        self.0.get(at).copied().unwrap_or(f64::NAN)
    }
}

impl FromIterator<f64> for Samples {
    fn from_iter<T: IntoIterator<Item = f64>>(samples: T) -> Self {
        let mut all: Vec<f64> = samples.into_iter().collect();
        all.sort_by(f64::total_cmp);
        Self(all)
    }
}

/// The measurements of all rounds, under the keys of the summary.
#[derive(Debug, Default)]
pub struct Rounds(BTreeMap<String, Vec<f64>>);

impl Rounds {
    /// Adds the next round's measurement.
    pub fn add(&mut self, key: impl Into<String>, sample: f64) {
        self.0.entry(key.into()).or_default().push(sample);
    }

    /// Adds by how much one measurement exceeds another, round by round.
    pub fn difference(&mut self, key: impl Into<String>, minuend: &str, subtrahend: &str) {
        let [minuend, subtrahend] = [minuend, subtrahend].map(|key| &self.0[key]);
        assert_eq!(minuend.len(), subtrahend.len(), "measured in the same rounds");
        let differences = minuend.iter().zip(subtrahend).map(|(a, b)| a - b).collect();
        self.0.insert(key.into(), differences);
    }

    /// Adds the quotient of two measurements, round by round. The machine's speed changes from round to round, but less
    /// between two measurements of the same round.
    pub fn ratio(&mut self, key: impl Into<String>, numerator: &str, denominator: &str) {
        let [numerator, denominator] = [numerator, denominator].map(|key| &self.0[key]);
        assert_eq!(numerator.len(), denominator.len(), "measured in the same rounds");
        let quotients = numerator.iter().zip(denominator).map(|(a, b)| a / b).collect();
        self.0.insert(key.into(), quotients);
    }
}

/// The summary.
#[derive(Default)]
pub struct Figures(BTreeMap<String, Value>);

impl Figures {
    /// Sets a number.
    pub fn set(&mut self, key: impl Into<String>, number: f64) {
        self.0.insert(key.into(), rounded(number));
    }

    /// Sets a value that is not a number.
    pub fn note(&mut self, key: impl Into<String>, value: impl Into<Value>) {
        self.0.insert(key.into(), value.into());
    }

    /// Sets the median of all rounds under each key, and the extremes under `key.min` and `key.max`.
    pub fn summarise_rounds(&mut self, rounds: &Rounds) {
        for (key, samples) in &rounds.0 {
            self.summarise(key, &samples.iter().copied().collect());
        }
    }

    /// Sets the median under `key`, and the extremes under `key.min` and `key.max`.
    pub fn summarise(&mut self, key: &str, samples: &Samples) {
        self.set(key, samples.median());
        self.set(format!("{key}.min"), samples.min());
        self.set(format!("{key}.max"), samples.max());
    }

    /// The number under a key.
    pub fn get(&self, key: &str) -> Option<f64> {
        match self.0.get(key)? {
            Value::Bool(yes) => Some(f64::from(*yes)),
            value => value.as_f64(),
        }
    }

    /// The value under a key.
    pub fn value(&self, key: &str) -> Option<&Value> {
        self.0.get(key)
    }

    /// The lowest value, the median and the highest value that [`Figures::summarise`] has set.
    pub fn spread(&self, key: &str) -> Option<[f64; 3]> {
        Some([self.get(&format!("{key}.min"))?, self.get(key)?, self.get(&format!("{key}.max"))?])
    }

    /// All keys with their values.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// Reads a summary.
    pub fn read(file: &Path) -> Result<Self> {
        let text = fs::read_to_string(file).with_context(|| file.display().to_string())?;
        Ok(Self(serde_json::from_str(&text)?))
    }

    /// Writes the summary.
    pub fn write(&self, file: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(&self.0)? + "\n";
        fs::write(file, text).with_context(|| file.display().to_string())
    }
}

/// Rounds to four significant digits, which is more than is repeatable.
fn rounded(number: f64) -> Value {
    if number == 0.0 || !number.is_finite() {
        return json!(if number == 0.0 { Some(0.0) } else { None });
    }
    let digits = 3 - number.abs().log10().floor() as i32;
    if digits <= 0 {
        return json!(number.round());
    }
    let scale = 10_f64.powi(digits);
    json!((number * scale).round() / scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_percentiles() {
        let samples: Samples = (1..=101).rev().map(f64::from).collect();
        assert_eq!((samples.median(), samples.min(), samples.max()), (51.0, 1.0, 101.0));
        assert_eq!((samples.percentile(50.0), samples.percentile(99.0)), (51.0, 100.0));
        assert_eq!(Samples::from_iter([1.0, 4.0]).median(), 2.5);
    }

    #[test]
    fn ratios_are_those_of_a_round() {
        let mut rounds = Rounds::default();
        // The third round was slow for both; the first two were not.
        for (ours, theirs) in [(80.0, 100.0), (90.0, 90.0), (30.0, 33.0)] {
            rounds.add("ours", ours);
            rounds.add("theirs", theirs);
        }
        rounds.ratio("ratio", "ours", "theirs");
        let mut figures = Figures::default();
        figures.summarise_rounds(&rounds);
        assert_eq!(figures.spread("ratio"), Some([0.8, 0.9091, 1.0]));
        assert_eq!(figures.spread("ours"), Some([30.0, 80.0, 90.0]));
    }

    #[test]
    fn four_digits() {
        let rounded = [123_456.7, 12.344_9, 0.012_345, 0.0].map(rounded);
        assert_eq!(rounded, [json!(123_457.0), json!(12.34), json!(0.01235), json!(0.0)]);
    }
}
