// Products on AVX2.

#pragma once

#include "scalar.h"

namespace {

// VPMADDUBSW adds pairs of u8 x s8 and saturates: right for 4-bit weights alone, and for gathered ones,
// whose signs go to the activations (2 * 128 * 127 < 2^15). Others are widened to 16 bits, which is free
// where memory is the limit.

AVX2 INLINE __m128i load8(const void *p) { return _mm_loadl_epi64(static_cast<const __m128i *>(p)); }
AVX2 INLINE __m128i load16(const void *p) { return _mm_loadu_si128(static_cast<const __m128i *>(p)); }
AVX2 INLINE __m256i load32(const void *p) { return _mm256_loadu_si256(static_cast<const __m256i *>(p)); }
AVX2 INLINE void store32(void *p, __m256i x) { _mm256_storeu_si256(static_cast<__m256i *>(p), x); }

AVX2 INLINE __m256i quad_of(const int16_t *x) {
    int64_t four;
    std::memcpy(&four, x, 8);
    return _mm256_set1_epi64x(four);
}

AVX2 INLINE __m256i quad_of(const int8_t *x) {
    int32_t four;
    std::memcpy(&four, x, 4);
    return _mm256_set1_epi32(four);
}

// The activations of a tile: of four columns, or of the eight of an 8x8 block.
template <int KIND>
AVX2 INLINE __m256i part256(const int16_t *x, int place) {
    if (KIND == BLOCK_8X8) return _mm256_broadcastsi128_si256(load16(x + 8 * place));
    return quad_of(x + QUAD * place);
}

AVX2 INLINE __m256i madd(__m256i acc, __m256i w, __m256i x) {
    return _mm256_add_epi32(acc, _mm256_madd_epi16(w, x));
}

// Eight rows to the output, those of them that there are.
AVX2 INLINE void store256(const Matrix *m, int first, __m256 value, __m256 scale, const float *bias, float *out) {
    // Fused by hand: a compiler that fuses in one place and not in another makes batches differ.
    if (m->rows - first >= 8) {
        __m256 begin = bias ? _mm256_loadu_ps(bias + first) : _mm256_setzero_ps();
        _mm256_storeu_ps(out + first, _mm256_fmadd_ps(value, scale, begin));
        return;
    }
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    __m256i keep = _mm256_cmpgt_epi32(_mm256_set1_epi32(m->rows - first), lane);
    __m256 begin = bias ? _mm256_maskload_ps(bias + first, keep) : _mm256_setzero_ps();
    _mm256_maskstore_ps(out + first, keep, _mm256_fmadd_ps(value, scale, begin));
}

AVX2 INLINE void finish256(const Matrix *m, int first, __m256i sums, float vector_scale, const float *bias,
                           float *out) {
    __m256 scale = _mm256_mul_ps(_mm256_loadu_ps(m->scale + first), _mm256_set1_ps(vector_scale));
    store256(m, first, _mm256_cvtepi32_ps(sums), scale, bias, out);
}

// Adds the pairs of two accumulators' half sums: of four rows each.
AVX2 INLINE __m256i pairs256(__m256i a, __m256i b) {
    return _mm256_permute4x64_epi64(_mm256_hadd_epi32(a, b), 0xD8);
}

// The half sums of 16 rows, or the quarter sums of a group of 8x8 blocks, to the output.
AVX2 INLINE void fold(const Matrix *m, int g, const __m256i *acc, float vector_scale, const float *bias,
                      float *out) {
    __m256i low = pairs256(acc[0], acc[1]), high = pairs256(acc[2], acc[3]);
    if (m->kind == BLOCK_8X8) {
        finish256(m, 8 * g, pairs256(low, high), vector_scale, bias, out);
        return;
    }
    finish256(m, ROWS * g, low, vector_scale, bias, out);
    if (m->rows - ROWS * g > 8) finish256(m, ROWS * g + 8, high, vector_scale, bias, out);
}

constexpr int NIBBLE_QUADS = 8;  // their sums fit into 16 bits: 8 * 2 * 15 * 127 < 2^15

// Adds to the sums of 16 rows x V vectors the products of `count` quads of unsigned 4-bit weights.
template <int V>
AVX2 INLINE void nibbles256(const int8_t *values, const int8_t *x, int stride, int count, __m256i acc[V][2]) {
    const __m256i low = _mm256_set1_epi8(15), ones = _mm256_set1_epi16(1);
    __m256i part[V][2] = {};
    for (int k = 0; k < count; k += 2, values += TILE, x += 2 * QUAD) {
        __m256i a[2], b[2];
        for (int h = 0; h < 2; ++h) {
            __m256i packed = load32(values + 32 * h);
            a[h] = _mm256_and_si256(packed, low);
            b[h] = _mm256_and_si256(_mm256_srli_epi16(packed, 4), low);
        }
        for (int j = 0; j < V; ++j) {
            const int8_t *xj = x + static_cast<int64_t>(j) * stride;
            __m256i xa = quad_of(xj), xb = quad_of(xj + QUAD);
            for (int h = 0; h < 2; ++h) {
                part[j][h] = _mm256_add_epi16(part[j][h], _mm256_maddubs_epi16(a[h], xa));
                part[j][h] = _mm256_add_epi16(part[j][h], _mm256_maddubs_epi16(b[h], xb));
            }
        }
    }
    for (int j = 0; j < V; ++j)
        for (int h = 0; h < 2; ++h) acc[j][h] = madd(acc[j][h], part[j][h], ones);
}

// V vectors by a group of 4-bit weights. The nibbles stay unsigned (value + 8): `begin` [V][scale groups] are
// the sums that take this off again.
template <int V>
AVX2 INLINE void int4_256(const Matrix *m, int g, const Vectors *x, int v, const int32_t *begin, const float *bias,
                          float *out, int64_t ldo) {
    int scale_groups = scale_groups_of(m);
    const int8_t *values = m->values + static_cast<int64_t>(g) * m->quads * (TILE / 2);
    const int8_t *bytes = x->bytes + static_cast<int64_t>(v) * x->stride;
    const float *scale = m->scale + static_cast<int64_t>(g) * scale_groups * ROWS;
    __m256 total[V][2];
    for (int j = 0; j < V; ++j) total[j][0] = total[j][1] = _mm256_setzero_ps();
    for (int s = 0; s < scale_groups; ++s, scale += ROWS) {
        int k = s * m->scale_quads, last = k + m->scale_quads < m->quads ? k + m->scale_quads : m->quads;
        __m256i acc[V][2];
        for (int j = 0; j < V; ++j) acc[j][0] = acc[j][1] = _mm256_set1_epi32(begin[j * scale_groups + s]);
        for (; k < last; k += NIBBLE_QUADS) {
            int count = last - k < NIBBLE_QUADS ? last - k : NIBBLE_QUADS;
            nibbles256<V>(values + k * (TILE / 2), bytes + QUAD * k, x->stride, count, acc);
        }
        for (int j = 0; j < V; ++j)
            for (int h = 0; h < 2; ++h)
                total[j][h] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(acc[j][h]), _mm256_loadu_ps(scale + 8 * h),
                                              total[j][h]);
    }
    for (int j = 0; j < V; ++j)
        for (int h = 0; h < 2 && m->rows - ROWS * g > 8 * h; ++h)
            store256(m, ROWS * g + 8 * h, total[j][h], _mm256_set1_ps(x->scale[v + j]), bias, out + (v + j) * ldo);
}

// All vectors by the groups [first, last) of 4-bit weights, as many at once as `scratch` has room for.
AVX2 void product_int4_256(const Matrix *m, const Vectors *x, const float *bias, float *out, int64_t ldo, int first,
                           int last, int8_t *scratch) {
    constexpr int AT_ONCE = 16;
    int32_t *begin = reinterpret_cast<int32_t *>(scratch);
    int scale_groups = scale_groups_of(m);
    for (int v = 0; v < x->n; v += AT_ONCE) {
        int there = x->n - v < AT_ONCE ? x->n - v : AT_ONCE;
        for (int j = 0; j < there; ++j) {
            const int32_t *sums = x->quad_sums + static_cast<int64_t>(v + j) * x->stride / QUAD;
            for (int s = 0; s < scale_groups; ++s) {
                int32_t sum = 0;
                for (int k = s * m->scale_quads; k < (s + 1) * m->scale_quads && k < m->quads; ++k) sum += sums[k];
                begin[j * scale_groups + s] = -8 * sum;
            }
        }
        for (int g = first; g < last; ++g) {
            int j = 0;
            for (; j + 2 <= there; j += 2)
                int4_256<2>(m, g, x, v + j, begin + j * scale_groups, bias, out, ldo);
            for (; j < there; ++j) int4_256<1>(m, g, x, v + j, begin + j * scale_groups, bias, out, ldo);
        }
    }
}

// Bytes of ones where a mask of 32 bits has them.
AVX2 INLINE __m256i bytes_of(uint32_t mask) {
    const __m256i byte = _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303);
    const __m256i bit = _mm256_set1_epi64x(static_cast<int64_t>(0x8040201008040201));
    __m256i spread = _mm256_shuffle_epi8(_mm256_set1_epi32(static_cast<int32_t>(mask)), byte);
    return _mm256_cmpeq_epi8(_mm256_and_si256(spread, bit), bit);
}

// Numbers of 8 rows, each four times.
AVX2 INLINE __m256i four_times(const int8_t *p) {
    const __m256i place = _mm256_set_epi32(0x0C0C0C0C, 0x08080808, 0x04040404, 0, 0x0C0C0C0C, 0x08080808,
                                           0x04040404, 0);
    return _mm256_shuffle_epi8(_mm256_cvtepu8_epi32(load8(p)), place);
}

// The tiles of a group of codes.
AVX2 void code_tiles256(const Matrix *m, int g, int8_t *tiles) {
    constexpr int MOST_PLANES = 4;
    const uint64_t *masks = code_masks(m, g);
    for (int s = 0, k = 0; k < m->quads; ++s) {
        __m256i steps[1 + MOST_PLANES][2];
        for (int i = 0; i <= m->planes; ++i)
            for (int h = 0; h < 2; ++h) steps[i][h] = four_times(code_steps(m, g, s) + i * ROWS + 8 * h);
        for (; k < (s + 1) * m->scale_quads && k < m->quads; ++k, tiles += TILE) {
            __m256i half[2] = {steps[0][0], steps[0][1]};
            for (int i = 0; i < m->planes; ++i, masks += TOGETHER)
                for (int h = 0; h < 2; ++h) {
                    __m256i plus = bytes_of(static_cast<uint32_t>(*masks >> (32 * h)));
                    half[h] = _mm256_add_epi8(half[h], _mm256_and_si256(plus, steps[1 + i][h]));
                }
            store32(tiles, half[0]);
            store32(tiles + 32, half[1]);
        }
    }
}

// For each quad of a vector the sums of its activations by the signs of its columns: the low bytes of the
// sixteen, then the high ones.
AVX2 void sign_sums256(const Matrix *m, const int16_t *x, int8_t *sums) {
    const __m256i signs = _mm256_setr_epi16(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __m256i apart = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15));
    __m256i columns[QUAD];
    for (int c = 0; c < QUAD; ++c) {
        __m256i bit = _mm256_set1_epi16(static_cast<int16_t>(1 << c));
        columns[c] = _mm256_cmpeq_epi16(_mm256_and_si256(signs, bit), bit);
    }
    for (int k = 0; k < m->quads; ++k) {
        __m256i sum = _mm256_setzero_si256();
        for (int c = 0; c < QUAD; ++c)
            sum = _mm256_add_epi16(sum, _mm256_and_si256(columns[c], _mm256_set1_epi16(x[QUAD * k + c])));
        store32(sums + 32 * k, _mm256_permute4x64_epi64(_mm256_shuffle_epi8(sum, apart), 0xD8));
    }
}

// TOGETHER groups of codes, or the `there` of them that there are, times one vector: for each plane the
// activations of its pluses are summed up by table look-ups, four columns at once, and then multiplied by
// what a plus adds.
AVX2 void looked_up256(const Matrix *m, int g, int there, const Vectors *x, int v, const int8_t *sign_sums,
                       const float *bias, float *out) {
    constexpr int MOST_QUADS = 64;  // their sums fit into 16 bits: 64 * 4 * 127 < 2^15
    const __m256i low = _mm256_set1_epi8(15);
    const int32_t *quad_sums = x->quad_sums + static_cast<int64_t>(v) * x->stride / QUAD;
    __m256i acc[TOGETHER][2] = {};
    int step = m->planes * TOGETHER;
    for (int s = 0; s * m->scale_quads < m->quads; ++s) {
        int end = (s + 1) * m->scale_quads < m->quads ? (s + 1) * m->scale_quads : m->quads;
        for (int begin = s * m->scale_quads; begin < end; begin += MOST_QUADS) {
            int last = begin + MOST_QUADS < end ? begin + MOST_QUADS : end;
            int32_t all = 0;
            for (int k = begin; k < last; ++k) all += quad_sums[k];
            for (int j = 0; j < there; ++j)
                for (int h = 0; h < 2; ++h) {
                    __m256i least = _mm256_cvtepi8_epi32(load8(code_steps(m, g + j, s) + 8 * h));
                    acc[j][h] = _mm256_add_epi32(acc[j][h], _mm256_mullo_epi32(least, _mm256_set1_epi32(all)));
                }
            for (int i = 0; i < m->planes; ++i) {
                // A byte of masks is a row of even number, and the one after it.
                const uint64_t *masks = code_masks(m, g) + static_cast<int64_t>(begin) * step + i * TOGETHER;
                __m256i even[2] = {}, odd[2] = {};
                for (int k = begin; k < last; ++k, masks += step) {
                    __m256i lows = _mm256_broadcastsi128_si256(load16(sign_sums + 32 * k));
                    __m256i highs = _mm256_broadcastsi128_si256(load16(sign_sums + 32 * k + 16));
                    __m256i signs = load32(masks);
                    __m256i a = _mm256_and_si256(signs, low);
                    __m256i b = _mm256_and_si256(_mm256_srli_epi16(signs, 4), low);
                    __m256i a0 = _mm256_shuffle_epi8(lows, a), a1 = _mm256_shuffle_epi8(highs, a);
                    __m256i b0 = _mm256_shuffle_epi8(lows, b), b1 = _mm256_shuffle_epi8(highs, b);
                    even[0] = _mm256_add_epi16(even[0], _mm256_unpacklo_epi8(a0, a1));
                    even[1] = _mm256_add_epi16(even[1], _mm256_unpackhi_epi8(a0, a1));
                    odd[0] = _mm256_add_epi16(odd[0], _mm256_unpacklo_epi8(b0, b1));
                    odd[1] = _mm256_add_epi16(odd[1], _mm256_unpackhi_epi8(b0, b1));
                }
                for (int j = 0; j < there; ++j) {
                    // Groups 0 and 2 lie in the lanes of the first, 1 and 3 in those of the second.
                    __m256i e = even[j % 2], o = odd[j % 2];
                    __m256i halves[2] = {_mm256_unpacklo_epi16(e, o), _mm256_unpackhi_epi16(e, o)};
                    const int8_t *steps = code_steps(m, g + j, s) + (1 + i) * ROWS;
                    for (int h = 0; h < 2; ++h) {
                        __m128i rows = j < 2 ? _mm256_castsi256_si128(halves[h])
                                             : _mm256_extracti128_si256(halves[h], 1);
                        __m256i plus = _mm256_cvtepu8_epi32(load8(steps + 8 * h));
                        plus = _mm256_mullo_epi32(_mm256_cvtepi16_epi32(rows), plus);
                        acc[j][h] = _mm256_add_epi32(acc[j][h], plus);
                    }
                }
            }
        }
    }
    for (int j = 0; j < there; ++j)
        for (int h = 0; h < 2 && m->rows - ROWS * (g + j) > 8 * h; ++h)
            finish256(m, ROWS * (g + j) + 8 * h, acc[j][h], x->scale[v], bias, out);
}

// V vectors by the tiles of a group, to which their activations are shuffled. Sums of two products of int8 fit
// into 16 bits where the signs are taken to one side.
template <int V>
AVX2 INLINE void gathered256(const Matrix *m, int g, const Vectors *x, int v, const float *bias, float *out,
                             int64_t ldo) {
    const __m256i other = _mm256_set1_epi8(static_cast<char>(128)), ones = _mm256_set1_epi16(1);
    const int8_t *bytes = x->bytes + static_cast<int64_t>(v) * x->stride;
    __m256i acc[V] = {};
    for (int64_t b = m->starts[g]; b < m->starts[g + 1]; ++b) {
        __m256i w = load32(m->values + b * TILE), low = load32(m->values + b * TILE + 32);
        __m256i size = _mm256_abs_epi8(w), high = _mm256_xor_si256(low, other);
        for (int j = 0; j < V; ++j) {
            const int8_t *window = bytes + static_cast<int64_t>(j) * x->stride + m->places[b];
            __m256i a = _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(load16(window)), low);
            __m256i c = _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(load16(window + 16)), high);
            __m256i part = _mm256_sign_epi8(_mm256_or_si256(a, c), w);
            acc[j] = madd(acc[j], _mm256_maddubs_epi16(size, part), ones);
        }
    }
    for (int j = 0; j < V; ++j) finish256(m, 8 * g, acc[j], x->scale[v + j], bias, out + (v + j) * ldo);
}

AVX2 void gathered_avx2(const Matrix *m, const Vectors *x, const float *bias, float *out, int64_t ldo, int first,
                        int last) {
    constexpr int AT_ONCE = 4;
    for (int g = first; g < last; ++g) {
        int v = 0;
        for (; v + AT_ONCE <= x->n; v += AT_ONCE) gathered256<AT_ONCE>(m, g, x, v, bias, out, ldo);
        for (; v < x->n; ++v) gathered256<1>(m, g, x, v, bias, out, ldo);
    }
}

// The half sums of 16 rows x V vectors by the `count` tiles of a group, at these places, or one after another
// where it is dense.
template <int KIND, int V>
AVX2 INLINE void tiles256(const int8_t *tiles, int64_t count, const int32_t *places, const int16_t *words,
                          int64_t stride, __m256i *sums) {
    __m256i acc[V][4] = {};
    for (int64_t k = 0; k < count; ++k, tiles += TILE) {
        __m256i part[V];
        for (int j = 0; j < V; ++j)
            part[j] = part256<KIND>(words + j * stride, KIND == DENSE ? static_cast<int>(k) : places[k]);
        for (int i = 0; i < 4; ++i) {
            __m256i w = _mm256_cvtepi8_epi16(load16(tiles + 16 * i));
            for (int j = 0; j < V; ++j) acc[j][i] = madd(acc[j][i], w, part[j]);
        }
    }
    for (int j = 0; j < V; ++j)
        for (int i = 0; i < 4; ++i) sums[4 * j + i] = acc[j][i];
}

// The same of two vectors, on its own, so that a compiler keeps all sums in registers.
template <int KIND>
AVX2 __attribute__((noinline)) void two256(const int8_t *tiles, int64_t count, const int32_t *places,
                                           const int16_t *words, int64_t stride, __m256i *sums) {
    tiles256<KIND, 2>(tiles, count, places, words, stride, sums);
}

// All vectors by a group's tiles, as `tiles256` takes them.
template <int KIND>
AVX2 void group256(const Matrix *m, int g, const int8_t *tiles, int64_t count, const int32_t *places,
                   const Vectors *x, const float *bias, float *out, int64_t ldo) {
    const int16_t *words = x->words;
    __m256i sums[2 * 4];
    int v = 0;
    for (; v + 2 <= x->n; v += 2, words += 2 * x->stride) {
        two256<KIND>(tiles, count, places, words, x->stride, sums);
        fold(m, g, sums, x->scale[v], bias, out + v * ldo);
        fold(m, g, sums + 4, x->scale[v + 1], bias, out + (v + 1) * ldo);
    }
    if (v == x->n) return;
    tiles256<KIND, 1>(tiles, count, places, words, x->stride, sums);
    fold(m, g, sums, x->scale[v], bias, out + v * ldo);
}

// `scratch` holds a group's tiles while a batch uses them, the sums by signs of one vector, or what 4-bit
// sums begin with.
AVX2 void product_avx2(const Matrix *m, const Vectors *x, const float *bias, float *out, int64_t ldo,
                       int first, int last, int8_t *scratch) {
    constexpr int WORTH_TILES = 4;
    if (m->kind == INT4) return product_int4_256(m, x, bias, out, ldo, first, last, scratch);
    if (m->kind == CODES && x->n < WORTH_TILES) {
        for (int v = 0; v < x->n; ++v) {
            sign_sums256(m, x->words + static_cast<int64_t>(v) * x->stride, scratch);
            for (int g = first; g < last; g += TOGETHER)
                looked_up256(m, g, last - g < TOGETHER ? last - g : TOGETHER, x, v, scratch, bias, out + v * ldo);
        }
        return;
    }
    for (int g = first; g < last; ++g) {
        if (m->kind == BLOCK_16X4 || m->kind == BLOCK_8X8) {
            int64_t begin = m->starts[g], count = m->starts[g + 1] - begin;
            auto group = m->kind == BLOCK_8X8 ? group256<BLOCK_8X8> : group256<BLOCK_16X4>;
            group(m, g, m->values + begin * TILE, count, m->places + begin, x, bias, out, ldo);
        } else if (m->kind == CODES) {
            code_tiles256(m, g, scratch);
            group256<DENSE>(m, g, scratch, m->quads, nullptr, x, bias, out, ldo);
        } else {
            const int8_t *tiles = m->values + static_cast<int64_t>(g) * m->quads * TILE;
            group256<DENSE>(m, g, tiles, m->quads, nullptr, x, bias, out, ldo);
        }
    }
}

}  // namespace
