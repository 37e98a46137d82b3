//! Unit tables of the command line as a whole.

use std::os::unix::ffi::OsStringExt;
use std::time::Duration;

use super::*;
use crate::addr::Ipv4Form;
use crate::config::{
    Facility, HandlerStderr, HostMismatch, Level, ListKind, ListMessage, LoggerProgram, NameSource, Prefix6,
};

fn words(args: &[&[u8]]) -> Vec<OsString> {
    args.iter().map(|arg| OsString::from_vec(arg.to_vec())).collect()
}

fn services(name: &str) -> Option<u16> {
    (name == "smtp").then_some(25)
}

fn try_parse(args: &[&[u8]]) -> Result<Parsed, String> {
    parse_with(words(args), &services)
}

/// Splits at blanks.
fn try_line(line: &str) -> Result<Parsed, String> {
    try_parse(&line.split(' ').map(str::as_bytes).collect::<Vec<_>>())
}

/// The configuration of these options in front of `25 /bin/prog`, which must not warn.
fn config(options: &str) -> Config {
    let line = [options, "25 /bin/prog"].join(" ");
    match try_line(line.trim_start()) {
        Ok(Parsed { action: Action::Run(config), warnings }) => {
            assert!(warnings.is_empty(), "{options}: {warnings:?}");
            *config
        }
        other => panic!("{options}: {other:?}"),
    }
}

#[test]
fn the_defaults_are_those_of_the_documents() {
    let config = config("");
    assert_eq!(config.listen.len(), 1);
    assert_eq!((config.listen[0].address, config.listen[0].port), (None, 25));
    assert_eq!(config.handler.program, "/bin/prog");
    assert!(config.handler.args.is_empty() && config.drop.is_empty() && config.lists.is_empty());
    assert_eq!(config.backlog, None);
    assert_eq!(config.limits.max_procs, 40);
    assert_eq!(config.limits.max_per_ip, 4);
    assert_eq!(config.limits.max_per_block, None);
    assert_eq!(config.limits.warn_at, 35);
    assert_eq!(config.limits.max_pending, 0);
    assert_eq!(config.limits.prefix6, Prefix6 { address: 128, block: 120 });
    assert_eq!(config.lookups.names, NameSource::Dns);
    assert!(config.lookups.ident && config.lookups.nameservers.is_empty());
    assert_eq!(config.lookups.timeout, Duration::from_secs(30));
    assert_eq!(config.lookups.ident_timeout, Duration::from_secs(10));
    assert_eq!(config.lookups.cache_entries, 1000);
    assert_eq!(config.lookups.mismatch, HostMismatch::SoftError);
    assert_eq!(config.stderr, HandlerStderr::Inherit);
    assert_eq!(config.logger, None);
    assert_eq!(config.proxy, None);
    assert_eq!(config.log.syslog, None);
    assert_eq!(config.log.level, Level::Notice);
    assert_eq!(config.ipv4, Ipv4Form::Mapped);
    assert!(!config.access.allow_missing && !config.access.local && config.access.file.is_none());
    assert_eq!((config.user, config.group, config.pid_file, config.deny_message), (None, None, None, None));
}

#[test]
fn each_value_lands_in_its_field() {
    type Row = (&'static str, fn(&Config) -> bool);
    let rows: [Row; 53] = [
        ("-address=192.0.2.1", |c| c.listen[0].address == "192.0.2.1".parse().ok()),
        ("-address=0", |c| c.listen[0].address.is_none()),
        ("-address=::1", |c| c.listen[0].address == "::1".parse().ok()),
        ("-listen=5", |c| c.backlog == Some(5)),
        ("-user=mail", |c| c.user.as_deref() == Some("mail")),
        ("-group=8", |c| c.group.as_deref() == Some("8")),
        ("-pid=/run/x.pid", |c| c.pid_file.as_deref() == Some("/run/x.pid".as_ref())),
        ("-access=a.dat", |c| c.access.file.as_deref() == Some("a.dat".as_ref())),
        ("-access=a.dat -accesslocal", |c| c.access.local),
        ("-accessmissing=allow", |c| c.access.allow_missing),
        ("-accessmissing=refuse", |c| !c.access.allow_missing),
        ("-denymsg=a=b", |c| c.deny_message.as_deref() == Some(b"a=b")),
        ("-denymsg=", |c| c.deny_message == Some(Vec::new())),
        ("-drop", |c| c.drop == [b"BLOCK"]),
        ("-drop=", |c| c.drop == [b"BLOCK"]),
        ("-drop=A", |c| c.drop == [b"A"]),
        ("-drop=A,,BB", |c| c.drop == [&b"A"[..], b"BB"]),
        ("-block=z.ex", |c| c.lists[0].kind == ListKind::Block && c.zones[0].name == "z.ex"),
        ("-allow=z.ex", |c| c.lists[0].kind == ListKind::Allow && !c.zones[0].any),
        ("-block=z.ex -blockany=Z.ex.", |c| c.zones[0].any),
        ("-maxprocs=1", |c| c.limits.max_procs == 1 && c.limits.warn_at == 0),
        ("-maxprocs=2", |c| c.limits.warn_at == 1),
        ("-maxprocs=5", |c| c.limits.warn_at == 4),
        ("-maxprocs=10", |c| c.limits.warn_at == 8),
        ("-maxprocs=20", |c| c.limits.warn_at == 17),
        ("-maxprocs=10000", |c| c.limits.max_procs == 10000 && c.limits.warn_at == 8999),
        ("-warn=40", |c| c.limits.warn_at == 40),
        ("-warn=41", |c| c.limits.warn_at == 35),
        ("-warn=0", |c| c.limits.warn_at == 0),
        ("-warn=-3", |c| c.limits.warn_at == 35),
        ("-warn=99999999999999999999999", |c| c.limits.warn_at == 35),
        ("-warn=60 -maxprocs=60", |c| c.limits.warn_at == 60),
        ("-maxperip=007", |c| c.limits.max_per_ip == 7),
        ("-maxperc=9", |c| c.limits.max_per_block == Some(9)),
        ("-prefix6=64/48", |c| c.limits.prefix6 == Prefix6 { address: 64, block: 48 }),
        ("-maxpending=400", |c| c.limits.max_pending == 400),
        ("-nodnslookup", |c| c.lookups.names == NameSource::Off),
        ("-resolver=nss", |c| c.lookups.names == NameSource::Nss(4)),
        ("-resolver=nss:2", |c| c.lookups.names == NameSource::Nss(2)),
        ("-resolver=nss -resolver=dns", |c| c.lookups.names == NameSource::Dns),
        ("-nodnslookup -resolver=nss:2", |c| c.lookups.names == NameSource::Off),
        ("-noidentlookup", |c| !c.lookups.ident),
        ("-hostmismatch=unset", |c| c.lookups.mismatch == HostMismatch::Unset),
        ("-lookuptimeout=5", |c| c.lookups.timeout == Duration::from_secs(5)),
        ("-identtimeout=3", |c| c.lookups.ident_timeout == Duration::from_secs(3)),
        ("-dnscache=0", |c| c.lookups.cache_entries == 0),
        ("-syslog", |c| c.log.syslog == Some(Facility::MAIL)),
        ("-syslog=local7", |c| c.log.syslog == Some(Facility(23))),
        ("-loglevel=err", |c| c.log.level == Level::Err),
        ("-loglevel=warning", |c| c.log.level == Level::Warning),
        ("-loglevel=info", |c| c.log.level == Level::Info),
        ("-loglevel=debug", |c| c.log.level == Level::Debug),
        ("-ipv4=plain", |c| c.ipv4 == Ipv4Form::Plain),
    ];
    for (options, right) in rows {
        let config = config(options);
        assert!(right(&config), "{options}: {config:?}");
    }
}

#[test]
fn name_servers_have_a_port() {
    for (value, expected) in [
        ("192.0.2.53", &["192.0.2.53:53"][..]),
        ("192.0.2.53:5353,2001:db8::53", &["192.0.2.53:5353", "[2001:db8::53]:53"]),
        ("[2001:db8::53],[2001:db8::53]:54", &["[2001:db8::53]:53", "[2001:db8::53]:54"]),
        ("::1", &["[::1]:53"]),
        ("fe80::1%lo,[fe80::1%1]:54,[fe80::2%77]", &["[fe80::1%1]:53", "[fe80::1%1]:54", "[fe80::2%77]:53"]),
    ] {
        let got: Vec<_> =
            config(&format!("-nameserver={value}")).lookups.nameservers.iter().map(ToString::to_string).collect();
        assert_eq!(got, expected, "{value}");
    }
}

#[test]
fn standard_error_goes_to_one_place() {
    let logger = |name: &str| Some(LoggerProgram { program: "/l".into(), name: name.into() });
    for (options, stderr, program) in [
        ("-stderr=/f", HandlerStderr::File("/f".into()), None),
        ("-stderr=socket", HandlerStderr::Socket, None),
        ("-stderrlogger=/l", HandlerStderr::Logger, logger("prog")),
        ("-stderrlogger=/l -stderrloggername=", HandlerStderr::Logger, logger("prog")),
        ("-stderrlogger=/l -stderrloggername=imapd", HandlerStderr::Logger, logger("imapd")),
        ("-stderrlogger=/l -stderr=/f", HandlerStderr::Logger, logger("prog")),
        ("-stderr=socket -stderrlogger=/l", HandlerStderr::Socket, logger("prog")),
        ("-stderr=socket -stderr=/f", HandlerStderr::File("/f".into()), None),
    ] {
        let config = config(options);
        assert_eq!((config.stderr, config.logger), (stderr, program), "{options}");
    }
}

#[test]
fn of_two_the_last_counts_but_lists_add_up_in_order() {
    let config =
        config("-maxperip=1 -drop=A -denymsg=a -allow=w.ex -block=b.ex,X -maxperip=2 -drop=B -allow=B.EX -denymsg=b");
    assert_eq!(config.limits.max_per_ip, 2);
    assert_eq!(config.drop, [b"B"]);
    assert_eq!(config.deny_message.as_deref(), Some(&b"b"[..]));
    let lists: Vec<_> = config.lists.iter().map(|list| (list.kind, list.zone, list.display.as_str())).collect();
    assert_eq!(lists, [(ListKind::Allow, 0, "w.ex"), (ListKind::Block, 1, "b.ex"), (ListKind::Allow, 1, "B.EX")]);
    assert_eq!(config.zones.iter().map(|zone| zone.name.as_str()).collect::<Vec<_>>(), ["w.ex", "b.ex"]);
}

#[test]
fn rules_for_proxies_add_up() {
    let config = config("-haproxy=5/port=25 -proxyfrom=192.0.2.0/24 -haproxy -proxyfrom=::1,192.0.2.7");
    let proxy = config.proxy.unwrap();
    let rules: Vec<_> = proxy.rules.iter().map(|rule| (rule.timeout.as_secs(), rule.port)).collect();
    assert_eq!(rules, [(5, Some(25)), (15, None)]);
    assert_eq!(proxy.from.len(), 3);
}

#[test]
fn bytes_survive() {
    let parsed = try_parse(&[
        b"-denymsg=Zugriff f\xfcr Sie gesperrt \xc3\xa9 \x01",
        b"-access=/etc/\xff.dat",
        b"-block=z.ex,V,gr\xfc\xdf Gott, @",
        b"25",
        b"/bin/\xfe",
        b"-\xfd",
    ]);
    let Ok(Parsed { action: Action::Run(config), .. }) = parsed else { panic!("{parsed:?}") };
    assert_eq!(config.deny_message.as_deref(), Some(&b"Zugriff f\xfcr Sie gesperrt \xc3\xa9 \x01"[..]));
    assert_eq!(config.access.file.unwrap().as_os_str().as_bytes(), b"/etc/\xff.dat");
    assert_eq!(config.lists[0].message, ListMessage::Text(b"gr\xfc\xdf Gott, @".to_vec()));
    assert_eq!(config.handler.program.as_bytes(), b"/bin/\xfe");
    assert_eq!(config.handler.args, words(&[b"-\xfd"]));
}

#[test]
fn options_end_where_the_words_begin() {
    for (line, args) in [
        ("25 prog", &[][..]),
        ("- 25 prog", &[]),
        ("-- 25 prog", &[]),
        ("-drop - 25 prog a", &["a"]),
        ("--drop -- 25 prog -stop -nosuch -- - a", &["-stop", "-nosuch", "--", "-", "a"]),
        ("-drop 25 prog -help", &["-help"]),
        ("-syslog 25 prog --", &["--"]),
    ] {
        let parsed = try_line(line);
        let Ok(Parsed { action: Action::Run(config), .. }) = parsed else { panic!("{line}: {parsed:?}") };
        assert_eq!((config.listen[0].port, config.handler.program.as_bytes()), (25, &b"prog"[..]), "{line}");
        assert_eq!(config.handler.args, args, "{line}");
    }
    assert_eq!(config("--maxperip=9").limits.max_per_ip, 9);
}

#[test]
fn verbs_need_the_pid_file_alone() {
    for line in ["-pid=/p -stop", "-stop -pid=/p", "--pid=/p --stop --stop", "-pid=/p -stop nosuch"] {
        assert!(matches!(try_line(line).unwrap().action, Action::Stop(file) if file.as_os_str() == "/p"), "{line}");
    }
    assert!(matches!(try_line("-pid=/p -restart").unwrap().action, Action::Restart(file) if file.as_os_str() == "/p"));
}

#[test]
fn odd_but_harmless_is_a_warning() {
    for (options, warning) in [
        ("-accesslocal", "-accesslocal does nothing without -access"),
        ("-block=z.ex -blockany=y.ex", "-blockany=y.ex: no -block or -allow asks this zone"),
        ("-haproxy", "-haproxy without -proxyfrom: whoever connects can claim any address"),
        ("-haproxy=/port=26 -proxyfrom=::1", "-haproxy: LIST has no port '26'"),
        ("-haproxy=/port=192.0.2.1.25 -proxyfrom=::1 -address=192.0.2.2", "-haproxy: LIST has no port '192.0.2.1.25'"),
        ("-proxyfrom=::1", "-proxyfrom does nothing without -haproxy"),
        ("-stderrloggername=n", "-stderrloggername does nothing without -stderrlogger"),
        ("-nodnslookup -nameserver=::1", "-nameserver does nothing with -nodnslookup and without -block and -allow"),
        ("-nameserver=::1 -resolver=nss", "-nameserver does nothing with -resolver=nss and without -block and -allow"),
        ("-dnscache=1000 -nodnslookup", "-dnscache does nothing with -nodnslookup and without -block and -allow"),
        ("-identtimeout=10 -noidentlookup", "-identtimeout does nothing with -noidentlookup"),
    ] {
        assert_eq!(try_line(&format!("{options} 25 prog")).unwrap().warnings, [warning], "{options}");
    }
}

/// No warning where an option has its effect, or is set to what it is without it.
#[test]
fn what_has_an_effect_gives_no_warning() {
    for options in [
        "-stderrlogger=/l -stderrloggername=n",
        "-stderrloggername=",
        "-nameserver=::1 -dnscache=5",
        "-nodnslookup -nameserver=::1 -dnscache=5 -block=z.ex",
        "-nodnslookup -nameserver=::1 -dnscache=5 -allow=z.ex",
        "-resolver=nss -dnscache=5",
        "-resolver=nss -nameserver=::1 -block=z.ex",
        "-identtimeout=3",
        "-noidentlookup -nodnslookup -lookuptimeout=3",
        "-haproxy=/port=192.0.2.1.25,/port=0.0.0.0.25,/port=[::]:25 -proxyfrom=::1",
        "-haproxy=/port=192.0.2.1.25,/port=0.0.0.0.25 -proxyfrom=::1 -address=192.0.2.1",
    ] {
        config(options);
    }
}

#[test]
fn errors_are_one_line_that_names_the_option() {
    for (line, expected) in [
        ("", "LIST '': no port in it"),
        ("-drop", "LIST and PROGRAM are missing (see -help)"),
        ("25", "PROGRAM is missing after LIST '25' (see -help)"),
        ("25 ", "PROGRAM is missing after LIST '25' (see -help)"),
        ("bogus prog", "LIST 'bogus': 'bogus' is neither a port nor a known service"),
        ("-nosuch 25 prog", "unknown option -nosuch (see -help)"),
        ("--nosuch=1 25 prog", "unknown option -nosuch (see -help)"),
        ("-x 25 prog", "unknown option -x (see -help)"),
        ("-1 prog", "unknown option -1 (see -help)"),
        ("-maxpro=3 25 prog", "unknown option -maxpro (see -help)"),
        ("-=3 25 prog", "unknown option - (see -help)"),
        ("---drop 25 prog", "unknown option --drop (see -help)"),
        ("-stop", "option -stop needs -pid=FILE"),
        ("-restart", "option -restart needs -pid=FILE"),
        ("-status", "option -status needs -pid=FILE or -control=SOCKET"),
        ("-drain", "option -drain needs -pid=FILE or -control=SOCKET"),
        ("-upgrade", "option -upgrade needs -pid=FILE or -control=SOCKET"),
        ("-drain=x -pid=/p", "-drain=x: not a number from 0 to 1000000"),
        ("-drain=3 -restart -pid=/p", "-restart: cannot be given together with -drain"),
        ("-status=xml -pid=/p", "-status=xml: not text, json or prometheus"),
        ("-status -stop -pid=/p", "-stop: cannot be given together with -status"),
        ("-explain=192.0.2.1 -stop -pid=/p", "option -explain cannot be given together with -stop"),
        ("-explain=192.0.2.1", "LIST and PROGRAM are missing (see -help)"),
        ("-explain=mx.ex 25 prog", "-explain=mx.ex: 'mx.ex' is no IP, IP:PORT or [IP]:PORT"),
        ("-explain=::1,::1 25 prog", "-explain=::1,::1: '::1' is no IP:PORT or [IP]:PORT"),
        ("-pid=/p -stop -restart", "-restart: cannot be given together with -stop"),
        ("-pid -stop", "option -pid needs a value: -pid=FILE"),
        ("-address= 25 prog", "option -address needs a value: -address=IP"),
        ("-user= 25 prog", "option -user needs a value: -user=USER"),
        ("-group= 25 prog", "option -group needs a value: -group=GROUP"),
        ("-denymsg 25 prog", "option -denymsg needs a value: -denymsg=TEXT"),
        ("-maxprocs 10 25 prog", "option -maxprocs needs a value: -maxprocs=N"),
        ("-accesslocal=x 25 prog", "option -accesslocal takes no value"),
        ("-stop= -pid=/p", "option -stop takes no value"),
        ("-haproxy=x 25 prog", "-haproxy=x: 'x' is not a number from 1 to 3600"),
        ("-haproxy=/port=x 25 prog", "-haproxy: 'x' is neither a port nor a known service"),
        ("-proxyfrom 25 prog", "option -proxyfrom needs a value: -proxyfrom=IP[/BITS],..."),
        ("-proxyfrom=192.0.2.1/24 25 prog", "-proxyfrom=192.0.2.1/24: '192.0.2.1/24' has bits set beyond its length"),
        ("-maxprocs=x 25 prog", "-maxprocs=x: not a number from 1 to 1000000"),
        ("-maxprocs=3x 25 prog", "-maxprocs=3x: not a number from 1 to 1000000"),
        ("-maxprocs=0 25 prog", "-maxprocs=0: not a number from 1 to 1000000"),
        ("-maxprocs=-1 25 prog", "-maxprocs=-1: not a number from 1 to 1000000"),
        ("-maxprocs=+1 25 prog", "-maxprocs=+1: not a number from 1 to 1000000"),
        ("-maxprocs=4294967297 25 prog", "-maxprocs=4294967297: not a number from 1 to 1000000"),
        ("-maxperip=0 25 prog", "-maxperip=0: not a number from 1 to 1000000"),
        ("-maxperc=0 25 prog", "-maxperc=0: not a number from 1 to 1000000"),
        ("-maxpending=x 25 prog", "-maxpending=x: not a number from 0 to 1000000"),
        ("-listen=0 25 prog", "-listen=0: not a number from 1 to 2147483647"),
        ("-warn=x 25 prog", "-warn=x: not a number"),
        ("-lookuptimeout=0 25 prog", "-lookuptimeout=0: not a number from 1 to 3600"),
        ("-identtimeout=1.5 25 prog", "-identtimeout=1.5: not a number from 1 to 3600"),
        ("-dnscache=x 25 prog", "-dnscache=x: not a number from 0 to 1000000"),
        ("-address=localhost 25 prog", "-address=localhost: not an IP address"),
        ("-nameserver=ns.ex 25 prog", "-nameserver=ns.ex: 'ns.ex' is no IP, IP:PORT or [IP]:PORT"),
        ("-nameserver=192.0.2.1:0 25 prog", "-nameserver=192.0.2.1:0: '192.0.2.1:0': port 0"),
        ("-nameserver=, 25 prog", "-nameserver=,: no address in it"),
        ("-nameserver=fe80::1 25 prog", "-nameserver=fe80::1: 'fe80::1' needs its interface, as in fe80::1%eth0"),
        (
            "-nameserver=[fe80::1%nope]:53 25 prog",
            "-nameserver=[fe80::1%nope]:53: '[fe80::1%nope]:53': no such interface",
        ),
        ("-nameserver=fe80::1%1,fe80::1%2 25 prog", "-nameserver=fe80::1%1,fe80::1%2: fe80::1 on two interfaces"),
        ("-nameserver=::1%lo 25 prog", "-nameserver=::1%lo: '::1%lo': only fe80::/10 has an interface"),
        ("-prefix6=64 25 prog", "-prefix6=64: not two prefix lengths, IP/BLOCK"),
        ("-prefix6=64/129 25 prog", "-prefix6=64/129: not a number from 1 to 128"),
        ("-prefix6=48/64 25 prog", "-prefix6=48/64: the block is smaller than one address's share"),
        ("-resolver=nis 25 prog", "-resolver=nis: not dns, nss or nss:N"),
        ("-resolver=nss:0 25 prog", "-resolver=nss:0: not a number from 1 to 256"),
        ("-hostmismatch=x 25 prog", "-hostmismatch=x: not softdnserr or unset"),
        ("-accessmissing=x 25 prog", "-accessmissing=x: not refuse or allow"),
        ("-ipv4=x 25 prog", "-ipv4=x: not mapped or plain"),
        ("-syslog=x 25 prog", "-syslog=x: not a syslog facility (mail, daemon, local0, ...)"),
        ("-loglevel=x 25 prog", "-loglevel=x: not debug, info, notice, warning or err"),
        ("-drop=A=B 25 prog", "-drop=A=B: a variable's name has no ="),
        ("-block=z.ex,V/x 25 prog", "-block=z.ex,V/x: 'x' after the slash is no IPv4 address"),
        ("-blockany=a..b 25 prog", "-blockany=a..b: 'a..b' is no name of a DNS zone"),
        ("-maxprocs=a\nb 25 prog", "-maxprocs=a\\nb: not a number from 1 to 1000000"),
    ] {
        assert_eq!(try_line(line).expect_err(line), expected, "{line}");
    }
    assert_eq!(try_parse(&[]).unwrap_err(), "LIST and PROGRAM are missing (see -help)");
    assert_eq!(try_parse(&[b"-\xe9\n=1"]).unwrap_err(), "unknown option -\u{fffd}\\n (see -help)");
    assert_eq!(try_parse(&[b"-user=\xe9", b"25", b"prog"]).unwrap_err(), "-user=\u{fffd}: not valid UTF-8");
}

#[test]
fn the_control_socket_is_beside_the_pid_file_unless_told_otherwise() {
    let control = |line: &str| match try_line(line).unwrap().action {
        Action::Run(config) => config.control.map(|control| (control.path, control.required)),
        other => panic!("{other:?}"),
    };
    assert_eq!(control("25 prog"), None);
    assert_eq!(control("-pid=/run/x 25 prog"), Some(("/run/x.ctl".into(), false)));
    assert_eq!(control("-control=/c -pid=/run/x 25 prog"), Some(("/c".into(), true)));
    for (line, path, form) in [
        ("-status -pid=/run/x", "/run/x.ctl", Form::Text),
        ("-status=json -pid=/run/x -control=c", "c", Form::Json),
        ("-control=c -status=json -status=prometheus", "c", Form::Prometheus),
    ] {
        let action = try_line(line).unwrap().action;
        assert!(matches!(&action, Action::Status(p, f) if p.as_os_str() == path && *f == form), "{line}: {action:?}");
    }
}

#[test]
fn explain_takes_one_or_two_ends() {
    for (value, peer, local) in [
        ("192.0.2.1", "192.0.2.1:0", None),
        ("192.0.2.1:4,192.0.2.2:25", "192.0.2.1:4", Some("192.0.2.2:25")),
        ("::ffff:192.0.2.1", "192.0.2.1:0", None),
        ("[2001:db8::1]", "[2001:db8::1]:0", None),
        ("2001:db8::1,[2001:db8::2]:25", "[2001:db8::1]:0", Some("[2001:db8::2]:25")),
        ("[2001:db8::1]:7,[::ffff:192.0.2.2]:25", "[2001:db8::1]:7", Some("192.0.2.2:25")),
    ] {
        let action = try_line(&format!("-explain={value} 25 prog")).unwrap().action;
        let Action::Explain(_, explain) = action else { panic!("{value}: {action:?}") };
        assert_eq!((explain.peer.to_string().as_str(), explain.local.map(|l| l.to_string()).as_deref()), (peer, local));
    }
}

#[test]
fn help_and_version_are_printed_whatever_else_is_given() {
    for (line, begin) in [
        ("-help", "Usage: couriertcpd "),
        ("--help", "Usage: couriertcpd "),
        ("-maxprocs=x -help", "Usage: couriertcpd "),
        ("-version -stop", concat!("couriertcpd ", env!("CARGO_PKG_VERSION"), "\n")),
        ("-version 25 prog -help", "couriertcpd "),
    ] {
        let parsed = try_line(line);
        assert!(
            matches!(&parsed, Ok(Parsed { action: Action::Print(text), .. }) if text.starts_with(begin) && text.ends_with('\n')),
            "{line}: {parsed:?}"
        );
    }
}

fn help_text() -> String {
    match try_line("-help").unwrap().action {
        Action::Print(text) => text,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_help_has_every_option_once_within_80_columns() {
    let text = help_text();
    assert!(text.lines().all(|line| line.len() <= 80 && line.trim_end() == line), "{text}");
    let listed: Vec<_> = text
        .lines()
        .filter(|line| line.starts_with("  -"))
        .map(|line| line.split_whitespace().next().unwrap().to_owned())
        .collect();
    assert_eq!(listed, OPTIONS.iter().map(OptionRow::usage).collect::<Vec<_>>());
}

#[test]
fn the_manual_page_has_the_options_of_the_table() {
    let page = include_str!("../../man/couriertcpd.8");
    let expected: Vec<_> = OPTIONS
        .iter()
        .map(|row| match row.takes {
            Takes::Nothing => format!(".It Fl {}", row.name),
            Takes::Value(value) | Takes::ValueOrEmpty(value) => format!(".It Fl {} Ns = Ns Ar {value}", row.name),
            Takes::Optional(value) => format!(".It Fl {} Ns Op = Ns Ar {value}", row.name),
        })
        .collect();
    let listed: Vec<_> = page.lines().filter(|line| line.starts_with(".It Fl ")).collect();
    assert_eq!(listed, expected);
}
