//! Whole passes over an engine in memory and a real ledger.
