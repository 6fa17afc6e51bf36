//! Names that differ in protobuf and would be the same in Rust.
//!
//! `foo_bar` and `FooBar` are two messages in a `.proto` file and one struct in Rust. Here the
//! descriptors are rewritten so that prost-build never meets such a pair: the name that is
//! already spelled the Rust way keeps it, the others get a number, in the order of the files.
//! Names of messages, fields and oneofs are not on the wire, so nothing else changes.

use std::collections::HashMap;

use prost_build::Module;
use prost_types::{DescriptorProto, FieldDescriptorProto, FileDescriptorProto};

use crate::externs::Externs;
use crate::ident::{Scope, camel, snake};

/// What was renamed: fully qualified protobuf names, before and after.
#[derive(Debug, Default)]
pub(crate) struct Renames {
    /// Types with another name of their own.
    pub(crate) types: Vec<(String, String)>,
    /// Fields and oneofs.
    members: Vec<(String, String)>,
    /// Every type whose path changed, also because of a type around it.
    references: HashMap<String, String>,
}

impl Renames {
    /// The paths under which settings made for `matcher` have to be filed too. `matcher` is
    /// prost-build's: a whole path, or the end of one.
    pub(crate) fn also_known_as(&self, matcher: &str) -> Vec<String> {
        let mut also = Vec::new();
        let ends = matcher.match_indices('.').map(|(index, _)| index).chain([matcher.len()]);
        for end in ends.filter(|end| *end > 0) {
            let (head, tail) = matcher.split_at(end);
            let suffix = format!(".{head}");
            for (old, new) in self.types.iter().chain(&self.members) {
                if old == head || old.ends_with(&suffix) {
                    also.push(format!("{new}{tail}"));
                }
            }
        }
        also
    }
}

/// The Rust module a file's package is generated into.
pub(crate) fn module_of(file: &FileDescriptorProto) -> Module {
    Module::from_protobuf_package_name(file.package())
}

/// `.package`, or nothing for the empty package.
pub(crate) fn dotted_package(file: &FileDescriptorProto) -> String {
    let package = file.package().trim_matches('.');
    if package.is_empty() { String::new() } else { format!(".{package}") }
}

/// The names given out in each package's module.
pub(crate) type Modules = HashMap<Module, Scope>;

/// Renames what would collide, and keeps the names taken in each package's module.
pub(crate) fn disambiguate(
    files: &mut [FileDescriptorProto],
    externs: &Externs,
) -> (Renames, Modules) {
    let mut modules = modules_with_children(files, externs);
    let mut renames = Renames::default();
    let mut parts: HashMap<Module, Vec<(usize, Part)>> = HashMap::new();
    for (index, file) in files.iter().enumerate() {
        let package = dotted_package(file);
        let own = parts_of(&file.message_type, file.enum_type.len(), |part| {
            let name = part.name_in(&file.message_type, &file.enum_type);
            !externs.covers(&format!("{package}.{name}"))
        });
        parts.entry(module_of(file)).or_default().extend(own.into_iter().map(|part| (index, part)));
    }
    for (module, parts) in parts {
        let wishes = parts.iter().map(|(index, part)| {
            let file = &files[*index];
            Wish::for_type(*part, &file.message_type, &file.enum_type)
        });
        let names = grant(modules.entry(module).or_default(), &wishes.collect::<Vec<_>>());
        for ((index, part), name) in parts.into_iter().zip(names) {
            let file = &mut files[index];
            let package = dotted_package(file);
            let old = part.rename(&mut file.message_type, &mut file.enum_type, &name);
            renames.note_type(&package, &old, &package, &name);
            if let Part::Message { index, .. } = part {
                let (old, new) = (format!("{package}.{old}"), format!("{package}.{name}"));
                inside_message(&mut file.message_type[index], &old, &new, &mut renames);
            }
        }
    }
    // The order of a hash map must not decide the order of attributes.
    renames.types.sort();
    renames.members.sort();
    for file in files {
        refer_to_new_names(file, &renames.references);
    }
    (renames, modules)
}

/// A scope for every module, where the modules of packages below are taken.
fn modules_with_children(files: &[FileDescriptorProto], externs: &Externs) -> Modules {
    let mut modules = Modules::new();
    for file in files.iter().filter(|file| !externs.covers(&dotted_package(file))) {
        let module = module_of(file);
        let parts: Vec<&str> = module.parts().collect();
        for (depth, part) in parts.iter().enumerate() {
            let parent = Module::from_parts(parts[..depth].iter().copied());
            modules.entry(parent).or_default().reserve(*part);
        }
    }
    modules
}

/// A message or enum among its siblings.
#[derive(Debug, Clone, Copy)]
enum Part {
    Message { index: usize, has_module: bool },
    Enum { index: usize },
}

type Enums = [prost_types::EnumDescriptorProto];

impl Part {
    fn name_in(self, messages: &[DescriptorProto], enums: &Enums) -> String {
        match self {
            Part::Message { index, .. } => messages[index].name().to_owned(),
            Part::Enum { index } => enums[index].name().to_owned(),
        }
    }

    /// Sets the name and returns the one before.
    fn rename(self, messages: &mut [DescriptorProto], enums: &mut Enums, name: &str) -> String {
        let old = match self {
            Part::Message { index, .. } => messages[index].name.replace(name.to_owned()),
            Part::Enum { index } => enums[index].name.replace(name.to_owned()),
        };
        old.unwrap_or_default()
    }
}

/// The messages (without map entries, which become no struct) and enums that `wanted` lets pass.
fn parts_of(
    messages: &[DescriptorProto],
    enums: usize,
    wanted: impl Fn(Part) -> bool,
) -> Vec<Part> {
    let messages = messages.iter().enumerate().filter(|(_, message)| !is_map_entry(message));
    messages
        .map(|(index, message)| Part::Message { index, has_module: has_module(message) })
        .chain((0..enums).map(|index| Part::Enum { index }))
        .filter(|part| wanted(*part))
        .collect()
}

fn is_map_entry(message: &DescriptorProto) -> bool {
    message.options.as_ref().is_some_and(|options| options.map_entry())
}

/// Whether prost-build makes a module for what is inside the message.
fn has_module(message: &DescriptorProto) -> bool {
    !message.enum_type.is_empty()
        || message.nested_type.iter().any(|nested| !is_map_entry(nested))
        || (0..message.oneof_decl.len()).any(|index| !is_synthetic(message, index))
}

/// Whether a oneof only stands for a proto3 `optional` field.
fn is_synthetic(message: &DescriptorProto, oneof: usize) -> bool {
    message.field.iter().any(|field| oneof_of(field) == Some(oneof) && field.proto3_optional())
}

fn oneof_of(field: &FieldDescriptorProto) -> Option<usize> {
    field.oneof_index.and_then(|index| usize::try_from(index).ok())
}

/// A name that wants to stay as it is, and the Rust identifiers it would use up.
struct Wish<'a> {
    name: String,
    /// The first is the one the name itself turns into.
    idents: Box<ToIdents<'a>>,
}

type ToIdents<'a> = dyn Fn(&str) -> Vec<String> + 'a;

impl<'a> Wish<'a> {
    fn new(name: &str, idents: impl Fn(&str) -> Vec<String> + 'a) -> Wish<'a> {
        Wish { name: name.to_owned(), idents: Box::new(idents) }
    }

    fn for_type(part: Part, messages: &[DescriptorProto], enums: &Enums) -> Wish<'static> {
        let has_module = matches!(part, Part::Message { has_module: true, .. });
        Wish::new(&part.name_in(messages, enums), move |name| {
            let module = has_module.then(|| snake(name));
            [camel(name)].into_iter().chain(module).collect()
        })
    }

    fn is_spelled_as_in_rust(&self) -> bool {
        (self.idents)(&self.name)[0].trim_start_matches("r#") == self.name
    }
}

/// The spellings for all `wishes`, those that are spelled the Rust way first.
fn grant(scope: &mut Scope, wishes: &[Wish<'_>]) -> Vec<String> {
    let mut granted = vec![String::new(); wishes.len()];
    for rust_spelling in [true, false] {
        for (wish, spelling) in wishes.iter().zip(&mut granted) {
            if wish.is_spelled_as_in_rust() == rust_spelling {
                *spelling = scope.claim(&wish.name, &wish.idents);
            }
        }
    }
    granted
}

impl Renames {
    fn note_type(&mut self, old_parent: &str, old: &str, new_parent: &str, new: &str) {
        let (old_path, new_path) = (format!("{old_parent}.{old}"), format!("{new_parent}.{new}"));
        if old != new {
            self.types.push((old_path.clone(), new_path.clone()));
        }
        if old_path != new_path {
            self.references.insert(old_path, new_path);
        }
    }

    fn note_member(&mut self, old_parent: &str, old: &str, new_parent: &str, new: &str) {
        if old != new {
            self.members.push((format!("{old_parent}.{old}"), format!("{new_parent}.{new}")));
        }
    }
}

/// Names inside the message that was called `old` and is called `new` now.
fn inside_message(message: &mut DescriptorProto, old: &str, new: &str, renames: &mut Renames) {
    let mut scope = Scope::default();
    let parts = parts_of(&message.nested_type, message.enum_type.len(), |_| true);
    let wishes: Vec<_> = parts
        .iter()
        .map(|part| Wish::for_type(*part, &message.nested_type, &message.enum_type))
        .collect();
    let names = grant(&mut scope, &wishes);
    for (part, name) in parts.into_iter().zip(&names) {
        let old_name = part.rename(&mut message.nested_type, &mut message.enum_type, name);
        renames.note_type(old, &old_name, new, name);
        if let Part::Message { index, .. } = part {
            let (old, new) = (format!("{old}.{old_name}"), format!("{new}.{name}"));
            inside_message(&mut message.nested_type[index], &old, &new, renames);
        }
    }
    for entry in message.nested_type.iter().filter(|nested| is_map_entry(nested)) {
        // No struct, but fields refer to it by its whole path.
        renames.note_type(old, entry.name(), new, entry.name());
    }
    let nested: Vec<String> = names.iter().map(|name| camel(name)).collect();
    members(message, &nested, &mut scope, (old, new), renames);
}

/// Fields and oneofs. The struct's fields are one scope, each oneof's variants another; a oneof
/// is a field of the struct and a type beside the nested ones.
fn members(
    message: &mut DescriptorProto,
    nested: &[String],
    types: &mut Scope,
    (old, new): (&str, &str),
    renames: &mut Renames,
) {
    let is_real: Vec<bool> =
        (0..message.oneof_decl.len()).map(|index| !is_synthetic(message, index)).collect();
    let real_oneof = |field: &FieldDescriptorProto| {
        oneof_of(field).filter(|index| is_real.get(*index).copied().unwrap_or(false))
    };
    // Scopes: first the struct's fields, then each oneof's variants.
    let mut groups: Vec<Vec<usize>> = vec![Vec::new(); 1 + is_real.len()];
    for (index, field) in message.field.iter().enumerate() {
        groups[real_oneof(field).map_or(0, |oneof| oneof + 1)].push(index);
    }
    let mut fields = Scope::default();
    for (number, group) in groups.into_iter().enumerate() {
        let to_ident = if number == 0 { snake } else { camel };
        let wishes: Vec<_> = group
            .iter()
            .map(|index| Wish::new(message.field[*index].name(), move |name| vec![to_ident(name)]))
            .collect();
        let mut variants = Scope::default();
        let names = grant(if number == 0 { &mut fields } else { &mut variants }, &wishes);
        for (index, name) in group.into_iter().zip(names) {
            let old_name = message.field[index].name.replace(name.clone()).unwrap_or_default();
            renames.note_member(old, &old_name, new, &name);
        }
    }
    // prost-build adds "OneOf" to the type where a nested one has the name.
    let as_field = |ident: &str| format!("field {ident}");
    types.reserve_all(fields.taken().map(as_field));
    for (oneof, _) in message.oneof_decl.iter_mut().zip(&is_real).filter(|(_, is_real)| **is_real) {
        let name = types.claim(oneof.name(), |name| {
            let ident = camel(name);
            let is_taken = nested.contains(&ident);
            vec![as_field(&snake(name)), if is_taken { format!("{ident}OneOf") } else { ident }]
        });
        let old_name = oneof.name.replace(name.clone()).unwrap_or_default();
        renames.note_member(old, &old_name, new, &name);
    }
}

/// Makes fields and methods name the renamed types.
fn refer_to_new_names(file: &mut FileDescriptorProto, references: &HashMap<String, String>) {
    let update = |name: &mut Option<String>| {
        if let Some(new) = name.as_deref().and_then(|name| references.get(name)) {
            *name = Some(new.clone());
        }
    };
    fn in_message(message: &mut DescriptorProto, update: &impl Fn(&mut Option<String>)) {
        for field in message.field.iter_mut().chain(&mut message.extension) {
            update(&mut field.type_name);
            update(&mut field.extendee);
        }
        for nested in &mut message.nested_type {
            in_message(nested, update);
        }
    }
    for message in &mut file.message_type {
        in_message(message, &update);
    }
    for field in &mut file.extension {
        update(&mut field.type_name);
        update(&mut field.extendee);
    }
    for method in file.service.iter_mut().flat_map(|service| &mut service.method) {
        update(&mut method.input_type);
        update(&mut method.output_type);
    }
}
