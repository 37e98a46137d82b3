//! `-pid`, its files, `-stop` and `-restart` on the real binary. Section 8.

mod common;

use std::ffi::CString;
use std::fs;
use std::net::TcpListener;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use common::daemon::{Background, lock_holder};
use common::*;
use nix::fcntl::OFlag;
use nix::libc;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{Pid, getpgid, getpid, pipe2};

fn with_pid_file(pid_file: &Path) -> Builder {
    Builder::default().option(format!("-pid={}", pid_file.display()))
}

/// Starts it in the background; the command says nothing and exits 0.
#[track_caller]
fn start(builder: Builder, pid_file: &Path) -> Background {
    let finished = builder.run();
    // First, so that it is ended if the rest fails.
    let daemon = lock_holder(pid_file).map(|_| Background::of(pid_file));
    assert_silent_success(finished);
    daemon.expect("a daemon holds the lock")
}

#[track_caller]
fn verb(pid_file: &Path, verb: &str) -> Finished {
    Builder::default().bare().option(format!("-pid={}", pid_file.display())).option(verb).run_options()
}

/// The lines on standard error, but for the one that says that this machine has no syslog.
fn said(finished: &Finished) -> Vec<&str> {
    finished.stderr.lines().filter(|line| !line.contains("/dev/log")).collect()
}

#[track_caller]
fn assert_silent_success(finished: Finished) {
    assert_eq!((finished.code(), finished.stdout.as_str(), said(&finished)), (0, "", vec![]));
}

#[track_caller]
fn stop(pid_file: &Path) {
    assert_silent_success(verb(pid_file, "-stop"));
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).expect("the file is there").mode()
}

/// The lock of a process that has ended and has left it to a child with which it shared its descriptors, until the
/// pipe is closed: so it stands for a moment if a daemon is killed while it starts a program.
fn lock_of_the_dead(pid_file: &Path) -> (i32, OwnedFd) {
    let path = CString::new(format!("{}.lock", pid_file.display())).unwrap();
    let (read, write) = pipe2(OFlag::O_CLOEXEC).unwrap();
    // SAFETY: integers, of which zero is a value.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = libc::F_WRLCK as i16;
    // SAFETY: the child makes system calls only, and ends.
    let holder = unsafe { libc::fork() };
    if holder == 0 {
        // SAFETY: descriptors, a string and a lock of this process.
        unsafe {
            let file = libc::open(path.as_ptr(), libc::O_RDWR | libc::O_CREAT, 0o600);
            let locked = libc::fcntl(file, libc::F_SETLK, &lock);
            libc::close(write.as_raw_fd());
            let child = libc::syscall(libc::SYS_clone, libc::CLONE_FILES | libc::SIGCHLD, 0, 0, 0, 0);
            if child == 0 {
                libc::read(read.as_raw_fd(), [0u8].as_mut_ptr().cast(), 1);
                libc::_exit(0);
            }
            libc::_exit(i32::from(locked != 0 || child < 0));
        }
    }
    assert_eq!(waitpid(Pid::from_raw(holder), None), Ok(WaitStatus::Exited(Pid::from_raw(holder), 0)));
    (holder, write)
}

#[test]
fn a_lock_that_outlives_its_process_is_waited_for() {
    let scratch = Scratch::new();
    let pid_file = scratch.join("t.pid");
    let (dead, pipe) = lock_of_the_dead(&pid_file);
    assert_eq!(lock_holder(&pid_file), Some(dead));
    let daemon = thread::scope(|scope| {
        let start = scope.spawn(|| with_pid_file(&pid_file).run());
        let lock = scratch.join("t.pid.lock");
        let looks = |process: &Path| {
            let files = fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
            let is_child = fs::read_link(process.join("exe")).is_ok_and(|exe| exe.ends_with("couriertcpd"));
            is_child && files.into_iter().any(|file| fs::read_link(file.path()).is_ok_and(|target| target == lock))
        };
        wait_for("the start looks at the lock", || {
            fs::read_dir("/proc").unwrap().flatten().any(|process| looks(&process.path()))
        });
        drop(pipe);
        assert_silent_success(start.join().unwrap());
        Background::of(&pid_file)
    });
    assert_ne!(daemon.pid(), dead);
}

/// A process that has nothing to do with the daemon. Killed when dropped.
struct Stranger(Child);

impl Stranger {
    fn new() -> Stranger {
        Stranger(Command::new("sleep").arg("1000").spawn().expect("run sleep"))
    }

    fn is_alive(&self) -> bool {
        procfs::is_alive(self.0.id() as i32)
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_command_returns_when_the_daemon_listens_and_file_names_it() {
    let scratch = Scratch::new();
    let pid_file = scratch.join("t.pid");
    let builder = with_pid_file(&pid_file).prelude("umask 022");
    let target = builder.target();
    let daemon = start(builder, &pid_file);
    let report = Client::connect(target).finish().report().expect("a handler ran");
    assert_eq!(report.parent(), daemon.pid());
    assert_eq!(fs::read_to_string(&pid_file).unwrap(), format!("{}\n", daemon.pid()));
    assert_eq!(mode(&pid_file), 0o100644);
    assert_eq!(mode(&scratch.join("t.pid.lock")), 0o100600);
    stop(&pid_file);
}

#[test]
fn the_daemon_is_detached_and_keeps_directory_and_umask() {
    let scratch = Scratch::new();
    let pid_file = scratch.join("t.pid");
    let builder = Builder::default()
        .directory(scratch.path())
        .option("-pid=./t.pid")
        // What the caller has open is not the daemon's to keep: somebody may wait for its end.
        .prelude("umask 027; exec 5</etc/passwd 6</etc/passwd");
    let target = builder.target();
    let daemon = start(builder, &pid_file);
    let pid = daemon.pid();
    let link = |of: &str| fs::read_link(format!("/proc/{pid}/{of}")).unwrap();
    for standard in ["fd/0", "fd/1", "fd/2"] {
        assert_eq!(link(standard), Path::new("/dev/null"));
    }
    for entry in fs::read_dir(format!("/proc/{pid}/fd")).unwrap() {
        assert_ne!(fs::read_link(entry.unwrap().path()).unwrap(), Path::new("/etc/passwd"));
    }
    assert_eq!(getpgid(Some(Pid::from_raw(pid))), Ok(Pid::from_raw(pid)));
    assert_ne!(procfs::status(pid, "PPid").unwrap(), getpid().to_string());
    assert_eq!(procfs::status(pid, "Umask").unwrap(), "0027");
    assert_eq!(link("cwd"), fs::canonicalize(scratch.path()).unwrap());
    assert_eq!(mode(&pid_file), 0o100640);
    let report = Client::connect(target).finish().report().expect("a handler ran");
    assert_eq!(report.status["Umask"], "0027");
    assert_eq!(report.cwd, fs::canonicalize(scratch.path()).unwrap().to_str().unwrap());
    // A relative FILE is where it was for the command that stops it.
    assert_silent_success(
        Builder::default().bare().directory(scratch.path()).options(["-pid=t.pid", "-stop"]).run_options(),
    );
    assert!(!daemon.is_alive());
    assert!(!pid_file.exists());
}

#[test]
fn nobody_waits_for_what_the_daemon_keeps_open() {
    for resolver in [&[][..], &["-resolver=nss:1"]] {
        let scratch = Scratch::new();
        let pid_file = scratch.join("t.pid");
        // The shell reads until no process has the pipe any more, the daemon or a helper of its.
        let finished = with_pid_file(&pid_file)
            .options(resolver)
            .prelude("exec timeout 15 sh -c 'said=$(\"$@\" 2>&1 3>&1)' sh \"$@\"")
            .run();
        let _daemon = Background::of(&pid_file);
        assert_eq!(finished.code(), 0, "{resolver:?}");
        stop(&pid_file);
    }
}

#[test]
fn whatever_keeps_it_from_starting_is_told_to_the_caller() {
    let scratch = Scratch::new();
    let pid_file = scratch.join("t.pid");
    let busy = TcpListener::bind((fresh_ip(), 0)).unwrap();
    let busy_list = common::daemon::list_entry(busy.local_addr().unwrap());
    let option = |option: &str| with_pid_file(&pid_file).option(option);
    for (builder, names) in [
        (option("-user=nosuchuser"), "nosuchuser"),
        (option("-group=nosuchgroup"), "nosuchgroup"),
        (option("-access=/nonexistent/access"), "/nonexistent/access"),
        (option("-stderr=/nonexistent/log"), "/nonexistent/log"),
        (option("-stderrlogger=/nonexistent/logger"), "/nonexistent/logger"),
        (option("-maxprocs=x"), "-maxprocs"),
        (with_pid_file(&pid_file).handler(["/nonexistent/program"]), "/nonexistent/program"),
        (with_pid_file(&pid_file).list(&busy_list), busy_list.as_str()),
        (with_pid_file(&scratch.join("nodir/t.pid")), "nodir/t.pid.lock"),
        (with_pid_file(scratch.path()), scratch.path().to_str().unwrap()),
    ] {
        let finished = builder.run();
        assert_eq!(finished.code(), 1, "{finished:?}");
        assert_eq!(said(&finished).len(), 1, "{finished:?}");
        assert!(finished.stderr.contains(names), "{finished:?}");
        assert!(!pid_file.exists(), "{names}");
        assert_eq!(lock_holder(&pid_file), None, "{names}");
    }
    let _ = fs::remove_file(scratch.path().with_extension("lock"));
}

#[test]
fn a_second_start_changes_nothing() {
    let scratch = Scratch::new();
    let pid_file = scratch.join("t.pid");
    let daemon = start(with_pid_file(&pid_file), &pid_file);
    // Another address, and options that would keep a first one from starting.
    let second = with_pid_file(&pid_file).option("-access=/nonexistent/access");
    let target = second.target();
    let finished = second.run();
    assert_eq!((finished.code(), said(&finished).len()), (0, 1), "{finished:?}");
    assert!(finished.stderr.contains("already running"), "{finished:?}");
    assert!(finished.stderr.contains(&daemon.pid().to_string()), "{finished:?}");
    assert_eq!(lock_holder(&pid_file), Some(daemon.pid()));
    assert_eq!(fs::read_to_string(&pid_file).unwrap(), format!("{}\n", daemon.pid()));
    assert!(Client::try_connect(None, target).is_err());
}

#[test]
fn of_many_starts_at_once_one_daemon_comes() {
    let scratch = Scratch::new();
    let pid_file = scratch.join("t.pid");
    let target = fresh_address();
    let finished: Vec<Finished> = std::thread::scope(|scope| {
        let start = || scope.spawn(|| with_pid_file(&pid_file).address(target).run());
        let commands: Vec<_> = (0..5).map(|_| start()).collect();
        commands.into_iter().map(|command| command.join().unwrap()).collect()
    });
    assert!(finished.iter().all(|f| f.code() == 0), "{finished:?}");
    assert_eq!(finished.iter().filter(|f| said(f).is_empty()).count(), 1, "{finished:?}");
    let daemon = Background::of(&pid_file);
    wait_for("the one daemon listens", || procfs::listening(daemon.pid()).contains(&target));
    wait_for("FILE names it", || fs::read_to_string(&pid_file).ok() == Some(format!("{}\n", daemon.pid())));
    stop(&pid_file);
}

#[test]
fn a_stale_file_hinders_nothing_and_harms_nobody() {
    let scratch = Scratch::new();
    let pid_file = scratch.join("t.pid");
    let stranger = Stranger::new();
    let target = scratch.file("target", "precious");
    for content in [format!("{}\n", stranger.0.id()), "4194304000\n".into(), "rubbish".into(), String::new()] {
        fs::write(&pid_file, &content).unwrap();
        for name in ["-stop", "-restart"] {
            assert_silent_success(verb(&pid_file, name));
        }
        assert!(stranger.is_alive(), "{content:?}");
        let daemon = start(with_pid_file(&pid_file), &pid_file);
        assert_eq!(fs::read_to_string(&pid_file).unwrap(), format!("{}\n", daemon.pid()));
        stop(&pid_file);
    }
    symlink(&target, &pid_file).unwrap();
    let daemon = start(with_pid_file(&pid_file), &pid_file);
    assert!(fs::symlink_metadata(&pid_file).unwrap().is_file());
    assert_eq!(fs::read_to_string(&pid_file).unwrap(), format!("{}\n", daemon.pid()));
    assert_eq!(fs::read_to_string(target).unwrap(), "precious");
    stop(&pid_file);
}

#[test]
fn nothing_running_is_no_failure() {
    let scratch = Scratch::new();
    for name in ["-stop", "-restart"] {
        assert_silent_success(verb(&scratch.join("never.pid"), name));
        assert_silent_success(verb(&scratch.join("nodir/never.pid"), name));
    }
    assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 0, "asking makes no files");
}

#[test]
fn stop_returns_when_the_daemon_is_gone() {
    let scratch = Scratch::new();
    let pid_file = scratch.join("t.pid");
    let builder = with_pid_file(&pid_file);
    let target = builder.target();
    for _ in 0..10 {
        let daemon = start(with_pid_file(&pid_file).address(target), &pid_file);
        stop(&pid_file);
        assert!(!daemon.is_alive());
        assert!(!pid_file.exists());
        assert!(Client::try_connect(None, target).is_err());
    }
    stop(&pid_file);
}

#[test]
fn a_daemon_that_does_not_end_is_killed_after_ten_seconds() {
    let scratch = Scratch::new();
    let pid_file = scratch.join("t.pid");
    let daemon = start(with_pid_file(&pid_file), &pid_file);
    kill(Pid::from_raw(daemon.pid()), Signal::SIGSTOP).unwrap();
    let begun = Instant::now();
    stop(&pid_file);
    let took = begun.elapsed();
    assert!(!daemon.is_alive());
    assert!(took >= Duration::from_secs(10) && took < Duration::from_secs(15), "{took:?}");
}

#[test]
fn the_holder_of_the_lock_is_signalled_whatever_file_says() {
    let scratch = Scratch::new();
    let pid_file = scratch.join("t.pid");
    let stranger = Stranger::new();
    for wrong in [Some(format!("{}\n", stranger.0.id())), None] {
        let daemon = start(with_pid_file(&pid_file), &pid_file);
        match &wrong {
            Some(text) => fs::write(&pid_file, text).unwrap(),
            None => fs::remove_file(&pid_file).unwrap(),
        }
        assert_silent_success(verb(&pid_file, "-restart"));
        assert!(daemon.is_alive());
        stop(&pid_file);
        assert!(!daemon.is_alive());
        assert!(stranger.is_alive());
    }
}

#[test]
fn it_starts_where_there_is_no_proc() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: takes root to take /proc away");
        return;
    }
    let scratch = Scratch::new();
    let pid_file = scratch.join("t.pid");
    let builder = with_pid_file(&pid_file).handler(["/bin/echo", "here"]);
    let address = builder.target();
    let daemon =
        start(builder.prelude("exec unshare -m -- sh -c 'umount -l /proc && exec \"$@\"' sh \"$@\""), &pid_file);
    assert_eq!(Client::connect(address).finish().text(), "here\n");
    // The one thing that needs it.
    let finished = verb(&pid_file, "-upgrade");
    assert_eq!(finished.code(), 1, "{finished:?}");
    assert!(finished.stderr.contains("its own program is not known"), "{finished:?}");
    assert!(daemon.is_alive());
    stop(&pid_file);
}

#[test]
fn a_holder_that_has_no_number_here_is_told_and_not_signalled() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: takes root to make a pid namespace");
        return;
    }
    let scratch = Scratch::new();
    let pid_file = scratch.join("t.pid");
    let daemon = start(with_pid_file(&pid_file), &pid_file);
    for name in ["-stop", "-restart"] {
        let finished = Builder::default()
            .bare()
            .prelude("exec unshare --pid --fork -- \"$@\"")
            .option(format!("-pid={}", pid_file.display()))
            .option(name)
            .run_options();
        assert_eq!((finished.code(), said(&finished).len()), (1, 1), "{finished:?}");
        assert!(finished.stderr.contains("t.pid.lock"), "{finished:?}");
        assert!(daemon.is_alive());
    }
    stop(&pid_file);
}

#[test]
fn a_lock_that_may_not_be_read_is_told() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: takes root to be two users");
        return;
    }
    let scratch = Scratch::new();
    let pid_file = scratch.join("t.pid");
    let daemon = start(with_pid_file(&pid_file), &pid_file);
    let program = Program::Ours.path().unwrap();
    let copy = scratch.join("program");
    fs::copy(program, &copy).unwrap();
    for name in ["-stop", "-restart"] {
        let output = Command::new("setpriv")
            .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
            .arg(&copy)
            .arg(format!("-pid={}", pid_file.display()))
            .arg(name)
            .output()
            .expect("run setpriv");
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(stderr.contains("t.pid.lock") && stderr.lines().count() == 1, "{stderr}");
    }
    assert!(daemon.is_alive());
    stop(&pid_file);
}

#[test]
fn a_program_that_outlives_the_daemon_does_not_hold_the_lock() {
    let scratch = Scratch::new();
    let pid_file = scratch.join("t.pid");
    let target = fresh_address();
    let builder = || with_pid_file(&pid_file).address(target).steps(&["own-group", "say:here", "echo"]);
    let first = start(builder(), &pid_file);
    let mut client = Client::connect(target);
    assert!(client.read_until("here\n"));
    kill(Pid::from_raw(first.pid()), Signal::SIGKILL).unwrap();
    wait_for("the lock is free", || lock_holder(&pid_file).is_none());
    // FILE is stale, the handler runs, the port is the same.
    let second = start(builder(), &pid_file);
    assert_ne!(first.pid(), second.pid());
    stop(&pid_file);
    client.send(b"still alive\n");
    assert!(client.read_until("still alive\n"));
    client.half_close();
    assert_eq!(client.finish().end, End::Eof);
}

#[test]
fn without_pid_it_stays_in_the_foreground_in_a_group_of_its_own() {
    let scratch = Scratch::new();
    let target = fresh_address();
    let log = scratch.join("log");
    let handler = handler::command(&["stderr:hello", "report"]);
    let mut command = Command::new(Program::Ours.path().unwrap());
    command.args(["-nodnslookup", "-noidentlookup"]).arg(common::daemon::list_entry(target)).args(handler);
    command.stdin(Stdio::null()).stderr(fs::File::create(&log).unwrap());
    // In the group of whoever starts it, which must get none of its signals.
    let mut daemon = Stranger(command.process_group(getpgid(None).unwrap().as_raw()).spawn().unwrap());
    let pid = daemon.0.id() as i32;
    wait_for("it listens", || procfs::listening(pid).contains(&target));
    assert_eq!(getpgid(Some(Pid::from_raw(pid))), Ok(Pid::from_raw(pid)));
    let report = Client::connect(target).finish().report().expect("a handler ran");
    assert_eq!((report.parent(), report.pgrp), (pid, pid));
    assert_eq!(report.descriptors[&2].target, log.to_str().unwrap());
    assert_eq!(fs::read_to_string(&log).unwrap(), "hello\n");
    kill(Pid::from_raw(pid), Signal::SIGTERM).unwrap();
    wait_for("it ends", || daemon.0.try_wait().unwrap().is_some_and(|status| status.success()));
}

#[test]
fn the_references_verbs_and_ours_work_on_each_others_daemons() {
    if Program::Theirs.path().is_none() {
        eprintln!("skipped: the reference is not here");
        return;
    }
    for (daemon_is, command_is) in [(Program::Ours, Program::Theirs), (Program::Theirs, Program::Ours)] {
        let scratch = Scratch::new();
        let pid_file = scratch.join("t.pid");
        let target = fresh_address();
        let by = |program: Program| with_pid_file(&pid_file).program(program).address(target);
        let verb = |name: &str| {
            let builder = Builder::default().bare().program(command_is);
            builder.option(format!("-pid={}", pid_file.display())).option(name).run_options()
        };
        let daemon = start(by(daemon_is).steps(&["say:here", "echo"]), &pid_file);
        let mut client = Client::connect(target);
        assert!(client.read_until("here\n"));
        assert_eq!(by(command_is).run().code(), 0);
        assert_eq!(lock_holder(&pid_file), Some(daemon.pid()), "{command_is:?} starts no second one");
        assert_silent_success(verb("-restart"));
        client.send(b"alive\n");
        assert!(client.read_until("alive\n"), "sessions live through {command_is:?} -restart");
        assert_eq!(lock_holder(&pid_file), Some(daemon.pid()));
        assert_silent_success(verb("-stop"));
        assert!(!daemon.is_alive(), "{command_is:?} -stop");
        assert_eq!(client.finish().end, End::Eof);
        assert_eq!(lock_holder(&pid_file), None);
    }
}
