// SageAttention forward with f16 values and an end: an added term of low rank, an int8 output, or both. The kernels and their
// tiles are those of sage_attn_mma.cu; attention.cuh has the whole of it, attention_end.cuh the end.
//
// The end of 128 rows at head dim 128 is 4.2 million operations and 66 KB read (M, and the rows of q) beside 131 KB of the
// queries and the output; M, 32 KB, comes from the second-level cache for all but the first block of a head.
//
// sass: all IMMA.16832.S8.S8 HMMA.16816.F32 HMMA.16816.F32.BF16 LDSM.16.M88.4 LDSM.16.MT88.4 LDGSTS.E.BYPASS.128 MUFU.EX2
#include "kernel.cuh"

#include "attention.cuh"

TW_KERNEL(sage_attn_d128_end, SageAttnParams, 256, 1) { attend<Tiling<128, 8, 1, Values::F16, 2>, true>(p); }

TW_KERNEL(sage_attn_d128_rows64_end, SageAttnParams, 128, 2) { attend<Tiling<128, 4, 1, Values::F16, 2>, true>(p); }

TW_KERNEL(sage_attn_d64_end, SageAttnParams, 128, 2) { attend<Tiling<64, 4, 2, Values::F16, 3>, true>(p); }

TW_KERNEL(sage_attn_d64_rows64_end, SageAttnParams, 128, 2) { attend<Tiling<64, 4, 1, Values::F16, 3>, true>(p); }
