// More of oneDNN's C API, see onednn.h: what a network's forward pass needs.
#pragma once

#include "onednn.h"

extern "C" {
typedef struct dnnl_primitive_attr *dnnl_primitive_attr_t;
typedef struct dnnl_post_ops *dnnl_post_ops_t;

dnnl_status_t dnnl_engine_create(dnnl_engine_t *, int kind, size_t index);
dnnl_status_t dnnl_engine_destroy(dnnl_engine_t);
dnnl_status_t dnnl_stream_destroy(dnnl_stream_t);
dnnl_status_t dnnl_memory_desc_create_with_strides(
    dnnl_memory_desc_t *, int ndims, const dnnl_dims_t, int type, const dnnl_dims_t strides);
dnnl_status_t dnnl_memory_set_data_handle_v2(dnnl_memory_t, void *handle, int index);
dnnl_status_t dnnl_primitive_attr_create(dnnl_primitive_attr_t *);
dnnl_status_t dnnl_primitive_attr_destroy(dnnl_primitive_attr_t);
dnnl_status_t dnnl_primitive_attr_set_scratchpad_mode(dnnl_primitive_attr_t, int mode);
dnnl_status_t dnnl_primitive_attr_set_post_ops(dnnl_primitive_attr_t, dnnl_post_ops_t);
dnnl_status_t dnnl_post_ops_create(dnnl_post_ops_t *);
dnnl_status_t dnnl_post_ops_destroy(dnnl_post_ops_t);
dnnl_status_t dnnl_post_ops_append_sum(dnnl_post_ops_t, float scale, int32_t zero_point, int type);
dnnl_status_t dnnl_post_ops_append_eltwise(dnnl_post_ops_t, int algorithm, float alpha, float beta);
dnnl_status_t dnnl_post_ops_append_binary(dnnl_post_ops_t, int algorithm, const_dnnl_memory_desc_t);
dnnl_status_t dnnl_pooling_forward_primitive_desc_create(
    dnnl_primitive_desc_t *, dnnl_engine_t, int propagation, int algorithm, const_dnnl_memory_desc_t source,
    const_dnnl_memory_desc_t target, const dnnl_dims_t strides, const dnnl_dims_t kernel, const dnnl_dims_t dilations,
    const dnnl_dims_t padding_left, const dnnl_dims_t padding_right, const_dnnl_primitive_attr_t);
dnnl_status_t dnnl_matmul_primitive_desc_create(
    dnnl_primitive_desc_t *, dnnl_engine_t, const_dnnl_memory_desc_t source, const_dnnl_memory_desc_t weights,
    const_dnnl_memory_desc_t bias, const_dnnl_memory_desc_t target, const_dnnl_primitive_attr_t);
dnnl_status_t dnnl_binary_primitive_desc_create(
    dnnl_primitive_desc_t *, dnnl_engine_t, int algorithm, const_dnnl_memory_desc_t first,
    const_dnnl_memory_desc_t second, const_dnnl_memory_desc_t target, const_dnnl_primitive_attr_t);
dnnl_status_t dnnl_eltwise_forward_primitive_desc_create(
    dnnl_primitive_desc_t *, dnnl_engine_t, int propagation, int algorithm, const_dnnl_memory_desc_t source,
    const_dnnl_memory_desc_t target, float alpha, float beta, const_dnnl_primitive_attr_t);
dnnl_status_t dnnl_softmax_forward_primitive_desc_create(
    dnnl_primitive_desc_t *, dnnl_engine_t, int propagation, int algorithm, const_dnnl_memory_desc_t source,
    const_dnnl_memory_desc_t target, int axis, const_dnnl_primitive_attr_t);
dnnl_status_t dnnl_concat_primitive_desc_create(
    dnnl_primitive_desc_t *, dnnl_engine_t, const_dnnl_memory_desc_t target, int count, int axis,
    const const_dnnl_memory_desc_t *sources, const_dnnl_primitive_attr_t);
}

namespace rp2k::onednn {

enum { cpu = 1, forward_inference = 96, direct = 1, accurate_softmax = 0x30000, user_scratchpad = 1 };
enum { scratchpad_md = 136, scratchpad = 80, bias = 41, second_source = 2, many_sources = 1024, post_op = 32768 };
enum { binary_add = 0x1fff0 };

#define RP2K_INFERENCE_FUNCTIONS(X)                 \
    X(dnnl_engine_create)                           \
    X(dnnl_engine_destroy)                          \
    X(dnnl_stream_destroy)                          \
    X(dnnl_memory_desc_create_with_strides)         \
    X(dnnl_memory_set_data_handle_v2)               \
    X(dnnl_primitive_attr_create)                   \
    X(dnnl_primitive_attr_destroy)                  \
    X(dnnl_primitive_attr_set_scratchpad_mode)      \
    X(dnnl_primitive_attr_set_post_ops)             \
    X(dnnl_post_ops_create)                         \
    X(dnnl_post_ops_destroy)                        \
    X(dnnl_post_ops_append_sum)                     \
    X(dnnl_post_ops_append_eltwise)                 \
    X(dnnl_post_ops_append_binary)                  \
    X(dnnl_pooling_forward_primitive_desc_create)   \
    X(dnnl_matmul_primitive_desc_create)            \
    X(dnnl_binary_primitive_desc_create)            \
    X(dnnl_eltwise_forward_primitive_desc_create)   \
    X(dnnl_softmax_forward_primitive_desc_create)   \
    X(dnnl_concat_primitive_desc_create)

}  // namespace rp2k::onednn
