//! Records arrive exactly once, whatever dies on the way; and a search finds what was meant.
mod controls;
mod faults;
mod kills;
mod search;
