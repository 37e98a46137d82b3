//! couriertcpd: a TCP super-server for mail.
//!
//! Bytes and events come in at the edge and become plain values, a pure core decides, the edge
//! carries the decision out:
//!
//! `slot free -> accept -> PROXY header -> access record, limits -> lookups owed -> lookups done -> verdict -> spawn | refuse`
//!
//! - `startup` brings the process up in the order that the contract wants: `cli` reads the command
//!   line into a `config`, `daemon` goes to the background, holds the lock and drops privileges.
//! - `reactor` is the loop and owns all that lives in it: `listener`, `pending`, `lingering`, `children`.
//! - `policy` decides, without I/O: `access`, `limits`, `session` over `rdns` and `dnsbl`.
//! - `proxy`, `manager`, `resolver`, `ident`, `accessdb`, `spawn`, `signal`, `stderr` and `logger` are edges: they do one
//!   thing each, hand values back, and know neither each other nor the loop.
//! - `handover` is what one program passes to the next when the daemon is upgraded.
//! - `status` shows how the daemon does, `control` is the socket where it is asked.
//! - `log` is where every room but `policy` says what it has to say; `sys` has the bare system calls.
//! - `memory` keeps some back for the moment when there is no more.
//!
//! There is one thread, always, so forking is safe.

pub mod access_tool;
pub mod accessdb;
pub mod addr;
pub mod children;
pub mod cli;
pub mod config;
pub mod control;
pub mod daemon;
pub mod error;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod handover;
pub mod ident;
pub mod lingering;
pub mod listener;
pub mod log;
pub mod logger;
pub mod manager;
pub mod memory;
pub mod pending;
pub mod policy;
pub mod proxy;
pub mod reactor;
pub mod resolver;
pub mod signal;
pub mod spawn;
pub mod startup;
pub mod status;
pub mod stderr;
pub mod sys;
pub mod table;
pub mod text;
