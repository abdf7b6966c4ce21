//! "Did you mean": the nearest live name to one that was not found, or else the names there are.
use crate::failure::{Exit, Failure};

/// So many names are told where none is near.
const TOLD: usize = 5;

/// Adds the nearest of `names`, else the first few of them, to a failure of kind not-found.
pub fn nearest(failure: Failure, typed: &str, names: impl IntoIterator<Item = String>) -> Failure {
    if failure.exit != Exit::NotFound {
        return failure;
    }
    let names: Vec<String> = names.into_iter().collect();
    let scored = names.iter().map(|n| (distance(typed, n), n));
    match scored.min().filter(|(d, _)| *d <= 1 + typed.len() / 4) {
        Some((_, name)) => failure.hint(format!("did you mean '{name}'?")),
        None if names.is_empty() => failure,
        None => {
            let more = if names.len() > TOLD { format!(" and {} more", names.len() - TOLD) } else { String::new() };
            failure.hint(format!("there is: {}{more}", names[..names.len().min(TOLD)].join(", ")))
        }
    }
}

/// Edits between two names (Levenshtein); both are short.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().take(128).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().take(128).enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_near_names_are_suggested() {
        let names = || ["press-1", "press-14", "oven"].map(str::to_owned);
        let f = nearest(Failure::new(Exit::NotFound, "x"), "pres-1", names());
        assert_eq!(f.hints, ["did you mean 'press-1'?"]);
        let f = nearest(Failure::new(Exit::NotFound, "x"), "warehouse", names());
        assert_eq!(f.hints, ["there is: press-1, press-14, oven"]);
        let many = (0..7).map(|n| format!("press-{n}"));
        let f = nearest(Failure::new(Exit::NotFound, "x"), "warehouse", many);
        assert_eq!(f.hints, ["there is: press-0, press-1, press-2, press-3, press-4 and 2 more"]);
        assert!(nearest(Failure::new(Exit::NotFound, "x"), "warehouse", []).hints.is_empty());
        assert!(nearest(Failure::error("x"), "pres-1", names()).hints.is_empty());
        assert_eq!(distance("kitten", "sitting"), 3);
    }
}
