//! couriertcpd: a TCP super-server for mail.

pub mod addr;
pub mod cli;
pub mod config;
pub mod error;
pub mod listener;
pub mod policy;
pub mod reactor;
pub mod sys;
pub mod table;
