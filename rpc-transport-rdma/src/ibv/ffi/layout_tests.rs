//! The bindings in use against the C headers: sizes, offsets and values.
//!
//! `layout_facts` is what gcc measured on rdma-core 44, x86_64. The committed bindings must agree
//! with all of it. So must the crate `ibverbs-sys`, where the feature takes it: it is generated
//! from a newer rdma-core, of which the two known differences are named below.
//!
//! Other processors differ in the sizes of mutexes only, and these come from `libc`.
#![cfg(target_arch = "x86_64")]

use std::mem::{align_of, offset_of, size_of};

use super::layout_facts::{completion_facts, rdma_cm_facts, verbs_facts};

/// Facts compared, and those that do not hold.
#[derive(Default)]
struct Comparison {
    compared: usize,
    differences: Vec<String>,
}

impl Comparison {
    fn fact(&mut self, name: &str, ours: i64, in_c: i64) {
        self.compared += 1;
        if ours != in_c {
            self.differences.push(format!("{name}: {ours}, in C {in_c}"));
        }
    }

    fn size(&mut self, name: &str, ours: usize, in_c: usize) {
        self.fact(name, i64::try_from(ours).unwrap(), i64::try_from(in_c).unwrap());
    }
}

/// Compares every fact with the types and constants in scope where this is called.
macro_rules! compare {
    (
        structs { $(
            $ty:ident $size:literal $align:literal {
                $( $($field:ident).+ = $offset:literal, )*
            }
        )* }
        enums { $( $enumeration:ty = $enumeration_size:literal, )* }
        constants { $( $constant:path = $value:literal, )* }
        flags { $( $flag:path = $bits:literal, )* }
    ) => {{
        let mut comparison = Comparison::default();
        $(
            let name = stringify!($ty);
            comparison.size(&format!("size of {name}"), size_of::<$ty>(), $size);
            comparison.size(&format!("alignment of {name}"), align_of::<$ty>(), $align);
            $(
                let field = format!("offset of {name}.{}", stringify!($($field).+));
                comparison.size(&field, offset_of!($ty, $($field).+), $offset);
            )*
        )*
        $(
            let name = concat!("size of ", stringify!($enumeration));
            comparison.size(name, size_of::<$enumeration>(), $enumeration_size);
        )*
        $( comparison.fact(stringify!($constant), i64::from($constant), $value); )*
        $( comparison.fact(stringify!($flag), i64::from($flag.0), $bits); )*
        comparison
    }};
}

/// Nothing differs, in as many facts as there should at least be.
fn assert_same(comparison: &Comparison, at_least: usize) {
    assert!(comparison.differences.is_empty(), "{:#?}", comparison.differences);
    assert!(comparison.compared >= at_least, "only {} facts", comparison.compared);
}

#[test]
fn committed_verbs_are_as_in_c() {
    use super::verbs::*;
    assert_same(&verbs_facts!(compare), 500);
    assert_same(&completion_facts!(compare), 15);
}

#[test]
fn rdma_cm_on_the_verbs_in_use_is_as_in_c() {
    use super::*;
    assert_same(&rdma_cm_facts!(compare), 80);
}

#[cfg(feature = "ibverbs")]
#[test]
fn ibverbs_sys_is_as_in_c_but_for_appended_tails() {
    use ibverbs_sys::*;
    let comparison = verbs_facts!(compare);
    assert!(comparison.compared >= 500, "only {} facts", comparison.compared);
    // `active_speed_ex` was appended. The library writes as much as the caller's size says.
    assert_eq!(comparison.differences, ["size of ibv_port_attr: 56, in C 52"]);
    // The other struct that has grown since rdma-core 44, `ibv_qp_ex`, is not among ours: it is
    // only reached through `ibv_create_qp_ex`, which is not either.
}

/// `ibverbs-sys` writes `ibv_wc` by hand, with private fields: those are read by its methods, from
/// a completion written by our own fields.
#[cfg(feature = "ibverbs")]
#[test]
#[allow(unsafe_code)]
fn ibverbs_sys_has_the_same_completion() {
    use ibverbs_sys::{ibv_wc, ibv_wc_flags};

    use super::verbs;

    assert_eq!(size_of::<ibv_wc>(), size_of::<verbs::ibv_wc>());
    assert_eq!(align_of::<ibv_wc>(), align_of::<verbs::ibv_wc>());
    let ours = verbs::ibv_wc {
        wr_id: 0x0102_0304_0506_0708,
        status: verbs::ibv_wc_status::IBV_WC_WR_FLUSH_ERR,
        opcode: 0x1111,
        vendor_err: 0x2222,
        byte_len: 0x3333,
        __bindgen_anon_1: verbs::ibv_wc__bindgen_ty_1 { imm_data: 0x4444 },
        qp_num: 0x5555,
        src_qp: 0x6666,
        wc_flags: 0x7777,
        pkey_index: 0x8888,
        slid: 0x9999,
        sl: 0xaa,
        dlid_path_bits: 0xbb,
    };
    // SAFETY: both are `repr(C)` of integers only, of one size, so any bytes are a value.
    let theirs = unsafe { std::mem::transmute::<verbs::ibv_wc, ibv_wc>(ours) };
    assert_eq!(theirs.wr_id(), ours.wr_id);
    assert_eq!(theirs.error(), Some((ours.status, ours.vendor_err)));
    assert_eq!(theirs.opcode(), ours.opcode);
    assert_eq!(theirs.len(), ours.byte_len as usize);
    assert_eq!(theirs.imm_data, 0x4444);
    assert_eq!(theirs.qp_num, ours.qp_num);
    assert_eq!(theirs.src_qp, ours.src_qp);
    assert_eq!(theirs.wc_flags, ibv_wc_flags(ours.wc_flags));
    assert_eq!(theirs.pkey_index, ours.pkey_index);
    assert_eq!(theirs.slid, ours.slid);
    assert_eq!(theirs.sl, ours.sl);
    assert_eq!(theirs.dlid_path_bits, ours.dlid_path_bits);
}
