// A decoder's product, softmax, cross-entropy and all three gradients in fp32 on AVX2, for
// decoder.py: the same two passes over the words as in decoder.cpp, and the same teacher. Where
// AVX-512 multiplies bf16, the first pass may do that; the second is fp32 nevertheless.
//
// A product is made of tiles of 6 x 16 sums, which twelve registers hold. Exponentials, and the
// gradients of the logits that they become, lie in panels of 16 words: [words / 16][rows][16].

#include <immintrin.h>

#include <algorithm>
#include <limits>

#include "decoder.h"

#define AVX2 __attribute__((target("avx2,fma")))
#define BF16 __attribute__((target("avx2,fma,avx512f,avx512bw,avx512vl,avx512bf16")))

namespace {

constexpr int64_t TALL = 6, WIDE = 16, HALF = WIDE / 2;
constexpr int64_t DEEP = 352;  // steps of a contraction at a time: their panel stays in the first cache
constexpr int64_t GROUP = 4;   // panels of words whose gradients are multiplied at a time, in the second
constexpr int64_t FLUSH = 32;  // panels whose exponentials are summed up in fp32

// How everything is cut, and where it lies in the scratch memory.
struct Plan {
    int64_t rows, panels, inputs;  // rounded up to tiles; panels of words; the width with the bias
    int64_t across_steps;          // of the product over the inputs, which in bf16 takes two at a time
    int64_t row_tiles, input_tiles, columns;  // columns: panels of 16 of the hidden rows' gradient
    float *across, *down;     // the hidden rows, packed: contraction over the inputs (or pairs), over the rows
    float *logit, *inverse, *lean;  // [rows]: the target's logit, 1 / sum of exponentials, the teacher's
    int32_t *targets;               // [rows]
    float *own;                     // of the first thread
    int64_t own_size;

    // What a thread has for itself.
    int64_t sums_at, lanes_at, words_at, grad_weight_at, grad_at;

    Plan(const Decoder &d) {
        rows = round_up(d.rows, TALL), panels = round_up(d.words, WIDE) / WIDE, inputs = d.width + 1;
        across_steps = d.terms == 1 ? pairs(d.width) + 1 : inputs;
        row_tiles = rows / TALL, input_tiles = round_up(inputs, TALL) / TALL;
        columns = round_up(d.width, WIDE) / WIDE;
        int64_t at = 0;
        auto take = [&](int64_t numbers) { return at += round_up(numbers, WIDE), at - round_up(numbers, WIDE); };
        float *memory = reinterpret_cast<float *>(d.scratch);
        across = memory + take(rows * across_steps);
        down = memory + take(input_tiles * TALL * rows);
        logit = memory + take(rows), inverse = memory + take(rows), lean = memory + take(rows);
        targets = reinterpret_cast<int32_t *>(memory + take(rows));
        own = memory + at;
        int64_t shared = at;
        at = 0;
        sums_at = take(2 * rows);
        lanes_at = take(rows * HALF);
        words_at = take(std::max(across_steps, columns * GROUP * WIDE) * WIDE);
        grad_weight_at = take(input_tiles * TALL * WIDE);
        grad_at = take(rows * columns * WIDE);
        own_size = at;
        size = (shared + d.threads * own_size) * 4;
    }

    int64_t size;  // bytes
    static int64_t pairs(int64_t width) { return round_up(width, 2) / 2; }
    float *mine(int t) const { return own + t * own_size; }
    double *sums(int t) const { return reinterpret_cast<double *>(mine(t) + sums_at); }
};

using Tile = __m256[TALL][2];

AVX2 INLINE void clear(Tile &sums) {
    for (auto &row : sums) row[0] = row[1] = _mm256_setzero_ps();
}

AVX2 INLINE void load(Tile &sums, const float *from, int64_t stride) {
    for (int i = 0; i < TALL; ++i, from += stride)
        sums[i][0] = _mm256_loadu_ps(from), sums[i][1] = _mm256_loadu_ps(from + HALF);
}

AVX2 INLINE void store(const Tile &sums, float *to, int64_t stride) {
    for (int i = 0; i < TALL; ++i, to += stride)
        _mm256_storeu_ps(to, sums[i][0]), _mm256_storeu_ps(to + HALF, sums[i][1]);
}

// The tile += left times right over `pieces` times `steps` of their depth. The pieces of the left
// operand lie `apart` numbers from one another; its steps STEP and its rows ROW.
template <int STEP, int ROW>
AVX2 INLINE void multiply(Tile &sums, const float *left, int64_t pieces, int64_t apart, int64_t steps,
                          const float *right) {
    for (int64_t p = 0; p < pieces; ++p, left += apart) {
        const float *at = left;
        for (int64_t k = 0; k < steps; ++k, at += STEP, right += WIDE) {
            __m256 low = _mm256_loadu_ps(right), high = _mm256_loadu_ps(right + HALF);
            for (int i = 0; i < TALL; ++i) {
                __m256 x = _mm256_broadcast_ss(at + i * ROW);
                sums[i][0] = _mm256_fmadd_ps(x, low, sums[i][0]);
                sums[i][1] = _mm256_fmadd_ps(x, high, sums[i][1]);
            }
        }
    }
}

// One tile of a long contraction, of steps [k, k + DEEP) of `steps`, summed up in `sums_at`.
AVX2 INLINE void multiply_stretch(const float *left, const float *right, int64_t k, int64_t steps, float *sums_at) {
    Tile sums;
    if (k) load(sums, sums_at, WIDE);
    else clear(sums);
    multiply<TALL, 1>(sums, left + k * TALL, 1, 0, std::min(DEEP, steps - k), right + k * WIDE);
    store(sums, sums_at, WIDE);
}

// A row for the product over the inputs, and the logit of its target.
double pack_row(const Decoder &d, const Plan &, int64_t n, float *to) {
    const float *h = d.hidden + n * d.width, *w = d.weight + d.targets[n] * d.width;
    double logit = d.bias[d.targets[n]];
    for (int64_t k = 0; k < d.width; ++k) {
        logit += static_cast<double>(h[k]) * w[k];
        to[k * TALL] = h[k];
    }
    to[d.width * TALL] = 1.0f;
    return logit;
}

// The words of a panel, and their products with all rows.
AVX2 void multiply_panel(const Decoder &d, const Plan &p, int64_t v, float *words, float *out) {
    for (int64_t i = 0; i < WIDE; ++i) {
        int64_t word = v * WIDE + i;
        const float *from = d.weight + word * d.width;
        bool there = word < d.words;
        for (int64_t k = 0; k < d.width; ++k) words[k * WIDE + i] = there ? from[k] : 0.0f;
        words[d.width * WIDE + i] = there ? d.bias[word] : -std::numeric_limits<float>::infinity();
    }
    for (int64_t k = 0; k < p.inputs; k += DEEP)
        for (int64_t n = 0; n < p.row_tiles; ++n)
            multiply_stretch(p.across + n * TALL * p.inputs, words, k, p.inputs, out + n * TALL * WIDE);
}

#ifndef LMBENCH_NO_BF16

// Two numbers of bf16 in the place of one of fp32, and one of them rounded to it.
BF16 INLINE float pair(float first, float second) {
    return _mm_cvtss_f32((__m128)_mm_cvtneps_pbh(_mm_setr_ps(first, second, 0.0f, 0.0f)));
}

BF16 INLINE float rounded(float x) { return pair(0.0f, x); }

// `width` numbers in pairs of bf16, `stride` pairs from one to the next.
BF16 INLINE void pack_pairs(const float *from, int64_t width, float *to, int64_t stride) {
    for (int64_t k = 0; k < width; k += 16, from += 16) {
        __mmask16 there = width - k < 16 ? (1u << (width - k)) - 1 : 0xffff;
        alignas(32) float pairs[8];
        _mm256_store_si256((__m256i *)pairs, (__m256i)_mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(there, from)));
        for (int64_t i = 0; i < std::min<int64_t>(8, Plan::pairs(width - k)); ++i, to += stride) *to = pairs[i];
    }
}

BF16 double pack_row_in_bf16(const Decoder &d, const Plan &p, int64_t n, float *to) {
    const float *h = d.hidden + n * d.width, *w = d.weight + d.targets[n] * d.width;
    double logit = d.bias[d.targets[n]];
    for (int64_t k = 0; k < d.width; ++k) logit += static_cast<double>(rounded(h[k])) * rounded(w[k]);
    pack_pairs(h, d.width, to, TALL);
    to[(p.across_steps - 1) * TALL] = pair(1.0f, 1.0f);
    return logit;
}

// As `multiply_panel`, of pairs; a bias is the sum of two numbers of bf16.
BF16 void multiply_panel_in_bf16(const Decoder &d, const Plan &p, int64_t v, float *words, float *out) {
    const int64_t last = (p.across_steps - 1) * WIDE;
    for (int64_t i = 0; i < WIDE; ++i) {
        int64_t word = v * WIDE + i;
        if (word < d.words) {
            pack_pairs(d.weight + word * d.width, d.width, words + i, WIDE);
            float bias = rounded(d.bias[word]);
            words[last + i] = pair(bias, d.bias[word] - bias);
        } else {
            for (int64_t k = 0; k < last; k += WIDE) words[k + i] = 0.0f;
            words[last + i] = pair(-std::numeric_limits<float>::infinity(), 0.0f);
        }
    }
    for (int64_t k = 0; k < p.across_steps; k += DEEP)
        for (int64_t n = 0; n < p.row_tiles; ++n) {
            const float *left = p.across + (n * p.across_steps + k) * TALL, *right = words + k * WIDE;
            float *to = out + n * TALL * WIDE;
            Tile sums;
            if (k) load(sums, to, WIDE);
            else clear(sums);
            for (int64_t steps = std::min(DEEP, p.across_steps - k); steps; --steps, left += TALL, right += WIDE) {
                __m256bh low = (__m256bh)_mm256_loadu_ps(right), high = (__m256bh)_mm256_loadu_ps(right + HALF);
                for (int i = 0; i < TALL; ++i) {
                    __m256bh x = (__m256bh)_mm256_broadcast_ss(left + i);
                    sums[i][0] = _mm256_dpbf16_ps(sums[i][0], x, low);
                    sums[i][1] = _mm256_dpbf16_ps(sums[i][1], x, high);
                }
            }
            store(sums, to, WIDE);
        }
}

#else

double pack_row_in_bf16(const Decoder &, const Plan &, int64_t, float *) { return 0.0; }
void multiply_panel_in_bf16(const Decoder &, const Plan &, int64_t, float *, float *) {}

#endif

// exp with a relative error below 3e-7 (Cephes), 0 and infinity where fp32 ends.
AVX2 INLINE __m256 exponential(__m256 x) {
    // The second operand comes back where one is NaN.
    x = _mm256_max_ps(_mm256_set1_ps(-104.0f), _mm256_min_ps(_mm256_set1_ps(89.0f), x));
    __m256 n = _mm256_round_ps(_mm256_mul_ps(x, _mm256_set1_ps(1.44269504f)),
                               _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m256 r = _mm256_fnmadd_ps(n, _mm256_set1_ps(0.693145752f), x);
    r = _mm256_fnmadd_ps(n, _mm256_set1_ps(1.42860677e-6f), r);
    __m256 p = _mm256_set1_ps(1.9875691500e-4f);
    for (float next : {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f})
        p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(next));
    p = _mm256_fmadd_ps(_mm256_mul_ps(p, r), r, _mm256_add_ps(r, _mm256_set1_ps(1.0f)));
    // 2^n as two factors: of a single one the exponent would not hold the ends.
    __m256i whole = _mm256_cvtps_epi32(n), one = _mm256_srai_epi32(whole, 1);
    for (__m256i part : {one, _mm256_sub_epi32(whole, one)})
        p = _mm256_mul_ps(
            p, _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(part, _mm256_set1_epi32(127)), 23)));
    return p;
}

AVX2 void sum_exponentials(const Decoder &d, const Plan &p, int t) {
    float *lanes = p.mine(t) + p.lanes_at, *words = p.mine(t) + p.words_at, *kept = p.mine(t) + p.grad_at;
    double *sums = p.sums(t);
    std::fill(sums, sums + p.rows, 0.0);
    std::fill(lanes, lanes + p.rows * HALF, 0.0f);
    int64_t begin = share(p.panels, d, t), end = share(p.panels, d, t + 1);
    for (int64_t v = begin; v < end; ++v) {
        float *out = d.exponentials ? reinterpret_cast<float *>(d.exponentials) + v * p.rows * WIDE : kept;
        d.terms == 1 ? multiply_panel_in_bf16(d, p, v, words, out) : multiply_panel(d, p, v, words, out);
        for (int64_t n = 0; n < p.rows; ++n) {
            float *at = out + n * WIDE, *lane = lanes + n * HALF;
            __m256 from = _mm256_broadcast_ss(p.logit + n);
            __m256 low = exponential(_mm256_sub_ps(_mm256_loadu_ps(at), from));
            __m256 high = exponential(_mm256_sub_ps(_mm256_loadu_ps(at + HALF), from));
            _mm256_storeu_ps(at, low), _mm256_storeu_ps(at + HALF, high);
            _mm256_storeu_ps(lane, _mm256_add_ps(_mm256_loadu_ps(lane), _mm256_add_ps(low, high)));
        }
        if ((v - begin + 1) % FLUSH && v + 1 < end) continue;
        for (int64_t i = 0; i < p.rows * HALF; ++i) sums[i / HALF] += lanes[i], lanes[i] = 0.0f;
    }
}

// A panel of exponentials, and the teacher's or null, becomes the gradient of the logits.
AVX2 void grade_panel(const Decoder &d, const Plan &p, int64_t v, float *held, const float *taught) {
    const __m256 one = _mm256_set1_ps(1.0f - d.share);
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    for (int64_t n = 0; n < p.rows; ++n)
        for (int64_t at = n * WIDE, word = v * WIDE; at < (n + 1) * WIDE; at += HALF, word += HALF) {
            __m256 g = _mm256_mul_ps(_mm256_loadu_ps(held + at), _mm256_broadcast_ss(p.inverse + n));
            if (taught) g = _mm256_fnmadd_ps(_mm256_loadu_ps(taught + at), _mm256_broadcast_ss(p.lean + n), g);
            __m256i from = _mm256_set1_epi32(static_cast<int32_t>(p.targets[n] - word));
            __m256 hit = _mm256_castsi256_ps(_mm256_cmpeq_epi32(from, lane));
            _mm256_storeu_ps(held + at, _mm256_sub_ps(g, _mm256_and_ps(one, hit)));
        }
}

// The transposed tiles of a panel of words to the gradients.
void write_gradients(const Decoder &d, const float *sums, int64_t v) {
    for (int64_t i = 0, word = v * WIDE; i < std::min(WIDE, d.words - v * WIDE); ++i, ++word) {
        float *to = d.grad_weight + word * d.width, *bias = d.grad_bias + word;
        if (!d.accumulate) std::fill(to, to + d.width, 0.0f), *bias = 0.0f;
        for (int64_t k = 0; k < d.width; ++k) to[k] += sums[k * WIDE + i] * d.scale;
        *bias += sums[d.width * WIDE + i] * d.scale;
    }
}

AVX2 void add_gradients(const Decoder &d, const Plan &p, int t) {
    float *words = p.mine(t) + p.words_at, *sums = p.mine(t) + p.grad_weight_at, *grad = p.mine(t) + p.grad_at;
    std::fill(grad, grad + p.rows * p.columns * WIDE, 0.0f);
    const int64_t panel = p.rows * WIDE, width = p.columns * WIDE;
    int64_t begin = share(p.panels, d, t), end = share(p.panels, d, t + 1);
    for (int64_t v0 = begin; v0 < end; v0 += GROUP) {
        int64_t group = std::min(GROUP, end - v0);
        float *graded = reinterpret_cast<float *>(d.exponentials) + v0 * panel;
        for (int64_t v = 0; v < group; ++v) {
            float *g = graded + v * panel;
            const float *taught = d.teacher ? reinterpret_cast<float *>(d.teacher->exponentials) : nullptr;
            grade_panel(d, p, v0 + v, g, taught ? taught + (v0 + v) * panel : nullptr);
            for (int64_t n = 0; n < p.rows; n += DEEP)
                for (int64_t k = 0; k < p.input_tiles; ++k)
                    multiply_stretch(p.down + k * TALL * p.rows, g, n, p.rows, sums + k * TALL * WIDE);
            write_gradients(d, sums, v0 + v);
        }
        for (int64_t k = 0; k < p.columns; ++k) {
            int64_t here = std::min(WIDE, d.width - k * WIDE);
            for (int64_t i = 0; i < group * WIDE; ++i) {
                int64_t word = v0 * WIDE + i;
                const float *from = d.weight + word * d.width + k * WIDE;
                float *to = words + (k * GROUP * WIDE + i) * WIDE;
                for (int64_t j = 0; j < WIDE; ++j) to[j] = word < d.words && j < here ? from[j] : 0.0f;
            }
            for (int64_t n = 0; n < p.row_tiles; ++n) {
                Tile tile;
                float *to = grad + n * TALL * width + k * WIDE;
                load(tile, to, width);
                multiply<1, WIDE>(tile, graded + n * TALL * WIDE, group, panel, WIDE, words + k * GROUP * WIDE * WIDE);
                store(tile, to, width);
            }
        }
    }
}

// to += factor * from, of `width` numbers.
AVX2 INLINE void add_row(float *__restrict to, const float *__restrict from, float factor, int64_t width) {
    for (int64_t k = 0; k < width; ++k) to[k] += factor * from[k];
}

// The part that one logit has in all gradients.
AVX2 INLINE void add_word(const Decoder &d, const Plan &p, float *grad, int64_t n, int64_t word, float g) {
    add_row(d.grad_weight + word * d.width, d.hidden + n * d.width, g * d.scale, d.width);
    add_row(grad + n * p.columns * WIDE, d.weight + word * d.width, g, d.width);
    d.grad_bias[word] += g * d.scale;
}

AVX2 INLINE float sum_sizes(__m256 a, __m256 b) {
    const __m256 sign = _mm256_set1_ps(-0.0f);
    __m256 both = _mm256_add_ps(_mm256_andnot_ps(sign, a), _mm256_andnot_ps(sign, b));
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(both), _mm256_extractf128_ps(both, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

// An estimate of what add_gradients computes, right on average: systematic sampling. The gradients
// of a row's logits, but for the target's -1, are laid end to end by their size; marks lie 1 / samples
// apart, from a random offset on, and a word stands for as many of them as fall on it.
AVX2 void add_sampled_gradients(const Decoder &d, const Plan &p, int t) {
    float *grad = p.mine(t) + p.grad_at, *since = p.mine(t) + p.lanes_at;  // since the last mark, of each row
    std::fill(grad, grad + p.rows * p.columns * WIDE, 0.0f);
    std::copy(d.offsets, d.offsets + d.rows, since);
    const int64_t panel = p.rows * WIDE, begin = share(p.panels, d, t), end = share(p.panels, d, t + 1);
    for (int64_t v = begin; v < end; ++v) {
        const int64_t first = v * WIDE, here = std::min(WIDE, d.words - first);
        if (!d.accumulate) {
            std::fill(d.grad_weight + first * d.width, d.grad_weight + (first + here) * d.width, 0.0f);
            std::fill(d.grad_bias + first, d.grad_bias + first + here, 0.0f);
        }
        const float *held = reinterpret_cast<float *>(d.exponentials) + v * panel;
        const float *taught = d.teacher ? reinterpret_cast<float *>(d.teacher->exponentials) + v * panel : nullptr;
        for (int64_t n = 0; n < d.rows; ++n) {
            const float *at = held + n * WIDE;
            __m256 own = _mm256_set1_ps(d.samples * p.inverse[n]);
            __m256 low = _mm256_mul_ps(_mm256_loadu_ps(at), own);
            __m256 high = _mm256_mul_ps(_mm256_loadu_ps(at + HALF), own);
            if (taught) {
                const float *theirs = taught + n * WIDE;
                __m256 lean = _mm256_set1_ps(d.samples * p.lean[n]);
                low = _mm256_fnmadd_ps(_mm256_loadu_ps(theirs), lean, low);
                high = _mm256_fnmadd_ps(_mm256_loadu_ps(theirs + HALF), lean, high);
            }
            float next = since[n] + sum_sizes(low, high);
            if (next >= 1.0f) {
                float g[WIDE];
                _mm256_storeu_ps(g, low), _mm256_storeu_ps(g + HALF, high);
                next = since[n];
                for (int64_t i = 0; i < here; ++i) {
                    next += std::fabs(g[i]);
                    if (next < 1.0f) continue;
                    float marks = std::floor(next);
                    next -= marks;
                    add_word(d, p, grad, n, first + i, std::copysign(marks / d.samples, g[i]));
                }
            }
            since[n] = next;
        }
    }
    for (int64_t n = 0; n < d.rows; ++n)
        if (begin <= d.targets[n] / WIDE && d.targets[n] / WIDE < end)
            add_word(d, p, grad, n, d.targets[n], d.share - 1.0f);
}

// The first pass: the exponentials, the inverse of their sums, and the likelihood. False where a
// sum is not finite.
bool predict(Decoder &d, const Plan &p) {
    std::vector<double> exact(d.rows);
    std::fill(p.logit, p.logit + p.rows, 0.0f);
    std::fill(p.inverse, p.inverse + p.rows, 0.0f);
    std::fill(p.targets, p.targets + p.rows, -1);
    in_parallel(d.parallel, d.threads, [&](int t) {
        for (int64_t n = TALL * share(p.row_tiles, d, t); n < TALL * share(p.row_tiles, d, t + 1); ++n) {
            float *to = p.across + n / TALL * TALL * p.across_steps + n % TALL;
            if (n >= d.rows) {
                for (int64_t k = 0; k < p.across_steps; ++k) to[k * TALL] = 0.0f;
                continue;
            }
            exact[n] = d.terms == 1 ? pack_row_in_bf16(d, p, n, to) : pack_row(d, p, n, to);
            p.logit[n] = static_cast<float>(exact[n]);
            p.targets[n] = static_cast<int32_t>(d.targets[n]);
        }
    });
    in_parallel(d.parallel, d.threads, [&](int t) { sum_exponentials(d, p, t); });
    return settle(d, exact, p.logit, p.inverse, [&](int t) { return p.sums(t); });
}

void write_grad_hidden(const Decoder &d, const Plan &p, int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n)
        for (int64_t k = 0; k < d.width; ++k) {
            float sum = 0.0f;
            for (int t = 0; t < d.threads; ++t) sum += p.mine(t)[p.grad_at + n * p.columns * WIDE + k];
            d.grad_hidden[n * d.width + k] = sum * d.scale;
        }
}

}  // namespace

extern "C" {

int32_t lmb_decoder_fits(int32_t terms) {
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return 0;
#ifndef LMBENCH_NO_BF16
    if (terms == 1)
        return __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
               __builtin_cpu_supports("avx512bf16");
#endif
    return terms == 3;
}

int64_t lmb_decoder_held(const Decoder *d) {
    const Plan p(*d);
    return p.panels * p.rows * WIDE * 4;
}

int64_t lmb_decoder_scratch(const Decoder *d) { return Plan(*d).size; }

// See decoder.cpp.
int32_t lmb_decoder(Decoder *given) {
    Decoder &d = *given;
    const Plan p(d);
    if (!predict(d, p)) return 0;
    if (!d.exponentials) return 1;
    if (d.teacher) {
        const Plan taught(*d.teacher);
        if (!predict(*d.teacher, taught)) return 0;
        for (int64_t n = 0; n < p.rows; ++n) p.lean[n] = d.share * taught.inverse[n];
    }
    if (d.offsets) {
        in_parallel(d.parallel, d.threads, [&](int t) { add_sampled_gradients(d, p, t); });
    } else {
        in_parallel(d.parallel, d.threads, [&](int t) {
            for (int64_t k = TALL * share(p.input_tiles, d, t); k < TALL * share(p.input_tiles, d, t + 1); ++k)
                for (int64_t n = 0; n < p.rows; ++n)
                    p.down[(k / TALL * p.rows + n) * TALL + k % TALL] =
                        n >= d.rows || k > d.width ? 0.0f : k == d.width ? 1.0f : d.hidden[n * d.width + k];
        });
        in_parallel(d.parallel, d.threads, [&](int t) { add_gradients(d, p, t); });
    }
    in_parallel(d.parallel, d.threads, [&](int t) {
        write_grad_hidden(d, p, share(d.rows, d, t), share(d.rows, d, t + 1));
    });
    return 1;
}

}  // extern "C"
