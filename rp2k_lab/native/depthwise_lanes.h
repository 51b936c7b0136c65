// The vectorized part of depthwise.cpp, which includes it once for each instruction set, with the attribute TARGET and
// kLanes, the floats in a register.  Nothing of the standard library: the linker might keep the instance with the wrong
// instructions for the rest of the program.

typedef float Vector __attribute__((vector_size(4 * kLanes), may_alias));
typedef float Unaligned __attribute__((vector_size(4 * kLanes), may_alias, aligned(4)));
typedef double Doubles __attribute__((vector_size(8 * kLanes), may_alias));

// Transpose a square: step `bit` swaps this bit of the row's and the column's number.
template <int bit = kLanes / 2>
TARGET __attribute__((always_inline)) inline void transpose(Vector (&tile)[kLanes]) {
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; i++)
        if (!(i & bit)) swap_bit<bit>(tile[i], tile[i + bit]);
    if constexpr (bit > 1) transpose<bit / 2>(tile);
}

// Copy pixels of kLanes planes to buffer[place[pixel]], a channel a lane; lanes without a channel repeat the first.
TARGET inline void load(const float *plane, long stride, long channels, long pixels, const int *place, Vector *buffer) {
    const float *source[kLanes];
    for (int c = 0; c < kLanes; c++) source[c] = plane + (c < channels ? c : 0) * stride;
    long p = 0;
    for (; pixels >= kLanes && p < pixels; p += kLanes) {
        if (p > pixels - kLanes) p = pixels - kLanes;  // the last square overlaps the one before
        Vector tile[kLanes];
        for (int c = 0; c < kLanes; c++) tile[c] = *reinterpret_cast<const Unaligned *>(source[c] + p);
        transpose(tile);
        for (int i = 0; i < kLanes; i++) buffer[place[p + i]] = tile[i];
    }
    for (; p < pixels; p++)
        for (int c = 0; c < kLanes; c++) buffer[place[p]][c] = source[c][p];
}

// The inverse of `load`.
TARGET inline void store(const Vector *buffer, const int *place, long pixels, long channels, long stride,
                         float *plane) {
    long p = 0;
    for (; pixels >= kLanes && p < pixels; p += kLanes) {
        if (p > pixels - kLanes) p = pixels - kLanes;
        Vector tile[kLanes];
        for (int i = 0; i < kLanes; i++) tile[i] = buffer[place[p + i]];
        transpose(tile);
        for (int c = 0; c < channels; c++) *reinterpret_cast<Unaligned *>(plane + c * stride + p) = tile[c];
    }
    for (; p < pixels; p++)
        for (int c = 0; c < channels; c++) plane[c * stride + p] = buffer[place[p]][c];
}

// `count` pixels of a row, or the n < count that are left.
template <int count>
TARGET void convolve_row(long n, const Vector *in, const Vector *weights, const Tap *tap, const Tap *end, Vector *out) {
    if constexpr (count > 1)
        if (n < count) return convolve_row<count - 1>(n, in, weights, tap, end, out);
    Vector sum[count];
    for (int j = 0; j < count; j++) sum[j] = Vector{};
    for (; tap != end; tap++)
        for (int j = 0; j < count; j++) sum[j] += in[tap->from + j] * weights[tap->weight];
    for (int j = 0; j < count; j++) out[j] = sum[j];
}

// Add a row's products to the sums of `count` taps, or of the n < count that are left.
template <int count>
TARGET void correlate_row(long n, const Vector *in, const Vector *gradient, const Tap *tap, long width, Vector *sums) {
    if constexpr (count > 1)
        if (n < count) return correlate_row<count - 1>(n, in, gradient, tap, width, sums);
    Vector sum[count];
    const Vector *source[count];
    for (int t = 0; t < count; t++) sum[t] = sums[tap[t].weight], source[t] = in + tap[t].from;
    for (long j = 0; j < width; j++)
        for (int t = 0; t < count; t++) sum[t] += source[t][j] * gradient[j];
    for (int t = 0; t < count; t++) sums[tap[t].weight] = sum[t];
}

TARGET void convolve(const Plan &plan, const float *source, const float *weights, float *result, long first, long last,
                     float *memory) {
    Vector *kernel = reinterpret_cast<Vector *>(memory), *in = kernel + plan.kernel, *out = in + plan.in_size;
    for (long c = first; c < last; c += kLanes) {
        const long channels = last - c < kLanes ? last - c : kLanes;
        load(weights + c * plan.kernel, plan.kernel, channels, plan.kernel, plan.order, kernel);
        for (long plane = c; plane < plan.batch * plan.channels; plane += plan.channels) {
            for (const Band *band = plan.bands; band != plan.bands_end; band++) {
                load(source + plane * plan.in_plane + band->in_first, plan.in_plane, channels, band->in_pixels,
                     plan.in_place, in);
                for (const Row *row = plan.rows + band->first_row; row != plan.rows + band->last_row; row++)
                    for (long j = 0; j < row->count; j += kBlock)
                        convolve_row<kBlock>(row->count - j, in + j, kernel, plan.taps + row->first_tap,
                                             plan.taps + row->last_tap, out + row->to + j);
                store(out, plan.out_place, band->out_pixels, channels, plan.out_plane,
                      result + plane * plan.out_plane + band->out_first);
            }
        }
    }
}

TARGET void correlate(const Plan &plan, const float *input, const float *gradient, float *result, long first, long last,
                      float *memory) {
    Doubles *totals = reinterpret_cast<Doubles *>(memory);
    Vector *sums = reinterpret_cast<Vector *>(totals + plan.kernel), *in = sums + plan.kernel, *out = in + plan.in_size;
    for (long c = first; c < last; c += kLanes) {
        const long channels = last - c < kLanes ? last - c : kLanes;
        long terms = 0;
        for (long t = 0; t < plan.kernel; t++) sums[t] = Vector{}, totals[t] = Doubles{};
        for (long plane = c; plane < plan.batch * plan.channels; plane += plan.channels) {
            for (const Band *band = plan.bands; band != plan.bands_end; band++) {
                load(input + plane * plan.in_plane + band->in_first, plan.in_plane, channels, band->in_pixels,
                     plan.in_place, in);
                load(gradient + plane * plan.out_plane + band->out_first, plan.out_plane, channels, band->out_pixels,
                     plan.out_place, out);
                for (const Row *row = plan.rows + band->first_row; row != plan.rows + band->last_row; row++) {
                    for (long t = row->first_tap; t < row->last_tap; t += kBlock)
                        correlate_row<kBlock>(row->last_tap - t, in, out + row->to, plan.taps + t, row->count, sums);
                    if ((terms += row->count) < kFloatTerms) continue;
                    for (long t = 0; t < plan.kernel; t++)
                        totals[t] += __builtin_convertvector(sums[t], Doubles), sums[t] = Vector{};
                    terms = 0;
                }
            }
        }
        for (long t = 0; t < plan.kernel; t++)
            sums[t] = __builtin_convertvector(totals[t] + __builtin_convertvector(sums[t], Doubles), Vector);
        store(sums, plan.order, plan.kernel, channels, plan.kernel, result + c * plan.kernel);
    }
}
