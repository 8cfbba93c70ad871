// The verbs library as one table of function pointers, with our own declarations of its structures.
//
// No header and no library is needed to build or to import: `load_verbs` opens libibverbs when the
// first device is looked for, and a software device (fake_verbs.h) fills the same table.  Names and
// values are those of the library's stable interface (IBVERBS_1.1), without the `ibv_` prefix.
//
// Rules: only what Spoke uses is declared; a structure that the library allocates is declared up to
// the last member read here and never copied; a structure that we allocate is declared whole.
// tests/native/test_verbs_layout.cpp compares every offset with the real header where it is installed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <sys/types.h>

namespace spoke::ib {

struct Context;
struct Device;  // opaque

union Gid {
    uint8_t raw[16];
    struct {
        uint64_t subnet_prefix, interface_id;
    } global;
};

struct Pd {
    Context* context;
    uint32_t handle;
};

struct Mr {
    Context* context;
    Pd* pd;
    void* addr;
    size_t length;
    uint32_t handle, lkey, rkey;
};

struct CompChannel {
    Context* context;
    int fd, refcnt;
};

struct Cq {
    Context* context;
    CompChannel* channel;
    void* cq_context;
    uint32_t handle;
    int cqe;
};

struct Qp {
    Context* context;
    void* qp_context;
    Pd* pd;
    Cq* send_cq;
    Cq* recv_cq;
    void* srq;
    uint32_t handle, qp_num;
    int state, qp_type;
};

struct Sge {
    uint64_t addr;
    uint32_t length, lkey;
};

struct SendWr {
    uint64_t wr_id;
    SendWr* next;
    Sge* sg_list;
    int num_sge, opcode;
    unsigned int send_flags;
    uint32_t imm_data;  // network byte order
    union {
        struct {
            uint64_t remote_addr;
            uint32_t rkey;
        } rdma;
        struct {
            uint64_t remote_addr, compare_add, swap;
            uint32_t rkey;
        } atomic;
    } wr;
    uint32_t remote_srqn;
    struct {
        void* mw;
        uint32_t rkey;
        void* bind_mr;
        uint64_t bind_addr, bind_length;
        unsigned int bind_access;
    } bind_mw;
};

struct RecvWr {
    uint64_t wr_id;
    RecvWr* next;
    Sge* sg_list;
    int num_sge;
};

struct Wc {
    uint64_t wr_id;
    int status, opcode;
    uint32_t vendor_err, byte_len;
    uint32_t imm_data;  // network byte order
    uint32_t qp_num, src_qp;
    unsigned int wc_flags;
    uint16_t pkey_index, slid;
    uint8_t sl, dlid_path_bits;
};

struct QpCap {
    uint32_t max_send_wr, max_recv_wr, max_send_sge, max_recv_sge, max_inline_data;
};

struct QpInitAttr {
    void* qp_context;
    Cq* send_cq;
    Cq* recv_cq;
    void* srq;
    QpCap cap;
    int qp_type, sq_sig_all;
};

struct GlobalRoute {
    Gid dgid;
    uint32_t flow_label;
    uint8_t sgid_index, hop_limit, traffic_class;
};

struct AhAttr {
    GlobalRoute grh;
    uint16_t dlid;
    uint8_t sl, src_path_bits, static_rate, is_global, port_num;
};

struct QpAttr {
    int qp_state, cur_qp_state, path_mtu, path_mig_state;
    uint32_t qkey, rq_psn, sq_psn, dest_qp_num;
    unsigned int qp_access_flags;
    QpCap cap;
    AhAttr ah_attr, alt_ah_attr;
    uint16_t pkey_index, alt_pkey_index;
    uint8_t en_sqd_async_notify, sq_draining, max_rd_atomic, max_dest_rd_atomic, min_rnr_timer, port_num,
        timeout, retry_cnt, rnr_retry, alt_port_num, alt_timeout;
    uint32_t rate_limit;
};

struct PortAttr {
    int state, max_mtu, active_mtu, gid_tbl_len;
    uint32_t port_cap_flags, max_msg_sz, bad_pkey_cntr, qkey_viol_cntr;
    uint16_t pkey_tbl_len, lid, sm_lid;
    uint8_t lmc, max_vl_num, sm_sl, subnet_timeout, init_type_reply, active_width, active_speed, phys_state,
        link_layer, flags;
    uint16_t port_cap_flags2;
};

struct DeviceAttr {
    char fw_ver[64];
    uint64_t node_guid, sys_image_guid, max_mr_size, page_size_cap;
    uint32_t vendor_id, vendor_part_id, hw_ver;
    int max_qp, max_qp_wr;
    unsigned int device_cap_flags;
    int max_sge, max_sge_rd, max_cq, max_cqe, max_mr, max_pd, max_qp_rd_atom, max_ee_rd_atom, max_res_rd_atom,
        max_qp_init_rd_atom, max_ee_init_rd_atom, atomic_cap, max_ee, max_rdd, max_mw, max_raw_ipv6_qp,
        max_raw_ethy_qp, max_mcast_grp, max_mcast_qp_attach, max_total_mcast_qp_attach, max_ah, max_fmr,
        max_map_per_fmr, max_srq, max_srq_wr, max_srq_sge;
    uint16_t max_pkeys;
    uint8_t local_ca_ack_delay, phys_port_cnt;
};

struct GidEntry {
    Gid gid;
    uint32_t gid_index, port_num, gid_type, ndev_ifindex;
};

struct AsyncEvent {
    union {
        Cq* cq;
        Qp* qp;
        void* other;
        int port_num;
    } element;
    int event_type;
};

// The verbs that the real header has as inline functions go through these.
struct ContextOps {
    void* before_poll[11];
    int (*poll_cq)(Cq* cq, int count, Wc* wc);
    int (*req_notify_cq)(Cq* cq, int solicited_only);
    void* before_send[12];
    int (*post_send)(Qp* qp, SendWr* wr, SendWr** bad);
    int (*post_recv)(Qp* qp, RecvWr* wr, RecvWr** bad);
    void* rest[5];
};

struct Context {
    Device* device;
    ContextOps ops;
    int cmd_fd, async_fd, num_comp_vectors;
};

// -- values

enum Access : int {
    kLocalWrite = 1,
    kRemoteWrite = 2,
    kRemoteRead = 4,
    kRelaxedOrdering = 1 << 20,  // optional: a device that cannot ignores it
};
enum QpState : int { kReset = 0, kInit = 1, kRtr = 2, kRts = 3, kSqd = 4, kSqe = 5, kErr = 6 };
enum QpType : int { kRc = 2 };
enum AttrMask : int {
    kMaskState = 1 << 0,
    kMaskAccess = 1 << 3,
    kMaskPkeyIndex = 1 << 4,
    kMaskPort = 1 << 5,
    kMaskAv = 1 << 7,
    kMaskPathMtu = 1 << 8,
    kMaskTimeout = 1 << 9,
    kMaskRetryCnt = 1 << 10,
    kMaskRnrRetry = 1 << 11,
    kMaskRqPsn = 1 << 12,
    kMaskMaxRdAtomic = 1 << 13,
    kMaskMinRnrTimer = 1 << 15,
    kMaskSqPsn = 1 << 16,
    kMaskMaxDestRdAtomic = 1 << 17,
    kMaskDestQpn = 1 << 20,
};
enum WrOpcode : int { kRdmaWrite = 0, kRdmaWriteImm = 1, kSend = 2, kRdmaRead = 4 };
enum SendFlags : unsigned int { kFence = 1, kSignaled = 2, kSolicited = 4, kInline = 8 };
enum WcStatus : int {
    kSuccess = 0,
    kLocLenErr = 1,
    kLocProtErr = 4,
    kFlushErr = 5,
    kRemInvReqErr = 9,
    kRemAccessErr = 10,
    kRetryExcErr = 12,
    kRnrRetryExcErr = 13,
    kFatalErr = 19,
};
enum WcOpcode : int { kWcWrite = 1, kWcRead = 2, kWcRecv = 128, kWcRecvImm = 129 };
enum WcFlags : unsigned int { kWithImm = 2 };
enum PortState : int { kPortDown = 1, kPortActive = 4 };
enum LinkLayer : int { kInfiniband = 1, kEthernet = 2 };
enum GidType : uint32_t { kGidIb = 0, kGidRoceV1 = 1, kGidRoceV2 = 2 };
enum EventType : int {
    kCqErr = 0,
    kQpFatal = 1,
    kQpReqErr = 2,
    kQpAccessErr = 3,
    kDeviceFatal = 8,
    kPortUp = 9,
    kPortErr = 10,
    kLidChange = 11,
    kGidChange = 18,
};
enum ForkStatus : int { kForkDisabled = 0, kForkEnabled = 1, kForkUnneeded = 2 };

}  // namespace spoke::ib

namespace spoke {

// Every function as in the library; those marked optional may be null.
struct VerbsApi {
    ib::Device** (*get_device_list)(int* count);
    void (*free_device_list)(ib::Device** list);
    const char* (*get_device_name)(ib::Device* device);
    ib::Context* (*open_device)(ib::Device* device);
    int (*close_device)(ib::Context* context);
    int (*query_device)(ib::Context* context, ib::DeviceAttr* attr);
    int (*query_port)(ib::Context* context, uint8_t port, ib::PortAttr* attr);
    ssize_t (*query_gid_table)(ib::Context* context, ib::GidEntry* entries, size_t count, uint32_t flags,
                               size_t entry_size);
    ib::Pd* (*alloc_pd)(ib::Context* context);
    int (*dealloc_pd)(ib::Pd* pd);
    ib::Mr* (*reg_mr)(ib::Pd* pd, void* addr, size_t length, int access);
    ib::Mr* (*reg_mr_iova2)(ib::Pd* pd, void* addr, size_t length, uint64_t iova, unsigned int access);  // optional
    ib::Mr* (*reg_dmabuf_mr)(ib::Pd* pd, uint64_t offset, size_t length, uint64_t iova, int fd, int access);  // optional
    int (*dereg_mr)(ib::Mr* mr);
    ib::CompChannel* (*create_comp_channel)(ib::Context* context);
    int (*destroy_comp_channel)(ib::CompChannel* channel);
    ib::Cq* (*create_cq)(ib::Context* context, int cqe, void* cq_context, ib::CompChannel* channel, int vector);
    int (*destroy_cq)(ib::Cq* cq);
    int (*get_cq_event)(ib::CompChannel* channel, ib::Cq** cq, void** cq_context);
    void (*ack_cq_events)(ib::Cq* cq, unsigned int count);
    ib::Qp* (*create_qp)(ib::Pd* pd, ib::QpInitAttr* attr);
    int (*modify_qp)(ib::Qp* qp, ib::QpAttr* attr, int mask);
    int (*destroy_qp)(ib::Qp* qp);
    int (*get_async_event)(ib::Context* context, ib::AsyncEvent* event);
    void (*ack_async_event)(ib::AsyncEvent* event);
    int (*fork_init)();
    int (*is_fork_initialized)();  // optional
    const char* (*wc_status_str)(int status);
};

// The real library, opened once; null where it cannot be, with the reason in `why`.
const VerbsApi* load_verbs(std::string& why);

}  // namespace spoke
