// What is done to vectors: cells, quantization, likelihoods. Loops that vectorize by themselves.

#pragma once

#include "types.h"

namespace {

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
#pragma GCC ivdep
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
#pragma GCC ivdep
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
                    hv[j] = s < 0.0f ? 0.0f : s;  // what is no number stays none
                }
            }
        }
    }
}

// A softmax over words of which only a part is known yet: `total` is the sum of exp(x - largest)
// over the logits x so far, `largest` the largest of them or one not far below it, and `chosen` the
// target's, once it is among them.
struct Softmax {
    float largest;
    double total;
    float chosen;
};

// Adds to the softmax of each of n vectors the logits [n][ldo] of the words from `first` on, at
// most 1024: sums are fp32 over lanes, and double from call to call, so that long vocabularies
// lose nothing.
INLINE void add_logits(const float *logits, int n, int words, int64_t ldo, int64_t first,
                       const int64_t *targets, Softmax *softmax) {
    for (int v = 0; v < n; ++v) {
        const float *x = logits + v * ldo;
        Softmax *s = softmax + v;
        float lanes[16];
        for (int l = 0; l < 16; ++l) lanes[l] = s->largest;
        int whole = words / 16 * 16;
        for (int j = 0; j < whole; j += 16)
            for (int l = 0; l < 16; ++l) lanes[l] = x[j + l] > lanes[l] ? x[j + l] : lanes[l];
        float largest = lanes[0];
        for (int l = 1; l < 16; ++l) largest = lanes[l] > largest ? lanes[l] : largest;
        for (int j = whole; j < words; ++j) largest = x[j] > largest ? x[j] : largest;
        if (largest > s->largest) s->total *= exponential(s->largest - largest);
        s->largest = largest;
        for (int l = 0; l < 16; ++l) lanes[l] = 0.0f;
        for (int j = 0; j < whole; j += 16)
            for (int l = 0; l < 16; ++l) lanes[l] += exponential(x[j + l] - largest);
        for (int l = 0; l < 16; ++l) s->total += lanes[l];
        for (int j = whole; j < words; ++j) s->total += exponential(x[j] - largest);
        int64_t at = targets[v] - first;
        if (at >= 0 && at < words) s->chosen = x[at];
    }
}

// Symmetric quantization of each vector to [-127, 127]; what lies beyond `k` is zero.
INLINE void quantize(const float *x, int n, int k, Vectors *out) {
    for (int v = 0; v < n; ++v) {
        const float *xv = x + static_cast<int64_t>(v) * k;
        int64_t at = static_cast<int64_t>(v) * out->stride;
        // Magnitudes are ordered as their bits are, with what is no number above all others.
        int32_t most = 0;
        for (int j = 0; j < k; ++j) {
            int32_t bits;
            std::memcpy(&bits, xv + j, 4);
            bits &= 0x7fffffff;
            most = bits > most ? bits : most;
        }
        float largest;
        std::memcpy(&largest, &most, 4);
        float inverse = largest > 0.0f ? 127.0f / largest : 0.0f;
        out->scale[v] = largest / 127.0f;
        uint8_t *biased = out->biased + at;
        int8_t *bytes = out->bytes + at;
        int16_t *words = out->words + at;
        const float magic = 12582912.0f;
        for (int j = 0; j < k; ++j) {
            // Rounded once, also where a processor would multiply and add apart: a tie has to fall
            // to the same side on all of them.
            int32_t q = static_cast<int32_t>(__builtin_fmaf(xv[j], inverse, magic) - magic);
            words[j] = static_cast<int16_t>(q);
            bytes[j] = static_cast<int8_t>(q);
            biased[j] = static_cast<uint8_t>(q + 128);
        }
        for (int j = k; j < out->stride; ++j) {
            words[j] = 0;
            bytes[j] = 0;
            biased[j] = 0;
        }
        int32_t *sums = out->quad_sums + at / QUAD;
        for (int j = 0; j < out->stride / QUAD; ++j) {
            const int8_t *b = bytes + QUAD * j;
            sums[j] = b[0] + b[1] + b[2] + b[3];
        }
    }
}

INLINE int rows_of(const Matrix *m) { return m->kind == BLOCK_8X8 || m->kind == GATHERED ? 8 : ROWS; }

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

}  // namespace
