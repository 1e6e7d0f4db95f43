//! Owns the comparison of two builds that were measured in alternating rounds.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Result, ensure};

use crate::figures::{Figures, Samples};

/// The names of the builds in the names of the rounds: `base-1`, `this-1` and so on.
const BUILDS: [&str; 2] = ["base", "this"];

/// What is no measurement of a build.
const BESIDE: [&str; 3] = ["rounds", "took_s", "quick"];

/// Prints this build's share of the base's figure for each figure: the median of the rounds, and the extremes.
pub fn report(results: &Path) -> Result<()> {
    let rounds = read(results)?;
    ensure!(!rounds.is_empty(), "{} has no whole round of both builds", results.display());
    println!("{:<52}{:>9}{:>9}{:>9}   of {} rounds", "this / base", "median", "least", "most", rounds.len());
    for (key, ratios) in ratios(&rounds) {
        println!("{key:<52}{:>9.3}{:>9.3}{:>9.3}", ratios.median(), ratios.min(), ratios.max());
    }
    Ok(())
}

/// The rounds that both builds have ended.
fn read(results: &Path) -> Result<Vec<[Figures; 2]>> {
    let mut rounds = Vec::new();
    for round in 1.. {
        let [base, this] = BUILDS.map(|build| results.join(format!("{build}-{round}/summary.json")));
        if !(base.exists() && this.exists()) {
            break;
        }
        rounds.push([Figures::read(&base)?, Figures::read(&this)?]);
    }
    Ok(rounds)
}

fn ratios(rounds: &[[Figures; 2]]) -> BTreeMap<&str, Samples> {
    let is_measured = |key: &str| {
        !key.ends_with(".min") && !key.ends_with(".max") && !BESIDE.iter().any(|other| key.ends_with(other))
    };
    let keys =
        rounds.iter().flat_map(|[base, _]| base.iter().map(|(key, _)| key)).filter(|key| is_measured(key));
    let found = keys.filter_map(|key| {
        let ratios: Option<Samples> = rounds.iter().map(|[base, this]| ratio(base, this, key)).collect();
        Some((key, ratios?))
    });
    found.collect()
}

fn ratio(base: &Figures, this: &Figures, key: &str) -> Option<f64> {
    let (base, this) = (base.get(key)?, this.get(key)?);
    (base > 0.0).then(|| this / base)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(rate: f64) -> Figures {
        let mut figures = Figures::default();
        figures.set("drain.ours", rate);
        figures.set("drain.ours.min", rate);
        figures.set("drain.took_s", rate);
        figures.note("version", "15");
        figures
    }

    #[test]
    fn each_round_has_its_ratio() {
        // The machine was slow in the third round, for both.
        let rounds =
            [(100.0, 90.0), (100.0, 110.0), (10.0, 12.0)].map(|(base, this)| [figures(base), figures(this)]);
        let ratios = ratios(&rounds);
        assert_eq!(ratios.keys().collect::<Vec<_>>(), [&"drain.ours"]);
        let ratios = &ratios["drain.ours"];
        assert_eq!((ratios.min(), ratios.median(), ratios.max()), (0.9, 1.1, 1.2));
    }

    #[test]
    fn what_one_round_lacks_is_left_out() {
        let rounds = [[figures(1.0), Figures::default()], [figures(1.0), figures(1.0)]];
        assert!(ratios(&rounds).is_empty());
    }
}
