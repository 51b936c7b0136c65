// One method for all sizes: channels of an image, as many as a register has lanes, are transposed in cache into one
// channel a lane, convolved row by row, and transposed back.
#include "depthwise.h"

#include <immintrin.h>

#include <algorithm>
#include <vector>

namespace rp2k {
namespace {

constexpr long kBlock = 8;           // sums held in registers at a time
constexpr long kFloatTerms = 256;    // terms added in float before their sum is added in double
constexpr long kBandVectors = 2048;  // size of the buffers [vectors]: 128 KB stay in a second-level cache

struct Tap {
    int from, weight;  // place of its first pixel in the input buffer; index in the kernel
};
struct Row {
    int to, count, first_tap, last_tap;  // place of its first pixel in the output buffer; pixels; taps [first, last)
};
struct Band {  // rows of an image that are worked on together
    long in_first, in_pixels, out_first, out_pixels, first_row, last_row;
};
struct Plan {
    long batch, channels, kernel, in_plane, out_plane, in_size, out_size;  // pixels of a plane, vectors of a buffer
    const int *in_place, *out_place;                                       // of each pixel of a band in its buffer
    const int *order;                                                      // 0, 1, …: of each weight
    const Band *bands, *bands_end;
    const Row *rows;
    const Tap *taps;
};

#define TARGET __attribute__((target("avx512f")))
namespace avx512 {
constexpr int kLanes = 16;

// Exchange the columns of `a` whose number has this bit with those of `b` that lack it.
template <int bit, class Vector>
TARGET inline void swap_bit(Vector &a, Vector &b) {
    const __m512i i = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __mmask16 odd = bit == 8 ? 0xFF00 : bit == 4 ? 0xF0F0 : bit == 2 ? 0xCCCC : 0xAAAA;
    const __m512i low = _mm512_mask_add_epi32(i, odd, i, _mm512_set1_epi32(16 - bit));
    const __m512 row = a;
    a = _mm512_permutex2var_ps(row, low, b);
    b = _mm512_permutex2var_ps(row, _mm512_add_epi32(low, _mm512_set1_epi32(bit)), b);
}

#include "depthwise_lanes.h"
}  // namespace avx512
#undef TARGET

#define TARGET __attribute__((target("avx2,fma")))
namespace avx2 {
constexpr int kLanes = 8;

template <int bit, class Vector>
TARGET inline void swap_bit(Vector &a, Vector &b) {
    const __m256 row = a;
    if constexpr (bit == 4) {
        a = _mm256_permute2f128_ps(row, b, 0x20);
        b = _mm256_permute2f128_ps(row, b, 0x31);
    } else if constexpr (bit == 2) {
        a = _mm256_shuffle_ps(row, b, 0x44);
        b = _mm256_shuffle_ps(row, b, 0xEE);
    } else {
        a = _mm256_blend_ps(row, _mm256_moveldup_ps(b), 0xAA);
        b = _mm256_blend_ps(_mm256_movehdup_ps(row), b, 0xAA);
    }
}

#include "depthwise_lanes.h"
}  // namespace avx2
#undef TARGET

bool has_avx512() {
#ifdef RP2K_WITHOUT_AVX512  // to test the AVX2 kernels on any processor
    return false;
#else
    return __builtin_cpu_supports("avx512f");
#endif
}

long ceil_div(long a, long b) { return (a + b - 1) / b; }

// One axis of a pass: o of the result and k of the kernel meet at (o · step + sign · (k - pad)) / split, if whole.
// Forward has split 1, backward-data step 1.  In the buffers, pixels of equal remainder (by `step` in the source, by
// `split` in the result) are neighbors, so that a tap reads and a row writes consecutive vectors.
struct Axis {
    long in, out, kernel, pad, step, split, sign;
    long lowest = sign > 0 ? -pad : pad - kernel + 1;                    // of sign · (k - pad)
    long margin = ceil_div(std::max(0L, -lowest), step * split) * step;  // pixels of padding before the first
    long highest = std::max(in - 1, ((out - 1) * step + lowest + kernel - 1) / split);
    long in_width = (highest + margin) / step + 1, out_width = ceil_div(out, split);  // pixels of one remainder

    long in_place(long i) const { return (i + margin) % step * in_width + (i + margin) / step; }
    long out_place(long o) const { return o % split * out_width + o / split; }
};

struct Tables {
    std::vector<int> in_place, out_place, order;
    std::vector<Band> bands;
    std::vector<Row> rows;
    std::vector<Tap> taps;
};

// Plan the pixels of the result's row `oy` from column `ox` on in steps of x.split; row `top` is the buffer's first.
void add_row(const Axis &y, const Axis &x, long oy, long ox, long top, long to, Tables &tables) {
    const long count = ceil_div(x.out - ox, x.split);
    Row row = {int(to), int(count), int(tables.taps.size()), 0};
    for (long ky = 0; ky < y.kernel; ky++) {
        const long iy = oy * y.step + y.sign * (ky - y.pad);
        if (iy < 0 || iy % y.split != 0 || iy / y.split >= y.in) continue;
        for (long kx = 0; kx < x.kernel; kx++) {
            const long ix = ox * x.step + x.sign * (kx - x.pad), first = ix / x.split;
            if (ix % x.split != 0 || first >= x.in || first + (count - 1) * x.step < 0) continue;  // padding alone
            const long from = (iy / y.split - top) * x.step * x.in_width + x.in_place(first);
            tables.taps.push_back({int(from), int(ky * x.kernel + kx)});
        }
    }
    row.last_tap = tables.taps.size();
    tables.rows.push_back(row);
}

Plan make_plan(const DepthwiseShape &s, bool backward, Tables &tables) {
    Axis y = {s.in_height, s.out_height, s.kernel_height, s.pad_top, s.stride_y, 1, 1};
    Axis x = {s.in_width, s.out_width, s.kernel_width, s.pad_left, s.stride_x, 1, 1};
    if (backward) {
        y = {s.out_height, s.in_height, s.kernel_height, s.pad_top, 1, s.stride_y, -1};
        x = {s.out_width, s.in_width, s.kernel_width, s.pad_left, 1, s.stride_x, -1};
    }
    const long in_pitch = x.step * x.in_width, out_pitch = x.split * x.out_width;
    const long height = ceil_div(y.out, ceil_div(y.out * (y.step * in_pitch + out_pitch), kBandVectors));
    long in_rows = 0;
    for (long oy = 0; oy < y.out; oy += height) {
        const long end = std::min(oy + height, y.out), low = oy * y.step + y.lowest;
        const long high = (end - 1) * y.step + y.lowest + y.kernel - 1;
        const long top = std::clamp(low / y.split, 0L, y.in), bottom = std::clamp(high / y.split + 1, top, y.in);
        const long first_row = tables.rows.size();
        for (long row = oy; row < end; row++)
            for (long ox = 0; ox < std::min(x.split, x.out); ox++)
                add_row(y, x, row, ox, top, (row - oy) * out_pitch + x.out_place(ox), tables);
        tables.bands.push_back({top * x.in, (bottom - top) * x.in, oy * x.out, (end - oy) * x.out, first_row,
                                long(tables.rows.size())});
        in_rows = std::max(in_rows, bottom - top);
    }
    for (long i = 0; i < in_rows * x.in; i++)
        tables.in_place.push_back(i < x.in ? x.in_place(i) : tables.in_place[i - x.in] + in_pitch);
    for (long o = 0; o < height * x.out; o++)
        tables.out_place.push_back(o < x.out ? x.out_place(o) : tables.out_place[o - x.out] + out_pitch);
    for (long t = 0; t < y.kernel * x.kernel; t++) tables.order.push_back(t);
    const Band *bands = tables.bands.data();
    return {s.batch, s.channels, y.kernel * x.kernel, y.in * x.in, y.out * x.out, in_rows * in_pitch,
            height * out_pitch, tables.in_place.data(), tables.out_place.data(), tables.order.data(), bands,
            bands + tables.bands.size(), tables.rows.data(), tables.taps.data()};
}

struct alignas(64) Line {
    float values[16];
};
using Pass = void(const Plan &, const float *, const float *, float *, long, long, float *);

void run(const DepthwiseShape &shape, bool backward, Pass *avx512_pass, Pass *avx2_pass, const float *a, const float *b,
         float *result, int first_channel, int last_channel) {
    static thread_local std::vector<Line> memory;  // kept for the next call: fresh pages cost more than small passes
    Tables tables;
    const Plan plan = make_plan(shape, backward, tables);
    memory.assign(3 * plan.kernel + plan.in_size + plan.out_size, Line{});
    Pass *pass = has_avx512() ? avx512_pass : avx2_pass;
    pass(plan, a, b, result, first_channel, last_channel, memory.data()->values);
}

}  // namespace

bool depthwise_supports(const DepthwiseShape &s) {
    const long smallest = std::min({s.batch, s.channels, s.in_height, s.in_width, s.out_height, s.out_width,
                                    s.kernel_height, s.kernel_width, s.stride_y, s.stride_x});
    const bool processor = has_avx512() || (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"));
    return processor && smallest > 0 && s.pad_top >= 0 && s.pad_left >= 0;
}

bool depthwise_forward_pays(const DepthwiseShape &s) {
    return s.batch * s.channels * s.in_height * s.in_width >= 1L << 18;  // 1 MB
}

void depthwise_forward(const DepthwiseShape &shape, const float *input, const float *weights, float *output,
                       int first_channel, int last_channel) {
    run(shape, false, avx512::convolve, avx2::convolve, input, weights, output, first_channel, last_channel);
}

void depthwise_backward_data(const DepthwiseShape &shape, const float *output_gradient, const float *weights,
                             float *input_gradient, int first_channel, int last_channel) {
    run(shape, true, avx512::convolve, avx2::convolve, output_gradient, weights, input_gradient, first_channel,
        last_channel);
}

void depthwise_backward_weights(const DepthwiseShape &shape, const float *input, const float *output_gradient,
                                float *weight_gradient, int first_channel, int last_channel) {
    run(shape, false, avx512::correlate, avx2::correlate, input, output_gradient, weight_gradient, first_channel,
        last_channel);
}

}  // namespace rp2k
