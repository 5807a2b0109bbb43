// SageAttention forward with e4m3 values and an end: an added term of low rank, an int8 output, or both. The kernels and
// their tiles are those of sage_attn_mma_fp8.cu; attention.cuh has the whole of it, attention_end.cuh the end.
//
// chips: 89 120a
// sass: all IMMA.16832.S8.S8 QMMA.16832.F16.E4M3.E4M3 HMMA.16816.F32.BF16 LDSM.16.M88.4 LDGSTS.E.BYPASS.128 MUFU.EX2
#include "kernel.cuh"

#include "attention.cuh"

TW_KERNEL(sage_attn_fp8_d128_end, SageAttnParams, 256, 1) { attend<Tiling<128, 8, 1, Values::E4m3, 2>, true>(p); }

TW_KERNEL(sage_attn_fp8_d128_rows64_end, SageAttnParams, 128, 2) { attend<Tiling<128, 4, 1, Values::E4m3, 2>, true>(p); }

TW_KERNEL(sage_attn_fp8_d64_end, SageAttnParams, 128, 2) { attend<Tiling<64, 4, 2, Values::E4m3, 3>, true>(p); }

TW_KERNEL(sage_attn_fp8_d64_rows64_end, SageAttnParams, 128, 2) { attend<Tiling<64, 4, 1, Values::E4m3, 3>, true>(p); }
