// chips: 90a
// Each kind of instruction alone: a test of the emulator, and of what ptx.cuh compiles to.
#include "kernel.cuh"
#include "ptx.cuh"
#include "tile.cuh"

#include "instructions.h"

namespace {

// Products of a warp

__device__ __forceinline__ uint32_t word_at(Global<const uint8_t> bytes, int at) { return load_vector<uint32_t>(bytes + at); }

}  // namespace

TW_KERNEL(one_mma, ProductParams, 32) {
  const Global<const uint8_t> a_bytes = global(p.a), b_bytes = global(p.b);
  const Global<uint32_t> d = global(p.d);
  const Shared<uint8_t> a_tile = dynamic_shared<uint8_t>(0, 16 * 32), b_tile = dynamic_shared<uint8_t>(1024, 16 * 32);
  const int lane = lane_index();
  uint32_t a[4], b[4];
  if (p.through_shared) {
    // Rows of 32 bytes, swizzled; one lane writes one chunk.
    store_vector(a_tile + Swizzled<32>::chunk(lane / 2, lane % 2), load_vector<uint4>(a_bytes + lane * 16));
    if (p.transposed_b) {
      // [16 depths][8 columns] of 16 bits; the second tile of columns repeats the first.
      store_vector(b_tile + Swizzled<32>::chunk(lane % 16, lane / 16), load_vector<uint4>(b_bytes + lane % 16 * 16));
    } else {
      store_vector(b_tile + Swizzled<32>::chunk(lane / 2, lane % 2), load_vector<uint4>(b_bytes + lane % 16 * 16));
    }
    warp_sync();
    ldmatrix_x4(a, shared_address(a_tile + Swizzled<32>::chunk(LoadMatrix::a_row(lane), LoadMatrix::a_chunk(lane))));
    if (p.transposed_b) {
      ldmatrix_x4_transposed(
          b, shared_address(b_tile + Swizzled<32>::chunk(LoadMatrix::b_transposed_depth(lane), LoadMatrix::b_transposed_chunk(lane))));
    } else {
      ldmatrix_x4(b, shared_address(b_tile + Swizzled<32>::chunk(LoadMatrix::b_column(lane), LoadMatrix::b_chunk(lane))));
    }
    // And back: what stmatrix writes is what ldmatrix read.
    stmatrix_x4(shared_address(a_tile + Swizzled<32>::chunk(LoadMatrix::a_row(lane), LoadMatrix::a_chunk(lane))), a);
    warp_sync();
    uint32_t again[4];
    ldmatrix_x4(again, shared_address(a_tile + Swizzled<32>::chunk(LoadMatrix::a_row(lane), LoadMatrix::a_chunk(lane))));
    for (int i = 0; i < 4; ++i) a[i] = again[i] == a[i] && b[i % 2] == b[i % 2 + 2] ? a[i] : 0xbadbadu;
  } else {
    for (int i = 0; i < 4; ++i) a[i] = word_at(a_bytes, Fragment::a_row(lane, i) * 32 + Fragment::a_byte(lane, i));
    for (int i = 0; i < 2; ++i) b[i] = word_at(b_bytes, Fragment::b_column(lane) * 32 + Fragment::b_byte(lane, i));
  }

  uint32_t bits[4];
  for (int i = 0; i < 4; ++i) bits[i] = d[Fragment::c_row(lane, i) * 8 + Fragment::c_column(lane, i)];
  if (p.kind == 0) {
    int32_t c[4];
    for (int i = 0; i < 4; ++i) c[i] = static_cast<int32_t>(bits[i]);
    mma_m16n8k32_s8(c, a, b[0], b[1]);
    for (int i = 0; i < 4; ++i) bits[i] = static_cast<uint32_t>(c[i]);
  } else if (p.kind <= 3) {
    float c[4];
    for (int i = 0; i < 4; ++i) c[i] = float_of(bits[i]);
    if (p.kind == 1) mma_m16n8k16_f16(c, a, b[0], b[1]);
    if (p.kind == 2) mma_m16n8k16_bf16(c, a, b[0], b[1]);
    if (p.kind == 3) mma_m16n8k32_e4m3(c, a, b[0], b[1]);
    for (int i = 0; i < 4; ++i) bits[i] = bits_of(c[i]);
  } else {
    uint32_t c[2];
    for (int i = 0; i < 2; ++i) c[i] = pack_f16(float_of(bits[2 * i]), float_of(bits[2 * i + 1]));
    if (p.kind == 4) mma_m16n8k16_f16_f16(c, a, b[0], b[1]);
    if (p.kind == 5) mma_m16n8k32_e4m3_f16(c, a, b[0], b[1]);
    for (int i = 0; i < 2; ++i) {
      bits[2 * i] = bits_of(low_f16(c[i]));
      bits[2 * i + 1] = bits_of(high_f16(c[i]));
    }
  }
  for (int i = 0; i < 4; ++i) d[Fragment::c_row(lane, i) * 8 + Fragment::c_column(lane, i)] = bits[i];
}

namespace {

// Products of a warpgroup

// Bits of `turned`: 1 for B, 2 for A. Turned operands are tried at two widths only.
template <int N, int KIND, class A>
__device__ __forceinline__ void issue(float (&c)[N / 2], const A& a, uint64_t b, uint32_t turned) {
  if constexpr (KIND == 3) {
    wgmma_m64k32_e4m3<N>(c, a, b, true);
  } else if constexpr (KIND == 2) {
    if (turned == 0) wgmma_m64k16_bf16<N>(c, a, b, true);
    if constexpr (N == 64) {
      if (turned == 1) wgmma_m64k16_bf16<N, true>(c, a, b, true);
    }
  } else {
    if (turned == 0) wgmma_m64k16_f16<N>(c, a, b, true);
    if constexpr (N == 64 || N == 128) {
      if (turned == 1) wgmma_m64k16_f16<N, true>(c, a, b, true);
      if constexpr (sizeof(A) == 8) {
        if (turned == 2) wgmma_m64k16_f16<N, false, true>(c, a, b, true);
        if (turned == 3) wgmma_m64k16_f16<N, true, true>(c, a, b, true);
      }
    }
  }
}

template <int N, int KIND>
__device__ __forceinline__ void multiply(const ProductParams& p, uint64_t a_descriptor, const uint32_t (&a)[4], uint64_t b) {
  const Global<uint32_t> d = global(p.d);
  const int lane = lane_index(), warp = warp_index();
  auto place = [&](int i) { return (warp * 16 + Fragment::c_row(lane, i)) * N + Fragment::c_column(lane, i); };
  if constexpr (KIND == 0) {
    if constexpr (N != 136) {
      int32_t c[N / 2];
      for (int i = 0; i < N / 2; ++i) c[i] = static_cast<int32_t>(static_cast<uint32_t>(d[place(i)]));
      wgmma_fence();
      if (p.from_registers) {
        wgmma_m64k32_s8<N>(c, a, b, true);
      } else {
        wgmma_m64k32_s8<N>(c, a_descriptor, b, true);
      }
      wgmma_commit();
      wgmma_wait<0>();
      for (int i = 0; i < N / 2; ++i) d[place(i)] = static_cast<uint32_t>(c[i]);
    }
  } else {
    float c[N / 2];
    for (int i = 0; i < N / 2; ++i) c[i] = float_of(d[place(i)]);
    wgmma_fence();
    if (p.from_registers) {
      issue<N, KIND>(c, a, b, p.transposed_b);
    } else {
      issue<N, KIND>(c, a_descriptor, b, p.transposed_b + 2 * p.transposed_a);
    }
    wgmma_commit();
    wgmma_wait<0>();
    for (int i = 0; i < N / 2; ++i) d[place(i)] = bits_of(c[i]);
  }
}

template <int N>
__device__ __forceinline__ void multiply_kind(const ProductParams& p, uint64_t a_descriptor, const uint32_t (&a)[4], uint64_t b) {
  if (p.kind == 0) multiply<N, 0>(p, a_descriptor, a, b);
  if (p.kind == 1) multiply<N, 1>(p, a_descriptor, a, b);
  if (p.kind == 2) multiply<N, 2>(p, a_descriptor, a, b);
  if (p.kind == 3) multiply<N, 3>(p, a_descriptor, a, b);
}

}  // namespace

TW_KERNEL(one_wgmma, ProductParams, 128, 1) {
  const Global<const uint8_t> a_bytes = global(p.a), b_bytes = global(p.b);
  const Shared<uint8_t> a_image = dynamic_shared<uint8_t>(0, 16384), b_image = dynamic_shared<uint8_t>(16384, 65536);
  const int lane = lane_index(), warp = warp_index();
  for (uint32_t i = threadIdx.x * 16; i < p.a_bytes; i += 128 * 16) store_vector(a_image + i, load_vector<uint4>(a_bytes + i));
  for (uint32_t i = threadIdx.x * 16; i < p.b_bytes; i += 128 * 16) store_vector(b_image + i, load_vector<uint4>(b_bytes + i));
  fence_proxy_async();
  block_sync();

  uint32_t a[4] = {};
  if (p.from_registers) {
    for (int i = 0; i < 4; ++i) a[i] = word_at(a_bytes, (warp * 16 + Fragment::a_row(lane, i)) * 32 + Fragment::a_byte(lane, i));
  }
  const Swizzle swizzle = static_cast<Swizzle>(p.swizzle);
  const uint64_t a_descriptor = matrix_descriptor(shared_address(a_image), p.a_leading, p.a_stride, swizzle);
  const uint64_t b_descriptor = matrix_descriptor(shared_address(b_image), p.b_leading, p.b_stride, swizzle);
  if (p.columns == 32) multiply_kind<32>(p, a_descriptor, a, b_descriptor);
  if (p.columns == 64) multiply_kind<64>(p, a_descriptor, a, b_descriptor);
  if (p.columns == 96) multiply_kind<96>(p, a_descriptor, a, b_descriptor);
  if (p.columns == 128) multiply_kind<128>(p, a_descriptor, a, b_descriptor);
  if (p.columns == 136) multiply_kind<136>(p, a_descriptor, a, b_descriptor);
  if (p.columns == 192) multiply_kind<192>(p, a_descriptor, a, b_descriptor);
  if (p.columns == 256) multiply_kind<256>(p, a_descriptor, a, b_descriptor);
}

// Warps

TW_KERNEL(warp_operations, WarpParams, WARP_THREADS) {
  const Global<const uint32_t> in = global(p.in);
  const Global<uint32_t> out = global(p.out);
  const Global<uint32_t> counter = global(p.counter);
  TW_SHARED(float, partial, WARP_THREADS / WARP);
  TW_SHARED(uint32_t, tally, 2);
  const int thread = static_cast<int>(threadIdx.x), lane = lane_index();
  const uint32_t value = in[thread];
  int operation = 0;
  auto give = [&](uint32_t result) { out[operation++ * WARP_THREADS + thread] = result; };
  give(shuffle(value, (lane + 5) % 32));
  give(shuffle_xor(value, 9));
  give(shuffle_down(value, 3));
  give(shuffle_up(value, 3));
  give(lanes_where(value % 3 == 0));
  give(any_lane(value == 12345u));
  give(all_lanes(value != 12345u));
  give(reduce_add(value));
  give(reduce_max(value));
  give(reduce_min(value));
  give(static_cast<uint32_t>(reduce_max(static_cast<int32_t>(value))));
  give(reduce_or(value));
  give(warp_sum(value));
  give(bits_of(warp_max(to_f32(static_cast<int32_t>(value)))));
  give(bits_of(block_max<WARP_THREADS / WARP>(to_f32(static_cast<int32_t>(value >> 8)), partial)));
  block_sync();
  give(bits_of(block_sum<WARP_THREADS / WARP>(to_f32(static_cast<int32_t>(value >> 20)), partial)));
  if (thread < 2) tally[thread] = 0;
  block_sync();
  atomic_add(&tally[0], value);
  atomic_max(&tally[1], value);
  atomic_add(&counter[0], value);
  atomic_max(&counter[1], value);
  block_sync();
  give(tally[0]);
  give(tally[1]);
  give(permute_bytes(value, ~value, 0x7250));
  give(static_cast<uint32_t>(dot4_s8(value, ~value, 7)));
}

// Copies

TW_KERNEL(some_copies, CopyParams, 128) {
  const Global<const uint8_t> in = global(p.in);
  const Global<uint8_t> out = global(p.out);
  const Shared<uint8_t> tiles = dynamic_shared<uint8_t>(0, 3 * 2048);
  const int thread = static_cast<int>(threadIdx.x);
  for (int part = 0; part < 4; ++part) cp_async<4>(shared_address(tiles + thread * 16 + part * 4), in + thread * 16 + part * 4);
  cp_async_commit();
  for (int part = 0; part < 2; ++part) {
    cp_async_zero_fill<8>(shared_address(tiles + 2048 + thread * 16 + part * 8), in + 2048 + thread * 16 + part * 8, thread % 9);
  }
  cp_async_commit();
  cp_async_zero_fill<16>(shared_address(tiles + 4096 + thread * 16), in + 4096 + thread * 16, thread % 17);
  cp_async_commit();
  cp_async_wait_group<2>();
  store_vector(out + thread * 16, load_vector<uint4>(tiles + thread * 16));
  cp_async_wait_group<1>();
  store_vector(out + 2048 + thread * 16, load_vector<uint4>(tiles + 2048 + thread * 16));
  cp_async_wait_group<0>();
  block_sync();
  const int other = 127 - thread;
  store_vector(out + 4096 + other * 16, load_vector<uint4>(tiles + 4096 + other * 16));
}

// Barriers between two warps: the first writes, the second reads and answers, round after round.
TW_KERNEL(relay, RelayParams, 64) {
  const Global<uint32_t> out = global(p.out);
  TW_SHARED(uint32_t, ball, 1);
  TW_SHARED(uint64_t, barrier, 1);
  const int lane = lane_index(), warp = warp_index();
  const uint32_t mbarrier = shared_address(barrier);
  if (threadIdx.x == 0) mbarrier_init(mbarrier, 1);
  block_sync();
  for (uint32_t round = 0; round < p.rounds; ++round) {
    if (warp == 0) {
      if (lane == 0) ball[0] = round * 10;
      barrier_arrive(1, 64);
      barrier_sync(2, 64);
      if (lane == 0) {
        while (!mbarrier_test(mbarrier, round % 2)) {
        }
        out[round * 2] = ball[0];
      }
      warp_sync();
    } else {
      barrier_sync(1, 64);
      if (lane == 31) {
        const uint32_t got = ball[0];
        out[round * 2 + 1] = got;
        ball[0] = got + 1;
        mbarrier_arrive(mbarrier);
      }
      warp_sync();
      barrier_arrive(2, 64);
    }
  }
}
