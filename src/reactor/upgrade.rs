//! `-upgrade`: the program anew, in the same process, with everything that is under way.
//!
//! First a trial: the new program is started beside the daemon, with the daemon's own arguments and
//! rights, reads what it would be handed, opens its files, and says that it could take over. Only
//! then the daemon executes it in its own place. If the trial fails, or the exec itself, the daemon
//! goes on as before. After the exec there is no way back; what can fail then has been tried a
//! moment before.
//!
//! Listening sockets stay open all the time, so nobody is refused. Connections that are not decided
//! are handed over too, and their lookups begin anew; their time limit does not.

use std::env;
use std::ffi::{CString, OsString};
use std::io::{ErrorKind, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use mio::Interest;
use mio::unix::SourceFd;
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, execve};

use crate::accessdb::AccessDb;
use crate::children::{End, Handler, Places};
use crate::config;
use crate::error::{StartError, errno_text};
use crate::handover::{self, Connection, READY, Role, State};
use crate::log::{self, Escaped};
use crate::pending::Stage;
use crate::policy::env::Delta;
use crate::policy::session::Ends;
use crate::reactor::Reactor;
use crate::reactor::admit::Arrival;
use crate::reactor::timer::Due;
use crate::reactor::token::Source;
use crate::spawn::{Spawner, StderrFor, Strings};
use crate::sys;
use crate::table::Key;

/// How long a trial may take.
pub(super) const TRIAL_PATIENCE: Duration = Duration::from_secs(20);

/// As much as is kept of what a trial says; the end is what counts.
const SAID_MOST: usize = 4096;

/// Reads in one step. A program that talks faster than we read must not keep the loop.
const READS: usize = 16;

/// How this daemon was started, to be started so again, and what its start holds on to.
#[derive(Debug)]
pub struct Origin {
    /// The program, independent of the directory.
    pub program: PathBuf,
    /// With argument zero.
    pub argv: Vec<OsString>,
    /// The lock file, which stays open as long as the loop runs.
    pub lock: Option<RawFd>,
    /// The pid file, likewise.
    pub pid_file: Option<RawFd>,
}

/// A trial under way, or passed.
pub(super) struct Trial {
    pid: Pid,
    /// What the new program says.
    output: UnixStream,
    said: Vec<u8>,
    /// Who asked.
    asker: Key,
    until: Instant,
    passed: bool,
}

impl Reactor {
    /// Starts the trial for the control connection `asker`, or says why not.
    pub(super) fn start_upgrade(&mut self, asker: Key, now: Instant) -> Result<(), String> {
        let Some(origin) = &self.origin else { return Err("its own program is not known".to_owned()) };
        if self.drain.is_some() {
            return Err("it is draining".to_owned());
        }
        if self.trial.is_some() {
            return Err("an upgrade is under way".to_owned());
        }
        let program = origin.program.display().to_string();
        let (pid, output) = self.spawn_trial(origin).map_err(|error| {
            let error = format!("{}: {}", Escaped(program.as_bytes()), errno_text(&error));
            log::err(format_args!("upgrade: {error}; going on as before"));
            error
        })?;
        let until = now + TRIAL_PATIENCE;
        self.timers.set(until, Due::Upgrade);
        self.trial = Some(Trial { pid, output, said: Vec::new(), asker, until, passed: false });
        Ok(())
    }

    fn spawn_trial(&self, origin: &Origin) -> Result<(Pid, UnixStream), std::io::Error> {
        let state = self.state(None, Instant::now()).store()?;
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let args = origin.argv.get(1..).unwrap_or_default().to_vec();
        let handler = config::Handler { program: origin.program.clone().into_os_string(), args };
        let spawner = Spawner::handler(&handler).map_err(|_| Errno::EINVAL)?.with_descriptor(state.as_raw_fd());
        let env = environment(Role::Rehearse, state.as_raw_fd(), false);
        let envp = Strings::new(env.iter().map(CString::as_c_str), env.len());
        let fd = ours.as_raw_fd();
        self.poll.registry().register(&mut SourceFd(&fd), Source::Upgrade.token(), Interest::READABLE)?;
        // There is one thread: no other child can be started in between and inherit it.
        sys::set_close_on_exec(state.as_raw_fd(), false)?;
        let pid = spawner.spawn(theirs.as_fd(), StderrFor::Connection, &envp)?;
        Ok((pid, ours))
    }

    /// The trial may have said something.
    pub(super) fn hear_trial(&mut self) {
        let Some(trial) = &mut self.trial else { return };
        let mut buffer = [0; 1024];
        for _ in 0..READS {
            match trial.output.read(&mut buffer) {
                Ok(0) => return,
                Ok(length) => {
                    trial.said.extend_from_slice(&buffer[..length]);
                    let excess = trial.said.len().saturating_sub(SAID_MOST);
                    trial.said.drain(..excess);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
        // Registering again raises the edge again: others get their turn in between. It fails only for
        // what is not registered.
        let fd = trial.output.as_raw_fd();
        let token = Source::Upgrade.token();
        let _ = self.poll.registry().reregister(&mut SourceFd(&fd), token, Interest::READABLE);
    }

    pub(super) fn trial_late(&mut self, now: Instant) {
        if let Some(trial) = self.trial.as_ref().filter(|trial| !trial.passed && trial.until <= now) {
            // Its end is told by SIGCHLD. It fails only for a process that has ended.
            let _ = kill(trial.pid, Signal::SIGKILL);
        }
    }

    /// True if the process was the trial.
    pub(super) fn trial_ended(&mut self, pid: Pid, end: End) -> bool {
        if self.trial.as_ref().is_none_or(|trial| trial.pid != pid || trial.passed) {
            return false;
        }
        self.hear_trial();
        let Some(trial) = &mut self.trial else { return false };
        self.timers.cancel(trial.until, Due::Upgrade);
        if end == End::Exit(0) && trial.said.ends_with(READY.as_bytes()) {
            trial.passed = true;
            return true;
        }
        let last = trial.said.split(|&byte| byte == b'\n').rfind(|line| !line.is_empty()).unwrap_or_default();
        let why = match end {
            End::Killed(libc::SIGKILL) => "it was not ready in time".to_owned(),
            _ if last.is_empty() => end.to_string(),
            _ => Escaped(last).to_string(),
        };
        self.upgrade_failed(&format!("the new program does not come up: {why}"));
        true
    }

    fn upgrade_failed(&mut self, why: &str) {
        let Some(trial) = self.trial.take() else { return };
        log::err(format_args!("upgrade: {why}; going on as before"));
        self.refuse_control(trial.asker, why);
    }

    /// At the end of a turn: executes the new program if its trial has passed. Returns if it could not.
    pub(super) fn hand_over_if_due(&mut self, now: Instant) {
        let Some(asker) = self.trial.as_ref().filter(|trial| trial.passed).map(|trial| trial.asker) else { return };
        if self.drain.is_some() {
            return self.upgrade_failed("it is draining");
        }
        if let Some(error) = self.rules_at_stake() {
            return self.upgrade_failed(&error.to_string());
        }
        let Some(origin) = &self.origin else { return };
        log::notice(format_args!("upgrade: {} takes over", Escaped(origin.program.as_os_str().as_encoded_bytes())));
        let state = self.state(self.control_descriptor(asker), now);
        let error = execute(origin, &state, self.manager.as_ref().is_some_and(|manager| manager.is_watched()));
        let program = Escaped(origin.program.as_os_str().as_encoded_bytes()).to_string();
        self.upgrade_failed(&format!("{program}: {}", errno_text(&error)));
    }

    /// Why the access file cannot be opened, if rules are in force that the next program would do without:
    /// by -accessmissing=allow it takes a file that it cannot open for one that has never been there.
    fn rules_at_stake(&self) -> Option<StartError> {
        let access = self.access.as_ref().filter(|_| self.config.access.allow_missing)?;
        AccessDb::open(access.path()).err()
    }

    /// Everything that goes on, as it is now.
    fn state(&self, reply: Option<RawFd>, now: Instant) -> State<RawFd> {
        let age = |since| now.saturating_duration_since(since);
        let mut connections: Vec<_> = self
            .pending
            .iter()
            .map(|(_, pending)| {
                // Its lookups begin anew, and have the time that they had left. To wait for a slot is none of it.
                let (env, age) = match &pending.stage {
                    Stage::Lookups(lookups) => (lookups.session.variables(), age(pending.since)),
                    Stage::WaitsForSlot { env, decided } => (env, decided.saturating_duration_since(pending.since)),
                };
                let proxied = pending.proxied.then(|| crate::proxy::variables(env));
                let Ends { peer, local } = pending.ends;
                let connection = Connection { stream: pending.stream.as_raw_fd(), peer, local, age, proxied };
                (pending.arrival, connection)
            })
            .collect();
        connections.sort_by_key(|(arrival, _)| *arrival);
        let waiting = self.headers.iter().map(|(_, (waiting, _))| {
            let Ends { peer, local } = waiting.real;
            Connection { stream: waiting.stream.as_raw_fd(), peer, local, age: age(waiting.since), proxied: None }
        });
        State {
            lock: self.origin.as_ref().and_then(|origin| origin.lock),
            pid_file: self.origin.as_ref().and_then(|origin| origin.pid_file),
            control: self.control.as_ref().map(|control| control.identity()),
            reply,
            listeners: self.listeners.state(),
            logger: self.stderr.logger_state(now),
            handlers: self
                .children
                .iter()
                .map(|(pid, handler)| handover::Handler {
                    pid: pid.as_raw(),
                    peer: handler.peer,
                    age: age(handler.since),
                })
                .collect(),
            connections: connections.into_iter().map(|(_, connection)| connection).chain(waiting).collect(),
            lingering: self.lingering.iter().map(|(_, (stream, _))| stream.as_raw_fd()).collect(),
        }
    }

    /// The other side: takes on what the program before has handed over, and tells who asked.
    pub fn take_on(&mut self, state: State<OwnedFd>, now: Instant) {
        let since = |age| now.checked_sub(age).unwrap_or(now);
        for handover::Handler { pid, peer, age } in state.handlers {
            // It had its place before, so the limits are not asked again.
            let Some(slot) = self.occupancy.slot() else { continue };
            let places = Places { share: self.occupancy.share_beyond_limits(peer.ip()), slot };
            self.children.started(Pid::from_raw(pid), Handler { peer, since: since(age), places });
        }
        // Lists are asked anew, and whoever is on one must not come in for want of time.
        let most = self.config.lookups.timeout / 2;
        for Connection { stream, peer, local, age, proxied } in state.connections {
            let proxied = proxied.map(|variables| {
                let mut delta = Delta::default();
                variables.iter().for_each(|(name, value)| delta.set(name, value));
                delta
            });
            let ends = Ends { peer, local };
            self.admit_again(Arrival { stream: stream.into(), ends, since: since(age.min(most)), proxied }, now);
        }
        for stream in state.lingering {
            self.linger(stream.into(), now);
        }
        if let Some(reply) = state.reply {
            self.answer_control(reply);
        }
        // Those who ended in between.
        self.reap_all(now);
    }
}

/// The environment that the daemon was started with, and [`handover::VARIABLE`].
fn environment(role: Role, state: RawFd, is_watched: bool) -> Vec<CString> {
    let mut env: Vec<_> = env::vars_os()
        // What is about the sockets at the start is over, and they are handed over.
        .filter(|(name, _)| name != handover::VARIABLE && !name.as_encoded_bytes().starts_with(b"LISTEN_"))
        .filter(|(name, _)| name != "WATCHDOG_PID")
        .filter_map(|(name, value)| CString::new([name.into_vec(), b"=".to_vec(), value.into_vec()].concat()).ok())
        .collect();
    if is_watched {
        // It named the process that was started, which may have been another one.
        env.push(CString::new(format!("WATCHDOG_PID={}", Pid::this())).expect("made of letters and digits"));
    }
    env.push(role.variable(state));
    env
}

/// Executes the new program in the place of this one. Returns only if that fails; then all is as before.
fn execute(origin: &Origin, state: &State<RawFd>, is_watched: bool) -> std::io::Error {
    let text = |value: &OsString| CString::new(value.as_encoded_bytes());
    let argv: Result<Vec<_>, _> = origin.argv.iter().map(text).collect();
    let (Ok(argv), Ok(program)) = (argv, text(&origin.program.clone().into_os_string())) else {
        return Errno::EINVAL.into();
    };
    let file = match state.store() {
        Ok(file) => file,
        Err(error) => return error,
    };
    let env = environment(Role::Take, file.as_raw_fd(), is_watched);
    let mut descriptors = state.descriptors();
    descriptors.push(file.as_raw_fd());
    let set_all = |on| descriptors.iter().try_for_each(|&number| sys::set_close_on_exec(number, on));
    let errno = match set_all(false) {
        Ok(()) => match execve(&program, &argv, &env) {
            Err(errno) => errno,
            Ok(never) => match never {},
        },
        Err(errno) => errno,
    };
    // Each of them is open, so it cannot fail.
    let _ = set_all(true);
    errno.into()
}

/// Finds the program that runs now, as it was named at the start: an upgrade may put another there.
///
/// # Errors
/// There is no /proc that knows it.
pub fn origin(argv: Vec<OsString>) -> std::io::Result<Origin> {
    let program = locate(argv.first())?;
    Ok(Origin { program, argv, lock: None, pid_file: None })
}

fn locate(name: Option<&OsString>) -> std::io::Result<PathBuf> {
    use std::os::unix::fs::MetadataExt;
    let running = std::fs::metadata("/proc/self/exe")?;
    // Argument zero can be anything; it counts if it leads to the program that runs.
    let is_it = |path: &PathBuf| {
        std::fs::metadata(path).is_ok_and(|found| (found.dev(), found.ino()) == (running.dev(), running.ino()))
    };
    let name = name.map(PathBuf::from).filter(|name| !name.as_os_str().is_empty());
    let named = match name {
        Some(name) if name.as_os_str().as_encoded_bytes().contains(&b'/') => std::path::absolute(name).ok(),
        Some(name) => env::var_os("PATH").and_then(|path| {
            env::split_paths(&path).map(|directory| directory.join(&name)).filter(|path| path.is_absolute()).find(is_it)
        }),
        None => None,
    };
    match named.filter(is_it) {
        Some(path) => Ok(path),
        None => std::fs::read_link("/proc/self/exe"),
    }
}
