// Batch normalization of plain float32 (batch, channels, height, width), vectorized, with what follows it in a network.
#pragma once

namespace rp2k {

struct Normalization {
    enum class After { nothing, relu, add_relu };

    long images, channels, area;
    float epsilon;
    After after = After::nothing;
    float ceiling = 0;                 // of the ReLU; infinity for none
    bool has_fixed_statistics = false;  // mean and variance are given, not computed
};

// Forward reads x, scale, shift, residual (add_relu) and writes y, mean, variance.
// Backward reads x, scale, shift (relu), y (add_relu), mean, variance, dy, and writes dx, dscale, dshift, dresidual.
// scale, shift, dscale, dshift may be null.
struct NormalizationTensors {
    const float *x = nullptr, *scale = nullptr, *shift = nullptr, *residual = nullptr, *dy = nullptr;
    float *mean = nullptr, *variance = nullptr, *y = nullptr;
    float *dx = nullptr, *dscale = nullptr, *dshift = nullptr, *dresidual = nullptr;
};

// Each channel is computed by one thread, so the bits do not depend on their number.
void normalize(const Normalization &norm, const NormalizationTensors &t);
void normalize_gradient(const Normalization &norm, const NormalizationTensors &t);

}  // namespace rp2k
