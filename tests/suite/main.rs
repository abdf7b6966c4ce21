//! The suite: one binary, one module per chapter, one sentence per story. Harness and tools live in the library.
mod architecture;
