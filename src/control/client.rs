//! The verbs' side of the control socket: asks, and waits for the reply, but not for ever.
//!
//! Runs in a process of its own, which may wait.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, getsockopt, setsockopt, socket, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};
use nix::unistd::Pid;

use super::Request;
use crate::error::StartError;
use crate::sys::Process;

/// How long a daemon may take to answer; it answers in its next turn.
const PATIENCE: Duration = Duration::from_secs(10);
/// Or after the trial of a new program.
const TRIAL_PATIENCE: Duration = Duration::from_secs(40);

/// The longest reply that is believed to be one.
const REPLY_MAX: u64 = 16 << 20;

/// Sends `request` to the daemon behind `path`; its answer, without control characters but newlines,
/// since it goes to a terminal, and the daemon's process, if that is one of this host and container.
pub fn ask(path: &Path, request: Request) -> Result<(String, Option<Process>), StartError> {
    let failed = |doing| move |error: std::io::Error| StartError::file(path, doing, error);
    let patience = if request == Request::Upgrade { TRIAL_PATIENCE } else { PATIENCE };
    let mut stream = open(path, patience).map_err(|errno| StartError::file(path, "no daemon answers there", errno))?;
    let daemon = getsockopt(&stream, sockopt::PeerCredentials).ok().map(|peer| peer.pid()).filter(|&pid| pid > 0);
    let daemon = daemon.and_then(|pid| Process::open(Pid::from_raw(pid)));
    match stream.write_all(request.line().as_bytes()) {
        // Turned away before it could ask: the reply says why.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
        result => result.map_err(failed("cannot ask the daemon"))?,
    }
    let mut reply = Vec::new();
    receive(&mut stream, patience, &mut reply).map_err(failed("the daemon does not answer"))?;
    match read_reply(&reply) {
        Reply::Answer(body) => {
            Ok((String::from_utf8_lossy(body).replace(|c: char| c.is_control() && c != '\n', "?"), daemon))
        }
        Reply::Refused(why) => {
            let why = String::from_utf8_lossy(why).replace(|c: char| c.is_control(), "?");
            Err(StartError::Usage(format!("the daemon says: {why}")))
        }
        Reply::Broken => {
            Err(StartError::File { path: path.to_owned(), doing: "the daemon's answer is not whole", error: None })
        }
    }
}

fn open(path: &Path, patience: Duration) -> Result<UnixStream, Errno> {
    let address = UnixAddr::new(path)?;
    let fd = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    let patience = TimeVal::seconds(patience.as_secs() as i64);
    // The time-out for sending bounds connect too, which waits if many do.
    setsockopt(&fd, sockopt::SendTimeout, &patience)?;
    setsockopt(&fd, sockopt::ReceiveTimeout, &patience)?;
    connect(fd.as_raw_fd(), &address)?;
    Ok(fd.into())
}

fn receive(stream: &mut UnixStream, patience: Duration, reply: &mut Vec<u8>) -> std::io::Result<()> {
    let deadline = Instant::now() + patience;
    let mut buffer = [0; 16 * 1024];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(length) => reply.extend_from_slice(&buffer[..length]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // Closed with something of ours unread. Whether the reply is whole is seen later.
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(()),
            Err(error) => return Err(error),
        }
        if Instant::now() > deadline || reply.len() as u64 > REPLY_MAX {
            return Err(Errno::ETIMEDOUT.into());
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Reply<'a> {
    Answer(&'a [u8]),
    Refused(&'a [u8]),
    Broken,
}

pub(crate) fn read_reply(reply: &[u8]) -> Reply<'_> {
    let Some(end) = reply.iter().position(|&byte| byte == b'\n') else { return Reply::Broken };
    let (line, body) = (&reply[..end], &reply[end + 1..]);
    if let Some(why) = line.strip_prefix(b"error ") {
        return Reply::Refused(why);
    }
    let length = line.strip_prefix(b"ok ").and_then(|length| std::str::from_utf8(length).ok()?.parse::<usize>().ok());
    if length == Some(body.len()) { Reply::Answer(body) } else { Reply::Broken }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_reply_is_one() {
        for (reply, expected) in [
            (&b"ok 3\nabc"[..], Reply::Answer(b"abc")),
            (b"ok 0\n", Reply::Answer(b"")),
            (b"error busy\n", Reply::Refused(b"busy")),
            (b"ok 4\nabc", Reply::Broken),
            (b"ok 2\nabc", Reply::Broken),
            (b"ok x\nabc", Reply::Broken),
            (b"ok 3", Reply::Broken),
            (b"", Reply::Broken),
        ] {
            assert_eq!(read_reply(reply), expected, "{}", reply.escape_ascii());
        }
    }
}
