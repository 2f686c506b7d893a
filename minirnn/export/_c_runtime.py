"""What every exported C program begins and ends with; ``model_`` and ``MODEL_`` become the program's own name."""

BEGIN = r"""
#ifndef MODEL_H
#define MODEL_H
#include <math.h>
#include <stdint.h>
#include <string.h>
#if defined(MODEL_MAIN) && !defined(MODEL_TEST)
#define MODEL_TEST
#endif
#ifdef MODEL_TEST
#include <stdio.h>
#include <stdlib.h>
#endif
#ifdef __cplusplus
#define MODEL_RESTRICT __restrict
#else
#define MODEL_RESTRICT restrict
#endif
"""

MATH = r"""
/* exp(z), z being x limited to +-87.3, without a branch, so that loops vectorize; relative error 1e-7. NaN counts as
   +-87.3, too. With k = n + 127 it is 2^n e^r, |r| <= ln(2) / 2. */
static inline float model_exp(float x) {
    int32_t bits, size, k;
    float z, n, r, power;
    memcpy(&bits, &x, sizeof bits);
    size = bits & 0x7FFFFFFF;
    bits = (bits & (-2147483647 - 1)) | (size < 0x42AE999A ? size : 0x42AE999A);
    memcpy(&z, &bits, sizeof z);
    k = (int32_t)(z * 1.44269504f + 127.5f);
    n = (float)(k - 127);
    r = z - n * 0.693359375f + n * 2.12194440e-4f;
    bits = k * 8388608;
    memcpy(&power, &bits, sizeof power);
    return power * (1.0f + r * (1.0f + r * (0.5f + r * (0.166666667f + r * (0.0416666667f + r * (0.00833333333f
        + r * (0.00138888889f + r * 0.000198412698f)))))));
}
static inline float model_sigmoid(float x) { return 1.0f / (1.0f + model_exp(-x)); }
static inline float model_tanh(float x) { return 1.0f - 2.0f / (1.0f + model_exp(2.0f * x)); }
static inline float model_minimum(float a, float b) { return b < a ? b : a; }
static inline float model_maximum(float a, float b) { return a < b ? b : a; }
static inline float model_softplus(float x) { return model_maximum(x, 0.0f) + log1pf(model_exp(-fabsf(x))); }

/* y += W x; w holds the columns of W one after the other. */
static inline void model_add(const float *MODEL_RESTRICT w, const float *MODEL_RESTRICT x, float *MODEL_RESTRICT y,
                             int rows, int columns) {
    int i, j = 0;
    for (; j + 4 <= columns; j += 4, w += 4 * rows) {
        const float a = x[j], b = x[j + 1], c = x[j + 2], d = x[j + 3];
        for (i = 0; i < rows; i++)
            y[i] += w[i] * a + w[rows + i] * b + w[2 * rows + i] * c + w[3 * rows + i] * d;
    }
    for (; j < columns; j++, w += rows)
        for (i = 0; i < rows; i++) y[i] += w[i] * x[j];
}
/* y += the row of a table. */
static inline void model_row(const float *MODEL_RESTRICT table, int row, float *MODEL_RESTRICT y, int columns) {
    int i;
    for (i = 0; i < columns; i++) y[i] += table[row * columns + i];
}
"""

MATH_INT8 = r"""
/* As model_add; row i of W is scale[i] times whole numbers. */
static inline void model_add8(const int8_t *MODEL_RESTRICT w, const float *MODEL_RESTRICT scale,
                              const float *MODEL_RESTRICT x, float *MODEL_RESTRICT y, int rows, int columns) {
    int i, j = 0;
    for (i = 0; i < rows; i++) y[i] /= scale[i];
    for (; j + 4 <= columns; j += 4, w += 4 * rows) {
        const float a = x[j], b = x[j + 1], c = x[j + 2], d = x[j + 3];
        for (i = 0; i < rows; i++)
            y[i] += (float)w[i] * a + (float)w[rows + i] * b + (float)w[2 * rows + i] * c + (float)w[3 * rows + i] * d;
    }
    for (; j < columns; j++, w += rows)
        for (i = 0; i < rows; i++) y[i] += (float)w[i] * x[j];
    for (i = 0; i < rows; i++) y[i] *= scale[i];
}
static inline void model_row8(const int8_t *MODEL_RESTRICT table, const float *MODEL_RESTRICT scale, int row,
                              float *MODEL_RESTRICT y, int columns) {
    int i;
    for (i = 0; i < columns; i++) y[i] += scale[row] * (float)table[row * columns + i];
}
"""

STRINGS = r"""
/* The number of the string that is `text`, `length` bytes long; MISSING where there is none. */
static inline int model_find_NAME(const char *text, int length) {
    int k;
    for (k = FIRST; k < COUNT; k++)
        if ((int)(model_NAME_at[k + 1] - model_NAME_at[k]) == length + 1
            && !memcmp(model_NAME_bytes + model_NAME_at[k], text, (size_t)length))
            return k;
    return MISSING;
}
/* String number k in UTF-8, ended by NUL; `length`, if not NULL, becomes its bytes without that. */
static inline const char *model_NAME(int k, int *length) {
    if (length) *length = (int)(model_NAME_at[k + 1] - model_NAME_at[k]) - 1;
    return (const char *)(model_NAME_bytes + model_NAME_at[k]);
}
"""

ARGMAX = r"""
static inline int model_argmax(const float *y, int size) {
    int k, best = 0;
    for (k = 1; k < size; k++)
        if (y[k] > y[best]) best = k;
    return best;
}
"""

SAMPLE = r"""
/* A token drawn from softmax(y / temperature); at temperature 0 the most likely one. `seed` (not 0) is the state of the
   generator, xorshift32 (Marsaglia 2003): the same seed gives the same tokens. */
static inline int model_sample(const float *y, float temperature, uint32_t *seed) {
    const int best = model_argmax(y, MODEL_OUTPUTS);
    float total = 0.0f, at;
    int k;
    if (temperature < 1e-6f) return best;
    for (k = 0; k < MODEL_OUTPUTS; k++) total += model_exp((y[k] - y[best]) / temperature);
    *seed ^= *seed << 13;
    *seed ^= *seed >> 17;
    *seed ^= *seed << 5;
    at = (float)(*seed >> 8) / 16777216.0f * total;
    for (k = 0; k < MODEL_OUTPUTS; k++) {
        at -= model_exp((y[k] - y[best]) / temperature);
        if (at < 0.0f) return k;
    }
    return best;
}
"""

DIFFERENCE = r"""
static inline float model_difference(const float *y, const float *expected, int size, float largest) {
    int k;
    for (k = 0; k < size; k++) {
        const float d = fabsf(y[k] - expected[k]);
        largest = d > largest || d != d ? d : largest;
    }
    return largest;
}
"""

TEST_END = r"""
    printf("largest difference from the recorded outputs: %g, bound %g\n", (double)largest, BOUND);
    return !((double)largest <= BOUND);
}
"""

MAIN = r"""
#ifdef MODEL_MAIN
int main(void) { return model_test(); }
#endif
"""

MAIN_CHAR = r"""
#ifdef MODEL_MAIN
/* Without arguments the test; with: length, prime, temperature (0), seed (1). */
int main(int argc, char **argv) {
    static model_state state;
    float y[MODEL_OUTPUTS];
    const char *prime = argc > 2 && argv[2][0] ? argv[2] : "\n";
    const float temperature = argc > 3 ? (float)atof(argv[3]) : 0.0f;
    uint32_t seed = argc > 4 ? (uint32_t)strtoul(argv[4], NULL, 10) : 1;
    int k, length, read = 0;
    if (argc < 2) return model_test();
    if (seed == 0) seed = 1;
    model_init(&state);
    while (*prime) {
        for (length = 1; LONGER;) length++;
        k = model_find_symbol(prime, length);
        prime += length;
        if (k < 0) continue;
        model_step(&state, k, y);
        read = 1;
    }
    if (!read) model_step(&state, 0, y);
    for (length = atoi(argv[1]); length > 0; length--) {
        int size;
        const char *symbol;
        k = model_sample(y, temperature, &seed);
        symbol = model_symbol(k, &size);
        fwrite(symbol, 1, (size_t)size, stdout);
        model_step(&state, k, y);
    }
    return 0;
}
#endif
"""
