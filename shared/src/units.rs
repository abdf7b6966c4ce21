//! Quantities as people write them: `500m` of a core, `2Gi` of memory. Parsed once, here.
