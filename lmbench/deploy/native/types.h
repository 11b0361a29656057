// What the kernels and their callers (matrices.py, kernels.py) agree on.

#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#define HAVE_X86 1
#ifndef LMBENCH_NO_AVX512
#define HAVE_AVX512 1
#endif
#define AVX2 __attribute__((target("avx2,fma")))
#define AVX512 \
    __attribute__((target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi2")))
#else
#define HAVE_X86 0
#endif
#ifndef HAVE_AVX512
#define HAVE_AVX512 0
#endif
#define INLINE inline __attribute__((always_inline))

namespace {

constexpr int ROWS = 16, QUAD = 4, TILE = ROWS * QUAD, TOGETHER = 4, MAX_PLANES = 4;
enum Kind { DENSE = 0, BITMASK = 1, BLOCK_16X4 = 2, BLOCK_8X8 = 3, INT4 = 4, CODES = 5, GATHERED = 6 };
enum Isa { SCALAR = 0, USE_AVX2 = 1, USE_AVX512 = 2, USE_AMX = 3 };
enum Cell { LSTM = 0, GRU = 1, RNN_TANH = 2, RNN_RELU = 3 };

}  // namespace

extern "C" {

struct Matrix {
    int32_t kind;
    int32_t rows, cols;        // as the model has them
    int32_t groups, quads;     // tiles down (of 16 rows; of 8 for 8x8 blocks and GATHERED) and across
    int32_t scale_quads;       // INT4, CODES: quads that share a scale
    int32_t planes;            // CODES: signs a weight, at most MAX_PLANES
    const int8_t *values;      // CODES: [groups][scale groups][1 + planes][16], see code_tile;
                               // GATHERED: [tiles][2][8][4], values and where they belong, see window_at
    const uint64_t *masks;     // BITMASK: [groups][quads], bit 4 r + c; CODES: see code_masks
    const int64_t *starts;     // [groups + 1]: first value (BITMASK), block (BLOCK) or tile of a group
    const int32_t *places;     // BLOCK: the column of each block, in blocks; GATHERED: where windows begin
    const float *scale;        // [groups * rows a group]; INT4: [groups][scale groups][16]
    const int32_t *offsets;    // 128 times the sum of each row (not INT4)
};

// n vectors quantized to int8, in the three forms that the kernels want; `stride` is in elements, a
// multiple of 64, and there is room for a multiple of 16 vectors.
struct Vectors {
    int32_t n, stride;
    uint8_t *biased;           // value + 128; 0 beyond the vector's end
    int8_t *bytes;
    int16_t *words;
    int32_t *quad_sums;        // [n][stride / 4]
    float *scale;              // [n]
};

struct Layer {
    Matrix input, hidden;
    const float *bias_input, *bias_hidden;
};

struct Model {
    int32_t cell, layers, embedding_size, hidden_size;
    const Matrix *embedding, *decoder, *projection;  // the last is null where there is none
    const Layer *layer;
    const float *decoder_bias;
    int32_t backwards;         // the way the decoder's groups are gone through next
};

}  // extern "C"
