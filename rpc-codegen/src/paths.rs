//! Protobuf paths as users write them in settings.

use crate::error::Error;

/// One or several protobuf paths: `"."`, `".pkg.Message.field"`, `["a", "b"]`, a vector.
///
/// A path with a leading dot names a package, type or field and everything in it; without one it
/// matches the end of a full name. `"."` matches everything.
pub trait Paths: sealed::Sealed {
    #[doc(hidden)]
    fn into_paths(self) -> Vec<String>;
}

mod sealed {
    #[allow(missing_debug_implementations)]
    pub trait Sealed {}
}

macro_rules! one_path {
    ($($one:ty),*) => {$(
        impl sealed::Sealed for $one {}
        impl Paths for $one {
            fn into_paths(self) -> Vec<String> {
                vec![String::from(self)]
            }
        }
    )*};
}

one_path!(&str, String, &String);

impl<S: AsRef<str>, const N: usize> sealed::Sealed for [S; N] {}
impl<S: AsRef<str>, const N: usize> Paths for [S; N] {
    fn into_paths(self) -> Vec<String> {
        self.as_slice().into_paths()
    }
}

impl<S: AsRef<str>, const N: usize> sealed::Sealed for &[S; N] {}
impl<S: AsRef<str>, const N: usize> Paths for &[S; N] {
    fn into_paths(self) -> Vec<String> {
        self.as_slice().into_paths()
    }
}

impl<S: AsRef<str>> sealed::Sealed for &[S] {}
impl<S: AsRef<str>> Paths for &[S] {
    fn into_paths(self) -> Vec<String> {
        self.iter().map(|path| path.as_ref().to_owned()).collect()
    }
}

impl<S: AsRef<str>> sealed::Sealed for Vec<S> {}
impl<S: AsRef<str>> Paths for Vec<S> {
    fn into_paths(self) -> Vec<String> {
        self.as_slice().into_paths()
    }
}

impl<S: AsRef<str>> sealed::Sealed for &Vec<S> {}
impl<S: AsRef<str>> Paths for &Vec<S> {
    fn into_paths(self) -> Vec<String> {
        self.as_slice().into_paths()
    }
}

/// Whether `pattern` is meant for the service or method called `name` (without a leading dot).
pub(crate) fn matches(pattern: &str, name: &str) -> bool {
    if pattern == "." || pattern == name {
        return true;
    }
    match pattern.strip_prefix('.') {
        Some(prefix) => {
            name.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        }
        None => name.strip_suffix(pattern).is_some_and(|rest| rest.ends_with('.')),
    }
}

/// Attributes for what matches a path.
#[derive(Debug, Clone, Default)]
pub(crate) struct Attributes {
    entries: Vec<(String, String)>,
}

impl Attributes {
    pub(crate) fn push(&mut self, path: impl AsRef<str>, attribute: impl AsRef<str>) {
        self.entries.push((path.as_ref().to_owned(), attribute.as_ref().to_owned()));
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.entries.iter().map(|(path, attribute)| (path.as_str(), attribute.as_str()))
    }

    /// The attributes for anything called one of `names`, as lines of code.
    pub(crate) fn lines(&self, names: &[&str]) -> String {
        self.iter()
            .filter(|(path, _)| names.iter().any(|name| matches(path, name)))
            .map(|(_, attribute)| format!("{attribute}\n"))
            .collect()
    }

    /// Refuses what is no attribute, before it turns up in the middle of generated code.
    pub(crate) fn check(&self, setting: &str) -> Result<(), Error> {
        use syn::parse::Parser;
        for (path, attribute) in self.iter() {
            let parsed = syn::Attribute::parse_outer.parse_str(attribute);
            let problem = match parsed {
                Ok(attributes) if !attributes.is_empty() => continue,
                Ok(_) => "it is empty".to_owned(),
                Err(error) => error.to_string(),
            };
            return Err(Error::misuse(format!(
                "{setting}({path:?}, {attribute:?}): not a Rust attribute such as \
                 \"#[derive(Eq)]\": {problem}"
            )));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_they_do_for_messages() {
        let name = "a.b.Greeter";
        for pattern in [".", "a.b.Greeter", ".a.b.Greeter", ".a.b", ".a", "Greeter", "b.Greeter"] {
            assert!(matches(pattern, name), "{pattern}");
        }
        for pattern in ["", "reeter", "a.b", ".b", ".a.b.G", "a", ".a.b.Greeter.Say"] {
            assert!(!matches(pattern, name), "{pattern}");
        }
    }

    #[test]
    fn what_is_no_attribute_is_refused_by_name() {
        let mut attributes = Attributes::default();
        attributes.push(".a", "#[derive(Eq)]\n#[cfg(test)]");
        assert!(attributes.check("type_attribute").is_ok());
        for bad in ["derive(Eq)", "#[derive(", ""] {
            let mut attributes = Attributes::default();
            attributes.push(".a", bad);
            let error = attributes.check("type_attribute").unwrap_err().to_string();
            assert!(error.starts_with(&format!("type_attribute(\".a\", {bad:?})")), "{error}");
        }
    }

    #[test]
    fn one_or_many_paths_are_accepted() {
        let expected = vec!["a".to_owned(), "b".to_owned()];
        assert_eq!(".".into_paths(), ["."]);
        assert_eq!(["a", "b"].into_paths(), expected);
        assert_eq!((&["a", "b"]).into_paths(), expected);
        assert_eq!(vec!["a", "b"].into_paths(), expected);
        assert_eq!((&expected).into_paths(), expected);
        assert_eq!((&expected[..]).into_paths(), expected);
    }
}
