// Entry points: tree attention on tensor cores, bf16.
#include "attention_tiled.cuh"

HORNBEAM_ATTENTION_TILED(hornbeam_attention_bf16_64, bf16, 64)
HORNBEAM_ATTENTION_TILED(hornbeam_attention_bf16_128, bf16, 128)
HORNBEAM_ATTENTION_TILED(hornbeam_attention_bf16_256, bf16, 256)
