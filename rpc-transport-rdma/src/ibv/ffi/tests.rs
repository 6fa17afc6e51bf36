//! The tables, the inline verbs and the readers of completions, without a device.

use std::ffi::{CStr, c_int};
use std::ptr;

use super::*;

/// A context whose driver has none of the functions.
fn empty_context() -> ibv_context {
    ibv_context::default()
}

/// Real libibverbs, or a line saying that it is not here.
fn verbs() -> Option<&'static Verbs> {
    Verbs::get().map_err(|error| eprintln!("skipped: {error}")).ok()
}

/// The words of a C function that names a constant.
fn words(text: *const std::ffi::c_char) -> String {
    assert!(!text.is_null());
    // SAFETY: these functions return static strings.
    unsafe { CStr::from_ptr(text) }.to_str().expect("ASCII").to_owned()
}

#[test]
fn functions_of_the_real_library_answer() {
    let Some(verbs) = verbs() else { return };
    // SAFETY: these take a number and return a static string.
    unsafe {
        let flushed = ibv_wc_status::IBV_WC_WR_FLUSH_ERR;
        assert_eq!(words((verbs.ibv_wc_status_str)(flushed)), "Work Request Flushed Error");
        assert_eq!(words((verbs.ibv_port_state_str)(ibv_port_state::IBV_PORT_DOWN)), "down");
        assert_eq!(words((verbs.ibv_node_type_str)(IBV_NODE_RNIC)), "iWARP NIC");
        assert_eq!(words((verbs.ibv_event_type_str)(IBV_EVENT_CQ_ERR)), "CQ error");
        // A value no header knows.
        assert_eq!(words((verbs.ibv_wc_status_str)(0x7fff_ffff)), "unknown");
    }
}

#[test]
fn devices_are_listed_or_the_kernel_has_no_rdma() {
    let Some(verbs) = verbs() else { return };
    let mut devices: c_int = -1;
    // SAFETY: the argument is a writable integer; the list is freed once and not used after.
    unsafe {
        let list = (verbs.ibv_get_device_list)(&raw mut devices);
        if list.is_null() {
            let errno = std::io::Error::last_os_error();
            assert_eq!(errno.raw_os_error(), Some(libc::ENOSYS), "{errno}");
        } else {
            assert!(devices >= 0);
            (verbs.ibv_free_device_list)(list);
        }
    }
}

#[test]
fn the_connection_manager_of_the_real_library_answers() {
    match RdmaCm::get() {
        // SAFETY: the function takes a number and returns a static string.
        Ok(cm) => unsafe {
            let rejected = words((cm.rdma_event_str)(RDMA_CM_EVENT_REJECTED));
            assert_eq!(rejected, "RDMA_CM_EVENT_REJECTED");
        },
        Err(error) => eprintln!("skipped: {error}"),
    }
}

#[test]
fn inline_verbs_go_through_the_context() {
    unsafe extern "C" fn post_send(
        qp: *mut ibv_qp,
        wr: *mut ibv_send_wr,
        bad: *mut *mut ibv_send_wr,
    ) -> c_int {
        // SAFETY: the test passes a live queue pair and a writable pointer.
        unsafe {
            *bad = wr;
            (*qp).qp_num.cast_signed()
        }
    }
    unsafe extern "C" fn post_recv(
        qp: *mut ibv_qp,
        wr: *mut ibv_recv_wr,
        bad: *mut *mut ibv_recv_wr,
    ) -> c_int {
        // SAFETY: the test passes a live queue pair and a writable pointer.
        unsafe {
            *bad = wr;
            (*qp).qp_num.cast_signed() + 1
        }
    }
    unsafe extern "C" fn poll_cq(_cq: *mut ibv_cq, entries: c_int, wc: *mut ibv_wc) -> c_int {
        // SAFETY: the test passes room for one completion.
        unsafe { (*wc).qp_num = 9 };
        entries
    }
    unsafe extern "C" fn req_notify_cq(_cq: *mut ibv_cq, solicited_only: c_int) -> c_int {
        40 + solicited_only
    }

    let mut context = empty_context();
    context.ops.post_send = Some(post_send);
    context.ops.post_recv = Some(post_recv);
    context.ops.poll_cq = Some(poll_cq);
    context.ops.req_notify_cq = Some(req_notify_cq);
    let mut qp = ibv_qp { context: &raw mut context, qp_num: 7, ..Default::default() };
    let mut cq = ibv_cq { context: &raw mut context, ..Default::default() };
    let (mut send, mut recv) = (ibv_send_wr::default(), ibv_recv_wr::default());
    let (mut bad_send, mut bad_recv) = (ptr::null_mut(), ptr::null_mut());
    let mut wc = ibv_wc::default();
    // SAFETY: all pointers are to live values of this test.
    unsafe {
        assert_eq!(ibv_post_send(&raw mut qp, &raw mut send, &raw mut bad_send), 7);
        assert_eq!(bad_send, &raw mut send);
        assert_eq!(ibv_post_recv(&raw mut qp, &raw mut recv, &raw mut bad_recv), 8);
        assert_eq!(bad_recv, &raw mut recv);
        assert_eq!(ibv_poll_cq(&raw mut cq, 1, &raw mut wc), 1);
        assert_eq!(ibv_req_notify_cq(&raw mut cq, 1), 41);
    }
    assert_eq!(wc_qp_num(&wc), 9);
}

#[test]
fn a_driver_without_a_function_is_an_errno() {
    let mut context = empty_context();
    let mut qp = ibv_qp { context: &raw mut context, ..Default::default() };
    let mut cq = ibv_cq { context: &raw mut context, ..Default::default() };
    // SAFETY: the queues are live; the other pointers are not followed, as nobody is called.
    unsafe {
        let unsupported = libc::EOPNOTSUPP;
        assert_eq!(ibv_post_send(&raw mut qp, ptr::null_mut(), ptr::null_mut()), unsupported);
        assert_eq!(ibv_post_recv(&raw mut qp, ptr::null_mut(), ptr::null_mut()), unsupported);
        assert_eq!(ibv_poll_cq(&raw mut cq, 0, ptr::null_mut()), -unsupported);
        assert_eq!(ibv_req_notify_cq(&raw mut cq, 0), unsupported);
    }
}

/// A completion as a driver writes it, as plain words at C's offsets.
fn completion(status: u32) -> ibv_wc {
    let mut words = [0_u32; 12];
    words[0] = 0x0506_0708_u32.to_le();
    words[1] = 0x0102_0304_u32.to_le();
    words[2] = status;
    words[3] = 0x8000_0001; // an opcode no header knows
    words[4] = 33; // the vendor's error
    words[5] = u32::MAX; // bytes
    words[6] = 0x1122_3344_u32.to_be(); // the immediate
    words[7] = 77; // the queue pair
    words[9] = ibv_wc_flags::IBV_WC_WITH_IMM.0 | 0x8000_0000;
    // SAFETY: `ibv_wc` is 48 bytes of integers, with no value of them invalid.
    unsafe { std::mem::transmute::<[u32; 12], ibv_wc>(words) }
}

#[test]
fn a_completion_is_read_field_by_field() {
    let wc = completion(ibv_wc_status::IBV_WC_SUCCESS);
    assert_eq!(wc_wr_id(&wc).to_le(), 0x0102_0304_0506_0708);
    assert_eq!(wc_status(&wc), ibv_wc_status::IBV_WC_SUCCESS);
    assert_eq!(wc_vendor_err(&wc), 0);
    assert_eq!(wc_opcode(&wc), 0x8000_0001);
    assert_eq!(wc_byte_len(&wc), u32::MAX);
    assert_eq!(wc_imm_data(&wc), 0x1122_3344);
    assert_eq!(wc_qp_num(&wc), 77);
}

#[test]
fn a_failed_completion_may_have_any_status() {
    for status in [ibv_wc_status::IBV_WC_WR_FLUSH_ERR, 0xdead_beef, u32::MAX] {
        let wc = completion(status);
        assert_eq!(wc_status(&wc), status);
        assert_eq!(wc_vendor_err(&wc), 33);
    }
}
