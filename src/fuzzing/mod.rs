//! Where fuzzers come in: one function for each kind of bytes that others choose.
//!
//! Each entry in [`ENTRIES`] takes any bytes, does with them what the daemon does, and panics if a
//! promise is broken. `tests/fuzz` runs them under libFuzzer; the test here gives them every file
//! under `tests/fuzz/corpus`, each also with random damage, so that `make check` needs no fuzzer.
//! Compiled for these two alone: no part of the program.

mod access;
mod cli;
mod dns;
mod gdbm;
mod replies;
mod session;
#[cfg(test)]
mod tests;

/// What takes the bytes.
pub type Entry = fn(&[u8]);

/// Every entry by the name of its target and corpus.
pub const ENTRIES: &[(&str, Entry)] = &[
    ("access", access::record_and_keys),
    ("access_source", access::source),
    ("gdbm", gdbm::database),
    ("dnslist", cli::dnslist),
    ("list", cli::list),
    ("options", cli::options),
    ("dns_reply", dns::reply),
    ("dns_wire", dns::wire),
    ("ident", replies::ident),
    ("control", replies::control),
    ("proxy", replies::proxy),
    ("helper", replies::helper),
    ("escape", replies::escape),
    ("session", session::events),
];

/// Gives `data` to the entry of this name.
pub fn run(name: &str, data: &[u8]) {
    let (_, entry) = ENTRIES.iter().find(|(known, _)| *known == name).expect("a target of this name");
    entry(data);
}

/// The bytes of one input, taken from the front; zeroes once they are used up.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn byte(&mut self) -> u8 {
        let Some((&first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        first
    }

    fn word(&mut self) -> u16 {
        u16::from_be_bytes([self.byte(), self.byte()])
    }

    /// A number below `bound`.
    fn below(&mut self, bound: usize) -> usize {
        usize::from(if bound > 256 { self.word() } else { self.byte().into() }) % bound
    }

    fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }

    /// All that is left.
    fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn ip(&mut self) -> std::net::IpAddr {
        if self.byte() & 1 == 0 {
            std::net::IpAddr::from([192, 0, 2, self.byte()])
        } else {
            let mut octets = [0; 16];
            octets.fill_with(|| self.byte());
            crate::addr::fold(octets.into())
        }
    }
}

/// True if a terminal would obey none of these bytes: what may stand in a variable.
fn is_printable(text: &[u8]) -> bool {
    text.utf8_chunks().all(|chunk| {
        !chunk.valid().contains(char::is_control) && !chunk.invalid().iter().any(|b| (0x80..0xa0).contains(b))
    })
}
