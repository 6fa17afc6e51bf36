//! What is wrong with a configuration: which source, which line, which key.

use std::fmt;

/// A configuration that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    source: Option<String>,
    line: Option<usize>,
    key: Option<String>,
    problem: String,
}

impl ConfigError {
    pub(super) fn new(problem: impl Into<String>) -> ConfigError {
        ConfigError { source: None, line: None, key: None, problem: problem.into() }
    }

    pub(super) fn with_key(mut self, key: impl Into<String>) -> ConfigError {
        self.key = Some(key.into());
        self
    }

    pub(super) fn with_source(mut self, source: impl Into<String>) -> ConfigError {
        self.source = Some(source.into());
        self
    }

    pub(super) fn with_line(mut self, line: Option<usize>) -> ConfigError {
        self.line = line;
        self
    }

    /// The file or the environment variable it came from; `None`: from code.
    pub fn source_name(&self) -> Option<&str> {
        self.source.as_deref()
    }

    /// The line of the file, counted from 1.
    pub fn line(&self) -> Option<usize> {
        self.line
    }

    /// The key, such as `limits.max_message_bytes`.
    pub fn key(&self) -> Option<&str> {
        self.key.as_deref()
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("bad configuration")?;
        if let Some(source) = &self.source {
            write!(f, " in {source}")?;
        }
        if let Some(line) = self.line {
            write!(f, ", line {line}")?;
        }
        if let Some(key) = &self.key {
            write!(f, ", key `{key}`")?;
        }
        write!(f, ": {}", self.problem)
    }
}

impl std::error::Error for ConfigError {}
