//! How near two vectors are, and which few are the nearest. Pure.
use redforge_shared::record::Metric;

/// Nearness: greater is nearer. Cosine similarity, the product, or the negated distance.
pub fn score(metric: Metric, a: &[f32], b: &[f32]) -> f64 {
    let pairs = || a.iter().zip(b).map(|(x, y)| (f64::from(*x), f64::from(*y)));
    match metric {
        Metric::Dot => pairs().map(|(x, y)| x * y).sum(),
        Metric::L2 => -pairs().map(|(x, y)| (x - y) * (x - y)).sum::<f64>().sqrt(),
        Metric::Cosine => {
            let (dot, aa, bb) =
                pairs().fold((0.0, 0.0, 0.0), |(d, xx, yy), (x, y)| (d + x * y, xx + x * x, yy + y * y));
            let norm: f64 = aa * bb;
            // A vector of zeros points nowhere: it is like nothing.
            if norm > 0.0 { dot / norm.sqrt() } else { -1.0 }
        }
    }
}

/// The best few, best first. Equal scores keep the order of their keys, so that a search answers the same twice.
#[derive(Debug)]
pub struct Best<T> {
    limit: usize,
    kept: Vec<(f64, T)>,
}

impl<T: Ord> Best<T> {
    /// At most `limit`.
    pub fn new(limit: usize) -> Self {
        Self { limit, kept: Vec::with_capacity(limit + 1) }
    }

    /// Offers one.
    pub fn offer(&mut self, score: f64, item: T) {
        let full = self.kept.len() >= self.limit;
        if score.is_nan() || full && self.kept.last().is_none_or(|(worst, _)| score < *worst) {
            return;
        }
        let at = self.kept.partition_point(|(s, i)| score.total_cmp(s).then_with(|| i.cmp(&item)).is_lt());
        self.kept.insert(at, (score, item));
        self.kept.truncate(self.limit);
    }

    /// The best, best first.
    pub fn into_vec(self) -> Vec<(f64, T)> {
        self.kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn nearness_by_each_metric() {
        assert!((score(Metric::Cosine, &[1.0, 0.0], &[2.0, 0.0]) - 1.0).abs() < 1e-12);
        assert!((score(Metric::Dot, &[1.0, 2.0], &[3.0, 4.0]) - 11.0).abs() < 1e-12);
        assert!((score(Metric::L2, &[0.0, 0.0], &[3.0, 4.0]) + 5.0).abs() < 1e-12);
        assert!((score(Metric::Cosine, &[0.0], &[1.0]) + 1.0).abs() < 1e-12);
    }

    proptest! {
        #[test]
        fn the_best_are_those_that_sorting_finds(scores in proptest::collection::vec(-10..10_i32, 0..60), limit in 1..8_usize) {
            let mut best = Best::new(limit);
            for (i, s) in scores.iter().enumerate() {
                best.offer(f64::from(*s), i);
            }
            let mut sorted: Vec<(i32, usize)> = scores.iter().copied().enumerate().map(|(i, s)| (s, i)).collect();
            sorted.sort_by_key(|(s, i)| (-s, *i));
            let got: Vec<usize> = best.into_vec().into_iter().map(|(_, i)| i).collect();
            let want: Vec<usize> = sorted.into_iter().take(limit).map(|(_, i)| i).collect();
            prop_assert_eq!(got, want);
        }
    }
}
