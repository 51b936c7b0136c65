// The part of oneDNN's C API that passes through this library, declared by hand: MindSpore's wheel has the library
// (libdnnl.so.3) without its headers.  Names and values are those of oneDNN 3.10; `start` refuses other versions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>

extern "C" {
typedef int dnnl_status_t;
typedef int64_t dnnl_dims_t[12];
typedef struct dnnl_engine *dnnl_engine_t;
typedef struct dnnl_stream *dnnl_stream_t;
typedef struct dnnl_memory *dnnl_memory_t;
typedef struct dnnl_memory_desc *dnnl_memory_desc_t;
typedef const struct dnnl_memory_desc *const_dnnl_memory_desc_t;
typedef struct dnnl_primitive *dnnl_primitive_t;
typedef const struct dnnl_primitive *const_dnnl_primitive_t;
typedef struct dnnl_primitive_desc *dnnl_primitive_desc_t;
typedef const struct dnnl_primitive_desc *const_dnnl_primitive_desc_t;
typedef const struct dnnl_primitive_attr *const_dnnl_primitive_attr_t;
typedef const struct dnnl_post_ops *const_dnnl_post_ops_t;

typedef struct {
    int arg;
    dnnl_memory_t memory;
} dnnl_exec_arg_t;

typedef struct {
    int major, minor, patch;
    const char *hash;
    unsigned cpu_runtime, gpu_runtime;
} dnnl_version_t;

const dnnl_version_t *dnnl_version(void);
dnnl_status_t dnnl_memory_desc_create_with_tag(dnnl_memory_desc_t *, int ndims, const dnnl_dims_t, int type, int tag);
dnnl_status_t dnnl_memory_desc_clone(dnnl_memory_desc_t *, const_dnnl_memory_desc_t);
dnnl_status_t dnnl_memory_desc_destroy(dnnl_memory_desc_t);
dnnl_status_t dnnl_memory_desc_query(const_dnnl_memory_desc_t, int what, void *result);
int dnnl_memory_desc_equal(const_dnnl_memory_desc_t, const_dnnl_memory_desc_t);
size_t dnnl_memory_desc_get_size_v2(const_dnnl_memory_desc_t, int index);
dnnl_status_t dnnl_memory_create_v2(dnnl_memory_t *, const_dnnl_memory_desc_t, dnnl_engine_t, int count, void **handles);
dnnl_status_t dnnl_memory_get_data_handle_v2(dnnl_memory_t, void **handle, int index);
dnnl_status_t dnnl_memory_destroy(dnnl_memory_t);
dnnl_status_t dnnl_primitive_desc_query(const_dnnl_primitive_desc_t, int what, int index, void *result);
const_dnnl_memory_desc_t dnnl_primitive_desc_query_md(const_dnnl_primitive_desc_t, int what, int index);
dnnl_status_t dnnl_primitive_desc_next_impl(dnnl_primitive_desc_t);
dnnl_status_t dnnl_primitive_desc_destroy(dnnl_primitive_desc_t);
dnnl_status_t dnnl_primitive_create(dnnl_primitive_t *, const_dnnl_primitive_desc_t);
dnnl_status_t dnnl_primitive_execute(const_dnnl_primitive_t, dnnl_stream_t, int count, const dnnl_exec_arg_t *);
dnnl_status_t dnnl_primitive_destroy(dnnl_primitive_t);
dnnl_status_t dnnl_primitive_attr_get_post_ops(const_dnnl_primitive_attr_t, const_dnnl_post_ops_t *);
int dnnl_post_ops_len(const_dnnl_post_ops_t);
dnnl_status_t dnnl_reorder_primitive_desc_create(
    dnnl_primitive_desc_t *, const_dnnl_memory_desc_t source, dnnl_engine_t, const_dnnl_memory_desc_t target,
    dnnl_engine_t, const_dnnl_primitive_attr_t);
dnnl_status_t dnnl_convolution_forward_primitive_desc_create(
    dnnl_primitive_desc_t *, dnnl_engine_t, int propagation, int algorithm, const_dnnl_memory_desc_t source,
    const_dnnl_memory_desc_t weights, const_dnnl_memory_desc_t bias, const_dnnl_memory_desc_t target,
    const dnnl_dims_t strides, const dnnl_dims_t dilations, const dnnl_dims_t padding_left,
    const dnnl_dims_t padding_right, const_dnnl_primitive_attr_t);
dnnl_status_t dnnl_convolution_backward_data_primitive_desc_create(
    dnnl_primitive_desc_t *, dnnl_engine_t, int algorithm, const_dnnl_memory_desc_t source,
    const_dnnl_memory_desc_t weights, const_dnnl_memory_desc_t target, const dnnl_dims_t strides,
    const dnnl_dims_t dilations, const dnnl_dims_t padding_left, const dnnl_dims_t padding_right,
    const_dnnl_primitive_desc_t hint, const_dnnl_primitive_attr_t);
dnnl_status_t dnnl_convolution_backward_weights_primitive_desc_create(
    dnnl_primitive_desc_t *, dnnl_engine_t, int algorithm, const_dnnl_memory_desc_t source,
    const_dnnl_memory_desc_t weights, const_dnnl_memory_desc_t bias, const_dnnl_memory_desc_t target,
    const dnnl_dims_t strides, const dnnl_dims_t dilations, const dnnl_dims_t padding_left,
    const dnnl_dims_t padding_right, const_dnnl_primitive_desc_t hint, const_dnnl_primitive_attr_t);
dnnl_status_t dnnl_batch_normalization_forward_primitive_desc_create(
    dnnl_primitive_desc_t *, dnnl_engine_t, int propagation, const_dnnl_memory_desc_t source,
    const_dnnl_memory_desc_t target, float epsilon, unsigned flags, const_dnnl_primitive_attr_t);
dnnl_status_t dnnl_batch_normalization_backward_primitive_desc_create(
    dnnl_primitive_desc_t *, dnnl_engine_t, int propagation, const_dnnl_memory_desc_t source_gradient,
    const_dnnl_memory_desc_t target_gradient, const_dnnl_memory_desc_t source, float epsilon, unsigned flags,
    const_dnnl_primitive_desc_t hint, const_dnnl_primitive_attr_t);
dnnl_status_t dnnl_threadpool_interop_stream_create(dnnl_stream_t *, dnnl_engine_t, void *pool);
dnnl_status_t dnnl_threadpool_interop_set_max_concurrency(int threads);
}

// oneDNN's abstract class for threads, in the order of its virtual functions.
namespace dnnl::threadpool_interop {
struct threadpool_iface {
    virtual int get_num_threads() const = 0;
    virtual bool get_in_parallel() const = 0;
    virtual void parallel_for(int count, const std::function<void(int, int)> &body) = 0;
    virtual uint64_t get_flags() const = 0;
    virtual ~threadpool_iface() = default;
};
}  // namespace dnnl::threadpool_interop

namespace rp2k::onednn {

enum Status { success = 0, out_of_memory = 1, unimplemented = 3 };
enum DataType { f32 = 3 };
enum Propagation { forward_training = 64 };
enum NormFlag { use_global_stats = 1, use_scale = 2, use_shift = 4, fuse_relu = 8, fuse_add_relu = 16 };
enum Tag { any = 1, abcd = 5 };
enum Format { blocked = 2 };
enum Query {
    engine = 1,
    implementation = 8,
    strides = 14,
    exec_arg_md = 255,
    ndims = 256,
    dims = 257,
    data_type = 258,
    offset = 259,
    padded_dims = 260,
    format_kind = 262,
    inner_count = 263,
    inner_blocks = 264,
    inner_dims = 265,
};
enum Argument {
    from = 1,
    source = 1,
    to = 17,
    target = 17,
    weights = 33,
    mean = 49,
    variance = 50,
    scale = 51,
    shift = 52,
    source_gradient = 129,
    target_gradient = 145,
    weights_gradient = 161,
    scale_gradient = 255,
    shift_gradient = 256,
};

#define RP2K_ONEDNN_FUNCTIONS(X)                              \
    X(dnnl_version)                                           \
    X(dnnl_memory_desc_create_with_tag)                       \
    X(dnnl_memory_desc_clone)                                 \
    X(dnnl_memory_desc_destroy)                               \
    X(dnnl_memory_desc_query)                                 \
    X(dnnl_memory_desc_equal)                                 \
    X(dnnl_memory_desc_get_size_v2)                           \
    X(dnnl_memory_create_v2)                                  \
    X(dnnl_memory_get_data_handle_v2)                         \
    X(dnnl_memory_destroy)                                    \
    X(dnnl_primitive_desc_query)                              \
    X(dnnl_primitive_desc_query_md)                           \
    X(dnnl_primitive_desc_next_impl)                          \
    X(dnnl_primitive_desc_destroy)                            \
    X(dnnl_primitive_create)                                  \
    X(dnnl_primitive_execute)                                 \
    X(dnnl_primitive_destroy)                                 \
    X(dnnl_primitive_attr_get_post_ops)                       \
    X(dnnl_post_ops_len)                                      \
    X(dnnl_reorder_primitive_desc_create)                     \
    X(dnnl_convolution_forward_primitive_desc_create)         \
    X(dnnl_convolution_backward_data_primitive_desc_create)   \
    X(dnnl_convolution_backward_weights_primitive_desc_create) \
    X(dnnl_batch_normalization_forward_primitive_desc_create) \
    X(dnnl_batch_normalization_backward_primitive_desc_create) \
    X(dnnl_threadpool_interop_stream_create)                  \
    X(dnnl_threadpool_interop_set_max_concurrency)

// MindSpore's own oneDNN.  A plain call of `dnnl_…` from here may reach the functions that this library exports.
struct Library {
#define RP2K_MEMBER(name) decltype(&::name) name;
    RP2K_ONEDNN_FUNCTIONS(RP2K_MEMBER)
#undef RP2K_MEMBER
};
extern Library real;

// Load `real` from a file; return why it cannot be used, or nullptr.
const char *load(const char *path);

template <class Value>
Value query(const_dnnl_memory_desc_t desc, Query what) {
    Value value{};
    real.dnnl_memory_desc_query(desc, what, &value);
    return value;
}

// Return the dimensions (or strides, blocks …) of a descriptor; they live as long as it does.
inline const int64_t *dims_of(const_dnnl_memory_desc_t desc, Query what = dims) {
    return *query<const dnnl_dims_t *>(desc, what);
}

// Return the data of the argument `key` of an execution, or nullptr.
float *data_of(int key, int count, const dnnl_exec_arg_t *arguments);

}  // namespace rp2k::onednn
