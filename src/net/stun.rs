//! STUN Binding over UDP (RFC 8489): on the SIP port it lets outbound be promised to phones (RFC 5626 §3.5.2), on RTP
//! ports it shows to signaling that a media node's workers live.
//!
//! Invariant: stateless, and no answer is larger than a few dozen bytes more than its request, so it is of no use as
//! an amplifier.

use bytes::{BufMut, Bytes, BytesMut};
use core::net::{IpAddr, SocketAddr};

const MAGIC_COOKIE: u32 = 0x2112_A442;
const HEADER_BYTES: usize = 20;
const BINDING_REQUEST: [u8; 2] = [0x00, 0x01];
const BINDING_SUCCESS: u16 = 0x0101;
const XOR_MAPPED_ADDRESS: u16 = 0x0020;
const FINGERPRINT: u16 = 0x8028;
const FINGERPRINT_XOR: u32 = 0x5354_554E;

/// STUN by its first bits and cookie; SIP begins with a letter.
pub fn is_stun(datagram: &[u8]) -> bool {
    datagram.len() >= HEADER_BYTES
        && datagram.first().is_some_and(|byte| byte & 0xC0 == 0)
        && datagram.get(4..8) == Some(&MAGIC_COOKIE.to_be_bytes()[..])
}

/// The answer to a Binding request; `None` for anything else.
pub fn answer(datagram: &[u8], source: SocketAddr) -> Option<Bytes> {
    if !is_stun(datagram) || datagram.get(..2) != Some(&BINDING_REQUEST[..]) {
        return None;
    }
    let transaction = datagram.get(8..HEADER_BYTES)?;
    let mapped = mapped_address(source, transaction);
    let attributes = 4 + mapped.len() + 8;
    let mut out = BytesMut::with_capacity(HEADER_BYTES + attributes);
    out.put_u16(BINDING_SUCCESS);
    out.put_u16(u16::try_from(attributes).ok()?);
    out.put_u32(MAGIC_COOKIE);
    out.put_slice(transaction);
    out.put_u16(XOR_MAPPED_ADDRESS);
    out.put_u16(u16::try_from(mapped.len()).ok()?);
    out.put_slice(&mapped);
    let fingerprint = crc32(&out) ^ FINGERPRINT_XOR;
    out.put_u16(FINGERPRINT);
    out.put_u16(4);
    out.put_u32(fingerprint);
    Some(out.freeze())
}

/// A Binding request.
pub fn request(transaction: [u8; 12]) -> Vec<u8> {
    let mut out = BINDING_REQUEST.to_vec();
    out.extend_from_slice(&[0, 0]);
    out.extend_from_slice(&MAGIC_COOKIE.to_be_bytes());
    out.extend_from_slice(&transaction);
    out
}

/// The answer to that request.
pub fn is_answer_to(transaction: [u8; 12], datagram: &[u8]) -> bool {
    is_stun(datagram)
        && datagram.get(..2) == Some(&BINDING_SUCCESS.to_be_bytes()[..])
        && datagram.get(8..HEADER_BYTES) == Some(&transaction[..])
}

/// Where the sender of an answer saw the request come from (XOR-MAPPED-ADDRESS, first as we and others send it).
pub fn seen_at(datagram: &[u8]) -> Option<SocketAddr> {
    let transaction = datagram.get(8..HEADER_BYTES)?;
    let mut attributes = datagram.get(HEADER_BYTES..)?;
    loop {
        let (head, rest) = attributes.split_first_chunk::<4>()?;
        let [kind @ .., l0, l1] = *head;
        let length = usize::from(u16::from_be_bytes([l0, l1]));
        let value = rest.get(..length)?;
        if u16::from_be_bytes(kind) == XOR_MAPPED_ADDRESS {
            return unmapped_address(value, transaction);
        }
        attributes = rest.get(length.next_multiple_of(4)..)?;
    }
}

fn unmapped_address(value: &[u8], transaction: &[u8]) -> Option<SocketAddr> {
    let (&[_, family, p0, p1], hidden) = value.split_first_chunk::<4>()?;
    let cookie = MAGIC_COOKIE.to_be_bytes();
    let mask = cookie.iter().chain(transaction);
    let octets: Vec<u8> = hidden.iter().zip(mask).map(|(byte, mask)| byte ^ mask).collect();
    let ip = match family {
        1 => IpAddr::from(<[u8; 4]>::try_from(octets).ok()?),
        2 => IpAddr::from(<[u8; 16]>::try_from(octets).ok()?),
        _ => return None,
    };
    let port = u16::from_be_bytes([p0, p1]) ^ (MAGIC_COOKIE >> 16) as u16;
    Some(SocketAddr::new(ip, port))
}

/// Family, port and address, hidden from NATs that rewrite what looks like an address (§14.2).
fn mapped_address(source: SocketAddr, transaction: &[u8]) -> Vec<u8> {
    let cookie = MAGIC_COOKIE.to_be_bytes();
    let mask = cookie.iter().chain(transaction);
    let port = source.port() ^ (MAGIC_COOKIE >> 16) as u16;
    let (family, address) = match source.ip().to_canonical() {
        IpAddr::V4(address) => (1, address.octets().to_vec()),
        IpAddr::V6(address) => (2, address.octets().to_vec()),
    };
    let mut value = vec![0, family];
    value.extend_from_slice(&port.to_be_bytes());
    value.extend(address.iter().zip(mask).map(|(byte, mask)| byte ^ mask));
    value
}

/// CRC-32 as in ITU-T V.42, bit by bit: messages are short and rare.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            if crc & 1 == 1 { crc >> 1 ^ 0xEDB8_8320 } else { crc >> 1 }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> Vec<u8> {
        super::request(*b"transaction!")
    }

    #[test]
    fn an_answer_says_where_the_request_was_seen() {
        for source in ["192.0.2.7:40000", "[2001:db8::7]:1"] {
            let source = source.parse().expect("an address");
            let answer = answer(&super::request(*b"where am I ?"), source).expect("an answer");
            assert_eq!(seen_at(&answer), Some(source));
            let cut = answer.len() - 20;
            assert_eq!(seen_at(answer.get(..cut).unwrap_or_default()), None);
        }
    }

    #[test]
    fn the_source_is_told_back() {
        assert_eq!(crc32(b"123456789"), 0xCBF4_3926, "the check value of CRC-32");
        // (source, XOR-MAPPED-ADDRESS value)
        let v4: &[u8] = &[0, 1, 0x21 ^ 0x12, 0x12 ^ 0x34, 0x21 ^ 192, 0x12, 0xA4 ^ 2, 0x42 ^ 1];
        let answer = answer(&request(), "192.0.2.1:4660".parse().expect("literal"));
        let answer = answer.expect("an answer");
        assert!(is_answer_to(*b"transaction!", &answer));
        assert!(!is_answer_to(*b"another one!", &answer));
        assert_eq!(&answer[..4], &[1, 1, 0, 20]);
        assert_eq!(&answer[8..20], b"transaction!");
        assert_eq!(&answer[20..24], &[0, 0x20, 0, 8]);
        assert_eq!(&answer[24..32], v4);
        let v6 = super::answer(&request(), "[2001:db8::1]:5060".parse().expect("literal"));
        let v6 = v6.expect("an answer");
        assert_eq!(v6.len(), 20 + 4 + 20 + 8);
        assert_eq!(v6[24..26], [0, 2]);
        assert_eq!(v6[28..32], [0x21 ^ 0x20, 0x12 ^ 0x01, 0xA4 ^ 0x0d, 0x42 ^ 0xb8]);
    }

    #[test]
    fn nothing_else_is_answered() {
        let source = "192.0.2.1:1".parse().expect("literal");
        let mut indication = request();
        indication[1] = 0x11;
        let mut no_cookie = request();
        no_cookie[4] = 0;
        for bytes in [&b"OPTIONS sip:x SIP/2.0\r\n"[..], &indication, &no_cookie, &[0; 19], &[]] {
            assert_eq!(answer(bytes, source), None);
        }
    }
}
