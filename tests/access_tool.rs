//! `couriertcpd-access` from outside: what it writes, says and returns.

mod common;

use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

use common::{Builder, Client, Scratch, namespace};
use couriertcpd::accessdb::{AccessDb, Writer};
use couriertcpd::policy::access::Lookup;

const PROGRAM: &str = env!("CARGO_BIN_EXE_couriertcpd-access");

/// How a run ended.
#[derive(Debug, PartialEq, Eq)]
struct Ran {
    status: i32,
    out: String,
    err: String,
}

fn run_in(directory: &Path, words: &[&str], input: &str) -> Ran {
    let mut child = Command::new(PROGRAM)
        .args(words)
        .current_dir(directory)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("start couriertcpd-access");
    let mut stdin = child.stdin.take().expect("a pipe was asked for");
    // It may not want to read any.
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    let output = child.wait_with_output().expect("wait for couriertcpd-access");
    Ran {
        status: output.status.code().expect("it exits"),
        out: String::from_utf8(output.stdout).expect("UTF-8"),
        err: String::from_utf8(output.stderr).expect("UTF-8"),
    }
}

fn run(scratch: &Scratch, words: &[&str]) -> Ran {
    run_in(scratch.path(), words, "")
}

#[track_caller]
fn succeed(scratch: &Scratch, words: &[&str]) -> String {
    let ran = run(scratch, words);
    assert_eq!((ran.status, ran.err.as_str()), (0, ""), "{words:?}");
    ran.out
}

fn names(scratch: &Scratch) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(scratch.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

const RULES: &str = "# of the test\n192.0.2.0/30\tdeny\n192.0.2.2 allow,A=\"x, y\"\n2001:db8::/32\tallow,B\n*.25\tallow,L=1\n*\tallow\n";

#[test]
fn build_makes_a_database_and_query_asks_it() {
    let scratch = Scratch::new();
    scratch.file("rules", RULES);
    assert_eq!(succeed(&scratch, &["build", "rules"]), "");
    assert_eq!(names(&scratch), ["rules", "rules.dat"]);
    for file in ["rules.dat", "rules"] {
        let refused = run(&scratch, &["query", file, "192.0.2.1"]);
        assert_eq!((refused.status, refused.err.as_str()), (1, ""));
        assert_eq!(refused.out, "192.0.2.1: refused\n  client   record of 192.0.2.1: deny\n");
        let served = succeed(&scratch, &["query", file, "--local", "127.0.0.1:25", "192.0.2.2", "[2001:db8::9]:1234"]);
        assert!(served.contains("  sets     A=x, y\n") && served.contains("  sets     B=\n"), "{served}");
        assert!(served.contains("  our end  record of *.25: allow,L=1\n"), "{served}");
        assert_eq!(run(&scratch, &["query", file, "10.0.0.1", "192.0.2.1"]).status, 1);
    }
    for words in [&["query", "nothing.dat", "10.0.0.1"][..], &["query", "rules", "10.0"], &["query", "rules"]] {
        let ran = run(&scratch, words);
        assert_eq!((ran.status, ran.out.as_str()), (2, ""), "{words:?}");
        assert!(ran.err.starts_with("couriertcpd-access: "), "{words:?}: {}", ran.err);
    }
}

#[test]
fn all_errors_are_shown_and_nothing_is_written() {
    let scratch = Scratch::new();
    scratch.file("rules", RULES);
    succeed(&scratch, &["build", "rules"]);
    let before = fs::read(scratch.join("rules.dat")).unwrap();
    scratch.file("rules", "10\tmaybe\n300\tdeny\n11\tdeny\n11/8\tallow\n12\tallow,,A\n");
    let expected = "rules:1: error: 10: unknown word maybe: write deny or allow\n\
                    rules:2: error: 300: bad address: 300 is more than 255\n\
                    rules:4: error: 11.0.0.0/8 has another record at rules:3\n\
                    rules:5: warning: 12: an empty assignment sets nothing here, and a variable without a name in the original\n\
                    couriertcpd-access: there are 3 errors\n";
    for command in ["build", "check"] {
        let ran = run(&scratch, &[command, "rules"]);
        assert_eq!(ran, Ran { status: 1, out: String::new(), err: expected.to_owned() });
        assert_eq!(fs::read(scratch.join("rules.dat")).unwrap(), before);
        assert_eq!(names(&scratch), ["rules", "rules.dat"]);
    }
    scratch.file("rules", "12\tallow,,A\n");
    let warned = run(&scratch, &["check", "rules"]);
    assert_eq!(warned.status, 0);
    assert!(warned.err.starts_with("rules:1: warning: "));
}

#[test]
fn a_directory_is_read_by_name_without_backups() {
    let scratch = Scratch::new();
    fs::create_dir(scratch.join("rules.d")).unwrap();
    fs::create_dir(scratch.join("rules.d/directory")).unwrap();
    scratch.file("rules.d/b", "10.0.0.1\tallow\n11\tx\n");
    scratch.file("rules.d/a", "10\tdeny\n");
    for name in [".hidden", "a~", "a.dpkg-old", "a.rpmnew"] {
        scratch.file(&format!("rules.d/{name}"), "10\tallow\n");
    }
    let ran = run(&scratch, &["build", "rules.d/"]);
    assert!(ran.err.starts_with("rules.d/b:2: error: 11: unknown word x"), "{}", ran.err);
    scratch.file("rules.d/b", "10.0.0.1\tallow\n");
    succeed(&scratch, &["build", "rules.d/"]);
    assert_eq!(names(&scratch), ["rules.d", "rules.d.dat"]);
    assert_eq!(succeed(&scratch, &["dump", "rules.d.dat"]), "10\tdeny\n10.0.0.1\tallow\n");
}

#[test]
fn standard_input_is_a_source() {
    let scratch = Scratch::new();
    let ran = run_in(scratch.path(), &["build", "-o", "a.dat", "-"], "10 deny\n");
    assert_eq!(ran.status, 0, "{ran:?}");
    assert_eq!(succeed(&scratch, &["dump", "a.dat"]), "10\tdeny\n");
    assert!(run_in(scratch.path(), &["build", "-"], "10 deny\n").err.contains("-o FILE is needed"));
    assert_eq!(
        run_in(scratch.path(), &["check", "-"], "10 no\n").err.lines().next(),
        Some("-:1: error: 10: unknown word no: write deny or allow")
    );
}

#[test]
fn the_new_file_has_the_mode_and_owner_of_the_old() {
    let scratch = Scratch::new();
    let path = scratch.join("rules.dat");
    scratch.file("rules", RULES);
    let mode = || fs::metadata(&path).unwrap().mode() & 0o7777;
    let build = |umask: &str| {
        let shell = format!("umask {umask}; exec {PROGRAM} build rules");
        assert!(Command::new("sh").args(["-c", &shell]).current_dir(scratch.path()).status().unwrap().success());
    };
    build("027");
    assert_eq!(mode(), 0o640);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o604)).unwrap();
    if nix::unistd::geteuid().is_root() {
        std::os::unix::fs::chown(&path, Some(65534), Some(65533)).unwrap();
    }
    let owner = (fs::metadata(&path).unwrap().uid(), fs::metadata(&path).unwrap().gid());
    build("077");
    assert_eq!(mode(), 0o604);
    assert_eq!((fs::metadata(&path).unwrap().uid(), fs::metadata(&path).unwrap().gid()), owner);
}

#[test]
fn a_reader_sees_the_old_or_the_new_file_and_never_a_part() {
    let scratch = Scratch::new();
    let path = scratch.join("rules.dat");
    let text =
        |value: &str| (0..2000).map(|i| format!("10.0.{}.{}\tallow,V={value}\n", i / 250, i % 250)).collect::<String>();
    scratch.file("one", text("1"));
    scratch.file("two", text("2"));
    succeed(&scratch, &["build", "-o", "rules.dat", "one"]);
    let mut old = AccessDb::open(&path).unwrap();
    let mut seen = [0; 2];
    for round in 0..6 {
        let source = if round % 2 == 0 { "two" } else { "one" };
        let mut child = Command::new(PROGRAM)
            .args(["build", "-o", "rules.dat", source])
            .current_dir(scratch.path())
            .spawn()
            .unwrap();
        loop {
            let ended = child.try_wait().unwrap();
            let mut db = AccessDb::open(&path).expect("a whole file is always there");
            let first = db.fetch(b"10.0.0.0").unwrap().unwrap();
            assert_eq!(db.fetch(b"10.0.7.249").unwrap().unwrap(), first);
            assert_eq!(db.keys().unwrap().len(), 2000);
            seen[usize::from(first == b"allow,V=2")] += 1;
            if let Some(status) = ended {
                assert!(status.success());
                break;
            }
        }
    }
    assert!(seen[0] > 0 && seen[1] > 0, "{seen:?}");
    assert_eq!(old.fetch(b"10.0.0.0").unwrap().unwrap(), b"allow,V=1", "who had it open reads on");
}

#[test]
fn a_full_disk_is_an_error_that_leaves_the_old_file() {
    let scratch = Scratch::new();
    let directory = scratch.join("small");
    fs::create_dir(&directory).unwrap();
    let body = || {
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=200k", "none"]).arg(&directory).status();
        assert!(mounted.unwrap().success());
        let small = |words: &[&str], input: &str| run_in(&directory, words, input);
        assert_eq!(small(&["build", "-o", "a.dat", "-"], "10\tdeny\n").status, 0);
        let many: String = (0..20_000).map(|i| format!("10.0.{}.{}\tdeny\n", i / 250, i % 250)).collect();
        let full = small(&["build", "-o", "a.dat", "-"], &many);
        assert_eq!((full.status, full.out.as_str()), (1, ""));
        assert!(full.err.ends_with("cannot write: No space left on device\n"), "{}", full.err);
        assert_eq!(small(&["dump", "a.dat"], "").out, "10\tdeny\n");
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 1);
    };
    if namespace::run(body).is_none() {
        eprintln!("skipped: a full disk needs a mount");
    }
}

#[test]
fn what_dump_writes_build_takes_back() {
    let scratch = Scratch::new();
    scratch.file("rules", RULES);
    succeed(&scratch, &["build", "rules"]);
    let dumped = succeed(&scratch, &["dump", "rules.dat"]);
    assert_eq!(
        dumped,
        "*\tallow\n*.25\tallow,L=1\n192.0.2.0\tdeny\n192.0.2.1\tdeny\n192.0.2.2\tallow,A=\"x, y\"\n192.0.2.3\tdeny\n:2001:0db8\tallow,B\n"
    );
    scratch.file("again", &dumped);
    succeed(&scratch, &["build", "again"]);
    assert_eq!(succeed(&scratch, &["dump", "again.dat"]), dumped);
    assert_eq!(succeed(&scratch, &["diff", "rules", "again.dat"]), "");

    let odd = scratch.join("odd.dat");
    let mut writer = Writer::create(&odd, 0o644).unwrap();
    for (key, value) in [("10", "DENY"), ("11", "A='1,2'"), ("12", "1"), ("13/8", "deny"), ("2001:db8::1", "deny")] {
        writer.insert(key.as_bytes(), value.as_bytes()).unwrap();
    }
    writer.finish(&odd).unwrap();
    let dumped = succeed(&scratch, &["dump", "odd.dat"]);
    assert_eq!(
        dumped,
        "10\tdeny\n11\tallow,A=\"1,2\"\n# 12 sets a variable that cannot be written: 1=\n12\tallow\n\
         # no lookup reaches 13/8: deny\n# no lookup reaches 2001:db8::1: deny\n"
    );
    scratch.file("odd", &dumped);
    succeed(&scratch, &["check", "odd"]);
}

#[test]
fn diff_tells_by_its_status_whether_there_is_a_difference() {
    let scratch = Scratch::new();
    scratch.file("old", "10\tdeny\n");
    scratch.file("new", "10.0.0.0/9\tdeny\n10.128.0.0/10\tdeny\n");
    assert_eq!(
        run(&scratch, &["diff", "old", "new"]),
        Ran { status: 1, out: "10.192.0.0/10\tdeny\tallow\n".to_owned(), err: String::new() }
    );
    assert_eq!(run(&scratch, &["diff", "old", "old"]).status, 0);
    assert_eq!(run(&scratch, &["diff", "old", "none"]).status, 2);
}

#[test]
fn mistakes_on_the_command_line_are_told_with_the_usage() {
    let scratch = Scratch::new();
    for words in [&[][..], &["frobnicate"], &["build"], &["build", "a", "b"], &["check", "--foo", "a"], &["dump"]] {
        let ran = run(&scratch, words);
        assert_eq!((ran.status, ran.out.as_str()), (1, ""), "{words:?}");
        assert!(ran.err.starts_with("couriertcpd-access: ") && ran.err.contains("\nusage: "), "{words:?}: {}", ran.err);
    }
    assert!(succeed(&scratch, &["--help"]).starts_with("usage: "));
    assert!(succeed(&scratch, &["--version"]).starts_with("couriertcpd-access "));
    let missing = run(&scratch, &["build", "none"]);
    assert_eq!(missing.err, "couriertcpd-access: none: cannot read: No such file or directory\n");
}

#[test]
fn a_damaged_database_is_neither_dumped_nor_asked() {
    let scratch = Scratch::new();
    scratch.file("rules", RULES);
    succeed(&scratch, &["build", "rules"]);
    let mut bytes = fs::read(scratch.join("rules.dat")).unwrap();
    let at = bytes.windows(9).position(|window| window == b"192.0.2.1").unwrap();
    bytes[at + 8] = b'9';
    scratch.file("rules.dat", &bytes);
    let asked = run(&scratch, &["query", "rules.dat", "192.0.2.1"]);
    assert_eq!((asked.status, asked.err.as_str()), (2, ""));
    assert_eq!(asked.out, "192.0.2.1: refused, since the database cannot be read: the database is damaged\n");
    for (words, status) in [(&["dump", "rules.dat"][..], 1), (&["diff", "rules", "rules.dat"], 2)] {
        let ran = run(&scratch, words);
        assert_eq!((ran.status, ran.out.as_str()), (status, ""), "{words:?}");
        assert_eq!(ran.err, "couriertcpd-access: rules.dat: cannot open: the database is damaged\n");
    }
}

#[test]
fn reload_has_a_running_daemon_take_the_new_file() {
    let scratch = Scratch::new();
    scratch.file("rules", "127\tallow\n");
    succeed(&scratch, &["build", "rules"]);
    let pid_file = scratch.join("pid").to_str().unwrap().to_owned();
    // Nobody runs: nobody is told.
    succeed(&scratch, &["build", "--reload", &pid_file, "rules"]);
    let start = Builder::default()
        .option(format!("-pid={pid_file}"))
        .option(format!("-access={}", scratch.join("rules.dat").display()))
        .steps(&["say:served"]);
    let target = start.target();
    let started = start.run();
    assert!(started.status.success(), "{started:?}");
    let served = || Client::connect(target).finish().text();
    let before = served();
    scratch.file("rules", "127\tdeny\n");
    succeed(&scratch, &["build", "--reload", &pid_file, "rules"]);
    let after = served();
    let stopped = Builder::default().bare().option(format!("-pid={pid_file}")).option("-stop").run_options();
    assert!(stopped.status.success(), "{stopped:?}");
    assert_eq!((before.as_str(), after.as_str()), ("served\n", ""));
}

#[test]
fn called_as_makedat_it_does_that_program_s_job() {
    let scratch = Scratch::new();
    let makedat = scratch.join("makedat");
    symlink(PROGRAM, &makedat).unwrap();
    let run = |words: &[&str]| {
        let output = Command::new(&makedat).args(words).current_dir(scratch.path()).output().unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    scratch.file("s", "#c\nkey\tvalue\nalone\n10.0.0.0/31\tdeny\n");
    assert_eq!(run(&["-src=s", "-file=d", "-tmp=t", "-cidr"]), (0, String::new()));
    let mut db = AccessDb::open(scratch.join("d")).unwrap();
    let mut keys = db.keys().unwrap();
    keys.sort();
    assert_eq!(keys, [&b"10.0.0.0"[..], b"10.0.0.1", b"alone", b"key"]);
    assert_eq!(db.fetch(b"alone").unwrap().unwrap(), b"1");
    scratch.file("s", "a\tb\na\tc\n");
    assert_eq!(run(&["-src=s", "-file=d", "-tmp=t"]), (1, "makedat: s:2: a: this key is there twice\n".to_owned()));
    assert_eq!(AccessDb::open(scratch.join("d")).unwrap().keys().unwrap().len(), 4);
    assert_eq!(names(&scratch), ["d", "makedat", "s"]);
    let (status, text) = run(&["-file=d", "-tmp=t"]);
    assert!(status == 1 && text.contains("\nusage: makedat "), "{text}");

    // The process whose number stands in the -hup file is told.
    let mut child = Command::new("sh")
        .args(["-c", "trap 'exit 7' HUP; echo; while :; do sleep 0.05; done"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut ready = [0];
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut ready).unwrap();
    scratch.file("hup", format!("{}\n", child.id()));
    scratch.file("s", "a\tb\n");
    assert_eq!(run(&["-src=s", "-file=d", "-tmp=t", "-hup=hup"]), (0, String::new()));
    assert_eq!(child.wait().unwrap().code(), Some(7));
}

/// The text of the first literal display behind `after` in a manual page.
fn display(page: &str, after: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("man").join(page);
    let text = fs::read_to_string(path).expect("read the manual page");
    let (_, rest) = text.split_once(after).expect("the page has the section");
    let (_, rest) = rest.split_once(".Bd -literal -offset indent\n").expect("with a display");
    rest.split_once("\n.Ed").expect("that ends").0.to_owned() + "\n"
}

#[test]
fn the_manual_s_example_is_a_good_source_and_does_what_it_says() {
    let scratch = Scratch::new();
    scratch.file("rules", display("couriertcpd-access.5", ".Sh EXAMPLES"));
    succeed(&scratch, &["build", "rules"]);
    for (client, status, part) in [
        ("127.0.0.1", 0, "sets     RELAYCLIENT="),
        ("192.0.2.12", 0, "sets     MAXCPERIP=20"),
        ("192.0.2.13", 0, "record of 192.0.2.13: allow\n"),
        ("198.51.100.90", 1, "refused"),
        ("198.51.100.91", 0, "no record"),
        ("203.0.113.1", 0, "sets     BLOCK=550 No mail from there, sorry."),
        ("2001:db8:1:2::3", 0, "sets     RELAYCLIENT="),
    ] {
        let ran = run(&scratch, &["query", "rules.dat", client]);
        assert_eq!(ran.status, status, "{client}: {ran:?}");
        assert!(ran.out.contains(part), "{client}: {}", ran.out);
    }
}

#[test]
fn help_and_the_manual_name_the_same_commands() {
    let scratch = Scratch::new();
    let words = |text: &str, marker: &str| -> Vec<String> {
        let lines = text.lines().filter_map(|line| line.split_once(marker).map(|(_, rest)| rest));
        lines.filter_map(|rest| rest.split_whitespace().next()).map(str::to_owned).collect()
    };
    let help = words(&succeed(&scratch, &["--help"]), "couriertcpd-access ");
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("man/couriertcpd-access.8")).unwrap();
    assert_eq!(words(&page, ".It Cm "), help);
    assert_eq!(words(page.split(".Sh DESCRIPTION").next().unwrap(), ".Cm "), help);
}
