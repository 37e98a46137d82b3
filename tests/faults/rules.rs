//! The rules of the soak, and a model of them: what a client from an address should get.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use crate::common::access;
use crate::common::dns::{A, ANY, Dns, Message, PTR, Record, TXT};
use crate::common::{Scratch, fresh_ip};
use crate::world::{IdentServer, listing, reverse};

/// Sent to whoever is refused by the access file or by `-drop`.
pub const MESSAGE: &str = "go away\r\n";

/// What is known of an address, and so what its clients get.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Nothing is known.
    Plain,
    /// Its name leads back to it.
    Named,
    /// Its name leads elsewhere.
    Mismatch,
    /// The name server fails.
    Failing,
    /// As `Named`, and slowly.
    Slow,
    Denied,
    /// On the list that refuses.
    Listed,
    /// The same, and slowly.
    ListedSlowly,
    /// On that list, and on the one before it that vouches.
    Vouched,
    /// On a list that only sets a variable.
    Grey,
    /// Has variables in the access file, one of which changes with each generation of it.
    Record,
    /// May have one connection at a time.
    Single,
    /// Its ident server tells a user.
    Ident,
}

pub const CLASSES: [Class; 13] = [
    Class::Plain,
    Class::Named,
    Class::Mismatch,
    Class::Failing,
    Class::Slow,
    Class::Denied,
    Class::Listed,
    Class::ListedSlowly,
    Class::Vouched,
    Class::Grey,
    Class::Record,
    Class::Single,
    Class::Ident,
];

/// The options by which all this is so.
pub const OPTIONS: [&str; 6] = [
    "-denymsg=go away",
    "-allow=white.test,BLOCK",
    "-block=black.test,BLOCK,*",
    "-block=grey.test,GREY,listed @",
    "-block=broken.test,BROKEN",
    "-drop",
];

/// Addresses of every class, with those who answer for them.
pub struct Rules {
    pub dns: Dns,
    addresses: Vec<(Class, Ipv4Addr)>,
    _ident: Vec<IdentServer>,
}

impl Rules {
    /// `each`: addresses of each class.
    pub fn new(each: usize) -> Rules {
        let dns = Dns::start();
        dns.note_nothing();
        // A list whose name servers always fail: nobody is on it.
        dns.set("*.broken.test", ANY, Message::new().rcode(2));
        let mut addresses = Vec::new();
        let mut ident = Vec::new();
        for class in CLASSES {
            for n in 0..each {
                let ip = fresh_ip();
                script(&dns, class, ip, n as u64);
                if class == Class::Ident {
                    ident.push(IdentServer::start(ip, |question| format!("{question} : USERID : UNIX : carol\r\n")));
                }
                addresses.push((class, ip));
            }
        }
        Rules { dns, addresses, _ident: ident }
    }

    /// Those for one of `workers`, so that no two of them use one address.
    pub fn share(&self, worker: usize, workers: usize) -> Vec<(Class, Ipv4Addr)> {
        // The addresses of a class lie together, and their number is a multiple of the workers.
        self.addresses.iter().copied().skip(worker).step_by(workers).collect()
    }

    pub fn write_access(&self, scratch: &Scratch, generation: usize) {
        let mut records = Vec::new();
        for (class, ip) in &self.addresses {
            let value = match class {
                Class::Denied => "deny".to_owned(),
                Class::Record => format!("allow,RELAYCLIENT,PAIR='a,b',GENERATION={generation}"),
                Class::Single => "allow,MAXCPERIP=1".to_owned(),
                _ => continue,
            };
            records.push((ip.to_string(), value));
        }
        let records: Vec<(&str, &str)> = records.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        access::make(&scratch.join("rules.dat"), &records);
    }
}

fn script(dns: &Dns, class: Class, ip: Ipv4Addr, n: u64) {
    let name = host(ip);
    let slowly = |message: Message| message.late(Duration::from_millis(20 + 25 * (n % 8)));
    let address = |ip: &str| Message::new().record(Record::a(ip));
    let pointer = || Message::new().record(Record::ptr(&name));
    match class {
        Class::Named => _ = dns.set(&reverse(ip), PTR, pointer()).set(&name, A, address(&ip.to_string())),
        Class::Slow => {
            dns.set(&reverse(ip), PTR, slowly(pointer())).set(&name, A, slowly(address(&ip.to_string())));
        }
        Class::Mismatch => _ = dns.set(&reverse(ip), PTR, pointer()).set(&name, A, address("192.0.2.1")),
        Class::Failing => _ = dns.set(&reverse(ip), PTR, Message::new().rcode(2)),
        Class::Listed | Class::ListedSlowly | Class::Vouched => {
            let late = |message| if class == Class::ListedSlowly { slowly(message) } else { message };
            dns.set(&listing(ip, "black.test"), A, late(address("127.0.0.2")));
            dns.set(&listing(ip, "black.test"), TXT, late(Message::new().record(Record::txt(&[b"spam ", b"source"]))));
            if class == Class::Vouched {
                dns.set(&listing(ip, "white.test"), A, address("127.0.0.2"));
            }
        }
        Class::Grey => _ = dns.set(&listing(ip, "grey.test"), A, address("127.0.0.10")),
        Class::Plain | Class::Denied | Class::Record | Class::Single | Class::Ident => {}
    }
}

fn host(ip: Ipv4Addr) -> String {
    format!("h{}.example", ip.to_string().replace('.', "-"))
}

/// The variables that the rules speak of, as a handler of `ip` should have them. None: it is refused
/// with [`MESSAGE`]. GENERATION is not among them.
pub fn expected(class: Class, ip: Ipv4Addr) -> Option<BTreeMap<&'static str, String>> {
    let mut expected = BTreeMap::from([("TCPREMOTEIP", format!("::ffff:{ip}"))]);
    let mut set = |name, value: &str| drop(expected.insert(name, value.to_owned()));
    match class {
        Class::Denied | Class::Listed | Class::ListedSlowly => return None,
        Class::Plain => {}
        Class::Named | Class::Slow => set("TCPREMOTEHOST", &host(ip)),
        Class::Mismatch | Class::Failing => set("TCPREMOTEHOST", "softdnserr"),
        Class::Vouched => {
            set("BLOCK", "");
            set("BLOCK_IP", "127.0.0.2");
            set("BLOCK_ZONE", "white.test");
            set("ALLOW_0", "BLOCK");
        }
        Class::Grey => {
            set("GREY", &format!("listed ::ffff:{ip}"));
            set("GREY_IP", "127.0.0.10");
            set("GREY_ZONE", "grey.test");
        }
        Class::Record => {
            set("RELAYCLIENT", "");
            set("PAIR", "a,b");
        }
        Class::Single => set("MAXCPERIP", "1"),
        Class::Ident => set("TCPREMOTEINFO", "carol"),
    }
    Some(expected)
}

/// The variables that the rules speak of, out of what a handler's shell printed: `export NAME='VALUE'`.
pub fn told(text: &str) -> BTreeMap<&str, String> {
    const ABOUT: [&str; 7] =
        ["TCPREMOTEIP", "TCPREMOTEHOST", "TCPREMOTEINFO", "RELAYCLIENT", "PAIR", "MAXCPERIP", "GENERATION"];
    let mut told = BTreeMap::new();
    for line in text.lines() {
        let Some((name, value)) = line.strip_prefix("export ").and_then(|rest| rest.split_once('=')) else { continue };
        let of_a_list = ["BLOCK", "GREY", "BROKEN", "ALLOW_"].iter().any(|prefix| name.starts_with(prefix));
        if of_a_list || ABOUT.contains(&name) {
            told.insert(name, value.trim_matches('\'').to_owned());
        }
    }
    told
}
