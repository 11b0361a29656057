// codes.h on AVX2.

#include <immintrin.h>

#include "codes.h"

#define AVX2 __attribute__((target("avx2,fma")))

namespace {

constexpr int64_t LANES = 8;

// The first `left` lanes.
AVX2 INLINE __m256i lanes(int64_t left) {
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int32_t>(std::min(left, LANES))), lane);
}

AVX2 INLINE __m256 magnitude(__m256 x) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), x); }

// The image of eight weights, of steps that add up to the `count` sums of this row and group.
AVX2 INLINE __m256 image_of(__m256 w, const float *sums, int count, __m256 unit, __m256 inverse) {
    const __m256 size = _mm256_mul_ps(magnitude(w), inverse), zero = _mm256_setzero_ps();
    __m256 level = _mm256_set1_ps(sums[0]);
    for (int i = 1; i < count; ++i) {
        const __m256 between = _mm256_set1_ps((sums[i - 1] + sums[i]) / 2);
        level = _mm256_blendv_ps(level, _mm256_set1_ps(sums[i]), _mm256_cmp_ps(size, between, _CMP_GT_OQ));
    }
    // A pruned weight stays 0, and one that is not a number shows.
    const __m256 sign = _mm256_and_ps(w, _mm256_set1_ps(-0.0f));
    level = _mm256_or_ps(_mm256_mul_ps(level, unit), sign);
    return _mm256_blendv_ps(w, level, _mm256_cmp_ps(w, zero, _CMP_NEQ_OQ));
}

AVX2 void make_image(const Codes &d, int64_t begin, int64_t end) {
    const int64_t groups = groups_of(d);
    for (int64_t r = begin; r < end; ++r) {
        const __m256 unit = _mm256_set1_ps(d.unit[r]), inverse = _mm256_set1_ps(1.0f / d.unit[r]);
        const float *weight = d.weight + r * d.columns;
        float *image = d.image + r * d.columns;
        for (int64_t g = 0; g < groups; ++g) {
            float sums[8];
            const int count = magnitudes(d, r * groups + g, d.rows * groups, sums);
            const int64_t last = std::min(d.columns, (g + 1) * d.group);
            int64_t c = g * d.group;
            for (; c + LANES <= last; c += LANES)
                _mm256_storeu_ps(image + c, image_of(_mm256_loadu_ps(weight + c), sums, count, unit, inverse));
            if (c == last) continue;
            const __m256i there = lanes(last - c);
            const __m256 w = _mm256_maskload_ps(weight + c, there);
            _mm256_maskstore_ps(image + c, there, image_of(w, sums, count, unit, inverse));
        }
    }
}

AVX2 void add_slopes(const Codes &d, int64_t begin, int64_t end) {
    const int64_t groups = groups_of(d);
    for (int64_t at = begin * groups; at < end * groups; ++at) {
        const int64_t r = at / groups, first = at % groups * d.group;
        const int64_t last = std::min(d.columns, first + d.group);
        const float step = d.used[at];
        const __m256 bound = _mm256_set1_ps(step * d.most);
        __m256 sum = _mm256_setzero_ps();
        for (int64_t c = first; c < last; c += LANES) {
            const __m256i there = lanes(last - c);
            const int64_t from = r * d.columns + c;
            const __m256 w = _mm256_maskload_ps(d.weight + from, there);
            const __m256 image = _mm256_maskload_ps(d.image + from, there);
            // Beyond the largest level the image no longer follows the weight.
            const __m256 inside = _mm256_cmp_ps(magnitude(w), bound, _CMP_LE_OQ);
            const __m256 slope = _mm256_sub_ps(image, _mm256_and_ps(inside, w));
            sum = _mm256_fmadd_ps(slope, _mm256_maskload_ps(d.grad + from, there), sum);
        }
        float parts[LANES], total = 0.0f;
        _mm256_storeu_ps(parts, sum);
        for (float part : parts) total += part;
        // A row without any weight has no step.
        d.slopes[at] =
            total / ((step > 0 ? step : 1) * std::sqrt(static_cast<float>((last - first) * d.most)));
    }
}

}  // namespace

extern "C" {

int32_t lmb_codes_fits(void) { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
void lmb_codes_image(const Codes *d) { over_rows(*d, make_image); }
void lmb_codes_slopes(const Codes *d) { over_rows(*d, add_slopes); }

}  // extern "C"
