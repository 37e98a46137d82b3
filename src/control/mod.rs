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

use crate::status::Form;

/// The longest request, its newline included.
const REQUEST_MAX: usize = 64;

/// What can be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    Status(Form),
}

impl Request {
    fn parse(line: &[u8]) -> Option<Self> {
        let mut words = line.split(|&byte| byte == b' ');
        let request = match words.next()? {
            b"status" => Request::Status(Form::from_name(words.next()?)?),
            _ => return None,
        };
        words.next().is_none().then_some(request)
    }

    fn line(self) -> String {
        match self {
            Request::Status(form) => format!("status {}\n", form.name()),
        }
    }
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
        for (_, form) in Form::ALL {
            let request = Request::Status(form);
            let line = request.line();
            assert!(line.len() <= REQUEST_MAX);
            assert_eq!(Request::parse(line.trim_end().as_bytes()), Some(request));
        }
        for line in ["", "status", "status xml", "status json ", "status json json", "STATUS json", "stat", "\0"] {
            assert_eq!(Request::parse(line.as_bytes()), None, "{line}");
        }
    }
}
