// Multi-head attention of small groups of tokens, such as the windows of Swin: scores stay in the processor's cache.

#include <cmath>
#include <vector>

#include "operators.h"

namespace rp2k {
namespace {

// Sides of the matrices.  Copies of them are padded with zeros, so that loops have no remainder: rows to 4, the columns
// of scores to 16.
struct Sizes {
    int64_t groups, tokens, heads, width, channels, rows, columns, depth;

    Sizes(int64_t groups, int64_t tokens, int64_t heads, int64_t channels)
        : groups(groups), tokens(tokens), heads(heads), width(channels / heads), channels(channels),
          rows((tokens + 3) / 4 * 4), columns((tokens + 15) / 16 * 16), depth((width + 3) / 4 * 4) {}
};

// out (rows, columns) += a (rows, depth) · b (depth, columns); rows and depth are multiples of 4.
// a's element (i, k) is at i · row + k · step.
RP2K_WIDE void multiply(float *__restrict out, const float *__restrict a, int64_t row, int64_t step,
                            const float *__restrict b, int64_t rows, int64_t depth, int64_t columns) {
    for (int64_t i = 0; i < rows; i += 4, out += 4 * columns, a += 4 * row) {
        float *__restrict out0 = out, *__restrict out1 = out + columns;
        float *__restrict out2 = out + 2 * columns, *__restrict out3 = out + 3 * columns;
        for (int64_t k = 0; k < depth; k += 4) {
            float f[4][4];
            for (int m = 0; m < 4; ++m)
                for (int n = 0; n < 4; ++n) f[m][n] = a[m * row + (k + n) * step];
            const float *__restrict b0 = b + k * columns, *__restrict b1 = b0 + columns;
            const float *__restrict b2 = b1 + columns, *__restrict b3 = b2 + columns;
            for (int64_t j = 0; j < columns; ++j) {
                out0[j] += f[0][0] * b0[j] + f[0][1] * b1[j] + f[0][2] * b2[j] + f[0][3] * b3[j];
                out1[j] += f[1][0] * b0[j] + f[1][1] * b1[j] + f[1][2] * b2[j] + f[1][3] * b3[j];
                out2[j] += f[2][0] * b0[j] + f[2][1] * b1[j] + f[2][2] * b2[j] + f[2][3] * b3[j];
                out3[j] += f[3][0] * b0[j] + f[3][1] * b1[j] + f[3][2] * b2[j] + f[3][3] * b3[j];
            }
        }
    }
}

// Softmax of each row of scores (rows, columns), of which `tokens` count; the other columns become 0.
RP2K_WIDE_SUMS void softmax(float *__restrict scores, int64_t rows, int64_t tokens, int64_t columns) {
    for (int64_t i = 0; i < rows; ++i, scores += columns) {
        float largest = scores[0], sum = 0.0f;
        for (int64_t j = 1; j < tokens; ++j) largest = scores[j] > largest ? scores[j] : largest;
        for (int64_t j = 0; j < tokens; ++j) {
            scores[j] = exponential(scores[j] - largest);
            sum += scores[j];
        }
        const float factor = 1.0f / sum;
        for (int64_t j = 0; j < tokens; ++j) scores[j] *= factor;
        for (int64_t j = tokens; j < columns; ++j) scores[j] = 0.0f;
    }
}

// slopes (rows, columns) of the weights to those of the scores; columns without a token have weight 0.
RP2K_WIDE_SUMS void softmax_gradient(const float *__restrict weights, float *__restrict slopes, int64_t rows,
                                         int64_t columns) {
    for (int64_t i = 0; i < rows; ++i, weights += columns, slopes += columns) {
        float sum = 0.0f;
        for (int64_t j = 0; j < columns; ++j) sum += weights[j] * slopes[j];
        for (int64_t j = 0; j < columns; ++j) slopes[j] = weights[j] * (slopes[j] - sum);
    }
}

RP2K_WIDE void add(float *__restrict sum, const float *__restrict x, int64_t size) {
    for (int64_t i = 0; i < size; ++i) sum[i] += x[i];
}

// The matrices of one head in one group.
class Head {
  public:
    explicit Head(const Sizes &sizes)
        : sizes_(sizes), query_(sizes.rows * sizes.depth), key_(query_), value_(query_), result_(query_),
          key_columns_(sizes.depth * sizes.columns), value_columns_(key_columns_),
          weights_(sizes.rows * sizes.columns), slopes_(weights_) {}

    // qkv: the group's (tokens, 3 · channels), from the head's first query on.
    void forward(const float *qkv, const float *bias, const float *mask, float *out) {
        attend(qkv, bias, mask);
        clear(result_);
        const int64_t rows = sizes_.rows;
        multiply(result_.data(), weights_.data(), sizes_.columns, 1, value_.data(), rows, rows, sizes_.depth);
        write(result_, 1.0f, out, sizes_.channels);
    }

    // Writes dqkv, and adds to dbias (tokens, tokens) unless it is nullptr.
    void backward(
        const float *qkv, const float *bias, const float *mask, const float *dout, float *dqkv, float *dbias) {
        const int64_t rows = sizes_.rows, columns = sizes_.columns, depth = sizes_.depth, stride = 3 * sizes_.channels;
        attend(qkv, bias, mask);
        transpose(value_, value_columns_);
        auto &slope = result_;
        read(dout, sizes_.channels, 1.0f, slope);
        clear(slopes_);
        multiply(slopes_.data(), slope.data(), depth, 1, value_columns_.data(), rows, depth, columns);
        clear(value_);
        multiply(value_.data(), weights_.data(), 1, columns, slope.data(), rows, rows, depth);
        write(value_, 1.0f, dqkv + 2 * sizes_.channels, stride);
        softmax_gradient(weights_.data(), slopes_.data(), sizes_.tokens, columns);
        if (dbias)
            for (int64_t i = 0; i < sizes_.tokens; ++i)
                add(dbias + i * sizes_.tokens, slopes_.data() + i * columns, sizes_.tokens);
        clear(slope);
        multiply(slope.data(), slopes_.data(), columns, 1, key_.data(), rows, rows, depth);
        write(slope, scale(), dqkv, stride);
        clear(key_);
        multiply(key_.data(), slopes_.data(), 1, columns, query_.data(), rows, rows, depth);
        write(key_, 1.0f, dqkv + sizes_.channels, stride);
    }

  private:
    using Matrix = std::vector<float>;

    float scale() const { return 1.0f / std::sqrt(static_cast<float>(sizes_.width)); }

    static void clear(Matrix &matrix) { std::memset(matrix.data(), 0, matrix.size() * sizeof(float)); }

    void read(const float *from, int64_t stride, float factor, Matrix &to) const {
        for (int64_t i = 0; i < sizes_.tokens; ++i)
            for (int64_t j = 0; j < sizes_.width; ++j) to[i * sizes_.depth + j] = factor * from[i * stride + j];
    }

    void write(const Matrix &from, float factor, float *to, int64_t stride) const {
        for (int64_t i = 0; i < sizes_.tokens; ++i)
            for (int64_t j = 0; j < sizes_.width; ++j) to[i * stride + j] = factor * from[i * sizes_.depth + j];
    }

    void transpose(const Matrix &from, Matrix &to) const {
        for (int64_t i = 0; i < sizes_.tokens; ++i)
            for (int64_t j = 0; j < sizes_.width; ++j) to[j * sizes_.columns + i] = from[i * sizes_.depth + j];
    }

    // Computes the weights, softmax(scale · query · key + bias + mask).
    void attend(const float *qkv, const float *bias, const float *mask) {
        const int64_t tokens = sizes_.tokens, columns = sizes_.columns, stride = 3 * sizes_.channels;
        clear(key_), clear(value_), clear(result_);
        read(qkv, stride, scale(), query_);
        read(qkv + sizes_.channels, stride, 1.0f, key_);
        read(qkv + 2 * sizes_.channels, stride, 1.0f, value_);
        transpose(key_, key_columns_);
        clear(weights_);
        for (int64_t i = 0; i < tokens && bias; ++i) add(weights_.data() + i * columns, bias + i * tokens, tokens);
        for (int64_t i = 0; i < tokens && mask; ++i) add(weights_.data() + i * columns, mask + i * tokens, tokens);
        multiply(
            weights_.data(), query_.data(), sizes_.depth, 1, key_columns_.data(), sizes_.rows, sizes_.depth, columns);
        softmax(weights_.data(), tokens, tokens, columns);
    }

    const Sizes &sizes_;
    Matrix query_, key_, value_, result_, key_columns_, value_columns_, weights_, slopes_;
};

// What both directions get: qkv (groups, tokens, 3 · channels); bias (heads, tokens, tokens), or (heads, 1, 1) for none;
// mask (masks, tokens, tokens), that of group g is g % masks, or (1, 1, 1) for none.
struct Inputs {
    Array qkv, bias, mask;
    Sizes sizes;

    explicit Inputs(const Arguments &all)
        : qkv(all[0]), bias(all[1]), mask(all[2]),
          sizes(qkv.shape[0], qkv.shape[1], bias.shape[0], qkv.shape[2] / 3) {}
    bool has_bias() const { return bias.last() == sizes.tokens && sizes.tokens > 1; }
    bool has_mask() const { return mask.last() == sizes.tokens && sizes.tokens > 1; }
    const float *group(int64_t g) const { return qkv.data + g * sizes.tokens * 3 * sizes.channels; }
    const float *bias_of(int64_t head) const {
        return has_bias() ? bias.data + head * sizes.tokens * sizes.tokens : nullptr;
    }
    const float *mask_of(int64_t g) const {
        return has_mask() ? mask.data + g % mask.shape[0] * sizes.tokens * sizes.tokens : nullptr;
    }
    int parts() const { return parts_of(sizes.groups, 1); }
};

}  // namespace

// qkv, bias, mask to the attended values (groups, tokens, channels)
RP2K_OPERATOR(attention, "ffff") {
    const Inputs in(all);
    const Sizes &sizes = in.sizes;
    in_parts(sizes.groups, in.parts(), [&](int, int64_t begin, int64_t end) {
        Head head(sizes);
        for (int64_t g = begin; g < end; ++g)
            for (int64_t h = 0; h < sizes.heads; ++h)
                head.forward(in.group(g) + h * sizes.width, in.bias_of(h), in.mask_of(g),
                         all[3].data + g * sizes.tokens * sizes.channels + h * sizes.width);
    });
}

// qkv, bias, mask and the slopes of the attended values to those of qkv and bias
RP2K_OPERATOR(attention_gradient, "ffffff") {
    const Inputs in(all);
    const Sizes &sizes = in.sizes;
    const int64_t area = sizes.tokens * sizes.tokens, biases = in.bias.size();
    std::vector<float> sums(in.parts() * biases, 0.0f);
    in_parts(sizes.groups, in.parts(), [&](int part, int64_t begin, int64_t end) {
        Head head(sizes);
        for (int64_t g = begin; g < end; ++g)
            for (int64_t h = 0; h < sizes.heads; ++h) {
                const int64_t first = g * sizes.tokens * sizes.channels + h * sizes.width;
                float *dbias = in.has_bias() ? sums.data() + part * biases + h * area : nullptr;
                float *dqkv = all[4].data + g * sizes.tokens * 3 * sizes.channels + h * sizes.width;
                head.backward(
                    in.group(g) + h * sizes.width, in.bias_of(h), in.mask_of(g), all[3].data + first, dqkv, dbias);
            }
    });
    std::memcpy(all[5].data, sums.data(), biases * sizeof(float));
    for (int part = 1; part < in.parts(); ++part) add(all[5].data, sums.data() + part * biases, biases);
}

}  // namespace rp2k
