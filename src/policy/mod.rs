//! The decisions, without I/O, clock or process environment.

#![forbid(unsafe_code)]

pub mod access;
pub mod env;
pub mod question;
