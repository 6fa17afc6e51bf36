//! Comments of `.proto` files that rustdoc would take for Rust examples and run as tests.

use prost_types::FileDescriptorProto;

/// Marks the code in all comments of `file` as text.
pub(crate) fn defuse(file: &mut FileDescriptorProto) {
    for location in file.source_code_info.iter_mut().flat_map(|info| &mut info.location) {
        let comments = [&mut location.leading_comments, &mut location.trailing_comments];
        for comment in comments.into_iter().flatten() {
            *comment = as_text(comment);
        }
    }
}

/// `comment` with its indented blocks in fences, and its fences marked as something else than
/// Rust to be tested.
fn as_text(comment: &str) -> String {
    let least = comment.lines().filter_map(indent).min().unwrap_or(0);
    let mut lines: Vec<String> = Vec::new();
    let mut fence: Option<String> = None;
    let mut is_block = false;
    let mut after_blank = true;
    for line in comment.lines() {
        let indent = indent(line);
        if is_block && indent.is_some_and(|indent| indent < least + 4) {
            // Blank lines behind the block are not part of it.
            let end = lines.iter().rposition(|line| !line.trim().is_empty()).map_or(0, |i| i + 1);
            lines.insert(end, " ```".to_owned());
            is_block = false;
        }
        let trimmed = line.trim();
        if let Some(marker) = &fence {
            if trimmed.starts_with(marker.as_str())
                && trimmed.trim_start_matches(['`', '~']).is_empty()
            {
                fence = None;
            }
        } else if !is_block && let Some(marker) = fence_marker(trimmed) {
            let language = trimmed[marker.len()..].trim();
            let (before, _) = line.split_at(line.len() - line.trim_start().len());
            lines.push(format!("{before}{marker}{}", harmless_language(language)));
            fence = Some(marker.to_owned());
            after_blank = false;
            continue;
        } else if !is_block && after_blank && indent.is_some_and(|indent| indent >= least + 4) {
            lines.push(" ```text".to_owned());
            is_block = true;
        }
        after_blank = trimmed.is_empty();
        lines.push(line.to_owned());
    }
    if is_block {
        let end = lines.iter().rposition(|line| !line.trim().is_empty()).map_or(0, |i| i + 1);
        lines.insert(end, " ```".to_owned());
    }
    let mut text = lines.join("\n");
    if comment.ends_with('\n') {
        text.push('\n');
    }
    text
}

/// How far rustdoc will see the line indented; `None` for blank lines. prost-build gives a line
/// one more space unless it begins with exactly one.
fn indent(line: &str) -> Option<usize> {
    let rest = line.trim_start();
    if rest.is_empty() {
        return None;
    }
    let space = &line[..line.len() - rest.len()];
    let width: usize = space.chars().map(|c| if c == '\t' { 4 } else { 1 }).sum();
    Some(if width == 1 { 1 } else { width + 1 })
}

fn fence_marker(trimmed: &str) -> Option<&str> {
    ['`', '~'].iter().find_map(|mark| {
        let length = trimmed.len() - trimmed.trim_start_matches(*mark).len();
        (length >= 3).then(|| &trimmed[..length])
    })
}

/// Languages rustdoc would compile.
fn harmless_language(language: &str) -> String {
    const RUST: &[&str] = &[
        "rust",
        "no_run",
        "should_panic",
        "compile_fail",
        "ignore",
        "test_harness",
        "standalone_crate",
    ];
    let is_rust = |word: &str| RUST.contains(&word) || word.starts_with("edition");
    if language.is_empty() {
        "text".to_owned()
    } else if language.split([',', ' ']).all(is_rust) {
        "rust,ignore".to_owned()
    } else {
        language.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::as_text;

    #[test]
    fn prose_is_left_alone() {
        for prose in [" One line.\n", " - a list\n   that goes on\n - and on\n", "", " a\n\n b\n"] {
            assert_eq!(as_text(prose), prose);
        }
    }

    #[test]
    fn indented_blocks_are_fenced() {
        assert_eq!(
            as_text(" Example:\n\n     let x = 1;\n\n     x + 1\n\n Done.\n"),
            " Example:\n\n ```text\n     let x = 1;\n\n     x + 1\n ```\n\n Done.\n"
        );
        assert_eq!(as_text(" Use:\n\n     curl\n"), " Use:\n\n ```text\n     curl\n ```\n");
    }

    #[test]
    fn fences_are_not_tested() {
        assert_eq!(as_text(" ```\n x\n ```\n"), " ```text\n x\n ```\n");
        assert_eq!(as_text(" ```rust\n x\n ```\n"), " ```rust,ignore\n x\n ```\n");
        assert_eq!(as_text(" ~~~no_run\n x\n ~~~\n"), " ~~~rust,ignore\n x\n ~~~\n");
        assert_eq!(as_text(" ```json\n\n      {}\n ```\n"), " ```json\n\n      {}\n ```\n");
    }
}
