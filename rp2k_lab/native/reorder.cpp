#include "reorder.h"

#include <algorithm>

#include "thread_pool.h"
#include "transpose.h"

namespace rp2k {
namespace {

using namespace onednn;

// Tensors of fewer floats are copied by one thread.
constexpr long SMALLEST_SHARE = 16384;

float *data_of_memory(dnnl_memory_t memory) {
    void *data = nullptr;
    real.dnnl_memory_get_data_handle_v2(memory, &data, 0);
    return static_cast<float *>(data);
}

// Split `count` parts of `floats` in all over the threads, statically.
template <class Part>
void for_parts(long count, long floats, Part part) {
    const long tasks = std::clamp(floats / SMALLEST_SHARE, 1L, std::min<long>(threads(), count));
    parallel_for(int(tasks), [&](int task, int all) {
        for (long i = count * task / all; i < count * (task + 1) / all; i++) part(i);
    });
}

// nchw from and to nChw8c or nChw16c.
class ActivationReorder : public Reorder {
  public:
    ActivationReorder(const int64_t *dims, const int64_t *strides, int block, bool to_inner)
        : channels_(dims[1]), area_(dims[2] * dims[3]), block_(block), blocks_((dims[1] + block - 1) / block),
          parts_(dims[0] * blocks_), image_(strides[0]), group_(strides[1]), to_inner_(to_inner) {}

    dnnl_status_t run(dnnl_stream_t, dnnl_memory_t plain_memory, dnnl_memory_t inner_memory) const override {
        float *plain = data_of_memory(plain_memory), *inner = data_of_memory(inner_memory);
        const BlockPlaces places{1, 1, block_, 0, 0};
        for_parts(parts_, parts_ * block_ * area_, [&](long part) {
            const long n = part / blocks_, c = part % blocks_ * block_;
            const int rows = int(std::min<long>(block_, channels_ - c));
            float *p = plain + (n * channels_ + c) * area_, *q = inner + n * image_ + c / block_ * group_;
            if (to_inner_) to_blocks(block_, p, area_, rows, area_, q, places);
            else from_blocks(block_, q, places, p, area_, rows, area_);
        });
        return success;
    }

  private:
    long channels_, area_;
    int block_;
    long blocks_, parts_, image_, group_;
    bool to_inner_;
};

// [g]oihw from and to blocks of outputs and inputs: OIhw16i16o and its like (outputs innermost), or OIhw16o16i.
class WeightReorder : public Reorder {
  public:
    // dims, strides: of (groups, outputs, inputs, height, width).
    WeightReorder(const int64_t *dims, const int64_t *strides, int block, bool outputs_innermost, bool to_inner)
        : outputs_innermost_(outputs_innermost), to_inner_(to_inner), block_(block) {
        std::copy_n(dims, 5, dims_);
        std::copy_n(strides, 5, strides_);
    }

    dnnl_status_t run(dnnl_stream_t, dnnl_memory_t plain_memory, dnnl_memory_t inner_memory) const override {
        float *plain = data_of_memory(plain_memory), *inner = data_of_memory(inner_memory);
        const long outs = dims_[1] / block_, ins = dims_[2] / block_, area = dims_[3] * dims_[4];
        for_parts(dims_[0] * outs * ins, dims_[0] * dims_[1] * dims_[2] * area, [&](long part) {
            const long g = part / (outs * ins), o = part / ins % outs, i = part % ins;
            float *p = plain + ((g * dims_[1] + o * block_) * dims_[2] + i * block_) * area;
            copy_tile(p, inner + g * strides_[0] + o * strides_[1] + i * strides_[2], area);
        });
        return success;
    }

  private:
    void copy_tile(float *plain, float *inner, long area) const {
        const BlockPlaces places{dims_[3], dims_[4], block_, strides_[3], strides_[4]};
        if (outputs_innermost_) {
            copy(plain, dims_[2] * area, block_ * area, inner, places);
            return;
        }
        for (int o = 0; o < block_; o++) copy(plain + o * dims_[2] * area, area, area, inner + o * block_, places);
    }

    void copy(float *plain, long stride, long columns, float *inner, const BlockPlaces &places) const {
        if (to_inner_) to_blocks(block_, plain, stride, block_, columns, inner, places);
        else from_blocks(block_, inner, places, plain, stride, block_, columns);
    }

    int64_t dims_[5], strides_[5];
    bool outputs_innermost_, to_inner_;
    int block_;
};

// Any other layout, by oneDNN.
class LibraryReorder : public Reorder {
  public:
    LibraryReorder(dnnl_primitive_t primitive, bool to_inner) : primitive_(primitive), to_inner_(to_inner) {}
    ~LibraryReorder() override { real.dnnl_primitive_destroy(primitive_); }

    dnnl_status_t run(dnnl_stream_t stream, dnnl_memory_t plain, dnnl_memory_t inner) const override {
        const dnnl_exec_arg_t arguments[] = {{from, to_inner_ ? plain : inner}, {to, to_inner_ ? inner : plain}};
        return real.dnnl_primitive_execute(primitive_, stream, 2, arguments);
    }

  private:
    dnnl_primitive_t primitive_;
    bool to_inner_;
};

std::unique_ptr<Reorder> own_reorder(const_dnnl_memory_desc_t inner, bool to_inner) {
    if (query<int>(inner, format_kind) != blocked || query<int64_t>(inner, offset) != 0) return nullptr;
    const int rank = query<int>(inner, ndims), count = query<int>(inner, inner_count);
    const int64_t *dims = dims_of(inner), *strides = dims_of(inner, onednn::strides);
    const int64_t *blocks = dims_of(inner, inner_blocks), *where = dims_of(inner, inner_dims);
    const int block = count ? int(blocks[0]) : 0;
    if (block != 8 && block != 16) return nullptr;
    if (rank == 4 && count == 1 && where[0] == 1) {
        const bool dense = strides[3] == block && strides[2] == dims[3] * block;
        return dense ? std::make_unique<ActivationReorder>(dims, strides, block, to_inner) : nullptr;
    }
    const int first = rank - 4;  // the dimension of outputs: after that of groups, if there is one
    if (count != 2 || blocks[1] != block || where[0] + where[1] != 2 * first + 1) return nullptr;
    if (dims[first] % block || dims[first + 1] % block) return nullptr;
    int64_t five[5] = {1}, five_strides[5] = {0};
    std::copy_n(dims, rank, five + 5 - rank);
    std::copy_n(strides, rank, five_strides + 5 - rank);
    return std::make_unique<WeightReorder>(five, five_strides, block, where[1] == first, to_inner);
}

}  // namespace

std::unique_ptr<Reorder> make_reorder(
    const_dnnl_memory_desc_t plain, const_dnnl_memory_desc_t inner, bool to_inner, dnnl_engine_t engine) {
    if (auto own = own_reorder(inner, to_inner)) return own;
    dnnl_primitive_desc_t desc;
    auto source = to_inner ? plain : inner, target = to_inner ? inner : plain;
    if (real.dnnl_reorder_primitive_desc_create(&desc, source, engine, target, engine, nullptr)) return nullptr;
    dnnl_primitive_t primitive;
    const dnnl_status_t status = real.dnnl_primitive_create(&primitive, desc);
    real.dnnl_primitive_desc_destroy(desc);
    return status ? nullptr : std::make_unique<LibraryReorder>(primitive, to_inner);
}

}  // namespace rp2k
