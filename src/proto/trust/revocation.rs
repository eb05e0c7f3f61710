//! Which tokens are no longer good, though they are sealed by this hub's secret and have not expired.

use alloc::borrow::ToOwned;
use alloc::collections::BTreeSet;
use alloc::string::String;
use alloc::string::ToString;

use crate::proto::trust::agent_token::{AgentToken, TokenId, check_name};

/// Tokens that were taken back.
///
/// As text, one rule a line; `#` begins a comment:
///
/// ```text
/// 1b2c3d4e5f607182                      # the token with this id
/// garage-gpu                            # all tokens with this name
/// issued-before 2026-01-31T12:00:00Z    # all tokens that are older (or seconds since 1970)
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Revocations {
    /// Ids and names.
    named: BTreeSet<String>,
    /// Seconds since 1970.
    issued_before: u64,
}

/// A line that is no rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadLine {
    /// Which one, from 1 on.
    pub number: usize,
}

impl core::fmt::Display for BadLine {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "line {} is neither a token id or name nor 'issued-before TIME'", self.number)
    }
}

impl Revocations {
    /// Reads the rules.
    ///
    /// # Errors
    /// A line is no rule. All others are worthless then: who revokes must know that it holds.
    pub fn parse(text: &str) -> Result<Self, BadLine> {
        let mut all = Self::default();
        for (index, line) in text.lines().enumerate() {
            let rule = line.split('#').next().unwrap_or_default();
            let mut words = rule.split_whitespace();
            let bad = BadLine { number: index + 1 };
            match (words.next(), words.next(), words.next()) {
                (None, ..) => {}
                (Some("issued-before"), Some(time), None) => {
                    all.issued_before = all.issued_before.max(seconds(time).ok_or(bad)?);
                }
                (Some("issued-before"), ..) => return Err(bad),
                (Some(word), None, _) => {
                    let id = word.parse::<TokenId>().map(|id| id.to_string());
                    let name = || check_name(word).map(|()| word.to_owned()).map_err(|_| bad);
                    all.named.insert(id.or_else(|_| name())?);
                }
                (Some(_), Some(_), _) => return Err(bad),
            }
        }
        Ok(all)
    }

    /// How many rules there are.
    pub fn count(&self) -> usize {
        self.named.len() + usize::from(self.issued_before > 0)
    }

    /// Whether this token was taken back.
    pub fn covers(&self, token: &AgentToken) -> bool {
        self.names(&token.id.to_string(), &token.name, token.issued)
    }

    /// Whether a token of this id and name, issued then (seconds since 1970), was taken back.
    pub fn names(&self, id: &str, name: &str, issued: u64) -> bool {
        issued < self.issued_before || self.named.contains(id) || self.named.contains(name)
    }
}

/// Seconds since 1970, or a time in UTC as RFC 3339 has it, the time of day optional.
fn seconds(text: &str) -> Option<u64> {
    let plain = |text: &str| {
        (!text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse::<u64>().ok())?
    };
    if let Some(seconds) = plain(text) {
        return Some(seconds);
    }
    let (date, time) = match text.strip_suffix('Z').and_then(|text| text.split_once('T')) {
        Some(parts) => parts,
        None => (text, "00:00:00"),
    };
    let three = |text: &str, separator: char| {
        let mut parts = text.split(separator).map(plain);
        match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(Some(a)), Some(Some(b)), Some(Some(c)), None) => Some((a, b, c)),
            _ => None,
        }
    };
    let (year, month, day) = three(date, '-')?;
    let (hour, minute, second) = three(time, ':')?;
    let in_range = (1970..=9999).contains(&year) && (1..=12).contains(&month) && (1..=31).contains(&day);
    if !in_range || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    // Days since 1970 of a date in the Gregorian calendar, counted from March (Hinnant, "chrono-compatible
    // date algorithms").
    let (y, m) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = y * 365 + y / 4 - y / 100 + y / 400 + (m * 153 + 2) / 5 + day - 1 - 719_468;
    Some(days * 86_400 + hour * 3600 + minute * 60 + second)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_read() {
        let text =
            "# taken back\n1B2c3d4e5f607182 # lost laptop\n\n  garage\nissued-before 2026-01-31T12:00:00Z\n";
        let rules = Revocations::parse(text).unwrap();
        assert_eq!(rules.count(), 3);
        assert!(rules.names("1b2c3d4e5f607182", "x", u64::MAX));
        assert!(rules.names("0", "garage", u64::MAX));
        assert!(!rules.names("0", "x", 1_769_860_800));
        assert!(rules.names("0", "x", 1_769_860_799));
        assert_eq!(Revocations::parse(""), Ok(Revocations::default()));
    }

    #[test]
    fn a_bad_line_is_named() {
        for (text, number) in [
            ("a\nb c", 2),
            ("slime1_a/b", 1),
            ("issued-before", 1),
            ("issued-before yesterday", 1),
            ("issued-before 1 2", 1),
        ] {
            assert_eq!(Revocations::parse(text), Err(BadLine { number }));
        }
    }

    #[test]
    fn times_are_counted() {
        for (text, expected) in [
            ("0", Some(0)),
            ("1970-01-01", Some(0)),
            ("2000-02-29T00:00:01Z", Some(951_782_401)),
            ("2026-11-23T07:12:00Z", Some(1_795_417_920)),
            ("2026-13-01", None),
            ("2026-01-01T24:00:00Z", None),
            ("-5", None),
            ("+5", None),
            ("", None),
        ] {
            assert_eq!(seconds(text), expected, "{text}");
        }
    }
}
