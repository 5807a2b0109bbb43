// SageAttention forward with f16 values, on every chip; attention.cuh has the whole of it.
//
//   sage_attn_d128          128 x 64 tiles, eight warps of 16 rows (with four of 32 the registers spill), two stages: 64 KiB
//   sage_attn_d128_rows64   64 x 64 tiles, four warps of 16 rows: for blocks of 64 queries in a map, and few queries
//   sage_attn_d64           128 x 64 tiles, four warps of 32 rows, three stages: 44 KiB
//   sage_attn_d64_rows64    64 x 64 tiles, four warps of 16 rows
//
// sass: all IMMA.16832.S8.S8 HMMA.16816.F32 LDSM.16.M88.4 LDSM.16.MT88.4 LDGSTS.E.BYPASS.128 MUFU.EX2
#include "kernel.cuh"

#include "attention.cuh"

TW_KERNEL(sage_attn_d128, SageAttnParams, 256, 1) { attend<Tiling<128, 8, 1, Values::F16, 2>>(p); }

TW_KERNEL(sage_attn_d128_rows64, SageAttnParams, 128, 2) { attend<Tiling<128, 4, 1, Values::F16, 2>>(p); }

TW_KERNEL(sage_attn_d64, SageAttnParams, 128, 2) { attend<Tiling<64, 4, 2, Values::F16, 3>>(p); }

TW_KERNEL(sage_attn_d64_rows64, SageAttnParams, 128, 2) { attend<Tiling<64, 4, 1, Values::F16, 3>>(p); }
