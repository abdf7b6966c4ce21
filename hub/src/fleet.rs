//! The hub's decisions, pure: who may enroll, what a host should run, what an agent must be sent, how alive a link is.
//!
//! No I/O, no clock, no randomness, no logging: everything comes in as values and goes out as values.
pub mod delivery;
pub mod enroll;
pub mod liveness;
pub mod render;
pub mod runtimes;
