//! A configuration in the making: what the options have said so far, with the defaults of the rest.
//!
//! The rows of `options` fill a [`Draft`] in the order of the command line; [`Draft::finish`] adds
//! LIST and PROGRAM, derives what depends on several options, and says what is missing.

use std::ffi::OsString;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::Duration;

use super::dnslist::ListOption;
use super::{Action, Explain, Parsed, Place, list, proxy, values};
use crate::addr::Ipv4Form;
use crate::config::{
    Access, Config, Control, DnsList, Handler, HandlerStderr, HostMismatch, Level, Limits, LogConfig, LoggerProgram,
    Lookups, NameSource, Network, Prefix6, Zone,
};
use crate::control;
use crate::status::Form;

/// What to do instead of serving.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verb {
    Stop,
    Restart,
    Status(Form),
    Drain(Option<Duration>),
    Upgrade,
}

impl Verb {
    fn option(self) -> &'static str {
        match self {
            Verb::Stop => "stop",
            Verb::Restart => "restart",
            Verb::Status(_) => "status",
            Verb::Drain(_) => "drain",
            Verb::Upgrade => "upgrade",
        }
    }
}

/// `-stderr`.
#[derive(Debug)]
pub(super) enum StderrOption {
    Socket,
    File(PathBuf),
}

/// Where no meaning is given, it is that of the field of the same name in `config`.
#[derive(Debug)]
pub(super) struct Draft {
    /// `-address`.
    pub address: Option<IpAddr>,
    pub backlog: Option<i32>,
    pub user: Option<String>,
    pub group: Option<String>,
    pub pid_file: Option<PathBuf>,
    pub verb: Option<Verb>,
    /// `-haproxy`.
    pub proxy: Vec<proxy::RuleOption>,
    /// `-proxyfrom`.
    pub proxy_from: Vec<Network>,
    /// `-explain`.
    pub explain: Option<Explain>,
    /// `-control`.
    pub control: Option<PathBuf>,
    pub access: Access,
    pub deny_message: Option<Vec<u8>>,
    pub drop: Vec<Vec<u8>>,
    pub lists: Vec<ListOption>,
    /// `-blockany`, each as given.
    pub any_zones: Vec<String>,
    pub max_procs: u32,
    pub max_per_ip: u32,
    pub max_per_block: Option<u32>,
    /// `-warn`; none: the default, which depends on `max_procs`.
    pub warn_at: Option<u32>,
    pub max_pending: u32,
    pub prefix6: Prefix6,
    /// False with `-nodnslookup`.
    pub host_names: bool,
    /// `-resolver`.
    pub resolver: NameSource,
    pub ident: bool,
    pub nameservers: Vec<SocketAddr>,
    pub lookup_timeout: Duration,
    pub ident_timeout: Option<Duration>,
    pub cache_entries: Option<usize>,
    pub mismatch: HostMismatch,
    pub stderr: Option<StderrOption>,
    /// `-stderrlogger`.
    pub logger: Option<OsString>,
    /// `-stderrloggername`; empty: the default, which depends on PROGRAM.
    pub logger_name: OsString,
    pub log: LogConfig,
    pub ipv4: Ipv4Form,
}

impl Default for Draft {
    fn default() -> Self {
        Draft {
            address: None,
            backlog: None,
            user: None,
            group: None,
            pid_file: None,
            verb: None,
            proxy: Vec::new(),
            proxy_from: Vec::new(),
            explain: None,
            control: None,
            access: Access::default(),
            deny_message: None,
            drop: Vec::new(),
            lists: Vec::new(),
            any_zones: Vec::new(),
            max_procs: 40,
            max_per_ip: 4,
            max_per_block: None,
            warn_at: None,
            max_pending: 0,
            prefix6: Prefix6::default(),
            host_names: true,
            resolver: NameSource::Dns,
            ident: true,
            nameservers: Vec::new(),
            lookup_timeout: Duration::from_secs(30),
            ident_timeout: None,
            cache_entries: None,
            mismatch: HostMismatch::default(),
            stderr: None,
            logger: None,
            logger_name: OsString::new(),
            log: LogConfig { syslog: None, level: Level::Notice },
            ipv4: Ipv4Form::default(),
        }
    }
}

impl Draft {
    /// Sets the verb; there can be only one kind.
    pub fn set_verb(&mut self, verb: Verb) -> Result<(), String> {
        match self.verb.replace(verb) {
            Some(other) if other.option() != verb.option() => {
                Err(format!("cannot be given together with -{}", other.option()))
            }
            _ => Ok(()),
        }
    }

    /// The outcome, with LIST and PROGRAM and its arguments in `words`.
    pub fn finish(self, words: Vec<OsString>, services: &list::Services<'_>) -> Result<Parsed, String> {
        let mut warnings = Vec::new();
        let action = match (self.verb, &self.pid_file) {
            (Some(verb), _) if self.explain.is_some() => {
                return Err(format!("option -explain cannot be given together with -{}", verb.option()));
            }
            (None, _) => {
                let explain = self.explain;
                let config = Box::new(self.config(words, services, &mut warnings)?);
                match explain {
                    None => Action::Run(config),
                    Some(explain) => Action::Explain(config, explain),
                }
            }
            (Some(verb @ (Verb::Status(_) | Verb::Drain(_) | Verb::Upgrade)), _) => {
                let Some(control) = self.control_path() else {
                    return Err(format!("option -{} needs -pid=FILE or -control=SOCKET", verb.option()));
                };
                match verb {
                    Verb::Status(form) => Action::Status(control, form),
                    Verb::Drain(limit) => Action::Drain(Place { control, pid_file: self.pid_file }, limit),
                    Verb::Upgrade => Action::Upgrade(Place { control, pid_file: self.pid_file }),
                    Verb::Stop | Verb::Restart => unreachable!("not matched above"),
                }
            }
            (Some(verb), None) => return Err(format!("option -{} needs -pid=FILE", verb.option())),
            (Some(Verb::Stop), Some(file)) => Action::Stop(file.clone()),
            (Some(Verb::Restart), Some(file)) => Action::Restart(file.clone()),
        };
        Ok(Parsed { action, warnings })
    }

    /// Where the control socket is, by `-control` or beside the pid file.
    fn control_path(&self) -> Option<PathBuf> {
        self.control.clone().or_else(|| self.pid_file.as_deref().map(control::default_path))
    }

    /// Options that others leave without effect. The original takes most of such lines without a word, so
    /// none of them may be an error.
    fn warn_of_what_does_nothing(&self, warnings: &mut Vec<String>) {
        let names = if self.host_names { self.resolver } else { NameSource::Off };
        let no_dns = if self.host_names { "with -resolver=nss" } else { "with -nodnslookup" };
        let no_dns = format!("{no_dns} and without -block and -allow");
        let asks_no_dns = names != NameSource::Dns && self.lists.is_empty();
        // What the name service switch finds is kept, too.
        let keeps_nothing = names == NameSource::Off && self.lists.is_empty();
        for (given, option, why) in [
            (self.access.local && self.access.file.is_none(), "accesslocal", "without -access"),
            (!self.logger_name.is_empty() && self.logger.is_none(), "stderrloggername", "without -stderrlogger"),
            (!self.nameservers.is_empty() && asks_no_dns, "nameserver", &no_dns),
            (self.cache_entries.is_some() && keeps_nothing, "dnscache", &no_dns),
            (self.ident_timeout.is_some() && !self.ident, "identtimeout", "with -noidentlookup"),
        ] {
            if given {
                warnings.push(format!("-{option} does nothing {why}"));
            }
        }
    }

    fn config(
        self,
        words: Vec<OsString>,
        services: &list::Services<'_>,
        warnings: &mut Vec<String>,
    ) -> Result<Config, String> {
        let mut words = words.into_iter();
        let Some(list_text) = words.next() else {
            return Err("LIST and PROGRAM are missing (see -help)".to_owned());
        };
        let list = list::parse(list_text.as_bytes(), self.address, services)?;
        let Some(program) = words.next().filter(|program| !program.is_empty()) else {
            return Err(format!("PROGRAM is missing after LIST '{}' (see -help)", values::shown(list_text.as_bytes())));
        };
        self.warn_of_what_does_nothing(warnings);
        let control = self.control_path().map(|path| Control { path, required: self.control.is_some() });
        let known_ports = list.has_all_ports().then_some(list.listen.as_slice());
        let proxy = proxy::finish(self.proxy, self.proxy_from, known_ports, services, warnings)?;
        let (lists, zones) = share_zones(self.lists, &self.any_zones, warnings)?;
        let logger_name = if self.logger_name.is_empty() { last_part(&program) } else { self.logger_name };
        let logger = self.logger.map(|program| LoggerProgram { program, name: logger_name });
        let stderr = match (self.stderr, &logger) {
            (Some(StderrOption::Socket), _) => HandlerStderr::Socket,
            (_, Some(_)) => HandlerStderr::Logger,
            (Some(StderrOption::File(file)), None) => HandlerStderr::File(file),
            (None, None) => HandlerStderr::Inherit,
        };
        Ok(Config {
            listen: list.listen,
            passed: list.passed,
            backlog: self.backlog,
            handler: Handler { program, args: words.collect() },
            access: self.access,
            deny_message: self.deny_message,
            drop: self.drop,
            limits: Limits {
                max_procs: self.max_procs,
                max_per_ip: self.max_per_ip,
                max_per_block: self.max_per_block,
                warn_at: self
                    .warn_at
                    .filter(|&n| n <= self.max_procs)
                    .unwrap_or_else(|| default_warning_level(self.max_procs)),
                max_pending: self.max_pending,
                prefix6: self.prefix6,
            },
            proxy,
            lookups: Lookups {
                names: if self.host_names { self.resolver } else { NameSource::Off },
                ident: self.ident,
                nameservers: self.nameservers,
                timeout: self.lookup_timeout,
                ident_timeout: self.ident_timeout.unwrap_or(Duration::from_secs(10)),
                cache_entries: self.cache_entries.unwrap_or(1000),
                mismatch: self.mismatch,
            },
            lists,
            zones,
            user: self.user,
            group: self.group,
            pid_file: self.pid_file,
            control,
            stderr,
            logger,
            log: self.log,
            ipv4: self.ipv4,
        })
    }
}

/// A tenth, and one more slot, are the reserve.
fn default_warning_level(max_procs: u32) -> u32 {
    max_procs - (max_procs / 10 + 1)
}

/// The last part of a path, as the reference cuts it: what follows the last slash.
fn last_part(path: &OsString) -> OsString {
    let bytes = path.as_bytes();
    values::os(bytes.rsplit(|&b| b == b'/').next().unwrap_or(bytes))
}

/// Keeps each zone once, whatever the case of its letters, and marks those of `-blockany`.
fn share_zones(
    options: Vec<ListOption>,
    any_zones: &[String],
    warnings: &mut Vec<String>,
) -> Result<(Vec<DnsList>, Vec<Zone>), String> {
    let mut zones: Vec<Zone> = Vec::new();
    let mut lists = Vec::with_capacity(options.len());
    for list in options {
        let known = zones.iter().position(|zone| zone.name.eq_ignore_ascii_case(&list.zone));
        let index = known.unwrap_or_else(|| {
            zones.push(Zone { name: list.zone, any: false });
            zones.len() - 1
        });
        lists.push(DnsList {
            kind: list.kind,
            zone: u16::try_from(index).map_err(|_| "more DNS lists than can be asked".to_owned())?,
            display: list.display,
            variable: list.variable,
            expect: list.expect,
            message: list.message,
        });
    }
    for name in any_zones {
        match zones.iter_mut().find(|zone| zone.name.eq_ignore_ascii_case(name)) {
            Some(zone) => zone.any = true,
            None => warnings.push(format!("-blockany={name}: no -block or -allow asks this zone")),
        }
    }
    Ok((lists, zones))
}
