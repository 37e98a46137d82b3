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
/// One piece of memory, with the strings as exec takes them: every served connection makes one.
#[derive(Default, Clone, PartialEq, Eq)]
pub struct Delta {
    /// Of each: the length of `NAME=VALUE` ([`LENGTH`] bytes), the text itself, and a NUL.
    packed: Vec<u8>,
}

/// Bytes of a length in [`Delta`].
const LENGTH: usize = size_of::<u32>();

impl Delta {
    /// Sets `name`, replacing an earlier assignment. A name has no `=` in it.
    pub fn set(&mut self, name: &[u8], value: &[u8]) {
        let (name, value) = (until_nul(name), until_nul(value));
        match self.find(name) {
            Some(text) => {
                self.packed.splice(text.start + name.len() + 1..text.end, value.iter().copied());
                self.note_length(text.start, name.len() + 1 + value.len());
            }
            None => {
                self.packed.reserve_exact(LENGTH + name.len() + value.len() + 2);
                self.append(name, |packed| packed.extend_from_slice(value));
            }
        }
    }

    /// Sets a name to an address or a number.
    pub fn set_shown(&mut self, name: &[u8], value: impl fmt::Display) {
        match self.find(name) {
            Some(_) => self.set(name, value.to_string().as_bytes()),
            // A Vec takes all that is written.
            None => self.append(name, |packed| drop(write!(packed, "{value}"))),
        }
    }

    fn append(&mut self, name: &[u8], write_value: impl FnOnce(&mut Vec<u8>)) {
        let start = self.packed.len() + LENGTH;
        self.packed.extend_from_slice(&[0; LENGTH]);
        self.packed.extend_from_slice(name);
        self.packed.push(b'=');
        write_value(&mut self.packed);
        self.note_length(start, self.packed.len() - start);
        self.packed.push(0);
    }

    /// `start`: where the text begins.
    fn note_length(&mut self, start: usize, length: usize) {
        let length = u32::try_from(length).expect("no variable has four gigabytes");
        self.packed[start - LENGTH..start].copy_from_slice(&length.to_ne_bytes());
    }

    /// Makes room for `bytes` more, where it is known how many will come.
    pub fn reserve(&mut self, bytes: usize) {
        self.packed.reserve_exact(bytes);
    }

    pub fn get(&self, name: &[u8]) -> Option<&[u8]> {
        self.find(name).map(|text| &self.packed[text.start + name.len() + 1..text.end])
    }

    fn find(&self, name: &[u8]) -> Option<Range<usize>> {
        self.places().find(|text| is_of(&self.packed[text.clone()], name))
    }

    /// The value that the handler would see: this connection's, else the inherited one.
    pub fn effective<'a>(&'a self, name: &[u8], base: &'a Base) -> Option<&'a [u8]> {
        self.get(name).or_else(|| base.get(name))
    }

    /// Where each `NAME=VALUE` stands, in order.
    fn places(&self) -> impl Iterator<Item = Range<usize>> + '_ {
        let mut next = 0;
        iter::from_fn(move || {
            let length: &[u8; LENGTH] = self.packed.get(next..)?.first_chunk()?;
            let start = next + LENGTH;
            let end = start + u32::from_ne_bytes(*length) as usize;
            next = end + 1;
            Some(start..end)
        })
    }

    fn texts(&self) -> impl Iterator<Item = &[u8]> {
        self.places().map(|text| &self.packed[text])
    }

    /// The assignments in order, as (name, value).
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.texts().map(|text| {
            let end = text.iter().position(|&b| b == b'=').unwrap_or(text.len());
            (&text[..end], text.get(end + 1..).unwrap_or_default())
        })
    }

    pub fn is_empty(&self) -> bool {
        self.packed.is_empty()
    }

    /// The whole environment for exec: the base without what is overridden, then the delta.
    pub fn envp<'a>(&'a self, base: &'a Base) -> impl Iterator<Item = &'a CStr> {
        // The base holds no connection variable, and most connections bring nothing else.
        let overrides = !self.texts().all(|text| CONNECTION_VARIABLES.iter().any(|name| is_of(text, name)));
        let kept = base.0.iter().filter(move |variable| !overrides || self.find(variable.name()).is_none());
        let own = self.places().filter_map(|text| CStr::from_bytes_with_nul(&self.packed[text.start..=text.end]).ok());
        kept.map(|variable| variable.text.as_c_str()).chain(own)
    }
}

/// True if `text` is an assignment to `name`.
fn is_of(text: &[u8], name: &[u8]) -> bool {
    text.get(name.len()) == Some(&b'=') && text.starts_with(name)
}

impl fmt::Debug for Delta {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.texts().map(String::from_utf8_lossy)).finish()
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

    #[test]
    fn values_are_replaced_in_place_whatever_their_length() {
        let mut delta = Delta::default();
        for (name, value) in [("A", "1"), ("AB", ""), ("B", "x=y"), ("A", "longer"), ("B", ""), ("AB", "2"), ("A", "")]
        {
            delta.set(name.as_bytes(), value.as_bytes());
        }
        delta.set_shown(b"B", 25);
        delta.set_shown(b"C", 110);
        let set: [(&[u8], &[u8]); 4] = [(b"A", b""), (b"AB", b"2"), (b"B", b"25"), (b"C", b"110")];
        assert_eq!(delta.iter().collect::<Vec<_>>(), set);
        for (name, value) in set {
            assert_eq!(delta.get(name), Some(value));
        }
        assert_eq!(delta.get(b""), None);
    }
}
