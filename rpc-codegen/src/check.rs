//! What is valid protobuf and cannot be generated: refused with its place.

use std::collections::{HashMap, HashSet};

use prost_types::field_descriptor_proto::Type;
use prost_types::{DescriptorProto, EnumDescriptorProto, FileDescriptorProto};

use crate::error::{Diagnostic, Error};
use crate::externs::Externs;
use crate::ident::variant;
use crate::load::Sources;
use crate::locate::{
    ENUM_VALUE, FILE_ENUM, FILE_MESSAGE, FILE_PACKAGE, MESSAGE_ENUM, MESSAGE_FIELD, MESSAGE_NESTED,
    child, diagnostic, in_words,
};
use crate::rename::dotted_package;

/// Refuses groups, enum values that become one variant, and package parts without a letter, all
/// at once.
pub(crate) fn check(
    files: &[FileDescriptorProto],
    externs: &Externs,
    sources: &Sources,
) -> Result<(), Error> {
    let mut found = Vec::new();
    for file in files {
        let mut check = Check { file, externs, sources, found: &mut found };
        check.file();
    }
    if found.is_empty() { Ok(()) } else { Err(Error::new(found)) }
}

struct Check<'a> {
    file: &'a FileDescriptorProto,
    externs: &'a Externs,
    sources: &'a Sources,
    found: &'a mut Vec<Diagnostic>,
}

impl Check<'_> {
    fn file(&mut self) {
        let package = dotted_package(self.file);
        if self.externs.covers(&package) {
            return;
        }
        let has_letter = |part: &str| part.chars().any(|c| c != '_');
        if !package.is_empty() && !package[1..].split('.').all(has_letter) {
            let message = format!("package '{}' cannot be a Rust module path", &package[1..]);
            self.refuse(&[FILE_PACKAGE], message, "give every part of it a letter");
        }
        for (index, message) in self.file.message_type.iter().enumerate() {
            self.message(message, &package, &child(&[], FILE_MESSAGE, index));
        }
        for (index, enumeration) in self.file.enum_type.iter().enumerate() {
            self.enumeration(enumeration, &package, &child(&[], FILE_ENUM, index));
        }
    }

    fn message(&mut self, message: &DescriptorProto, parent: &str, path: &[i32]) {
        let name = format!("{parent}.{}", message.name());
        if self.externs.covers(&name) {
            return;
        }
        for (index, field) in message.field.iter().enumerate() {
            if field.r#type() == Type::Group {
                // A group's field is the group's name in small letters; people know the other.
                let group = field.type_name().rsplit('.').next().unwrap_or_default();
                let text = format!("group '{group}' in message '{}' is not supported", &name[1..]);
                let help = "use a nested message; groups were removed from protobuf in proto3";
                self.refuse(&child(path, MESSAGE_FIELD, index), text, help);
            }
        }
        for (index, nested) in message.nested_type.iter().enumerate() {
            self.message(nested, &name, &child(path, MESSAGE_NESTED, index));
        }
        for (index, enumeration) in message.enum_type.iter().enumerate() {
            self.enumeration(enumeration, &name, &child(path, MESSAGE_ENUM, index));
        }
    }

    /// Values are known by name in text and JSON, so renaming them is not ours to do.
    fn enumeration(&mut self, enumeration: &EnumDescriptorProto, parent: &str, path: &[i32]) {
        let name = format!("{parent}.{}", enumeration.name());
        if self.externs.covers(&name) {
            return;
        }
        let mut numbers = HashSet::new();
        let mut variants: HashMap<String, usize> = HashMap::new();
        for (index, value) in enumeration.value.iter().enumerate() {
            if !numbers.insert(value.number()) {
                continue; // An alias: prost-build leaves it out.
            }
            let ident = variant(enumeration.name(), value.name());
            let value_path = child(path, ENUM_VALUE, index);
            if ident.is_empty() {
                let text = format!("enum value '{}' cannot be a Rust variant", value.name());
                self.refuse(&value_path, text, "give it a letter");
            } else if let Some(first) = variants.get(&ident) {
                let first_value = enumeration.value[*first].name();
                let text = format!(
                    "enum values '{first_value}' and '{}' of '{}' are both the variant '{ident}'",
                    value.name(),
                    &name[1..],
                );
                let first = in_words(self.file, &child(path, ENUM_VALUE, *first), self.sources);
                let help = format!("rename one of them; '{first_value}' is at {first}");
                self.refuse(&value_path, text, &help);
            } else {
                variants.insert(ident, index);
            }
        }
    }

    fn refuse(&mut self, path: &[i32], message: String, help: &str) {
        self.found.push(diagnostic(self.file, path, self.sources, message).with_help(help));
    }
}
