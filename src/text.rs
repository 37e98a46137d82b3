//! Text from outside, made fit for a handler's variable: ident replies, TXT records.
//!
//! For the log there is `log::Escaped`, which is stricter. Pure.

#![forbid(unsafe_code)]

/// Control characters become `?`, those of ISO 8859 and Unicode (U+0080 to U+009F) too, since
/// terminals obey them; other text stays as it was spelled, UTF-8 or not.
pub fn printable(text: &[u8]) -> Vec<u8> {
    let mut clean = Vec::with_capacity(text.len());
    for chunk in text.utf8_chunks() {
        for character in chunk.valid().chars() {
            let character = if character.is_control() { '?' } else { character };
            clean.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
        }
        clean.extend(chunk.invalid().iter().map(|&b| if (0x80..0xa0).contains(&b) { b'?' } else { b }));
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_become_question_marks() {
        let cases: &[(&str, &[u8], &[u8])] = &[
            ("line ends", b"a\r\nb", b"a??b"),
            ("NUL and tab", b"a\0\tb", b"a??b"),
            ("escape and delete", b"\x1b[2J\x7f", b"?[2J?"),
            ("C1 in UTF-8", b"a\xc2\x9b2J", b"a?2J"),
            ("C1 as a byte", b"a\x9b2J", b"a?2J"),
            ("Latin-1", b"\xe5sa", b"\xe5sa"),
            ("UTF-8 whose bytes look like C1", "š€".as_bytes(), "š€".as_bytes()),
            ("such a character that is cut off", b"a\xe2\x82", b"a\xe2?"),
        ];
        for (name, text, expected) in cases {
            assert_eq!(printable(text), *expected, "{name}");
        }
    }
}
