//! What went wrong, and where in which `.proto` file.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// One finding, with its place as far as it is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    file: Option<PathBuf>,
    position: Option<Position>,
    message: String,
    excerpt: Option<String>,
    help: Option<String>,
}

/// A place in a text file, counted from 1, columns in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Position {
    pub(crate) line: usize,
    pub(crate) column: usize,
}

impl Position {
    /// The place of a byte offset in `text`; an offset behind the end means the end.
    pub(crate) fn of_offset(text: &str, offset_bytes: usize) -> Position {
        let mut end = offset_bytes.min(text.len());
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let before = &text[..end];
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Position {
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
        }
    }
}

impl Diagnostic {
    pub(crate) fn new(message: impl Into<String>) -> Diagnostic {
        Diagnostic {
            file: None,
            position: None,
            message: message.into(),
            excerpt: None,
            help: None,
        }
    }

    pub(crate) fn in_file(mut self, file: impl Into<PathBuf>) -> Diagnostic {
        self.file = Some(file.into());
        self
    }

    pub(crate) fn at(mut self, position: Position) -> Diagnostic {
        self.position = Some(position);
        self
    }

    /// Shows the line of `text` the diagnostic is about, with `width_chars` characters marked.
    pub(crate) fn with_excerpt(mut self, text: &str, width_chars: usize) -> Diagnostic {
        if let Some(position) = self.position
            && let Some(line) = text.lines().nth(position.line - 1)
        {
            let number = position.line.to_string();
            let margin = " ".repeat(number.len());
            // Tabs stay tabs in front of the marks, so that the marks stand where they should.
            let indent: String = line
                .chars()
                .take(position.column - 1)
                .map(|c| if c == '\t' { '\t' } else { ' ' })
                .collect();
            let room = line.chars().count().saturating_sub(position.column - 1);
            let marks = "^".repeat(width_chars.clamp(1, room.max(1)));
            self.excerpt = Some(format!("{number} | {line}\n{margin} | {indent}{marks}"));
        }
        self
    }

    pub(crate) fn with_help(mut self, help: impl Into<String>) -> Diagnostic {
        self.help = Some(help.into());
        self
    }

    /// The file, as a path that can be opened where one is known.
    pub fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// The line, counted from 1.
    pub fn line(&self) -> Option<usize> {
        self.position.map(|position| position.line)
    }

    /// The column in characters, counted from 1.
    pub fn column(&self) -> Option<usize> {
        self.position.map(|position| position.column)
    }

    /// What is wrong, without its place.
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(file) = &self.file {
            write!(f, "{}:", file.display())?;
            if let Some(Position { line, column }) = self.position {
                write!(f, "{line}:{column}:")?;
            }
            f.write_str(" ")?;
        }
        f.write_str(&self.message)?;
        if let Some(excerpt) = &self.excerpt {
            write!(f, "\n{excerpt}")?;
        }
        if let Some(help) = &self.help {
            write!(f, "\nhelp: {help}")?;
        }
        Ok(())
    }
}

/// Why no code was generated. Nothing has been written then, except perhaps some of the files if
/// writing itself failed.
///
/// `Debug` prints the same text as `Display`, because that is what a build script's `main` shows
/// when it returns an error.
pub struct Error {
    diagnostics: Vec<Diagnostic>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    pub(crate) fn new(diagnostics: Vec<Diagnostic>) -> Error {
        Error { diagnostics, source: None }
    }

    /// A misuse of the builder: no place in a `.proto` file is to blame.
    pub(crate) fn misuse(message: impl Into<String>) -> Error {
        Error::new(vec![Diagnostic::new(message)])
    }

    /// A file could not be read or written.
    pub(crate) fn io(doing: &str, path: &Path, error: io::Error) -> Error {
        Error {
            diagnostics: vec![Diagnostic::new(format!("{doing} {}: {error}", path.display()))],
            source: Some(Box::new(error)),
        }
    }

    pub(crate) fn with_source(mut self, source: impl StdError + Send + Sync + 'static) -> Error {
        self.source = Some(Box::new(source));
        self
    }

    /// Everything that was found, the first cause first. Never empty.
    pub fn diagnostics(&self) -> &[Diagnostic] {
        &self.diagnostics
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, diagnostic) in self.diagnostics.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            diagnostic.fmt(f)?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

/// Build scripts that return [`io::Result`] can use `?`.
impl From<Error> for io::Error {
    fn from(error: Error) -> io::Error {
        io::Error::other(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_count_characters_from_one() {
        let text = "ab\nçde\n";
        assert_eq!(Position::of_offset(text, 0), Position { line: 1, column: 1 });
        assert_eq!(Position::of_offset(text, 3), Position { line: 2, column: 1 });
        assert_eq!(Position::of_offset(text, 5), Position { line: 2, column: 2 });
        assert_eq!(Position::of_offset(text, 4), Position { line: 2, column: 1 });
        assert_eq!(Position::of_offset(text, 99), Position { line: 3, column: 1 });
    }

    #[test]
    fn a_diagnostic_reads_like_a_compiler_error() {
        let diagnostic = Diagnostic::new("name 'Bar' is not defined")
            .in_file("proto/a.proto")
            .at(Position { line: 2, column: 2 })
            .with_excerpt("x\n\tBar b = 1;\n", 3)
            .with_help("import it");
        assert_eq!(
            diagnostic.to_string(),
            "proto/a.proto:2:2: name 'Bar' is not defined\n2 | \tBar b = 1;\n  | \t^^^\nhelp: import it"
        );
        let error = Error::new(vec![diagnostic]);
        assert_eq!(format!("{error:?}"), error.to_string());
    }

    #[test]
    fn marks_never_leave_their_line() {
        let diagnostic =
            Diagnostic::new("m").at(Position { line: 1, column: 3 }).with_excerpt("abcd\nx", 90);
        assert_eq!(diagnostic.to_string(), "m\n1 | abcd\n  |   ^^");
    }
}
