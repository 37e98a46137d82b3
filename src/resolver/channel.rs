//! One c-ares channel: how it is set up, what goes in, what comes out.
//!
//! A channel is never set up anew: c-ares would start a thread for it. It is replaced, and the old
//! one is kept until its last query has ended. Replies are read inside c-ares' callback and left in
//! a basket; the callback does nothing else, for it may run inside any call into the channel, the
//! one that starts the query included.

#![forbid(unsafe_code)]

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use c_ares::{DnsCls, DnsFlags, DnsOpcode, DnsRcode, DnsRecord, DnsRecordType, FdEvents, Flags, Options, ProcessFlags};
use nix::errno::Errno;

use super::reply::{self, Failure, Outcome, is_shortage};
use super::sockets::Sockets;
use super::table::Place;

/// No single try takes longer than this.
pub const MAX_TIMEOUT: Duration = Duration::from_secs(5);
/// Tries with each server. With fewer, and a server known as fast, a lookup that takes its seconds
/// would be given up; how long a connection waits is decided elsewhere.
pub const TRIES: u32 = 6;
/// Queries in the life of one UDP socket: after that, another source port, which makes forged
/// replies harder; and no socket is sent more replies at a time than its buffer holds.
const QUERIES_PER_SOCKET: u32 = 250;

/// The end of one query.
#[derive(Debug)]
pub struct Reply {
    /// Where the question was when the query started, and which query this is.
    pub place: Place,
    pub number: u32,
    pub outcome: Outcome,
}

/// Where callbacks leave replies. There is one thread, so the lock is never contended; c-ares'
/// signatures ask for it.
#[derive(Clone, Default)]
pub struct Basket(Arc<Mutex<Vec<Reply>>>);

impl Basket {
    pub fn put(&self, reply: Reply) {
        self.0.lock().expect("no thread has panicked with the lock: there is one thread").push(reply);
    }

    /// True if the last reply tells that a query could not be made.
    pub fn ends_with_ours(&self) -> bool {
        let replies = self.0.lock().expect("no thread has panicked with the lock: there is one thread");
        replies.last().is_some_and(|reply| matches!(reply.outcome, Outcome::Failed(failure) if failure.is_ours()))
    }

    pub fn is_empty(&self) -> bool {
        self.0.lock().expect("no thread has panicked with the lock: there is one thread").is_empty()
    }

    /// All replies, in order of arrival.
    pub fn take(&self) -> Vec<Reply> {
        std::mem::take(&mut *self.0.lock().expect("no thread has panicked with the lock: there is one thread"))
    }
}

pub struct Channel {
    ares: c_ares::Channel,
    basket: Basket,
}

impl Channel {
    /// A channel that asks `nameservers`; if there are none, those of the file `resolv_conf`, and if
    /// that names none either, the one on this host, as the C library does.
    pub fn open(
        nameservers: &[SocketAddr],
        resolv_conf: &str,
        sockets: &Arc<Sockets>,
        basket: Basket,
        first_timeout: Duration,
    ) -> io::Result<Channel> {
        let mut options = Options::new();
        let sockets = sockets.clone();
        options
            // No EDNS: it costs memory and time with every query, and long TXT records come by TCP.
            .set_flags(Flags::NOSEARCH | Flags::NOALIASES)
            // These are ours to decide: neither RES_OPTIONS nor the `options` of resolv.conf change
            // them. `rotate` and `use-vc` there say how the servers want to be used, and count.
            .set_timeout(first_timeout)
            .set_max_timeout(MAX_TIMEOUT)
            .set_tries(TRIES)
            .set_udp_max_queries(Some(QUERIES_PER_SOCKET))
            // c-ares' own cache knows no bound.
            .set_query_cache_max_ttl(0)
            .set_socket_state_callback(move |fd, readable, writable| sockets.want(fd, readable, writable))
            // With servers given, the file has no say at all.
            .set_resolvconf_path(if nameservers.is_empty() { resolv_conf } else { "/dev/null" })
            .map_err(io::Error::other)?;
        Errno::clear();
        let mut ares = c_ares::Channel::with_options(options).map_err(io::Error::other)?;
        if nameservers.is_empty() {
            // A file that it could not open is nothing to c-ares: it asks this host instead, where nobody
            // answers for any list. With that error it opens no further files, so the number stays.
            let errno = Errno::last();
            if is_shortage(errno) {
                return Err(errno.into());
            }
        } else {
            ares.set_servers(nameservers.iter().map(for_ares)).map_err(io::Error::other)?;
            if ares.servers().is_empty() {
                return Err(io::Error::other(format!("-nameserver: {} cannot be asked", nameservers[0])));
            }
        }
        Ok(Channel { ares, basket })
    }

    /// The first of these, all of which were given to [`Channel::open`], that c-ares cannot ask, and has left out
    /// without a word.
    pub fn leaves_out<'a>(&mut self, nameservers: &'a [SocketAddr]) -> Option<&'a SocketAddr> {
        let is_first = |&(at, server): &(usize, &SocketAddr)| !nameservers[..at].contains(server);
        if self.ares.servers().len() >= nameservers.iter().enumerate().filter(is_first).count() {
            return None;
        }
        let mut can_ask = |servers: &[SocketAddr]| {
            self.ares.set_servers(servers.iter().map(for_ares)).is_ok() && !self.ares.servers().is_empty()
        };
        let left_out = nameservers.iter().find(|&server| !can_ask(std::slice::from_ref(server)));
        can_ask(nameservers);
        left_out
    }

    /// Starts a query. Its end is always a [`Reply`], perhaps before this returns.
    pub fn send(&mut self, name: &str, kind: DnsRecordType, place: Place, number: u32) {
        let basket = self.basket.clone();
        // The whole reply is asked for: the usual calls withhold it when there are no records, and
        // with it how long that holds.
        match query(name, kind) {
            Ok(query) => {
                Errno::clear();
                // Whatever happens, c-ares calls back, so the result says nothing more.
                let _ = self.ares.send_dnsrec(&query, move |reply| {
                    let outcome = match reply {
                        Ok(reply) => reply::read(reply),
                        Err(error) => Outcome::Failed(Failure::new(error, Errno::last())),
                    };
                    basket.put(Reply { place, number, outcome });
                });
            }
            Err(error) => {
                basket.put(Reply { place, number, outcome: Outcome::Failed(Failure::from(error)) });
            }
        }
    }

    /// Reads and writes what is ready, and deals with time-outs unless `partial`: these are not all events that there
    /// are. Descriptors of other channels among the events are skipped.
    pub fn process(&mut self, events: &[FdEvents], partial: bool) {
        Errno::clear();
        let flags = if partial { ProcessFlags::SKIP_NON_FD } else { ProcessFlags::empty() };
        // It fails for lack of memory alone; the queries concerned then end by time-out.
        let _ = self.ares.process_fds(events, flags);
    }

    /// Until [`Channel::process`] has to be called, though nothing may be ready.
    pub fn timeout(&self) -> Option<Duration> {
        self.ares.timeout(None)
    }

    /// True once every query has ended.
    pub fn is_idle(&self) -> bool {
        self.under_way() == 0
    }

    /// Queries that have not ended.
    pub fn under_way(&self) -> usize {
        self.ares.queue_active_queries()
    }

    /// Asks these from now on, in the form that [`Channel::servers`] has.
    pub fn set_servers(&mut self, servers: &[String]) -> io::Result<()> {
        self.ares.set_servers(servers).map(|_| ()).map_err(io::Error::other)
    }

    /// The servers asked, those first that have answered.
    pub fn servers(&self) -> Vec<String> {
        self.ares.servers()
    }
}

/// As c-ares reads it: `IP:PORT`, `[IP]:PORT`, and `[IP]:PORT%INTERFACE`.
fn for_ares(server: &SocketAddr) -> String {
    match server {
        SocketAddr::V6(v6) if v6.scope_id() != 0 => format!("[{}]:{}%{}", v6.ip(), v6.port(), v6.scope_id()),
        server => server.to_string(),
    }
}

fn query(name: &str, kind: DnsRecordType) -> Result<DnsRecord, c_ares::Error> {
    let mut query = DnsRecord::new(0, DnsFlags::RD, DnsOpcode::Query, DnsRcode::NoError)?;
    query.query_add(name, kind, DnsCls::IN)?;
    Ok(query)
}
