//! The errors that a call can have, and what may follow from one of them.

use crate::world::Outcome;

/// By name and subject. Those that the kernel does not give for what the daemon asks (a descriptor that
/// is not open, a second registration) are none of its concern, nor is "try again" where there is
/// something, or room: then an edge would be lost that is not lost in truth. A call that is not here, of a newer C
/// library say, can fail in ways common to all.
pub fn errors(name: &str, subject: &str) -> &'static [&'static str] {
    match (name, subject) {
        ("accept4", _) => &[
            "EMFILE",
            "ENFILE",
            "ENOBUFS",
            "ENOMEM",
            "ECONNABORTED",
            "EPROTO",
            "EPERM",
            "EINTR",
            "ENETDOWN",
            "EHOSTUNREACH",
            "ETIMEDOUT",
        ],
        ("epoll_wait", _) => &["EINTR"],
        ("epoll_ctl", "EPOLL_CTL_ADD") => &["ENOMEM", "ENOSPC"],
        ("socket", _) => &["EMFILE", "ENFILE", "ENOBUFS", "ENOMEM", "EACCES", "EAFNOSUPPORT"],
        ("bind", _) => &["EADDRINUSE", "EADDRNOTAVAIL", "ENOMEM"],
        ("connect", _) => &[
            "ECONNREFUSED",
            "ENETUNREACH",
            "EHOSTUNREACH",
            "ETIMEDOUT",
            "EADDRNOTAVAIL",
            "EADDRINUSE",
            "EAGAIN",
            "EPERM",
            "ENOBUFS",
        ],
        ("setsockopt", _) => &["ENOPROTOOPT", "ENOMEM"],
        ("getsockname" | "getpeername", _) => &["ENOBUFS"],
        ("sendto" | "sendmsg", "UDP") => &["ENOBUFS", "ENOMEM", "EPERM", "ECONNREFUSED", "ENETUNREACH", "EHOSTUNREACH"],
        // No socket waits, so no signal ends that; and what is sent finds room.
        ("sendto" | "sendmsg", _) => &["ENOBUFS", "ENOMEM", "EPIPE", "ECONNRESET"],
        ("recvfrom" | "recvmsg", "UDP") => &["ECONNREFUSED", "ENOMEM", "EINTR", "EHOSTUNREACH"],
        ("recvfrom" | "recvmsg", _) => &["ECONNRESET", "ETIMEDOUT", "ENOMEM", "EINTR", "EHOSTUNREACH"],
        ("read" | "pread64", "TCP") => &["ECONNRESET", "ETIMEDOUT", "ENOMEM", "EINTR", "EHOSTUNREACH"],
        ("read", "UNIX") => &["ECONNRESET", "ENOMEM", "EINTR"],
        ("read", "signalfd") => &["EINTR"],
        ("read" | "pread64", _) => &["EIO", "EINTR", "ENOMEM"],
        ("lseek", _) => &["EIO"],
        ("write", "TCP") => &["EPIPE", "ECONNRESET", "ETIMEDOUT", "ENOBUFS", "EINTR"],
        ("write", "UNIX") => &["EPIPE", "ECONNRESET", "ENOBUFS", "ENOMEM", "EAGAIN"],
        ("write", "pipe") => &["EAGAIN", "EPIPE", "EINTR"],
        ("write", _) => &["ENOSPC", "EIO", "EDQUOT", "EFBIG", "EINTR", "EAGAIN"],
        ("clone" | "clone3" | "fork", _) => &["EAGAIN", "ENOMEM"],
        ("execve", _) => &["ENOENT", "EACCES", "ENOEXEC", "ETXTBSY", "ENOMEM"],
        ("wait4" | "waitid", _) => &["EINTR"],
        ("fcntl", "F_DUPFD_CLOEXEC" | "F_DUPFD") => &["EMFILE"],
        ("openat", _) => &["EMFILE", "ENFILE", "ENOENT", "EACCES", "EIO", "EINTR", "ENOMEM", "ENOSPC"],
        ("fstat" | "newfstatat" | "statx", _) => &["EIO", "ENOMEM", "EACCES"],
        ("unlink" | "unlinkat", _) => &["EACCES", "EROFS", "EIO"],
        ("flock", _) => &["EAGAIN", "ENOLCK", "EINTR"],
        ("socketpair" | "pipe2" | "pipe" | "memfd_create", _) => &["EMFILE", "ENFILE", "ENOMEM"],
        ("mmap" | "mremap", _) => &["ENOMEM"],
        ("shutdown", _) => &["ENOTCONN"],
        ("getrandom", _) => &["EINTR", "ENOSYS"],
        ("kill", _) => &["ESRCH"],
        // Cannot fail for what is asked; a failed close would be a leak of strace's making, and brk tells
        // of a failure in a way that strace cannot.
        ("brk", _) => &[],
        ("close" | "munmap" | "madvise" | "mprotect" | "fcntl" | "epoll_ctl" | "getpid" | "getuid" | "geteuid", _) => {
            &[]
        }
        ("rt_sigprocmask" | "rt_sigaction" | "restart_syscall" | "gettid" | "clock_gettime" | "getegid", _) => &[],
        // FIONBIO alone.
        ("ioctl" | "exit_group" | "uname", _) => &[],
        _ => &["ENOMEM", "EIO"],
    }
}

/// What c-ares reads for the name servers, and for what it would do besides.
const CONFIGURATION: [&str; 4] = ["resolv.conf", "nsswitch.conf", "netsvc.conf", "svc.conf"];

/// True where a client who is on a list is refused all the same: what fails is on this host, and can be
/// had again (docs/security.md). Everything else that keeps a list from being asked lets him in, and is
/// said.
pub fn listed_stay_out(name: &str, subject: &str, error: &str) -> bool {
    match (name, subject) {
        ("openat" | "read" | "lseek" | "newfstatat" | "statx", _) if CONFIGURATION.contains(&subject) => true,
        // There are no ports.
        ("connect", "UDP" | "TCP") if ["EAGAIN", "EADDRNOTAVAIL"].contains(&error) => true,
        _ => ["EMFILE", "ENFILE", "ENOMEM", "ENOBUFS", "ENOSPC"].contains(&error),
    }
}

/// Where somebody gets less and nothing need be said of it.
struct Quiet {
    calls: &'static [(&'static str, &'static str)],
    errors: &'static [&'static str],
    /// What he gets less of.
    less: &'static str,
    why: &'static str,
}

const QUIET: [Quiet; 5] = [
    Quiet {
        calls: &[("connect", "TCP"), ("sendto", "TCP"), ("recvfrom", "TCP")],
        errors: &["ECONNREFUSED", "ECONNRESET", "ENETUNREACH", "EHOSTUNREACH", "ETIMEDOUT", "EPIPE"],
        less: "TCPREMOTEINFO",
        why: "few clients have an ident server that answers",
    },
    Quiet {
        calls: &[("sendto", "TCP"), ("recvfrom", "TCP")],
        errors: &["ENOMEM", "ENOBUFS"],
        less: "TCPREMOTEINFO",
        why: "a conversation with the client's own host that ends early, like others",
    },
    Quiet {
        calls: &[("sendto", "TCP")],
        errors: &["EPIPE", "ECONNRESET", "ENOMEM", "ENOBUFS"],
        less: "refused without the message",
        why: "he is refused all the same, and what his socket does not take is not waited for",
    },
    Quiet {
        calls: &[("write", "UNIX")],
        errors: &["EPIPE", "ECONNRESET"],
        less: "the service manager",
        why: "nobody is there to hear it",
    },
    Quiet {
        calls: &[("recvfrom", "UNIX")],
        errors: &["ECONNRESET", "ETIMEDOUT", "ENOMEM", "EHOSTUNREACH"],
        less: "softdnserr",
        why: "it is said, and for that the same line of the helper that is killed next is held back",
    },
];

/// Why nothing need be said though somebody got less; none if it must be.
pub fn why_quiet(name: &str, subject: &str, error: &str, outcome: &Outcome) -> Option<&'static str> {
    let (Outcome::Less(what) | Outcome::Told(what)) = outcome else { return None };
    let is_one = |quiet: &&Quiet| {
        quiet.calls.contains(&(name, subject)) && quiet.errors.contains(&error) && what.contains(quiet.less)
    };
    QUIET.iter().find(is_one).map(|quiet| quiet.why)
}
