//! The cache as one piece of bytes, for the moment in which memory is given back.
//!
//! Answers that were kept during a burst lie between all that the burst needed, and a page goes back
//! to the system only as a whole: a thousand answers of a hundred bytes can hold three megabytes. So
//! they are packed up, and unpacked once the rest is gone. Pure: no I/O, no clock.

#![forbid(unsafe_code)]

use std::net::IpAddr;
use std::rc::Rc;

use super::cache::Cache;
use crate::policy::question::{Answer, Family, ListingKind, Question, Records};

/// All answers of a cache, in order of use.
#[derive(Debug)]
pub struct Packed(Vec<u8>);

impl Packed {
    /// Empties the cache.
    pub fn pack(cache: &mut Cache<Answer>) -> Self {
        let mut bytes = Vec::new();
        while let Some((question, answer, expires)) = cache.pop() {
            bytes.extend(expires.to_ne_bytes());
            put_question(&mut bytes, &question);
            put_answer(&mut bytes, &answer);
        }
        cache.clear();
        Packed(bytes)
    }

    /// Puts them back.
    pub fn unpack(self, cache: &mut Cache<Answer>) {
        let mut bytes = Reader(&self.0);
        while let Some(expires) = bytes.take().map(u32::from_ne_bytes) {
            // What was written here is whole.
            let Some((question, answer)) = bytes.question().zip(bytes.answer()) else { return };
            cache.put(question, answer, expires, 0);
        }
    }
}

fn put_text(bytes: &mut Vec<u8>, text: &[u8]) {
    // Names have at most 255 bytes, texts 512.
    bytes.extend((text.len() as u16).to_ne_bytes());
    bytes.extend_from_slice(text);
}

fn put_ip(bytes: &mut Vec<u8>, ip: IpAddr) {
    match ip {
        IpAddr::V4(ip) => put_text(bytes, &ip.octets()),
        IpAddr::V6(ip) => put_text(bytes, &ip.octets()),
    }
}

fn put_question(bytes: &mut Vec<u8>, question: &Question) {
    match question {
        Question::Names(ip) => {
            bytes.push(0);
            put_ip(bytes, *ip);
        }
        Question::Addresses(name, family) => {
            bytes.push(if *family == Family::V4 { 1 } else { 2 });
            put_text(bytes, name.as_bytes());
        }
        Question::Listing { zone, ip, kind } => {
            bytes.push(if *kind == ListingKind::A { 3 } else { 4 });
            bytes.extend(zone.to_ne_bytes());
            put_ip(bytes, *ip);
        }
    }
}

fn put_answer(bytes: &mut Vec<u8>, answer: &Answer) {
    let records = match answer {
        Answer::Absent => return bytes.push(0),
        Answer::Failed => return bytes.push(1),
        Answer::Found(records) => &**records,
    };
    match records {
        Records::Names(names) => {
            bytes.push(2);
            bytes.extend((names.len() as u32).to_ne_bytes());
            names.iter().for_each(|name| put_text(bytes, name.as_bytes()));
        }
        Records::Addresses(addresses) => {
            bytes.push(3);
            bytes.extend((addresses.len() as u32).to_ne_bytes());
            addresses.iter().for_each(|ip| put_ip(bytes, *ip));
        }
        Records::Text(text) => {
            bytes.push(4);
            put_text(bytes, text);
        }
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*first)
    }

    fn tag(&mut self) -> Option<u8> {
        self.take().map(|[tag]| tag)
    }

    fn count(&mut self) -> Option<u32> {
        self.take().map(u32::from_ne_bytes)
    }

    fn text(&mut self) -> Option<&'a [u8]> {
        let length = self.take().map(u16::from_ne_bytes)?;
        let (text, rest) = self.0.split_at_checked(length.into())?;
        self.0 = rest;
        Some(text)
    }

    fn name(&mut self) -> Option<Rc<str>> {
        std::str::from_utf8(self.text()?).ok().map(Rc::from)
    }

    fn ip(&mut self) -> Option<IpAddr> {
        let octets = self.text()?;
        match (<[u8; 4]>::try_from(octets), <[u8; 16]>::try_from(octets)) {
            (Ok(v4), _) => Some(v4.into()),
            (_, Ok(v6)) => Some(v6.into()),
            _ => None,
        }
    }

    fn question(&mut self) -> Option<Question> {
        Some(match self.tag()? {
            0 => Question::Names(self.ip()?),
            1 => Question::Addresses(self.name()?, Family::V4),
            2 => Question::Addresses(self.name()?, Family::V6),
            tag => {
                let kind = if tag == 3 { ListingKind::A } else { ListingKind::Txt };
                Question::Listing { zone: self.take().map(u16::from_ne_bytes)?, ip: self.ip()?, kind }
            }
        })
    }

    fn answer(&mut self) -> Option<Answer> {
        let records = match self.tag()? {
            0 => return Some(Answer::Absent),
            1 => return Some(Answer::Failed),
            2 => Records::Names((0..self.count()?).map(|_| self.name()).collect::<Option<_>>()?),
            3 => Records::Addresses((0..self.count()?).map(|_| self.ip()).collect::<Option<_>>()?),
            _ => Records::Text(self.text()?.into()),
        };
        Some(Answer::Found(Rc::new(records)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_comes_back_in_its_order() {
        let v4 = IpAddr::from([192, 0, 2, 1]);
        let v6: IpAddr = "2001:db8::1".parse().unwrap();
        let found = |records| Answer::Found(Rc::new(records));
        let all = [
            (Question::Names(v4), found(Records::Names(vec!["a.example".into(), "".into()]))),
            (Question::Names(v6), Answer::Absent),
            (Question::Addresses("a.example".into(), Family::V4), found(Records::Addresses(vec![v4, v6]))),
            (Question::Addresses("a.example".into(), Family::V6), Answer::Failed),
            (Question::Listing { zone: 7, ip: v4, kind: ListingKind::A }, found(Records::Addresses(vec![]))),
            (Question::Listing { zone: 600, ip: v6, kind: ListingKind::Txt }, found(Records::Text((*b"\xfft").into()))),
        ];
        let mut cache = Cache::new(10);
        for (number, (question, answer)) in all.iter().enumerate() {
            cache.put(question.clone(), answer.clone(), 100, number as u32);
        }
        let packed = Packed::pack(&mut cache);
        assert_eq!(cache.len(), 0);
        packed.unpack(&mut cache);
        for (number, (question, answer)) in all.into_iter().enumerate() {
            assert_eq!(cache.pop(), Some((question, answer, 100 + number as u32)));
        }
        assert_eq!(cache.pop(), None);
    }
}
