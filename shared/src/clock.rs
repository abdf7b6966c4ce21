//! Time as a parameter: what decides by time asks a `Clock`, so that a test can be the clock.
use std::{
    fmt,
    sync::{Arc, Mutex},
    time::Duration,
};
use time::OffsetDateTime;

/// Wall time. Order never depends on it; it is data, and it may jump.
pub trait Clock: Send + Sync + fmt::Debug {
    /// Now, in UTC.
    fn now(&self) -> OffsetDateTime;
}

/// The machine's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the one place that asks the machine")]
    fn now(&self) -> OffsetDateTime {
        OffsetDateTime::now_utc()
    }
}

/// A clock that a test moves.
#[derive(Clone, Debug)]
pub struct ManualClock(Arc<Mutex<OffsetDateTime>>);

impl ManualClock {
    /// A clock that stands at `at`.
    pub fn new(at: OffsetDateTime) -> Self {
        Self(Arc::new(Mutex::new(at)))
    }

    /// Moves the clock on.
    pub fn advance(&self, by: Duration) {
        let mut now = self.0.lock().expect("a clock's lock is never held across a panic");
        *now += by;
    }

    /// Puts the clock anywhere, backwards too.
    pub fn set(&self, at: OffsetDateTime) {
        *self.0.lock().expect("a clock's lock is never held across a panic") = at;
    }
}

impl Clock for ManualClock {
    fn now(&self) -> OffsetDateTime {
        *self.0.lock().expect("a clock's lock is never held across a panic")
    }
}

/// The clock that everybody holds.
pub type SharedClock = Arc<dyn Clock>;
