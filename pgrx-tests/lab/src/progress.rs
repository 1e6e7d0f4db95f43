//! Progress messages of the command-line programs.

use std::io::{IsTerminal, Write, stderr};
use std::time::Instant;

use anyhow::Result;

/// Announces a step, runs it and prints how long it took.
pub fn step<T>(what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    eprint!("==> {what} … ");
    let begin = Instant::now();
    let result = work()?;
    eprintln!("{:.1} s", begin.elapsed().as_secs_f64());
    Ok(result)
}

/// Shows a message behind the announcement while the step runs; on a terminal only.
pub fn passing(news: &str) {
    if stderr().is_terminal() {
        // Save the cursor, write, clear the rest of the line, back to the saved place.
        eprint!("\x1b7{news}\x1b[K\x1b8");
        let _ = stderr().flush();
    }
}

/// Prints a message of a long step to a log, where [`passing`] shows nothing.
pub fn milestone(news: &str) {
    if !stderr().is_terminal() {
        eprint!("{news} … ");
    }
}

/// Clears the message of [`passing`].
pub fn passed() {
    passing("");
}

/// A number with its digits in groups of three.
pub fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let first = digits.len() % 3;
    let mut text = digits[..first].to_string();
    for at in (first..digits.len()).step_by(3) {
        if !text.is_empty() {
            text.push(',');
        }
        text.push_str(&digits[at..at + 3]);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::grouped;

    #[test]
    fn groups() {
        let groups = [0, 12, 999, 1000, 65_536, 123_456, 1_234_567].map(grouped);
        assert_eq!(groups, ["0", "12", "999", "1,000", "65,536", "123,456", "1,234,567"]);
    }
}
