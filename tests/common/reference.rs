//! The two programs that a test can run: ours, and the reference of Debian's `courier-base`.
//!
//! `make check` unpacks the reference to `target/reference/root`; TCPD_REFERENCE names another
//! place. Without it the differential tests say what they skip.

use std::path::PathBuf;
use std::process::Command;

/// Which program is under test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    Ours,
    Theirs,
}

impl Program {
    /// Ours; with TCPD_UNDER_TEST=theirs the reference, which shows that a test can fail, and on
    /// which the tests of what the reference does too pass.
    pub fn under_test() -> Program {
        match std::env::var("TCPD_UNDER_TEST") {
            Ok(name) if name == "theirs" => Program::Theirs,
            _ => Program::Ours,
        }
    }

    /// The path of the program; None: the reference is not here.
    pub fn path(self) -> Option<PathBuf> {
        match self {
            Program::Ours => Some(env!("CARGO_BIN_EXE_couriertcpd").into()),
            Program::Theirs => root().map(|root| root.join("usr/sbin/couriertcpd")),
        }
    }

    /// What the program needs in its environment to run at all.
    pub fn environment(self) -> Vec<(&'static str, PathBuf)> {
        match self {
            Program::Ours => Vec::new(),
            Program::Theirs => vec![("LD_LIBRARY_PATH", libraries().expect("the reference is here"))],
        }
    }
}

/// Where the reference is unpacked.
pub fn root() -> Option<PathBuf> {
    let root = match std::env::var_os("TCPD_REFERENCE") {
        Some(path) => PathBuf::from(path),
        None => PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/reference/root"),
    };
    root.join("usr/sbin/couriertcpd").exists().then_some(root)
}

/// The directory of its libidn12.
fn libraries() -> Option<PathBuf> {
    let lib = root()?.join("usr/lib");
    let directories = std::fs::read_dir(lib).ok()?.flatten().map(|entry| entry.path());
    directories.into_iter().find(|directory| directory.join("libidn.so.12").exists())
}

/// Its program that writes GDBM files.
pub fn makedatprog() -> Option<Command> {
    let path = root()?.join("usr/lib/courier/courier/makedatprog");
    let mut command = Command::new(path.exists().then_some(path)?);
    command.env("LD_LIBRARY_PATH", libraries()?);
    Some(command)
}
