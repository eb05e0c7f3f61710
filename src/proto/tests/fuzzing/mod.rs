//! The bodies of the fuzz targets in `fuzz/`. The unit tests run them, too.

// What does not hold is told by a panic.
#![allow(clippy::expect_used, clippy::unwrap_used)]

mod http1;
mod link;
mod websocket;
mod world;

/// The head of a request, on its way to the upstream.
pub fn request_head(data: &[u8]) {
    http1::request_head(data);
}

/// The head of a response, on its way to the application.
pub fn response_head(data: &[u8]) {
    http1::response_head(data);
}

/// A chunked body, and one that becomes one.
pub fn chunked(data: &[u8]) {
    http1::chunked(data);
}

/// What an application sends, whole and in pieces: both must come to the same.
pub fn framing_split(data: &[u8]) {
    link::framing_split(data);
}

/// The text of an agent token, and what a token can say.
pub fn agent_token(data: &[u8]) {
    link::agent_token(data);
}

/// What a hub and an agent are told before they know each other.
pub fn handshake(data: &[u8]) {
    link::handshake(data);
}

/// Frames of WebSocket, to either side.
pub fn websocket(data: &[u8]) {
    websocket::decode(data);
}

/// A list of operations on the joined cores.
pub fn exchange(data: &[u8]) {
    world::run(data);
}

#[cfg(test)]
#[path = "../../../../tests/vectors/unescape.rs"]
pub(crate) mod unescape;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::random::Random;

    /// Bytes from a seed.
    fn random(seed: u64, length: usize) -> Vec<u8> {
        let mut random = Random(seed);
        let words = (0..length.div_ceil(8)).flat_map(|_| random.next().to_le_bytes());
        words.take(length).collect()
    }

    /// The raw bytes of all vectors; what goes beyond a few kilobytes is left out.
    fn vectors() -> Vec<Vec<u8>> {
        let files = [
            include_str!("../../../../tests/vectors/requests.txt"),
            include_str!("../../../../tests/vectors/responses.txt"),
            include_str!("../../../../tests/vectors/bodies.txt"),
            include_str!("../../../../tests/vectors/upstreams.txt"),
        ];
        let mut all = Vec::new();
        for line in files.iter().flat_map(|file| file.lines()) {
            if line.starts_with("== ") {
                all.push(Vec::new());
            } else if let (Some(text), Some(vector)) = (line.strip_prefix("> "), all.last_mut()) {
                vector.extend(unescape::unescape(text));
            }
        }
        assert!(all.len() > 100);
        all
    }

    #[test]
    fn the_vectors_as_messages() {
        for vector in vectors() {
            request_head(&vector);
            response_head(&vector);
            chunked(&vector);
            // Bodies without their heads, too.
            if let Some(end) = vector.windows(4).position(|part| part == b"\r\n\r\n") {
                chunked(&vector[end + 4..]);
            }
        }
    }

    #[test]
    fn the_vectors_as_what_an_application_sends() {
        for vector in vectors() {
            framing_split(&vector);
        }
    }

    #[test]
    fn the_vectors_as_a_handshake() {
        for vector in vectors() {
            handshake(&vector);
        }
    }

    #[test]
    fn frames() {
        for vector in vectors() {
            websocket(&vector);
        }
        for seed in 0..300 {
            websocket(&random(seed, 400));
        }
    }

    #[test]
    fn tokens() {
        agent_token(b"slime1_AAAA");
        for seed in 0..200 {
            agent_token(&random(seed, 300));
        }
    }

    #[test]
    fn operations() {
        // SLIME_SEED and SLIME_SEEDS mean what they mean in tests/simulation (`fuzz/run --long exchange`
        // finds better ones).
        let number = |name| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
        let seeds = match number("SLIME_SEED") {
            Some(seed) => seed..seed + 1,
            None => 0..number("SLIME_SEEDS").unwrap_or(15),
        };
        for seed in seeds {
            println!("seed {seed}");
            exchange(&random(seed, 1200));
        }
    }
}
