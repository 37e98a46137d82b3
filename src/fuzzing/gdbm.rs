//! Access files that are random, truncated, damaged, and changed while they are open.

use std::cell::OnceCell;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use nix::sys::memfd::{MFdFlags, memfd_create};

use super::Input;
use crate::accessdb::{AccessDb, Inserted, Writer};
use crate::policy::access::Lookup;

/// So few changed bytes cannot make one whole database into another: no key is 32 bits from gone.
const FEW: usize = 3;

/// The keys of the databases that are damaged: those of a bucket that is full to a third, and of several.
const SIZES: [u32; 2] = [40, 300];

fn key(n: u32) -> String {
    format!("10.{}.{}", n / 256, n % 256)
}

/// A file without a name on any disk, with a path all the same.
struct Memory {
    file: File,
    path: PathBuf,
}

impl Memory {
    fn new() -> Self {
        let file = File::from(memfd_create(c"access", MFdFlags::MFD_CLOEXEC).expect("memory for a file"));
        let path = format!("/proc/self/fd/{}", file.as_raw_fd()).into();
        Memory { file, path }
    }

    fn write(&self, at: u64, bytes: &[u8]) {
        self.file.write_all_at(bytes, at).expect("memory for a file");
    }

    fn length(&self) -> u64 {
        self.file.metadata().expect("an open file").len()
    }

    fn truncate(&self, length: u64) {
        self.file.set_len(length).expect("an open file");
    }
}

/// The bytes of a good database with so many records.
fn database_of(records: u32) -> io::Result<Vec<u8>> {
    let memory = Memory::new();
    let mut writer = Writer::create(&memory.path, 0o600)?;
    for n in 0..records {
        assert_eq!(writer.insert(key(n).as_bytes(), b"deny")?, Inserted::New);
    }
    writer.finish(&memory.path)?;
    let mut bytes = vec![0; usize::try_from(memory.length()).unwrap_or(0)];
    memory.file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

fn with_base<T>(choice: usize, use_it: impl FnOnce(&[u8]) -> T) -> T {
    thread_local! {
        static BASES: OnceCell<[Vec<u8>; SIZES.len()]> = const { OnceCell::new() };
    }
    let make = || SIZES.map(|records| database_of(records).expect("a database in memory"));
    BASES.with(|bases| use_it(&bases.get_or_init(make)[choice]))
}

/// The first byte says what the file is: the bytes that follow, or a good database and what is done to it.
pub fn database(data: &[u8]) {
    let mut input = Input(data);
    let memory = Memory::new();
    let mut records = 0;
    match input.below(1 + SIZES.len()).checked_sub(1) {
        None => memory.write(0, input.rest()),
        Some(choice) => {
            with_base(choice, |bytes| memory.write(0, bytes));
            records = SIZES[choice];
            let edits = input.below(8);
            for _ in 0..edits {
                edit(&memory, &mut input);
            }
            if input.byte() & 3 == 3 {
                truncate(&memory, &mut input);
            }
            if edits > FEW {
                records = 0;
            }
        }
    }
    let Ok(mut db) = AccessDb::open(&memory.path) else { return };
    let whole = records;
    look_up(&mut db, whole, 0..SIZES[1]);
    let _ = db.keys();
    // Now while it is open.
    while !input.is_empty() {
        match input.byte() % 5 {
            0 => {
                edit(&memory, &mut input);
                records = 0;
            }
            1 => truncate(&memory, &mut input),
            2 => drop(db.reload()),
            3 => drop(db.keys()),
            _ => {
                let first = u32::from(input.word()) % SIZES[1];
                look_up(&mut db, records, first..first + 8);
            }
        }
    }
    look_up(&mut db, records, 0..SIZES[1]);
}

/// A key that was there is found, or nobody knows; it is never said to be absent.
fn look_up(db: &mut AccessDb, records: u32, keys: std::ops::Range<u32>) {
    for n in keys {
        let absent = matches!(db.fetch(key(n).as_bytes()), Ok(None));
        assert!(!absent || n >= records, "{} is gone without a word", key(n));
    }
    let _ = db.fetch(b"");
    let _ = db.fetch(b"*");
}

fn edit(memory: &Memory, input: &mut Input) {
    // Most of what matters is near the start: header, directory, first bucket.
    let at = if input.byte() & 1 == 0 { input.below(256) as u64 } else { u64::from(input.word()) };
    let at = at % memory.length().max(1);
    memory.write(at, &[input.byte()]);
}

fn truncate(memory: &Memory, input: &mut Input) {
    let length = u64::from(input.word());
    memory.truncate(length.min(memory.length()));
}
