//! Which name servers are asked while resolv.conf is not what it should be, and how hard it is to answer in their place.

use std::collections::HashSet;
use std::net::UdpSocket;

use super::*;

/// Answers for more than a second, in which the file is looked at.
fn assert_still_asked(l: &mut Loop, name: &str) {
    let end = Instant::now() + Duration::from_millis(2200);
    let mut n = 0;
    while Instant::now() < end {
        n += 1;
        assert_eq!(l.answer(&host(&format!("{name}{n}.example"))), found(&["192.0.2.1"]));
    }
}

/// For c-ares it would name nobody, and this host would be asked, where nobody answers for any list.
#[test]
fn a_resolv_conf_that_cannot_be_read_changes_no_name_server() {
    let (old, new) = (Dns::start(), Dns::start());
    old.otherwise(a("192.0.2.1"));
    new.otherwise(a("192.0.2.2"));
    let conf = Conf::new("unreadable");
    conf.write(&nameserver(old.address));
    let mut l = Loop::new(conf.settings());
    // For root, too.
    std::fs::remove_file(conf.path()).unwrap();
    std::fs::create_dir(conf.path()).unwrap();
    assert_still_asked(&mut l, "directory");
    let error = l.resolver.reload(Instant::now()).unwrap_err();
    assert_eq!(error.to_string(), format!("{}: Is a directory", conf.path()));
    std::fs::remove_dir(conf.path()).unwrap();
    let error = l.resolver.reload(Instant::now()).unwrap_err();
    assert_eq!(error.to_string(), format!("{} is not there", conf.path()));
    std::os::unix::fs::symlink(conf.path(), conf.path()).unwrap();
    let error = l.resolver.reload(Instant::now()).unwrap_err();
    assert_eq!(error.to_string(), format!("{}: Too many levels of symbolic links", conf.path()));
    assert_still_asked(&mut l, "loop");
    conf.write(&nameserver(new.address));
    assert_eq!(l.resolver.servers(), [old.address.to_string()]);
    let end = Instant::now() + PATIENCE;
    for n in 0.. {
        if l.answer(&host(&format!("mended{n}.example"))) == found(&["192.0.2.2"]) {
            break;
        }
        assert!(Instant::now() < end);
    }
}

/// It may be half written. That it is meant so SIGHUP says.
#[test]
fn a_resolv_conf_that_names_nobody_counts_when_it_is_to_be_read() {
    let old = Dns::start();
    old.otherwise(a("192.0.2.1"));
    let conf = Conf::new("nobody");
    conf.write(&nameserver(old.address));
    let mut l = Loop::new(conf.settings());
    let half_written = ["nameserver \n", "#nameserver 127.0.0.1\nnameserver 192.0.2.\nnameserver fec0::1\n"];
    for text in ["", "# nameserver 192.0.2.9\noptions edns0\n"].iter().chain(&half_written) {
        conf.write(text);
        assert_still_asked(&mut l, "empty");
    }
    let error = l.resolver.reload(Instant::now()).unwrap_err();
    assert_eq!(error.to_string(), format!("{} names no server that can be asked", conf.path()));
    assert_eq!(l.resolver.servers(), [old.address.to_string()]);
    conf.write("options edns0\n");
    l.resolver.reload(Instant::now()).unwrap();
    assert_eq!(l.resolver.servers(), [THIS_HOST]);
    conf.write(&nameserver(old.address));
    l.resolver.reload(Instant::now()).unwrap();
    // This one means it.
    conf.write("nameserver 127.0.0.1\n");
    ask_until(&mut l, "meant", |l| l.resolver.servers() == [THIS_HOST]);
}

const THIS_HOST: &str = "127.0.0.1:53";

fn ask_until(l: &mut Loop, name: &str, done: impl Fn(&Loop) -> bool) {
    let end = Instant::now() + PATIENCE;
    for n in 0.. {
        l.answer(&host(&format!("{name}{n}.example")));
        if done(l) {
            break;
        }
        assert!(Instant::now() < end, "{name}");
    }
}

/// Whatever c-ares makes of the file.
#[test]
fn at_a_start_the_servers_are_those_that_can_be_asked() {
    let conf = Conf::new("start");
    for (text, server, is_fit) in [
        ("nameserver 192.0.2.\nnameserver 192.0.2.1\n", "192.0.2.1:53", true),
        ("nameserver 192.0.2.\n#nameserver 127.0.0.1\n", THIS_HOST, false),
        ("nameserver 127.0.0.1\r\n", THIS_HOST, true),
        ("nameserver\t127.0.0.11 # docker\n", "127.0.0.11:53", true),
        ("options rotate\n", THIS_HOST, true),
        ("nameserver ::1\noptions use-vc\n", "[::1]:53", true),
    ] {
        conf.write(text);
        let l = Loop::new(conf.settings());
        assert_eq!(l.resolver.servers(), [server], "{text}");
        assert_eq!(l.resolver.check_servers().is_ok(), is_fit, "{text}");
    }
}

/// A name server of few words: what it was asked for, as a packet with room for an answer.
fn asked_for(socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut packet = [0; 512];
    let (length, client) = socket.recv_from(&mut packet).unwrap();
    (packet[..length].to_vec(), client)
}

/// The answer to a query that says there is no such name.
fn absent(query: &[u8]) -> Vec<u8> {
    let mut reply = query.to_vec();
    reply[2..4].copy_from_slice(&[0x81, 0x83]);
    reply
}

/// What whoever forges answers has to guess: RFC 5452.
#[test]
fn ids_are_random_and_ports_change() {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let count = 1000;
    let server = std::thread::spawn(move || {
        let mut seen = Vec::new();
        while seen.len() < count {
            let (query, client) = asked_for(&socket);
            socket.send_to(&absent(&query), client).unwrap();
            seen.push((u16::from_be_bytes([query[0], query[1]]), client.port()));
        }
        seen
    });
    let mut l = Loop::asking(&[address], 0);
    for n in 0..count {
        assert_eq!(l.answer(&host(&format!("h{n}.example"))), Answer::Absent);
    }
    let seen = server.join().unwrap();
    let mut by_port = HashMap::new();
    seen.iter().for_each(|(_, port)| *by_port.entry(port).or_insert(0) += 1);
    assert!(by_port.values().all(|&queries| queries <= 250), "{by_port:?}");
    let ids: HashSet<_> = seen.iter().map(|(id, _)| id).collect();
    assert!(ids.len() > count * 9 / 10, "{} ids", ids.len());
    let in_order = seen.windows(2).filter(|pair| pair[0].0.abs_diff(pair[1].0) < 16).count();
    assert!(in_order < 20, "{in_order} follow the one before");
}

#[test]
fn a_reply_from_elsewhere_is_not_believed() {
    let (asked, elsewhere) = (UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.2:0").unwrap());
    let near = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = asked.local_addr().unwrap();
    let server = std::thread::spawn(move || {
        let (query, client) = asked_for(&asked);
        for socket in [&elsewhere, &near] {
            socket.send_to(&absent(&query), client).unwrap();
        }
        let mut reply = query;
        reply[2..8].copy_from_slice(&[0x81, 0x80, 0, 1, 0, 1]);
        reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 1]);
        asked.send_to(&reply, client).unwrap();
    });
    let mut l = Loop::asking(&[address], 0);
    assert_eq!(l.answer(&host("h.example")), found(&["192.0.2.1"]));
    server.join().unwrap();
}
