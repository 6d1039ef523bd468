// Pages in codes: rust/core/src/format/page.rs says how they are laid out. Codes become numbers in
// registers, a piece of eight channels at a time.
#pragma once

#include "hornbeam.cuh"

namespace hornbeam {

// Channels of a page in codes, rounded up to whole pieces of sixteen.
__device__ inline int padded(const CodedPage& page) { return (page.head_dim + 15) / 16 * 16; }

__device__ inline const CodedPage& coded_page(const int32_t* plan, int code) {
    return part<CodedPage>(plan, header_of(plan).formats)[(code >> Entry_SLOT_BITS) - 1];
}

__device__ inline float load_half(const unsigned char* page, int64_t at) {
    return to_float(*reinterpret_cast<const f16*>(page + at));
}

// Channels 8 i to 8 i + 7 of a slot's key, or value. Channel 16 k + j of a unit of 128 / bits channels
// lies in byte j, k * bits bits up: eight neighbours are eight bytes, shifted alike.
__device__ inline void decode_piece(const CodedPage& format, const unsigned char* page, int slot, bool values,
                                    int piece, float (&out)[8]) {
    const int unit = 128 / format.bits, channel = 8 * piece, within = channel % unit;
    const int shift = within / 16 * format.bits;
    const uint32_t mask = (1u << format.bits) - 1u;
    const int64_t row = (values ? format.value_codes : 0) + int64_t(slot) * format.row_bytes;
    const uint32_t* codes =
        reinterpret_cast<const uint32_t*>(page + row + channel / unit * 16 + within % 16);
    const uint32_t words[2] = {codes[0], codes[1]};
    // By token: one offset and one step; by channel: eight.
    const bool by_token = values || format.key_group == 0;
    int64_t least = format.key_params + 2 * slot, step = least + 2 * format.tokens;
    if (values) {
        least = format.value_params + int64_t(4) * (channel / format.value_channels) * format.tokens + 2 * slot;
        step = least + 2 * format.tokens;
    } else if (!by_token) {
        least = format.key_params + int64_t(4) * (slot / format.key_group) * padded(format) + 2 * channel;
        step = least + 2 * padded(format);
    }
    const int stride = by_token ? 0 : 2;
    for (int j = 0; j < 8; ++j) {
        const float code = float(words[j / 4] >> (8 * (j % 4) + shift) & mask);
        const float x = fmaf(code, load_half(page, step + j * stride), load_half(page, least + j * stride));
        out[j] = values && format.factors != 0 ? x * load_half(page, format.factors + 2 * (channel + j)) : x;
    }
}

}  // namespace hornbeam
