//! `couriertcpd-access`: makes, checks, asks and compares access files.
pub mod place;
pub mod problem;
pub mod record;
pub mod source;
pub mod table;
