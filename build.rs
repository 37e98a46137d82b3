//! Says when to build again. The libraries are found elsewhere: gdbm-sys asks the linker for
//! `-lgdbm` (Debian 12 ships no .pc file for it), c-ares-sys builds or probes c-ares itself.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
}
