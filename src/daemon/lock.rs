//! The lock that says a daemon runs, and the file that says which process it is.
//!
//! FILE.lock is held by an fcntl write lock on the whole file; `courierlogger` and Courier's own
//! `couriertcpd` do the same and can be told apart by nothing. Such a lock belongs to one process,
//! is not inherited, and is lost when the process closes any descriptor of the file: it is taken in
//! the process that stays, and FILE.lock is opened there once and never again.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::mem;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::unistd::{Pid, getpid};

use crate::error::StartError;
use crate::sys::Process;

/// The held lock; it ends with the process, or when this is dropped.
#[derive(Debug)]
pub struct Lock {
    pid_file: PathBuf,
    /// Owns the lock.
    file: File,
}

/// How long the lock of a process that has ended may take to become free.
const RELEASE_PATIENCE: Duration = Duration::from_secs(10);

const POLL_INTERVAL: Duration = Duration::from_millis(2);

/// True if there is no such process, or it only waits to be reaped.
fn has_ended(pid: Pid) -> bool {
    Process::open(pid).is_none_or(|process| process.wait_end(Duration::ZERO, || false))
}

/// The outcome of [`Lock::acquire`].
#[derive(Debug)]
pub enum Acquired {
    Ours(Lock),
    /// Another process has it; none if it has no number here.
    Held(Option<Pid>),
}

impl Lock {
    /// Takes the lock of `pid_file`, or says who has it. Does not wait for one who runs. EAGAIN: whoever had it has
    /// ended, and the lock is not free after [`RELEASE_PATIENCE`].
    pub fn acquire(pid_file: &Path) -> Result<Acquired, StartError> {
        let path = lock_path(pid_file);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&path)
            .map_err(|error| StartError::file(&path, "cannot open", error))?;
        let end = Instant::now() + RELEASE_PATIENCE;
        loop {
            let errno = match fcntl(&file, FcntlArg::F_SETLK(&whole_file())) {
                Ok(_) => return Ok(Acquired::Ours(Lock { pid_file: pid_file.to_owned(), file })),
                Err(errno) => errno,
            };
            let is_held = matches!(errno, Errno::EAGAIN | Errno::EACCES);
            match holder(&file).ok().filter(|_| is_held) {
                Some(Holder::Elsewhere) => return Ok(Acquired::Held(None)),
                Some(Holder::Process(pid)) if !has_ended(pid) => return Ok(Acquired::Held(Some(pid))),
                // Given up just now; or by one who was killed while it started a program: until that has descriptors
                // of its own, it shares those of the dead, and with them the lock.
                Some(_) if Instant::now() < end => thread::sleep(POLL_INTERVAL),
                _ => return Err(StartError::file(&path, "cannot lock", errno)),
            }
        }
    }

    /// The lock that the program before this one took in this process.
    pub fn take_on(pid_file: &Path, file: OwnedFd) -> Result<Self, StartError> {
        match fcntl(&file, FcntlArg::F_SETLK(&whole_file())) {
            Ok(_) => Ok(Lock { pid_file: pid_file.to_owned(), file: file.into() }),
            Err(errno) => Err(StartError::file(lock_path(pid_file), "cannot keep the lock", errno)),
        }
    }

    /// Its descriptor, for [`Lock::take_on`].
    pub fn descriptor(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    /// Writes FILE: this process' number and a newline. It appears whole, in place of whatever
    /// file or symbolic link had the name; a device or a directory is left alone.
    pub fn write_pid_file(&self) -> Result<PidFile, StartError> {
        let path = &self.pid_file;
        let failed = |error: io::Error| StartError::file(path, "cannot write", error);
        match fs::symlink_metadata(path) {
            Ok(found) if found.is_dir() => return Err(failed(Errno::EISDIR.into())),
            Ok(found) if !found.is_file() && !found.is_symlink() => {
                return Err(StartError::File { path: path.clone(), doing: "is no regular file", error: None });
            }
            _ => {}
        }
        // The lock is ours, so whatever has this name is left over from a crash.
        let draft = with_suffix(path, ".tmp");
        let _ = fs::remove_file(&draft);
        let written = write_draft(&draft, path);
        if written.is_err() {
            let _ = fs::remove_file(&draft);
        }
        let file = written.map_err(failed)?;
        Ok(PidFile { path: path.clone(), file })
    }
}

fn write_draft(draft: &Path, path: &Path) -> io::Result<File> {
    let mut file =
        OpenOptions::new().write(true).create_new(true).mode(0o644).custom_flags(libc::O_NOFOLLOW).open(draft)?;
    file.write_all(format!("{}\n", getpid()).as_bytes())?;
    fs::rename(draft, path)?;
    Ok(file)
}

/// FILE as this process wrote it.
#[derive(Debug)]
pub struct PidFile {
    path: PathBuf,
    file: File,
}

impl PidFile {
    /// The one that the program before this one wrote.
    pub fn take_on(path: &Path, file: OwnedFd) -> Self {
        PidFile { path: path.to_owned(), file: file.into() }
    }

    /// Its descriptor, for [`PidFile::take_on`].
    pub fn descriptor(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    /// Removes FILE at a clean end, if it still is the one that was written. After `-user` the
    /// directory may no longer be ours to change: then FILE is emptied, so that it names nobody.
    pub fn remove(self) {
        let ours = |found: &fs::Metadata| {
            self.file.metadata().is_ok_and(|written| (written.dev(), written.ino()) == (found.dev(), found.ino()))
        };
        if fs::symlink_metadata(&self.path).is_ok_and(|found| ours(&found)) && fs::remove_file(&self.path).is_err() {
            // A stale FILE misleads nobody who asks the lock.
            let _ = self.file.set_len(0);
        }
    }
}

/// Who has the lock of an open FILE.lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Holder {
    Nobody,
    Process(Pid),
    /// A process that has no number here: on another host, or outside our pid namespace.
    Elsewhere,
}

pub(super) fn holder(lock_file: &File) -> Result<Holder, Errno> {
    let mut lock = whole_file();
    fcntl(lock_file, FcntlArg::F_GETLK(&mut lock))?;
    Ok(match lock.l_pid {
        _ if i32::from(lock.l_type) == libc::F_UNLCK => Holder::Nobody,
        pid if pid > 0 => Holder::Process(Pid::from_raw(pid)),
        _ => Holder::Elsewhere,
    })
}

pub(super) fn lock_path(pid_file: &Path) -> PathBuf {
    with_suffix(pid_file, ".lock")
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}

/// A write lock from the first byte to the end, wherever that will be.
fn whole_file() -> libc::flock {
    // SAFETY: flock is a struct of integers; all zeroes is a value of it. Some platforms have
    // fields of padding that a literal would have to name.
    let mut lock: libc::flock = unsafe { mem::zeroed() };
    lock.l_type = libc::F_WRLCK as libc::c_short;
    lock.l_whence = libc::SEEK_SET as libc::c_short;
    lock
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn directory(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("couriertcpd-lock-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        path
    }

    fn acquire(pid_file: &Path) -> Lock {
        match Lock::acquire(pid_file).unwrap() {
            Acquired::Ours(lock) => lock,
            Acquired::Held(holder) => panic!("held by {holder:?}"),
        }
    }

    #[test]
    fn the_lock_file_is_made_private_and_its_own_holder_is_not_told() {
        let directory = directory("made");
        let path = directory.join("t.pid");
        let lock = acquire(&path);
        let mode = fs::metadata(directory.join("t.pid.lock")).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o600);
        assert_eq!(holder(&lock.file), Ok(Holder::Nobody));
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn a_lock_file_that_leads_elsewhere_is_refused() {
        let directory = directory("link");
        symlink(directory.join("elsewhere"), directory.join("t.pid.lock")).unwrap();
        let error = Lock::acquire(&directory.join("t.pid")).unwrap_err().to_string();
        assert!(error.contains("t.pid.lock: cannot open: Too many "), "{error}");
        assert!(!directory.join("elsewhere").exists());
        let missing = Lock::acquire(&directory.join("none/t.pid")).unwrap_err().to_string();
        assert!(missing.ends_with("none/t.pid.lock: cannot open: No such file or directory"), "{missing}");
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn the_pid_file_replaces_files_and_links_and_goes_away() {
        let directory = directory("pid");
        let path = directory.join("t.pid");
        let lock = acquire(&path);
        fs::write(directory.join("target"), "precious").unwrap();
        fs::write(directory.join("t.pid.tmp"), "left over").unwrap();
        for before in ["nothing", "file", "link"] {
            match before {
                "file" => fs::write(&path, "123456\n").unwrap(),
                "link" => symlink("target", &path).unwrap(),
                _ => {}
            }
            let pid_file = lock.write_pid_file().unwrap();
            assert!(fs::symlink_metadata(&path).unwrap().is_file(), "{before}");
            assert_eq!(fs::read_to_string(&path).unwrap(), format!("{}\n", getpid()), "{before}");
            pid_file.remove();
            assert!(!path.exists(), "{before}");
        }
        assert_eq!(fs::read_to_string(directory.join("target")).unwrap(), "precious");
        assert!(!directory.join("t.pid.tmp").exists());
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn a_pid_file_of_somebody_else_stays() {
        let directory = directory("other");
        let path = directory.join("t.pid");
        let pid_file = acquire(&path).write_pid_file().unwrap();
        fs::remove_file(&path).unwrap();
        fs::write(&path, "1\n").unwrap();
        pid_file.remove();
        assert_eq!(fs::read_to_string(&path).unwrap(), "1\n");
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn directories_and_devices_are_no_pid_files() {
        let directory = directory("special");
        let path = directory.join("t.pid");
        let lock = acquire(&path);
        fs::create_dir(&path).unwrap();
        let error = lock.write_pid_file().unwrap_err().to_string();
        assert!(error.ends_with("t.pid: cannot write: Is a directory"), "{error}");
        fs::remove_dir(&path).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let error = lock.write_pid_file().unwrap_err().to_string();
        assert!(error.ends_with("t.pid: is no regular file"), "{error}");
        fs::remove_dir_all(directory).unwrap();
    }
}
