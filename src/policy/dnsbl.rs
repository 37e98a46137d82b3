//! DNS access lists: what each list's answers mean, and what they set.
//!
//! All lists that may be needed are asked at once; the outcome is that of asking one after the other
//! in the order of the command line, where a list is skipped once its variable is set. [`fold`] is
//! that sequential reading over whatever is known so far: it gives the variables, or says that an
//! open answer could still change them. Pure; behaviour section 6.

#![forbid(unsafe_code)]

use std::net::{IpAddr, Ipv4Addr};

use crate::addr::{Ipv4Form, Printed};
use crate::config::{Config, DnsList, ListKind, ListMessage, Zone};
use crate::policy::env::{Base, Delta};
use crate::policy::question::{Answer, ListingKind, Question, Records};

/// One record type of one list.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Part {
    /// The list's variable was set before any list was asked, or the type is not wanted.
    #[default]
    NotAsked,
    Open,
    Done(Answer),
    /// The time limit came first.
    Late,
}

/// The answers of one list so far.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Replies {
    pub a: Part,
    pub txt: Part,
}

/// What the answers of one list amount to.
#[derive(Debug, PartialEq, Eq)]
pub enum Judgement<'a> {
    /// An open answer decides.
    Open,
    NotListed,
    /// The lookup failed or was late.
    Failed,
    /// A records came, and none of them is a listing (an operator's refusal, a parked zone).
    Unusable(Vec<Ipv4Addr>),
    Listed {
        /// The A record that counted; none: the TXT record alone.
        address: Option<Ipv4Addr>,
        txt: Option<&'a [u8]>,
    },
}

impl Replies {
    /// Starts the queries of `list` for a client.
    pub fn ask(list: &DnsList, peer: IpAddr, wanted: &mut Vec<Question>) -> Self {
        let mut ask = |kind| {
            wanted.push(Question::Listing { zone: list.zone, ip: peer, kind });
            Part::Open
        };
        let a = ask(ListingKind::A);
        let txt = if list.wants_txt() { ask(ListingKind::Txt) } else { Part::NotAsked };
        Replies { a, txt }
    }

    /// Takes the answer to one of this list's queries.
    pub fn answer(&mut self, kind: ListingKind, answer: &Answer) {
        let part = match kind {
            ListingKind::A => &mut self.a,
            ListingKind::Txt => &mut self.txt,
        };
        if *part == Part::Open {
            *part = Part::Done(answer.clone());
        }
    }

    /// Time is up: what is open stays unknown.
    pub fn expire(&mut self) {
        for part in [&mut self.a, &mut self.txt] {
            if *part == Part::Open {
                *part = Part::Late;
            }
        }
    }

    /// True if a text was asked for, and there was no answer to use.
    pub fn lacks_text(&self) -> bool {
        matches!(self.txt, Part::Late | Part::Done(Answer::Failed))
    }

    /// The queries of `list` that are still open.
    pub fn open(&self, list: &DnsList, peer: IpAddr, open: &mut Vec<Question>) {
        for (part, kind) in [(&self.a, ListingKind::A), (&self.txt, ListingKind::Txt)] {
            if *part == Part::Open {
                open.push(Question::Listing { zone: list.zone, ip: peer, kind });
            }
        }
    }

    /// What is known means, as far as it decides.
    pub fn judge(&self, list: &DnsList, zone: &Zone) -> Judgement<'_> {
        let address = match &self.a {
            Part::NotAsked => return Judgement::NotListed,
            Part::Open => return Judgement::Open,
            Part::Late | Part::Done(Answer::Failed) => return Judgement::Failed,
            Part::Done(Answer::Absent) => None,
            Part::Done(Answer::Found(records)) => {
                let found = addresses(records);
                match found.iter().find(|&&a| is_listing(a, list, zone)) {
                    Some(&address) => Some(address),
                    None if list.expect.is_some() => return Judgement::NotListed,
                    None => return Judgement::Unusable(found),
                }
            }
        };
        // Without an A record the text alone can list, but only where no particular address is expected.
        if address.is_none() && list.expect.is_some() {
            return Judgement::NotListed;
        }
        let txt = match &self.txt {
            Part::Open => return Judgement::Open,
            Part::Done(Answer::Found(records)) => text(records),
            Part::NotAsked | Part::Late | Part::Done(_) => None,
        };
        if address.is_none() && txt.is_none() {
            return if self.lacks_text() { Judgement::Failed } else { Judgement::NotListed };
        }
        Judgement::Listed { address, txt }
    }
}

fn addresses(records: &Records) -> Vec<Ipv4Addr> {
    let Records::Addresses(addresses) = records else { return Vec::new() };
    addresses
        .iter()
        .filter_map(|ip| match ip {
            IpAddr::V4(ip) => Some(*ip),
            IpAddr::V6(_) => None,
        })
        .collect()
}

/// The text of a TXT answer; an empty one says nothing and counts as none.
fn text(records: &Records) -> Option<&[u8]> {
    match records {
        Records::Text(text) if !text.is_empty() => Some(text),
        _ => None,
    }
}

/// True if the A record `address` says that the client is on the list.
fn is_listing(address: Ipv4Addr, list: &DnsList, zone: &Zone) -> bool {
    if let Some(expected) = list.expect {
        return address == expected;
    }
    if zone.any {
        return true;
    }
    match address.octets() {
        // The operator refuses the query: over quota, or asked through an open resolver.
        [127, 255, 255, _] => false,
        // Never a listing (RFC 5782, section 5).
        [127, 0, 0, 1] => false,
        // An operator's "over quota"; on an allow list it would vouch for everybody.
        [127, 0, 0, 255] => list.kind == ListKind::Block,
        [127, ..] => true,
        // A parked zone answers for everybody with the address of its web server.
        _ => false,
    }
}

/// Reads the lists in order over what is known. `env` holds the access record's variables; the
/// result is it plus what the lists set. None: an answer that could change the result is open.
pub fn fold(config: &Config, replies: &[Replies], peer: IpAddr, env: &Delta, base: &Base) -> Option<Delta> {
    let mut env = env.clone();
    let mut allow_hits = 0;
    for (list, replies) in config.lists.iter().zip(replies) {
        if env.effective(&list.variable, base).is_some() {
            continue;
        }
        match replies.judge(list, &config.zones[usize::from(list.zone)]) {
            Judgement::Open => return None,
            Judgement::NotListed | Judgement::Failed => {}
            Judgement::Unusable(found) => note_unusable(list, &found, &mut env),
            Judgement::Listed { address, txt } => {
                set_hit(list, address, txt, peer, config.ipv4, &mut env);
                if list.kind == ListKind::Allow && address.is_some() {
                    env.set(format!("ALLOW_{allow_hits}").as_bytes(), &list.variable);
                    allow_hits += 1;
                }
            }
        }
    }
    Some(env)
}

fn with_suffix(list: &DnsList, suffix: &str) -> Vec<u8> {
    [&list.variable, suffix.as_bytes()].concat()
}

/// VAR_ERROR: `DISPLAY:ADDRESS`, several separated by a blank.
fn note_unusable(list: &DnsList, found: &[Ipv4Addr], env: &mut Delta) {
    let name = with_suffix(list, "_ERROR");
    let mut value = env.get(&name).map(<[u8]>::to_vec).unwrap_or_default();
    for address in found {
        if !value.is_empty() {
            value.push(b' ');
        }
        value.extend_from_slice(format!("{}:{address}", list.display).as_bytes());
    }
    env.set(&name, &value);
}

fn set_hit(
    list: &DnsList,
    address: Option<Ipv4Addr>,
    txt: Option<&[u8]>,
    peer: IpAddr,
    form: Ipv4Form,
    env: &mut Delta,
) {
    let value = match (list.kind, &list.message) {
        (ListKind::Allow, _) => Vec::new(),
        (ListKind::Block, ListMessage::Text(message)) if !message.is_empty() => insert_address(message, peer, form),
        (ListKind::Block, _) => match txt {
            Some(txt) => txt.to_vec(),
            None => format!("{} is listed by {}", Printed(peer, form), list.display).into_bytes(),
        },
    };
    env.set(&list.variable, &value);
    if let Some(address) = address {
        env.set(&with_suffix(list, "_IP"), address.to_string().as_bytes());
    }
    if let Some(txt) = txt {
        env.set(&with_suffix(list, "_TXT"), txt);
    }
    env.set(&with_suffix(list, "_ZONE"), list.display.as_bytes());
}

/// MESSAGE with its first `@` replaced by the client's address.
fn insert_address(message: &[u8], peer: IpAddr, form: Ipv4Form) -> Vec<u8> {
    match message.iter().position(|&b| b == b'@') {
        Some(at) => [&message[..at], Printed(peer, form).to_string().as_bytes(), &message[at + 1..]].concat(),
        None => message.to_vec(),
    }
}

/// The variable by which `-drop` will refuse the connection whatever the open answers say, though [`fold`] may
/// not know yet which list it will be.
///
/// For a variable of `-drop`, lists are read in order: a known hit of a block list decides, since an
/// open block list before it would set the variable too, and never to nothing. An open allow list
/// before it could set it to nothing, so nothing is certain behind one.
pub fn certainly_dropped<'a>(config: &'a Config, replies: &[Replies], env: &Delta, base: &Base) -> Option<&'a [u8]> {
    let variable = config
        .drop
        .iter()
        .filter(|variable| env.effective(variable, base).is_none())
        .find(|variable| first_decides(config, replies, variable))?;
    Some(variable)
}

/// True if a block list has a hit for `variable` and no allow list before it could still have one.
fn first_decides(config: &Config, replies: &[Replies], variable: &[u8]) -> bool {
    for (list, replies) in config.lists.iter().zip(replies).filter(|(list, _)| list.variable == variable) {
        let zone = &config.zones[usize::from(list.zone)];
        match (list.kind, replies.judge(list, zone)) {
            (ListKind::Block, Judgement::Listed { .. }) => return true,
            // The text is open, but the address is on the list.
            (ListKind::Block, Judgement::Open) if a_record_lists(replies, list, zone) => return true,
            (ListKind::Allow, Judgement::Open | Judgement::Listed { .. }) => return false,
            _ => {}
        }
    }
    false
}

fn a_record_lists(replies: &Replies, list: &DnsList, zone: &Zone) -> bool {
    let Part::Done(Answer::Found(records)) = &replies.a else { return false };
    addresses(records).into_iter().any(|a| is_listing(a, list, zone))
}

#[cfg(test)]
mod tests;
