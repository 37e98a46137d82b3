//! The name of one host: PTR, then the addresses of each name until one leads back.
//!
//! A [`Reverse`] is fed with answers in any order and says what it wants asked. Its outcome is that
//! of trying the names one after the other in the order of the PTR reply, though [`WINDOW`] of them
//! are asked at a time. Owned by a session; pure.

#![forbid(unsafe_code)]

use std::net::IpAddr;
use std::rc::Rc;

use crate::config::HostMismatch;
use crate::policy::question::{Answer, Family, HostName, MAX_NAMES, Question, Records};

/// Forward lookups under way at once for one host. Most hosts have one name; a host with sixty must
/// not fill the queue for everybody else.
const WINDOW: u32 = 4;

/// The lookup of the name of one address.
#[derive(Debug)]
pub struct Reverse {
    ip: IpAddr,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    /// The PTR records are wanted.
    Names,
    /// Boxed: most who wait, wait for the names.
    Forward(Box<Forward>),
    Done(HostName),
}

/// Forward lookups of the PTR names; bit i of each mask belongs to name i.
#[derive(Debug)]
struct Forward {
    names: Rc<Records>,
    /// Names asked so far: those below this index.
    asked: u32,
    answered: u64,
    /// Answered, and the address is among the records.
    matching: u64,
    /// Answered by a temporary failure.
    failed: u64,
}

impl Forward {
    fn names(&self) -> &[Rc<str>] {
        match &*self.names {
            Records::Names(names) => &names[..names.len().min(MAX_NAMES)],
            Records::Addresses(_) | Records::Text(_) => &[],
        }
    }

    /// Marks names that cannot be host names as answered, and asks the next ones.
    fn ask(&mut self, family: Family, wanted: &mut Vec<Question>) {
        let count = self.names().len() as u32;
        while self.asked < count && self.matching == 0 {
            let open = self.asked - (self.answered & low_bits(self.asked)).count_ones();
            if open >= WINDOW {
                break;
            }
            let name = self.names()[self.asked as usize].clone();
            if name.is_empty() {
                self.answered |= 1 << self.asked;
            } else {
                wanted.push(Question::Addresses(name, family));
            }
            self.asked += 1;
        }
    }

    fn outcome(&self) -> Option<HostName> {
        let first_match = self.matching.trailing_zeros();
        let first_open = self.answered.trailing_ones();
        let count = self.names().len() as u32;
        if first_match < first_open {
            Some(HostName::Known(self.names()[first_match as usize].clone()))
        } else if first_open < count {
            None
        } else if self.failed != 0 {
            Some(HostName::SoftError)
        } else {
            Some(HostName::Mismatch)
        }
    }
}

/// A mask of the lowest `count` bits; `count` is at most 64.
fn low_bits(count: u32) -> u64 {
    u64::MAX.checked_shr(64 - count).unwrap_or(0)
}

impl Reverse {
    /// Starts the lookup; its first question goes to `wanted`.
    pub fn start(ip: IpAddr, wanted: &mut Vec<Question>) -> Self {
        wanted.push(Question::Names(ip));
        Reverse { ip, stage: Stage::Names }
    }

    /// A lookup that somebody else does: the name service switch.
    pub fn external(ip: IpAddr) -> Self {
        Reverse { ip, stage: Stage::Names }
    }

    /// The outcome of an external lookup.
    pub fn settle(&mut self, ip: IpAddr, name: &HostName) {
        if ip == self.ip && self.outcome().is_none() {
            self.stage = Stage::Done(name.clone());
        }
    }

    /// Takes an answer, if the question is one of ours; further questions go to `wanted`. Returns those that are still
    /// open though they cannot matter any more: nobody else says that they are to be given up.
    #[must_use]
    pub fn answer(&mut self, question: &Question, answer: &Answer, wanted: &mut Vec<Question>) -> Vec<Question> {
        match (&mut self.stage, question) {
            (Stage::Names, Question::Names(ip)) if *ip == self.ip => match answer {
                Answer::Absent => self.stage = Stage::Done(HostName::Absent),
                Answer::Failed => self.stage = Stage::Done(HostName::SoftError),
                Answer::Found(records) => {
                    self.stage = Stage::Forward(Box::new(Forward {
                        names: records.clone(),
                        asked: 0,
                        answered: 0,
                        matching: 0,
                        failed: 0,
                    }));
                }
            },
            (Stage::Forward(forward), Question::Addresses(name, family)) if *family == Family::of(self.ip) => {
                let ours: u64 = (0..forward.asked)
                    .filter(|&i| forward.names()[i as usize] == *name)
                    .fold(0, |mask, i| mask | 1 << i);
                forward.answered |= ours;
                match answer {
                    Answer::Found(records) if leads_to(records, self.ip) => forward.matching |= ours,
                    Answer::Failed => forward.failed |= ours,
                    Answer::Found(_) | Answer::Absent => {}
                }
            }
            _ => return Vec::new(),
        }
        self.advance(wanted)
    }

    fn advance(&mut self, wanted: &mut Vec<Question>) -> Vec<Question> {
        let mut moot = Vec::new();
        if let Stage::Forward(forward) = &mut self.stage {
            forward.ask(Family::of(self.ip), wanted);
            if let Some(name) = forward.outcome() {
                self.open(&mut moot);
                self.stage = Stage::Done(name);
            }
        }
        moot
    }

    /// Time is up: what is open counts as failed.
    pub fn expire(&mut self) {
        let outcome = match &mut self.stage {
            Stage::Names => HostName::SoftError,
            Stage::Forward(forward) => {
                let open = !forward.answered & low_bits(forward.names().len() as u32);
                forward.answered |= open;
                forward.failed |= open;
                forward.outcome().unwrap_or(HostName::SoftError)
            }
            Stage::Done(_) => return,
        };
        self.stage = Stage::Done(outcome);
    }

    /// The name, once it is settled.
    pub fn outcome(&self) -> Option<&HostName> {
        match &self.stage {
            Stage::Done(name) => Some(name),
            Stage::Names | Stage::Forward(_) => None,
        }
    }

    /// The questions that are still open.
    pub fn open(&self, open: &mut Vec<Question>) {
        match &self.stage {
            Stage::Names => open.push(Question::Names(self.ip)),
            Stage::Forward(forward) => open.extend(
                (0..forward.asked)
                    .filter(|i| forward.answered >> i & 1 == 0)
                    .map(|i| Question::Addresses(forward.names()[i as usize].clone(), Family::of(self.ip))),
            ),
            Stage::Done(_) => {}
        }
    }
}

fn leads_to(records: &Records, ip: IpAddr) -> bool {
    matches!(records, Records::Addresses(addresses) if addresses.contains(&ip))
}

impl HostName {
    /// The value of TCPREMOTEHOST or TCPLOCALHOST; none: not set (behaviour section 5).
    pub fn variable(&self, mismatch: HostMismatch) -> Option<&str> {
        match (self, mismatch) {
            (HostName::Known(name), _) => Some(name),
            (HostName::Absent, _) | (HostName::Mismatch, HostMismatch::Unset) => None,
            (HostName::SoftError, _) | (HostName::Mismatch, HostMismatch::SoftError) => Some("softdnserr"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IP: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

    fn names(names: &[&str]) -> Answer {
        Answer::Found(Rc::new(Records::Names(names.iter().map(|&n| n.into()).collect())))
    }

    fn addresses(addresses: &[&str]) -> Answer {
        Answer::Found(Rc::new(Records::Addresses(addresses.iter().map(|a| a.parse().unwrap()).collect())))
    }

    fn forward(spec: char) -> Answer {
        match spec {
            'm' => addresses(&["192.0.2.9", "192.0.2.1"]),
            'x' => addresses(&["192.0.2.9"]),
            'n' => Answer::Absent,
            _ => Answer::Failed,
        }
    }

    /// Runs a host with one name for each letter of `spec`, answering the open questions in the order that `pick` chooses.
    fn run(spec: &str, mut pick: impl FnMut(usize) -> usize) -> (HostName, usize) {
        let mut wanted = Vec::new();
        let mut reverse = Reverse::start(IP, &mut wanted);
        assert_eq!(wanted.pop(), Some(Question::Names(IP)));
        let all: Vec<String> = (0..spec.len()).map(|i| format!("h{i}.example")).collect();
        let all: Vec<&str> =
            spec.chars().zip(&all).map(|(c, name)| if c == '-' { "" } else { name.as_str() }).collect();
        assert!(reverse.answer(&Question::Names(IP), &names(&all), &mut wanted).is_empty());
        let mut asked = wanted.len();
        while reverse.outcome().is_none() {
            assert!(!wanted.is_empty() && wanted.len() <= WINDOW as usize, "{spec}: {wanted:?}");
            let question = wanted.remove(pick(wanted.len()));
            let Question::Addresses(name, Family::V4) = &question else { panic!("{question:?}") };
            let i: usize = name[1..name.find('.').unwrap()].parse().unwrap();
            let before = wanted.len();
            let mut moot = reverse.answer(&question, &forward(spec.as_bytes()[i] as char), &mut wanted);
            asked += wanted.len() - before;
            if reverse.outcome().is_some() {
                wanted.retain(|question| match moot.iter().position(|moot| moot == question) {
                    Some(at) => {
                        moot.swap_remove(at);
                        false
                    }
                    None => true,
                });
                assert_eq!(wanted, [], "{spec}: nobody gives these up");
            }
            assert_eq!(moot, [], "{spec}: these are not open");
        }
        (reverse.outcome().unwrap().clone(), asked)
    }

    #[test]
    fn the_first_name_that_leads_back_counts_in_every_order_of_answers() {
        for (spec, expected) in [
            ("m", HostName::Known("h0.example".into())),
            ("xm", HostName::Known("h1.example".into())),
            ("mm", HostName::Known("h0.example".into())),
            ("fm", HostName::Known("h1.example".into())),
            ("xxxxxxxxm", HostName::Known("h8.example".into())),
            ("-m", HostName::Known("h1.example".into())),
            ("x", HostName::Mismatch),
            ("n", HostName::Mismatch),
            ("-", HostName::Mismatch),
            ("f", HostName::SoftError),
            ("xfn", HostName::SoftError),
        ] {
            for seed in 0..50usize {
                let mut state = seed;
                let pick = |n: usize| {
                    state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                    (state >> 33) % n
                };
                assert_eq!(run(spec, pick).0, expected, "{spec} seed {seed}");
            }
        }
    }

    #[test]
    fn no_more_names_are_asked_than_the_window_and_the_match_need() {
        assert_eq!(run("mxxxxxxxxxxx", |_| 0).1, WINDOW as usize);
        assert_eq!(run(&"x".repeat(70), |_| 0).1, MAX_NAMES);
    }

    #[test]
    fn a_late_reply_is_a_soft_error_unless_another_name_fits() {
        let mut wanted = Vec::new();
        let mut reverse = Reverse::start(IP, &mut wanted);
        reverse.expire();
        assert_eq!(reverse.outcome(), Some(&HostName::SoftError));

        let mut reverse = Reverse::start(IP, &mut wanted);
        assert_eq!(reverse.answer(&Question::Names(IP), &names(&["a", "b"]), &mut wanted), []);
        let confirmed = Question::Addresses("b".into(), Family::V4);
        assert_eq!(reverse.answer(&confirmed, &addresses(&["192.0.2.1"]), &mut wanted), []);
        assert_eq!(reverse.outcome(), None);
        let mut open = Vec::new();
        reverse.open(&mut open);
        assert_eq!(open, [Question::Addresses("a".into(), Family::V4)]);
        reverse.expire();
        assert_eq!(reverse.outcome(), Some(&HostName::Known("b".into())));
    }

    #[test]
    fn the_variable_follows_the_table_of_section_5() {
        for (name, mismatch, expected) in [
            (HostName::Known("a.example".into()), HostMismatch::SoftError, Some("a.example")),
            (HostName::Absent, HostMismatch::SoftError, None),
            (HostName::SoftError, HostMismatch::Unset, Some("softdnserr")),
            (HostName::Mismatch, HostMismatch::SoftError, Some("softdnserr")),
            (HostName::Mismatch, HostMismatch::Unset, None),
        ] {
            assert_eq!(name.variable(mismatch), expected, "{name:?} {mismatch:?}");
        }
    }
}
