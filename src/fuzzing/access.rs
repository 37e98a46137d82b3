//! Records of the access file, the keys it is asked by, and the text it is made from.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use super::Input;
use crate::access_tool::problem::Problems;
use crate::access_tool::record;
use crate::access_tool::source::Rules;
use crate::access_tool::table::Table;
use crate::addr;
use crate::policy::access::{Access, End, Keys, Lookup, Record, decide, find};
use crate::policy::env::{Base, Delta};

#[derive(Default)]
struct Map(HashMap<Vec<u8>, Vec<u8>>);

impl Lookup for Map {
    type Error = Infallible;

    fn fetch(&mut self, key: &[u8]) -> Result<Option<Vec<u8>>, Infallible> {
        Ok(self.0.get(key).cloned())
    }
}

/// An address, and records under some of its keys: the most specific one decides.
pub fn record_and_keys(data: &[u8]) {
    let mut input = Input(data);
    let (remote, local) = (input.ip(), SocketAddr::new(input.ip(), input.word()));
    let present = input.word();
    let value = input.rest();

    let remote_keys = keys(remote, None);
    let local_keys = keys(local.ip(), Some(local.port()));
    assert_eq!(walk(Keys::remote(remote)), remote_keys);
    assert_eq!(walk(Keys::local(local)), local_keys);

    let mut map = Map::default();
    for (i, key) in remote_keys.iter().chain(&local_keys).enumerate() {
        if present >> (i % 16) & 1 == 1 {
            map.0.insert(key.clone().into_bytes(), if i % 3 == 0 { b"allow,A=1".to_vec() } else { value.to_vec() });
        }
    }
    let stored = |map: &Map, keys: &[String]| keys.iter().find_map(|k| map.0.get(k.as_bytes()).cloned());
    let expected = [(End::Local, stored(&map, &local_keys)), (End::Remote, stored(&map, &remote_keys))]
        .into_iter()
        .find(|(_, value)| value.as_ref().is_some_and(|v| v.len() >= 4 && v[..4].eq_ignore_ascii_case(b"deny")));
    let mut delta = Delta::default();
    let Ok(decision) = decide(&mut map, remote, Some(local), &mut delta);
    assert_eq!(decision, expected.map_or(Access::Admitted, |(end, _)| Access::Refused(end)));
    // What exec gets is made of NAME=VALUE, each name once.
    let base = Base::new([("A", "inherited"), ("PATH", "/bin")]);
    let mut names: Vec<_> = delta
        .envp(&base)
        .map(|text| text.to_bytes().split(|&b| b == b'=').next().unwrap_or_default().to_vec())
        .collect();
    let count = names.len();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), count);
    assert!(names.iter().all(|name| !name.is_empty()));

    same_after_writing_back(value);
}

fn walk(mut keys: Keys) -> Vec<String> {
    std::iter::from_fn(|| keys.next_key().map(str::to_owned)).collect()
}

/// The keys by the contract's words, without a look at the walker.
fn keys(ip: IpAddr, port: Option<u16>) -> Vec<String> {
    let parts: Vec<String> = match addr::fold(ip) {
        IpAddr::V4(ip) => ip.octets().iter().map(u8::to_string).collect(),
        IpAddr::V6(ip) => ip.segments().iter().map(|word| format!(":{word:04x}")).collect(),
    };
    let separator = if addr::fold(ip).is_ipv4() { "." } else { "" };
    let mut keys: Vec<String> = port.map(|port| format!("{}.{port}", parts.join(separator))).into_iter().collect();
    keys.extend((1..=parts.len()).rev().map(|n| parts[..n].join(separator)));
    keys.extend(port.map(|port| format!("*.{port}")));
    keys.push("*".to_owned());
    keys
}

fn effective(record: &Record) -> Option<BTreeMap<Vec<u8>, Vec<u8>>> {
    match record {
        Record::Deny => None,
        Record::Allow(variables) => Some(variables.iter().map(|v| (v.name.clone(), v.value.clone())).collect()),
    }
}

/// `couriertcpd-access dump` writes what `build` takes and what means the same.
fn same_after_writing_back(value: &[u8]) {
    let record = Record::parse(value);
    if let Record::Allow(variables) = &record {
        for variable in variables {
            assert!(!variable.name.is_empty() && !variable.name.contains(&b'='));
            assert!(!variable.name.contains(&0) && !variable.value.contains(&0));
        }
    }
    let text = record::text(value);
    if text.lost.is_empty() {
        assert_eq!(effective(&Record::parse(&text.record)), effective(&record), "{:?}", text.record);
    }
    assert!(!text.record.contains(&b'\n'));
}

/// A source of `couriertcpd-access build`: every line is a rule, a remark or a problem, and the
/// rules in order say the same after they were written as text.
pub fn source(data: &[u8]) {
    // Blocks may stand for a million keys; what is looked for here is in short texts.
    let text = &data[..data.len().min(4096)];
    let mut problems = Problems::default();
    let mut rules = Rules::default();
    let file = problems.add_file(Path::new("rules"));
    rules.parse(text, file, &mut problems);
    let table = Table::new(rules, &mut problems);
    let mut printed = Vec::new();
    problems.print(&mut printed).expect("a Vec takes everything");
    assert!(
        printed.iter().all(|&b| b == b'\n' || (b' '..=b'~').contains(&b)),
        "{:?}",
        String::from_utf8_lossy(&printed)
    );
    for window in table.blocks.windows(2) {
        assert!(window[0].0 < window[1].0, "sorted, and none twice");
    }
    for (_, rule) in &table.blocks {
        let record = table.records.get(rule.record);
        same_after_writing_back(record);
    }
    let ip = IpAddr::from([192, 0, 2, 1]);
    let mut map = Map::default();
    for (block, rule) in &table.blocks {
        let mut key = String::new();
        if block.key(&mut key).is_some() {
            map.0.insert(key.into_bytes(), table.records.get(rule.record).to_vec());
        }
    }
    let Ok(_) = find(&mut map, Keys::remote(ip), |_| {});
}
