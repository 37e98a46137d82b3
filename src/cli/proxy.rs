//! The values of `-haproxy` and `-proxyfrom`.
//!
//! `-haproxy` is a list of `[SECONDS][/port=[ADDRESS.]PORT]`, each as good as an option of its own;
//! `-proxyfrom` one of blocks of addresses, `IP/BITS`, or `IP` alone.

use std::net::IpAddr;
use std::time::Duration;

use super::list::{self, Services};
use super::values::{number, shown, text};
use crate::addr;
use crate::config::{ListenSpec, Network, Proxy, ProxyRule};

/// The longest that a header may be waited for, in seconds.
const LONGEST: u64 = 3600;
const DEFAULT: Duration = Duration::from_secs(15);

/// One element of `-haproxy`, its port still by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RuleOption {
    timeout: Duration,
    /// `[ADDRESS.]PORT`, as in LIST; none: every port.
    place: Option<String>,
}

/// `-haproxy`; nothing is one rule for every port.
pub(super) fn rules(value: &[u8]) -> Result<Vec<RuleOption>, String> {
    let elements = value.split(|&b| b == b',').filter(|element| !element.is_empty());
    let mut rules = elements.map(rule).collect::<Result<Vec<_>, _>>()?;
    if rules.is_empty() {
        rules.push(RuleOption { timeout: DEFAULT, place: None });
    }
    Ok(rules)
}

fn rule(element: &[u8]) -> Result<RuleOption, String> {
    let mut parts = element.split(|&b| b == b'/');
    let timeout = match parts.next().unwrap_or_default() {
        b"" => DEFAULT,
        seconds => {
            let seconds = number(seconds, 1..=LONGEST).map_err(|why| format!("'{}' is {why}", shown(seconds)))?;
            Duration::from_secs(seconds)
        }
    };
    let mut place = None;
    for setting in parts {
        let port = setting.strip_prefix(b"port=").filter(|port| !port.is_empty());
        let port = port.ok_or_else(|| format!("'/{}' is not /port=PORT or /port=ADDRESS.PORT", shown(setting)))?;
        if place.replace(text(port)?.to_owned()).is_some() {
            return Err(format!("'{}' has two ports; separate them by a comma", shown(element)));
        }
    }
    Ok(RuleOption { timeout, place })
}

/// `-proxyfrom`.
pub(super) fn networks(value: &[u8]) -> Result<Vec<Network>, String> {
    let entries = text(value)?.split(',').filter(|entry| !entry.is_empty());
    let networks = entries.map(network).collect::<Result<Vec<_>, _>>()?;
    if networks.is_empty() { Err("no address in it".to_owned()) } else { Ok(networks) }
}

fn network(entry: &str) -> Result<Network, String> {
    let fault = |why: &str| format!("'{}' {why}", shown(entry.as_bytes()));
    let (ip, prefix) = entry.split_once('/').map_or((entry, None), |(ip, prefix)| (ip, Some(prefix)));
    let written: IpAddr = ip.parse().map_err(|_| fault("is no address or block, IP/BITS"))?;
    let longest: u8 = if written.is_ipv4() { 32 } else { 128 };
    let prefix = match prefix {
        None => longest,
        Some(prefix) => {
            number(prefix.as_bytes(), 0..=longest).map_err(|why| fault(&format!("has a length that is {why}")))?
        }
    };
    let ip = addr::fold(written);
    let prefix = match (written.is_ipv4(), ip.is_ipv4()) {
        // A mapped block: the first 96 bits are the mapping.
        (false, true) => prefix.checked_sub(96).ok_or_else(|| fault("holds more than IPv4 addresses"))?,
        _ => prefix,
    };
    if addr::network(ip, prefix) == ip {
        Ok(Network { ip, prefix })
    } else {
        Err(fault("has bits set beyond its length"))
    }
}

/// The finished rules. `listen` are the entries of LIST; none: they are not all known yet.
pub(super) fn finish(
    options: Vec<RuleOption>,
    from: Vec<Network>,
    listen: Option<&[ListenSpec]>,
    services: &Services<'_>,
    warnings: &mut Vec<String>,
) -> Result<Option<Proxy>, String> {
    if options.is_empty() {
        if !from.is_empty() {
            warnings.push("-proxyfrom does nothing without -haproxy".to_owned());
        }
        return Ok(None);
    }
    let mut rules = Vec::with_capacity(options.len());
    for RuleOption { timeout, place } in options {
        let Some(place) = place else {
            rules.push(ProxyRule { timeout, address: None, port: None });
            continue;
        };
        let spec = list::parse_entry(&place, None, services).map_err(|why| format!("-haproxy: {why}"))?;
        if spec.port == 0 {
            return Err(format!("-haproxy: '{}' has no port", shown(place.as_bytes())));
        }
        if listen.is_some_and(|listen| !listen.iter().any(|entry| may_meet(entry, &spec))) {
            warnings.push(format!("-haproxy: LIST has no port '{}'", shown(place.as_bytes())));
        }
        rules.push(ProxyRule { timeout, address: spec.address, port: Some(spec.port) });
    }
    if from.is_empty() {
        warnings.push("-haproxy without -proxyfrom: whoever connects can claim any address".to_owned());
    }
    Ok(Some(Proxy { rules, from }))
}

/// True if a connection to `entry` can be one to `place`.
fn may_meet(entry: &ListenSpec, place: &ListenSpec) -> bool {
    let all = |ip: &Option<IpAddr>| ip.is_none_or(|ip| ip.is_unspecified());
    entry.port == place.port && (all(&entry.address) || all(&place.address) || entry.address == place.address)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn services(name: &str) -> Option<u16> {
        (name == "smtp").then_some(25)
    }

    fn read(values: &[&str]) -> Result<Vec<(u64, Option<IpAddr>, Option<u16>)>, String> {
        let mut options = Vec::new();
        for value in values {
            options.extend(rules(value.as_bytes())?);
        }
        let proxy = finish(options, Vec::new(), None, &services, &mut Vec::new())?.expect("rules were given");
        Ok(proxy.rules.iter().map(|rule| (rule.timeout.as_secs(), rule.address, rule.port)).collect())
    }

    #[test]
    fn rules_have_a_time_and_a_place() {
        let ip = |text: &str| Some(text.parse().unwrap());
        for (values, expected) in [
            (&[""][..], &[(15, None, None)][..]),
            (&[","], &[(15, None, None)]),
            (&["5"], &[(5, None, None)]),
            (&["/port=143"], &[(15, None, Some(143))]),
            (&["5/port=143"], &[(5, None, Some(143))]),
            (&["/port=25,/port=587"], &[(15, None, Some(25)), (15, None, Some(587))]),
            (&["/port=25", "3/port=587"], &[(15, None, Some(25)), (3, None, Some(587))]),
            (&["3/port=127.0.0.1.smtp,9"], &[(3, ip("127.0.0.1"), Some(25)), (9, None, None)]),
            (&["/port=::1.25,/port=[::1]:26"], &[(15, ip("::1"), Some(25)), (15, ip("::1"), Some(26))]),
            (&["/port=0.25"], &[(15, None, Some(25))]),
        ] {
            assert_eq!(read(values).as_deref(), Ok(expected), "{values:?}");
        }
    }

    #[test]
    fn bad_rules_are_named() {
        for (value, why) in [
            ("0", "'0' is not a number from 1 to 3600"),
            ("x", "'x' is not a number from 1 to 3600"),
            ("5s/port=25", "'5s' is not a number"),
            ("5/", "'/' is not /port=PORT"),
            ("5/port=", "'/port=' is not /port=PORT"),
            ("5/prot=25", "'/prot=25' is not /port=PORT"),
            ("/port=25/port=26", "has two ports"),
            ("/port=bogus", "-haproxy: 'bogus' is neither a port nor a known service"),
            ("/port=1.25", "-haproxy: '1' is not an IP address"),
            ("/port=0", "-haproxy: '0' has no port"),
        ] {
            let error = read(&[value]).expect_err(value);
            assert!(error.contains(why), "{value}: {error}");
        }
    }

    #[test]
    fn networks_are_blocks_of_folded_addresses() {
        for (value, expected) in [
            ("192.0.2.0/24,::1", &[("192.0.2.0", 24), ("::1", 128)][..]),
            ("192.0.2.1", &[("192.0.2.1", 32)]),
            ("0.0.0.0/0,::/0", &[("0.0.0.0", 0), ("::", 0)]),
            ("2001:db8::/32,", &[("2001:db8::", 32)]),
            ("::ffff:192.0.2.0/120", &[("192.0.2.0", 24)]),
            ("::ffff:192.0.2.1", &[("192.0.2.1", 32)]),
        ] {
            let expected: Vec<_> =
                expected.iter().map(|&(ip, prefix)| Network { ip: ip.parse().unwrap(), prefix }).collect();
            assert_eq!(networks(value.as_bytes()), Ok(expected), "{value}");
        }
        for (value, why) in [
            ("", "no address in it"),
            (",", "no address in it"),
            ("proxy.example", "'proxy.example' is no address or block"),
            ("192.0.2.0/33", "'192.0.2.0/33' has a length that is not a number from 0 to 32"),
            ("::/129", "not a number from 0 to 128"),
            ("192.0.2.0/", "has a length that is not a number"),
            ("192.0.2.1/24", "'192.0.2.1/24' has bits set beyond its length"),
            ("::ffff:0.0.0.0/95", "holds more than IPv4 addresses"),
        ] {
            let error = networks(value.as_bytes()).expect_err(value);
            assert!(error.contains(why), "{value}: {error}");
        }
    }
}
