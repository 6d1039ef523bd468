//! Tests of [`super`].

use super::*;
use half::{bf16, f16};

fn check<W: Element>() {
    let isas: Vec<Isa> = Isa::available().collect();
    for (rows, outputs, inputs) in [(1, 4, 64usize), (2, 4, 61), (3, 4, 200), (3, 1, 7), (2, 3, 8)] {
        let x: Vec<f32> = (0..rows * inputs).map(|i| (i as f32 * 0.7).sin()).collect();
        let weight: Vec<W> = (0..outputs * inputs).map(|i| W::from_f32((i as f32 * 1.3).cos())).collect();
        let mut sums = isas.iter().map(|&isa| {
            let tiles = Tiles::<W>::new(isa);
            let mut partial = Partial::ZERO;
            let ahead = |lines| Ahead { at: weight.as_ptr(), lines };
            let middle = inputs / 16 * 8;
            tiles.run(&x, &weight, inputs, (0, middle), ahead(3), &mut partial);
            let panels = tiles.run(&x, &weight, inputs, (middle, inputs), ahead(0), &mut partial);
            let whole = tiles.run(&x, &weight, inputs, (0, inputs), ahead(0), &mut partial);
            assert_eq!(panels, whole);
            whole.map(|row| row.map(f32::to_bits))
        });
        let first = sums.next();
        assert!(first.is_some() && sums.all(|other| Some(other) == first), "{rows} x {outputs}");
    }
}

#[test]
fn every_instruction_set_gives_the_same_bits() {
    check::<f32>();
    check::<bf16>();
    check::<f16>();
}
