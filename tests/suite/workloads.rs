//! Everything on a host is reconciled: what an operator, a flow author and a technician may count on.
mod doctor;
mod out;
mod site;
