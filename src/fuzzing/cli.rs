//! The command line: LIST, `-block` and `-allow`, and whole vectors of options.

#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use super::Input;
use crate::cli::{self, Action, Parsed};
use crate::config::{Config, ListKind, ListMessage};
use crate::error::StartError;

/// No argument can hold a NUL.
fn until_nul(data: &[u8]) -> &[u8] {
    data.split(|&b| b == 0).next().unwrap_or_default()
}

/// One error is one line, whatever was given.
fn check_error(error: &StartError) {
    let line = error.to_string();
    assert!(!line.is_empty() && !line.contains(char::is_control), "{line:?}");
}

fn parse(arguments: Vec<Vec<u8>>) -> Result<Parsed, StartError> {
    let parsed = cli::parse(arguments.into_iter().map(OsString::from_vec));
    match &parsed {
        Err(error) => check_error(error),
        Ok(Parsed { action, warnings }) => {
            assert!(warnings.iter().all(|line| !line.contains(char::is_control)), "{warnings:?}");
            if let Action::Run(config) = action {
                check(config);
            }
        }
    }
    parsed
}

/// What everybody relies on who reads a configuration.
fn check(config: &Config) {
    let passed = &config.passed;
    assert!(!config.listen.is_empty() || passed.by_manager || !passed.descriptors.is_empty());
    assert!(passed.descriptors.iter().all(|number| *number == 0 || *number > 2));
    assert!(config.listen.iter().all(|spec| spec.port != 0 || spec.text.ends_with('0')));
    let limits = &config.limits;
    assert!(limits.max_procs > 0 && limits.max_per_ip > 0 && limits.max_per_block != Some(0));
    assert!(limits.prefix6.address <= 128 && limits.prefix6.block <= 128);
    assert!(limits.prefix6.block <= limits.prefix6.address, "a block holds its addresses");
    for list in &config.lists {
        let zone = &config.zones[usize::from(list.zone)].name;
        assert!(!zone.is_empty() && zone.len() <= 253 - 64);
        assert!(!list.variable.is_empty() && !list.variable.contains(&b'='));
        assert!(list.message != ListMessage::Text(b"*".to_vec()), "that is the TXT record");
    }
    let mut zones: Vec<_> = config.zones.iter().map(|zone| &zone.name).collect();
    zones.sort();
    zones.dedup();
    assert_eq!(zones.len(), config.zones.len(), "each zone once");
    assert!(config.drop.iter().all(|variable| !variable.is_empty() && !variable.contains(&b'=')));
    assert!(config.lookups.nameservers.iter().all(|server| server.port() != 0));
    assert!(!config.handler.program.is_empty());
}

/// The value of `-block` or `-allow`.
pub fn dnslist(data: &[u8]) {
    let value = until_nul(data);
    for (kind, option) in [(ListKind::Block, &b"-block="[..]), (ListKind::Allow, b"-allow=")] {
        let argument = [option, value].concat();
        let parsed = parse(vec![argument.clone(), b"25".to_vec(), b"/bin/true".to_vec()]);
        let Ok(Parsed { action: Action::Run(config), .. }) = parsed else { continue };
        assert_eq!((config.lists.len(), config.lists[0].kind), (1, kind));
        if config.lists[0].expect.is_none() && !value.contains(&b'/') {
            // MESSAGE is all after the second comma, byte by byte.
            let mut parts = value.splitn(3, |&b| b == b',');
            let message = parts.nth(2);
            match &config.lists[0].message {
                ListMessage::Absent => assert_eq!(message, None),
                ListMessage::Txt => assert_eq!(message, Some(&b"*"[..])),
                ListMessage::Text(text) => assert_eq!(message, Some(text.as_slice())),
            }
        }
        // Given twice, it is there twice and its zone once.
        let Ok(Parsed { action: Action::Run(twice), .. }) =
            parse(vec![argument.clone(), argument, b"25".to_vec(), b"/bin/true".to_vec()])
        else {
            panic!("good once, bad twice")
        };
        assert_eq!((twice.lists.len(), twice.zones.len()), (2, 1));
    }
}

/// LIST.
pub fn list(data: &[u8]) {
    let mut input = Input(data);
    let default = input.one_of(&["-address=0", "-address=192.0.2.1", "-address=::1", "-address=::ffff:192.0.2.1"]);
    let list = until_nul(input.rest());
    if list.starts_with(b"-") {
        return;
    }
    let Ok(Parsed { action, .. }) = parse(vec![default.into(), list.to_vec(), b"/bin/true".to_vec()]) else { return };
    let Action::Run(config) = action else { panic!("{action:?}") };
    let entries: Vec<_> = list.split(|&b| b == b',').filter(|entry| !entry.is_empty()).collect();
    let bound: Vec<_> = entries.iter().filter(|e| **e != b"systemd" && !e.starts_with(b"fd:")).collect();
    assert_eq!(config.listen.len(), bound.len());
    for (spec, entry) in config.listen.iter().zip(bound) {
        assert_eq!(spec.text.as_bytes(), *entry);
        assert!(spec.address.is_none_or(|ip| ip == crate::addr::fold(ip)), "folded");
    }
}

/// All arguments, each ended by a NUL.
pub fn options(data: &[u8]) {
    let arguments: Vec<Vec<u8>> = data.split(|&b| b == 0).map(<[u8]>::to_vec).collect();
    let last = arguments.last().cloned();
    if let Ok(Parsed { action: Action::Run(config), .. }) = parse(arguments) {
        // What belongs to the program arrives as it was given.
        let handler = &config.handler;
        let given = handler.args.last().unwrap_or(&handler.program);
        assert_eq!(Some(given.clone().into_vec()), last);
    }
}
