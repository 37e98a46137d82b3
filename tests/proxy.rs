//! The PROXY protocol on the real binary: headers written by hand, and by a real haproxy. Section 10.

mod common;

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::*;

/// A header of version 1, for a client of 192.0.2.7 that came to port 25 of 198.51.100.8.
const V1: &str = "PROXY TCP4 192.0.2.7 198.51.100.8 1111 25\r\n";

const TIMEOUT_LINE: &str = "it did not come in time";

/// A daemon that wants headers, with a handler that reports and reads a line.
fn wanting(options: &[&str]) -> Builder {
    Builder::default()
        .option("-haproxy")
        .option("-proxyfrom=127.0.0.0/8,::1")
        .options(options)
        .steps(&["report", "line"])
}

/// The header of version 2 for this command, family and body.
fn v2(command: u8, family: u8, body: &[&[u8]]) -> Vec<u8> {
    let body = body.concat();
    [b"\r\n\r\n\0\r\nQUIT\n", &[command, family][..], &(body.len() as u16).to_be_bytes(), &body].concat()
}

const ADDRESSES: &[u8] = &[192, 0, 2, 7, 198, 51, 100, 8, 0x04, 0x57, 0, 25];

/// What the handler of a client that sends `bytes` and a line reports.
#[track_caller]
fn report_for(daemon: &Daemon, bytes: &[u8]) -> Report {
    let mut client = daemon.connect();
    client.send(bytes).send(b"EHLO x\r\n");
    let report = client.finish().report().expect("the handler ran");
    assert_eq!(report.rest, "EHLO x\r\n", "the handler gets every byte behind the header, and none of it");
    report
}

#[track_caller]
fn vars(report: &Report, names: &[&str]) -> Vec<Option<String>> {
    names.iter().map(|name| report.var(name).map(str::to_owned)).collect()
}

fn some(values: &[&str]) -> Vec<Option<String>> {
    values.iter().map(|value| Some((*value).to_owned())).collect()
}

const ENDS: [&str; 4] = ["TCPREMOTEIP", "TCPREMOTEPORT", "TCPLOCALIP", "TCPLOCALPORT"];

#[test]
fn a_header_replaces_both_ends() {
    let daemon = wanting(&[]).start();
    let v4 = some(&["::ffff:192.0.2.7", "1111", "::ffff:198.51.100.8", "25"]);
    let v6 = some(&["2001:db8::7", "1111", "2001:db8::8", "25"]);
    let ip = |text: &str| text.parse::<std::net::Ipv6Addr>().unwrap().octets();
    let body_6 = [&ip("2001:db8::7")[..], &ip("2001:db8::8"), &[0x04, 0x57, 0, 25]].concat();
    for (header, ends) in [
        (V1.as_bytes(), &v4),
        (b"PROXY TCP6 2001:db8::7 2001:db8::8 1111 25\r\n", &v6),
        (&v2(0x21, 0x11, &[ADDRESSES]), &v4),
        (&v2(0x21, 0x21, &[&body_6]), &v6),
    ] {
        let report = report_for(&daemon, header);
        assert_eq!(&vars(&report, &ENDS), ends, "{header:?}");
        let via = format!("proxy via {}, port 25", ends[2].as_ref().unwrap());
        assert_eq!(report.var("TCPREMOTEINFO"), Some(via.as_str()));
        assert_eq!(report.var("TCPPROXYIP"), Some("::ffff:127.0.0.1"));
        assert!(report.var("TCPPROXYPORT").is_some_and(|port| port.parse::<u16>().is_ok()));
        assert_eq!(report.descriptors.keys().copied().collect::<Vec<_>>(), [0, 1, 2]);
    }
    assert_eq!(daemon.stderr(), "");
}

#[test]
fn who_speaks_for_himself_keeps_his_addresses() {
    let daemon = wanting(&[]).start();
    for header in [&b"PROXY UNKNOWN\r\n"[..], b"PROXY UNKNOWN ff ff\r\n", &v2(0x20, 0, &[]), &v2(0x21, 0, &[b"x"])] {
        let report = report_for(&daemon, header);
        let local = daemon.address();
        let expected = some(&["::ffff:127.0.0.1", &format!("::ffff:{}", local.ip()), &local.port().to_string()]);
        assert_eq!(vars(&report, &["TCPREMOTEIP", "TCPLOCALIP", "TCPLOCALPORT"]), expected);
        assert_eq!(report.var("TCPPROXYPORT"), report.var("TCPREMOTEPORT"));
        assert_eq!(report.var("TCPREMOTEINFO"), None);
    }
}

#[test]
fn a_header_may_come_in_pieces() {
    let daemon = wanting(&[]).start();
    for header in [V1.as_bytes().to_vec(), v2(0x21, 0x11, &[ADDRESSES, &[4, 0, 1, 0]])] {
        let mut client = daemon.connect();
        for byte in &header {
            client.send(&[*byte]);
            // Sent as a packet of its own, since the daemon answers nothing that could tell.
            std::thread::yield_now();
        }
        client.send(b"QUIT\r\n").half_close();
        let report = client.finish().report().expect("the handler ran");
        assert_eq!((report.var("TCPREMOTEIP"), report.rest.as_str()), (Some("::ffff:192.0.2.7"), "QUIT\r\n"));
    }
}

#[test]
fn extensions_become_variables_and_old_ones_do_not_leak() {
    let names = ["PROXY_ALPN", "PROXY_SNI", "PROXY_TLS", "PROXY_UNIQUE_ID"];
    let mut builder = wanting(&[]);
    for name in names.into_iter().chain(["TCPPROXYIP", "TCPPROXYPORT", "TCPREMOTEINFO"]) {
        builder = builder.env(name, "stale");
    }
    let daemon = builder.start();
    let tls: &[u8] = &[0x20, 0, 15, 1, 0, 0, 0, 0, 0x21, 0, 7, b'T', b'L', b'S', b'v', b'1', b'.', b'3'];
    let header = v2(0x21, 0x11, &[ADDRESSES, b"\x01\0\x04smtp\x02\0\x05a\nb.c\x05\0\x02id", tls]);
    let report = report_for(&daemon, &header);
    assert_eq!(vars(&report, &names), some(&["smtp", "a?b.c", "TLSv1.3", "id"]));
    assert_eq!(vars(&report_for(&daemon, V1.as_bytes()), &names), [None, None, None, None]);
}

#[test]
fn a_broken_header_closes_the_connection_and_is_logged() {
    let cases: &[(&[u8], &str)] = &[
        (b"EHLO x\r\n", "it does not begin as one"),
        (b"PROXY TCP4 192.0.2.7 198.51.100.8 1111\r\n", "fields are missing"),
        (&v2(0x21, 0x11, &[ADDRESSES, &[3, 0, 4, 1, 2, 3, 4]]), "a wrong checksum"),
        (&v2(0x21, 0x11, &[&[0; 5000]]), "too long"),
        (b"PROXY TCP4 192.0.2.7 ", "it ends too early"),
    ];
    for (bytes, why) in cases {
        let daemon = wanting(&["-loglevel=info", "-denymsg=no"]).start();
        let mut client = daemon.connect();
        client.send(bytes).half_close();
        let received = client.finish();
        assert!(received.bytes.is_empty() && received.end != End::Open, "{received:?}");
        daemon.wait_for_stderr(&format!("WARN: PROXY header from ::ffff:127.0.0.1: {why}; connection closed"));
        daemon.wait_for_stderr(&format!("decision=failed by=proxy detail=\"{why}\""));
        assert!(daemon.children().is_empty());
    }
}

#[test]
fn a_stranger_cannot_fill_the_log() {
    let daemon = wanting(&[]).start();
    for _ in 0..20 {
        let mut client = daemon.connect();
        client.send(b"GET / HTTP/1.0\r\n\r\n");
        assert!(client.finish().bytes.is_empty());
    }
    assert_eq!(daemon.count_stderr("PROXY header from"), 1, "{}", daemon.stderr());
}

#[test]
fn a_late_header_closes_the_connection_and_a_served_one_is_left_alone() {
    let daemon =
        Builder::default().options(["-haproxy=1", "-proxyfrom=127.0.0.0/8"]).steps(&["report", "line"]).start();
    let start = Instant::now();
    let mut served = daemon.connect();
    served.send(V1.as_bytes());
    served.report();
    let mut late = daemon.connect();
    late.send(b"PROXY ");
    assert_eq!(late.finish().end, End::Reset, "what it had sent was not read");
    assert!(start.elapsed() >= Duration::from_secs(1));
    daemon.wait_for_stderr(TIMEOUT_LINE);
    assert!(served.is_silent_for(Duration::from_millis(200)));
    served.send(b"still here\r\n");
    assert!(served.finish().text().ends_with("still here\r\n"));
    assert_eq!(daemon.count_stderr(TIMEOUT_LINE), 1, "{}", daemon.stderr());
}

#[test]
fn a_check_of_the_proxy_is_no_fault() {
    let daemon = wanting(&["-loglevel=info"]).start();
    drop(daemon.connect());
    daemon.wait_for_stderr("decision=gone");
    assert_eq!(daemon.count_stderr("WARN"), 0, "{}", daemon.stderr());
}

#[test]
fn only_the_ports_named_have_headers() {
    let (ip, other) = (fresh_ip(), fresh_ip());
    let daemon = Builder::default()
        .options([format!("-haproxy=/port={ip}.2002,9/port=2003"), "-proxyfrom=127.0.0.0/8".into()])
        .address(SocketAddr::from((ip, 2001)))
        .list(format!("{ip}.2001,{ip}.2002,{other}.2002,{other}.2003"))
        .steps(&["report", "line"])
        .start();
    for (to, has_header) in [((ip, 2001), false), ((ip, 2002), true), ((other, 2002), false), ((other, 2003), true)] {
        let mut client = Client::connect(SocketAddr::from(to));
        client.send(V1.as_bytes()).half_close();
        let report = client.finish().report().expect("the handler ran");
        let expected = if has_header { "::ffff:192.0.2.7" } else { "::ffff:127.0.0.1" };
        assert_eq!(report.var("TCPREMOTEIP"), Some(expected), "{to:?}");
        assert_eq!(report.var("TCPPROXYIP").is_some(), has_header);
        assert_eq!(report.rest, if has_header { "" } else { V1 });
    }
    assert_eq!(procfs::listening(daemon.pid()).len(), 4);
}

#[test]
fn headers_of_strangers_are_not_believed() {
    let daemon = Builder::default()
        .options(["-haproxy", "-proxyfrom=127.0.0.2,127.0.3.0/24", "-loglevel=info"])
        .steps(&["report"])
        .start();
    for (from, trusted) in [("127.0.0.2", true), ("127.0.0.3", false), ("127.0.3.77", true), ("127.0.2.77", false)] {
        let mut client = daemon.connect_from(from.parse().unwrap());
        client.send(V1.as_bytes());
        assert_eq!(client.finish().report().is_some(), trusted, "{from}");
    }
    daemon.wait_for_stderr("WARN: ::ffff:127.0.0.3 may not send PROXY headers (-proxyfrom); connection closed");
    daemon.wait_for_stderr("decision=refused by=proxyfrom");
    assert_eq!(daemon.count_stderr("WARN"), 2, "{}", daemon.stderr());
}

#[test]
fn without_trusted_proxies_there_is_a_warning() {
    let daemon = Builder::default().option("-haproxy").steps(&["report", "line"]).start();
    daemon.wait_for_stderr("warning: -haproxy without -proxyfrom");
    report_for(&daemon, V1.as_bytes());
}

#[test]
fn rules_and_limits_go_by_the_header() {
    let scratch = Scratch::new();
    let rules = scratch.join("access.dat");
    let records = [
        ("192.0.2.66", "deny"),
        ("192.0.2.7", "allow,TCPPROXYIP=forged,NOTE=seen"),
        ("127", "deny"),
        ("*.26", "allow,PORT26"),
    ];
    access::make(&rules, &records);
    let options = [&format!("-access={}", rules.display()), "-accesslocal", "-maxperip=1", "-denymsg=no"];
    let daemon = wanting(&options).steps(&["report", "drain"]).start();
    let connect = |source: &str, port: u16| {
        let mut client = daemon.connect();
        client.send(format!("PROXY TCP4 {source} 198.51.100.8 1111 {port}\r\n").as_bytes());
        client
    };
    assert_eq!(connect("192.0.2.66", 25).finish().text(), "no\r\n");
    let mut first = connect("192.0.2.7", 26);
    let report = first.report();
    assert_eq!(vars(&report, &["NOTE", "PORT26", "TCPPROXYIP"]), some(&["seen", "", "::ffff:127.0.0.1"]));
    assert!(connect("192.0.2.7", 25).finish().bytes.is_empty());
    daemon.wait_for_stderr("ALERT: Maximum connection limit reached for ::ffff:192.0.2.7");
    // The same proxy, another client.
    connect("192.0.2.8", 25).report();
    drop(first);
    daemon.wait_for_no_children();
    connect("192.0.2.7", 25).report();
}

#[test]
fn nobody_is_asked_for_ident() {
    let done = namespace::run(|| {
        let server = TcpListener::bind("192.0.2.7:113").expect("port 113 is free in a new network");
        server.set_nonblocking(true).unwrap();
        let address = "127.0.0.9:25".parse().unwrap();
        let daemon = Builder::default()
            .bare()
            .options(["-nodnslookup", "-haproxy", "-proxyfrom=127.0.0.0/8"])
            .address(address)
            .steps(&["report", "line"])
            .start();
        report_for(&daemon, V1.as_bytes());
        assert_eq!(server.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
    });
    assert!(done.is_some() || !nix::unistd::geteuid().is_root());
}

/// Clients that begin a header and wait.
fn dawdlers(daemon: &Daemon, count: usize) -> Vec<TcpStream> {
    let begin = |_| {
        let mut stream = TcpStream::connect(daemon.address()).expect("connect");
        std::io::Write::write_all(&mut stream, b"P").expect("send a byte");
        stream
    };
    (0..count).map(begin).collect()
}

#[test]
fn a_thousand_who_dawdle_disturb_nobody() {
    const CLIENTS: usize = 1000;
    let enough = 4 * CLIENTS as u64;
    let (_, hard) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE).unwrap();
    nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE, enough.min(hard), hard).unwrap();
    for limit in ["-maxprocs=1100", "-maxpending=1100"] {
        let daemon = wanting(&[limit, "-maxperip=2000"]).start();
        let (before, memory) = (daemon.descriptors(), procfs::resident(daemon.pid()));
        let crowd = dawdlers(&daemon, CLIENTS);
        wait_for("all are accepted", || daemon.descriptors() == before + CLIENTS);
        let start = Instant::now();
        for _ in 0..10 {
            report_for(&daemon, V1.as_bytes());
        }
        let (time, grown) = (start.elapsed(), procfs::resident(daemon.pid()) - memory);
        assert!(time < Duration::from_secs(5), "ten sessions took {time:?}");
        assert!(grown < 2048, "grew by {grown} KiB");
        assert_eq!(daemon.threads(), 1);
        // Their places are free again when they go, and nothing is left of them.
        drop(crowd);
        wait_for("all are forgotten", || daemon.descriptors() == before);
        report_for(&daemon, V1.as_bytes());
    }
}

#[test]
fn who_waits_for_a_header_takes_a_place() {
    for limit in [&["-maxprocs=2"][..], &["-maxpending=2"]] {
        let daemon = wanting(limit).start();
        let mut crowd = dawdlers(&daemon, 2);
        // It comes last, so it is accepted last.
        let mut third = daemon.connect();
        third.send(V1.as_bytes()).send(b"EHLO x\r\n");
        assert!(third.is_silent_for(Duration::from_millis(200)), "{limit:?}");
        crowd.pop();
        assert!(third.finish().report().is_some());
    }
}

/// A real haproxy in TCP mode. Killed when dropped.
struct Haproxy(Child);

impl Haproxy {
    /// Listens at the first address of each line, and sends on to the second with these server options.
    #[track_caller]
    fn start(scratch: &Scratch, lines: &[(SocketAddr, SocketAddr, &str)]) -> Haproxy {
        let mut text = "global\n maxconn 50\ndefaults\n mode tcp\n timeout connect 9s\n timeout client 30s\n \
                        timeout server 30s\n"
            .to_owned();
        for (number, (front, back, options)) in lines.iter().enumerate() {
            text += &format!(
                "listen l{number}\n bind {front}\n unique-id-format id-%cp\n server s{number} {back} {options}\n"
            );
        }
        let file = scratch.file("haproxy.cfg", text);
        let mut command = Command::new("haproxy");
        let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
        command.arg("-db").arg("-f").arg(file).env("PATH", path).stdin(Stdio::null()).process_group(0);
        let mut child = command.spawn().expect("run haproxy: scripts/deps check installs it");
        let pid = child.id() as i32;
        wait_for("haproxy listens", || {
            assert!(child.try_wait().expect("wait for haproxy").is_none(), "haproxy ended");
            procfs::listening(pid).len() == lines.len()
        });
        Haproxy(child)
    }
}

impl Drop for Haproxy {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn behind_haproxy() {
    let v6: IpAddr = "::1".parse().unwrap();
    let (ip, ip_front) = (IpAddr::from(fresh_ip()), IpAddr::from(fresh_ip()));
    let (back4, back6) = (free_port(ip), free_port(v6));
    let daemon = wanting(&[])
        .address(back4)
        .list(format!("{},{}", daemon::list_entry(back4), daemon::list_entry(back6)))
        .start();
    let scratch = Scratch::new();
    let options =
        [("send-proxy", false), ("send-proxy-v2", false), ("send-proxy-v2 proxy-v2-options crc32c,unique-id", true)];
    let mut lines = Vec::new();
    for (options, _) in options {
        for (front, back) in [(ip_front, back4), (v6, back6), (v6, back4), (ip_front, back6)] {
            lines.push((free_port(front), back, options));
        }
    }
    let _haproxy = Haproxy::start(&scratch, &lines);
    for (front, back, options) in lines {
        let from: IpAddr = if front.is_ipv4() { "127.0.0.77".parse().unwrap() } else { v6 };
        let mut client = Client::connect_from(from, front);
        client.send(b"EHLO x\r\n");
        let port = client.local().port();
        let report =
            client.finish().report().unwrap_or_else(|| panic!("{front} {back} {options}: {}", daemon.stderr()));
        let printed = |ip: IpAddr| if ip.is_ipv4() { format!("::ffff:{ip}") } else { ip.to_string() };
        let expected = some(&[&printed(from), &port.to_string(), &printed(front.ip()), &front.port().to_string()]);
        assert_eq!(vars(&report, &ENDS), expected, "{front} {back} {options}");
        assert_eq!(report.rest, "EHLO x\r\n");
        let id = options.contains("unique-id").then(|| format!("id-{port}"));
        assert_eq!(report.var("PROXY_UNIQUE_ID"), id.as_deref());
        let proxy = if back.is_ipv4() { "::ffff:127.0.0.1" } else { "::1" };
        assert_eq!(report.var("TCPPROXYIP"), Some(proxy));
    }
    assert_eq!(daemon.stderr(), "");
}

#[test]
fn checks_of_haproxy_are_served_as_its_own() {
    let ip = IpAddr::from(fresh_ip());
    let daemon = wanting(&["-loglevel=info"]).address(free_port(ip)).start();
    let scratch = Scratch::new();
    let options = "send-proxy-v2 check inter 100ms check-send-proxy";
    let _haproxy = Haproxy::start(&scratch, &[(free_port(ip), daemon.address(), options)]);
    // LOCAL: the check is the proxy's own connection.
    daemon.wait_for_stderr("decision=served");
    assert_eq!(daemon.count_stderr("WARN"), 0, "{}", daemon.stderr());
}
