//! Configurations and answers for the tests of the pure rooms.

#![cfg_attr(fuzzing, allow(dead_code, reason = "fuzzers need the configuration alone"))]

use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use crate::addr::Ipv4Form;
use crate::config::*;
use crate::policy::question::{Answer, Records};

/// A configuration without lookups, lists or limits that matter.
pub fn config() -> Config {
    Config {
        listen: vec![ListenSpec { address: None, port: 25, text: "25".into() }],
        passed: PassedSockets::default(),
        backlog: None,
        handler: Handler { program: "/bin/true".into(), args: Vec::new() },
        access: Access::default(),
        deny_message: None,
        drop: Vec::new(),
        limits: Limits {
            max_procs: 40,
            max_per_ip: 4,
            max_per_block: None,
            warn_at: 35,
            max_pending: 0,
            prefix6: Prefix6::default(),
        },
        proxy: None,
        lookups: Lookups {
            names: NameSource::Off,
            ident: false,
            nameservers: Vec::new(),
            timeout: Duration::from_secs(30),
            ident_timeout: Duration::from_secs(10),
            cache_entries: 1000,
            mismatch: HostMismatch::default(),
        },
        lists: Vec::new(),
        zones: Vec::new(),
        user: None,
        group: None,
        pid_file: None,
        control: None,
        stderr: HandlerStderr::Inherit,
        logger: None,
        log: LogConfig { syslog: None, level: Level::Notice },
        ipv4: Ipv4Form::Plain,
    }
}

/// Adds a list to `config`; `message` as on the command line, None for none.
pub fn add_list(config: &mut Config, kind: ListKind, zone: &str, variable: &str, message: Option<&str>) {
    let index = config.zones.iter().position(|z| z.name == zone).unwrap_or_else(|| {
        config.zones.push(Zone { name: zone.into(), any: false });
        config.zones.len() - 1
    });
    config.lists.push(DnsList {
        kind,
        zone: index as u16,
        display: zone.to_uppercase(),
        variable: variable.into(),
        expect: None,
        message: match message {
            None => ListMessage::Absent,
            Some("*") => ListMessage::Txt,
            Some(text) => ListMessage::Text(text.into()),
        },
    });
}

pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub fn addresses(list: &[&str]) -> Answer {
    Answer::Found(Rc::new(Records::Addresses(list.iter().map(|a| ip(a)).collect())))
}

pub fn names(list: &[&str]) -> Answer {
    Answer::Found(Rc::new(Records::Names(list.iter().map(|&n| n.into()).collect())))
}

pub fn text(text: &str) -> Answer {
    Answer::Found(Rc::new(Records::Text(text.as_bytes().into())))
}
