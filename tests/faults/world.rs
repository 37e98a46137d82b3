//! What a daemon under faults has around it: a name server, an ident server, an access file, and
//! clients of whom each has something else to expect.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use couriertcpd::addr::reverse_zone_name;

use crate::common::dns::{A, ANY, Dns, Fault, Message, PTR, Record};
use crate::common::{
    Builder, Client, DEADLINE, Scratch, access, free_port, free_port_everywhere, fresh_ip, namespace, wait_until,
};

/// Tells its environment and stays until its client sends a line or closes.
pub const TELL: [&str; 3] = ["/bin/sh", "-c", "/usr/bin/env; echo end; read x"];

/// What a client got, next to what the rules say it should get.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Right,
    /// Served without something that could not be found out, or refused without the message; or what was
    /// asked for did not happen.
    Less(String),
    /// The same, and whoever asked for it was told why.
    Told(String),
    /// Served though a list has the address, which could not be asked.
    LetIn,
    /// Closed without a byte.
    Nothing,
    /// What no fault excuses.
    Wrong(String),
}

/// Addresses, each with rules of its own, and who answers for them.
pub struct World {
    pub scratch: Scratch,
    pub dns: Dns,
    /// Says the same, if there are two.
    pub other_dns: Option<Dns>,
    /// Where the daemon may tell how it is.
    pub manager: UnixDatagram,
    /// Has a name, an ident server with a user, and a record in the access file.
    pub named: Ipv4Addr,
    /// Nothing is known of it.
    pub plain: Ipv4Addr,
    /// Denied by the access file.
    pub denied: Ipv4Addr,
    /// Listed by list.test.
    pub listed: Ipv4Addr,
    /// Its name takes a while.
    pub late: Ipv4Addr,
    pub port: SocketAddr,
    /// Connections here begin with a PROXY header.
    pub proxied: SocketAddr,
    _ident: IdentServer,
}

impl World {
    pub fn new() -> World {
        let world = World::with(Dns::start(), None);
        world.answer(Fault::None);
        world
    }

    /// With two name servers, of whom resolv.conf names the first. Answers come whole by TCP only. To be made in
    /// namespaces of its own.
    pub fn with_resolv_conf() -> World {
        let serve = |address: &str| {
            let udp = UdpSocket::bind(address).unwrap_or_else(|error| panic!("{address}: {error}"));
            Dns::serve(udp, TcpListener::bind(address).unwrap_or_else(|error| panic!("{address}: {error}")))
        };
        let world = World::with(serve("127.0.0.53:53"), Some(serve("127.0.0.54:53")));
        world.answer(Fault::Truncated);
        world.write_resolv_conf(&world.dns);
        namespace::replace_file("/etc/resolv.conf", &world.resolv_conf());
        world
    }

    fn with(dns: Dns, other_dns: Option<Dns>) -> World {
        let [named, plain, denied, listed, late, local] = [(); 6].map(|()| fresh_ip());
        // Listened on at every address, so that the daemon has to ask where a client came to.
        let port = SocketAddr::new(local.into(), free_port_everywhere());
        let proxied = free_port(local.into());
        let ident = IdentServer::start(named, |question| format!("{question} : USERID : UNIX : alice\r\n"));
        let scratch = Scratch::new();
        let manager = UnixDatagram::bind(scratch.join("manager")).expect("a socket in a scratch directory");
        manager.set_nonblocking(true).expect("set a flag");
        #[rustfmt::skip]
        let world = World {
            scratch, dns, other_dns, manager, named, plain, denied, listed, late, port, proxied, _ident: ident,
        };
        world.write_access("one");
        world
    }

    /// What the name servers say of each, with something wrong about the answers that matter.
    fn answer(&self, fault: Fault) {
        for dns in [Some(&self.dns), self.other_dns.as_ref()].into_iter().flatten() {
            let message = || Message::new().fault(fault);
            dns.set(&reverse(self.named), PTR, message().record(Record::ptr("client.example")));
            dns.set("client.example", A, message().record(Record::a(&self.named.to_string())));
            dns.set(&listing(self.listed, "list.test"), A, message().record(Record::a("127.0.0.2")));
            dns.set(&reverse(self.late), PTR, Message::new().rcode(3).late(Duration::from_millis(300)));
        }
    }

    pub fn resolv_conf(&self) -> PathBuf {
        self.scratch.join("resolv.conf")
    }

    /// Names one server. The file stays the same one: it is mounted elsewhere.
    pub fn write_resolv_conf(&self, dns: &Dns) {
        fs::write(self.resolv_conf(), format!("nameserver {}\n", dns.address.ip())).expect("write resolv.conf");
    }

    pub fn control(&self) -> String {
        format!("-control={}", self.scratch.join("control").display())
    }

    /// What the service manager has been told since it was last asked.
    pub fn heard(&self) -> String {
        let mut buffer = [0; 512];
        let mut heard = String::new();
        while let Ok(length) = self.manager.recv(&mut buffer) {
            heard += &String::from_utf8_lossy(&buffer[..length]);
        }
        heard
    }

    /// Asks the daemon by its control socket, as an administrator does.
    pub fn verb(&self, verb: &str) -> (Outcome, String) {
        let finished = Builder::default().bare().options([&self.control(), verb]).run_options();
        let outcome = match finished.code() {
            0 => Outcome::Right,
            _ if finished.stderr.trim().is_empty() => Outcome::Less(format!("{verb} fails")),
            _ => Outcome::Told(format!("{verb} fails")),
        };
        (outcome, finished.stdout)
    }

    pub fn access_file(&self) -> PathBuf {
        self.scratch.join("access.dat")
    }

    /// Rules; `generation` is what `named` finds in GENERATION.
    pub fn write_access(&self, generation: &str) {
        let (named, denied) = (self.named.to_string(), self.denied.to_string());
        let record = format!("allow,RELAYCLIENT,GENERATION={generation}");
        access::make(&self.access_file(), &[(&named, &record), (&denied, "deny")]);
    }

    /// Options that make every rule count, with the ports of LIST.
    pub fn options(&self) -> Vec<String> {
        let mut options = vec![
            format!("-access={}", self.access_file().display()),
            format!("-haproxy=5/port={}.{}", self.proxied.ip(), self.proxied.port()),
            "-proxyfrom=127.0.0.0/8".into(),
            "-denymsg=go away".into(),
            "-block=list.test".into(),
            "-drop".into(),
            "-dnscache=0".into(),
            "-maxprocs=12".into(),
            "-maxperip=12".into(),
            "-lookuptimeout=6".into(),
            "-identtimeout=6".into(),
        ];
        if self.other_dns.is_none() {
            options.push(format!("-nameserver={}", self.dns.address));
        }
        options
    }

    pub fn list(&self) -> String {
        format!("{},{}.{}", self.port.port(), self.proxied.ip(), self.proxied.port())
    }

    pub fn named_client(&self) -> Outcome {
        let text = talk(self.named, self.port, "\n");
        let must = [("RELAYCLIENT", Some("")), ("BLOCK", None)];
        let name = ("TCPREMOTEHOST", Some("client.example"), Some("softdnserr"));
        served(&text, &must, &[name, ("TCPREMOTEINFO", Some("alice"), None)])
    }

    pub fn plain_client(&self) -> Outcome {
        self.nameless(self.plain, &talk(self.plain, self.port, "\n"))
    }

    /// What one got of whom nothing is known.
    pub fn nameless(&self, from: Ipv4Addr, text: &str) -> Outcome {
        let ip = format!("::ffff:{from}");
        let must = [("RELAYCLIENT", None), ("BLOCK", None), ("TCPREMOTEINFO", None), ("TCPREMOTEIP", Some(&*ip))];
        served(text, &must, &[("TCPREMOTEHOST", None, Some("softdnserr"))])
    }

    pub fn proxied_client(&self) -> Outcome {
        let header = format!("PROXY TCP4 {} 192.0.2.25 4321 25\r\n\n", self.named);
        let text = talk(self.plain, self.proxied, &header);
        let ip = format!("::ffff:{}", self.named);
        let must = [("TCPREMOTEIP", Some(&*ip)), ("TCPREMOTEPORT", Some("4321")), ("RELAYCLIENT", Some(""))];
        served(&text, &must, &[("TCPREMOTEHOST", Some("client.example"), Some("softdnserr"))])
    }

    /// Must never be served.
    pub fn denied_client(&self) -> Outcome {
        match talk(self.denied, self.port, "\n").as_str() {
            "go away\r\n" => Outcome::Right,
            "" => Outcome::Less("refused without the message".into()),
            other => Outcome::Wrong(format!("denied, but got {other:?}")),
        }
    }

    /// May be served only where the list could not be asked.
    pub fn listed_client(&self) -> Outcome {
        match talk(self.listed, self.port, "\n").as_str() {
            "go away\r\n" => Outcome::Right,
            "" => Outcome::Less("refused without the message".into()),
            text => match served(text, &[("BLOCK", None)], &[]) {
                Outcome::Right => Outcome::LetIn,
                other => other,
            },
        }
    }

    /// Resets its connection while its lookups run, if they have begun.
    pub fn client_that_goes(&self) -> Outcome {
        let name = reverse(self.late);
        let before = self.dns.count(&name, ANY);
        if let Ok(client) = Client::try_connect(Some(SocketAddr::new(self.late.into(), 0)), self.port) {
            wait_until(Duration::from_secs(1), || self.dns.count(&name, ANY) > before);
            client.reset();
        }
        Outcome::Right
    }
}

/// What a client gets that says `words` at once.
pub fn talk(from: impl Into<IpAddr>, to: SocketAddr, words: &str) -> String {
    match Client::try_connect(Some(SocketAddr::new(from.into(), 0)), to) {
        Ok(mut client) => {
            client.send(words.as_bytes());
            client.finish().text()
        }
        // Nothing that a daemon says, so that it is not taken for a refusal.
        Err(error) => format!("no connection: {error}"),
    }
}

/// The value of a variable in what `env` printed.
pub fn variable<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
}

/// Compares what a served client's handler told: variables that must be so, and variables that are
/// right one way and excusable another.
fn served(text: &str, must: &[(&str, Option<&str>)], may: &[(&str, Option<&str>, Option<&str>)]) -> Outcome {
    if text.is_empty() {
        return Outcome::Nothing;
    }
    if !text.ends_with("\nend\n") {
        return Outcome::Wrong(format!("no handler says {text:?}"));
    }
    for &(name, value) in must {
        if variable(text, name) != value {
            return Outcome::Wrong(format!("{name} is {:?} and not {value:?}", variable(text, name)));
        }
    }
    let mut less = None;
    for &(name, right, excusable) in may {
        match variable(text, name) {
            value if value == right => {}
            value if value == excusable => less = Some(format!("{name} is {value:?}")),
            value => return Outcome::Wrong(format!("{name} is {value:?}")),
        }
    }
    less.map_or(Outcome::Right, Outcome::Less)
}

pub fn reverse(ip: Ipv4Addr) -> String {
    reverse_zone_name(ip.into())
}

/// The name that is asked for an address in a list.
pub fn listing(ip: Ipv4Addr, zone: &str) -> String {
    let [a, b, c, d] = ip.octets();
    format!("{d}.{c}.{b}.{a}.{zone}")
}

/// An ident server of one address.
pub struct IdentServer {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl IdentServer {
    /// `answer` is given the ports of the question as they came.
    pub fn start(ip: Ipv4Addr, answer: fn(&str) -> String) -> IdentServer {
        IdentServer::serve(ip, move |mut stream| {
            let mut line = String::new();
            if BufReader::new(&stream).read_line(&mut line).is_ok() {
                let _ = stream.write_all(answer(line.trim()).as_bytes());
            }
        })
    }

    /// `serve` is called with one connection after the other.
    pub fn serve(ip: Ipv4Addr, serve: impl Fn(TcpStream) + Send + 'static) -> IdentServer {
        let listener = TcpListener::bind((ip, 113)).unwrap_or_else(|error| panic!("port 113 of {ip}: {error}"));
        let address = listener.local_addr().expect("bound");
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                if stopped.load(Ordering::SeqCst) {
                    break;
                }
                stream.set_read_timeout(Some(DEADLINE)).expect("set a read time-out");
                serve(stream);
            }
        });
        IdentServer { address, stop, thread: Some(thread) }
    }
}

impl Drop for IdentServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The lines of a file, none if it is not there.
pub fn lines(path: &std::path::Path) -> Vec<String> {
    fs::read(path).map(|b| String::from_utf8_lossy(&b).lines().map(str::to_owned).collect()).unwrap_or_default()
}
