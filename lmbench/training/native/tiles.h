// Matrix products on AMX in bf16, with one term a number or three, from operands packed into tiles.
//
// The tiles multiply bf16 numbers and sum in fp32. One term keeps 8 bits of each operand. Three
// terms, each the rounding error of those before it, keep all 24 bits of an fp32 number: their six
// largest products give what an fp32 product gives, with an error as small.
//
// Operands are packed into tiles of 1 KB before they are multiplied, each as it is wanted: a panel
// is 16 rows (of the left operand) or 16 columns (of the right one), tile after tile, and the terms
// of a tile lie one after another.

#pragma once

#include <cpuid.h>
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "parallel.h"

#define AMX                                                                                      \
    __attribute__((target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,amx-tile,amx-bf16")))

namespace {

constexpr int64_t LINE = 64, TILE_ROWS = 16;  // bytes in a row of a tile, and its rows
constexpr int64_t TILE_DEPTH = 32;                // bf16 numbers in a row of a tile
constexpr int64_t BYTES = LINE * TILE_ROWS, SUMS = TILE_ROWS * TILE_ROWS;
constexpr int64_t BLOCK = 32;  // rows, or columns, that four tiles of sums take
constexpr int64_t GROUP = 8;   // blocks at a time: their panels fit the second cache
constexpr int64_t STRETCH = 8;   // tiles of two panels at a time: they stay in the first cache

// Has the processor the instructions, and does the kernel let this process use the registers?
bool tiles_allowed() {
    unsigned a, b, c, d;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
    if (!(d >> 22 & 1) || !(d >> 24 & 1)) return false;  // AMX-BF16, AMX-TILE
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx512bf16") || !__builtin_cpu_supports("avx512bw") ||
        !__builtin_cpu_supports("avx512dq") || !__builtin_cpu_supports("avx512vl"))
        return false;
    constexpr long ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18;
    return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
}

struct alignas(64) TileShapes {
    uint8_t palette = 1, start_row = 0, reserved[14] = {0};
    uint16_t bytes[16] = {0};
    uint8_t rows[16] = {0};
    TileShapes() {
        for (int i = 0; i < 8; ++i) bytes[i] = LINE, rows[i] = TILE_ROWS;
    }
};

AMX INLINE void begin_tiles() {
    static const TileShapes shapes;
    _tile_loadconfig(&shapes);
}

// Keeps the compiler, which does not see tiles read and write memory, from moving stores past them.
INLINE void memory_barrier() { asm volatile("" ::: "memory"); }

// ------------------------------------------------------------------------------------- products

// Tiles 0 to 3, two by two, += the panels a0, a1 times b0, b1 over `steps` tiles of their depth.
// Of three terms the products go from the smallest to the largest, changing one operand at a time.
template <int TERMS>
AMX INLINE void multiply(const uint8_t *a0, const uint8_t *a1, const uint8_t *b0, const uint8_t *b1,
                         int64_t steps) {
    constexpr int64_t step = TERMS * BYTES;
    for (int64_t k = 0; k < steps; ++k, a0 += step, a1 += step, b0 += step, b1 += step) {
// The intrinsics are statements.
#define LEFT(i) _tile_loadd(4, a0 + (i) * BYTES, LINE); _tile_loadd(5, a1 + (i) * BYTES, LINE);
#define RIGHT(i) _tile_loadd(6, b0 + (i) * BYTES, LINE); _tile_loadd(7, b1 + (i) * BYTES, LINE);
#define FOUR                                                                    \
    _tile_dpbf16ps(0, 4, 6); _tile_dpbf16ps(1, 4, 7); _tile_dpbf16ps(2, 5, 6);  \
    _tile_dpbf16ps(3, 5, 7);
        if (TERMS == 3) {
            LEFT(0) RIGHT(2) FOUR
            RIGHT(1) FOUR
            LEFT(1) FOUR
            RIGHT(0) FOUR
            LEFT(2) FOUR
            LEFT(0) FOUR
        } else {
            LEFT(0) RIGHT(0) FOUR
        }
#undef LEFT
#undef RIGHT
#undef FOUR
    }
}

AMX INLINE void zero() { _tile_zero(0); _tile_zero(1); _tile_zero(2); _tile_zero(3); }

AMX INLINE void fetch(const float *sums) {
    memory_barrier();
    _tile_loadd(0, sums, LINE); _tile_loadd(1, sums + SUMS, LINE);
    _tile_loadd(2, sums + 2 * SUMS, LINE); _tile_loadd(3, sums + 3 * SUMS, LINE);
}

AMX INLINE void keep(float *sums) {
    _tile_stored(0, sums, LINE); _tile_stored(1, sums + SUMS, LINE);
    _tile_stored(2, sums + 2 * SUMS, LINE); _tile_stored(3, sums + 3 * SUMS, LINE);
    memory_barrier();
}

// How many tiles of a long contraction are taken at a time, while its sums wait in memory: so few
// that two panels stay in the first cache while others pass by. Three terms have more to compute
// with what they read.
template <int TERMS>
INLINE int64_t stretch_of(int64_t tiles) {
    if (TERMS == 3) return tiles;
    int64_t stretches = round_up(tiles, STRETCH) / STRETCH;
    return round_up(tiles, stretches) / stretches;
}

// Tiles [k, k + stretch) of a contraction over `tiles`, of two left and two right panels that lie
// `apart` bytes from one another; its sums so far are kept.
template <int TERMS>
AMX INLINE void multiply_stretch(const uint8_t *left, const uint8_t *right, int64_t apart, int64_t k,
                                 int64_t stretch, int64_t tiles, float *sums) {
    left += k * TERMS * BYTES, right += k * TERMS * BYTES;
    k ? fetch(sums) : zero();
    multiply<TERMS>(left, left + apart, right, right + apart, std::min(stretch, tiles - k));
    keep(sums);
}

// Row i of 32 in the four tiles: its first 16 numbers, and 256 further on the others.
INLINE const float *row_of(const float *sums, int i) {
    return sums + i / TILE_ROWS * 2 * SUMS + i % TILE_ROWS * TILE_ROWS;
}

// -------------------------------------------------------------------------------------- packing

// A matrix of rows `stride` numbers apart, which may have a column added on its right.
struct Matrix {
    enum Last { NONE, ONES, EACH };
    const float *data;
    int64_t rows, width, stride;
    Last added = NONE;
    const float *last = nullptr;  // EACH: the added number of each row
};

AMX INLINE __mmask16 lane_mask(int64_t n) { return n >= 16 ? 0xffff : n <= 0 ? 0 : (1u << n) - 1; }

// 32 numbers of a row from column k on; zeros beyond the matrix.
AMX INLINE void read(const Matrix &m, int64_t row, int64_t k, __m512 *low, __m512 *high) {
    if (row >= m.rows) {
        *low = *high = _mm512_setzero_ps();
        return;
    }
    const float *from = m.data + row * m.stride + k;
    int64_t there = m.width - k;
    *low = _mm512_maskz_loadu_ps(lane_mask(there), from);
    *high = _mm512_maskz_loadu_ps(lane_mask(there - 16), from + 16);
    if (m.added == Matrix::NONE || there < 0 || there >= TILE_DEPTH) return;
    __m512 last = _mm512_set1_ps(m.added == Matrix::EACH ? m.last[row] : 1.0f);
    __mmask16 at = there % 16 == there ? 1u << there : 0;
    *low = _mm512_mask_mov_ps(*low, at, last);
    *high = _mm512_mask_mov_ps(*high, there >= 16 ? 1u << (there - 16) : 0, last);
}

AMX INLINE void widen(__m512i halves, __m512 *low, __m512 *high) {
    __m512i l = _mm512_cvtepu16_epi32(_mm512_castsi512_si256(halves));
    __m512i h = _mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(halves, 1));
    *low = _mm512_castsi512_ps(_mm512_slli_epi32(l, 16));
    *high = _mm512_castsi512_ps(_mm512_slli_epi32(h, 16));
}

// 32 fp32 numbers to the terms of each, 32 bf16 numbers a term.
template <int TERMS>
AMX INLINE void split(__m512 low, __m512 high, __m512i *terms) {
    for (int s = 0; s < TERMS; ++s) {
        terms[s] = (__m512i)_mm512_cvtne2ps_pbh(high, low);
        if (s + 1 == TERMS) return;
        __m512 l, h;
        widen(terms[s], &l, &h);
        low = _mm512_sub_ps(low, l), high = _mm512_sub_ps(high, h);
    }
}

// 16 x 16 numbers of 32 bits.
AMX INLINE void transpose(__m512i *r) {
    __m512i t[16];
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) {
        r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    for (int i = 0; i < 4; ++i) {
        t[i] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88);
        t[i + 4] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xdd);
        t[i + 8] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88);
        t[i + 12] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xdd);
    }
    for (int i = 0; i < 8; ++i) {
        r[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
        r[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
    }
}

// Two rows of 32 numbers to pairs, one of each: 16 pairs in each of two registers.
AMX INLINE void pair(__m512i upper, __m512i lower, __m512i *left, __m512i *right) {
    __m512i even = _mm512_unpacklo_epi16(upper, lower), odd = _mm512_unpackhi_epi16(upper, lower);
    const __m512i front = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11);
    const __m512i back = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
    *left = _mm512_permutex2var_epi64(even, front, odd);
    *right = _mm512_permutex2var_epi64(even, back, odd);
}

// Rows [r, r + 16) as a left operand, contracted over the columns.
template <int TERMS>
AMX void pack_left(const Matrix &m, int64_t r, int64_t steps, uint8_t *panel) {
    for (int64_t i = 0; i < TILE_ROWS; ++i)
        for (int64_t k = 0; k < steps; ++k) {
            __m512 low, high;
            __m512i terms[TERMS];
            read(m, r + i, k * TILE_DEPTH, &low, &high);
            split<TERMS>(low, high, terms);
            for (int s = 0; s < TERMS; ++s)
                _mm512_store_si512(panel + (k * TERMS + s) * BYTES + LINE * i, terms[s]);
        }
}

// Rows [r, r + 16) as the columns of a right operand, contracted over the columns.
template <int TERMS>
AMX void pack_right_across(const Matrix &m, int64_t r, int64_t steps, uint8_t *panel) {
    for (int64_t k = 0; k < steps; ++k) {
        __m512i all[TERMS][TILE_ROWS];
        for (int i = 0; i < TILE_ROWS; ++i) {
            __m512 low, high;
            __m512i terms[TERMS];
            read(m, r + i, k * TILE_DEPTH, &low, &high);
            split<TERMS>(low, high, terms);
            for (int s = 0; s < TERMS; ++s) all[s][i] = terms[s];
        }
        for (int s = 0; s < TERMS; ++s) {
            transpose(all[s]);
            for (int i = 0; i < TILE_ROWS; ++i)
                _mm512_store_si512(panel + (k * TERMS + s) * BYTES + LINE * i, all[s][i]);
        }
    }
}

// Rows [r, r + 32) as one tile of each of `panels` right operands, `stride` bytes apart,
// contracted over the rows.
template <int TERMS>
AMX void pack_right_down(const Matrix &m, int64_t r, int64_t panels, uint8_t *tile, int64_t stride) {
    for (int64_t i = 0; i < TILE_ROWS; ++i)
        for (int64_t p = 0; p < panels; p += 2) {
            __m512 low, high;
            __m512i upper[TERMS], lower[TERMS], left, right;
            read(m, r + 2 * i, p * TILE_ROWS, &low, &high);
            split<TERMS>(low, high, upper);
            read(m, r + 2 * i + 1, p * TILE_ROWS, &low, &high);
            split<TERMS>(low, high, lower);
            for (int s = 0; s < TERMS; ++s) {
                uint8_t *at = tile + p * stride + s * BYTES + LINE * i;
                pair(upper[s], lower[s], &left, &right);
                _mm512_store_si512(at, left);
                _mm512_store_si512(at + stride, right);
            }
        }
}

// Rows [r, r + 32) by the columns [k, k + 32) as one tile each of two left operands whose rows are
// the columns, contracted over the rows.
template <int TERMS>
AMX void pack_left_down(const Matrix &m, int64_t r, int64_t k, uint8_t *tile, int64_t stride) {
    __m512i left[TERMS][TILE_ROWS], right[TERMS][TILE_ROWS];
    for (int i = 0; i < TILE_ROWS; ++i) {
        __m512 low, high;
        __m512i upper[TERMS], lower[TERMS];
        read(m, r + 2 * i, k, &low, &high);
        split<TERMS>(low, high, upper);
        read(m, r + 2 * i + 1, k, &low, &high);
        split<TERMS>(low, high, lower);
        for (int s = 0; s < TERMS; ++s) pair(upper[s], lower[s], &left[s][i], &right[s][i]);
    }
    for (int s = 0; s < TERMS; ++s) {
        transpose(left[s]), transpose(right[s]);
        for (int i = 0; i < TILE_ROWS; ++i) {
            _mm512_store_si512(tile + s * BYTES + LINE * i, left[s][i]);
            _mm512_store_si512(tile + stride + s * BYTES + LINE * i, right[s][i]);
        }
    }
}

// --------------------------------------------------------------------------------------- numbers

// The q and n of exp(x) = (1 + q) 2^n, q between -0.3 and 0.42, with a relative error of exp below
// 3e-7 (Cephes).
AMX INLINE __m512 reduced_exponential(__m512 x, __m512 *power) {
    __m512 n = *power = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)),
                                    _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693145752f), x);
    r = _mm512_fnmadd_ps(n, _mm512_set1_ps(1.42860677e-6f), r);
    __m512 p = _mm512_set1_ps(1.9875691500e-4f);
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.3981999507e-3f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(8.3334519073e-3f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(4.1665795894e-2f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.6666665459e-1f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(5.0000001201e-1f));
    return _mm512_fmadd_ps(_mm512_mul_ps(p, r), r, r);
}

// exp, 0 and infinity where fp32 ends.
AMX INLINE __m512 exponential(__m512 x) {
    __m512 n, q = reduced_exponential(x, &n);
    return _mm512_scalef_ps(_mm512_add_ps(q, _mm512_set1_ps(1.0f)), n);
}

// tanh, by exp(-2 x) - 1: the exponential itself would have lost the digits of a small x to its 1.
AMX INLINE __m512 hyperbolic_tangent(__m512 x) {
    const __m512 one = _mm512_set1_ps(1.0f), two = _mm512_set1_ps(2.0f);
    // Beyond this tanh is 1 in fp32, and the quotient would be one of infinities. NaN stays NaN.
    const __m512 most = _mm512_set1_ps(10.0f), least = _mm512_set1_ps(-10.0f);
    x = _mm512_max_ps(least, _mm512_min_ps(most, x));
    __m512 n, q = reduced_exponential(_mm512_mul_ps(_mm512_set1_ps(-2.0f), x), &n);
    __m512 e = _mm512_add_ps(_mm512_scalef_ps(q, n), _mm512_sub_ps(_mm512_scalef_ps(one, n), one));
    return _mm512_div_ps(_mm512_sub_ps(_mm512_setzero_ps(), e), _mm512_add_ps(e, two));
}

}  // namespace
