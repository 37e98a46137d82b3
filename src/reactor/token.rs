//! What an event belongs to, packed into mio's token.
//!
//! A token carries the kind of source and, for sources that come and go, the key of its table
//! entry. An event that was queued before its source ended decodes to a key that finds nothing.

#![forbid(unsafe_code)]

use mio::Token;

use crate::table::{GENERATION_BITS, INDEX_BITS, Key};

/// A source of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// A listening socket, by its place in the list.
    Listener(u32),
    Signals,
    /// A connection whose verdict is open: it ended.
    Pending(Key),
    /// The ident socket of a pending connection.
    Ident(Key),
    /// A refused connection that still reads its reply.
    Lingering(Key),
    /// A socket of the DNS client.
    Resolver(Key),
    /// A helper of the name service switch, by its number.
    Helper(u32),
    /// A connection whose PROXY header has not come.
    Header(Key),
    /// The trial of a new program.
    Upgrade,
    /// The listening control socket.
    ControlDoor,
    /// A connection to the control socket.
    Control(Key),
}

impl Source {
    pub fn token(self) -> Token {
        let (kind, key) = match self {
            Source::Listener(index) => (0, Key { index, generation: 0 }),
            Source::Signals => (1, Key { index: 0, generation: 0 }),
            Source::Pending(key) => (2, key),
            Source::Ident(key) => (3, key),
            Source::Lingering(key) => (4, key),
            Source::Resolver(key) => (5, key),
            Source::Helper(index) => (6, Key { index, generation: 0 }),
            Source::Header(key) => (7, key),
            Source::ControlDoor => (8, Key { index: 0, generation: 0 }),
            Source::Control(key) => (9, key),
            Source::Upgrade => (10, Key { index: 0, generation: 0 }),
        };
        Token(kind << (INDEX_BITS + GENERATION_BITS) | (key.generation as usize) << INDEX_BITS | key.index as usize)
    }

    /// None: no token of ours.
    pub fn from_token(Token(token): Token) -> Option<Self> {
        let key = Key {
            index: (token & ((1 << INDEX_BITS) - 1)) as u32,
            generation: (token >> INDEX_BITS & ((1 << GENERATION_BITS) - 1)) as u32,
        };
        Some(match token >> (INDEX_BITS + GENERATION_BITS) {
            0 => Source::Listener(key.index),
            1 => Source::Signals,
            2 => Source::Pending(key),
            3 => Source::Ident(key),
            4 => Source::Lingering(key),
            5 => Source::Resolver(key),
            6 => Source::Helper(key.index),
            7 => Source::Header(key),
            8 => Source::ControlDoor,
            9 => Source::Control(key),
            10 => Source::Upgrade,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_come_back_as_they_went() {
        let key = Key { index: (1 << (INDEX_BITS - 1)) - 1, generation: (1 << GENERATION_BITS) - 1 };
        for source in [
            Source::Listener(3),
            Source::Signals,
            Source::Pending(key),
            Source::Ident(key),
            Source::Lingering(Key { index: 0, generation: 7 }),
            Source::Resolver(key),
            Source::Helper(15),
            Source::Header(key),
            Source::ControlDoor,
            Source::Control(key),
            Source::Upgrade,
        ] {
            assert_eq!(Source::from_token(source.token()), Some(source));
        }
        assert_eq!(Source::from_token(Token(usize::MAX)), None);
    }
}
