//! The name server and the ident server of a scenario, each on its own port in the scenario's
//! namespace, where `/etc/resolv.conf` names the first.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use crate::common::dns::{A, AAAA, ANY, Dns, Fault, Message, PTR, Record, TXT};
use crate::common::{Scratch, namespace, wait_for};

const SERVFAIL: u8 = 2;
const REFUSED: u8 = 5;

/// Makes 127.0.0.1 the name server of this thread and what it starts.
pub fn name_server() {
    let scratch = Scratch::new();
    namespace::replace_file("/etc/resolv.conf", &scratch.file("resolv.conf", "nameserver 127.0.0.1\n"));
}

/// Serves a zone text: a line `NAME TYPE VALUE` for each record, or `NAME SERVFAIL`, `NAME REFUSED`,
/// and `NAME TRUNCATED` for answers that come whole by TCP alone. Names that are not in it do not
/// exist; a CNAME's target is added to its answers, as real servers do. A TXT value is strings
/// separated by `|`.
pub fn serve(zone: &str) -> Dns {
    let udp = bound(|| UdpSocket::bind("127.0.0.1:53"));
    let tcp = bound(|| TcpListener::bind("127.0.0.1:53"));
    let dns = Dns::serve(udp, tcp);
    let mut records: BTreeMap<(&str, u16), Vec<Record>> = BTreeMap::new();
    let mut aliases = Vec::new();
    let mut truncated = Vec::new();
    for line in zone.lines() {
        let mut words = line.splitn(3, ' ');
        let (Some(name), Some(kind)) = (words.next(), words.next()) else { panic!("no record: {line:?}") };
        let value = words.next().unwrap_or("");
        let mut add = |kind, record| records.entry((name, kind)).or_default().push(record);
        match kind {
            "A" => add(A, Record::a(value)),
            "AAAA" => add(AAAA, Record::a(value)),
            "PTR" => add(PTR, Record::ptr(value)),
            "TXT" => add(TXT, Record::txt(&value.split('|').map(str::as_bytes).collect::<Vec<_>>())),
            "CNAME" => aliases.push((name, value)),
            "SERVFAIL" => drop(dns.set(name, ANY, Message::new().rcode(SERVFAIL))),
            "REFUSED" => drop(dns.set(name, ANY, Message::new().rcode(REFUSED))),
            "TRUNCATED" => truncated.push(name),
            _ => panic!("no type: {line:?}"),
        }
    }
    for ((name, kind), records) in &records {
        let mut message = records.iter().cloned().fold(Message::new(), Message::record);
        if truncated.contains(name) {
            message = message.fault(Fault::Truncated);
        }
        // What else is asked of an existing name has no data.
        dns.set(name, ANY, Message::new()).set(name, *kind, message);
    }
    for ((name, kind), records) in &records {
        for (alias, _) in aliases.iter().filter(|(_, target)| target == name) {
            let answer = records.iter().cloned().map(|record| record.owner(name));
            let message = answer.fold(Message::new().record(Record::cname(name)), Message::record);
            dns.set(alias, ANY, Message::new().record(Record::cname(name))).set(alias, *kind, message);
        }
    }
    dns
}

/// Binds a port that the scenario before may have used: a process that another test is just starting
/// holds a copy of its descriptor until it executes its program.
fn bound<T>(bind: impl Fn() -> std::io::Result<T>) -> T {
    let mut socket = None;
    wait_for("the port is free", || {
        socket = bind().ok();
        socket.is_some()
    });
    socket.expect("waited for it")
}

/// The questions that came, each once, sorted, as `NAME TYPE`.
pub fn questions(dns: &Dns) -> Vec<String> {
    let name = |kind| match kind {
        A => "A".to_owned(),
        AAAA => "AAAA".to_owned(),
        PTR => "PTR".to_owned(),
        TXT => "TXT".to_owned(),
        other => other.to_string(),
    };
    let mut all: Vec<String> = dns.asked().iter().map(|query| format!("{} {}", query.name, name(query.kind))).collect();
    all.sort();
    all.dedup();
    all
}

/// Answers every question with the same text, `{client}` and `{daemon}` in it being the ports asked about.
pub struct Ident {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// Where the client's ident server listens: the client is 127.0.0.2.
const IDENT: &str = "127.0.0.2:113";

impl Ident {
    pub fn serve(answer: &'static str) -> Ident {
        let listener = bound(|| TcpListener::bind(IDENT));
        let stop = Arc::new(AtomicBool::new(false));
        let thread = thread::spawn({
            let stop = stop.clone();
            move || {
                for stream in listener.incoming().flatten() {
                    if stop.load(Ordering::SeqCst) {
                        break;
                    }
                    // A daemon that goes away in the middle is its own affair.
                    let _ = reply(stream, answer);
                }
            }
        });
        Ident { stop, thread: Some(thread) }
    }
}

fn reply(mut stream: TcpStream, answer: &str) -> std::io::Result<()> {
    let mut line = String::new();
    BufReader::new(&stream).read_line(&mut line)?;
    let (client, daemon) = line.trim_end().split_once(',').unwrap_or_default();
    stream.write_all(answer.replace("{client}", client).replace("{daemon}", daemon).as_bytes())
}

impl Drop for Ident {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // Wakes it up.
        let _ = TcpStream::connect(IDENT);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
