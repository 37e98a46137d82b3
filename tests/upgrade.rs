//! `-upgrade`: the program anew in the same process, and nobody lost.

mod common;

use std::ffi::OsStr;
use std::fs;
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use common::daemon::{Background, lock_holder};
use common::dns::{A, Dns, Fault, Message, PTR, Record};
use common::*;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A daemon in the background that runs a copy of the program, which can be replaced.
struct Upgraded {
    daemon: Background,
    pid_file: PathBuf,
    program: PathBuf,
    address: SocketAddr,
    scratch: Scratch,
}

impl Upgraded {
    #[track_caller]
    fn start(builder: impl FnOnce(&Scratch) -> Builder) -> Upgraded {
        let scratch = Scratch::new();
        let (pid_file, program) = (scratch.join("pid"), scratch.join("couriertcpd"));
        copy_program(env!("CARGO_BIN_EXE_couriertcpd"), &program);
        let builder = builder(&scratch);
        let address = builder.target();
        // Named by a relative path: it has to be found all the same.
        let started = builder
            .prelude("shift; set -- ./couriertcpd \"$@\"")
            .directory(scratch.path())
            .option(format!("-pid={}", pid_file.display()))
            .run();
        assert_eq!(started.code(), 0, "{started:?}");
        Upgraded { daemon: Background::of(&pid_file), pid_file, program, address, scratch }
    }

    fn verb(&self, verb: &str) -> Finished {
        Builder::default().bare().options([&format!("-pid={}", self.pid_file.display()), verb]).run_options()
    }

    /// Puts another copy of the program, an inode of its own, in its place.
    fn replace(&self, by: impl AsRef<OsStr>) {
        let new = self.scratch.join("new");
        copy_program(by, &new);
        fs::rename(&new, &self.program).unwrap();
    }

    /// The inode of the program that the daemon runs.
    fn running(&self) -> u64 {
        fs::metadata(format!("/proc/{}/exe", self.daemon.pid())).unwrap().ino()
    }

    #[track_caller]
    fn upgrade(&self) {
        self.replace(env!("CARGO_BIN_EXE_couriertcpd"));
        let finished = self.verb("-upgrade");
        assert_eq!((finished.code(), finished.stderr.as_str()), (0, ""), "{finished:?} {}", self.log());
        assert_eq!(self.running(), fs::metadata(&self.program).unwrap().ino());
        assert_eq!(lock_holder(&self.pid_file), Some(self.daemon.pid()));
    }

    fn connect(&self) -> Client {
        Client::connect(self.address)
    }

    fn connect_from(&self, ip: &str) -> Client {
        Client::connect_from(ip.parse().unwrap(), self.address)
    }

    /// The status has this line.
    #[track_caller]
    fn assert_status(&self, line: &str) {
        let status = self.verb("-status").stdout;
        assert!(status.lines().any(|l| l.trim_start().starts_with(line)), "no line {line:?} in:\n{status}");
    }

    fn log(&self) -> String {
        fs::read_to_string(self.scratch.join("log")).unwrap_or_default()
    }
}

fn log_option(scratch: &Scratch) -> String {
    format!("-stderr={}", scratch.join("log").display())
}

#[test]
fn handlers_go_on_and_keep_their_places() {
    let daemon = Upgraded::start(|scratch| {
        let options = ["-maxprocs=3".to_owned(), "-maxperip=2".into(), "-denymsg=no".into(), log_option(scratch)];
        Builder::default().options(options).steps(&["report", "line"])
    });
    let mut clients = [daemon.connect_from("127.0.0.2"), daemon.connect_from("127.0.0.2")];
    let parents = clients.each_mut().map(|client| client.report().parent());
    assert_eq!(parents, [daemon.daemon.pid(); 2]);
    let descriptors = procfs::descriptors(daemon.daemon.pid());
    for _ in 0..3 {
        daemon.upgrade();
    }
    wait_for("none is left over", || procfs::descriptors(daemon.daemon.pid()) <= descriptors);
    assert_eq!(procfs::threads(daemon.daemon.pid()), 1);
    daemon.assert_status("slots in use 2 of 3");
    daemon.assert_status("127.0.0.2  2, oldest ");
    // -maxperip and -maxprocs still count them.
    assert_eq!(daemon.connect_from("127.0.0.2").finish().text(), "");
    let mut third = daemon.connect_from("127.0.0.3");
    let report = third.report();
    assert_eq!(report.var("COURIERTCPD_HANDOVER"), None);
    assert_eq!(report.descriptors.keys().copied().collect::<Vec<_>>(), [0, 1, 2]);
    let mut fourth = daemon.connect_from("127.0.0.4");
    assert!(fourth.is_silent_for(std::time::Duration::from_millis(200)));
    for mut client in clients {
        client.send(b"bye\n");
        assert!(client.finish().text().ends_with("bye\n"), "the session went on");
    }
    fourth.report();
    // Its slot was that of one of the two that have ended.
    wait_for("the other's is free as well", || daemon.verb("-status").stdout.contains("slots in use 2 of 3"));
    drop((third, fourth));
    assert_eq!(daemon.verb("-restart").code(), 0);
    assert_eq!(daemon.verb("-stop").code(), 0);
    assert!(!daemon.daemon.is_alive() && !daemon.pid_file.exists() && !daemon.scratch.join("pid.ctl").exists());
}

/// Clients come as fast as they can through several upgrades. Each is served whole; none is refused
/// or reset.
#[test]
fn under_load_nobody_is_refused_or_lost() {
    let daemon = Upgraded::start(|scratch| {
        let options = ["-maxprocs=50".to_owned(), "-maxperip=1000".into(), log_option(scratch)];
        Builder::default().options(options).steps(&["say:hello", "line"])
    });
    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let (address, stop) = (daemon.address, stop.clone());
            thread::spawn(move || {
                let mut served = 0;
                while !stop.load(Ordering::SeqCst) {
                    let mut client = Client::try_connect(None, address).expect("not refused");
                    client.send(b"bye\n");
                    let received = client.finish();
                    assert_eq!((received.text().as_str(), received.end), ("hello\nbye\n", End::Eof));
                    served += 1;
                }
                served
            })
        })
        .collect();
    for _ in 0..5 {
        daemon.upgrade();
        let start = daemon.verb("-status").stdout;
        wait_for("some more are served", || daemon.verb("-status").stdout != start);
    }
    stop.store(true, Ordering::SeqCst);
    for client in clients {
        assert!(client.join().expect("no connection was refused or lost") > 5);
    }
    wait_for("all have ended", || daemon.verb("-status").stdout.contains("\nhandlers 0\n"));
    daemon.assert_status("slots in use 0 of 50");
}

#[test]
fn those_that_wait_for_lookups_or_a_slot_are_handed_over_in_order() {
    let silent = UdpSocket::bind((fresh_ip(), 0)).unwrap();
    silent.set_read_timeout(Some(DEADLINE)).unwrap();
    let nameserver = format!("-nameserver={}", silent.local_addr().unwrap());
    let daemon = Upgraded::start(|scratch| {
        let options = ["-noidentlookup", "-maxprocs=1", "-maxpending=9", "-lookuptimeout=2", &nameserver];
        Builder::default().bare().options(options).option(log_option(scratch)).steps(&["report", "line"])
    });
    let mut first = daemon.connect();
    first.report();
    let mut others = [daemon.connect(), daemon.connect()];
    wait_for("one waits for a slot or both for lookups", || daemon.verb("-status").stdout.contains("\npending 2 of 9"));
    daemon.upgrade();
    daemon.assert_status("pending 2 of 9");
    wait_for("both wait for the slot", || daemon.verb("-status").stdout.contains("pending 2 of 9, 2 of them waiting"));
    daemon.upgrade();
    wait_for("both wait again", || daemon.verb("-status").stdout.contains("pending 2 of 9, 2 of them waiting"));
    first.send(b"\n");
    for client in &mut others {
        assert_eq!(client.report().var("TCPREMOTEHOST"), Some("softdnserr"));
        client.send(b"\n");
    }
}

/// What the lists say is asked anew, however long somebody has waited for a slot.
#[test]
fn who_waits_for_a_slot_for_long_is_still_listed() {
    let dns = Dns::start();
    dns.set("2.0.0.127.bl.test", A, Message::new().record(Record::a("127.0.0.2")));
    // Who came later has had all the time that lookups may take, a listed one as well.
    dns.set("3.0.0.127.bl.test", A, Message::new().record(Record::a("127.0.0.2")));
    dns.set("3.0.0.127.in-addr.arpa", PTR, Message::new().fault(Fault::Silent));
    let daemon = Upgraded::start(|scratch| {
        let options = ["-maxprocs=1", "-maxpending=9", "-lookuptimeout=2", "-dnscache=0", "-block=bl.test"];
        let builder = Builder::default().bare().option("-noidentlookup").options(options);
        let builder = builder.option(format!("-nameserver={}", dns.address));
        builder.option(log_option(scratch)).steps(&["report", "line"])
    });
    let mut first = daemon.connect_from("127.0.0.1");
    first.report();
    let mut listed = daemon.connect_from("127.0.0.2");
    wait_for("it waits", || daemon.verb("-status").stdout.contains("pending 1 of 9, 1 of them waiting"));
    let mut nameless = daemon.connect_from("127.0.0.3");
    wait_for("the other waits, too", || daemon.verb("-status").stdout.contains("pending 2 of 9, 2 of them waiting"));
    daemon.upgrade();
    first.send(b"\n");
    for client in [&mut listed, &mut nameless] {
        assert_eq!(client.report().var("BLOCK_ZONE"), Some("bl.test"));
        client.send(b"\n");
    }
}

#[test]
fn what_a_proxy_has_said_is_not_forgotten() {
    let silent = UdpSocket::bind((fresh_ip(), 0)).unwrap();
    silent.set_read_timeout(Some(DEADLINE)).unwrap();
    let nameserver = format!("-nameserver={}", silent.local_addr().unwrap());
    let daemon = Upgraded::start(|scratch| {
        let options = ["-haproxy", "-lookuptimeout=4", "-block=bl.example", &nameserver];
        Builder::default().options(options).option(log_option(scratch))
    });
    let header = b"PROXY TCP4 192.0.2.7 192.0.2.1 4711 25\r\n";
    let mut told = daemon.connect();
    told.send(header);
    silent.recv(&mut [0; 512]).expect("the list is asked about the first");
    let mut untold = daemon.connect();
    untold.send(&header[..10]);
    wait_for("one header is awaited", || daemon.verb("-status").stdout.contains("PROXY header 1"));
    daemon.upgrade();
    untold.send(&header[10..]);
    for (client, proxy) in [(&mut told, "the first"), (&mut untold, "the second")] {
        let report = client.report();
        let remote = (report.var("TCPREMOTEIP"), report.var("TCPREMOTEPORT"), report.var("TCPLOCALPORT"));
        assert_eq!(remote, (Some("::ffff:192.0.2.7"), Some("4711"), Some("25")), "{proxy}");
        assert!(report.var("TCPPROXYIP").is_some_and(|ip| ip.starts_with("::ffff:127.")), "{proxy}");
        assert_eq!(report.var("TCPREMOTEINFO"), Some("proxy via ::ffff:192.0.2.1, port 25"), "{proxy}");
    }
}

#[test]
fn a_program_that_does_not_come_up_changes_nothing() {
    let daemon = Upgraded::start(|scratch| Builder::default().option(log_option(scratch)).steps(&["report", "line"]));
    let mut client = daemon.connect();
    client.report();
    let running = daemon.running();
    let descriptors = procfs::descriptors(daemon.daemon.pid());
    for (program, says) in [
        (
            "#!/bin/sh\necho first >&2; echo it is broken >&2; exit 3\n",
            "the new program does not come up: it is broken",
        ),
        // Whatever it says, it has to end well; and ending well is not enough.
        ("#!/bin/sh\necho ready for couriertcpd handover 1; exit 1\n", "the new program does not come up: ready for"),
        ("#!/bin/sh\nexit 0\n", "the new program does not come up: "),
        ("#!/bin/sh\nkill -TERM $$\n", "the new program does not come up: "),
        ("not a program", "Exec format error"),
        // The trial passes, and then the program is gone: exec itself fails.
        ("#!/bin/sh\necho ready for couriertcpd handover 1; rm \"$0\"\n", "No such file or directory"),
    ] {
        daemon.replace(daemon.scratch.file("content", program));
        let finished = daemon.verb("-upgrade");
        assert_eq!(finished.code(), 1, "{program}");
        assert!(finished.stderr.contains(says), "{program}: {finished:?}");
        assert!(daemon.log().contains("ERR: upgrade: "), "{}", daemon.log());
        assert_eq!(daemon.running(), running);
    }
    let finished = daemon.verb("-upgrade");
    assert!(finished.stderr.contains("No such file or directory"), "{finished:?}");
    wait_for("nothing is left of it", || procfs::descriptors(daemon.daemon.pid()) <= descriptors);
    assert_eq!(procfs::children(daemon.daemon.pid()).len(), 1);
    assert!(daemon.connect().report().var("TCPREMOTEIP").is_some(), "new clients are served");
    client.send(b"bye\n");
    assert!(client.finish().text().ends_with("bye\n"));
    // What was left close-on-exec or not is as before: a good program takes over.
    daemon.upgrade();
}

/// The arguments have become wrong for the new program, by what they name.
#[test]
fn a_file_that_cannot_be_opened_any_more_is_found_in_the_trial() {
    // What may be missing at a start may not take rules out of force.
    for missing in ["refuse", "allow"] {
        let daemon = Upgraded::start(|scratch| {
            let access = scratch.join("access.dat");
            access::make(&access, &[("127.0.0.3", "deny")]);
            let options = [format!("-access={}", access.display()), format!("-accessmissing={missing}")];
            Builder::default().options(options).option(log_option(scratch))
        });
        fs::write(daemon.scratch.join("access.dat"), "no database").unwrap();
        let running = daemon.running();
        let finished = daemon.verb("-upgrade");
        assert_eq!(finished.code(), 1);
        assert!(finished.stderr.contains("access.dat"), "{finished:?}");
        assert_eq!(daemon.running(), running);
        assert!(daemon.log().contains("going on as before"), "{}", daemon.log());
        assert_eq!(daemon.connect_from("127.0.0.3").finish().text(), "", "{missing}");
    }
}

/// The one that runs goes on with the name servers that it knows; another one would ask this host, where nobody answers
/// for any list.
#[test]
fn name_servers_that_cannot_be_read_any_more_are_found_in_the_trial() {
    let done = namespace::run(|| {
        let conf = Scratch::new();
        let conf = conf.file("resolv.conf", "nameserver 192.0.2.53\n");
        let mode = |mode| fs::set_permissions(&conf, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
        mode(0o644);
        namespace::replace_file("/etc/resolv.conf", &conf);
        let daemon = Upgraded::start(|scratch| {
            let handler = handler::copy_to(scratch.path());
            let command = [handler.into_os_string(), handler::MARK.into(), "report".into()];
            let log = scratch.file("log", "");
            fs::set_permissions(log, std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
            let options = ["-user=33333", "-group=33333", "-nodnslookup", "-block=bl.test"];
            Builder::default().options(options).option(log_option(scratch)).handler(command)
        });
        mode(0o600);
        let finished = daemon.verb("-upgrade");
        assert_eq!(finished.code(), 1);
        let why = "cannot ask the name servers: /etc/resolv.conf: Permission denied";
        assert!(finished.stderr.contains(why), "{finished:?}");
        assert!(daemon.log().contains("going on as before"), "{}", daemon.log());
        mode(0o644);
        daemon.upgrade();
    });
    assert!(done.is_some() || !nix::unistd::geteuid().is_root());
}

#[test]
fn where_no_rules_are_in_force_a_missing_file_hinders_no_upgrade() {
    let daemon = Upgraded::start(|scratch| {
        let access = format!("-access={}", scratch.join("access.dat").display());
        Builder::default().options([&access, "-accessmissing=allow"]).steps(&["report"])
    });
    daemon.upgrade();
    assert_eq!(daemon.connect().report().parent(), daemon.daemon.pid());
}

/// Puts a program in the place that does `before` when it is to take over, and not in the trial.
fn replace_by_wrapper(daemon: &Upgraded, before: &str) {
    let program = env!("CARGO_BIN_EXE_couriertcpd");
    let script =
        format!("#!/bin/sh\ncase $COURIERTCPD_HANDOVER in take:*) {before};; esac\nexec -a \"$0\" {program} \"$@\"\n")
            .replace("/bin/sh", "/bin/bash");
    daemon.replace(daemon.scratch.file("content", script));
}

/// What the trial has found may change before it matters.
#[test]
fn why_it_could_not_go_on_in_the_end_is_told_where_its_lines_go() {
    for logger in [false, true] {
        let daemon = Upgraded::start(|scratch| {
            let access = scratch.join("access.dat");
            access::make(&access, &[("*", "allow")]);
            let out = scratch.join("log");
            let script = format!("#!/bin/sh\nexec cat >>{}\n", out.display());
            let lines = match logger {
                true => format!("-stderrlogger={}", scratch.script("logger", &script).display()),
                false => log_option(scratch),
            };
            Builder::default().options([format!("-access={}", access.display()), lines]).steps(&["report", "line"])
        });
        let mut client = daemon.connect();
        client.report();
        replace_by_wrapper(&daemon, &format!("rm {}", daemon.scratch.join("access.dat").display()));
        assert_eq!(daemon.verb("-upgrade").code(), 1);
        wait_for("the reason is told", || daemon.log().contains("ALERT: upgrade: cannot go on: "));
        assert!(daemon.log().contains("access.dat: cannot open: No such file"), "{}", daemon.log());
        wait_for("it ends", || !daemon.daemon.is_alive());
        assert!(!daemon.pid_file.exists());
        client.send(b"bye\n");
        assert!(client.finish().text().ends_with("bye\n"), "the handler lives on");
    }
}

#[test]
fn a_logger_that_cannot_run_ends_no_daemon() {
    let daemon = Upgraded::start(|scratch| {
        let logger = scratch.script("logger", "#!/bin/sh\nexec cat >/dev/null\n");
        let options = [format!("-stderrlogger={}", logger.display())];
        Builder::default().options(options).steps(&["report", "line"])
    });
    let mut client = daemon.connect();
    let handler = client.report().pid();
    // Executable, and no program.
    fs::rename(daemon.scratch.script("new logger", "none\n"), daemon.scratch.join("logger")).unwrap();
    let logger = procfs::children(daemon.daemon.pid()).into_iter().find(|pid| *pid != handler).unwrap();
    kill(Pid::from_raw(logger), Signal::SIGKILL).unwrap();
    wait_for("its end is known", || procfs::children(daemon.daemon.pid()) == [handler]);
    daemon.upgrade();
    client.send(b"bye\n");
    assert!(client.finish().text().ends_with("bye\n"));
    assert!(daemon.connect().report().var("TCPREMOTEIP").is_some());
    // As soon as it can be run it is.
    let out = daemon.scratch.join("out");
    let script = format!("#!/bin/sh\necho runs >{}\nexec cat >/dev/null\n", out.display());
    fs::rename(daemon.scratch.script("new logger", &script), daemon.scratch.join("logger")).unwrap();
    wait_for("it is started", || out.exists());
}

#[test]
fn helpers_that_there_are_no_processes_for_come_later() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: takes root to change the user");
        return;
    }
    let daemon = Upgraded::start(|scratch| {
        let handler = handler::copy_to(scratch.path());
        let command = [handler.as_os_str(), handler::MARK.as_ref(), "report".as_ref(), "line".as_ref()];
        let options = ["-user=33334", "-group=33334", "-resolver=nss:2", "-noidentlookup"];
        Builder::default().bare().options(options).handler(command)
    });
    let mut client = daemon.connect();
    client.report();
    let helpers = || {
        let named = |pid: &i32| procfs::status(*pid, "Name").as_deref() == Some("couriertcpd-nss");
        procfs::children(daemon.daemon.pid()).into_iter().filter(|pid| named(pid)).count()
    };
    assert_eq!(helpers(), 2);
    replace_by_wrapper(&daemon, "prlimit --pid $$ --nproc=0:");
    assert_eq!(daemon.verb("-upgrade").code(), 0);
    assert_eq!(helpers(), 0);
    // Not even root may do it for others everywhere.
    let mut prlimit = Command::new("prlimit");
    prlimit.args(["--pid", &daemon.daemon.pid().to_string(), "--nproc=1000:"]).uid(33334).gid(33334);
    assert!(prlimit.status().expect("run prlimit").success());
    wait_for("they are there again", || helpers() == 2);
    client.send(b"bye\n");
    assert!(client.finish().text().ends_with("bye\n"));
}

#[test]
fn the_logger_stays_and_its_pipe_too() {
    let daemon = Upgraded::start(|scratch| {
        let out = scratch.join("out");
        let script = format!("#!/bin/sh\necho $$ >>{0}.pids\nexec cat >>{0}\n", out.display());
        let logger = scratch.script("logger", &script);
        let options = [format!("-stderrlogger={}", logger.display()), "-loglevel=info".into()];
        Builder::default().options(options).steps(&["report", "line", "stderr:from a handler"])
    });
    let mut client = daemon.connect();
    client.report();
    let read = |name: &str| fs::read_to_string(daemon.scratch.join(name)).unwrap_or_default();
    daemon.upgrade();
    client.send(b"\n");
    drop(client.finish());
    wait_for("the handler's line", || read("out").contains("from a handler\n"));
    wait_for("the daemon's line about it", || read("out").contains("INFO: end ip="));
    assert_eq!(read("out.pids").lines().count(), 1, "one logger all the time");
    // It is known to be the logger: if it ends it is started again.
    kill(Pid::from_raw(read("out.pids").trim().parse().unwrap()), Signal::SIGKILL).unwrap();
    wait_for("it is started again", || read("out.pids").lines().count() == 2);
}

#[test]
fn it_works_without_the_privileges_of_the_start() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let daemon = Upgraded::start(|scratch| {
        let handler = handler::copy_to(scratch.path());
        let command = [handler.into_os_string(), handler::MARK.into(), "report".into(), "line".into()];
        // Nobody can bind this one again but root, and nobody else can write to the folder.
        Builder::default().options(["-user=33333", "-group=33333", "-resolver=nss:2"]).handler(command)
    });
    let mut client = daemon.connect();
    client.report();
    daemon.upgrade();
    let mut second = daemon.connect();
    let report = second.report();
    assert_eq!(report.status.get("Uid").map(|ids| ids.split("\\t").all(|id| id == "33333")), Some(true));
    client.send(b"bye\n");
    assert!(client.finish().text().ends_with("bye\n"));
    assert_eq!(daemon.verb("-stop").code(), 0);
    assert_eq!(lock_holder(&daemon.pid_file), None);
}

#[test]
fn signals_that_come_meanwhile_are_not_lost() {
    let daemon = Upgraded::start(|scratch| Builder::default().option(log_option(scratch)));
    for _ in 0..5 {
        let before = daemon.log().matches("SIGHUP: reading").count();
        let program = env!("CARGO_BIN_EXE_couriertcpd");
        let pid = format!("-pid={}", daemon.pid_file.display());
        let mut verb = Command::new(program).args([&pid, "-upgrade"]).stderr(Stdio::piped()).spawn().unwrap();
        let mut sent = 0;
        loop {
            kill(Pid::from_raw(daemon.daemon.pid()), Signal::SIGHUP).expect("it lives");
            sent += 1;
            if verb.try_wait().unwrap().is_some() {
                break;
            }
            thread::yield_now();
        }
        let output = verb.wait_with_output().unwrap();
        assert!(output.status.success(), "after {sent} signals: {output:?}");
        wait_for("the last one is heard", || daemon.log().matches("SIGHUP: reading").count() > before);
        assert!(daemon.daemon.is_alive());
    }
}

#[test]
fn in_the_foreground_the_control_socket_is_enough() {
    let scratch = Scratch::new();
    let control = format!("-control={}", scratch.join("ctl").display());
    let daemon = Builder::default().option(&control).steps(&["report", "line"]).start();
    let mut client = daemon.connect_from(IpAddr::from([127, 0, 0, 2]));
    client.report();
    let upgrade = || Builder::default().bare().options([&control, "-upgrade"]).run_options();
    assert_eq!(upgrade().code(), 0);
    daemon.wait_for_stderr("upgrade: ");
    assert!(daemon.session_from(IpAddr::from([127, 0, 0, 3])).report().is_some());
    client.send(b"bye\n");
    assert!(client.finish().text().ends_with("bye\n"));
    assert_eq!(upgrade().code(), 0);
}

#[test]
fn a_leftover_variable_is_told_and_where_none_runs_there_is_nothing_to_do() {
    for role in ["take", "rehearse"] {
        let finished = Builder::default().env("COURIERTCPD_HANDOVER", format!("{role}:0")).run();
        assert_eq!(finished.code(), 1, "{finished:?}");
        assert!(finished.stderr.contains("cannot take over from the program before"), "{finished:?}");
    }
    let scratch = Scratch::new();
    let pid = format!("-pid={}", scratch.join("pid").display());
    let finished = Builder::default().bare().options([&pid, "-upgrade"]).run_options();
    assert_eq!((finished.code(), finished.stderr.as_str()), (0, ""));
}

fn upgrade_by(control: &str) {
    let finished = Builder::default().bare().options([control, "-upgrade"]).run_options();
    assert_eq!((finished.code(), finished.stderr.as_str()), (0, ""), "{finished:?}");
}

/// What the new program has to warn of again must not wait for somebody to read standard error.
#[test]
fn standard_error_that_nobody_reads_hinders_no_upgrade() {
    let scratch = Scratch::new();
    let control = format!("-control={}", scratch.join("ctl").display());
    let (_reader, writer) = nix::unistd::pipe().unwrap();
    let mut writer = fs::File::from(writer);
    let mut daemon = Builder::default()
        .options([&control, "-proxyfrom=127.0.0.1", "-maxpending=5000", &log_option(&scratch)])
        .prelude("ulimit -n 256")
        .stderr(writer.try_clone().unwrap())
        .start();
    let flags = fcntl(&writer, FcntlArg::F_GETFL).map(OFlag::from_bits_retain).unwrap();
    fcntl(&writer, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK)).unwrap();
    while writer.write(&[b'\n'; 512]).is_ok() {}
    while writer.write(b"\n").is_ok() {}
    fcntl(&writer, FcntlArg::F_SETFL(flags)).unwrap();
    upgrade_by(&control);
    assert!(daemon.session().report().is_some());
    let log = fs::read_to_string(scratch.join("log")).unwrap();
    assert!(log.contains("WARN: -maxpending=5000 can take"), "{log}");
    daemon.signal(Signal::SIGTERM);
    assert!(daemon.wait().success());
}

/// What is kept for lookups stays as large as it was, or clients could take that as well.
#[test]
fn an_upgrade_with_all_places_taken_accepts_no_more() {
    let scratch = Scratch::new();
    let control = format!("-control={}", scratch.join("ctl").display());
    let daemon = Builder::default()
        .options([&control, "-maxprocs=1", "-maxpending=500", "-maxperip=500"])
        .prelude("ulimit -n 100")
        .steps(&["drain"])
        .start();
    let _clients: Vec<_> = (0..150).map(|_| daemon.connect()).collect();
    daemon.wait_for_stderr("Too many open files");
    let before = daemon.descriptors();
    assert!(before < 90, "{before} of 100");
    for n in 2..=3 {
        upgrade_by(&control);
        wait_for("the shortage is found again", || daemon.count_stderr("Too many open files") >= n);
        assert!(daemon.descriptors() <= before + 2, "{} descriptors, {before} before", daemon.descriptors());
    }
}
