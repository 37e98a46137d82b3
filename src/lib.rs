//! couriertcpd: a TCP super-server for mail.

pub mod accessdb;
pub mod addr;
pub mod cli;
pub mod config;
pub mod daemon;
pub mod error;
pub mod ident;
pub mod listener;
pub mod log;
pub mod logger;
pub mod policy;
pub mod resolver;
pub mod signal;
pub mod spawn;
pub mod stderr;
pub mod sys;
pub mod table;
