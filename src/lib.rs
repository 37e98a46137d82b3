//! couriertcpd: a TCP super-server for mail.

pub mod accessdb;
pub mod addr;
pub mod config;
pub mod error;
pub mod policy;
