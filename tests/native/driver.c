/* Runs ea_logmel.c on what stdin says, log-mel to stdout: for sanitizers, other compilers, other processors.
 *
 * stdin, little-endian: uint32 win_length, hop_length, n_fft, n_mels, n_weights, n_samples, n_chunks; float log_floor,
 * offset, scale; the tables in the order of ea_logmel_tables_t; the samples; the chunk lengths (uint32), which add up
 * to n_samples. Exit codes: 0, 1 bad input, 2 a promise of ea_logmel.h was broken.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ea_logmel.h"

#define PROMISE(held)                                                                                                  \
    do {                                                                                                               \
        if (!(held)) {                                                                                                 \
            fprintf(stderr, "line %d: %s does not hold\n", __LINE__, #held);                                           \
            exit(2);                                                                                                   \
        }                                                                                                              \
    } while (0)

/* Exactly as long as asked for, so that a sanitizer sees the first element beyond. */
static void *read_exactly(size_t n, size_t size)
{
    void *data = n > 0 ? malloc(n * size) : NULL;
    if (n > 0 && (data == NULL || fread(data, size, n, stdin) != n)) {
        fprintf(stderr, "stdin ends too early\n");
        exit(1);
    }
    return data;
}

/* One chunk in memory of its own; the number of values written to `log_mel`. */
static size_t feed(ea_logmel_t *stream, const float *samples, size_t n, size_t n_mels, float *log_mel)
{
    const size_t n_frames = ea_logmel_frames(stream, n);
    float *chunk = n > 0 ? malloc(n * sizeof(float)) : NULL;
    float *frames = n_frames > 0 ? malloc(n_frames * n_mels * sizeof(float)) : NULL;
    if (n > 0) {
        memcpy(chunk, samples, n * sizeof(float));
    }
    PROMISE(ea_logmel_feed(stream, chunk, n, frames) == n_frames);
    if (n_frames > 0) {
        memcpy(log_mel, frames, n_frames * n_mels * sizeof(float));
    }
    free(chunk);
    free(frames);
    return n_frames * n_mels;
}

static void check_refusals(ea_logmel_tables_t tables, void *memory, size_t n_bytes)
{
    ea_logmel_t *stream = memory;
    PROMISE(ea_logmel_init(&stream, memory, n_bytes - 1, &tables) == EA_ERR_MEMORY && stream == NULL);
    PROMISE(ea_logmel_init(&stream, (char *)memory + 1, n_bytes, &tables) == EA_ERR_MEMORY && stream == NULL);
    ea_logmel_tables_t wrong = tables;
    wrong.n_fft += 2;
    PROMISE(ea_logmel_bytes(&wrong) == 0 && ea_logmel_init(&stream, memory, n_bytes, &wrong) == EA_ERR_TABLES);
    wrong = tables;
    wrong.win_length = wrong.n_fft + 1;
    PROMISE(ea_logmel_bytes(&wrong) == 0);
    wrong = tables;
    wrong.hop_length = 0;
    PROMISE(ea_logmel_bytes(&wrong) == 0);
    wrong = tables;
    wrong.log_floor = 0.0f;
    PROMISE(ea_logmel_bytes(&wrong) == 0);
    const uint16_t beyond[1] = {(uint16_t)(tables.n_fft / 2 + EA_LOGMEL_BLOCK)}, one[1] = {1};
    wrong = tables;
    wrong.n_mels = 1;
    wrong.band_first = beyond;
    wrong.band_blocks = one;
    PROMISE(ea_logmel_bytes(&wrong) == 0);
}

int main(void)
{
    uint32_t *sizes = read_exactly(7, sizeof(uint32_t));
    float *numbers = read_exactly(3, sizeof(float));
    const size_t n_samples = sizes[5], n_chunks = sizes[6];
    ea_logmel_tables_t tables = {.win_length = sizes[0], .hop_length = sizes[1], .n_fft = sizes[2], .n_mels = sizes[3]};
    tables.log_floor = numbers[0];
    tables.offset = numbers[1];
    tables.scale = numbers[2];
    float *window = read_exactly(tables.win_length, sizeof(float));
    float *twiddles = read_exactly(6 * (tables.n_fft / 8), sizeof(float));
    float *split = read_exactly(2 * (tables.n_fft / 4), sizeof(float));
    uint16_t *band_first = read_exactly(tables.n_mels, sizeof(uint16_t));
    uint16_t *band_blocks = read_exactly(tables.n_mels, sizeof(uint16_t));
    float *weights = read_exactly(sizes[4], sizeof(float));
    float *samples = read_exactly(n_samples, sizeof(float));
    uint32_t *chunks = read_exactly(n_chunks, sizeof(uint32_t));
    tables.window = window;
    tables.twiddles = twiddles;
    tables.split = split;
    tables.band_first = band_first;
    tables.band_blocks = band_blocks;
    tables.weights = weights;

    const size_t n_bytes = ea_logmel_bytes(&tables);
    PROMISE(n_bytes > 0);
    void *memory = malloc(n_bytes);
    check_refusals(tables, memory, n_bytes);
    ea_logmel_t *stream;
    PROMISE(ea_logmel_init(&stream, memory, n_bytes, &tables) == EA_OK);

    const size_t n_values = ea_logmel_frames(stream, n_samples) * tables.n_mels;
    float *whole = malloc((n_values + 1) * sizeof(float)), *cut = malloc((n_values + 1) * sizeof(float));
    PROMISE(feed(stream, samples, n_samples, tables.n_mels, whole) == n_values);
    ea_logmel_reset(stream);
    size_t at = 0, written = 0;
    for (size_t i = 0; i < n_chunks; i++) {
        const float *chunk = samples == NULL ? NULL : samples + at;
        written += feed(stream, chunk, chunks[i], tables.n_mels, cut + written);
        at += chunks[i];
    }
    PROMISE(at == n_samples && written == n_values);
    PROMISE(memcmp(cut, whole, n_values * sizeof(float)) == 0);
    if (fwrite(whole, sizeof(float), n_values, stdout) != n_values) {
        return 1;
    }
    free(sizes), free(numbers), free(window), free(twiddles), free(split), free(band_first), free(band_blocks);
    free(weights), free(samples), free(chunks), free(memory), free(whole), free(cut);
    return 0;
}
