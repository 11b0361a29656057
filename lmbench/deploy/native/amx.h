// Products of batches on AMX: tiles of 16 vectors x 64 numbers by 64 numbers x 16 rows.

#pragma once

#include "avx512.h"

// An assembler that is older than the compiler may not know it: build.py then leaves it out.
#if !defined(LMBENCH_NO_AMX) && defined(__linux__) && \
    ((defined(__GNUC__) && __GNUC__ >= 11) || (defined(__clang_major__) && __clang_major__ >= 12))
#define HAVE_AMX 1
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#define AMX                                                                                   \
    __attribute__((target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi2," \
                          "amx-tile,amx-int8")))

namespace {

// A tile register holds 16 rows of 64 bytes: 16 quads of a group, as they lie in memory.
constexpr int TILE_ROWS = 16, TILE_BYTES = 64, TILE_QUADS = TILE_BYTES / QUAD;

struct alignas(64) TileShapes {
    uint8_t palette = 1, start_row = 0, reserved[14] = {0};
    uint16_t bytes[16] = {0};
    uint8_t rows[16] = {0};
    TileShapes() {
        for (int i = 0; i < 8; ++i) bytes[i] = TILE_BYTES, rows[i] = TILE_ROWS;
    }
};

// Has the processor the instructions, and does the kernel let this process use the registers?
bool amx_allowed() {
    unsigned a, b, c, d;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
    bool there = (d >> 24 & 1) && (d >> 25 & 1);  // AMX-TILE, AMX-INT8
    constexpr long ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18;
    return there && syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
}

// Sums of 16 vectors [16][16] to the output, for those of them that are there.
AMX INLINE void finish_tile(const Matrix *m, int g, const int32_t *sums, const Vectors *x, int v,
                            const float *bias, float *out, int64_t ldo) {
    int there = x->n - v < TILE_ROWS ? x->n - v : TILE_ROWS;
    for (int j = 0; j < there; ++j)
        finish512(m, g, _mm512_load_si512(sums + j * ROWS), x->scale[v + j], bias, out + (v + j) * ldo);
}

// Two groups, `next` bytes apart, by two times 16 vectors. What is read beyond a group's last quad
// meets activations that are zero.
AMX INLINE void tiles_2x2(const Matrix *m, int g, const int8_t *w, int64_t next, const Vectors *x,
                          int v, const float *bias, float *out, int64_t ldo) {
    alignas(64) int32_t sums[4][TILE_ROWS * ROWS];
    const uint8_t *low = x->biased + static_cast<int64_t>(v) * x->stride;
    const uint8_t *high = low + static_cast<int64_t>(TILE_ROWS) * x->stride;
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int k = 0; k < m->quads; k += TILE_QUADS) {
        _tile_loadd(4, low + QUAD * k, x->stride);
        _tile_loadd(6, w + static_cast<int64_t>(k) * TILE, TILE);
        _tile_dpbusd(0, 4, 6);
        _tile_loadd(7, w + next + static_cast<int64_t>(k) * TILE, TILE);
        _tile_dpbusd(1, 4, 7);
        _tile_loadd(5, high + QUAD * k, x->stride);
        _tile_dpbusd(2, 5, 6);
        _tile_dpbusd(3, 5, 7);
    }
    _tile_stored(0, sums[0], TILE_BYTES);
    _tile_stored(1, sums[1], TILE_BYTES);
    _tile_stored(2, sums[2], TILE_BYTES);
    _tile_stored(3, sums[3], TILE_BYTES);
    finish_tile(m, g, sums[0], x, v, bias, out, ldo);
    finish_tile(m, g + 1, sums[1], x, v, bias, out, ldo);
    finish_tile(m, g, sums[2], x, v + TILE_ROWS, bias, out, ldo);
    finish_tile(m, g + 1, sums[3], x, v + TILE_ROWS, bias, out, ldo);
}

// Four groups, `next` bytes apart, by 16 vectors.
AMX INLINE void tiles_4x1(const Matrix *m, int g, const int8_t *w, int64_t next, const Vectors *x,
                          int v, const float *bias, float *out, int64_t ldo) {
    alignas(64) int32_t sums[4][TILE_ROWS * ROWS];
    const uint8_t *at = x->biased + static_cast<int64_t>(v) * x->stride;
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int k = 0; k < m->quads; k += TILE_QUADS) {
        const int8_t *wk = w + static_cast<int64_t>(k) * TILE;
        _tile_loadd(4, at + QUAD * k, x->stride);
        _tile_loadd(5, wk, TILE);
        _tile_dpbusd(0, 4, 5);
        _tile_loadd(6, wk + next, TILE);
        _tile_dpbusd(1, 4, 6);
        _tile_loadd(7, wk + 2 * next, TILE);
        _tile_dpbusd(2, 4, 7);
        _tile_loadd(5, wk + 3 * next, TILE);
        _tile_dpbusd(3, 4, 5);
    }
    _tile_stored(0, sums[0], TILE_BYTES);
    _tile_stored(1, sums[1], TILE_BYTES);
    _tile_stored(2, sums[2], TILE_BYTES);
    _tile_stored(3, sums[3], TILE_BYTES);
    for (int i = 0; i < 4; ++i) finish_tile(m, g + i, sums[i], x, v, bias, out, ldo);
}

// One group by 16 vectors.
AMX INLINE void tile_1x1(const Matrix *m, int g, const int8_t *w, const Vectors *x, int v,
                         const float *bias, float *out, int64_t ldo) {
    alignas(64) int32_t sums[TILE_ROWS * ROWS];
    const uint8_t *at = x->biased + static_cast<int64_t>(v) * x->stride;
    _tile_zero(0);
    for (int k = 0; k < m->quads; k += TILE_QUADS) {
        _tile_loadd(4, at + QUAD * k, x->stride);
        _tile_loadd(6, w + static_cast<int64_t>(k) * TILE, TILE);
        _tile_dpbusd(0, 4, 6);
    }
    _tile_stored(0, sums, TILE_BYTES);
    finish_tile(m, g, sums, x, v, bias, out, ldo);
}

// Fewer vectors than this leave most of a tile empty.
constexpr int WORTH_A_TILE = 8;

// As product_avx512, which does few vectors, blocks and 4 bits here too. `scratch` has room for a
// group of whole tiles, and a dense matrix ends with as much that may be read.
AMX void product_amx(const Matrix *m, const Vectors *x, const float *bias, float *out, int64_t ldo,
                     int first, int last, int8_t *scratch) {
    if (x->n < WORTH_A_TILE || (m->kind != DENSE && m->kind != BITMASK && m->kind != CODES)) {
        product_avx512(m, x, bias, out, ldo, first, last, scratch);
        return;
    }
    static const TileShapes shapes;
    _tile_loadconfig(&shapes);
    int64_t group = static_cast<int64_t>(m->quads) * TILE;
    int g = first;
    if (m->kind == DENSE) {
        for (; g + 4 <= last; g += 4) {
            const int8_t *w = m->values + g * group;
            int v = 0;
            for (; v + TILE_ROWS < x->n; v += 2 * TILE_ROWS) {
                tiles_2x2(m, g, w, group, x, v, bias, out, ldo);
                tiles_2x2(m, g + 2, w + 2 * group, group, x, v, bias, out, ldo);
            }
            if (v < x->n) tiles_4x1(m, g, w, group, x, v, bias, out, ldo);
        }
    }
    for (; g < last; ++g) {
        const int8_t *w = m->values + g * group;
        if (m->kind != DENSE) {
            dense_tiles512(m, g, scratch);
            // A tile load does not tell the compiler that it reads memory.
            asm volatile("" ::: "memory");
            w = scratch;
        }
        for (int v = 0; v < x->n; v += TILE_ROWS) tile_1x1(m, g, w, x, v, bias, out, ldo);
    }
    _tile_release();
}

}  // namespace
#else
#define HAVE_AMX 0
#endif
