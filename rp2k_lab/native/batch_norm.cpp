#include "batch_norm.h"

#include "normalize.h"

namespace rp2k {
namespace {

using namespace onednn;

class BatchNorm : public Kernel {
  public:
    BatchNorm(const int64_t *dims, float epsilon, unsigned flags, bool is_backward)
        : norm_{dims[0], dims[1], dims[2] * dims[3], epsilon}, flags_(flags), is_backward_(is_backward) {
        norm_.has_fixed_statistics = flags & use_global_stats;
    }

    dnnl_status_t execute(
        const_dnnl_primitive_t, dnnl_stream_t, int count, const dnnl_exec_arg_t *arguments) const override {
        auto at = [&](int key) { return data_of(key, count, arguments); };
        NormalizationTensors t;
        t.x = at(source);
        t.scale = flags_ & use_scale ? at(scale) : nullptr;
        t.shift = flags_ & use_shift ? at(shift) : nullptr;
        t.mean = at(mean), t.variance = at(variance);
        if (is_backward_) {
            t.dy = at(target_gradient), t.dx = at(source_gradient);
            t.dscale = at(scale_gradient), t.dshift = at(shift_gradient);
            normalize_gradient(norm_, t);
        } else {
            t.y = at(target);
            normalize(norm_, t);
        }
        return success;
    }

  private:
    Normalization norm_;
    unsigned flags_;
    bool is_backward_;
};

}  // namespace

std::shared_ptr<const Kernel> make_batch_norm(
    std::initializer_list<const_dnnl_memory_desc_t> tensors, float epsilon, unsigned flags, bool is_backward) {
    if (flags & (fuse_relu | fuse_add_relu)) return nullptr;
    const int64_t *dims = dims_of(*tensors.begin());
    for (const_dnnl_memory_desc_t tensor : tensors) {
        if (query<int>(tensor, ndims) != 4 || query<int>(tensor, data_type) != f32) return nullptr;
        dnnl_memory_desc_t plain;
        if (real.dnnl_memory_desc_create_with_tag(&plain, 4, dims, f32, abcd)) return nullptr;
        const bool is_plain = real.dnnl_memory_desc_equal(plain, tensor);
        real.dnnl_memory_desc_destroy(plain);
        if (!is_plain) return nullptr;
    }
    return std::make_shared<BatchNorm>(dims, epsilon, flags, is_backward);
}

}  // namespace rp2k
