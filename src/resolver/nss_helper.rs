//! The processes that ask the name service switch, and what they say to the daemon.
//!
//! The switch (hosts file, mDNS, LDAP, whatever its modules do) can only be asked by calls that
//! block, so a forked process does it: [`start`] makes one, `resolver::nss` hands out the work.
//! Parent and child speak over a pair of sockets that keep packets apart: [`Request`] one way,
//! [`Reply`] the other. The child has that one socket and nothing else: no other descriptor, no
//! privileges, none of the daemon's signals. It ends with the daemon, however the daemon ends, and
//! never returns from here: it shares the daemon's memory as it was, and must run none of its
//! destructors.

use std::ffi::CStr;
use std::io;
use std::mem;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::ptr;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, SockaddrLike, SockaddrStorage, recv, send, socketpair,
};
use nix::unistd::{self, ForkResult, Gid, Pid, Uid, alarm};

use super::name::{MAX_NAME, is_host_name};
use crate::addr;
use crate::policy::question::HostName;
use crate::sys;

/// Who a helper is when the daemon stays root: the user and the group that own nothing.
const NOBODY: u32 = 65534;

/// What `ps` shows; the kernel keeps 15 bytes.
const PROCESS_NAME: &CStr = c"couriertcpd-nss";

/// The child's end of the socket: its standard input, and output and error as well, so that none
/// of the descriptors that the switch opens gets a number that libraries write messages to. Such a
/// message reaches the daemon as a packet that is no answer.
const SOCKET: RawFd = libc::STDIN_FILENO;

/// Highest signal number of Linux.
const LAST_SIGNAL: libc::c_int = 64;

/// `EAI_ADDRFAMILY`, which the libc crate lacks: the name has addresses, of another family.
const EAI_ADDRFAMILY: libc::c_int = -9;

/// Longest name that getnameinfo gives (`NI_MAXHOST`).
const MAX_HOST: usize = 1025;

/// Room for the longest [`Reply`].
const MAX_REPLY: usize = 5 + MAX_NAME;

/// Finds the name of an address, taking its time. A parameter for the sake of tests.
pub type Lookup = fn(IpAddr) -> HostName;

/// A helper as the daemon holds it.
#[derive(Debug)]
pub struct Helper {
    pub pid: Pid,
    /// Nonblocking and close-on-exec.
    pub socket: OwnedFd,
}

impl Helper {
    /// Hands over a question. It fits if the one before has been answered.
    pub fn ask(&self, request: Request) -> Result<(), Errno> {
        send(self.socket.as_raw_fd(), &request.encode(), MsgFlags::MSG_NOSIGNAL).map(drop)
    }

    /// The next packet that is there. EAGAIN: none there. EPIPE: the helper has closed its end.
    pub fn hear(&self) -> Result<Said, Errno> {
        let mut packet = [0; MAX_REPLY];
        match recv(self.socket.as_raw_fd(), &mut packet, MsgFlags::empty())? {
            0 => Err(Errno::EPIPE),
            length => Ok(Said::decode(&packet[..length])),
        }
    }
}

/// What a helper sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    Reply(Reply),
    /// It cannot become what it should be, for that reason, and ends.
    Unfit(Errno),
    /// Whatever a library has to tell.
    Nonsense,
}

impl Said {
    pub fn decode(packet: &[u8]) -> Self {
        if let Ok(number) = packet.try_into().map(i32::from_ne_bytes) {
            return match Errno::from_raw(number) {
                Errno::UnknownErrno => Said::Nonsense,
                errno => Said::Unfit(errno),
            };
        }
        Reply::decode(packet).map_or(Said::Nonsense, Said::Reply)
    }
}

/// What the daemon sends. The number ties the answer to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    pub number: u32,
    /// Folded.
    pub ip: IpAddr,
}

impl Request {
    const SIZE: usize = 20;

    pub fn encode(self) -> [u8; Self::SIZE] {
        let ip = match self.ip {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        let mut packet = [0; Self::SIZE];
        packet[..4].copy_from_slice(&self.number.to_ne_bytes());
        packet[4..].copy_from_slice(&ip.octets());
        packet
    }

    pub fn decode(packet: &[u8]) -> Option<Self> {
        let (number, ip) = packet.split_first_chunk::<4>()?;
        let ip: [u8; 16] = ip.try_into().ok()?;
        Some(Request { number: u32::from_ne_bytes(*number), ip: addr::fold(IpAddr::V6(Ipv6Addr::from(ip))) })
    }
}

/// What comes back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    pub number: u32,
    pub name: HostName,
}

impl Reply {
    const KNOWN: u8 = 1;
    const ABSENT: u8 = 2;
    const SOFT_ERROR: u8 = 3;
    const MISMATCH: u8 = 4;

    pub fn encode(&self) -> Vec<u8> {
        let (tag, name) = match &self.name {
            HostName::Known(name) => (Self::KNOWN, &**name),
            HostName::Absent => (Self::ABSENT, ""),
            HostName::SoftError => (Self::SOFT_ERROR, ""),
            HostName::Mismatch => (Self::MISMATCH, ""),
        };
        [&self.number.to_ne_bytes(), &[tag][..], name.as_bytes()].concat()
    }

    /// The name is looked at again here: a helper talks to strangers and is not to be trusted.
    pub fn decode(packet: &[u8]) -> Option<Self> {
        let (number, rest) = packet.split_first_chunk::<4>()?;
        let (tag, name) = rest.split_first()?;
        let name = match (*tag, std::str::from_utf8(name).ok()?) {
            (Self::KNOWN, name) if is_host_name(name) => HostName::Known(name.into()),
            (Self::ABSENT, "") => HostName::Absent,
            (Self::SOFT_ERROR, "") => HostName::SoftError,
            (Self::MISMATCH, "") => HostName::Mismatch,
            _ => return None,
        };
        Some(Reply { number: u32::from_ne_bytes(*number), name })
    }
}

/// Forks a helper. `identity` is what the daemon becomes by `-user`: a daemon that has given up
/// root may only end processes of that same user, neither by a signal nor by its own end. One whose lookup
/// takes `limit`, at least a second, ends by itself: the daemon that would end it may have been upgraded
/// meanwhile, and know nothing of it.
pub fn start(identity: Option<(Uid, Gid)>, lookup: Lookup, limit: Duration) -> io::Result<Helper> {
    let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
    fcntl(&ours, FcntlArg::F_SETFL(OFlag::O_RDWR | OFlag::O_NONBLOCK))?;
    let daemon = unistd::getpid();
    // SAFETY: the daemon has one thread, so the child's memory is whole and holds no lock.
    match unsafe { unistd::fork() }? {
        ForkResult::Parent { child } => Ok(Helper { pid: child, socket: ours }),
        ForkResult::Child => {
            if unistd::dup2_stdin(&theirs).is_err() {
                end(1)
            }
            match confine(&theirs, daemon, identity) {
                Ok(()) => end(serve(lookup, limit)),
                Err(errno) => {
                    let _ = send(SOCKET, &(errno as i32).to_ne_bytes(), MsgFlags::MSG_NOSIGNAL);
                    end(1)
                }
            }
        }
    }
}

/// Leaves without a destructor, a flush or an exit handler of the daemon.
fn end(status: libc::c_int) -> ! {
    // SAFETY: _exit takes any number and does not return.
    unsafe { libc::_exit(status) }
}

/// Makes the forked process, whose standard input is `socket` already, what a helper is. An error ends it: it must not go on with more than
/// it should have.
fn confine(socket: &OwnedFd, daemon: Pid, identity: Option<(Uid, Gid)>) -> Result<(), Errno> {
    unistd::dup2_stdout(socket)?;
    unistd::dup2_stderr(socket)?;
    close_others()?;
    prctl::set_name(PROCESS_NAME)?;
    for number in 1..=LAST_SIGNAL {
        // SAFETY: SIG_DFL installs no handler. SIGKILL, SIGSTOP and the C library's own refuse.
        unsafe { libc::signal(number, libc::SIG_DFL) };
    }
    SigSet::empty().thread_set_mask()?;
    unistd::chdir("/")?;
    if Uid::effective().is_root() {
        let nobody = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
        let (uid, gid) = identity.filter(|(uid, _)| !uid.is_root()).unwrap_or(nobody);
        unistd::setgroups(&[])?;
        unistd::setresgid(gid, gid, gid)?;
        unistd::setresuid(uid, uid, uid)?;
    }
    drop_capabilities()?;
    prctl::set_no_new_privs()?;
    // Last, since a change of user clears it. A daemon that ended before is not told of any more.
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    if unistd::getppid() == daemon { Ok(()) } else { Err(Errno::ESRCH) }
}

/// The first descriptor that is none of the three that [`SOCKET`] takes.
const FIRST_OTHER: RawFd = libc::STDERR_FILENO + 1;

/// Closes everything but the three, the daemon's poll set and sockets among it. The values that
/// own these descriptors stay behind, but nothing here drops or uses them.
fn close_others() -> Result<(), Errno> {
    // SAFETY: three integers; no value that owns one of the descriptors is used after this.
    let closed = unsafe { libc::syscall(libc::SYS_close_range, FIRST_OTHER, libc::c_uint::MAX, 0) };
    // Kernels before 5.9 do not have it, and some sandboxes forbid it.
    Errno::result(closed).map(drop).or_else(|_| close_one_by_one())
}

fn close_one_by_one() -> Result<(), Errno> {
    for number in sys::open_descriptors(FIRST_OTHER) {
        // SAFETY: as above.
        Errno::result(unsafe { libc::close(number) })?;
    }
    Ok(())
}

/// A daemon without root may still hold capabilities, for ports below 1024.
fn drop_capabilities() -> Result<(), Errno> {
    // struct __user_cap_header_struct with version 3, and two of __user_cap_data_struct.
    let header: [u32; 2] = [0x2008_0522, 0];
    let none = [0u32; 6];
    // SAFETY: both point to arrays of the size that version 3 reads; nothing is written to `none`.
    let dropped = unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), none.as_ptr()) };
    Errno::result(dropped).map(drop)
}

/// Answers questions until the daemon closes its end; gives the exit status.
fn serve(lookup: Lookup, limit: Duration) -> libc::c_int {
    let limit = u32::try_from(limit.as_secs()).unwrap_or(u32::MAX);
    let mut packet = [0; Request::SIZE];
    loop {
        match recv(SOCKET, &mut packet, MsgFlags::empty()) {
            Ok(0) => return 0,
            Ok(length) => {
                let Some(request) = Request::decode(&packet[..length]) else { return 1 };
                alarm::set(limit);
                let name = lookup(request.ip);
                alarm::cancel();
                let reply = Reply { number: request.number, name };
                if send(SOCKET, &reply.encode(), MsgFlags::MSG_NOSIGNAL).is_err() {
                    return 1;
                }
            }
            Err(Errno::EINTR) => {}
            Err(_) => return 1,
        }
    }
}

/// Asks the switch for the name of `ip`, and whether that name leads back to it.
pub fn ask_switch(ip: IpAddr) -> HostName {
    let address = SockaddrStorage::from(SocketAddr::new(ip, 0));
    let mut host = [0u8; MAX_HOST];
    // SAFETY: the address is valid for its length, the buffer writable for its own; no service
    // name is asked for.
    let code = unsafe {
        libc::getnameinfo(
            address.as_ptr(),
            address.len(),
            host.as_mut_ptr().cast(),
            host.len() as libc::socklen_t,
            ptr::null_mut(),
            0,
            libc::NI_NAMEREQD,
        )
    };
    match code {
        0 => {}
        libc::EAI_NONAME | libc::EAI_NODATA => return HostName::Absent,
        // A name beyond NI_MAXHOST is no host name.
        libc::EAI_OVERFLOW => return HostName::Mismatch,
        _ => return HostName::SoftError,
    }
    let Ok(name) = CStr::from_bytes_until_nul(&host) else { return HostName::Mismatch };
    match name.to_str() {
        Ok(text) if is_host_name(text) && !is_literal(text) => match leads_to(name, ip) {
            Ok(true) => HostName::Known(text.into()),
            Ok(false) => HostName::Mismatch,
            Err(()) => HostName::SoftError,
        },
        _ => HostName::Mismatch,
    }
}

/// True for what getaddrinfo reads as an address (`192.0.2.1`, `0xc0000201`): such a PTR record
/// would lead back to itself without anybody having been asked.
fn is_literal(name: &str) -> bool {
    name.split('.').all(|part| match part.strip_prefix("0x").or_else(|| part.strip_prefix("0X")) {
        Some(hex) => hex.bytes().all(|b| b.is_ascii_hexdigit()),
        None => part.bytes().all(|b| b.is_ascii_digit()),
    })
}

/// Whether `ip` is among the addresses of `name`; an error if nobody can tell for now.
fn leads_to(name: &CStr, ip: IpAddr) -> Result<bool, ()> {
    // SAFETY: addrinfo is plain data, for which zeroes mean "any".
    let mut hints: libc::addrinfo = unsafe { mem::zeroed() };
    hints.ai_family = if ip.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    hints.ai_socktype = libc::SOCK_STREAM;
    let mut list = ptr::null_mut();
    // SAFETY: the name ends with NUL, the hints are filled in, the result has a place.
    let code = unsafe { libc::getaddrinfo(name.as_ptr(), ptr::null(), &hints, &mut list) };
    match code {
        0 => {}
        libc::EAI_NONAME | libc::EAI_NODATA | EAI_ADDRFAMILY => return Ok(false),
        _ => return Err(()),
    }
    let mut found = false;
    let mut next: *const libc::addrinfo = list;
    // SAFETY: getaddrinfo made the list, and each element is valid until freeaddrinfo.
    while let Some(entry) = unsafe { next.as_ref() } {
        // SAFETY: ai_addr points to an address of ai_addrlen bytes of the family asked for.
        let address = unsafe { SockaddrStorage::from_raw(entry.ai_addr, Some(entry.ai_addrlen)) };
        found |= address.and_then(address_of) == Some(ip);
        next = entry.ai_next;
    }
    // SAFETY: the list came from getaddrinfo and is not used after this.
    unsafe { libc::freeaddrinfo(list) };
    Ok(found)
}

fn address_of(address: SockaddrStorage) -> Option<IpAddr> {
    let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
    v4.or_else(|| address.as_sockaddr_in6().map(|v6| addr::fold(IpAddr::V6(v6.ip()))))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::fd::AsFd;
    use std::path::PathBuf;
    use std::thread;
    use std::time::Instant;

    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use nix::sys::signal::kill;
    use nix::sys::wait::{WaitStatus, waitpid};

    use super::*;

    /// What the helper says next, within reason.
    fn next(helper: &Helper) -> Result<Said, Errno> {
        let mut set = [PollFd::new(helper.socket.as_fd(), PollFlags::POLLIN)];
        poll(&mut set, PollTimeout::from(20_000u16)).unwrap();
        helper.hear()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    const MINUTE: Duration = Duration::from_secs(60);

    fn no_name(_: IpAddr) -> HostName {
        HostName::Absent
    }

    #[test]
    fn packets_come_out_as_they_went_in() {
        for address in ["192.0.2.1", "2001:db8::1", "::1", "0.0.0.0"] {
            let request = Request { number: u32::MAX, ip: ip(address) };
            assert_eq!(Request::decode(&request.encode()), Some(request));
        }
        let known = HostName::Known("mail.example.org".into());
        for name in [known, HostName::Absent, HostName::SoftError, HostName::Mismatch] {
            let reply = Reply { number: 7, name };
            assert_eq!(Said::decode(&reply.encode()), Said::Reply(reply));
        }
        let longest = ["a".repeat(61), "b".repeat(63), "c".repeat(63), "d".repeat(63)].join(".");
        let reply = Reply { number: 7, name: HostName::Known(longest.as_str().into()) };
        assert_eq!((longest.len(), reply.encode().len()), (MAX_NAME, MAX_REPLY));
    }

    #[test]
    fn packets_that_are_no_replies_are_told() {
        for packet in [
            &b""[..],
            b"\0\0\0\0",
            b"\0\0\0\0\x01",
            b"\0\0\0\0\x01a b",
            b"\0\0\0\0\x01a\nb",
            b"\0\0\0\0\x01\xff",
            b"\0\0\0\0\x02a",
            b"\0\0\0\0\x09",
            b"log\n",
            b"some library: something is wrong\n",
        ] {
            assert_eq!(Said::decode(packet), Said::Nonsense, "{packet:?}");
        }
        assert_eq!(Request::decode(b"\0\0\0\0"), None);
        assert_eq!(Request::decode(&[0; Request::SIZE + 1]), None);
    }

    #[test]
    fn addresses_in_the_place_of_a_name_are_told() {
        for literal in ["192.0.2.1", "3221225985", "0xC0000201", "0300.0.2.01", "127.1"] {
            assert!(is_literal(literal), "{literal}");
        }
        for name in ["a", "1.example", "0xg", "mail.0x7.example", "10-0-0-1"] {
            assert!(!is_literal(name), "{name}");
        }
    }

    /// Asks the switch of the machine: the loopback address is in everybody's hosts file.
    #[test]
    fn the_switch_is_asked_both_ways() {
        let helper = start(None, ask_switch, MINUTE).unwrap();
        helper.ask(Request { number: 5, ip: ip("127.0.0.1") }).unwrap();
        let Ok(Said::Reply(reply)) = next(&helper) else { panic!("no reply") };
        assert_eq!(reply.number, 5);
        assert!(matches!(reply.name, HostName::Known(_)), "{reply:?}");
        // The name of 127.0.0.1 leads to 127.0.0.1 alone.
        let HostName::Known(name) = reply.name else { unreachable!() };
        let name = std::ffi::CString::new(&*name).unwrap();
        assert_eq!(leads_to(&name, ip("127.0.0.1")), Ok(true));
        assert_eq!(leads_to(&name, ip("127.0.0.77")), Ok(false));
        drop(helper.socket);
        waitpid(helper.pid, None).unwrap();
    }

    #[test]
    fn a_helper_has_one_socket_and_no_rights() {
        let helper = start(None, no_name, MINUTE).unwrap();
        helper.ask(Request { number: 1, ip: ip("192.0.2.1") }).unwrap();
        assert_eq!(next(&helper), Ok(Said::Reply(Reply { number: 1, name: HostName::Absent })));

        let proc = PathBuf::from(format!("/proc/{}", helper.pid));
        let status = fs::read_to_string(proc.join("status")).unwrap();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.unwrap_or_else(|| panic!("no {name}")).trim().to_owned()
        };
        assert_eq!(field("Name"), "couriertcpd-nss");
        assert_eq!(field("CapPrm"), "0000000000000000");
        assert_eq!(field("CapEff"), "0000000000000000");
        assert_eq!(field("CapInh"), "0000000000000000");
        assert_eq!(field("NoNewPrivs"), "1");
        assert_eq!(field("SigBlk"), "0000000000000000");
        // The C library lets nobody touch signals 32 and 33.
        let signals = |name: &str| u64::from_str_radix(&field(name), 16).unwrap() & !(0b11 << 31);
        assert_eq!((signals("SigCgt"), signals("SigIgn")), (0, 0));
        if Uid::effective().is_root() {
            assert_eq!(field("Uid"), ["65534"; 4].join("\t"));
            assert_eq!(field("Gid"), ["65534"; 4].join("\t"));
            assert_eq!(field("Groups"), "");
        }
        let mut open: Vec<(i32, PathBuf)> = fs::read_dir(proc.join("fd"))
            .unwrap()
            .map(|entry| entry.unwrap())
            .map(|entry| (entry.file_name().to_str().unwrap().parse().unwrap(), fs::read_link(entry.path()).unwrap()))
            .collect();
        open.sort();
        assert_eq!(open.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [0, 1, 2]);
        assert!(open.iter().all(|(_, target)| *target == open[0].1), "{open:?}");
        assert!(open[0].1.to_str().unwrap().starts_with("socket:"), "{open:?}");

        drop(helper.socket);
        assert_eq!(waitpid(helper.pid, None), Ok(WaitStatus::Exited(helper.pid, 0)));
    }

    /// What replaces close_range where there is none.
    #[test]
    fn descriptors_are_closed_one_by_one_as_well() {
        let _open = sys::dev_null().unwrap();
        assert_ne!(sys::open_descriptors(FIRST_OTHER), []);
        // SAFETY: the child ends by _exit.
        match unsafe { unistd::fork() }.unwrap() {
            ForkResult::Child => {
                let closed = close_one_by_one().is_ok();
                end(if closed && sys::open_descriptors(FIRST_OTHER).is_empty() { 0 } else { 1 })
            }
            ForkResult::Parent { child } => assert_eq!(waitpid(child, None), Ok(WaitStatus::Exited(child, 0))),
        }
    }

    /// With `-user` the daemon can only end what is its own.
    #[test]
    fn a_helper_takes_the_identity_of_the_daemon() {
        if !Uid::effective().is_root() {
            return;
        }
        let helper = start(Some((Uid::from_raw(2), Gid::from_raw(3))), no_name, MINUTE).unwrap();
        helper.ask(Request { number: 1, ip: ip("192.0.2.1") }).unwrap();
        assert!(matches!(next(&helper), Ok(Said::Reply(_))));
        let status = fs::read_to_string(format!("/proc/{}/status", helper.pid)).unwrap();
        assert!(status.contains("Uid:\t2\t2\t2\t2\n") && status.contains("Gid:\t3\t3\t3\t3\n"), "{status}");
        drop(helper.socket);
        waitpid(helper.pid, None).unwrap();
    }

    #[test]
    fn a_lookup_without_end_ends_the_helper() {
        fn hang(ip: IpAddr) -> HostName {
            if ip.is_ipv4() {
                HostName::Absent
            } else {
                loop {
                    unistd::pause();
                }
            }
        }
        let helper = start(None, hang, Duration::from_secs(1)).unwrap();
        let ask = |address| {
            helper.ask(Request { number: 1, ip: ip(address) }).unwrap();
            next(&helper)
        };
        assert!(matches!(ask("192.0.2.1"), Ok(Said::Reply(_))));
        assert_eq!(ask("::1"), Err(Errno::EPIPE));
        assert_eq!(waitpid(helper.pid, None), Ok(WaitStatus::Signaled(helper.pid, Signal::SIGALRM, false)));
    }

    /// The daemon here is a process of its own, killed while its helper hangs in a lookup.
    #[test]
    fn a_hanging_helper_ends_with_a_killed_daemon() {
        fn hang(_: IpAddr) -> HostName {
            let _ = prctl::set_name(c"in-its-lookup");
            loop {
                unistd::pause();
            }
        }
        let (tell, told) = unistd::pipe().unwrap();
        // SAFETY: the child makes system calls and ends by _exit.
        match unsafe { unistd::fork() }.unwrap() {
            ForkResult::Child => {
                let request = Request { number: 1, ip: ip("192.0.2.1") };
                if let Some(helper) = start(None, hang, MINUTE).ok().filter(|helper| helper.ask(request).is_ok()) {
                    let _ = unistd::write(&told, &helper.pid.as_raw().to_ne_bytes());
                    loop {
                        unistd::pause();
                    }
                }
                end(1)
            }
            ForkResult::Parent { child } => {
                drop(told);
                let mut pid = [0; 4];
                assert_eq!(unistd::read(&tell, &mut pid), Ok(4));
                let pid = i32::from_ne_bytes(pid);
                let wait = |what: &str, done: &dyn Fn(&str) -> bool| {
                    let deadline = Instant::now() + Duration::from_secs(20);
                    loop {
                        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
                        if done(&stat) {
                            return;
                        }
                        assert!(Instant::now() < deadline, "not {what}: {stat}");
                        thread::yield_now();
                    }
                };
                // Until it is in its lookup, the end of the socket would end it as well.
                wait("in its lookup", &|stat| stat.contains("(in-its-lookup)"));
                kill(child, Signal::SIGKILL).unwrap();
                waitpid(child, None).unwrap();
                wait("gone", &|stat| stat.is_empty() || stat.contains(") Z "));
            }
        }
    }
}
