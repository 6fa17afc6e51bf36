//! `.proto` files to descriptors, by protox, and its complaints to [`Error`].

use std::collections::HashSet;
use std::error::Error as StdError;
use std::fs;
use std::path::{Path, PathBuf};

use miette::Diagnostic as _;
use prost_types::{FileDescriptorProto, FileDescriptorSet};
use protox::prost_reflect::DescriptorPool;

use crate::error::{Diagnostic, Error, Position};

/// Descriptors that have been checked: every import is there and every name resolves.
pub(crate) struct Loaded {
    /// The files, each after those it imports.
    pub(crate) set: FileDescriptorSet,
    /// The same set encoded, with the extension options `FileDescriptorSet` cannot hold.
    pub(crate) encoded: Vec<u8>,
    /// The files on disk that were read.
    pub(crate) read: Vec<PathBuf>,
    /// Finds a file's path by the name it has in its descriptor.
    pub(crate) sources: Sources,
}

/// Where files with a given import name lie on disk.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sources {
    includes: Vec<PathBuf>,
}

impl Sources {
    /// The file a name stands for: the first include folder that has it wins, as in an import.
    pub(crate) fn path_of(&self, name: &str) -> PathBuf {
        self.includes
            .iter()
            .map(|include| include.join(name))
            .find(|path| path.is_file())
            .unwrap_or_else(|| PathBuf::from(name))
    }
}

/// Parses and links `protos` and everything they import.
pub(crate) fn protos(
    protos: &[impl AsRef<Path>],
    includes: &[impl AsRef<Path>],
) -> Result<Loaded, Error> {
    let includes: Vec<PathBuf> = includes.iter().map(|path| path.as_ref().to_owned()).collect();
    let sources = Sources { includes };
    if protos.is_empty() {
        return Err(Error::misuse("no .proto files were given"));
    }
    let compile = || {
        let mut compiler = protox::Compiler::new(&sources.includes)?;
        compiler.include_source_info(true).include_imports(true).open_files(protos)?;
        Ok(compiler)
    };
    let compiler: protox::Compiler = compile().map_err(|error| explain(error, &sources))?;
    Ok(Loaded {
        set: compiler.file_descriptor_set(),
        encoded: compiler.encode_file_descriptor_set(),
        read: compiler.files().filter_map(|file| file.path().map(Path::to_owned)).collect(),
        sources,
    })
}

/// Checks descriptors that somebody else compiled.
pub(crate) fn descriptors(set: FileDescriptorSet) -> Result<Loaded, Error> {
    let set = in_order_of_imports(with_known_syntax(set)?)?;
    let pool = DescriptorPool::from_file_descriptor_set(set).map_err(|error| {
        let mut diagnostic = Diagnostic::new(format!("invalid file descriptor set: {error}"));
        if let Some(file) = error.file() {
            diagnostic = diagnostic.in_file(file);
        }
        if let (Some(line), Some(column)) = (error.line(), error.column()) {
            diagnostic = diagnostic.at(Position { line: line + 1, column: column + 1 });
        }
        Error::new(vec![diagnostic]).with_source(error)
    })?;
    Ok(Loaded {
        set: FileDescriptorSet {
            file: pool.files().map(|file| file.file_descriptor_proto().clone()).collect(),
        },
        encoded: pool.encode_to_vec(),
        read: Vec::new(),
        sources: Sources::default(),
    })
}

/// Refuses what is neither proto2 nor proto3; the descriptor pool panics on it.
fn with_known_syntax(mut set: FileDescriptorSet) -> Result<FileDescriptorSet, Error> {
    for file in &mut set.file {
        match file.syntax.as_deref() {
            None | Some("proto2" | "proto3") => {}
            Some("") => file.syntax = None,
            Some(other) => {
                let message = format!("syntax '{other}' is not supported; proto2 and proto3 are");
                return Err(Error::new(vec![Diagnostic::new(message).in_file(file.name())]));
            }
        }
    }
    Ok(set)
}

/// The files, each after those it imports; all imports must be there. The descriptor pool needs
/// both, and panics on an import that is not.
fn in_order_of_imports(set: FileDescriptorSet) -> Result<FileDescriptorSet, Error> {
    let mut waiting: Vec<FileDescriptorProto> = set.file;
    let names: HashSet<String> = waiting.iter().map(|file| file.name().to_owned()).collect();
    for file in &waiting {
        if let Some(import) = file.dependency.iter().find(|import| !names.contains(*import)) {
            let message = format!("invalid file descriptor set: import '{import}' is not in it");
            return Err(Error::new(vec![Diagnostic::new(message).in_file(file.name())]));
        }
    }
    let mut done: HashSet<String> = HashSet::new();
    let mut file = Vec::with_capacity(waiting.len());
    while !waiting.is_empty() {
        let (ready, rest): (Vec<_>, Vec<_>) = waiting
            .into_iter()
            .partition(|file| file.dependency.iter().all(|import| done.contains(import)));
        if let (true, Some(stuck)) = (ready.is_empty(), rest.first()) {
            let message = "invalid file descriptor set: it imports itself, through others";
            return Err(Error::new(vec![Diagnostic::new(message).in_file(stuck.name())]));
        }
        done.extend(ready.iter().map(|file| file.name().to_owned()));
        file.extend(ready);
        waiting = rest;
    }
    Ok(FileDescriptorSet { file })
}

/// A protox error with the path, line and column of everything it found.
fn explain(error: protox::Error, sources: &Sources) -> Error {
    let file = error.file().map(|name| sources.path_of(name));
    let text = file.as_ref().and_then(|path| fs::read_to_string(path).ok()).unwrap_or_default();
    let place = Place { file, text: &text };

    let mut diagnostics = vec![place.diagnose(&error, error.is_parse())];
    diagnostics.extend(
        error.related().into_iter().flatten().map(|other| place.diagnose(other, error.is_parse())),
    );
    if error.is_file_not_found() {
        diagnostics[0] = diagnostics[0].clone().with_help(searched(sources));
    }
    Error::new(diagnostics).with_source(error)
}

fn searched(sources: &Sources) -> String {
    let folders: Vec<String> =
        sources.includes.iter().map(|include| format!("'{}'", include.display())).collect();
    if folders.is_empty() {
        "no include paths were given".to_owned()
    } else {
        format!("the include paths are {}", folders.join(", "))
    }
}

/// The file an error is about, and its text.
struct Place<'a> {
    file: Option<PathBuf>,
    text: &'a str,
}

impl Place<'_> {
    fn diagnose(&self, found: &dyn miette::Diagnostic, is_parse: bool) -> Diagnostic {
        let mut diagnostic = Diagnostic::new(with_causes(found));
        if let Some(file) = &self.file {
            diagnostic = diagnostic.in_file(file);
        }
        let labels: Vec<_> = found.labels().into_iter().flatten().collect();
        // A thing defined twice has two labels; the second definition is the one to blame.
        let again = labels.iter().find(|label| label.label().is_some_and(|l| l.contains("again")));
        if let Some(label) = again.or(labels.first()) {
            let end = (label.offset() + label.len()).min(self.text.len());
            let width = self
                .text
                .get(label.offset()..end)
                .map_or(1, |marked| marked.lines().next().unwrap_or_default().chars().count());
            diagnostic = diagnostic
                .at(Position::of_offset(self.text, label.offset()))
                .with_excerpt(self.text, width);
        } else if is_parse && !self.text.is_empty() {
            // The parser gives no label when it ran out of text.
            let end = self.text.trim_end().len();
            diagnostic =
                diagnostic.at(Position::of_offset(self.text, end)).with_excerpt(self.text, 1);
        }
        if let Some(first) = labels.first().filter(|_| again.is_some()) {
            let position = Position::of_offset(self.text, first.offset());
            return diagnostic.with_help(format!("the first is on line {}", position.line));
        }
        match found.help() {
            Some(help) => diagnostic.with_help(help.to_string()),
            None => diagnostic,
        }
    }
}

/// The error's message, followed by those of its causes that it does not repeat.
fn with_causes(error: &(impl StdError + ?Sized)) -> String {
    let mut message = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !message.contains(&text) {
            message = format!("{message}: {text}");
        }
        cause = error.source();
    }
    message
}
