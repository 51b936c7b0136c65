// Batch norms with the ReLU, and the residual, that follow them; and the residual alone.

#include "normalize.h"
#include "operators.h"

namespace rp2k {
namespace {

using After = Normalization::After;

// options: (epsilon, momentum, ceiling of the ReLU)
Normalization norm_of(const Array &x, const float *options, After after) {
    Normalization norm{x.shape[0], x.shape[1], x.shape[2] * x.shape[3], options[0], after};
    norm.ceiling = options[2];
    return norm;
}

// Move running statistics towards those of a batch; its variance is that of a sample.
void track(const Normalization &norm, const NormalizationTensors &t, float momentum, float *mean, float *variance) {
    const double count = double(norm.images) * norm.area, correction = count > 1 ? count / (count - 1) : 1;
    for (long c = 0; c < norm.channels; ++c) {
        mean[c] += momentum * (t.mean[c] - mean[c]);
        variance[c] += momentum * (float(t.variance[c] * correction) - variance[c]);
    }
}

RP2K_WIDE void sum_relu(const float *__restrict a, const float *__restrict b, float *__restrict y, int64_t size) {
    for (int64_t i = 0; i < size; ++i) {
        const float sum = a[i] + b[i];
        y[i] = sum < 0.0f ? 0.0f : sum;
    }
}

RP2K_WIDE void sum_relu_gradient(const float *__restrict y, const float *__restrict dy, float *__restrict dx,
                                 int64_t size) {
    for (int64_t i = 0; i < size; ++i) dx[i] = y[i] > 0.0f ? dy[i] : 0.0f;
}

void over_elements(const Array &x, const std::function<void(int64_t, int64_t)> &run) {
    const int64_t size = x.size();
    in_parts(size, parts_of(size, WORTH_A_TASK), [&](int, int64_t begin, int64_t end) { run(begin, end); });
}

}  // namespace

// x, scale, shift, running mean and variance (changed in place), options to y, mean, variance
RP2K_OPERATOR(norm_relu, "fffffffff") {
    const float *options = all[5].data;
    const Normalization norm = norm_of(all[0], options, After::relu);
    NormalizationTensors t;
    t.x = all[0].data, t.scale = all[1].data, t.shift = all[2].data;
    t.y = all[6].data, t.mean = all[7].data, t.variance = all[8].data;
    normalize(norm, t);
    track(norm, t, options[1], all[3].data, all[4].data);
}

// x, scale, shift, mean, variance, options, dy to dx, dscale, dshift
RP2K_OPERATOR(norm_relu_gradient, "ffffffffff") {
    NormalizationTensors t;
    t.x = all[0].data, t.scale = all[1].data, t.shift = all[2].data, t.mean = all[3].data, t.variance = all[4].data;
    t.dy = all[6].data, t.dx = all[7].data, t.dscale = all[8].data, t.dshift = all[9].data;
    normalize_gradient(norm_of(all[0], all[5].data, After::relu), t);
}

// x, residual, scale, shift, running mean and variance (changed in place), options to y, mean, variance
RP2K_OPERATOR(norm_add_relu, "ffffffffff") {
    const float *options = all[6].data;
    const Normalization norm = norm_of(all[0], options, After::add_relu);
    NormalizationTensors t;
    t.x = all[0].data, t.residual = all[1].data, t.scale = all[2].data, t.shift = all[3].data;
    t.y = all[7].data, t.mean = all[8].data, t.variance = all[9].data;
    normalize(norm, t);
    track(norm, t, options[1], all[4].data, all[5].data);
}

// x, y, scale, mean, variance, options, dy to dx, dresidual, dscale, dshift
RP2K_OPERATOR(norm_add_relu_gradient, "fffffffffff") {
    NormalizationTensors t;
    t.x = all[0].data, t.y = all[1].data, t.scale = all[2].data, t.mean = all[3].data, t.variance = all[4].data;
    t.dy = all[6].data, t.dx = all[7].data, t.dresidual = all[8].data, t.dscale = all[9].data, t.dshift = all[10].data;
    normalize_gradient(norm_of(all[0], all[5].data, After::add_relu), t);
}

// a, b to max(a + b, 0)
RP2K_OPERATOR(add_relu, "fff") {
    over_elements(all[0], [&](int64_t begin, int64_t end) {
        sum_relu(all[0].data + begin, all[1].data + begin, all[2].data + begin, end - begin);
    });
}

// y, dy to the gradient of a and b
RP2K_OPERATOR(add_relu_gradient, "fff") {
    over_elements(all[0], [&](int64_t begin, int64_t end) {
        sum_relu_gradient(all[0].data + begin, all[1].data + begin, all[2].data + begin, end - begin);
    });
}

}  // namespace rp2k
