//! Opening a C library at run time, and what to tell who lacks it.

use std::error::Error;
use std::fmt;

use libloading::os::unix;

/// A library as distributions have it.
#[derive(Debug)]
pub(super) struct Source {
    /// What the dynamic linker looks for.
    pub(super) soname: &'static str,
    /// The package that has it, in Debian and Ubuntu.
    pub(super) debian: &'static str,
    /// The package that has it, in Fedora and its kin.
    pub(super) fedora: &'static str,
}

impl Source {
    /// The verbs. Devices' own drivers are libraries it opens: Debian has them in
    /// `ibverbs-providers`, Fedora in the same package.
    #[cfg(any(test, not(feature = "ibverbs")))]
    pub(super) const IBVERBS: Source = Source {
        soname: "libibverbs.so.1",
        debian: "libibverbs1 ibverbs-providers",
        fedora: "libibverbs",
    };
    /// The connection manager.
    pub(super) const RDMACM: Source =
        Source { soname: "librdmacm.so.1", debian: "librdmacm1", fedora: "librdmacm" };

    fn error(&self, problem: Problem, cause: &libloading::Error) -> LoadError {
        // libloading's own words for this are "dlopen failed"; `dlerror` is its source.
        let cause = cause.source().map_or_else(|| cause.to_string(), ToString::to_string);
        let Source { soname, debian, fedora } = *self;
        LoadError { soname, debian, fedora, problem, cause }
    }
}

/// Why the functions of a library cannot be called.
#[derive(Debug, Clone)]
pub(crate) struct LoadError {
    soname: &'static str,
    debian: &'static str,
    fedora: &'static str,
    problem: Problem,
    /// What `dlerror` said.
    cause: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Problem {
    /// The library does not open.
    Library,
    /// It has no function of this name.
    Function(String),
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let LoadError { soname, debian, fedora, problem, cause } = self;
        match problem {
            Problem::Library => write!(f, "cannot open {soname}: {cause}; install it with")?,
            Problem::Function(name) => {
                write!(f, "{soname} has no function {name}: {cause}; install a newer one with")?;
            }
        }
        write!(f, " `apt install {debian}` (Debian, Ubuntu) or `dnf install {fedora}` (Fedora)")
    }
}

impl Error for LoadError {}

/// An open library. It stays open as long as the process: pointers to its functions are copied
/// out, and the threads and drivers of libibverbs would not survive its end.
#[derive(Debug)]
pub(super) struct Library<'a> {
    handle: &'static unix::Library,
    source: &'a Source,
}

impl<'a> Library<'a> {
    /// Opens what `source` names.
    pub(super) fn open(source: &'a Source) -> Result<Library<'a>, LoadError> {
        // All symbols are bound now, so that a broken installation fails here and not in a call;
        // and they stay local, so that they never take the place of a program's own.
        let flags = unix::RTLD_NOW | unix::RTLD_LOCAL;
        // SAFETY: the initialisers of libibverbs and librdmacm set up their own variables only, and
        // ask nothing of the caller; the name is a soname, looked for where the system keeps them.
        let opened = unsafe { unix::Library::open(Some(source.soname), flags) };
        let library = opened.map_err(|error| source.error(Problem::Library, &error))?;
        Ok(Library { handle: Box::leak(Box::new(library)), source })
    }

    /// The function of this name. The newest version of it, as a linker would choose.
    ///
    /// # Safety
    ///
    /// `F` is the type of a function pointer, and of this function.
    pub(super) unsafe fn function<F: Copy>(&self, name: &str) -> Result<F, LoadError> {
        // SAFETY: `F` is the symbol's type by this function's contract.
        let symbol = unsafe { self.handle.get::<F>(name) };
        symbol
            .map(|symbol| *symbol)
            .map_err(|error| self.source.error(Problem::Function(name.to_owned()), &error))
    }
}
