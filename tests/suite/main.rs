//! The suite: one binary, one module per chapter, one sentence per story. Harness and tools live in the library.
//!
//! Stories that need Docker begin with `docker_`, those that need an engine or a file system of their own with `engine_`.
mod architecture;
mod bad_input;
mod deploy;
mod doors;
mod enrollment;
mod fence;
mod offline;
mod operators;
mod records;
mod words;
mod workloads;
