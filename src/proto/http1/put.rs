//! Small things appended to a buffer of bytes.

use alloc::vec::Vec;
use core::fmt::{self, Write};
use core::net::IpAddr;

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
