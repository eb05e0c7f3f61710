//! What the tests of byte streams share. `tests/vectors.rs` includes this file, too, so it names nothing of
//! the crate.

use core::fmt::Debug;

/// Gives `input` to `run` in every division: whole, byte by byte with an empty piece at the end, and in two
/// parts at every place; and all that once more with `trailing` behind it, unless that is empty. What `run`
/// says must not depend on the division, nor on what follows the message.
pub(crate) fn every_split<T: Debug + PartialEq>(
    input: &[u8],
    trailing: &[u8],
    mut run: impl FnMut(&[&[u8]]) -> T,
) -> T {
    let whole = run(&[input]);
    let mut check = |bytes: &[u8]| {
        let mut single: Vec<&[u8]> = bytes.chunks(1).collect();
        single.push(b"");
        assert_eq!(run(&single), whole, "byte by byte: {:?}", bytes.escape_ascii().to_string());
        for at in 0..=bytes.len() {
            let (head, tail) = bytes.split_at(at);
            assert_eq!(run(&[head, tail]), whole, "split at {at}: {:?}", bytes.escape_ascii().to_string());
        }
    };
    check(input);
    if !trailing.is_empty() {
        check(&[input, trailing].concat());
    }
    whole
}
