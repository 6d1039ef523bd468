//! [`Lanes`] on NEON: four registers a vector.

use std::arch::aarch64::*;

use super::{Kernel, Lanes, WIDTH};
use crate::format::{Dtype, Element};

/// # Safety
/// The machine has NEON.
#[target_feature(enable = "neon")]
pub(super) unsafe fn run<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(Neon(()))
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Neon(());

type Four = [float32x4_t; 4];
type FourMasks = [uint32x4_t; 4];

/// Methods that apply one intrinsic to all four registers.
macro_rules! four {
    ($($name:ident($($arg:ident),+) => $intrinsic:expr;)+) => {$(
        #[inline(always)]
        fn $name(self, $($arg: Four),+) -> Four {
            // SAFETY: the token: the machine has NEON.
            unsafe { std::array::from_fn(|i| { $(let $arg = $arg[i];)+ $intrinsic }) }
        }
    )+};
}

impl Lanes for Neon {
    type Vector = Four;
    type Mask = FourMasks;
    // Of thirty-two registers twenty-four: six vectors.
    const ACCUMULATORS: usize = 6;

    #[inline(always)]
    fn splat(self, x: f32) -> Four {
        // SAFETY: the token.
        unsafe { [vdupq_n_f32(x); 4] }
    }
    #[inline(always)]
    fn load<E: Element>(self, from: &[E; WIDTH]) -> Four {
        let at = from.as_ptr();
        // SAFETY: the token; `from` has sixteen elements of the size that `E::DTYPE` says.
        unsafe {
            match E::DTYPE {
                Dtype::F32 => std::array::from_fn(|i| vld1q_f32(at.cast::<f32>().add(4 * i))),
                Dtype::Bf16 => std::array::from_fn(|i| {
                    vreinterpretq_f32_u32(vshll_n_u16::<16>(vld1_u16(at.cast::<u16>().add(4 * i))))
                }),
                // The f16 vector type is not stable: widened one by one.
                Dtype::F16 => {
                    let lanes: [f32; WIDTH] = from.map(E::to_f32);
                    std::array::from_fn(|i| vld1q_f32(lanes.as_ptr().add(4 * i)))
                }
            }
        }
    }
    #[inline(always)]
    fn load_bytes(self, from: &[u8; WIDTH]) -> Four {
        // SAFETY: the token; `from` has sixteen bytes.
        unsafe {
            let bytes = vld1q_u8(from.as_ptr());
            let (low, high) = (vmovl_u8(vget_low_u8(bytes)), vmovl_u8(vget_high_u8(bytes)));
            [
                vreinterpretq_f32_u32(vmovl_u16(vget_low_u16(low))),
                vreinterpretq_f32_u32(vmovl_u16(vget_high_u16(low))),
                vreinterpretq_f32_u32(vmovl_u16(vget_low_u16(high))),
                vreinterpretq_f32_u32(vmovl_u16(vget_high_u16(high))),
            ]
        }
    }
    #[inline(always)]
    fn store(self, v: Four, to: &mut [f32; WIDTH]) {
        for (i, v) in v.into_iter().enumerate() {
            // SAFETY: the token; `to` has sixteen f32.
            unsafe { vst1q_f32(to.as_mut_ptr().add(4 * i), v) }
        }
    }
    four! {
        add(a, b) => vaddq_f32(a, b);
        sub(a, b) => vsubq_f32(a, b);
        mul(a, b) => vmulq_f32(a, b);
        div(a, b) => vdivq_f32(a, b);
        fma(a, b, c) => vfmaq_f32(c, a, b);
        max(a, b) => vbslq_f32(vcgtq_f32(a, b), a, b);
        min(a, b) => vbslq_f32(vcltq_f32(a, b), a, b);
        bits_add(a, b) => vreinterpretq_f32_u32(vaddq_u32(vreinterpretq_u32_f32(a), vreinterpretq_u32_f32(b)));
        bits_to_float(a) => vcvtq_f32_s32(vreinterpretq_s32_f32(a));
    }
    #[inline(always)]
    fn lt(self, a: Four, b: Four) -> FourMasks {
        // SAFETY: the token.
        unsafe { std::array::from_fn(|i| vcltq_f32(a[i], b[i])) }
    }
    #[inline(always)]
    fn eq(self, a: Four, b: Four) -> FourMasks {
        // SAFETY: the token.
        unsafe { std::array::from_fn(|i| vceqq_f32(a[i], b[i])) }
    }
    #[inline(always)]
    fn select(self, mask: FourMasks, a: Four, b: Four) -> Four {
        // SAFETY: the token.
        unsafe { std::array::from_fn(|i| vbslq_f32(mask[i], a[i], b[i])) }
    }
    #[inline(always)]
    fn mask_bits(self, mask: FourMasks) -> u32 {
        let weights: [u32; 4] = [1, 2, 4, 8];
        let mut bits = 0;
        for (i, mask) in mask.into_iter().enumerate() {
            // SAFETY: the token; `weights` has four u32.
            bits |= unsafe { vaddvq_u32(vandq_u32(mask, vld1q_u32(weights.as_ptr()))) } << (4 * i);
        }
        bits
    }
    #[inline(always)]
    fn bits_and(self, a: Four, pattern: u32) -> Four {
        // SAFETY: the token.
        a.map(|a| unsafe { vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_f32(a), vdupq_n_u32(pattern))) })
    }
    #[inline(always)]
    fn bits_or(self, a: Four, pattern: u32) -> Four {
        // SAFETY: the token.
        a.map(|a| unsafe { vreinterpretq_f32_u32(vorrq_u32(vreinterpretq_u32_f32(a), vdupq_n_u32(pattern))) })
    }
    #[inline(always)]
    fn bits_shl<const N: i32>(self, a: Four) -> Four {
        // SAFETY: the token.
        a.map(|a| unsafe { vreinterpretq_f32_u32(vshlq_n_u32::<N>(vreinterpretq_u32_f32(a))) })
    }
    #[inline(always)]
    fn bits_sra<const N: i32>(self, a: Four) -> Four {
        // SAFETY: the token.
        a.map(|a| unsafe { vreinterpretq_f32_s32(vshrq_n_s32::<N>(vreinterpretq_s32_f32(a))) })
    }
    #[inline(always)]
    fn reduce_add(self, v: Four) -> f32 {
        // SAFETY: the token.
        unsafe {
            // Lanes i and i + 8, then i and i + 4, then i and i + 2, then the last two.
            let four = vaddq_f32(vaddq_f32(v[0], v[2]), vaddq_f32(v[1], v[3]));
            let two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
            vget_lane_f32::<0>(two) + vget_lane_f32::<1>(two)
        }
    }
}
