#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| couriertcpd::fuzzing::run("control", data));
