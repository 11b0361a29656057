// Products on AVX512 with VNNI and VBMI2.

#pragma once

#include "scalar.h"

namespace {

AVX512 INLINE __m512i quad512(const void *x) {
    int32_t four;
    std::memcpy(&four, x, 4);
    return _mm512_set1_epi32(four);
}

AVX512 INLINE __m512i tile512(const int8_t *p) { return _mm512_loadu_si512(p); }

// Integer sums of 16 rows to the output, when what the activations' offset of 128 added is off.
AVX512 INLINE void scale512(const Matrix *m, int g, __m512i acc, float vector_scale,
                            const float *bias, float *out) {
    int first = g * ROWS;
    int count = m->rows - first;
    __mmask16 keep = count >= ROWS ? 0xFFFF : static_cast<__mmask16>((1u << count) - 1);
    __m512 scale = _mm512_mul_ps(_mm512_loadu_ps(m->scale + first), _mm512_set1_ps(vector_scale));
    // Fused by hand: a compiler that fuses in one place and not in another makes batches differ.
    __m512 begin = bias ? _mm512_maskz_loadu_ps(keep, bias + first) : _mm512_setzero_ps();
    __m512 value = _mm512_fmadd_ps(_mm512_cvtepi32_ps(acc), scale, begin);
    _mm512_mask_storeu_ps(out + first, keep, value);
}

AVX512 INLINE void finish512(const Matrix *m, int g, __m512i acc, float vector_scale,
                             const float *bias, float *out) {
    acc = _mm512_sub_epi32(acc, _mm512_loadu_si512(m->offsets + g * ROWS));
    scale512(m, g, acc, vector_scale, bias, out);
}

// The same for the 8 rows of a group of 8x8 blocks, whose offsets are off already.
AVX512 INLINE void finish8(const Matrix *m, int g, const int32_t *sums, float vector_scale,
                           const float *bias, float *out) {
    int first = g * 8;
    int count = m->rows - first;
    __mmask8 keep = count >= 8 ? 0xFF : static_cast<__mmask8>((1u << count) - 1);
    __m256 scale = _mm256_mul_ps(_mm256_loadu_ps(m->scale + first), _mm256_set1_ps(vector_scale));
    __m256 begin = bias ? _mm256_maskz_loadu_ps(keep, bias + first) : _mm256_setzero_ps();
    __m256i all = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(sums));
    _mm256_mask_storeu_ps(out + first, keep, _mm256_fmadd_ps(_mm256_cvtepi32_ps(all), scale, begin));
}

// G groups x V vectors of a dense matrix whose group i begins at w[i].
template <int G, int V>
AVX512 INLINE void dense512(const Matrix *m, int g, const int8_t *const *w, const Vectors *x, int v,
                            const float *bias, float *out, int64_t ldo) {
    __m512i acc[G][V];
    for (int i = 0; i < G; ++i)
        for (int j = 0; j < V; ++j) acc[i][j] = _mm512_setzero_si512();
    const uint8_t *xv = x->biased + static_cast<int64_t>(v) * x->stride;
    for (int k = 0; k < m->quads; ++k) {
        __m512i tile[G];
        for (int i = 0; i < G; ++i) tile[i] = tile512(w[i] + static_cast<int64_t>(k) * TILE);
        for (int j = 0; j < V; ++j) {
            __m512i quad = quad512(xv + static_cast<int64_t>(j) * x->stride + QUAD * k);
            for (int i = 0; i < G; ++i) acc[i][j] = _mm512_dpbusd_epi32(acc[i][j], quad, tile[i]);
        }
    }
    for (int i = 0; i < G; ++i)
        for (int j = 0; j < V; ++j)
            finish512(m, g + i, acc[i][j], x->scale[v + j], bias, out + (v + j) * ldo);
}

// A group of a dense matrix with one vector. That waits for memory and not for the processor: the
// weights are read in one stream, and the offsets summed up anew from them instead of read, too.
AVX512 INLINE void alone512(const Matrix *m, int g, const int8_t *w, const Vectors *x,
                            const float *bias, float *out) {
    constexpr int CHAINS = 4;  // hides the latency of a single chain of sums
    const __m512i offset = _mm512_set1_epi8(static_cast<char>(128));
    __m512i acc[CHAINS], off[CHAINS];
    for (int c = 0; c < CHAINS; ++c) acc[c] = off[c] = _mm512_setzero_si512();
    const uint8_t *quad = x->biased;
    int k = 0;
    for (; k + CHAINS <= m->quads; k += CHAINS, w += CHAINS * TILE, quad += CHAINS * QUAD)
        for (int c = 0; c < CHAINS; ++c) {
            __m512i tile = tile512(w + c * TILE);
            acc[c] = _mm512_dpbusd_epi32(acc[c], quad512(quad + c * QUAD), tile);
            off[c] = _mm512_dpbusd_epi32(off[c], offset, tile);
        }
    for (; k < m->quads; ++k, w += TILE, quad += QUAD) {
        acc[0] = _mm512_dpbusd_epi32(acc[0], quad512(quad), tile512(w));
        off[0] = _mm512_dpbusd_epi32(off[0], offset, tile512(w));
    }
    for (int c = 1; c < CHAINS; ++c) {
        acc[0] = _mm512_add_epi32(acc[0], acc[c]);
        off[0] = _mm512_add_epi32(off[0], off[c]);
    }
    scale512(m, g, _mm512_sub_epi32(acc[0], off[0]), x->scale[0], bias, out);
}

// G groups with one vector, bitmask: each group has its own run of values.
template <int G>
AVX512 INLINE void bitmask512(const Matrix *m, int g, const Vectors *x, int v, const float *bias,
                              float *out) {
    __m512i acc[G];
    const int8_t *values[G];
    for (int i = 0; i < G; ++i) {
        acc[i] = _mm512_setzero_si512();
        values[i] = m->values + m->starts[g + i];
    }
    const uint64_t *masks = m->masks + static_cast<int64_t>(g) * m->quads;
    const uint8_t *xv = x->biased + static_cast<int64_t>(v) * x->stride;
    for (int k = 0; k < m->quads; ++k) {
        __m512i quad = quad512(xv + QUAD * k);
        for (int i = 0; i < G; ++i) {
            uint64_t mask = masks[static_cast<int64_t>(i) * m->quads + k];
            // From a register: the form that expands from memory is slow on AMD.
            __m512i tile = _mm512_maskz_expand_epi8(_cvtu64_mask64(mask), tile512(values[i]));
            values[i] += __builtin_popcountll(mask);
            acc[i] = _mm512_dpbusd_epi32(acc[i], quad, tile);
        }
    }
    for (int i = 0; i < G; ++i) finish512(m, g + i, acc[i], x->scale[v], bias, out);
}

// One group of blocks with V vectors. A row of an 8x8 block lies in two lanes.
template <int V>
AVX512 INLINE void block512(const Matrix *m, int g, const Vectors *x, int v, const float *bias,
                            float *out, int64_t ldo) {
    constexpr int CHAINS = V == 1 ? 4 : 1;  // hides the latency of a single chain of sums
    __m512i acc[V][CHAINS];
    for (int j = 0; j < V; ++j)
        for (int c = 0; c < CHAINS; ++c) acc[j][c] = _mm512_setzero_si512();
    const uint8_t *xv = x->biased + static_cast<int64_t>(v) * x->stride;
    bool wide = m->kind == BLOCK_8X8;
    int64_t end = m->starts[g + 1];
    for (int64_t b = m->starts[g]; b < end; b += CHAINS) {
        for (int c = 0; c < CHAINS; ++c) {
            if (CHAINS > 1 && b + c >= end) break;
            __m512i tile = tile512(m->values + (b + c) * TILE);
            for (int j = 0; j < V; ++j) {
                const uint8_t *xj = xv + static_cast<int64_t>(j) * x->stride;
                __m512i part;
                if (wide) {
                    int64_t eight;
                    std::memcpy(&eight, xj + 8 * m->places[b + c], 8);
                    part = _mm512_set1_epi64(eight);
                } else {
                    part = quad512(xj + QUAD * m->places[b + c]);
                }
                acc[j][c] = _mm512_dpbusd_epi32(acc[j][c], part, tile);
            }
        }
    }
    for (int j = 0; j < V; ++j) {
        __m512i sum = acc[j][0];
        for (int c = 1; c < CHAINS; ++c) sum = _mm512_add_epi32(sum, acc[j][c]);
        if (!wide) {
            finish512(m, g, sum, x->scale[v + j], bias, out + (v + j) * ldo);
            continue;
        }
        int32_t lanes[ROWS], sums[8];
        _mm512_storeu_si512(lanes, sum);
        for (int r = 0; r < 8; ++r)
            sums[r] = lanes[2 * r] + lanes[2 * r + 1] - m->offsets[8 * g + r];
        finish8(m, g, sums, x->scale[v + j], bias, out + (v + j) * ldo);
    }
}

// G groups x V vectors of 4-bit weights. The nibbles stay unsigned (value + 8); what that adds is
// eight times the sum of the group's activations, taken off before the sum starts.
template <int G, int V>
AVX512 INLINE void int4_512(const Matrix *m, int g, const Vectors *x, int v, const float *bias,
                            float *out, int64_t ldo) {
    const __m512i low = _mm512_set1_epi8(15);
    int scale_groups = (m->quads + m->scale_quads - 1) / m->scale_quads;
    int64_t group_bytes = static_cast<int64_t>(m->quads) * (TILE / 2);
    const int8_t *values = m->values + g * group_bytes;
    const int8_t *xv = x->bytes + static_cast<int64_t>(v) * x->stride;
    const int32_t *sv = x->quad_sums + static_cast<int64_t>(v) * x->stride / QUAD;
    __m512 total[G][V];
    for (int i = 0; i < G; ++i)
        for (int j = 0; j < V; ++j) total[i][j] = _mm512_setzero_ps();
    for (int s = 0; s < scale_groups; ++s) {
        int first = s * m->scale_quads;
        int last = first + m->scale_quads < m->quads ? first + m->scale_quads : m->quads;
        __m512i acc[G][V];
        for (int j = 0; j < V; ++j) {
            int32_t sum = 0;
            for (int k = first; k < last; ++k) sum += sv[static_cast<int64_t>(j) * x->stride / QUAD + k];
            for (int i = 0; i < G; ++i) acc[i][j] = _mm512_set1_epi32(-8 * sum);
        }
        for (int k = first; k < last; k += 2) {
            __m512i a[G], b[G];
            for (int i = 0; i < G; ++i) {
                __m512i packed = tile512(values + i * group_bytes + k * (TILE / 2));
                a[i] = _mm512_and_si512(packed, low);
                b[i] = _mm512_and_si512(_mm512_srli_epi16(packed, 4), low);
            }
            for (int j = 0; j < V; ++j) {
                const int8_t *xj = xv + static_cast<int64_t>(j) * x->stride + QUAD * k;
                __m512i xa = quad512(xj), xb = quad512(xj + QUAD);
                for (int i = 0; i < G; ++i) {
                    acc[i][j] = _mm512_dpbusd_epi32(acc[i][j], a[i], xa);
                    acc[i][j] = _mm512_dpbusd_epi32(acc[i][j], b[i], xb);
                }
            }
        }
        for (int i = 0; i < G; ++i) {
            const float *at = m->scale + (static_cast<int64_t>(g + i) * scale_groups + s) * ROWS;
            __m512 scale = _mm512_loadu_ps(at);
            for (int j = 0; j < V; ++j)
                total[i][j] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(acc[i][j]), scale, total[i][j]);
        }
    }
    for (int i = 0; i < G; ++i) {
        int begin = (g + i) * ROWS, count = m->rows - begin;
        __mmask16 keep = count >= ROWS ? 0xFFFF : static_cast<__mmask16>((1u << count) - 1);
        for (int j = 0; j < V; ++j) {
            __m512 start = bias ? _mm512_maskz_loadu_ps(keep, bias + begin) : _mm512_setzero_ps();
            __m512 value = _mm512_fmadd_ps(total[i][j], _mm512_set1_ps(x->scale[v + j]), start);
            _mm512_mask_storeu_ps(out + (v + j) * ldo + begin, keep, value);
        }
    }
}

template <int G>
AVX512 void dense_groups512(const Matrix *m, int g, const int8_t *const *w, const Vectors *x,
                            const float *bias, float *out, int64_t ldo) {
    int v = 0;
    for (; v + 8 <= x->n; v += 8) dense512<G, 8>(m, g, w, x, v, bias, out, ldo);
    for (; v + 2 <= x->n; v += 2) dense512<G, 2>(m, g, w, x, v, bias, out, ldo);
    for (; v < x->n; ++v) dense512<G, 1>(m, g, w, x, v, bias, out, ldo);
}

// The tiles of one bitmask group, zeros and all.
AVX512 INLINE void expand_group512(const Matrix *m, int g, int8_t *tiles) {
    const int8_t *values = m->values + m->starts[g];
    const uint64_t *masks = m->masks + static_cast<int64_t>(g) * m->quads;
    for (int k = 0; k < m->quads; ++k) {
        __m512i tile = _mm512_maskz_expand_epi8(_cvtu64_mask64(masks[k]), tile512(values));
        values += __builtin_popcountll(masks[k]);
        _mm512_storeu_si512(tiles + static_cast<int64_t>(k) * TILE, tile);
    }
}

// Numbers of 16 rows, each four times.
AVX512 INLINE __m512i four_times512(const int8_t *p) {
    const __m512i place = _mm512_set4_epi32(0x0C0C0C0C, 0x08080808, 0x04040404, 0);
    __m128i all = _mm_loadu_si128(reinterpret_cast<const __m128i *>(p));
    return _mm512_shuffle_epi8(_mm512_cvtepu8_epi32(all), place);
}

// The tiles of a group of codes.
template <int PLANES>
AVX512 INLINE void code_tiles512(const Matrix *m, int g, int8_t *tiles) {
    const uint64_t *masks = code_masks(m, g);
    for (int s = 0; s * m->scale_quads < m->quads; ++s) {
        __m512i steps[1 + PLANES];
        for (int i = 0; i <= PLANES; ++i) steps[i] = four_times512(code_steps(m, g, s) + i * ROWS);
        int last = (s + 1) * m->scale_quads < m->quads ? (s + 1) * m->scale_quads : m->quads;
        for (int k = s * m->scale_quads; k < last; ++k) {
            __m512i tile = steps[0];
            for (int i = 0; i < PLANES; ++i, masks += TOGETHER)
                tile = _mm512_mask_add_epi8(tile, _cvtu64_mask64(*masks), tile, steps[1 + i]);
            _mm512_storeu_si512(tiles + static_cast<int64_t>(k) * TILE, tile);
        }
    }
}

// For each quad the sums of its activations by the signs of its columns, [quads][2][16]: twice, since a
// look-up goes by one bit more than the four.
AVX512 INLINE void sign_sums512(const Matrix *m, const uint8_t *x, uint16_t *sums) {
    __m256i columns[QUAD];
    const __m256i signs = _mm256_setr_epi16(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    for (int c = 0; c < QUAD; ++c) {
        __m256i bit = _mm256_set1_epi16(static_cast<int16_t>(1 << c));
        columns[c] = _mm256_cmpeq_epi16(_mm256_and_si256(signs, bit), bit);
    }
    for (int k = 0; k < m->quads; ++k) {
        __m256i sum = _mm256_setzero_si256();
        for (int c = 0; c < QUAD; ++c)
            sum = _mm256_add_epi16(sum, _mm256_and_si256(columns[c], _mm256_set1_epi16(x[QUAD * k + c])));
        __m512i twice = _mm512_inserti64x4(_mm512_castsi256_si512(sum), sum, 1);
        _mm512_storeu_si512(sums + static_cast<int64_t>(k) * 32, twice);
    }
}

// TOGETHER groups of codes, or the `there` of them that there are, times one vector: for each plane the
// activations of its pluses are summed up by table look-ups, four columns at once, and then multiplied
// by what a plus adds.
template <int PLANES>
AVX512 INLINE void looked_up512(const Matrix *m, int g, int there, const uint16_t *sums, float vector_scale,
                                const float *bias, float *out) {
    constexpr int MOST = 64;  // quads of which the sums are below 2^16
    __m512i acc[TOGETHER];
    for (int j = 0; j < TOGETHER; ++j) acc[j] = _mm512_setzero_si512();
    const uint8_t *masks = reinterpret_cast<const uint8_t *>(code_masks(m, g));
    for (int s = 0, k = 0; k < m->quads;) {
        int edge = (s + 1) * m->scale_quads < m->quads ? (s + 1) * m->scale_quads : m->quads;
        int last = k + MOST < edge ? k + MOST : edge;
        // Of rows 0, 2, .. 14 of each group, and of 1, 3, .. 15.
        __m512i even[PLANES], odd[PLANES];
        for (int i = 0; i < PLANES; ++i) even[i] = odd[i] = _mm512_setzero_si512();
        int32_t all = 0;
        for (; k < last; ++k) {
            __m512i table = _mm512_loadu_si512(sums + static_cast<int64_t>(k) * 32);
            all += sums[static_cast<int64_t>(k) * 32 + 15];
            for (int i = 0; i < PLANES; ++i, masks += 32) {
                __m256i bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(masks));
                __m512i two = _mm512_cvtepu8_epi16(bytes);
                even[i] = _mm512_add_epi16(even[i], _mm512_permutexvar_epi16(two, table));
                two = _mm512_srli_epi16(two, 4);
                odd[i] = _mm512_add_epi16(odd[i], _mm512_permutexvar_epi16(two, table));
            }
        }
        for (int j = 0; j < there; ++j) {
            __m128i least = _mm_loadu_si128(reinterpret_cast<const __m128i *>(code_steps(m, g + j, s)));
            __m512i part = _mm512_mullo_epi32(_mm512_cvtepi8_epi32(least), _mm512_set1_epi32(all));
            acc[j] = _mm512_add_epi32(acc[j], part);
        }
        for (int i = 0; i < PLANES; ++i) {
            uint16_t half[2][32];
            _mm512_storeu_si512(half[0], _mm512_unpacklo_epi16(even[i], odd[i]));
            _mm512_storeu_si512(half[1], _mm512_unpackhi_epi16(even[i], odd[i]));
            for (int j = 0; j < there; ++j) {
                __m128i low = _mm_loadu_si128(reinterpret_cast<const __m128i *>(half[0] + 8 * j));
                __m128i high = _mm_loadu_si128(reinterpret_cast<const __m128i *>(half[1] + 8 * j));
                __m512i rows = _mm512_cvtepu16_epi32(_mm256_set_m128i(high, low));
                const int8_t *steps = code_steps(m, g + j, s) + (1 + i) * ROWS;
                __m128i plus = _mm_loadu_si128(reinterpret_cast<const __m128i *>(steps));
                acc[j] = _mm512_add_epi32(acc[j], _mm512_mullo_epi32(rows, _mm512_cvtepu8_epi32(plus)));
            }
        }
        if (k == edge) ++s;
    }
    for (int j = 0; j < there; ++j) finish512(m, g + j, acc[j], vector_scale, bias, out);
}

// The groups [first, last) of codes times one vector, `first` a multiple of TOGETHER. `sums` has room for
// 64 bytes a quad.
AVX512 void code_vector512(const Matrix *m, const Vectors *x, int v, const float *bias, float *out,
                           int first, int last, int8_t *scratch) {
    uint16_t *sums = reinterpret_cast<uint16_t *>(scratch);
    sign_sums512(m, x->biased + static_cast<int64_t>(v) * x->stride, sums);
    for (int g = first; g < last; g += TOGETHER) {
        int there = last - g < TOGETHER ? last - g : TOGETHER;
        switch (m->planes) {
        case 1: looked_up512<1>(m, g, there, sums, x->scale[v], bias, out); break;
        case 2: looked_up512<2>(m, g, there, sums, x->scale[v], bias, out); break;
        case 3: looked_up512<3>(m, g, there, sums, x->scale[v], bias, out); break;
        default: looked_up512<4>(m, g, there, sums, x->scale[v], bias, out); break;
        }
    }
}

// The tiles of one group of a bitmask or of codes, as a dense matrix has them.
AVX512 INLINE void dense_tiles512(const Matrix *m, int g, int8_t *tiles) {
    if (m->kind != CODES) return expand_group512(m, g, tiles);
    switch (m->planes) {
    case 1: return code_tiles512<1>(m, g, tiles);
    case 2: return code_tiles512<2>(m, g, tiles);
    case 3: return code_tiles512<3>(m, g, tiles);
    default: return code_tiles512<4>(m, g, tiles);
    }
}

// `scratch` holds a group's tiles while a batch uses them: 64 bytes a quad.
AVX512 void product_avx512(const Matrix *m, const Vectors *x, const float *bias, float *out,
                           int64_t ldo, int first, int last, int8_t *scratch) {
    int64_t group_bytes = static_cast<int64_t>(m->quads) * TILE;
    int g = first;
    switch (m->kind) {
    case DENSE:
        if (x->n == 1) {
            for (; g < last; ++g) alone512(m, g, m->values + g * group_bytes, x, bias, out);
            break;
        }
        for (; g + 2 <= last; g += 2) {
            const int8_t *w[2] = {m->values + g * group_bytes, m->values + (g + 1) * group_bytes};
            dense_groups512<2>(m, g, w, x, bias, out, ldo);
        }
        for (; g < last; ++g) {
            const int8_t *w = m->values + g * group_bytes;
            dense_groups512<1>(m, g, &w, x, bias, out, ldo);
        }
        break;
    case CODES:
    case BITMASK:
        if (x->n < 4) {
            for (int v = 0; v < x->n; ++v) {
                if (m->kind == CODES) {
                    code_vector512(m, x, v, bias, out + v * ldo, first, last, scratch);
                    continue;
                }
                for (g = first; g + 4 <= last; g += 4) bitmask512<4>(m, g, x, v, bias, out + v * ldo);
                for (; g < last; ++g) bitmask512<1>(m, g, x, v, bias, out + v * ldo);
            }
            break;
        }
        for (; g < last; ++g) {
            dense_tiles512(m, g, scratch);
            const int8_t *w = scratch;
            dense_groups512<1>(m, g, &w, x, bias, out, ldo);
        }
        break;
    case BLOCK_16X4:
    case BLOCK_8X8:
        for (; g < last; ++g) {
            int v = 0;
            for (; v + 8 <= x->n; v += 8) block512<8>(m, g, x, v, bias, out, ldo);
            for (; v < x->n; ++v) block512<1>(m, g, x, v, bias, out, ldo);
        }
        break;
    case INT4:
        for (; g + 2 <= last; g += 2) {
            int v = 0;
            for (; v + 4 <= x->n; v += 4) int4_512<2, 4>(m, g, x, v, bias, out, ldo);
            for (; v < x->n; ++v) int4_512<2, 1>(m, g, x, v, bias, out, ldo);
        }
        for (; g < last; ++g)
            for (int v = 0; v < x->n; ++v) int4_512<1, 1>(m, g, x, v, bias, out, ldo);
        break;
    }
}

// add_logits in one pass: exp by 2^n times a polynomial in what is left, with an exponent that cannot
// overflow on the way down, against the largest logit of the words before. Only where these rise far
// above it are they gone over again.
AVX512 INLINE __m512 exp2_512(__m512 t) {
    // Below this it is zero, and what is no number stays none.
    t = _mm512_max_ps(_mm512_set1_ps(-200.0f), t);
    __m512 whole = _mm512_roundscale_ps(t, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m512 f = _mm512_sub_ps(t, whole);  // in [-1/2, 1/2]
    // 2^f, relative error below 3e-7: the Taylor series of exp(f ln 2) in f.
    __m512 p = _mm512_set1_ps(1.5403530e-4f);
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(1.3333558e-3f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(9.6181291e-3f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(5.5504109e-2f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(2.4022651e-1f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(6.9314718e-1f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(1.0f));
    return _mm512_scalef_ps(p, whole);
}

// The sum of exp(x - reference) over a row, and its largest x.
AVX512 INLINE float sum_exp512(const float *x, int words, float reference, float *largest) {
    const __m512 log2e = _mm512_set1_ps(1.44269504f);
    const __m512 shift = _mm512_set1_ps(reference);
    const __m512 lowest = _mm512_set1_ps(-INFINITY);
    __m512 sum[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()}, most[2] = {lowest, lowest};
    int j = 0;
    for (; j + 32 <= words; j += 32)
        for (int i = 0; i < 2; ++i) {
            __m512 v = _mm512_loadu_ps(x + j + 16 * i);
            most[i] = _mm512_max_ps(most[i], v);
            sum[i] = _mm512_add_ps(sum[i], exp2_512(_mm512_mul_ps(_mm512_sub_ps(v, shift), log2e)));
        }
    for (; j < words; j += 16) {
        __mmask16 keep = words - j >= 16 ? 0xFFFF : static_cast<__mmask16>((1u << (words - j)) - 1);
        __m512 v = _mm512_mask_loadu_ps(lowest, keep, x + j);  // exp of it adds nothing
        most[0] = _mm512_max_ps(most[0], v);
        sum[0] = _mm512_add_ps(sum[0], exp2_512(_mm512_mul_ps(_mm512_sub_ps(v, shift), log2e)));
    }
    *largest = _mm512_reduce_max_ps(_mm512_max_ps(most[0], most[1]));
    return _mm512_reduce_add_ps(_mm512_add_ps(sum[0], sum[1]));
}

AVX512 void add_logits_avx512(const float *logits, int n, int words, int64_t ldo, int64_t first,
                              const int64_t *targets, Softmax *softmax) {
    // A sum of 1024 terms of at most exp(60) is far from the end of fp32.
    constexpr float FAR = 60.0f;
    for (int v = 0; v < n; ++v) {
        const float *x = logits + v * ldo;
        Softmax *s = softmax + v;
        float largest, sum = 0.0f;
        bool begun = s->largest > -INFINITY;
        if (begun) sum = sum_exp512(x, words, s->largest, &largest);
        if (!begun || largest - s->largest > FAR) {
            // Only the largest counts of the first going over, whose terms may be anything.
            float before = s->largest;
            sum_exp512(x, words, 0.0f, &largest);
            s->largest = largest > before ? largest : before;
            if (begun) s->total *= exponential(before - s->largest);
            sum = sum_exp512(x, words, s->largest, &largest);
        }
        s->total += sum;
        int64_t at = targets[v] - first;
        if (at >= 0 && at < words) s->chosen = x[at];
    }
}

}  // namespace
