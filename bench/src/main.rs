//! Measures couriertcpd, what it replaces and its peers, interleaved, in one run.
//!
//! `make bench` calls it. Everything runs in a network and mount namespace of its own: the load generator, a DNS
//! responder, and one server at a time (two where that is what is measured). Results go to standard output as a
//! table and to a file as JSON, which `bench report` draws.

mod access;
mod bare;
mod dns;
mod footprint;
mod json;
mod load;
mod proc;
mod promises;
mod rates;
mod report;
mod results;
mod server;
mod space;

use std::path::PathBuf;
use std::time::Duration;

use dns::Dns;
use results::Results;
use server::Places;

const USAGE: &str =
    "usage: bench run --ours FILE --work DIR [--reference DIR] [--rounds N] [--seconds S] [--only GROUP,...]
       bench report RESULTS.json DIR
groups: serve refuse names late cached slots memory start idle dead many deny reload";

/// What a run works with.
pub struct Bench {
    pub places: Places,
    pub dns: Dns,
    pub rounds: usize,
    /// How long one measurement of a rate takes.
    pub slice: Duration,
    pub results: Results,
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let result = match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["bare", kind, port, handler] => bare::run(kind, port.parse().expect("a port"), handler),
        ["run", ..] => run(&args[1..]),
        ["report", results, folder] => report::draw(results.as_ref(), folder.as_ref()).map_err(|e| e.to_string()),
        _ => Err(USAGE.to_owned()),
    };
    if let Err(error) = result {
        eprintln!("bench: {error}");
        std::process::exit(1);
    }
}

struct Args {
    ours: PathBuf,
    work: PathBuf,
    reference: Option<PathBuf>,
    rounds: usize,
    seconds: f64,
    only: Vec<String>,
}

fn parse(args: &[String]) -> Result<Args, String> {
    let mut parsed =
        Args { ours: PathBuf::new(), work: PathBuf::new(), reference: None, rounds: 7, seconds: 1.0, only: Vec::new() };
    let mut args = args.iter();
    while let Some(name) = args.next() {
        let value = args.next().ok_or_else(|| format!("{name} needs a value\n{USAGE}"))?;
        let bad = |_| format!("{name}: {value}: not a number");
        match name.as_str() {
            "--ours" => parsed.ours = value.into(),
            "--work" => parsed.work = value.into(),
            "--reference" => parsed.reference = (!value.is_empty()).then(|| value.into()),
            "--rounds" => parsed.rounds = value.parse().map_err(|e: std::num::ParseIntError| bad(e.to_string()))?,
            "--seconds" => parsed.seconds = value.parse().map_err(|e: std::num::ParseFloatError| bad(e.to_string()))?,
            "--only" => parsed.only = value.split(',').filter(|group| !group.is_empty()).map(str::to_owned).collect(),
            _ => return Err(USAGE.to_owned()),
        }
    }
    for path in [&mut parsed.ours, &mut parsed.work] {
        *path = path.canonicalize().map_err(|e| format!("{}: {e}", path.display()))?;
    }
    Ok(parsed)
}

fn run(args: &[String]) -> Result<(), String> {
    let args = parse(args)?;
    space::enter(&args.work).map_err(|e| format!("cannot make namespaces (root, or user namespaces, needed): {e}"))?;
    raise_descriptor_limit();
    let bench = std::env::current_exe().map_err(|e| e.to_string())?;
    let places = Places {
        ours: args.ours,
        reference: args.reference,
        handler: bench.with_file_name("bench-handler"),
        bench,
        work: args.work.clone(),
    };
    let dns = Dns::start("127.0.0.1:53").map_err(|e| format!("DNS responder: {e}"))?;
    let slice = Duration::from_secs_f64(args.seconds);
    let mut bench = Bench { places, dns, rounds: args.rounds, slice, results: Results::default() };
    bench.results.about.insert("rounds", args.rounds.to_string());
    bench.results.about.insert("seconds", args.seconds.to_string());
    bench.results.about.insert("machine", machine());
    bench.results.about.insert("load before", load_average());
    let groups: [(&str, fn(&mut Bench) -> std::io::Result<()>); 13] = [
        ("serve", rates::serve),
        ("refuse", rates::refuse),
        ("names", rates::names),
        ("late", rates::late),
        ("cached", rates::cached),
        ("slots", rates::slots),
        ("memory", footprint::memory),
        ("start", footprint::start),
        ("idle", footprint::idle),
        ("dead", promises::dead),
        ("many", promises::many),
        ("deny", promises::deny),
        ("reload", promises::reload),
    ];
    let mut failed = Vec::new();
    for (name, measure) in groups {
        if args.only.is_empty() || args.only.iter().any(|group| group == name) {
            eprintln!("bench: {name}");
            bench.dns.delay(0);
            // What the others say counts all the same.
            if let Err(error) = measure(&mut bench) {
                eprintln!("bench: {name}: {error}");
                failed.push(name);
            }
        }
    }
    bench.results.about.insert("load after", load_average());
    let file = args.work.join("results.json");
    std::fs::write(&file, bench.results.json()).map_err(|e| format!("{}: {e}", file.display()))?;
    print!("{}", bench.results.table());
    println!("\nas JSON: {}", file.display());
    if failed.is_empty() { Ok(()) } else { Err(format!("not measured whole: {}", failed.join(", "))) }
}

/// Ten thousand clients need as many descriptors.
fn raise_descriptor_limit() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: a limit to be filled.
    unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) };
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: a valid limit.
    unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) };
}

fn machine() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|l| l.strip_prefix("model name")?.split_once(':')).map_or("", |(_, m)| m.trim());
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let count = info.lines().filter(|line| line.starts_with("processor")).count();
    format!("{count} x {model}, Linux {}", release.trim())
}

fn load_average() -> String {
    std::fs::read_to_string("/proc/loadavg").unwrap_or_default().trim().to_owned()
}
