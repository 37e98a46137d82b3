//! The messages that have a fixed form, one function for each.
//!
//! The first four are the original's, word for word, since log watchers know them. [`connection`]
//! and [`ended`] are read by programs too: `key=value` fields in a fixed order, a text from outside
//! as [`Value`] writes it, `-` where there is none. Fields are only ever added at the end.

#![forbid(unsafe_code)]

use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::unistd::{Pid, Uid};

use super::{Escaped, Kind, Value, enabled, info, limited, limited_by, with};
use crate::addr::{Printed, fold, fold_socket};
use crate::children::End;
use crate::config::Level;
use crate::error::errno_text;
use crate::policy::session::Trouble;

fn printed(ip: IpAddr) -> Printed {
    Printed(fold(ip), with(|log| log.ipv4).unwrap_or_default())
}

/// Every one of the `slots` slots is in use; new connections wait in the backlog.
pub fn all_slots_in_use(slots: u32) {
    limited(Kind::AllSlots, Level::Alert, format_args!("{slots} maximum active connections."));
}

/// `used` slots are in use, and `-warn` says to say so.
pub fn many_slots_in_use(used: u32) {
    limited(Kind::ManySlots, Level::Warning, format_args!("{used} active connections."));
}

/// Refused: `ip` has as many connections as `-maxperip`, or its MAXCPERIP, lets it have.
pub fn per_address_limit(ip: IpAddr) {
    let text = format_args!("Maximum connection limit reached for {}", printed(ip));
    limited_by(Kind::PerAddress, fold(ip), Level::Alert, text);
}

/// Refused: a block has as many connections as `-maxperc` lets it have.
pub fn per_block_limit(network: IpAddr, prefix: u8) {
    let text = format_args!("Maximum connection limit reached for block {}", block(network, prefix));
    limited_by(Kind::PerBlock, fold(network), Level::Alert, text);
}

/// A block as people write it: the `::ffff:` form would need another prefix length.
fn block(network: IpAddr, prefix: u8) -> String {
    format!("{}/{prefix}", fold(network))
}

/// Refused by `-drop`.
pub fn dropped(ip: IpAddr) {
    let text = format_args!("dropped blocked connection from {}", printed(ip));
    limited(Kind::Dropped, Level::Warning, text);
}

/// New connections cannot be taken; the listeners rest for `pause`.
pub fn accept_failed(error: &io::Error, pause: Duration) {
    let text =
        format_args!("cannot accept connections: {}; trying again in {} ms", errno_text(error), pause.as_millis());
    limited(Kind::Accept, Level::Alert, text);
}

/// A connection of `proxy` began with a PROXY header that is broken or late, or with none. It is closed.
pub fn proxy_header_bad(proxy: IpAddr, why: &str) {
    let text = format_args!("PROXY header from {}: {why}; connection closed", printed(proxy));
    limited_by(Kind::Proxy, fold(proxy), Level::Warning, text);
}

/// A connection from somebody whom `-proxyfrom` does not name. It is closed.
pub fn proxy_not_trusted(peer: IpAddr) {
    let text = format_args!("{} may not send PROXY headers (-proxyfrom); connection closed", printed(peer));
    limited_by(Kind::ProxyFrom, fold(peer), Level::Warning, text);
}

/// A connection is closed at once, because the system cannot tell which address it came to.
pub fn local_end_unknown(error: &io::Error) {
    let text = format_args!("a connection is closed, its local address is not to be had: {}", errno_text(error));
    limited(Kind::Accept, Level::Alert, text);
}

/// ident could not be asked, by a shortage here or because it is forbidden.
pub fn ident_not_asked(error: &io::Error) {
    let text = format_args!("cannot ask ident: {}; connections go on without it", errno_text(error));
    limited(Kind::Ident, Level::Warning, text);
}

/// DNS access lists cannot be asked, by a shortage here. The connections concerned wait.
pub fn lists_not_asked(why: &dyn fmt::Display) {
    let text = format_args!("cannot ask DNS access lists: {why}; trying again until -lookuptimeout");
    limited(Kind::ListsNotAsked, Level::Alert, text);
}

/// The name servers of resolv.conf are not to be had, so that those before are asked.
pub fn servers_kept(why: &io::Error) {
    let text = format_args!("cannot set the DNS client up anew: {why}; the name servers stay as they were");
    limited(Kind::Servers, Level::Err, text);
}

/// The same at the start, when there are none before.
pub fn servers_not_read(why: &io::Error) {
    let text = format_args!("cannot ask the name servers: {why}; asking this host");
    limited(Kind::Servers, Level::Err, text);
}

/// PROGRAM could not be started for a connection, which is closed.
pub fn handler_not_started(program: &OsStr, error: &io::Error) {
    let text = format_args!("cannot run {}: {}", Escaped(program.as_bytes()), errno_text(error));
    limited(Kind::Handler, Level::Err, text);
}

/// The access file could not be read for a connection, which is refused.
pub fn access_unreadable(path: &Path, error: impl fmt::Display) {
    let path = Escaped(path.as_os_str().as_bytes());
    limited(Kind::Access, Level::Alert, format_args!("{path}: {error}; connections are refused"));
}

/// The access file could not be read for a connection, and was opened anew at once: that went well.
pub fn access_opened_anew(path: &Path, error: impl fmt::Display) {
    let path = Escaped(path.as_os_str().as_bytes());
    limited(Kind::AccessAnew, Level::Warning, format_args!("{path}: {error}; opened anew"));
}

/// Lookups were cut off by `-lookuptimeout`.
pub fn lookups_late(limit: Duration) {
    let text = format_args!("lookups took longer than {} s; connections go on without them", limit.as_secs());
    limited(Kind::LookupsLate, Level::Warning, text);
}

/// List number `index` of the command line could not be used for a connection.
pub fn list_trouble(index: usize, display: &str, trouble: Trouble) {
    let (index, display) = (index as u16, Escaped(display.as_bytes()));
    match trouble {
        Trouble::Failed => limited_by(
            Kind::ListFailed,
            index,
            Level::Warning,
            format_args!("list {display}: lookup failed; taken as not listed"),
        ),
        Trouble::NoText => limited_by(
            Kind::ListText,
            index,
            Level::Warning,
            format_args!("list {display}: no answer for the text of a listing; taken as listed without"),
        ),
        Trouble::Late => limited_by(
            Kind::ListFailed,
            index,
            Level::Warning,
            format_args!("list {display}: no answer in time; taken as not listed"),
        ),
        Trouble::Unusable(address) => limited_by(
            Kind::ListOdd,
            index,
            Level::Warning,
            format_args!("list {display}: answer {address} is no listing; taken as not listed"),
        ),
    }
}

/// Somebody of this host may not use the control socket.
pub fn control_refused(uid: Uid) {
    limited(Kind::Control, Level::Warning, format_args!("user {uid} may not use the control socket"));
}

/// A helper process of `-resolver=nss` ended by itself. Another takes its place.
pub fn helper_ended(pid: Pid) {
    limited(Kind::Helper, Level::Warning, format_args!("host name helper {pid} ended; replacing it"));
}

/// A helper process of `-resolver=nss` cannot give up what it must not have, and ends for that reason. Another takes
/// its place.
pub fn helper_unfit(pid: Pid, errno: Errno) {
    let text = format_args!("host name helper {pid} cannot give up its rights: {}", errno.desc());
    limited(Kind::Helper, Level::Warning, text);
}

/// A helper process of `-resolver=nss` found no end with `ip`. Another takes its place.
pub fn helper_hung(ip: IpAddr, timeout: Duration) {
    let text = format_args!(
        "host name helper has not found the name of {} in {} s; replacing it",
        printed(ip),
        timeout.as_secs()
    );
    limited(Kind::Helper, Level::Warning, text);
}

/// There is no process for a helper of `-resolver=nss` right now.
pub fn helper_not_started(error: &io::Error) {
    limited(Kind::Helper, Level::Err, format_args!("cannot start a host name helper: {}", errno_text(error)));
}

/// What became of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    Served,
    /// By a rule or a limit.
    Refused,
    /// It should have been served and could not be: a broken header, no process for it.
    Failed,
    /// The client went away before it was decided.
    Gone,
}

impl Decision {
    fn word(self) -> &'static str {
        match self {
            Decision::Served => "served",
            Decision::Refused => "refused",
            Decision::Failed => "failed",
            Decision::Gone => "gone",
        }
    }
}

/// The line of a connection at the time it is decided.
#[derive(Debug, Clone, Copy)]
pub struct Connection<'a> {
    pub remote: SocketAddr,
    pub local: SocketAddr,
    /// What TCPREMOTEHOST says.
    pub host: Option<&'a [u8]>,
    pub decision: Decision,
    /// The rule that decided, as one word: an option's name without its dash, or `proxy`, `spawn`.
    /// None: no rule spoke against it.
    pub by: Option<&'a str>,
    /// What about the rule: the variable of `-drop`, the zone, the error.
    pub detail: Option<&'a [u8]>,
    /// From accept, or the end of the PROXY header, to the decision.
    pub lookups: Duration,
    /// The handler's process.
    pub pid: Option<i32>,
}

/// One line at `info` for each connection.
pub fn connection(c: &Connection<'_>) {
    if !enabled(Level::Info) {
        return;
    }
    let (remote, local) = (fold_socket(c.remote), fold_socket(c.local));
    let pid = c.pid.map(|pid| pid.to_string());
    info(format_args!(
        "connection ip={} port={} local_ip={} local_port={} host={} decision={} by={} detail={} lookup_ms={} pid={}",
        printed(remote.ip()),
        remote.port(),
        printed(local.ip()),
        local.port(),
        Value(c.host),
        c.decision.word(),
        c.by.unwrap_or("-"),
        Value(c.detail),
        c.lookups.as_millis(),
        pid.as_deref().unwrap_or("-"),
    ));
}

/// One line at `info` at the end of each handler.
pub fn ended(remote: SocketAddr, pid: Pid, end: End, lasted: Duration) {
    if !enabled(Level::Info) {
        return;
    }
    let none = || "-".to_owned();
    let exit = if let End::Exit(code) = end { code.to_string() } else { none() };
    let signal = end.signal().unwrap_or_else(none);
    let remote = fold_socket(remote);
    info(format_args!(
        "end ip={} port={} pid={} exit={exit} signal={signal} seconds={}.{:03}",
        printed(remote.ip()),
        remote.port(),
        pid.as_raw(),
        lasted.as_secs(),
        lasted.subsec_millis(),
    ));
}
