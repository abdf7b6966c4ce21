//! The doors as a careless or hostile peer finds them, spoken to by hand over real gRPC: what breaks a rule is refused by
//! name and leaves nothing behind.
mod flow_sets;
mod upload;
