//! The bytes shown in PROTOCOL.md, for tests that hold the code against them.

/// The bytes of a block: hexadecimal, `#` begins a comment.
pub(crate) fn vector(name: &str) -> Vec<u8> {
    let text = include_str!("../../PROTOCOL.md");
    let start = format!("```hex {name}\n");
    let block = text.split(&start).nth(1).unwrap_or_else(|| panic!("no block {name}"));
    let block = block.split("```").next().unwrap_or_default();
    let words = block.lines().flat_map(|line| line.split('#').next().map(str::split_whitespace));
    let bytes = words.flatten().map(|word| u8::from_str_radix(word, 16));
    bytes.collect::<Result<_, _>>().unwrap_or_else(|error| panic!("{name}: {error}"))
}
