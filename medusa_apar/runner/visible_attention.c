/* Attention of nodes over the slots that each of them sees.

   Compiled for one shape of heads: HEAD_DIM values in each, SHARED query heads for each key-value head; for values that
   are stored as float, or as bfloat16 where BFLOAT16 is 1; and summed as double where EXACT is 1, else as float. */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if BFLOAT16
typedef uint16_t Stored;
#else
typedef float Stored;
#endif

#if EXACT
typedef double Sum;
typedef int64_t Bits;
#define LEAST_POWER -700.0
#define TERMS 13
#define MANTISSA 52
#define BIAS 1023
#else
typedef float Sum;
typedef int32_t Bits;
#define LEAST_POWER -87.0f
#define TERMS 7
#define MANTISSA 23
#define BIAS 127
#endif

#if defined(__AVX512F__) && HEAD_DIM % 16 == 0
#define VECTOR 64 /* bytes */
#else
#define VECTOR 32
#endif

#define LANES (VECTOR / (int)sizeof(Sum))
#define CHUNKS (HEAD_DIM / LANES)
#define COLUMNS (CHUNKS % 2 ? 1 : 2) /* chunks of values that are summed at a time */
#define BLOCK 4 /* slots whose keys are in registers at a time */
#define UNROLLED _Pragma("GCC unroll 16")

typedef Stored StoredLanes __attribute__((vector_size(LANES * sizeof(Stored))));
typedef float Singles __attribute__((vector_size(LANES * sizeof(float))));
typedef uint32_t Words __attribute__((vector_size(LANES * sizeof(uint32_t))));
typedef Sum Lanes __attribute__((vector_size(LANES * sizeof(Sum))));
typedef Sum Quad __attribute__((vector_size(BLOCK * sizeof(Sum))));
typedef Bits Places __attribute__((vector_size(BLOCK * sizeof(Bits))));

#ifdef __clang__
#define SHUFFLED(first, second, ...) __builtin_shufflevector(first, second, __VA_ARGS__)
#else
#define SHUFFLED(first, second, ...) __builtin_shuffle(first, second, (Places){__VA_ARGS__})
#endif

static inline Lanes chunk_of(const Stored *row, int chunk) {
    StoredLanes stored;
    memcpy(&stored, row + chunk * LANES, sizeof stored);
#if BFLOAT16
    const Words words = __builtin_convertvector(stored, Words) << 16;
    return __builtin_convertvector((Singles)words, Lanes);
#else
    return __builtin_convertvector(stored, Lanes);
#endif
}

static inline Stored rounded(Sum sum) {
#if BFLOAT16
    const union {
        float value;
        uint32_t bits;
    } single = {.value = sum};
    return (single.bits + 0x7fff + ((single.bits >> 16) & 1)) >> 16; /* to even */
#else
    return sum;
#endif
}

/* e to a power that is not above 0: a Taylor polynomial after taking out the powers of 2. */
static inline Sum exponential(Sum power) {
    power = power < (Sum)LEAST_POWER ? (Sum)LEAST_POWER : power;
    const Bits twos = power * (Sum)1.4426950408889634 - (Sum)0.5;
    const Sum rest = (power - twos * (Sum)6.93145751953125e-1) - twos * (Sum)1.42860682030941723212e-6;
    Sum sum = 1;
    UNROLLED for (int term = TERMS; term > 0; term--) sum = sum * rest * (Sum)(1.0 / term) + 1;
    const union {
        Bits bits;
        Sum value;
    } scale = {.bits = (twos + BIAS) << MANTISSA};
    return sum * scale.value;
}

/* The lanes added up to four. */
static inline Quad folded(Lanes lanes) {
    Quad parts[LANES / BLOCK];
    memcpy(parts, &lanes, sizeof lanes);
    Quad sum = parts[0];
    UNROLLED for (int part = 1; part < LANES / BLOCK; part++) sum += parts[part];
    return sum;
}

/* The sum of each of four vectors. */
static inline Quad sums_of(const Lanes vectors[BLOCK]) {
    const Quad a = folded(vectors[0]), b = folded(vectors[1]), c = folded(vectors[2]), d = folded(vectors[3]);
    const Quad ab = SHUFFLED(a, b, 0, 4, 1, 5) + SHUFFLED(a, b, 2, 6, 3, 7);
    const Quad cd = SHUFFLED(c, d, 0, 4, 1, 5) + SHUFFLED(c, d, 2, 6, 3, 7);
    return SHUFFLED(ab, cd, 0, 1, 4, 5) + SHUFFLED(ab, cd, 2, 3, 6, 7);
}

/* Scores of SHARED query heads with the keys of `count` slots; `slots` and `scores` have room for BLOCK - 1 more. */
static void score(const Lanes query[SHARED][CHUNKS], const Stored *keys, int64_t stride, const int32_t *slots,
                  int64_t count, Sum *scores, int64_t width) {
    for (int64_t first = 0; first < count; first += BLOCK) {
        Lanes sums[SHARED][BLOCK] = {0};
        UNROLLED for (int chunk = 0; chunk < CHUNKS; chunk++) {
            Lanes key[BLOCK];
            UNROLLED for (int at = 0; at < BLOCK; at++) key[at] = chunk_of(keys + slots[first + at] * stride, chunk);
            UNROLLED for (int head = 0; head < SHARED; head++)
                UNROLLED for (int at = 0; at < BLOCK; at++) sums[head][at] += query[head][chunk] * key[at];
        }
        UNROLLED for (int head = 0; head < SHARED; head++) {
            const Quad four = sums_of(sums[head]);
            memcpy(scores + head * width + first, &four, sizeof four);
        }
    }
}

/* Turn scores into e to the power of each, less the largest. Returns 1 over their sum. */
static Sum exponentials(Sum *scores, int64_t count) {
    Sum largest = -INFINITY, sum = 0;
#pragma omp simd reduction(max : largest)
    for (int64_t at = 0; at < count; at++) largest = scores[at] > largest ? scores[at] : largest;
#pragma omp simd reduction(+ : sum)
    for (int64_t at = 0; at < count; at++) {
        scores[at] = exponential(scores[at] - largest);
        sum += scores[at];
    }
    return count ? 1 / sum : 0;
}

/* Weighted sums of the values of `count` slots, times the shares, for SHARED query heads: `output` [SHARED, HEAD_DIM]. */
static void weigh(const Stored *values, int64_t stride, const int32_t *slots, int64_t count, const Sum *weights,
                  int64_t width, const Sum shares[SHARED], Stored *output) {
    for (int first = 0; first < CHUNKS; first += COLUMNS) {
        Lanes sums[SHARED][COLUMNS] = {0};
        for (int64_t at = 0; at < count; at++) {
            const Stored *row = values + slots[at] * stride;
            Lanes value[COLUMNS];
            UNROLLED for (int column = 0; column < COLUMNS; column++) value[column] = chunk_of(row, first + column);
            UNROLLED for (int head = 0; head < SHARED; head++)
                UNROLLED for (int column = 0; column < COLUMNS; column++)
                    sums[head][column] += weights[head * width + at] * value[column];
        }
        UNROLLED for (int head = 0; head < SHARED; head++) {
            Sum found[COLUMNS * LANES];
            memcpy(found, sums[head], sizeof found);
            for (int dim = 0; dim < COLUMNS * LANES; dim++)
                output[head * HEAD_DIM + first * LANES + dim] = rounded(found[dim] * shares[head]);
        }
    }
}

/* What the nodes attend to. Strides count values: of `query` [heads, nodes, HEAD_DIM], and of `keys` and `values`
   [pools, kv_heads, extent, HEAD_DIM]. `mask` [nodes, extent] is 0 where a node sees a slot of its pool, and `pools`
   [nodes] says which pool that is; NULL: the first. `output` [nodes, heads, HEAD_DIM]. Returns 0, or 1 where memory is
   short. */
int attend(const Stored *query, int64_t query_head, int64_t query_node, const Stored *keys, int64_t key_pool,
           int64_t key_head, int64_t key_slot, const Stored *values, int64_t value_pool, int64_t value_head,
           int64_t value_slot, const Stored *mask, const int64_t *pools, Stored *output, int64_t nodes, int64_t kv_heads,
           int64_t extent, double scaling) {
    int failed = 0;
#pragma omp parallel for collapse(2) schedule(dynamic, 1) reduction(| : failed)
    for (int64_t node = 0; node < nodes; node++)
        for (int64_t kv_head = 0; kv_head < kv_heads; kv_head++) {
            const int64_t width = extent + BLOCK;
            const int64_t pool = pools ? pools[node] : 0;
            int32_t *slots = malloc(width * (sizeof(int32_t) + SHARED * sizeof(Sum)) + sizeof(Sum));
            if (!slots) {
                failed |= 1;
                continue;
            }
            Sum *scores = (Sum *)(((uintptr_t)(slots + width) + 7) & ~(uintptr_t)7);
            int64_t count = 0;
            for (int64_t slot = 0; slot < extent; slot++) {
                slots[count] = slot;
                count += mask[node * extent + slot] == 0;
            }
            for (int at = 0; at < BLOCK; at++) slots[count + at] = 0;

            Lanes wide[SHARED][CHUNKS];
            for (int head = 0; head < SHARED; head++)
                for (int chunk = 0; chunk < CHUNKS; chunk++)
                    wide[head][chunk] =
                        chunk_of(query + (kv_head * SHARED + head) * query_head + node * query_node, chunk) * (Sum)scaling;
            score(wide, keys + pool * key_pool + kv_head * key_head, key_slot, slots, count, scores, width);

            Sum shares[SHARED];
            for (int head = 0; head < SHARED; head++) shares[head] = exponentials(scores + head * width, count);
            weigh(values + pool * value_pool + kv_head * value_head, value_slot, slots, count, scores, width, shares,
                  output + (node * kv_heads + kv_head) * SHARED * HEAD_DIM);
            free(slots);
        }
    return failed;
}
