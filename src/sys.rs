//! System calls that nix lacks, each behind a safe function.
//!
//! Any room may call these; they log nothing and keep no state.

use std::ffi::CString;

/// The TCP port that the services database gives for a name.
pub fn service_port(name: &str) -> Option<u16> {
    let name = CString::new(name).ok()?;
    // SAFETY: both arguments are NUL-terminated strings that outlive the call; the answer lies in
    // static memory that nobody else writes, since the program has one thread.
    let entry = unsafe { libc::getservbyname(name.as_ptr(), c"tcp".as_ptr()) };
    // SAFETY: NULL or an entry that stays valid until the next call of the getserv family; the
    // port is copied out here.
    let port = unsafe { entry.as_ref() }?.s_port;
    // The low 16 bits of s_port are the port in network byte order.
    Some(u16::from_be(port as u16)).filter(|&port| port != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_are_found_by_name() {
        assert_eq!(service_port("smtp"), Some(25));
        assert_eq!(service_port("no-such-service"), None);
        assert_eq!(service_port("sm\0tp"), None);
    }
}
