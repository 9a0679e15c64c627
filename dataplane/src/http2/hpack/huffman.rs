//! The Huffman code of HPACK (RFC 7541 §5.2 and Appendix B), for what is received; nothing is sent with it. The code is
//! canonical, so the lengths are all of it: codes are numbered by length and then by symbol, and the tables are made from
//! that when the program is compiled.

/// Length in bits of the code of each byte, and of EOS (RFC 7541 Appendix B).
#[rustfmt::skip]
const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28,
    28, 28, 28, 28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6,
    5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7,
    7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23,
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22, 21, 20, 22, 22, 23, 23, 21,
    23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24,
    21, 21, 26, 26, 28, 27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23,
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26, 30,
];
/// Means the end, and may not be sent (§5.2).
const EOS: u16 = 256;
const LONGEST: usize = 30;
/// Codes up to this length are found at one look.
const SHORT: usize = 8;

struct Code {
    /// Symbols by length and value.
    symbols: [u16; 257],
    /// Number of the first symbol of each length.
    first: [u16; LONGEST + 1],
    /// Code of that symbol.
    code: [u32; LONGEST + 1],
    /// Codes of this length and shorter ones are below this, in the top bits of 32.
    limit: [u64; LONGEST + 1],
    /// Symbol and length, by the next [`SHORT`] bits; a length of 0: longer.
    short: [(u8, u8); 1 << SHORT],
}

static CODE: Code = code();

const fn code() -> Code {
    let mut made = Code {
        symbols: [0; 257],
        first: [0; LONGEST + 1],
        code: [0; LONGEST + 1],
        limit: [0; LONGEST + 1],
        short: [(0, 0); 1 << SHORT],
    };
    let (mut length, mut next, mut code) = (1, 0, 0_u32);
    while length <= LONGEST {
        code <<= 1;
        made.first[length] = next as u16;
        made.code[length] = code;
        let mut symbol = 0;
        while symbol < LENGTHS.len() {
            if LENGTHS[symbol] as usize == length {
                made.symbols[next] = symbol as u16;
                next += 1;
                if length <= SHORT {
                    let start = (code as usize) << (SHORT - length);
                    let mut index = start;
                    while index < start + (1 << (SHORT - length)) {
                        made.short[index] = (symbol as u8, length as u8);
                        index += 1;
                    }
                }
                code += 1;
            }
            symbol += 1;
        }
        made.limit[length] = (code as u64) << (32 - length);
        length += 1;
    }
    made
}

/// Appends what `coded` says to `out`; `None` if it is not a code.
pub(super) fn decode(coded: &[u8], out: &mut Vec<u8>) -> Option<()> {
    out.reserve(coded.len() * 8 / 5);
    // The next `count` bits, at the top.
    let (mut bits, mut count) = (0_u64, 0_u32);
    let mut rest = coded.iter();
    loop {
        while count <= 56 {
            let Some(&byte) = rest.next() else { break };
            bits |= u64::from(byte) << (56 - count);
            count += 8;
        }
        if count == 0 {
            return Some(());
        }
        // What is past the end reads as ones, which is how padding looks (§5.2).
        let window = if count < 64 { bits | (u64::MAX >> count) } else { bits };
        let (symbol, length) = next(window);
        if length > count {
            return (count < 8 && window == u64::MAX).then_some(());
        }
        if symbol == EOS {
            return None;
        }
        out.push(symbol as u8);
        bits <<= length;
        count -= length;
    }
}

/// The symbol at the top of `window`, and the length of its code.
fn next(window: u64) -> (u16, u32) {
    let (symbol, length) = CODE.short[(window >> (64 - SHORT)) as usize];
    if length > 0 {
        return (u16::from(symbol), u32::from(length));
    }
    let top = window >> 32;
    let length = (SHORT + 1..LONGEST).find(|length| top < CODE.limit[*length]).unwrap_or(LONGEST);
    let code = (top >> (32 - length)) as u32;
    let number = usize::from(CODE.first[length]) + (code - CODE.code[length]) as usize;
    (CODE.symbols[number], length as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By the definition, bit by bit.
    fn encode(text: &[u8]) -> Vec<u8> {
        let code_of = |symbol: usize| {
            let length = usize::from(LENGTHS[symbol]);
            let before = LENGTHS[..symbol].iter().filter(|other| usize::from(**other) == length).count();
            (CODE.code[length] + before as u32, length)
        };
        let mut bits: Vec<u32> = text
            .iter()
            .map(|byte| code_of(usize::from(*byte)))
            .flat_map(|(code, length)| (0..length).rev().map(move |bit| code >> bit & 1))
            .collect();
        bits.resize(bits.len().next_multiple_of(8), 1);
        bits.chunks(8).map(|byte| byte.iter().fold(0, |all, bit| all << 1 | *bit as u8)).collect()
    }

    fn decoded(coded: &[u8]) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        decode(coded, &mut out).map(|()| out)
    }

    #[test]
    fn what_the_rfc_codes_is_read() {
        // RFC 7541 C.4.1 and C.6.1.
        let coded = [0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff];
        assert_eq!(decoded(&coded).unwrap(), b"www.example.com");
        assert_eq!(encode(b"www.example.com"), coded);
        assert_eq!(decoded(&[0x64, 0x02]).unwrap(), b"302");
    }

    #[test]
    fn every_byte_is_read_after_every_length_of_prefix() {
        for prefix in 0..9 {
            let text: Vec<u8> = std::iter::repeat_n(b'0', prefix).chain(0..=255).collect();
            assert_eq!(decoded(&encode(&text)).unwrap(), text);
        }
    }

    #[test]
    fn padding_is_short_and_of_ones_and_eos_is_not_said() {
        assert_eq!(decoded(&[0xff; 1]), None, "eight bits of padding");
        assert_eq!(decoded(&[0x00]), None, "zeros for padding");
        assert_eq!(decoded(&[0xff; 4]), None, "EOS");
        assert_eq!(decoded(&[0x07]).unwrap(), b"0");
        assert_eq!(decoded(&[]).unwrap(), b"");
    }
}
