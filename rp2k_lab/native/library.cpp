// The functions that stand between MindSpore and its oneDNN, and those that Python calls.
//
// The dynamic loader finds these first, since the library is loaded for all (RTLD_GLOBAL) before MindSpore.

#include <memory>
#include <mutex>
#include <unordered_map>

#include "batch_norm.h"
#include "convolution.h"
#include "fork.h"
#include "onednn.h"
#include "scratch.h"
#include "thread_pool.h"

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace rp2k {
namespace {

using namespace onednn;

// Raise it with every change that gives other bits.
constexpr int VERSION = 2;

// The kernels by the handles that MindSpore holds, of descriptors or of primitives.
class Registry {
  public:
    std::shared_ptr<const Kernel> find(const void *handle) {
        std::lock_guard<std::mutex> lock(guard_);
        auto found = kernels_.find(handle);
        return found == kernels_.end() ? nullptr : found->second;
    }
    // Null removes it: a handle's address is used again.
    void set(const void *handle, std::shared_ptr<const Kernel> kernel) {
        std::lock_guard<std::mutex> lock(guard_);
        if (kernel) kernels_[handle] = std::move(kernel);
        else kernels_.erase(handle);
    }
    std::mutex &guard() { return guard_; }

  private:
    std::mutex guard_;
    std::unordered_map<const void *, std::shared_ptr<const Kernel>> kernels_;
};

// Never destroyed: MindSpore destroys primitives when the process ends.
Registry &descs = *new Registry, &primitives = *new Registry;

class Threads : public dnnl::threadpool_interop::threadpool_iface {
    int get_num_threads() const override { return threads(); }
    bool get_in_parallel() const override { return in_parallel(); }
    void parallel_for(int count, const std::function<void(int, int)> &body) override { rp2k::parallel_for(count, body); }
    uint64_t get_flags() const override { return 0; }
};

Threads &pool = *new Threads;

dnnl_status_t convolution(const ConvolutionRequest &request, const Describe &make, dnnl_primitive_desc_t *desc) {
    real.dnnl_threadpool_interop_set_max_concurrency(threads());
    std::shared_ptr<const Kernel> kernel;
    const dnnl_status_t status = is_supported(request)
                                     ? describe_convolution(request, make, desc, &kernel)
                                     : make(desc, request.source, request.weights, request.target);
    if (!status) descs.set(*desc, std::move(kernel));
    return status;
}

}  // namespace
}  // namespace rp2k

using namespace rp2k;

EXPORT int rp2k_native_version() { return VERSION; }

EXPORT const char *rp2k_native_start(const char *path_of_libdnnl, int threads) {
    if (!__builtin_cpu_supports("avx2")) return "the processor has no AVX2";
    if (const char *reason = onednn::load(path_of_libdnnl)) return reason;
    set_threads(threads);
    hold_during_fork(descs.guard());
    hold_during_fork(primitives.guard());
    Scratch::start();
    return nullptr;
}

EXPORT dnnl_status_t dnnl_convolution_forward_primitive_desc_create(
    dnnl_primitive_desc_t *desc, dnnl_engine_t engine, int propagation, int algorithm, const_dnnl_memory_desc_t source,
    const_dnnl_memory_desc_t weights, const_dnnl_memory_desc_t bias, const_dnnl_memory_desc_t target,
    const dnnl_dims_t strides, const dnnl_dims_t dilations, const dnnl_dims_t left, const dnnl_dims_t right,
    const_dnnl_primitive_attr_t attributes) {
    auto make = [&](dnnl_primitive_desc_t *d, auto s, auto w, auto t) {
        return real.dnnl_convolution_forward_primitive_desc_create(
            d, engine, propagation, algorithm, s, w, bias, t, strides, dilations, left, right, attributes);
    };
    return convolution(
        {Direction::forward, engine, source, weights, bias, target, strides, dilations, left, attributes}, make, desc);
}

EXPORT dnnl_status_t dnnl_convolution_backward_data_primitive_desc_create(
    dnnl_primitive_desc_t *desc, dnnl_engine_t engine, int algorithm, const_dnnl_memory_desc_t source,
    const_dnnl_memory_desc_t weights, const_dnnl_memory_desc_t target, const dnnl_dims_t strides,
    const dnnl_dims_t dilations, const dnnl_dims_t left, const dnnl_dims_t right, const_dnnl_primitive_desc_t hint,
    const_dnnl_primitive_attr_t attributes) {
    auto make = [&](dnnl_primitive_desc_t *d, auto s, auto w, auto t) {
        return real.dnnl_convolution_backward_data_primitive_desc_create(
            d, engine, algorithm, s, w, t, strides, dilations, left, right, hint, attributes);
    };
    return convolution(
        {Direction::backward_data, engine, source, weights, nullptr, target, strides, dilations, left, attributes}, make,
        desc);
}

EXPORT dnnl_status_t dnnl_convolution_backward_weights_primitive_desc_create(
    dnnl_primitive_desc_t *desc, dnnl_engine_t engine, int algorithm, const_dnnl_memory_desc_t source,
    const_dnnl_memory_desc_t weights, const_dnnl_memory_desc_t bias, const_dnnl_memory_desc_t target,
    const dnnl_dims_t strides, const dnnl_dims_t dilations, const dnnl_dims_t left, const dnnl_dims_t right,
    const_dnnl_primitive_desc_t hint, const_dnnl_primitive_attr_t attributes) {
    auto make = [&](dnnl_primitive_desc_t *d, auto s, auto w, auto t) {
        return real.dnnl_convolution_backward_weights_primitive_desc_create(
            d, engine, algorithm, s, w, bias, t, strides, dilations, left, right, hint, attributes);
    };
    return convolution(
        {Direction::backward_weights, engine, source, weights, bias, target, strides, dilations, left, attributes}, make,
        desc);
}

EXPORT dnnl_status_t dnnl_batch_normalization_forward_primitive_desc_create(
    dnnl_primitive_desc_t *desc, dnnl_engine_t engine, int propagation, const_dnnl_memory_desc_t source,
    const_dnnl_memory_desc_t target, float epsilon, unsigned flags, const_dnnl_primitive_attr_t attributes) {
    const dnnl_status_t status = real.dnnl_batch_normalization_forward_primitive_desc_create(
        desc, engine, propagation, source, target, epsilon, flags, attributes);
    // In inference without given statistics oneDNN does not store the ones that it computes.
    const bool has_statistics = propagation == onednn::forward_training || flags & onednn::use_global_stats;
    if (!status) descs.set(*desc, has_statistics ? make_batch_norm({source, target}, epsilon, flags, false) : nullptr);
    return status;
}

EXPORT dnnl_status_t dnnl_batch_normalization_backward_primitive_desc_create(
    dnnl_primitive_desc_t *desc, dnnl_engine_t engine, int propagation, const_dnnl_memory_desc_t source_gradient,
    const_dnnl_memory_desc_t target_gradient, const_dnnl_memory_desc_t source, float epsilon, unsigned flags,
    const_dnnl_primitive_desc_t hint, const_dnnl_primitive_attr_t attributes) {
    const dnnl_status_t status = real.dnnl_batch_normalization_backward_primitive_desc_create(
        desc, engine, propagation, source_gradient, target_gradient, source, epsilon, flags, hint, attributes);
    if (!status) descs.set(*desc, make_batch_norm({source, source_gradient, target_gradient}, epsilon, flags, true));
    return status;
}

EXPORT dnnl_status_t dnnl_primitive_create(dnnl_primitive_t *primitive, const_dnnl_primitive_desc_t desc) {
    const dnnl_status_t status = real.dnnl_primitive_create(primitive, desc);
    if (!status) primitives.set(*primitive, descs.find(desc));
    return status;
}

EXPORT dnnl_status_t dnnl_primitive_execute(
    const_dnnl_primitive_t primitive, dnnl_stream_t stream, int count, const dnnl_exec_arg_t *arguments) {
    if (auto kernel = primitives.find(primitive)) return kernel->execute(primitive, stream, count, arguments);
    return real.dnnl_primitive_execute(primitive, stream, count, arguments);
}

EXPORT dnnl_status_t dnnl_primitive_destroy(dnnl_primitive_t primitive) {
    primitives.set(primitive, nullptr);
    return real.dnnl_primitive_destroy(primitive);
}

EXPORT dnnl_status_t dnnl_primitive_desc_destroy(dnnl_primitive_desc_t desc) {
    descs.set(desc, nullptr);
    return real.dnnl_primitive_desc_destroy(desc);
}

// MindSpore's pool would also try how many threads are fastest, so that the number differs from run to run.
EXPORT dnnl_status_t dnnl_threadpool_interop_stream_create(dnnl_stream_t *stream, dnnl_engine_t engine, void *) {
    return real.dnnl_threadpool_interop_stream_create(stream, engine, &pool);
}
