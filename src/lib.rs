//! couriertcpd: a TCP super-server for mail.

pub mod addr;
pub mod config;
pub mod error;
pub mod ident;
pub mod policy;
pub mod resolver;
