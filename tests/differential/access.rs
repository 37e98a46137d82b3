//! The access file: keys, values, the local address, reload. Section 4.

use super::scenario::{Event, PLAIN, Scenario, between, from, sending, to};

const LOCAL: &[&str] = &["-nodnslookup", "-noidentlookup", "-accesslocal", "-denymsg=go away"];
const DENYMSG: &[&str] = &["-nodnslookup", "-noidentlookup", "-denymsg=go away"];
/// LIST of the tests that use IPv6.
const BOTH: &[&str] = &["25"];
const SIX: Event = between("2001:db8:1:2:3:4:5:6", "[2001:db8::1]:25");

pub const TABLE: &[Scenario] = &[
    // Keys: the most specific one alone is used.
    Scenario { name: "keys: no record", access: Some("10\tdeny\n"), theirs: &["served"], ..PLAIN },
    Scenario { name: "keys: the whole address", access: Some("127.0.0.2\tallow,K=4\n127.0.0\tallow,K=3\n127.0\tallow,K=2\n127\tallow,K=1\n*\tallow,K=0\n"), events: &[from("127.0.0.2"), from("127.0.0.3"), from("127.0.1.2"), from("127.1.1.2"), from("192.0.2.1")], theirs: &["served K=4", "served K=3", "served K=2", "served K=1", "served K=0"], ..PLAIN },
    Scenario { name: "keys: a prefix is of whole octets", access: Some("127.0.0.2\tdeny\n12\tdeny\n"), events: &[from("127.0.0.20"), from("127.0.0.2")], theirs: &["served", "closed"], ..PLAIN },
    Scenario { name: "keys: a prefix with a dot behind", access: Some("127.0.0.\tdeny\n"), theirs: &["served"], ..PLAIN },
    Scenario { name: "keys: star", access: Some("*\tdeny\n127.0.0.2\tallow\n"), events: &[from("127.0.0.2"), from("127.0.0.3")], theirs: &["served", "closed"], ..PLAIN },
    Scenario { name: "keys: the specific one hides the general one's variables", access: Some("*\tallow,A=1\n127.0.0.2\tallow,B=2\n"), theirs: &["served B=2"], ..PLAIN },
    Scenario { name: "keys: mapped spelling is none", access: Some("::ffff:127.0.0.2\tdeny\n:0000:0000:0000:0000:0000:ffff:7f00:0002\tdeny\n"), theirs: &["served"], ..PLAIN },
    Scenario { name: "keys: IPv6, eight words", arguments: BOTH, access: Some(":2001:0db8:0001:0002:0003:0004:0005:0006\tallow,K=8\n:2001:0db8:0001:0002:0003:0004:0005\tallow,K=7\n:2001\tallow,K=1\n"), events: &[SIX, between("2001:db8:1:2:3:4:5:7", "[2001:db8::1]:25"), between("2001:db8::7", "[2001:db8::1]:25")], theirs: &["served K=8", "served K=7", "served K=1"], ..PLAIN },
    Scenario { name: "keys: IPv6, middle words", arguments: BOTH, access: Some(":2001:0db8:0001:0002:0003:0004\tallow,K=6\n:2001:0db8:0001:0002:0003\tallow,K=5\n:2001:0db8:0001:0002\tallow,K=4\n:2001:0db8:0001\tallow,K=3\n:2001:0db8\tallow,K=2\n*\tallow,K=0\n"), events: &[SIX, between("2001:db8:1:2:3:5::", "[2001:db8::1]:25"), between("2001:db8:1:2:4::", "[2001:db8::1]:25"), between("2001:db8:1:3::", "[2001:db8::1]:25"), between("2001:db8:2::", "[2001:db8::1]:25"), between("::1", "[::1]:25")], theirs: &["served K=6", "served K=5", "served K=4", "served K=3", "served K=2", "served K=0"], ..PLAIN },
    Scenario { name: "keys: IPv6 as people write it", arguments: BOTH, access: Some("2001:db8:1:2:3:4:5:6\tdeny\n"), events: &[SIX], theirs: &["served"], ..PLAIN },
    Scenario { name: "keys: IPv4 on the IPv6 wildcard", arguments: BOTH, access: Some("127.0.0.2\tdeny\n:0000\tdeny\n"), events: &[from("127.0.0.2"), from("127.0.0.3")], theirs: &["closed", "served"], ..PLAIN },
    // Values.
    Scenario { name: "value: deny", access: Some("127\tdeny\n"), theirs: &["closed"], ..PLAIN },
    Scenario { name: "value: deny and more", access: Some("127\tdeny,A=1\n127.0.0.3\tdenyX\n127.0.0.4\tden\n127.0.0.5\t deny\n"), events: &[from("127.0.0.2"), from("127.0.0.3"), from("127.0.0.4"), from("127.0.0.5")], theirs: &["closed", "closed", "served den=", "served deny="], ..PLAIN },
    Scenario { name: "value: deny in capitals", access: Some("127\tDENY\n"), theirs: &["served DENY="], ..PLAIN },
    Scenario { name: "value: Deny", access: Some("127\tDeny,A=1\n"), theirs: &["served A=1 Deny="], ..PLAIN },
    Scenario { name: "value: empty", access: Some("127\t\n"), theirs: &["served 1="], ..PLAIN },
    Scenario { name: "value: allow", access: Some("127\tallow\n"), theirs: &["served"], ..PLAIN },
    Scenario { name: "value: variables", access: Some("127\tallow,RELAYCLIENT,A=1,B=two words,C=x=y,D=\n"), theirs: &["served A=1 B=two words C=x=y D= RELAYCLIENT="], ..PLAIN },
    Scenario { name: "value: variables without allow", access: Some("127\tA=1,B=2\n"), theirs: &["served A=1 B=2"], ..PLAIN },
    Scenario { name: "value: allow in capitals", access: Some("127\tALLOW,A=1\n"), theirs: &["served A=1 ALLOW="], ..PLAIN },
    Scenario { name: "value: allow and a blank", access: Some("127\tallow A=1\n"), theirs: &["served A=1"], ..PLAIN },
    Scenario { name: "value: allowed and a semicolon", access: Some("127\tallow;A=1,B=2\n"), theirs: &["served ;A=1 B=2"], ..PLAIN },
    Scenario { name: "value: blanks around assignments", access: Some("127\tallow, A=1 , B=2  ,  C\n"), theirs: &["served A=1 B=2 C="], ..PLAIN },
    Scenario { name: "value: blanks around the equals sign", access: Some("127\tallow,A = 1\n"), theirs: &["served A = 1"], ..PLAIN },
    Scenario { name: "value: tabs", access: Some("127\tallow,\tA=1\t,B=2\n"), theirs: &["served A=1 B=2"], ..PLAIN },
    Scenario { name: "value: double quotes", access: Some("127\tallow,A=\"one,two\",B=2\n"), theirs: &["served A=one,two B=2"], ..PLAIN },
    Scenario { name: "value: single quotes", access: Some("127\tallow,A='one,two',B=2\n"), theirs: &["served A=one,two B=2"], ..PLAIN },
    Scenario { name: "value: quotes in the middle", access: Some("127\tallow,A=x\"y,z\"w,B=\"a\"\"b\",C='it\"s'\n"), theirs: &["served A=xy,zw B=ab C=it\\\"s"], ..PLAIN },
    Scenario { name: "value: quotes around the whole assignment", access: Some("127\tallow,\"A=1,2\",B=3\n"), theirs: &["served A=1,2 B=3"], ..PLAIN },
    Scenario { name: "value: open quote", access: Some("127\tallow,A=\"one,B=2\n"), theirs: &["served A=one,B=2"], ..PLAIN },
    Scenario { name: "value: quoted blanks", access: Some("127\tallow,A=\"  x  \",B='y '\n"), theirs: &["served A=  x B=y"], ..PLAIN },
    Scenario { name: "value: backslash", access: Some("127\tallow,A=x\\,B=2,C=\\\"q\n"), theirs: &["served A=x\\\\ B=2 C=\\\\q"], ..PLAIN },
    Scenario { name: "value: the last of doubles", access: Some("127\tallow,A=1,A=2\n"), theirs: &["served A=2"], ..PLAIN },
    Scenario { name: "value: empty assignments", access: Some("127\tallow,,A=1,,B=2,\n"), theirs: &["served = A=1 B=2"], ..PLAIN },
    Scenario { name: "value: no name", access: Some("127\tallow,=x,A=1\n"), theirs: &["served =x A=1"], ..PLAIN },
    Scenario { name: "value: eight-bit bytes", access: Some("127\tallow,A=gr\u{fc}n\n"), theirs: &["served A=gr\\xc3\\xbcn"], ..PLAIN },
    Scenario { name: "value: overrides what is inherited", environment: &[("A", "old"), ("B", "kept")], access: Some("127\tallow,A=new\n"), theirs: &["served A=new B=kept"], ..PLAIN },
    Scenario { name: "value: PATH", environment: &[("PATH", "/old")], access: Some("127\tallow,PATH=/new\n"), theirs: &["served PATH=/new"], ..PLAIN },
    Scenario { name: "value: an address variable", access: Some("127\tallow,TCPREMOTEIP=10.0.0.1,TCPREMOTEHOST=h.example,TCPREMOTEINFO=me\n"), theirs: &["served TCPREMOTEHOST=h.example TCPREMOTEINFO=me"], ..PLAIN },
    // What a refused client gets.
    Scenario { name: "denymsg: denied", options: DENYMSG, access: Some("127\tdeny\n"), theirs: &["closed \"go away\\n\""], ..PLAIN },
    Scenario { name: "denymsg: to a client that has sent", options: DENYMSG, access: Some("127\tdeny\n"), events: &[sending("127.0.0.2", "EHLO x\r\n")], theirs: &["closed \"go away\\n\" reset"], ..PLAIN },
    Scenario { name: "denymsg: empty", options: &["-nodnslookup", "-noidentlookup", "-denymsg="], access: Some("127\tdeny\n"), theirs: &["closed \"\\n\""], ..PLAIN },
    Scenario { name: "denymsg: not to those who may", options: DENYMSG, access: Some("10\tdeny\n"), theirs: &["served"], ..PLAIN },
    // -drop needs no lists.
    Scenario { name: "drop: BLOCK from the access file", options: &["-nodnslookup", "-noidentlookup", "-drop", "-denymsg=go away"], access: Some("127.0.0.2\tallow,BLOCK=listed\n127.0.0.3\tallow,BLOCK\n"), events: &[from("127.0.0.2"), from("127.0.0.3"), from("127.0.0.4")], theirs: &["closed \"go away\\n\"", "served BLOCK=", "served", "log WARN: dropped blocked connection from ::ffff:127.0.0.2"], ..PLAIN },
    Scenario { name: "drop: another variable", options: &["-nodnslookup", "-noidentlookup", "-drop=BAD"], access: Some("127.0.0.2\tallow,BLOCK=listed\n127.0.0.3\tallow,BAD=1\n"), events: &[from("127.0.0.2"), from("127.0.0.3")], theirs: &["served BLOCK=listed", "closed", "log WARN: dropped blocked connection from ::ffff:127.0.0.3"], ..PLAIN },
    Scenario { name: "drop: the second of two", options: &["-nodnslookup", "-noidentlookup", "-drop=ONE,TWO"], access: Some("127.0.0.2\tallow,ONE=1\n127.0.0.3\tallow,TWO=1\n"), events: &[from("127.0.0.2"), from("127.0.0.3")], theirs: &["closed", "served TWO=1", "log WARN: dropped blocked connection from ::ffff:127.0.0.2"], ..PLAIN },
    Scenario { name: "drop: inherited", options: &["-nodnslookup", "-noidentlookup", "-drop"], environment: &[("BLOCK", "everybody")], theirs: &["closed", "log WARN: dropped blocked connection from ::ffff:127.0.0.2"], ..PLAIN },
    // The local address.
    Scenario { name: "local: address and port", options: LOCAL, access: Some("127.0.0.9.25\tallow,L=port\n127.0.0.9\tallow,L=address\n*.25\tallow,L=star\n127.0.0.2\tallow,R=1\n*\tallow,L=any\n"), theirs: &["served L=port R=1"], ..PLAIN },
    Scenario { name: "local: address", options: LOCAL, access: Some("127.0.0.9.26\tallow,L=port\n127.0.0.9\tallow,L=address\n127.0.0\tallow,L=three\n*.25\tallow,L=star\n"), events: &[from("192.0.2.1")], theirs: &["served L=address"], ..PLAIN },
    Scenario { name: "local: prefixes", options: LOCAL, access: Some("127.0.0\tallow,L=three\n*.25\tallow,L=star\n"), events: &[from("192.0.2.1")], theirs: &["served L=three"], ..PLAIN },
    Scenario { name: "local: one octet", options: LOCAL, access: Some("127\tallow,L=one\n*.25\tallow,L=star\n"), events: &[from("192.0.2.1")], theirs: &["served L=one"], ..PLAIN },
    Scenario { name: "local: star and port", options: LOCAL, access: Some("*.25\tallow,L=star\n*\tallow,L=any\n192\tallow,R=1\n"), events: &[from("192.0.2.1")], theirs: &["served L=star R=1"], ..PLAIN },
    Scenario { name: "local: star", options: LOCAL, access: Some("*.26\tallow,L=star\n*\tallow,L=any\n192\tallow,R=1\n"), events: &[from("192.0.2.1")], theirs: &["served L=any R=1"], ..PLAIN },
    Scenario { name: "local: prefix with port", options: LOCAL, access: Some("127.0.0.25\tallow,L=three\n127.25\tallow,L=one\n"), events: &[from("192.0.2.1")], theirs: &["served"], ..PLAIN },
    Scenario { name: "local: the client's variables win", options: LOCAL, access: Some("127.0.0.9\tallow,A=local,B=local\n192.0.2.1\tallow,A=remote,C=remote\n"), events: &[from("192.0.2.1")], theirs: &["served A=remote B=local C=remote"], ..PLAIN },
    Scenario { name: "local: denied", options: LOCAL, access: Some("127.0.0.9.25\tdeny\n192.0.2.1\tallow\n"), events: &[from("192.0.2.1")], theirs: &["closed"], ..PLAIN },
    Scenario { name: "local: the client is denied", options: LOCAL, access: Some("127.0.0.9.25\tallow,A=1\n192.0.2.1\tdeny\n"), events: &[from("192.0.2.1")], theirs: &["closed \"go away\\n\""], ..PLAIN },
    Scenario { name: "local: not asked without the option", access: Some("127.0.0.9\tdeny\n"), events: &[from("192.0.2.1")], theirs: &["served"], ..PLAIN },
    Scenario { name: "local: two ports", options: LOCAL, arguments: &["127.0.0.9.25,127.0.0.9.26"], access: Some("127.0.0.9.25\tdeny\n"), events: &[to("127.0.0.9:25"), to("127.0.0.9:26")], theirs: &["closed", "served"], ..PLAIN },
    Scenario { name: "local: IPv6", options: LOCAL, arguments: BOTH, access: Some(":2001:0db8:0000:0000:0000:0000:0000:0001.25\tallow,L=port\n*.25\tallow,L=star\n"), events: &[SIX, between("2001:db8::7", "[2001:db8::2]:25")], theirs: &["served L=port", "served L=star"], ..PLAIN },
    Scenario { name: "local: IPv6 prefix", options: LOCAL, arguments: BOTH, access: Some(":2001:0db8:0000\tallow,L=three\n*.25\tallow,L=star\n"), events: &[SIX], theirs: &["served L=three"], ..PLAIN },
    // Reload.
    Scenario { name: "reload", access: Some("127.0.0.2\tdeny\n"), events: &[from("127.0.0.2"), from("127.0.0.3"), Event::Reload("127.0.0.3\tdeny\n"), from("127.0.0.2"), from("127.0.0.3")], theirs: &["closed", "served", "served", "closed"], ..PLAIN },
];
