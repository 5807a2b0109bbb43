// SageAttention forward with e4m3 values, for chips that multiply them on mma.sync; attention.cuh has the whole of it.
//
// The kernels are those of sage_attn_mma.cu; two stages at head dim 128 are 48 KiB. Not for 9.0, whose mma.sync has no e4m3 of its own and converts it to f16: the f16 kernels are for that chip.
//
// chips: 89 120a
// sass: all IMMA.16832.S8.S8 QMMA.16832.F16.E4M3.E4M3 LDSM.16.M88.4 LDGSTS.E.BYPASS.128 MUFU.EX2
#include "kernel.cuh"

#include "attention.cuh"

TW_KERNEL(sage_attn_fp8_d128, SageAttnParams, 256, 1) { attend<Tiling<128, 8, 1, Values::E4m3, 2>>(p); }

TW_KERNEL(sage_attn_fp8_d128_rows64, SageAttnParams, 128, 2) { attend<Tiling<128, 4, 1, Values::E4m3, 2>>(p); }

TW_KERNEL(sage_attn_fp8_d64, SageAttnParams, 128, 2) { attend<Tiling<64, 4, 2, Values::E4m3, 3>>(p); }

TW_KERNEL(sage_attn_fp8_d64_rows64, SageAttnParams, 128, 2) { attend<Tiling<64, 4, 1, Values::E4m3, 3>>(p); }
