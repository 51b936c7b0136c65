#include "batch_norm.h"

#include <algorithm>
#include <cmath>

#include "thread_pool.h"

namespace rp2k {
namespace {

using namespace onednn;

// A strip: the same places of all images, as many as fit a first-level cache beside their sums (floats).
constexpr long WIDEST = 512;
// Tensors of fewer floats are computed by one thread.
constexpr long SMALLEST_SHARE = 16384;

#define CLONES __attribute__((target_clones("avx512f", "avx2", "default")))

// The loops over a strip.  Each place has its own sum over the images, so nothing is summed up across a register.
CLONES void add(float *sum, const float *x, long n) {
    for (long i = 0; i < n; i++) sum[i] += x[i];
}
CLONES void add_squares(float *sum, const float *x, const float *mean, long n) {
    for (long i = 0; i < n; i++) sum[i] += (x[i] - mean[i]) * (x[i] - mean[i]);
}
// The mean comes off first: a product with it would lose the digits that a channel of small variance has.
CLONES void scale_and_shift(float *y, const float *x, const float *mean, const float *a, const float *b, long n) {
    for (long i = 0; i < n; i++) y[i] = (x[i] - mean[i]) * a[i] + b[i];
}
CLONES void add_gradients(float *sum, float *product, const float *x, const float *dy, const float *mean, long n) {
    for (long i = 0; i < n; i++) {
        sum[i] += dy[i];
        product[i] += dy[i] * (x[i] - mean[i]);
    }
}
CLONES void combine(
    float *dx, const float *x, const float *dy, const float *mean, const float *a, const float *b, const float *c,
    long n) {
    for (long i = 0; i < n; i++) dx[i] = dy[i] * a[i] + (x[i] - mean[i]) * b[i] + c[i];
}

struct Tensors {
    const float *source, *scale, *shift, *target_gradient;
    float *mean, *variance, *target, *source_gradient, *scale_gradient, *shift_gradient;
};

class BatchNorm : public Kernel {
  public:
    BatchNorm(const int64_t *dims, float epsilon, unsigned flags, bool is_backward)
        : images_(dims[0]), channels_(dims[1]), area_(dims[2] * dims[3]), epsilon_(epsilon), flags_(flags),
          is_backward_(is_backward) {}

    dnnl_status_t execute(
        const_dnnl_primitive_t, dnnl_stream_t, int count, const dnnl_exec_arg_t *arguments) const override {
        auto at = [&](int key) { return data_of(key, count, arguments); };
        const Tensors t{
            at(source), flags_ & use_scale ? at(scale) : nullptr, flags_ & use_shift ? at(shift) : nullptr,
            at(target_gradient), at(mean), at(variance), at(target), at(source_gradient), at(scale_gradient),
            at(shift_gradient)};
        const long floats = images_ * channels_ * area_;
        const long tasks = std::clamp(floats / SMALLEST_SHARE, 1L, std::min<long>(threads(), channels_));
        parallel_for(int(tasks), [&](int task, int all) {
            const long first = channels_ * task / all, last = channels_ * (task + 1) / all;
            const long step = std::max(1L, WIDEST / area_);  // channels of a strip
            for (long c = first; c < last; c += step) {
                const long n = std::min(step, last - c);
                is_backward_ ? backward(t, c, n) : forward(t, c, n);
            }
        });
        return success;
    }

  private:
    // Values of `n` channels, each repeated for every place of a strip.
    struct Row {
        alignas(64) float values[WIDEST];
    };

    // Call body(offset of the strip in an image, its length) for all strips of channels c … c + n - 1.
    template <class Body>
    void for_strips(long c, long n, Body body) const {
        if (n > 1) return body(c * area_, n * area_);
        for (long i = 0; i < area_; i += WIDEST) body(c * area_ + i, std::min(WIDEST, area_ - i));
    }

    // Set each place of a row to its channel's value.
    void spread(Row &row, const float *channel_values, long n) const {
        const long places = std::min(WIDEST, area_);
        for (long j = 0; j < n; j++) std::fill_n(row.values + j * places, places, channel_values[j]);
    }

    // Add a row's places to the sums of its channels.
    void gather(const Row &row, long length, long n, double *sums) const {
        const long places = length / n;
        for (long j = 0; j < n; j++) {
            double sum = 0;
            for (long i = 0; i < places; i++) sum += row.values[j * places + i];
            sums[j] += sum;
        }
    }

    void forward(const Tensors &t, long c, long n) const {
        const double count = double(images_) * area_;
        const long step = channels_ * area_;
        Row sum, mean, a, b;
        float *means = t.mean + c, *variances = t.variance + c;
        if (!(flags_ & use_global_stats)) {
            double sums[WIDEST] = {0};
            for_strips(c, n, [&](long start, long length) {
                std::fill_n(sum.values, length, 0.0f);
                for (long i = 0; i < images_; i++) add(sum.values, t.source + i * step + start, length);
                gather(sum, length, n, sums);
            });
            for (long j = 0; j < n; j++) means[j] = float(sums[j] / count);
            spread(mean, means, n);
            std::fill_n(sums, n, 0.0);
            for_strips(c, n, [&](long start, long length) {
                std::fill_n(sum.values, length, 0.0f);
                for (long i = 0; i < images_; i++) {
                    add_squares(sum.values, t.source + i * step + start, mean.values, length);
                }
                gather(sum, length, n, sums);
            });
            for (long j = 0; j < n; j++) variances[j] = float(sums[j] / count);
        }
        float factors[WIDEST], terms[WIDEST];
        for (long j = 0; j < n; j++) {
            factors[j] = (t.scale ? t.scale[c + j] : 1.0f) / std::sqrt(variances[j] + epsilon_);
            terms[j] = t.shift ? t.shift[c + j] : 0.0f;
        }
        spread(mean, means, n);
        spread(a, factors, n);
        spread(b, terms, n);
        for_strips(c, n, [&](long start, long length) {
            for (long i = 0; i < images_; i++) {
                const long at = i * step + start;
                scale_and_shift(t.target + at, t.source + at, mean.values, a.values, b.values, length);
            }
        });
    }

    void backward(const Tensors &t, long c, long n) const {
        const double count = double(images_) * area_;
        const long step = channels_ * area_;
        Row sum, product, mean, a, b, constant;
        double sums[WIDEST] = {0}, products[WIDEST] = {0};
        spread(mean, t.mean + c, n);
        for_strips(c, n, [&](long start, long length) {
            std::fill_n(sum.values, length, 0.0f);
            std::fill_n(product.values, length, 0.0f);
            for (long i = 0; i < images_; i++) {
                const long at = i * step + start;
                add_gradients(sum.values, product.values, t.source + at, t.target_gradient + at, mean.values, length);
            }
            gather(sum, length, n, sums);
            gather(product, length, n, products);
        });
        float factors[WIDEST], slopes[WIDEST], terms[WIDEST];
        for (long j = 0; j < n; j++) {
            const double inverse = 1 / std::sqrt(double(t.variance[c + j]) + epsilon_);
            const double scale_gradient = products[j] * inverse;
            if (t.scale_gradient) t.scale_gradient[c + j] = float(scale_gradient);
            if (t.shift_gradient) t.shift_gradient[c + j] = float(sums[j]);
            const double factor = (t.scale ? t.scale[c + j] : 1.0f) * inverse;
            const bool is_constant = flags_ & use_global_stats;  // then mean and variance do not depend on the source
            const double slope = is_constant ? 0 : -factor * inverse * scale_gradient / count;
            factors[j] = float(factor);
            slopes[j] = float(slope);
            terms[j] = is_constant ? 0 : float(-factor * sums[j] / count);
        }
        spread(a, factors, n);
        spread(b, slopes, n);
        spread(constant, terms, n);
        for_strips(c, n, [&](long start, long length) {
            for (long i = 0; i < images_; i++) {
                const long at = i * step + start;
                combine(t.source_gradient + at, t.source + at, t.target_gradient + at, mean.values, a.values, b.values,
                        constant.values, length);
            }
        });
    }

    long images_, channels_, area_;
    float epsilon_;
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
