#include "ea_logmel.h"

#include <float.h>
#include <string.h>

#if FLT_EVAL_METHOD != 0
#error "float arithmetic must be done in float; on 32-bit x86 compile with -msse2 -mfpmath=sse"
#endif
#ifdef __FAST_MATH__
#error "-ffast-math regroups sums: a stream would not have the same bits as on another machine"
#endif

/* The loops behind this touch each element once: the compiler may run neighbours side by side. */
#if defined(__clang__)
#define EA_INDEPENDENT _Pragma("clang loop vectorize(assume_safety)")
#elif defined(__GNUC__)
#define EA_INDEPENDENT _Pragma("GCC ivdep")
#elif defined(_MSC_VER)
#define EA_INDEPENDENT __pragma(loop(ivdep))
#else
#define EA_INDEPENDENT
#endif

/* Arrays of a stream start at multiples of a cache line. */
#define LINE_BYTES 64u

struct ea_logmel {
    ea_logmel_tables_t tables;
    float *re[2]; /* n_fft / 2 each: the FFT goes back and forth between the two pairs */
    float *im[2];
    float *power;   /* n_fft / 2 + 1 bins, then zeros for the last block of a band */
    float *mel;     /* n_mels */
    float *history; /* win_length: the first samples of the next frame */
    size_t held;    /* samples in history, fewer than win_length */
    size_t skip;    /* samples to pass over before the next frame starts (hop beyond window); then held is 0 */
};

/* ---- memory ---- */

static size_t padded_floats(size_t n)
{
    const size_t per_line = LINE_BYTES / sizeof(float);
    return (n + per_line - 1) / per_line * per_line;
}

static size_t power_floats(size_t n_fft)
{
    return padded_floats(n_fft / 2 + EA_LOGMEL_BLOCK);
}

static int tables_are_sound(const ea_logmel_tables_t *t)
{
    const uint32_t n = t->n_fft;
    if (n < EA_LOGMEL_MIN_FFT || n > EA_LOGMEL_MAX_FFT || (n & (n - 1)) != 0 || t->win_length < 1 ||
        t->win_length > n || t->hop_length < 1 || t->n_mels < 1 || t->n_mels > UINT16_MAX ||
        !(t->log_floor >= FLT_MIN)) {
        return 0;
    }
    for (uint32_t b = 0; b < t->n_mels; b++) {
        if ((size_t)t->band_first[b] + (size_t)EA_LOGMEL_BLOCK * t->band_blocks[b] > n / 2 + EA_LOGMEL_BLOCK) {
            return 0;
        }
    }
    return 1;
}

size_t ea_logmel_bytes(const ea_logmel_tables_t *t)
{
    if (!tables_are_sound(t)) {
        return 0;
    }
    const size_t floats = 4 * padded_floats(t->n_fft / 2) + power_floats(t->n_fft) + padded_floats(t->n_mels) +
                          padded_floats(t->win_length);
    return sizeof(ea_logmel_t) + LINE_BYTES + floats * sizeof(float);
}

int ea_logmel_init(ea_logmel_t **stream, void *memory, size_t n_bytes, const ea_logmel_tables_t *t)
{
    const size_t needed = ea_logmel_bytes(t);
    *stream = NULL;
    if (needed == 0) {
        return EA_ERR_TABLES;
    }
    if (n_bytes < needed || (uintptr_t)memory % sizeof(void *) != 0) {
        return EA_ERR_MEMORY;
    }
    ea_logmel_t *s = memory;
    unsigned char *behind = (unsigned char *)(s + 1);
    float *next = (float *)(void *)(behind + (LINE_BYTES - (uintptr_t)behind % LINE_BYTES) % LINE_BYTES);
    s->tables = *t;
    for (int i = 0; i < 2; i++) {
        s->re[i] = next;
        s->im[i] = next + padded_floats(t->n_fft / 2);
        next = s->im[i] + padded_floats(t->n_fft / 2);
    }
    s->power = next;
    s->mel = s->power + power_floats(t->n_fft);
    s->history = s->mel + padded_floats(t->n_mels);
    for (size_t i = 0; i < power_floats(t->n_fft); i++) {
        s->power[i] = 0.0f;
    }
    ea_logmel_reset(s);
    *stream = s;
    return EA_OK;
}

void ea_logmel_reset(ea_logmel_t *s)
{
    s->held = s->skip = 0;
}

/* ---- one frame ---- */

/* n_fft real samples as n_fft / 2 complex ones: even samples are the real parts, odd ones the imaginary parts. */
static void pack_windowed(const float *restrict x, const float *restrict window, size_t length, float *restrict re,
                          float *restrict im, size_t m)
{
    const size_t pairs = length / 2;
    size_t i;
    for (i = 0; i < pairs; i++) {
        re[i] = x[2 * i] * window[2 * i];
        im[i] = x[2 * i + 1] * window[2 * i + 1];
    }
    if (length % 2 != 0) {
        re[i] = x[2 * i] * window[2 * i];
        im[i] = 0.0f;
        i++;
    }
    for (; i < m; i++) {
        re[i] = im[i] = 0.0f;
    }
}

/* Radix-4 butterfly of Stockham's FFT (decimation in frequency): reads i, i + q, i + 2q, i + 3q, multiplies three of
 * the four sums by the twiddles, writes o, o + s, o + 2s, o + 3s. A macro, so that it is one loop body everywhere. */
#define BUTTERFLY(i, q, o, s, w1r, w1i, w2r, w2i, w3r, w3i)                                                            \
    do {                                                                                                               \
        const float ar = xr[i] + xr[(i) + 2 * (q)], ai = xi[i] + xi[(i) + 2 * (q)];                                    \
        const float br = xr[i] - xr[(i) + 2 * (q)], bi = xi[i] - xi[(i) + 2 * (q)];                                    \
        const float cr = xr[(i) + (q)] + xr[(i) + 3 * (q)], ci = xi[(i) + (q)] + xi[(i) + 3 * (q)];                    \
        const float dr = xr[(i) + (q)] - xr[(i) + 3 * (q)], di = xi[(i) + (q)] - xi[(i) + 3 * (q)];                    \
        const float r1 = br + di, i1 = bi - dr;                                                                        \
        const float r2 = ar - cr, i2 = ai - ci;                                                                        \
        const float r3 = br - di, i3 = bi + dr;                                                                        \
        yr[o] = ar + cr;                                                                                               \
        yi[o] = ai + ci;                                                                                               \
        yr[(o) + (s)] = r1 * (w1r)-i1 * (w1i);                                                                         \
        yi[(o) + (s)] = r1 * (w1i) + i1 * (w1r);                                                                       \
        yr[(o) + 2 * (s)] = r2 * (w2r)-i2 * (w2i);                                                                     \
        yi[(o) + 2 * (s)] = r2 * (w2i) + i2 * (w2r);                                                                   \
        yr[(o) + 3 * (s)] = r3 * (w3r)-i3 * (w3i);                                                                     \
        yi[(o) + 3 * (s)] = r3 * (w3i) + i3 * (w3r);                                                                   \
    } while (0)

/* First pass (stride 1): every butterfly has its own twiddles. */
static void pass_first(size_t m, const float *restrict w, const float *restrict xr, const float *restrict xi,
                       float *restrict yr, float *restrict yi)
{
    const size_t q = m / 4;
    EA_INDEPENDENT
    for (size_t p = 0; p < q; p++) {
        BUTTERFLY(p, q, 4 * p, 1, w[p], w[p + q], w[p + 2 * q], w[p + 3 * q], w[p + 4 * q], w[p + 5 * q]);
    }
}

/* A pass of stride s: s neighbouring butterflies share their twiddles. */
static inline void pass_strided(size_t m, size_t s, const float *restrict w, const float *restrict xr,
                                const float *restrict xi, float *restrict yr, float *restrict yi)
{
    const size_t q = m / 4;
    for (size_t p = 0; p < q; p += s) {
        const float w1r = w[p], w1i = w[p + q], w2r = w[p + 2 * q];
        const float w2i = w[p + 3 * q], w3r = w[p + 4 * q], w3i = w[p + 5 * q];
        EA_INDEPENDENT
        for (size_t k = 0; k < s; k++) {
            BUTTERFLY(p + k, q, 4 * p + k, s, w1r, w1i, w2r, w2i, w3r, w3i);
        }
    }
}

/* The second pass apart: with its stride known, one vector of four is one set of butterflies. */
static void pass_second(size_t m, const float *restrict w, const float *restrict xr, const float *restrict xi,
                        float *restrict yr, float *restrict yi)
{
    pass_strided(m, 4, w, xr, xi, yr, yi);
}

static void pass_middle(size_t m, size_t s, const float *restrict w, const float *restrict xr,
                        const float *restrict xi, float *restrict yr, float *restrict yi)
{
    pass_strided(m, s, w, xr, xi, yr, yi);
}

/* Last pass where m is a power of four: all twiddles are 1. */
static void pass_last_of_four(size_t m, const float *restrict xr, const float *restrict xi, float *restrict yr,
                              float *restrict yi)
{
    const size_t q = m / 4;
    EA_INDEPENDENT
    for (size_t p = 0; p < q; p++) {
        const float ar = xr[p] + xr[p + 2 * q], ai = xi[p] + xi[p + 2 * q];
        const float br = xr[p] - xr[p + 2 * q], bi = xi[p] - xi[p + 2 * q];
        const float cr = xr[p + q] + xr[p + 3 * q], ci = xi[p + q] + xi[p + 3 * q];
        const float dr = xr[p + q] - xr[p + 3 * q], di = xi[p + q] - xi[p + 3 * q];
        yr[p] = ar + cr;
        yi[p] = ai + ci;
        yr[p + q] = br + di;
        yi[p + q] = bi - dr;
        yr[p + 2 * q] = ar - cr;
        yi[p + 2 * q] = ai - ci;
        yr[p + 3 * q] = br - di;
        yi[p + 3 * q] = bi + dr;
    }
}

/* Last pass where m is twice a power of four. */
static void pass_last_of_two(size_t m, const float *restrict xr, const float *restrict xi, float *restrict yr,
                             float *restrict yi)
{
    const size_t h = m / 2;
    EA_INDEPENDENT
    for (size_t p = 0; p < h; p++) {
        yr[p] = xr[p] + xr[p + h];
        yi[p] = xi[p] + xi[p + h];
        yr[p + h] = xr[p] - xr[p + h];
        yi[p + h] = xi[p] - xi[p + h];
    }
}

/* FFT of the m complex numbers in pair 0; the number of the pair that holds the result. */
static int transform(ea_logmel_t *s, size_t m)
{
    const float *w = s->tables.twiddles;
    int from = 1;
    pass_first(m, w, s->re[0], s->im[0], s->re[1], s->im[1]);
    for (size_t stride = 4; 4 * stride < m; stride *= 4) {
        if (stride == 4) {
            pass_second(m, w, s->re[from], s->im[from], s->re[!from], s->im[!from]);
        } else {
            pass_middle(m, stride, w, s->re[from], s->im[from], s->re[!from], s->im[!from]);
        }
        from = !from;
    }
    /* The bits of 4^k all lie in even places. */
    if ((m & 0x5555u) != 0) {
        pass_last_of_four(m, s->re[from], s->im[from], s->re[!from], s->im[!from]);
    } else {
        pass_last_of_two(m, s->re[from], s->im[from], s->re[!from], s->im[!from]);
    }
    return !from;
}

/* Power of the one-sided real spectrum (m + 1 bins) from the FFT of the packed samples, two mirrored bins at once. */
static void real_power(size_t m, const float *restrict w, const float *restrict zr, const float *restrict zi,
                       float *restrict power)
{
    const float *wr = w, *wi = w + m / 2;
    power[0] = (zr[0] + zi[0]) * (zr[0] + zi[0]);
    power[m] = (zr[0] - zi[0]) * (zr[0] - zi[0]);
    power[m / 2] = zr[m / 2] * zr[m / 2] + zi[m / 2] * zi[m / 2];
    EA_INDEPENDENT
    for (size_t k = 1; k < m / 2; k++) {
        /* Twice the spectra of the even and of the odd samples. */
        const float even_r = zr[k] + zr[m - k], even_i = zi[k] - zi[m - k];
        const float odd_r = zi[k] + zi[m - k], odd_i = zr[m - k] - zr[k];
        const float turned_r = wr[k] * odd_r - wi[k] * odd_i, turned_i = wr[k] * odd_i + wi[k] * odd_r;
        const float low_r = even_r + turned_r, low_i = even_i + turned_i;
        const float high_r = even_r - turned_r, high_i = even_i - turned_i;
        power[k] = 0.25f * (low_r * low_r + low_i * low_i);
        power[m - k] = 0.25f * (high_r * high_r + high_i * high_i);
    }
}

static void mel_bands(const ea_logmel_tables_t *t, const float *restrict power, float *restrict mel)
{
    const float *w = t->weights;
    const size_t n_mels = t->n_mels;
    for (size_t b = 0; b < n_mels; b++) {
        const float *p = power + t->band_first[b];
        float sum[EA_LOGMEL_BLOCK] = {0.0f, 0.0f, 0.0f, 0.0f};
        for (size_t blocks = t->band_blocks[b]; blocks > 0; blocks--) {
            for (int i = 0; i < EA_LOGMEL_BLOCK; i++) {
                sum[i] += p[i] * w[i];
            }
            p += EA_LOGMEL_BLOCK;
            w += EA_LOGMEL_BLOCK;
        }
        mel[b] = (sum[0] + sum[2]) + (sum[1] + sum[3]);
    }
}

/* ln x = e ln 2 + ln(1 + f) with x = 2^e (1 + f), 1 + f in [sqrt(1/2), sqrt 2).
 * ln(1 + f) = f - f^2 / 2 + f^3 P(f); P is the polynomial of degree 6 with the least largest relative error of the
 * whole, 3.2e-8 (weighted minimax fit, coefficients then rounded to float). ln 2 is split in two, so that e times its
 * first part is exact. */
static inline float ln_of(float x)
{
    const uint32_t sqrt_half = 0x3f3504f3u, one = 0x3f800000u;
    uint32_t bits;
    float f;
    memcpy(&bits, &x, sizeof bits);
    bits += one - sqrt_half;
    const float e = (float)((int32_t)(bits >> 23) - 127);
    bits = (bits & 0x007fffffu) + sqrt_half;
    memcpy(&f, &bits, sizeof f);
    f -= 1.0f;
    float p = 0.0870043859f;
    p = p * f - 0.142674923f;
    p = p * f + 0.149147689f;
    p = p * f - 0.165775836f;
    p = p * f + 0.199630633f;
    p = p * f - 0.250013381f;
    p = p * f + 0.333339095f;
    const float f2 = f * f;
    float r = f2 * f * p + e * 9.05800061e-06f;
    r = r - 0.5f * f2;
    r = (r + f) + e * 0.693138123f;
    return r + (x - x); /* 0, or NaN where x is not finite */
}

float ea_ln(float x)
{
    return ln_of(x);
}

static void log_scaled(const ea_logmel_tables_t *t, const float *restrict mel, float *restrict log_mel)
{
    const float log_floor = t->log_floor, offset = t->offset, scale = t->scale;
    const size_t n_mels = t->n_mels;
    for (size_t b = 0; b < n_mels; b++) {
        log_mel[b] = (ln_of(mel[b] + log_floor) + offset) * scale;
    }
}

static void one_frame(ea_logmel_t *s, const float *samples, float *log_mel)
{
    const ea_logmel_tables_t *t = &s->tables;
    const size_t m = t->n_fft / 2;
    pack_windowed(samples, t->window, t->win_length, s->re[0], s->im[0], m);
    const int pair = transform(s, m);
    real_power(m, t->split, s->re[pair], s->im[pair], s->power);
    mel_bands(t, s->power, s->mel);
    log_scaled(t, s->mel, log_mel);
}

/* ---- the stream ---- */

size_t ea_logmel_frames(const ea_logmel_t *s, size_t n_samples)
{
    const size_t win = s->tables.win_length;
    if (n_samples < s->skip || n_samples - s->skip < win - s->held) {
        return 0;
    }
    return (n_samples - s->skip - (win - s->held)) / s->tables.hop_length + 1;
}

/* Frames that start in what is held are completed in `history`. Returns how many samples were read. */
static size_t feed_held(ea_logmel_t *s, const float *x, size_t n, float **log_mel)
{
    const size_t win = s->tables.win_length, hop = s->tables.hop_length;
    size_t at = 0;
    while (s->held > 0) {
        const size_t missing = win - s->held;
        const size_t n_taken = n - at < missing ? n - at : missing;
        memcpy(s->history + s->held, x + at, n_taken * sizeof(float));
        at += n_taken;
        s->held += n_taken;
        if (n_taken < missing) {
            break;
        }
        one_frame(s, s->history, *log_mel);
        *log_mel += s->tables.n_mels;
        s->held = hop < win ? win - hop : 0;
        s->skip = hop < win ? 0 : hop - win;
        if (at >= s->held) {
            /* All that is held lies in x as well: go on there. */
            at -= s->held;
            s->held = 0;
        } else {
            memmove(s->history, s->history + hop, s->held * sizeof(float));
        }
    }
    return at;
}

size_t ea_logmel_feed(ea_logmel_t *s, const float *samples, size_t n_samples, float *log_mel)
{
    const size_t win = s->tables.win_length, hop = s->tables.hop_length, n_mels = s->tables.n_mels;
    const float *first = log_mel;
    if (n_samples == 0) {
        return 0; /* samples may be NULL */
    }
    size_t at = feed_held(s, samples, n_samples, &log_mel);
    if (s->held == 0) {
        size_t left = n_samples - at;
        size_t n_passed = left < s->skip ? left : s->skip;
        s->skip -= n_passed;
        at += n_passed;
        for (left = n_samples - at; left >= win; left = n_samples - at) {
            one_frame(s, samples + at, log_mel);
            log_mel += n_mels;
            at += left < hop ? left : hop;
            s->skip = left < hop ? hop - left : 0;
        }
        memcpy(s->history, samples + at, left * sizeof(float));
        s->held = left;
    }
    return (size_t)(log_mel - first) / n_mels;
}
