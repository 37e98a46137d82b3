//! argv in, exit status out; everything between is the library's.

#![forbid(unsafe_code)]

#[global_allocator]
static MEMORY: couriertcpd::memory::Allocator = couriertcpd::memory::Allocator;

fn main() {
    std::process::exit(couriertcpd::startup::run(std::env::args_os().skip(1)));
}
