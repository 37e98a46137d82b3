//! Access files for tests: made by the reference's makedatprog where it is, by our own writer else.

use std::io::Write;
use std::path::Path;
use std::process::Stdio;

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
    let mut writer = reference::makedatprog().expect("makedatprog is here");
    let mut child = writer.arg("-").arg(&temporary).arg(path).stdin(Stdio::piped()).spawn().expect("run makedatprog");
    let mut input = child.stdin.take().expect("a pipe was asked for");
    input.write_all(format!("{text}.\n").as_bytes()).expect("write to makedatprog");
    drop(input);
    assert!(child.wait().expect("wait for makedatprog").success(), "makedatprog failed for {text:?}");
}
