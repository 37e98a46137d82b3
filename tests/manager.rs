//! Service managers: sockets passed to the daemon, any free port, and what it tells of itself.

mod common;

use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use common::daemon::Background;
use common::*;
use nix::sys::signal::Signal;

/// As a service manager passes a socket: descriptor 3, and who it is for. The socket is standard
/// input before.
const PASS: &str = "exec 3<&0 </dev/null; export LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=smtp";

/// Variables that are meant for the daemon alone.
const PRIVATE: [&str; 6] =
    ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"];

/// A listening socket, and a daemon to be given it.
fn given(list: &str) -> (TcpListener, Builder) {
    let address = fresh_address();
    let socket = TcpListener::bind(address).expect("bind");
    let copy = socket.try_clone().expect("copy a socket");
    (socket, Builder::default().address(address).list(list).stdin(copy))
}

#[track_caller]
fn assert_served(address: SocketAddr) {
    let report = Client::connect(address).finish().report().expect("the handler ran");
    assert_eq!(report.var("TCPLOCALPORT"), Some(address.port().to_string().as_str()));
    assert_eq!(report.descriptors.keys().copied().collect::<Vec<_>>(), [0, 1, 2]);
    assert!(report.keepalive);
    assert_eq!(report.descriptors[&0].flags & nix::libc::O_NONBLOCK as u32, 0);
    for name in PRIVATE {
        assert_eq!(report.var(name), None, "{name}");
    }
}

#[test]
fn sockets_of_a_service_manager() {
    let other = fresh_address();
    for (list, addresses) in
        [("systemd".to_owned(), vec![]), (format!("systemd,{}", daemon::list_entry(other)), vec![other])]
    {
        let (socket, builder) = given(&list);
        let daemon = builder.prelude(PASS).start();
        assert_served(socket.local_addr().unwrap());
        for address in addresses {
            assert_served(address);
        }
        assert_eq!(daemon.stderr(), "");
    }
}

#[test]
fn sockets_by_their_number() {
    for (list, prelude) in [("fd:0", "true"), ("fd:7", "exec 7<&0 </dev/null"), ("fd:7", "exec 7<&0; exec 0<&-")] {
        let (socket, builder) = given(list);
        let address = socket.local_addr().unwrap();
        drop(socket);
        let daemon = builder.prelude(prelude).start();
        assert_served(address);
        assert_eq!(procfs::listening(daemon.pid()), [address].into());
        // It is the only one to have it.
        daemon.signal(Signal::SIGTERM);
        wait_for("nobody listens", || Client::try_connect(None, address).is_err());
    }
}

#[test]
fn passed_sockets_survive_the_way_to_the_background() {
    for (list, prelude) in [("systemd", PASS), ("fd:0", "true"), ("fd:7", "exec 7<&0 </dev/null")] {
        let scratch = Scratch::new();
        let pid_file = scratch.join("pid");
        let (socket, builder) = given(list);
        let finished = builder.prelude(prelude).option(format!("-pid={}", pid_file.display())).run();
        assert_eq!((finished.code(), finished.stdout.as_str()), (0, ""), "{finished:?}");
        let daemon = Background::of(&pid_file);
        assert_eq!(procfs::listening(daemon.pid()), [socket.local_addr().unwrap()].into());
        assert_served(socket.local_addr().unwrap());
    }
}

#[test]
fn a_socket_that_is_none_is_named() {
    let nothing = "LISTEN_FDS";
    let cases = [
        ("systemd", "true", nothing),
        ("systemd", "exec 3<&0; export LISTEN_PID=1 LISTEN_FDS=1", nothing),
        ("systemd", "exec 3<&0; export LISTEN_PID=$$", nothing),
        ("systemd", "export LISTEN_PID=$$ LISTEN_FDS=0", nothing),
        ("systemd", "export LISTEN_PID=$$ LISTEN_FDS=2; exec 3<&0", "Bad file descriptor"),
        ("systemd", "export LISTEN_PID=$$ LISTEN_FDS=x", "LISTEN_FDS"),
        ("systemd", "exec 3</dev/null; export LISTEN_PID=$$ LISTEN_FDS=1", "Socket operation on non-socket"),
        ("fd:7", "true", "Bad file descriptor"),
        ("fd:7,fd:7", "exec 7<&0", "Bad file descriptor"),
        ("fd:0", "exec 0<&-", "Socket operation on non-socket"),
    ];
    for (list, prelude, why) in cases {
        let (_socket, builder) = given(list);
        let finished = builder.prelude(prelude).run();
        assert_eq!((finished.code(), finished.stderr.lines().count()), (1, 1), "{list} {prelude}: {finished:?}");
        let entry = list.split(',').next().unwrap();
        let begin = format!("couriertcpd: cannot listen on {entry}: ");
        assert!(finished.stderr.starts_with(&begin) && finished.stderr.contains(why), "{prelude}: {finished:?}");
    }
    // One that is connected is none either.
    let (socket, _) = given("");
    let client = std::net::TcpStream::connect(socket.local_addr().unwrap()).unwrap();
    let finished = Builder::default().list("fd:0").stdin(client).run();
    assert!(finished.stderr.contains("not a listening socket"), "{finished:?}");
}

/// The addresses that the daemon has told on standard output.
fn told(text: &str) -> Vec<SocketAddr> {
    text.lines().map(|line| line.strip_prefix("listening on ").expect(line).parse().expect(line)).collect()
}

#[test]
fn any_free_port_is_told() {
    let (scratch, ip, fixed) = (Scratch::new(), fresh_ip(), fresh_address());
    let list = format!("{ip}.0,{},[::1]:0,0", daemon::list_entry(fixed));
    let out = scratch.join("out");
    let daemon = Builder::default().list(&list).stdout(File::create(&out).unwrap()).start();
    let text = || std::fs::read_to_string(&out).unwrap();
    wait_for("it tells three ports", || text().lines().count() == 3 && text().ends_with('\n'));
    let addresses = told(&text());
    assert_eq!(addresses[0].ip(), ip);
    assert_eq!(addresses[1].ip(), "::1".parse::<std::net::IpAddr>().unwrap());
    assert!(addresses[2].ip().is_unspecified());
    for address in &addresses[..2] {
        assert_served(*address);
    }
    assert_served(SocketAddr::new(ip.into(), addresses[2].port()));
    assert!(procfs::listening(daemon.pid()).is_superset(&addresses.into_iter().collect()));
}

#[test]
fn any_free_port_is_told_by_the_command_that_goes_to_the_background() {
    let scratch = Scratch::new();
    let pid_file = scratch.join("pid");
    let pid_option = format!("-pid={}", pid_file.display());
    let finished = Builder::default().option(pid_option).list(format!("{}.0", fresh_ip())).run();
    assert_eq!(finished.code(), 0, "{finished:?}");
    let daemon = Background::of(&pid_file);
    let addresses = told(&finished.stdout);
    assert_eq!(procfs::listening(daemon.pid()), addresses.iter().copied().collect());
    assert_served(addresses[0]);
}

/// A service manager's ear.
struct Ear {
    socket: UnixDatagram,
    path: PathBuf,
    _scratch: Scratch,
}

impl Ear {
    fn new() -> Ear {
        let scratch = Scratch::new();
        let path = scratch.join("notify");
        let socket = UnixDatagram::bind(&path).expect("bind a socket");
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        Ear { socket, path, _scratch: scratch }
    }

    /// The next message that is no status, unless `status` is wanted.
    #[track_caller]
    fn next(&self, status: bool) -> String {
        loop {
            let mut buffer = [0; 512];
            let length = self.socket.recv(&mut buffer).expect("a message in time");
            let text = String::from_utf8(buffer[..length].to_vec()).expect("text");
            if text.starts_with("STATUS=") == status {
                return text;
            }
        }
    }

    /// Lines of the next messages that are no status.
    #[track_caller]
    fn expect(&self, messages: &[&str]) {
        for message in messages {
            assert_eq!(&self.next(false), message);
        }
    }
}

#[test]
fn a_service_manager_hears_of_every_stage() {
    let ear = Ear::new();
    let mut daemon = Builder::default().env("NOTIFY_SOCKET", &ear.path).option("-maxprocs=7").start();
    ear.expect(&["READY=1\n"]);
    assert_eq!(ear.next(true), "STATUS=0 of 7 slots in use, 0 connections pending\n");
    assert_served(daemon.address());
    daemon.signal(Signal::SIGHUP);
    let reloading = ear.next(false);
    let number = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").expect(&reloading);
    assert!(number.trim_end().parse::<u64>().is_ok_and(|number| number > 0), "{reloading}");
    ear.expect(&["READY=1\n"]);
    daemon.signal(Signal::SIGTERM);
    ear.expect(&["STOPPING=1\n"]);
    assert_eq!(daemon.wait().code(), Some(0));
}

#[test]
fn the_status_follows_the_counts_but_not_every_one() {
    let ear = Ear::new();
    let daemon = Builder::default().env("NOTIFY_SOCKET", &ear.path).steps(&["report", "drain"]).start();
    let status = |slots: u32| format!("STATUS={slots} of 40 slots in use, 0 connections pending\n");
    assert_eq!(ear.next(true), status(0));
    let mut staying = Vec::new();
    for _ in 0..3 {
        let mut client = daemon.connect();
        client.report();
        staying.push(client);
    }
    // The next one comes when its time has come, and tells of the last count.
    assert_eq!(ear.next(true), status(3));
}

#[test]
fn signs_of_life_come_from_the_loop() {
    let ear = Ear::new();
    let daemon = Builder::default()
        .env("NOTIFY_SOCKET", &ear.path)
        .env("WATCHDOG_USEC", "400000")
        .prelude("export WATCHDOG_PID=$$")
        .start();
    ear.expect(&["READY=1\n", "WATCHDOG=1\n", "WATCHDOG=1\n", "WATCHDOG=1\n"]);
    assert_served(daemon.address());
    daemon.signal(Signal::SIGSTOP);
    ear.socket.set_read_timeout(Some(Duration::from_millis(10))).unwrap();
    while ear.socket.recv(&mut [0; 512]).is_ok() {}
    ear.socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    assert!(ear.socket.recv(&mut [0; 512]).is_err(), "it is stopped, and says that it lives");
    daemon.signal(Signal::SIGCONT);
    ear.socket.set_read_timeout(Some(DEADLINE)).unwrap();
    ear.expect(&["WATCHDOG=1\n"]);
}

#[test]
fn a_watchdog_of_another_process_is_not_ours() {
    let ear = Ear::new();
    let daemon = Builder::default()
        .env("NOTIFY_SOCKET", &ear.path)
        .env("WATCHDOG_USEC", "100000")
        .env("WATCHDOG_PID", "1")
        .start();
    ear.expect(&["READY=1\n"]);
    assert_eq!(ear.next(true), "STATUS=0 of 40 slots in use, 0 connections pending\n");
    ear.socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    assert!(ear.socket.recv(&mut [0; 512]).is_err());
    assert_eq!(daemon.threads(), 1);
}

#[test]
fn in_the_background_it_says_which_process_it_is() {
    let ear = Ear::new();
    let scratch = Scratch::new();
    let pid_file = scratch.join("pid");
    let pid_option = format!("-pid={}", pid_file.display());
    let finished = Builder::default().env("NOTIFY_SOCKET", &ear.path).option(pid_option).run();
    assert_eq!(finished.code(), 0, "{finished:?}");
    let daemon = Background::of(&pid_file);
    ear.expect(&[&format!("READY=1\nMAINPID={}\n", daemon.pid())]);
}

#[test]
fn a_manager_that_is_not_there_hinders_nothing() {
    let daemon = Builder::default().env("NOTIFY_SOCKET", "/nosuch/socket").start();
    daemon.wait_for_stderr("warning: NOTIFY_SOCKET: No such file or directory");
    assert_served(daemon.address());
}

#[test]
fn a_manager_that_does_not_listen_to_us_hinders_nothing() {
    let ear = Ear::new();
    let stuffer = UnixDatagram::unbound().unwrap();
    stuffer.set_nonblocking(true).unwrap();
    while stuffer.send_to(b"x", &ear.path).is_ok() {}
    let daemon = Builder::default().env("NOTIFY_SOCKET", &ear.path).env("WATCHDOG_USEC", "20000").start();
    assert_served(daemon.address());
    daemon.signal(Signal::SIGHUP);
    assert_served(daemon.address());
    // And hears it when it has time.
    let heard = std::iter::repeat_with(|| ear.next(false)).find(|text| text != "x" && text != "WATCHDOG=1\n");
    assert_eq!(heard.as_deref(), Some("READY=1\n"));
}

#[test]
fn started_by_systemd_socket_activate() {
    let address = fresh_address();
    let handler = handler::command(&["report"]);
    let mut command = Command::new("systemd-socket-activate");
    command.arg(format!("--listen={address}")).arg(env!("CARGO_BIN_EXE_couriertcpd"));
    command.args(["-nodnslookup", "-noidentlookup", "systemd"]).args(handler);
    command.stdin(Stdio::null()).stderr(Stdio::null()).process_group(0);
    let child = command.spawn().expect("run systemd-socket-activate: scripts/deps check installs it");
    let mut child = Activated(child);
    let pid = child.0.id() as i32;
    wait_for("it listens", || procfs::listening(pid).contains(&address));
    for _ in 0..3 {
        assert_served(address);
    }
    // It has become the daemon.
    assert!(child.0.try_wait().unwrap().is_none());
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap();
    assert_eq!(name.trim_end(), "couriertcpd");
}

struct Activated(std::process::Child);

impl Drop for Activated {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
