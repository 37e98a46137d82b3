//! Checks that a GDBM file holds together, before anybody relies on its silence.
//!
//! The format has no checksums, and libgdbm takes a bucket of zeros, or a key that has changed on
//! the disk, for "no such key": a refusal would turn into leave to enter. So the whole file is
//! looked at once, at open: each directory entry, each bucket, and each key against the hash that
//! it is stored by. What is left to chance are the values, of which any bytes are good.
//!
//! Called by `accessdb` with the open file. Reads only; memory is one bucket and some blocks.
//! Layout: native byte order, 64-bit offsets, as every build of libgdbm for Linux of the last
//! twenty years writes it; files of another layout are left to libgdbm, which does not
//! open them.

#![forbid(unsafe_code)]

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use super::DbError;

/// Those that libgdbm opens where offsets have 64 bits: files of today, of GDBM before 1.9, and those that carry a count
/// of synchronisations. They differ in the header alone, behind what is read here.
pub(super) const MAGIC: [u32; 3] = [0x1357_9acf, 0x1357_9ace, 0x1357_9ad1];
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
const BLOCK_SIZE: usize = 4096;
/// The keys of a bucket lie in some ten blocks.
const CACHED_BLOCKS: usize = 64;

/// An error unless every stored key can be found by its own name.
pub(super) fn verify(file: &File) -> Result<(), DbError> {
    match Checker::new(file)? {
        Some(mut checker) => checker.all(),
        None => Ok(()),
    }
}

/// The same for the keys of one bucket, that in which `key` is if it is anywhere.
pub(super) fn verify_bucket_of(file: &File, key: &[u8]) -> Result<(), DbError> {
    match Checker::new(file)? {
        Some(mut checker) => checker.bucket_of(key),
        None => Ok(()),
    }
}

struct Checker<'a> {
    file: &'a File,
    file_size: u64,
    directory_at: u64,
    directory_bits: u32,
    bucket_elements: usize,
    bucket: Vec<u8>,
    /// Blocks read lately, each in the slot that its number gives.
    cached: Vec<Option<(u64, Vec<u8>)>>,
}

impl<'a> Checker<'a> {
    /// None: a layout that is not known here.
    fn new(file: &'a File) -> Result<Option<Self>, DbError> {
        let header = &mut [0; HEADER_SIZE];
        match file.read_exact_at(header, 0) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Err(DbError::NotGdbm),
            result => result?,
        }
        if !MAGIC.contains(&number(header, 0)) {
            return Ok(None);
        }
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
        Ok(Some(Checker {
            file,
            file_size,
            directory_at: long(header, 8),
            directory_bits,
            bucket_elements,
            bucket: vec![0; bucket_size],
            cached: vec![None; CACHED_BLOCKS],
        }))
    }

    fn all(&mut self) -> Result<(), DbError> {
        let mut directory = vec![0; 8 << self.directory_bits];
        self.read(&mut directory, self.directory_at)?;
        let most_buckets = self.file_size / self.bucket.len() as u64;
        let (mut at, mut buckets) = (0, 0);
        while at < 1 << self.directory_bits {
            buckets += 1;
            if buckets > most_buckets {
                return Err(DbError::Damaged);
            }
            at = self.bucket_at(at, |index| Ok(long(&directory, index as usize * 8)))?.end;
        }
        Ok(())
    }

    fn bucket_of(&mut self, key: &[u8]) -> Result<(), DbError> {
        let (file, directory_at, file_size) = (self.file, self.directory_at, self.file_size);
        let entry = |index: u32| {
            let at = directory_at.checked_add(u64::from(index) * 8).filter(|at| at + 8 <= file_size);
            let mut entry = [0; 8];
            file.read_exact_at(&mut entry, at.ok_or(DbError::Damaged)?)?;
            Ok(u64::from_ne_bytes(entry))
        };
        self.bucket_at(hash(key) >> (HASH_BITS - self.directory_bits), entry).map(drop)
    }

    /// Checks the bucket that entry `index` of the directory leads to, and gives all entries that
    /// lead to it: those that begin with its bits.
    fn bucket_at(&mut self, index: u32, entry: impl Fn(u32) -> Result<u64, DbError>) -> Result<Range<u32>, DbError> {
        let bucket_at = entry(index)?;
        self.read_bucket(bucket_at)?;
        let bits = number(&self.bucket, BUCKET_BITS_AT);
        let Some(other_bits) = self.directory_bits.checked_sub(bits) else { return Err(DbError::Damaged) };
        let first = index >> other_bits << other_bits;
        // The number of entries is a power of two, so that they do not end within.
        let entries = first..first + (1 << other_bits);
        for other in entries.clone() {
            if entry(other)? != bucket_at {
                return Err(DbError::Damaged);
            }
        }
        self.elements(bits, index >> other_bits)?;
        Ok(entries)
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
    fn elements(&mut self, bits: u32, prefix: u32) -> Result<(), DbError> {
        let bucket = std::mem::take(&mut self.bucket);
        let result = self.elements_of(&bucket, bits, prefix);
        self.bucket = bucket;
        result
    }

    fn elements_of(&mut self, bucket: &[u8], bits: u32, prefix: u32) -> Result<(), DbError> {
        let mut used = 0;
        for slot in 0..self.bucket_elements {
            if hash_in(bucket, slot) == UNUSED {
                continue;
            }
            used += 1;
            let element = Element::read(bucket, slot);
            let sound = element.hash >> (HASH_BITS - bits) == prefix
                && self.reachable(bucket, &element, slot)
                && self.is_key_of(&element)?;
            if !sound {
                return Err(DbError::Damaged);
            }
        }
        if used == number(bucket, COUNT_AT) { Ok(()) } else { Err(DbError::Damaged) }
    }

    /// A search begins at the slot that the hash gives and ends at the first that is not in use.
    fn reachable(&self, bucket: &[u8], element: &Element, slot: usize) -> bool {
        let mut at = element.hash as usize % self.bucket_elements;
        while at != slot {
            if hash_in(bucket, at) == UNUSED {
                return false;
            }
            at = if at + 1 == self.bucket_elements { 0 } else { at + 1 };
        }
        true
    }

    /// Reads the key where the element says it is.
    fn is_key_of(&mut self, element: &Element) -> Result<bool, DbError> {
        let length = element.key_size as usize;
        let whole = u64::from(element.key_size) + u64::from(element.value_size);
        if element.at.checked_add(whole).is_none_or(|end| end > self.file_size) {
            return Ok(false);
        }
        let (block, start) = (element.at / BLOCK_SIZE as u64, (element.at % BLOCK_SIZE as u64) as usize);
        if start + length <= BLOCK_SIZE {
            let bytes = self.block(block)?;
            // The last block of the file may be short.
            return Ok(bytes.get(start..start + length).is_some_and(|key| element.is_of(key)));
        }
        let mut key = vec![0; length];
        self.read(&mut key, element.at)?;
        Ok(element.is_of(&key))
    }

    /// A block of the file, from the cache if it is there. Those of neighbouring keys mostly are.
    fn block(&mut self, block: u64) -> Result<&[u8], DbError> {
        let slot = (block % CACHED_BLOCKS as u64) as usize;
        if self.cached[slot].as_ref().is_none_or(|(held, _)| *held != block) {
            let at = block * BLOCK_SIZE as u64;
            let mut bytes = self.cached[slot].take().map(|(_, bytes)| bytes).unwrap_or_default();
            bytes.resize((self.file_size - at).min(BLOCK_SIZE as u64) as usize, 0);
            self.read(&mut bytes, at)?;
            self.cached[slot] = Some((block, bytes));
        }
        Ok(self.cached[slot].as_ref().map_or(&[], |(_, bytes)| bytes))
    }
}

/// Where one record lies.
struct Element {
    hash: u32,
    /// The first bytes of the key.
    start: u32,
    /// The key, and right behind it the value.
    at: u64,
    key_size: u32,
    value_size: u32,
}

impl Element {
    fn read(bucket: &[u8], slot: usize) -> Self {
        let at = ELEMENTS_AT + slot * ELEMENT_SIZE;
        let bytes = &bucket[at..at + ELEMENT_SIZE];
        Element {
            hash: number(bytes, 0),
            start: number(bytes, 4),
            at: long(bytes, 8),
            key_size: number(bytes, 16),
            value_size: number(bytes, 20),
        }
    }

    fn is_of(&self, key: &[u8]) -> bool {
        let starts = match key.first_chunk() {
            Some(start) => u32::from_ne_bytes(*start) == self.start,
            None => self.start.to_ne_bytes().starts_with(key),
        };
        starts && hash(key) == self.hash
    }
}

/// The hash of the element in a slot, which also says whether the slot is in use.
fn hash_in(bucket: &[u8], slot: usize) -> u32 {
    number(bucket, ELEMENTS_AT + slot * ELEMENT_SIZE)
}

/// The hash that the format prescribes for a key: a sum modulo 2^31, to which byte `i` comes
/// shifted by `5 * i` modulo 24. What overflows 32 bits has no part in the lower 31.
fn hash(key: &[u8]) -> u32 {
    let mut sum = 0x238f_13af_u32.wrapping_mul(key.len() as u32);
    let mut shift = 0;
    for &byte in key {
        sum = sum.wrapping_add(u32::from(byte) << shift);
        shift = if shift < 19 { shift + 5 } else { shift - 19 };
    }
    let sum = sum & (u32::MAX >> 1);
    1_103_515_243_u32.wrapping_mul(sum).wrapping_add(12_345) & (u32::MAX >> 1)
}

#[inline]
fn number(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(bytes[at..at + 4].try_into().expect("four bytes were cut out"))
}

#[inline]
fn long(bytes: &[u8], at: usize) -> u64 {
    u64::from_ne_bytes(bytes[at..at + 8].try_into().expect("eight bytes were cut out"))
}
