//! `couriertcpd-access`: makes, checks, asks and compares access files.
pub mod diff;
pub mod dump;
pub mod load;
pub mod makedat;
pub mod place;
pub mod problem;
pub mod progress;
pub mod query;
pub mod record;
pub mod source;
pub mod table;
pub mod write;
