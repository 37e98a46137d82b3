//! More clients than there is memory for.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use crate::common::dns::{A, ANY, Dns, Fault, Message, Record};
use crate::common::{Builder, Client, Daemon, fresh_ip, procfs, wait_for};
use crate::world::{TELL, listing, reverse, talk};

/// Address space in KiB.
fn size(daemon: &Daemon) -> usize {
    let text = procfs::status(daemon.pid(), "VmSize").expect("a line of /proc/PID/status");
    text.split_whitespace().next().and_then(|n| n.parse().ok()).expect("a number")
}

/// Under `ulimit -v`, with room for some of the clients that hold on in their lookups. The others wait
/// until there is memory again; nobody who is listed comes in meanwhile.
pub fn a_limit_on_memory(clients: usize) {
    let dns = Dns::start();
    // The crowd's names are never told; of the list, that nobody but one is on it.
    dns.set("*.in-addr.arpa", 0, Message::new().fault(Fault::Silent)).note_nothing();
    dns.set(&reverse(Ipv4Addr::LOCALHOST), ANY, Message::new().rcode(3));
    let listed = fresh_ip();
    dns.set(&listing(listed, "list.test"), A, Message::new().record(Record::a("127.0.0.2")));
    let builder = || {
        Builder::default()
            .bare()
            .options(["-noidentlookup", "-maxpending=9000", "-maxperip=9000", "-lookuptimeout=60", "-maxprocs=20"])
            .options(["-block=list.test", "-drop", "-denymsg=go away"])
            .option(format!("-nameserver={}", dns.address))
            .handler(TELL)
    };
    let plain = size(&builder().start());
    // What is kept back is in the size already.
    let mut daemon = builder().prelude(&format!("ulimit -v {}", plain + 1500)).start();
    let from: Vec<Ipv4Addr> = (0..clients.div_ceil(20)).map(|_| fresh_ip()).collect();
    let (mut crowd, mut refused) = (Vec::new(), Vec::new());
    for n in 0..clients {
        // One in twenty is listed.
        let (from, kind) = match n % 20 {
            7 => (listed, &mut refused),
            _ => (from[n % from.len()], &mut crowd),
        };
        kind.extend(Client::try_connect(Some((IpAddr::V4(from), 0).into()), daemon.address()));
    }
    daemon.wait_for_stderr("cannot accept connections: Cannot allocate memory");
    let there = crowd.len();
    crowd.into_iter().for_each(Client::reset);
    for client in refused {
        assert_eq!(client.finish().text(), "go away\r\n", "a listed client while memory is short");
    }
    wait_for("there is room for an ordinary client again", || {
        talk(Ipv4Addr::LOCALHOST, daemon.address(), "\n").ends_with("\nend\n")
    });
    assert!(!daemon.has_ended(), "{}", daemon.stderr());
    assert_eq!(daemon.count_stderr("cannot accept"), 1, "{}", daemon.stderr());
    daemon.wait_for_no_children();
    // As long as the silent names are asked for.
    assert!(crate::common::wait_until(Duration::from_secs(40), || {
        procfs::sockets(daemon.pid()) == procfs::listening(daemon.pid()).len()
    }));
    println!("faults: memory: {there} clients and memory for some of them: said once, all others served afterwards");
}
