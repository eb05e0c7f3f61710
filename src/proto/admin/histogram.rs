//! How times are spread.

/// The greatest time of a bucket: in milliseconds, and in seconds as `/metrics` writes it.
pub type Bound = (u64, &'static str);

/// The buckets of waits.
pub static WAITS: [Bound; 12] = [
    (10, "0.01"),
    (50, "0.05"),
    (250, "0.25"),
    (1_000, "1"),
    (2_500, "2.5"),
    (5_000, "5"),
    (10_000, "10"),
    (30_000, "30"),
    (60_000, "60"),
    (120_000, "120"),
    (300_000, "300"),
    (600_000, "600"),
];

/// The buckets of what requests take.
pub static TAKEN: [Bound; 15] = [
    (5, "0.005"),
    (25, "0.025"),
    (100, "0.1"),
    (500, "0.5"),
    (1_000, "1"),
    (2_500, "2.5"),
    (5_000, "5"),
    (10_000, "10"),
    (30_000, "30"),
    (60_000, "60"),
    (120_000, "120"),
    (300_000, "300"),
    (600_000, "600"),
    (1_800_000, "1800"),
    (3_600_000, "3600"),
];

/// How many times fell into each bucket.
#[derive(Clone, Debug)]
pub struct Histogram<const N: usize> {
    bounds: &'static [Bound; N],
    counts: [u64; N],
    count: u64,
    sum_ms: u64,
}

impl<const N: usize> Histogram<N> {
    /// An empty one with these buckets, the least first.
    pub const fn new(bounds: &'static [Bound; N]) -> Self {
        Self { bounds, counts: [0; N], count: 0, sum_ms: 0 }
    }

    /// Something took so many milliseconds.
    pub fn note(&mut self, millis: u64) {
        self.count += 1;
        self.sum_ms = self.sum_ms.saturating_add(millis);
        let at = self.bounds.iter().position(|(most, _)| millis <= *most);
        if let Some(count) = at.and_then(|at| self.counts.get_mut(at)) {
            *count += 1;
        }
    }

    /// How many times there were.
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// All of them, in milliseconds.
    pub const fn sum_ms(&self) -> u64 {
        self.sum_ms
    }

    /// For each bucket its greatest time as `/metrics` writes it, and how many times were at most that.
    pub fn at_most(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        let mut sum = 0;
        self.bounds.iter().zip(self.counts).map(move |((_, bound), count)| {
            sum += count;
            (*bound, sum)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_fall_into_their_buckets() {
        for (millis, text) in WAITS.iter().chain(&TAKEN) {
            let seconds: f64 = text.parse().unwrap();
            assert!((seconds * 1000.0 - *millis as f64).abs() < 1e-6, "{text}");
        }
        assert!(WAITS.is_sorted() && TAKEN.is_sorted());
        let mut waits = Histogram::new(&WAITS);
        for millis in [0, 10, 11, 600_000, 600_001] {
            waits.note(millis);
        }
        assert_eq!((waits.count(), waits.sum_ms()), (5, 1_200_022));
        let counts: Vec<u64> = waits.at_most().map(|(_, count)| count).collect();
        assert_eq!(counts, [2, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 4]);
    }
}
