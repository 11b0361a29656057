// Products on AVX2.

#pragma once

#include "scalar.h"

namespace {

// u8 x s8 through VPMADDUBSW saturates, so weights are widened to 16 bits: exact, and free where
// memory is the limit. Four accumulators hold 16 rows x 2 half sums.

// The shuffle that puts the next bytes where a mask of eight bits says; 0x80 writes a zero.
struct ExpandTable {
    alignas(16) uint8_t at[256][8];
    ExpandTable() {
        for (int mask = 0; mask < 256; ++mask) {
            uint8_t next = 0;
            for (int bit = 0; bit < 8; ++bit) at[mask][bit] = mask >> bit & 1 ? next++ : 0x80;
        }
    }
};
const ExpandTable EXPAND;

AVX2 INLINE __m128i expand16(uint32_t mask, const int8_t *&values) {
    uint32_t low = mask & 255, high = mask >> 8;
    __m128i a = _mm_loadl_epi64(reinterpret_cast<const __m128i *>(values));
    a = _mm_shuffle_epi8(a, _mm_loadl_epi64(reinterpret_cast<const __m128i *>(EXPAND.at[low])));
    values += __builtin_popcount(low);
    __m128i b = _mm_loadl_epi64(reinterpret_cast<const __m128i *>(values));
    b = _mm_shuffle_epi8(b, _mm_loadl_epi64(reinterpret_cast<const __m128i *>(EXPAND.at[high])));
    values += __builtin_popcount(high);
    return _mm_unpacklo_epi64(a, b);
}

AVX2 INLINE __m256i quad_of(const int16_t *x) {
    int64_t four;
    std::memcpy(&four, x, 8);
    return _mm256_set1_epi64x(four);
}

AVX2 INLINE __m256i madd(__m256i acc, __m128i w, __m256i x) {
    return _mm256_add_epi32(acc, _mm256_madd_epi16(_mm256_cvtepi8_epi16(w), x));
}

AVX2 INLINE __m128i load16(const int8_t *p) {
    return _mm_loadu_si128(reinterpret_cast<const __m128i *>(p));
}

AVX2 INLINE void tile256(__m256i *acc, const int8_t *w, __m256i x) {
    for (int i = 0; i < 4; ++i) acc[i] = madd(acc[i], load16(w + 16 * i), x);
}

// Adds the pairs of half sums: acc[i] holds rows 4 i .. 4 i + 3.
AVX2 INLINE void fold(const __m256i *acc, int32_t *sums) {
    for (int i = 0; i < 4; i += 2) {
        __m256i pairs = _mm256_hadd_epi32(acc[i], acc[i + 1]);
        pairs = _mm256_permute4x64_epi64(pairs, 0xD8);
        _mm256_storeu_si256(reinterpret_cast<__m256i *>(sums + 4 * i), pairs);
    }
}

AVX2 void group_int4_avx2(const Matrix *m, int g, const int16_t *words, float *total) {
    const __m128i low = _mm_set1_epi8(15), eight = _mm_set1_epi8(8);
    int scale_groups = (m->quads + m->scale_quads - 1) / m->scale_quads;
    const int8_t *values = m->values + static_cast<int64_t>(g) * m->quads * (TILE / 2);
    for (int s = 0; s < scale_groups; ++s) {
        __m256i acc[4] = {};
        int last = (s + 1) * m->scale_quads < m->quads ? (s + 1) * m->scale_quads : m->quads;
        for (int k = s * m->scale_quads; k < last; k += 2) {
            __m256i xa = quad_of(words + QUAD * k), xb = quad_of(words + QUAD * (k + 1));
            for (int i = 0; i < 4; ++i) {
                __m128i packed = load16(values + k * (TILE / 2) + 16 * i);
                __m128i a = _mm_sub_epi8(_mm_and_si128(packed, low), eight);
                __m128i b = _mm_sub_epi8(_mm_and_si128(_mm_srli_epi16(packed, 4), low), eight);
                acc[i] = madd(madd(acc[i], a, xa), b, xb);
            }
        }
        int32_t sums[ROWS];
        fold(acc, sums);
        const float *scale = m->scale + (static_cast<int64_t>(g) * scale_groups + s) * ROWS;
        for (int r = 0; r < ROWS; ++r) total[r] += static_cast<float>(sums[r]) * scale[r];
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
    __m128i eight = _mm_loadl_epi64(reinterpret_cast<const __m128i *>(p));
    return _mm256_shuffle_epi8(_mm256_cvtepu8_epi32(eight), place);
}

template <int PLANES>
AVX2 INLINE void codes256(const Matrix *m, int g, const int16_t *words, __m256i *acc) {
    const uint64_t *masks = code_masks(m, g);
    for (int s = 0; s * m->scale_quads < m->quads; ++s) {
        __m256i steps[1 + PLANES][2];
        for (int i = 0; i <= PLANES; ++i)
            for (int h = 0; h < 2; ++h) steps[i][h] = four_times(code_steps(m, g, s) + i * ROWS + 8 * h);
        int last = (s + 1) * m->scale_quads < m->quads ? (s + 1) * m->scale_quads : m->quads;
        for (int k = s * m->scale_quads; k < last; ++k, masks += PLANES * TOGETHER) {
            __m256i x = quad_of(words + QUAD * k);
            for (int h = 0; h < 2; ++h) {
                __m256i tile = steps[0][h];
                for (int i = 0; i < PLANES; ++i) {
                    __m256i plus = bytes_of(static_cast<uint32_t>(masks[i * TOGETHER] >> (32 * h)));
                    tile = _mm256_add_epi8(tile, _mm256_and_si256(plus, steps[1 + i][h]));
                }
                acc[2 * h] = madd(acc[2 * h], _mm256_castsi256_si128(tile), x);
                acc[2 * h + 1] = madd(acc[2 * h + 1], _mm256_extracti128_si256(tile, 1), x);
            }
        }
    }
}

AVX2 void group_avx2(const Matrix *m, int g, const Vectors *x, int v, const float *bias, float *out) {
    const int16_t *words = x->words + static_cast<int64_t>(v) * x->stride;
    __m256i acc[4] = {};
    int32_t sums[ROWS];
    switch (m->kind) {
    case DENSE: {
        const int8_t *w = m->values + static_cast<int64_t>(g) * m->quads * TILE;
        for (int k = 0; k < m->quads; ++k, w += TILE) tile256(acc, w, quad_of(words + QUAD * k));
        break;
    }
    case BITMASK: {
        const int8_t *values = m->values + m->starts[g];
        const uint64_t *masks = m->masks + static_cast<int64_t>(g) * m->quads;
        for (int k = 0; k < m->quads; ++k) {
            __m256i xq = quad_of(words + QUAD * k);
            for (int i = 0; i < 4; ++i)
                acc[i] = madd(acc[i], expand16(masks[k] >> (16 * i) & 0xFFFF, values), xq);
        }
        break;
    }
    case BLOCK_16X4:
        for (int64_t b = m->starts[g]; b < m->starts[g + 1]; ++b)
            tile256(acc, m->values + b * TILE, quad_of(words + QUAD * m->places[b]));
        break;
    case BLOCK_8X8: {
        // A row of a block is 8 bytes, so each accumulator holds two rows in four part sums.
        for (int64_t b = m->starts[g]; b < m->starts[g + 1]; ++b) {
            __m256i xb = _mm256_broadcastsi128_si256(_mm_loadu_si128(
                reinterpret_cast<const __m128i *>(words + 8 * m->places[b])));
            tile256(acc, m->values + b * TILE, xb);
        }
        int32_t halves[ROWS];
        fold(acc, halves);
        for (int r = 0; r < 8; ++r) sums[r] = halves[2 * r] + halves[2 * r + 1];
        finish(m, g, sums, x->scale[v], bias, out);
        return;
    }
    case CODES:
        switch (m->planes) {
        case 1: codes256<1>(m, g, words, acc); break;
        case 2: codes256<2>(m, g, words, acc); break;
        case 3: codes256<3>(m, g, words, acc); break;
        default: codes256<4>(m, g, words, acc); break;
        }
        break;
    case INT4: {
        float total[ROWS] = {0};
        group_int4_avx2(m, g, words, total);
        finish_float(m, g, total, x->scale[v], bias, out);
        return;
    }
    }
    fold(acc, sums);
    finish(m, g, sums, x->scale[v], bias, out);
}

AVX2 void product_avx2(const Matrix *m, const Vectors *x, const float *bias, float *out,
                       int64_t ldo, int first, int last) {
    for (int g = first; g < last; ++g)
        for (int v = 0; v < x->n; ++v) group_avx2(m, g, x, v, bias, out + v * ldo);
}

}  // namespace
