#include "normalize.h"

#include <algorithm>
#include <cmath>

#include "operators.h"

namespace rp2k {
namespace {

using After = Normalization::After;

// A strip: the same places of all images, as many as fit a first-level cache beside their sums (floats).
constexpr long WIDEST = 512;
// Tensors of fewer floats are computed by one thread.
constexpr long SMALLEST_SHARE = 16384;

// The loops over a strip.  Each place has its own sum over the images, so nothing is summed up across a register.
RP2K_WIDE void add(float *sum, const float *x, long n) {
    for (long i = 0; i < n; i++) sum[i] += x[i];
}
RP2K_WIDE void add_squares(float *sum, const float *x, const float *mean, long n) {
    for (long i = 0; i < n; i++) sum[i] += (x[i] - mean[i]) * (x[i] - mean[i]);
}

RP2K_WIDE_SUMS double total(const float *x, long n) {
    double sum = 0;
    for (long i = 0; i < n; i++) sum += x[i];
    return sum;
}

// Values of the channels, for each place of a strip.
struct Affine {
    const float *mean, *scale, *shift;

    // The mean comes off first: a product with it would lose the digits that a channel of small variance has.
    __attribute__((always_inline)) float operator()(float x, long i) const { return (x - mean[i]) * scale[i] + shift[i]; }
};

// NaN stays NaN.
RP2K_INLINE float clipped(float z, float ceiling) { return z < 0 ? 0 : z > ceiling ? ceiling : z; }
// The slope at an input or output of `clipped`.
RP2K_INLINE float passed(float dy, float z, float ceiling) { return (z > 0) & (z < ceiling) ? dy : 0; }

RP2K_WIDE void apply(float *y, const float *x, Affine at, long n) {
    for (long i = 0; i < n; i++) y[i] = at(x[i], i);
}
RP2K_WIDE void apply_relu(float *y, const float *x, Affine at, float ceiling, long n) {
    for (long i = 0; i < n; i++) y[i] = clipped(at(x[i], i), ceiling);
}
RP2K_WIDE void apply_add_relu(float *y, const float *x, const float *residual, Affine at, float ceiling, long n) {
    for (long i = 0; i < n; i++) y[i] = clipped(at(x[i], i) + residual[i], ceiling);
}
RP2K_WIDE void add_gradients(float *sum, float *product, const float *x, const float *dy, const float *mean, long n) {
    for (long i = 0; i < n; i++) {
        sum[i] += dy[i];
        product[i] += dy[i] * (x[i] - mean[i]);
    }
}
RP2K_WIDE void gate(float *slope, const float *y, const float *dy, float ceiling, long n) {
    for (long i = 0; i < n; i++) slope[i] = passed(dy[i], y[i], ceiling);
}
RP2K_WIDE void gate_relu(float *slope, const float *x, const float *dy, Affine at, float ceiling, long n) {
    for (long i = 0; i < n; i++) slope[i] = passed(dy[i], at(x[i], i), ceiling);
}
// dx = dy · a + (x - mean) · b + c
RP2K_WIDE void combine(
    float *dx, const float *x, const float *dy, const float *mean, const float *a, const float *b, const float *c,
    long n) {
    for (long i = 0; i < n; i++) dx[i] = dy[i] * a[i] + (x[i] - mean[i]) * b[i] + c[i];
}

// Values of some channels, each repeated for every place of a strip.
struct Row {
    alignas(64) float values[WIDEST];

    operator const float *() const { return values; }
    operator float *() { return values; }
    void clear(long length) { std::fill_n(values, length, 0.0f); }
};

// Channels first … first + n - 1: as many as fit a strip, or one in several strips.
struct Channels {
    const Normalization &norm;
    long first, n;

    // Call body(offset in the tensor, length) for each strip of each image; before(length) and after(length) a strip.
    template <class Before, class Body, class After>
    void for_strips(Before before, Body body, After after) const {
        const long step = norm.channels * norm.area, places = n * norm.area;
        for (long i = 0; i < places; i += n > 1 ? places : WIDEST) {
            const long length = n > 1 ? places : std::min(WIDEST, places - i);
            before(length);
            for (long image = 0; image < norm.images; image++) body(image * step + first * norm.area + i, length);
            after(length);
        }
    }
    template <class Body>
    void for_strips(Body body) const {
        for_strips([](long) {}, body, [](long) {});
    }

    void spread(Row &row, const float *channel_values) const {
        const long places = std::min(WIDEST, norm.area);
        for (long j = 0; j < n; j++) std::fill_n(row.values + j * places, places, channel_values[j]);
    }

    // Add a row's places to the sums of its channels.
    void gather(const Row &row, long length, double *sums) const {
        const long places = length / n;
        for (long j = 0; j < n; j++) sums[j] += total(row.values + j * places, places);
    }

    // Write the mean over images and places of what `add_strip(sums of places, offset, length)` adds.
    template <class AddStrip>
    void average(float *means, AddStrip add_strip) const {
        Row sum;
        double sums[WIDEST];
        std::fill_n(sums, n, 0.0);
        for_strips(
            [&](long length) { sum.clear(length); },
            [&](long at, long length) { add_strip(sum.values, at, length); },
            [&](long length) { gather(sum, length, sums); });
        for (long j = 0; j < n; j++) means[j] = float(sums[j] / (double(norm.images) * norm.area));
    }
};

// Call body for groups of channels, on several threads.
template <class Body>
void for_channels(const Normalization &norm, Body body) {
    const long floats = norm.images * norm.channels * norm.area;
    const long tasks = std::clamp(floats / SMALLEST_SHARE, 1L, std::min<long>(threads(), norm.channels));
    parallel_for(int(tasks), [&](int task, int all) {
        const long first = norm.channels * task / all, last = norm.channels * (task + 1) / all;
        const long step = std::max(1L, WIDEST / norm.area);
        for (long c = first; c < last; c += step) body(Channels{norm, c, std::min(step, last - c)});
    });
}

struct Statistics {
    Row mean, scale, shift;

    Affine affine() const { return {mean, scale, shift}; }
};

// Set the rows by which forward, and the gradient of a ReLU, normalize.
void set(Statistics &rows, const Channels &channels, const NormalizationTensors &t) {
    float factors[WIDEST], terms[WIDEST];
    for (long j = 0; j < channels.n; j++) {
        const long c = channels.first + j;
        factors[j] = (t.scale ? t.scale[c] : 1.0f) / std::sqrt(t.variance[c] + channels.norm.epsilon);
        terms[j] = t.shift ? t.shift[c] : 0.0f;
    }
    channels.spread(rows.mean, t.mean + channels.first);
    channels.spread(rows.scale, factors);
    channels.spread(rows.shift, terms);
}

void forward(const Channels &channels, const NormalizationTensors &t) {
    const Normalization &norm = channels.norm;
    Statistics rows;
    if (!norm.has_fixed_statistics) {
        float *means = t.mean + channels.first;
        channels.average(means, [&](float *sum, long at, long n) { add(sum, t.x + at, n); });
        channels.spread(rows.mean, means);
        channels.average(t.variance + channels.first, [&](float *sum, long at, long n) {
            add_squares(sum, t.x + at, rows.mean, n);
        });
    }
    set(rows, channels, t);
    channels.for_strips([&](long at, long n) {
        switch (norm.after) {
            case After::nothing: return apply(t.y + at, t.x + at, rows.affine(), n);
            case After::relu: return apply_relu(t.y + at, t.x + at, rows.affine(), norm.ceiling, n);
            case After::add_relu:
                return apply_add_relu(t.y + at, t.x + at, t.residual + at, rows.affine(), norm.ceiling, n);
        }
    });
}

// The slopes at a batch norm's output.
struct Slopes {
    const Normalization &norm;
    const NormalizationTensors &t;
    const Statistics &rows;
    Row gated;

    // Return those of a strip.  is_first: dresidual has none yet.
    const float *of(long at, long n, bool is_first) {
        switch (norm.after) {
            case After::nothing: return t.dy + at;
            case After::relu: gate_relu(gated, t.x + at, t.dy + at, rows.affine(), norm.ceiling, n); return gated;
            case After::add_relu:
                if (is_first) gate(t.dresidual + at, t.y + at, t.dy + at, norm.ceiling, n);
                return t.dresidual + at;
        }
        return nullptr;
    }
};

// Sums over images and places, for each channel: of the slopes, and of their products with x - mean.
struct Sums {
    double slopes[WIDEST], products[WIDEST];

    explicit Sums(long n) {
        std::fill_n(slopes, n, 0.0);
        std::fill_n(products, n, 0.0);
    }
};

void backward(const Channels &channels, const NormalizationTensors &t) {
    const Normalization &norm = channels.norm;
    const double count = double(norm.images) * norm.area;
    Statistics rows;
    set(rows, channels, t);
    Slopes slopes_at{norm, t, rows, {}};
    Sums sums(channels.n);
    Row sum, product;
    channels.for_strips(
        [&](long length) {
            sum.clear(length);
            product.clear(length);
        },
        [&](long at, long n) {
            add_gradients(sum, product, t.x + at, slopes_at.of(at, n, true), rows.mean, n);
        },
        [&](long length) {
            channels.gather(sum, length, sums.slopes);
            channels.gather(product, length, sums.products);
        });
    float factors[WIDEST], slopes[WIDEST], terms[WIDEST];
    for (long j = 0; j < channels.n; j++) {
        const long c = channels.first + j;
        const double inverse = 1 / std::sqrt(double(t.variance[c]) + norm.epsilon);
        const double dscale = sums.products[j] * inverse;
        if (t.dscale) t.dscale[c] = float(dscale);
        if (t.dshift) t.dshift[c] = float(sums.slopes[j]);
        const double factor = (t.scale ? t.scale[c] : 1.0f) * inverse;
        const bool is_fixed = norm.has_fixed_statistics;  // then mean and variance do not depend on x
        factors[j] = float(factor);
        slopes[j] = is_fixed ? 0 : float(-factor * inverse * dscale / count);
        terms[j] = is_fixed ? 0 : float(-factor * sums.slopes[j] / count);
    }
    Row a, b, c;
    channels.spread(a, factors);
    channels.spread(b, slopes);
    channels.spread(c, terms);
    channels.for_strips([&](long at, long n) {
        combine(t.dx + at, t.x + at, slopes_at.of(at, n, false), rows.mean, a, b, c, n);
    });
}

}  // namespace

void normalize(const Normalization &norm, const NormalizationTensors &t) {
    for_channels(norm, [&](const Channels &channels) { forward(channels, t); });
}

void normalize_gradient(const Normalization &norm, const NormalizationTensors &t) {
    for_channels(norm, [&](const Channels &channels) { backward(channels, t); });
}

}  // namespace rp2k
