//! The few system calls that nix and std lack, or that need raw descriptors, as safe functions.
//!
//! Called by the rooms that start, stop and spawn. Nothing here decides anything, logs, or keeps
//! state; each function is one call and its error.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::signal::{self, SigHandler, Signal};
use nix::sys::stat::{Mode, umask};
use nix::unistd::Pid;

/// Where the search for open descriptors ends if /proc is not mounted.
const DESCRIPTOR_SEARCH_LIMIT: RawFd = 65_536;

/// How often a process without a pidfd is looked at.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// Sets the descriptor to blocking mode; no system call is made for one that is known to be so,
/// since nobody calls this then: accepted connections are born blocking.
pub fn set_blocking(descriptor: BorrowedFd<'_>) -> Result<(), Errno> {
    let flags = OFlag::from_bits_retain(fcntl(descriptor, FcntlArg::F_GETFL)?);
    if flags.contains(OFlag::O_NONBLOCK) {
        fcntl(descriptor, FcntlArg::F_SETFL(flags - OFlag::O_NONBLOCK))?;
    }
    Ok(())
}

/// The close-on-exec flag of a descriptor number that may not be open: EBADF then.
pub fn descriptor_flags(number: RawFd) -> Result<FdFlag, Errno> {
    // SAFETY: F_GETFD takes any number and answers EBADF for one that is not open.
    let flags = unsafe { libc::fcntl(number, libc::F_GETFD) };
    Errno::result(flags).map(FdFlag::from_bits_retain)
}

/// Sets or clears close-on-exec on a descriptor number: [`descriptor_flags`]' counterpart.
pub fn set_close_on_exec(number: RawFd, on: bool) -> Result<(), Errno> {
    let flags = if on { FdFlag::FD_CLOEXEC } else { FdFlag::empty() };
    // SAFETY: F_SETFD takes any number and answers EBADF for one that is not open.
    Errno::result(unsafe { libc::fcntl(number, libc::F_SETFD, flags.bits()) }).map(drop)
}

/// The numbers from `first` on of the descriptors that are open now, in ascending order.
pub fn open_descriptors(first: RawFd) -> Vec<RawFd> {
    let candidates: Vec<RawFd> = match fs::read_dir("/proc/self/fd") {
        Ok(entries) => entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect(),
        Err(_) => (first..descriptor_limit()).collect(),
    };
    // The directory that was just read is closed again, and drops out here.
    let mut open: Vec<RawFd> =
        candidates.into_iter().filter(|&number| number >= first && descriptor_flags(number).is_ok()).collect();
    open.sort_unstable();
    open
}

fn descriptor_limit() -> RawFd {
    let limit =
        getrlimit(Resource::RLIMIT_NOFILE).map_or(RawFd::MAX, |(soft, _)| soft.try_into().unwrap_or(RawFd::MAX));
    limit.min(DESCRIPTOR_SEARCH_LIMIT)
}

/// Closes a descriptor that this process was started with.
///
/// # Safety
/// Nothing in this process owns the number.
pub unsafe fn close_foreign(number: RawFd) {
    // SAFETY: as the caller promises.
    drop(unsafe { OwnedFd::from_raw_fd(number) });
}

/// The mask for new files, without changing it.
pub fn current_umask() -> u32 {
    let mask = umask(Mode::from_bits_retain(0o077));
    umask(mask);
    mask.bits()
}

/// Sets a signal to its default action.
pub fn default_action(number: Signal) -> Result<(), Errno> {
    // SAFETY: SIG_DFL installs no handler of ours.
    unsafe { signal::signal(number, SigHandler::SigDfl) }.map(drop)
}

/// The signals that would each end or stop the daemon for what a write meets: a reader that is gone, a file as
/// large as `ulimit -f` allows, a terminal under `stty tostop`. It blocks them for good: the write fails, to the
/// terminal it goes through. Ignored ones would have to be given back their default actions in every child.
pub const OF_WRITES: [Signal; 3] = [Signal::SIGPIPE, Signal::SIGXFSZ, Signal::SIGTTOU];

/// Ignores a signal, as whoever starts the daemon may have.
#[cfg(test)]
pub fn ignore(number: Signal) -> Result<(), Errno> {
    // SAFETY: SIG_IGN installs no handler of ours.
    unsafe { signal::signal(number, SigHandler::SigIgn) }.map(drop)
}

/// A process, held so that its number cannot come to mean another one.
///
/// Kernels before 5.3 and some sandboxes have no pidfd; the number alone serves there.
#[derive(Debug)]
pub struct Process {
    pid: Pid,
    handle: Option<OwnedFd>,
}

impl Process {
    /// None: there is no such process. `pid` is one process: positive.
    pub fn open(pid: Pid) -> Option<Self> {
        assert!(pid.as_raw() > 0, "zero and negative numbers mean groups of processes");
        // SAFETY: pidfd_open takes two integers and returns a new descriptor or -1.
        let opened = unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) };
        match Errno::result(opened) {
            // SAFETY: the kernel just made this descriptor (close-on-exec) for us alone.
            Ok(number) => Some(Process { pid, handle: Some(unsafe { OwnedFd::from_raw_fd(number as RawFd) }) }),
            Err(Errno::ESRCH) => None,
            Err(_) => Some(Process { pid, handle: None }),
        }
    }

    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// ESRCH: it has ended.
    pub fn signal(&self, number: Signal) -> Result<(), Errno> {
        let Some(handle) = &self.handle else { return signal::kill(self.pid, number) };
        let none = std::ptr::null::<libc::siginfo_t>();
        // SAFETY: the descriptor is a pidfd that we own; a null siginfo is allowed and means
        // what kill() sends.
        let sent =
            unsafe { libc::syscall(libc::SYS_pidfd_send_signal, handle.as_raw_fd(), number as libc::c_int, none, 0) };
        Errno::result(sent).map(drop)
    }

    /// True once the process has ended, false when `patience` is over. `released` tells of an
    /// end that a process number alone does not show: a process that has ended and that its
    /// parent has not waited for still has its number.
    pub fn wait_end(&self, patience: Duration, mut released: impl FnMut() -> bool) -> bool {
        let deadline = Instant::now() + patience;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let ended = match &self.handle {
                Some(handle) => readable_within(handle.as_fd(), left),
                None => signal::kill(self.pid, None) == Err(Errno::ESRCH) || released(),
            };
            if ended || left.is_zero() {
                return ended;
            }
            if self.handle.is_none() {
                thread::sleep(POLL_INTERVAL.min(left));
            }
        }
    }
}

/// Takes a child that has ended off the process table, this one or, with none, any; with its status as
/// waitpid(2) has it. None: there are children, and none of them has ended. nix' own gives an error for a
/// child that a real-time signal has killed, when it is off the table already.
pub fn wait_for_ended(pid: Option<Pid>) -> Result<Option<(Pid, libc::c_int)>, Errno> {
    let mut status = 0;
    let pid = pid.map_or(-1, Pid::as_raw);
    // SAFETY: waitpid writes one integer, which is ours.
    let ended = Errno::result(unsafe { libc::waitpid(pid, &mut status, libc::WNOHANG) })?;
    Ok((ended > 0).then_some((Pid::from_raw(ended), status)))
}

/// True while a signal that was sent to the process waits there unread; None if that cannot be known.
pub fn signal_pending(pid: Pid, number: Signal) -> Option<bool> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let pending = status.lines().find_map(|line| line.strip_prefix("ShdPnd:"))?;
    let pending = u64::from_str_radix(pending.trim(), 16).ok()?;
    Some(pending & (1 << (number as i32 - 1)) != 0)
}

fn readable_within(descriptor: BorrowedFd<'_>, patience: Duration) -> bool {
    let timeout = PollTimeout::try_from(patience).unwrap_or(PollTimeout::MAX);
    let mut set = [PollFd::new(descriptor, PollFlags::POLLIN)];
    // An interruption is the same as time being over: the caller's loop asks again.
    poll(&mut set, timeout).is_ok_and(|ready| ready > 0)
}

/// Opens /dev/null as descriptor `number`, which is closed and the lowest such, not close-on-exec.
pub fn fill_with_dev_null(number: RawFd) -> Result<(), Errno> {
    // SAFETY: the path ends in NUL and outlives the call.
    let opened = Errno::result(unsafe { libc::open(c"/dev/null".as_ptr(), libc::O_RDWR) })?;
    if opened == number { Ok(()) } else { Err(Errno::EBADF) }
}

/// The descriptor of /dev/null, close-on-exec.
pub fn dev_null() -> io::Result<OwnedFd> {
    fs::OpenOptions::new().read(true).write(true).open("/dev/null").map(OwnedFd::from)
}

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

/// Makes a socket listen: listen(2). nix takes no backlog beyond what the C library's headers take for the kernel's most,
/// which is 128 with some.
pub fn listen(socket: BorrowedFd<'_>, backlog: i32) -> Result<(), Errno> {
    // SAFETY: no memory is passed.
    Errno::result(unsafe { libc::listen(socket.as_raw_fd(), backlog) }).map(drop)
}

/// Has a listening TCP socket drop every request for a new connection from now on; connections that
/// are under way still arrive. Those it accepts keep the filter, which means nothing to them.
pub fn drop_new_connections(socket: BorrowedFd<'_>) -> Result<(), Errno> {
    const SYN: u32 = 0x02;
    const ACK: u32 = 0x10;
    let op = |code: u32, jt, jf, k| libc::sock_filter { code: code as u16, jt, jf, k };
    // The filter sees a packet from its TCP header on, whose byte 13 has the flags. A request for a
    // connection is the one packet with SYN and without ACK.
    let mut program = [
        op(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, 0, 0, 13),
        op(libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K, 0, 2, SYN),
        op(libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K, 1, 0, ACK),
        op(libc::BPF_RET | libc::BPF_K, 0, 0, 0),
        op(libc::BPF_RET | libc::BPF_K, 0, 0, u32::MAX),
    ];
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: the structure and the program it points to outlive the call, which copies both.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            std::ptr::from_ref(&filter).cast(),
            size_of_val(&filter) as libc::socklen_t,
        )
    };
    Errno::result(result).map(drop)
}

/// True if the kernel can close a range of descriptors, and leave it out of a copy of the table (5.9).
pub fn has_close_range() -> bool {
    // SAFETY: three integers; no descriptor has the highest number, so nothing is closed.
    unsafe { libc::syscall(libc::SYS_close_range, u32::MAX, u32::MAX, 0) == 0 }
}

/// Gives memory that was freed back to the system, where the C library can be told to.
pub fn trim_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim has no precondition; it looks at what malloc itself keeps free, no more.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// The same after a burst, which leaves more behind. Takes up to milliseconds.
pub fn compact_heap() {
    trim_heap();
    #[cfg(target_env = "gnu")]
    gather_spare_blocks();
    trim_heap();
}

/// glibc keeps up to seven freed blocks of each small size aside, and malloc_trim leaves these alone:
/// after a burst there are hundreds, each holding a page that is free but for it. Taking many blocks
/// and giving back those at the lowest addresses first makes it keep seven that lie together. Measured
/// after 60,000 DNS queries: 0.4 MB are left instead of 1.2.
#[cfg(target_env = "gnu")]
fn gather_spare_blocks() {
    /// The largest block that is kept aside, and the step from one size to the next.
    const LARGEST: usize = 1032;
    const STEP: usize = 16;
    /// Enough that the lowest seven of them lie low.
    const BLOCKS: usize = 200;
    for size in (24..=LARGEST).step_by(STEP) {
        // Not zeroed: calloc passes by what is kept aside.
        let mut blocks: Vec<Vec<u8>> = (0..BLOCKS).map(|_| std::hint::black_box(Vec::with_capacity(size))).collect();
        blocks.sort_unstable_by_key(|block| block.as_ptr().addr());
        // In this order.
        blocks.into_iter().for_each(drop);
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_process_is_signalled_and_waited_for() {
        for with_handle in [true, false] {
            let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
            let pid = Pid::from_raw(child.id() as i32);
            let mut process = Process::open(pid).unwrap();
            if !with_handle {
                process.handle = None;
            }
            assert!(!process.wait_end(Duration::from_millis(20), || false));
            process.signal(Signal::SIGTERM).unwrap();
            if with_handle {
                // Not waited for yet: a pidfd tells all the same.
                assert!(process.wait_end(Duration::from_secs(10), || false));
                child.wait().unwrap();
            } else {
                child.wait().unwrap();
                assert!(process.wait_end(Duration::from_secs(10), || false));
            }
            assert_eq!(process.signal(Signal::SIGTERM), Err(Errno::ESRCH));
        }
    }

    #[test]
    fn a_released_lock_counts_as_the_end() {
        let process = Process { pid: Pid::this(), handle: None };
        let mut asked = 0;
        assert!(process.wait_end(Duration::from_secs(10), || {
            asked += 1;
            asked == 3
        }));
    }

    #[test]
    fn a_blocked_signal_is_pending_until_it_is_read() {
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let pid = Pid::from_raw(child.id() as i32);
        assert_eq!(signal_pending(pid, Signal::SIGHUP), Some(false));
        // A stopped process gets nothing but SIGCONT and SIGKILL.
        signal::kill(pid, Signal::SIGSTOP).unwrap();
        nix::sys::wait::waitpid(pid, Some(nix::sys::wait::WaitPidFlag::WUNTRACED)).unwrap();
        signal::kill(pid, Signal::SIGHUP).unwrap();
        assert_eq!(signal_pending(pid, Signal::SIGHUP), Some(true));
        assert_eq!(signal_pending(pid, Signal::SIGTERM), Some(false));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(signal_pending(pid, Signal::SIGHUP), None);
    }

    #[test]
    fn nobody_has_the_largest_number() {
        assert!(Process::open(Pid::from_raw(i32::MAX)).is_none());
    }

    #[test]
    fn a_descriptor_is_listed_while_it_is_open() {
        let null = dev_null().unwrap();
        assert!(open_descriptors(3).contains(&null.as_raw_fd()));
        assert!(!open_descriptors(null.as_raw_fd() + 1).contains(&null.as_raw_fd()));
        assert_eq!(descriptor_flags(null.as_raw_fd()), Ok(FdFlag::FD_CLOEXEC));
        assert_eq!(descriptor_flags(RawFd::MAX), Err(Errno::EBADF));
    }

    #[test]
    fn blocking_mode_comes_back() {
        let (socket, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        socket.set_nonblocking(true).unwrap();
        set_blocking(socket.as_fd()).unwrap();
        let flags = OFlag::from_bits_retain(fcntl(&socket, FcntlArg::F_GETFL).unwrap());
        assert!(!flags.contains(OFlag::O_NONBLOCK));
    }

    #[test]
    fn services_are_found_by_name() {
        assert_eq!(service_port("smtp"), Some(25));
        assert_eq!(service_port("no-such-service"), None);
        assert_eq!(service_port("sm\0tp"), None);
    }
}
