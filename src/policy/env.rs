//! The handler's environment: a base snapshot taken once at start, and what one connection adds.
//!
//! A [`Delta`] is an ordered set of assignments; a later one of the same name replaces the earlier
//! in place. The process environment itself is never read or changed here.

#![forbid(unsafe_code)]

use std::ffi::{CStr, CString};
use std::fmt;
use std::io::Write as _;
use std::iter;
use std::ops::Range;

/// The variables that describe a connection. The daemon's own never reach a handler.
pub const CONNECTION_VARIABLES: [&[u8]; 13] = [
    b"TCPLOCALIP",
    b"TCPLOCALPORT",
    b"TCPLOCALHOST",
    b"TCPREMOTEIP",
    b"TCPREMOTEPORT",
    b"TCPREMOTEHOST",
    b"TCPREMOTEINFO",
    b"TCPPROXYIP",
    b"TCPPROXYPORT",
    b"PROXY_TLS",
    b"PROXY_SNI",
    b"PROXY_ALPN",
    b"PROXY_UNIQUE_ID",
];

/// What a service manager, or the program before at an upgrade, says to the daemon alone. It does not
/// reach a handler either: one that is a service itself would take it as said to it.
pub const MANAGER_VARIABLES: [&[u8]; 8] = [
    crate::handover::VARIABLE.as_bytes(),
    b"LISTEN_PID",
    b"LISTEN_PIDFDID",
    b"LISTEN_FDS",
    b"LISTEN_FDNAMES",
    b"NOTIFY_SOCKET",
    b"WATCHDOG_PID",
    b"WATCHDOG_USEC",
];

/// One variable of the base.
#[derive(Debug)]
struct Inherited {
    /// `NAME=VALUE`, as exec takes it.
    text: CString,
    name_length: usize,
}

impl Inherited {
    fn new(name: &[u8], value: &[u8]) -> Self {
        let (name, value) = (until_nul(name), until_nul(value));
        let text = [name, b"=", value].concat();
        Inherited { text: CString::new(text).expect("cut off at the first NUL"), name_length: name.len() }
    }

    fn name(&self) -> &[u8] {
        &self.text.as_bytes()[..self.name_length]
    }

    fn value(&self) -> &[u8] {
        &self.text.as_bytes()[self.name_length + 1..]
    }
}

/// Bytes from a NUL on are dropped: the environment cannot hold them.
fn until_nul(bytes: &[u8]) -> &[u8] {
    let end = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
    &bytes[..end]
}

/// The daemon's environment at its start, less [`CONNECTION_VARIABLES`] and [`MANAGER_VARIABLES`].
#[derive(Debug, Default)]
pub struct Base(Vec<Inherited>);

impl Base {
    pub fn new<N: AsRef<[u8]>, V: AsRef<[u8]>>(variables: impl IntoIterator<Item = (N, V)>) -> Self {
        Base(
            variables
                .into_iter()
                .filter(|(name, _)| {
                    !CONNECTION_VARIABLES.contains(&name.as_ref()) && !MANAGER_VARIABLES.contains(&name.as_ref())
                })
                .map(|(name, value)| Inherited::new(name.as_ref(), value.as_ref()))
                .collect(),
        )
    }

    pub fn get(&self, name: &[u8]) -> Option<&[u8]> {
        self.0.iter().find(|variable| variable.name() == name).map(Inherited::value)
    }

    /// Variables in it.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// What one connection adds to the base, or overrides in it.
///
/// One piece of memory, as exec takes the strings: every served connection makes one.
#[derive(Default, Clone, PartialEq, Eq)]
pub struct Delta {
    /// `NAME=VALUE` and a NUL, of each.
    text: Vec<u8>,
}

impl Delta {
    /// Sets `name`, replacing an earlier assignment. A name has no `=` in it.
    pub fn set(&mut self, name: &[u8], value: &[u8]) {
        let (name, value) = (until_nul(name), until_nul(value));
        match self.place(name) {
            Some(place) => {
                self.text.splice(place, value.iter().copied());
            }
            None => {
                self.text.reserve_exact(name.len() + value.len() + 2);
                self.text.extend_from_slice(name);
                self.text.push(b'=');
                self.text.extend_from_slice(value);
                self.text.push(0);
            }
        }
    }

    /// [`Delta::set`] to what `value` shows.
    pub fn set_shown(&mut self, name: &[u8], value: impl fmt::Display) {
        if self.place(name).is_some() {
            return self.set(name, value.to_string().as_bytes());
        }
        self.text.extend_from_slice(name);
        // A Vec takes all that is written.
        let _ = write!(self.text, "={value}");
        self.text.push(0);
    }

    /// Makes room for `bytes` more, where it is known how many will come.
    pub fn reserve(&mut self, bytes: usize) {
        self.text.reserve_exact(bytes);
    }

    pub fn get(&self, name: &[u8]) -> Option<&[u8]> {
        self.place(name).map(|place| &self.text[place])
    }

    /// Where in `text` the value of `name` stands.
    fn place(&self, name: &[u8]) -> Option<Range<usize>> {
        let mut start = 0;
        for text in self.texts() {
            let length = text.count_bytes();
            if let Some(rest) = text.to_bytes().strip_prefix(name) {
                if rest.first() == Some(&b'=') {
                    return Some(start + name.len() + 1..start + length);
                }
            }
            start += length + 1;
        }
        None
    }

    /// The value that the handler would see: this connection's, else the inherited one.
    pub fn effective<'a>(&'a self, name: &[u8], base: &'a Base) -> Option<&'a [u8]> {
        self.get(name).or_else(|| base.get(name))
    }

    /// Each `NAME=VALUE`, in order.
    fn texts(&self) -> impl Iterator<Item = &CStr> {
        let mut rest = self.text.as_slice();
        iter::from_fn(move || {
            let text = CStr::from_bytes_until_nul(rest).ok()?;
            rest = &rest[text.count_bytes() + 1..];
            Some(text)
        })
    }

    /// The assignments in order, as (name, value).
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.texts().map(|text| {
            let text = text.to_bytes();
            let end = text.iter().position(|&b| b == b'=').unwrap_or(text.len());
            (&text[..end], text.get(end + 1..).unwrap_or_default())
        })
    }

    pub fn is_empty(&self) -> bool {
        self.text.is_empty()
    }

    /// The whole environment for exec: the base without what is overridden, then the delta.
    pub fn envp<'a>(&'a self, base: &'a Base) -> impl Iterator<Item = &'a CStr> {
        // The base holds no connection variable, and most connections bring nothing else.
        let overrides = self.iter().any(|(name, _)| !CONNECTION_VARIABLES.contains(&name));
        let kept = base.0.iter().filter(move |variable| !overrides || self.place(variable.name()).is_none());
        kept.map(|variable| variable.text.as_c_str()).chain(self.texts())
    }
}

impl fmt::Debug for Delta {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.texts()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base() -> Base {
        Base::new([
            ("PATH", "/bin"),
            ("TCPREMOTEHOST", "stale.example"),
            ("NOTIFY_SOCKET", "/run/x"),
            ("PROXY_TLS", "yes"),
            ("BLOCK", ""),
        ])
    }

    #[test]
    fn stale_connection_variables_are_left_out() {
        for name in ["TCPREMOTEHOST", "NOTIFY_SOCKET", "PROXY_TLS"] {
            assert_eq!(base().get(name.as_bytes()), None, "{name}");
        }
        assert_eq!(base().get(b"PATH"), Some(&b"/bin"[..]));
    }

    #[test]
    fn a_delta_overrides_the_base_and_itself() {
        let base = base();
        let mut delta = Delta::default();
        delta.set(b"A", b"1");
        delta.set(b"PATH", b"/sbin");
        delta.set(b"A", b"2");
        let envp: Vec<_> = delta.envp(&base).map(|v| v.to_str().unwrap().to_owned()).collect();
        assert_eq!(envp, ["BLOCK=", "A=2", "PATH=/sbin"]);
        assert_eq!(delta.effective(b"BLOCK", &base), Some(&b""[..]));
        assert_eq!(delta.effective(b"PATH", &base), Some(&b"/sbin"[..]));
        assert_eq!(delta.effective(b"NONE", &base), None);
    }

    #[test]
    fn nul_ends_names_and_values() {
        let mut delta = Delta::default();
        delta.set(b"A\0B", b"x\0y");
        assert_eq!(delta.iter().collect::<Vec<_>>(), [(&b"A"[..], &b"x"[..])]);
    }
}
