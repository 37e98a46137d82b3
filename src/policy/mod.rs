//! The decisions, without I/O, clock or process environment.

#![forbid(unsafe_code)]

pub mod env;
pub mod question;
