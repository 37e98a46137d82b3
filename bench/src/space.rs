//! A network and mount namespace for the run: ports and name servers of its own, nobody else's disturbed.
//!
//! The reference asks the servers of /etc/resolv.conf and no others, so that file is another one here, with
//! 127.0.0.1 alone in it.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn mount(source: &Path, target: &str, flags: libc::c_ulong) -> io::Result<()> {
    let source = CString::new(source.as_os_str().as_bytes())?;
    let target = CString::new(target)?;
    // SAFETY: two NUL-terminated paths; no type and no data are given.
    check(unsafe { libc::mount(source.as_ptr(), target.as_ptr(), ptr::null(), flags, ptr::null()) })
}

/// Enters the namespaces. To be called before the first thread is started.
pub fn enter(work: &Path) -> io::Result<()> {
    // SAFETY: no preconditions.
    let (user, group) = unsafe { (libc::geteuid(), libc::getegid()) };
    let mut flags = libc::CLONE_NEWNET | libc::CLONE_NEWNS;
    if user != 0 {
        flags |= libc::CLONE_NEWUSER;
    }
    // SAFETY: one integer; this process has one thread.
    check(unsafe { libc::unshare(flags) })?;
    if user != 0 {
        fs::write("/proc/self/setgroups", "deny")?;
        fs::write("/proc/self/uid_map", format!("0 {user} 1"))?;
        fs::write("/proc/self/gid_map", format!("0 {group} 1"))?;
    }
    loopback_up()?;
    let resolv_conf = work.join("resolv.conf");
    fs::write(&resolv_conf, "nameserver 127.0.0.1\n")?;
    mount(Path::new("none"), "/", libc::MS_REC | libc::MS_PRIVATE)?;
    // A link is followed: what it leads to is covered.
    mount(&resolv_conf, "/etc/resolv.conf", libc::MS_BIND)
}

fn loopback_up() -> io::Result<()> {
    // SAFETY: three integers.
    let socket = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    check(socket)?;
    // SAFETY: all zeroes is a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: a socket and a request that lives through the call.
    let result = check(unsafe { libc::ioctl(socket, libc::SIOCSIFFLAGS, &raw const request) });
    // SAFETY: a descriptor of our own.
    unsafe { libc::close(socket) };
    result
}
