//! Device `ibv`: real verbs, through libibverbs and librdmacm.

#[allow(dead_code, unused_imports)] // Until the queue pairs that use it stand beside it.
pub(crate) mod ffi;
