//! Types that somebody else generates.

use crate::error::Error;

/// The protobuf paths that stand for Rust types from elsewhere.
#[derive(Debug, Clone, Default)]
pub(crate) struct Externs {
    /// Protobuf path and Rust path, as given.
    pub(crate) paths: Vec<(String, String)>,
    /// `google.protobuf` is generated here too, instead of coming from prost-types.
    pub(crate) compile_well_known_types: bool,
}

impl Externs {
    /// Whether no code is generated for the type or package with this fully qualified name.
    pub(crate) fn covers(&self, name: &str) -> bool {
        let is_extern = |path: &str| {
            self.paths.iter().any(|(proto_path, _)| proto_path == path)
                || (path == ".google.protobuf" && !self.compile_well_known_types)
        };
        is_extern(name) || name.rmatch_indices('.').any(|(index, _)| is_extern(&name[..index]))
    }

    /// Refuses Rust paths that are none, before they turn up in the middle of generated code.
    pub(crate) fn check(&self) -> Result<(), Error> {
        for (proto_path, rust_path) in &self.paths {
            if let Err(error) = syn::parse_str::<syn::Type>(rust_path) {
                return Err(Error::misuse(format!(
                    "extern_path({proto_path:?}, {rust_path:?}): not a Rust type: {error}"
                )));
            }
        }
        Ok(())
    }
}

/// A Rust type as named in a package's module, renamed for a module inside that one.
///
/// Types of prost-build's own naming are relative to the package's module. Extern ones are
/// absolute, primitive, or (for those who keep a type of their own beside the generated code)
/// relative too.
pub(crate) fn from_inner_module(rust_type: &str, is_extern: bool) -> String {
    let is_relative = if is_extern {
        rust_type.starts_with("super::")
            || rust_type.starts_with("self::")
            || (is_plain_word(rust_type) && !is_primitive(rust_type))
    } else {
        true
    };
    if is_relative {
        format!("super::{}", rust_type.trim_start_matches("self::"))
    } else {
        rust_type.to_owned()
    }
}

fn is_plain_word(rust_type: &str) -> bool {
    rust_type.chars().all(|c| c.is_alphanumeric() || c == '_')
}

fn is_primitive(rust_type: &str) -> bool {
    const PRIMITIVES: &[&str] = &["bool", "f32", "f64", "i32", "i64", "u32", "u64", "String"];
    PRIMITIVES.contains(&rust_type)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_covers_what_is_below_it() {
        let mut externs =
            Externs { paths: vec![(".a.b".into(), "::x".into())], ..Externs::default() };
        assert!(externs.covers(".a.b") && externs.covers(".a.b.C") && externs.covers(".a.b.c.D"));
        assert!(!externs.covers(".a.bc") && !externs.covers(".a") && !externs.covers(".A.b"));
        assert!(externs.covers(".google.protobuf.Empty"));
        externs.compile_well_known_types = true;
        assert!(!externs.covers(".google.protobuf.Empty"));
    }

    #[test]
    fn inner_modules_reach_outer_types() {
        assert_eq!(from_inner_module("HelloRequest", false), "super::HelloRequest");
        assert_eq!(from_inner_module("super::b::X", false), "super::super::b::X");
        assert_eq!(from_inner_module("()", true), "()");
        assert_eq!(from_inner_module("f64", true), "f64");
        assert_eq!(from_inner_module("::x::Y", true), "::x::Y");
        assert_eq!(from_inner_module("crate::x::Y", true), "crate::x::Y");
        assert_eq!(from_inner_module("super::x::Y", true), "super::super::x::Y");
        assert_eq!(from_inner_module("self::Y", true), "super::Y");
        assert_eq!(from_inner_module("Y", true), "super::Y");
    }
}
