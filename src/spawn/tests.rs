//! What a child finds, and what keeps one from starting.

use std::io::{Read, Write, stdin};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use nix::fcntl::{FdFlag, OFlag};
use nix::sys::signal::{SigmaskHow, Signal};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::pipe2;

use super::*;

fn shell(script: &str) -> Spawner {
    let args = ["-c", script, "zero", "one"].map(OsString::from).to_vec();
    Spawner::handler(&Handler { program: "/bin/sh".into(), args }).unwrap()
}

fn strings<'a>(texts: &[&'a CStr]) -> Strings<'a> {
    Strings::new(texts.iter().copied(), texts.len())
}

/// What the script says on descriptor 1 when it is run with `stderr` and reads `input`.
fn run(script: &str, stderr: StderrFor<'_>, envp: &[&CStr], input: &[u8]) -> String {
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let pid = shell(script).spawn(theirs.as_fd(), stderr, &strings(envp)).unwrap();
    drop(theirs);
    ours.write_all(input).unwrap();
    ours.shutdown(Shutdown::Write).unwrap();
    let mut output = String::new();
    ours.read_to_string(&mut output).unwrap();
    assert_eq!(waitpid(pid, None).unwrap(), WaitStatus::Exited(pid, 0));
    output
}

fn ignored_here() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap();
    u64::from_str_radix(mask.trim(), 16).unwrap()
}

#[test]
fn the_connection_is_input_and_output() {
    assert_eq!(run("cat; echo \"$0 $1\"", StderrFor::Inherit, &[], b"text\n"), "text\nzero one\n");
}

#[test]
fn the_environment_is_what_is_given() {
    let path = CString::new("PATH=/usr/bin:/bin").unwrap();
    let variable = CString::new("TCPREMOTEIP=::ffff:192.0.2.1").unwrap();
    let output = run("exec env", StderrFor::Inherit, &[&path, &variable], b"");
    let mut lines: Vec<_> =
        output.lines().filter(|line| !line.starts_with("PWD=") && !line.starts_with("_=")).collect();
    lines.sort_unstable();
    assert_eq!(lines, ["PATH=/usr/bin:/bin", "TCPREMOTEIP=::ffff:192.0.2.1"]);
}

#[test]
fn the_child_has_three_descriptors() {
    // A close-on-exec one that must not show up, and one as standard error.
    let null = sys::dev_null().unwrap();
    // The test drops the directory that the shell itself had open for its pattern.
    let listing = "for n in /proc/$$/fd/*; do [ -h $n ] && echo ${n##*/}; done; true";
    let output = run(listing, StderrFor::Descriptor(null.as_fd()), &[], b"");
    let mut numbers: Vec<i32> = output.lines().map(|line| line.parse().unwrap()).collect();
    // What whoever runs the tests left open to all its children is not ours to answer for.
    numbers.retain(|&number| number <= 2 || sys::descriptor_flags(number) != Ok(FdFlag::empty()));
    numbers.sort_unstable();
    assert_eq!(numbers, [0, 1, 2]);
    let target = "readlink /proc/$$/fd/2";
    let path = CString::new("PATH=/usr/bin:/bin").unwrap();
    assert_eq!(run(target, StderrFor::Descriptor(null.as_fd()), &[&path], b""), "/dev/null\n");
    assert_eq!(run("echo err >&2", StderrFor::Connection, &[], b""), "err\n");
}

#[test]
fn a_descriptor_that_children_are_to_have_is_copied_wherever_it_stands() {
    const NUMBER: RawFd = 700;
    let null = sys::dev_null().unwrap();
    let high = nix::fcntl::fcntl(&null, nix::fcntl::FcntlArg::F_DUPFD(NUMBER)).unwrap();
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let path = CString::new("PATH=/usr/bin:/bin").unwrap();
    let spawner = shell(&format!("readlink /proc/$$/fd/{high}")).with_descriptor(high);
    let pid = spawner.spawn(theirs.as_fd(), StderrFor::Inherit, &strings(&[&path])).unwrap();
    drop(theirs);
    nix::unistd::close(high).unwrap();
    let mut output = String::new();
    ours.read_to_string(&mut output).unwrap();
    assert_eq!((output.as_str(), waitpid(pid, None).unwrap()), ("/dev/null\n", WaitStatus::Exited(pid, 0)));
}

/// Has the system refuse this thread, and what it starts, the calls `numbers` with `errno`; and clone
/// with any of `flags`. That no thread can be made then either is the reason to ask it last.
fn refuse_calls(numbers: &[libc::c_long], flags: c_int, errno: Errno) {
    let step = |code: u32, jt, jf, k| libc::sock_filter { code: code as u16, jt, jf, k };
    let load = |offset| step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, offset);
    let jump = |test, k, jf| step(libc::BPF_JMP | test | libc::BPF_K, 0, jf, k);
    let give = |verdict| step(libc::BPF_RET | libc::BPF_K, 0, 0, verdict);
    let refuse = give(libc::SECCOMP_RET_ERRNO | errno as u32);
    // struct seccomp_data: the number first, the arguments from byte 16 on, of which clone's first is the flags.
    let flags_at = if cfg!(target_endian = "big") { 20 } else { 16 };
    let mut filter = vec![load(0)];
    for &number in numbers {
        filter.extend([jump(libc::BPF_JEQ, number as u32, 1), refuse]);
    }
    filter.extend([
        jump(libc::BPF_JEQ, libc::SYS_clone as u32, 3),
        load(flags_at),
        jump(libc::BPF_JSET, flags as u32, 1),
        refuse,
        give(libc::SECCOMP_RET_ALLOW),
    ]);
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: integers.
    assert_eq!(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }, 0);
    // SAFETY: the filter outlives the call, which copies it.
    let set = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, ptr::from_ref(&program)) };
    assert_eq!(set, 0, "{}", Errno::last());
}

#[test]
fn a_sandbox_that_forbids_to_part_with_the_table_forbids_no_start() {
    const PART: &[libc::c_long] = &[libc::SYS_close_range, libc::SYS_unshare];
    for (numbers, flags, errno, shares) in [
        (&PART[..1], 0, Errno::ENOSYS, true),
        (&PART[..1], 0, Errno::EPERM, true),
        (PART, 0, Errno::ENOSYS, false),
        (PART, 0, Errno::EPERM, false),
        (&[], libc::CLONE_FILES, Errno::EINVAL, false),
    ] {
        // What is refused is so for this thread alone.
        let check = move || {
            let null = sys::dev_null().unwrap();
            let listing = "for n in /proc/$$/fd/*; do [ -h $n ] && echo ${n##*/}; done; true";
            let spawner = shell(listing);
            refuse_calls(numbers, flags, errno);
            for _ in 0..2 {
                let (mut ours, theirs) = UnixStream::pair().unwrap();
                let pid = spawner.spawn(theirs.as_fd(), StderrFor::Descriptor(null.as_fd()), &strings(&[])).unwrap();
                drop(theirs);
                let mut output = String::new();
                ours.read_to_string(&mut output).unwrap();
                assert_eq!(waitpid(pid, None).unwrap(), WaitStatus::Exited(pid, 0));
                let has = |number: RawFd| output.lines().any(|line| line == number.to_string());
                let stays = [null.as_raw_fd(), ours.as_raw_fd()].into_iter().any(has);
                assert!((0..3).all(has) && !stays, "{numbers:?} {errno} {output}");
                assert_eq!(spawner.shares.get(), shares, "{numbers:?} {errno}");
            }
        };
        std::thread::spawn(check).join().unwrap();
    }
}

#[test]
fn signals_are_unblocked_and_those_ignored_stay_so() {
    let blocked: SigSet = [Signal::SIGHUP, Signal::SIGUSR1].into_iter().collect();
    let mut before = SigSet::empty();
    nix::sys::signal::sigprocmask(SigmaskHow::SIG_BLOCK, Some(&blocked), Some(&mut before)).unwrap();
    let path = CString::new("PATH=/usr/bin:/bin").unwrap();
    let output = run("exec grep -E '^Sig(Blk|Ign)' /proc/self/status", StderrFor::Inherit, &[&path], b"");
    nix::sys::signal::sigprocmask(SigmaskHow::SIG_SETMASK, Some(&before), None).unwrap();
    let masks: Vec<u64> =
        output.lines().map(|line| u64::from_str_radix(line.split_whitespace().nth(1).unwrap(), 16).unwrap()).collect();
    assert_eq!(masks.len(), 2, "{output}");
    assert_eq!(masks[0], 0, "blocked");
    // SIGPIPE is, by the Rust runtime; QUIT and the like may be, by whoever runs the tests.
    assert_eq!(masks[1], ignored_here(), "ignored");
}

#[test]
fn a_program_that_cannot_be_executed_is_named() {
    let of = |program: &str| Spawner::handler(&Handler { program: program.into(), args: Vec::new() }).unwrap();
    let (ours, _theirs) = UnixStream::pair().unwrap();
    for (program, errno, text) in [
        ("/nonexistent/program", Errno::ENOENT, "/nonexistent/program: cannot execute: No such file or directory"),
        ("/etc/passwd", Errno::EACCES, "/etc/passwd: cannot execute: Permission denied"),
        ("/etc", Errno::EACCES, "/etc: cannot execute: Permission denied"),
        ("sh", Errno::ENOENT, "sh: cannot execute: No such file or directory"),
    ] {
        assert_eq!(of(program).spawn(ours.as_fd(), StderrFor::Inherit, &strings(&[])), Err(errno), "{program}");
        assert_eq!(of(program).check().unwrap_err().to_string(), text);
    }
    assert!(of("/bin/sh").check().is_ok());
    let nul = Spawner::handler(&Handler { program: "/bin/sh".into(), args: vec!["a\0b".into()] });
    assert!(nul.is_err());
}

#[test]
fn a_standard_descriptor_is_no_connection() {
    assert_eq!(shell("").spawn(stdin().as_fd(), StderrFor::Inherit, &strings(&[])), Err(Errno::EBADF));
}

#[test]
fn the_logger_leads_its_own_group_and_reads_the_pipe() {
    let (read, write) = pipe2(OFlag::O_CLOEXEC).unwrap();
    let null = sys::dev_null().unwrap();
    // The one argument is the file that the group is written to.
    let directory = std::env::temp_dir().join(format!("spawn-{}", std::process::id()));
    fs::create_dir_all(&directory).unwrap();
    let program = directory.join("logger");
    fs::write(&program, "#!/bin/sh\nread line\necho \"$line $(ps -o pgid= -p $$) $$\" >\"$1\"\n").unwrap();
    fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let result = directory.join("result");
    let logger = LoggerProgram { program: program.into(), name: result.clone().into() };
    let path = CString::new("PATH=/usr/bin:/bin").unwrap();
    let pid = Spawner::logger(&logger).unwrap().spawn_logger(read.as_fd(), null.as_fd(), &strings(&[&path])).unwrap();
    fs::File::from(write).write_all(b"hello\n").unwrap();
    assert_eq!(waitpid(pid, None).unwrap(), WaitStatus::Exited(pid, 0));
    let text = fs::read_to_string(&result).unwrap();
    assert_eq!(text.split_whitespace().collect::<Vec<_>>(), ["hello", &pid.to_string(), &pid.to_string()]);
    fs::remove_dir_all(directory).unwrap();
}
