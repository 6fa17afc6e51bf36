//! libibverbs and librdmacm as C declares them: types, constants, and tables of functions.
//!
//! The types come from one of two places, by the same names:
//!
//! * [`verbs`], committed, generated from rdma-core 44's headers; the libraries are opened at run
//!   time, so a program starts where they are missing and says so;
//! * with the feature `ibverbs`, the crate `ibverbs-sys`; libibverbs is linked at build time.
//!
//! librdmacm's types are always [`rdma_cm`]'s, on whichever verbs types are in use, and the library
//! is always opened at run time: only iWARP needs it.
//!
//! | file | idea |
//! |---|---|
//! | `verbs`, `rdma_cm` | generated: types and constants |
//! | `verbs_prototypes`, `rdma_cm_prototypes` | generated: what the compiler checks the tables against |
//! | `table` | [`Verbs`] and [`RdmaCm`]: one pointer for each function |
//! | `load` | opening a library, and what to tell who lacks it |
//! | `inline` | the functions that C has as inline code: post, poll, arm |
//! | `layout_facts`, `layout_tests` | what gcc says of the structs, and the comparison |
//! | `gid` | an entry of the GID table, from old libraries too |
//! | `completion` | reading an [`ibv_wc`], whose fields the two sources name differently |
//!
//! # Enums
//!
//! None is a Rust enum: a device may report values these headers do not know, and each is read as
//! the integer it is. `ibv_wc_status`, `ibv_wc_opcode`, `ibv_wr_opcode`, `ibv_qp_type`,
//! `ibv_qp_state` and `ibv_port_state` are modules of constants with a `Type`; `ibv_access_flags`,
//! `ibv_qp_attr_mask`, `ibv_send_flags`, `ibv_wc_flags` and `ibv_port_cap_flags` are newtypes with
//! associated constants and `|`; the others (`ibv_mtu`, `ibv_event_type`, `ibv_node_type`,
//! `ibv_transport_type`, `ibv_gid_type`, `IBV_LINK_LAYER_*`, `RDMA_CM_EVENT_*`, ...) are type
//! aliases with plain constants.

mod completion;
mod gid;
mod inline;
#[cfg(test)]
mod layout_facts;
#[cfg(test)]
mod layout_tests;
mod load;
mod table;
#[cfg(test)]
mod tests;

/// Types of generated files, allowed what generated code does: C's names, no documentation.
macro_rules! generated {
    ($($(#[$meta:meta])* $name:ident),* $(,)?) => {$(
        $(#[$meta])*
        #[allow(missing_docs, missing_debug_implementations, unreachable_pub, unused)]
        #[allow(non_camel_case_types, non_upper_case_globals, non_snake_case)]
        #[allow(unused_qualifications, clippy::undocumented_unsafe_blocks, clippy::all)]
        mod $name;
    )*};
}

generated! {
    #[cfg(any(test, not(feature = "ibverbs")))]
    verbs,
    #[cfg(not(feature = "ibverbs"))]
    verbs_prototypes,
    rdma_cm,
    rdma_cm_prototypes,
}

#[cfg(feature = "ibverbs")]
pub(crate) use ibverbs_sys::*;
pub(crate) use rdma_cm::*;
#[cfg(not(feature = "ibverbs"))]
pub(crate) use verbs::*;

pub(crate) use completion::*;
pub(crate) use inline::*;
pub(crate) use table::{RdmaCm, Verbs};
