//! Where in a `.proto` file a descriptor comes from.
//!
//! Descriptors number their parts: a path such as `[4, 0, 2, 1]` is field 1 of message 0. The
//! constants are the field numbers of `google/protobuf/descriptor.proto`.

use std::collections::HashSet;

use prost_types::source_code_info::Location;
use prost_types::{DescriptorProto, EnumDescriptorProto, FileDescriptorProto};

use crate::error::{Diagnostic, Position};
use crate::load::Sources;

pub(crate) const FILE_PACKAGE: i32 = 2;
pub(crate) const FILE_MESSAGE: i32 = 4;
pub(crate) const FILE_ENUM: i32 = 5;
pub(crate) const FILE_SERVICE: i32 = 6;
pub(crate) const MESSAGE_FIELD: i32 = 2;
pub(crate) const MESSAGE_NESTED: i32 = 3;
pub(crate) const MESSAGE_ENUM: i32 = 4;
pub(crate) const MESSAGE_ONEOF: i32 = 8;
pub(crate) const ENUM_VALUE: i32 = 2;
pub(crate) const SERVICE_METHOD: i32 = 2;
const NAME: i32 = 1;

/// `path` with one more part.
pub(crate) fn child(path: &[i32], kind: i32, index: usize) -> Vec<i32> {
    let index = i32::try_from(index).expect("descriptors have at most 2^31 parts");
    [path, &[kind, index]].concat()
}

/// The place of the part at `path`: of its name where that is known.
pub(crate) fn position(file: &FileDescriptorProto, path: &[i32]) -> Option<Position> {
    let locations = &file.source_code_info.as_ref()?.location;
    let name = [path, &[NAME]].concat();
    let location = locations
        .iter()
        .find(|location| location.path == name)
        .or_else(|| locations.iter().find(|location| location.path == path))?;
    let (line, column) = (location.span.first()?, location.span.get(1)?);
    Some(Position {
        line: usize::try_from(*line).ok()? + 1,
        column: usize::try_from(*column).ok()? + 1,
    })
}

/// A diagnostic about the part of `file` at `path`.
pub(crate) fn diagnostic(
    file: &FileDescriptorProto,
    path: &[i32],
    sources: &Sources,
    message: String,
) -> Diagnostic {
    let source = sources.path_of(file.name());
    let text = std::fs::read_to_string(&source).unwrap_or_default();
    let diagnostic = Diagnostic::new(message).in_file(source);
    match position(file, path) {
        Some(position) => diagnostic.at(position).with_excerpt(&text, 1),
        None => diagnostic,
    }
}

/// Where a part is, in words for the middle of a message.
pub(crate) fn in_words(file: &FileDescriptorProto, path: &[i32], sources: &Sources) -> String {
    let source = sources.path_of(file.name());
    match position(file, path) {
        Some(Position { line, column }) => format!("{}:{line}:{column}", source.display()),
        None => source.display().to_string(),
    }
}

/// Gives every part that prost-build asks for a location, if the file has locations at all.
///
/// Compilers other than ours may leave some out, and prost-build panics then.
pub(crate) fn complete(file: &mut FileDescriptorProto) {
    if file.source_code_info.is_none() {
        return;
    }
    let mut wanted = Vec::new();
    for (index, message) in file.message_type.iter().enumerate() {
        message_paths(message, child(&[], FILE_MESSAGE, index), &mut wanted);
    }
    for (index, enumeration) in file.enum_type.iter().enumerate() {
        enum_paths(enumeration, child(&[], FILE_ENUM, index), &mut wanted);
    }
    for (index, service) in file.service.iter().enumerate() {
        let path = child(&[], FILE_SERVICE, index);
        wanted.extend((0..service.method.len()).map(|m| child(&path, SERVICE_METHOD, m)));
        wanted.push(path);
    }
    if let Some(info) = &mut file.source_code_info {
        let known: HashSet<Vec<i32>> =
            info.location.iter().map(|location| location.path.clone()).collect();
        let missing = wanted.into_iter().filter(|path| !known.contains(path));
        info.location.extend(missing.map(|path| Location { path, ..Location::default() }));
    }
}

fn message_paths(message: &DescriptorProto, path: Vec<i32>, wanted: &mut Vec<Vec<i32>>) {
    wanted.extend((0..message.field.len()).map(|i| child(&path, MESSAGE_FIELD, i)));
    wanted.extend((0..message.oneof_decl.len()).map(|i| child(&path, MESSAGE_ONEOF, i)));
    for (index, nested) in message.nested_type.iter().enumerate() {
        message_paths(nested, child(&path, MESSAGE_NESTED, index), wanted);
    }
    for (index, enumeration) in message.enum_type.iter().enumerate() {
        enum_paths(enumeration, child(&path, MESSAGE_ENUM, index), wanted);
    }
    wanted.push(path);
}

fn enum_paths(enumeration: &EnumDescriptorProto, path: Vec<i32>, wanted: &mut Vec<Vec<i32>>) {
    wanted.extend((0..enumeration.value.len()).map(|i| child(&path, ENUM_VALUE, i)));
    wanted.push(path);
}
