//! The control socket: one request a connection, one reply, to those who may ask.
//!
//! `server` is the daemon's side and lives in the loop; `client` is that of the verbs. A request is
//! one line. The reply begins with a line, `ok LENGTH` or `error TEXT`; after `ok` so many bytes
//! follow, so that a reply that was cut off is known as such. Who asks must be root or the user that
//! the daemon runs as; the mode of the socket says so first, and the kernel is asked again.

#![forbid(unsafe_code)]

pub mod client;
pub mod server;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::status::Form;

/// The longest request, its newline included.
const REQUEST_MAX: usize = 64;

/// What can be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    Status(Form),
    /// End when all is done; the most that it may take.
    Drain(Option<Duration>),
    /// Execute the program anew.
    Upgrade,
}

impl Request {
    pub(crate) fn parse(line: &[u8]) -> Option<Self> {
        let mut words = line.split(|&byte| byte == b' ');
        let request = match words.next()? {
            b"status" => Request::Status(Form::from_name(words.next()?)?),
            b"upgrade" => Request::Upgrade,
            b"drain" => match words.next() {
                None => Request::Drain(None),
                Some(limit) => Request::Drain(Some(seconds(limit)?)),
            },
            _ => return None,
        };
        words.next().is_none().then_some(request)
    }

    pub(crate) fn line(self) -> String {
        match self {
            Request::Status(form) => format!("status {}\n", form.name()),
            Request::Upgrade => "upgrade\n".to_owned(),
            Request::Drain(None) => "drain\n".to_owned(),
            Request::Drain(Some(limit)) => format!("drain {}\n", limit.as_secs()),
        }
    }
}

fn seconds(word: &[u8]) -> Option<Duration> {
    std::str::from_utf8(word).ok()?.parse::<u32>().ok().map(|seconds| Duration::from_secs(seconds.into()))
}

/// Where the control socket is without `-control`: beside the pid file.
pub fn default_path(pid_file: &Path) -> PathBuf {
    let mut path = OsString::from(pid_file);
    path.push(".ctl");
    path.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_come_out_as_they_went_in() {
        let drains = [None, Some(0), Some(u32::MAX)].map(|s| Request::Drain(s.map(|s| Duration::from_secs(s.into()))));
        for request in
            Form::ALL.map(|(_, form)| Request::Status(form)).into_iter().chain(drains).chain([Request::Upgrade])
        {
            let line = request.line();
            assert!(line.len() <= REQUEST_MAX);
            assert_eq!(Request::parse(line.trim_end().as_bytes()), Some(request));
        }
        for line in [
            "",
            "status",
            "status xml",
            "status json ",
            "status json json",
            "STATUS json",
            "stat",
            "\0",
            "drain ",
            "drain -1",
            "drain 1 2",
        ] {
            assert_eq!(Request::parse(line.as_bytes()), None, "{line}");
        }
    }
}
