//! Host names. Section 5.

use super::scenario::{Event, PLAIN, Scenario, between};

/// Looks names up, and nothing else.
const NAMES: Scenario = Scenario { options: &["-noidentlookup"], ..PLAIN };
const SIX: Event = between("2001:db8::2", "[2001:db8::1]:25");

#[rustfmt::skip]
pub const TABLE: &[Scenario] = &[
    Scenario { name: "name: there and back", zone: "2.0.0.127.in-addr.arpa PTR client.test\nclient.test A 127.0.0.2",
        theirs: &["served TCPREMOTEHOST=client.test"], ..NAMES },
    Scenario { name: "name: of both ends",
        zone: "2.0.0.127.in-addr.arpa PTR client.test\nclient.test A 127.0.0.2\n\
            9.0.0.127.in-addr.arpa PTR server.test\nserver.test A 127.0.0.9",
        theirs: &["served TCPLOCALHOST=server.test TCPREMOTEHOST=client.test"], ..NAMES },
    Scenario { name: "name: nothing known", zone: "else.test A 127.0.0.1", theirs: &["served"], ..NAMES },
    Scenario { name: "name: no data", zone: "2.0.0.127.in-addr.arpa TXT x", theirs: &["served"], ..NAMES },
    Scenario { name: "name: reverse fails", zone: "2.0.0.127.in-addr.arpa SERVFAIL",
        theirs: &["served TCPREMOTEHOST=softdnserr"], ..NAMES },
    Scenario { name: "name: reverse refused", zone: "2.0.0.127.in-addr.arpa REFUSED",
        theirs: &["served TCPREMOTEHOST=softdnserr"], ..NAMES },
    Scenario { name: "name: forward fails", zone: "2.0.0.127.in-addr.arpa PTR client.test\nclient.test SERVFAIL",
        theirs: &["served TCPREMOTEHOST=softdnserr"], ..NAMES },
    Scenario { name: "name: does not lead back",
        zone: "2.0.0.127.in-addr.arpa PTR client.test\nclient.test A 127.0.0.3", theirs: &["served"],
        ours: Some(("host-mismatch", &["served TCPREMOTEHOST=softdnserr"])), ..NAMES },
    Scenario { name: "name: leads nowhere", zone: "2.0.0.127.in-addr.arpa PTR client.test", theirs: &["served"],
        ours: Some(("host-mismatch", &["served TCPREMOTEHOST=softdnserr"])), ..NAMES },
    Scenario { name: "name: the second of two",
        zone: "2.0.0.127.in-addr.arpa PTR no.test\n2.0.0.127.in-addr.arpa PTR yes.test\nno.test A 127.0.0.3\n\
            yes.test A 127.0.0.2",
        theirs: &["served TCPREMOTEHOST=yes.test"], ..NAMES },
    Scenario { name: "name: the first of two",
        zone: "2.0.0.127.in-addr.arpa PTR one.test\n2.0.0.127.in-addr.arpa PTR two.test\none.test A 127.0.0.2\n\
            two.test A 127.0.0.2",
        theirs: &["served TCPREMOTEHOST=two.test"],
        ours: Some(("first-of-several", &["served TCPREMOTEHOST=one.test"])), ..NAMES },
    Scenario { name: "name: one fails, the other leads back",
        zone: "2.0.0.127.in-addr.arpa PTR no.test\n2.0.0.127.in-addr.arpa PTR yes.test\nno.test SERVFAIL\n\
            yes.test A 127.0.0.2",
        theirs: &["served TCPREMOTEHOST=yes.test"], ..NAMES },
    Scenario { name: "name: one fails, the other leads elsewhere",
        zone: "2.0.0.127.in-addr.arpa PTR fail.test\n2.0.0.127.in-addr.arpa PTR no.test\nfail.test SERVFAIL\n\
            no.test A 127.0.0.3",
        theirs: &["served"], ours: Some(("forward-failed", &["served TCPREMOTEHOST=softdnserr"])), ..NAMES },
    Scenario { name: "name: one of several addresses",
        zone: "2.0.0.127.in-addr.arpa PTR client.test\nclient.test A 127.0.0.3\nclient.test A 127.0.0.2",
        theirs: &["served TCPREMOTEHOST=client.test"], ..NAMES },
    Scenario { name: "name: alias in the reverse zone",
        zone: "2.0.0.127.in-addr.arpa CNAME 2.part.in-addr.arpa\n2.part.in-addr.arpa PTR client.test\n\
            client.test A 127.0.0.2",
        theirs: &["served TCPREMOTEHOST=client.test"], ..NAMES },
    Scenario { name: "name: alias of the name",
        zone: "2.0.0.127.in-addr.arpa PTR client.test\nclient.test CNAME real.test\nreal.test A 127.0.0.2",
        theirs: &["served TCPREMOTEHOST=client.test"], ..NAMES },
    Scenario { name: "name: alias of itself",
        zone: "2.0.0.127.in-addr.arpa PTR client.test\nclient.test CNAME client.test", theirs: &["served"],
        ours: Some(("host-mismatch", &["served TCPREMOTEHOST=softdnserr"])), ..NAMES },
    Scenario { name: "name: truncated answers",
        zone: "2.0.0.127.in-addr.arpa PTR client.test\n2.0.0.127.in-addr.arpa TRUNCATED\n\
            client.test A 127.0.0.2\nclient.test TRUNCATED",
        theirs: &["served TCPREMOTEHOST=client.test"], ..NAMES },
    Scenario { name: "name: capitals", zone: "2.0.0.127.in-addr.arpa PTR Client.TEST\nClient.TEST A 127.0.0.2",
        theirs: &["served TCPREMOTEHOST=Client.TEST"], ..NAMES },
    Scenario { name: "name: underscore", zone: "2.0.0.127.in-addr.arpa PTR a_b.test\na_b.test A 127.0.0.2",
        theirs: &["served TCPREMOTEHOST=a_b.test"], ..NAMES },
    Scenario { name: "name: a control character",
        zone: "2.0.0.127.in-addr.arpa PTR a\u{7f}b.test\na\u{7f}b.test A 127.0.0.2",
        theirs: &["served TCPREMOTEHOST=a\\x7fb.test"],
        ours: Some(("host-characters", &["served TCPREMOTEHOST=softdnserr"])), ..NAMES },
    Scenario { name: "name: an address", zone: "2.0.0.127.in-addr.arpa PTR 127.0.0.2", theirs: &["served"],
        ours: Some(("host-mismatch", &["served TCPREMOTEHOST=softdnserr"])), ..NAMES },
    Scenario { name: "name: IPv6", arguments: &["25"], events: &[SIX],
        zone: "2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa PTR six.test\n\
            six.test A 127.0.0.2\nsix.test AAAA 2001:db8::2",
        theirs: &["served TCPREMOTEHOST=six.test"], ..NAMES },
    Scenario { name: "name: not asked with -nodnslookup", options: &["-noidentlookup", "-nodnslookup"],
        zone: "2.0.0.127.in-addr.arpa PTR client.test\nclient.test A 127.0.0.2", questions: true, theirs: &["served"],
        ..NAMES },
    Scenario { name: "name: the questions", zone: "2.0.0.127.in-addr.arpa PTR client.test\nclient.test A 127.0.0.2",
        questions: true,
        theirs: &["served TCPREMOTEHOST=client.test", "asked 2.0.0.127.in-addr.arpa PTR",
            "asked 9.0.0.127.in-addr.arpa PTR", "asked client.test A", "asked client.test AAAA"],
        ours: Some(("one-question", &["served TCPREMOTEHOST=client.test", "asked 2.0.0.127.in-addr.arpa PTR",
            "asked 9.0.0.127.in-addr.arpa PTR", "asked client.test A"])),
        ..NAMES },
    Scenario { name: "name: stale ones and nothing known",
        environment: &[("TCPREMOTEHOST", "stale.test"), ("TCPLOCALHOST", "stale.test")],
        zone: "else.test A 127.0.0.1", theirs: &["served TCPLOCALHOST=stale.test TCPREMOTEHOST=stale.test"],
        ours: Some(("stale-variables", &["served"])), ..NAMES },
    Scenario { name: "name: set by the access file, and nothing known",
        access: Some("127\tallow,TCPREMOTEHOST=rule.test\n"), zone: "else.test A 127.0.0.1",
        theirs: &["served TCPREMOTEHOST=rule.test"], ..NAMES },
    Scenario { name: "name: set by the access file, and found", access: Some("127\tallow,TCPREMOTEHOST=rule.test\n"),
        zone: "2.0.0.127.in-addr.arpa PTR client.test\nclient.test A 127.0.0.2",
        theirs: &["served TCPREMOTEHOST=client.test"], ..NAMES },
];
