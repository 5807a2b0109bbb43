// Tiles: where a value of a matrix lies, in shared memory and in the registers of a warp; sums over a warp and a block.
//
// Everything here is arithmetic on indices, checked when it is compiled.
#pragma once
#include "ptx.cuh"

constexpr int CHUNK_BYTES = 16;

// Swizzles
//
// A tile in shared memory has rows of ROW_BYTES (32, 64 or 128), in chunks of 16 bytes. Eight rows below each other fall
// on the same banks, so chunk c of row r is stored at chunk place c ^ f(r): the eight rows that an ldmatrix or a wgmma
// reads at one depth then lie on eight different places. It is the permutation that wgmma descriptors know as the 32-,
// 64- and 128-byte swizzle, on tiles that begin at a multiple of 8 * ROW_BYTES.
//
//     128-byte rows          place of chunk 0 1 2 3 4 5 6 7
//       row 0                               0 1 2 3 4 5 6 7
//       row 1                               1 0 3 2 5 4 7 6
//       row 2                               2 3 0 1 6 7 4 5
//       row 7                               7 6 5 4 3 2 1 0
template <int ROW_BYTES>
struct Swizzled {
  static_assert(ROW_BYTES == 32 || ROW_BYTES == 64 || ROW_BYTES == 128, "rows of 32, 64 or 128 bytes");
  static constexpr int CHUNKS = ROW_BYTES / CHUNK_BYTES;
  static constexpr int PATTERN_BYTES = 8 * ROW_BYTES;  // after which it repeats
  static constexpr Swizzle KIND = ROW_BYTES == 128 ? Swizzle::Bytes128 : ROW_BYTES == 64 ? Swizzle::Bytes64 : Swizzle::Bytes32;

  // Byte offset of a 16-byte chunk of a row.
  static constexpr __host__ __device__ uint32_t chunk(uint32_t row, uint32_t chunk) {
    return row * ROW_BYTES + ((chunk ^ (row * ROW_BYTES / 128 % CHUNKS)) * CHUNK_BYTES);
  }
  // Byte offset of a byte of a row.
  static constexpr __host__ __device__ uint32_t byte(uint32_t row, uint32_t byte) {
    return chunk(row, byte / CHUNK_BYTES) + byte % CHUNK_BYTES;
  }
};

// As the hardware says it: address bits 4.. are changed by the bits from 7 up, as many as the row has chunks.
template <int ROW_BYTES>
constexpr __host__ __device__ uint32_t swizzled_address(uint32_t plain) {
  return plain ^ ((plain >> 7 & (ROW_BYTES / CHUNK_BYTES - 1)) << 4);
}

template <int ROW_BYTES>
constexpr bool swizzle_is_sound() {
  for (uint32_t row = 0; row < 16; ++row) {
    uint32_t seen = 0;
    for (uint32_t chunk = 0; chunk < ROW_BYTES / 16; ++chunk) {
      const uint32_t place = Swizzled<ROW_BYTES>::chunk(row, chunk);
      if (place != swizzled_address<ROW_BYTES>(row * ROW_BYTES + chunk * 16)) return false;
      seen |= 1u << place % ROW_BYTES / 16;
    }
    if (seen != (1u << ROW_BYTES / 16) - 1) return false;  // a row's chunks stay in the row
  }
  for (uint32_t chunk = 0; chunk < ROW_BYTES / 16; ++chunk) {
    uint32_t banks = 0;
    for (uint32_t row = 0; row < 8; ++row) banks |= 1u << Swizzled<ROW_BYTES>::chunk(row, chunk) / 16 % 8;
    if (banks != 0xff) return false;  // eight rows at one depth touch all banks once
  }
  return true;
}
static_assert(swizzle_is_sound<32>() && swizzle_is_sound<64>() && swizzle_is_sound<128>(), "a swizzle with conflicts");

// The descriptor of a depth-contiguous operand in such a tile, rows packed, from byte `depth` of its rows on.
template <int ROW_BYTES>
TW_DEVICE uint64_t swizzled_descriptor(uint32_t tile, uint32_t depth) {
  return matrix_descriptor(tile + depth, 16, Swizzled<ROW_BYTES>::PATTERN_BYTES, Swizzled<ROW_BYTES>::KIND);
}

// The descriptor of an operand that lies `bytes` (a multiple of 16) behind another: one 32-bit addition.
TW_DEVICE uint64_t descriptor_behind(uint64_t descriptor, uint32_t bytes) {
  return (descriptor & 0xffffffff00000000u) | (static_cast<uint32_t>(descriptor) + (bytes >> 4));
}

// Fragments
//
// How mma.sync (and, row block by row block, wgmma) spreads matrices over a warp. Lane l is g = l / 4, t = l % 4.
//
//     C  16 x 8, 4-byte values          A  16 rows of 32 bytes                 B  8 columns of 32 bytes
//
//          column 2t  2t+1                   byte 4t..4t+3   16+4t..19+4t             byte 4t..4t+3   16+4t..19+4t
//     row g      c0   c1                row g      a0          a2              column g     b0            b1
//     row g+8    c2   c3                row g+8    a1          a3
//
// A row of 32 bytes is 32 values of 8 bits or 16 of 16 bits. Wider results are such tiles side by side: value i of N / 2
// belongs to tile i / 4.
struct Fragment {
  static constexpr __host__ __device__ int c_row(int lane, int value) { return lane / 4 + value / 2 % 2 * 8; }
  static constexpr __host__ __device__ int c_column(int lane, int value) { return value / 4 * 8 + lane % 4 * 2 + value % 2; }
  static constexpr __host__ __device__ int a_row(int lane, int reg) { return lane / 4 + reg % 2 * 8; }
  static constexpr __host__ __device__ int a_byte(int lane, int reg) { return lane % 4 * 4 + reg / 2 * 16; }
  static constexpr __host__ __device__ int b_column(int lane) { return lane / 4; }
  static constexpr __host__ __device__ int b_byte(int lane, int reg) { return lane % 4 * 4 + reg * 16; }
};

// ldmatrix
//
// The row and the 16-byte chunk, relative to the operand's corner, whose address a lane gives so that one ldmatrix_x4
// loads
//   A   16 rows of 32 bytes into a0 .. a3
//   B   two tiles of 8 columns (depth contiguous) into b0, b1 of the first tile and b0, b1 of the second
//
//     A  lanes  0-7   rows 0-7   chunk 0        B  lanes  0-7   columns 0-7    chunk 0
//        lanes  8-15  rows 8-15  chunk 0           lanes  8-15  columns 0-7    chunk 1
//        lanes 16-23  rows 0-7   chunk 1           lanes 16-23  columns 8-15   chunk 0
//        lanes 24-31  rows 8-15  chunk 1           lanes 24-31  columns 8-15   chunk 1
//
// For 16-bit values whose rows are contiguous (a value matrix [keys, dims]), ldmatrix_x4_transposed with B's own map read
// as [depth, columns]: lanes 0-7 depths 0-7, lanes 8-15 depths 8-15, of columns 0-7, then the same of columns 8-15.
struct LoadMatrix {
  static constexpr __host__ __device__ int a_row(int lane) { return lane % 16; }
  static constexpr __host__ __device__ int a_chunk(int lane) { return lane / 16; }
  static constexpr __host__ __device__ int b_column(int lane) { return lane % 8 + lane / 16 * 8; }
  static constexpr __host__ __device__ int b_chunk(int lane) { return lane / 8 % 2; }
  static constexpr __host__ __device__ int b_transposed_depth(int lane) { return lane % 16; }
  static constexpr __host__ __device__ int b_transposed_chunk(int lane) { return lane / 16; }
};

// Register r of lane l receives bytes 4 (l % 4) .. of row l / 4 of matrix r: that must be what the fragment wants.
constexpr bool ldmatrix_gives_fragments() {
  for (int lane = 0; lane < WARP; ++lane) {
    for (int reg = 0; reg < 4; ++reg) {
      const int giver = 8 * reg + lane / 4, byte = lane % 4 * 4;
      if (LoadMatrix::a_row(giver) != Fragment::a_row(lane, reg)) return false;
      if (LoadMatrix::a_chunk(giver) * 16 + byte != Fragment::a_byte(lane, reg)) return false;
      if (LoadMatrix::b_column(giver) != Fragment::b_column(lane) + reg / 2 * 8) return false;
      if (LoadMatrix::b_chunk(giver) * 16 + byte != Fragment::b_byte(lane, reg % 2)) return false;
    }
  }
  return true;
}
static_assert(ldmatrix_gives_fragments(), "ldmatrix does not load what mma.sync wants");

// Keys inside each 16, in the order in which 8-bit V^T holds them so that a lane's scores are its A operand.
//
// A lane's C values of two neighbouring tiles are columns 2t, 2t + 1, 8 + 2t, 9 + 2t of their 16; as four bytes of A they
// stand at depths 4t .. 4t + 3. So depth d of each 16 must be key `permuted_key(d)`.
constexpr __host__ __device__ int permuted_key(int depth) { return depth / 16 * 16 + depth % 16 / 4 * 2 + depth % 4 / 2 * 8 + depth % 2; }

constexpr bool scores_become_operands() {
  for (int lane = 0; lane < WARP; ++lane) {
    for (int byte = 0; byte < 4; ++byte) {
      const int value = byte / 2 * 4 + byte % 2;  // row g of tile 0, then of tile 1
      if (permuted_key(Fragment::a_byte(lane, 0) + byte) != Fragment::c_column(lane, value)) return false;
      if (permuted_key(Fragment::a_byte(lane, 2) + byte) != Fragment::c_column(lane, 8 + value)) return false;
    }
  }
  return true;
}
static_assert(scores_become_operands(), "scores would need a shuffle");

// Sums and maxima, the same in every lane and in a fixed order

template <class T>
TW_DEVICE T warp_sum(T value TW_AT) {
#pragma unroll
  for (int mask = WARP / 2; mask > 0; mask /= 2) value += shuffle_xor(value, mask TW_PASS_AT);
  return value;
}

TW_DEVICE float warp_max(float value TW_AT) {
#pragma unroll
  for (int mask = WARP / 2; mask > 0; mask /= 2) value = fmaxf(value, shuffle_xor(value, mask TW_PASS_AT));
  return value;
}

// Over the four lanes that share a row of C.
TW_DEVICE float row_sum(float value TW_AT) {
  value += shuffle_xor(value, 1 TW_PASS_AT);
  return value + shuffle_xor(value, 2 TW_PASS_AT);
}

TW_DEVICE float row_max(float value TW_AT) {
  value = fmaxf(value, shuffle_xor(value, 1 TW_PASS_AT));
  return fmaxf(value, shuffle_xor(value, 2 TW_PASS_AT));
}

// Over a block of WARPS warps in one dimension; `partial` holds WARPS values and is free again after the next block_sync.
template <int WARPS, class T>
TW_DEVICE T block_sum(T value, Shared<T> partial TW_AT) {
  value = warp_sum(value TW_PASS_AT);
  if (lane_index() == 0) partial[threadIdx.x / WARP] = value;
  block_sync(TW_PASS_AT_ONLY);
  T sum = partial[0];
#pragma unroll
  for (int i = 1; i < WARPS; ++i) sum += static_cast<T>(partial[i]);
  return sum;
}

template <int WARPS>
TW_DEVICE float block_max(float value, Shared<float> partial TW_AT) {
  value = warp_max(value TW_PASS_AT);
  if (lane_index() == 0) partial[threadIdx.x / WARP] = value;
  block_sync(TW_PASS_AT_ONLY);
  float most = partial[0];
#pragma unroll
  for (int i = 1; i < WARPS; ++i) most = fmaxf(most, partial[i]);
  return most;
}
