//! Small things appended to a buffer of bytes.

use alloc::vec::Vec;
use core::fmt::{self, Write};
use core::net::IpAddr;

use crate::proto::utc::UtcParts;

/// A field line.
pub(super) fn field(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// A field line whose value may have been folded: each line end is a space (RFC 9112 section 5.2).
pub(super) fn unfolded(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    let begin = out.len() + name.len();
    field(out, name, value);
    let end = out.len().saturating_sub(2);
    for byte in out.get_mut(begin..end).unwrap_or_default() {
        if matches!(byte, b'\r' | b'\n') {
            *byte = b' ';
        }
    }
}

/// A field line that begins with a name of ours, colon and space: the compiler knows how long that is, and
/// copies it without a call.
#[inline]
pub(super) fn line<const N: usize>(out: &mut Vec<u8>, name: &[u8; N], value: &[u8]) {
    out.extend_from_slice(name);
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// A number in decimal digits.
pub(super) fn decimal(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

/// An address, as it is displayed. Written in each request, and so without the machinery of formatting where
/// that is easy.
pub(super) fn address(out: &mut Vec<u8>, address: IpAddr) {
    match address {
        IpAddr::V4(address) => {
            for (index, octet) in address.octets().into_iter().enumerate() {
                if index > 0 {
                    out.push(b'.');
                }
                for (unit, begins) in [(100, 100), (10, 10), (1, 0)] {
                    if octet >= begins {
                        out.push(b'0' + octet / unit % 10);
                    }
                }
            }
        }
        IpAddr::V6(address) => display(out, address),
    }
}

/// A number in hexadecimal digits, as a chunk line has it.
pub(super) fn hex(out: &mut Vec<u8>, number: u64) {
    // A vector takes any text.
    let _ = write!(Bytes(out), "{number:x}");
}

/// Anything that can be displayed.
pub(super) fn display(out: &mut Vec<u8>, value: impl fmt::Display) {
    // A vector takes any text.
    let _ = write!(Bytes(out), "{value}");
}

struct Bytes<'a>(&'a mut Vec<u8>);

impl Write for Bytes<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

/// `Date`, in seconds since 1970 (RFC 9110 section 5.6.7).
pub(super) fn date(out: &mut Vec<u8>, unix: u64) {
    let utc = UtcParts::of(unix);
    let (weekday, month) = (utc.weekday_name(), utc.month_name());
    let UtcParts { year, day, hour, minute, second, .. } = utc;
    display(
        out,
        format_args!("Date: {weekday}, {day:02} {month} {year:04} {hour:02}:{minute:02}:{second:02} GMT\r\n"),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (unix, expected) in [
            (0, "Thu, 01 Jan 1970 00:00:00"),
            (784_111_777, "Sun, 06 Nov 1994 08:49:37"),
            (951_782_400, "Tue, 29 Feb 2000 00:00:00"),
            (1_704_067_199, "Sun, 31 Dec 2023 23:59:59"),
            (1_709_164_800, "Thu, 29 Feb 2024 00:00:00"),
            (1_709_251_200, "Fri, 01 Mar 2024 00:00:00"),
            (4_107_542_400, "Mon, 01 Mar 2100 00:00:00"),
        ] {
            let mut out = Vec::new();
            date(&mut out, unix);
            assert_eq!(String::from_utf8(out).unwrap(), format!("Date: {expected} GMT\r\n"));
        }
    }
}
