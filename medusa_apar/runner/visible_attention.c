/* Attention of nodes over the slots that each of them sees, summed in double precision.

   Compiled for one shape of heads: HEAD_DIM values in each, SHARED query heads for each key-value head. */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define LANES 4
#define CHUNKS (HEAD_DIM / LANES)
#define BLOCK 4 /* slots whose keys are in registers at a time */
#define UNROLLED _Pragma("GCC unroll 8")

typedef float Single __attribute__((vector_size(LANES * sizeof(float))));
typedef double Double __attribute__((vector_size(LANES * sizeof(double))));


static inline Double chunk_of(const float *row, int chunk) {
    Single values;
    memcpy(&values, row + chunk * LANES, sizeof values);
    return __builtin_convertvector(values, Double);
}

/* e to a power that is not above 0: a Taylor polynomial after taking out the powers of 2. */
static inline double exponential(double power) {
    power = power < -700.0 ? -700.0 : power;
    const double twos = __builtin_rint(power * 1.4426950408889634);
    const double rest = (power - twos * 6.93145751953125e-1) - twos * 1.42860682030941723212e-6;
    double sum = 1.0 / 6227020800.0;
    sum = sum * rest + 1.0 / 479001600.0;
    sum = sum * rest + 1.0 / 39916800.0;
    sum = sum * rest + 1.0 / 3628800.0;
    sum = sum * rest + 1.0 / 362880.0;
    sum = sum * rest + 1.0 / 40320.0;
    sum = sum * rest + 1.0 / 5040.0;
    sum = sum * rest + 1.0 / 720.0;
    sum = sum * rest + 1.0 / 120.0;
    sum = sum * rest + 1.0 / 24.0;
    sum = sum * rest + 1.0 / 6.0;
    sum = sum * rest + 0.5;
    sum = sum * rest + 1.0;
    sum = sum * rest + 1.0;
    const union {
        int64_t bits;
        double value;
    } scale = {.bits = ((int64_t)twos + 1023) << 52};
    return sum * scale.value;
}

/* Scores of SHARED query heads with the keys of `count` slots; `slots` and `scores` have room for BLOCK - 1 more. */
static void score(const Double query[SHARED][CHUNKS], const float *keys, int64_t stride, const int32_t *slots,
                  int64_t count, double *scores, int64_t width) {
    for (int64_t first = 0; first < count; first += BLOCK) {
        Double sums[SHARED][BLOCK];
        memset(sums, 0, sizeof sums);
        UNROLLED for (int chunk = 0; chunk < CHUNKS; chunk++) {
            Double key[BLOCK];
            UNROLLED for (int at = 0; at < BLOCK; at++) key[at] = chunk_of(keys + slots[first + at] * stride, chunk);
            UNROLLED for (int head = 0; head < SHARED; head++)
                UNROLLED for (int at = 0; at < BLOCK; at++) sums[head][at] += query[head][chunk] * key[at];
        }
        for (int head = 0; head < SHARED; head++)
            for (int at = 0; at < BLOCK; at++) {
                const Double lanes = sums[head][at];
                double sum = 0;
                for (int lane = 0; lane < LANES; lane++) sum += lanes[lane];
                scores[head * width + first + at] = sum;
            }
    }
}

/* Turn scores into e to the power of each, less the largest. Returns 1 over their sum. */
static double exponentials(double *scores, int64_t count) {
    double largest = -INFINITY, sum = 0;
#pragma omp simd reduction(max : largest)
    for (int64_t at = 0; at < count; at++) largest = scores[at] > largest ? scores[at] : largest;
#pragma omp simd reduction(+ : sum)
    for (int64_t at = 0; at < count; at++) {
        scores[at] = exponential(scores[at] - largest);
        sum += scores[at];
    }
    return count ? 1.0 / sum : 0.0;
}

/* What the nodes attend to. Strides count values: of `query` [heads, nodes, HEAD_DIM], and of `keys` and `values`
   [pools, kv_heads, extent, HEAD_DIM]. `mask` [nodes, extent] is 0 where a node sees a slot of its pool, and `pools`
   [nodes] says which pool that is. `output` [nodes, heads, HEAD_DIM]. Returns 0, or 1 where memory is short. */
int attend(const float *query, int64_t query_head, int64_t query_node, const float *keys, int64_t key_pool,
           int64_t key_head, int64_t key_slot, const float *values, int64_t value_pool, int64_t value_head,
           int64_t value_slot, const float *mask, const int64_t *pools, float *output, int64_t nodes, int64_t kv_heads,
           int64_t extent, double scaling) {
    int failed = 0;
#pragma omp parallel for collapse(2) schedule(dynamic, 1) reduction(| : failed)
    for (int64_t node = 0; node < nodes; node++)
        for (int64_t kv_head = 0; kv_head < kv_heads; kv_head++) {
            const int64_t width = extent + BLOCK;
            int32_t *slots = malloc(width * (sizeof(int32_t) + SHARED * sizeof(double)) + sizeof(double));
            if (!slots) {
                failed |= 1;
                continue;
            }
            double *scores = (double *)(((uintptr_t)(slots + width) + 7) & ~(uintptr_t)7);
            int64_t count = 0;
            for (int64_t slot = 0; slot < extent; slot++) {
                slots[count] = slot;
                count += mask[node * extent + slot] == 0;
            }
            for (int at = 0; at < BLOCK; at++) slots[count + at] = 0;

            Double wide[SHARED][CHUNKS];
            for (int head = 0; head < SHARED; head++)
                for (int chunk = 0; chunk < CHUNKS; chunk++)
                    wide[head][chunk] =
                        chunk_of(query + (kv_head * SHARED + head) * query_head + node * query_node, chunk) * scaling;
            score(wide, keys + pools[node] * key_pool + kv_head * key_head, key_slot, slots, count, scores, width);

            const float *own = values + pools[node] * value_pool + kv_head * value_head;
            double sums[SHARED][HEAD_DIM], shares[SHARED];
            memset(sums, 0, sizeof sums);
            for (int head = 0; head < SHARED; head++) shares[head] = exponentials(scores + head * width, count);
            for (int64_t at = 0; at < count; at++)
                for (int head = 0; head < SHARED; head++) {
                    const double weight = scores[head * width + at];
                    const float *value = own + slots[at] * value_slot;
#pragma omp simd
                    for (int dim = 0; dim < HEAD_DIM; dim++) sums[head][dim] += weight * (double)value[dim];
                }
            float *out = output + (node * kv_heads + kv_head) * SHARED * HEAD_DIM;
            for (int head = 0; head < SHARED; head++)
                for (int dim = 0; dim < HEAD_DIM; dim++) out[head * HEAD_DIM + dim] = sums[head][dim] * shares[head];
            free(slots);
        }
    return failed;
}
