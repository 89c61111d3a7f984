/* One visit to each row of a block of logits: maxima by slab, how many lie above a threshold, the two largest, and the
 * residual sums of all but the largest relative to the second. See kernels.py for the meaning of each output. */

#include <math.h>
#include <stdint.h>

#define SLAB 64

/* e^t for t <= 0 where it is a normal number, within 2 ulp. NaN stays NaN. */
static inline float exp_negative(float t)
{
    const float magic = 12582912.0f; /* 1.5 * 2^23: adding it rounds to an integer, kept in the low bits */
    float shifted = t * 1.44269504f + magic;
    float n = shifted - magic;
    float f = (t - n * 0.693359375f) + n * 2.12194440e-4f;
    float p = 1.9875691e-4f;
    p = p * f + 1.3981999e-3f;
    p = p * f + 8.3334519e-3f;
    p = p * f + 4.1665796e-2f;
    p = p * f + 1.6666665e-1f;
    p = p * f + 5.0000001e-1f;
    p = p * f * f + f + 1.0f;
    union { float f; int32_t i; } scale;
    scale.i = ((int32_t)n + 127) << 23;
    return p * scale.f;
}

static inline void add_slab(const float *restrict z, int width, float reference, float inv_t, float negligible,
                            float *restrict sums)
{
    float e0 = 0, t1 = 0, e2 = 0, q1 = 0;
#pragma omp simd reduction(+ : e0, t1, e2, q1)
    for (int j = 0; j < width; j++) {
        float t = (z[j] - reference) * inv_t;
        t = t < negligible ? negligible : t;
        float e = exp_negative(t);
        float et = e * t;
        e0 += e;
        t1 += et;
        e2 += e * e;
        q1 += e * et;
    }
    sums[0] += e0;
    sums[1] += t1;
    sums[2] += e2;
    sums[3] += q1;
}

static inline float slab_maximum(const float *restrict z, int width)
{
    float top = -INFINITY;
#pragma omp simd reduction(max : top)
    for (int j = 0; j < width; j++)
        top = z[j] > top ? z[j] : top;
    return top;
}

/* Entries above their row's level, row by row: how many there are, and where `row` is given also where and which. */
int64_t exceeding(const float *restrict z, int64_t rows, int64_t columns, int64_t stride,
                  const float *restrict slab_max, const float *restrict level, int64_t *restrict row,
                  int64_t *restrict column, float *restrict value)
{
    const int64_t slabs = (columns + SLAB - 1) / SLAB;
    int64_t found = 0;
    for (int64_t i = 0; i < rows; i++) {
        for (int64_t s = 0; s < slabs; s++) {
            if (!(slab_max[i * slabs + s] > level[i]))
                continue;
            const float *slab = z + i * stride + s * SLAB;
            int width = s + 1 < slabs ? SLAB : (int)(columns - s * SLAB);
            if (!row) {
                int count = 0;
#pragma omp simd reduction(+ : count)
                for (int j = 0; j < width; j++)
                    count += slab[j] > level[i];
                found += count;
                continue;
            }
            for (int j = 0; j < width; j++)
                if (slab[j] > level[i]) {
                    row[found] = i;
                    column[found] = s * SLAB + j;
                    value[found++] = slab[j];
                }
        }
    }
    return found;
}

void chunk(const float *restrict z, int64_t rows, int64_t columns, int64_t stride, const float *restrict threshold,
           float inv_t, float negligible, float floor, float *restrict slab_max, float *restrict above, float *restrict peak,
           int64_t *restrict column, float *restrict runner_up, float *restrict sums, int64_t sums_stride)
{
    const int slabs = (int)((columns + SLAB - 1) / SLAB);
    for (int64_t i = 0; i < rows; i++) {
        const float *row = z + i * stride;
        float *maxima = slab_max + i * slabs;
        float count = 0;
        int best = 0;
        for (int s = 0; s < slabs; s++) {
            const float *slab = row + (int64_t)s * SLAB;
            int width = s + 1 < slabs ? SLAB : (int)(columns - (int64_t)s * SLAB);
            maxima[s] = slab_maximum(slab, width);
            if (maxima[s] > maxima[best])
                best = s;
        }
        if (threshold) {
            float level = threshold[i];
#pragma omp simd reduction(+ : count)
            for (int64_t j = 0; j < columns; j++)
                count += row[j] > level ? 1.0f : 0.0f;
            above[i] = count;
        }

        int first = best * SLAB, width = best + 1 < slabs ? SLAB : (int)(columns - first), lane = 0;
        float rest[SLAB], second = floor;
        for (int j = 0; j < width; j++) {
            rest[j] = row[first + j];
            if (rest[j] > rest[lane])
                lane = j;
        }
        float top = rest[lane];
        rest[lane] = -INFINITY;
        for (int j = 0; j < width; j++)
            second = rest[j] > second ? rest[j] : second;
        for (int s = 0; s < slabs; s++)
            second = s != best && maxima[s] > second ? maxima[s] : second;
        peak[i] = top;
        column[i] = first + lane;
        runner_up[i] = second;

        float part[4] = {0, 0, 0, 0};
        add_slab(row, first, second, inv_t, negligible, part);
        add_slab(rest, width, second, inv_t, negligible, part);
        add_slab(row + first + width, (int)(columns - first - width), second, inv_t, negligible, part);
        for (int k = 0; k < 4; k++)
            sums[k * sums_stride + i] = part[k];
    }
}
