//! Access files for tests: made by the reference's makedatprog where it is, by our own writer else.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use couriertcpd::accessdb::Writer;

use super::reference;

/// Makes the GDBM file `path` of records, each a key and a value. An existing file is replaced.
#[track_caller]
pub fn make(path: &Path, records: &[(&str, &str)]) {
    let text: String = records.iter().map(|(key, value)| format!("{key}\t{value}\n")).collect();
    make_from_text(path, &text);
}

/// Makes it of makedat's source text: key, tab, value.
#[track_caller]
pub fn make_from_text(path: &Path, text: &str) {
    let temporary = path.with_extension("tmp");
    match reference::makedatprog() {
        Some(writer) => by_makedatprog(writer, &temporary, path, text),
        None => {
            by_us(&temporary, text);
            std::fs::rename(&temporary, path).expect("rename the access file");
        }
    }
}

fn by_makedatprog(mut writer: Command, temporary: &Path, path: &Path, text: &str) {
    let mut child = writer.arg("-").arg(temporary).arg(path).stdin(Stdio::piped()).spawn().expect("run makedatprog");
    let mut input = child.stdin.take().expect("a pipe was asked for");
    input.write_all(format!("{text}.\n").as_bytes()).expect("write to makedatprog");
    drop(input);
    assert!(child.wait().expect("wait for makedatprog").success(), "makedatprog failed for {text:?}");
}

fn by_us(path: &Path, text: &str) {
    let mut writer = Writer::create(path, 0o644).expect("make an access file");
    for line in text.lines() {
        let (key, value) = line.split_once('\t').expect("a key, a tab and a value");
        // makedat stores this for a key without a value.
        let value = if value.is_empty() { "1" } else { value };
        writer.insert(key.as_bytes(), value.as_bytes()).expect("store a record");
    }
    writer.finish(path).expect("finish the access file");
}
