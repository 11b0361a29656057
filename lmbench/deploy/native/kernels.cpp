// Products of int8 and int4 matrices with dynamically quantized vectors, and the recurrent step
// built on them. One file, no dependency; compiled on demand by build.py and called by ctypes.
//
// All matrices are kept as tiles of 16 rows x 4 columns (64 bytes, row after row): with the four
// matching activations broadcast, one VNNI instruction multiplies a whole tile and sums it into 16
// lanes, one lane a row, so nothing is ever reduced across lanes. A sparse matrix is the same
// tiles with a 64-bit mask each (VPEXPANDB puts the values in place), a block-sparse one is the
// list of the tiles that are not zero. Integer sums are exact, so every instruction set gives the
// same sums, and batches the same results as single vectors.
//
// The caller (runtime.py) lays the tiles out from arrays that are checked already; nothing
// here reads a size from a file.

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#define HAVE_X86 1
#define AVX2 __attribute__((target("avx2,fma")))
#define AVX512 __attribute__((target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi2")))
#else
#define HAVE_X86 0
#endif
#define INLINE inline __attribute__((always_inline))

namespace {

constexpr int ROWS = 16, QUAD = 4, TILE = ROWS * QUAD;
enum Kind { DENSE = 0, BITMASK = 1, BLOCK_16X4 = 2, BLOCK_8X8 = 3, INT4 = 4 };
enum Isa { SCALAR = 0, USE_AVX2 = 1, USE_AVX512 = 2 };
enum Cell { LSTM = 0, GRU = 1, RNN_TANH = 2, RNN_RELU = 3 };

}  // namespace

extern "C" {

struct Matrix {
    int32_t kind;
    int32_t rows, cols;        // as the model has them
    int32_t groups, quads;     // tiles down (of 16 rows; of 8 for 8x8 blocks) and across
    int32_t scale_quads;       // INT4: quads that share a scale
    const int8_t *values;
    const uint64_t *masks;     // BITMASK: [groups][quads], bit 4 r + c
    const int64_t *starts;     // [groups + 1]: first value (BITMASK) or block (BLOCK) of a group
    const int32_t *places;     // BLOCK: the column of each block, in blocks
    const float *scale;        // [groups * rows a group]; INT4: [groups][scale groups][16]
    const int32_t *offsets;    // 128 times the sum of each row (not INT4)
};

// n vectors quantized to int8, in the three forms that the kernels want; `stride` is in elements.
struct Vectors {
    int32_t n, stride;
    uint8_t *biased;           // value + 128
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
    const Matrix *embedding, *decoder;
    const Layer *layer;
    const float *decoder_bias;
};

}  // extern "C"

namespace {

// ---------------------------------------------------------------------------------- elementwise

// exp with a relative error below 3e-7: 2^n times a polynomial on [-ln 2 / 2, ln 2 / 2] (Cephes).
// Written without branches or library calls so that the loops around it vectorize.
INLINE float exponential(float x) {
    x = x < -87.0f ? -87.0f : (x > 88.0f ? 88.0f : x);
    const float magic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to a whole number
    float shifted = x * 1.44269504f + magic;
    float whole = shifted - magic;
    float r = (x - whole * 0.693359375f) + whole * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    int32_t bits = (static_cast<int32_t>(whole) + 127) << 23;
    float power;
    std::memcpy(&power, &bits, 4);
    return p * power;
}

INLINE float sigmoid(float x) { return 1.0f / (1.0f + exponential(-x)); }
INLINE float hyperbolic_tangent(float x) { return 2.0f / (1.0f + exponential(-2.0f * x)) - 1.0f; }

// One cell update of `n` rows. gi, gh [n][gates * H] hold the input's and the hidden state's
// products with their biases, gates in torch's order (LSTM i f g o, GRU r z n).
INLINE void cells(int cell, int n, int H, const float *gi, const float *gh, float *h, float *c) {
    for (int v = 0; v < n; ++v) {
        float *hv = h + static_cast<int64_t>(v) * H;
        if (cell == LSTM) {
            const float *a = gi + static_cast<int64_t>(v) * 4 * H;
            const float *b = gh + static_cast<int64_t>(v) * 4 * H;
            float *cv = c + static_cast<int64_t>(v) * H;
            for (int j = 0; j < H; ++j) {
                float i = sigmoid(a[j] + b[j]);
                float f = sigmoid(a[H + j] + b[H + j]);
                float g = hyperbolic_tangent(a[2 * H + j] + b[2 * H + j]);
                float o = sigmoid(a[3 * H + j] + b[3 * H + j]);
                float next = f * cv[j] + i * g;
                cv[j] = next;
                hv[j] = o * hyperbolic_tangent(next);
            }
        } else if (cell == GRU) {
            const float *a = gi + static_cast<int64_t>(v) * 3 * H;
            const float *b = gh + static_cast<int64_t>(v) * 3 * H;
            for (int j = 0; j < H; ++j) {
                float r = sigmoid(a[j] + b[j]);
                float z = sigmoid(a[H + j] + b[H + j]);
                float m = hyperbolic_tangent(a[2 * H + j] + r * b[2 * H + j]);
                hv[j] = m + z * (hv[j] - m);
            }
        } else {
            const float *a = gi + static_cast<int64_t>(v) * H;
            const float *b = gh + static_cast<int64_t>(v) * H;
            if (cell == RNN_TANH) {
                for (int j = 0; j < H; ++j) hv[j] = hyperbolic_tangent(a[j] + b[j]);
            } else {
                for (int j = 0; j < H; ++j) {
                    float s = a[j] + b[j];
                    hv[j] = s > 0.0f ? s : 0.0f;
                }
            }
        }
    }
}

// Negative log-likelihoods, in nats, of `targets` under rows of logits [n][ldo]: log-sum-exp in
// fp32 over lanes, gathered in double every 1024 words so that long vocabularies lose nothing.
INLINE void likelihoods(const float *logits, int n, int words, int64_t ldo, const int64_t *targets,
                        double *out) {
    for (int v = 0; v < n; ++v) {
        const float *x = logits + v * ldo;
        float lanes[16];
        for (int l = 0; l < 16; ++l) lanes[l] = x[0];
        int whole = words / 16 * 16;
        for (int j = 0; j < whole; j += 16)
            for (int l = 0; l < 16; ++l) lanes[l] = x[j + l] > lanes[l] ? x[j + l] : lanes[l];
        float largest = lanes[0];
        for (int l = 1; l < 16; ++l) largest = lanes[l] > largest ? lanes[l] : largest;
        for (int j = whole; j < words; ++j) largest = x[j] > largest ? x[j] : largest;
        double total = 0.0;
        for (int begin = 0; begin < whole; begin += 1024) {
            int end = begin + 1024 < whole ? begin + 1024 : whole;
            for (int l = 0; l < 16; ++l) lanes[l] = 0.0f;
            for (int j = begin; j < end; j += 16)
                for (int l = 0; l < 16; ++l) lanes[l] += exponential(x[j + l] - largest);
            for (int l = 0; l < 16; ++l) total += lanes[l];
        }
        for (int j = whole; j < words; ++j) total += exponential(x[j] - largest);
        out[v] = std::log(total) + largest - x[targets[v]];
    }
}

// Symmetric quantization of each vector to [-127, 127]; what lies beyond `k` is zero.
INLINE void quantize(const float *x, int n, int k, Vectors *out) {
    for (int v = 0; v < n; ++v) {
        const float *xv = x + static_cast<int64_t>(v) * k;
        int64_t at = static_cast<int64_t>(v) * out->stride;
        float largest = 0.0f;
        for (int j = 0; j < k; ++j) {
            float a = std::fabs(xv[j]);
            largest = a > largest ? a : largest;
        }
        float inverse = largest > 0.0f ? 127.0f / largest : 0.0f;
        out->scale[v] = largest / 127.0f;
        uint8_t *biased = out->biased + at;
        int8_t *bytes = out->bytes + at;
        int16_t *words = out->words + at;
        const float magic = 12582912.0f;
        for (int j = 0; j < k; ++j) {
            int32_t q = static_cast<int32_t>((xv[j] * inverse + magic) - magic);
            words[j] = static_cast<int16_t>(q);
            bytes[j] = static_cast<int8_t>(q);
            biased[j] = static_cast<uint8_t>(q + 128);
        }
        for (int j = k; j < out->stride; ++j) {
            words[j] = 0;
            bytes[j] = 0;
            biased[j] = 128;
        }
        int32_t *sums = out->quad_sums + at / QUAD;
        for (int j = 0; j < out->stride / QUAD; ++j) {
            const int8_t *b = bytes + QUAD * j;
            sums[j] = b[0] + b[1] + b[2] + b[3];
        }
    }
}

INLINE int rows_of(const Matrix *m) { return m->kind == BLOCK_8X8 ? 8 : ROWS; }

// From integer sums to the output: the vector's and the row's scales, and the bias.
INLINE void finish(const Matrix *m, int g, const int32_t *sums, float vector_scale,
                   const float *bias, float *out) {
    int per = rows_of(m), first = g * per;
    int count = m->rows - first < per ? m->rows - first : per;
    const float *scale = m->scale + first;
    for (int r = 0; r < count; ++r) {
        float value = static_cast<float>(sums[r]) * (scale[r] * vector_scale);
        out[first + r] = bias ? value + bias[first + r] : value;
    }
}

INLINE void finish_float(const Matrix *m, int g, const float *sums, float vector_scale,
                         const float *bias, float *out) {
    int first = g * ROWS;
    int count = m->rows - first < ROWS ? m->rows - first : ROWS;
    for (int r = 0; r < count; ++r) {
        float value = sums[r] * vector_scale;
        out[first + r] = bias ? value + bias[first + r] : value;
    }
}

// --------------------------------------------------------------------------------------- scalar

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
    case INT4: {
        float total[ROWS] = {0};
        int scale_groups = (m->quads + m->scale_quads - 1) / m->scale_quads;
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
        for (int v = 0; v < x->n; ++v) group_scalar(m, g, x, v, bias, out + v * ldo);
}

#if HAVE_X86
// ----------------------------------------------------------------------------------------- AVX2
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

// ---------------------------------------------------------------------------------- AVX512-VNNI

AVX512 INLINE __m512i quad512(const void *x) {
    int32_t four;
    std::memcpy(&four, x, 4);
    return _mm512_set1_epi32(four);
}

AVX512 INLINE __m512i tile512(const int8_t *p) { return _mm512_loadu_si512(p); }

// Integer sums of 16 rows, less what the activations' offset of 128 added, to the output.
AVX512 INLINE void finish512(const Matrix *m, int g, __m512i acc, float vector_scale,
                             const float *bias, float *out) {
    int first = g * ROWS;
    int count = m->rows - first;
    __mmask16 keep = count >= ROWS ? 0xFFFF : static_cast<__mmask16>((1u << count) - 1);
    acc = _mm512_sub_epi32(acc, _mm512_loadu_si512(m->offsets + first));
    __m512 scale = _mm512_mul_ps(_mm512_loadu_ps(m->scale + first), _mm512_set1_ps(vector_scale));
    __m512 value = _mm512_mul_ps(_mm512_cvtepi32_ps(acc), scale);
    if (bias) value = _mm512_add_ps(value, _mm512_maskz_loadu_ps(keep, bias + first));
    _mm512_mask_storeu_ps(out + first, keep, value);
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
        finish(m, g, sums, x->scale[v + j], bias, out + (v + j) * ldo);
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
            __m512 value = _mm512_mul_ps(total[i][j], _mm512_set1_ps(x->scale[v + j]));
            if (bias) value = _mm512_add_ps(value, _mm512_maskz_loadu_ps(keep, bias + begin));
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

// `scratch` holds a group's tiles while a batch uses them: 64 bytes a quad.
AVX512 void product_avx512(const Matrix *m, const Vectors *x, const float *bias, float *out,
                           int64_t ldo, int first, int last, int8_t *scratch) {
    int64_t group_bytes = static_cast<int64_t>(m->quads) * TILE;
    int g = first;
    switch (m->kind) {
    case DENSE:
        for (int step = x->n == 1 ? 4 : 2; g + step <= last; g += step) {
            const int8_t *w[4];
            for (int i = 0; i < step; ++i) w[i] = m->values + (g + i) * group_bytes;
            if (step == 4) dense512<4, 1>(m, g, w, x, 0, bias, out, ldo);
            else dense_groups512<2>(m, g, w, x, bias, out, ldo);
        }
        for (; g < last; ++g) {
            const int8_t *w = m->values + g * group_bytes;
            dense_groups512<1>(m, g, &w, x, bias, out, ldo);
        }
        break;
    case BITMASK:
        if (x->n < 4) {
            for (int v = 0; v < x->n; ++v) {
                for (g = first; g + 4 <= last; g += 4) bitmask512<4>(m, g, x, v, bias, out + v * ldo);
                for (; g < last; ++g) bitmask512<1>(m, g, x, v, bias, out + v * ldo);
            }
            break;
        }
        for (; g < last; ++g) {
            const int8_t *values = m->values + m->starts[g];
            const uint64_t *masks = m->masks + static_cast<int64_t>(g) * m->quads;
            for (int k = 0; k < m->quads; ++k) {
                __m512i tile = _mm512_maskz_expand_epi8(_cvtu64_mask64(masks[k]), tile512(values));
                values += __builtin_popcountll(masks[k]);
                _mm512_storeu_si512(scratch + static_cast<int64_t>(k) * TILE, tile);
            }
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

AVX2 void cells_avx2(int cell, int n, int H, const float *gi, const float *gh, float *h, float *c) {
    cells(cell, n, H, gi, gh, h, c);
}
AVX512 void cells_avx512(int cell, int n, int H, const float *gi, const float *gh, float *h, float *c) {
    cells(cell, n, H, gi, gh, h, c);
}
AVX2 void likelihoods_avx2(const float *logits, int n, int words, int64_t ldo,
                           const int64_t *targets, double *out) {
    likelihoods(logits, n, words, ldo, targets, out);
}
AVX512 void likelihoods_avx512(const float *logits, int n, int words, int64_t ldo,
                               const int64_t *targets, double *out) {
    likelihoods(logits, n, words, ldo, targets, out);
}
AVX2 void quantize_avx2(const float *x, int n, int k, Vectors *out) { quantize(x, n, k, out); }
AVX512 void quantize_avx512(const float *x, int n, int k, Vectors *out) { quantize(x, n, k, out); }
#endif  // HAVE_X86

}  // namespace

// ---------------------------------------------------------------------------------- entry points

extern "C" {

// The best instruction set of this machine: 0 scalar, 1 AVX2, 2 AVX512 with VNNI and VBMI2.
int32_t lmb_isa(void) {
#if HAVE_X86
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512vbmi2") &&
        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl"))
        return USE_AVX512;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return USE_AVX2;
#endif
    return SCALAR;
}

// x [n][k] fp32 to `out`, which has room for n vectors of out->stride elements.
void lmb_quantize(const float *x, int32_t n, int32_t k, Vectors *out, int32_t isa) {
    out->n = n;
#if HAVE_X86
    if (isa == USE_AVX512) return quantize_avx512(x, n, k, out);
    if (isa == USE_AVX2) return quantize_avx2(x, n, k, out);
#endif
    quantize(x, n, k, out);
}

// out [n][ldo] = x m^T + bias for the groups of rows in [first, last); bias may be null.
void lmb_product(const Matrix *m, const Vectors *x, const float *bias, float *out, int64_t ldo,
                 int32_t first, int32_t last, int32_t isa, int8_t *scratch) {
#if HAVE_X86
    if (isa == USE_AVX512) return product_avx512(m, x, bias, out, ldo, first, last, scratch);
    if (isa == USE_AVX2) return product_avx2(m, x, bias, out, ldo, first, last);
#endif
    product_scalar(m, x, bias, out, ldo, first, last);
}

void lmb_cells(int32_t cell, int32_t n, int32_t H, const float *gi, const float *gh, float *h,
               float *c, int32_t isa) {
#if HAVE_X86
    if (isa == USE_AVX512) return cells_avx512(cell, n, H, gi, gh, h, c);
    if (isa == USE_AVX2) return cells_avx2(cell, n, H, gi, gh, h, c);
#endif
    cells(cell, n, H, gi, gh, h, c);
}

void lmb_likelihoods(const float *logits, int32_t n, int32_t words, int64_t ldo,
                     const int64_t *targets, double *out, int32_t isa) {
#if HAVE_X86
    if (isa == USE_AVX512) return likelihoods_avx512(logits, n, words, ldo, targets, out);
    if (isa == USE_AVX2) return likelihoods_avx2(logits, n, words, ldo, targets, out);
#endif
    likelihoods(logits, n, words, ldo, targets, out);
}

// Row `row` of a matrix as fp32: the embedding of a word. The caller has checked the row.
void lmb_row(const Matrix *m, int64_t row, float *out) {
    int per = rows_of(m), r = static_cast<int>(row % per);
    int64_t g = row / per;
    if (m->kind == INT4) {
        int scale_groups = (m->quads + m->scale_quads - 1) / m->scale_quads;
        const uint8_t *values = reinterpret_cast<const uint8_t *>(m->values) + g * m->quads * (TILE / 2);
        for (int j = 0; j < m->cols; ++j) {
            int k = j / QUAD;
            uint8_t byte = values[(k / 2) * TILE + QUAD * r + j % QUAD];
            int q = (k % 2 ? byte >> 4 : byte & 15) - 8;
            out[j] = static_cast<float>(q) * m->scale[(g * scale_groups + k / m->scale_quads) * ROWS + r];
        }
        return;
    }
    float scale = m->scale[row];
    if (m->kind == DENSE) {
        const int8_t *values = m->values + g * m->quads * TILE + QUAD * r;
        for (int j = 0; j < m->cols; ++j)
            out[j] = static_cast<float>(values[(j / QUAD) * TILE + j % QUAD]) * scale;
        return;
    }
    std::memset(out, 0, sizeof(float) * m->cols);
    if (m->kind == BITMASK) {
        const int8_t *values = m->values + m->starts[g];
        for (int k = 0; k < m->quads; ++k) {
            uint64_t mask = m->masks[g * m->quads + k];
            const int8_t *at = values + __builtin_popcountll(mask & ((1ull << (QUAD * r)) - 1));
            for (int c = 0; c < QUAD; ++c)
                if (mask >> (QUAD * r + c) & 1) out[QUAD * k + c] = static_cast<float>(*at++) * scale;
            values += __builtin_popcountll(mask);
        }
        return;
    }
    int width = TILE / per;
    for (int64_t b = m->starts[g]; b < m->starts[g + 1]; ++b) {
        const int8_t *values = m->values + b * TILE + width * r;
        for (int c = 0; c < width && width * m->places[b] + c < m->cols; ++c)
            out[width * m->places[b] + c] = static_cast<float>(values[c]) * scale;
    }
}

// One word through the whole model. h, c [layers][H] are updated in place; logits [vocabulary];
// work has room for max(embedding, H) + 2 gates * H floats; vectors for one vector of the largest width.
void lmb_step(const Model *model, int64_t word, float *h, float *c, float *logits, float *work,
              Vectors *vectors, int8_t *scratch, int32_t isa) {
    int H = model->hidden_size;
    int gates = model->cell == LSTM ? 4 : (model->cell == GRU ? 3 : 1);
    float *gi = work, *gh = work + gates * H, *embedded = work + 2 * gates * H;
    lmb_row(model->embedding, word, embedded);
    const float *x = embedded;
    int width = model->embedding_size;
    for (int l = 0; l < model->layers; ++l) {
        const Layer *layer = model->layer + l;
        float *hl = h + static_cast<int64_t>(l) * H, *cl = c ? c + static_cast<int64_t>(l) * H : nullptr;
        lmb_quantize(x, 1, width, vectors, isa);
        lmb_product(&layer->input, vectors, layer->bias_input, gi, gates * H, 0,
                    layer->input.groups, isa, scratch);
        lmb_quantize(hl, 1, H, vectors, isa);
        lmb_product(&layer->hidden, vectors, layer->bias_hidden, gh, gates * H, 0,
                    layer->hidden.groups, isa, scratch);
        lmb_cells(model->cell, 1, H, gi, gh, hl, cl, isa);
        x = hl;
        width = H;
    }
    lmb_quantize(x, 1, width, vectors, isa);
    lmb_product(model->decoder, vectors, model->decoder_bias, logits, model->decoder->rows, 0,
                model->decoder->groups, isa, scratch);
}

}  // extern "C"
