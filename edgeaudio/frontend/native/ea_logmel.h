/* Log-mel of a live waveform, frame by frame: plain C99, the same bits on every machine.
 *
 * What it is: window, real FFT, power, sparse mel bands, natural logarithm with a floor, offset and scale, as
 * edgeaudio/frontend/reference.py has them in float64. It is the native front-end of the Python runtime (_logmel.c
 * beside this file) and needs nothing that a microcontroller lacks: no allocation, no globals, no recursion, no libm,
 * no file, no thread. All numbers that depend on the configuration come in as tables, which may lie in flash;
 * edgeaudio/frontend/native/tables.py makes them.
 *
 * Same bits: only float additions, multiplications and conversions in a fixed order, and never a fused
 * multiply-add. A compiler may run several frequencies at once, never regroup a sum. Build with -ffp-contract=off and
 * without -ffast-math; a target that computes float expressions in a wider type is refused when compiling.
 *
 * A stream equals a whole clip bit for bit, however it is cut: every frame is computed alone, from its own samples.
 */
#ifndef EA_LOGMEL_H
#define EA_LOGMEL_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum {
    EA_OK = 0,
    EA_ERR_MEMORY = -1, /* less memory than ea_logmel_bytes() asks for, or not aligned for a pointer */
    EA_ERR_TABLES = -2  /* a size out of its range, or a band that leaves the spectrum */
};

/* Samples of the FFT: a power of two in this range. */
#define EA_LOGMEL_MIN_FFT 16
#define EA_LOGMEL_MAX_FFT 16384

/* Weights of a band come in blocks of this many, so that their sums run side by side. */
#define EA_LOGMEL_BLOCK 4

/* The configuration. The arrays are read, never written, and must outlive the stream. With M = n_fft / 2:
 *
 * window       win_length factors; samples beyond them are zeros up to n_fft.
 * twiddles     6 rows of M / 4: cos then sin of -2 pi k p / M, p = 0 .. M / 4 - 1, for k = 1, 2, 3.
 * split        2 rows of M / 2: cos then sin of -2 pi k / n_fft, k = 0 .. M / 2 - 1.
 * band_first   per band, its first bin of the one-sided spectrum (0 .. M).
 * band_blocks  per band, its number of blocks.
 * weights      the blocks of all bands end to end, zeros where a band ends within a block. The zeros may stand for
 *              bins beyond M.
 *
 * Output of a band: (ln(sum of weights * power + log_floor) + offset) * scale. log_floor is at least FLT_MIN.
 */
typedef struct {
    uint32_t win_length; /* samples, 1 .. n_fft */
    uint32_t hop_length; /* samples from frame to frame, 1 or more; may exceed win_length */
    uint32_t n_fft;
    uint32_t n_mels;
    const float *window;
    const float *twiddles;
    const float *split;
    const uint16_t *band_first;
    const uint16_t *band_blocks;
    const float *weights;
    float log_floor;
    float offset;
    float scale;
} ea_logmel_tables_t;

/* One stream. Not to be used by two threads at once. */
typedef struct ea_logmel ea_logmel_t;

/* How much RAM a stream of these tables needs; 0 where the tables are refused (EA_ERR_TABLES). */
size_t ea_logmel_bytes(const ea_logmel_tables_t *tables);

/* Make a stream in `memory`, which holds `n_bytes` and is aligned as malloc() aligns. The stream lies in `memory`; there
 * is nothing to free. EA_OK, or an error, and then *stream is NULL. */
int ea_logmel_init(ea_logmel_t **stream, void *memory, size_t n_bytes, const ea_logmel_tables_t *tables);

/* Forget all audio: the next sample is sample 0. */
void ea_logmel_reset(ea_logmel_t *stream);

/* How many frames the next `n_samples` samples will complete. */
size_t ea_logmel_frames(const ea_logmel_t *stream, size_t n_samples);

/* Take the next samples, any number of them, and write the frames that they complete.
 *
 * samples   finite, full scale at -1 and 1. A sample that is not finite spoils the frames that cover it (they are not
 *           finite either) and no others.
 * log_mel   room for ea_logmel_frames(stream, n_samples) * n_mels; frame after frame. Must not overlap samples.
 * Returns the number of frames written.
 */
size_t ea_logmel_feed(ea_logmel_t *stream, const float *samples, size_t n_samples, float *log_mel);

/* Natural logarithm of x, for x finite and at least FLT_MIN; NaN where x is not finite.
 * |ea_ln(x) - ln x| <= 1.1e-7 |ln x|, checked for every float in [0.5, 2) and by sample in every other octave. */
float ea_ln(float x);

#ifdef __cplusplus
}
#endif

#endif
