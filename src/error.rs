//! Why the daemon could not start: one enum, one line of text for each.

#![forbid(unsafe_code)]

use std::fmt;
use std::io;
use std::path::PathBuf;

/// A failure before the daemon listens. `main` prints it as one line and exits with status 1.
#[derive(Debug)]
pub enum StartError {
    /// The command line; the text names the option.
    Usage(String),
    /// A file that could not be used; `doing` is what failed ("cannot open", "not a GDBM database").
    File { path: PathBuf, doing: &'static str, error: Option<io::Error> },
    /// An entry of LIST that could not be bound.
    Listen { entry: String, error: io::Error },
    /// `-user` or `-group` that names nobody.
    Unknown { option: &'static str, name: String },
    /// A system call that has no name the user gave.
    System { doing: &'static str, error: io::Error },
}

impl StartError {
    pub fn file(path: impl Into<PathBuf>, doing: &'static str, error: impl Into<io::Error>) -> Self {
        StartError::File { path: path.into(), doing, error: Some(error.into()) }
    }

    pub fn system(doing: &'static str, error: impl Into<io::Error>) -> Self {
        StartError::System { doing, error: error.into() }
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::Usage(text) => f.write_str(text),
            StartError::File { path, doing, error: Some(error) } => {
                write!(f, "{}: {doing}: {}", path.display(), errno_text(error))
            }
            StartError::File { path, doing, error: None } => write!(f, "{}: {doing}", path.display()),
            StartError::Listen { entry, error } => write!(f, "cannot listen on {entry}: {}", errno_text(error)),
            StartError::Unknown { option, name } => write!(f, "-{option}={name}: unknown {option}"),
            StartError::System { doing, error } => write!(f, "{doing}: {}", errno_text(error)),
        }
    }
}

impl std::error::Error for StartError {}

/// The system's text for an error, without Rust's "(os error N)" behind it.
pub fn errno_text(error: &io::Error) -> String {
    let text = error.to_string();
    match error.raw_os_error().and_then(|number| text.strip_suffix(&format!(" (os error {number})"))) {
        Some(plain) => plain.to_owned(),
        None => text,
    }
}
