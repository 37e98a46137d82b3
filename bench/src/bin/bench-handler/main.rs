//! The program that every server under test runs: as little as a handler can be.
//!
//! Writes the client's host name if the server found one, else a dash, and a newline; then exits. With the
//! argument `hold`, or HOLD in its environment, it stays until the client closes. It is a static program without
//! a C library: to load one and set it up takes several times as long as a server needs for a connection (on
//! virtual machines the more, where each CPUID instruction leaves the guest), and would hide the differences
//! between servers. Where its system calls are not written down it is an ordinary program, and hides them.

#![cfg_attr(any(target_arch = "x86_64", target_arch = "aarch64"), no_std, no_main)]
// Loops stay loops: there is no memcmp and no strlen to call.
#![cfg_attr(any(target_arch = "x86_64", target_arch = "aarch64"), no_builtins)]

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod bare;

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn main() -> std::io::Result<()> {
    use std::io::{Write, copy, sink, stdin, stdout};
    use std::os::unix::ffi::OsStrExt;

    let host = std::env::var_os("TCPREMOTEHOST").unwrap_or_else(|| "-".into());
    stdout().write_all(&[host.as_bytes(), b"\n"].concat())?;
    if std::env::args_os().len() > 1 || std::env::var_os("HOLD").is_some() {
        copy(&mut stdin(), &mut sink())?;
    }
    Ok(())
}
