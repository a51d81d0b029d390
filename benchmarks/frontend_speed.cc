// Times ea_logmel.c and kaldi-native-fbank without Python around either, interleaved in one process.
//
// stdin: uint32 win_length, hop_length, n_fft, n_mels, n_weights, n_samples, rounds, n_chunk_sizes; float log_floor,
// offset, scale; the tables in the order of ea_logmel_tables_t; samples; chunk sizes (uint32).
// stdout: one line per measurement: name, samples per chunk, microseconds per frame. Built by frontend_speed.py.
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>
#include <vector>

#include "ea_logmel.h"
#include "kaldi-native-fbank/csrc/online-feature.h"

template <class T>
static std::vector<T> read_values(size_t n) {
  std::vector<T> values(n);
  if (fread(values.data(), sizeof(T), n, stdin) != n) {
    fprintf(stderr, "stdin ends too early\n");
    exit(1);
  }
  return values;
}

static knf::FbankOptions kaldi_options(uint32_t n_mels) {
  knf::FbankOptions options;
  options.frame_opts.samp_freq = 16000;
  options.frame_opts.dither = 0;
  options.frame_opts.preemph_coeff = 0;
  options.frame_opts.remove_dc_offset = false;
  options.frame_opts.window_type = "hanning";
  options.frame_opts.snip_edges = true;
  options.mel_opts.num_bins = static_cast<int32_t>(n_mels);
  options.mel_opts.low_freq = 60;
  options.mel_opts.high_freq = 7800;
  return options;
}

template <class Feed>
static void time_stream(const char *name, size_t chunk, const std::vector<float> &samples, Feed feed) {
  const auto started = std::chrono::steady_clock::now();
  size_t frames = 0;
  for (size_t at = 0; at < samples.size(); at += chunk) {
    frames += feed(samples.data() + at, at + chunk <= samples.size() ? chunk : samples.size() - at);
  }
  const std::chrono::duration<double, std::micro> took = std::chrono::steady_clock::now() - started;
  printf("%s %zu %.5f\n", name, chunk, took.count() / static_cast<double>(frames));
}

int main() {
  const auto sizes = read_values<uint32_t>(8);
  const auto numbers = read_values<float>(3);
  ea_logmel_tables_t tables = {};
  tables.win_length = sizes[0];
  tables.hop_length = sizes[1];
  tables.n_fft = sizes[2];
  tables.n_mels = sizes[3];
  tables.log_floor = numbers[0];
  tables.offset = numbers[1];
  tables.scale = numbers[2];
  const auto window = read_values<float>(tables.win_length);
  const auto twiddles = read_values<float>(6 * (tables.n_fft / 8));
  const auto split = read_values<float>(2 * (tables.n_fft / 4));
  const auto band_first = read_values<uint16_t>(tables.n_mels);
  const auto band_blocks = read_values<uint16_t>(tables.n_mels);
  const auto weights = read_values<float>(sizes[4]);
  const auto samples = read_values<float>(sizes[5]);
  const uint32_t rounds = sizes[6];
  const auto chunks = read_values<uint32_t>(sizes[7]);
  tables.window = window.data();
  tables.twiddles = twiddles.data();
  tables.split = split.data();
  tables.band_first = band_first.data();
  tables.band_blocks = band_blocks.data();
  tables.weights = weights.data();

  const size_t n_bytes = ea_logmel_bytes(&tables);
  void *memory = malloc(n_bytes);
  ea_logmel_t *stream;
  if (ea_logmel_init(&stream, memory, n_bytes, &tables) != EA_OK) {
    fprintf(stderr, "the tables were refused\n");
    return 1;
  }
  knf::OnlineFbank fbank(kaldi_options(tables.n_mels));
  int32_t next_frame = 0;
  std::vector<float> log_mel(samples.size() / tables.hop_length * tables.n_mels + tables.n_mels);
  float sink = 0;

  const auto native = [&](const float *chunk, size_t n) {
    const size_t frames = ea_logmel_feed(stream, chunk, n, log_mel.data());
    sink += log_mel[0];
    return frames;
  };
  // As sherpa-onnx: AcceptWaveform, GetFrame into one matrix, Pop.
  const auto kaldi = [&](const float *chunk, size_t n) {
    fbank.AcceptWaveform(16000, chunk, static_cast<int32_t>(n));
    const int32_t ready = fbank.NumFramesReady(), first = next_frame;
    for (float *to = log_mel.data(); next_frame < ready; next_frame++, to += tables.n_mels) {
      memcpy(to, fbank.GetFrame(next_frame), tables.n_mels * sizeof(float));
    }
    fbank.Pop(ready - first);
    sink += log_mel[0];
    return static_cast<size_t>(ready - first);
  };
  for (uint32_t round = 0; round < rounds; round++) {
    for (const uint32_t chunk : chunks) {
      if (round % 2 == 0) {
        time_stream("native", chunk, samples, native);
        time_stream("kaldi", chunk, samples, kaldi);
      } else {
        time_stream("kaldi", chunk, samples, kaldi);
        time_stream("native", chunk, samples, native);
      }
    }
  }
  free(memory);
  return sink == 12345.0f;
}
