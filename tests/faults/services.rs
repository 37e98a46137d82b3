//! Name servers and ident servers that are late, wrong, endless or gone.
//!
//! Whatever they do costs the clients they are asked about their lookups, and no more than the time
//! limit; nobody else notices.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::dns::{A, Dns, Fault, Message, PTR, Record, TXT};
use crate::common::{Builder, Client, DEADLINE, Daemon, fresh_ip, procfs, wait_until};
use crate::world::{IdentServer, TELL, listing, reverse, variable};

/// The most that a client without any trouble may have to wait.
const SOON: Duration = Duration::from_secs(1);

fn asking(dns: &[&Dns], limit: u32) -> Builder {
    let servers: Vec<String> = dns.iter().map(|dns| dns.address.to_string()).collect();
    Builder::default()
        .bare()
        .options(["-noidentlookup", "-maxprocs=100", "-maxperip=20", "-block=list.test,BLOCK,*"])
        .option(format!("-nameserver={}", servers.join(",")))
        .option(format!("-lookuptimeout={limit}"))
        .handler(TELL)
}

/// A client's view: what its handler told, and how long that took.
fn told(mut client: Client, since: Instant) -> (String, Duration) {
    client.send(b"\n");
    let text = client.finish().text();
    (text, since.elapsed())
}

fn name_it(dns: &Dns, client: Ipv4Addr, answer: Message) {
    let name = format!("h{}.example", client.to_string().replace('.', "-"));
    dns.set(&reverse(client), PTR, answer.record(Record::ptr(&name)));
    dns.set(&name, A, Message::new().record(Record::a(&client.to_string())));
}

/// A client with a name that is found at once; tries until it is fast, since the machine may be busy.
#[track_caller]
fn others_are_served(dns: &Dns, daemon: &Daemon) {
    let mut times = Vec::new();
    let fast = (0..5).any(|_| {
        let other = fresh_ip();
        name_it(dns, other, Message::new());
        let (text, time) = told(daemon.connect_from(other.into()), Instant::now());
        assert!(variable(&text, "TCPREMOTEHOST").is_some_and(|name| name.starts_with('h')), "{text}");
        times.push(time);
        time < SOON
    });
    assert!(fast, "others wait: {times:?}");
}

pub fn name_servers_that_misbehave() {
    const LIMIT: u32 = 5;
    let late = |ms| Message::new().late(Duration::from_millis(ms));
    let wrong = |fault| Message::new().fault(fault);
    let table: [(&str, Message, bool); 9] = [
        ("late", late(600), true),
        ("too late", late(30_000), false),
        ("twice", wrong(Fault::Twice), true),
        ("other ids first", wrong(Fault::OtherIdsFirst), true),
        ("other ids", wrong(Fault::WrongId), false),
        ("another question", wrong(Fault::WrongQuestion), false),
        ("65,535 bytes over TCP", wrong(Fault::TcpLargest), true),
        ("one byte a second over TCP", wrong(Fault::TcpTrickle), false),
        ("half an answer over TCP", wrong(Fault::TcpUnfinished), false),
    ];
    for (what, message, is_found) in table {
        let dns = Dns::start();
        let daemon = asking(&[&dns], LIMIT).start();
        let threads = daemon.threads();
        let victim = fresh_ip();
        name_it(&dns, victim, message.clone());
        // The list says the same of this client in the same way.
        let listed = fresh_ip();
        let text = message.clone().record(Record::txt(&[b"go away"]));
        dns.set(&listing(listed, "list.test"), A, message.record(Record::a("127.0.0.2")));
        dns.set(&listing(listed, "list.test"), TXT, text);
        let since = Instant::now();
        let waiting = [daemon.connect_from(victim.into()), daemon.connect_from(listed.into())];
        others_are_served(&dns, &daemon);
        let [(named, time), (blocked, _)] = waiting.map(|client| told(client, since));
        let host = variable(&named, "TCPREMOTEHOST").unwrap_or_default();
        assert_eq!(host.starts_with('h'), is_found, "{what}: {host:?}");
        assert!(host != "softdnserr" || !is_found, "{what}");
        let block = variable(&blocked, "BLOCK");
        assert_eq!(block, is_found.then_some("go away"), "{what}");
        assert!(time < Duration::from_secs(u64::from(LIMIT) + 5), "{what}: {time:?}");
        others_are_served(&dns, &daemon);
        assert_eq!(daemon.threads(), threads, "{what}");
        assert!(daemon.stderr().lines().count() <= 4, "{what}: {}", daemon.stderr());
        println!(
            "faults: services: name server {what}: {} after {} ms",
            if is_found { "found" } else { "given up" },
            time.as_millis()
        );
    }
}

/// A second name server is asked if the first says nothing of use.
pub fn all_name_servers_dead_then_alive() {
    for (way, refuses) in [("silent", false), ("port closed", true)] {
        // A machine that is busy for a moment may be so at the wrong one.
        let mut times = Vec::new();
        let soon = (0..3).any(|_| {
            times.push(dead_then_alive(way, refuses));
            times[times.len() - 1] <= SOON
        });
        assert!(soon, "{way}: served normally only after {times:?}");
    }
}

/// How long after they are back a client is told as if nothing had been, and another is found in a list.
fn dead_then_alive(way: &str, refuses: bool) -> Duration {
    let start = || Dns::start_on(fresh_ip().into());
    let servers = [start(), start()];
    let daemon = asking(&[&servers[0], &servers[1]], 1).options(["-drop", "-denymsg=listed"]).start();
    for dns in &servers {
        name_everybody(dns, Message::new().rcode(3));
    }
    let text = |from: Ipv4Addr| told(daemon.connect_from(from.into()), Instant::now()).0;
    let host = |from: Ipv4Addr| {
        let text = text(from);
        assert!(text.ends_with("end\n"), "{text}");
        variable(&text, "TCPREMOTEHOST").map(str::to_owned)
    };
    assert_eq!(host(fresh_ip()), None);
    let addresses = [servers[0].address, servers[1].address];
    let servers = if refuses {
        drop(servers);
        None
    } else {
        servers.iter().for_each(|dns| name_everybody(dns, Message::new().fault(Fault::Silent)));
        Some(servers)
    };
    // Dead for a while, with clients all the time.
    let until = Instant::now() + Duration::from_secs(8);
    let mut clients = 0;
    while Instant::now() < until {
        thread::scope(|scope| {
            for _ in 0..10 {
                scope.spawn(|| assert_eq!(host(fresh_ip()).as_deref(), Some("softdnserr")));
            }
        });
        clients += 10;
    }
    let said = daemon.stderr().lines().count();
    assert!(said <= 6, "{}", daemon.stderr());
    let alive = servers.unwrap_or_else(|| addresses.map(serve_at));
    alive.iter().for_each(|dns| name_everybody(dns, Message::new().rcode(3)));
    let since = Instant::now();
    let mut tries = Vec::new();
    // With another client each time: a failure is kept for a while.
    let mut first_right = |is_listed: bool| {
        let is_right = wait_until(DEADLINE, || {
            let from = fresh_ip();
            for dns in alive.iter().filter(|_| is_listed) {
                dns.set(&listing(from, "list.test"), A, Message::new().record(Record::a("127.0.0.2")));
            }
            let text = text(from);
            let is_served = text.ends_with("end\n") && variable(&text, "TCPREMOTEHOST").is_none();
            let is_right = if is_listed { text == "listed\r\n" } else { is_served };
            tries.push(text);
            is_right
        });
        assert!(is_right, "{way}: {tries:?}");
        since.elapsed()
    };
    let (named, refused) = (first_right(false), first_right(true));
    println!(
        "faults: services: all name servers dead ({way}) for {clients} clients, {said} lines; served normally {} ms after, \
         refused by a list {} ms after, in {} tries",
        named.as_millis(),
        refused.as_millis(),
        tries.len()
    );
    named.max(refused)
}

fn name_everybody(dns: &Dns, message: Message) {
    dns.otherwise(message);
}

fn serve_at(address: SocketAddr) -> Dns {
    Dns::serve(
        UdpSocket::bind(address).expect("the port is ours"),
        TcpListener::bind(address).expect("the port is ours"),
    )
}

/// Ident servers that say one byte a second, nothing, or no end.
pub fn ident_servers_that_trickle() {
    let daemon = Builder::default()
        .bare()
        .options(["-nodnslookup", "-identtimeout=2", "-lookuptimeout=10", "-maxprocs=100", "-maxperip=50"])
        .handler(TELL)
        .start();
    let trickle = |mut stream: std::net::TcpStream| {
        while stream.write_all(b" ").is_ok() {
            thread::sleep(Duration::from_secs(1));
        }
    };
    let endless = |mut stream: std::net::TcpStream| while stream.write_all(&[b'x'; 4096]).is_ok() {};
    let (slow, mad, quick) = (fresh_ip(), fresh_ip(), fresh_ip());
    let _servers = [
        IdentServer::serve(slow, trickle),
        IdentServer::serve(mad, endless),
        IdentServer::start(quick, |question| format!("{question} : USERID : UNIX : bob\r\n")),
    ];
    let memory = procfs::resident(daemon.pid());
    let since = Instant::now();
    let waiting: Vec<Client> = (0..20).map(|_| daemon.connect_from(slow.into())).collect();
    let (text, _) = told(daemon.connect_from(mad.into()), since);
    assert!(text.ends_with("end\n") && variable(&text, "TCPREMOTEINFO").is_none(), "{text}");
    let (text, _) = told(daemon.connect_from(quick.into()), since);
    assert_eq!(variable(&text, "TCPREMOTEINFO"), Some("bob"));
    let before_limit = since.elapsed();
    for client in waiting {
        let (text, time) = told(client, since);
        assert!(text.ends_with("end\n") && variable(&text, "TCPREMOTEINFO").is_none(), "{text}");
        assert!(time >= Duration::from_secs(2) && time < Duration::from_secs(9), "{time:?}");
    }
    assert!(before_limit < Duration::from_secs(2), "others waited {before_limit:?}");
    assert!(procfs::resident(daemon.pid()) < memory + 1024);
    println!(
        "faults: services: ident servers that trickle, or talk without end: given up at the limit; others served meanwhile"
    );
}
