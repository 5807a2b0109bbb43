// Values of each head for the tensor cores: e4m3 with one scale a channel, tokens innermost; or f16.
//
//   amax[d]   = max_j |v[j, d]|                        passing over what is no number
//   scales[d] = amax[d] / scale_max
//   values[d, j] = e4m3(v[j, d] * (scale_max * (1 / amax[d])))       0 where amax is; zeros past the last token
//
//   x       rows of D bf16 or f16 of each head, by strides, 16-byte aligned
//   amax    [problems, D]              bits of f32, zeros before the first kernel
//   values  [problems, D, padded_len] e4m3, the tokens of every 16 in the order of permuted_key (tile.cuh); or V tiles
//           (tile_layout.cuh)
//   scales  [problems, D]              f32
//
//   value_amax_*   512 tokens of one head a block, 128 at a time (head_rows.cuh); grid.x = problems * ceil(len / 512)
//   value_e4m3_*   128 tokens of one head a block, turned over in shared memory; grid.x = problems * ceil(len / 128)
//     thread   8 channels of the 4 tokens whose codes make a word of each channel: 4 loads of 16 bytes, 8 words
//     shared   [D, 128] bytes, chunk c of channel d at c ^ f(d), so that neither the words written nor the chunks read
//              meet on a bank
//   value_f16      bf16 to f16, in the layout that it has: 16 values a thread
//
// IEEE f32 with true divisions: codes and scales are those of the host twin (src/values.rs).
//
// Bytes: 2 read a value for the maxima; 2 read and 1 written for the codes; 2 and 2 for f16. Operations: 2, 3 and 2.
//
// sass: 89 LDG.E.128 STG.E.128 F2FP.SATFINITE.E4M3
// sass: 90a LDG.E.128 STG.E.128 F2FP.SATFINITE.E4M3
// sass: 120a LDG.E.128 STG.E.128 F2FP.SATFINITE.E4M3
// sass: 80 LDG.E.128 STG.E.128 F2FP
#include "kernel.cuh"
#include "head_rows.cuh"
#include "prepare_params.h"
#include "tile_layout.cuh"

namespace {

constexpr int AMAX_TILES = 4;   // of a block of the first kernel
template <int D>
constexpr int TURN_THREADS = D * 4;  // of a block of the second
constexpr int ROW_WORDS = TILE_ROWS / 4;
constexpr int ROW_CHUNKS = TILE_ROWS / CHUNK_BYTES;

template <int D, class T>
TW_DEVICE void value_amax(const QuantValuesParams& p) {
  using Rows = HeadRows<D>;
  TW_SHARED(uint32_t, most, WARPS * D);
  constexpr int BLOCK_ROWS = AMAX_TILES * TILE_ROWS;
  const uint32_t blocks = static_cast<uint32_t>((p.len + BLOCK_ROWS - 1) / BLOCK_ROWS);
  const int64_t problem = blockIdx.x / blocks;
  const int64_t first = static_cast<int64_t>(blockIdx.x % blocks) * BLOCK_ROWS;
  const Global<const uint16_t> x = global(p.x) + (problem / p.heads * p.sample_stride + problem % p.heads * p.head_stride);

  float amax[CHUNK] = {0, 0, 0, 0, 0, 0, 0, 0};
#pragma unroll 2
  for (int tile = 0; tile < AMAX_TILES; tile++) {
    const int64_t row = first + tile * TILE_ROWS;
    if (row >= p.len) break;
    uint4 chunks[Rows::PASSES];
    Rows::load(chunks, x + row * p.row_stride, p.row_stride, static_cast<int>(min(p.len - row, int64_t{TILE_ROWS})));
#pragma unroll
    for (int pass = 0; pass < Rows::PASSES; pass++) {
      float v[CHUNK];
      unpack<T>(chunks[pass], v);
#pragma unroll
      for (int j = 0; j < CHUNK; j++) amax[j] = fmaxf(amax[j], fabsf(v[j]));
    }
  }
#pragma unroll
  for (int mask = Rows::LANES; mask < WARP; mask *= 2) {
#pragma unroll
    for (int j = 0; j < CHUNK; j++) amax[j] = fmaxf(amax[j], shuffle_xor(amax[j], mask));
  }
  if (lane_index() < Rows::LANES) {
    const Shared<uint32_t> to = most + (static_cast<int>(threadIdx.x) / WARP * D + Rows::column());
    store_vector(to, make_uint4(bits_of(amax[0]), bits_of(amax[1]), bits_of(amax[2]), bits_of(amax[3])));
    store_vector(to + 4, make_uint4(bits_of(amax[4]), bits_of(amax[5]), bits_of(amax[6]), bits_of(amax[7])));
  }
  block_sync();
  const int at = static_cast<int>(threadIdx.x);
  if (at < D) {
    uint32_t channel = 0;
#pragma unroll
    for (int warp = 0; warp < WARPS; warp++) {
      const uint32_t other = most[warp * D + at];
      channel = max(channel, other);
    }
    atomic_max(global(p.amax) + (problem * D + at), channel);
  }
}

// Chunk `chunk` of channel `channel` in shared memory, in words. A warp writes words of eight chunks of channels at once,
// and reads a channel's eight chunks, or four of each of two channels.
TW_DEVICE int staged_word(int channel, int chunk) { return channel * ROW_WORDS + ((chunk ^ channel / 8 ^ channel % 2 * 4) % ROW_CHUNKS) * 4; }

template <int D, class T>
TW_DEVICE void value_e4m3(const QuantValuesParams& p) {
  TW_SHARED(uint32_t, words, D * ROW_WORDS);
  TW_SHARED(float, factors, D);
  const TilePlace place = tile_of_block(p.len);
  const Global<const uint16_t> x =
      global(p.x) + (place.problem / p.heads * p.sample_stride + place.problem % p.heads * p.head_stride + place.first_row * p.row_stride);
  const int thread = static_cast<int>(threadIdx.x);

  // load: a warp has 8 chunks of channels of 16 tokens
  constexpr int SPANS = D / 64, BLOCK_THREADS = TURN_THREADS<D>;
  static_assert(BLOCK_THREADS / WARP == SPANS * ROW_CHUNKS, "a warp for every 16 tokens of 64 channels");
  const int unit = thread / WARP, quad = thread % WARP / 8;  // of the four words of a chunk
  const int channel = unit % SPANS * 64 + thread % 8 * 8;
  uint4 chunks[4];
#pragma unroll
  for (int i = 0; i < 4; i++) {
    const int token = permuted_key(unit / SPANS * 16 + quad * 4 + i);
    chunks[i] = token < place.rows ? load_vector_readonly<uint4>(x + (token * p.row_stride + channel)) : make_uint4(0, 0, 0, 0);
  }

  // the channels' factors and scales
  if (thread < D) {
    const float amax = float_of(static_cast<uint32_t>(global(p.amax)[place.problem * D + thread]));
    factors[thread] = amax > 0.0f ? p.scale_max * divide(1.0f, amax) : 0.0f;
    if (place.first_row == 0) global(p.scales)[place.problem * D + thread] = divide(amax, p.scale_max);
  }
  block_sync();

  // codes, a word of four tokens for each channel
  float v[4][CHUNK];
#pragma unroll
  for (int i = 0; i < 4; i++) unpack<T>(chunks[i], v[i]);
#pragma unroll
  for (int j = 0; j < CHUNK; j++) {
    const float factor = factors[channel + j];
    words[staged_word(channel + j, unit / SPANS) + quad] = pack_e4m3(v[0][j] * factor, v[1][j] * factor, v[2][j] * factor, v[3][j] * factor);
  }
  block_sync();

  // store, 16 bytes a thread side by side
  const Shared<const uint32_t> staged = words;
  if (p.is_tiled != 0) {
    constexpr int TILE_CHUNKS = ValueTile<D>::BYTES / CHUNK_BYTES, CHANNEL_CHUNKS = LAYOUT_KEYS / CHUNK_BYTES;
    const Global<uint8_t> tiles = global(p.values) + (place.problem * layout_tiles(p.len) + place.tile() * LAYOUT_PAIR) * ValueTile<D>::BYTES;
#pragma unroll
    for (int at = thread; at < LAYOUT_PAIR * TILE_CHUNKS; at += BLOCK_THREADS) {
      const int tile = at / TILE_CHUNKS, row = at % TILE_CHUNKS / CHANNEL_CHUNKS;
      // the place of a chunk is the chunk of its place
      const int chunk = static_cast<int>(ValueTile<D>::Rows::chunk(row, at % CHANNEL_CHUNKS)) / CHUNK_BYTES % CHANNEL_CHUNKS;
      const uint4 codes = load_vector<uint4>(staged + staged_word(row, tile * CHANNEL_CHUNKS + chunk));
      store_vector(tiles + at * CHUNK_BYTES, codes);
    }
  } else {
    const Global<uint8_t> rows = global(p.values) + (place.problem * D * p.padded_len + place.first_row);
    const int chunk = thread % ROW_CHUNKS;
    if (place.first_row + chunk * CHUNK_BYTES < p.padded_len) {
#pragma unroll
      for (int row = thread / ROW_CHUNKS; row < D; row += BLOCK_THREADS / ROW_CHUNKS) {
        const uint4 codes = load_vector<uint4>(staged + staged_word(row, chunk));
        store_vector(rows + (row * p.padded_len + chunk * CHUNK_BYTES), codes);
      }
    }
  }
}

constexpr int CAST_CHUNKS = 2;

}  // namespace

TW_KERNEL(value_amax_bf16_d128, QuantValuesParams, THREADS) { value_amax<128, Bf16>(p); }
TW_KERNEL(value_amax_bf16_d64, QuantValuesParams, THREADS) { value_amax<64, Bf16>(p); }
TW_KERNEL(value_amax_f16_d128, QuantValuesParams, THREADS) { value_amax<128, F16>(p); }
TW_KERNEL(value_amax_f16_d64, QuantValuesParams, THREADS) { value_amax<64, F16>(p); }

TW_KERNEL(value_e4m3_bf16_d128, QuantValuesParams, TURN_THREADS<128>) { value_e4m3<128, Bf16>(p); }
TW_KERNEL(value_e4m3_bf16_d64, QuantValuesParams, TURN_THREADS<64>) { value_e4m3<64, Bf16>(p); }
TW_KERNEL(value_e4m3_f16_d128, QuantValuesParams, TURN_THREADS<128>) { value_e4m3<128, F16>(p); }
TW_KERNEL(value_e4m3_f16_d64, QuantValuesParams, TURN_THREADS<64>) { value_e4m3<64, F16>(p); }

TW_KERNEL(value_f16, CastValuesParams, THREADS) {
  const Global<const tw_bf16> x = global(p.x);
  const Global<uint16_t> values = global(p.values);
  const int64_t first = (static_cast<int64_t>(blockIdx.x) * (THREADS * CAST_CHUNKS) + threadIdx.x) * CHUNK;
  uint4 chunks[CAST_CHUNKS];
#pragma unroll
  for (int i = 0; i < CAST_CHUNKS; i++) {
    const int64_t at = first + i * (THREADS * CHUNK);
    chunks[i] = at < p.count ? load_vector_readonly<uint4>(x + at) : make_uint4(0, 0, 0, 0);
  }
#pragma unroll
  for (int i = 0; i < CAST_CHUNKS; i++) {
    const int64_t at = first + i * (THREADS * CHUNK);
    float v[CHUNK];
    unpack<Bf16>(chunks[i], v);
    if (at < p.count) store_vector(values + at, pack<F16>(v));
  }
}
