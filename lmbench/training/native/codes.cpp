// codes.h on AVX512, where AMX is.

#include "codes.h"
#include "tiles.h"

namespace {

AMX void make_image(const Codes &d, int64_t begin, int64_t end) {
    const int64_t groups = groups_of(d);
    for (int64_t r = begin; r < end; ++r) {
        const __m512 unit = _mm512_set1_ps(d.unit[r]), inverse = _mm512_set1_ps(1.0f / d.unit[r]);
        for (int64_t g = 0; g < groups; ++g) {
            float sums[8];
            const int count = magnitudes(d, r * groups + g, d.rows * groups, sums);
            const int64_t last = std::min(d.columns, (g + 1) * d.group);
            for (int64_t c = g * d.group; c < last; c += 16) {
                const __mmask16 there = lane_mask(last - c);
                const __m512 w = _mm512_maskz_loadu_ps(there, d.weight + r * d.columns + c);
                const __m512 size = _mm512_mul_ps(_mm512_abs_ps(w), inverse);
                __m512 level = _mm512_set1_ps(sums[0]);
                for (int i = 1; i < count; ++i) {
                    const __m512 between = _mm512_set1_ps((sums[i - 1] + sums[i]) / 2);
                    level = _mm512_mask_mov_ps(level, _mm512_cmp_ps_mask(size, between, _CMP_GT_OQ),
                                               _mm512_set1_ps(sums[i]));
                }
                // A pruned weight stays 0, and one that is not a number shows.
                const __m512 sign = _mm512_and_ps(w, _mm512_set1_ps(-0.0f));
                level = _mm512_or_ps(_mm512_mul_ps(level, unit), sign);
                const __m512 zero = _mm512_setzero_ps();
                level = _mm512_mask_mov_ps(w, _mm512_cmp_ps_mask(w, zero, _CMP_NEQ_OQ), level);
                _mm512_mask_storeu_ps(d.image + r * d.columns + c, there, level);
            }
        }
    }
}

AMX void add_slopes(const Codes &d, int64_t begin, int64_t end) {
    const int64_t groups = groups_of(d);
    for (int64_t at = begin * groups; at < end * groups; ++at) {
        const int64_t r = at / groups, first = at % groups * d.group;
        const int64_t last = std::min(d.columns, first + d.group);
        const float step = d.used[at];
        const __m512 bound = _mm512_set1_ps(step * d.most);
        __m512 sum = _mm512_setzero_ps();
        for (int64_t c = first; c < last; c += 16) {
            const __mmask16 there = lane_mask(last - c);
            const int64_t from = r * d.columns + c;
            const __m512 w = _mm512_maskz_loadu_ps(there, d.weight + from);
            const __m512 image = _mm512_maskz_loadu_ps(there, d.image + from);
            // Beyond the largest level the image no longer follows the weight.
            const __mmask16 inside = _mm512_cmp_ps_mask(_mm512_abs_ps(w), bound, _CMP_LE_OQ);
            const __m512 slope = _mm512_mask_sub_ps(image, inside, image, w);
            sum = _mm512_fmadd_ps(slope, _mm512_maskz_loadu_ps(there, d.grad + from), sum);
        }
        // A row without any weight has no step.
        const float over = (step > 0 ? step : 1) * std::sqrt(static_cast<float>((last - first) * d.most));
        d.slopes[at] = _mm512_reduce_add_ps(sum) / over;
    }
}

}  // namespace

extern "C" {

int32_t lmb_codes_fits(void) { return tiles_allowed(); }
void lmb_codes_image(const Codes *d) { over_rows(*d, make_image); }
void lmb_codes_slopes(const Codes *d) { over_rows(*d, add_slopes); }

}  // extern "C"
