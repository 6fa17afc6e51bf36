//! Rust identifiers from protobuf names.
//!
//! Message names are converted by prost-build; the same rules are repeated here because
//! collisions have to be found, and stubs named, before prost-build runs. A unit test compares
//! the two.

use std::collections::HashSet;

use heck::{ToSnakeCase, ToUpperCamelCase};

/// Keywords of any edition that can be written as `r#keyword`.
const RAW_KEYWORDS: &[&str] = &[
    "abstract", "as", "async", "await", "become", "box", "break", "const", "continue", "do", "dyn",
    "else", "enum", "false", "final", "fn", "for", "gen", "if", "impl", "in", "let", "loop",
    "macro", "match", "mod", "move", "mut", "override", "priv", "pub", "ref", "return", "static",
    "struct", "trait", "true", "try", "type", "typeof", "unsafe", "unsized", "use", "virtual",
    "where", "while", "yield",
];

/// Keywords that have no raw form; they get an underscore at the end.
const STUBBORN_KEYWORDS: &[&str] = &["_", "super", "self", "Self", "extern", "crate"];

/// Turns words that are not yet an identifier (keywords, a digit in front) into one.
pub(crate) fn sanitize(word: &str) -> String {
    if RAW_KEYWORDS.contains(&word) {
        format!("r#{word}")
    } else if STUBBORN_KEYWORDS.contains(&word) {
        format!("{word}_")
    } else if word.starts_with(char::is_numeric) {
        format!("_{word}")
    } else {
        word.to_owned()
    }
}

/// `snake_case` without regard to keywords: the stem of longer names.
pub(crate) fn snake_stem(name: &str) -> String {
    name.to_snake_case()
}

/// `UpperCamelCase` without regard to keywords: the stem of longer names.
pub(crate) fn camel_stem(name: &str) -> String {
    name.to_upper_camel_case()
}

/// The identifier of a field, method or module.
pub(crate) fn snake(name: &str) -> String {
    sanitize(&snake_stem(name))
}

/// The identifier of a type or enum variant.
pub(crate) fn camel(name: &str) -> String {
    sanitize(&camel_stem(name))
}

/// The variant prost-build makes of an enum value: without the enum's name in front.
pub(crate) fn variant(enum_name: &str, value_name: &str) -> String {
    let value = camel(value_name);
    match value.strip_prefix(&camel(enum_name)) {
        Some(rest) if rest.starts_with(char::is_uppercase) => sanitize(rest),
        _ => value,
    }
}

/// Gives out spellings so that no two share a Rust identifier.
///
/// A spelling is handed out unchanged when it can be; otherwise it gets the first number from 2
/// on that makes it free. Names made of underscores only have no letters to convert and become
/// the word `underscore`.
#[derive(Debug, Default)]
pub(crate) struct Scope {
    taken: HashSet<String>,
}

impl Scope {
    /// Keeps `ident` from being given out.
    pub(crate) fn reserve(&mut self, ident: impl Into<String>) {
        self.taken.insert(ident.into());
    }

    /// Keeps all `idents` from being given out.
    pub(crate) fn reserve_all(&mut self, idents: impl IntoIterator<Item = String>) {
        self.taken.extend(idents);
    }

    /// What has been given out or reserved, in no order.
    pub(crate) fn taken(&self) -> impl Iterator<Item = &str> {
        self.taken.iter().map(String::as_str)
    }

    /// A spelling derived from `name` whose identifiers, as made by `idents`, are all free. They
    /// are taken from now on.
    pub(crate) fn claim(&mut self, name: &str, idents: impl Fn(&str) -> Vec<String>) -> String {
        let base = if name.chars().all(|c| c == '_') { "underscore" } else { name };
        let mut spelling = base.to_owned();
        let mut number = 2u32;
        loop {
            let wanted = idents(&spelling);
            if wanted.iter().all(|ident| !self.taken.contains(ident)) {
                self.taken.extend(wanted);
                return spelling;
            }
            spelling = format!("{}{number}", base.trim_end_matches('_'));
            number += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keywords_become_identifiers() {
        assert_eq!(snake("Type"), "r#type");
        assert_eq!(snake("Move"), "r#move");
        assert_eq!(snake("Gen"), "r#gen");
        assert_eq!(snake("Self"), "self_");
        assert_eq!(camel("self"), "Self_");
        assert_eq!(snake("_1st"), "_1st");
    }

    #[test]
    fn modules_are_spelled_as_prost_build_spells_them() {
        let awkward = [
            "Type",
            "self",
            "Super",
            "crate",
            "extern",
            "FooBarBAZ",
            "foo__bar",
            "Foo1_2",
            "gen",
            "XMLHttpRequest",
            "a1B2",
            "_x",
            "x_",
            "9lives",
            "try",
            "union",
            "dyn",
            "async",
        ];
        for name in RAW_KEYWORDS.iter().chain(STUBBORN_KEYWORDS).chain(&awkward) {
            if *name != "_" {
                let module = prost_build::Module::from_protobuf_package_name(name);
                assert_eq!(module.to_string(), snake(name), "{name}");
            }
        }
    }

    #[test]
    fn variants_lose_the_name_of_their_enum() {
        assert_eq!(variant("Color", "COLOR_RED"), "Red");
        assert_eq!(variant("Color", "COLORFUL"), "Colorful");
        assert_eq!(variant("Foo", "FOO_SELF"), "Self_");
        assert_eq!(variant("Foo", "FOO_1"), "Foo1");
    }

    #[test]
    fn a_taken_name_gets_the_first_free_number() {
        let idents = |name: &str| vec![snake(name)];
        let mut scope = Scope::default();
        assert_eq!(scope.claim("Get2", idents), "Get2");
        assert_eq!(scope.claim("Get", idents), "Get");
        assert_eq!(scope.claim("get", idents), "get3");
        assert_eq!(scope.claim("GET_", idents), "GET4");
        assert_eq!(scope.claim("__", idents), "underscore");
        assert_eq!(scope.claim("_", idents), "underscore2");
    }
}
