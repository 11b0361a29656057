// A decoder's product, softmax, cross-entropy and all three gradients on AMX, for decoder.py.
//
// The rows of a window (N of them, H wide) meet a vocabulary of V words. Two passes over the words:
// the first leaves exp(logit - the target's logit) and sums it up, the second turns that into the
// gradient of the logits, a few hundred words at a time, and multiplies it while it is in the
// cache. The bias is the weight of one more input, which is always 1.
//
// With a teacher, a decoder of the same rows and words, the first pass is made over it too, and the
// gradient of the logits is that of (1 - share) * cross-entropy + share * KL(teacher || student).

#include "decoder.h"
#include "tiles.h"

namespace {

// Bytes of the hidden rows that stay in the second cache while all words pass by.
constexpr int64_t HELD = 1 << 20;

// How everything is cut, and where it lies in the scratch memory.
struct Plan {
    int64_t rows, words, inputs;           // rounded up to blocks; the width with the bias
    int64_t across, down;                  // tiles over the inputs, and over the rows
    int64_t word_blocks, row_blocks, input_panels;
    int64_t held;                          // bytes of a block of exponentials, 32 words x 32 rows
    int64_t flat, tall, deep;              // bytes of a panel over inputs, rows, a group of words
    int64_t at_once;                       // blocks of words whose gradients are multiplied at a time
    uint8_t *hidden_across, *hidden_down;  // packed: contraction over the inputs, over the rows
    float *logit, *inverse;                // [rows]: the target's logit, 1 / sum of exponentials
    float *lean;                           // [rows]: the factor of the teacher's exponentials
    int32_t *targets;                      // [rows]
    uint8_t *own;                          // of the first thread
    int64_t own_size;

    // What a thread has for itself.
    int64_t sums_at, work_at, grad_at;

    Plan(const Decoder &d) {
        int64_t terms = d.terms;
        rows = round_up(d.rows, BLOCK), words = round_up(d.words, BLOCK), inputs = round_up(d.width + 1, BLOCK);
        across = inputs / TILE_DEPTH, down = rows / TILE_DEPTH;
        word_blocks = words / BLOCK, row_blocks = rows / BLOCK, input_panels = inputs / TILE_ROWS;
        held = BLOCK * BLOCK * (terms == 1 ? 2 : 4);
        flat = across * terms * BYTES, tall = down * terms * BYTES, deep = GROUP * terms * BYTES;
        int64_t at = 0;
        auto take = [&](int64_t bytes) { return at += round_up(bytes, LINE), at - round_up(bytes, LINE); };
        int64_t one = take(rows / TILE_ROWS * flat), two = take(input_panels * tall);
        int64_t three = take(rows * 4), four = take(rows * 4), five = take(rows * 4), six = take(rows * 4);
        hidden_across = d.scratch + one, hidden_down = d.scratch + two;
        logit = reinterpret_cast<float *>(d.scratch + three);
        inverse = reinterpret_cast<float *>(d.scratch + four);
        targets = reinterpret_cast<int32_t *>(d.scratch + five);
        lean = reinterpret_cast<float *>(d.scratch + six);
        own = d.scratch + at;
        at = 0;
        sums_at = take(rows * 8);
        grad_at = take(rows * inputs * 4);
        int64_t forward = 2 * GROUP * flat + GROUP * 4 * SUMS * 4;
        at_once = input_panels * tall <= HELD ? 1 : GROUP;
        int64_t backward = 2 * GROUP * tall + (rows / TILE_ROWS + input_panels) * deep + BLOCK * inputs * 4;
        work_at = take(std::max(forward, backward));
        own_size = at;
    }

    int64_t size(const Decoder &d) const { return own - d.scratch + d.threads * own_size; }
    double *sums(int t) const { return reinterpret_cast<double *>(own + t * own_size + sums_at); }
    float *grad(int t) const { return reinterpret_cast<float *>(own + t * own_size + grad_at); }
    uint8_t *work(int t) const { return own + t * own_size + work_at; }
};

// ------------------------------------------------------------------------------------ the passes

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
        __mmask16 there = lane_mask(d.width - k);
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

template <int TERMS>
AMX void sum_exponentials(const Decoder &d, const Plan &p, int t) {
    begin_tiles();
    const Matrix weight{d.weight, d.words, d.width, d.width, Matrix::EACH, d.bias};
    int64_t begin = share(p.word_blocks, d, t), end = share(p.word_blocks, d, t + 1);
    uint8_t *panels = p.work(t);
    double *sums = p.sums(t);
    float *waiting = reinterpret_cast<float *>(panels + 2 * GROUP * p.flat);
    const int64_t stretch = stretch_of<TERMS>(p.across), apart = stretch < p.across ? 4 * SUMS : 0;
    std::fill(sums, sums + p.rows, 0.0);
    for (int64_t v0 = begin; v0 < end; v0 += GROUP) {
        int64_t blocks = std::min(GROUP, end - v0);
        for (int64_t i = 0; i < 2 * blocks; ++i)
            pack_left<TERMS>(weight, BLOCK * v0 + TILE_ROWS * i, p.across, panels + i * p.flat);
        memory_barrier();
        for (int64_t n = 0; n < p.row_blocks; ++n) {
            const uint8_t *right = p.hidden_across + 2 * n * p.flat;
            __m512 from0 = _mm512_load_ps(p.logit + BLOCK * n);
            __m512 from1 = _mm512_load_ps(p.logit + BLOCK * n + 16);
            __m512 sum0 = _mm512_setzero_ps(), sum1 = sum0;
            int64_t last = (p.across - 1) / stretch * stretch;
            for (int64_t k = 0; k < last; k += stretch)
                for (int64_t v = 0; v < blocks; ++v)
                    multiply_stretch<TERMS>(panels + 2 * v * p.flat, right, p.flat, k, stretch, p.across,
                                            waiting + v * apart);
            for (int64_t v = 0; v < blocks; ++v) {
                float *z = waiting + v * apart;
                multiply_stretch<TERMS>(panels + 2 * v * p.flat, right, p.flat, last, stretch, p.across, z);
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

// Row i of a block of exponentials, in the numbers of a register.
template <int TERMS>
AMX INLINE void read_held(const uint8_t *held, int i, __m512 *low, __m512 *high) {
    if (TERMS == 1) {
        widen(_mm512_load_si512(held + LINE * i), low, high);
    } else {
        *low = _mm512_load_ps(held + 2 * LINE * i);
        *high = _mm512_load_ps(held + 2 * LINE * i + LINE);
    }
}

// A block of exponentials, and the teacher's or null, to the gradient of the logits, as a tile of
// two left panels over the rows (`by_word`, `tall` apart) and a tile of two left panels over the
// words (`by_row`, `deep` apart).
template <int TERMS>
AMX INLINE void grade_block(const Plan &p, float share, const uint8_t *held, const uint8_t *taught,
                            int64_t word, int64_t n, uint8_t *by_word, uint8_t *by_row) {
    __m512 inverse0 = _mm512_load_ps(p.inverse + BLOCK * n);
    __m512 inverse1 = _mm512_load_ps(p.inverse + BLOCK * n + 16);
    __m512i target0 = _mm512_load_si512(p.targets + BLOCK * n);
    __m512i target1 = _mm512_load_si512(p.targets + BLOCK * n + 16);
    __m512 lean0 = _mm512_load_ps(p.lean + BLOCK * n), lean1 = _mm512_load_ps(p.lean + BLOCK * n + 16);
    const __m512 one = _mm512_set1_ps(1.0f - share);
    __m512i upper[TERMS] = {}, left[TERMS][TILE_ROWS], right[TERMS][TILE_ROWS];
    for (int i = 0; i < BLOCK; ++i) {
        __m512 g0, g1;
        read_held<TERMS>(held, i, &g0, &g1);
        g0 = _mm512_mul_ps(g0, inverse0), g1 = _mm512_mul_ps(g1, inverse1);
        if (taught) {
            __m512 t0, t1;
            read_held<TERMS>(taught, i, &t0, &t1);
            g0 = _mm512_fnmadd_ps(t0, lean0, g0), g1 = _mm512_fnmadd_ps(t1, lean1, g1);
        }
        __m512i here = _mm512_set1_epi32(static_cast<int32_t>(word + i));
        g0 = _mm512_mask_sub_ps(g0, _mm512_cmpeq_epi32_mask(target0, here), g0, one);
        g1 = _mm512_mask_sub_ps(g1, _mm512_cmpeq_epi32_mask(target1, here), g1, one);
        __m512i terms[TERMS];
        split<TERMS>(g0, g1, terms);
        uint8_t *at = by_word + i / TILE_ROWS * p.tall + LINE * (i % TILE_ROWS);
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
        for (int i = 0; i < TILE_ROWS; ++i) {
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
            int64_t at = TILE_ROWS * (k + half), there = d.width - at;
            if (there < 0) continue;
            __mmask16 mask = lane_mask(there);
            float *to = d.grad_weight + (word + i) * d.width + at;
            __m512 value = _mm512_mul_ps(_mm512_load_ps(from), scale);
            if (d.accumulate) value = _mm512_add_ps(value, _mm512_maskz_loadu_ps(mask, to));
            _mm512_mask_storeu_ps(to, mask, value);
            if (there >= TILE_ROWS) continue;
            float bias = from[there] * d.scale;
            d.grad_bias[word + i] = d.accumulate ? d.grad_bias[word + i] + bias : bias;
        }
}

template <int TERMS>
AMX void add_gradients(const Decoder &d, const Plan &p, int t) {
    begin_tiles();
    const Matrix weight{d.weight, d.words, d.width, d.width, Matrix::EACH, d.bias};
    int64_t begin = share(p.word_blocks, d, t), end = share(p.word_blocks, d, t + 1);
    uint8_t *by_word = p.work(t), *by_row = by_word + 2 * GROUP * p.tall;
    uint8_t *words = by_row + p.rows / TILE_ROWS * p.deep;
    float *waiting = reinterpret_cast<float *>(words + p.input_panels * p.deep), *grad = p.grad(t);
    const int64_t stretch = p.at_once > 1 ? p.down : stretch_of<TERMS>(p.down);
    const int64_t apart = stretch < p.down ? 2 * SUMS : 0;
    std::fill(grad, grad + p.rows * p.inputs, 0.0f);
    for (int64_t v0 = begin; v0 < end; v0 += GROUP) {
        int64_t blocks = std::min(GROUP, end - v0);
        for (int64_t v = 0; v < blocks; ++v) {
            int64_t tile = v * TERMS * BYTES, word = BLOCK * (v0 + v);
            pack_right_down<TERMS>(weight, word, p.input_panels, words + tile, p.deep);
            for (int64_t n = 0; n < p.row_blocks; ++n) {
                int64_t at = ((v0 + v) * p.row_blocks + n) * p.held;
                grade_block<TERMS>(p, d.share, d.exponentials + at,
                                   d.teacher ? d.teacher->exponentials + at : nullptr, word, n,
                                   by_word + 2 * (v % p.at_once) * p.tall + n * TERMS * BYTES,
                                   by_row + 2 * n * p.deep + tile);
            }
            if ((v + 1) % p.at_once && v + 1 < blocks) continue;
            memory_barrier();
            int64_t first = v / p.at_once * p.at_once;
            for (int64_t n = 0; n < p.down; n += stretch)
                for (int64_t k = 0; k < p.input_panels; k += 2)
                    for (int64_t i = first; i <= v; ++i) {
                        float *sums = waiting + k * apart;
                        multiply_stretch<TERMS>(by_word + 2 * (i - first) * p.tall, p.hidden_down + k * p.tall,
                                                p.tall, n, stretch, p.down, sums);
                        if (n + stretch >= p.down) write_gradients(d, sums, BLOCK * (v0 + i), k);
                    }
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

void write_grad_hidden(const Decoder &d, const Plan &p, int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n)
        for (int64_t k = 0; k < d.width; ++k) {
            int64_t at = (n / BLOCK * p.input_panels + k / BLOCK * 2) * 2 * SUMS +
                         n % BLOCK / TILE_ROWS * 2 * SUMS + k % BLOCK / TILE_ROWS * SUMS + n % TILE_ROWS * TILE_ROWS +
                         k % TILE_ROWS;
            float sum = 0.0f;
            for (int t = 0; t < d.threads; ++t) sum += p.grad(t)[at];
            d.grad_hidden[n * d.width + k] = sum * d.scale;
        }
}

// The first pass: the exponentials, the inverse of their sums, and the likelihood. False where a
// sum is not finite.
template <int TERMS>
bool predict(Decoder &d, const Plan &p) {
    const Matrix hidden{d.hidden, d.rows, d.width, d.width, Matrix::ONES};
    std::vector<double> exact(d.rows);
    std::fill(p.logit, p.logit + p.rows, 0.0f);
    std::fill(p.inverse, p.inverse + p.rows, 0.0f);
    std::fill(p.targets, p.targets + p.rows, -1);
    in_parallel(d.parallel, d.threads, [&](int t) {
        for (int64_t n = share(d.rows, d, t); n < share(d.rows, d, t + 1); ++n) {
            exact[n] = target_logit<TERMS>(d, n);
            p.logit[n] = static_cast<float>(exact[n]);
            p.targets[n] = static_cast<int32_t>(d.targets[n]);
        }
        int64_t panels = p.rows / TILE_ROWS;
        for (int64_t n = share(panels, d, t); n < share(panels, d, t + 1); ++n)
            pack_right_across<TERMS>(hidden, TILE_ROWS * n, p.across, p.hidden_across + n * p.flat);
    });
    in_parallel(d.parallel, d.threads, [&](int t) { sum_exponentials<TERMS>(d, p, t); });
    return settle(d, exact, p.logit, p.inverse, [&](int t) { return p.sums(t); });
}

template <int TERMS>
int32_t run(Decoder &d) {
    const Plan p(d);
    if (!predict<TERMS>(d, p)) return 0;
    if (!d.exponentials) return 1;
    std::fill(p.lean, p.lean + p.rows, 0.0f);
    if (d.teacher) {
        const Plan taught(*d.teacher);
        if (!predict<TERMS>(*d.teacher, taught)) return 0;
        for (int64_t n = 0; n < d.rows; ++n) p.lean[n] = d.share * taught.inverse[n];
    }
    const Matrix hidden{d.hidden, d.rows, d.width, d.width, Matrix::ONES};
    in_parallel(d.parallel, d.threads, [&](int t) {
        for (int64_t n = share(p.down, d, t); n < share(p.down, d, t + 1); ++n)
            pack_right_down<TERMS>(hidden, TILE_DEPTH * n, p.input_panels,
                                   p.hidden_down + n * TERMS * BYTES, p.tall);
    });
    in_parallel(d.parallel, d.threads, [&](int t) { add_gradients<TERMS>(d, p, t); });
    in_parallel(d.parallel, d.threads, [&](int t) {
        write_grad_hidden(d, p, share(d.rows, d, t), share(d.rows, d, t + 1));
    });
    return 1;
}

}  // namespace

// ---------------------------------------------------------------------------------- entry points

extern "C" {

// May it be used, with operands of so many terms?
int32_t lmb_decoder_fits(int32_t) { return tiles_allowed(); }

int64_t lmb_decoder_held(const Decoder *d) {
    const Plan p(*d);
    return p.word_blocks * p.row_blocks * p.held;
}

int64_t lmb_decoder_scratch(const Decoder *d) { return Plan(*d).size(*d); }

// Loss and gradients, or the likelihood alone; 0 where a logit is so far above the target's, or not
// a number, that the sums are not finite: nothing that was written counts then.
int32_t lmb_decoder(Decoder *d) { return d->terms == 1 ? run<1>(*d) : run<3>(*d); }

}  // extern "C"
