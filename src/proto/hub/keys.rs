//! The keys by which applications are let in.

use alloc::vec::Vec;

use super::Refusal;
use crate::proto::http1::credentials::{Credentials, MAX_KEY, Shown, candidates};
use crate::proto::http1::head::RequestHead;
use crate::proto::trust::password::SecretDigest;

/// The application that a key belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Application(u16);

/// All keys of the hub. Where there is none, everybody is let in.
pub(super) struct Keys {
    /// In the order of the starts of the digests: the hub keeps no key.
    entries: Vec<(SecretDigest, Application)>,
}

/// What a request that may come in has shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Admitted {
    /// The fields that held keys of the hub. They go no further, whichever of them opened the door.
    pub(super) spent: Credentials,
    /// Whether a browser may have shown the key of its own accord: then the request may be another site's.
    pub(super) is_ambient: bool,
}

impl Keys {
    /// Each key stands for an application of its own.
    pub(super) fn new<'k>(keys: impl IntoIterator<Item = &'k str>) -> Self {
        let digest = |key: &str| SecretDigest::of(key.as_bytes());
        let mut entries: Vec<_> =
            (0..).zip(keys).map(|(number, key)| (digest(key), Application(number))).collect();
        entries.sort_by_key(|(digest, _)| digest.start());
        Self { entries }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Looks for keys in a request; none if it shows none of this hub's.
    ///
    /// # Errors
    /// The same field came twice, or keys of two applications.
    pub(super) fn admit(&self, head: &RequestHead<'_, '_>) -> Result<Option<Admitted>, Refusal> {
        let (mut seen, mut spent) = (Credentials::NONE, Credentials::NONE);
        let mut found: Option<(Application, bool)> = None;
        candidates(head, |field, candidate, shown| {
            if !seen.insert(field) {
                return Err(Refusal::DoubledCredential);
            }
            let Some(application) = candidate.and_then(|candidate| self.find(candidate)) else {
                return Ok(());
            };
            spent.insert(field);
            let is_ambient = shown == Shown::Ambiently;
            found = match found {
                Some((other, _)) if other != application => return Err(Refusal::TwoApplications),
                Some((_, before)) => Some((application, before && is_ambient)),
                None => Some((application, is_ambient)),
            };
            Ok(())
        })?;
        Ok(found.map(|(_, is_ambient)| Admitted { spent, is_ambient }))
    }

    fn find(&self, candidate: &[u8]) -> Option<Application> {
        if candidate.len() > MAX_KEY {
            return None;
        }
        let digest = SecretDigest::of(candidate);
        // How long the search takes tells of the first bytes of digests alone. A whole one is compared in a
        // time that does not depend on what it holds.
        let first = self.entries.partition_point(|(other, _)| other.start() < digest.start());
        let alike = self.entries.iter().skip(first).take_while(|(other, _)| other.start() == digest.start());
        alike.into_iter().find(|(other, _)| other.is_same(&digest)).map(|(_, application)| *application)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::http1::storage::Storage;

    fn admit(keys: &Keys, fields: &str) -> Result<Option<Admitted>, Refusal> {
        let head = format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
        let mut storage = Storage::new();
        keys.admit(&RequestHead::parse(head.as_bytes(), &mut storage).unwrap())
    }

    #[test]
    fn keys_are_found_among_many() {
        let names: Vec<String> = (0..1000).map(|number| format!("key {number}")).collect();
        let keys = Keys::new(names.iter().map(String::as_str));
        for (number, name) in (0..).zip(&names) {
            assert_eq!(keys.find(name.as_bytes()), Some(Application(number)));
            assert_eq!(keys.find(format!("{name} ").as_bytes()), None);
        }
        assert_eq!(keys.find(b""), None);
    }

    #[test]
    fn a_candidate_that_is_too_long_is_wrong() {
        let long = "x".repeat(MAX_KEY + 1);
        let keys = Keys::new([long.as_str(), &long[1..]]);
        assert!(keys.find(long.as_bytes()).is_none() && keys.find(&long.as_bytes()[1..]).is_some());
    }

    #[test]
    fn keys_of_two_applications_are_ambiguous() {
        let keys = Keys::new(["a", "b"]);
        assert_eq!(admit(&keys, "x-api-key: a\r\napi-key: b\r\n"), Err(Refusal::TwoApplications));
        assert!(admit(&keys, "x-api-key: a\r\napi-key: c\r\n").unwrap().is_some());
        assert_eq!(admit(&keys, "x-api-key: a\r\nX-API-Key: a\r\n"), Err(Refusal::DoubledCredential));
        assert_eq!(admit(&keys, "x-api-key: c\r\n"), Ok(None));
    }

    #[test]
    fn a_key_that_a_program_shows_as_well_is_not_ambient() {
        let keys = Keys::new(["k"]);
        let is_ambient = |fields| admit(&keys, fields).unwrap().unwrap().is_ambient;
        assert!(is_ambient("Authorization: Basic dTpr\r\n"));
        assert!(!is_ambient("Authorization: Basic dTpr\r\nx-api-key: k\r\n"));
        assert!(is_ambient("Authorization: Basic dTpr\r\nx-api-key: other\r\n"));
    }
}
