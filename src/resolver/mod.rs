//! Where names and lists are looked up.
//!
//! `client` asks the DNS from inside the event loop: [`Resolver`], the one most others here serve.
//! `nss` has the name service switch asked by processes of its own, for `-resolver=nss`. Both keep
//! what they learn in a `cache`.

mod cache;
mod channel;
mod channels;
mod client;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod name;
pub mod nss;
mod nss_helper;
mod packed;
mod queues;
mod reply;
mod sockets;
mod speed;
mod table;
#[cfg(test)]
mod tests;
mod waiting;

pub use client::{Counts, Finished, Resolver, Settings, Standing};
pub use name::text as question_text;
pub use reply::Failure;
pub use waiting::Waiters;
