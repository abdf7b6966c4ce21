//! Spans of time as people type and read them. Pure.

/// Reads `90s`, `30m`, `2h`, `1d`, in seconds.
pub fn parse(text: &str) -> Result<u64, String> {
    let bad = || format!("'{text}' is not a span of time: write 90s, 30m, 2h or 1d");
    let unit = match text.chars().last() {
        Some('s') => 1,
        Some('m') => 60,
        Some('h') => 3_600,
        Some('d') => 86_400,
        _ => return Err(bad()),
    };
    let digits = &text[..text.len() - 1];
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(bad());
    }
    digits.parse::<u64>().ok().and_then(|n| n.checked_mul(unit)).ok_or_else(bad)
}

/// `7200` as `2 h`, `5400` as `1 h 30 min`.
pub fn words(seconds: u64) -> String {
    let parts = [(seconds / 86_400, "d"), (seconds / 3_600 % 24, "h"), (seconds / 60 % 60, "min"), (seconds % 60, "s")];
    let said: Vec<String> =
        parts.iter().filter(|(n, _)| *n > 0).take(2).map(|(n, unit)| format!("{n} {unit}")).collect();
    if said.is_empty() { "0 s".into() } else { said.join(" ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_read_and_said() {
        for (text, seconds, said) in [
            ("90s", 90, "1 min 30 s"),
            ("30m", 1_800, "30 min"),
            ("2h", 7_200, "2 h"),
            ("1d", 86_400, "1 d"),
            ("0s", 0, "0 s"),
        ] {
            assert_eq!(parse(text), Ok(seconds), "{text}");
            assert_eq!(words(seconds), said);
        }
        for bad in ["", "5", "h", "-1s", "1.5h", "+2h", "2 h", "99999999999999999999d", "9999999999999999999d", "2ä"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
