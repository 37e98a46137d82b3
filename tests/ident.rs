//! ident: whom the client's host says the connection belongs to. Section 7.
//!
//! Needs root, since ident servers listen on port 113; each has an address of its own there.

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use common::*;

/// A daemon that asks ident and nothing else.
fn asking() -> Builder {
    Builder::default().bare().option("-nodnslookup")
}

fn ident_server(ip: IpAddr) -> TcpListener {
    TcpListener::bind((ip, 113)).unwrap_or_else(|error| panic!("port 113 of {ip}: {error}"))
}

/// Accepts the question about `client`'s connection and checks it: where it came from, what it says.
#[track_caller]
fn accept_question(server: &TcpListener, client: &Client) -> TcpStream {
    let (stream, from) = server.accept().expect("accept the question");
    assert_eq!(from.ip(), client.peer().ip(), "asked from the address the client reached");
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut line = String::new();
    BufReader::new(&stream).read_line(&mut line).expect("read the question");
    assert_eq!(line, format!("{},{}\r\n", client.local().port(), client.peer().port()));
    stream
}

/// The user that a handler is told for an answer; `C` and `P` in it stand for the ports.
#[track_caller]
fn user_for(daemon: &Daemon, server: &TcpListener, answer: &[u8]) -> Option<Vec<u8>> {
    let client = daemon.connect_from(server.local_addr().unwrap().ip());
    let mut stream = accept_question(server, &client);
    let (remote, local) = (client.local().port().to_string(), client.peer().port().to_string());
    let mut bytes = Vec::new();
    for &byte in answer {
        match byte {
            b'C' => bytes.extend_from_slice(remote.as_bytes()),
            b'P' => bytes.extend_from_slice(local.as_bytes()),
            _ => bytes.push(byte),
        }
    }
    stream.write_all(&bytes).expect("answer");
    drop(stream);
    let report = client.finish().report().expect("the handler ran");
    report.var("TCPREMOTEINFO").map(|user| user.as_bytes().to_vec())
}

#[test]
fn answers_become_the_variable() {
    let daemon = asking().start();
    let server = ident_server(fresh_ip().into());
    let cases: &[(&[u8], Option<&str>)] = &[
        (b"C , P : USERID : UNIX : alice\r\n", Some("alice")),
        (b"C,P:USERID:OTHER:a:b c\n", Some("a:b c")),
        (b"C,P:USERID:UNIX, UTF-8:  carl\r\n", Some("carl")),
        (b"C,P:USERID:UNIX:\r\n", Some("")),
        (b"C,P:USERID:UNIX:a\x1b[2Jb\rc\r\n", Some("a?[2Jb?c")),
        (b"C,P:USERID:UNIX:first\r\nC,P:USERID:UNIX:second\r\n", Some("first")),
        (b"C,P:ERROR:NO-USER\r\n", None),
        (b"P,C:USERID:UNIX:alice\r\n", None),
        (b"1,2:USERID:UNIX:alice\r\n", None),
        (b"C,P:USERID:UNIX:alice", None),
        (b"", None),
    ];
    for (answer, expected) in cases {
        let user = user_for(&daemon, &server, answer);
        assert_eq!(user.as_deref(), expected.map(str::as_bytes), "{:?}", String::from_utf8_lossy(answer));
    }
}

#[test]
fn a_line_may_have_a_thousand_bytes() {
    let daemon = asking().start();
    let server = ident_server(fresh_ip().into());
    // The ports have between three and five digits each; what is left of the 1,000 is the name.
    for (spare, known) in [(0, true), (1, false)] {
        let client = daemon.connect_from(server.local_addr().unwrap().ip());
        let mut stream = accept_question(&server, &client);
        let head = format!("{},{}:USERID:UNIX:", client.local().port(), client.peer().port());
        let name = "n".repeat(1000 - head.len() + spare);
        stream.write_all(format!("{head}{name}\r\n").as_bytes()).expect("answer");
        let report = client.finish().report().expect("the handler ran");
        assert_eq!(report.var("TCPREMOTEINFO"), known.then_some(name.as_str()));
    }
}

#[test]
fn no_server_means_no_variable_not_even_an_inherited_one() {
    let daemon = asking().env("TCPREMOTEINFO", "stale").start();
    let report = daemon.session_from(fresh_ip().into()).report().expect("the handler ran");
    assert_eq!(report.var("TCPREMOTEINFO"), None);
}

#[test]
fn noidentlookup_asks_nobody() {
    let daemon = asking().option("-noidentlookup").start();
    let server = ident_server(fresh_ip().into());
    server.set_nonblocking(true).unwrap();
    let report = daemon.session_from(server.local_addr().unwrap().ip()).report().expect("the handler ran");
    assert_eq!(report.var("TCPREMOTEINFO"), None);
    assert_eq!(server.accept().expect_err("nobody asked").kind(), std::io::ErrorKind::WouldBlock);
}

#[test]
fn a_silent_server_costs_its_own_client_the_time_limit_and_nobody_else() {
    let daemon = asking().options(["-identtimeout=1", "-maxperip=60", "-maxprocs=100"]).start();
    let silent = ident_server(fresh_ip().into());
    let ip = silent.local_addr().unwrap().ip();
    let started = Instant::now();
    let mut waiting: Vec<Client> = (0..60).map(|_| daemon.connect_from(ip)).collect();
    let first = accept_question(&silent, &waiting[0]);

    // Somebody else, meanwhile: no ident server there, so served at once.
    assert!(daemon.session_from(fresh_ip().into()).report().is_some());
    assert!(waiting[0].is_silent_for(Duration::from_millis(1)) || started.elapsed() > Duration::from_secs(1));

    for client in waiting {
        let report = client.finish().report().expect("the handler ran");
        assert_eq!(report.var("TCPREMOTEINFO"), None);
    }
    let took = started.elapsed();
    assert!(took >= Duration::from_secs(1), "{took:?}: nobody is served before the time limit");
    assert!(took < Duration::from_secs(8), "{took:?}: all wait at the same time");
    // The daemon has let go of the question.
    assert!(matches!((&first).read(&mut [0]), Ok(0) | Err(_)));
}

#[test]
fn a_client_that_resets_takes_its_question_along() {
    let daemon = asking().start();
    let server = ident_server(fresh_ip().into());
    let client = daemon.connect_from(server.local_addr().unwrap().ip());
    let stream = accept_question(&server, &client);
    let before = Instant::now();
    client.reset();
    assert!(matches!((&stream).read(&mut [0]), Ok(0) | Err(_)));
    assert!(before.elapsed() < Duration::from_secs(8), "not only at the time limit of 10 s");
    assert!(daemon.session().report().is_some());
}

/// Answers byte by byte, from many servers at the same time.
#[test]
fn answers_in_pieces_do_not_mix() {
    let daemon = asking().options(["-maxprocs=100"]).start();
    let servers: Vec<TcpListener> = (0..20).map(|_| ident_server(fresh_ip().into())).collect();
    let clients: Vec<Client> = servers.iter().map(|s| daemon.connect_from(s.local_addr().unwrap().ip())).collect();
    let mut talks: Vec<(TcpStream, Vec<u8>)> = Vec::new();
    for (n, (server, client)) in servers.iter().zip(&clients).enumerate() {
        let stream = accept_question(server, client);
        stream.set_nodelay(true).unwrap();
        let (remote, local) = (client.local().port(), client.peer().port());
        talks.push((stream, format!("{remote} , {local} : USERID : UNIX : user{n}\r\n").into_bytes()));
    }
    let longest = talks.iter().map(|(_, answer)| answer.len()).max().unwrap();
    for at in 0..longest {
        for (stream, answer) in &mut talks {
            if let Some(&byte) = answer.get(at) {
                stream.write_all(&[byte]).expect("answer");
            }
        }
        thread::yield_now();
    }
    for (n, client) in clients.into_iter().enumerate() {
        let report = client.finish().report().expect("the handler ran");
        assert_eq!(report.var("TCPREMOTEINFO"), Some(format!("user{n}").as_str()));
    }
}

/// Debian's ident server; killed when dropped.
struct Oidentd(Child);

impl Oidentd {
    fn start(ip: IpAddr) -> Oidentd {
        let child = Command::new("oidentd")
            .args(["--foreground", "--nosyslog", "--user", "nobody", "--group", "nogroup", "--address"])
            .arg(ip.to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("oidentd is among scripts/deps");
        let server = Oidentd(child);
        wait_for("oidentd listens", || TcpStream::connect(SocketAddr::new(ip, 113)).is_ok());
        server
    }
}

impl Drop for Oidentd {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A real server names the owner of the client's socket: whoever runs this test.
#[test]
fn a_real_server_is_understood() {
    let name = Command::new("id").arg("-un").output().expect("run id").stdout;
    let name = String::from_utf8(name).unwrap();
    let ask = |ip: IpAddr, daemon: Builder| {
        let _server = Oidentd::start(ip);
        let report = daemon.start().session_from(ip).report().expect("the handler ran");
        assert_eq!(report.var("TCPREMOTEINFO"), Some(name.trim()), "{ip}");
    };
    ask(fresh_ip().into(), asking());
    namespace::run(|| {
        ask("::1".parse().unwrap(), asking().address("[::1]:2500".parse().unwrap()));
        // An IPv4 client of the IPv6 wildcard socket.
        ask("127.0.0.9".parse().unwrap(), asking().address("127.0.0.1:2501".parse().unwrap()).list("2501"));
    })
    .expect("root may make namespaces");
}
