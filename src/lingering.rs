//! Refusing with a reply that arrives.
//!
//! Closing a connection with unread data in it makes the kernel send a reset, and the reset destroys
//! what the client has not read yet: the reply. So the reply is written, our side shut down, and
//! what the client had sent is read off until it closes too, or its second is over. The reactor
//! owns the table of such connections and their deadlines. Nothing here blocks.

#![forbid(unsafe_code)]

use std::net::{Shutdown, TcpStream};
use std::os::fd::AsRawFd;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv, send};

/// How long a refused client may take to read its reply and close.
pub const PATIENCE: Duration = Duration::from_secs(1);

/// Reads in one step. A client that sends faster than we read must not keep the loop.
const READS: usize = 16;

/// What became of reading off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rest {
    /// The client has closed, or is gone: close.
    Ended,
    /// Nothing more for now.
    Open,
    /// There may be more: come again.
    More,
}

/// Writes `reply` and shuts our side down. A reply that does not fit into an empty socket buffer is cut.
pub fn reply(stream: &TcpStream, reply: &[u8]) {
    // Failures mean that the client is gone, which reading off will find.
    let _ = send(stream.as_raw_fd(), reply, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL);
    let _ = stream.shutdown(Shutdown::Write);
}

/// Reads off and forgets what the client has sent.
pub fn read_off(stream: &TcpStream) -> Rest {
    let mut sink = [0; 16 * 1024];
    for _ in 0..READS {
        // tcp(7): MSG_TRUNC throws the data away without copying it.
        match recv(stream.as_raw_fd(), &mut sink, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_TRUNC) {
            Ok(0) => return Rest::Ended,
            Ok(_) | Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => return Rest::Open,
            Err(_) => return Rest::Ended,
        }
    }
    Rest::More
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use super::*;

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (client, listener.accept().unwrap().0)
    }

    /// Reads off until the client has closed.
    fn finish(ours: &TcpStream) {
        while read_off(ours) != Rest::Ended {
            std::thread::yield_now();
        }
    }

    #[test]
    fn the_reply_arrives_though_the_client_had_sent_something() {
        let (mut client, ours) = pair();
        client.write_all(&[b'x'; 5000]).unwrap();
        reply(&ours, b"554 no\r\n");
        let mut got = String::new();
        client.read_to_string(&mut got).unwrap();
        assert_eq!(got, "554 no\r\n");
        drop(client);
        finish(&ours);
    }

    #[test]
    fn a_client_that_is_gone_ends_it() {
        let (client, ours) = pair();
        drop(client);
        finish(&ours);
        reply(&ours, b"554 no\r\n");
        assert_eq!(read_off(&ours), Rest::Ended);
    }
}
