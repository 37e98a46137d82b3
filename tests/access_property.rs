//! Random rules in all notations, and who is served by them: the rules read one by one, our walk
//! over the database that `couriertcpd-access` builds, both daemons, and `query` agree, on random
//! addresses and on those at the edges of the rules. And what the reference's makedat makes of a
//! source is what ours makes of it.
//!
//! The seed is fixed; TCPD_SEED is another one.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{Builder, Client, Program, Scratch, namespace, reference};
use couriertcpd::accessdb::AccessDb;
use couriertcpd::policy::access::{Access, Lookup, decide};
use couriertcpd::policy::env::Delta;

const PROGRAM: &str = env!("CARGO_BIN_EXE_couriertcpd-access");

struct Random(u64);

impl Random {
    fn new() -> Self {
        let seed = std::env::var("TCPD_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(20_260_801);
        println!("TCPD_SEED={seed}");
        Random(seed)
    }

    /// splitmix64.
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

/// One line of a source, as this test means it.
#[derive(Debug, Clone)]
struct Rule {
    v6: bool,
    first: u128,
    last: u128,
    /// A range counts as the largest aligned blocks in it; anything else is one block.
    address: String,
    record: String,
}

/// The addresses that a test can connect from, as (IPv6, base, bits of the host).
const NETWORKS: [(bool, u128, u32); 4] =
    [(false, 0xc000_0200, 8), (false, 0xc633_6400, 8), (false, 0x7f00_0000, 24), (true, 0x2001_0db8 << 96, 96)];

fn ip(v6: bool, number: u128) -> IpAddr {
    if v6 { Ipv6Addr::from_bits(number).into() } else { Ipv4Addr::from_bits(number as u32).into() }
}

fn address(random: &mut Random) -> (bool, u128) {
    let (v6, base, bits) = NETWORKS[random.below(4) as usize];
    let mut host = (u128::from(random.next()) << 64 | u128::from(random.next())) & ((1 << bits) - 1);
    // Mostly close together, so that rules meet: few bits set, at the ends of the words.
    if random.below(3) > 0 {
        host &= 0x8001_8001_8001_8001_8001_8001;
    }
    (v6, base | host)
}

/// `192.0.2` or `:2001:0db8`, by this test's own means.
fn key(v6: bool, number: u128, parts: usize) -> String {
    if v6 {
        (0..parts).map(|i| format!(":{:04x}", (number >> (112 - 16 * i)) as u16)).collect()
    } else {
        (0..parts).map(|i| ((number >> (24 - 8 * i)) as u8).to_string()).collect::<Vec<_>>().join(".")
    }
}

fn rule(random: &mut Random, n: usize) -> Rule {
    let (v6, number) = address(random);
    let bits = if v6 { 128 } else { 32 };
    let block = |prefix: u32| {
        let host = u128::MAX.checked_shr(128 - (bits - prefix)).unwrap_or(0);
        (number & !host, number | host)
    };
    let (first, last, address) = match random.below(6) {
        0 => (number, number, ip(v6, number).to_string()),
        1 => {
            let parts = 1 + random.below(if v6 { 8 } else { 4 }) as usize;
            let (first, last) = block(parts as u32 * if v6 { 16 } else { 8 });
            (first, last, key(v6, number, parts))
        }
        2 => {
            let last = (number + u128::from(random.below(600))).min(if v6 { u128::MAX } else { u32::MAX.into() });
            (number, last, format!("{}-{}", ip(v6, number), ip(v6, last)))
        }
        _ => {
            // Up to 11 bits short of a key's boundary: at most 2,048 keys.
            let prefix = match random.below(8) {
                0 => random.below(8) as u32,
                _ => bits / 4 + random.below(u64::from(bits * 3 / 4) + 1) as u32,
            };
            let prefix = if v6 && prefix % 16 > 0 && prefix % 16 < 5 { prefix + 5 } else { prefix };
            let (first, last) = block(prefix);
            (first, last, format!("{}/{prefix}", ip(v6, first)))
        }
    };
    let record = if random.below(3) == 0 { "deny".to_owned() } else { format!("allow,R={n}") };
    Rule { v6, first, last, address, record }
}

impl Rule {
    /// The prefix length of the block that holds `number`; None if none does.
    fn width(&self, v6: bool, number: u128) -> Option<u32> {
        if v6 != self.v6 || number < self.first || number > self.last {
            return None;
        }
        let bits = if v6 { 128 } else { 32 };
        (0..=bits).find(|prefix| {
            let host = u128::MAX.checked_shr(128 - (bits - prefix)).unwrap_or(0);
            number & !host >= self.first && number | host <= self.last
        })
    }
}

/// The record of the narrowest rule; None: two of the same width disagree.
fn naive(rules: &[Rule], everybody: Option<&str>, v6: bool, number: u128) -> Option<Option<String>> {
    let mut best: Option<(u32, &str)> = None;
    for rule in rules {
        let Some(width) = rule.width(v6, number) else { continue };
        match best {
            Some((other, _)) if other > width => {}
            Some((other, record)) if other == width && record != rule.record => return None,
            _ => best = Some((width, &rule.record)),
        }
    }
    Some(best.map(|(_, record)| record).or(everybody).map(str::to_owned))
}

/// `refused`, or the variable R.
fn outcome(record: Option<&str>) -> String {
    match record {
        Some("deny") => "refused".to_owned(),
        Some(record) => record.strip_prefix("allow,").unwrap_or("served").to_owned(),
        None => "served".to_owned(),
    }
}

fn walk<L: Lookup>(db: &mut L, ip: IpAddr) -> String
where
    L::Error: std::fmt::Debug,
{
    let mut delta = Delta::default();
    match decide(db, ip, None, &mut delta).unwrap() {
        Access::Refused(_) => "refused".to_owned(),
        Access::Admitted => match delta.get(b"R") {
            Some(value) => format!("R={}", String::from_utf8_lossy(value)),
            None => "served".to_owned(),
        },
    }
}

/// A set of rules that do not contradict each other, its database, and addresses with what should
/// come of them.
struct Case {
    scratch: Scratch,
    database: PathBuf,
    expected: BTreeMap<IpAddr, String>,
}

fn case(random: &mut Random, size: usize) -> Case {
    let scratch = Scratch::new();
    let mut rules: Vec<Rule> = (0..size).map(|n| rule(random, n)).collect();
    let everybody = [None, Some("deny"), Some("allow,R=all")][random.below(3) as usize];
    let star = |text: String| match everybody {
        Some(record) => text + &format!("*\t{record}\n"),
        None => text,
    };
    // What contradicts an earlier line is told with its number, and taken out. Nothing else may
    // be wrong.
    let (source, text) = loop {
        let text = star(rules.iter().map(|rule| format!("{}\t{}\n", rule.address, rule.record)).collect());
        let source = scratch.file("rules", &text);
        let output = Command::new(PROGRAM).arg("check").arg(&source).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        let lines: Vec<usize> = said
            .lines()
            .filter(|line| line.contains(": error: "))
            .map(|line| {
                assert!(line.contains(" has another record at "), "{line}\n{text}");
                line.split(':').nth(1).unwrap().parse().unwrap()
            })
            .collect();
        if lines.is_empty() {
            assert!(output.status.success(), "{said}");
            break (source, text);
        }
        let mut number = 0;
        rules.retain(|_| {
            number += 1;
            !lines.contains(&number)
        });
    };
    let database = scratch.join("rules.dat");
    let built = Command::new(PROGRAM).args(["build", "-o"]).arg(&database).arg(&source).output().unwrap();
    assert!(built.status.success(), "{}\n{text}", String::from_utf8_lossy(&built.stderr));

    let mut numbers: Vec<(bool, u128)> = (0..100).map(|_| address(random)).collect();
    for rule in &rules {
        let edges = [rule.first.checked_sub(1), Some(rule.first), Some(rule.last), rule.last.checked_add(1)];
        numbers.extend(edges.into_iter().flatten().map(|number| (rule.v6, number)));
    }
    numbers.retain(|(v6, number)| {
        NETWORKS.iter().any(|(is_v6, base, bits)| v6 == is_v6 && number >> bits == base >> bits)
    });
    let expected = numbers
        .into_iter()
        .map(|(v6, number)| {
            let record = naive(&rules, everybody, v6, number)
                .unwrap_or_else(|| panic!("{}: build took a contradiction\n{text}", ip(v6, number)));
            (ip(v6, number), outcome(record.as_deref()))
        })
        .collect();
    Case { scratch, database, expected }
}

#[test]
fn our_walk_finds_what_the_rules_say() {
    let mut random = Random::new();
    let mut asked = 0;
    for _ in 0..60 {
        let case = case(&mut random, 40);
        let mut db = AccessDb::open(&case.database).unwrap();
        for (ip, expected) in &case.expected {
            assert_eq!(
                walk(&mut db, *ip),
                *expected,
                "{ip}\n{}",
                fs::read_to_string(case.scratch.join("rules")).unwrap()
            );
        }
        asked += case.expected.len();
    }
    println!("{asked} addresses agreed");
}

#[test]
fn query_says_the_same_of_database_and_source() {
    let mut random = Random::new();
    for _ in 0..6 {
        let case = case(&mut random, 40);
        for file in [case.database.clone(), case.scratch.join("rules")] {
            let mut command = Command::new(PROGRAM);
            command.arg("query").arg(&file).args(case.expected.keys().map(IpAddr::to_string));
            let output = String::from_utf8(command.output().unwrap().stdout).unwrap();
            let mut got = BTreeMap::new();
            let mut current = None;
            for line in output.lines() {
                if let Some((ip, word)) = line.split_once(": ").filter(|_| !line.starts_with(' ')) {
                    current = Some(ip.parse::<IpAddr>().unwrap());
                    got.insert(current.unwrap(), word.to_owned());
                } else if let Some(variable) = line.strip_prefix("  sets     ") {
                    got.insert(current.unwrap(), variable.to_owned());
                }
            }
            assert_eq!(got, case.expected, "{}", file.display());
        }
    }
}

/// Connects from every address to a daemon with the case's database.
fn connect_from_all(case: &Case, program: Program) -> BTreeMap<IpAddr, String> {
    let mut outcomes = BTreeMap::new();
    for v6 in [false, true] {
        let our_end: IpAddr = if v6 { "2001:db8::1".parse().unwrap() } else { "127.0.0.1".parse().unwrap() };
        let daemon = Builder::default()
            .program(program)
            .address(common::free_port(our_end))
            .option(format!("-access={}", case.database.display()))
            .options(["-maxprocs=100", "-maxperip=100"])
            .handler(["/bin/sh", "-c", "echo ${R+R=}${R-served}"])
            .start();
        for ip in case.expected.keys().filter(|ip| ip.is_ipv6() == v6) {
            let text = Client::connect_from(*ip, daemon.address()).finish().text();
            let text = if text.is_empty() { "refused" } else { text.trim_end() };
            outcomes.insert(*ip, text.to_owned());
        }
    }
    outcomes
}

#[test]
fn both_daemons_do_what_the_rules_say() {
    let mut random = Random::new();
    let programs = [Program::Ours, Program::Theirs];
    let ran = namespace::run(|| {
        for _ in 0..4 {
            let mut case = case(&mut random, 40);
            // Nobody can connect from the addresses of networks and broadcasts.
            case.expected.retain(|ip, _| match ip {
                IpAddr::V4(ip) => ![0, 255].contains(&ip.octets()[3]) && ip.octets()[1..] != [0, 0, 1],
                IpAddr::V6(_) => true,
            });
            for program in programs {
                if program.path().is_none() {
                    println!("skipped: the reference is not here");
                    continue;
                }
                let got = connect_from_all(&case, program);
                let rules = fs::read_to_string(case.scratch.join("rules")).unwrap();
                assert_eq!(got, case.expected, "{program:?}\n{rules}");
                println!("{program:?}: {} addresses agreed", got.len());
            }
        }
    });
    if ran.is_none() {
        println!("skipped: clients from any address need a network namespace");
    }
}

/// All of a database.
fn contents(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut db = AccessDb::open(path).unwrap();
    let keys = db.keys().unwrap();
    keys.into_iter().map(|key| (key.clone(), db.fetch(&key).unwrap().unwrap())).collect()
}

/// The reference's script, made to find its helper where the reference is unpacked.
fn their_makedat(scratch: &Scratch) -> Option<PathBuf> {
    let root = reference::root()?;
    let helper = "usr/lib/courier/courier/makedatprog";
    let unpacked = root.join(helper).display().to_string();
    let mut text = fs::read_to_string(root.join("usr/lib/courier/makedat")).ok()?;
    if !text.contains(&unpacked) {
        text = text.replace(&format!("/{helper}"), &unpacked);
    }
    Some(scratch.script("their-makedat", &text))
}

fn has_net_cidr() -> bool {
    Command::new("perl").args(["-MNet::CIDR", "-e1"]).output().is_ok_and(|output| output.status.success())
}

#[test]
fn makedat_makes_what_the_reference_s_makes() {
    let scratch = Scratch::new();
    let Some(theirs) = their_makedat(&scratch) else { return println!("skipped: the reference is not here") };
    let ours = scratch.join("makedat");
    symlink(PROGRAM, &ours).unwrap();
    let cidr = has_net_cidr();
    if !cidr {
        println!("skipped in part: -cidr needs Perl's Net::CIDR");
    }
    let mut random = Random::new();
    let mut blocks: Vec<Rule> = (0..60).map(|n| rule(&mut random, n)).collect();
    // Its own -cidr takes no overlap, and neither do we.
    blocks.retain({
        let mut taken: Vec<(bool, u128, u128)> = Vec::new();
        move |rule| {
            let free = taken.iter().all(|(v6, first, last)| *v6 != rule.v6 || *last < rule.first || rule.last < *first);
            if free {
                taken.push((rule.v6, rule.first, rule.last));
            }
            free
        }
    });
    let random_text: String = blocks.iter().map(|rule| format!("{}\t{}\n", rule.address, rule.record)).collect();
    let directory = scratch.join("directory");
    fs::create_dir(&directory).unwrap();
    for name in ["a", ".b", "c~", "d.dpkg-old", "e.rpmsave", "f.dpkg"] {
        fs::write(directory.join(name), format!("{name}\tx\n")).unwrap();
    }
    let mut compared = 0;
    for text in [
        "10\tdeny\n\n#comment\nexample.com\nexample.org\ta\tb\n x\ty \n#\n",
        "10\tallow\n10\tdeny\n",
        "\tx\n20\t\n   \n",
        "10.0.0.0/8\tdeny\n192.0.2.5/30 allow,A\n2001:DB8::/33\tx\n10.0.1\n",
        "10.1/16\tx\n:2001:0db8/32\ty\nfoo/8\tz\nfoo-bar\tz\n 11.0.0.0/8\tv\n",
        "10.0.0.250-10.0.2.3\tx\n2001:db8::1-2001:db8::5\ty\n",
        "10.0.0.9-10.0.0.5\tdeny\n",
        "10.0.0.1/33\tdeny\n",
        "256.0.0.0/8\tdeny\n",
        "10.0.0.0/25\tdeny\n10.0.0.5\tallow\n",
        "::ffff:10.0.0.0/120\tdeny\n",
        "directory",
        &random_text,
    ] {
        let source = if text == "directory" { directory.clone() } else { scratch.file("source", text) };
        for options in [&[][..], &["-cidr"]] {
            if !cidr && !options.is_empty() {
                continue;
            }
            let run = |program: &Path, name: &str| {
                let (file, temporary) = (scratch.join(name), scratch.join("temporary"));
                let _ = fs::remove_file(&file);
                let [src, file_option, tmp] = [("src", &source), ("file", &file), ("tmp", &temporary)]
                    .map(|(option, path)| format!("-{option}={}", path.display()));
                let output = Command::new(program)
                    .args([src, file_option, tmp])
                    .args(options)
                    .env("PERL5LIB", std::env::var_os("PERL5LIB").unwrap_or_default())
                    .output()
                    .unwrap();
                output.status.success().then(|| contents(&file))
            };
            assert_eq!(run(&ours, "ours"), run(&theirs, "theirs"), "{options:?} {text}");
            compared += 1;
        }
    }
    println!("{compared} sources gave the same");
}

/// Courier's own script runs on our programs as it is, but for the folders that it names.
#[test]
fn courier_s_script_makes_its_access_file_with_ours() {
    let Some(root) = reference::root() else { return println!("skipped: the reference is not here") };
    let scratch = Scratch::new();
    for (link, target) in [("makedat", PROGRAM), ("couriertcpd", env!("CARGO_BIN_EXE_couriertcpd"))] {
        symlink(target, scratch.join(link)).unwrap();
    }
    let here = scratch.path().display();
    let text = fs::read_to_string(root.join("usr/lib/courier/makeimapaccess")).unwrap();
    let text: String = text
        .lines()
        .map(|line| match line.split_once('=') {
            Some((name @ ("sysconfdir" | "bindir" | "sbindir"), _)) => format!("{name}={here}\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    let script = scratch.script("makeimapaccess", &text);
    assert!(fs::metadata(&script).unwrap().permissions().mode() & 0o100 != 0);
    scratch.file("imapd", format!("IMAPACCESSFILE={here}/imapaccess\nPIDFILE={here}/imapd.pid\n"));
    scratch.file("imapd-ssl", format!("SSLPIDFILE={here}/imapd-ssl.pid\n"));
    scratch.file("imapaccess", "127\tallow,A=1\n10.0.0.0/15\tdeny\n");
    let output = Command::new(&script).output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    let expected = [("10.0", "deny"), ("10.1", "deny"), ("127", "allow,A=1")]
        .map(|(key, value)| (key.as_bytes().to_vec(), value.as_bytes().to_vec()));
    assert_eq!(contents(&scratch.join("imapaccess.dat")), BTreeMap::from(expected));
}
