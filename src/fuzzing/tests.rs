//! The corpora of the fuzzers, each file as it is and damaged a little, through the same entries.

use std::fs;
use std::path::Path;

use super::{ENTRIES, run};

/// Damaged copies tried of each file, the same ones every time.
const DAMAGED: u64 = 40;

/// Small numbers that look random (Marsaglia's xorshift).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 as usize
    }
}

fn damage(text: &[u8], numbers: &mut Numbers) -> Vec<u8> {
    let mut text = text.to_vec();
    for _ in 0..1 + numbers.next() % 3 {
        let at = numbers.next() % (text.len() + 1);
        let byte = [0, 0xff, b',', b'\n', b'=', b'"', b'.'].get(numbers.next() % 16).copied();
        let byte = byte.unwrap_or(numbers.next() as u8);
        match numbers.next() % 4 {
            0 => text.truncate(at),
            1 => text.insert(at, byte),
            2 if at < text.len() => drop(text.remove(at)),
            _ if at < text.len() => text[at] = byte,
            _ => text.push(byte),
        }
    }
    text
}

#[test]
fn every_corpus_goes_through_its_entry() {
    let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus");
    for (name, _) in ENTRIES {
        let mut files: Vec<_> = fs::read_dir(corpora.join(name))
            .unwrap_or_else(|error| panic!("no corpus for {name}: {error}"))
            .map(|entry| entry.unwrap().path())
            .collect();
        files.sort();
        assert!(files.len() >= 3, "{name}: too few files");
        for (number, path) in files.iter().enumerate() {
            let text = fs::read(path).unwrap();
            // If one panics, this says which.
            eprintln!("{name}: {}", path.display());
            run(name, &text);
            let mut numbers = Numbers(number as u64 + 1);
            for _ in 0..DAMAGED {
                run(name, &damage(&text, &mut numbers));
            }
        }
    }
}

#[test]
fn every_corpus_has_its_target() {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz");
    let names = |directory: &str| {
        let entries = fs::read_dir(fuzz.join(directory)).unwrap();
        let names = entries.map(|e| e.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned());
        let mut names: Vec<_> = names.collect();
        names.sort();
        names
    };
    let mut expected: Vec<_> = ENTRIES.iter().map(|(name, _)| (*name).to_owned()).collect();
    expected.sort();
    assert_eq!(names("corpus"), expected);
    assert_eq!(names("targets"), expected);
    let manifest = fs::read_to_string(fuzz.join("Cargo.toml")).unwrap();
    for name in expected {
        assert!(manifest.contains(&format!("name = \"{name}\"")), "{name} is not in tests/fuzz/Cargo.toml");
    }
}
