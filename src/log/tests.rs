//! The logger as a whole, at both ends: what is said, and what arrives.

use super::*;

use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use nix::fcntl::OFlag;
use nix::unistd::{Pid, pipe2, read};

use crate::children::End;

/// A directory of a test's own, removed with it.
pub(crate) struct Dir(PathBuf);

impl Dir {
    pub(crate) fn new() -> Self {
        use std::sync::atomic::{AtomicU32, Ordering};
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("couriertcpd-unit-{}-{n}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        Dir(path)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Sends this thread's lines to a pipe; [`Caught::text`] returns what came.
pub(crate) struct Caught {
    reader: OwnedFd,
    writer: OwnedFd,
}

impl Caught {
    pub(crate) fn new(level: Level) -> Self {
        let (reader, writer) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).unwrap();
        let own = Descriptor::beside(writer.as_fd()).unwrap();
        with(|log| {
            *log = Log::new(Sink::Lines(own));
            log.level = level;
        });
        Caught { reader, writer }
    }

    pub(crate) fn text(&self) -> String {
        let (mut text, mut buffer) = (Vec::new(), [0; 4096]);
        while let Ok(length @ 1..) = read(&self.reader, &mut buffer) {
            text.extend_from_slice(&buffer[..length]);
        }
        String::from_utf8(text).unwrap()
    }

    /// Fills the pipe to the last byte.
    fn stuff(&self) {
        while let Ok(1..) = nix::unistd::write(&self.writer, &[b'.'; 1]) {}
    }
}

/// A configuration with nothing asked for: in the foreground, default level.
pub(crate) fn config() -> Config {
    use crate::config::*;
    Config {
        listen: Vec::new(),
        passed: PassedSockets::default(),
        backlog: None,
        handler: Handler { program: "/bin/cat".into(), args: Vec::new() },
        access: Access::default(),
        deny_message: None,
        drop: Vec::new(),
        limits: Limits {
            max_procs: 40,
            max_per_ip: 4,
            max_per_block: None,
            warn_at: 35,
            max_pending: 0,
            prefix6: Prefix6::default(),
        },
        proxy: None,
        lookups: Lookups {
            names: NameSource::Off,
            ident: false,
            nameservers: Vec::new(),
            timeout: Duration::from_secs(30),
            ident_timeout: Duration::from_secs(10),
            cache_entries: 0,
            mismatch: HostMismatch::default(),
        },
        lists: Vec::new(),
        zones: Vec::new(),
        user: None,
        group: None,
        control: None,
        pid_file: None,
        stderr: HandlerStderr::Inherit,
        logger: None,
        log: LogConfig { syslog: None, level: Level::Notice },
        ipv4: Ipv4Form::default(),
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn socket(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

#[test]
fn the_options_say_where_lines_go() {
    use crate::config::{HandlerStderr, LogConfig, LoggerProgram};
    let (mail, local0) = (Facility::MAIL, Facility(16));
    let file = || HandlerStderr::File("/var/log/err".into());
    for (stderr, logger, background, syslog, expected) in [
        (HandlerStderr::Inherit, false, false, None, Destination::Standard),
        (HandlerStderr::Socket, false, false, None, Destination::Standard),
        (HandlerStderr::Inherit, false, true, None, Destination::Syslog(mail)),
        (HandlerStderr::Socket, false, true, None, Destination::Syslog(mail)),
        (file(), false, false, None, Destination::Handlers),
        (file(), false, true, None, Destination::Handlers),
        (HandlerStderr::Logger, true, true, None, Destination::Handlers),
        (HandlerStderr::Socket, true, true, None, Destination::Handlers),
        (HandlerStderr::Inherit, false, false, Some(mail), Destination::Syslog(mail)),
        (file(), false, true, Some(local0), Destination::Syslog(local0)),
        (HandlerStderr::Logger, true, true, Some(local0), Destination::Syslog(local0)),
    ] {
        let logger = logger.then(|| LoggerProgram { program: "/lib/log".into(), name: "imapd".into() });
        let pid_file = background.then(|| PathBuf::from("/run/pid"));
        let log = LogConfig { syslog, level: Level::Notice };
        let config = Config { stderr, logger, pid_file, log, ..config() };
        assert_eq!(Destination::of(&config), expected, "{config:?}");
    }
}

#[test]
fn levels_have_the_words_that_courierlogger_knows() {
    let caught = Caught::new(Level::Debug);
    alert(format_args!("a"));
    err(format_args!("b"));
    warning(format_args!("c"));
    notice(format_args!("d"));
    info(format_args!("e"));
    debug(format_args!("f"));
    assert_eq!(caught.text(), "ALERT: a\nERR: b\nWARN: c\nd\nINFO: e\nDEBUG: f\n");
}

#[test]
fn a_level_keeps_less_severe_lines_out() {
    for (level, expected) in [
        (Level::Err, "ALERT: a\nERR: b\n"),
        (Level::Notice, "ALERT: a\nERR: b\nWARN: c\nd\n"),
        (Level::Info, "ALERT: a\nERR: b\nWARN: c\nd\nINFO: e\n"),
    ] {
        let caught = Caught::new(level);
        alert(format_args!("a"));
        err(format_args!("b"));
        warning(format_args!("c"));
        notice(format_args!("d"));
        info(format_args!("e"));
        debug(format_args!("f"));
        assert_eq!(caught.text(), expected, "{level:?}");
    }
}

#[test]
fn a_line_is_one_line_and_has_an_end() {
    let caught = Caught::new(Level::Notice);
    err(format_args!("one\nERR: two\r\t\u{85}\x7f"));
    assert_eq!(caught.text(), "ERR: one?ERR: two????\n");
    err(format_args!("{}", "\u{20ac}".repeat(2000)));
    let text = caught.text();
    assert!(text.len() <= 1000 && text.len() > 980 && text.ends_with("\u{20ac}\n"), "{}", text.len());
}

#[test]
fn the_wording_of_the_original_is_kept() {
    let caught = Caught::new(Level::Notice);
    all_slots_in_use(40);
    many_slots_in_use(35);
    per_address_limit(ip("192.0.2.1"));
    per_address_limit(ip("::ffff:192.0.2.2"));
    per_address_limit(ip("2001:db8::1"));
    dropped(ip("192.0.2.1"));
    per_block_limit(ip("192.0.2.0"), 24);
    assert_eq!(
        caught.text(),
        "ALERT: 40 maximum active connections.\n\
         WARN: 35 active connections.\n\
         ALERT: Maximum connection limit reached for ::ffff:192.0.2.1\n\
         ALERT: Maximum connection limit reached for ::ffff:192.0.2.2\n\
         ALERT: Maximum connection limit reached for 2001:db8::1\n\
         WARN: dropped blocked connection from ::ffff:192.0.2.1\n\
         ALERT: Maximum connection limit reached for block 192.0.2.0/24\n"
    );
    with(|log| log.ipv4 = Ipv4Form::Plain);
    per_address_limit(ip("192.0.2.3"));
    assert_eq!(caught.text(), "ALERT: Maximum connection limit reached for 192.0.2.3\n");
}

#[test]
fn what_is_held_back_is_counted_and_said_where_the_wording_is_free() {
    let caught = Caught::new(Level::Notice);
    let start = Instant::now();
    let say = |kind, text: &str, after| {
        let mut text = Text::new(format_args!("{text}"));
        with(|log| log.put_limited(kind, None, Level::Err, &mut text, start + Duration::from_secs(after)));
    };
    for second in 0..4 {
        say(Kind::Accept, "no descriptors", second);
        say(Kind::AllSlots, "fixed", second);
    }
    say(Kind::Accept, "no descriptors", 60);
    say(Kind::AllSlots, "fixed", 60);
    assert_eq!(
        caught.text(),
        "ERR: no descriptors\nERR: fixed\nERR: no descriptors (3 more since the last such message)\nERR: fixed\n"
    );
    assert_eq!(suppressed(), 6);
}

#[test]
fn trouble_with_lookups_is_said_once_a_minute_and_for_each_list() {
    use crate::policy::session::Trouble;
    let caught = Caught::new(Level::Notice);
    let odd = |last| Trouble::Unusable(std::net::Ipv4Addr::new(127, 255, 255, last));
    for n in 0..100 {
        lookups_late(Duration::from_secs(30));
        for list in 0..2 {
            let display = format!("l{list}.ex");
            list_trouble(list, &display, if n % 2 == 0 { Trouble::Late } else { Trouble::Failed });
            list_trouble(list, &display, odd(n));
        }
        lists_not_asked(&"why");
        access_opened_anew("/f".as_ref(), "why");
        control_refused(nix::unistd::Uid::from_raw(7));
    }
    assert_eq!(
        caught.text(),
        "WARN: lookups took longer than 30 s; connections go on without them\n\
         WARN: list l0.ex: no answer in time; taken as not listed\n\
         WARN: list l0.ex: answer 127.255.255.0 is no listing; taken as not listed\n\
         WARN: list l1.ex: no answer in time; taken as not listed\n\
         WARN: list l1.ex: answer 127.255.255.0 is no listing; taken as not listed\n\
         ALERT: cannot ask DNS access lists: why; trying again until -lookuptimeout\n\
         WARN: /f: why; opened anew\n\
         WARN: user 7 may not use the control socket\n"
    );
    assert_eq!(suppressed(), 99 * 8);
}

#[test]
fn a_message_that_the_level_keeps_out_is_not_held_back() {
    let caught = Caught::new(Level::Err);
    many_slots_in_use(1);
    many_slots_in_use(2);
    assert_eq!((caught.text().as_str(), suppressed()), ("", 0));
}

#[test]
fn lost_lines_are_counted_and_said_with_the_next_that_gets_through() {
    let caught = Caught::new(Level::Notice);
    caught.stuff();
    let asked = Instant::now();
    for n in 0..1000 {
        err(format_args!("lost {n}"));
    }
    assert!(asked.elapsed() < Duration::from_secs(5));
    assert!(caught.text().chars().all(|c| c == '.'));
    err(format_args!("seen"));
    err(format_args!("seen too"));
    assert_eq!(caught.text(), "WARN: 1000 messages could not be written\nERR: seen\nERR: seen too\n");

    caught.stuff();
    err(format_args!("lost"));
    caught.text();
    err(format_args!("seen"));
    assert_eq!(caught.text(), "WARN: 1 message could not be written\nERR: seen\n");
}

#[test]
fn without_standard_error_lines_are_counted_until_there_is_a_place() {
    with(|log| *log = Log::new(Sink::Nowhere));
    err(format_args!("into the void"));
    let (reader, writer) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).unwrap();
    reopened(Descriptor::own(writer));
    err(format_args!("here"));
    let mut buffer = [0; 200];
    let length = read(&reader, &mut buffer).unwrap();
    assert_eq!(&buffer[..length], b"WARN: 1 message could not be written\nERR: here\n");
}

#[test]
fn a_connection_is_one_line_of_fields() {
    let caught = Caught::new(Level::Info);
    let served = Connection {
        remote: socket("[::ffff:192.0.2.1]:4711"),
        local: socket("192.0.2.25:25"),
        host: Some(b"mx.example.org"),
        decision: Decision::Served,
        by: None,
        detail: None,
        lookups: Duration::from_micros(12_900),
        pid: Some(123),
    };
    connection(&served);
    connection(&Connection {
        host: Some(b"evil\" decision=served by=\"x\n"),
        decision: Decision::Refused,
        by: Some("drop"),
        detail: Some(b"BLOCK"),
        pid: None,
        ..served
    });
    assert_eq!(
        caught.text(),
        "INFO: connection ip=::ffff:192.0.2.1 port=4711 local_ip=::ffff:192.0.2.25 local_port=25 \
         host=mx.example.org decision=served by=- detail=- lookup_ms=12 pid=123\n\
         INFO: connection ip=::ffff:192.0.2.1 port=4711 local_ip=::ffff:192.0.2.25 local_port=25 \
         host=\"evil\\x22 decision=served by=\\x22x\\x0a\" decision=refused by=drop detail=BLOCK lookup_ms=12 pid=-\n"
    );
}

#[test]
fn an_end_tells_exit_status_or_signal() {
    let caught = Caught::new(Level::Info);
    let (remote, pid) = (socket("[2001:db8::1]:4711"), Pid::from_raw(123));
    ended(remote, pid, End::Exit(75), Duration::from_millis(61_007));
    ended(remote, pid, End::Killed(libc::SIGTERM), Duration::ZERO);
    ended(remote, pid, End::Killed(40), Duration::ZERO);
    assert_eq!(
        caught.text(),
        "INFO: end ip=2001:db8::1 port=4711 pid=123 exit=75 signal=- seconds=61.007\n\
         INFO: end ip=2001:db8::1 port=4711 pid=123 exit=- signal=SIGTERM seconds=0.000\n\
         INFO: end ip=2001:db8::1 port=4711 pid=123 exit=- signal=40 seconds=0.000\n"
    );
}
