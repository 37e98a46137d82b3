//! Real databases, whole and damaged in every way that a file can be.

use std::fs;
use std::net::IpAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use super::*;
use crate::policy::access::{Access, Keys, decide, find};
use crate::policy::env::Delta;

/// A directory of its own for each test, removed at its end.
struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("accessdb-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Dir(path)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn database(&self, name: &str, records: &[(&str, &str)]) -> PathBuf {
        let path = self.file(name);
        let mut writer = Writer::create(&path, 0o644).unwrap();
        for (key, value) in records {
            assert_eq!(writer.insert(key.as_bytes(), value.as_bytes()).unwrap(), Inserted::New, "{key}");
        }
        writer.finish(&path).unwrap();
        path
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Enough records for several buckets, so that damage has somewhere to hit.
fn many() -> Vec<(String, String)> {
    (0..600).map(|i| (format!("10.{}.{}", i / 256, i % 256), format!("allow,N={i}"))).collect()
}

fn big_database(dir: &Dir, name: &str) -> PathBuf {
    let records = many();
    let borrowed: Vec<_> = records.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    dir.database(name, &borrowed)
}

/// The same in a file that carries a count of synchronisations.
fn counting_database(dir: &Dir, name: &str) -> PathBuf {
    const NUMSYNC: c_uint = 0x2000;
    let path = dir.file(name);
    let database = Database::open(&path, gdbm_sys::GDBM_NEWDB | NO_MMAP | NUMSYNC, 0o644).unwrap();
    let mut writer = Writer { database };
    for (key, value) in many() {
        assert_eq!(writer.insert(key.as_bytes(), value.as_bytes()).unwrap(), Inserted::New, "{key}");
    }
    writer.finish(&path).unwrap();
    path
}

fn open_error(path: &Path) -> String {
    AccessDb::open(path).map(|_| ()).unwrap_err().to_string()
}

#[test]
fn what_was_written_is_read_by_address() {
    let dir = Dir::new("read");
    let path = dir.database("a.dat", &[("10", "deny"), ("10.1.2.3", "allow,A=1"), ("*", ""), ("127", "B=2")]);
    let mut db = AccessDb::open(&path).unwrap();
    for (ip, expected) in
        [("10.9.9.9", Access::Refused(crate::policy::access::End::Remote)), ("10.1.2.3", Access::Admitted)]
    {
        let ip: IpAddr = ip.parse().unwrap();
        let mut delta = Delta::default();
        let local = Some("127.0.0.1:25".parse().unwrap());
        assert_eq!(decide(&mut db, ip, local, &mut delta).unwrap(), expected, "{ip}");
        assert_eq!(delta.get(b"B"), Some(&b"2"[..]));
    }
    let star = find(&mut db, Keys::remote("2001:db8::1".parse().unwrap()), |_| {}).unwrap().unwrap();
    assert_eq!((star.key.as_str(), star.value.as_slice()), ("*", &b""[..]));
    let mut keys = db.keys().unwrap();
    keys.sort();
    assert_eq!(keys, [&b"*"[..], b"10", b"10.1.2.3", b"127"]);
}

#[test]
fn a_key_is_written_once() {
    let dir = Dir::new("twice");
    let path = dir.file("a.dat");
    let mut writer = Writer::create(&path, 0o600).unwrap();
    assert_eq!(writer.insert(b"k", b"1").unwrap(), Inserted::New);
    assert_eq!(writer.insert(b"k", b"2").unwrap(), Inserted::Duplicate);
    writer.finish(&path).unwrap();
    assert_eq!(AccessDb::open(&path).unwrap().fetch(b"k").unwrap().unwrap(), b"1");
}

#[test]
fn what_is_no_database_does_not_open_and_is_named() {
    let dir = Dir::new("bad");
    fs::write(dir.file("empty"), "").unwrap();
    fs::write(dir.file("text"), "10\tdeny\n".repeat(2000)).unwrap();
    fs::create_dir(dir.file("directory")).unwrap();
    nix::unistd::mkfifo(&dir.file("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    for (name, expected) in [
        ("missing", "cannot open: No such file or directory"),
        ("empty", "not a GDBM database"),
        ("text", "not a GDBM database"),
        ("directory", "not a GDBM database"),
        ("fifo", "not a GDBM database"),
    ] {
        let path = dir.file(name);
        assert_eq!(open_error(&path), format!("{}: {expected}", path.display()));
    }
    assert!(open_error(Path::new("/nul\0byte")).starts_with("/nul\0byte: cannot open: "));
}

#[test]
fn an_unreadable_file_says_why() {
    if !nix::unistd::geteuid().is_root() {
        let dir = Dir::new("unreadable");
        let path = dir.database("a.dat", &[("*", "deny")]);
        let mut permissions = fs::metadata(&path).unwrap().permissions();
        std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0);
        fs::set_permissions(&path, permissions).unwrap();
        assert!(open_error(&path).ends_with("cannot open: Permission denied"));
    }
}

#[test]
fn a_file_written_in_place_is_busy_and_a_renamed_one_is_not() {
    let dir = Dir::new("busy");
    let path = dir.database("a.dat", &[("*", "deny")]);
    let writer = Writer::create(&path, 0o644).unwrap();
    assert!(open_error(&path).ends_with("cannot open: another program is writing it in place"));
    drop(writer);
    let path = dir.database("a.dat", &[("*", "deny")]);
    let mut db = AccessDb::open(&path).unwrap();
    let new = dir.database("b.dat", &[("*", "allow")]);
    fs::rename(&new, &path).unwrap();
    assert_eq!(db.fetch(b"*").unwrap().unwrap(), b"deny");
    db.reload().unwrap();
    assert_eq!(db.fetch(b"*").unwrap().unwrap(), b"allow");
}

/// The file that was looked at is renamed away before libgdbm opens it.
#[test]
fn a_file_that_is_replaced_while_it_is_opened_is_looked_at_again() {
    let dir = Dir::new("replaced");
    let path = dir.database("a.dat", &[("*", "allow")]);
    let new = dir.database("new.dat", &[("*", "deny")]);
    let mut looked = 0;
    let check = |file: &File| {
        looked += 1;
        verify::verify(file)?;
        if looked == 1 {
            fs::rename(&new, &path)?;
        }
        Ok(())
    };
    let (mut database, file, _) = Database::open_as_seen(&path, check).unwrap();
    assert_eq!(looked, 2);
    assert_eq!(database.fetch(b"*").unwrap().unwrap(), b"deny");
    assert_eq!(file.metadata().unwrap().ino(), fs::metadata(&path).unwrap().ino());

    // What took its place is damaged in a way that libgdbm alone does not see.
    let whole = fs::read(big_database(&dir, "bad.dat")).unwrap();
    let bad = dir.file("bad.dat");
    let is_bad = |block: usize| {
        let mut bytes = whole.clone();
        bytes[block * 4096..(block + 1) * 4096].fill(0);
        fs::write(&bad, &bytes).unwrap();
        Database::open_unchecked(&bad).is_ok() && open_checked(&bad).is_err()
    };
    assert!((1..whole.len() / 4096).any(is_bad));
    let mut looked = 0;
    let check = |file: &File| {
        looked += 1;
        verify::verify(file)?;
        fs::rename(&bad, &path)?;
        Ok(())
    };
    let error = Database::open_as_seen(&path, check).map(drop).unwrap_err();
    assert!(matches!(error, DbError::Damaged), "{error}");
    assert_eq!(looked, 2);
}

#[test]
fn a_file_that_is_replaced_without_end_is_given_up() {
    let dir = Dir::new("churn");
    let path = dir.database("a.dat", &[("*", "deny")]);
    let check = |_: &File| {
        fs::rename(dir.database("next.dat", &[("*", "deny")]), &path)?;
        Ok(())
    };
    let error = Database::open_as_seen(&path, check).unwrap_err();
    assert_eq!(error.to_string(), "another program changes it again and again");
}

#[test]
fn a_reload_that_fails_leaves_the_old_rules_in_force() {
    let dir = Dir::new("reload");
    let path = dir.database("a.dat", &[("10", "deny")]);
    let mut db = AccessDb::open(&path).unwrap();
    fs::remove_file(&path).unwrap();
    assert!(db.reload().unwrap_err().to_string().contains("No such file"));
    assert_eq!(db.fetch(b"10").unwrap().unwrap(), b"deny");
    fs::write(&path, "rubbish").unwrap();
    assert!(db.reload().is_err());
    assert_eq!(db.fetch(b"10").unwrap().unwrap(), b"deny");
    assert_eq!(db.fetch(b"11").unwrap(), None);
}

/// A file written in place and then replaced: the handle errs, what has the name is whole.
#[test]
fn at_a_read_error_the_file_that_is_there_now_decides() {
    let dir = Dir::new("anew");
    let path = big_database(&dir, "a.dat");
    let mut db = AccessDb::open(&path).unwrap();
    let decide = |db: &mut AccessDb, n: usize| {
        let mut delta = Delta::default();
        delta.set(b"KEPT", b"");
        let decided = db.decide(IpAddr::from([10, (n / 256) as u8, (n % 256) as u8, 1]), None, &mut delta);
        decided.map(|_| (delta.iter().count(), delta.get(b"N").map(<[u8]>::to_vec), delta.get(b"M").is_some()))
    };
    let damage = || OpenOptions::new().write(true).open(&path).unwrap().set_len(4096).unwrap();
    damage();
    let new: Vec<_> = many().into_iter().map(|(key, value)| (key, value + ",M=1")).collect();
    let new: Vec<_> = new.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    fs::rename(dir.database("new.dat", &new), &path).unwrap();
    let mut opened = 0;
    for n in 0..600 {
        let before = db.anew;
        let decided = decide(&mut db, n).unwrap();
        opened += usize::from(db.anew != before);
        let is_new = db.anew.is_some();
        assert_eq!(decided, (if is_new { 3 } else { 2 }, Some(n.to_string().into_bytes()), is_new), "{n}");
    }
    assert_eq!(opened, 1);

    // What stays damaged is opened once, and then rests.
    damage();
    db.anew = None;
    let failed = (0..600).filter(|&n| decide(&mut db, n).is_err()).count();
    assert!(failed > 0);
    let tried = db.anew.unwrap();
    assert!(decide(&mut db, 1).is_err());
    assert!(db.anew == Some(tried) || tried.elapsed() >= RETRY_PAUSE);
    // An error soon after it was opened anew is not followed by another try at once.
    db.database = Database::open_unchecked(&big_database(&dir, "b.dat")).unwrap();
    db.failed = None;
    OpenOptions::new().write(true).open(dir.file("b.dat")).unwrap().set_len(4096).unwrap();
    db.stamp = db.database.stamp().unwrap();
    fs::rename(big_database(&dir, "c.dat"), &path).unwrap();
    db.anew = Some(Instant::now() + RETRY_PAUSE);
    assert!((0..600).any(|n| decide(&mut db, n).is_err()));
}

/// As by cp: what libgdbm has in memory leads to places where other bytes are now.
#[test]
fn a_file_that_is_overwritten_in_place_is_opened_anew() {
    let dir = Dir::new("overwritten");
    let path = big_database(&dir, "a.dat");
    let long = "x".repeat(1000);
    let new: Vec<_> = many().into_iter().enumerate().map(|(i, (key, _))| (key, format!("deny,M={i}{long}"))).collect();
    let new: Vec<_> = new.iter().rev().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    let new = fs::read(dir.database("new.dat", &new)).unwrap();
    // Some time ago, so that the clock of the file system has gone on.
    let old = std::time::SystemTime::now() - Duration::from_secs(60);
    File::options().write(true).open(&path).unwrap().set_modified(old).unwrap();
    let mut db = AccessDb::open(&path).unwrap();
    let mut alone = Database::open_unchecked(&path).unwrap();
    for (key, value) in many() {
        assert_eq!(db.fetch(key.as_bytes()).unwrap().unwrap(), value.as_bytes());
        assert_eq!(alone.fetch(key.as_bytes()).unwrap().unwrap(), value.as_bytes());
    }
    // Without a moment in which it is short.
    std::os::unix::fs::FileExt::write_all_at(&OpenOptions::new().write(true).open(&path).unwrap(), &new, 0).unwrap();
    let missed = many().iter().filter(|(key, _)| matches!(alone.fetch(key.as_bytes()), Ok(None))).count();
    assert!(missed > 0, "libgdbm sees it by itself");
    for n in 0..600 {
        let mut delta = Delta::default();
        let decided = db.decide(IpAddr::from([10, (n / 256) as u8, (n % 256) as u8, 1]), None, &mut delta).unwrap();
        assert_eq!(decided, Access::Refused(crate::policy::access::End::Remote), "{n}");
    }
    // A new time alone is enough, and does no harm.
    File::options().write(true).open(&path).unwrap().set_modified(old).unwrap();
    assert!(matches!(db.fetch(b"10.1.1"), Err(DbError::Changed)));
    db.anew = None;
    assert!(db.decide(IpAddr::from([10, 1, 1, 1]), None, &mut Delta::default()).is_ok());
    // A file that another one has taken the name of is not changed by that.
    fs::rename(dir.database("b.dat", &[("*", "allow")]), &path).unwrap();
    assert!(db.fetch(b"10.1.1").unwrap().is_some());
}

fn wait_until_it_answers(db: &mut AccessDb) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while let Err(error) = db.fetch(b"*") {
        assert!(Instant::now() < deadline, "{error}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The file loses its end while it is open: no signal, no "not listed".
#[test]
fn a_file_that_shrinks_under_us_is_an_error_until_it_is_whole_again() {
    let dir = Dir::new("shrink");
    let path = big_database(&dir, "a.dat");
    let whole = fs::read(&path).unwrap();
    for length in [0, 4096, whole.len() / 2] {
        fs::write(&path, &whole).unwrap();
        let mut db = AccessDb::open(&path).unwrap();
        OpenOptions::new().write(true).open(&path).unwrap().set_len(length as u64).unwrap();
        let mut failed = 0;
        for (key, value) in many() {
            match db.fetch(key.as_bytes()) {
                Ok(found) => assert_eq!(found.as_deref(), Some(value.as_bytes()), "{key} at {length}"),
                Err(_) => failed += 1,
            }
        }
        assert!(failed > 0, "{length}");
        assert!(db.keys().is_err(), "{length}");
        fs::write(&path, &whole).unwrap();
        wait_until_it_answers(&mut db);
        for (key, value) in many() {
            assert_eq!(db.fetch(key.as_bytes()).unwrap().unwrap(), value.as_bytes(), "{key} after {length}");
        }
        assert_eq!(db.keys().unwrap().len(), many().len());
    }
}

#[test]
fn a_truncated_file_fails_at_open_or_at_the_keys_it_lost() {
    let dir = Dir::new("truncated");
    let whole = fs::read(big_database(&dir, "a.dat")).unwrap();
    let path = dir.file("cut.dat");
    let mut refused = 0;
    for length in (0..whole.len()).step_by(whole.len() / 60) {
        fs::write(&path, &whole[..length]).unwrap();
        let Ok(mut db) = AccessDb::open(&path) else {
            refused += 1;
            continue;
        };
        for (key, value) in many() {
            if let Ok(found) = db.fetch(key.as_bytes()) {
                assert_eq!(found.as_deref(), Some(value.as_bytes()), "{key} at {length}");
            }
        }
    }
    assert!(refused > 0);
}

/// Random bytes changed in a good file: whatever is answered, it is answered soon and without a
/// crash. The damage is drawn from a fixed seed; COURIERTCPD_TEST_ROUNDS asks for more of it.
#[test]
fn damaged_bytes_neither_crash_nor_hang() {
    let rounds: u64 = std::env::var("COURIERTCPD_TEST_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(300);
    let dir = Dir::new("flip");
    let whole = fs::read(big_database(&dir, "a.dat")).unwrap();
    let path = dir.file("bad.dat");
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = move || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random as usize
    };
    let (mut refused, mut slowest) = (0, Duration::ZERO);
    for round in 0..rounds {
        let mut bytes = whole.clone();
        // Half of the damage to the header and the directory, where it does most.
        let reach = if round % 2 == 0 { 256 } else { bytes.len() };
        for _ in 0..1 + next() % 8 {
            let at = next() % reach;
            bytes[at] = if next() % 4 == 0 { 0xff } else { next() as u8 };
        }
        fs::write(&path, &bytes).unwrap();
        let start = Instant::now();
        match AccessDb::open(&path) {
            Err(_) => refused += 1,
            Ok(mut db) => {
                assert_no_key_is_missed(&mut db, &format!("round {round}"));
                let _ = db.keys();
            }
        }
        if round % 4 == 0 {
            if let Ok(mut db) = AccessDb::open_to_ask(&path) {
                assert_no_key_is_missed(&mut db, &format!("round {round}, asked at once"));
            }
        }
        slowest = slowest.max(start.elapsed());
        assert!(start.elapsed() < Duration::from_secs(5), "round {round} took {:?}", start.elapsed());
    }
    println!("{rounds} damaged files: {refused} refused, the slowest took {slowest:?}");
    assert!(refused > 0);
}

/// With the reader's descriptor open, a child has none of it.
#[test]
fn the_descriptor_is_close_on_exec() {
    let dir = Dir::new("cloexec");
    let path = dir.database("cloexec.dat", &[("*", "deny")]);
    let _db = AccessDb::open(&path).unwrap();
    let output = Command::new("ls").args(["-l", "/proc/self/fd"]).output().unwrap();
    assert!(output.status.success());
    assert!(!String::from_utf8_lossy(&output.stdout).contains("cloexec.dat"));
}
/// libgdbm alone takes a bucket of zeros for an empty one.
#[test]
fn a_block_of_zeros_is_noticed_wherever_it_takes_a_record() {
    let dir = Dir::new("zeros");
    let whole = fs::read(big_database(&dir, "a.dat")).unwrap();
    let counted = fs::read(counting_database(&dir, "b.dat")).unwrap();
    let path = dir.file("bad.dat");
    let [standard, old, counting] = verify::MAGIC;
    for (base, magic) in [(&whole, standard), (&whole, old), (&counted, counting)] {
        let with = |bytes: &mut [u8]| bytes[..4].copy_from_slice(&magic.to_ne_bytes());
        let mut bytes = base.clone();
        with(&mut bytes);
        fs::write(&path, &bytes).unwrap();
        assert_eq!(AccessDb::open(&path).unwrap().fetch(b"10.1.1").unwrap().unwrap(), b"allow,N=257", "{magic:x}");
        let mut refused = 0;
        for block in 0..base.len() / 4096 {
            let mut bytes = base.clone();
            bytes[block * 4096..(block + 1) * 4096].fill(0);
            with(&mut bytes);
            fs::write(&path, &bytes).unwrap();
            match AccessDb::open(&path) {
                Err(_) => refused += 1,
                Ok(mut db) => assert_no_key_is_missed(&mut db, &format!("{magic:x}, block {block}")),
            }
            if let Ok(mut db) = AccessDb::open_to_ask(&path) {
                assert_no_key_is_missed(&mut db, &format!("{magic:x}, block {block}, asked at once"));
            }
        }
        assert!(refused >= 8, "{magic:x}: {refused}");
    }
}

/// Whatever the file says that it is.
#[test]
fn no_file_that_libgdbm_opens_goes_unchecked() {
    let dir = Dir::new("magic");
    let mut bytes = fs::read(big_database(&dir, "a.dat")).unwrap();
    // One byte of the last key: libgdbm would not find it, and would not say why.
    let key = bytes.windows(6).position(|window| window == b"10.1.1").unwrap();
    bytes[key + 5] = b'x';
    let path = dir.file("bad.dat");
    for last in 0..=u8::MAX {
        bytes[..4].copy_from_slice(&(0x1357_9a00 | u32::from(last)).to_ne_bytes());
        for word in [0, 1] {
            if word == 1 {
                bytes[..4].reverse();
            }
            fs::write(&path, &bytes).unwrap();
            assert!(AccessDb::open(&path).is_err(), "{:x?}", &bytes[..4]);
        }
    }
}

/// Errors and changed values are what damage may do; "not listed" it may not.
fn assert_no_key_is_missed(db: &mut AccessDb, what: &str) {
    for (key, _) in many() {
        assert!(!matches!(db.fetch(key.as_bytes()), Ok(None)), "{key} is lost: {what}");
    }
}
