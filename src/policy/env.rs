//! The handler's environment: a base snapshot taken once at start, and what one connection adds.
//!
//! A [`Delta`] is an ordered set of assignments; a later one of the same name replaces the earlier
//! in place. The process environment itself is never read or changed here.

#![forbid(unsafe_code)]

use std::ffi::{CStr, CString};

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

/// One `NAME=VALUE`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Assignment {
    /// `NAME=VALUE`, as exec takes it.
    text: CString,
    name_length: usize,
}

impl Assignment {
    /// Bytes from a NUL on are dropped: the environment cannot hold them.
    fn new(name: &[u8], value: &[u8]) -> Self {
        let until_nul = |bytes: &[u8]| bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
        let name = &name[..until_nul(name)];
        let value = &value[..until_nul(value)];
        let text = [name, b"=", value].concat();
        Assignment { text: CString::new(text).expect("cut off at the first NUL above"), name_length: name.len() }
    }

    fn name(&self) -> &[u8] {
        &self.text.as_bytes()[..self.name_length]
    }

    fn value(&self) -> &[u8] {
        &self.text.as_bytes()[self.name_length + 1..]
    }
}

/// The daemon's environment at its start, less [`CONNECTION_VARIABLES`] and [`MANAGER_VARIABLES`].
#[derive(Debug, Default)]
pub struct Base(Vec<Assignment>);

impl Base {
    pub fn new<N: AsRef<[u8]>, V: AsRef<[u8]>>(variables: impl IntoIterator<Item = (N, V)>) -> Self {
        Base(
            variables
                .into_iter()
                .filter(|(name, _)| {
                    !CONNECTION_VARIABLES.contains(&name.as_ref()) && !MANAGER_VARIABLES.contains(&name.as_ref())
                })
                .map(|(name, value)| Assignment::new(name.as_ref(), value.as_ref()))
                .collect(),
        )
    }

    pub fn get(&self, name: &[u8]) -> Option<&[u8]> {
        self.0.iter().find(|a| a.name() == name).map(Assignment::value)
    }
}

/// What one connection adds to the base, or overrides in it.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Delta(Vec<Assignment>);

impl Delta {
    /// Sets `name`, replacing an earlier assignment.
    pub fn set(&mut self, name: &[u8], value: &[u8]) {
        let assignment = Assignment::new(name, value);
        match self.0.iter_mut().find(|a| a.name() == assignment.name()) {
            Some(old) => *old = assignment,
            None => self.0.push(assignment),
        }
    }

    pub fn get(&self, name: &[u8]) -> Option<&[u8]> {
        self.0.iter().find(|a| a.name() == name).map(Assignment::value)
    }

    /// The value that the handler would see: this connection's, else the inherited one.
    pub fn effective<'a>(&'a self, name: &[u8], base: &'a Base) -> Option<&'a [u8]> {
        self.get(name).or_else(|| base.get(name))
    }

    /// The assignments in order, as (name, value).
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.0.iter().map(|a| (a.name(), a.value()))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The whole environment for exec: the base without what is overridden, then the delta.
    pub fn envp<'a>(&'a self, base: &'a Base) -> Vec<&'a CStr> {
        let mut envp = Vec::with_capacity(base.0.len() + self.0.len());
        envp.extend(base.0.iter().filter(|a| self.get(a.name()).is_none()).map(|a| a.text.as_c_str()));
        envp.extend(self.0.iter().map(|a| a.text.as_c_str()));
        envp
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
        let envp: Vec<_> = delta.envp(&base).into_iter().map(|v| v.to_str().unwrap().to_owned()).collect();
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
