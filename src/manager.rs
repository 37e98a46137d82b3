//! The service manager that started the daemon: systemd, or one that speaks its protocol.
//!
//! What it says stands in the environment: sockets to take over (`LISTEN_FDS`), where it wants to
//! hear of us (`NOTIFY_SOCKET`), how often (`WATCHDOG_USEC`). `startup` reads it before anything
//! else, because some of it is meant for the process as it was started and not for one that went to
//! the background. The reactor then calls [`Manager::tick`] every turn. Without `NOTIFY_SOCKET`
//! there is no [`Manager`], and nothing of this costs anything.
//!
//! The texts are those of the sd-notify crate. Its way to send them may block, so the socket is
//! our own.

#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::env;
use std::ffi::OsStr;
use std::fmt;
use std::io::{self, ErrorKind};
use std::os::fd::RawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, Instant};

use nix::unistd::Pid;
use sd_notify::NotifyState;

/// The shortest time between two texts of status.
const STATUS_PAUSE: Duration = Duration::from_secs(5);

/// How long to wait if the manager's buffer is full.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// Notifications kept for a manager that does not read: of more, the oldest say nothing any more.
const QUEUE_MOST: usize = 8;

/// What the status tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    pub slots_in_use: u32,
    pub slots: u32,
    /// Connections whose header or lookups are awaited.
    pub pending: usize,
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} slots in use, {} connections pending", self.slots_in_use, self.slots, self.pending)
    }
}

#[derive(Debug)]
pub struct Manager {
    socket: UnixDatagram,
    address: SocketAddr,
    /// Not sent yet, oldest first.
    queue: VecDeque<String>,
    /// When to try again; none: the queue is empty.
    retry: Option<Instant>,
    /// Time between two signs of life, and the next one.
    watchdog: Option<(Duration, Instant)>,
    /// The last status sent.
    told: Option<Counts>,
    /// Before that no other is sent.
    status_from: Instant,
    /// The counts have changed since.
    status_due: bool,
}

/// The descriptors that the manager has passed to this very process.
///
/// # Errors
/// The variables make no sense, or name a descriptor that is not open.
pub fn passed_sockets() -> io::Result<impl ExactSizeIterator<Item = RawFd>> {
    sd_notify::listen_fds()
}

impl Manager {
    /// None: nobody wants to hear of us. To be called by the process as it was started.
    pub fn from_environment(now: Instant) -> io::Result<Option<Self>> {
        match env::var_os("NOTIFY_SOCKET").filter(|path| !path.is_empty()) {
            None => Ok(None),
            Some(path) => Manager::connect(&path, sd_notify::watchdog_enabled(), now).map(Some),
        }
    }

    fn connect(path: &OsStr, watchdog: Option<Duration>, now: Instant) -> io::Result<Self> {
        let address = match path.as_bytes() {
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
            _ => SocketAddr::from_pathname(path)?,
        };
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        socket.connect_addr(&address)?;
        let watchdog = watchdog.filter(|time| !time.is_zero()).map(|time| (time / 2, now + time / 2));
        Ok(Manager {
            socket,
            address,
            queue: VecDeque::new(),
            retry: None,
            watchdog,
            told: None,
            status_from: now,
            status_due: false,
        })
    }

    /// True if it wants signs of life.
    pub fn is_watched(&self) -> bool {
        self.watchdog.is_some()
    }

    /// The daemon serves. `main`: it is this process, another than was started.
    pub fn ready(&mut self, main: Option<Pid>, now: Instant) {
        let mut states = vec![NotifyState::Ready];
        states.extend(main.map(|pid| NotifyState::MainPid(pid.as_raw().unsigned_abs())));
        self.say(&states, now);
    }

    /// It reads its files anew; [`ready`](Self::ready) has to follow.
    pub fn reloading(&mut self, now: Instant) {
        let mut states = vec![NotifyState::Reloading];
        states.extend(NotifyState::monotonic_usec_now());
        self.say(&states, now);
    }

    /// It is about to end.
    pub fn stopping(&mut self, now: Instant) {
        self.say(&[NotifyState::Stopping], now);
    }

    /// Does what is due: signs of life, a status that has changed, what could not be sent before.
    pub fn tick(&mut self, counts: Counts, now: Instant) {
        if self.retry.is_some_and(|at| at <= now) {
            self.flush(now);
        }
        if let Some((period, next)) = &mut self.watchdog {
            if *next <= now {
                *next = now + *period;
                // One that does not get through says the truth: we are not heard.
                let _ = self.send(&text(&[NotifyState::Watchdog]));
            }
        }
        self.status_due = self.told != Some(counts);
        if self.status_due && self.status_from <= now {
            self.status_from = now + STATUS_PAUSE;
            if self.send(&text(&[NotifyState::Status(&counts.to_string())])).is_ok() {
                self.told = Some(counts);
                self.status_due = false;
            }
        }
    }

    /// When [`tick`](Self::tick) has something to do, if nothing else happens.
    pub fn deadline(&self) -> Option<Instant> {
        let status = self.status_due.then_some(self.status_from);
        [self.retry, self.watchdog.map(|(_, next)| next), status].into_iter().flatten().min()
    }

    fn say(&mut self, states: &[NotifyState<'_>], now: Instant) {
        if self.queue.len() == QUEUE_MOST {
            self.queue.pop_front();
        }
        self.queue.push_back(text(states));
        self.flush(now);
    }

    fn flush(&mut self, now: Instant) {
        self.retry = None;
        while let Some(first) = self.queue.front() {
            match self.send(first) {
                Err(error) if is_passing(&error) => {
                    self.retry = Some(now + RETRY_PAUSE);
                    return;
                }
                // Sent, or nobody is there to hear it.
                _ => drop(self.queue.pop_front()),
            }
        }
    }

    fn send(&self, text: &str) -> io::Result<()> {
        let sent = match self.socket.send(text.as_bytes()) {
            // The manager has been started anew, and its socket with it.
            Err(error) if matches!(error.kind(), ErrorKind::ConnectionRefused | ErrorKind::NotConnected) => {
                self.socket.connect_addr(&self.address)?;
                self.socket.send(text.as_bytes())
            }
            sent => sent,
        };
        sent.map(drop)
    }
}

/// The manager does not keep up, or this host is short of memory.
fn is_passing(error: &io::Error) -> bool {
    error.kind() == ErrorKind::WouldBlock || matches!(error.raw_os_error(), Some(libc::ENOBUFS | libc::ENOMEM))
}

fn text(states: &[NotifyState<'_>]) -> String {
    states.iter().map(|state| format!("{state}\n")).collect()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    struct Ear(UnixDatagram, PathBuf);

    impl Ear {
        fn new(name: &str) -> Ear {
            let path = env::temp_dir().join(format!("tcpd-manager-{}-{name}", std::process::id()));
            let _ = std::fs::remove_file(&path);
            let socket = UnixDatagram::bind(&path).unwrap();
            socket.set_nonblocking(true).unwrap();
            Ear(socket, path)
        }

        fn next(&self) -> Option<String> {
            let mut buffer = [0; 512];
            let length = self.0.recv(&mut buffer).ok()?;
            Some(String::from_utf8(buffer[..length].to_vec()).unwrap())
        }
    }

    impl Drop for Ear {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.1);
        }
    }

    fn counts(slots_in_use: u32) -> Counts {
        Counts { slots_in_use, slots: 40, pending: 0 }
    }

    #[test]
    fn a_status_is_sent_when_it_changes_and_not_too_often() {
        let ear = Ear::new("status");
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut manager = Manager::connect(ear.1.as_os_str(), None, start).unwrap();
        assert_eq!(manager.deadline(), None);
        manager.tick(counts(1), at(0));
        assert_eq!(ear.next().as_deref(), Some("STATUS=1 of 40 slots in use, 0 connections pending\n"));
        manager.tick(counts(2), at(1));
        assert_eq!((ear.next(), manager.deadline()), (None, Some(at(5))));
        manager.tick(counts(3), at(5));
        assert_eq!(ear.next().as_deref(), Some("STATUS=3 of 40 slots in use, 0 connections pending\n"));
        assert_eq!(manager.deadline(), None);
        manager.tick(counts(3), at(60));
        assert_eq!(ear.next(), None);
        // There and back again is no change.
        manager.tick(counts(4), at(61));
        assert!(ear.next().is_some());
        manager.tick(counts(5), at(62));
        manager.tick(counts(4), at(63));
        assert_eq!((ear.next(), manager.deadline()), (None, None));
    }

    #[test]
    fn signs_of_life_come_at_half_the_time() {
        let ear = Ear::new("watchdog");
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut manager = Manager::connect(ear.1.as_os_str(), Some(Duration::from_secs(2)), start).unwrap();
        manager.tick(counts(0), at(0));
        assert!(ear.next().unwrap().starts_with("STATUS="));
        assert_eq!(manager.deadline(), Some(at(1000)));
        manager.tick(counts(0), at(999));
        assert_eq!(ear.next(), None);
        manager.tick(counts(0), at(1001));
        assert_eq!(ear.next().as_deref(), Some("WATCHDOG=1\n"));
        assert_eq!(manager.deadline(), Some(at(2001)));
    }

    #[test]
    fn a_manager_that_does_not_read_gets_the_last_word_later() {
        let ear = Ear::new("full");
        let now = Instant::now();
        let mut manager = Manager::connect(ear.1.as_os_str(), None, now).unwrap();
        while manager.send("x").is_ok() {}
        manager.ready(None, now);
        manager.reloading(now);
        assert_eq!(manager.deadline(), Some(now + RETRY_PAUSE));
        while ear.next().is_some() {}
        manager.tick(counts(0), now + RETRY_PAUSE);
        assert_eq!(ear.next().as_deref(), Some("READY=1\n"));
        let reloading = ear.next().unwrap();
        let number = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").expect(&reloading);
        assert!(number.trim_end().parse::<u64>().unwrap() > 0);
        assert!(ear.next().unwrap().starts_with("STATUS="));
        // It is bounded, and the last ones are kept.
        while manager.send("x").is_ok() {}
        for _ in 0..100 {
            manager.ready(None, now);
        }
        manager.stopping(now);
        assert_eq!(manager.queue.len(), QUEUE_MOST);
        assert_eq!(manager.queue.back().map(String::as_str), Some("STOPPING=1\n"));
    }

    #[test]
    fn a_manager_that_is_started_anew_is_found() {
        let ear = Ear::new("anew");
        let now = Instant::now();
        let mut manager = Manager::connect(ear.1.as_os_str(), None, now).unwrap();
        drop(ear);
        manager.stopping(now);
        assert!(manager.queue.is_empty());
        let ear = Ear::new("anew");
        manager.ready(Some(Pid::from_raw(77)), now);
        assert_eq!(ear.next().as_deref(), Some("READY=1\nMAINPID=77\n"));
    }
}
