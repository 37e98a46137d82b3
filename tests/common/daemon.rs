//! Starts the daemon, knows when it is ready, and ends it with all it started.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Instant;

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

use super::{Client, DEADLINE, Program, Received, Scratch, fresh_address, handler, procfs, wait_until};

/// A daemon to be started. Without more: ours, in the foreground, on a fresh address of
/// 127.0.0.0/8, without lookups, with an empty environment, and the reporting handler.
#[derive(Debug)]
pub struct Builder {
    program: Program,
    /// Where clients go. LIST names it, unless [`Builder::list`] says otherwise.
    address: SocketAddr,
    options: Vec<OsString>,
    list: Option<OsString>,
    handler: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    prelude: Option<String>,
    directory: Option<PathBuf>,
    stderr: Option<File>,
    stdin: Option<OwnedFd>,
    stdout: Option<File>,
}

impl Default for Builder {
    fn default() -> Self {
        Builder {
            program: Program::under_test(),
            address: fresh_address(),
            options: vec!["-nodnslookup".into(), "-noidentlookup".into()],
            list: None,
            handler: handler::command(&["report"]),
            environment: Vec::new(),
            prelude: None,
            directory: None,
            stderr: None,
            stdin: None,
            stdout: None,
        }
    }
}

impl Builder {
    pub fn program(mut self, program: Program) -> Self {
        self.program = program;
        self
    }

    /// Where clients go, and what LIST names.
    pub fn address(mut self, address: SocketAddr) -> Self {
        self.address = address;
        self
    }

    /// Adds an option.
    pub fn option(mut self, option: impl AsRef<OsStr>) -> Self {
        self.options.push(option.as_ref().to_owned());
        self
    }

    /// Adds options.
    pub fn options<O: AsRef<OsStr>>(mut self, options: impl IntoIterator<Item = O>) -> Self {
        self.options.extend(options.into_iter().map(|o| o.as_ref().to_owned()));
        self
    }

    /// Takes away all options, the two that switch lookups off too.
    pub fn bare(mut self) -> Self {
        self.options.clear();
        self
    }

    /// LIST as it stands.
    pub fn list(mut self, list: impl AsRef<OsStr>) -> Self {
        self.list = Some(list.as_ref().to_owned());
        self
    }

    /// The handler does these steps, see [`handler`].
    pub fn steps(self, steps: &[&str]) -> Self {
        self.handler(handler::command(steps))
    }

    /// PROGRAM and its arguments.
    pub fn handler<A: AsRef<OsStr>>(mut self, command: impl IntoIterator<Item = A>) -> Self {
        self.handler = command.into_iter().map(|a| a.as_ref().to_owned()).collect();
        self
    }

    /// A variable of the daemon's own environment.
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.environment.push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Shell commands before the daemon is exec'd in the same process: limits, umask, traps,
    /// redirections.
    pub fn prelude(mut self, commands: &str) -> Self {
        self.prelude = Some(commands.to_owned());
        self
    }

    pub fn directory(mut self, directory: impl AsRef<Path>) -> Self {
        self.directory = Some(directory.as_ref().to_owned());
        self
    }

    /// Standard error of the daemon; else it is kept for [`Daemon::stderr`].
    pub fn stderr(mut self, file: File) -> Self {
        self.stderr = Some(file);
        self
    }

    /// Standard input of the daemon; else /dev/null.
    pub fn stdin(mut self, descriptor: impl Into<OwnedFd>) -> Self {
        self.stdin = Some(descriptor.into());
        self
    }

    /// Standard output of a daemon in the foreground; else /dev/null.
    pub fn stdout(mut self, file: File) -> Self {
        self.stdout = Some(file);
        self
    }

    pub fn target(&self) -> SocketAddr {
        self.address
    }

    fn command(&self, arguments: &[OsString]) -> Command {
        let program = self.program.path().expect("the reference is needed and not here");
        let mut command = match &self.prelude {
            None => Command::new(program),
            Some(prelude) => {
                let mut shell = Command::new("/bin/sh");
                shell.arg("-c").arg(format!("{prelude}\nexec \"$@\"")).arg("sh").arg(program);
                shell
            }
        };
        command.args(arguments);
        command.env_clear().envs(self.program.environment()).envs(self.environment.iter().map(|(n, v)| (n, v)));
        let stdin = self.stdin.as_ref().map(|descriptor| descriptor.try_clone().expect("copy a descriptor"));
        let stdout = self.stdout.as_ref().map(|file| file.try_clone().expect("copy a descriptor"));
        command.stdin(stdin.map_or_else(Stdio::null, Stdio::from)).stdout(stdout.map_or_else(Stdio::null, Stdio::from));
        command.process_group(0);
        if let Some(directory) = &self.directory {
            command.current_dir(directory);
        }
        command
    }

    fn arguments(&self) -> Vec<OsString> {
        let list = || self.list.clone().unwrap_or_else(|| list_entry(self.address).into());
        let mut arguments = self.options.clone();
        arguments.push(list());
        arguments.extend(self.handler.iter().cloned());
        arguments
    }

    /// Starts it in the foreground and waits until it listens.
    #[track_caller]
    pub fn start(self) -> Daemon {
        match self.try_start() {
            Ok(daemon) => daemon,
            Err(finished) => panic!("the daemon did not start: {finished:?}"),
        }
    }

    /// Like [`Builder::start`]; Err: it ended instead.
    pub fn try_start(mut self) -> Result<Daemon, Finished> {
        let scratch = Scratch::new();
        let log = scratch.join("stderr");
        let stderr = self.stderr.take().unwrap_or_else(|| {
            File::options().create(true).append(true).open(&log).expect("make the log of the daemon")
        });
        let child = self.command(&self.arguments()).stderr(stderr).spawn().expect("start the daemon");
        let mut daemon = Daemon { child, address: self.address, log, status: None, scratch };
        let pid = daemon.pid();
        let ready = wait_until(DEADLINE, || daemon.has_ended() || !procfs::listening(pid).is_empty());
        match daemon.status {
            None if ready => Ok(daemon),
            None => panic!("the daemon neither listens nor ends; it says: {}", daemon.stderr()),
            Some(status) => Err(Finished { status, stdout: String::new(), stderr: daemon.stderr() }),
        }
    }

    /// Runs the command as [`Builder::start`] would, for one that returns: a start with `-pid`, or
    /// one that fails.
    #[track_caller]
    pub fn run(self) -> Finished {
        let arguments = self.arguments();
        self.run_with(&arguments)
    }

    /// Runs the program with nothing but its options: `-stop`, `-help`.
    #[track_caller]
    pub fn run_options(self) -> Finished {
        let arguments = self.options.clone();
        self.run_with(&arguments)
    }

    #[track_caller]
    fn run_with(self, arguments: &[OsString]) -> Finished {
        // Files, not pipes: a daemon that goes on in the background may keep them open.
        let scratch = Scratch::new();
        let create = |name: &str| File::create(scratch.join(name)).expect("make a file for output");
        let read = |name: &str| String::from_utf8_lossy(&std::fs::read(scratch.join(name)).unwrap_or_default()).into();
        let mut command = self.command(arguments);
        let mut child = command.stdout(create("out")).stderr(create("err")).spawn().expect("start the program");
        let mut status = None;
        if !wait_until(DEADLINE, || {
            status = child.try_wait().expect("wait for the program");
            status.is_some()
        }) {
            let _ = killpg(Pid::from_raw(child.id() as i32), Signal::SIGKILL);
            let _ = child.wait();
            panic!("{arguments:?} does not return; it says: {}", read("err"));
        }
        Finished { status: status.expect("polled until there"), stdout: read("out"), stderr: read("err") }
    }
}

/// `ADDRESS.PORT`, or the port alone for the wildcard address.
pub fn list_entry(address: SocketAddr) -> String {
    match address.ip() {
        ip if ip.is_unspecified() => address.port().to_string(),
        ip => format!("{ip}.{}", address.port()),
    }
}

/// A program that has ended.
#[derive(Debug)]
pub struct Finished {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Finished {
    /// The exit status; a signal's number and 128, as shells have it.
    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or_else(|| 128 + self.status.signal().unwrap_or(0))
    }
}

/// A daemon in the foreground. Killed and reaped when dropped, with its process group.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    address: SocketAddr,
    log: PathBuf,
    /// Set once it has been reaped.
    status: Option<ExitStatus>,
    /// Holds the log.
    scratch: Scratch,
}

impl Daemon {
    /// Ours, with these options.
    #[track_caller]
    pub fn start<O: AsRef<OsStr>>(options: impl IntoIterator<Item = O>) -> Daemon {
        Builder::default().options(options).start()
    }

    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// Where clients go.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it, and handlers with its standard error, have written so far.
    pub fn stderr(&self) -> String {
        let mut bytes = Vec::new();
        if let Ok(mut file) = File::open(&self.log) {
            let _ = file.read_to_end(&mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Waits until standard error holds `text`.
    #[track_caller]
    pub fn wait_for_stderr(&self, text: &str) {
        if !wait_until(DEADLINE, || self.stderr().contains(text)) {
            panic!("standard error never said {text:?}, but: {}", self.stderr());
        }
    }

    /// Lines of standard error that hold `text`.
    pub fn count_stderr(&self, text: &str) -> usize {
        self.stderr().lines().filter(|line| line.contains(text)).count()
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid()), signal).expect("signal the daemon");
    }

    #[track_caller]
    pub fn connect(&self) -> Client {
        Client::connect(self.address)
    }

    #[track_caller]
    pub fn connect_from(&self, from: IpAddr) -> Client {
        Client::connect_from(from, self.address)
    }

    /// One connection from start to end, the client sends nothing.
    #[track_caller]
    pub fn session(&self) -> Received {
        self.connect().finish()
    }

    /// One connection from `from`.
    #[track_caller]
    pub fn session_from(&self, from: IpAddr) -> Received {
        self.connect_from(from).finish()
    }

    pub fn has_ended(&mut self) -> bool {
        if self.status.is_none() {
            self.status = self.child.try_wait().expect("wait for the daemon");
        }
        self.status.is_some()
    }

    /// Waits for its end.
    #[track_caller]
    pub fn wait(&mut self) -> ExitStatus {
        assert!(wait_until(DEADLINE, || self.has_ended()), "the daemon does not end");
        self.status.expect("polled until there")
    }

    pub fn threads(&self) -> usize {
        procfs::threads(self.pid())
    }

    pub fn descriptors(&self) -> usize {
        procfs::descriptors(self.pid())
    }

    pub fn children(&self) -> Vec<i32> {
        procfs::children(self.pid())
    }

    /// Waits until no child is left, running or not reaped.
    #[track_caller]
    pub fn wait_for_no_children(&self) {
        self.wait_for_no_children_but(0);
    }

    /// Waits until no more than `few` children are left: a logger, helpers.
    #[track_caller]
    pub fn wait_for_no_children_but(&self, few: usize) {
        if !wait_until(DEADLINE, || self.children().len() <= few) {
            panic!("children remain: {:?}", self.children());
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // The group outlives the daemon while handlers are in it.
        let _ = killpg(Pid::from_raw(self.pid()), Signal::SIGKILL);
        if self.status.is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        if std::thread::panicking() {
            eprintln!("the daemon said: {}", self.stderr());
        }
    }
}

/// The process that holds the write lock on `FILE.lock`, so the daemon of that pid file.
pub fn lock_holder(pid_file: &Path) -> Option<i32> {
    let mut path = pid_file.as_os_str().to_owned();
    path.push(".lock");
    let file = File::options().read(true).write(true).open(path).ok()?;
    let mut lock = nix::libc::flock {
        l_type: nix::libc::F_WRLCK as i16,
        l_whence: nix::libc::SEEK_SET as i16,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    nix::fcntl::fcntl(&file, nix::fcntl::FcntlArg::F_GETLK(&mut lock)).ok()?;
    (lock.l_type != nix::libc::F_UNLCK as i16).then_some(lock.l_pid)
}

/// A daemon in the background, known by its pid file. Killed when dropped, with its group.
#[derive(Debug)]
pub struct Background {
    pid_file: PathBuf,
    pid: i32,
}

impl Background {
    /// The daemon that a command with `-pid=FILE` left behind.
    #[track_caller]
    pub fn of(pid_file: &Path) -> Background {
        let pid = lock_holder(pid_file).expect("a daemon holds the lock");
        Background { pid_file: pid_file.to_owned(), pid }
    }

    pub fn pid(&self) -> i32 {
        self.pid
    }

    pub fn is_alive(&self) -> bool {
        procfs::is_alive(self.pid)
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        let end = Instant::now() + DEADLINE;
        // Only while it holds the lock: after that the number may be a stranger's.
        while lock_holder(&self.pid_file) == Some(self.pid) && Instant::now() < end {
            let _ = killpg(Pid::from_raw(self.pid), Signal::SIGKILL);
            let _ = kill(Pid::from_raw(self.pid), Signal::SIGKILL);
        }
    }
}
