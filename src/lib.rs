//! couriertcpd: a TCP super-server for mail.

pub mod accessdb;
pub mod addr;
pub mod children;
pub mod cli;
pub mod config;
pub mod daemon;
pub mod error;
pub mod ident;
pub mod lingering;
pub mod listener;
pub mod log;
pub mod logger;
pub mod pending;
pub mod policy;
pub mod reactor;
pub mod resolver;
pub mod signal;
pub mod spawn;
pub mod startup;
pub mod stderr;
pub mod sys;
pub mod table;
