//! Without a C library, by system calls alone.

use core::arch::{asm, global_asm};

// The stack begins with the number of arguments, the arguments, null, the environment, null.
#[cfg(target_arch = "x86_64")]
global_asm!(".globl _start", "_start:", "mov rdi, rsp", "and rsp, -16", "call {run}", "ud2", run = sym run);
#[cfg(target_arch = "aarch64")]
global_asm!(".globl _start", "_start:", "mov x0, sp", "bl {run}", "brk #1", run = sym run);

#[cfg(target_arch = "x86_64")]
mod number {
    pub const READ: usize = 0;
    pub const WRITEV: usize = 20;
    pub const EXIT: usize = 231;
}

#[cfg(target_arch = "aarch64")]
mod number {
    pub const READ: usize = 63;
    pub const WRITEV: usize = 66;
    pub const EXIT: usize = 94;
}

/// # Safety
/// As for the system call of that number.
unsafe fn call(number: usize, first: usize, second: usize, third: usize) -> isize {
    let result: isize;
    // SAFETY: the kernel's calling convention; it keeps all registers but those named.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        asm!("syscall", inlateout("rax") number => result, in("rdi") first, in("rsi") second, in("rdx") third,
            lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    // SAFETY: as above.
    #[cfg(target_arch = "aarch64")]
    unsafe {
        asm!("svc 0", in("x8") number, inlateout("x0") first => result, in("x1") second, in("x2") third,
            options(nostack));
    }
    result
}

/// Of a string that ends in NUL, what follows `name`, with its length; none if it does not begin so.
///
/// # Safety
/// `entry` is such a string.
unsafe fn after(entry: *const u8, name: &[u8]) -> Option<[usize; 2]> {
    for (offset, byte) in name.iter().enumerate() {
        // SAFETY: all bytes before were part of the name, none of them the NUL.
        if unsafe { *entry.add(offset) } != *byte {
            return None;
        }
    }
    // SAFETY: as above.
    let value = unsafe { entry.add(name.len()) };
    let mut length = 0;
    // SAFETY: not past the NUL.
    while unsafe { *value.add(length) } != 0 {
        length += 1;
    }
    Some([value.addr(), length])
}

/// The value of a variable, its address and length. `name` ends in `=`.
///
/// # Safety
/// `environment` is a list of strings that ends in null.
unsafe fn variable(mut environment: *const *const u8, name: &[u8]) -> Option<[usize; 2]> {
    loop {
        // SAFETY: not past the null.
        let entry = unsafe { *environment };
        if entry.is_null() {
            return None;
        }
        // SAFETY: an entry is a string.
        if let Some(value) = unsafe { after(entry, name) } {
            return Some(value);
        }
        // SAFETY: there is an entry or the null after this one.
        environment = unsafe { environment.add(1) };
    }
}

extern "C" fn run(stack: *const usize) -> ! {
    // SAFETY: the stack as the kernel left it, see above.
    let (count, environment) = unsafe { (*stack, stack.add(*stack + 2).cast()) };
    // SAFETY: the environment as the kernel left it.
    let (host, hold) = unsafe { (variable(environment, b"TCPREMOTEHOST="), variable(environment, b"HOLD=")) };
    let line = [host.unwrap_or([b"-".as_ptr().addr(), 1]), [b"\n".as_ptr().addr(), 1]];
    // SAFETY: two pairs of address and length.
    unsafe { call(number::WRITEV, 1, line.as_ptr().addr(), line.len()) };
    if count > 1 || hold.is_some() {
        let mut sink = 0usize;
        // SAFETY: a buffer and its length.
        while unsafe { call(number::READ, 0, (&raw mut sink).addr(), size_of::<usize>()) } > 0 {}
    }
    loop {
        // SAFETY: ends the process.
        unsafe { call(number::EXIT, 0, 0, 0) };
    }
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {
        // SAFETY: ends the process.
        unsafe { call(number::EXIT, 1, 0, 0) };
    }
}
