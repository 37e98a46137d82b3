//! Checks that a GDBM file holds together, before anybody relies on its silence.
//!
//! The format has no checksums, and libgdbm takes a bucket of zeros, or a key that has changed on
//! the disk, for "no such key": a refusal would turn into leave to enter. So the whole file is
//! looked at once, at open: each directory entry, each bucket, and each key against the hash that
//! it is stored by. What is left to chance are the values, of which any bytes are good.
//!
//! Called by `accessdb` with the open file. Reads only; memory is one bucket and one block.
//! Layout: native byte order, 64-bit offsets, as every build of libgdbm for Linux of the last
//! twenty years writes it; files of another layout are left to libgdbm's own checks.

#![forbid(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::DbError;

/// Standard files, and those that carry a count of synchronisations.
const MAGIC: [u32; 2] = [0x1357_9acf, 0x1357_9ad0];
const HEADER_SIZE: usize = 40;
/// A bucket begins with its list of free space and two counts; then come the elements.
const BUCKET_BITS_AT: usize = 8 + 6 * 16;
const COUNT_AT: usize = BUCKET_BITS_AT + 4;
const ELEMENTS_AT: usize = COUNT_AT + 4;
const ELEMENT_SIZE: usize = 24;
/// The hash of an element that is not in use.
const UNUSED: u32 = u32::MAX;
/// Hashes have 31 bits; the directory is indexed by the first of them.
const HASH_BITS: u32 = 31;
/// A bucket is a block of the file system: libgdbm chooses no more than 64 KiB.
const LARGEST_BUCKET: usize = 1 << 20;

/// An error unless every stored key can be found by its own name.
pub(super) fn verify(file: &File) -> Result<(), DbError> {
    let mut header = [0; HEADER_SIZE];
    match file.read_exact_at(&mut header, 0) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Err(DbError::NotGdbm),
        result => result?,
    }
    if !MAGIC.contains(&number(&header, 0)) {
        return Ok(());
    }
    Checker::new(file, &header)?.directory()
}

struct Checker<'a> {
    file: &'a File,
    file_size: u64,
    directory_at: u64,
    directory_bits: u32,
    bucket_elements: usize,
    bucket: Vec<u8>,
    /// The part of the file that was read last, where the next key often lies too.
    window: Vec<u8>,
    window_at: u64,
}

impl<'a> Checker<'a> {
    fn new(file: &'a File, header: &[u8; HEADER_SIZE]) -> Result<Self, DbError> {
        let file_size = file.metadata()?.len();
        let directory_size = u64::from(number(header, 16));
        let directory_bits = number(header, 20);
        let bucket_size = number(header, 24) as usize;
        let bucket_elements = number(header, 28) as usize;
        let sound = directory_bits < HASH_BITS
            && directory_size == 8 << directory_bits
            && directory_size <= file_size
            && bucket_size <= LARGEST_BUCKET
            && bucket_elements > 0
            && ELEMENTS_AT + bucket_elements * ELEMENT_SIZE <= bucket_size;
        if !sound {
            return Err(DbError::Damaged);
        }
        Ok(Checker {
            file,
            file_size,
            directory_at: long(header, 8),
            directory_bits,
            bucket_elements,
            bucket: vec![0; bucket_size],
            window: Vec::new(),
            window_at: 0,
        })
    }

    /// Each bucket stands in the directory at all the entries that begin with its bits, and
    /// nowhere else.
    fn directory(&mut self) -> Result<(), DbError> {
        let entries = 1_u64 << self.directory_bits;
        let most_buckets = self.file_size / self.bucket.len() as u64;
        let (mut at, mut buckets) = (0, 0);
        while at < entries {
            let bucket_at = self.entry(at)?;
            buckets += 1;
            self.read_bucket(bucket_at)?;
            let bits = number(&self.bucket, BUCKET_BITS_AT);
            if buckets > most_buckets || bits > self.directory_bits {
                return Err(DbError::Damaged);
            }
            let span = 1 << (self.directory_bits - bits);
            if at % span != 0 {
                return Err(DbError::Damaged);
            }
            for other in at + 1..at + span {
                if self.entry(other)? != bucket_at {
                    return Err(DbError::Damaged);
                }
            }
            self.elements(bits, at / span)?;
            at += span;
        }
        Ok(())
    }

    fn entry(&self, index: u64) -> Result<u64, DbError> {
        let mut entry = [0; 8];
        let at = self.directory_at.checked_add(index * 8).ok_or(DbError::Damaged)?;
        self.read(&mut entry, at)?;
        Ok(u64::from_ne_bytes(entry))
    }

    fn read_bucket(&mut self, at: u64) -> Result<(), DbError> {
        let mut bucket = std::mem::take(&mut self.bucket);
        let result = self.read(&mut bucket, at);
        self.bucket = bucket;
        result
    }

    /// A read beyond the end of the file is damage, not an error of the system.
    fn read(&self, bytes: &mut [u8], at: u64) -> Result<(), DbError> {
        if at.checked_add(bytes.len() as u64).is_none_or(|end| end > self.file_size) {
            return Err(DbError::Damaged);
        }
        Ok(self.file.read_exact_at(bytes, at)?)
    }

    /// `prefix`: the first `bits` bits that the hash of every key in this bucket has.
    fn elements(&mut self, bits: u32, prefix: u64) -> Result<(), DbError> {
        let mut used = Vec::with_capacity(self.bucket_elements);
        for slot in 0..self.bucket_elements {
            let element = Element::read(&self.bucket, slot);
            if element.hash == UNUSED {
                continue;
            }
            if u64::from(element.hash) >> (HASH_BITS - bits) != prefix || !self.reachable(&element, slot) {
                return Err(DbError::Damaged);
            }
            used.push(element);
        }
        if used.len() != number(&self.bucket, COUNT_AT) as usize {
            return Err(DbError::Damaged);
        }
        used.sort_unstable_by_key(|element| element.at);
        for element in used {
            let key = self.key(&element)?;
            if hash(key) != element.hash || !element.starts(key) {
                return Err(DbError::Damaged);
            }
        }
        Ok(())
    }

    /// A search begins at the slot that the hash gives and ends at the first that is not in use.
    fn reachable(&self, element: &Element, slot: usize) -> bool {
        let mut at = element.hash as usize % self.bucket_elements;
        while at != slot {
            if Element::read(&self.bucket, at).hash == UNUSED {
                return false;
            }
            at = (at + 1) % self.bucket_elements;
        }
        true
    }

    fn key(&mut self, element: &Element) -> Result<&[u8], DbError> {
        let whole = u64::from(element.key_size) + u64::from(element.value_size);
        let end = element.at.checked_add(whole).ok_or(DbError::Damaged)?;
        if end > self.file_size {
            return Err(DbError::Damaged);
        }
        let length = element.key_size as usize;
        let held = self.window_at..self.window_at + self.window.len() as u64;
        if !held.contains(&element.at) || element.at + length as u64 > held.end {
            let rest = self.file_size - element.at;
            let size = rest.min(length.max(self.bucket.len()) as u64) as usize;
            let mut window = std::mem::take(&mut self.window);
            window.resize(size, 0);
            let result = self.read(&mut window, element.at);
            self.window = window;
            self.window_at = element.at;
            result?;
        }
        let start = (element.at - self.window_at) as usize;
        Ok(&self.window[start..start + length])
    }
}

/// Where one record lies.
struct Element {
    hash: u32,
    /// The first bytes of the key.
    start: [u8; 4],
    /// The key, and right behind it the value.
    at: u64,
    key_size: u32,
    value_size: u32,
}

impl Element {
    fn read(bucket: &[u8], slot: usize) -> Self {
        let at = ELEMENTS_AT + slot * ELEMENT_SIZE;
        Element {
            hash: number(bucket, at),
            start: number(bucket, at + 4).to_ne_bytes(),
            at: long(bucket, at + 8),
            key_size: number(bucket, at + 16),
            value_size: number(bucket, at + 20),
        }
    }

    fn starts(&self, key: &[u8]) -> bool {
        let length = key.len().min(self.start.len());
        self.start[..length] == key[..length]
    }
}

/// The hash that the format prescribes for a key.
fn hash(key: &[u8]) -> u32 {
    const MASK: u64 = (1 << HASH_BITS) - 1;
    let seed = 0x238f_13af_u64 * key.len() as u64;
    let sum = key.iter().enumerate().fold(seed, |sum, (i, &byte)| (sum + (u64::from(byte) << (i * 5 % 24))) & MASK);
    ((1_103_515_243 * sum + 12_345) & MASK) as u32
}

fn number(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(bytes[at..at + 4].try_into().expect("four bytes were cut out"))
}

fn long(bytes: &[u8], at: usize) -> u64 {
    u64::from_ne_bytes(bytes[at..at + 8].try_into().expect("eight bytes were cut out"))
}
