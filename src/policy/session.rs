//! The lookups of one connection: which it still owes, and when enough is known.
//!
//! A [`Session`] takes answers in any order, says what it wants asked ([`Wanted`]) and gives its
//! verdict at the first moment at which nothing open can change it. It knows nothing of sockets,
//! queries under way or time; `pending` owns it and carries out what it wants. Pure.

#![forbid(unsafe_code)]

use std::net::{IpAddr, SocketAddr};

use crate::addr::Printed;
use crate::config::{Config, HostMismatch, NameSource};
use crate::policy::dnsbl::{self, Part, Replies};
use crate::policy::env::{Base, Delta};
use crate::policy::question::{Answer, HostName, Question};
use crate::policy::rdns::Reverse;
use crate::policy::{Reason, Verdict};

/// The two ends of a connection, folded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ends {
    pub peer: SocketAddr,
    pub local: SocketAddr,
}

/// Bytes that hold the addresses and ports of both ends as variables, of IPv4 even in the longer form.
const ROOM: usize = 144;

/// What a session wants done for it.
#[derive(Debug, Default)]
pub struct Wanted {
    /// DNS questions, in the order in which they matter.
    pub questions: Vec<Question>,
    /// DNS questions asked, or wanted, before: the answers cannot matter any more.
    pub moot: Vec<Question>,
    /// Addresses whose names the name service switch is to find.
    pub names: Vec<IpAddr>,
    pub ident: bool,
}

impl Wanted {
    pub fn is_empty(&self) -> bool {
        self.questions.is_empty() && self.moot.is_empty() && self.names.is_empty() && !self.ident
    }
}

#[derive(Debug)]
pub struct Session {
    /// The access record's variables.
    env: Delta,
    /// The peer's name; none: not wanted.
    remote: Option<Reverse>,
    /// The local end's name.
    local: Option<Reverse>,
    /// One for each of `Config::lists`.
    lists: Box<[Replies]>,
    ident: Ident,
}

#[derive(Debug, PartialEq, Eq)]
enum Ident {
    NotWanted,
    Open,
    Done(Option<Box<[u8]>>),
}

impl Session {
    /// Starts the lookups that a connection owes; `env` holds its access record's variables.
    pub fn start(config: &Config, base: &Base, ends: &Ends, env: Delta, wanted: &mut Wanted) -> Self {
        let mut session = Session { env, remote: None, local: None, lists: Box::default(), ident: Ident::NotWanted };
        if session.dropped(config, base, &session.env).is_some() {
            return session;
        }
        let mut reverse = |ip| match config.lookups.names {
            NameSource::Off => None,
            NameSource::Dns => Some(Reverse::start(ip, &mut wanted.questions)),
            NameSource::Nss(_) => {
                wanted.names.push(ip);
                Some(Reverse::external(ip))
            }
        };
        // The peer's name takes two rounds, so it goes first.
        session.remote = reverse(ends.peer.ip());
        session.local = reverse(ends.local.ip());
        session.lists = config
            .lists
            .iter()
            .map(|list| match session.env.effective(&list.variable, base) {
                Some(_) => Replies::default(),
                None => Replies::ask(list, ends.peer.ip(), &mut wanted.questions),
            })
            .collect();
        if config.lookups.ident {
            session.ident = Ident::Open;
            wanted.ident = true;
        }
        session
    }

    /// There is nobody to ask ident: the connection comes from a proxy.
    pub fn forgo_ident(&mut self, wanted: &mut Wanted) {
        self.ident = Ident::NotWanted;
        wanted.ident = false;
    }

    /// The variables of the access record and the PROXY header.
    pub fn variables(&self) -> &Delta {
        &self.env
    }

    /// Takes the answer to a DNS question; further questions, and those to be given up, go to `wanted`.
    pub fn answer(&mut self, config: &Config, question: &Question, answer: &Answer, wanted: &mut Wanted) {
        for reverse in [&mut self.remote, &mut self.local].into_iter().flatten() {
            wanted.moot.extend(reverse.answer(question, answer, &mut wanted.questions));
        }
        if let Question::Listing { zone, kind, .. } = question {
            for (list, replies) in config.lists.iter().zip(&mut self.lists) {
                if list.zone == *zone {
                    replies.answer(*kind, answer);
                }
            }
        }
    }

    /// Takes a name from the name service switch.
    pub fn name(&mut self, ip: IpAddr, name: &HostName) {
        for reverse in [&mut self.remote, &mut self.local].into_iter().flatten() {
            reverse.settle(ip, name);
        }
    }

    /// Takes the outcome of ident: the user id, or none.
    pub fn ident(&mut self, user: Option<Box<[u8]>>) {
        if self.ident == Ident::Open {
            self.ident = Ident::Done(user);
        }
    }

    /// The time limit of all lookups has come: what is open counts as failed.
    pub fn expire(&mut self) {
        for reverse in [&mut self.remote, &mut self.local].into_iter().flatten() {
            reverse.expire();
        }
        for replies in &mut self.lists {
            replies.expire();
        }
        self.ident(None);
    }

    /// The verdict, once no open answer can change it.
    pub fn verdict(&self, config: &Config, base: &Base, ends: &Ends) -> Option<Verdict> {
        if let Some(variable) = self.dropped(config, base, &self.env) {
            return Some(Verdict::Refuse(Reason::Dropped(variable)));
        }
        let Some(mut env) = dnsbl::fold(config, &self.lists, ends.peer.ip(), &self.env, base) else {
            return dnsbl::certainly_dropped(config, &self.lists, &self.env, base)
                .map(|variable| Verdict::Refuse(Reason::Dropped(variable.to_vec())));
        };
        if !self.lists.is_empty() {
            if let Some(variable) = self.dropped(config, base, &env) {
                return Some(Verdict::Refuse(Reason::Dropped(variable)));
            }
        }
        let mismatch = config.lookups.mismatch;
        let remote_host = host(self.remote.as_ref(), mismatch)?;
        let local_host = host(self.local.as_ref(), mismatch)?;
        let user = match &self.ident {
            Ident::NotWanted => None,
            Ident::Open => return None,
            Ident::Done(user) => user.as_deref(),
        };
        env.reserve(ROOM);
        env.set_shown(b"TCPLOCALIP", Printed(ends.local.ip(), config.ipv4));
        env.set_shown(b"TCPLOCALPORT", ends.local.port());
        env.set_shown(b"TCPREMOTEIP", Printed(ends.peer.ip(), config.ipv4));
        env.set_shown(b"TCPREMOTEPORT", ends.peer.port());
        for (name, value) in [
            (&b"TCPLOCALHOST"[..], local_host.map(str::as_bytes)),
            (b"TCPREMOTEHOST", remote_host.map(str::as_bytes)),
            (b"TCPREMOTEINFO", user),
        ] {
            if let Some(value) = value {
                env.set(name, value);
            }
        }
        // What has just been set can be a variable of `-drop` as well.
        let dropped = self.dropped(config, base, &env);
        Some(dropped.map_or_else(|| Verdict::Serve(env), |variable| Verdict::Refuse(Reason::Dropped(variable))))
    }

    /// The variable of `-drop` that is set and not empty in `env`.
    fn dropped(&self, config: &Config, base: &Base, env: &Delta) -> Option<Vec<u8>> {
        config.drop.iter().find(|variable| env.effective(variable, base).is_some_and(|v| !v.is_empty())).cloned()
    }

    /// The peer's name as far as it is known, for the log.
    pub fn remote_name(&self) -> Option<&HostName> {
        self.remote.as_ref().and_then(Reverse::outcome)
    }

    /// The local end's name as far as it is known.
    pub fn local_name(&self) -> Option<&HostName> {
        self.local.as_ref().and_then(Reverse::outcome)
    }

    /// True while ident is wanted and has not ended.
    pub fn awaits_ident(&self) -> bool {
        self.ident == Ident::Open
    }

    /// The DNS questions that are still open, for giving up this connection's share in them.
    pub fn open_questions(&self, config: &Config, ends: &Ends) -> Vec<Question> {
        let mut open = Vec::new();
        if config.lookups.names == NameSource::Dns {
            for reverse in [&self.remote, &self.local].into_iter().flatten() {
                reverse.open(&mut open);
            }
        }
        for (list, replies) in config.lists.iter().zip(&self.lists) {
            replies.open(list, ends.peer.ip(), &mut open);
        }
        open
    }

    /// The addresses whose names the name service switch still owes.
    pub fn open_names<'a>(&'a self, config: &Config, ends: &'a Ends) -> impl Iterator<Item = IpAddr> + 'a {
        let external = matches!(config.lookups.names, NameSource::Nss(_));
        [(&self.remote, ends.peer.ip()), (&self.local, ends.local.ip())]
            .into_iter()
            .filter(move |(reverse, _)| external && reverse.as_ref().is_some_and(|r| r.outcome().is_none()))
            .map(|(_, ip)| ip)
    }

    /// What came of each list that was asked, by its index.
    pub fn list_results<'a>(&'a self, config: &'a Config) -> impl Iterator<Item = (usize, ListResult)> + 'a {
        config.lists.iter().zip(&self.lists).enumerate().filter_map(|(i, (list, replies))| {
            let result = match replies.judge(list, &config.zones[usize::from(list.zone)]) {
                _ if replies.a == Part::NotAsked => return None,
                dnsbl::Judgement::Open => ListResult::Open,
                dnsbl::Judgement::NotListed => ListResult::NotListed,
                dnsbl::Judgement::Listed { .. } if replies.lacks_text() => ListResult::ListedWithoutText,
                dnsbl::Judgement::Listed { .. } => ListResult::Listed,
                dnsbl::Judgement::Unusable(found) => ListResult::Unusable(found[0]),
                dnsbl::Judgement::Failed if replies.a == Part::Late || replies.txt == Part::Late => ListResult::Late,
                dnsbl::Judgement::Failed => ListResult::Failed,
            };
            Some((i, result))
        })
    }

    /// What the verdict still waits for, or could.
    pub fn waits_for(&self) -> impl Iterator<Item = Wait> + '_ {
        let open = |reverse: &Option<Reverse>| reverse.as_ref().is_some_and(|r| r.outcome().is_none());
        let lists = self.lists.iter().enumerate();
        let lists = lists.filter(|(_, replies)| replies.a == Part::Open || replies.txt == Part::Open);
        [
            (open(&self.remote), Wait::RemoteName),
            (open(&self.local), Wait::LocalName),
            (self.awaits_ident(), Wait::Ident),
        ]
        .into_iter()
        .filter_map(|(waits, wait)| waits.then_some(wait))
        .chain(lists.map(|(i, _)| Wait::List(i)))
    }
}

/// What the name's variable will be, if there will be one. None: it is not known yet.
fn host(reverse: Option<&Reverse>, mismatch: HostMismatch) -> Option<Option<&str>> {
    match reverse {
        None => Some(None),
        Some(reverse) => reverse.outcome().map(|name| name.variable(mismatch)),
    }
}

/// Something that a session still waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    RemoteName,
    LocalName,
    Ident,
    /// The list with this index in `Config::lists`.
    List(usize),
}

/// What came of asking a list for a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListResult {
    /// Not yet known, or no longer needed.
    Open,
    Listed,
    /// The same, but its text was asked for in vain.
    ListedWithoutText,
    NotListed,
    /// The name servers gave no answer to use.
    Failed,
    /// No answer came within the time limit.
    Late,
    /// An A record that is no listing.
    Unusable(std::net::Ipv4Addr),
}

impl ListResult {
    /// What the log says of it, if it is worth a line.
    pub fn trouble(self) -> Option<Trouble> {
        match self {
            ListResult::Open | ListResult::Listed | ListResult::NotListed => None,
            ListResult::ListedWithoutText => Some(Trouble::NoText),
            ListResult::Failed => Some(Trouble::Failed),
            ListResult::Late => Some(Trouble::Late),
            ListResult::Unusable(address) => Some(Trouble::Unusable(address)),
        }
    }
}

/// Why a list could not be used for a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// A client is on it, and the name servers do not give its text.
    NoText,
    /// The name servers gave no answer to use.
    Failed,
    /// No answer came within the time limit.
    Late,
    /// An A record that is no listing.
    Unusable(std::net::Ipv4Addr),
}

#[cfg(test)]
mod tests;
