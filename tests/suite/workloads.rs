//! Everything on a host is reconciled: what an operator, a flow author and a technician may count on.
mod changes;
mod dark;
mod doctor;
mod kills;
mod out;
mod replicas;
mod rollback;
mod site;
mod status_words;
