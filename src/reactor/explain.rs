//! `-explain`: what the daemon would do for an address, step by step, and why.
//!
//! One imagined connection goes the way of a real one, through the same rooms: the access file's
//! rules, the session with its lookups, the verdict. What is missing is what needs a client: accept,
//! ident, the handler. Runs in the foreground until the verdict has fallen, and then returns.

use std::fmt::{self, Write as _};
use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use mio::{Events, Poll};

use crate::accessdb::AccessDb;
use crate::config::{Config, DnsList, ListKind, NameSource};
use crate::error::StartError;
use crate::log::{Escaped, Whole};
use crate::policy::access::{self, Access, End, Step};
use crate::policy::env::{Base, Delta};
use crate::policy::question::{Answer, HostName, Question, Records};
use crate::policy::session::{Ends, ListResult, Session, Wanted};
use crate::policy::{Reason, Verdict, max_per_ip};
use crate::reactor::dns::{Finished, Lookup};
use crate::reactor::token::Source;
use crate::resolver::nss::NssResolver;
use crate::resolver::question_text;
use crate::table::Key;

/// The one connection.
const KEY: Key = Key { index: 0, generation: 0 };

/// What it takes, made as for the daemon.
pub struct Explanation<'a> {
    pub config: &'a Config,
    pub base: &'a Base,
    pub access: Option<AccessDb>,
    pub nss: Option<NssResolver>,
    pub ends: Ends,
}

impl Explanation<'_> {
    /// Prints each step to `out`; true if the connection would be served.
    ///
    /// # Errors
    /// Output that cannot be written, a poll set or a DNS client that cannot be made.
    pub fn run(mut self, out: &mut impl Write) -> Result<bool, StartError> {
        let mut out = Told { out, start: Instant::now(), asked: Vec::new(), failed: None };
        let served = self.tell(&mut out)?;
        match out.failed {
            Some(error) => Err(StartError::system("cannot write to standard output", error)),
            None => Ok(served),
        }
    }

    fn tell(&mut self, out: &mut Told<'_, impl Write>) -> Result<bool, StartError> {
        let Ends { peer, local } = self.ends;
        out.say(format_args!("client {} port {}, to {} port {}", peer.ip(), peer.port(), local.ip(), local.port()));
        let mut env = Delta::default();
        if let Err(reason) = self.ask_access_file(&mut env, out) {
            return Ok(self.refused(&reason, out));
        }
        self.tell_limits(&env, out);
        let verdict = self.look_up(env, out)?;
        match verdict {
            Verdict::Refuse(reason) => Ok(self.refused(&reason, out)),
            Verdict::Serve(env) => {
                out.say(format_args!("verdict: served"));
                let program = &self.config.handler.program;
                out.say(format_args!("environment of {}:", Escaped(program.as_encoded_bytes())));
                for variable in env.envp(self.base) {
                    out.plain(format_args!("  {}", Whole(variable.to_bytes())));
                }
                Ok(true)
            }
        }
    }

    fn ask_access_file(&mut self, env: &mut Delta, out: &mut Told<'_, impl Write>) -> Result<(), Reason> {
        let Some(db) = &mut self.access else {
            out.say(format_args!("access: there is no access file"));
            return Ok(());
        };
        out.say(format_args!("access: {}", Escaped(db.path().as_os_str().as_encoded_bytes())));
        let local = Some(self.ends.local).filter(|_| self.config.access.local);
        let decided = access::decide_step_by_step(db, self.ends.peer.ip(), local, env, |end, step| {
            let end = match end {
                End::Remote => "client",
                End::Local => "local",
            };
            match step {
                Step::Missed(key) => out.say(format_args!("access: {end} key {key}: no record")),
                Step::Found(found) => {
                    out.say(format_args!("access: {end} key {}: record \"{}\"", found.key, Whole(&found.value)));
                }
                Step::Nothing => out.say(format_args!("access: {end}: no record applies, let in")),
            }
        });
        match decided {
            Ok(Access::Admitted) => {
                for (name, value) in env.iter() {
                    out.say(format_args!("access: sets {}=\"{}\"", Escaped(name), Whole(value)));
                }
                Ok(())
            }
            Ok(Access::Refused(_)) => Err(Reason::Denied),
            Err(error) => {
                out.say(format_args!("access: cannot be read: {error}"));
                Err(Reason::AccessUnknown)
            }
        }
    }

    fn tell_limits(&self, env: &Delta, out: &mut Told<'_, impl Write>) {
        let limits = &self.config.limits;
        let most = max_per_ip(limits.max_per_ip, env, self.base);
        let mut text = format!("limits: {most} connections from one address");
        if most != limits.max_per_ip {
            // Writing to a String cannot fail.
            let _ = write!(text, " (MAXCPERIP, instead of {})", limits.max_per_ip);
        }
        let _ = match limits.max_per_block {
            Some(most) => write!(text, ", {most} from one block"),
            None => write!(text, ", no limit for a block"),
        };
        let _ = write!(text, ", {} slots; taken as not reached", limits.max_procs);
        out.say(format_args!("{text}"));
    }

    /// The lookups and the verdict. The loop is the daemon's own, with one connection in it.
    fn look_up(&mut self, env: Delta, out: &mut Told<'_, impl Write>) -> Result<Verdict, StartError> {
        let failed = |error: io::Error| StartError::system("cannot set up the event loop", error);
        let config = Config {
            lookups: crate::config::Lookups { ident: false, ..self.config.lookups.clone() },
            ..self.config.clone()
        };
        let mut poll = Poll::new().map_err(failed)?;
        let mut now = Instant::now();
        let mut lookup = Lookup::new(&config, self.nss.take(), poll.registry(), now)?;
        if self.config.lookups.ident {
            out.say(format_args!(
                "ident: left out, since it needs a connection; at most {}",
                Seconds(config.lookups.ident_timeout)
            ));
        }
        let mut wanted = Wanted::default();
        let mut session = Session::start(&config, self.base, &self.ends, env, &mut wanted);
        let deadline = now + config.lookups.timeout;
        let mut events = Events::with_capacity(64);
        self.pursue(&mut lookup, &mut session, &config, wanted, now, out);
        let verdict = loop {
            if let Some(verdict) = session.verdict(&config, self.base, &self.ends) {
                break verdict;
            }
            if now >= deadline {
                out.say(format_args!("time is up: what is open counts as failed (-lookuptimeout)"));
                session.expire();
                continue;
            }
            let until_deadline = deadline.saturating_duration_since(now);
            let mut timeout = lookup.timeout(now).map_or(until_deadline, |timeout| timeout.min(until_deadline));
            while let Err(error) = poll.poll(&mut events, Some(timeout)) {
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(failed(error));
                }
                // Stopped, for instance. What has come meanwhile counts before the time limit does.
                timeout = Duration::ZERO;
            }
            now = Instant::now();
            for event in &events {
                match Source::from_token(event.token()) {
                    Some(Source::Resolver(key)) => lookup.dns_ready(key, event),
                    Some(Source::Helper(index)) => lookup.helper_ready(index, now),
                    _ => {}
                }
            }
            lookup.turn(now);
            while let Some(finished) = lookup.next_finished(now) {
                let mut wanted = Wanted::default();
                match finished {
                    Finished::Answer(question, answer, _, took) => {
                        self.tell_answer(&config, &question, &answer, took, out);
                        session.answer(&config, &question, &answer, &mut wanted);
                    }
                    Finished::Name(ip, name, _) => {
                        out.say(format_args!("name of {ip}: {}", Name(&name)));
                        session.name(ip, &name);
                    }
                }
                self.pursue(&mut lookup, &mut session, &config, wanted, now, out);
            }
        };
        self.tell_names(&config, &session, out);
        self.tell_lists(&config, &session, out);
        Ok(verdict)
    }

    fn pursue(
        &self,
        lookup: &mut Lookup,
        session: &mut Session,
        config: &Config,
        wanted: Wanted,
        now: Instant,
        out: &mut Told<'_, impl Write>,
    ) {
        lookup.pursue(session, config, wanted, KEY, now, |asked| match asked {
            Ok(question) if out.asked.contains(question) => {}
            Ok(question) => {
                out.say(format_args!("asked {}", question_text(question, &config.zones)));
                out.asked.push(question.clone());
            }
            Err(ip) => out.say(format_args!("asked for the name of {ip}")),
        });
    }

    fn tell_answer(
        &self,
        config: &Config,
        question: &Question,
        answer: &Answer,
        took: Duration,
        out: &mut Told<'_, impl Write>,
    ) {
        let answer = match answer {
            Answer::Absent => "no such record".to_owned(),
            Answer::Failed => "failed".to_owned(),
            Answer::Found(records) => match &**records {
                Records::Names(names) => {
                    let shown =
                        |name: &str| if name.is_empty() { "(no host name)".to_owned() } else { name.to_owned() };
                    names.iter().map(|name| shown(name)).collect::<Vec<_>>().join(" ")
                }
                Records::Addresses(addresses) => {
                    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
                }
                Records::Text(text) => format!("\"{}\"", Whole(text)),
            },
        };
        let question = question_text(question, &config.zones);
        out.say(format_args!("answered {question} after {}: {answer}", Seconds(took)));
    }

    fn tell_names(&self, config: &Config, session: &Session, out: &mut Told<'_, impl Write>) {
        if config.lookups.names == NameSource::Off {
            out.say(format_args!("names: not looked up"));
            return;
        }
        for (whose, name) in [("client's", session.remote_name()), ("local", session.local_name())] {
            match name {
                Some(name) => out.say(format_args!("{whose} name: {}", Name(name))),
                None => out.say(format_args!("{whose} name: not known, and no longer needed")),
            }
        }
    }

    fn tell_lists(&self, config: &Config, session: &Session, out: &mut Told<'_, impl Write>) {
        let mut results = vec![None; config.lists.len()];
        for (index, result) in session.list_results(config) {
            results[index] = Some(result);
        }
        for (list, result) in config.lists.iter().zip(results) {
            let judged = match result {
                None => "not asked, since its variable is set".to_owned(),
                Some(ListResult::Open) => "not known, and no longer needed".to_owned(),
                Some(ListResult::Listed) => "listed".to_owned(),
                Some(ListResult::ListedWithoutText) => "listed; no answer for its text".to_owned(),
                Some(ListResult::NotListed) => "not listed".to_owned(),
                Some(ListResult::Failed) => "lookup failed, taken as not listed".to_owned(),
                Some(ListResult::Late) => "no answer in time, taken as not listed".to_owned(),
                Some(ListResult::Unusable(address)) => format!("{address} is no listing, taken as not listed"),
            };
            out.say(format_args!("{}: {judged}", ListName(list)));
        }
    }

    /// Tells why; false, so that the caller can return it.
    fn refused(&self, reason: &Reason, out: &mut Told<'_, impl Write>) -> bool {
        let why = match reason {
            Reason::Denied => "the access file denies it".to_owned(),
            Reason::AccessUnknown => "the access file cannot be read".to_owned(),
            Reason::PerAddress => "-maxperip".to_owned(),
            Reason::PerBlock => "-maxperc".to_owned(),
            Reason::Dropped(variable) => format!("-drop, since {} is set and not empty", Escaped(variable)),
        };
        out.say(format_args!("verdict: refused: {why}"));
        if let Some(text) = self.config.deny_message.as_ref().filter(|_| reason.has_reply()) {
            out.say(format_args!("the client gets \"{}\"", Whole(text)));
        }
        false
    }
}

/// Where a client of `peer` is taken to have connected to: the first entry of LIST, and where that
/// stands for every address, the one from which this host reaches the client.
pub fn local_end(config: &Config, peer: IpAddr) -> SocketAddr {
    let (address, port) = config.listen.first().map_or((None, 0), |spec| (spec.address, spec.port));
    let reached = || {
        let any: IpAddr = if peer.is_ipv4() { [0, 0, 0, 0].into() } else { [0u16; 8].into() };
        let socket = std::net::UdpSocket::bind((any, 0)).ok()?;
        // Nothing is sent: connecting such a socket only looks up the route.
        socket.connect((peer, 9)).ok()?;
        socket.local_addr().ok().map(|local| local.ip())
    };
    let unknown = || if peer.is_ipv4() { [127, 0, 0, 1].into() } else { std::net::Ipv6Addr::LOCALHOST.into() };
    SocketAddr::new(address.filter(|ip| !ip.is_unspecified()).or_else(reached).unwrap_or_else(unknown), port)
}

/// Lines with the time since the start in front.
struct Told<'a, W> {
    out: &'a mut W,
    start: Instant,
    /// What was told to be asked: several lists may share a zone, and then a question.
    asked: Vec<Question>,
    /// The first error, told at the end.
    failed: Option<io::Error>,
}

impl<W: Write> Told<'_, W> {
    fn say(&mut self, text: fmt::Arguments<'_>) {
        let time = Seconds(self.start.elapsed()).to_string();
        self.plain(format_args!("{time:>9}  {text}"));
    }

    fn plain(&mut self, text: fmt::Arguments<'_>) {
        if let Err(error) = writeln!(self.out, "{text}").and_then(|()| self.out.flush()) {
            self.failed.get_or_insert(error);
        }
    }
}

struct Seconds(Duration);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:03} s", self.0.as_secs(), self.0.subsec_millis())
    }
}

struct Name<'a>(&'a HostName);

impl fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            HostName::Known(name) => f.write_str(name),
            HostName::Absent => f.write_str("there is none"),
            HostName::SoftError => f.write_str("cannot be known for now"),
            HostName::Mismatch => f.write_str("there are names, and none leads back to the address"),
        }
    }
}

struct ListName<'a>(&'a DnsList);

impl fmt::Display for ListName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.0.kind {
            ListKind::Allow => "allow",
            ListKind::Block => "block",
        };
        write!(f, "{kind} {} for {}", self.0.display, Escaped(&self.0.variable))
    }
}
