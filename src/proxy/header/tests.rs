//! Tables of good and broken headers.

use super::*;

/// A header of version 2, its length computed.
fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len()).unwrap().to_be_bytes();
    [SIGNATURE_V2, &[command, family], &length, body].concat()
}

const ADDRESSES_4: [u8; 12] = [192, 0, 2, 7, 198, 51, 100, 8, 0x04, 0x57, 0, 25];

fn addresses_6() -> Vec<u8> {
    let ip = |text: &str| text.parse::<Ipv6Addr>().unwrap().octets();
    [&ip("2001:db8::7")[..], &ip("2001:db8::8"), &[0x04, 0x57, 0, 25]].concat()
}

/// IPv4 over TCP, with extensions.
fn extended(extensions: &[&[u8]]) -> Vec<u8> {
    v2(0x21, 0x11, &[&ADDRESSES_4[..], &extensions.concat()].concat())
}

fn tlv(kind: u8, value: &[u8]) -> Vec<u8> {
    [&[kind][..], &(value.len() as u16).to_be_bytes(), value].concat()
}

/// Fills in the checksum, whose extension is the last.
fn with_checksum(mut header: Vec<u8>) -> Vec<u8> {
    let sum = crc32c(header.iter().copied());
    let at = header.len() - 4;
    header[at..].copy_from_slice(&sum.to_be_bytes());
    header
}

fn header(bytes: &[u8]) -> Header {
    match parse(bytes) {
        Parsed::Header(header) => header,
        other => panic!("{other:?} of {:?}", String::from_utf8_lossy(bytes)),
    }
}

fn ends(peer: &str, local: &str) -> Option<Ends> {
    Some(Ends { peer: peer.parse().unwrap(), local: local.parse().unwrap() })
}

#[test]
fn good_headers_say_who_came() {
    let v4 = ends("192.0.2.7:1111", "198.51.100.8:25");
    let v6 = ends("[2001:db8::7]:1111", "[2001:db8::8]:25");
    let long = format!("PROXY UNKNOWN {}\r\n", "x".repeat(107 - 16));
    let longest =
        "PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n";
    let all = "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535";
    let rows: [(&[u8], Option<Ends>); 19] = [
        (b"PROXY TCP4 192.0.2.7 198.51.100.8 1111 25\r\n", v4),
        (b"PROXY TCP6 2001:db8::7 2001:db8::8 1111 25\r\n", v6),
        (b"PROXY TCP6 ::ffff:192.0.2.7 ::ffff:198.51.100.8 1111 25\r\n", v4),
        (b"PROXY TCP4 192.0.2.7 198.51.100.8 0 25\r\n", ends("192.0.2.7:0", "198.51.100.8:25")),
        (longest.as_bytes(), ends(all, all)),
        (b"PROXY UNKNOWN\r\n", None),
        (b"PROXY UNKNOWN anything \xff goes\r\n", None),
        (long.as_bytes(), None),
        (&v2(0x21, 0x11, &ADDRESSES_4), v4),
        (&v2(0x21, 0x21, &addresses_6()), v6),
        // LOCAL: the rest does not count, whatever it is.
        (&v2(0x20, 0x00, b""), None),
        (&v2(0x20, 0x11, &ADDRESSES_4), None),
        (&v2(0x20, 0xff, b"rubbish"), None),
        (&v2(0x20, 0x11, b"short"), None),
        // Unspecified, and what says nothing of a TCP connection.
        (&v2(0x21, 0x00, b""), None),
        (&v2(0x21, 0x00, b"rubbish"), None),
        (&v2(0x21, 0x12, &ADDRESSES_4), None),
        (&v2(0x21, 0x31, &[b'/'; 216]), None),
        (&v2(0x21, 0x11, &[&ADDRESSES_4[..], &tlv(0x04, &[0; LONGEST - FIXED - 12 - 3])].concat()), v4),
    ];
    for (bytes, expected) in rows {
        let with_more = [bytes, b"EHLO x\r\n"].concat();
        for given in [bytes, &with_more] {
            let header = header(given);
            assert_eq!((header.length, header.ends), (bytes.len(), expected), "{:?}", String::from_utf8_lossy(bytes));
        }
        for cut in 0..bytes.len() {
            assert_eq!(parse(&bytes[..cut]), Parsed::Incomplete, "{cut} of {:?}", String::from_utf8_lossy(bytes));
        }
    }
}

#[test]
fn broken_headers_are_named() {
    let v1 = |rest: &str| format!("PROXY {rest}").into_bytes();
    let wrong_sum = extended(&[&tlv(CHECKSUM, &[1, 2, 3, 4])]);
    let long = "x".repeat(107);
    let rows: [(Vec<u8>, &str); 50] = [
        (b"EHLO x\r\n".to_vec(), "begin"),
        (b"proxy TCP4 192.0.2.7 198.51.100.8 1111 25\r\n".to_vec(), "begin"),
        (b"PROXY\r\n".to_vec(), "begin"),
        (b"PROXY\tTCP4 192.0.2.7 198.51.100.8 1111 25\r\n".to_vec(), "begin"),
        (b"\0".to_vec(), "begin"),
        (b"\r\n\r\n\r\n".to_vec(), "begin"),
        (b"\x16\x03\x01\x02\x00\x01".to_vec(), "begin"),
        (b"\r\n\r\n\0\r\nQUIT\r".to_vec(), "begin"),
        (v1("TCP4 192.0.2.7 198.51.100.8 1111 25\n"), "carriage return"),
        (v1("\r\n"), "protocol"),
        (v1("TCP5 192.0.2.7 198.51.100.8 1111 25\r\n"), "protocol"),
        (v1("tcp4 192.0.2.7 198.51.100.8 1111 25\r\n"), "protocol"),
        (v1("UDP4 192.0.2.7 198.51.100.8 1111 25\r\n"), "protocol"),
        (v1("UNKNOWNX\r\n"), "protocol"),
        (v1(" TCP4 192.0.2.7 198.51.100.8 1111 25\r\n"), "protocol"),
        (v1("TCP4\r\n"), "missing"),
        (v1("TCP4 192.0.2.7 198.51.100.8 1111\r\n"), "missing"),
        (v1("TCP4 192.0.2.7 198.51.100.8 1111 25 \r\n"), "many"),
        (v1("TCP4 192.0.2.7 198.51.100.8 1111 25 26\r\n"), "many"),
        (v1("TCP4  192.0.2.7 198.51.100.8 1111 25\r\n"), "address"),
        (v1("TCP4 192.0.2.07 198.51.100.8 1111 25\r\n"), "address"),
        (v1("TCP4 192.0.2 198.51.100.8 1111 25\r\n"), "address"),
        (v1("TCP4 192.0.2.256 198.51.100.8 1111 25\r\n"), "address"),
        (v1("TCP4 2001:db8::7 198.51.100.8 1111 25\r\n"), "address"),
        (v1("TCP4 localhost 198.51.100.8 1111 25\r\n"), "address"),
        (v1("TCP6 192.0.2.7 198.51.100.8 1111 25\r\n"), "address"),
        (v1("TCP6 fe80::1%eth0 2001:db8::8 1111 25\r\n"), "address"),
        (v1("TCP6 [2001:db8::7] 2001:db8::8 1111 25\r\n"), "address"),
        (v1("TCP4 192.0.2.7 198.51.100.8 65536 25\r\n"), "port"),
        (v1("TCP4 192.0.2.7 198.51.100.8 01111 25\r\n"), "port"),
        (v1("TCP4 192.0.2.7 198.51.100.8 +1111 25\r\n"), "port"),
        (v1("TCP4 192.0.2.7 198.51.100.8 -1 25\r\n"), "port"),
        (v1("TCP4 192.0.2.7 198.51.100.8  25\r\n"), "port"),
        (v1("TCP4 192.0.2.7 198.51.100.8 smtp 25\r\n"), "port"),
        (v1("TCP4 192.0.2.7 198.51.100.8 1111 25\r\r\n"), "port"),
        (v1("TCP4 192.0.2.7 198.51.100.8 1111 2\x005\r\n"), "port"),
        (v1(&long), "longer"),
        (v1(&format!("UNKNOWN {long}\r\n")), "longer"),
        (v2(0x11, 0x11, &ADDRESSES_4), "version"),
        (v2(0x22, 0x11, &ADDRESSES_4), "command"),
        (v2(0x21, 0x10, &ADDRESSES_4), "protocol"),
        (v2(0x21, 0x41, &ADDRESSES_4), "protocol"),
        (v2(0x21, 0x11, &ADDRESSES_4[..11]), "too short for its addresses"),
        (v2(0x21, 0x21, &ADDRESSES_4), "too short for its addresses"),
        (v2(0x21, 0x11, &[0; LONGEST - FIXED + 1]), "too long"),
        (extended(&[&[0x04]]), "beyond"),
        (extended(&[&tlv(0x04, b""), &[0x04, 0, 1]]), "beyond"),
        (wrong_sum, "wrong checksum"),
        (extended(&[&tlv(CHECKSUM, b"123")]), "wrong length"),
        (extended(&[&tlv(UNIQUE_ID, &[b'x'; 129])]), "too long"),
    ];
    for (bytes, expected) in rows {
        match parse(&bytes) {
            Parsed::Bad(why) if why.contains(expected) => {}
            other => panic!("{other:?} of {:?}", String::from_utf8_lossy(&bytes)),
        }
    }
}

#[test]
fn a_stranger_is_recognised_by_the_first_byte_that_differs() {
    for (bytes, length) in [(&b"EHLO"[..], 1), (b"PROXX", 5), (b"\r\n\r\n\r", 5)] {
        assert_eq!(parse(&bytes[..length - 1]), Parsed::Incomplete);
        assert!(matches!(parse(&bytes[..length]), Parsed::Bad(_)), "{bytes:?}");
    }
    // What is too long is not waited for.
    let fixed = &v2(0x21, 0x11, &[0; 5000])[..FIXED];
    assert_eq!(parse(fixed), Parsed::Bad("too long"));
}

#[test]
fn extensions_become_printable_variables() {
    let tls_of = |flags: u8, rest: &[u8]| tlv(TLS, &[&[flags, 0, 0, 0, 0], rest].concat());
    let version = tlv(TLS_VERSION, b"TLSv1.3");
    let cipher = tlv(0x23, b"X");
    let rows: [(Vec<u8>, &[(&str, &str)]); 10] = [
        (tlv(ALPN, b"smtp"), &[("PROXY_ALPN", "smtp")]),
        (tlv(AUTHORITY, b"mx.example\r\nX: \xff\0"), &[("PROXY_SNI", "mx.example??X: ??")]),
        (tlv(UNIQUE_ID, b"A=1 2"), &[("PROXY_UNIQUE_ID", "A=1 2")]),
        (tls_of(1, &[&cipher[..], &version].concat()), &[("PROXY_TLS", "TLSv1.3")]),
        (tls_of(7, b""), &[("PROXY_TLS", "yes")]),
        (tls_of(0, &version), &[]),
        (tlv(0x04, b"padding"), &[]),
        (tlv(0xee, b"of somebody's own"), &[]),
        (tlv(ALPN, b""), &[("PROXY_ALPN", "")]),
        (
            [tlv(ALPN, b"a"), tlv(0x30, b"netns"), tlv(AUTHORITY, b"b")].concat(),
            &[("PROXY_ALPN", "a"), ("PROXY_SNI", "b")],
        ),
    ];
    for (extensions, expected) in rows {
        let got = header(&extended(&[&extensions])).variables;
        let got: Vec<_> = got.iter().map(|(name, value)| (*name, std::str::from_utf8(value).unwrap())).collect();
        assert_eq!(got, expected, "{extensions:x?}");
    }
    for (broken, expected) in
        [(tlv(TLS, &[1, 0, 0, 0]), "a TLS extension that is too short"), (tls_of(1, &[0x21, 0, 9, b'x']), OVERRUN)]
    {
        assert_eq!(parse(&extended(&[&broken])), Parsed::Bad(expected));
    }
}

#[test]
fn a_checksum_covers_every_byte_of_the_header() {
    assert_eq!(crc32c(b"123456789".iter().copied()), 0xe306_9283);
    let good = with_checksum(extended(&[&tlv(ALPN, b"smtp"), &tlv(CHECKSUM, &[0; 4])]));
    assert_eq!(header(&good).variables, [("PROXY_ALPN", b"smtp".to_vec())]);
    // Also where it is not the last.
    let sum_first = {
        let mut bytes = extended(&[&tlv(CHECKSUM, &[0; 4]), &tlv(ALPN, b"smtp")]);
        let sum = crc32c(bytes.iter().copied());
        bytes[31..35].copy_from_slice(&sum.to_be_bytes());
        bytes
    };
    assert_eq!(header(&sum_first).variables.len(), 1);
    // But for the byte that says that it is a checksum.
    for at in (FIXED..good.len()).filter(|&at| at != good.len() - 7) {
        let mut bad = good.clone();
        bad[at] ^= 1;
        assert!(!matches!(parse(&bad), Parsed::Header(_)), "byte {at}");
    }
}

#[test]
fn no_bytes_at_all_make_it_stumble() {
    // A small generator: every run has the same bytes.
    let mut state = 1u32;
    let mut next = move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    let seeds = [
        with_checksum(extended(&[&tlv(TLS, &[1; 9]), &tlv(CHECKSUM, &[0; 4])])),
        v2(0x21, 0x21, &addresses_6()),
        b"PROXY TCP4 192.0.2.7 198.51.100.8 1111 25\r\n".to_vec(),
    ];
    for round in 0..30_000 {
        let mut bytes = seeds[round % seeds.len()].clone();
        for _ in 0..=next() % 4 {
            let at = usize::from(next()) % bytes.len();
            bytes[at] = next();
        }
        if let Parsed::Header(header) = parse(&bytes) {
            assert!(header.length <= bytes.len());
            assert!(header.variables.iter().all(|(_, value)| value.iter().all(|b| (b' '..=b'~').contains(b))));
        }
    }
}
