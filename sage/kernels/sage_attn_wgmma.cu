// chips: 90a
// sass: all EXIT
#include "kernel.cuh"

#include "attention_end.cuh"

TW_KERNEL(sage_attn_wgmma_d128, SageAttnParams, 384, 1) {}
TW_KERNEL(sage_attn_wgmma_d64, SageAttnParams, 384, 1) {}
