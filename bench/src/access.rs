//! Writes the access files of a run, through libgdbm, which the daemon needs anyway.

use std::ffi::{CString, c_char, c_int, c_void};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;

#[repr(C)]
struct Datum {
    bytes: *const c_char,
    length: c_int,
}

#[link(name = "gdbm")]
unsafe extern "C" {
    fn gdbm_open(path: *const c_char, block: c_int, flags: c_int, mode: c_int, fatal: *const c_void) -> *mut c_void;
    fn gdbm_store(file: *mut c_void, key: Datum, value: Datum, flag: c_int) -> c_int;
    fn gdbm_close(file: *mut c_void) -> c_int;
}

const NEW: c_int = 3;
const REPLACE: c_int = 1;

fn datum(text: &str) -> Datum {
    Datum { bytes: text.as_ptr().cast(), length: text.len() as c_int }
}

/// A database of these records, in place of what is at `path`.
pub fn write(path: &Path, records: impl IntoIterator<Item = (String, String)>) -> io::Result<()> {
    // A server that still has the old one open would keep it from being written over.
    let new = path.with_extension("new");
    let name = CString::new(new.as_os_str().as_bytes())?;
    // SAFETY: a NUL-terminated path; no fatal function.
    let file = unsafe { gdbm_open(name.as_ptr(), 0, NEW, 0o644, ptr::null()) };
    if file.is_null() {
        return Err(io::Error::other(format!("cannot make {}", path.display())));
    }
    for (key, value) in records {
        // SAFETY: an open database; key and value live through the call.
        unsafe { gdbm_store(file, datum(&key), datum(&value), REPLACE) };
    }
    // SAFETY: an open database, not used again.
    unsafe { gdbm_close(file) };
    std::fs::rename(new, path)
}

/// As a large site's: this many single addresses of 10.0.0.0/8 refused, and nothing that matches the clients.
pub fn large(records: u32) -> impl Iterator<Item = (String, String)> {
    (0..records).map(|n| (format!("10.{}.{}.{}", n >> 16 & 255, n >> 8 & 255, n & 255), "deny".to_owned()))
}
