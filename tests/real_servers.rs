//! The lookups against the servers that users run: unbound for names, rbldnsd for lists. In
//! namespaces of the test's own, so that `/etc/resolv.conf` is the test's.

mod common;

use std::net::{IpAddr, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use common::*;

/// A server program, killed when dropped.
struct Server(Child);

impl Server {
    fn start(program: &str, arguments: &[&str]) -> Server {
        let child = Command::new(program).args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        Server(child.unwrap_or_else(|error| panic!("{program}: {error}")))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// True once the server at `address` has an answer for `name`.
fn answers(address: &str, name: &str) -> bool {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let mut query = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        query.push(label.len() as u8);
        query.extend_from_slice(label.as_bytes());
    }
    query.extend_from_slice(&[0, 0, 1, 0, 1]);
    let _ = socket.send_to(&query, address);
    let mut reply = [0; 1500];
    // The low four bits of the fourth byte are the response code; 0 is "no error".
    socket.recv(&mut reply).is_ok() && reply[3] & 15 == 0
}

/// unbound at 127.0.0.1:53 with a few names, which asks rbldnsd at 127.0.0.1:5300 for `bl.test`.
fn servers(scratch: &Scratch) -> [Server; 2] {
    let reverse = |ip: &str| couriertcpd::addr::reverse_zone_name(ip.parse().unwrap());
    let list = scratch.file(
        "list",
        ":127.0.0.2:listed, see http://bl.test/$\n192.0.2.66\n192.0.2.128/25\n:127.0.0.1:nobody\n192.0.2.67\n",
    );
    let list6 = scratch.file("list6", ":127.0.0.2:listed $\n2001:db8:66::/48\n");
    let zone = |kind: &str, file: &Path| format!("bl.test:{kind}:{}", file.file_name().unwrap().to_str().unwrap());
    let directory = scratch.path().to_str().unwrap();
    let rbldnsd = Server::start(
        "rbldnsd",
        &["-n", "-b127.0.0.1/5300", "-r", directory, "-u", "nobody", &zone("ip4set", &list), &zone("ip6trie", &list6)],
    );
    let config = scratch.file(
        "unbound.conf",
        format!(
            "server:
  interface: 127.0.0.1
  do-daemonize: no
  username: \"\"
  chroot: \"\"
  directory: \"{directory}\"
  pidfile: \"\"
  use-syslog: no
  num-threads: 1
  do-not-query-localhost: no
  local-zone: \"2.0.192.in-addr.arpa\" static
  local-zone: \"8.b.d.0.1.0.0.2.ip6.arpa\" static
  local-zone: \"example\" static
  local-data: \"{} PTR mail.example.\"
  local-data: \"mail.example. A 192.0.2.10\"
  local-data: \"{} PTR alias.example.\"
  local-data: \"alias.example. A 192.0.2.99\"
  local-data: \"{} PTR six.example.\"
  local-data: \"six.example. AAAA 2001:db8::6\"
  local-zone: \"test\" nodefault
stub-zone:
  name: \"bl.test\"
  stub-addr: 127.0.0.1@5300
",
            reverse("192.0.2.10"),
            reverse("192.0.2.11"),
            reverse("2001:db8::6"),
        ),
    );
    let unbound = Server::start("unbound", &["-d", "-c", config.to_str().unwrap()]);
    wait_for("unbound and rbldnsd", || {
        answers("127.0.0.1:53", "mail.example") && answers("127.0.0.1:53", "66.2.0.192.bl.test")
    });
    [rbldnsd, unbound]
}

#[test]
fn names_and_lists_by_unbound_and_rbldnsd() {
    let scratch = Scratch::new();
    let ran = namespace::run(|| {
        namespace::replace_file("/etc/resolv.conf", &scratch.file("resolv.conf", "nameserver 127.0.0.1\n"));
        let _servers = servers(&scratch);
        let host = |report: &Report| report.var("TCPREMOTEHOST").map(str::to_owned);
        let start = |port: u16, options: &[&str]| {
            Builder::default()
                .bare()
                .address(format!("127.0.0.1:{port}").parse().unwrap())
                .list(port.to_string())
                .options(["-noidentlookup", "-ipv4=plain"])
                .options(options)
                .start()
        };
        let daemon = start(2525, &["-block=bl.test,BLOCK,*"]);
        let session = |from: &str| daemon.session_from(from.parse::<IpAddr>().unwrap()).report().expect("a handler");

        let report = session("192.0.2.10");
        assert_eq!((host(&report).as_deref(), report.var("BLOCK")), (Some("mail.example"), None));
        assert_eq!(host(&session("192.0.2.11")).as_deref(), Some("softdnserr"), "leads elsewhere");
        assert_eq!(host(&session("192.0.2.12")), None, "no such name");

        let report = session("192.0.2.66");
        assert_eq!(report.var("BLOCK"), Some("listed, see http://bl.test/192.0.2.66"));
        assert_eq!(report.var("BLOCK_IP"), Some("127.0.0.2"));
        assert_eq!(session("192.0.2.200").var("BLOCK_ZONE"), Some("bl.test"));
        let report = session("192.0.2.67");
        assert_eq!((report.var("BLOCK"), report.var("BLOCK_ERROR")), (None, Some("bl.test:127.0.0.1")));

        let six = start(2526, &["-block=bl.test", "-drop"]);
        let client = |from: &str| Client::connect_from(from.parse().unwrap(), "[::1]:2526".parse().unwrap()).finish();
        let report = client("2001:db8::6").report().expect("a handler");
        assert_eq!(host(&report).as_deref(), Some("six.example"));
        assert_eq!(report.var("TCPREMOTEIP"), Some("2001:db8::6"));
        assert_eq!(client("2001:db8:66::1").bytes, b"", "listed and dropped");
        drop(six);
    });
    if ran.is_none() {
        eprintln!("no namespaces here: 1 test skipped");
    }
}
