//! The decisions, without I/O, clock or process environment.
//!
//! The order of checks for one connection, each in a room of its own:
//! 1. `access`: the record of the access file, which may refuse;
//! 2. `limits`: `-maxperip` and `-maxperc`, before any lookup is made;
//! 3. `session`: the lookups it owes, host names (`rdns`), DNS lists (`dnsbl`) and ident;
//! 4. [`Session::verdict`](session::Session::verdict): refuse by `-drop`, or serve with an environment.

#![forbid(unsafe_code)]

pub mod access;
pub mod dnsbl;
pub mod env;
pub mod limits;
pub mod question;
pub mod rdns;
pub mod session;
#[cfg(any(test, fuzzing))]
pub(crate) mod testing;

use env::{Base, Delta};

/// What becomes of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Run the handler with the base environment and this.
    Serve(Delta),
    Refuse(Reason),
}

/// Why a connection is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// The access file's record says so.
    Denied,
    /// The access file could not be read, so nobody knows.
    AccessUnknown,
    /// `-maxperip`.
    PerAddress,
    /// `-maxperc`.
    PerBlock,
    /// `-drop`, by this variable.
    Dropped(Vec<u8>),
}

impl Reason {
    /// True if `-denymsg` is for this client.
    pub fn has_reply(&self) -> bool {
        matches!(self, Reason::Denied | Reason::Dropped(_))
    }
}

/// The connections that one address may have: MAXCPERIP where it begins with a positive number, else `-maxperip`.
/// As in the original, what follows the number is not looked at: records have been written that way.
pub fn max_per_ip(configured: u32, env: &Delta, base: &Base) -> u32 {
    let value = env.effective(b"MAXCPERIP", base).unwrap_or_default().trim_ascii_start();
    let value = value.strip_prefix(b"+").unwrap_or(value);
    let digits = value.iter().take_while(|b| b.is_ascii_digit());
    let number = digits.fold(0u32, |n, digit| n.saturating_mul(10).saturating_add(u32::from(digit - b'0')));
    if number > 0 { number } else { configured }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maxcperip_replaces_the_limit_only_if_it_is_a_positive_number() {
        for (inherited, record, expected) in [
            (None, None, 4),
            (Some("9"), None, 9),
            (Some("9"), Some("2"), 2),
            (None, Some("0"), 4),
            (None, Some("-3"), 4),
            (None, Some("many"), 4),
            (None, Some(" 7 of them"), 7),
            (None, Some("+3"), 3),
            (None, Some("+-3"), 4),
            (None, Some("99999999999"), u32::MAX),
            (None, Some(""), 4),
        ] {
            let base = Base::new(inherited.map(|v| ("MAXCPERIP", v)));
            let mut env = Delta::default();
            if let Some(value) = record {
                env.set(b"MAXCPERIP", value.as_bytes());
            }
            assert_eq!(max_per_ip(4, &env, &base), expected, "{inherited:?} {record:?}");
        }
    }
}
