//! The program that every server under test runs: as little as a handler can be.
//!
//! Writes the client's host name if the server found one, else a dash, and a newline; then exits. With the
//! argument `hold`, or HOLD in its environment, it stays until the client closes. Only the C library is started,
//! not Rust's runtime, so that the time measured is the server's and the kernel's.

#![no_main]

use std::ffi::{CStr, c_char, c_int};

fn variable(name: &CStr) -> Option<&'static [u8]> {
    // SAFETY: a NUL-terminated name; nothing in this process changes the environment.
    let value = unsafe { libc::getenv(name.as_ptr()) };
    // SAFETY: not null, so NUL-terminated and part of the environment, which stays as it is.
    (!value.is_null()).then(|| unsafe { CStr::from_ptr(value) }.to_bytes())
}

fn write(bytes: &[u8]) {
    // SAFETY: a valid buffer and its length.
    unsafe { libc::write(1, bytes.as_ptr().cast(), bytes.len()) };
}

#[unsafe(no_mangle)]
pub extern "C" fn main(argc: c_int, _argv: *const *const c_char) -> c_int {
    let mut line = [b'-'; 256];
    let host = variable(c"TCPREMOTEHOST").unwrap_or(b"-");
    let length = host.len().min(line.len() - 1);
    line[..length].copy_from_slice(&host[..length]);
    line[length] = b'\n';
    write(&line[..=length]);
    if argc > 1 || variable(c"HOLD").is_some() {
        let mut sink = [0u8; 64];
        // SAFETY: a valid buffer and its length.
        while unsafe { libc::read(0, sink.as_mut_ptr().cast(), sink.len()) } > 0 {}
    }
    0
}
