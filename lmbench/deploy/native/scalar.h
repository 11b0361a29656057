// Products in plain C++, for any machine.

#pragma once

#include "elementwise.h"

namespace {

INLINE void expand(uint64_t mask, const int8_t *&values, int8_t *tile) {
    std::memset(tile, 0, TILE);
    for (; mask; mask &= mask - 1) tile[__builtin_ctzll(mask)] = *values++;
}

INLINE void add_tile(const int8_t *tile, const int16_t *x, int32_t *sums) {
    for (int r = 0; r < ROWS; ++r) {
        const int8_t *w = tile + QUAD * r;
        sums[r] += w[0] * x[0] + w[1] * x[1] + w[2] * x[2] + w[3] * x[3];
    }
}

INLINE int scale_groups_of(const Matrix *m) { return (m->quads + m->scale_quads - 1) / m->scale_quads; }

// Where the steps of a group's rows begin for the quads of scale group `s`: the sum in which all signs
// are minus, and for each plane what a plus in it adds; modulo 256, where all sums are int8.
INLINE const int8_t *code_steps(const Matrix *m, int g, int s) {
    return m->values + (static_cast<int64_t>(g) * scale_groups_of(m) + s) * (1 + m->planes) * ROWS;
}

// The first mask of a group, bits as in a BITMASK; TOGETHER on is that of the next plane, and after all
// planes the next quad's. Between them are those of the groups beside it: [groups / TOGETHER][quads]
// [planes][TOGETHER], with zeros for the groups that are not there.
INLINE const uint64_t *code_masks(const Matrix *m, int g) {
    int64_t block = static_cast<int64_t>(m->quads) * m->planes * TOGETHER;
    return m->masks + g / TOGETHER * block + g % TOGETHER;
}

// One weight: column c of quad k in row r of a group.
INLINE int8_t code_value(const Matrix *m, int g, int r, int k, int c) {
    const int8_t *steps = code_steps(m, g, k / m->scale_quads);
    const uint64_t *masks = code_masks(m, g) + static_cast<int64_t>(k) * m->planes * TOGETHER;
    uint8_t value = static_cast<uint8_t>(steps[r]);
    for (int i = 0; i < m->planes; ++i)
        if (masks[i * TOGETHER] >> (QUAD * r + c) & 1) value += static_cast<uint8_t>(steps[(1 + i) * ROWS + r]);
    return static_cast<int8_t>(value);
}

// In which of a window's 32 columns a value of a gathered tile belongs: the low four bits, and 16 more where
// the highest is set, as two shuffles of 16 bytes want it.
INLINE int window_at(int8_t code) { return (code & 15) + (code < 0 ? 16 : 0); }

// Each bit of a byte as a byte of its own, all ones or zeros, the lowest bit first.
struct SpreadBits {
    uint64_t of[256] = {};
    constexpr SpreadBits() {
        for (int byte = 0; byte < 256; ++byte)
            for (int i = 0; i < 8; ++i)
                if (byte >> i & 1) of[byte] |= uint64_t{255} << (8 * i);
    }
};
constexpr SpreadBits SPREAD;

// One group with up to BATCH vectors, which share the work of making each tile of its codes.
constexpr int BATCH = 16;
void codes_scalar(const Matrix *m, int g, const Vectors *x, int first, int count, const float *bias, float *out,
                  int64_t ldo) {
    int32_t sums[BATCH][ROWS] = {};
    uint8_t steps[1 + MAX_PLANES][TILE], on[TILE], tile[TILE];
    const uint64_t *masks = code_masks(m, g);
    for (int k = 0; k < m->quads; ++k, masks += m->planes * TOGETHER) {
        if (k % m->scale_quads == 0) {
            const int8_t *of_rows = code_steps(m, g, k / m->scale_quads);
            for (int i = 0; i <= m->planes; ++i)
                for (int j = 0; j < TILE; ++j) steps[i][j] = static_cast<uint8_t>(of_rows[i * ROWS + j / QUAD]);
        }
        std::memcpy(tile, steps[0], TILE);
        for (int i = 0; i < m->planes; ++i) {
            for (int b = 0; b < 8; ++b) std::memcpy(on + 8 * b, &SPREAD.of[masks[i * TOGETHER] >> (8 * b) & 255], 8);
            for (int j = 0; j < TILE; ++j) tile[j] += on[j] & steps[1 + i][j];
        }
        for (int v = 0; v < count; ++v)
            add_tile(reinterpret_cast<const int8_t *>(tile),
                     x->words + static_cast<int64_t>(first + v) * x->stride + QUAD * k, sums[v]);
    }
    for (int v = 0; v < count; ++v) finish(m, g, sums[v], x->scale[first + v], bias, out + (first + v) * ldo);
}

void group_scalar(const Matrix *m, int g, const Vectors *x, int v, const float *bias, float *out) {
    const int16_t *words = x->words + static_cast<int64_t>(v) * x->stride;
    int32_t sums[ROWS] = {0};
    int8_t tile[TILE];
    switch (m->kind) {
    case DENSE:
        for (int k = 0; k < m->quads; ++k)
            add_tile(m->values + (static_cast<int64_t>(g) * m->quads + k) * TILE, words + QUAD * k, sums);
        break;
    case BITMASK: {
        const int8_t *values = m->values + m->starts[g];
        const uint64_t *masks = m->masks + static_cast<int64_t>(g) * m->quads;
        for (int k = 0; k < m->quads; ++k) {
            if (!masks[k]) continue;
            expand(masks[k], values, tile);
            add_tile(tile, words + QUAD * k, sums);
        }
        break;
    }
    case BLOCK_16X4:
        for (int64_t b = m->starts[g]; b < m->starts[g + 1]; ++b)
            add_tile(m->values + b * TILE, words + QUAD * m->places[b], sums);
        break;
    case BLOCK_8X8:
        for (int64_t b = m->starts[g]; b < m->starts[g + 1]; ++b) {
            const int8_t *w = m->values + b * TILE;
            const int16_t *xb = words + 8 * m->places[b];
            for (int r = 0; r < 8; ++r)
                for (int c = 0; c < 8; ++c) sums[r] += w[8 * r + c] * xb[c];
        }
        break;
    case GATHERED:
        for (int64_t b = m->starts[g]; b < m->starts[g + 1]; ++b)
            for (int i = 0; i < TILE / 2; ++i) {
                const int8_t *w = m->values + b * TILE + i;
                sums[i / QUAD] += w[0] * words[m->places[b] + window_at(w[TILE / 2])];
            }
        break;
    case INT4: {
        float total[ROWS] = {0};
        int scale_groups = scale_groups_of(m);
        const int8_t *values = m->values + static_cast<int64_t>(g) * m->quads * (TILE / 2);
        for (int s = 0; s < scale_groups; ++s) {
            std::memset(sums, 0, sizeof sums);
            int last = (s + 1) * m->scale_quads < m->quads ? (s + 1) * m->scale_quads : m->quads;
            for (int k = s * m->scale_quads; k < last; k += 2) {
                const uint8_t *packed = reinterpret_cast<const uint8_t *>(values) + k * (TILE / 2);
                for (int i = 0; i < TILE; ++i) tile[i] = static_cast<int8_t>((packed[i] & 15) - 8);
                add_tile(tile, words + QUAD * k, sums);
                for (int i = 0; i < TILE; ++i) tile[i] = static_cast<int8_t>((packed[i] >> 4) - 8);
                add_tile(tile, words + QUAD * (k + 1), sums);
            }
            const float *scale = m->scale + (static_cast<int64_t>(g) * scale_groups + s) * ROWS;
            for (int r = 0; r < ROWS; ++r) total[r] += static_cast<float>(sums[r]) * scale[r];
        }
        finish_float(m, g, total, x->scale[v], bias, out);
        return;
    }
    }
    finish(m, g, sums, x->scale[v], bias, out);
}

void product_scalar(const Matrix *m, const Vectors *x, const float *bias, float *out, int64_t ldo,
                    int first, int last) {
    for (int g = first; g < last; ++g)
        if (m->kind == CODES)
            for (int v = 0; v < x->n; v += BATCH)
                codes_scalar(m, g, x, v, x->n - v < BATCH ? x->n - v : BATCH, bias, out, ldo);
        else
            for (int v = 0; v < x->n; ++v) group_scalar(m, g, x, v, bias, out + v * ldo);
}

}  // namespace
