// Runs the seeded faults in every mode of the emulator and says which were caught, and how.
//
//   faults            a line for each fault: name, then for each mode what happened; exit 0 if all is as it should be
//   faults speed      products per second of CPU time, clean kernels
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <string>
#include <vector>

#include "emulator.h"
#include "faults.h"
#include "instructions_test.h"
#include "tensor_test.h"

namespace {

const char* const NAMES[] = {"clean",
#define X(name, text) #name,
                             MMA_FAULTS(X) WGMMA_FAULTS(X) TENSOR_FAULTS(X)
#undef X
};
const char* const TEXTS[] = {"",
#define X(name, text) text,
                             MMA_FAULTS(X) WGMMA_FAULTS(X) TENSOR_FAULTS(X)
#undef X
};
const char* const FAULTS[] = {"ok",         "no kernel", "bad launch", "bounds", "misaligned", "unwritten",  "divergence",  "early exit",
                              "deadlock",   "in flight", "proxy",      "barrier", "race",      "unfinished", "unsupported", "stack"};

struct Mode {
  const char* name;
  uint32_t schedule, copies;
};
const Mode MODES[] = {
    {"robin/eager", TW_EMU_ROUND_ROBIN, TW_EMU_EAGER},     {"robin/deferred", TW_EMU_ROUND_ROBIN, TW_EMU_DEFERRED},
    {"greedy/eager", TW_EMU_GREEDY, TW_EMU_EAGER},         {"greedy/deferred", TW_EMU_GREEDY, TW_EMU_DEFERRED},
    {"reversed/eager", TW_EMU_REVERSED, TW_EMU_EAGER},     {"reversed/deferred", TW_EMU_REVERSED, TW_EMU_DEFERRED},
    {"shuffled/eager", TW_EMU_SHUFFLED, TW_EMU_EAGER},     {"shuffled/deferred", TW_EMU_SHUFFLED, TW_EMU_DEFERRED},
};

constexpr int DIM = 128, TILE = 64;

// Memory that begins and ends where it is said to, so that a sanitiser sees what the emulator would miss.
template <class T>
struct Buffer {
  std::vector<T> values;
  T* start = nullptr;
  explicit Buffer(size_t count, T fill = T()) : values(count + 16 / sizeof(T), fill) {
    size_t skip = 0;
    while (reinterpret_cast<uintptr_t>(&values[skip]) % 16 != 0) ++skip;
    start = &values[skip];
    size_ = count;
  }
  size_t bytes() const { return size_ * sizeof(T); }
  T& operator[](size_t i) { return start[i]; }

 private:
  size_t size_;
};

struct Case {
  bool is_wgmma;
  int64_t rows, keys;
};

// "" when the results are right, "wrong" when they are not, else the fault's name; `message` is what the emulator said.
std::string run(const Case& shape, const Mode& mode, uint32_t fault, std::string& message, tw_emu_counts* counts = nullptr,
                double* seconds = nullptr) {
  const int64_t rows = shape.rows, keys = shape.keys;
  const int64_t q_tiles = (rows + TILE - 1) / TILE, k_tiles = (keys + TILE - 1) / TILE;
  Buffer<int8_t> q(rows * DIM), k(keys * DIM), tiled(k_tiles * TILE * DIM);
  Buffer<int32_t> s(rows * keys, 0x55555555);
  const int peaks = shape.is_wgmma ? 4 : 1;
  Buffer<float> peak(q_tiles * peaks, -1.0f);
  uint32_t seed = 12345;
  auto next = [&] { return static_cast<int8_t>((seed = seed * 1664525u + 1013904223u) >> 24); };
  for (int64_t i = 0; i < rows * DIM; ++i) q[i] = next();
  for (int64_t i = 0; i < keys * DIM; ++i) k[i] = next();
  for (int64_t row = 0; row < keys; ++row) {
    for (int byte = 0; byte < DIM; ++byte) {
      const int64_t in_tile = row % TILE * DIM + (byte / 16 ^ static_cast<int>(row % 8)) * 16 + byte % 16;
      tiled[row / TILE * TILE * DIM + in_tile] = k[row * DIM + byte];
    }
  }
  const ScoresParams params{q.start, shape.is_wgmma ? tiled.start : k.start, s.start, peak.start, rows, keys, fault, 0};
  const tw_emu_range ranges[] = {{q.start, q.bytes(), "q", 0, 0},
                                 {params.k, shape.is_wgmma ? tiled.bytes() : k.bytes(), "k", 0, 0},
                                 {s.start, s.bytes(), "s", 1, 0},
                                 {peak.start, peak.bytes(), "peak", 1, 0}};
  tw_emu_options options{};
  options.schedule = mode.schedule;
  options.copies = mode.copies;
  options.ranges = ranges;
  options.range_count = 4;
  options.counts = counts;
  const unsigned grid[3] = {static_cast<unsigned>(q_tiles), 1, 1}, block[3] = {shape.is_wgmma ? 256u : 128u, 1, 1};
  const size_t shared = shape.is_wgmma ? 3 * TILE * DIM + 256 + 32 : 3 * TILE * DIM;
  char text[1024];
  const clock_t start = clock();
  const int code = tw_emu_launch(shape.is_wgmma ? "scores_wgmma" : "scores_mma", grid, block, shared, &params, sizeof params, &options,
                                 text, sizeof text);
  if (seconds != nullptr) *seconds = static_cast<double>(clock() - start) / CLOCKS_PER_SEC;
  message = text;
  if (code != 0) return FAULTS[code];

  std::vector<float> most(q_tiles * peaks, 0.0f);
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t key = 0; key < keys; ++key) {
      int32_t sum = 0;
      for (int d = 0; d < DIM; ++d) sum += q[row * DIM + d] * k[key * DIM + d];
      if (s[row * keys + key] != sum) {
        message = "s[" + std::to_string(row) + ", " + std::to_string(key) + "] = " + std::to_string(s[row * keys + key]) +
                  ", and should be " + std::to_string(sum);
        return "wrong";
      }
      float& largest = most[peaks == 1 ? row / TILE : row / TILE * 4 + row % TILE / 16];
      largest = std::max(largest, static_cast<float>(std::abs(sum)));
    }
  }
  for (size_t i = 0; i < most.size(); ++i) {
    if (peak[i] == most[i]) continue;
    message = "peak[" + std::to_string(i) + "] = " + std::to_string(peak[i]) + ", and should be " + std::to_string(most[i]);
    return "wrong";
  }
  return "";
}

int run_faults() {
  int failures = 0;
  for (const bool is_wgmma : {false, true}) {
    // The clean kernel: ragged, whole, tiny, one row.
    for (const Case& shape : {Case{is_wgmma, 100, 300}, {is_wgmma, 128, 256}, {is_wgmma, 17, 5}, {is_wgmma, 1, 64}}) {
      for (const Mode& mode : MODES) {
        std::string message;
        const std::string result = run(shape, mode, NO_FAULT, message);
        if (result.empty()) continue;
        ++failures;
        printf("FAILED clean %s rows %d keys %d %s: %s: %s\n", is_wgmma ? "scores_wgmma" : "scores_mma", static_cast<int>(shape.rows),
               static_cast<int>(shape.keys), mode.name, result.c_str(), message.c_str());
      }
    }
    const uint32_t middle = FIRST_WGMMA_FAULT, first = is_wgmma ? middle : 1u, last = is_wgmma ? FIRST_TENSOR_FAULT : middle;
    for (uint32_t fault = first; fault < last; ++fault) {
      int caught = 0;
      std::string line, said;
      for (const Mode& mode : MODES) {
        std::string message;
        std::string result = run(Case{is_wgmma, 100, 300}, mode, fault, message);
        if (result.empty()) result = run(Case{is_wgmma, 17, 40}, mode, fault, message);
        caught += !result.empty();
        line += std::string(" ") + (result.empty() ? "-" : result) + ";";
        if (said.empty() && !result.empty()) said = message;
      }
      failures += caught == 0;
      printf("%s %s %d/8:%s | %s | %s\n", caught == 0 ? "MISSED" : "caught", NAMES[fault], caught, line.c_str(), TEXTS[fault], said.c_str());
    }
  }
  return failures;
}

int run_tensor_faults() {
  int failures = 0;
  auto named = [](const std::string& result) { return result.empty() || result == "wrong" ? result : FAULTS[std::stoi(result)]; };
  for (uint32_t fault = NO_FAULT; fault < FAULT_COUNT; fault = fault == NO_FAULT ? FIRST_TENSOR_FAULT : fault + 1) {
    int caught = 0;
    std::string line, said;
    for (const Mode& mode : MODES) {
      std::string message;
      if (fault != NO_FAULT) {
        const std::string result = named(tensors::run(tensors::Shape{1, 70, 100, 2, 128}, mode.schedule, mode.copies, fault, message));
        caught += !result.empty();
        line += " " + (result.empty() ? "-" : result) + ";";
        if (said.empty() && !result.empty()) said = message;
        continue;
      }
      for (const tensors::Shape& shape : tensors::shapes()) {
        const std::string result = named(tensors::run(shape, mode.schedule, mode.copies, fault, message));
        if (result.empty()) continue;
        ++failures;
        printf("FAILED clean tensor_copies_%u, %u axes, %d x %d x %d, %s: %s: %s\n", shape.row_bytes, shape.axes, static_cast<int>(shape.planes),
               static_cast<int>(shape.rows), static_cast<int>(shape.columns), mode.name, result.c_str(), message.c_str());
      }
    }
    if (fault == NO_FAULT) continue;
    failures += caught == 0;
    printf("%s %s %d/8:%s | %s | %s\n", caught == 0 ? "MISSED" : "caught", NAMES[fault], caught, line.c_str(), TEXTS[fault], said.c_str());
  }
  return failures;
}

void run_speed() {
  for (const bool is_wgmma : {false, true}) {
    for (const Mode& mode : {MODES[0], MODES[2], MODES[3]}) {
      tw_emu_counts counts{};
      std::string message;
      double seconds = 0;
      const std::string result = run(Case{is_wgmma, 1024, 1024}, mode, NO_FAULT, message, &counts, &seconds);
      const double products = is_wgmma ? counts.wgmma * 8.0 : counts.mma;
      printf("%s %s %s: %.4f s, %.2f M mma.m16n8k32 per s of one core, %.1f M switches per s\n", is_wgmma ? "scores_wgmma" : "scores_mma", mode.name,
             result.c_str(), seconds, products / seconds / 1e6, counts.switches / seconds / 1e6);
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc > 1 && strcmp(argv[1], "speed") == 0) {
    run_speed();
    return 0;
  }
  printf("modes:");
  for (const Mode& mode : MODES) printf(" %s;", mode.name);
  printf("\n");
  const int failures = run_faults() + run_tensor_faults() + check_instructions();
  printf("%d failures\n", failures);
  return failures == 0 ? 0 : 1;
}
