//! How far a fetch is, as reports carry it and as people read it. Who fetches, and from where, is not known here.
use crate::units::human_bytes;
use serde::{Deserialize, Serialize};

/// How far a fetch is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// An image reference, a model's name, or a digest of the desired state.
    pub what: String,
    pub done_bytes: u64,
    /// 0 = not known yet.
    pub total_bytes: u64,
}

impl Progress {
    /// Whole per cent, 100 only when all is there; none while the total is not known.
    pub fn percent(&self) -> Option<u64> {
        let done = u128::from(self.done_bytes.min(self.total_bytes)) * 100;
        Some(done.checked_div(u128::from(self.total_bytes))? as u64)
    }
}

impl std::fmt::Display for Progress {
    /// `43% (812 MiB of 1.9 GiB)`; without a total only what is there.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let done = human_bytes(self.done_bytes);
        match self.percent() {
            None => f.write_str(&done),
            Some(percent) => write!(f, "{percent}% ({done} of {})", human_bytes(self.total_bytes)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_says_hundred_only_when_all_is_there() {
        let said = |done_bytes, total_bytes| Progress { what: "m".into(), done_bytes, total_bytes }.to_string();
        assert_eq!(said(812 << 20, 1945 << 20), "41% (812.0 MiB of 1.9 GiB)");
        assert_eq!(said(5, 0), "5 B");
        assert!(said(u64::MAX - 1, u64::MAX).starts_with("99% "));
        assert!(said(9, 9).starts_with("100% "));
        // What a hostile or confused peer says.
        assert!(said(u64::MAX, 1).starts_with("100% "));
    }
}
