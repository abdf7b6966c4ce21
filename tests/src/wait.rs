//! Waiting on conditions with deadlines: the only way a story lets time pass.
use std::{
    fmt::Debug,
    time::{Duration, Instant},
};

/// Long enough for a loaded machine with two cores; a story that needs it all is broken.
pub const DEADLINE: Duration = Duration::from_secs(90);

/// Asks `condition` until it answers `Ok`; panics with its last refusal after `deadline`.
pub async fn eventually_within<T, E: Debug>(
    deadline: Duration,
    what: &str,
    mut condition: impl AsyncFnMut() -> Result<T, E>,
) -> T {
    let began = Instant::now();
    loop {
        let refusal = match condition().await {
            Ok(value) => return value,
            Err(refusal) => refusal,
        };
        assert!(began.elapsed() < deadline, "not within {} s: {what}; last: {refusal:?}", deadline.as_secs());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// [`eventually_within`] the usual deadline.
pub async fn eventually<T, E: Debug>(what: &str, condition: impl AsyncFnMut() -> Result<T, E>) -> T {
    eventually_within(DEADLINE, what, condition).await
}

/// Asserts that something stays as it is for a while; the answer of `look` must not change.
pub async fn stays<T: PartialEq + Debug>(period: Duration, what: &str, mut look: impl AsyncFnMut() -> T) -> T {
    let began = Instant::now();
    let first = look().await;
    while began.elapsed() < period {
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(look().await, first, "{what} changed");
    }
    first
}

/// `Ok` when it holds, else the description of what was seen.
pub fn when(holds: bool, seen: impl Debug) -> Result<(), String> {
    if holds { Ok(()) } else { Err(format!("{seen:?}")) }
}
