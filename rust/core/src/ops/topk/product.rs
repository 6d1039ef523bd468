//! The greatest scores over all pairs of two key tables, without looking at all pairs.
//!
//! Product keys (Lample et al. 2019, arXiv 1907.05242, section 3): a pair scores the sum of what its halves score,
//! so the greatest pairs are among those of each table's greatest. That is exact in floats too, since rounding a sum
//! keeps the order: if `x <= y` then `x + z <= y + z` after rounding. But it may make two sums equal that were not, and
//! then the tie may belong to a pair with a lower index whose halves are *not* among the greatest. So the greatest of
//! each table give the k-th greatest sum, and the pairs that are equal to it are looked for in the whole tables.

use super::each::for_each_row;
use super::key::key;
use super::rows::{Rows, Top, expect_short};
use super::scratch::Tables;
use super::select::{Bins, kth};
use crate::error::{Error, Result};
use crate::parallel::Parallel;
use crate::simd::{Isa, Kernel, Lanes, WIDTH};

/// The `k` greatest sums `a[i] + b[j]` of every pair of rows, rounded to f32, and their indices `i * len(b) + j`; of
/// equal sums those with the lowest index. Rows run in parallel.
///
/// # Errors
/// [`Error::Value`] if there are fewer than `k` pairs, or a score is NaN or +inf (-inf marks what is not to be found);
/// [`Error::Shape`] for arrays of other lengths.
pub fn product_top_k(
    isa: Isa,
    pool: &dyn Parallel,
    a: &Rows<'_, f32>,
    b: &Rows<'_, f32>,
    k: usize,
    sorted: bool,
    top: Top<'_, f32>,
) -> Result<()> {
    expect_pairs(a.count(), b.count(), k, top.width)?;
    for row in 0..a.count() {
        expect_enough(a.row(row).len(), b.row(row).len(), k)?;
        for (what, scores) in [("scores_a", a.row(row)), ("scores_b", b.row(row))] {
            if let Some(bad) = scores.iter().find(|x| x.is_nan() || **x == f32::INFINITY) {
                return Err(Error::value(what, format!("{bad} among others"), "finite numbers or -inf"));
            }
        }
    }
    let elements = a.data.len() + b.data.len() + k * a.count();
    for_each_row(pool, a.count(), elements, top, |row, values, indices, scratch| {
        let (a, b) = (a.row(row), b.row(row));
        if k == 0 {
            return;
        }
        for (table, scores) in [a, b].into_iter().enumerate() {
            let count = k.min(scores.len());
            scratch.select(isa, scores, count, None);
            scratch.sort(count, |at| scores[at as usize]);
            let best = &mut scratch.product.best[table];
            best.clear();
            best.extend_from_slice(&scratch.chosen[..count]);
        }
        find(isa, a, b, k, &mut scratch.product, &mut scratch.bins);
        let found = &mut scratch.product.found;
        match sorted {
            true => found.sort_unstable_by_key(|&(pair, sum)| (!key(sum), pair)),
            false => found.sort_unstable_by_key(|&(pair, _)| pair),
        }
        for ((value, index), &(pair, sum)) in values.iter_mut().zip(indices).zip(found.iter()) {
            (*value, *index) = (sum, pair);
        }
    })
}

/// Fills `found` with the `k` greatest pairs, in any order.
fn find(isa: Isa, a: &[f32], b: &[f32], k: usize, tables: &mut Tables, bins: &mut Bins) {
    let Tables { best: [best_a, best_b], sums, columns, found } = tables;
    // Pair (r, s) of the sorted tables has at least (r + 1) * (s + 1) - 1 others that are no less.
    let partners = |rank: usize| &best_b[..best_b.len().min(k / (rank + 1))];
    sums.clear();
    for (rank, &i) in best_a.iter().enumerate() {
        sums.extend(partners(rank).iter().map(|&j| a[i as usize] + b[j as usize]));
    }
    let least = isa.run(Kth { sums, k, bins });
    let pair = |i: usize, j: usize| (i * b.len() + j) as i64;
    found.clear();
    for (rank, &i) in best_a.iter().enumerate() {
        for &j in partners(rank) {
            let (i, j) = (i as usize, j as usize);
            if a[i] + b[j] > least {
                found.push((pair(i, j), a[i] + b[j]));
            }
        }
    }
    let (most_a, most_b) = (a[best_a[0] as usize], b[best_b[0] as usize]);
    columns.clear();
    columns.extend((0..b.len() as u32).filter(|&j| most_a + b[j as usize] >= least));
    for (i, &score) in a.iter().enumerate() {
        if score + most_b < least {
            continue;
        }
        for &j in columns.iter() {
            if score + b[j as usize] == least {
                found.push((pair(i, j as usize), score + b[j as usize]));
                if found.len() == k {
                    return;
                }
            }
        }
    }
}

struct Kth<'a> {
    sums: &'a [f32],
    k: usize,
    bins: &'a mut Bins,
}

impl Kernel for Kth<'_> {
    type Output = f32;
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) -> f32 {
        kth(l, self.sums, self.k, self.bins).value
    }
}

/// The small matrix between the scores of two tables.
#[derive(Debug, Clone, Copy)]
pub struct TuckerCore<'a> {
    /// `[rank][rank]` for each row, or one for all.
    pub data: &'a [f32],
    /// Scores that each key has.
    pub rank: usize,
}

/// The `k` greatest of `a[:, i] . core . b[:, j]` and their indices, as [`product_top_k`] otherwise, where a row of `a`
/// is `[rank][len]`: the scores of Tucker-decomposed retrieval (UltraMem, Huang et al. 2024, arXiv 2411.12364).
///
/// UltraMem takes each table's greatest by the first singular vectors of the core and scores only their pairs, which
/// may miss some. Such a score is no monotone function of two numbers, so here all pairs are scored: a product of
/// `len(a) * len(b) * rank` multiplications, in one order of rounding.
///
/// # Errors
/// As [`product_top_k`], and [`Error::Value`] for any number that is not finite.
pub fn tucker_top_k(
    isa: Isa,
    pool: &dyn Parallel,
    a: &Rows<'_, f32>,
    b: &Rows<'_, f32>,
    core: TuckerCore<'_>,
    k: usize,
    sorted: bool,
    top: Top<'_, f32>,
) -> Result<()> {
    let TuckerCore { data, rank } = core;
    expect_pairs(a.count(), b.count(), k, top.width)?;
    let square = rank * rank;
    if rank == 0 || (data.len() != square && data.len() != square * a.count()) {
        let want = format!("{rank} x {rank} numbers, or as many for each row");
        return Err(Error::shape("core", data.len(), want));
    }
    for (what, numbers) in [("scores_a", a.data), ("scores_b", b.data), ("core", data)] {
        if let Some(bad) = numbers.iter().find(|x| !x.is_finite()) {
            return Err(Error::value(what, format!("{bad} among others"), "finite numbers"));
        }
    }
    for row in 0..a.count() {
        let (a, b) = (a.row(row).len(), b.row(row).len());
        if !a.is_multiple_of(rank) || !b.is_multiple_of(rank) {
            return Err(Error::shape("scores", [a, b], format!("rows of {rank} scores a key")));
        }
        expect_enough(a / rank, b / rank, k)?;
        expect_short((a / rank).saturating_mul(b / rank))?;
    }
    let elements = (0..a.count()).map(|row| a.row(row).len() * b.row(row).len() / rank).sum();
    for_each_row(pool, a.count(), elements, top, |row, values, indices, scratch| {
        let core = if data.len() == square { data } else { &data[row * square..][..square] };
        let mut grid = std::mem::take(&mut scratch.row);
        let (a, b) = (a.row(row), b.row(row));
        grid.resize(a.len() / rank * (b.len() / rank), 0.0);
        isa.run(Grid { a, b, core, rank, grid: &mut grid });
        scratch.select(isa, &grid, k, None);
        scratch.write(&grid, k, sorted, values, indices, |x| x);
        scratch.row = grid;
    })
}

struct Grid<'a> {
    a: &'a [f32],
    b: &'a [f32],
    core: &'a [f32],
    rank: usize,
    grid: &'a mut [f32],
}

impl Kernel for Grid<'_> {
    type Output = ();
    /// `grid[i][j]` is the sum over `s`, ascending, of `t[s] * b[s][j]`, where `t[s]` is that over `r` of
    /// `a[r][i] * core[r][s]`; each begins with a product and goes on with fused multiply-adds.
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let Self { a, b, core, rank, grid } = self;
        let (rows, columns) = (a.len() / rank, b.len() / rank);
        if columns == 0 {
            return;
        }
        for (i, scores) in grid.chunks_exact_mut(columns).enumerate() {
            for s in 0..rank {
                let mut factor = a[i] * core[s];
                for r in 1..rank {
                    factor = a[r * rows + i].mul_add(core[r * rank + s], factor);
                }
                let (factor, b) = (l.splat(factor), &b[s * columns..][..columns]);
                let (blocks, tail) = b.as_chunks::<WIDTH>();
                let (to_blocks, to_tail) = scores.as_chunks_mut::<WIDTH>();
                for (to, b) in to_blocks.iter_mut().zip(blocks) {
                    let b = l.load(b);
                    let sum = if s == 0 { l.mul(factor, b) } else { l.fma(factor, b, l.load(to)) };
                    l.store(sum, to);
                }
                let (b, sum) = (l.load_partial(tail, 0.0), l.load_partial(to_tail, 0.0));
                l.store_partial(if s == 0 { l.mul(factor, b) } else { l.fma(factor, b, sum) }, to_tail);
            }
        }
    }
}

fn expect_pairs(a: usize, b: usize, k: usize, width: usize) -> Result<()> {
    if a != b {
        return Err(Error::shape("scores_b", format!("{b} rows"), format!("{a} rows, as scores_a")));
    }
    if k != width {
        return Err(Error::value("k", k, format!("{width}, the places of a row")));
    }
    Ok(())
}

fn expect_enough(a: usize, b: usize, k: usize) -> Result<()> {
    let pairs = a.saturating_mul(b);
    if k <= pairs { Ok(()) } else { Err(Error::value("k", k, format!("0 to {pairs}, the pairs of a row"))) }
}
