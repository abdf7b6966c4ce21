//! Prints an error and its causes once, on one line, where it is handled.
use std::{error::Error, fmt};

/// `error: cause: cause of the cause`. A cause that an error of a library has named itself is not named again.
pub struct Chain<'a>(pub &'a (dyn Error + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut said = self.0.to_string();
        f.write_str(&said)?;
        let mut cause = self.0.source();
        while let Some(e) = cause {
            let text = e.to_string();
            if !said.ends_with(&text) {
                write!(f, ": {text}")?;
                said = text;
            }
            cause = e.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Said(&'static str, #[source] Option<Box<Said>>);

    fn chain(texts: &[&'static str]) -> String {
        let error = texts.iter().rev().fold(None, |cause, text| Some(Box::new(Said(text, cause))));
        Chain(&*error.expect("texts")).to_string()
    }

    #[test]
    fn every_cause_is_named_once() {
        assert_eq!(chain(&["landing failed", "no answer", "broken pipe"]), "landing failed: no answer: broken pipe");
        assert_eq!(
            chain(&["landing failed", "no answer: broken pipe", "broken pipe"]),
            "landing failed: no answer: broken pipe"
        );
        assert_eq!(chain(&["full", "the disk is full", "errno 28"]), "full: the disk is full: errno 28");
    }
}
