//! The physical limit: what a loop in C would do and no more.
//!
//! `serve`: accept, vfork, exec, close, and reap what has ended. `close`: accept and close. Neither looks at the
//! client, keeps a count or could be told to stop serving somebody. Run as processes of their own, like every
//! server under test.

use std::ffi::{CString, c_char, c_int, c_void};
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::AsRawFd;
use std::ptr;

/// Runs for ever, until it is killed.
pub fn run(kind: &str, port: u16, handler: &str) -> ! {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).expect("cannot listen");
    let fd = listener.as_raw_fd();
    // SAFETY: a listening socket; std's own backlog is 128.
    unsafe { libc::listen(fd, 4096) };
    match kind {
        "close" => loop {
            // SAFETY: a listening socket; the peer's address is not asked for.
            let connection = unsafe { libc::accept4(fd, ptr::null_mut(), ptr::null_mut(), libc::SOCK_CLOEXEC) };
            // SAFETY: a descriptor of our own.
            unsafe { libc::close(connection) };
        },
        _ => serve(fd, handler),
    }
}

struct Child {
    connection: c_int,
    program: *const c_char,
    argv: [*const c_char; 2],
}

extern "C" fn child(child: *mut c_void) -> c_int {
    // SAFETY: `serve` passes a Child and sleeps until the exec.
    let child = unsafe { &*child.cast::<Child>() };
    // SAFETY: two valid descriptor numbers.
    unsafe { libc::dup2(child.connection, 0) };
    // SAFETY: likewise.
    unsafe { libc::dup2(child.connection, 1) };
    // SAFETY: NUL-terminated strings in a list that ends in null; the environment is this process'.
    unsafe { libc::execv(child.program, child.argv.as_ptr()) };
    // SAFETY: ends the child alone.
    unsafe { libc::_exit(127) }
}

fn serve(listener: c_int, handler: &str) -> ! {
    let program = CString::new(handler).expect("a path has no NUL");
    let argv = [program.as_ptr(), ptr::null()];
    let mut stack = vec![0u8; 65536];
    let top = (stack.as_mut_ptr() as usize + stack.len()) & !15;
    loop {
        // SAFETY: a listening socket; the peer's address is not asked for.
        let connection = unsafe { libc::accept4(listener, ptr::null_mut(), ptr::null_mut(), libc::SOCK_CLOEXEC) };
        let mut start = Child { connection, program: program.as_ptr(), argv };
        let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
        // SAFETY: with CLONE_VFORK this thread sleeps until the child has exec'd or ended, so the stack and `start`
        // outlive their use.
        unsafe { libc::clone(child, top as *mut c_void, flags, ptr::from_mut(&mut start).cast()) };
        // SAFETY: a descriptor of our own.
        unsafe { libc::close(connection) };
        // SAFETY: no status is asked for.
        while unsafe { libc::waitpid(-1, ptr::null_mut(), libc::WNOHANG) } > 0 {}
    }
}
