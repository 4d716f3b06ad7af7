//! What is looked at of each message as it passes: first line, top Via's branch, CSeq and body are read where they
//! stand, in one pass and without a parser.

/// See the module. What is missing is empty.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Gist<'a> {
    /// Of a response.
    pub status: Option<u16>,
    /// Of CSeq: a response has that of its request.
    pub method: &'a [u8],
    /// Of the topmost Via.
    pub branch: &'a [u8],
    /// Behind the header.
    pub body: &'a [u8],
}

impl<'a> Gist<'a> {
    pub(super) fn read(text: &'a [u8]) -> Self {
        let status = text.strip_prefix(b"SIP/2.0 ").and_then(|rest| rest.get(..3));
        let status = status.and_then(|digits| core::str::from_utf8(digits).ok()?.parse().ok());
        let mut gist = Self { status, ..Self::default() };
        let (mut has_via, mut rest) = (false, text);
        while !rest.is_empty() {
            if has_via && !gist.method.is_empty() {
                // With the end of the line before: the next may be the empty one.
                gist.body = behind_empty_line(&text[text.len() - rest.len() - 1..]);
                break;
            }
            let (line, behind) = split_line(rest);
            rest = behind;
            match line.trim_ascii_end() {
                [] => {
                    gist.body = rest;
                    break;
                }
                [b'V' | b'v', ..] if !has_via => {
                    let via = value(line, b"via").or_else(|| value(line, b"v"));
                    has_via = via.is_some();
                    gist.branch = via.and_then(branch_of).unwrap_or_default();
                }
                [b'C' | b'c', ..] if gist.method.is_empty() => {
                    let cseq = value(line, b"cseq").unwrap_or_default();
                    let method = cseq.rsplit(|byte| byte.is_ascii_whitespace()).next();
                    gist.method = method.unwrap_or_default();
                }
                _ => {}
            }
        }
        gist
    }
}

fn behind_empty_line(header: &[u8]) -> &[u8] {
    let end_of = |end: &[u8]| Some(memchr::memmem::find(header, end)? + end.len());
    let begin = end_of(b"\n\r\n").or_else(|| end_of(b"\n\n"));
    begin.map_or(&[], |begin| &header[begin..])
}

/// Lines without their ends.
pub(super) fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = text;
    core::iter::from_fn(move || {
        let (line, behind) = (!rest.is_empty()).then(|| split_line(rest))?;
        rest = behind;
        Some(line.trim_ascii_end())
    })
}

fn split_line(text: &[u8]) -> (&[u8], &[u8]) {
    match memchr::memchr(b'\n', text) {
        Some(end) => (&text[..end], &text[end + 1..]),
        None => (text, &[]),
    }
}

/// Of a header field of that name.
fn value<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let (begin, rest) = line.split_at_checked(name.len())?;
    let rest = rest.trim_ascii_start().strip_prefix(b":")?;
    begin.eq_ignore_ascii_case(name).then(|| rest.trim_ascii())
}

/// Of the first of several values.
fn branch_of(via: &[u8]) -> Option<&[u8]> {
    let name = b"branch=";
    let begin = via.windows(name.len()).position(|part| part.eq_ignore_ascii_case(name))?;
    let rest = &via[begin + name.len()..];
    let is_end = |byte: &u8| matches!(byte, b';' | b',') || byte.is_ascii_whitespace();
    Some(&rest[..rest.iter().position(is_end).unwrap_or(rest.len())])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_read_where_it_stands() {
        for (text, status, method, branch, body) in [
            (
                "INVITE sip:2@x SIP/2.0\r\nVia: SIP/2.0/UDP a;rport;branch=z9hG4bK1\r\n\
                 Via: SIP/2.0/UDP b;branch=z9hG4bK2\r\nVCSeq: 3 X\r\nCSeq: 1 INVITE\r\n\r\nv=0\r\n",
                None,
                "INVITE",
                "z9hG4bK1",
                "v=0\r\n",
            ),
            (
                "SIP/2.0 200 OK\nv : x ;Branch=a, y;branch=b\ncseq :  7\tBYE \n\nCSeq: 1 ACK",
                Some(200),
                "BYE",
                "a",
                "CSeq: 1 ACK",
            ),
            // The line that was found last is the last of the header.
            ("BYE x\r\nv: x;branch=a\r\nCSeq: 2 BYE\r\n\r\nv=0", None, "BYE", "a", "v=0"),
            ("BYE x\nv: x;branch=a\nCSeq: 2 BYE\n\nv=0", None, "BYE", "a", "v=0"),
            ("BYE x\nv: x;branch=a\nCSeq: 2 BYE", None, "BYE", "a", ""),
            ("SIP/2.0 2", None, "", "", ""),
            ("BYE x\r\nVia\r\n: \r\n:\r\nVia: x\r\nVia: y;branch=2", None, "", "", ""),
            ("", None, "", "", ""),
            ("\r\n\r\nbody", None, "", "", "\r\nbody"),
        ] {
            let [method, branch, body] = [method, branch, body].map(str::as_bytes);
            assert_eq!(
                Gist::read(text.as_bytes()),
                Gist { status, method, branch, body },
                "{text}"
            );
        }
        let parts: Vec<&[u8]> = lines(b"a\r\n\nb").collect();
        assert_eq!(parts, [&b"a"[..], b"", b"b"]);
    }
}
