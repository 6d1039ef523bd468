// Entry points: tree attention on tensor cores, f16. A file of its own, so that it compiles beside bf16.
#include "attention_tiled.cuh"

HORNBEAM_ATTENTION_TILED(hornbeam_attention_f16_64, f16, 64)
HORNBEAM_ATTENTION_TILED(hornbeam_attention_f16_128, f16, 128)
HORNBEAM_ATTENTION_TILED(hornbeam_attention_f16_256, f16, 256)
