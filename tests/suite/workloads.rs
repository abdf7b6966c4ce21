//! Everything on a host is reconciled: what an operator, a flow author and a technician may count on.
mod artifacts;
mod changes;
mod dark;
mod doctor;
mod drift;
mod editor;
mod hostile;
mod hot_deploy;
mod kills;
mod modules;
mod out;
mod replicas;
mod rollback;
mod runtimes;
mod secrets;
mod site;
mod status_words;
