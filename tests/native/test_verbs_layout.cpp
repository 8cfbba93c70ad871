// Every offset, size and value of csrc/verbs_api.h against the real header (libibverbs-dev).
// Checked by the compiler: to compile is to pass.
#include <infiniband/verbs.h>

#include <cstdio>

#include "verbs_api.h"

namespace ib = spoke::ib;

#define SAME_OFFSET(ours, our_field, theirs, their_field)                                       \
    static_assert(offsetof(ib::ours, our_field) == offsetof(theirs, their_field), #ours "." #our_field); \
    static_assert(sizeof(ib::ours::our_field) == sizeof(theirs::their_field), #ours "." #our_field " size")
#define FIELD(ours, theirs, field) SAME_OFFSET(ours, field, theirs, field)
#define SAME_SIZE(ours, theirs) static_assert(sizeof(ib::ours) == sizeof(theirs), #ours)
#define VALUE(ours, theirs) static_assert(static_cast<long>(ib::ours) == static_cast<long>(theirs), #ours)

SAME_SIZE(Gid, ibv_gid);
FIELD(Pd, ibv_pd, context);
FIELD(Pd, ibv_pd, handle);
SAME_SIZE(Mr, ibv_mr);
FIELD(Mr, ibv_mr, addr);
FIELD(Mr, ibv_mr, length);
FIELD(Mr, ibv_mr, lkey);
FIELD(Mr, ibv_mr, rkey);
FIELD(CompChannel, ibv_comp_channel, fd);
FIELD(Cq, ibv_cq, context);
FIELD(Cq, ibv_cq, channel);
FIELD(Cq, ibv_cq, cqe);
FIELD(Qp, ibv_qp, context);
FIELD(Qp, ibv_qp, qp_num);
FIELD(Qp, ibv_qp, state);
FIELD(Qp, ibv_qp, qp_type);
SAME_SIZE(Sge, ibv_sge);
FIELD(Sge, ibv_sge, length);
FIELD(Sge, ibv_sge, lkey);

SAME_SIZE(SendWr, ibv_send_wr);
FIELD(SendWr, ibv_send_wr, next);
FIELD(SendWr, ibv_send_wr, sg_list);
FIELD(SendWr, ibv_send_wr, num_sge);
FIELD(SendWr, ibv_send_wr, opcode);
FIELD(SendWr, ibv_send_wr, send_flags);
FIELD(SendWr, ibv_send_wr, imm_data);
FIELD(SendWr, ibv_send_wr, wr.rdma.remote_addr);
FIELD(SendWr, ibv_send_wr, wr.rdma.rkey);
SAME_SIZE(RecvWr, ibv_recv_wr);
FIELD(RecvWr, ibv_recv_wr, next);
FIELD(RecvWr, ibv_recv_wr, sg_list);
FIELD(RecvWr, ibv_recv_wr, num_sge);

SAME_SIZE(Wc, ibv_wc);
FIELD(Wc, ibv_wc, wr_id);
FIELD(Wc, ibv_wc, status);
FIELD(Wc, ibv_wc, opcode);
FIELD(Wc, ibv_wc, vendor_err);
FIELD(Wc, ibv_wc, byte_len);
FIELD(Wc, ibv_wc, imm_data);
FIELD(Wc, ibv_wc, qp_num);
FIELD(Wc, ibv_wc, wc_flags);

SAME_SIZE(QpCap, ibv_qp_cap);
SAME_SIZE(QpInitAttr, ibv_qp_init_attr);
FIELD(QpInitAttr, ibv_qp_init_attr, send_cq);
FIELD(QpInitAttr, ibv_qp_init_attr, recv_cq);
FIELD(QpInitAttr, ibv_qp_init_attr, cap);
FIELD(QpInitAttr, ibv_qp_init_attr, qp_type);
FIELD(QpInitAttr, ibv_qp_init_attr, sq_sig_all);
SAME_SIZE(GlobalRoute, ibv_global_route);
SAME_SIZE(AhAttr, ibv_ah_attr);
FIELD(AhAttr, ibv_ah_attr, grh.sgid_index);
FIELD(AhAttr, ibv_ah_attr, grh.hop_limit);
FIELD(AhAttr, ibv_ah_attr, grh.traffic_class);
FIELD(AhAttr, ibv_ah_attr, dlid);
FIELD(AhAttr, ibv_ah_attr, sl);
FIELD(AhAttr, ibv_ah_attr, is_global);
FIELD(AhAttr, ibv_ah_attr, port_num);
SAME_SIZE(QpAttr, ibv_qp_attr);
FIELD(QpAttr, ibv_qp_attr, qp_state);
FIELD(QpAttr, ibv_qp_attr, path_mtu);
FIELD(QpAttr, ibv_qp_attr, rq_psn);
FIELD(QpAttr, ibv_qp_attr, sq_psn);
FIELD(QpAttr, ibv_qp_attr, dest_qp_num);
FIELD(QpAttr, ibv_qp_attr, qp_access_flags);
FIELD(QpAttr, ibv_qp_attr, ah_attr);
FIELD(QpAttr, ibv_qp_attr, pkey_index);
FIELD(QpAttr, ibv_qp_attr, max_rd_atomic);
FIELD(QpAttr, ibv_qp_attr, max_dest_rd_atomic);
FIELD(QpAttr, ibv_qp_attr, min_rnr_timer);
FIELD(QpAttr, ibv_qp_attr, port_num);
FIELD(QpAttr, ibv_qp_attr, timeout);
FIELD(QpAttr, ibv_qp_attr, retry_cnt);
FIELD(QpAttr, ibv_qp_attr, rnr_retry);

SAME_SIZE(PortAttr, ibv_port_attr);
FIELD(PortAttr, ibv_port_attr, state);
FIELD(PortAttr, ibv_port_attr, active_mtu);
FIELD(PortAttr, ibv_port_attr, gid_tbl_len);
FIELD(PortAttr, ibv_port_attr, lid);
FIELD(PortAttr, ibv_port_attr, link_layer);
FIELD(PortAttr, ibv_port_attr, flags);
SAME_SIZE(DeviceAttr, ibv_device_attr);
FIELD(DeviceAttr, ibv_device_attr, max_mr_size);
FIELD(DeviceAttr, ibv_device_attr, max_qp_wr);
FIELD(DeviceAttr, ibv_device_attr, max_cqe);
FIELD(DeviceAttr, ibv_device_attr, max_mr);
FIELD(DeviceAttr, ibv_device_attr, max_qp_rd_atom);
FIELD(DeviceAttr, ibv_device_attr, max_qp_init_rd_atom);
FIELD(DeviceAttr, ibv_device_attr, phys_port_cnt);
SAME_SIZE(GidEntry, ibv_gid_entry);
FIELD(GidEntry, ibv_gid_entry, gid_index);
FIELD(GidEntry, ibv_gid_entry, gid_type);
FIELD(GidEntry, ibv_gid_entry, ndev_ifindex);
SAME_SIZE(AsyncEvent, ibv_async_event);
FIELD(AsyncEvent, ibv_async_event, event_type);

SAME_SIZE(ContextOps, ibv_context_ops);
FIELD(ContextOps, ibv_context_ops, poll_cq);
FIELD(ContextOps, ibv_context_ops, req_notify_cq);
FIELD(ContextOps, ibv_context_ops, post_send);
FIELD(ContextOps, ibv_context_ops, post_recv);
FIELD(Context, ibv_context, ops);
FIELD(Context, ibv_context, async_fd);
FIELD(Context, ibv_context, num_comp_vectors);

VALUE(kLocalWrite, IBV_ACCESS_LOCAL_WRITE);
VALUE(kRemoteWrite, IBV_ACCESS_REMOTE_WRITE);
VALUE(kRemoteRead, IBV_ACCESS_REMOTE_READ);
VALUE(kRelaxedOrdering, IBV_ACCESS_RELAXED_ORDERING);
VALUE(kInit, IBV_QPS_INIT);
VALUE(kRtr, IBV_QPS_RTR);
VALUE(kRts, IBV_QPS_RTS);
VALUE(kErr, IBV_QPS_ERR);
VALUE(kRc, IBV_QPT_RC);
VALUE(kMaskState, IBV_QP_STATE);
VALUE(kMaskAccess, IBV_QP_ACCESS_FLAGS);
VALUE(kMaskPkeyIndex, IBV_QP_PKEY_INDEX);
VALUE(kMaskPort, IBV_QP_PORT);
VALUE(kMaskAv, IBV_QP_AV);
VALUE(kMaskPathMtu, IBV_QP_PATH_MTU);
VALUE(kMaskTimeout, IBV_QP_TIMEOUT);
VALUE(kMaskRetryCnt, IBV_QP_RETRY_CNT);
VALUE(kMaskRnrRetry, IBV_QP_RNR_RETRY);
VALUE(kMaskRqPsn, IBV_QP_RQ_PSN);
VALUE(kMaskMaxRdAtomic, IBV_QP_MAX_QP_RD_ATOMIC);
VALUE(kMaskMinRnrTimer, IBV_QP_MIN_RNR_TIMER);
VALUE(kMaskSqPsn, IBV_QP_SQ_PSN);
VALUE(kMaskMaxDestRdAtomic, IBV_QP_MAX_DEST_RD_ATOMIC);
VALUE(kMaskDestQpn, IBV_QP_DEST_QPN);
VALUE(kRdmaWrite, IBV_WR_RDMA_WRITE);
VALUE(kRdmaWriteImm, IBV_WR_RDMA_WRITE_WITH_IMM);
VALUE(kSend, IBV_WR_SEND);
VALUE(kRdmaRead, IBV_WR_RDMA_READ);
VALUE(kFence, IBV_SEND_FENCE);
VALUE(kSignaled, IBV_SEND_SIGNALED);
VALUE(kInline, IBV_SEND_INLINE);
VALUE(kLocLenErr, IBV_WC_LOC_LEN_ERR);
VALUE(kLocProtErr, IBV_WC_LOC_PROT_ERR);
VALUE(kFlushErr, IBV_WC_WR_FLUSH_ERR);
VALUE(kRemInvReqErr, IBV_WC_REM_INV_REQ_ERR);
VALUE(kRemAccessErr, IBV_WC_REM_ACCESS_ERR);
VALUE(kRetryExcErr, IBV_WC_RETRY_EXC_ERR);
VALUE(kRnrRetryExcErr, IBV_WC_RNR_RETRY_EXC_ERR);
VALUE(kFatalErr, IBV_WC_FATAL_ERR);
VALUE(kWcWrite, IBV_WC_RDMA_WRITE);
VALUE(kWcRead, IBV_WC_RDMA_READ);
VALUE(kWcRecv, IBV_WC_RECV);
VALUE(kWcRecvImm, IBV_WC_RECV_RDMA_WITH_IMM);
VALUE(kWithImm, IBV_WC_WITH_IMM);
VALUE(kPortDown, IBV_PORT_DOWN);
VALUE(kPortActive, IBV_PORT_ACTIVE);
VALUE(kInfiniband, IBV_LINK_LAYER_INFINIBAND);
VALUE(kEthernet, IBV_LINK_LAYER_ETHERNET);
VALUE(kGidRoceV1, IBV_GID_TYPE_ROCE_V1);
VALUE(kGidRoceV2, IBV_GID_TYPE_ROCE_V2);
VALUE(kCqErr, IBV_EVENT_CQ_ERR);
VALUE(kQpFatal, IBV_EVENT_QP_FATAL);
VALUE(kQpReqErr, IBV_EVENT_QP_REQ_ERR);
VALUE(kQpAccessErr, IBV_EVENT_QP_ACCESS_ERR);
VALUE(kDeviceFatal, IBV_EVENT_DEVICE_FATAL);
VALUE(kPortUp, IBV_EVENT_PORT_ACTIVE);
VALUE(kPortErr, IBV_EVENT_PORT_ERR);
VALUE(kLidChange, IBV_EVENT_LID_CHANGE);
VALUE(kGidChange, IBV_EVENT_GID_CHANGE);
VALUE(kForkDisabled, IBV_FORK_DISABLED);
VALUE(kForkEnabled, IBV_FORK_ENABLED);
VALUE(kForkUnneeded, IBV_FORK_UNNEEDED);

int main() { std::puts("the structures and values of verbs_api.h are those of the real header"); }
