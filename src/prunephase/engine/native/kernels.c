// Sparse training of Linear layers on the CPU: the batch is the vector axis, the weights are a CSR matrix.
//
// Activations lie feature-major, [feature][lanes]: a tile of up to TILE examples, one example per lane. A weight then
// meets a whole tile at once, with the sums in registers, and only surviving weights are ever touched. The columns of
// a matrix are cut into blocks, so that the rows of activations a block reads stay in the L1 cache.
//
// Portable: GCC / Clang vector extensions, no intrinsics. Nothing depends on memory alignment or on thread count, so
// equal calls give equal bytes.

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__)
#define LANES 16
#define SEQUENCE(f) f(0), f(1), f(2), f(3), f(4), f(5), f(6), f(7), \
                    f(8), f(9), f(10), f(11), f(12), f(13), f(14), f(15)
#elif defined(__AVX__)
#define LANES 8
#define SEQUENCE(f) f(0), f(1), f(2), f(3), f(4), f(5), f(6), f(7)
#else
#define LANES 4
#define SEQUENCE(f) f(0), f(1), f(2), f(3)
#endif
#define VECTORS 8 // of a full tile: as many sums as fit the registers of every machine beside what they are made of
#define TILE (LANES * VECTORS)
#define WINDOW 16 // features that are read at once
#define FETCH (1 << 19) // bytes asked for ahead: more would push out of the second-level cache what is being used
#define WORD 64 // columns of a block whose pattern is kept as bits

typedef float vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t ivec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t words __attribute__((vector_size(16), aligned(1), may_alias));
#define INLINE static inline __attribute__((always_inline))

#if defined(__clang__)
#define SHUFFLE(index, a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(index, a, b, ...) __builtin_shuffle(a, b, (index){__VA_ARGS__})
#endif
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define SHIFT(byte) (8 * (byte))
#else
#define SHIFT(byte) (24 - 8 * (byte))
#endif
#define EVEN(i) 2 * (i)
#define ODD(i) 2 * (i) + 1
#define LOW(i) ((i) & 1) * LANES + (i) / 2
#define HIGH(i) ((i) & 1) * LANES + (i) / 2 + LANES / 2

// A sparse matrix. Weights are ordered by block of columns, then row, then column.
typedef struct {
    int32_t rows, blocks;
    const int32_t *start;  // [blocks * rows + 1] first weight of each (block, row)
    const int32_t *column; // [weights + LANES] row of the input tile; what pads the end is any valid row
    const uint64_t *bits;  // [blocks * rows] which of a block's WORD columns have a weight; NULL: `column` says it
} Matrix;

// Features that are the same in every lane of a tile, as the margin of an image: they need one product, not one per
// lane. live: a bit for every column that varies; constant: what the others hold.
typedef struct {
    uint64_t *live; // [blocks]
    float constant;
} Ground;

typedef struct {
    Matrix forward, backward; // backward: the transposed matrix
    const int32_t *source;    // [weights] place in `forward` of each weight of `backward`; NULL: no input gradient
    float *weight, *bias;     // [weights], [rows]; bias NULL: none
    float *transposed;        // [weights] in the order of `backward`
    float *gradient, *bias_gradient; // [weights], [rows]
    float *momentum, *bias_momentum; // SGD's buffer or AdamW's first moment
    float *square, *bias_square;     // AdamW's second moment
    const float *start, *bias_start; // what the weights are tethered to; NULL: nothing
    float *output, *error;           // [rows][TILE] activations, and the loss's gradient of them
} Layer;

// Inputs row by row, as bytes (value * scale + shift) or as floats; labels.
typedef struct {
    const uint8_t *codes; // [N, features], or NULL
    const float *values;  // [N, features], where codes is NULL
    const int64_t *labels;
    int64_t features;
} Examples;

typedef struct {
    Layer *layers;
    int32_t depth, inputs;      // inputs: columns in use of the first layer
    const int32_t *active;      // [inputs] which features they are, rising
    const int32_t *column;      // [inputs] which column each of them is
    const float *scale, *shift; // [inputs] of the codes
    float *tile;                // [inputs][TILE]
    Ground ground;              // of the first layer, where its pattern is kept as bits
    float *scratch, *sums;      // [most weights of a layer + LANES], [most rows + LANES] gradients of one tile
} Chain;

typedef struct {
    int32_t adam; // 0: SGD
    double lr, momentum, decay, beta1, beta2, epsilon;
    double tether; // times half the squared distance from the start, added to the loss
    int64_t step; // steps taken so far
} Rule;

// What an example costs, s = -log(probability of its label): weight * s + reverse * (1 - e^-s), or (1 - e^(-power s)) /
// power where that is not 0; of the label, the share `smoothing` is spread over all classes. Added to it is alpha *
// temperature^2 * KL(taught || what the network says at that temperature).
typedef struct {
    double weight, smoothing, reverse, power, alpha, temperature;
    const float *taught;  // [N, classes] probabilities; NULL: nobody teaches
    const double *taught_log; // [N] sum of taught * log(taught)
} Goal;

enum { NONE, RELU, GATE };

// Run `body` with the number of vectors of the tile as a constant, so that the sums stay in registers.
#define WITH_VECTORS(count, body)                                                                                      \
    switch (count) {                                                                                                   \
    case 1: { enum { vectors = 1 }; body; break; }                                                                     \
    case 2: { enum { vectors = 2 }; body; break; }                                                                     \
    case 3: { enum { vectors = 3 }; body; break; }                                                                     \
    case 4: { enum { vectors = 4 }; body; break; }                                                                     \
    case 5: { enum { vectors = 5 }; body; break; }                                                                     \
    case 6: { enum { vectors = 6 }; body; break; }                                                                     \
    case 7: { enum { vectors = 7 }; body; break; }                                                                     \
    default: { enum { vectors = 8 }; body; break; }                                                                    \
    }

INLINE vec splat(float value) { return value - (vec){0}; }
INLINE vec load(const float *from) { return *(const vec *)from; }
INLINE void store(float *to, vec value) { *(vec *)to = value; }
INLINE vec pick(ivec yes, vec a, vec b) { return (vec)((yes & (ivec)a) | (~yes & (ivec)b)); }

// Neighbouring lanes added: the first half of the result is of a, the second of b. Folding LANES vectors in a tree
// gives their LANES sums, in order.
INLINE vec fold(vec a, vec b) {
    return SHUFFLE(ivec, a, b, SEQUENCE(EVEN)) + SHUFFLE(ivec, a, b, SEQUENCE(ODD));
}

// The sum of `count` numbers.
INLINE float total(const float *from, int count) {
    vec sum = splat(0);
    float rest = 0;
    for (; count >= LANES; from += LANES, count -= LANES) sum += load(from);
    while (count > 0) rest += from[--count];
    for (int i = 1; i < LANES; i *= 2) sum = fold(sum, sum);
    return sum[0] + rest;
}

INLINE int lowest(uint64_t bits) { return __builtin_ctzll(bits); }
// Which of a row's weights in a block is that of column `column`.
INLINE int rank(uint64_t bits, int column) { return __builtin_popcountll(bits & (((uint64_t)1 << column) - 1)); }

// out[row] = after(bias[row] + sum of weight * in[column]). RELU keeps NaN, as torch does; GATE lets a gradient pass
// where the activation `gate` of that row is positive. ground: NULL, or the constant columns of `in`.
INLINE void product_(const int vectors, const Matrix *matrix, const Ground *ground, const float *weight,
                     const float *bias, const float *in, float *out, int after, const float *gate) {
    const size_t lanes = (size_t)vectors * LANES;
    const int32_t *start = matrix->start;
    for (int block = 0; block < matrix->blocks; block++)
        for (int row = 0; row < matrix->rows; row++) {
            int32_t k = *start++;
            const int32_t end = *start;
            const int first = block == 0, last = block == matrix->blocks - 1;
            if (k == end && !first && !last) continue;
            float *to = out + row * lanes;
            vec sum[VECTORS];
            for (int i = 0; i < vectors; i++) sum[i] = first ? splat(bias ? bias[row] : 0.0f) : load(to + i * LANES);
            if (!ground) {
                for (; k < end; k++) {
                    const float *from = in + matrix->column[k] * lanes;
                    const vec w = splat(weight[k]);
                    for (int i = 0; i < vectors; i++) sum[i] += w * load(from + i * LANES);
                }
            } else {
                const uint64_t all = matrix->bits[(size_t)block * matrix->rows + row], live = all & ground->live[block];
                const int every = live == all;
                for (uint64_t left = live; left; left &= left - 1) {
                    const float *from = in + (block * WORD + lowest(left)) * lanes;
                    const vec w = splat(weight[every ? k++ : k + rank(all, lowest(left))]);
                    for (int i = 0; i < vectors; i++) sum[i] += w * load(from + i * LANES);
                }
                if (!every) {
                    float still = live ? 0 : total(weight + k, end - k);
                    if (live)
                        for (uint64_t left = all & ~live; left; left &= left - 1)
                            still += weight[k + rank(all, lowest(left))];
                    for (int i = 0; i < vectors; i++) sum[i] += splat(ground->constant * still);
                }
            }
            if (last && after == RELU)
                for (int i = 0; i < vectors; i++) sum[i] = (vec)((ivec)sum[i] & ~(sum[i] < splat(0)));
            if (last && after == GATE)
                for (int i = 0; i < vectors; i++)
                    sum[i] = (vec)((ivec)sum[i] & ~(load(gate + row * lanes + i * LANES) <= splat(0)));
            for (int i = 0; i < vectors; i++) store(to + i * LANES, sum[i]);
        }
}

static void product(int vectors, const Matrix *matrix, const Ground *ground, const float *weight, const float *bias,
                    const float *in, float *out, int after, const float *gate) {
    if (matrix->bits) {
        WITH_VECTORS(vectors, product_(vectors, matrix, ground, weight, bias, in, out, after, NULL));
    } else {
        WITH_VECTORS(vectors, product_(vectors, matrix, NULL, weight, bias, in, out, after, gate));
    }
}

INLINE vec dot(const int vectors, const vec *error, const float *in, int32_t column) {
    const float *from = in + column * (size_t)vectors * LANES;
    vec sum = error[0] * load(from);
    for (int i = 1; i < vectors; i++) sum += error[i] * load(from + i * LANES);
    return sum;
}
#define DOT1(k) dot(vectors, error, in, column[k])
#define DOT2(k) fold(DOT1(k), DOT1(k + 1))
#define DOT4(k) fold(DOT2(k), DOT2(k + 2))
#define DOT8(k) fold(DOT4(k), DOT4(k + 4))
#define DOT16(k) fold(DOT8(k), DOT8(k + 8))

// How many dot products are made at once when `left` are wanted: rather a few too many than many small ones.
INLINE int portion(int left) { return left > 12 && LANES >= 16 ? 16 : left > 5 && LANES >= 8 ? 8 : left > 2 ? 4 : 2; }

// The dot products of `error` with `count` (a portion) columns of `in`, in the first lanes of the result.
INLINE vec some_dots(const int vectors, const vec *error, const float *in, const int32_t *column, int count) {
    vec sums;
    if (count == 2) sums = DOT2(0);
#if LANES >= 16
    else if (count == 16) sums = DOT16(0);
#endif
#if LANES >= 8
    else if (count == 8) sums = DOT8(0);
#endif
    else sums = DOT4(0);
    for (; count < LANES; count *= 2) sums = fold(sums, sums);
    return sums;
}

// gradient[weight] = sum over the lanes of error[row] * in[column], for the weights of one block. Writes whole vectors:
// what lies beyond the end of a row is overwritten by the next one, or is the padding of `gradient`.
// ground: NULL, or the constant columns of `in`; sums: [rows] of `error`, the gradient of a weight on an input of 1.
INLINE void dots_(const int vectors, const Matrix *matrix, const Ground *ground, int block, const float *error,
                  const float *sums, const float *in, float *gradient) {
    const size_t lanes = (size_t)vectors * LANES, at = (size_t)block * matrix->rows;
    const int32_t *start = matrix->start + at;
    const int32_t offset = *start;
    for (int row = 0; row < matrix->rows; row++) {
        int32_t k = *start++;
        const int32_t end = *start;
        if (k == end) continue;
        vec held[VECTORS];
        for (int i = 0; i < vectors; i++) held[i] = load(error + row * lanes + i * LANES);
        if (ground && matrix->bits[at + row] & ~ground->live[block]) {
            const uint64_t all = matrix->bits[at + row];
            float *to = gradient + (k - offset);
            for (; k < end; k += LANES) store(gradient + (k - offset), splat(ground->constant * sums[row]));
            for (uint64_t live = all & ground->live[block]; live;) {
                int32_t column[LANES], place[LANES];
                float found[LANES];
                const int left = __builtin_popcountll(live), count = portion(left);
                for (int i = 0; i < count; i++, live &= live - 1) { // past the last one: any column, not kept
                    column[i] = block * WORD + (live ? lowest(live) : 0);
                    place[i] = rank(all, live ? lowest(live) : 0);
                }
                store(found, some_dots(vectors, held, in, column, count));
                for (int i = 0; i < count && i < left; i++) to[place[i]] = found[i];
            }
        } else
            while (k < end) {
                const int count = portion(end - k);
                store(gradient + (k - offset), some_dots(vectors, held, in, matrix->column + k, count));
                k += count;
            }
    }
}

static void dots(int vectors, const Matrix *matrix, const Ground *ground, int block, const float *error,
                 const float *sums, const float *in, float *gradient) {
    if (matrix->bits) {
        WITH_VECTORS(vectors, dots_(vectors, matrix, ground, block, error, sums, in, gradient));
    } else {
        WITH_VECTORS(vectors, dots_(vectors, matrix, NULL, block, error, NULL, in, gradient));
    }
}

// The sum of every row over its lanes: the gradient of a bias. sums: [count + LANES]
static void row_sums(int vectors, const float *rows, int32_t count, float *sums) {
    for (int row = 0; row < count; row += LANES) {
        vec sum[LANES];
        for (int i = 0; i < LANES; i++) {
            const float *from = rows + (size_t)(row + i) * vectors * LANES;
            sum[i] = row + i < count ? load(from) : splat(0);
            for (int v = 1; v < vectors && row + i < count; v++) sum[i] += load(from + v * LANES);
        }
        for (int half = LANES / 2; half; half /= 2)
            for (int i = 0; i < half; i++) sum[i] = fold(sum[2 * i], sum[2 * i + 1]);
        store(sums + row, sum[0]);
    }
}

// Weights from .. from + count - 1 take a step along `gradient` [count], as torch.optim.SGD (coupled decay) and
// torch.optim.AdamW do it. SGD's momentum begins at zero, which gives torch's first step.
static void update(const Rule *rule, float *restrict weight, float *restrict momentum, float *restrict square,
                   const float *restrict gradient, int32_t from, int32_t count) {
    weight += from;
    if (momentum) momentum += from;
    if (square) square += from;
    const float lr = (float)rule->lr, decay = (float)rule->decay, keep = (float)rule->momentum;
    if (rule->adam) {
        const double t = (double)(rule->step + 1);
        const float fade = (float)(1 - rule->lr * rule->decay), epsilon = (float)rule->epsilon;
        const float gain1 = (float)(1 - rule->beta1), beta2 = (float)rule->beta2, gain2 = (float)(1 - rule->beta2);
        const float size = (float)(rule->lr / (1 - pow(rule->beta1, t)));
        const float root = (float)sqrt(1 - pow(rule->beta2, t));
        for (int32_t i = 0; i < count; i++) {
            const float g = gradient[i];
            momentum[i] += (g - momentum[i]) * gain1;
            square[i] = square[i] * beta2 + gain2 * g * g;
            weight[i] = weight[i] * fade - size * (momentum[i] / (sqrtf(square[i]) / root + epsilon));
        }
    } else if (rule->momentum != 0) {
        for (int32_t i = 0; i < count; i++) {
            momentum[i] = momentum[i] * keep + (gradient[i] + decay * weight[i]);
            weight[i] -= lr * momentum[i];
        }
    } else {
        for (int32_t i = 0; i < count; i++) weight[i] -= lr * (gradient[i] + decay * weight[i]);
    }
}

// The tether's pull on the weights from .. from + count - 1, added to their `gradient` [count].
static void pull(const Rule *rule, const float *restrict weight, const float *restrict start, float *restrict gradient,
                 int32_t from, int32_t count) {
    const float tether = (float)rule->tether;
    for (int32_t i = 0; i < count; i++) gradient[i] += tether * (weight[from + i] - start[from + i]);
}

// The squared distance of `count` weights from where they began.
static double distance(const float *weight, const float *start, int32_t count) {
    double sum = 0;
    while (count > 0) {
        const int32_t here = count < 64 * LANES ? count : 64 * LANES; // few enough for sums in single precision
        vec part = splat(0);
        int32_t i = 0;
        for (; i + LANES <= here; i += LANES) {
            const vec apart = load(weight + i) - load(start + i);
            part += apart * apart;
        }
        for (; i < here; i++) sum += ((double)weight[i] - start[i]) * ((double)weight[i] - start[i]);
        for (int lane = 0; lane < LANES; lane++) sum += part[lane];
        weight += here, start += here, count -= here;
    }
    return sum;
}

// What the tether adds to the loss of a step.
static double stretch(const Chain *chain, const Rule *rule) {
    double sum = 0;
    for (int l = 0; l < chain->depth; l++) {
        const Layer *layer = chain->layers + l;
        const Matrix *matrix = &layer->forward;
        if (layer->start) sum += distance(layer->weight, layer->start, matrix->start[matrix->blocks * matrix->rows]);
        if (layer->bias_start) sum += distance(layer->bias, layer->bias_start, matrix->rows);
    }
    return rule->tether / 2 * sum;
}

// e^x for x <= 0, within 2 units in the last place (Cephes' polynomial); 0 for what float32 cannot hold; NaN stays.
INLINE vec exponential(vec x) {
    const vec magic = splat(12582912.0f); // 1.5 * 2^23: adding it rounds to a whole number
    const ivec tiny = x < splat(-87.0f);
    x = pick(tiny, splat(0), x);
    const vec shifted = x * splat(1.44269504088896341f) + magic, n = shifted - magic;
    const vec r = (x - n * splat(0.693359375f)) - n * splat(-2.12194440e-4f);
    vec p = splat(1.9875691500e-4f);
    p = p * r + splat(1.3981999507e-3f);
    p = p * r + splat(8.3334519073e-3f);
    p = p * r + splat(4.1665795894e-2f);
    p = p * r + splat(1.6666665459e-1f);
    p = p * r + splat(5.0000001201e-1f);
    p = p * r * r + r + splat(1);
    const ivec power = ((ivec)shifted - (ivec)magic + 127) << 23;
    return (vec)((ivec)(p * (vec)power) & ~tiny);
}

// Summed alpha * temperature^2 * KL of `count` examples; their gradient, times `factor`, is added to `error`.
static double distil(const Goal *goal, int vectors, const float *logits, int32_t classes, const int64_t *places,
                     int count, float factor, float *error) {
    const size_t lanes = (size_t)vectors * LANES;
    const double hot = goal->temperature;
    const vec cool = splat((float)(1 / hot)), gain = splat((float)(goal->alpha * hot) * factor);
    float tops[TILE], sums[TILE], inverse[TILE], taught[TILE];
    double agreed[TILE] = {0}, apart = 0;
    for (int i = 0; i < vectors; i++) {
        vec top = load(logits + i * LANES), sum = splat(0);
        for (int c = 1; c < classes; c++) {
            const vec z = load(logits + c * lanes + i * LANES);
            top = pick(z > top, z, top);
        }
        for (int c = 0; c < classes; c++) sum += exponential((load(logits + c * lanes + i * LANES) - top) * cool);
        store(tops + i * LANES, top);
        store(sums + i * LANES, sum);
    }
    // Lanes without an example have no gradient, whatever they hold.
    for (int lane = 0; lane < (int)lanes; lane++) inverse[lane] = lane < count ? 1 / sums[lane] : 0.0f;
    for (int c = 0; c < classes; c++) {
        const float *z = logits + c * lanes;
        for (int lane = 0; lane < (int)lanes; lane++) {
            taught[lane] = lane < count ? goal->taught[places[lane] * classes + c] : 0.0f;
            agreed[lane] += (double)taught[lane] * ((double)z[lane] - (double)tops[lane]);
        }
        for (int i = 0; i < vectors; i++) {
            const vec e = exponential((load(z + i * LANES) - load(tops + i * LANES)) * cool);
            float *at = error + c * lanes + i * LANES;
            store(at, load(at) + gain * (e * load(inverse + i * LANES) - load(taught + i * LANES)));
        }
    }
    for (int lane = 0; lane < count; lane++)
        apart += goal->taught_log[places[lane]] + log((double)sums[lane]) - agreed[lane] / hot;
    return goal->alpha * hot * hot * apart;
}

// Summed cost of `count` examples; their gradient, times `factor`, into `error` (NULL: not wanted, nor is a teacher).
static double cost(const Goal *goal, int vectors, const float *logits, int32_t classes, const int64_t *labels,
                   const int64_t *places, int count, float factor, float *error) {
    const size_t lanes = (size_t)vectors * LANES;
    float sums[TILE], tops[TILE], inverse[TILE], scale[TILE];
    double loss = 0;
    for (int i = 0; i < vectors; i++) {
        vec top = load(logits + i * LANES), sum = splat(0);
        for (int c = 1; c < classes; c++) {
            const vec z = load(logits + c * lanes + i * LANES);
            top = pick(z > top, z, top);
        }
        for (int c = 0; c < classes; c++) {
            const vec e = exponential(load(logits + c * lanes + i * LANES) - top);
            if (error) store(error + c * lanes + i * LANES, e);
            sum += e;
        }
        store(tops + i * LANES, top);
        store(sums + i * LANES, sum);
    }
    for (int lane = 0; lane < count; lane++) {
        const double above = (double)logits[labels[lane] * lanes + lane] - (double)tops[lane];
        double surprise = log((double)sums[lane]) - above, slope = goal->weight;
        if (goal->power != 0) {
            slope = exp(-goal->power * surprise);
            loss -= expm1(-goal->power * surprise) / goal->power;
        } else {
            if (goal->reverse != 0) {
                slope += goal->reverse * exp(-surprise);
                loss -= goal->reverse * expm1(-surprise);
            }
            if (goal->smoothing != 0)
                for (int c = 0; c < classes; c++)
                    surprise += goal->smoothing / classes * (above - ((double)logits[c * lanes + lane] - (double)tops[lane]));
            loss += goal->weight * surprise;
        }
        scale[lane] = (float)slope * factor;
    }
    if (!error) return loss;
    // Lanes without an example have no gradient, whatever they hold.
    for (int lane = 0; lane < (int)lanes; lane++) inverse[lane] = lane < count ? scale[lane] / sums[lane] : 0.0f;
    const float spread = (float)(goal->smoothing / classes), kept = (float)(1 - goal->smoothing);
    for (int c = 0; c < classes; c++) {
        for (int i = 0; i < vectors; i++) {
            float *at = error + c * lanes + i * LANES;
            store(at, load(at) * load(inverse + i * LANES));
        }
        if (spread != 0)
            for (int lane = 0; lane < count; lane++) error[c * lanes + lane] -= scale[lane] * spread;
    }
    for (int lane = 0; lane < count; lane++) error[labels[lane] * lanes + lane] -= scale[lane] * kept;
    if (goal->taught) loss += distil(goal, vectors, logits, classes, places, count, factor, error);
    return loss;
}

// The class of the largest logit of every lane: the first of equals, and NaN above all, as torch.argmax.
static void arg_max(int vectors, const float *logits, int32_t classes, int count, int64_t *found) {
    const size_t lanes = (size_t)vectors * LANES;
    int32_t best[TILE];
    for (int i = 0; i < vectors; i++) {
        vec top = load(logits + i * LANES);
        ivec at = {0};
        for (int32_t c = 1; c < classes; c++) {
            const vec z = load(logits + c * lanes + i * LANES);
            const ivec above = (z > top) | ((z != z) & (top == top));
            top = pick(above, z, top);
            at = (above & c) | (~above & at);
        }
        *(ivec *)(best + i * LANES) = at;
    }
    for (int lane = 0; lane < count; lane++) found[lane] = best[lane];
}

INLINE void transpose_floats(vec rows[LANES]) {
    for (int span = 1; span < LANES; span *= 2) {
        vec next[LANES];
        for (int i = 0; i < LANES / 2; i++) {
            next[2 * i] = SHUFFLE(ivec, rows[i], rows[i + LANES / 2], SEQUENCE(LOW));
            next[2 * i + 1] = SHUFFLE(ivec, rows[i], rows[i + LANES / 2], SEQUENCE(HIGH));
        }
        memcpy(rows, next, sizeof next);
    }
}

// Bytes of the examples at `rows` to floats, feature-major, of the active features only. WINDOW bytes of four examples
// at a time are transposed as words, so that a lane holds four features of one example; a shift then picks one.
static void gather_codes(int vectors, const Chain *chain, const uint8_t **rows, int64_t features) {
    const int lanes = vectors * LANES;
    int32_t next, quads[WINDOW / 4][TILE];
    if (chain->ground.live) memset(chain->ground.live, 0, ((size_t)chain->inputs + WORD - 1) / WORD * sizeof(uint64_t));
    for (int32_t a = 0; a < chain->inputs; a = next) {
        // The last features of an example are read in a window that ends with it.
        const int64_t wanted = chain->active[a] / WINDOW * WINDOW;
        const int64_t from = features < WINDOW || wanted <= features - WINDOW ? wanted : features - WINDOW;
        for (next = a; next < chain->inputs && chain->active[next] < from + WINDOW;) next++;
        for (int lane = 0; lane < lanes; lane += 4) {
            words held[4] = {{0}};
            for (int i = 0; i < 4; i++) {
                if (features < WINDOW) memcpy(held + i, rows[lane + i], (size_t)features);
                else held[i] = *(const words *)(rows[lane + i] + from);
                __builtin_prefetch(rows[lane + i] + from + 64);
            }
            const words low01 = SHUFFLE(words, held[0], held[1], 0, 4, 1, 5);
            const words low23 = SHUFFLE(words, held[2], held[3], 0, 4, 1, 5);
            const words high01 = SHUFFLE(words, held[0], held[1], 2, 6, 3, 7);
            const words high23 = SHUFFLE(words, held[2], held[3], 2, 6, 3, 7);
            *(words *)(quads[0] + lane) = SHUFFLE(words, low01, low23, 0, 1, 4, 5);
            *(words *)(quads[1] + lane) = SHUFFLE(words, low01, low23, 2, 3, 6, 7);
            *(words *)(quads[2] + lane) = SHUFFLE(words, high01, high23, 0, 1, 4, 5);
            *(words *)(quads[3] + lane) = SHUFFLE(words, high01, high23, 2, 3, 6, 7);
        }
        for (int32_t j = a; j < next; j++) {
            const int place = (int)(chain->active[j] - from), shift = SHIFT(place % 4), column = chain->column[j];
            const vec scale = splat(chain->scale[j]), base = splat(chain->shift[j]);
            float *to = chain->tile + (size_t)column * lanes;
            ivec any = {0};
            for (int i = 0; i < vectors; i++) {
                const ivec code = (*(const ivec *)(quads[place / 4] + i * LANES) >> shift) & 255;
                any |= code;
                store(to + i * LANES, __builtin_convertvector(code, vec) * scale + base);
            }
            if (chain->ground.live) {
                uint64_t pairs[LANES / 2], seen = 0;
                memcpy(pairs, &any, sizeof pairs);
                for (int i = 0; i < LANES / 2; i++) seen |= pairs[i];
                chain->ground.live[column / WORD] |= (uint64_t)(seen != 0) << column % WORD;
            }
        }
    }
}

// Columns `active` [count] of `lanes` rows of floats, `features` long each, feature-major into `tile`.
static void gather_floats(int lanes, const float **rows, int64_t features, const int32_t *active, int32_t count,
                          float *tile) {
    int32_t next;
    for (int32_t j = 0; j < count; j = next) {
        const int64_t wanted = active[j] / LANES * LANES;
        const int64_t from = features < LANES || wanted <= features - LANES ? wanted : features - LANES;
        for (next = j; next < count && active[next] < from + LANES;) next++;
        for (int lane = 0; lane < lanes; lane += LANES) {
            vec window[LANES];
            if (features >= LANES) {
                for (int i = 0; i < LANES; i++) window[i] = load(rows[lane + i] + from);
                transpose_floats(window);
            } else {
                for (int f = 0; f < features; f++)
                    for (int i = 0; i < LANES; i++) window[f][i] = rows[lane + i][f];
            }
            for (int32_t a = j; a < next; a++) store(tile + (size_t)a * lanes + lane, window[active[a] - from]);
        }
    }
}

static int vectors_for(int count) { return (count + LANES - 1) / LANES; }

// Activations of `count` (at most TILE) examples, all the way to the logits. places NULL: from `first` on.
static void forward(const Chain *chain, const Examples *examples, const int64_t *places, int64_t first, int count) {
    const int vectors = vectors_for(count), lanes = vectors * LANES;
    const void *rows[TILE]; // lanes without an example repeat the first: finite numbers, never looked at
    for (int lane = 0; lane < lanes; lane++) {
        const int64_t here = lane < count ? lane : 0, place = places ? places[here] : first + here;
        rows[lane] = examples->codes ? (const void *)(examples->codes + place * examples->features)
                                     : (const void *)(examples->values + place * examples->features);
    }
    if (examples->codes) gather_codes(vectors, chain, (const uint8_t **)rows, examples->features);
    else gather_floats(lanes, (const float **)rows, examples->features, chain->active, chain->inputs, chain->tile);
    const float *in = chain->tile;
    for (int l = 0; l < chain->depth; l++) {
        const Layer *layer = chain->layers + l;
        const int after = l < chain->depth - 1 ? RELU : NONE;
        product(vectors, &layer->forward, &chain->ground, layer->weight, layer->bias, in, layer->output, after, NULL);
        in = layer->output;
    }
}

// From the error of the logits to the gradient of every weight, layer by layer from the last. A batch of one tile is
// applied block by block while its gradient is in the cache; several tiles add up first.
static void backward(const Chain *chain, int count, int tile, int tiles, const Rule *rule) {
    const int vectors = vectors_for(count);
    for (int l = chain->depth - 1; l >= 0; l--) {
        Layer *layer = chain->layers + l;
        const Matrix *matrix = &layer->forward;
        const float *in = l ? layer[-1].output : chain->tile;
        if (layer->source) { // before the weights change
            const int32_t weights = matrix->start[matrix->blocks * matrix->rows];
            for (int32_t k = 0; k < weights; k++) layer->transposed[k] = layer->weight[layer->source[k]];
            product(vectors, &layer->backward, NULL, layer->transposed, NULL, layer->error, layer[-1].error, GATE, in);
        }
        row_sums(vectors, layer->error, matrix->rows, chain->sums);
        for (int block = 0; block < matrix->blocks; block++) {
            const int32_t *start = matrix->start + (size_t)block * matrix->rows;
            const int32_t from = start[0], weights = start[matrix->rows] - from;
            dots(vectors, matrix, &chain->ground, block, layer->error, chain->sums, in, chain->scratch);
            if (tiles == 1) {
                if (layer->start) pull(rule, layer->weight, layer->start, chain->scratch, from, weights);
                update(rule, layer->weight, layer->momentum, layer->square, chain->scratch, from, weights);
            } else
                for (int32_t k = 0; k < weights; k++)
                    layer->gradient[from + k] = chain->scratch[k] + (tile ? layer->gradient[from + k] : 0.0f);
        }
        for (int32_t r = 0; r < matrix->rows; r++)
            layer->bias_gradient[r] = chain->sums[r] + (tile ? layer->bias_gradient[r] : 0.0f);
        if (tile < tiles - 1) continue;
        if (tiles > 1) {
            const int32_t weights = matrix->start[matrix->blocks * matrix->rows];
            if (layer->start) pull(rule, layer->weight, layer->start, layer->gradient, 0, weights);
            update(rule, layer->weight, layer->momentum, layer->square, layer->gradient, 0, weights);
        }
        if (layer->bias_start) pull(rule, layer->bias, layer->bias_start, layer->bias_gradient, 0, matrix->rows);
        if (layer->bias)
            update(rule, layer->bias, layer->bias_momentum, layer->bias_square, layer->bias_gradient, 0, matrix->rows);
    }
}

// Ask for the inputs of the next tile while this one is worked on: a random place is a wait for memory otherwise.
static void fetch(const Examples *examples, const int64_t *places, int64_t count) {
    const size_t size = examples->features * (examples->codes ? sizeof(uint8_t) : sizeof(float));
    const char *base = examples->codes ? (const char *)examples->codes : (const char *)examples->values;
    if (size * TILE > FETCH) return;
    for (int64_t i = 0; i < count && i < TILE; i++)
        for (size_t at = 0; at < size; at += 64) __builtin_prefetch(base + places[i] * size + at, 0, 2);
}

// Steps of `batch` examples each over `places` [count], the last one perhaps shorter; losses: mean of each step.
void prunephase_train(const Chain *chain, const Examples *examples, const int64_t *places, int64_t count, int64_t batch,
                      const Goal *goal, Rule *rule, double *losses) {
    const Layer *last = chain->layers + chain->depth - 1;
    for (; count > 0; places += batch, count -= batch, losses++, rule->step++) {
        const int64_t size = count < batch ? count : batch;
        const int tiles = (int)((size + TILE - 1) / TILE);
        double loss = 0;
        const double stretched = rule->tether != 0 ? stretch(chain, rule) : 0; // before the weights change
        for (int tile = 0; tile < tiles; tile++) {
            const int64_t left = size - (int64_t)tile * TILE;
            const int here = left < TILE ? (int)left : TILE;
            const int64_t *chosen = places + (int64_t)tile * TILE;
            int64_t labels[TILE];
            forward(chain, examples, chosen, 0, here);
            fetch(examples, chosen + here, count - (int64_t)tile * TILE - here);
            for (int lane = 0; lane < here; lane++) labels[lane] = examples->labels[chosen[lane]];
            loss += cost(goal, vectors_for(here), last->output, last->forward.rows, labels, chosen, here,
                         1.0f / (float)size, last->error);
            backward(chain, here, tile, tiles, rule);
        }
        *losses = loss / (double)size + stretched;
    }
}

// Summed cross-entropy of the examples first .. first + count - 1; their predicted classes into `found` [count].
double prunephase_evaluate(const Chain *chain, const Examples *examples, int64_t first, int64_t count, int64_t *found) {
    const Layer *last = chain->layers + chain->depth - 1;
    const Goal plain = {.weight = 1};
    double loss = 0;
    for (; count > 0; first += TILE, count -= TILE, found += TILE) {
        const int here = count < TILE ? (int)count : TILE;
        forward(chain, examples, NULL, first, here);
        loss += cost(&plain, vectors_for(here), last->output, last->forward.rows, examples->labels + first, NULL, here,
                     0, NULL);
        arg_max(vectors_for(here), last->output, last->forward.rows, here, found);
    }
    return loss;
}

// Feature-major `tile` back to rows of floats, `features` long each; zero where a feature is not among `active`.
static void spread_floats(int vectors, const float *tile, const int32_t *active, int32_t count, int64_t features,
                          int rows, float *to) {
    const size_t lanes = (size_t)vectors * LANES;
    int32_t a = 0;
    for (int64_t from = 0; from < features; from += LANES) {
        const int wide = features - from < LANES ? (int)(features - from) : LANES;
        const float *held[LANES] = {0};
        for (; a < count && active[a] < from + LANES; a++) held[active[a] - from] = tile + a * lanes;
        for (int lane = 0; lane < rows; lane += LANES) {
            const int here = rows - lane < LANES ? rows - lane : LANES;
            vec window[LANES];
            for (int i = 0; i < LANES; i++) window[i] = held[i] ? load(held[i] + lane) : splat(0);
            transpose_floats(window);
            for (int i = 0; i < here; i++)
                memcpy(to + (lane + i) * features + from, window + i, wide * sizeof(float));
        }
    }
}

static void point_at(const float **rows, const float *from, int64_t features, int count) {
    for (int lane = 0; lane < TILE; lane++) rows[lane] = from + (lane < count ? lane : 0) * features;
}

// One layer inside another network. x: [count, features] row by row; y: [count, rows]. `every` counts 0, 1, 2, ...
void prunephase_linear_forward(const Layer *layer, const int32_t *active, int32_t inputs, const int32_t *every,
                               const float *x, int64_t count, int64_t features, float *tile, float *y) {
    const int32_t outputs = layer->forward.rows;
    const float *rows[TILE];
    for (; count > 0; count -= TILE, x += TILE * features, y += (size_t)TILE * outputs) {
        const int here = count < TILE ? (int)count : TILE, vectors = vectors_for(here);
        point_at(rows, x, features, here);
        gather_floats(vectors * LANES, rows, features, active, inputs, tile);
        product(vectors, &layer->forward, NULL, layer->weight, layer->bias, tile, layer->output, NONE, NULL);
        spread_floats(vectors, layer->output, every, outputs, outputs, here, y);
    }
}

// From dy, the gradient of y: that of the surviving weights and of the bias into the layer, of x into dx (NULL: not
// wanted).
void prunephase_linear_backward(const Layer *layer, const int32_t *active, int32_t inputs, const int32_t *every,
                                const float *x, const float *dy, int64_t count, int64_t features, float *tile,
                                float *scratch, float *dx) {
    const Matrix *matrix = &layer->forward;
    const int32_t outputs = matrix->rows, weights = matrix->start[matrix->blocks * outputs];
    const float *rows[TILE];
    memset(layer->gradient, 0, weights * sizeof(float));
    memset(layer->bias_gradient, 0, outputs * sizeof(float));
    for (int32_t k = 0; dx && k < weights; k++) layer->transposed[k] = layer->weight[layer->source[k]];
    for (; count > 0; count -= TILE, x += TILE * features, dy += (size_t)TILE * outputs) {
        const int here = count < TILE ? (int)count : TILE, vectors = vectors_for(here);
        const size_t lanes = (size_t)vectors * LANES;
        point_at(rows, dy, outputs, here);
        gather_floats((int)lanes, rows, outputs, every, outputs, layer->error);
        for (int32_t r = 0; r < outputs; r++)
            for (size_t lane = here; lane < lanes; lane++) layer->error[r * lanes + lane] = 0;
        point_at(rows, x, features, here);
        gather_floats((int)lanes, rows, features, active, inputs, tile);
        for (int block = 0; block < matrix->blocks; block++) {
            const int32_t *start = matrix->start + (size_t)block * outputs;
            dots(vectors, matrix, NULL, block, layer->error, NULL, tile, scratch);
            for (int32_t k = start[0]; k < start[outputs]; k++) layer->gradient[k] += scratch[k - start[0]];
        }
        row_sums(vectors, layer->error, outputs, scratch);
        for (int32_t r = 0; r < outputs; r++) layer->bias_gradient[r] += scratch[r];
        if (!dx) continue;
        product(vectors, &layer->backward, NULL, layer->transposed, NULL, layer->error, tile, NONE, NULL);
        spread_floats(vectors, tile, active, inputs, features, here, dx);
        dx += TILE * features;
    }
}

int32_t prunephase_tile(void) { return TILE; }
