//! The words that hub, agent and CLI share: ids, desired state, reports, records, manifests, and the wire form of them.
//!
//! Domain files know nothing of tokio, tonic, SQL or time. `wire` converts between the generated code (`wire::pb`) and
//! the domain, and decides nothing. `daemon`, `tls`, `clock`, `error` and `manual` are what every program needs.
pub mod artifact;
pub mod clock;
pub mod daemon;
pub mod desired;
pub mod error;
pub mod flows;
pub mod ids;
pub mod manifest;
pub mod manual;
pub mod policy;
pub mod record;
pub mod report;
pub mod scale;
pub mod standin;
pub mod tls;
pub mod units;
pub mod wire;
