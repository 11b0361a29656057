// One vector times a matrix in codes (33,280 x 200), three ways to the same integers: tables of the
// sums of four activations, looked up by the signs of four columns, and tiles made in registers and
// multiplied, as lmbench's kernels do for one vector and for many; and popcounts of the vector's eight
// bits. Needs AVX-512 with VPOPCNTDQ:
//
//     c++ -O3 -std=c++17 -I lmbench/deploy/native benchmarks/code_products.cpp -o /tmp/codes && /tmp/codes

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <random>
#include <vector>

#include "scalar.h"
#include "avx512.h"

#define POPCNT __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vpopcntdq")))

constexpr int ALL = 33280, COLS = 200, QUADS = COLS / QUAD, WORDS = (COLS + 63) / 64;

// Weights as what all minus signs make, and what a plus in each plane adds.
struct Codes {
    int planes;
    std::vector<int8_t> steps;  // [rows][1 + planes]
    std::vector<uint8_t> plus;  // [planes][rows][cols]

    int step(int row, int i) const { return steps[size_t(row) * (1 + planes) + i]; }

    // Calls put(plane, row, column) for each plus.
    template <class F> void each_plus(F put) const {
        for (int i = 0; i < planes; ++i)
            for (int row = 0; row < ALL; ++row)
                for (int c = 0; c < COLS; ++c)
                    if (plus[(size_t(i) * ALL + row) * COLS + c]) put(i, row, c);
    }
};

// As the kernels have it (types.h).
struct Kernel {
    std::vector<int8_t> values;
    std::vector<uint64_t> masks;
    std::vector<float> scale;
    std::vector<int32_t> offsets;
    Matrix m{};

    explicit Kernel(const Codes &c)
        : values(size_t(ALL) * (1 + c.planes) + TILE), masks(size_t(ALL) / ROWS * QUADS * c.planes),
          scale(ALL, 1.0f), offsets(ALL) {
        for (int row = 0; row < ALL; ++row)
            for (int i = 0; i <= c.planes; ++i)
                values[(size_t(row / ROWS) * (1 + c.planes) + i) * ROWS + row % ROWS] = c.step(row, i);
        c.each_plus([&](int i, int row, int col) {
            size_t g = row / ROWS, block = (g / TOGETHER * QUADS + col / QUAD) * c.planes + i;
            masks[block * TOGETHER + g % TOGETHER] |= 1ull << (QUAD * (row % ROWS) + col % QUAD);
        });
        m = {CODES,         ALL,          COLS,    ALL / ROWS, QUADS,        QUADS,         c.planes,
             values.data(), masks.data(), nullptr, nullptr,    scale.data(), offsets.data()};
    }
};

AVX512 void by_tiles(const Matrix *m, const Vectors *x, float *out) {
    for (int g = 0; g < m->groups; ++g) code_group512(m, g, x, 0, nullptr, out, nullptr);
}

// [blocks of 8 rows][planes][words][8], and the steps [blocks][1 + planes][8].
struct Words {
    std::vector<uint64_t> plus;
    std::vector<int32_t> steps;

    explicit Words(const Codes &c)
        : plus(size_t(ALL) * c.planes * WORDS), steps(size_t(ALL) * (1 + c.planes)) {
        for (int row = 0; row < ALL; ++row)
            for (int i = 0; i <= c.planes; ++i)
                steps[(size_t(row / 8) * (1 + c.planes) + i) * 8 + row % 8] = c.step(row, i);
        c.each_plus([&](int i, int row, int col) {
            plus[((size_t(row / 8) * c.planes + i) * WORDS + col / 64) * 8 + row % 8] |= 1ull << col % 64;
        });
    }
};

POPCNT INLINE __m512i eight(const int32_t *p) {
    return _mm512_cvtepi32_epi64(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(p)));
}

template <int P> POPCNT void by_popcount(const Words &w, const uint8_t *x, float *out) {
    uint64_t bits[8][WORDS] = {};
    int64_t sum = 0;
    for (int c = 0; c < COLS; ++c) {
        sum += x[c];
        for (int b = 0; b < 8; ++b) bits[b][c / 64] |= uint64_t(x[c] >> b & 1) << c % 64;
    }
    for (int g = 0; g < ALL / 8; ++g) {
        const uint64_t *plus = &w.plus[size_t(g) * P * WORDS * 8];
        const int32_t *steps = &w.steps[size_t(g) * (1 + P) * 8];
        __m512i signs[P][WORDS], acc[P];
        for (int i = 0; i < P; ++i) {
            acc[i] = _mm512_setzero_si512();
            for (int k = 0; k < WORDS; ++k) signs[i][k] = _mm512_loadu_si512(plus + (i * WORDS + k) * 8);
        }
        for (int b = 7; b >= 0; --b)
            for (int i = 0; i < P; ++i) {
                acc[i] = _mm512_add_epi64(acc[i], acc[i]);
                for (int k = 0; k < WORDS; ++k) {
                    __m512i both = _mm512_and_si512(signs[i][k], _mm512_set1_epi64(bits[b][k]));
                    acc[i] = _mm512_add_epi64(acc[i], _mm512_popcnt_epi64(both));
                }
            }
        __m512i total = _mm512_mullo_epi64(eight(steps), _mm512_set1_epi64(sum));
        for (int i = 0; i < P; ++i)
            total = _mm512_add_epi64(total, _mm512_mullo_epi64(acc[i], eight(steps + 8 * (1 + i))));
        _mm256_storeu_ps(out + 8 * g, _mm512_cvtepi64_ps(total));
    }
}

template <class F> double least_ms(double known, F product) {
    auto began = std::chrono::steady_clock::now();
    product();
    std::chrono::duration<double, std::milli> took = std::chrono::steady_clock::now() - began;
    return std::min(known, took.count());
}

template <int P> bool compare() {
    std::mt19937 random(P);
    Codes codes{P, std::vector<int8_t>(size_t(ALL) * (1 + P)), std::vector<uint8_t>(size_t(P) * ALL * COLS)};
    for (int row = 0; row < ALL; ++row) {
        int8_t *steps = &codes.steps[size_t(row) * (1 + P)];
        for (int i = 1; i <= P; ++i) {
            int scale = 1 + random() % (64 >> i);
            steps[0] -= scale;
            steps[i] = 2 * scale;
        }
    }
    for (auto &plus : codes.plus) plus = random() & 1;
    std::vector<uint8_t> x(256);
    for (int c = 0; c < COLS; ++c) x[c] = random();

    Kernel kernel(codes);
    Words words(codes);
    float one = 1.0f;
    Vectors vector{1, 256, x.data(), nullptr, nullptr, nullptr, &one};
    std::vector<float> out[3] = {std::vector<float>(ALL), std::vector<float>(ALL), std::vector<float>(ALL)};
    std::vector<int8_t> scratch(QUADS * TILE);
    int groups = kernel.m.groups;
    double ms[3] = {1e9, 1e9, 1e9};
    for (int round = 0; round < 300; ++round) {
        ms[0] = least_ms(ms[0], [&] {
            product_avx512(&kernel.m, &vector, nullptr, out[0].data(), ALL, 0, groups, scratch.data());
        });
        ms[1] = least_ms(ms[1], [&] { by_tiles(&kernel.m, &vector, out[1].data()); });
        ms[2] = least_ms(ms[2], [&] { by_popcount<P>(words, x.data(), out[2].data()); });
    }
    bool same = out[0] == out[1] && out[0] == out[2];
    std::printf("%d bits: tables %.3f ms, tiles %.3f ms (%.2fx), popcount %.3f ms (%.2fx)%s\n", P, ms[0],
                ms[1], ms[1] / ms[0], ms[2], ms[2] / ms[0], same ? "" : ", which DIFFER");
    return same;
}

int main() { return compare<1>() && compare<2>() && compare<3>() && compare<4>() ? 0 : 1; }
