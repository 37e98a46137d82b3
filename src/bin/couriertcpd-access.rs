//! Arguments in, exit status out; all else is in `access_tool`.

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(couriertcpd::access_tool::run(std::env::args_os()))
}
