//! Names and lists.

pub mod cache;
mod name;
pub mod nss;
mod nss_helper;
mod table;
