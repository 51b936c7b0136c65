// Operators of transformers on tokens (rows of channels): bias, GELU, layer norm, rows taken in another order.

#include <cmath>
#include <vector>

#include "operators.h"

namespace rp2k {
namespace {

// Sums over rows: `parts` blocks of `channels` sums each.
struct ChannelSums {
    int64_t channels;
    std::vector<float> sums;

    ChannelSums(int parts, int64_t channels) : channels(channels), sums(parts * channels, 0.0f) {}
    float *part(int i) { return sums.data() + i * channels; }
    void write(float *total) const {
        std::memcpy(total, sums.data(), channels * sizeof(float));
        for (size_t i = channels; i < sums.size(); ++i) total[i % channels] += sums[i];
    }
};

RP2K_WIDE void add_bias(const float *__restrict x, const float *__restrict bias, float *__restrict y, int64_t rows,
                            int64_t channels) {
    for (int64_t i = 0; i < rows; ++i, x += channels, y += channels)
        for (int64_t j = 0; j < channels; ++j) y[j] = x[j] + bias[j];
}

RP2K_WIDE void sum_rows(const float *__restrict x, float *__restrict sums, int64_t rows, int64_t channels) {
    int64_t i = 0;
    for (; i + 4 <= rows; i += 4, x += 4 * channels)
        for (int64_t j = 0; j < channels; ++j)
            sums[j] += (x[j] + x[channels + j]) + (x[2 * channels + j] + x[3 * channels + j]);
    for (; i < rows; ++i, x += channels)
        for (int64_t j = 0; j < channels; ++j) sums[j] += x[j];
}

RP2K_WIDE void gelu(const float *__restrict x, const float *__restrict bias, float *__restrict y, int64_t rows,
                        int64_t channels) {
    for (int64_t i = 0; i < rows; ++i, x += channels, y += channels)
        for (int64_t j = 0; j < channels; ++j) {
            const float value = x[j] + bias[j];
            y[j] = value * normal(value).integral;
        }
}

RP2K_WIDE void gelu_gradient(const float *__restrict x, const float *__restrict bias, const float *__restrict dy,
                                 float *__restrict dx, float *__restrict dbias, int64_t rows, int64_t channels) {
    for (int64_t i = 0; i < rows; ++i, x += channels, dy += channels, dx += channels)
        for (int64_t j = 0; j < channels; ++j) {
            const float value = x[j] + bias[j];
            const Normal at = normal(value);
            dx[j] = dy[j] * (at.integral + value * at.density);
            dbias[j] += dx[j];
        }
}

struct Moments {
    float mean, scale;  // scale: 1 / deviation
};

RP2K_INLINE Moments moments(const float *__restrict x, int64_t channels, float eps) {
    float sum = 0.0f, squares = 0.0f;
    for (int64_t j = 0; j < channels; ++j) sum += x[j];
    const float mean = sum / channels;
    for (int64_t j = 0; j < channels; ++j) squares += (x[j] - mean) * (x[j] - mean);
    return {mean, 1.0f / std::sqrt(squares / channels + eps)};
}

RP2K_WIDE_SUMS void layer_norm(const float *__restrict x, const float *__restrict gamma, const float *__restrict beta,
                                   float eps, float *__restrict y, int64_t rows, int64_t channels) {
    for (int64_t i = 0; i < rows; ++i, x += channels, y += channels) {
        const Moments of_row = moments(x, channels, eps);
        for (int64_t j = 0; j < channels; ++j) y[j] = (x[j] - of_row.mean) * of_row.scale * gamma[j] + beta[j];
    }
}

RP2K_WIDE_SUMS void layer_norm_gradient(const float *__restrict x, const float *__restrict gamma, float eps,
                                            const float *__restrict dy, float *__restrict dx, float *__restrict dgamma,
                                            float *__restrict dbeta, int64_t rows, int64_t channels) {
    for (int64_t i = 0; i < rows; ++i, x += channels, dy += channels, dx += channels) {
        const Moments of_row = moments(x, channels, eps);
        float sum = 0.0f, product = 0.0f;
        for (int64_t j = 0; j < channels; ++j) {
            const float normed = (x[j] - of_row.mean) * of_row.scale, slope = dy[j] * gamma[j];
            dgamma[j] += dy[j] * normed;
            dbeta[j] += dy[j];
            sum += slope;
            product += slope * normed;
        }
        const float mean = sum / channels, along = product / channels;
        for (int64_t j = 0; j < channels; ++j) {
            const float normed = (x[j] - of_row.mean) * of_row.scale;
            dx[j] = (dy[j] * gamma[j] - mean - normed * along) * of_row.scale;
        }
    }
}

int row_parts(const Array &x) { return parts_of(x.rows(), WORTH_A_TASK / x.last() + 1); }

}  // namespace

// y (…, channels) = x + bias (channels)
RP2K_OPERATOR(add_bias, "fff") {
    const Array x = all[0], bias = all[1], y = all[2];
    const int64_t channels = x.last();
    in_parts(x.rows(), row_parts(x), [&](int, int64_t begin, int64_t end) {
        add_bias(x.data + begin * channels, bias.data, y.data + begin * channels, end - begin, channels);
    });
}

// sums (channels) of x (…, channels)
RP2K_OPERATOR(sum_rows, "ff") {
    const Array x = all[0];
    const int64_t channels = x.last();
    const int parts = row_parts(x);
    ChannelSums sums(parts, channels);
    in_parts(x.rows(), parts, [&](int part, int64_t begin, int64_t end) {
        sum_rows(x.data + begin * channels, sums.part(part), end - begin, channels);
    });
    sums.write(all[1].data);
}

// y (…, channels) = GELU(x + bias (channels))
RP2K_OPERATOR(bias_gelu, "fff") {
    const Array x = all[0], bias = all[1], y = all[2];
    const int64_t channels = x.last();
    in_parts(x.rows(), row_parts(x), [&](int, int64_t begin, int64_t end) {
        gelu(x.data + begin * channels, bias.data, y.data + begin * channels, end - begin, channels);
    });
}

// x, bias, dy to dx, dbias
RP2K_OPERATOR(bias_gelu_gradient, "fffff") {
    const Array x = all[0], bias = all[1], dy = all[2], dx = all[3];
    const int64_t channels = x.last();
    const int parts = row_parts(x);
    ChannelSums sums(parts, channels);
    in_parts(x.rows(), parts, [&](int part, int64_t begin, int64_t end) {
        const int64_t first = begin * channels;
        gelu_gradient(
            x.data + first, bias.data, dy.data + first, dx.data + first, sums.part(part), end - begin, channels);
    });
    sums.write(all[4].data);
}

// x (…, channels), gamma, beta, eps () to y
RP2K_OPERATOR(layer_norm, "fffff") {
    const Array x = all[0], gamma = all[1], beta = all[2], y = all[4];
    const int64_t channels = x.last();
    in_parts(x.rows(), row_parts(x), [&](int, int64_t begin, int64_t end) {
        const int64_t first = begin * channels;
        layer_norm(x.data + first, gamma.data, beta.data, *all[3].data, y.data + first, end - begin, channels);
    });
}

// x, gamma, eps (), dy to dx, dgamma, dbeta
RP2K_OPERATOR(layer_norm_gradient, "fffffff") {
    const Array x = all[0], gamma = all[1], dy = all[3], dx = all[4];
    const int64_t channels = x.last();
    const int parts = row_parts(x);
    ChannelSums dgamma(parts, channels), dbeta(parts, channels);
    in_parts(x.rows(), parts, [&](int part, int64_t begin, int64_t end) {
        const int64_t first = begin * channels;
        layer_norm_gradient(
            x.data + first, gamma.data, *all[2].data, dy.data + first, dx.data + first, dgamma.part(part),
            dbeta.part(part), end - begin, channels);
    });
    dgamma.write(all[5].data);
    dbeta.write(all[6].data);
}

// x (batch, rows, channels), order int32 (places), the inverse order (rows; for the gradient) to y (batch, places,
// channels): in each place the row order[place], or zeros if it is -1
RP2K_OPERATOR(take_rows, "fiif") {
    const Array x = all[0], y = all[3];
    const int32_t *order = all.integers(1);
    const int64_t rows = x.shape[1], channels = x.last(), places = all[1].shape[0];
    in_parts(y.rows(), row_parts(y), [&](int, int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
            const int64_t row = order[i % places], source = i / places * rows + row;
            float *to = y.data + i * channels;
            if (row < 0) std::memset(to, 0, channels * sizeof(float));
            else std::memcpy(to, x.data + source * channels, channels * sizeof(float));
        }
    });
}

}  // namespace rp2k
