//! The YAML kinds that operators write: Site, FlowSet, Instance (`apiVersion: redforge.io/v1`).
