// What decoder.py hands to a kernel, laid out as its `_Decoder` is.

#pragma once

#include <cmath>
#include <vector>

#include "parallel.h"

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
    Decoder *teacher;                     // of other hidden rows and weights; null: none
    float share;                          // the teacher's, 0 without one
    float samples;                        // words a row that the gradients are of, on AVX2
    const float *offsets;                 // [N], uniform in [0, 1), for the samples; null: all words
    Parallel parallel;
    double nll;                           // out: summed over the rows
};

}  // extern "C"

namespace {

// The likelihood, and the inverse of each row's sum, from what the threads have summed of
// exp(logit - the target's logit). False where a sum is not finite.
template <class Sums>
bool settle(Decoder &d, const std::vector<double> &exact, const float *logit, float *inverse, const Sums &sums) {
    d.nll = 0.0;
    for (int64_t n = 0; n < d.rows; ++n) {
        double sum = 0.0;
        for (int t = 0; t < d.threads; ++t) sum += sums(t)[n];
        if (!std::isfinite(sum) || sum <= 0.0) return false;
        inverse[n] = static_cast<float>(1.0 / sum);
        d.nll += std::log(sum) + logit[n] - exact[n];
    }
    return true;
}

}  // namespace
