//! The table of options, and the help text made of it.
//!
//! A row is all there is to an option: its name, its value, its help, and what it does to the draft.
//! The manual page lists the same options in the same groups; a test compares the two.

use std::fmt::Write as _;
use std::time::Duration;

use super::draft::{Draft, StderrOption, Verb};
use super::{dnslist, proxy, values};
use crate::addr::Ipv4Form;
use crate::config::{HostMismatch, ListKind};
use crate::status::Form;
use crate::table;

/// What follows the name.
#[derive(Debug, Clone, Copy)]
pub(super) enum Takes {
    /// Nothing: a flag.
    Nothing,
    /// `=` and a value, shown as this placeholder.
    Value(&'static str),
    /// The same, and nothing behind `=` is a value too.
    ValueOrEmpty(&'static str),
    /// A value or nothing; an empty one is as none.
    Optional(&'static str),
}

/// What an option does.
pub(super) enum Apply {
    /// Changes the draft by the value, which is empty for a flag, or says why it cannot.
    Set(fn(&mut Draft, &[u8]) -> Result<(), String>),
    /// Makes a text to print; the rest of the command line does not count.
    Print(fn() -> String),
}

/// One option.
pub(super) struct OptionRow {
    /// Without its dash.
    pub name: &'static str,
    pub takes: Takes,
    pub group: Group,
    pub help: &'static str,
    pub apply: Apply,
}

impl OptionRow {
    /// The option as it is to be written: `-pid=FILE`, `-syslog[=FACILITY]`.
    pub fn usage(&self) -> String {
        match self.takes {
            Takes::Nothing => format!("-{}", self.name),
            Takes::Value(value) | Takes::ValueOrEmpty(value) => format!("-{}={value}", self.name),
            Takes::Optional(value) => format!("-{}[={value}]", self.name),
        }
    }
}

/// The headings of the help, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Group {
    Service,
    Access,
    Lists,
    Limits,
    Lookups,
    Output,
    Other,
}

const GROUPS: [(Group, &str); 7] = [
    (Group::Service, "Listening and running"),
    (Group::Access, "Access file"),
    (Group::Lists, "DNS access lists"),
    (Group::Limits, "Limits"),
    (Group::Lookups, "Host names, DNS and ident"),
    (Group::Output, "Standard error and messages"),
    (Group::Other, "Other"),
];

/// The most connections, slots or the like that a limit can name; more is a slip of the finger, or with 32 bits more
/// than there is room for.
const MOST: u32 = if table::MOST < 2_000_000 { table::MOST as u32 / 2 } else { 1_000_000 };
/// The longest time limit, in seconds.
const LONGEST: u64 = 3600;

use Apply::{Print, Set};
use Takes::{Nothing, Optional, Value, ValueOrEmpty};

const fn row(name: &'static str, takes: Takes, group: Group, help: &'static str, apply: Apply) -> OptionRow {
    OptionRow { name, takes, group, help, apply }
}

/// All options, those of a group next to each other, in the order of the help.
#[rustfmt::skip]
pub(super) const OPTIONS: &[OptionRow] = &[
    row("address", Value("IP"), Group::Service,
        "address of the entries of LIST that name none, or 0",
        Set(|draft, value| { draft.address = values::listen_address(value)?; Ok(()) })),
    row("listen", Value("N"), Group::Service,
        "backlog of the listening sockets; default: the system's maximum",
        Set(|draft, value| { draft.backlog = Some(values::number(value, 1..=i32::MAX)?); Ok(()) })),
    row("user", Value("USER"), Group::Service,
        "serve as this user, a name or a number",
        Set(|draft, value| { draft.user = Some(values::text(value)?.to_owned()); Ok(()) })),
    row("group", Value("GROUP"), Group::Service,
        "serve as this group, a name or a number",
        Set(|draft, value| { draft.group = Some(values::text(value)?.to_owned()); Ok(()) })),
    row("pid", Value("FILE"), Group::Service,
        "go to the background and keep the process id in FILE",
        Set(|draft, value| { draft.pid_file = Some(values::path(value)); Ok(()) })),
    row("stop", Nothing, Group::Service,
        "end the daemon that was started with the same -pid",
        Set(|draft, _| draft.set_verb(Verb::Stop))),
    row("restart", Nothing, Group::Service,
        "have the daemon of the same -pid read its files again",
        Set(|draft, _| draft.set_verb(Verb::Restart))),
    row("drain", Optional("SECONDS"), Group::Service,
        "end the daemon of the same -pid or -control when all it has begun is done, or after SECONDS",
        Set(|draft, value| {
            let limit = if value.is_empty() { None } else { Some(values::number(value, 0..=MOST)?) };
            draft.set_verb(Verb::Drain(limit.map(|seconds| Duration::from_secs(seconds.into()))))
        })),
    row("upgrade", Nothing, Group::Service,
        "have the daemon of the same -pid or -control run its program anew, losing nobody",
        Set(|draft, _| draft.set_verb(Verb::Upgrade))),
    row("control", Value("SOCKET"), Group::Service,
        "where the daemon can be asked for its status; default with -pid: FILE.ctl",
        Set(|draft, value| { draft.control = Some(values::path(value)); Ok(()) })),
    row("status", Optional("text|json|prometheus"), Group::Service,
        "print how the daemon of the same -pid or -control does",
        Set(|draft, value| {
            let form = if value.is_empty() { Form::Text } else { Form::from_name(value).ok_or("not text, json or prometheus")? };
            draft.set_verb(Verb::Status(form))
        })),
    row("explain", Value("IP[:PORT][,LOCALIP:PORT]"), Group::Service,
        "say what would become of a connection from there, step by step, and serve nobody",
        Set(|draft, value| { draft.explain = Some(values::explain(value)?); Ok(()) })),
    row("haproxy", Optional("[SECONDS][/port=[ADDRESS.]PORT],..."), Group::Service,
        "connections begin with a PROXY protocol header, which may take SECONDS; default 15, at every port",
        Set(|draft, value| { draft.proxy.extend(proxy::rules(value)?); Ok(()) })),
    row("proxyfrom", Value("IP[/BITS],..."), Group::Service,
        "proxies whose header is believed; others are refused",
        Set(|draft, value| { draft.proxy_from.extend(proxy::networks(value)?); Ok(()) })),

    row("access", Value("FILE"), Group::Access,
        "GDBM file that says who is served, and with which variables",
        Set(|draft, value| { draft.access.file = Some(values::path(value)); Ok(()) })),
    row("accesslocal", Nothing, Group::Access,
        "look up the local address and port in it, too",
        Set(|draft, _| { draft.access.local = true; Ok(()) })),
    row("accessmissing", Value("refuse|allow"), Group::Access,
        "whether to start if FILE cannot be used; default refuse; allow serves everybody then",
        Set(|draft, value| {
            draft.access.allow_missing = values::choice(value, [("refuse", false), ("allow", true)])?;
            Ok(())
        })),
    row("denymsg", ValueOrEmpty("TEXT"), Group::Access,
        "line for clients refused by the access file or by -drop",
        Set(|draft, value| { draft.deny_message = Some(value.to_vec()); Ok(()) })),

    row("block", Value("ZONE[=DISPLAY][,VAR][/A.B.C.D][,MESSAGE]"), Group::Lists,
        "set VAR, default BLOCK, to MESSAGE for clients that this DNS list has; MESSAGE * is its TXT record",
        Set(|draft, value| { draft.lists.push(dnslist::parse(ListKind::Block, value)?); Ok(()) })),
    row("allow", Value("ZONE[=DISPLAY][,VAR][/A.B.C.D][,MESSAGE]"), Group::Lists,
        "set VAR to nothing for clients that this DNS list has, which keeps later lists from setting it",
        Set(|draft, value| { draft.lists.push(dnslist::parse(ListKind::Allow, value)?); Ok(()) })),
    row("drop", Optional("VAR,..."), Group::Lists,
        "refuse clients for whom a VAR, default BLOCK, is set and not empty",
        Set(|draft, value| { draft.drop = values::variables(value)?; Ok(()) })),
    row("blockany", Value("ZONE"), Group::Lists,
        "take every A record of this zone as a listing",
        Set(|draft, value| { draft.any_zones.push(dnslist::zone_name(value)?.to_owned()); Ok(()) })),

    row("maxprocs", Value("N"), Group::Limits,
        "connections served at a time; default 40",
        Set(|draft, value| { draft.max_procs = values::number(value, 1..=MOST)?; Ok(()) })),
    row("maxperip", Value("N"), Group::Limits,
        "connections from one address; default 4",
        Set(|draft, value| { draft.max_per_ip = values::number(value, 1..=MOST)?; Ok(()) })),
    row("maxperc", Value("N"), Group::Limits,
        "connections from one block of addresses, an IPv4 /24; default: no limit",
        Set(|draft, value| { draft.max_per_block = Some(values::number(value, 1..=MOST)?); Ok(()) })),
    row("prefix6", Value("IP/BLOCK"), Group::Limits,
        "IPv6 prefix lengths that count as an address and as a block; default 128/120",
        Set(|draft, value| { draft.prefix6 = values::prefix6(value)?; Ok(()) })),
    row("warn", Value("N"), Group::Limits,
        "warn from N connections on; default: near -maxprocs",
        Set(|draft, value| { draft.warn_at = values::warning_level(value)?; Ok(()) })),
    row("maxpending", Value("N"), Group::Limits,
        "connections that wait for lookups without counting for -maxprocs; default 0: they do count",
        Set(|draft, value| { draft.max_pending = values::number(value, 0..=MOST)?; Ok(()) })),

    row("nodnslookup", Nothing, Group::Lookups,
        "look up no host names",
        Set(|draft, _| { draft.host_names = false; Ok(()) })),
    row("noidentlookup", Nothing, Group::Lookups,
        "ask no ident server",
        Set(|draft, _| { draft.ident = false; Ok(()) })),
    row("resolver", Value("dns|nss[:N]"), Group::Lookups,
        "where host names come from: DNS, or N helper processes that ask the name service switch; default dns",
        Set(|draft, value| { draft.resolver = values::name_source(value)?; Ok(()) })),
    row("hostmismatch", Value("softdnserr|unset"), Group::Lookups,
        "TCPREMOTEHOST for a host whose names lead elsewhere; default softdnserr",
        Set(|draft, value| {
            let choices = [("softdnserr", HostMismatch::SoftError), ("unset", HostMismatch::Unset)];
            draft.mismatch = values::choice(value, choices)?;
            Ok(())
        })),
    row("nameserver", Value("IP[:PORT],..."), Group::Lookups,
        "name servers to ask instead of those of /etc/resolv.conf",
        Set(|draft, value| { draft.nameservers = values::nameservers(value)?; Ok(()) })),
    row("lookuptimeout", Value("SEC"), Group::Lookups,
        "the most that all lookups of a connection may take; default 30",
        Set(|draft, value| {
            draft.lookup_timeout = Duration::from_secs(values::number(value, 1..=LONGEST)?);
            Ok(())
        })),
    row("identtimeout", Value("SEC"), Group::Lookups,
        "the most that ident may take; default 10",
        Set(|draft, value| {
            draft.ident_timeout = Some(Duration::from_secs(values::number(value, 1..=LONGEST)?));
            Ok(())
        })),
    row("dnscache", Value("N"), Group::Lookups,
        "DNS answers kept; default 1000, 0 keeps none",
        Set(|draft, value| { draft.cache_entries = Some(values::number(value, 0..=MOST as usize)?); Ok(()) })),

    row("stderr", Value("socket|FILE"), Group::Output,
        "standard error of PROGRAM: the connection, or a file appended to",
        Set(|draft, value| {
            draft.stderr =
                Some(if value == b"socket" { StderrOption::Socket } else { StderrOption::File(values::path(value)) });
            Ok(())
        })),
    row("stderrlogger", Value("PROG"), Group::Output,
        "it is a pipe to one PROG for all connections",
        Set(|draft, value| { draft.logger = Some(values::os(value)); Ok(()) })),
    row("stderrloggername", ValueOrEmpty("NAME"), Group::Output,
        "the argument of PROG; default: the last path part of PROGRAM",
        Set(|draft, value| { draft.logger_name = values::os(value); Ok(()) })),
    row("syslog", Optional("FACILITY"), Group::Output,
        "own messages go to syslog in any case; default facility mail",
        Set(|draft, value| { draft.log.syslog = Some(values::facility(value)?); Ok(()) })),
    row("loglevel", Value("LEVEL"), Group::Output,
        "debug, info, notice, warning or err; default notice; info has a line for each connection",
        Set(|draft, value| { draft.log.level = values::level(value)?; Ok(()) })),

    row("ipv4", Value("mapped|plain"), Group::Other,
        "write IPv4 addresses as ::ffff:192.0.2.1, the default, or as 192.0.2.1",
        Set(|draft, value| {
            draft.ipv4 = values::choice(value, [("mapped", Ipv4Form::Mapped), ("plain", Ipv4Form::Plain)])?;
            Ok(())
        })),
    row("help", Nothing, Group::Other, "print this text", Print(help)),
    row("version", Nothing, Group::Other, "print the version", Print(version)),
];

fn version() -> String {
    format!("couriertcpd {}\n", env!("CARGO_PKG_VERSION"))
}

/// Columns of a line of the help.
const WIDTH: usize = 80;
/// The column at which the explanations begin.
const INDENT: usize = 26;

fn help() -> String {
    let mut text = "\
Usage: couriertcpd [-pid=FILE] [OPTION...] LIST PROGRAM [ARG...]
       couriertcpd -pid=FILE -stop
       couriertcpd -pid=FILE -restart
       couriertcpd -pid=FILE -drain[=SECONDS]
       couriertcpd -pid=FILE -upgrade
       couriertcpd -pid=FILE -status[=text|json|prometheus]
       couriertcpd [OPTION...] -explain=IP[:PORT][,LOCALIP:PORT] LIST PROGRAM

Listens on the ports of LIST and runs PROGRAM for each connection that it
serves, with the connection as standard input and output.

LIST is PORT, ADDRESS.PORT, ADDRESS:PORT or [IPV6]:PORT, several separated by
commas; PORT is a number or the name of a service, or 0 for any that is free.
Sockets that listen already are systemd, those of a service manager, and fd:N.

The value of an option stands after =, in the same word. The first word that is
no option ends them.
"
    .to_owned();
    for (group, heading) in GROUPS {
        // Writing to a String cannot fail, so the results carry nothing.
        let _ = write!(text, "\n{heading}:\n");
        for row in OPTIONS.iter().filter(|row| row.group == group) {
            explain(&row.usage(), row.help, &mut text);
        }
    }
    text.push_str("\nThe manual page, couriertcpd(8), has the details.\n");
    text
}

/// Adds an option and its explanation in two columns.
fn explain(usage: &str, explanation: &str, text: &mut String) {
    let mut line = format!("  {usage}");
    if line.len() + 2 > INDENT {
        text.push_str(&line);
        text.push('\n');
        line.clear();
    }
    for word in explanation.split(' ') {
        if line.len() > INDENT && line.len() + 1 + word.len() > WIDTH {
            text.push_str(&line);
            text.push('\n');
            line.clear();
        }
        if line.len() < INDENT {
            line.push_str(&" ".repeat(INDENT - line.len()));
        } else {
            line.push(' ');
        }
        line.push_str(word);
    }
    text.push_str(&line);
    text.push('\n');
}
