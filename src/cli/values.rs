//! The values of flags: from text to the types of [`crate::config`], once. Errors say what would be right.

use core::net::IpAddr;
use core::str::FromStr;
use core::time::Duration;

use log::LevelFilter;

use crate::config::{Cidr, OnCancel};
use crate::proto::http1::cors::Origins;
use crate::proto::http1::credentials::MAX_KEY;
use crate::proto::info;
use crate::proto::tables::key::MAX_SLOTS;
use crate::proto::tunnel::{MAX_AGENT_ID, PACE, is_agent_id};

/// The longest duration that a flag can name: a hundred years. It keeps all sums of times in range.
const MAX_DURATION: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

const NOT_A_DURATION: &str =
    "a time is a number of seconds, such as 90 or 1.5, or has units, such as 1h2m3s or 250ms";

/// A duration: seconds (`90`, `1.5`), or numbers with the units `d`, `h`, `m`, `s`, `ms`, largest first
/// (`1h2m3s`).
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let nanos = if text.ends_with(|last: char| last.is_ascii_digit()) {
        nanos(text, SECOND)
    } else {
        nanos_with_units(text)
    };
    let nanos = nanos.ok_or(NOT_A_DURATION)?;
    if nanos > MAX_DURATION.as_nanos() {
        return Err("a time is at most a hundred years".into());
    }
    Ok(Duration::from_nanos_u128(nanos))
}

/// A duration that is not zero.
pub(super) fn positive(text: &str) -> Result<Duration, String> {
    duration(text)
        .and_then(|time| if time.is_zero() { Err("the time must not be zero".into()) } else { Ok(time) })
}

/// The pace of heartbeats: one that agents go along with.
pub(super) fn pace(text: &str) -> Result<Duration, String> {
    duration(text).and_then(|time| {
        if PACE.contains(&time) { Ok(time) } else { Err("this is 50ms at least and 1d at most".into()) }
    })
}

/// How long a token is good: whole seconds, because that is what it says.
pub(super) fn age(text: &str) -> Result<Duration, String> {
    let age = duration(text)?;
    if age.as_secs() == 0 { Err("a token must be good for at least one second".into()) } else { Ok(age) }
}

/// A number of bytes, with `k`, `m` or `g` for powers of 1024.
pub(super) fn size(text: &str) -> Result<u64, String> {
    let (digits, factor) = match text.as_bytes().last().map(u8::to_ascii_lowercase) {
        Some(b'k') => (&text[..text.len() - 1], 1 << 10),
        Some(b'm') => (&text[..text.len() - 1], 1 << 20),
        Some(b'g') => (&text[..text.len() - 1], 1 << 30),
        _ => (text, 1),
    };
    number::<u64>(digits)
        .and_then(|number| number.checked_mul(factor))
        .ok_or_else(|| "a size is a number of bytes, or a number with k, m or g, such as 10m".into())
}

/// A TCP port; 0 lets the system choose.
pub(super) fn port(text: &str) -> Result<u16, String> {
    number(text).ok_or_else(|| "a port is a number up to 65535".into())
}

/// A plain number.
pub(super) fn count<T: FromStr>(text: &str) -> Result<T, String> {
    number(text).ok_or_else(|| "this must be a whole number".into())
}

/// A number of table entries: at least one, at most what a table can hold.
pub(super) fn connections(text: &str) -> Result<usize, String> {
    number(text)
        .filter(|number| (1..=MAX_SLOTS).contains(number))
        .ok_or_else(|| format!("this must be a whole number from 1 to {MAX_SLOTS}"))
}

/// A number of workers.
pub(super) fn workers(text: &str) -> Result<u32, String> {
    number(text).filter(|&number| number > 0).ok_or_else(|| "this must be a whole number, at least 1".into())
}

/// A level of log lines.
pub(super) fn level(text: &str) -> Result<LevelFilter, String> {
    match text {
        "error" => Ok(LevelFilter::Error),
        "warn" => Ok(LevelFilter::Warn),
        "info" => Ok(LevelFilter::Info),
        "debug" => Ok(LevelFilter::Debug),
        _ => Err("a level is error, warn, info or debug".into()),
    }
}

/// What an operator says of an agent.
pub(super) fn note(text: &str) -> Result<String, String> {
    if text.len() > info::LONGEST || text.chars().any(char::is_control) {
        return Err(format!("a note is one line of at most {} bytes", info::LONGEST));
    }
    Ok(text.to_owned())
}

/// What to do when an application leaves.
pub(super) fn on_cancel(text: &str) -> Result<OnCancel, String> {
    match text {
        "close" => Ok(OnCancel::Close),
        "drain" => Ok(OnCancel::Drain),
        _ => Err("this is close or drain".into()),
    }
}

/// An address, or a range of addresses as `10.0.0.0/8`.
pub(super) fn cidr(text: &str) -> Result<Cidr, String> {
    let (address, prefix) =
        text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
    let wrong = || format!("'{text}' is not an address or a range of addresses, such as ::1 or 10.0.0.0/8");
    let address: IpAddr = address.parse().map_err(|_| wrong())?;
    let whole = if address.is_ipv4() { 32 } else { 128 };
    let prefix = prefix.map_or(Some(whole), number).filter(|&bits| bits <= whole).ok_or_else(wrong)?;
    Ok(Cidr { address, prefix })
}

/// The origins whose pages may use a hub.
pub(super) fn origins(texts: &[String]) -> Result<Option<Origins>, String> {
    if texts.is_empty() {
        return Ok(None);
    }
    let wrong = "give origins as a browser names them, such as https://app.example,http://localhost:3000, or '*' for all";
    Origins::parse(items(texts)).map(Some).ok_or_else(|| wrong.to_owned())
}

/// A password: not longer than a hub looks at.
pub(super) fn app_password(text: &str) -> Result<(), String> {
    if text.len() <= MAX_KEY { Ok(()) } else { Err(format!("a password has at most {MAX_KEY} bytes")) }
}

/// The id of an agent: 1 to 64 letters, digits, `.`, `_`, `-`.
pub(super) fn agent_id(text: &str) -> Result<String, String> {
    if is_agent_id(text) {
        Ok(text.into())
    } else {
        Err(format!("an agent id is 1 to {MAX_AGENT_ID} letters, digits, '.', '_' or '-'"))
    }
}

/// The target of a health probe.
pub(super) fn health_path(text: &str) -> Result<String, String> {
    if text.starts_with('/') && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#') {
        Ok(text.into())
    } else {
        Err("a health path begins with '/' and has no spaces, such as /health".into())
    }
}

/// The items of all values of a repeated flag, each of which may be a list with commas.
pub(super) fn items(values: &[String]) -> impl Iterator<Item = &str> {
    values.iter().flat_map(|value| value.split(',')).map(str::trim).filter(|item| !item.is_empty())
}

/// `/v1/` and `/v1` mean the same subtree: tokens and agents know the second spelling.
pub(super) fn without_last_slash(path: &str) -> String {
    match path.strip_suffix('/') {
        Some(rest) if !rest.is_empty() => rest.to_owned(),
        Some(_) | None => path.to_owned(),
    }
}

const SECOND: u128 = 1_000_000_000;
/// Longest first, as they are written; `ms` before `m` and `s`, whose beginning and end it is.
const UNITS: [(&str, u128); 5] = [
    ("d", 24 * 3600 * SECOND),
    ("h", 3600 * SECOND),
    ("ms", SECOND / 1000),
    ("m", 60 * SECOND),
    ("s", SECOND),
];

fn nanos_with_units(text: &str) -> Option<u128> {
    let mut rest = text;
    let mut sum = 0;
    let mut previous = u128::MAX;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| c.is_ascii_alphabetic())?;
        let (number, after) = rest.split_at(digits);
        let &(name, unit) = UNITS.iter().find(|(name, _)| after.starts_with(name))?;
        if unit >= previous {
            return None;
        }
        previous = unit;
        sum += nanos(number, unit)?;
        rest = &after[name.len()..];
    }
    (previous < u128::MAX).then_some(sum)
}

/// A decimal number of a unit. Digits below the nanosecond are dropped.
fn nanos(text: &str, unit: u128) -> Option<u128> {
    /// A fraction of more digits says nothing that a nanosecond can hold; it keeps the product in range, too.
    const DIGITS: usize = 9;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let whole = u128::from(number::<u64>(whole)?) * unit;
    number::<u128>(fraction)?;
    let fraction = &fraction[..fraction.len().min(DIGITS)];
    let scale = 10_u128.pow(u32::try_from(fraction.len()).ok()?);
    Some(whole + number::<u128>(fraction)? * unit / scale)
}

/// Plain digits only: `FromStr` of the integers takes a leading `+` as well.
pub(super) fn number<T: FromStr>(text: &str) -> Option<T> {
    let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    plain.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, millis) in [
            ("90", 90_000),
            ("1.5", 1500),
            ("0", 0),
            ("0.25", 250),
            ("1h2m3s", 3_723_000),
            ("250ms", 250),
            ("2m", 120_000),
            ("1m30", 0),
            ("1.5h", 5_400_000),
            ("30d", 2_592_000_000),
            ("1s500ms", 1500),
            ("1.000000000000001s", 1000),
        ] {
            let parsed = duration(text);
            if text == "1m30" {
                assert!(parsed.is_err(), "{text}");
            } else {
                assert_eq!(parsed, Ok(Duration::from_millis(millis)), "{text}");
            }
        }
        for text in [
            "",
            " ",
            "s",
            "-1",
            "+1",
            "1e3",
            "1.",
            ".5",
            "1..2",
            "1s1h",
            "1s1s",
            "1x",
            "1 s",
            "1h 2m",
            "١s",
            "1sm",
            "1,5",
            "99999999999999999999",
            "101y",
            "36501d",
            "inf",
            "5m\u{e9}",
        ] {
            assert!(duration(text).is_err(), "{text}");
        }
        assert!(duration("36500d").is_ok());
        assert!(positive("0s").is_err());
        for (text, is_right) in
            [("0", false), ("49ms", false), ("50ms", true), ("1d", true), ("24h1ms", false), ("2d", false)]
        {
            assert_eq!(pace(text).is_ok(), is_right, "{text}");
        }
        assert!(age("900ms").is_err());
        assert_eq!(age("1h"), Ok(Duration::from_secs(3600)));
    }

    #[test]
    fn sizes_and_numbers() {
        assert_eq!(size("0"), Ok(0));
        assert_eq!(size("10m"), Ok(10 << 20));
        assert_eq!(size("64K"), Ok(64 << 10));
        assert_eq!(size("1g"), Ok(1 << 30));
        for text in ["", "k", "-1", "+1", "1kb", "1.5m", "99999999999999999999", "99999999999g", "é"] {
            assert!(size(text).is_err(), "{text}");
        }
        assert_eq!(port("65535"), Ok(65535));
        assert!(port("65536").is_err());
        assert!(port("+1").is_err());
        assert!(connections("0").is_err());
        assert!(connections("1048577").is_err());
        assert!(workers("0").is_err());
        assert_eq!(count("0"), Ok(0));
    }

    #[test]
    fn ranges() {
        let range = |address: &str, prefix| Ok(Cidr { address: address.parse().unwrap(), prefix });
        assert_eq!(cidr("10.0.0.0/8"), range("10.0.0.0", 8));
        assert_eq!(cidr("127.0.0.1"), range("127.0.0.1", 32));
        assert_eq!(cidr("::1"), range("::1", 128));
        assert_eq!(cidr("fd00::/8"), range("fd00::", 8));
        assert_eq!(cidr("0.0.0.0/0"), range("0.0.0.0", 0));
        for text in [
            "",
            "10",
            "10.0.0.0/33",
            "10.0.0.0/",
            "10.0.0.0/-1",
            "10.0.0.0/+8",
            "::/129",
            "localhost",
            "[::1]",
        ] {
            assert!(cidr(text).is_err(), "{text}");
        }
    }

    #[test]
    fn lists_and_names() {
        let values = ["a,b".to_owned(), " c , ,d,".to_owned()];
        assert_eq!(items(&values).collect::<Vec<_>>(), ["a", "b", "c", "d"]);
        assert!(agent_id("gpu-1.lab_2").is_ok());
        for text in ["", "a b", "a/b", &"x".repeat(65)] {
            assert!(agent_id(text).is_err(), "{text}");
        }
        assert!(health_path("/health?deep=1").is_ok());
        assert!(health_path("health").is_err());
        assert!(health_path("/a b").is_err());
    }
}
