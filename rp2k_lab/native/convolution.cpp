#include "convolution.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "depthwise.h"
#include "reorder.h"
#include "scratch.h"
#include "thread_pool.h"

namespace rp2k {
namespace {

using namespace onednn;

// An argument in another layout than MindSpore's.
struct Slot {
    int key;
    bool is_input;
    dnnl_memory_desc_t inner;
    std::unique_ptr<Reorder> reorder;
    size_t bytes;
};

// Pages begin at their own address, so that neighbors never share a cache line.
size_t with_padding(size_t bytes) { return (bytes + 4095) & ~size_t(4095); }

// A primitive of oneDNN with a copy of each argument before or after it.
class ReorderedConvolution : public Kernel {
  public:
    explicit ReorderedConvolution(dnnl_engine_t engine) : engine_(engine) {}
    ~ReorderedConvolution() override {
        for (Slot &slot : slots_) real.dnnl_memory_desc_destroy(slot.inner);
    }

    bool empty() const { return slots_.empty(); }

    // Add an argument if its layouts differ; false if oneDNN cannot copy it.
    bool add(int key, bool is_input, const_dnnl_memory_desc_t plain, const_dnnl_memory_desc_t inner) {
        if (real.dnnl_memory_desc_equal(plain, inner)) return true;
        auto reorder = make_reorder(plain, inner, is_input, engine_);
        if (!reorder) return false;
        dnnl_memory_desc_t copy;
        real.dnnl_memory_desc_clone(&copy, inner);
        const size_t bytes = with_padding(real.dnnl_memory_desc_get_size_v2(inner, 0));
        slots_.push_back({key, is_input, copy, std::move(reorder), bytes});
        total_ += bytes;
        return true;
    }

    dnnl_status_t execute(
        const_dnnl_primitive_t primitive, dnnl_stream_t stream, int count,
        const dnnl_exec_arg_t *arguments) const override {
        Scratch scratch(total_);
        if (!scratch.data()) return out_of_memory;
        std::vector<dnnl_exec_arg_t> inner(arguments, arguments + count);
        Memories memories;
        char *data = scratch.data();
        for (const Slot &slot : slots_) {
            for (dnnl_exec_arg_t &argument : inner) {
                if (argument.arg != slot.key) continue;
                if (!(argument.memory = memories.add(slot, argument.memory, engine_, data))) return out_of_memory;
            }
            data += slot.bytes;
        }
        dnnl_status_t status = memories.copy(stream, true);
        if (!status) status = real.dnnl_primitive_execute(primitive, stream, count, inner.data());
        return status ? status : memories.copy(stream, false);
    }

  private:
    // The inner tensors of one execution.
    class Memories {
      public:
        ~Memories() {
            for (const Pair &pair : pairs_) real.dnnl_memory_destroy(pair.inner);
        }
        // Return the inner tensor, or null if oneDNN has no memory for its description.
        dnnl_memory_t add(const Slot &slot, dnnl_memory_t plain, dnnl_engine_t engine, void *data) {
            dnnl_memory_t inner = nullptr;
            if (real.dnnl_memory_create_v2(&inner, slot.inner, engine, 1, &data)) return nullptr;
            pairs_.push_back({&slot, plain, inner});
            return inner;
        }
        dnnl_status_t copy(dnnl_stream_t stream, bool inputs) const {
            for (const Pair &pair : pairs_) {
                if (pair.slot->is_input != inputs) continue;
                if (auto status = pair.slot->reorder->run(stream, pair.plain, pair.inner)) return status;
            }
            return success;
        }

      private:
        struct Pair {
            const Slot *slot;
            dnnl_memory_t plain, inner;
        };
        std::vector<Pair> pairs_;
    };

    dnnl_engine_t engine_;
    std::vector<Slot> slots_;
    size_t total_ = 0;
};

// One filter for each channel, by our own kernels on plain tensors.
class DepthwiseConvolution : public Kernel {
  public:
    DepthwiseConvolution(Direction direction, const DepthwiseShape &shape) : direction_(direction), shape_(shape) {}

    dnnl_status_t execute(
        const_dnnl_primitive_t, dnnl_stream_t, int count, const dnnl_exec_arg_t *arguments) const override {
        auto at = [&](int key) { return data_of(key, count, arguments); };
        const bool is_forward = direction_ == Direction::forward;
        float *x = at(source), *dx = at(source_gradient), *y = at(is_forward ? target : target_gradient);
        float *w = at(direction_ == Direction::backward_weights ? weights_gradient : weights);
        const long blocks = (shape_.channels + BLOCK - 1) / BLOCK, tasks = std::min<long>(threads(), blocks);
        parallel_for(int(tasks), [&](int task, int all) {
            const int first = int(blocks * task / all * BLOCK);
            const int last = int(std::min(blocks * (task + 1) / all * BLOCK, shape_.channels));
            switch (direction_) {
                case Direction::forward: return depthwise_forward(shape_, x, w, y, first, last);
                case Direction::backward_data: return depthwise_backward_data(shape_, y, w, dx, first, last);
                case Direction::backward_weights: return depthwise_backward_weights(shape_, x, y, w, first, last);
            }
        });
        return success;
    }

  private:
    static constexpr long BLOCK = 16;  // channels that a register holds
    Direction direction_;
    DepthwiseShape shape_;
};

// A descriptor that is destroyed with its scope.
class AnyLayout {
  public:
    explicit AnyLayout(const_dnnl_memory_desc_t desc) {
        real.dnnl_memory_desc_create_with_tag(&desc_, query<int>(desc, ndims), dims_of(desc), f32, any);
    }
    ~AnyLayout() { real.dnnl_memory_desc_destroy(desc_); }
    AnyLayout(const AnyLayout &) = delete;
    operator const_dnnl_memory_desc_t() const { return desc_; }

  private:
    dnnl_memory_desc_t desc_ = nullptr;
};

// Which tensors oneDNN may lay out, and with which of its kernels.
enum class Layout {
    plain,        // none
    product,      // none, as a matrix product that packs nothing before
    any,          // all
    any_weights,  // weights alone; the kernel converts images piece by piece, in cache
};

// By measurement of the networks' layers on a processor with AVX-512: 64 px, batch 32, and 224 px, batch 8.
Layout layout_of(const ConvolutionRequest &r) {
    const int64_t *source = dims_of(r.source), *weights = dims_of(r.weights), *target = dims_of(r.target);
    const int rank = query<int>(r.weights, ndims);
    const long height = weights[rank - 2], width = weights[rank - 1], area = target[2] * target[3];
    const bool is_dense = r.strides[0] == 1 && r.strides[1] == 1;
    if (rank == 5) return Layout::any;
    if (height == 1 && width == 1) {
        // A matrix product for each image, without copies; on small maps the products are too small.
        const bool is_large = std::min(source[1], target[1]) > 128;
        const bool is_backward_data = r.direction == Direction::backward_data;
        const long least = !is_backward_data ? (is_dense || r.direction == Direction::forward ? 16 : 64)
                           : is_dense        ? (is_large ? 196 : 49)
                                             : 64;
        if (area < least) return Layout::any;
        const long summands = r.direction == Direction::forward ? source[1] : target[1];
        return summands <= 128 ? Layout::product : Layout::plain;
    }
    const long least = r.direction == Direction::backward_weights ? 4 : 49;
    return is_dense && area >= least ? Layout::any_weights : Layout::any;
}

bool is_plain(const_dnnl_memory_desc_t desc) {
    if (query<int>(desc, data_type) != f32 || query<int>(desc, format_kind) != blocked) return false;
    if (query<int>(desc, inner_count) != 0 || query<int64_t>(desc, offset) != 0) return false;
    const int64_t *dims = dims_of(desc), *strides = dims_of(desc, onednn::strides);
    int64_t expected = 1;
    for (int i = query<int>(desc, ndims) - 1; i >= 0; i--) {
        if (dims[i] != 1 && strides[i] != expected) return false;
        expected *= dims[i];
    }
    return expected > 0;
}

// Whether a kernel of oneDNN is the one that a layout is for.
bool is_wanted(Layout layout, const char *kernel) {
    if (std::strstr(kernel, "ref")) return false;  // the reference, also inside of another one
    switch (layout) {
        case Layout::plain: return true;
        case Layout::product: return !std::strstr(kernel, "brg_matmul");
        case Layout::any: return !std::strstr(kernel, "brgconv_strided");  // slower than the one after it
        case Layout::any_weights: return std::strstr(kernel, "ncsp:conv");
    }
    return true;
}

// Move a description on to the first kernel that is wanted; false if there is none.
bool find_wanted(Layout layout, dnnl_primitive_desc_t desc) {
    do {
        const char *name = "";
        real.dnnl_primitive_desc_query(desc, implementation, 0, &name);
        if (is_wanted(layout, name)) return true;
    } while (!real.dnnl_primitive_desc_next_impl(desc));
    return false;
}

// Whether oneDNN is to do more with the result, for example add it to what the target holds.
bool has_post_ops(const ConvolutionRequest &r) {
    const_dnnl_post_ops_t after = nullptr;
    if (r.attributes) real.dnnl_primitive_attr_get_post_ops(r.attributes, &after);
    return after && real.dnnl_post_ops_len(after);
}

// Return the kernel for a depthwise convolution that we do faster, or null.
std::shared_ptr<const Kernel> depthwise(const ConvolutionRequest &r) {
    const int64_t *x = dims_of(r.source), *y = dims_of(r.target), *w = dims_of(r.weights);
    const bool is_depthwise = query<int>(r.weights, ndims) == 5 && w[1] == 1 && w[2] == 1 && x[1] == y[1];
    const bool has_bias = r.bias && query<int>(r.bias, ndims);
    if (!is_depthwise || r.dilations[0] || r.dilations[1] || has_bias) return nullptr;
    const DepthwiseShape shape{x[0], x[1], x[2], x[3], y[2], y[3], w[3], w[4], r.strides[0], r.strides[1],
                               r.padding_left[0], r.padding_left[1]};
    if (!depthwise_supports(shape)) return nullptr;
    if (r.direction == Direction::forward && !depthwise_forward_pays(shape)) return nullptr;
    return std::make_shared<DepthwiseConvolution>(r.direction, shape);
}

// Describe a convolution in a layout, if possible with its kernel; otherwise with the kernel that oneDNN prefers.
dnnl_status_t describe(const ConvolutionRequest &r, const Describe &make, Layout layout, dnnl_primitive_desc_t *desc) {
    const bool is_any = layout == Layout::any;
    AnyLayout source(r.source), weights(r.weights), target(r.target);
    auto try_it = [&]() -> dnnl_status_t {
        if (layout == Layout::plain || layout == Layout::product) return make(desc, r.source, r.weights, r.target);
        if (is_any) return make(desc, source, weights, target);
        return make(desc, r.source, weights, r.target);
    };
    const dnnl_status_t status = try_it();
    if (!status && find_wanted(layout, *desc)) return success;
    if (!status) real.dnnl_primitive_desc_destroy(*desc);
    return is_any ? make(desc, source, weights, target) : describe(r, make, Layout::any, desc);
}

}  // namespace

bool is_supported(const ConvolutionRequest &r) {
    const bool is_flat = query<int>(r.source, ndims) == 4 && query<int>(r.target, ndims) == 4;
    return is_flat && !has_post_ops(r) && is_plain(r.source) && is_plain(r.weights) && is_plain(r.target);
}

dnnl_status_t describe_convolution(
    const ConvolutionRequest &r, const Describe &make, dnnl_primitive_desc_t *desc,
    std::shared_ptr<const Kernel> *kernel) {
    if ((*kernel = depthwise(r))) return make(desc, r.source, r.weights, r.target);
    if (auto status = describe(r, make, layout_of(r), desc)) return status;
    auto reordered = std::make_shared<ReorderedConvolution>(r.engine);
    auto add = [&](int key, bool is_input, const_dnnl_memory_desc_t plain) {
        return reordered->add(key, is_input, plain, real.dnnl_primitive_desc_query_md(*desc, exec_arg_md, key));
    };
    bool complete = false;
    switch (r.direction) {
        case Direction::forward:
            complete = add(source, true, r.source) && add(weights, true, r.weights) && add(target, false, r.target);
            break;
        case Direction::backward_data:
            complete = add(target_gradient, true, r.target) && add(weights, true, r.weights) &&
                       add(source_gradient, false, r.source);
            break;
        case Direction::backward_weights:
            complete = add(source, true, r.source) && add(target_gradient, true, r.target) &&
                       add(weights_gradient, false, r.weights);
            break;
    }
    if (!complete) {
        real.dnnl_primitive_desc_destroy(*desc);
        return make(desc, r.source, r.weights, r.target);
    }
    if (!reordered->empty()) *kernel = std::move(reordered);
    return success;
}

}  // namespace rp2k
