//! The channels of the DNS client: which take new queries, and which only end those they have.
//!
//! Lists have one channel and names another, because c-ares cannot give up a single query but only all of a
//! channel: where a crowd's names are silent, others' take their places, while lists are left alone. Else a channel
//! that is replaced, since its name servers or its memory are not wanted any more, is kept until its last query has ended.

#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::io;
use std::mem;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use c_ares::FdEvents;

use crate::error::errno_text;

use super::channel::{Basket, Channel};
use super::sockets::Sockets;
use super::speed::Speed;

/// Channels for queries that go alone. A socket each, so few.
const MAX_ALONE: usize = 64;
/// How often it is looked, while there is something to ask, whether resolv.conf has changed.
const CHECK_EVERY: Duration = Duration::from_secs(1);
/// In a crowd a channel for names takes so many queries at most, or takes them for so long, so that those of one
/// channel are of about the same age, and no oftener than that one is given up: there are never more new queries at a
/// time than a name server's buffer holds, though 3,750 in a second.
const PART: usize = 375;
const SLICE: Duration = Duration::from_millis(100);
/// After some were given up it is a crowd for so long at least.
const CROWD: Duration = Duration::from_secs(1);
/// What c-ares asks if nobody is named, and how a file has it that means it.
const NOBODY: &str = "127.0.0.1:53";
const THIS_HOST: &str = "127.0.0.1";
/// So many earlier channels for names at most: each takes some sockets.
const MAX_EARLIER: usize = 16;

pub struct Channels {
    /// `-nameserver`; empty: those of `resolv_conf`.
    nameservers: Vec<SocketAddr>,
    resolv_conf: String,
    sockets: Arc<Sockets>,
    basket: Basket,
    /// Those that channels ask, in the order in which they were given.
    servers: Vec<String>,
    lists: Channel,
    names: Channel,
    /// Since when `names` takes queries.
    names_since: Instant,
    /// When some were last given up.
    given_up: Instant,
    /// How fast lists are answered, and names.
    speeds: [Speed; 2],
    /// `names` was made when neither was known.
    is_blind: bool,
    /// Those for names that took queries before, in a crowd, and until when. The oldest is first.
    earlier: VecDeque<(Channel, Instant)>,
    /// Those for lists that were replaced, and those made for one query.
    old: Vec<Channel>,
    stamp: Option<Stamp>,
    check_at: Instant,
}

impl Channels {
    pub fn open(
        nameservers: Vec<SocketAddr>,
        resolv_conf: String,
        sockets: Arc<Sockets>,
        basket: Basket,
        now: Instant,
    ) -> io::Result<Channels> {
        // Looked at before it is read: a change in between is then seen as one.
        let mut stamp = Stamp::of(&resolv_conf);
        let first_timeout = Speed::default().first_timeout();
        let make = || Channel::open(&nameservers, &resolv_conf, &sockets, basket.clone(), first_timeout);
        let (mut lists, mut names) = (make()?, make()?);
        if nameservers.is_empty() {
            let named = servers_in(&std::fs::read(&resolv_conf).unwrap_or_default());
            [&mut lists, &mut names].into_iter().for_each(|channel| heed(channel, &named));
            if !named.is_empty() && asks_nobody_named(&names, &named) {
                // They may be to be had later.
                stamp = None;
            }
        }
        if let Some(server) = names.leaves_out(&nameservers) {
            return Err(io::Error::other(format!("-nameserver: {server} cannot be asked")));
        }
        Ok(Channels {
            nameservers,
            resolv_conf,
            sockets,
            basket,
            servers: names.servers(),
            lists,
            names,
            names_since: now,
            given_up: now,
            speeds: Default::default(),
            is_blind: true,
            earlier: VecDeque::new(),
            old: Vec::new(),
            stamp,
            check_at: now,
        })
    }

    /// Reads resolv.conf anew and makes new channels. Queries under way end where they are. If it fails, all stays
    /// as it was. It does if the file names servers and none can be asked, for c-ares would ask this host instead, where
    /// nobody answers for any list; and if it has come to name none, which may be half written, unless it is `trusted`.
    pub fn reload(&mut self, trusted: bool, now: Instant) -> io::Result<()> {
        let stamp = Stamp::of(&self.resolv_conf);
        let text = self.read_file()?;
        if text.is_none() && self.servers != [NOBODY] {
            // Perhaps it is being replaced. If not, whoever was named is a better guess than this host.
            let error = || io::Error::new(io::ErrorKind::NotFound, format!("{} is not there", self.resolv_conf));
            return if trusted { Err(error()) } else { Ok(()) };
        }
        let named = servers_in(&text.unwrap_or_default());
        let may_ask_nobody = named.is_empty() && (trusted || self.servers == [NOBODY]);
        // What is known of the speed is not of those that are asked from now on.
        let speeds = mem::take(&mut self.speeds);
        let made = self.open_channel(self.speed()).and_then(|lists| Ok((lists, self.open_channel(self.speed())?)));
        let made = made.and_then(|(mut lists, mut names)| {
            if self.nameservers.is_empty() {
                [&mut lists, &mut names].into_iter().for_each(|channel| heed(channel, &named));
                if !may_ask_nobody && [&lists, &names].into_iter().any(|channel| asks_nobody_named(channel, &named)) {
                    return Err(self.nobody_named());
                }
            }
            Ok((lists, names))
        });
        let (lists, names) = made.inspect_err(|_| self.speeds = speeds)?;
        self.stamp = stamp;
        self.servers = names.servers();
        self.replace(lists, names, now);
        Ok(())
    }

    /// Makes new channels for the same servers, since those there are keep the memory of their busiest time. As above
    /// otherwise. A server that was found dead meanwhile has another chance.
    pub fn renew(&mut self, now: Instant) -> io::Result<()> {
        let lists = self.open_for(&self.servers, &self.speeds[0])?;
        let names = self.open_for(&self.servers, self.speed())?;
        self.replace(lists, names, now);
        Ok(())
    }

    fn replace(&mut self, lists: Channel, names: Channel, now: Instant) {
        let lists = mem::replace(&mut self.lists, lists);
        self.old.extend(Some(lists).filter(|channel| !channel.is_idle()));
        self.replace_names(names, now);
        self.is_blind = !self.speed().is_known();
    }

    /// The one before gives way to others like any that is earlier.
    fn replace_names(&mut self, names: Channel, now: Instant) {
        let before = mem::replace(&mut self.names, names);
        self.earlier.extend(Some((before, now)).filter(|(channel, _)| !channel.is_idle()));
        self.names_since = now;
    }

    /// How fast names are answered, as far as that is known.
    fn speed(&self) -> &Speed {
        let [lists, names] = &self.speeds;
        if names.is_known() { names } else { lists }
    }

    fn open_channel(&self, speed: &Speed) -> io::Result<Channel> {
        let basket = self.basket.clone();
        Channel::open(&self.nameservers, &self.resolv_conf, &self.sockets, basket, speed.first_timeout())
    }

    /// A channel that asks the servers of `model`, in the order in which that has found them to answer.
    fn like(&self, model: &Channel, speed: &Speed) -> io::Result<Channel> {
        self.open_for(&model.servers(), speed)
    }

    /// A channel that asks these, whatever has become of resolv.conf.
    fn open_for(&self, servers: &[String], speed: &Speed) -> io::Result<Channel> {
        let mut channel = self.open_channel(speed)?;
        channel.set_servers(servers)?;
        if channel.servers().is_empty() { Err(io::Error::other("no server can be asked")) } else { Ok(channel) }
    }

    /// True if resolv.conf is another one than was read; looked at once a second at most.
    pub fn is_outdated(&mut self, now: Instant) -> bool {
        if now < self.check_at {
            return false;
        }
        self.check_at = now + CHECK_EVERY;
        self.nameservers.is_empty() && Stamp::of(&self.resolv_conf).is_some_and(|stamp| Some(stamp) != self.stamp)
    }

    /// What resolv.conf says; none if it is not there, or has no say. An error has its name. For c-ares a file that it
    /// cannot read names nobody.
    fn read_file(&self) -> io::Result<Option<Vec<u8>>> {
        if !self.nameservers.is_empty() {
            return Ok(Some(Vec::new()));
        }
        match std::fs::read(&self.resolv_conf) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(io::Error::new(error.kind(), format!("{}: {}", self.resolv_conf, errno_text(&error)))),
        }
    }

    /// An error if it is not those that resolv.conf names who are asked.
    pub fn check(&self) -> io::Result<()> {
        let named = servers_in(&self.read_file()?.unwrap_or_default());
        if named.is_empty() || !asks_nobody_named(&self.names, &named) { Ok(()) } else { Err(self.nobody_named()) }
    }

    fn nobody_named(&self) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidData, format!("{} names no server that can be asked", self.resolv_conf))
    }

    /// The channel that takes new queries, those for lists or those for names.
    pub fn current(&mut self, is_listing: bool, now: Instant) -> &mut Channel {
        if is_listing {
            return &mut self.lists;
        }
        let [lists, names] = &self.speeds;
        if self.is_blind && !names.is_known() && lists.is_fast() {
            // While no name has been answered c-ares does not know on this channel what it knows on the other.
            self.is_blind = false;
            if let Ok(channel) = self.like(&self.lists, lists) {
                self.replace_names(channel, now);
            }
        }
        match self.names.under_way() {
            0 => self.names_since = now,
            PART.. if !self.earlier.is_empty() || now < self.given_up + CROWD => self.begin_part(now),
            _ => {}
        }
        &mut self.names
    }

    /// Query `number` is sent.
    pub fn sent(&mut self, is_listing: bool, number: u32, now: Instant) {
        self.speeds[usize::from(!is_listing)].sent(number, now);
    }

    /// A query has ended, with an answer or without.
    pub fn ended(&mut self, number: u32, answered: bool, now: Instant) {
        self.speeds.iter_mut().for_each(|speed| speed.ended(number, answered, now));
    }

    fn begin_part(&mut self, now: Instant) {
        // If it fails, there is another chance after another slice.
        self.names_since = now;
        if self.earlier.len() < MAX_EARLIER {
            if let Ok(channel) = self.like(&self.names, self.speed()) {
                self.replace_names(channel, now);
            }
        }
    }

    /// A channel for one query. None: there are too many of them, or none can be made.
    pub fn alone(&mut self) -> Option<&mut Channel> {
        if self.old.len() >= MAX_ALONE {
            return None;
        }
        self.old.push(self.like(&self.lists, &self.speeds[0]).ok()?);
        self.old.last_mut()
    }

    /// Gives up the queries of the channels for names that have been silent for longest, as far as they were left alone
    /// for long enough since their last query, some hundred at a time. To be called for as long as somebody wants
    /// their places, only for such as were asked for before if `later`. They end as [`super::Failure::GivenUp`]. True if
    /// there were any.
    pub fn make_room(&mut self, later: bool, now: Instant) -> bool {
        if self.slice_ends().is_some_and(|end| now >= end) {
            self.begin_part(now);
        }
        if now < self.given_up + SLICE {
            return false;
        }
        let mut made = 0;
        while made < PART && self.due(later).is_some_and(|due| now >= due) {
            made += self.earlier.pop_front().map_or(0, |(channel, _)| channel.under_way());
            self.given_up = now;
        }
        made > 0
    }

    /// When [`Channels::make_room`] may do something, if nothing else happens before.
    pub fn room_at(&self, later: bool) -> Option<Instant> {
        let due = self.due(later).map(|due| due.max(self.given_up + SLICE));
        self.slice_ends().into_iter().chain(due).min()
    }

    fn slice_ends(&self) -> Option<Instant> {
        (!self.names.is_idle()).then_some(self.names_since + SLICE)
    }

    fn due(&self, later: bool) -> Option<Instant> {
        self.earlier.front().map(|(_, until)| *until + self.speed().patience(later))
    }

    /// How long a name may be asked for again and again: as long as c-ares would ask one server, if nobody wanted its
    /// place.
    pub fn longest(&self) -> Duration {
        self.speed().longest()
    }

    /// Gives up all queries but those of the current channels.
    pub fn give_up_earlier(&mut self) {
        self.earlier.clear();
        self.old.clear();
    }

    /// Queries for names that have not ended, but for those that went alone.
    pub fn names_under_way(&self) -> usize {
        self.names.under_way() + self.earlier.iter().map(|(channel, _)| channel.under_way()).sum::<usize>()
    }

    /// See [`Channel::process`]. Forgets channels without queries.
    pub fn process(&mut self, events: &[FdEvents], partial: bool) {
        for channel in self.all_mut() {
            if !events.is_empty() || !channel.is_idle() {
                channel.process(events, partial);
            }
        }
        self.old.retain(|channel| !channel.is_idle());
        self.earlier.retain(|(channel, _)| !channel.is_idle());
    }

    fn all_mut(&mut self) -> impl Iterator<Item = &mut Channel> {
        let earlier = self.earlier.iter_mut().map(|(channel, _)| channel);
        [&mut self.lists, &mut self.names].into_iter().chain(earlier).chain(&mut self.old)
    }

    /// Until [`Channels::process`] has to be called, though nothing may be ready.
    pub fn timeout(&self) -> Option<Duration> {
        let earlier = self.earlier.iter().map(|(channel, _)| channel);
        [&self.lists, &self.names].into_iter().chain(earlier).chain(&self.old).filter_map(Channel::timeout).min()
    }

    /// True while queries are under way that were not sent by the current channels.
    pub fn has_earlier(&self) -> bool {
        !self.old.is_empty() || !self.earlier.is_empty()
    }

    /// The servers asked, for messages.
    pub fn servers(&self) -> Vec<String> {
        self.servers.clone()
    }
}

/// The servers that the text of resolv.conf names, be they fit to be asked or not.
fn servers_in(resolv_conf: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(resolv_conf);
    let server = |line: &str| {
        let mut words = line.split(['#', ';']).next()?.split_ascii_whitespace();
        (words.next() == Some("nameserver")).then(|| words.next().unwrap_or_default().to_owned())
    };
    text.lines().filter_map(server).collect()
}

/// True if a channel asks this host, and resolv.conf, which names these, does not say so.
fn asks_nobody_named(channel: &Channel, named: &[String]) -> bool {
    channel.servers() == [NOBODY] && !named.iter().any(|server| server == THIS_HOST || server == NOBODY)
}

/// Has a channel ask whom resolv.conf names. c-ares forgets what it says if it fails at another file later, such as an
/// nsswitch.conf that it may not read.
fn heed(channel: &mut Channel, named: &[String]) {
    if channel.servers() != [NOBODY] || named.iter().all(|server| server == THIS_HOST) {
        return;
    }
    let mut can_ask = |servers: &[String]| channel.set_servers(servers).is_ok() && !channel.servers().is_empty();
    let fit: Vec<_> = named.iter().filter(|server| can_ask(std::slice::from_ref(server))).cloned().collect();
    if fit.is_empty() || !can_ask(&fit) {
        can_ask(&[NOBODY.to_owned()]);
    }
}

/// By what a changed file is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    /// When it was last changed, its mode and owner included.
    seconds: i64,
    nanoseconds: i64,
}

impl Stamp {
    /// None if there is no such file; a file that is being replaced is no reason to act.
    fn of(path: &str) -> Option<Stamp> {
        let file = std::fs::metadata(path).ok()?;
        Some(Stamp {
            device: file.dev(),
            inode: file.ino(),
            size: file.size(),
            seconds: file.ctime(),
            nanoseconds: file.ctime_nsec(),
        })
    }
}
