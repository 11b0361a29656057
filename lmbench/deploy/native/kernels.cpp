// Products of int8, int4 and code matrices with dynamically quantized vectors, and the recurrent step
// built on them. No dependency; compiled on demand by build.py, as one unit, and called by ctypes.
//
// All matrices are kept as tiles of 16 rows x 4 columns (64 bytes, row after row): with the four
// matching activations broadcast, one VNNI instruction multiplies a whole tile and sums it into 16
// lanes, one lane a row, so nothing is ever reduced across lanes. A sparse matrix is the same
// tiles with a 64-bit mask each (VPEXPANDB puts the values in place), a block-sparse one is the
// list of the tiles that are not zero. Without VPEXPANDB a sparse matrix is a list of values in fours,
// each with its place in a window of the activations, which are shuffled to the values. Codes are a
// 64-bit mask a plane, of which tiles are made for a batch, and by which sums of four activations are
// looked up for one vector. AVX2 multiplies a tile in four steps of 16 bits, and 4-bit weights in two
// of 8. Sixteen tiles one after another are what an AMX register holds, so batches are multiplied from
// the same memory. Integer sums are exact, so every instruction set gives the same sums, and batches
// the same results as single vectors.
//
// The caller (matrices.py) lays the tiles out from arrays that are checked already; nothing
// here reads a size from a file.

#include "scalar.h"
#if HAVE_X86
#include "avx2.h"
#endif
#if HAVE_AVX512
#include "avx512.h"
#include "amx.h"
#endif

// The loops of elementwise.h, vectorized for each instruction set.
#if HAVE_X86
namespace {

AVX2 void cells_avx2(int cell, int n, int H, const float *gi, const float *gh, float *h, float *c) {
    cells(cell, n, H, gi, gh, h, c);
}
AVX2 void add_logits_avx2(const float *logits, int n, int words, int64_t ldo, int64_t first,
                          const int64_t *targets, Softmax *softmax) {
    add_logits(logits, n, words, ldo, first, targets, softmax);
}
AVX2 void quantize_avx2(const float *x, int n, int k, Vectors *out) { quantize(x, n, k, out); }

}  // namespace
#endif
#if HAVE_AVX512
namespace {

AVX512 void cells_avx512(int cell, int n, int H, const float *gi, const float *gh, float *h, float *c) {
    cells(cell, n, H, gi, gh, h, c);
}
AVX512 void quantize_avx512(const float *x, int n, int k, Vectors *out) { quantize(x, n, k, out); }

}  // namespace
#endif

namespace {

void any_product(const Matrix *m, const Vectors *x, const float *bias, float *out, int64_t ldo,
                 int first, int last, int isa, int8_t *scratch) {
#if HAVE_X86
    if (isa >= USE_AVX2 && m->kind == GATHERED) return gathered_avx2(m, x, bias, out, ldo, first, last);
#endif
#if HAVE_AVX512
#if HAVE_AMX
    if (isa == USE_AMX) return product_amx(m, x, bias, out, ldo, first, last, scratch);
#endif
    if (isa >= USE_AVX512) return product_avx512(m, x, bias, out, ldo, first, last, scratch);
#endif
#if HAVE_X86
    if (isa == USE_AVX2 && m->kind != BITMASK)
        return product_avx2(m, x, bias, out, ldo, first, last, scratch);
#endif
    product_scalar(m, x, bias, out, ldo, first, last);
}

void any_add_logits(const float *logits, int n, int words, int64_t ldo, int64_t first,
                    const int64_t *targets, Softmax *softmax, int isa) {
#if HAVE_AVX512
    if (isa >= USE_AVX512) return add_logits_avx512(logits, n, words, ldo, first, targets, softmax);
#endif
#if HAVE_X86
    if (isa == USE_AVX2) return add_logits_avx2(logits, n, words, ldo, first, targets, softmax);
#endif
    add_logits(logits, n, words, ldo, first, targets, softmax);
}

// The groups [first, last) of a matrix as one of their own.
Matrix part_of(const Matrix *m, int first, int last) {
    Matrix part = *m;
    int per = rows_of(m), begin = first * per;
    part.groups = last - first;
    part.rows = last * per < m->rows ? part.groups * per : m->rows - begin;
    switch (m->kind) {
    case DENSE: part.values += static_cast<int64_t>(first) * m->quads * TILE; break;
    case CODES:
        part.masks = code_masks(m, first);  // of a multiple of TOGETHER
        part.values = code_steps(m, first, 0);
        break;
    case BITMASK: part.masks += static_cast<int64_t>(first) * m->quads; [[fallthrough]];
    case GATHERED:
    case BLOCK_16X4:
    case BLOCK_8X8: part.starts += first; break;
    case INT4: {
        int scale_groups = scale_groups_of(m);
        part.values += static_cast<int64_t>(first) * m->quads * (TILE / 2);
        part.scale += static_cast<int64_t>(first) * scale_groups * ROWS;
        return part;
    }
    }
    part.scale += begin;
    if (part.offsets) part.offsets += begin;
    return part;
}

// The logits of one vector. A decoder is larger than the second cache, which would hold nothing of
// it that is asked for again if every word went through it from the start. Turning round at each
// end, a word finds there what the one before read last.
constexpr int TURN_GROUPS = 32;

void decode(Model *model, const Vectors *vectors, float *logits, int8_t *scratch, int isa) {
    const Matrix *m = model->decoder;
    // Codes are small, and have their sums by signs made anew for each part.
    int turn = m->kind == CODES ? 4 * TURN_GROUPS : TURN_GROUPS, parts = (m->groups + turn - 1) / turn;
    for (int i = 0; i < parts; ++i) {
        int first = (model->backwards ? parts - 1 - i : i) * turn;
        int last = first + turn < m->groups ? first + turn : m->groups;
        any_product(m, vectors, model->decoder_bias, logits, m->rows, first, last, isa, scratch);
    }
    model->backwards = !model->backwards;
}

}  // namespace

// ---------------------------------------------------------------------------------- entry points

extern "C" {

// The best instruction set of this machine: 0 scalar, 1 AVX2, 2 AVX512 with VNNI and VBMI2, 3 the
// same with AMX for batches.
int32_t lmb_isa(void) {
#if HAVE_X86
    __builtin_cpu_init();
#if HAVE_AVX512
    if (__builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512vbmi2") &&
        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl")) {
#if HAVE_AMX
        if (amx_allowed()) return USE_AMX;
#endif
        return USE_AVX512;
    }
#endif
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return USE_AVX2;
#endif
    return SCALAR;
}

// x [n][k] fp32 to `out`, which has room for n vectors of out->stride elements.
void lmb_quantize(const float *x, int32_t n, int32_t k, Vectors *out, int32_t isa) {
    out->n = n;
#if HAVE_AVX512
    if (isa >= USE_AVX512) return quantize_avx512(x, n, k, out);
#endif
#if HAVE_X86
    if (isa == USE_AVX2) return quantize_avx2(x, n, k, out);
#endif
    quantize(x, n, k, out);
}

// out [n][ldo] = x m^T + bias for the groups of rows in [first, last); bias may be null.
void lmb_product(const Matrix *m, const Vectors *x, const float *bias, float *out, int64_t ldo,
                 int32_t first, int32_t last, int32_t isa, int8_t *scratch) {
    any_product(m, x, bias, out, ldo, first, last, isa, scratch);
}

void lmb_cells(int32_t cell, int32_t n, int32_t H, const float *gi, const float *gh, float *h,
               float *c, int32_t isa) {
#if HAVE_AVX512
    if (isa >= USE_AVX512) return cells_avx512(cell, n, H, gi, gh, h, c);
#endif
#if HAVE_X86
    if (isa == USE_AVX2) return cells_avx2(cell, n, H, gi, gh, h, c);
#endif
    cells(cell, n, H, gi, gh, h, c);
}

// The softmax of x m^T + bias for the groups of rows in [first, last): for each vector one near the
// largest logit, the sum of exp(logit - that one), and the logit of its target, -infinity where the target
// is not in these groups. The logits are never held but for a few groups at a time: `tile` has room
// for n times SCORED_WORDS of them.
constexpr int SCORED_WORDS = 512;

void lmb_score(const Matrix *m, const Vectors *x, const float *bias, const int64_t *targets,
               int32_t first, int32_t last, Softmax *softmax, float *tile, int32_t isa,
               int8_t *scratch) {
    for (int v = 0; v < x->n; ++v) softmax[v] = {-INFINITY, 0.0, -INFINITY};
    int per = rows_of(m), step = SCORED_WORDS / per;
    for (int g = first; g < last; g += step) {
        int end = g + step < last ? g + step : last;
        Matrix part = part_of(m, g, end);
        any_product(&part, x, bias + g * per, tile, SCORED_WORDS, 0, part.groups, isa, scratch);
        any_add_logits(tile, x->n, part.rows, SCORED_WORDS, static_cast<int64_t>(g) * per, targets,
                       softmax, isa);
    }
}

// Row `row` of a matrix as fp32: the embedding of a word. The caller has checked the row.
void lmb_row(const Matrix *m, int64_t row, float *out) {
    int per = rows_of(m), r = static_cast<int>(row % per);
    int64_t g = row / per;
    if (m->kind == INT4) {
        int scale_groups = scale_groups_of(m);
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
    if (m->kind == CODES) {
        for (int j = 0; j < m->cols; ++j)
            out[j] = static_cast<float>(code_value(m, static_cast<int>(g), r, j / QUAD, j % QUAD)) * scale;
        return;
    }
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
    if (m->kind == GATHERED) {
        for (int64_t b = m->starts[g]; b < m->starts[g + 1]; ++b) {
            const int8_t *values = m->values + b * TILE + QUAD * r;
            for (int c = 0; c < QUAD; ++c)
                if (values[c])
                    out[m->places[b] + window_at(values[TILE / 2 + c])] = static_cast<float>(values[c]) * scale;
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

// Rows `ids` [n] of a matrix as fp32, out [n][cols].
void lmb_rows(const Matrix *m, const int64_t *ids, int32_t n, float *out) {
    for (int32_t i = 0; i < n; ++i) lmb_row(m, ids[i], out + static_cast<int64_t>(i) * m->cols);
}

// A layer over a window of `steps` words of `batch` texts. gi [steps][batch][gates * H] are the
// inputs' products; gh has room for one step of the state's; h, c [batch][H] are updated in place,
// and out [steps][batch][H] gets each h; `vectors` has room for the batch.
void lmb_layer(const Layer *layer, int32_t cell, int32_t H, int32_t steps, int32_t batch,
               const float *gi, float *gh, float *h, float *c, float *out, Vectors *vectors,
               int8_t *scratch, int32_t isa) {
    int64_t gates = layer->hidden.rows, state = static_cast<int64_t>(batch) * H;
    for (int32_t t = 0; t < steps; ++t) {
        lmb_quantize(h, batch, H, vectors, isa);
        lmb_product(&layer->hidden, vectors, layer->bias_hidden, gh, gates, 0,
                    layer->hidden.groups, isa, scratch);
        lmb_cells(cell, batch, H, gi + t * batch * gates, gh, h, c, isa);
        std::memcpy(out + t * state, h, sizeof(float) * state);
    }
}

// One word through the whole model. h, c [layers][H] are updated in place; logits [vocabulary];
// work has room for max(embedding, H) + 2 gates * H floats; vectors for one vector of the largest width.
void lmb_step(Model *model, int64_t word, float *h, float *c, float *logits, float *work,
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
    if (model->projection) {
        lmb_quantize(x, 1, width, vectors, isa);
        lmb_product(model->projection, vectors, nullptr, embedded, model->projection->rows, 0,
                    model->projection->groups, isa, scratch);
        x = embedded;
        width = model->projection->rows;
    }
    lmb_quantize(x, 1, width, vectors, isa);
    decode(model, vectors, logits, scratch, isa);
}

}  // extern "C"
