//! The agents' door for records.
pub mod ingest;
