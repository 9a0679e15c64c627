//! Reads field blocks (RFC 7541 §3 and §6). Its memory is the table's 4,096 bytes, as the RFC counts them, and room for one
//! string.

use super::field::{Field, Name, OVERHEAD};
use super::huffman;
use super::table::{Entry, Table};

/// What the other end sent is not HPACK: nothing after it can be read (RFC 9113 §4.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("field block is not valid")]
pub struct Invalid;

/// State of one direction of a connection.
#[derive(Debug, Default)]
pub struct Decoder {
    table: Table,
}

impl Decoder {
    /// Reads a whole block; `take` is told each field, and what it counts in a field list (RFC 9113 §6.5.2).
    ///
    /// # Errors
    /// When the block is not valid; the connection cannot go on.
    pub fn decode(&mut self, mut block: &[u8], mut take: impl FnMut(&Field, usize)) -> Result<(), Invalid> {
        let (mut first, mut room) = (true, Vec::new());
        while let Some(&start) = block.first() {
            match start {
                0x80.. => {
                    let entry = self.table.get(integer(&mut block, 7)?).ok_or(Invalid)?;
                    take(&entry.field, entry.size);
                }
                0x40.. => {
                    let entry = self.literal(&mut block, 6, &mut room)?;
                    take(&entry.field, entry.size);
                    self.table.insert(entry);
                }
                // Before the first field only (RFC 7541 §4.2).
                0x20.. => {
                    if !first || !self.table.resize(integer(&mut block, 5)?) {
                        return Err(Invalid);
                    }
                    continue;
                }
                _ => {
                    let mut entry = self.literal(&mut block, 4, &mut room)?;
                    if let (0x10.., Field::Header(_, value)) = (start, &mut entry.field) {
                        // Never to be indexed, by us neither (§7.1.3).
                        value.set_sensitive(true);
                    }
                    take(&entry.field, entry.size);
                }
            }
            first = false;
        }
        Ok(())
    }

    fn literal(&self, block: &mut &[u8], prefix: u32, room: &mut Vec<u8>) -> Result<Entry, Invalid> {
        let name = match integer(block, prefix)? {
            0 => Name::parse(string(block, room)?),
            index => self.table.get(index).ok_or(Invalid)?.name.clone(),
        };
        let value = string(block, room)?;
        Ok(Entry { size: name.len() + value.len() + OVERHEAD, field: Field::parse(&name, value), name })
    }
}

/// An integer with a prefix of so many bits (§5.1); none that is meant here has more than 28 bits.
fn integer(block: &mut &[u8], prefix: u32) -> Result<usize, Invalid> {
    let (&first, mut rest) = block.split_first().ok_or(Invalid)?;
    let most = (1_usize << prefix) - 1;
    let mut value = usize::from(first) & most;
    if value == most {
        for shift in (0..=28).step_by(7) {
            let (&byte, after) = rest.split_first().ok_or(Invalid)?;
            rest = after;
            value += usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                *block = rest;
                return Ok(value);
            }
        }
        return Err(Invalid);
    }
    *block = rest;
    Ok(value)
}

/// A string (§5.2), decoded into `room` if it is coded.
fn string<'r, 'a: 'r>(block: &mut &'a [u8], room: &'r mut Vec<u8>) -> Result<&'r [u8], Invalid> {
    let coded = block.first().is_some_and(|first| first & 0x80 != 0);
    let length = integer(block, 7)?;
    let (text, rest) = block.split_at_checked(length).ok_or(Invalid)?;
    *block = rest;
    if !coded {
        return Ok(text);
    }
    room.clear();
    huffman::decode(text, room).ok_or(Invalid)?;
    Ok(room)
}

#[cfg(test)]
mod tests {
    use http::header::HeaderValue;

    use super::*;

    /// Bytes of hexadecimal text as the RFC prints it.
    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<u32> = text.chars().filter_map(|digit| digit.to_digit(16)).collect();
        digits.chunks(2).map(|pair| (pair[0] << 4 | pair[1]) as u8).collect()
    }

    fn decode(decoder: &mut Decoder, block: &[u8]) -> Result<Vec<String>, Invalid> {
        let mut fields = Vec::new();
        decoder.decode(block, |field, _| {
            fields.push(match field {
                Field::Authority(value) => format!(":authority: {value}"),
                Field::Method(value) => format!(":method: {value}"),
                Field::Path(value) => format!(":path: {value}"),
                Field::Protocol(value) => format!(":protocol: {value:?}"),
                Field::Scheme(value) => format!(":scheme: {value}"),
                Field::Status(value) => format!(":status: {}", value.as_str()),
                Field::Header(name, value) => format!("{name}: {}", value.to_str().unwrap()),
                Field::Malformed => "malformed".to_owned(),
            });
        })?;
        Ok(fields)
    }

    /// Blocks, one after the other, what they say, and the size of the table afterwards.
    fn check(decoder: &mut Decoder, blocks: [(&str, &[&str], usize); 3]) {
        for (block, fields, size) in blocks {
            assert_eq!(decode(decoder, &hex(block)).unwrap(), fields);
            assert_eq!(decoder.table.size(), size);
        }
    }

    const FIRST: [&str; 4] = [":method: GET", ":scheme: http", ":path: /", ":authority: www.example.com"];
    const SECOND: [&str; 5] =
        [":method: GET", ":scheme: http", ":path: /", ":authority: www.example.com", "cache-control: no-cache"];
    const THIRD: [&str; 5] = [
        ":method: GET",
        ":scheme: https",
        ":path: /index.html",
        ":authority: www.example.com",
        "custom-key: custom-value",
    ];

    #[test]
    fn requests_of_the_rfc_are_read() {
        // RFC 7541 C.3 and C.4.
        let plain = [
            ("8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d", &FIRST[..], 57),
            ("8286 84be 5808 6e6f 2d63 6163 6865", &SECOND[..], 110),
            ("8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65", &THIRD[..], 164),
        ];
        check(&mut Decoder::default(), plain);
        let coded = [
            ("8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff", &FIRST[..], 57),
            ("8286 84be 5886 a8eb 1064 9cbf", &SECOND[..], 110),
            ("8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf", &THIRD[..], 164),
        ];
        check(&mut Decoder::default(), coded);
    }

    #[test]
    fn answers_of_the_rfc_are_read_and_drop_what_has_no_place() {
        let rest =
            ["cache-control: private", "date: Mon, 21 Oct 2013 20:13:21 GMT", "location: https://www.example.com"];
        let first = [&[":status: 302"], &rest[..]].concat();
        let second = [&[":status: 307"], &rest[..]].concat();
        let cookie = "set-cookie: foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1";
        let third =
            [":status: 200", rest[0], "date: Mon, 21 Oct 2013 20:13:22 GMT", rest[2], "content-encoding: gzip", cookie];
        // RFC 7541 C.6, whose table has 256 bytes.
        let blocks = [
            (
                "4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b ff6e 919d 29ad \
                 1718 63c7 8f0b 97c8 e9ae 82ae 43d3",
                &first[..],
                222,
            ),
            ("4883 640e ffc1 c0bf", &second[..], 222),
            (
                "88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab 77ad 94e7 821d d7f2 \
                 e6c7 b335 dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f 9587 3160 65c0 03ed 4ee5 b106 3d50 07",
                &third[..],
                215,
            ),
        ];
        let mut decoder = Decoder::default();
        assert!(decoder.table.resize(256));
        check(&mut decoder, blocks);
    }

    #[test]
    fn what_is_never_to_be_indexed_is_marked() {
        // RFC 7541 C.2.3.
        let mut seen = None;
        let block = hex("1008 7061 7373 776f 7264 0673 6563 7265 74");
        Decoder::default().decode(&block, |field, size| seen = Some((field.clone(), size))).unwrap();
        let Some((Field::Header(name, value), size)) = seen else { panic!("{seen:?}") };
        assert_eq!((name.as_str(), &value, size), ("password", &HeaderValue::from_static("secret"), 46));
        assert!(value.is_sensitive());
    }

    #[test]
    fn what_is_not_hpack_is_refused() {
        for block in ["80", "be", "ff", "ff 80 80 80 80 80 01", "40", "4003 6162", "82 20", "3f e2 1f", "40 81 00 00"] {
            assert_eq!(decode(&mut Decoder::default(), &hex(block)), Err(Invalid), "{block}");
        }
        assert_eq!(decode(&mut Decoder::default(), &hex("20 3f e1 1f 82")).unwrap(), [":method: GET"]);
    }

    #[test]
    fn what_is_larger_than_the_table_empties_it() {
        let mut decoder = Decoder::default();
        decode(&mut decoder, &hex("4001 6101 62")).unwrap();
        assert_eq!(decoder.table.size(), 34);
        let large = [&hex("4001 61 7f 81 1f")[..], &[b'x'; 4096]].concat();
        decode(&mut decoder, &large).unwrap();
        assert_eq!((decoder.table.size(), decode(&mut decoder, &[0xbe])), (0, Err(Invalid)));
    }
}
