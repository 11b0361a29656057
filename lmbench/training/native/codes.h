// The passes over a weight that trains in codes (`lmbench.distiller.quantization.trained_codes`), as codes.py
// calls them: its image, which is torch's to the bit, and the gradients of its learned steps.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>

#include "parallel.h"

namespace {

struct Codes {
    int64_t rows, columns, group;
    int32_t bits, most, threads;
    const float *weight, *unit;  // (rows, columns), (rows)
    const uint8_t *steps;        // (bits, rows, groups), in units
    float *image;                // (rows, columns)
    const float *grad, *used;    // (rows, columns), (rows, groups)
    float *slopes;               // (rows, groups)
    Parallel parallel;
};

int64_t groups_of(const Codes &d) { return (d.columns + d.group - 1) / d.group; }

// The magnitudes that these steps add up to, smallest first; returns how many.
int magnitudes(const Codes &d, int64_t at, int64_t stride, float *found) {
    const int count = 1 << (d.bits - 1);
    for (int signs = 0; signs < count; ++signs) {
        int sum = d.steps[at + (d.bits - 1) * stride];
        for (int i = 0; i + 1 < d.bits; ++i)
            sum += signs >> i & 1 ? d.steps[at + i * stride] : -d.steps[at + i * stride];
        found[signs] = static_cast<float>(std::abs(sum));
    }
    std::sort(found, found + count);
    return count;
}

// A pass over the rows [begin, end) of each thread.
template <class Pass>
void over_rows(const Codes &d, const Pass &pass) {
    in_parallel(d.parallel, d.threads, [&](int t) { pass(d, share(d.rows, d, t), share(d.rows, d, t + 1)); });
}

}  // namespace
