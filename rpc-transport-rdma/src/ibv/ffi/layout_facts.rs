//! What gcc says of the structs and constants the bindings have.
//!
//! Written by `scripts/measure-verbs-layout` (do not edit), on the headers of rdma-core 44.0-2,
//! x86_64. A struct is followed by its size, its alignment and the offset of each field; an enum by
//! its size; a constant by its value.

macro_rules! verbs_facts {
    ($check:ident) => { $check! {
    structs {
        _ibv_device_ops 16 8 {
            _dummy1 = 0, _dummy2 = 8,
        }
        ibv_ah 24 8 {
            context = 0, pd = 8, handle = 16,
        }
        ibv_ah_attr 32 8 {
            grh = 0, dlid = 24, sl = 26, src_path_bits = 27, static_rate = 28, is_global = 29,
            port_num = 30,
        }
        ibv_async_event 16 8 {
            element = 0, element.cq = 0, element.qp = 0, element.srq = 0, element.wq = 0,
            element.port_num = 0, event_type = 8,
        }
        ibv_comp_channel 16 8 {
            context = 0, fd = 8, refcnt = 12,
        }
        ibv_context 328 8 {
            device = 0, ops = 8, cmd_fd = 264, async_fd = 268, num_comp_vectors = 272,
            mutex = 280, abi_compat = 320,
        }
        ibv_context_ops 256 8 {
            _compat_query_device = 0, _compat_query_port = 8, _compat_alloc_pd = 16,
            _compat_dealloc_pd = 24, _compat_reg_mr = 32, _compat_rereg_mr = 40,
            _compat_dereg_mr = 48, alloc_mw = 56, bind_mw = 64, dealloc_mw = 72,
            _compat_create_cq = 80, poll_cq = 88, req_notify_cq = 96, _compat_cq_event = 104,
            _compat_resize_cq = 112, _compat_destroy_cq = 120, _compat_create_srq = 128,
            _compat_modify_srq = 136, _compat_query_srq = 144, _compat_destroy_srq = 152,
            post_srq_recv = 160, _compat_create_qp = 168, _compat_query_qp = 176,
            _compat_modify_qp = 184, _compat_destroy_qp = 192, post_send = 200, post_recv = 208,
            _compat_create_ah = 216, _compat_destroy_ah = 224, _compat_attach_mcast = 232,
            _compat_detach_mcast = 240, _compat_async_event = 248,
        }
        ibv_cq 128 8 {
            context = 0, channel = 8, cq_context = 16, handle = 24, cqe = 28, mutex = 32,
            cond = 72, comp_events_completed = 120, async_events_completed = 124,
        }
        ibv_device 664 8 {
            _ops = 0, node_type = 16, transport_type = 20, name = 24, dev_name = 88,
            dev_path = 152, ibdev_path = 408,
        }
        ibv_device_attr 232 8 {
            fw_ver = 0, node_guid = 64, sys_image_guid = 72, max_mr_size = 80, page_size_cap = 88,
            vendor_id = 96, vendor_part_id = 100, hw_ver = 104, max_qp = 108, max_qp_wr = 112,
            device_cap_flags = 116, max_sge = 120, max_sge_rd = 124, max_cq = 128, max_cqe = 132,
            max_mr = 136, max_pd = 140, max_qp_rd_atom = 144, max_ee_rd_atom = 148,
            max_res_rd_atom = 152, max_qp_init_rd_atom = 156, max_ee_init_rd_atom = 160,
            atomic_cap = 164, max_ee = 168, max_rdd = 172, max_mw = 176, max_raw_ipv6_qp = 180,
            max_raw_ethy_qp = 184, max_mcast_grp = 188, max_mcast_qp_attach = 192,
            max_total_mcast_qp_attach = 196, max_ah = 200, max_fmr = 204, max_map_per_fmr = 208,
            max_srq = 212, max_srq_wr = 216, max_srq_sge = 220, max_pkeys = 224,
            local_ca_ack_delay = 226, phys_port_cnt = 227,
        }
        ibv_gid 16 8 {
            raw = 0, global = 0, global.subnet_prefix = 0, global.interface_id = 8,
        }
        ibv_gid_entry 32 8 {
            gid = 0, gid_index = 16, port_num = 20, gid_type = 24, ndev_ifindex = 28,
        }
        ibv_global_route 24 8 {
            dgid = 0, flow_label = 16, sgid_index = 20, hop_limit = 21, traffic_class = 22,
        }
        ibv_mr 48 8 {
            context = 0, pd = 8, addr = 16, length = 24, handle = 32, lkey = 36, rkey = 40,
        }
        ibv_mw 32 8 {
            context = 0, pd = 8, rkey = 16, handle = 20, type_ = 24,
        }
        ibv_mw_bind 48 8 {
            wr_id = 0, send_flags = 8, bind_info = 16,
        }
        ibv_mw_bind_info 32 8 {
            mr = 0, addr = 8, length = 16, mw_access_flags = 24,
        }
        ibv_pd 16 8 {
            context = 0, handle = 8,
        }
        ibv_port_attr 52 4 {
            state = 0, max_mtu = 4, active_mtu = 8, gid_tbl_len = 12, port_cap_flags = 16,
            max_msg_sz = 20, bad_pkey_cntr = 24, qkey_viol_cntr = 28, pkey_tbl_len = 32, lid = 34,
            sm_lid = 36, lmc = 38, max_vl_num = 39, sm_sl = 40, subnet_timeout = 41,
            init_type_reply = 42, active_width = 43, active_speed = 44, phys_state = 45,
            link_layer = 46, flags = 47, port_cap_flags2 = 48,
        }
        ibv_qp 160 8 {
            context = 0, qp_context = 8, pd = 16, send_cq = 24, recv_cq = 32, srq = 40,
            handle = 48, qp_num = 52, state = 56, qp_type = 60, mutex = 64, cond = 104,
            events_completed = 152,
        }
        ibv_qp_attr 144 8 {
            qp_state = 0, cur_qp_state = 4, path_mtu = 8, path_mig_state = 12, qkey = 16,
            rq_psn = 20, sq_psn = 24, dest_qp_num = 28, qp_access_flags = 32, cap = 36,
            ah_attr = 56, alt_ah_attr = 88, pkey_index = 120, alt_pkey_index = 122,
            en_sqd_async_notify = 124, sq_draining = 125, max_rd_atomic = 126,
            max_dest_rd_atomic = 127, min_rnr_timer = 128, port_num = 129, timeout = 130,
            retry_cnt = 131, rnr_retry = 132, alt_port_num = 133, alt_timeout = 134,
            rate_limit = 136,
        }
        ibv_qp_cap 20 4 {
            max_send_wr = 0, max_recv_wr = 4, max_send_sge = 8, max_recv_sge = 12,
            max_inline_data = 16,
        }
        ibv_qp_init_attr 64 8 {
            qp_context = 0, send_cq = 8, recv_cq = 16, srq = 24, cap = 32, qp_type = 52,
            sq_sig_all = 56,
        }
        ibv_recv_wr 32 8 {
            wr_id = 0, next = 8, sg_list = 16, num_sge = 24,
        }
        ibv_send_wr 128 8 {
            wr_id = 0, next = 8, sg_list = 16, num_sge = 24, opcode = 28, send_flags = 32,
            __bindgen_anon_1.imm_data = 36, __bindgen_anon_1.invalidate_rkey = 36, wr = 40,
            wr.rdma = 40, wr.rdma.remote_addr = 40, wr.rdma.rkey = 48, wr.atomic = 40,
            wr.atomic.remote_addr = 40, wr.atomic.compare_add = 48, wr.atomic.swap = 56,
            wr.atomic.rkey = 64, wr.ud = 40, wr.ud.ah = 40, wr.ud.remote_qpn = 48,
            wr.ud.remote_qkey = 52, qp_type = 72, qp_type.xrc = 72, qp_type.xrc.remote_srqn = 72,
            __bindgen_anon_2.bind_mw = 80, __bindgen_anon_2.bind_mw.mw = 80,
            __bindgen_anon_2.bind_mw.rkey = 88, __bindgen_anon_2.bind_mw.bind_info = 96,
            __bindgen_anon_2.tso = 80, __bindgen_anon_2.tso.hdr = 80,
            __bindgen_anon_2.tso.hdr_sz = 88, __bindgen_anon_2.tso.mss = 90,
        }
        ibv_sge 16 8 {
            addr = 0, length = 8, lkey = 12,
        }
        ibv_srq 128 8 {
            context = 0, srq_context = 8, pd = 16, handle = 24, mutex = 32, cond = 72,
            events_completed = 120,
        }
        ibv_wq 152 8 {
            context = 0, wq_context = 8, pd = 16, cq = 24, wq_num = 32, handle = 36, state = 40,
            wq_type = 44, post_recv = 48, mutex = 56, cond = 96, events_completed = 144,
            comp_mask = 148,
        }
    }
    enums {
        ibv_access_flags = 4, ibv_atomic_cap = 4, ibv_device_cap_flags = 4, ibv_event_type = 4,
        ibv_gid_type = 4, ibv_mig_state = 4, ibv_mtu = 4, ibv_mw_type = 4, ibv_node_type = 4,
        ibv_port_cap_flags = 4, ibv_port_state::Type = 4, ibv_qp_attr_mask = 4,
        ibv_qp_state::Type = 4, ibv_qp_type::Type = 4, ibv_send_flags = 4, ibv_transport_type = 4,
        ibv_wc_flags = 4, ibv_wc_opcode::Type = 4, ibv_wc_status::Type = 4, ibv_wq_state = 4,
        ibv_wq_type = 4, ibv_wr_opcode::Type = 4,
    }
    constants {
        IBV_ATOMIC_GLOB = 2, IBV_ATOMIC_HCA = 1, IBV_ATOMIC_NONE = 0,
        IBV_DEVICE_AUTO_PATH_MIG = 16, IBV_DEVICE_BAD_PKEY_CNTR = 2, IBV_DEVICE_BAD_QKEY_CNTR = 4,
        IBV_DEVICE_CHANGE_PHY_PORT = 32, IBV_DEVICE_CURR_QP_STATE_MOD = 128,
        IBV_DEVICE_INIT_TYPE = 512, IBV_DEVICE_MANAGED_FLOW_STEERING = 536870912,
        IBV_DEVICE_MEM_MGT_EXTENSIONS = 2097152, IBV_DEVICE_MEM_WINDOW = 131072,
        IBV_DEVICE_MEM_WINDOW_TYPE_2A = 8388608, IBV_DEVICE_MEM_WINDOW_TYPE_2B = 16777216,
        IBV_DEVICE_N_NOTIFY_CQ = 16384, IBV_DEVICE_PORT_ACTIVE_EVENT = 1024,
        IBV_DEVICE_RAW_IP_CSUM = 67108864, IBV_DEVICE_RAW_MULTI = 8,
        IBV_DEVICE_RC_IP_CSUM = 33554432, IBV_DEVICE_RC_RNR_NAK_GEN = 4096,
        IBV_DEVICE_RESIZE_MAX_WR = 1, IBV_DEVICE_SHUTDOWN_PORT = 256,
        IBV_DEVICE_SRQ_RESIZE = 8192, IBV_DEVICE_SYS_IMAGE_GUID = 2048,
        IBV_DEVICE_UD_AV_PORT_ENFORCE = 64, IBV_DEVICE_UD_IP_CSUM = 262144,
        IBV_DEVICE_XRC = 1048576, IBV_EVENT_CLIENT_REREGISTER = 17, IBV_EVENT_COMM_EST = 4,
        IBV_EVENT_CQ_ERR = 0, IBV_EVENT_DEVICE_FATAL = 8, IBV_EVENT_GID_CHANGE = 18,
        IBV_EVENT_LID_CHANGE = 11, IBV_EVENT_PATH_MIG = 6, IBV_EVENT_PATH_MIG_ERR = 7,
        IBV_EVENT_PKEY_CHANGE = 12, IBV_EVENT_PORT_ACTIVE = 9, IBV_EVENT_PORT_ERR = 10,
        IBV_EVENT_QP_ACCESS_ERR = 3, IBV_EVENT_QP_FATAL = 1, IBV_EVENT_QP_LAST_WQE_REACHED = 16,
        IBV_EVENT_QP_REQ_ERR = 2, IBV_EVENT_SM_CHANGE = 13, IBV_EVENT_SQ_DRAINED = 5,
        IBV_EVENT_SRQ_ERR = 14, IBV_EVENT_SRQ_LIMIT_REACHED = 15, IBV_EVENT_WQ_FATAL = 19,
        IBV_GID_TYPE_IB = 0, IBV_GID_TYPE_ROCE_V1 = 1, IBV_GID_TYPE_ROCE_V2 = 2,
        IBV_LINK_LAYER_ETHERNET = 2, IBV_LINK_LAYER_INFINIBAND = 1,
        IBV_LINK_LAYER_UNSPECIFIED = 0, IBV_MIG_ARMED = 2, IBV_MIG_MIGRATED = 0,
        IBV_MIG_REARM = 1, IBV_MTU_1024 = 3, IBV_MTU_2048 = 4, IBV_MTU_256 = 1, IBV_MTU_4096 = 5,
        IBV_MTU_512 = 2, IBV_MW_TYPE_1 = 1, IBV_MW_TYPE_2 = 2, IBV_NODE_CA = 1, IBV_NODE_RNIC = 4,
        IBV_NODE_ROUTER = 3, IBV_NODE_SWITCH = 2, IBV_NODE_UNKNOWN = -1, IBV_NODE_UNSPECIFIED = 7,
        IBV_NODE_USNIC = 5, IBV_NODE_USNIC_UDP = 6, IBV_TRANSPORT_IB = 0, IBV_TRANSPORT_IWARP = 1,
        IBV_TRANSPORT_UNKNOWN = -1, IBV_TRANSPORT_UNSPECIFIED = 4, IBV_TRANSPORT_USNIC = 2,
        IBV_TRANSPORT_USNIC_UDP = 3, IBV_WQS_ERR = 2, IBV_WQS_RDY = 1, IBV_WQS_RESET = 0,
        IBV_WQS_UNKNOWN = 3, IBV_WQT_RQ = 0, ibv_port_state::IBV_PORT_ACTIVE = 4,
        ibv_port_state::IBV_PORT_ACTIVE_DEFER = 5, ibv_port_state::IBV_PORT_ARMED = 3,
        ibv_port_state::IBV_PORT_DOWN = 1, ibv_port_state::IBV_PORT_INIT = 2,
        ibv_port_state::IBV_PORT_NOP = 0, ibv_qp_state::IBV_QPS_ERR = 6,
        ibv_qp_state::IBV_QPS_INIT = 1, ibv_qp_state::IBV_QPS_RESET = 0,
        ibv_qp_state::IBV_QPS_RTR = 2, ibv_qp_state::IBV_QPS_RTS = 3,
        ibv_qp_state::IBV_QPS_SQD = 4, ibv_qp_state::IBV_QPS_SQE = 5,
        ibv_qp_state::IBV_QPS_UNKNOWN = 7, ibv_qp_type::IBV_QPT_DRIVER = 255,
        ibv_qp_type::IBV_QPT_RAW_PACKET = 8, ibv_qp_type::IBV_QPT_RC = 2,
        ibv_qp_type::IBV_QPT_UC = 3, ibv_qp_type::IBV_QPT_UD = 4,
        ibv_qp_type::IBV_QPT_XRC_RECV = 10, ibv_qp_type::IBV_QPT_XRC_SEND = 9,
        ibv_wc_opcode::IBV_WC_ATOMIC_WRITE = 9, ibv_wc_opcode::IBV_WC_BIND_MW = 5,
        ibv_wc_opcode::IBV_WC_COMP_SWAP = 3, ibv_wc_opcode::IBV_WC_DRIVER1 = 135,
        ibv_wc_opcode::IBV_WC_DRIVER2 = 136, ibv_wc_opcode::IBV_WC_DRIVER3 = 137,
        ibv_wc_opcode::IBV_WC_FETCH_ADD = 4, ibv_wc_opcode::IBV_WC_LOCAL_INV = 6,
        ibv_wc_opcode::IBV_WC_RDMA_READ = 2, ibv_wc_opcode::IBV_WC_RDMA_WRITE = 1,
        ibv_wc_opcode::IBV_WC_RECV = 128, ibv_wc_opcode::IBV_WC_RECV_RDMA_WITH_IMM = 129,
        ibv_wc_opcode::IBV_WC_SEND = 0, ibv_wc_opcode::IBV_WC_TM_ADD = 130,
        ibv_wc_opcode::IBV_WC_TM_DEL = 131, ibv_wc_opcode::IBV_WC_TM_NO_TAG = 134,
        ibv_wc_opcode::IBV_WC_TM_RECV = 133, ibv_wc_opcode::IBV_WC_TM_SYNC = 132,
        ibv_wc_opcode::IBV_WC_TSO = 7, ibv_wc_status::IBV_WC_BAD_RESP_ERR = 7,
        ibv_wc_status::IBV_WC_FATAL_ERR = 19, ibv_wc_status::IBV_WC_GENERAL_ERR = 21,
        ibv_wc_status::IBV_WC_INV_EECN_ERR = 17, ibv_wc_status::IBV_WC_INV_EEC_STATE_ERR = 18,
        ibv_wc_status::IBV_WC_LOC_ACCESS_ERR = 8, ibv_wc_status::IBV_WC_LOC_EEC_OP_ERR = 3,
        ibv_wc_status::IBV_WC_LOC_LEN_ERR = 1, ibv_wc_status::IBV_WC_LOC_PROT_ERR = 4,
        ibv_wc_status::IBV_WC_LOC_QP_OP_ERR = 2, ibv_wc_status::IBV_WC_LOC_RDD_VIOL_ERR = 14,
        ibv_wc_status::IBV_WC_MW_BIND_ERR = 6, ibv_wc_status::IBV_WC_REM_ABORT_ERR = 16,
        ibv_wc_status::IBV_WC_REM_ACCESS_ERR = 10, ibv_wc_status::IBV_WC_REM_INV_RD_REQ_ERR = 15,
        ibv_wc_status::IBV_WC_REM_INV_REQ_ERR = 9, ibv_wc_status::IBV_WC_REM_OP_ERR = 11,
        ibv_wc_status::IBV_WC_RESP_TIMEOUT_ERR = 20, ibv_wc_status::IBV_WC_RETRY_EXC_ERR = 12,
        ibv_wc_status::IBV_WC_RNR_RETRY_EXC_ERR = 13, ibv_wc_status::IBV_WC_SUCCESS = 0,
        ibv_wc_status::IBV_WC_TM_ERR = 22, ibv_wc_status::IBV_WC_TM_RNDV_INCOMPLETE = 23,
        ibv_wc_status::IBV_WC_WR_FLUSH_ERR = 5, ibv_wr_opcode::IBV_WR_ATOMIC_CMP_AND_SWP = 5,
        ibv_wr_opcode::IBV_WR_ATOMIC_FETCH_AND_ADD = 6, ibv_wr_opcode::IBV_WR_ATOMIC_WRITE = 15,
        ibv_wr_opcode::IBV_WR_BIND_MW = 8, ibv_wr_opcode::IBV_WR_DRIVER1 = 11,
        ibv_wr_opcode::IBV_WR_LOCAL_INV = 7, ibv_wr_opcode::IBV_WR_RDMA_READ = 4,
        ibv_wr_opcode::IBV_WR_RDMA_WRITE = 0, ibv_wr_opcode::IBV_WR_RDMA_WRITE_WITH_IMM = 1,
        ibv_wr_opcode::IBV_WR_SEND = 2, ibv_wr_opcode::IBV_WR_SEND_WITH_IMM = 3,
        ibv_wr_opcode::IBV_WR_SEND_WITH_INV = 9, ibv_wr_opcode::IBV_WR_TSO = 10,
    }
    flags {
        ibv_access_flags::IBV_ACCESS_HUGETLB = 128, ibv_access_flags::IBV_ACCESS_LOCAL_WRITE = 1,
        ibv_access_flags::IBV_ACCESS_MW_BIND = 16, ibv_access_flags::IBV_ACCESS_ON_DEMAND = 64,
        ibv_access_flags::IBV_ACCESS_RELAXED_ORDERING = 1048576,
        ibv_access_flags::IBV_ACCESS_REMOTE_ATOMIC = 8,
        ibv_access_flags::IBV_ACCESS_REMOTE_READ = 4,
        ibv_access_flags::IBV_ACCESS_REMOTE_WRITE = 2,
        ibv_access_flags::IBV_ACCESS_ZERO_BASED = 32,
        ibv_port_cap_flags::IBV_PORT_AUTO_MIGR_SUP = 32,
        ibv_port_cap_flags::IBV_PORT_BOOT_MGMT_SUP = 8388608,
        ibv_port_cap_flags::IBV_PORT_CAP_MASK2_SUP = 32768,
        ibv_port_cap_flags::IBV_PORT_CAP_MASK_NOTICE_SUP = 4194304,
        ibv_port_cap_flags::IBV_PORT_CLIENT_REG_SUP = 33554432,
        ibv_port_cap_flags::IBV_PORT_CM_SUP = 65536,
        ibv_port_cap_flags::IBV_PORT_DEVICE_MGMT_SUP = 524288,
        ibv_port_cap_flags::IBV_PORT_DR_NOTICE_SUP = 2097152,
        ibv_port_cap_flags::IBV_PORT_EXTENDED_SPEEDS_SUP = 16384,
        ibv_port_cap_flags::IBV_PORT_IP_BASED_GIDS = 67108864,
        ibv_port_cap_flags::IBV_PORT_LED_INFO_SUP = 512,
        ibv_port_cap_flags::IBV_PORT_LINK_LATENCY_SUP = 16777216,
        ibv_port_cap_flags::IBV_PORT_MKEY_NVRAM = 128,
        ibv_port_cap_flags::IBV_PORT_NOTICE_SUP = 4,
        ibv_port_cap_flags::IBV_PORT_OPT_IPD_SUP = 16,
        ibv_port_cap_flags::IBV_PORT_PKEY_NVRAM = 256,
        ibv_port_cap_flags::IBV_PORT_PKEY_SW_EXT_PORT_TRAP_SUP = 4096,
        ibv_port_cap_flags::IBV_PORT_REINIT_SUP = 262144,
        ibv_port_cap_flags::IBV_PORT_SL_MAP_SUP = 64, ibv_port_cap_flags::IBV_PORT_SM = 2,
        ibv_port_cap_flags::IBV_PORT_SNMP_TUNNEL_SUP = 131072,
        ibv_port_cap_flags::IBV_PORT_SYS_IMAGE_GUID_SUP = 2048,
        ibv_port_cap_flags::IBV_PORT_TRAP_SUP = 8,
        ibv_port_cap_flags::IBV_PORT_VENDOR_CLASS_SUP = 1048576,
        ibv_qp_attr_mask::IBV_QP_ACCESS_FLAGS = 8, ibv_qp_attr_mask::IBV_QP_ALT_PATH = 16384,
        ibv_qp_attr_mask::IBV_QP_AV = 128, ibv_qp_attr_mask::IBV_QP_CAP = 524288,
        ibv_qp_attr_mask::IBV_QP_CUR_STATE = 2, ibv_qp_attr_mask::IBV_QP_DEST_QPN = 1048576,
        ibv_qp_attr_mask::IBV_QP_EN_SQD_ASYNC_NOTIFY = 4,
        ibv_qp_attr_mask::IBV_QP_MAX_DEST_RD_ATOMIC = 131072,
        ibv_qp_attr_mask::IBV_QP_MAX_QP_RD_ATOMIC = 8192,
        ibv_qp_attr_mask::IBV_QP_MIN_RNR_TIMER = 32768,
        ibv_qp_attr_mask::IBV_QP_PATH_MIG_STATE = 262144, ibv_qp_attr_mask::IBV_QP_PATH_MTU = 256,
        ibv_qp_attr_mask::IBV_QP_PKEY_INDEX = 16, ibv_qp_attr_mask::IBV_QP_PORT = 32,
        ibv_qp_attr_mask::IBV_QP_QKEY = 64, ibv_qp_attr_mask::IBV_QP_RATE_LIMIT = 33554432,
        ibv_qp_attr_mask::IBV_QP_RETRY_CNT = 1024, ibv_qp_attr_mask::IBV_QP_RNR_RETRY = 2048,
        ibv_qp_attr_mask::IBV_QP_RQ_PSN = 4096, ibv_qp_attr_mask::IBV_QP_SQ_PSN = 65536,
        ibv_qp_attr_mask::IBV_QP_STATE = 1, ibv_qp_attr_mask::IBV_QP_TIMEOUT = 512,
        ibv_send_flags::IBV_SEND_FENCE = 1, ibv_send_flags::IBV_SEND_INLINE = 8,
        ibv_send_flags::IBV_SEND_IP_CSUM = 16, ibv_send_flags::IBV_SEND_SIGNALED = 2,
        ibv_send_flags::IBV_SEND_SOLICITED = 4, ibv_wc_flags::IBV_WC_GRH = 1,
        ibv_wc_flags::IBV_WC_IP_CSUM_OK = 4, ibv_wc_flags::IBV_WC_TM_DATA_VALID = 64,
        ibv_wc_flags::IBV_WC_TM_MATCH = 32, ibv_wc_flags::IBV_WC_TM_SYNC_REQ = 16,
        ibv_wc_flags::IBV_WC_WITH_IMM = 2, ibv_wc_flags::IBV_WC_WITH_INV = 8,
    }
    } };
}
pub(super) use verbs_facts;

macro_rules! completion_facts {
    ($check:ident) => { $check! {
    structs {
        ibv_wc 48 8 {
            wr_id = 0, status = 8, opcode = 12, vendor_err = 16, byte_len = 20,
            __bindgen_anon_1.imm_data = 24, __bindgen_anon_1.invalidated_rkey = 24, qp_num = 28,
            src_qp = 32, wc_flags = 36, pkey_index = 40, slid = 42, sl = 44, dlid_path_bits = 45,
        }
    }
    enums {
    }
    constants {
    }
    flags {
    }
    } };
}
pub(super) use completion_facts;

macro_rules! rdma_cm_facts {
    ($check:ident) => { $check! {
    structs {
        rdma_addr 296 8 {
            __bindgen_anon_1.src_addr = 0, __bindgen_anon_1.src_sin = 0,
            __bindgen_anon_1.src_sin6 = 0, __bindgen_anon_1.src_storage = 0,
            __bindgen_anon_2.dst_addr = 128, __bindgen_anon_2.dst_sin = 128,
            __bindgen_anon_2.dst_sin6 = 128, __bindgen_anon_2.dst_storage = 128, addr = 256,
            addr.ibaddr = 256,
        }
        rdma_cm_event 80 8 {
            id = 0, listen_id = 8, event = 16, status = 20, param = 24, param.conn = 24,
            param.ud = 24,
        }
        rdma_cm_id 416 8 {
            verbs = 0, channel = 8, context = 16, qp = 24, route = 32, ps = 344, port_num = 348,
            event = 352, send_cq_channel = 360, send_cq = 368, recv_cq_channel = 376,
            recv_cq = 384, srq = 392, pd = 400, qp_type = 408,
        }
        rdma_conn_param 24 8 {
            private_data = 0, private_data_len = 8, responder_resources = 9, initiator_depth = 10,
            flow_control = 11, retry_count = 12, rnr_retry_count = 13, srq = 14, qp_num = 16,
        }
        rdma_event_channel 4 4 {
            fd = 0,
        }
        rdma_ib_addr 40 8 {
            sgid = 0, dgid = 16, pkey = 32,
        }
        rdma_route 312 8 {
            addr = 0, path_rec = 296, num_paths = 304,
        }
        rdma_ud_param 56 8 {
            private_data = 0, private_data_len = 8, ah_attr = 16, qp_num = 48, qkey = 52,
        }
    }
    enums {
        rdma_cm_event_type = 4, rdma_port_space = 4,
    }
    constants {
        RDMA_CM_EVENT_ADDR_CHANGE = 14, RDMA_CM_EVENT_ADDR_ERROR = 1,
        RDMA_CM_EVENT_ADDR_RESOLVED = 0, RDMA_CM_EVENT_CONNECT_ERROR = 6,
        RDMA_CM_EVENT_CONNECT_REQUEST = 4, RDMA_CM_EVENT_CONNECT_RESPONSE = 5,
        RDMA_CM_EVENT_DEVICE_REMOVAL = 11, RDMA_CM_EVENT_DISCONNECTED = 10,
        RDMA_CM_EVENT_ESTABLISHED = 9, RDMA_CM_EVENT_MULTICAST_ERROR = 13,
        RDMA_CM_EVENT_MULTICAST_JOIN = 12, RDMA_CM_EVENT_REJECTED = 8,
        RDMA_CM_EVENT_ROUTE_ERROR = 3, RDMA_CM_EVENT_ROUTE_RESOLVED = 2,
        RDMA_CM_EVENT_TIMEWAIT_EXIT = 15, RDMA_CM_EVENT_UNREACHABLE = 7,
        RDMA_MAX_INIT_DEPTH = 255, RDMA_MAX_RESP_RES = 255, RDMA_OPTION_IB = 1,
        RDMA_OPTION_IB_PATH = 1, RDMA_OPTION_ID = 0, RDMA_OPTION_ID_ACK_TIMEOUT = 3,
        RDMA_OPTION_ID_AFONLY = 2, RDMA_OPTION_ID_REUSEADDR = 1, RDMA_OPTION_ID_TOS = 0,
        RDMA_PS_IB = 319, RDMA_PS_IPOIB = 2, RDMA_PS_TCP = 262, RDMA_PS_UDP = 273,
    }
    flags {
    }
    } };
}
pub(super) use rdma_cm_facts;
