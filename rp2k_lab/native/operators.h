// Functions that MindSpore's Custom operator calls ("aot"), and arithmetic that they share.
#pragma once

#include <cstdint>
#include <cstring>
#include <functional>

#include "thread_pool.h"

// A function compiled for several processors; the loader chooses.  What it calls must be RP2K_INLINE, or it stays slow.
#define RP2K_CLONES target_clones("avx512f", "avx2", "default")
#define RP2K_WIDE __attribute__((RP2K_CLONES, optimize("O3", "no-trapping-math", "no-math-errno")))
// The same, and sums may be reordered; infinities and NaN keep their meaning.
#define RP2K_WIDE_SUMS __attribute__((RP2K_CLONES, \
    optimize("O3", "no-trapping-math", "no-math-errno", "associative-math", "no-signed-zeros")))
#define RP2K_INLINE static inline __attribute__((always_inline))

// Defines rp2k_native_<name> for MindSpore; the body that follows gets `const Arguments &all`.
// kinds: a letter for each input, then each output, f float32 or i int32; other types end MindSpore's step.
#define RP2K_OPERATOR(name, kinds)                                                                              \
    static void name(const Arguments &all);                                                                     \
    extern "C" __attribute__((visibility("default"))) int rp2k_native_##name(                                   \
        int count, void **data, int *ranks, int64_t **shapes, const char **types, void *, void *) {             \
        const Arguments all{count, data, ranks, shapes, types};                                                 \
        if (!all.are(kinds)) return 1;                                                                          \
        name(all);                                                                                              \
        return 0;                                                                                               \
    }                                                                                                           \
    static void name(const Arguments &all)

namespace rp2k {

// A float32 argument of an operator, in row-major order.
struct Array {
    float *data;
    const int64_t *shape;
    int rank;

    int64_t last() const { return rank ? shape[rank - 1] : 1; }
    int64_t size() const {
        int64_t product = 1;
        for (int i = 0; i < rank; ++i) product *= shape[i];
        return product;
    }
    int64_t rows() const { return last() ? size() / last() : 0; }
};

// The arguments of an operator.
struct Arguments {
    int count;
    void **data;
    int *ranks;
    int64_t **shapes;
    const char **types;

    Array operator[](int i) const { return {static_cast<float *>(data[i]), shapes[i], ranks[i]}; }
    const int32_t *integers(int i) const { return static_cast<const int32_t *>(data[i]); }
    bool are(const char *kinds) const {
        if (count != static_cast<int>(std::strlen(kinds))) return false;
        for (int i = 0; i < count; ++i)
            if (std::strcmp(types[i], kinds[i] == 'i' ? "int32" : "float32") != 0) return false;
        return true;
    }
};

// Number of parts into which a job of `items` is divided: never by the number of threads, so that sums over parts have
// the same bits on every machine.  `least`: items that are worth a task.
inline int parts_of(int64_t items, int64_t least) {
    constexpr int64_t most = 16;
    const int64_t parts = items / (least > 0 ? least : 1);
    return static_cast<int>(parts < 1 ? 1 : parts > most ? most : parts);
}

// Calls run(part, begin, end) for equal parts of [0, items), on several threads.
inline void in_parts(int64_t items, int parts, const std::function<void(int, int64_t, int64_t)> &run) {
    if (parts == 1) return run(0, 0, items);
    parallel_for(parts, [&](int part, int) { run(part, items * part / parts, items * (part + 1) / parts); });
}

constexpr int64_t WORTH_A_TASK = 16384;  // elements

// exp(x) to 2e-7 of it for x in [-87, 88]; below, about 1e-38.  NaN stays NaN.
RP2K_INLINE float exponential(float x) {
    x = x < -87.0f ? -87.0f : x;
    x = x > 88.0f ? 88.0f : x;
    const float scaled = x * 1.44269504f;
    const int32_t power = static_cast<int32_t>(scaled + (scaled < 0.0f ? -0.5f : 0.5f));
    const float n = static_cast<float>(power);
    const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;  // ln 2 in two parts, the first without rounding
    float p = 1.3814424e-3f;
    p = p * r + 8.3687976e-3f;
    p = p * r + 4.1668396e-2f;
    p = p * r + 1.66665196e-1f;
    p = p * r + 4.9999994e-1f;
    p = (p * r + 1.0f) * r + 1.0f;
    const int32_t bits = (power + 127) << 23;
    float factor;
    std::memcpy(&factor, &bits, sizeof factor);
    return p * factor;
}

// 1 / (1 + exp(-x))
RP2K_INLINE float logistic(float x) { return 1.0f / (1.0f + exponential(-x)); }

// The normal distribution's density, and its integral from -infinity to x, to 1e-7.
struct Normal {
    float density, integral;
};

RP2K_INLINE Normal normal(float x) {
    const float size = x < 0.0f ? -x : x;
    const float bell = exponential(-0.5f * x * x);
    // integral(-size) / bell as a polynomial of t, fitted in [0, 14] to 2e-8 of it.
    const float t = 1.0f / (1.0f + 0.21f * size);
    float p = -0.07165634f;
    p = p * t + 0.28358883f;
    p = p * t - 0.33025408f;
    p = p * t + 0.34940198f;
    p = p * t - 0.09392597f;
    p = p * t + 0.12487309f;
    p = p * t + 0.06919207f;
    p = p * t + 0.08506887f;
    p = p * t + 0.08371157f;
    const float tail = p * t * bell;
    return {0.39894228f * bell, x < 0.0f ? tail : 1.0f - tail};
}

}  // namespace rp2k
