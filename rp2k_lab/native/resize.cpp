#include "resize.h"

#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>
#include <vector>

#define AVX2 __attribute__((target("avx2")))

namespace rp2k {
namespace {

constexpr int CHANNELS = 3;
constexpr float ONE = 2048;  // a weight of 1 in OpenCV's fixed-point numbers

// A position of the target lies between two of the source.
struct Tap {
    int first, second;
    int16_t first_weight, second_weight;
};

int16_t fixed_point(float weight) { return static_cast<int16_t>(std::lrint(weight * ONE)); }

// The taps of `count` positions of a side from `begin` on.  Outside of the source, OpenCV repeats a row's end exactly,
// but weighs a column's end twice, which rounds otherwise.
std::vector<Tap> taps_of(int source, int target, int begin, int count, bool is_row) {
    std::vector<Tap> taps(count);
    const double scale = 1.0 / (static_cast<double>(target) / source);
    for (int i = 0; i < count; ++i) {
        const float at = static_cast<float>((begin + i + 0.5) * scale - 0.5);
        const int first = static_cast<int>(std::floor(at));
        const bool is_outside = first < 0 || first >= source - 1;
        const float weight = is_row && is_outside ? 0 : at - static_cast<float>(first);
        taps[i] = {std::clamp(first, 0, source - 1), std::clamp(first + 1, 0, source - 1), fixed_point(1.0f - weight),
                   fixed_point(weight)};
    }
    return taps;
}

// How a row is scaled, four values (of pixels and channels) at a time: their taps lie within 16 bytes.
struct RowPlan {
    std::vector<int> starts;       // of the 16 bytes
    std::vector<uint8_t> order;    // 16 for four values: the byte of either tap, each with a zero behind it
    std::vector<int16_t> weights;  // 8 for four values
};

RowPlan plan_row(const std::vector<Tap> &taps, int row_bytes) {
    const int values = static_cast<int>(taps.size()) * CHANNELS, quads = (values + 15) / 16 * 4;
    RowPlan plan{std::vector<int>(quads), std::vector<uint8_t>(16 * quads, 0x80), std::vector<int16_t>(8 * quads)};
    for (int value = 0; value < values; ++value) {
        const Tap &tap = taps[value / CHANNELS];
        const int channel = value % CHANNELS, quad = value / 4;
        if (value % 4 == 0) plan.starts[quad] = std::min(tap.first * CHANNELS, row_bytes - 16);
        const int start = plan.starts[quad] - channel;
        plan.order[4 * value] = static_cast<uint8_t>(tap.first * CHANNELS - start);
        plan.order[4 * value + 2] = static_cast<uint8_t>(tap.second * CHANNELS - start);
        plan.weights[2 * value] = tap.first_weight;
        plan.weights[2 * value + 1] = tap.second_weight;
    }
    return plan;
}

AVX2 inline __m256i load(const void *from) { return _mm256_loadu_si256(static_cast<const __m256i *>(from)); }
AVX2 inline __m128i load_half(const void *from) { return _mm_loadu_si128(static_cast<const __m128i *>(from)); }
AVX2 inline void store(void *to, __m256i value) { _mm256_storeu_si256(static_cast<__m256i *>(to), value); }

// Eight weighted sums of a row, without the 4 bits that the next step would drop.
AVX2 inline __m256i row_sums(const uint8_t *row, const RowPlan &plan, int quad) {
    const __m128i low = load_half(row + plan.starts[quad]), high = load_half(row + plan.starts[quad + 1]);
    const __m256i bytes = _mm256_inserti128_si256(_mm256_castsi128_si256(low), high, 1);
    const __m256i pairs = _mm256_shuffle_epi8(bytes, load(&plan.order[16 * quad]));
    return _mm256_srai_epi32(_mm256_madd_epi16(pairs, load(&plan.weights[8 * quad])), 4);
}

AVX2 void scale_row(const uint8_t *row, const RowPlan &plan, int16_t *sums) {
    const int quads = static_cast<int>(plan.starts.size());
    for (int quad = 0; quad < quads; quad += 4) {
        const __m256i packed = _mm256_packs_epi32(row_sums(row, plan, quad), row_sums(row, plan, quad + 2));
        store(sums + 4 * quad, _mm256_permute4x64_epi64(packed, 0b11011000));
    }
}

AVX2 inline __m256i mix(const int16_t *first, const int16_t *second, __m256i first_weight, __m256i second_weight) {
    const __m256i sum = _mm256_add_epi16(_mm256_mulhi_epi16(load(first), first_weight),
                                         _mm256_mulhi_epi16(load(second), second_weight));
    return _mm256_srai_epi16(_mm256_add_epi16(sum, _mm256_set1_epi16(2)), 2);
}

// Writes `values` bytes; the rows of sums hold 32 values more.
AVX2 void mix_rows(const int16_t *first, const int16_t *second, const Tap &tap, int values, uint8_t *target) {
    const __m256i a = _mm256_set1_epi16(tap.first_weight), b = _mm256_set1_epi16(tap.second_weight);
    for (int at = 0; at < values; at += 32) {
        const __m256i packed =
            _mm256_packus_epi16(mix(first + at, second + at, a, b), mix(first + at + 16, second + at + 16, a, b));
        const __m256i ordered = _mm256_permute4x64_epi64(packed, 0b11011000);
        if (at + 32 <= values) {
            store(target + at, ordered);
        } else {
            uint8_t last[32];
            store(last, ordered);
            std::memcpy(target + at, last, values - at);
        }
    }
}

}  // namespace

void resize(Image source, Size size, Target part, int top, int left) {
    const std::vector<Tap> rows = taps_of(source.height, size.height, top, part.height, false);
    const std::vector<Tap> columns = taps_of(source.width, size.width, left, part.width, true);
    const RowPlan plan = plan_row(columns, source.width * CHANNELS);
    const int length = static_cast<int>(plan.starts.size()) * 4 + 32;
    std::vector<int16_t> sums(2 * length);
    struct Line {
        int16_t *sums;
        int row;
    } above{sums.data(), -1}, below{sums.data() + length, -1};
    for (int y = 0; y < part.height; ++y) {
        const Tap &tap = rows[y];
        if (below.row == tap.first) std::swap(above, below);
        for (auto [line, row] : {std::pair(&above, tap.first), std::pair(&below, tap.second)}) {
            if (line->row != row) scale_row(source.data + row * source.stride, plan, line->sums);
            line->row = row;
        }
        mix_rows(above.sums, below.sums, tap, part.width * CHANNELS, part.data + y * part.stride);
    }
}

}  // namespace rp2k
