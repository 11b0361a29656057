// A layer of an LSTM over a window, and its gradients, on AMX, for lstm.py. The equations are those
// of torch.nn.LSTM; gates, cells and sums are fp32.
//
// Inside, everything stands unit by unit: a row for each unit, a column for each text at each step,
// so that the texts of a step are the lanes of a register. A thread has some of the units, all four
// gates of them, and their weights of the state stay in its second cache over all steps.

#include "tiles.h"

extern "C" {

struct Layer {
    int64_t steps, batch, inputs, width;    // T, B, E, H; N is T B
    int32_t terms, threads;
    const float *x, *h, *c;                 // [N][E], [B][H], [B][H]
    const float *w_ih, *w_hh, *b_ih, *b_hh;
    float *gates;                           // [4 H][lmb_lstm_columns], kept for the gradients
    float *hidden, *cells;                  // [H][the same]: the state before each step and after
    float *out, *last_c;                    // [N][H], [B][H]
    const float *grad;                      // [N][H], of `out`
    float *grad_x, *grad_w_ih, *grad_w_hh;
    float *grad_bias;                       // [4 H], of either bias
    uint8_t *scratch;                       // at a 64-byte border
    Parallel parallel;
};

}  // extern "C"

namespace {

constexpr int GATES = 4;

// How everything is cut, and where it lies in the scratch memory.
struct Plan {
    int64_t columns, rows;                 // N; of all gates, 4 H
    int64_t stride;                        // of what stands unit by unit
    int64_t lanes;                         // texts, rounded up to blocks
    int64_t unit_panels, input_panels, column_panels, row_panels;
    int64_t over_inputs, over_units, over_gates, over_rows, over_columns;  // steps of a contraction
    int64_t tile;                          // bytes of all terms of a tile
    uint8_t *left, *right, *more;          // operands that all threads read
    uint8_t *state;                        // the state of a step, or its gates' gradients, twice
    float *grad_cell;                      // [unit_panels * 16][lanes]
    uint8_t *own;                          // of the first thread
    int64_t own_size;

    Plan(const Layer &d, bool backward) {
        columns = d.steps * d.batch, rows = GATES * d.width;
        stride = round_up(columns + d.batch, BLOCK) + BLOCK;
        lanes = round_up(d.batch, BLOCK);
        unit_panels = round_up(d.width, BLOCK) / TILE_ROWS, input_panels = round_up(d.inputs, BLOCK) / TILE_ROWS;
        column_panels = round_up(columns, BLOCK) / TILE_ROWS, row_panels = round_up(rows, BLOCK) / TILE_ROWS;
        over_inputs = round_up(d.inputs, TILE_DEPTH) / TILE_DEPTH, over_units = unit_panels / 2;
        over_gates = GATES * over_units, over_rows = row_panels / 2, over_columns = column_panels / 2;
        tile = d.terms * BYTES;
        int64_t at = 0;
        auto take = [&](int64_t bytes) { return at += round_up(bytes, LINE), at - round_up(bytes, LINE); };
        int64_t of_left, of_right, of_more = 0, of_state, own_bytes;
        if (backward) {
            of_left = take(std::max(unit_panels * over_gates, column_panels * over_rows) * tile);
            of_right = take(std::max(input_panels * over_columns, input_panels * over_rows) * tile);
            of_more = take(unit_panels * over_columns * tile);
            of_state = take(2 * lanes / TILE_ROWS * over_gates * tile);
            own_bytes = 2 * GROUP * over_columns * tile;
        } else {
            of_left = take(GATES * unit_panels * over_units * tile);
            of_right = take(column_panels * over_inputs * tile);
            of_state = take(2 * lanes / TILE_ROWS * over_units * tile);
            own_bytes = 2 * GROUP * over_inputs * tile;
        }
        int64_t of_cell = take(unit_panels * TILE_ROWS * lanes * 4);
        left = d.scratch + of_left, right = d.scratch + of_right, more = d.scratch + of_more;
        state = d.scratch + of_state, grad_cell = reinterpret_cast<float *>(d.scratch + of_cell);
        own = d.scratch + at;
        own_size = round_up(own_bytes, LINE);
    }

    int64_t size(const Layer &d) const { return own - d.scratch + d.threads * own_size; }
    uint8_t *work(int t) const { return own + t * own_size; }
};

AMX INLINE __m512 sigmoid(__m512 x) {
    const __m512 one = _mm512_set1_ps(1.0f);
    __m512 e = exponential(_mm512_sub_ps(_mm512_setzero_ps(), x));
    return _mm512_div_ps(one, _mm512_add_ps(one, e));
}

// Sums of four tiles, 32 rows by 32 columns, to a matrix, of which `rows` by `columns` are there.
AMX INLINE void store_block(const float *sums, float *to, int64_t stride, int64_t rows, int64_t columns) {
    for (int i = 0; i < std::min(rows, BLOCK); ++i) {
        const float *from = row_of(sums, i);
        _mm512_mask_storeu_ps(to + i * stride, lane_mask(columns), _mm512_load_ps(from));
        _mm512_mask_storeu_ps(to + i * stride + TILE_ROWS, lane_mask(columns - TILE_ROWS), _mm512_load_ps(from + SUMS));
    }
}

// 16 units of 16 texts, as they are computed, to rows of texts: to [text][stride].
AMX INLINE void store_transposed(const __m512 *units, float *to, int64_t stride, int64_t texts, __mmask16 there) {
    __m512i r[TILE_ROWS];
    for (int i = 0; i < TILE_ROWS; ++i) r[i] = _mm512_castps_si512(units[i]);
    transpose(r);
    for (int64_t b = 0; b < std::min(texts, TILE_ROWS); ++b)
        _mm512_mask_storeu_ps(to + b * stride, there, _mm512_castsi512_ps(r[b]));
}

AMX INLINE void load_transposed(const float *from, int64_t stride, int64_t texts, __mmask16 there, __m512 *units) {
    __m512i r[TILE_ROWS];
    for (int64_t b = 0; b < TILE_ROWS; ++b)
        r[b] = b < texts ? _mm512_castps_si512(_mm512_maskz_loadu_ps(there, from + b * stride))
                         : _mm512_setzero_si512();
    transpose(r);
    for (int i = 0; i < TILE_ROWS; ++i) units[i] = _mm512_castsi512_ps(r[i]);
}

// 16 units of 32 texts as rows of a right operand that is contracted over the units; `row` is the
// unit's place in that, a multiple of 16, and `panel` bytes lie between its two panels.
template <int TERMS>
AMX INLINE void pack_units(const __m512 (*units)[2], int64_t row, uint8_t *right, int64_t panel) {
    uint8_t *tile = right + row / TILE_DEPTH * TERMS * BYTES + LINE * (row % TILE_DEPTH / 2);
    for (int i = 0; i < TILE_ROWS / 2; ++i) {
        __m512i upper[TERMS], lower[TERMS], one, two;
        split<TERMS>(units[2 * i][0], units[2 * i][1], upper);
        split<TERMS>(units[2 * i + 1][0], units[2 * i + 1][1], lower);
        for (int s = 0; s < TERMS; ++s) {
            pair(upper[s], lower[s], &one, &two);
            _mm512_store_si512(tile + s * BYTES + LINE * i, one);
            _mm512_store_si512(tile + panel + s * BYTES + LINE * i, two);
        }
    }
}

// -------------------------------------------------------------------------------------- forward

// What the inputs of all steps add to the gates of the thread's share of their rows.
template <int TERMS>
AMX void add_inputs(const Layer &d, const Plan &p, int t) {
    begin_tiles();
    const Matrix weight{d.w_ih, p.rows, d.inputs, d.inputs};
    int64_t begin = share(p.row_panels / 2, d, t), end = share(p.row_panels / 2, d, t + 1);
    int64_t panel = p.over_inputs * p.tile;
    uint8_t *work = p.work(t);
    alignas(64) float sums[4 * SUMS];
    for (int64_t r0 = begin; r0 < end; r0 += GROUP) {
        int64_t blocks = std::min(GROUP, end - r0);
        for (int64_t i = 0; i < 2 * blocks; ++i)
            pack_left<TERMS>(weight, BLOCK * r0 + TILE_ROWS * i, p.over_inputs, work + i * panel);
        memory_barrier();
        for (int64_t n = 0; n < p.column_panels; n += 2)
            for (int64_t r = 0; r < blocks; ++r) {
                const uint8_t *left = work + 2 * r * panel, *right = p.right + n * panel;
                zero();
                multiply<TERMS>(left, left + panel, right, right + panel, p.over_inputs);
                keep(sums);
                int64_t row = BLOCK * (r0 + r);
                store_block(sums, d.gates + row * p.stride + TILE_ROWS * n, p.stride, p.rows - row,
                            p.columns - TILE_ROWS * n);
            }
    }
    _tile_release();
}

// The thread's units of a step: panels [begin, end). `before` is the state packed, `after` the next.
template <int TERMS>
AMX void step_units(const Layer &d, const Plan &p, int64_t step, int64_t begin, int64_t end,
                    const uint8_t *before, uint8_t *after) {
    begin_tiles();
    int64_t panel = p.over_units * p.tile, all = p.unit_panels * panel;
    alignas(64) float z[2][4 * SUMS];
    for (int64_t u = begin; u < end; ++u)
        for (int64_t q = 0; q < p.lanes; q += BLOCK) {
            const uint8_t *left = p.left + u * panel, *right = before + q / TILE_ROWS * panel;
            for (int g = 0; g < 2; ++g) {
                zero();
                multiply<TERMS>(left + 2 * g * all, left + (2 * g + 1) * all, right, right + panel,
                                p.over_units);
                keep(z[g]);
            }
            __m512 hidden[TILE_ROWS][2], cells[2][TILE_ROWS], transposed[2][TILE_ROWS];
            for (int i = 0; i < TILE_ROWS; ++i)
                for (int half = 0; half < 2; ++half) {
                    int64_t unit = TILE_ROWS * u + i, at = step * d.batch + q + TILE_ROWS * half;
                    __mmask16 there = unit < d.width ? lane_mask(d.batch - q - TILE_ROWS * half) : 0;
                    __m512 gate[GATES];
                    for (int g = 0; g < GATES; ++g) {
                        float *kept = d.gates + (g * d.width + unit) * p.stride + at;
                        int64_t row = g * d.width + unit;
                        __m512 sum = _mm512_load_ps(z[g / 2] + (g % 2 * 2 + half) * SUMS + i * TILE_ROWS);
                        sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(there, kept));
                        if (there) sum = _mm512_add_ps(sum, _mm512_set1_ps(d.b_ih[row] + d.b_hh[row]));
                        gate[g] = g == 2 ? hyperbolic_tangent(sum) : sigmoid(sum);
                        _mm512_mask_storeu_ps(kept, there, gate[g]);
                    }
                    float *cell = d.cells + unit * p.stride + at;
                    __m512 c = _mm512_mul_ps(gate[1], _mm512_maskz_loadu_ps(there, cell));
                    c = _mm512_fmadd_ps(gate[0], gate[2], c);
                    __m512 h = _mm512_maskz_mul_ps(there, gate[3], hyperbolic_tangent(c));
                    _mm512_mask_storeu_ps(cell + d.batch, there, c);
                    _mm512_mask_storeu_ps(d.hidden + unit * p.stride + at + d.batch, there, h);
                    hidden[i][half] = h, transposed[half][i] = h, cells[half][i] = c;
                }
            pack_units<TERMS>(hidden, TILE_ROWS * u, after + q / TILE_ROWS * panel, panel);
            for (int half = 0; half < 2; ++half) {
                int64_t b = q + TILE_ROWS * half;
                __mmask16 there = lane_mask(d.width - TILE_ROWS * u);
                float *to = d.out + (step * d.batch + b) * d.width + TILE_ROWS * u;
                store_transposed(transposed[half], to, d.width, d.batch - b, there);
                if (step + 1 == d.steps)
                    store_transposed(cells[half], d.last_c + b * d.width + TILE_ROWS * u, d.width, d.batch - b, there);
            }
        }
    _tile_release();
}

template <int TERMS>
void forward(const Layer &d) {
    const Plan p(d, false);
    const Matrix inputs{d.x, p.columns, d.inputs, d.inputs};
    int64_t panel = p.over_units * p.tile, size = p.lanes / TILE_ROWS * panel;
    uint8_t *states[2] = {p.state, p.state + size};
    for (int64_t j = 0; j < d.width; ++j)
        for (int64_t b = 0; b < d.batch; ++b) {
            d.hidden[j * p.stride + b] = d.h[b * d.width + j];
            d.cells[j * p.stride + b] = d.c[b * d.width + j];
        }
    const Matrix state{d.hidden, d.width, d.batch, p.stride};
    for (int64_t k = 0; k < p.over_units; ++k)
        pack_right_down<TERMS>(state, TILE_DEPTH * k, p.lanes / TILE_ROWS, states[0] + k * p.tile, panel);
    in_parallel(d.parallel, d.threads, [&](int t) {
        int64_t inner = p.over_inputs * p.tile;
        for (int64_t n = share(p.column_panels, d, t); n < share(p.column_panels, d, t + 1); ++n)
            pack_right_across<TERMS>(inputs, TILE_ROWS * n, p.over_inputs, p.right + n * inner);
        for (int64_t u = share(p.unit_panels, d, t); u < share(p.unit_panels, d, t + 1); ++u)
            for (int64_t g = 0; g < GATES; ++g) {
                const Matrix gate{d.w_hh + g * d.width * d.width, d.width, d.width, d.width};
                pack_left<TERMS>(gate, TILE_ROWS * u, p.over_units, p.left + (g * p.unit_panels + u) * panel);
            }
    });
    in_parallel(d.parallel, d.threads, [&](int t) { add_inputs<TERMS>(d, p, t); });
    for (int64_t step = 0; step < d.steps; ++step)
        in_parallel(d.parallel, d.threads, [&](int t) {
            step_units<TERMS>(d, p, step, share(p.unit_panels, d, t), share(p.unit_panels, d, t + 1),
                              states[step % 2], states[(step + 1) % 2]);
        });
}

// ------------------------------------------------------------------------------------- backward

// The thread's units of a step, pairs of panels [begin, end): their gates become the gradients of
// what went into them. `after` are those of the step after, packed; `here` gets this step's.
template <int TERMS>
AMX void step_back(const Layer &d, const Plan &p, int64_t step, int64_t begin, int64_t end,
                   const uint8_t *after, uint8_t *here) {
    begin_tiles();
    int64_t panel = p.over_gates * p.tile;
    const __m512 one = _mm512_set1_ps(1.0f);
    alignas(64) float z[4 * SUMS];
    for (int64_t u0 = 2 * begin; u0 < 2 * end; u0 += 2)
        for (int64_t q = 0; q < p.lanes; q += BLOCK) {
            const uint8_t *left = p.left + u0 * panel, *right = after + q / TILE_ROWS * panel;
            zero();
            if (step + 1 < d.steps)
                multiply<TERMS>(left, left + panel, right, right + panel, p.over_gates);
            keep(z);
            for (int64_t u = u0; u < u0 + 2; ++u) {
                __m512 given[2][TILE_ROWS], deltas[GATES][TILE_ROWS][2];
                for (int half = 0; half < 2; ++half) {
                    int64_t b = q + TILE_ROWS * half;
                    load_transposed(d.grad + (step * d.batch + b) * d.width + TILE_ROWS * u, d.width, d.batch - b,
                                lane_mask(d.width - TILE_ROWS * u), given[half]);
                }
                for (int i = 0; i < TILE_ROWS; ++i)
                    for (int half = 0; half < 2; ++half) {
                        int64_t unit = TILE_ROWS * u + i, b = q + TILE_ROWS * half, at = step * d.batch + b;
                        __mmask16 there = unit < d.width ? lane_mask(d.batch - b) : 0;
                        float *kept[GATES];
                        __m512 gate[GATES];
                        for (int g = 0; g < GATES; ++g) {
                            kept[g] = d.gates + (g * d.width + unit) * p.stride + at;
                            gate[g] = _mm512_maskz_loadu_ps(there, kept[g]);
                        }
                        const float *cell = d.cells + unit * p.stride + at;
                        __m512 before = _mm512_maskz_loadu_ps(there, cell);
                        __m512 squashed =
                            hyperbolic_tangent(_mm512_maskz_loadu_ps(there, cell + d.batch));
                        float *grad_cell = p.grad_cell + unit * p.lanes + b;
                        __m512 d_h = _mm512_load_ps(z + ((u - u0) * 2 + half) * SUMS + i * TILE_ROWS);
                        d_h = _mm512_add_ps(d_h, given[half][i]);
                        __m512 slope = _mm512_mul_ps(gate[3], _mm512_fnmadd_ps(squashed, squashed, one));
                        __m512 d_c = _mm512_fmadd_ps(d_h, slope, _mm512_load_ps(grad_cell));
                        // Of a sigmoid s the slope is s (1 - s), of a tangent g it is 1 - g g.
                        __m512 times[GATES] = {gate[2], before, gate[0], squashed};
                        for (int g = 0; g < GATES; ++g) {
                            __m512 curve = g == 2 ? _mm512_fnmadd_ps(gate[2], gate[2], one)
                                                  : _mm512_mul_ps(gate[g], _mm512_sub_ps(one, gate[g]));
                            __m512 delta = _mm512_mul_ps(_mm512_mul_ps(times[g], curve), g == 3 ? d_h : d_c);
                            delta = _mm512_maskz_mov_ps(there, delta);
                            _mm512_mask_storeu_ps(kept[g], there, delta);
                            deltas[g][i][half] = delta;
                        }
                        _mm512_store_ps(grad_cell, _mm512_maskz_mul_ps(there, d_c, gate[1]));
                    }
                for (int g = 0; g < GATES; ++g)
                    pack_units<TERMS>(deltas[g], (g * p.unit_panels + u) * TILE_ROWS, here + q / TILE_ROWS * panel, panel);
            }
        }
    _tile_release();
}

// The gradients of the weights and biases of the thread's share of the rows.
template <int TERMS>
AMX void weight_gradients(const Layer &d, const Plan &p, int t) {
    begin_tiles();
    const Matrix deltas{d.gates, p.rows, p.columns, p.stride};
    int64_t begin = share(p.row_panels / 2, d, t), end = share(p.row_panels / 2, d, t + 1);
    int64_t panel = p.over_columns * p.tile;
    uint8_t *work = p.work(t);
    alignas(64) float sums[4 * SUMS];
    for (int64_t r0 = begin; r0 < end; r0 += GROUP) {
        int64_t blocks = std::min(GROUP, end - r0);
        for (int64_t i = 0; i < 2 * blocks; ++i)
            pack_left<TERMS>(deltas, BLOCK * r0 + TILE_ROWS * i, p.over_columns, work + i * panel);
        memory_barrier();
        for (int64_t k = 0; k < p.input_panels + p.unit_panels; k += 2) {
            bool of_state = k >= p.input_panels;
            int64_t at = of_state ? k - p.input_panels : k, width = of_state ? d.width : d.inputs;
            const uint8_t *right = (of_state ? p.more : p.right) + at * panel;
            float *to = of_state ? d.grad_w_hh : d.grad_w_ih;
            for (int64_t r = 0; r < blocks; ++r) {
                const uint8_t *left = work + 2 * r * panel;
                int64_t row = BLOCK * (r0 + r);
                zero();
                multiply<TERMS>(left, left + panel, right, right + panel, p.over_columns);
                keep(sums);
                store_block(sums, to + row * width + TILE_ROWS * at, width, p.rows - row, width - TILE_ROWS * at);
            }
        }
        for (int64_t row = BLOCK * r0; row < std::min(p.rows, BLOCK * (r0 + blocks)); ++row) {
            __m512 sum = _mm512_setzero_ps();
            for (int64_t n = 0; n < p.columns; n += TILE_ROWS)
                sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(lane_mask(p.columns - n),
                                                               d.gates + row * p.stride + n));
            d.grad_bias[row] = _mm512_reduce_add_ps(sum);
        }
    }
    _tile_release();
}

// The gradients of the inputs of the thread's share of the columns.
template <int TERMS>
AMX void input_gradients(const Layer &d, const Plan &p, int t) {
    begin_tiles();
    int64_t panel = p.over_rows * p.tile;
    alignas(64) float sums[4 * SUMS];
    for (int64_t n = share(p.over_columns, d, t); n < share(p.over_columns, d, t + 1); ++n)
        for (int64_t k = 0; k < p.input_panels; k += 2) {
            const uint8_t *left = p.left + 2 * n * panel, *right = p.right + k * panel;
            zero();
            multiply<TERMS>(left, left + panel, right, right + panel, p.over_rows);
            keep(sums);
            store_block(sums, d.grad_x + BLOCK * n * d.inputs + TILE_ROWS * k, d.inputs,
                        p.columns - BLOCK * n, d.inputs - TILE_ROWS * k);
        }
    _tile_release();
}

template <int TERMS>
void backward(const Layer &d) {
    const Plan p(d, true);
    int64_t panel = p.over_gates * p.tile, size = p.lanes / TILE_ROWS * panel;
    uint8_t *packed[2] = {p.state, p.state + size};
    std::fill(p.grad_cell, p.grad_cell + p.unit_panels * TILE_ROWS * p.lanes, 0.0f);
    in_parallel(d.parallel, d.threads, [&](int t) {
        for (int64_t u = share(p.unit_panels / 2, d, t); u < share(p.unit_panels / 2, d, t + 1); ++u)
            for (int64_t g = 0; g < GATES; ++g) {
                const Matrix gate{d.w_hh + g * d.width * d.width, d.width, d.width, d.width};
                for (int64_t k = 0; k < p.over_units; ++k)
                    pack_left_down<TERMS>(gate, TILE_DEPTH * k, BLOCK * u,
                                          p.left + 2 * u * panel + (g * p.over_units + k) * p.tile, panel);
            }
    });
    for (int64_t step = d.steps - 1; step >= 0; --step)
        in_parallel(d.parallel, d.threads, [&](int t) {
            step_back<TERMS>(d, p, step, share(p.unit_panels / 2, d, t),
                             share(p.unit_panels / 2, d, t + 1), packed[(step + 1) % 2], packed[step % 2]);
        });
    const Matrix inputs{d.x, p.columns, d.inputs, d.inputs};
    const Matrix states{d.hidden, d.width, p.columns, p.stride};
    in_parallel(d.parallel, d.threads, [&](int t) {
        int64_t deep = p.over_columns * p.tile;
        for (int64_t n = share(p.over_columns, d, t); n < share(p.over_columns, d, t + 1); ++n)
            pack_right_down<TERMS>(inputs, TILE_DEPTH * n, p.input_panels, p.right + n * p.tile, deep);
        for (int64_t u = share(p.unit_panels, d, t); u < share(p.unit_panels, d, t + 1); ++u)
            pack_right_across<TERMS>(states, TILE_ROWS * u, p.over_columns, p.more + u * deep);
    });
    in_parallel(d.parallel, d.threads, [&](int t) { weight_gradients<TERMS>(d, p, t); });
    const Matrix deltas{d.gates, p.rows, p.columns, p.stride};
    const Matrix weight{d.w_ih, p.rows, d.inputs, d.inputs};
    in_parallel(d.parallel, d.threads, [&](int t) {
        int64_t deep = p.over_rows * p.tile;
        for (int64_t k = share(p.over_rows, d, t); k < share(p.over_rows, d, t + 1); ++k) {
            pack_right_down<TERMS>(weight, TILE_DEPTH * k, p.input_panels, p.right + k * p.tile, deep);
            for (int64_t n = 0; n < p.over_columns; ++n)
                pack_left_down<TERMS>(deltas, TILE_DEPTH * k, BLOCK * n, p.left + 2 * n * deep + k * p.tile, deep);
        }
    });
    in_parallel(d.parallel, d.threads, [&](int t) { input_gradients<TERMS>(d, p, t); });
}

}  // namespace

// ---------------------------------------------------------------------------------- entry points

extern "C" {

int32_t lmb_lstm_fits(void) { return tiles_allowed(); }

int64_t lmb_lstm_columns(const Layer *d) { return Plan(*d, false).stride; }

int64_t lmb_lstm_scratch(const Layer *d, int32_t backward) { return Plan(*d, backward).size(*d); }

void lmb_lstm_forward(const Layer *d) { d->terms == 1 ? forward<1>(*d) : forward<3>(*d); }

// `gates`, `hidden` and `cells` as forward left them; `gates` are no more what they were after it.
void lmb_lstm_backward(const Layer *d) { d->terms == 1 ? backward<1>(*d) : backward<3>(*d); }

}  // extern "C"
