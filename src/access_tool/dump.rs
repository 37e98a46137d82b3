//! `dump`: an access file as text that `build` takes back.

#![forbid(unsafe_code)]

use std::io::{self, Write};

use crate::log::Whole;

use super::load::Loaded;
use super::place::Block;
use super::record;

/// Writes all rules: `*`, our own ports and addresses, then clients by address. What no lookup
/// reaches, and variables that no source can name, become comments.
pub fn dump(loaded: &Loaded, out: &mut impl Write) -> io::Result<()> {
    let table = &loaded.table;
    let mut key = String::new();
    for (special, rule) in &table.specials {
        special.key(&mut key);
        line(&key, table.records.get(rule.record), out)?;
    }
    for (block, rule) in &table.blocks {
        line(&block_text(*block), table.records.get(rule.record), out)?;
    }
    for (key, value) in &loaded.unreachable {
        writeln!(out, "# no lookup reaches {}: {}", Whole(key), Whole(value))?;
    }
    Ok(())
}

/// A block that is one key is written as the key.
fn block_text(block: Block) -> String {
    let mut text = String::new();
    match block.key(&mut text) {
        Some(()) => text,
        None => block.to_string(),
    }
}

fn line(address: &str, value: &[u8], out: &mut impl Write) -> io::Result<()> {
    let text = record::text(value);
    for lost in &text.lost {
        writeln!(out, "# {address} sets a variable that cannot be written: {lost}")?;
    }
    write!(out, "{address}\t")?;
    out.write_all(&text.record)?;
    writeln!(out)
}
