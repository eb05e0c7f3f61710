//! What is escaped in the files of this folder.

/// The bytes that the text of a vector stands for.
///
/// # Panics
/// An escape is none of those that `requests.txt` explains.
pub(crate) fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        if character != '\\' {
            bytes.extend(character.to_string().bytes());
            continue;
        }
        match characters.next() {
            Some('r') => bytes.push(b'\r'),
            Some('n') => bytes.push(b'\n'),
            Some('t') => bytes.push(b'\t'),
            Some('s') => bytes.push(b' '),
            Some('\\') => bytes.push(b'\\'),
            Some('x') => {
                let digits: String = characters.by_ref().take(2).collect();
                bytes.push(
                    u8::from_str_radix(&digits, 16).unwrap_or_else(|error| panic!("\\x{digits}: {error}")),
                );
            }
            other => panic!("escape {other:?} in {text}"),
        }
    }
    bytes
}
