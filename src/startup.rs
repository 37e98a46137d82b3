//! From the command line to the running loop, and the end.
//!
//! The order is contract: signals and lock first, so that `-stop` and `-restart` find a process
//! that hears them; the sockets and the pid file with the privileges of the start; then group and
//! user; then everything that will be opened again later by that user (access file, standard error
//! of the handlers); and only when nothing can fail any more the word to the waiting command.

#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::env;
use std::ffi::OsString;
use std::fmt;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStringExt;
use std::time::Instant;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::accessdb::AccessDb;
use crate::cli::{self, Action, Explain};
use crate::config::{Config, NameSource};
use crate::control::server::Server;
use crate::control::{self, Request};
use crate::daemon::lock::{Acquired, Lock, PidFile};
use crate::daemon::privs::{self, Identity};
use crate::daemon::{self, Inherited, Readiness, Side, verbs};
use crate::error::{StartError, errno_text};
use crate::handover::{self, Role, State};
use crate::listener::Listeners;
use crate::log::{self, Descriptor};
use crate::manager::{self, Manager};
use crate::policy::env::{Base, Delta};
use crate::policy::session::Ends;
use crate::reactor::explain::{Explanation, local_end};
use crate::reactor::reserve::TooMany;
use crate::reactor::upgrade::{self, Origin};
use crate::reactor::{Ending, Parts, Reactor};
use crate::resolver::nss::NssResolver;
use crate::signal::Signals;
use crate::spawn::{Spawner, Strings};
use crate::stderr::Stderr;

/// Does what the arguments after argv\[0\] say; the exit status.
pub fn run(argv: impl IntoIterator<Item = OsString>) -> i32 {
    match act(argv) {
        Ok(status) => status,
        Err(error) => {
            daemon::say(error);
            1
        }
    }
}

fn act(argv: impl IntoIterator<Item = OsString>) -> Result<i32, StartError> {
    let role = Role::from_environment();
    let mut inherited = daemon::sanitize(matches!(role, Some((Role::Take, _))))?;
    log::begin();
    let parsed = cli::parse(argv)?;
    // After an upgrade they are nothing new, and standard error may be one that nobody reads.
    if !matches!(role, Some((Role::Take, _))) {
        for warning in parsed.warnings {
            daemon::say(format_args!("warning: {warning}"));
        }
    }
    match parsed.action {
        Action::Run(config) => match role {
            None => serve(*config, inherited),
            Some((Role::Rehearse, number)) => rehearse(&config, &mut inherited, number),
            Some((Role::Take, number)) => take_on(*config, &mut inherited, number),
        },
        Action::Explain(config, explain) => self::explain(&config, &explain),
        Action::Stop(pid_file) => verbs::stop(&pid_file).map(|()| 0),
        Action::Restart(pid_file) => verbs::restart(&pid_file).map(|()| 0),
        Action::Upgrade(place) => verbs::upgrade(&place).map(|()| 0),
        Action::Drain(place, limit) => verbs::drain(&place, limit).map(|()| 0),
        Action::Status(socket, form) => print(&control::client::ask(&socket, Request::Status(form))?.0),
        Action::Print(text) => print(&text),
    }
}

fn print(text: &str) -> Result<i32, StartError> {
    io::stdout()
        .write_all(text.as_bytes())
        .map(|()| 0)
        .map_err(|error| StartError::system("cannot write to standard output", error))
}

/// Does for `explain` what the daemon would do, with the rights and files that it would have; 0 if it would serve.
fn explain(config: &Config, explain: &Explain) -> Result<i32, StartError> {
    let identity = privs::resolve(config.user.as_deref(), config.group.as_deref())?;
    let nss = start_helpers(config, &identity, false)?;
    identity.assume()?;
    let base = inherited_environment();
    Spawner::handler(&config.handler)?.check()?;
    let access = open_access_file(config, |warning| daemon::say(warning))?;
    let local = explain.local.unwrap_or_else(|| local_end(config, explain.peer.ip()));
    let ends = Ends { peer: explain.peer, local };
    let served = Explanation { config, base: &base, access, nss, ends }.run(&mut io::stdout())?;
    Ok(if served { 0 } else { 1 })
}

fn inherited_environment() -> Base {
    Base::new(env::vars_os().map(|(name, value)| (name.into_vec(), value.into_vec())))
}

fn serve(config: Config, mut inherited: Inherited) -> Result<i32, StartError> {
    let outside = Outside::take_over(&config, &mut inherited)?;
    // While a relative path leads to where it led for the caller.
    let origin = find_origin(&config);
    let beginning = Beginning { from: From::Start(Box::new(outside)), origin };
    let readiness = if config.pid_file.is_some() {
        match daemon::detach(inherited)? {
            Side::Caller(status) => return Ok(status),
            Side::Daemon(readiness) => readiness,
        }
    } else {
        daemon::foreground()?
    };
    let (signals, lock) = match hold_lock(&config) {
        Ok((signals, Some(Acquired::Held(holder)))) => {
            drop(signals);
            return Ok(readiness.runs_already(holder));
        }
        Ok((signals, Some(Acquired::Ours(lock)))) => (signals, Some(lock)),
        Ok((signals, None)) => (signals, None),
        Err(error) => return Ok(readiness.fail(&error)),
    };
    let mut pid_file = None;
    match prepare(config, beginning, signals, lock.as_ref(), &mut pid_file, &readiness) {
        Ok(mut reactor) => {
            for address in reactor.chosen_addresses() {
                readiness.print(format_args!("listening on {address}"));
            }
            readiness.ready();
            run_to_the_end(&mut reactor, pid_file);
            Ok(0)
        }
        Err(error) => {
            remove(pid_file);
            // Whoever hears of the failure may start anew at once.
            drop(lock);
            Ok(readiness.fail(&error))
        }
    }
}

fn run_to_the_end(reactor: &mut Reactor, pid_file: Option<PidFile>) {
    if reactor.run() == Ending::Terminated {
        // Ours is blocked: only the others of the group end by it.
        let _ = kill(Pid::from_raw(0), Signal::SIGTERM);
    }
    remove(pid_file);
}

/// None: nobody can ask for an upgrade, or there is no /proc to tell what to execute. That is no reason not to serve.
fn find_origin(config: &Config) -> Option<Origin> {
    config.control.as_ref()?;
    upgrade::origin(env::args_os().collect()).ok()
}

/// A trial before an upgrade: whether this program could take over from the one that started it. All
/// that can fail then is tried, with the rights it will have, and nothing is changed.
fn rehearse(config: &Config, inherited: &mut Inherited, number: RawFd) -> Result<i32, StartError> {
    load_state(inherited, number, Role::Rehearse)?;
    privs::resolve(config.user.as_deref(), config.group.as_deref())?.assume()?;
    Spawner::handler(&config.handler)?.check()?;
    open_access_file(config, |_| {})?;
    Reactor::rehearse(config)?;
    config.logger.as_ref().map(LoggerStarter::new).transpose()?;
    Stderr::open(config)?;
    print(handover::READY)
}

/// Goes on where the program before this one in the same process has left off (`-upgrade`).
fn take_on(config: Config, inherited: &mut Inherited, number: RawFd) -> Result<i32, StartError> {
    match resume(&config, inherited, number) {
        // In this order, so that the lock goes last.
        Ok((_lock, pid_file, mut reactor)) => {
            run_to_the_end(&mut reactor, pid_file);
            Ok(0)
        }
        Err(error) => {
            // Standard error may lead nowhere. A logger is written to already.
            if config.logger.is_none() && Stderr::open(&config).is_err() {
                log::open(&config, None);
            }
            log::alert(format_args!("upgrade: cannot go on: {error}"));
            Ok(1)
        }
    }
}

fn resume(config: &Config, inherited: &mut Inherited, number: RawFd) -> Result<Resumed, StartError> {
    let state = load_state(inherited, number, Role::Take)?;
    let mut taken = state.try_map(|number| inherited.take(number)).map_err(handover_failed)?;
    let logger = taken.logger.as_ref().and_then(|logger| Descriptor::beside(logger.writer.as_fd()).ok());
    log::open(config, logger);
    let signals = Signals::new()?;
    let lock = match (&config.pid_file, taken.lock.take()) {
        (Some(path), Some(file)) => Some(Lock::take_on(path, file)?),
        _ => None,
    };
    let readiness = daemon::resumed()?;
    let written = config.pid_file.as_deref().zip(taken.pid_file.take());
    let mut pid_file = written.map(|(path, file)| PidFile::take_on(path, file));
    let origin = find_origin(config);
    let beginning = Beginning { from: From::Handover(Box::new(taken)), origin };
    match prepare(config.clone(), beginning, signals, lock.as_ref(), &mut pid_file, &readiness) {
        Ok(reactor) => Ok((lock, pid_file, reactor)),
        Err(error) => {
            remove(pid_file);
            Err(error)
        }
    }
}

/// What lives as long as the daemon does.
type Resumed = (Option<Lock>, Option<PidFile>, Reactor);

fn load_state(inherited: &mut Inherited, number: RawFd, role: Role) -> Result<State<RawFd>, StartError> {
    inherited.take(number).map_err(Into::into).and_then(|file| State::load(file, role)).map_err(handover_failed)
}

fn handover_failed(error: impl Into<io::Error>) -> StartError {
    StartError::system("cannot take over from the program before", error)
}

/// What the daemon begins with, beside the command line.
struct Beginning {
    from: From,
    origin: Option<Origin>,
}

/// How the daemon comes to what it had to make with the privileges of the start.
enum From {
    Start(Box<Outside>),
    Handover(Box<State<OwnedFd>>),
}

/// What whoever starts the daemon has given it.
struct Outside {
    manager: Option<Manager>,
    /// The sockets of `systemd` and `fd:N`, with these words.
    sockets: Vec<(String, OwnedFd)>,
}

impl Outside {
    /// To be called by the process as it was started: going to the background changes the process
    /// id, which a service manager names, and closes the descriptors that nobody has taken.
    fn take_over(config: &Config, inherited: &mut Inherited) -> Result<Self, StartError> {
        let manager = find_manager(|warning| daemon::say(warning));
        let mut sockets = Vec::new();
        let mut take = |entry: String, number| {
            let taken = inherited.take(number);
            taken
                .map(|socket| sockets.push((entry.clone(), socket)))
                .map_err(|errno| listen_error(&entry, errno.into()))
        };
        for &number in &config.passed.descriptors {
            take(format!("fd:{number}"), number)?;
        }
        if config.passed.by_manager {
            let entry = "systemd";
            let passed = manager::passed_sockets().map_err(|error| listen_error(entry, error))?;
            if passed.len() == 0 {
                return Err(listen_error(entry, io::Error::other("no sockets passed to this process (LISTEN_FDS)")));
            }
            for number in passed {
                take(entry.to_owned(), number)?;
            }
        }
        Ok(Outside { manager, sockets })
    }
}

fn find_manager(warn: impl Fn(fmt::Arguments<'_>)) -> Option<Manager> {
    Manager::from_environment(Instant::now()).unwrap_or_else(|error| {
        // It may be another service's, left over in the environment.
        warn(format_args!("warning: NOTIFY_SOCKET: {}", errno_text(&error)));
        None
    })
}

fn listen_error(entry: &str, error: io::Error) -> StartError {
    StartError::Listen { entry: entry.to_owned(), error }
}

fn remove(pid_file: Option<PidFile>) {
    if let Some(pid_file) = pid_file {
        pid_file.remove();
    }
}

/// Signals first: whoever finds the lock held may send one.
fn hold_lock(config: &Config) -> Result<(Signals, Option<Acquired>), StartError> {
    let signals = Signals::new()?;
    let lock = config.pid_file.as_deref().map(Lock::acquire).transpose()?;
    Ok((signals, lock))
}

/// Makes everything that the loop needs. `pid_file` is set as soon as there is one to remove.
fn prepare(
    config: Config,
    beginning: Beginning,
    signals: Signals,
    lock: Option<&Lock>,
    pid_file: &mut Option<PidFile>,
    readiness: &Readiness,
) -> Result<Reactor, StartError> {
    let identity = privs::resolve(config.user.as_deref(), config.group.as_deref())?;
    // Those of the program before take up processes until they have noticed that it is gone.
    let is_upgrade = matches!(beginning.from, From::Handover(_));
    let nss = start_helpers(&config, &identity, is_upgrade)?;
    // After an upgrade they are for the log, which is not open before `stderr` is.
    let notes = RefCell::new(Vec::new());
    let note = |line: fmt::Arguments<'_>| match is_upgrade {
        true => notes.borrow_mut().push(line.to_string()),
        false => readiness.note(line),
    };
    let (listeners, manager, control, mut handed);
    match beginning.from {
        From::Start(outside) => {
            let mut bound = Listeners::bind(&config.listen, config.backlog)?;
            bound.adopt(outside.sockets)?;
            *pid_file = lock.map(Lock::write_pid_file).transpose()?;
            (listeners, manager, handed) = (bound, outside.manager, None);
            control = open_control_socket(&config, &identity, readiness)?;
        }
        From::Handover(mut state) => {
            listeners = Listeners::take_on(std::mem::take(&mut state.listeners))?;
            let socket = config.control.as_ref().zip(state.control.take());
            control = socket.map(|(at, (socket, device, inode))| Server::take_on(socket, &at.path, (device, inode)));
            (manager, handed) = (find_manager(note), Some(state));
        }
    }
    identity.assume()?;
    if let Some(too_many) = TooMany::find(&config) {
        note(format_args!("warning: {too_many}"));
    }
    if identity.keeps_root_group() {
        note(format_args!("warning: -user without -group for a user that has no entry: the group stays root's"));
    }

    let base = inherited_environment();
    let spawner = Spawner::handler(&config.handler)?;
    spawner.check()?;
    let access = open_access_file(&config, note)?;
    let logger_starter = config.logger.as_ref().map(LoggerStarter::new).transpose()?;
    let mut stderr = Stderr::open_with(&config, handed.as_mut().and_then(|state| state.logger.take()))?;
    if let (Some(logger), Some(starter)) = (stderr.logger().filter(|logger| logger.is_new()), &logger_starter) {
        logger.start(Instant::now(), |input| starter.start(input, &base))?;
    }
    notes.take().iter().for_each(|line| readiness.note(line));
    let anchored = |mut origin: Origin| {
        origin.lock = lock.map(Lock::descriptor);
        origin.pid_file = pid_file.as_ref().map(PidFile::descriptor);
        origin
    };
    let origin = beginning.origin.map(anchored);
    let mut reactor = Reactor::new(Parts {
        config,
        base,
        listeners,
        access,
        spawner,
        stderr,
        logger_starter,
        nss,
        signals,
        manager,
        control,
        origin,
        handed: handed.as_ref().map_or(0, |state| state.connections.len() + state.lingering.len()),
    })?;
    if let Some(state) = handed {
        reactor.take_on(*state, Instant::now());
    }
    Ok(reactor)
}

/// Made with the privileges of the start, as FILE is, and given to the user.
fn open_control_socket(
    config: &Config,
    identity: &Identity,
    readiness: &Readiness,
) -> Result<Option<Server>, StartError> {
    let Some(control) = &config.control else { return Ok(None) };
    match Server::bind(&control.path, identity.ids()) {
        Ok(server) => Ok(Some(server)),
        Err(error) if control.required => Err(error),
        Err(error) => {
            readiness.note(format_args!("warning: {error}; there will be no -status"));
            Ok(None)
        }
    }
}

/// The helpers of `-resolver=nss`: forked while the process is small and holds no socket.
fn start_helpers(config: &Config, identity: &Identity, patient: bool) -> Result<Option<NssResolver>, StartError> {
    let NameSource::Nss(helpers) = config.lookups.names else { return Ok(None) };
    let lookups = &config.lookups;
    NssResolver::new(helpers, patient, identity.ids(), lookups.timeout, lookups.cache_entries, Instant::now())
        .map(Some)
        .map_err(|error| StartError::system("cannot start the resolver helpers", error))
}

fn open_access_file(config: &Config, warn: impl Fn(fmt::Arguments<'_>)) -> Result<Option<AccessDb>, StartError> {
    let Some(file) = &config.access.file else { return Ok(None) };
    match AccessDb::open(file) {
        Ok(access) => Ok(Some(access)),
        Err(error) if config.access.allow_missing => {
            warn(format_args!("warning: {error}; no access rules are in force"));
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// What starting the program of `-stderrlogger` takes, any number of times.
pub struct LoggerStarter {
    spawner: Spawner,
    /// /dev/null, for its standard output and error.
    null: OwnedFd,
}

impl LoggerStarter {
    fn new(logger: &crate::config::LoggerProgram) -> Result<Self, StartError> {
        let spawner = Spawner::logger(logger)?;
        spawner.check()?;
        let null = crate::sys::dev_null().map_err(|error| StartError::system("cannot open /dev/null", error))?;
        Ok(LoggerStarter { spawner, null })
    }

    /// Starts the program with `input` as its standard input and the daemon's environment.
    pub fn start(&self, input: BorrowedFd<'_>, base: &Base) -> nix::Result<Pid> {
        self.spawner.spawn_logger(input, self.null.as_fd(), &Strings::new(Delta::default().envp(base), base.len()))
    }
}
