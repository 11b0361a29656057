// A decoder's product, softmax, cross-entropy and all three gradients on AMX, for decoder_amx.py.
//
// The rows of a window (N of them, H wide) meet a vocabulary of V words. Two passes over the words:
// the first leaves exp(logit - the target's logit) and sums it up, the second turns that into the
// gradient of the logits, a few hundred words at a time, and multiplies it while it is in the
// cache. The bias is the weight of one more input, which is always 1.
//
// The tiles multiply bf16 numbers and sum in fp32. One term keeps 8 bits of each operand. Three
// terms, each the rounding error of those before it, keep all 24 bits of an fp32 number: their six
// largest products give what an fp32 product gives, with an error as small.
//
// Operands are packed into tiles of 1 KB before they are multiplied, each as it is wanted: a panel
// is 16 rows (of the left operand) or 16 columns (of the right one), tile after tile, and the terms
// of a tile lie one after another.

#include <cpuid.h>
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <thread>
#include <vector>

#define AMX                                                                                      \
    __attribute__((target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,amx-tile,amx-bf16")))
#define INLINE inline __attribute__((always_inline))

extern "C" {

struct Decoder {
    int64_t rows, words, width;
    int32_t terms, threads;
    const float *hidden, *weight, *bias;  // [N][H], [V][H], [V]
    const int64_t *targets;               // [N]
    float *grad_hidden, *grad_weight, *grad_bias;
    float scale;                          // of the gradients: 1 / all rows of the window
    int32_t accumulate;                   // add to grad_weight and grad_bias
    uint8_t *exponentials;                // lmb_decoder_held bytes; null: the likelihood alone
    uint8_t *scratch;                     // lmb_decoder_scratch bytes; both begin at 64-byte borders
    // OpenMP's GOMP_parallel where the process has it: its threads wait busily for a while after
    // each of their works, in the way of any others. Null: threads of our own.
    void (*parallel)(void (*)(void *), void *, unsigned, unsigned);
    double nll;                           // out: summed over the rows
};

}  // extern "C"

namespace {

constexpr int64_t LINE = 64, SIDE = 16, DEPTH = 32;  // bytes, rows, and bf16 numbers in a row of a tile
constexpr int64_t BYTES = LINE * SIDE, SUMS = SIDE * SIDE;
constexpr int64_t BLOCK = 32;  // words, or rows of the window, that four tiles of sums take
constexpr int64_t GROUP = 8;   // blocks of words at a time: their panels fit the second cache

constexpr int64_t up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

struct alignas(64) TileShapes {
    uint8_t palette = 1, start_row = 0, reserved[14] = {0};
    uint16_t bytes[16] = {0};
    uint8_t rows[16] = {0};
    TileShapes() {
        for (int i = 0; i < 8; ++i) bytes[i] = LINE, rows[i] = SIDE;
    }
};

// A compiler does not know that tiles read and write memory.
INLINE void settle_memory() { asm volatile("" ::: "memory"); }

// How everything is cut, and where it lies in the scratch memory.
struct Plan {
    int64_t rows, words, inputs;           // rounded up to blocks; the width with the bias
    int64_t across, down;                  // tiles over the inputs, and over the rows
    int64_t word_blocks, row_blocks, input_panels;
    int64_t held;                          // bytes of a block of exponentials, 32 words x 32 rows
    int64_t flat, tall, deep;              // bytes of a panel over inputs, rows, a group of words
    uint8_t *hidden_across, *hidden_down;  // packed: contraction over the inputs, over the rows
    float *logit, *inverse;                // [rows]: the target's logit, 1 / sum of exponentials
    int32_t *targets;                      // [rows]
    uint8_t *own;                          // of the first thread
    int64_t own_size;

    // What a thread has for itself.
    int64_t sums_at, work_at, grad_at;

    Plan(const Decoder &d) {
        int64_t terms = d.terms;
        rows = up(d.rows, BLOCK), words = up(d.words, BLOCK), inputs = up(d.width + 1, BLOCK);
        across = inputs / DEPTH, down = rows / DEPTH;
        word_blocks = words / BLOCK, row_blocks = rows / BLOCK, input_panels = inputs / SIDE;
        held = BLOCK * BLOCK * (terms == 1 ? 2 : 4);
        flat = across * terms * BYTES, tall = down * terms * BYTES, deep = GROUP * terms * BYTES;
        int64_t at = 0;
        auto take = [&](int64_t bytes) { return at += up(bytes, LINE), at - up(bytes, LINE); };
        int64_t one = take(rows / SIDE * flat), two = take(input_panels * tall);
        int64_t three = take(rows * 4), four = take(rows * 4), five = take(rows * 4);
        hidden_across = d.scratch + one, hidden_down = d.scratch + two;
        logit = reinterpret_cast<float *>(d.scratch + three);
        inverse = reinterpret_cast<float *>(d.scratch + four);
        targets = reinterpret_cast<int32_t *>(d.scratch + five);
        own = d.scratch + at;
        at = 0;
        sums_at = take(rows * 8);
        grad_at = take(rows * inputs * 4);
        int64_t forward = 2 * GROUP * flat;
        int64_t backward = 2 * GROUP * tall + (rows / SIDE + input_panels) * deep;
        work_at = take(std::max(forward, backward));
        own_size = at;
    }

    int64_t size(const Decoder &d) const { return own - d.scratch + d.threads * own_size; }
    double *sums(int t) const { return reinterpret_cast<double *>(own + t * own_size + sums_at); }
    float *grad(int t) const { return reinterpret_cast<float *>(own + t * own_size + grad_at); }
    uint8_t *work(int t) const { return own + t * own_size + work_at; }
};

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
    settle_memory();
    _tile_loadd(0, sums, LINE); _tile_loadd(1, sums + SUMS, LINE);
    _tile_loadd(2, sums + 2 * SUMS, LINE); _tile_loadd(3, sums + 3 * SUMS, LINE);
}

AMX INLINE void keep(float *sums) {
    _tile_stored(0, sums, LINE); _tile_stored(1, sums + SUMS, LINE);
    _tile_stored(2, sums + 2 * SUMS, LINE); _tile_stored(3, sums + 3 * SUMS, LINE);
    settle_memory();
}

// Row i of 32 in the four tiles: its first 16 numbers, and 256 further on the others.
INLINE const float *row_of(const float *sums, int i) {
    return sums + i / SIDE * 2 * SUMS + i % SIDE * SIDE;
}

// -------------------------------------------------------------------------------------- packing

// A matrix with a column added on its right: `last` of each row, or 1 where that is null.
struct Matrix {
    const float *data;
    int64_t rows, width;
    const float *last;
};

AMX INLINE __mmask16 first(int64_t n) { return n >= 16 ? 0xffff : n <= 0 ? 0 : (1u << n) - 1; }

// 32 numbers of a row from column k on; zeros beyond the matrix.
AMX INLINE void read(const Matrix &m, int64_t row, int64_t k, __m512 *low, __m512 *high) {
    if (row >= m.rows) {
        *low = *high = _mm512_setzero_ps();
        return;
    }
    const float *from = m.data + row * m.width + k;
    int64_t there = m.width - k;
    *low = _mm512_maskz_loadu_ps(first(there), from);
    *high = _mm512_maskz_loadu_ps(first(there - 16), from + 16);
    if (there < 0 || there >= DEPTH) return;
    __m512 last = _mm512_set1_ps(m.last ? m.last[row] : 1.0f);
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
    for (int64_t i = 0; i < SIDE; ++i)
        for (int64_t k = 0; k < steps; ++k) {
            __m512 low, high;
            __m512i terms[TERMS];
            read(m, r + i, k * DEPTH, &low, &high);
            split<TERMS>(low, high, terms);
            for (int s = 0; s < TERMS; ++s)
                _mm512_store_si512(panel + (k * TERMS + s) * BYTES + LINE * i, terms[s]);
        }
}

// Rows [r, r + 16) as the columns of a right operand, contracted over the columns.
template <int TERMS>
AMX void pack_right_across(const Matrix &m, int64_t r, int64_t steps, uint8_t *panel) {
    for (int64_t k = 0; k < steps; ++k) {
        __m512i all[TERMS][SIDE];
        for (int i = 0; i < SIDE; ++i) {
            __m512 low, high;
            __m512i terms[TERMS];
            read(m, r + i, k * DEPTH, &low, &high);
            split<TERMS>(low, high, terms);
            for (int s = 0; s < TERMS; ++s) all[s][i] = terms[s];
        }
        for (int s = 0; s < TERMS; ++s) {
            transpose(all[s]);
            for (int i = 0; i < SIDE; ++i)
                _mm512_store_si512(panel + (k * TERMS + s) * BYTES + LINE * i, all[s][i]);
        }
    }
}

// Rows [r, r + 32) as one tile of each of `panels` right operands, `stride` bytes apart,
// contracted over the rows.
template <int TERMS>
AMX void pack_right_down(const Matrix &m, int64_t r, int64_t panels, uint8_t *tile, int64_t stride) {
    for (int64_t i = 0; i < SIDE; ++i)
        for (int64_t p = 0; p < panels; p += 2) {
            __m512 low, high;
            __m512i upper[TERMS], lower[TERMS], left, right;
            read(m, r + 2 * i, p * SIDE, &low, &high);
            split<TERMS>(low, high, upper);
            read(m, r + 2 * i + 1, p * SIDE, &low, &high);
            split<TERMS>(low, high, lower);
            for (int s = 0; s < TERMS; ++s) {
                uint8_t *at = tile + p * stride + s * BYTES + LINE * i;
                pair(upper[s], lower[s], &left, &right);
                _mm512_store_si512(at, left);
                _mm512_store_si512(at + stride, right);
            }
        }
}

// ------------------------------------------------------------------------------------ the passes

// exp with a relative error below 3e-7 (Cephes), 0 and infinity where fp32 ends.
AMX INLINE __m512 exponential(__m512 x) {
    __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)),
                                    _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693145752f), x);
    r = _mm512_fnmadd_ps(n, _mm512_set1_ps(1.42860677e-6f), r);
    __m512 p = _mm512_set1_ps(1.9875691500e-4f);
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.3981999507e-3f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(8.3334519073e-3f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(4.1665795894e-2f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.6666665459e-1f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(5.0000001201e-1f));
    p = _mm512_add_ps(_mm512_fmadd_ps(_mm512_mul_ps(p, r), r, r), _mm512_set1_ps(1.0f));
    return _mm512_scalef_ps(p, n);
}

// A number as the tiles see it, in the numbers of a register.
template <int TERMS>
AMX INLINE __m512 as_multiplied(__m512 x) {
    if (TERMS == 3) return x;
    __m512 low, high;
    widen((__m512i)_mm512_cvtne2ps_pbh(x, x), &low, &high);
    return low;
}

// The logit of row n's target.
template <int TERMS>
AMX double target_logit(const Decoder &d, int64_t n) {
    const float *h = d.hidden + n * d.width, *w = d.weight + d.targets[n] * d.width;
    __m512d sum = _mm512_setzero_pd();
    for (int64_t k = 0; k < d.width; k += 16) {
        __mmask16 there = first(d.width - k);
        __m512 a = as_multiplied<TERMS>(_mm512_maskz_loadu_ps(there, h + k));
        __m512 b = as_multiplied<TERMS>(_mm512_maskz_loadu_ps(there, w + k));
        sum = _mm512_fmadd_pd(_mm512_cvtps_pd(_mm512_castps512_ps256(a)),
                              _mm512_cvtps_pd(_mm512_castps512_ps256(b)), sum);
        sum = _mm512_fmadd_pd(_mm512_cvtps_pd(_mm512_extractf32x8_ps(a, 1)),
                              _mm512_cvtps_pd(_mm512_extractf32x8_ps(b, 1)), sum);
    }
    __m512 bias = as_multiplied<TERMS>(_mm512_set1_ps(d.bias[d.targets[n]]));
    return _mm512_reduce_add_pd(sum) + _mm512_cvtss_f32(bias);
}

// What thread t has of the words: whole blocks.
INLINE int64_t share(const Plan &p, const Decoder &d, int t) { return p.word_blocks * t / d.threads; }

template <int TERMS>
AMX void sum_exponentials(const Decoder &d, const Plan &p, int t) {
    static const TileShapes shapes;
    _tile_loadconfig(&shapes);
    const Matrix weight{d.weight, d.words, d.width, d.bias};
    int64_t begin = share(p, d, t), end = share(p, d, t + 1);
    uint8_t *panels = p.work(t);
    double *sums = p.sums(t);
    alignas(64) float z[4 * SUMS];
    std::fill(sums, sums + p.rows, 0.0);
    for (int64_t v0 = begin; v0 < end; v0 += GROUP) {
        int64_t blocks = std::min(GROUP, end - v0);
        for (int64_t i = 0; i < 2 * blocks; ++i)
            pack_left<TERMS>(weight, BLOCK * v0 + SIDE * i, p.across, panels + i * p.flat);
        settle_memory();
        for (int64_t n = 0; n < p.row_blocks; ++n) {
            const uint8_t *right = p.hidden_across + 2 * n * p.flat;
            __m512 from0 = _mm512_load_ps(p.logit + BLOCK * n);
            __m512 from1 = _mm512_load_ps(p.logit + BLOCK * n + 16);
            __m512 sum0 = _mm512_setzero_ps(), sum1 = sum0;
            for (int64_t v = 0; v < blocks; ++v) {
                const uint8_t *left = panels + 2 * v * p.flat;
                zero();
                multiply<TERMS>(left, left + p.flat, right, right + p.flat, p.across);
                keep(z);
                int64_t there = std::min(BLOCK, d.words - BLOCK * (v0 + v));
                uint8_t *out = d.exponentials + ((v0 + v) * p.row_blocks + n) * p.held;
                for (int i = 0; i < BLOCK; ++i) {
                    const float *zi = row_of(z, i);
                    __m512 e0 = exponential(_mm512_sub_ps(_mm512_load_ps(zi), from0));
                    __m512 e1 = exponential(_mm512_sub_ps(_mm512_load_ps(zi + SUMS), from1));
                    if (i >= there) e0 = e1 = _mm512_setzero_ps();
                    sum0 = _mm512_add_ps(sum0, e0), sum1 = _mm512_add_ps(sum1, e1);
                    if (!d.exponentials) continue;
                    if (TERMS == 1) {
                        _mm512_store_si512(out + LINE * i, (__m512i)_mm512_cvtne2ps_pbh(e1, e0));
                    } else {
                        _mm512_store_ps(out + 2 * LINE * i, e0);
                        _mm512_store_ps(out + 2 * LINE * i + LINE, e1);
                    }
                }
            }
            alignas(64) float got[BLOCK];
            _mm512_store_ps(got, sum0), _mm512_store_ps(got + 16, sum1);
            for (int i = 0; i < BLOCK; ++i) sums[BLOCK * n + i] += got[i];
        }
    }
    _tile_release();
}

// A block of exponentials to the gradient of the logits, as a tile of two left panels over the rows
// (`by_word`, `tall` apart) and a tile of two left panels over the words (`by_row`, `deep` apart).
template <int TERMS>
AMX INLINE void grade_block(const Plan &p, const uint8_t *held, int64_t word, int64_t n,
                            uint8_t *by_word, uint8_t *by_row) {
    __m512 inverse0 = _mm512_load_ps(p.inverse + BLOCK * n);
    __m512 inverse1 = _mm512_load_ps(p.inverse + BLOCK * n + 16);
    __m512i target0 = _mm512_load_si512(p.targets + BLOCK * n);
    __m512i target1 = _mm512_load_si512(p.targets + BLOCK * n + 16);
    const __m512 one = _mm512_set1_ps(1.0f);
    __m512i upper[TERMS] = {}, left[TERMS][SIDE], right[TERMS][SIDE];
    for (int i = 0; i < BLOCK; ++i) {
        __m512 g0, g1;
        if (TERMS == 1) {
            widen(_mm512_load_si512(held + LINE * i), &g0, &g1);
        } else {
            g0 = _mm512_load_ps(held + 2 * LINE * i);
            g1 = _mm512_load_ps(held + 2 * LINE * i + LINE);
        }
        g0 = _mm512_mul_ps(g0, inverse0), g1 = _mm512_mul_ps(g1, inverse1);
        __m512i here = _mm512_set1_epi32(static_cast<int32_t>(word + i));
        g0 = _mm512_mask_sub_ps(g0, _mm512_cmpeq_epi32_mask(target0, here), g0, one);
        g1 = _mm512_mask_sub_ps(g1, _mm512_cmpeq_epi32_mask(target1, here), g1, one);
        __m512i terms[TERMS];
        split<TERMS>(g0, g1, terms);
        uint8_t *at = by_word + i / SIDE * p.tall + LINE * (i % SIDE);
        for (int s = 0; s < TERMS; ++s) {
            _mm512_store_si512(at + s * BYTES, terms[s]);
            if (i % 2)
                pair(upper[s], terms[s], &left[s][i / 2], &right[s][i / 2]);
            else
                upper[s] = terms[s];
        }
    }
    for (int s = 0; s < TERMS; ++s) {
        transpose(left[s]), transpose(right[s]);
        for (int i = 0; i < SIDE; ++i) {
            _mm512_store_si512(by_row + s * BYTES + LINE * i, left[s][i]);
            _mm512_store_si512(by_row + p.deep + s * BYTES + LINE * i, right[s][i]);
        }
    }
}

// Four tiles of sums, words from `word` on by two panels of inputs from `k` on, to the gradients.
AMX INLINE void write_gradients(const Decoder &d, const float *sums, int64_t word, int64_t k) {
    const __m512 scale = _mm512_set1_ps(d.scale);
    int64_t rows = std::min(BLOCK, d.words - word);
    for (int64_t i = 0; i < rows; ++i)
        for (int64_t half = 0; half < 2; ++half) {
            const float *from = row_of(sums, static_cast<int>(i)) + half * SUMS;
            int64_t at = SIDE * (k + half), there = d.width - at;
            if (there < 0) continue;
            __mmask16 mask = first(there);
            float *to = d.grad_weight + (word + i) * d.width + at;
            __m512 value = _mm512_mul_ps(_mm512_load_ps(from), scale);
            if (d.accumulate) value = _mm512_add_ps(value, _mm512_maskz_loadu_ps(mask, to));
            _mm512_mask_storeu_ps(to, mask, value);
            if (there >= SIDE) continue;
            float bias = from[there] * d.scale;
            d.grad_bias[word + i] = d.accumulate ? d.grad_bias[word + i] + bias : bias;
        }
}

template <int TERMS>
AMX void add_gradients(const Decoder &d, const Plan &p, int t) {
    static const TileShapes shapes;
    _tile_loadconfig(&shapes);
    const Matrix weight{d.weight, d.words, d.width, d.bias};
    int64_t begin = share(p, d, t), end = share(p, d, t + 1);
    uint8_t *by_word = p.work(t), *by_row = by_word + 2 * GROUP * p.tall;
    uint8_t *words = by_row + p.rows / SIDE * p.deep;
    float *grad = p.grad(t);
    alignas(64) float sums[4 * SUMS];
    std::fill(grad, grad + p.rows * p.inputs, 0.0f);
    for (int64_t v0 = begin; v0 < end; v0 += GROUP) {
        int64_t blocks = std::min(GROUP, end - v0);
        for (int64_t v = 0; v < blocks; ++v) {
            int64_t tile = v * TERMS * BYTES, word = BLOCK * (v0 + v);
            pack_right_down<TERMS>(weight, word, p.input_panels, words + tile, p.deep);
            for (int64_t n = 0; n < p.row_blocks; ++n)
                grade_block<TERMS>(p, d.exponentials + ((v0 + v) * p.row_blocks + n) * p.held, word, n,
                                   by_word + 2 * v * p.tall + n * TERMS * BYTES,
                                   by_row + 2 * n * p.deep + tile);
        }
        settle_memory();
        for (int64_t k = 0; k < p.input_panels; k += 2)
            for (int64_t v = 0; v < blocks; ++v) {
                const uint8_t *left = by_word + 2 * v * p.tall, *right = p.hidden_down + k * p.tall;
                zero();
                multiply<TERMS>(left, left + p.tall, right, right + p.tall, p.down);
                keep(sums);
                write_gradients(d, sums, BLOCK * (v0 + v), k);
            }
        for (int64_t n = 0; n < p.row_blocks; ++n)
            for (int64_t k = 0; k < p.input_panels; k += 2) {
                const uint8_t *left = by_row + 2 * n * p.deep, *right = words + k * p.deep;
                float *at = grad + (n * p.input_panels + k) * 2 * SUMS;
                fetch(at);
                multiply<TERMS>(left, left + p.deep, right, right + p.deep, blocks);
                keep(at);
            }
    }
    _tile_release();
}

// The parts of a work, each taken by whichever thread comes first.
template <class Work>
struct Parts {
    const Work &work;
    int count;
    std::atomic<int> next{0};
    static void take(void *given) {
        Parts *parts = static_cast<Parts *>(given);
        for (int t; (t = parts->next++) < parts->count;) parts->work(t);
    }
};

template <class Work>
void in_parallel(const Decoder &d, const Work &work) {
    Parts<Work> parts{work, d.threads};
    if (d.parallel) return d.parallel(Parts<Work>::take, &parts, d.threads, 0);
    std::vector<std::thread> others;
    for (int t = 1; t < d.threads; ++t) others.emplace_back(Parts<Work>::take, &parts);
    Parts<Work>::take(&parts);
    for (std::thread &one : others) one.join();
}

void write_grad_hidden(const Decoder &d, const Plan &p) {
    for (int64_t n = 0; n < d.rows; ++n)
        for (int64_t k = 0; k < d.width; ++k) {
            int64_t at = (n / BLOCK * p.input_panels + k / BLOCK * 2) * 2 * SUMS +
                         n % BLOCK / SIDE * 2 * SUMS + k % BLOCK / SIDE * SUMS + n % SIDE * SIDE +
                         k % SIDE;
            float sum = 0.0f;
            for (int t = 0; t < d.threads; ++t) sum += p.grad(t)[at];
            d.grad_hidden[n * d.width + k] = sum * d.scale;
        }
}

template <int TERMS>
int32_t run(Decoder &d) {
    const Plan p(d);
    const Matrix hidden{d.hidden, d.rows, d.width, nullptr};
    std::vector<double> exact(d.rows);
    std::fill(p.logit, p.logit + p.rows, 0.0f);
    std::fill(p.inverse, p.inverse + p.rows, 0.0f);
    std::fill(p.targets, p.targets + p.rows, -1);
    for (int64_t n = 0; n < d.rows; ++n) {
        exact[n] = target_logit<TERMS>(d, n);
        p.logit[n] = static_cast<float>(exact[n]);
        p.targets[n] = static_cast<int32_t>(d.targets[n]);
    }
    for (int64_t n = 0; n < p.rows / SIDE; ++n)
        pack_right_across<TERMS>(hidden, SIDE * n, p.across, p.hidden_across + n * p.flat);
    in_parallel(d, [&](int t) { sum_exponentials<TERMS>(d, p, t); });
    d.nll = 0.0;
    for (int64_t n = 0; n < d.rows; ++n) {
        double sum = 0.0;
        for (int t = 0; t < d.threads; ++t) sum += p.sums(t)[n];
        if (!std::isfinite(sum) || sum <= 0.0) return 0;
        p.inverse[n] = static_cast<float>(1.0 / sum);
        d.nll += std::log(sum) + p.logit[n] - exact[n];
    }
    if (!d.exponentials) return 1;
    for (int64_t n = 0; n < p.down; ++n)
        pack_right_down<TERMS>(hidden, DEPTH * n, p.input_panels, p.hidden_down + n * TERMS * BYTES, p.tall);
    in_parallel(d, [&](int t) { add_gradients<TERMS>(d, p, t); });
    write_grad_hidden(d, p);
    return 1;
}

}  // namespace

// ---------------------------------------------------------------------------------- entry points

extern "C" {

// Has the processor the instructions, and does the kernel let this process use the registers?
int32_t lmb_decoder_fits(void) {
    unsigned a, b, c, d;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return 0;
    if (!(d >> 22 & 1) || !(d >> 24 & 1)) return 0;  // AMX-BF16, AMX-TILE
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx512bf16") || !__builtin_cpu_supports("avx512bw") ||
        !__builtin_cpu_supports("avx512dq") || !__builtin_cpu_supports("avx512vl"))
        return 0;
    constexpr long ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18;
    return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
}

int64_t lmb_decoder_held(const Decoder *d) {
    const Plan p(*d);
    return p.word_blocks * p.row_blocks * p.held;
}

int64_t lmb_decoder_scratch(const Decoder *d) { return Plan(*d).size(*d); }

// Loss and gradients, or the likelihood alone; 0 where a logit is so far above the target's, or not
// a number, that the sums are not finite: nothing that was written counts then.
int32_t lmb_decoder(Decoder *d) { return d->terms == 1 ? run<1>(*d) : run<3>(*d); }

}  // extern "C"
