//! What a secret that a client shows is compared with: its digest, so that the secret itself is not kept.

use ring::digest::{SHA256, SHA256_OUTPUT_LEN, digest};

/// The SHA-256 digest of a key or password.
#[derive(Clone, Copy, Debug)]
pub struct SecretDigest([u8; SHA256_OUTPUT_LEN]);

impl SecretDigest {
    /// Of a secret, or of what was shown in its place.
    pub fn of(secret: &[u8]) -> Self {
        let mut out = [0; SHA256_OUTPUT_LEN];
        out.copy_from_slice(digest(&SHA256, secret).as_ref());
        Self(out)
    }

    /// Whether both are of the same secret. The time that it takes does not depend on what they hold.
    pub fn is_same(&self, other: &Self) -> bool {
        self.0.iter().zip(&other.0).fold(0, |differences, (one, other)| differences | (one ^ other)) == 0
    }

    /// Its first bytes, by which many can be kept in an order. The order of all bytes is no secret's, either:
    /// nobody can choose a digest.
    pub fn start(&self) -> [u8; 4] {
        let [a, b, c, d, ..] = self.0;
        [a, b, c, d]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_secret_is_the_same() {
        let right = SecretDigest::of(b"right");
        assert!(right.is_same(&SecretDigest::of(b"right")));
        for wrong in [&b""[..], b"righ", b"right ", b"Right"] {
            assert!(!right.is_same(&SecretDigest::of(wrong)));
        }
    }
}
