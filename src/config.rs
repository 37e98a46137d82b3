//! What the command line asked for, as values that are valid by construction.
//!
//! `cli` builds a [`Config`] once; everybody else only reads it. Nothing here opens, resolves or
//! checks the outside world. Text that ends up in the environment or on the wire is bytes, because
//! an administrator's message need not be UTF-8.

#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::RawFd;
use std::path::PathBuf;
use std::time::Duration;

use crate::addr::{self, Ipv4Form};

/// Everything the daemon runs by.
#[derive(Debug, Clone)]
pub struct Config {
    /// The entries of LIST that are to be bound, in order.
    pub listen: Vec<ListenSpec>,
    /// The entries that stand for sockets of the caller. With `listen` there is at least one.
    pub passed: PassedSockets,
    /// `-listen`: backlog of the listening sockets; none: the system's maximum.
    pub backlog: Option<i32>,
    pub handler: Handler,
    pub access: Access,
    /// `-denymsg`, without the CR LF that is sent after it.
    pub deny_message: Option<Vec<u8>>,
    /// `-drop`: the variables that refuse a connection when set and not empty. Empty: no `-drop`.
    pub drop: Vec<Vec<u8>>,
    pub limits: Limits,
    /// `-haproxy`; none: connections have no PROXY header.
    pub proxy: Option<Proxy>,
    pub lookups: Lookups,
    /// `-allow` and `-block`, in the order of the command line.
    pub lists: Vec<DnsList>,
    /// The zones of `lists`, each once; `DnsList::zone` indexes it.
    pub zones: Vec<Zone>,
    /// `-user` and `-group`, as given: a name or a number.
    pub user: Option<String>,
    pub group: Option<String>,
    /// `-pid`: go to the background and keep this file.
    pub pid_file: Option<PathBuf>,
    /// Where the control socket is; none: there is none.
    pub control: Option<Control>,
    pub stderr: HandlerStderr,
    /// `-stderrlogger`. With `-stderr=socket` it gets the daemon's own messages alone.
    pub logger: Option<LoggerProgram>,
    pub log: LogConfig,
    pub ipv4: Ipv4Form,
}

/// The control socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Control {
    pub path: PathBuf,
    /// `-control` asks for it: without it the daemon does not start. The one that comes with `-pid`
    /// is no reason not to serve.
    pub required: bool,
}

/// One entry of LIST.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenSpec {
    /// None: every address, by an IPv6 wildcard socket and, where needed, an IPv4 one.
    pub address: Option<IpAddr>,
    /// 0: any that is free, which is then told on standard output.
    pub port: u16,
    /// The entry as written, for messages.
    pub text: String,
}

/// Listening sockets that the daemon is started with.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PassedSockets {
    /// `systemd`: those of LISTEN_FDS.
    pub by_manager: bool,
    /// `fd:N`.
    pub descriptors: Vec<RawFd>,
}

/// PROGRAM and its arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handler {
    pub program: OsString,
    pub args: Vec<OsString>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Access {
    /// `-access`.
    pub file: Option<PathBuf>,
    /// `-accesslocal`.
    pub local: bool,
    /// `-accessmissing=allow`: start without rules if the file does not open.
    pub allow_missing: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// `-maxprocs`: connection slots.
    pub max_procs: u32,
    /// `-maxperip`.
    pub max_per_ip: u32,
    /// `-maxperc`; none: no limit beyond `max_procs`.
    pub max_per_block: Option<u32>,
    /// Slots in use from which on a warning is logged.
    pub warn_at: u32,
    /// `-maxpending`; 0: lookups take a slot.
    pub max_pending: u32,
    pub prefix6: Prefix6,
}

/// `-prefix6`: the IPv6 prefix lengths that count as one address and as one block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prefix6 {
    pub address: u8,
    pub block: u8,
}

impl Default for Prefix6 {
    fn default() -> Self {
        Prefix6 { address: 128, block: 120 }
    }
}

/// The block that `-maxperc` counts IPv4 addresses by.
pub const IPV4_BLOCK_PREFIX: u8 = 24;

/// `-haproxy` and `-proxyfrom`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proxy {
    /// At least one; the first that fits a connection counts.
    pub rules: Vec<ProxyRule>,
    /// `-proxyfrom`: whose headers are believed; empty: everybody's.
    pub from: Vec<Network>,
}

/// Connections that begin with a PROXY header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProxyRule {
    /// The most that the header may take.
    pub timeout: Duration,
    /// Where they come to; none: at every address, at every port.
    pub address: Option<IpAddr>,
    pub port: Option<u16>,
}

/// A block of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    /// Its first address, folded.
    pub ip: IpAddr,
    pub prefix: u8,
}

impl Network {
    /// Expects a folded address.
    pub fn contains(&self, ip: IpAddr) -> bool {
        ip.is_ipv4() == self.ip.is_ipv4() && addr::network(ip, self.prefix) == self.ip
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lookups {
    /// Where host names come from.
    pub names: NameSource,
    /// False with `-noidentlookup`.
    pub ident: bool,
    /// `-nameserver`; empty: those of /etc/resolv.conf.
    pub nameservers: Vec<SocketAddr>,
    /// `-lookuptimeout`: the most all lookups of a connection may take.
    pub timeout: Duration,
    /// `-identtimeout`.
    pub ident_timeout: Duration,
    /// `-dnscache`: answers kept; 0: none.
    pub cache_entries: usize,
    pub mismatch: HostMismatch,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameSource {
    /// `-nodnslookup`: no host names.
    Off,
    Dns,
    /// `-resolver=nss:N`: N helper processes ask the name service switch.
    Nss(usize),
}

/// `-hostmismatch`: what to say of a host whose names all lead elsewhere.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum HostMismatch {
    #[default]
    SoftError,
    Unset,
}

/// One `-allow` or `-block`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DnsList {
    pub kind: ListKind,
    /// Index into `Config::zones`.
    pub zone: u16,
    /// DISPLAY, or the zone.
    pub display: String,
    /// VAR.
    pub variable: Vec<u8>,
    /// `/A.B.C.D`: the one A record that is a hit.
    pub expect: Option<Ipv4Addr>,
    pub message: ListMessage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListKind {
    Allow,
    Block,
}

/// The MESSAGE part of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListMessage {
    Absent,
    /// `*`: the TXT record.
    Txt,
    /// As given; may be empty.
    Text(Vec<u8>),
}

impl DnsList {
    /// True if TXT records are asked for: for `-block` if MESSAGE is `*`, for `-allow` if a
    /// MESSAGE is given at all.
    pub fn wants_txt(&self) -> bool {
        match self.kind {
            ListKind::Block => self.message == ListMessage::Txt,
            ListKind::Allow => self.message != ListMessage::Absent,
        }
    }
}

/// A zone that lists are asked from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Zone {
    pub name: String,
    /// `-blockany`: any A record is a listing.
    pub any: bool,
}

/// Where the handler's standard error goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HandlerStderr {
    /// The daemon's own: the caller's in the foreground, /dev/null in the background.
    Inherit,
    /// `-stderr=socket`: the connection.
    Socket,
    /// `-stderr=FILE`.
    File(PathBuf),
    /// `-stderrlogger`: the pipe to the logger.
    Logger,
}

/// `-stderrlogger` and `-stderrloggername`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoggerProgram {
    pub program: OsString,
    /// Its one argument.
    pub name: OsString,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogConfig {
    /// `-syslog[=FACILITY]`: own messages go to syslog in any case.
    pub syslog: Option<Facility>,
    /// `-loglevel`.
    pub level: Level,
}

/// Severities, most severe first (RFC 5424 section 6.2.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Alert,
    Err,
    Warning,
    Notice,
    Info,
    Debug,
}

/// A syslog facility code (RFC 5424 section 6.2.1): 2 is mail, 16 to 23 are local0 to local7.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facility(pub u8);

impl Facility {
    pub const MAIL: Facility = Facility(2);
}
