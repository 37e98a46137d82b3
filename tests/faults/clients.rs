//! Clients by the thousands that hold on, reset, dawdle or never finish to connect.
//!
//! Others are served within a second all the while, as far as the limits leave them a place, and the
//! log stays below a line a second. In a network of its own, where clients may come from everywhere.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, sendto, socket};

use crate::common::dns::{A, ANY, Dns, Fault, Message, Record};
use crate::common::{Builder, Client, Daemon, access, namespace, wait_until};
use crate::random::StopAtEnd;
use crate::world::reverse;

/// Served to an ordinary client.
const GREET: [&str; 3] = ["/bin/sh", "-c", "exec 2>/dev/null; echo served; read x"];
const SERVER: &str = "192.0.2.25";
const SERVER6: &str = "2001:db8::25";

/// Nine in ten of the others wait no longer.
const SOON: Duration = Duration::from_secs(1);
const TRIES: usize = 3;

/// Of a crowd that holds on in its lookups. From then on its handlers have all slots.
const LIMIT_OF_LOOKUPS: &str = "-lookuptimeout=20";
const BEFORE_THE_LIMIT: Duration = Duration::from_secs(18);

/// What the crowd does with its connections.
#[derive(Clone, Copy, PartialEq)]
enum Manner {
    Hold,
    Reset,
    /// Sends a byte a second.
    Dawdle,
    /// Never completes the handshake.
    HalfOpen,
}

struct Flood {
    name: &'static str,
    options: &'static [&'static str],
    manner: Manner,
    to: u16,
    /// The address of the `n`th.
    from: fn(u32) -> IpAddr,
}

fn one(_: u32) -> IpAddr {
    Ipv4Addr::new(198, 51, 100, 7).into()
}

fn one_24(n: u32) -> IpAddr {
    Ipv4Addr::new(198, 51, 100, 1 + (n % 250) as u8).into()
}

fn one_64(n: u32) -> IpAddr {
    Ipv6Addr::from(0x2001_0db8_0000_0001_0000_0000_0000_0000 + u128::from(n) + 1).into()
}

fn everywhere(n: u32) -> IpAddr {
    Ipv6Addr::from(0x2001_0db8_0000_0000_0000_0000_0000_0001 + (u128::from(n + 2) << 64)).into()
}

const FLOODS: &[Flood] = &[
    Flood { name: "hold on, from one address", options: &["-maxperip=4"], manner: Manner::Hold, to: 25, from: one },
    Flood { name: "hold on, from one /24", options: &["-maxperc=10"], manner: Manner::Hold, to: 25, from: one_24 },
    Flood {
        name: "hold on, from one /64",
        options: &["-prefix6=64/48", "-maxperip=4"],
        manner: Manner::Hold,
        to: 25,
        from: one_64,
    },
    Flood {
        name: "hold on in their lookups, from everywhere",
        options: &["-maxpending=9000", LIMIT_OF_LOOKUPS],
        manner: Manner::Hold,
        to: 25,
        from: everywhere,
    },
    Flood {
        name: "reset, from everywhere",
        options: &["-maxpending=9000"],
        manner: Manner::Reset,
        to: 25,
        from: everywhere,
    },
    Flood { name: "reset, from one address", options: &["-maxperip=4"], manner: Manner::Reset, to: 25, from: one },
    Flood {
        name: "send a byte of a PROXY header a second, from everywhere",
        options: &["-haproxy=20/port=26", "-proxyfrom=2001:db8::/32", "-maxpending=9000"],
        manner: Manner::Dawdle,
        to: 26,
        from: everywhere,
    },
    Flood {
        name: "are refused with a message and go on sending, from one address",
        options: &["-denymsg=go away", "-access=rules"],
        manner: Manner::Dawdle,
        to: 25,
        from: one,
    },
    Flood { name: "never finish to connect", options: &[], manner: Manner::HalfOpen, to: 25, from: one },
];

pub fn floods(wanted: u32, names: Option<&[usize]>) {
    let count = wanted.min(descriptors());
    if count < wanted {
        println!("faults: clients: {count} instead of {wanted}: no more descriptors are permitted here");
    }
    for (index, flood) in FLOODS.iter().enumerate() {
        if names.is_some_and(|names| !names.contains(&index)) {
            continue;
        }
        // A machine that is busy with something else may be so at the wrong moment, but not always.
        let mut times = Vec::new();
        let soon = (0..TRIES).any(|_| {
            let Some(time) = namespace::run(|| run(flood, count)) else {
                assert!(!nix::unistd::geteuid().is_root(), "root may make namespaces");
                return true;
            };
            times.push(time);
            time < SOON
        });
        assert!(soon, "{}: one in ten of the others waits for {times:?}", flood.name);
    }
}

/// As many connections as this process, and the daemon with the same limit, may have; some apart.
fn descriptors() -> u32 {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("raise the limit");
    u32::try_from(hard).unwrap_or(u32::MAX) - 500
}

/// How long nine in ten of the others wait at most.
fn run(flood: &Flood, count: u32) -> Duration {
    let scratch = crate::common::Scratch::new();
    let dns = Dns::start();
    // The crowd's names are never told; those of the others are.
    dns.set("*.ip6.arpa", ANY, Message::new().fault(Fault::Silent)).note_nothing();
    for n in 0..=255 {
        let (ip, name) = (Ipv4Addr::new(192, 0, 2, n), format!("other{n}.example"));
        dns.set(&reverse(ip), ANY, Message::new().record(Record::ptr(&name)));
        dns.set(&name, A, Message::new().record(Record::a(&ip.to_string())));
    }
    access::make(&scratch.join("rules"), &[("198.51.100", "deny")]);
    let since = Instant::now();
    let daemon = Builder::default()
        .bare()
        .address(SocketAddr::new(SERVER.parse().unwrap(), 25))
        .list("25,26")
        .directory(scratch.path())
        .options(["-noidentlookup", "-maxprocs=40", "-lookuptimeout=60"])
        .option(format!("-nameserver={}", dns.address))
        .options(flood.options)
        .handler(GREET)
        .start();
    served(0);
    daemon.wait_for_no_children();
    let descriptors = daemon.descriptors();
    let (stop, mut times, mut came) = (AtomicBool::new(false), Vec::new(), 0);
    // The limits leave the others a place until then.
    let until = flood.options.contains(&LIMIT_OF_LOOKUPS).then(|| Instant::now() + BEFORE_THE_LIMIT);
    thread::scope(|scope| {
        let others = scope.spawn(|| others(&stop, until));
        let _stop = StopAtEnd(&stop);
        let mut crowd;
        (crowd, came) = self::crowd(flood, count);
        let there = Instant::now();
        // The crowd is there; it stays, and the byte a second goes on.
        while there.elapsed() < Duration::from_secs(4) {
            if flood.manner == Manner::Dawdle {
                crowd.iter_mut().for_each(|client| {
                    client.send(b"P");
                });
            }
            thread::sleep(Duration::from_millis(900));
        }
        stop.store(true, Ordering::Relaxed);
        times = others.join().expect("others are served");
    });
    let lines = daemon.stderr().lines().count();
    // Less than a line a second on average, over the minutes that have begun: they may all come at once.
    let minutes = since.elapsed().as_secs() as usize / 60 + 1;
    assert!(lines <= 60 * minutes, "{}: {lines} lines in {minutes} minutes: {}", flood.name, daemon.stderr());
    times.sort_unstable();
    let of_ten = |tenths| times[(times.len() - 1) * tenths / 10];
    let (median, nine, worst) = (of_ten(5), of_ten(9), of_ten(10));
    println!(
        "faults: clients: {came} {}: {} others served in {} ms, nine of ten in {} ms, {} ms at worst; {lines} lines in the log",
        flood.name,
        times.len(),
        median.as_millis(),
        nine.as_millis(),
        worst.as_millis()
    );
    afterwards(&daemon, descriptors);
    nine
}

fn afterwards(daemon: &Daemon, descriptors: usize) {
    // Those whose lookups end only now have their handlers first, thousands of them.
    let closed = wait_until(Duration::from_secs(120), || daemon.descriptors() <= descriptors);
    assert!(closed, "{} descriptors, {descriptors} before", daemon.descriptors());
    daemon.wait_for_no_children();
    assert!(served(1) < Duration::from_secs(5));
    assert_eq!(daemon.threads(), 1);
}

/// Clients one after the other; how long each waited to be served.
fn others(stop: &AtomicBool, until: Option<Instant>) -> Vec<Duration> {
    let mut times = Vec::new();
    while !stop.load(Ordering::Relaxed) && until.is_none_or(|until| Instant::now() < until) {
        times.push(served(times.len()));
        // Some a second, as is usual; they must not use up their own limit.
        thread::sleep(Duration::from_millis(20));
    }
    times
}

/// How long the `n`th of the others waits to be served.
#[track_caller]
fn served(n: usize) -> Duration {
    let from = IpAddr::from([192, 0, 2, 100 + (n % 100) as u8]);
    let since = Instant::now();
    let mut client = Client::connect_from(from, SocketAddr::new(SERVER.parse().unwrap(), 25));
    assert!(client.read_until("served\n"), "an ordinary client is not served");
    since.elapsed()
}

/// Those who stay; and how many have come.
fn crowd(flood: &Flood, count: u32) -> (Vec<Client>, u32) {
    if flood.manner == Manner::HalfOpen {
        half_open(count);
        return (Vec::new(), count);
    }
    let server = if (flood.from)(0).is_ipv4() { SERVER } else { SERVER6 };
    let to = SocketAddr::new(server.parse().unwrap(), flood.to);
    let (mut crowd, mut came) = (Vec::new(), 0);
    for n in 0..count {
        // The backlog may be full for a moment.
        let Ok(client) = Client::try_connect(Some(SocketAddr::new((flood.from)(n), 0)), to) else { continue };
        came += 1;
        match flood.manner {
            Manner::Reset => client.reset(),
            _ => crowd.push(client),
        }
    }
    assert!(came > count * 9 / 10, "{came} of {count} have come");
    (crowd, came)
}

/// Sends SYN packets of clients whose host answers nothing.
fn half_open(count: u32) {
    // Answers to them go out by a route that is nobody's, come back, and are dropped.
    let done = Command::new("ip").args(["route", "add", "203.0.113.0/24", "dev", "lo"]).status().expect("run ip");
    assert!(done.success(), "add a route");
    let raw = socket(AddressFamily::Inet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Raw)
        .expect("root may have a raw socket");
    let to: Ipv4Addr = SERVER.parse().unwrap();
    for n in 0..count {
        let from = Ipv4Addr::new(203, 0, 113, 2 + (n % 250) as u8);
        let packet = syn(from, 1024 + (n / 250) as u16, to, 25);
        let address = SockaddrIn::from(std::net::SocketAddrV4::new(to, 25));
        sendto(raw.as_raw_fd(), &packet, &address, MsgFlags::empty()).expect("send a packet");
    }
    let half_open = || {
        let read = |name: &&str| std::fs::read_to_string(format!("/proc/thread-self/net/{name}")).unwrap_or_default();
        // State 03 is SYN_RECV.
        let is_one = |line: &&str| line.split_whitespace().nth(3) == Some("03");
        ["tcp", "tcp6"].iter().map(read).map(|table| table.lines().filter(is_one).count()).sum::<usize>()
    };
    assert!(wait_until(Duration::from_secs(5), || half_open() > 100), "{} are half open", half_open());
}

/// An IPv4 packet with a TCP header that asks for a connection.
fn syn(from: Ipv4Addr, from_port: u16, to: Ipv4Addr, port: u16) -> Vec<u8> {
    let mut tcp = [from_port.to_be_bytes(), port.to_be_bytes()].concat();
    tcp.extend_from_slice(&[0, 0, 0, 1, 0, 0, 0, 0, 5 << 4, 2, 0xff, 0xff, 0, 0, 0, 0]);
    let pseudo = [&from.octets()[..], &to.octets(), &[0, 6, 0, 20], &tcp].concat();
    let words = pseudo.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    tcp[16..18].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    // The kernel fills in the length and the checksum of the IP header.
    let ip = [0x45, 0, 0, 0, 0, 0, 0, 0, 64, 6, 0, 0];
    [&ip[..], &from.octets(), &to.octets(), &tcp].concat()
}
