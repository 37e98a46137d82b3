//! The filter in contrib/fail2ban, on lines that the daemon writes, read by fail2ban itself. Where that is not
//! installed there is nothing to test.

mod common;

use std::path::Path;
use std::process::Command;

use common::*;

const FILTER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/contrib/fail2ban/couriertcpd.conf");

/// The addresses that fail2ban finds in `lines`, one for each line that matches, and how many lines do not.
fn matched(filter: &str, lines: &str) -> Option<(Vec<String>, usize)> {
    let scratch = Scratch::new();
    let log = scratch.file("log", lines);
    let run = |options: &[&str]| Command::new("fail2ban-regex").args(options).arg(&log).arg(filter).output().ok();
    let text = |output: std::process::Output| {
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let found = text(run(&["-o", "ip"])?);
    let found: Vec<_> = found.lines().map(str::to_owned).collect();
    let summary = text(run(&[])?);
    let missed =
        summary.lines().find_map(|l| l.strip_prefix("Lines: ")?.split(", ").nth(3)?.split(' ').next()?.parse().ok());
    Some((found, missed.unwrap_or_else(|| panic!("no count of lines in:\n{summary}"))))
}

/// The lines of a daemon that has refused 127.0.0.9 by its access file, 127.0.0.2 by -maxperip and 127.0.0.3 by
/// -drop, and has served some.
fn lines() -> String {
    let scratch = Scratch::new();
    let access = scratch.join("access.dat");
    access::make(&access, &[("127.0.0.9", "deny"), ("127.0.0.3", "allow,BLOCK=listed")]);
    let access = format!("-access={}", access.display());
    let options = ["-loglevel=info", "-maxperip=1", "-drop", &access];
    let daemon = Builder::default().options(options).steps(&["report", "drain"]).start();
    let connect = |ip: &str| daemon.connect_from(ip.parse().unwrap());
    let mut stays = connect("127.0.0.2");
    stays.report();
    for ip in ["127.0.0.9", "127.0.0.2", "127.0.0.3", "127.0.0.9"] {
        connect(ip).finish();
    }
    let mut served = connect("127.0.0.4");
    served.report();
    drop((served, stays));
    wait_for("every line", || {
        daemon.count_stderr("INFO: connection ip=") == 6 && daemon.count_stderr("INFO: end ip=") == 2
    });
    daemon.stderr()
}

#[test]
fn refused_clients_are_found_and_served_ones_are_not() {
    let file = lines();
    // As syslog has them: with a time, a host and a program in front, and no word of the priority.
    let syslog: String = file
        .lines()
        .map(|line| {
            let text = line.split_once(": ").filter(|(word, _)| word.chars().all(|c| c.is_ascii_uppercase()));
            let text = text.map_or(line, |(_, text)| text);
            format!("2026-11-26T09:00:00.000000+00:00 mx couriertcpd[77]: {text}\n")
        })
        .collect();
    for lines in [&file, &syslog] {
        let Some((found, missed)) = matched(FILTER, lines) else { return };
        assert_eq!(found, ["127.0.0.9", "127.0.0.2", "127.0.0.3", "127.0.0.9"], "{lines}");
        assert_eq!(missed, lines.lines().count() - 4, "{lines}");
    }
    let only = format!("{FILTER}[reasons=\"access|drop\"]");
    let Some((found, _)) = matched(&only, &file) else { return };
    assert_eq!(found, ["127.0.0.9", "127.0.0.3", "127.0.0.9"], "{file}");
}

#[test]
fn odd_lines_are_read_right() {
    assert!(Path::new(FILTER).exists());
    let line = |ip: &str, host: &str, tail: &str| {
        format!(
            "INFO: connection ip={ip} port=4 local_ip=::1 local_port=25 host={host} decision={tail} lookup_ms=3 pid=-\n"
        )
    };
    let refused = "refused by=access detail=-";
    let rows = [
        (line("2001:db8::7", "-", refused), Some("2001:db8::7")),
        (line("::ffff:192.0.2.7", "mx.example", refused), Some("192.0.2.7")),
        (line("192.0.2.8", "\"a b\\x22 decision=served\"", refused), Some("192.0.2.8")),
        (line("192.0.2.9", "-", "refused by=maxperc detail=-"), Some("192.0.2.9")),
        (line("192.0.2.10", "-", "refused by=access detail=unreadable"), None),
        (line("192.0.2.11", "-", "gone by=- detail=-"), None),
        (line("192.0.2.12", "\"x decision=refused by=access detail=- \"", "served by=- detail=-"), None),
        (format!("somebody says {}", line("192.0.2.13", "-", refused)), None),
    ];
    let lines: String = rows.iter().map(|(line, _)| line.as_str()).collect();
    let Some((found, missed)) = matched(FILTER, &lines) else { return };
    let expected: Vec<_> = rows.iter().filter_map(|(_, ip)| *ip).collect();
    assert_eq!((found, missed), (expected.iter().map(ToString::to_string).collect(), rows.len() - expected.len()));
}
