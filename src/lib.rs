//! couriertcpd: a TCP super-server for mail.

pub mod addr;
pub mod config;
pub mod daemon;
pub mod error;
pub mod policy;
pub mod signal;
pub mod spawn;
pub mod sys;
