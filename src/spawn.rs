//! Starts handlers and the logger.
//!
//! A [`Spawner`] is made once for each program and holds all that does not differ between two
//! starts: path, arguments, and a stack. A start is what posix_spawn does, a clone that borrows
//! this process' memory until the exec and so does not grow with it, done by hand: glibc's maps a
//! stack and asks 64 signals each time, 27 of 69 microseconds here, and leaves signals 32 and 33
//! ignored in the program. Called by the reactor for handlers and by the logger's room; whoever
//! starts a child reaps it. Nothing here waits, retries or logs.
//!
//! A child copies only the lowest descriptors of this process, where its connection is placed for
//! it: to copy thousands, and close them at the exec, takes longer than all the rest of a start.
//!
//! The daemon ignores no signal by itself: it blocks those that it reads (`signal`) or that a write of
//! its own could raise ([`sys::OF_WRITES`]). So an empty mask is all that a child needs: what it finds
//! ignored was ignored when the daemon started.
//!
//! All descriptors of the daemon but 0, 1 and 2 are close-on-exec, so a child has what it is
//! given here and nothing else. That 0, 1 and 2 are always taken (`daemon::sanitize`) means that
//! no source of a duplicate is also a target, where the flag would stay on.

use std::cell::Cell;
use std::ffi::{CStr, CString, OsStr, OsString, c_char, c_int, c_void};
use std::fs;
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::ptr;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::sys::signal::SigSet;
use nix::sys::wait::waitpid;
use nix::unistd::{AccessFlags, Pid, faccessat};

use crate::config::{Handler, LoggerProgram};
use crate::error::StartError;
use crate::sys;

/// A connection with a number up to this is left where it is: so few are copied in no time.
const LOW: RawFd = 64;

/// The standard error of a handler.
#[derive(Debug, Clone, Copy)]
pub enum StderrFor<'a> {
    /// The daemon's own.
    Inherit,
    /// The connection.
    Connection,
    /// A file, or the write end of the logger's pipe.
    Descriptor(BorrowedFd<'a>),
}

/// One program, ready to be started any number of times.
#[derive(Debug)]
pub struct Spawner {
    program: CString,
    /// Argument zero is the program as given.
    argv: Vec<CString>,
    own_group: bool,
    stack: Stack,
    place: Place,
    /// Descriptors up to this one are copied in any case.
    inherited: RawFd,
    /// False once it has turned out that a child may not part with a table of descriptors that it shares.
    shares: Cell<bool>,
}

impl Spawner {
    /// For PROGRAM; its children stay in the daemon's process group.
    pub fn handler(handler: &Handler) -> Result<Self, StartError> {
        Self::new(&handler.program, &handler.args, false)
    }

    /// For the logger, in a process group of its own: what ends the handlers leaves it alone.
    pub fn logger(logger: &LoggerProgram) -> Result<Self, StartError> {
        Self::new(&logger.program, std::slice::from_ref(&logger.name), true)
    }

    fn new(program: &OsStr, args: &[OsString], own_group: bool) -> Result<Self, StartError> {
        let text = |value: &OsStr| {
            CString::new(value.as_bytes()).map_err(|_| StartError::File {
                path: PathBuf::from(program),
                doing: "an argument contains a NUL",
                error: None,
            })
        };
        let program = text(program)?;
        let mut argv = vec![program.clone()];
        for arg in args {
            argv.push(text(arg)?);
        }
        let unprepared = |error: io::Error| StartError::system("cannot prepare to start programs", error);
        let stack = Stack::new().map_err(|errno| unprepared(errno.into()))?;
        let place = Place::new().map_err(unprepared)?;
        let (inherited, shares) = (libc::STDERR_FILENO, Cell::new(true));
        Ok(Spawner { program, argv, own_group, stack, place, inherited, shares })
    }

    /// A descriptor that children are to have beside 0, 1 and 2. It is not close-on-exec.
    pub fn with_descriptor(mut self, descriptor: RawFd) -> Self {
        self.inherited = self.inherited.max(descriptor);
        self
    }

    /// Fails if the program is missing or this process may not execute it. To be asked with the
    /// privileges that it is started with later; there is no search of PATH.
    pub fn check(&self) -> Result<(), StartError> {
        let path = PathBuf::from(OsStr::from_bytes(self.program.as_bytes()));
        let refuse = |errno: Errno| StartError::file(path.clone(), "cannot execute", errno);
        match fs::metadata(&path) {
            Ok(found) if found.is_file() => {}
            Ok(_) => return Err(refuse(Errno::EACCES)),
            Err(error) => return Err(StartError::file(path, "cannot execute", error)),
        }
        faccessat(AT_FDCWD, self.program.as_c_str(), AccessFlags::X_OK, AtFlags::AT_EACCESS).map_err(refuse)
    }

    /// Starts a handler: descriptors 0 and 1 are the connection, 2 is as told. The connection is
    /// in blocking mode already. EBADF: a descriptor below 3 was given.
    pub fn spawn(&self, connection: BorrowedFd<'_>, stderr: StderrFor<'_>, envp: &Strings<'_>) -> Result<Pid, Errno> {
        let placed = self.place.lend(source(connection)?);
        let stderr = match stderr {
            StderrFor::Inherit => None,
            StderrFor::Connection => Some(placed.number()),
            StderrFor::Descriptor(file) => Some(source(file)?),
        };
        self.start([Some(placed.number()), Some(placed.number()), stderr], envp)
    }

    /// Starts the logger: it reads `input`, the read end of the pipe; `null` is /dev/null.
    pub fn spawn_logger(&self, input: BorrowedFd<'_>, null: BorrowedFd<'_>, envp: &Strings<'_>) -> Result<Pid, Errno> {
        let null = source(null)?;
        self.start([Some(source(input)?), Some(null), Some(null)], envp)
    }

    /// `standard` are the sources of descriptors 0, 1 and 2; none: as in this process.
    fn start(&self, standard: [Option<RawFd>; 3], envp: &Strings<'_>) -> Result<Pid, Errno> {
        let argv = Strings::new(self.argv.iter().map(CString::as_c_str), self.argv.len());
        let mut child = Child {
            program: self.program.as_ptr(),
            argv: argv.pointers.as_ptr(),
            envp: envp.pointers.as_ptr(),
            standard,
            own_group: self.own_group,
            mask: SigSet::empty(),
            highest: standard.into_iter().flatten().fold(self.inherited, RawFd::max),
            shares: self.shares.get(),
            failed: Cell::new(None),
        };
        let started = self.clone_child(&mut child);
        let started = match started {
            // A sandbox that allows no call to part, or an emulator that does not share: from now on the
            // kernel copies the whole table when it makes the child.
            Err(Failed::ToPart(errno)) if !matches!(errno, Errno::ENOMEM | Errno::EMFILE) => {
                self.shares.set(false);
                child.shares = false;
                child.failed.set(None);
                self.clone_child(&mut child)
            }
            started => started,
        };
        started.map_err(|(Failed::ToPart(errno) | Failed::ToStart(errno))| errno)
    }

    fn clone_child(&self, child: &mut Child) -> Result<Pid, Failed> {
        let files = if child.shares { libc::CLONE_FILES } else { 0 };
        let flags = libc::CLONE_VM | libc::CLONE_VFORK | files | libc::SIGCHLD;
        // SAFETY: with CLONE_VFORK this thread sleeps until the child has exec'd or ended, so
        // `child`, all that it points to, and the stack, which nobody else uses, outlive its use
        // of them. `run_child` keeps to what may be done in borrowed memory.
        let pid = unsafe { libc::clone(run_child, self.stack.top(), flags, ptr::from_mut(child).cast()) };
        let pid = match Errno::result(pid) {
            Ok(pid) => Pid::from_raw(pid),
            Err(Errno::EINVAL) if child.shares => return Err(Failed::ToPart(Errno::EINVAL)),
            Err(errno) => return Err(Failed::ToStart(errno)),
        };
        match child.failed.get() {
            None => Ok(pid),
            Some(failed) => {
                // The child has ended: this only takes it off the process table.
                while waitpid(pid, None) == Err(Errno::EINTR) {}
                Err(failed)
            }
        }
    }
}

/// A list of strings as exec takes it: pointers that end with a null.
#[derive(Debug)]
pub struct Strings<'a> {
    pointers: Vec<*const c_char>,
    /// What they point to.
    strings: PhantomData<&'a CStr>,
}

impl<'a> Strings<'a> {
    /// `about`: how many there are, if that is known.
    pub fn new(strings: impl IntoIterator<Item = &'a CStr>, about: usize) -> Self {
        let mut pointers = Vec::with_capacity(about + 1);
        pointers.extend(strings.into_iter().map(CStr::as_ptr));
        pointers.push(ptr::null());
        Strings { pointers, strings: PhantomData }
    }
}

/// Why a child has not come to be its program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Failed {
    /// It could not get a table of descriptors of its own, and has changed nothing.
    ToPart(Errno),
    ToStart(Errno),
}

/// What the child reads, in its parent's memory; made before it is started.
struct Child {
    program: *const c_char,
    argv: *const *const c_char,
    envp: *const *const c_char,
    standard: [Option<RawFd>; 3],
    own_group: bool,
    mask: SigSet,
    /// The highest descriptor that is needed.
    highest: RawFd,
    /// True if it has its parent's table of descriptors at first, and not a copy.
    shares: bool,
    /// What it could not do: the one thing that the child writes.
    failed: Cell<Option<Failed>>,
}

/// The child. It runs in its parent's memory while the parent sleeps, with signal actions and mask of
/// its own, and soon descriptors: no allocation, no lock, no destructor, no panic, system calls only.
/// No signal of the parent has a handler that could run in here.
extern "C" fn run_child(child: *mut c_void) -> c_int {
    // SAFETY: `start` passes a Child that lives until this process has exec'd or ended, and reads
    // it only then.
    let child = unsafe { &*child.cast::<Child>() };
    child.failed.set(Some(exec(child)));
    // SAFETY: ends this process alone, without any cleaning up of the parent's.
    unsafe { libc::_exit(127) }
}

/// Returns only if something failed.
fn exec(child: &Child) -> Failed {
    if child.shares {
        if let Err(errno) = own_descriptors(child.highest) {
            return Failed::ToPart(errno);
        }
    }
    Failed::ToStart(become_program(child))
}

/// The same, with a table of its own.
fn become_program(child: &Child) -> Errno {
    for (target, descriptor) in (0..).zip(child.standard) {
        if let Some(descriptor) = descriptor {
            // SAFETY: two descriptor numbers; this process has a table of its own.
            if unsafe { libc::dup2(descriptor, target) } < 0 {
                return Errno::last();
            }
        }
    }
    if child.own_group {
        // SAFETY: two integers.
        if unsafe { libc::setpgid(0, 0) } < 0 {
            return Errno::last();
        }
    }
    // SAFETY: a valid set; a signal that comes now has its default action or was ignored at the start.
    if unsafe { libc::sigprocmask(libc::SIG_SETMASK, child.mask.as_ref(), ptr::null_mut()) } < 0 {
        return Errno::last();
    }
    // SAFETY: a string and two lists of strings that end in null, all of them `start`'s.
    unsafe { libc::execve(child.program, child.argv, child.envp) };
    Errno::last()
}

/// Parts with the parent's table of descriptors, and takes those up to `highest` along.
fn own_descriptors(highest: RawFd) -> Result<(), Errno> {
    let first = highest.unsigned_abs() + 1;
    // SAFETY: three integers. With this flag it is a copy that is closed in.
    let copied = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_UNSHARE) };
    if copied == 0 {
        return Ok(());
    }
    // Kernels before 5.9, and sandboxes: all of them are copied, and closed by the exec.
    // SAFETY: one integer.
    Errno::result(unsafe { libc::unshare(libc::CLONE_FILES) }).map(drop)
}

/// A low descriptor number that is kept for the connection of a child. /dev/null stands there in between.
#[derive(Debug)]
struct Place {
    null: OwnedFd,
    low: OwnedFd,
}

impl Place {
    fn new() -> io::Result<Self> {
        let null = sys::dev_null()?;
        let low = null.try_clone()?;
        Ok(Place { null, low })
    }

    /// `connection`, or a low number for the same for as long as what is returned lives.
    fn lend(&self, connection: RawFd) -> Placed<'_> {
        if connection <= LOW || self.low.as_raw_fd() > LOW {
            return Placed::AsItIs(connection);
        }
        match self.put(connection) {
            Ok(()) => Placed::Low(self),
            Err(_) => Placed::AsItIs(connection),
        }
    }

    fn put(&self, source: RawFd) -> Result<(), Errno> {
        loop {
            // SAFETY: two descriptors; the second is ours, and is open before and after.
            match Errno::result(unsafe { libc::dup3(source, self.low.as_raw_fd(), libc::O_CLOEXEC) }) {
                Err(Errno::EINTR | Errno::EBUSY) => {}
                result => return result.map(drop),
            }
        }
    }
}

/// What [`Place::lend`] gives.
enum Placed<'a> {
    AsItIs(RawFd),
    Low(&'a Place),
}

impl Placed<'_> {
    fn number(&self) -> RawFd {
        match self {
            Placed::AsItIs(number) => *number,
            Placed::Low(place) => place.low.as_raw_fd(),
        }
    }
}

impl Drop for Placed<'_> {
    /// The connection ends with its handler, so nothing of it may stay here.
    fn drop(&mut self) {
        if let Placed::Low(place) = self {
            // It fails for nothing that can happen here: both are open.
            let _ = place.put(place.null.as_raw_fd());
        }
    }
}

/// The child's stack until its exec: mapped once, with a page below that cannot be touched.
#[derive(Debug)]
struct Stack {
    base: *mut c_void,
}

impl Stack {
    /// Many times what the few calls of the child need.
    const SIZE: usize = 64 * 1024;
    /// At least a page on every machine.
    const GUARD: usize = 64 * 1024;

    fn new() -> Result<Self, Errno> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a new private mapping wherever there is room.
        let base = unsafe { libc::mmap(ptr::null_mut(), Self::GUARD + Self::SIZE, libc::PROT_NONE, flags, -1, 0) };
        if base == libc::MAP_FAILED {
            return Err(Errno::last());
        }
        let stack = Stack { base };
        // SAFETY: the upper part of the mapping just made; both sizes are multiples of a page.
        let opened =
            unsafe { libc::mprotect(base.byte_add(Self::GUARD), Self::SIZE, libc::PROT_READ | libc::PROT_WRITE) };
        Errno::result(opened).map(|_| stack)
    }

    /// Stacks grow down on every machine that this is built for.
    fn top(&self) -> *mut c_void {
        self.base.wrapping_byte_add(Self::GUARD + Self::SIZE)
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // SAFETY: the whole mapping of `new`, which no child uses once `start` has returned.
        unsafe { libc::munmap(self.base, Self::GUARD + Self::SIZE) };
    }
}

/// A descriptor that may be duplicated onto 0, 1 and 2 in any order.
fn source(descriptor: BorrowedFd<'_>) -> Result<RawFd, Errno> {
    match descriptor.as_raw_fd() {
        number if number > libc::STDERR_FILENO => Ok(number),
        _ => Err(Errno::EBADF),
    }
}

#[cfg(test)]
mod tests;
