//! What /proc tells of a process.

use std::fs;

fn read(pid: u32, file: &str) -> String {
    fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default()
}

/// A field of smaps_rollup or status, in KiB or as it is.
fn field(text: &str, name: &str) -> u64 {
    text.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// Memory of one process, in KiB.
#[derive(Debug, Clone, Copy, Default)]
pub struct Memory {
    pub rss: u64,
    pub pss: u64,
    pub private: u64,
}

pub fn memory(pid: u32) -> Memory {
    let text = read(pid, "smaps_rollup");
    Memory {
        rss: field(&text, "Rss:"),
        pss: field(&text, "Pss:"),
        // Not the pages of the program's file, which every daemon of the machine shares.
        private: field(&text, "Anonymous:"),
    }
}

/// PSS of a process and all that descend from it, in KiB.
pub fn family_pss(pid: u32) -> u64 {
    family(pid).into_iter().map(|pid| memory(pid).pss).sum()
}

/// A process and its descendants.
pub fn family(pid: u32) -> Vec<u32> {
    let mut parents = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(child) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let stat = read(child, "stat");
        // The name in parentheses may hold blanks.
        let parent = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse::<u32>().ok());
        parents.extend(parent.map(|parent| (child, parent)));
    }
    let mut found = vec![pid];
    let mut at = 0;
    while at < found.len() {
        let parent = found[at];
        found.extend(parents.iter().filter(|(_, p)| *p == parent).map(|(child, _)| *child));
        at += 1;
    }
    found
}

pub fn descriptors(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}

pub fn threads(pid: u32) -> u64 {
    field(&read(pid, "status"), "Threads:")
}

/// Processor time in clock ticks.
pub fn ticks(pid: u32) -> u64 {
    let stat = read(pid, "stat");
    let Some((_, rest)) = stat.rsplit_once(')') else { return 0 };
    rest.split_whitespace().skip(11).take(2).filter_map(|n| n.parse::<u64>().ok()).sum()
}

/// Processor time in nanoseconds, its children's not included.
pub fn nanoseconds(pid: u32) -> u64 {
    read(pid, "schedstat").split_whitespace().next().and_then(|n| n.parse().ok()).unwrap_or(0)
}

/// True once a socket of this network namespace listens on `port`.
pub fn listens(port: u16) -> bool {
    let wanted = format!(":{port:04X}");
    ["/proc/self/net/tcp", "/proc/self/net/tcp6"].iter().any(|file| {
        fs::read_to_string(file).unwrap_or_default().lines().any(|line| {
            let mut fields = line.split_whitespace().skip(1);
            fields.next().is_some_and(|local| local.ends_with(&wanted)) && fields.nth(1) == Some("0A")
        })
    })
}
