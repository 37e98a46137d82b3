//! The handler has no C library and starts by itself, where its system calls are written down.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if !matches!(std::env::var("CARGO_CFG_TARGET_ARCH").as_deref(), Ok("x86_64" | "aarch64")) {
        return;
    }
    for argument in ["-nostartfiles", "-nostdlib", "-static", "-no-pie"] {
        println!("cargo:rustc-link-arg-bin=bench-handler={argument}");
    }
}
