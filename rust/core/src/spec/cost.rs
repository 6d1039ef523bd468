//! What a step of so many rows costs on this machine, measured while it runs.
//!
//! The curve is a staircase of unknown shape: a memory-bound GPU is flat for dozens of rows, a CPU
//! kernel may jump between one row and three. So nothing is fitted; the curve is the observations,
//! made monotone, with straight lines between them.

/// Observations kept for a row count.
const WINDOW: usize = 16;
/// Row counts up to this one have an estimate of their own; above it, eight share an octave.
const EXACT_ROWS: usize = 64;
/// Rows whose work costs as much as a step of one row reads, where nothing else is known: outside
/// of the observed range the curve goes on as `rows + ASSUMED_FLAT_ROWS`.
const ASSUMED_FLAT_ROWS: f64 = 9.0;
/// A row count that was seen once is believed up to this multiple of what the row counts below it
/// promise: the first step of a new shape often pays for allocations, and a curve that believed it
/// would never go there again.
const FIRST_SIGHT_LIMIT: f64 = 2.0;
/// Between two observed row counts that differ by a larger factor, and beyond the last, the staircase is not
/// known.
const WIDE_GAP: f64 = 2.0;

/// The latest observations of one row count, or of neighbouring ones.
#[derive(Debug, Clone)]
struct Bucket {
    key: usize,
    observed: [(f64, f64); WINDOW],
    len: usize,
    next: usize,
    estimate: Knot,
}

impl Bucket {
    fn observe(&mut self, rows: f64, seconds: f64) {
        self.observed[self.next] = (rows, seconds);
        self.next = (self.next + 1) % WINDOW;
        self.len = (self.len + 1).min(WINDOW);
        self.estimate = self.median();
    }

    /// Mean rows and median seconds: a median shrugs off the odd step that something interrupted.
    fn median(&self) -> Knot {
        let observed = &self.observed[..self.len];
        let mut seconds = [f64::INFINITY; WINDOW];
        for (sorted, &(_, seconds)) in seconds.iter_mut().zip(observed) {
            *sorted = seconds;
        }
        seconds.sort_unstable_by(f64::total_cmp);
        let weight = self.len as f64;
        let rows = observed.iter().map(|&(rows, _)| rows).sum::<f64>() / weight;
        Knot { rows, seconds: seconds[(self.len - 1) / 2], weight }
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct Knot {
    rows: f64,
    seconds: f64,
    weight: f64,
}

impl Knot {
    /// The assumed cost of `rows` rows, as far as this knot knows.
    fn assume(&self, rows: f64) -> f64 {
        self.seconds * (rows + ASSUMED_FLAT_ROWS) / (self.rows + ASSUMED_FLAT_ROWS)
    }
}

/// What a step computes besides the sequences that are drafted for together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Others {
    /// Sequences that get a token each, by a row each.
    pub sequences: usize,
    /// Further rows: their drafts, and parts of prompts.
    pub rows: usize,
}

/// Seconds a step as a function of its rows.
#[derive(Debug, Clone, Default)]
pub struct CostCurve {
    buckets: Vec<Bucket>,
    knots: Vec<Knot>,
}

impl CostCurve {
    /// Records that a step of `rows` rows took `seconds`. Observations that are not positive and
    /// finite are dropped: a clock that stood still says nothing.
    pub fn observe(&mut self, rows: usize, seconds: f64) {
        if rows == 0 || !seconds.is_finite() || seconds <= 0.0 {
            return;
        }
        let key = match rows {
            ..=EXACT_ROWS => rows,
            _ => EXACT_ROWS + (8.0 * (rows as f64 / EXACT_ROWS as f64).log2()).ceil() as usize,
        };
        let at = self.buckets.partition_point(|bucket| bucket.key < key);
        if self.buckets.get(at).is_none_or(|bucket| bucket.key != key) {
            let observed = [(0.0, 0.0); WINDOW];
            let estimate = Knot::default();
            self.buckets.insert(at, Bucket { key, observed, len: 0, next: 0, estimate });
        }
        self.buckets[at].observe(rows as f64, seconds);
        self.refit();
    }

    /// Isotonic regression by pooling adjacent violators, weighted by observations (Ayer et al.
    /// 1955). Pooled buckets keep their own row counts, so a step of the staircase stays flat.
    fn refit(&mut self) {
        let mut pools: Vec<(f64, f64, usize)> = Vec::with_capacity(self.buckets.len());
        self.knots.clear();
        for bucket in &self.buckets {
            let mut knot = bucket.estimate;
            if let Some(below) = self.knots.last().filter(|_| bucket.len == 1) {
                knot.seconds = knot.seconds.min(FIRST_SIGHT_LIMIT * below.assume(knot.rows));
            }
            self.knots.push(knot);
            let mut pool = (knot.seconds, knot.weight, 1);
            while let Some(&(seconds, weight, size)) = pools.last()
                && seconds > pool.0
            {
                let total = weight + pool.1;
                pool = ((seconds * weight + pool.0 * pool.1) / total, total, size + pool.2);
                pools.pop();
            }
            pools.push(pool);
        }
        let levels = pools.into_iter().flat_map(|(seconds, _, size)| std::iter::repeat_n(seconds, size));
        for (knot, seconds) in self.knots.iter_mut().zip(levels) {
            knot.seconds = seconds;
        }
    }

    /// Seconds that a step of `rows` rows takes; `None` before the first observation.
    #[must_use]
    pub fn seconds(&self, rows: usize) -> Option<f64> {
        let rows = rows as f64;
        match self.around(rows) {
            (None, None) => None,
            (None, Some(edge)) if edge.rows == rows => Some(edge.seconds),
            (None, Some(edge)) | (Some(edge), None) => Some(edge.assume(rows)),
            (Some(low), Some(high)) => {
                let share = (rows - low.rows) / (high.rows - low.rows);
                Some(low.seconds + share * (high.seconds - low.seconds))
            }
        }
    }

    /// What a step of `rows` rows takes if the staircase is flat from the next fewer rows that were observed to
    /// twice as many (`WIDE_GAP`). Hope is worth an attempt, and is no estimate.
    #[must_use]
    pub fn hopeful_seconds(&self, rows: usize) -> Option<f64> {
        let (Some(low), high) = self.around(rows as f64) else { return self.seconds(rows) };
        let flat = Knot { rows: WIDE_GAP * low.rows, ..*low };
        let rows = rows as f64;
        match high {
            None if rows <= flat.rows => Some(flat.seconds),
            None => Some(flat.assume(rows)),
            Some(high) if high.rows > flat.rows && high.rows > rows => {
                let share = ((rows - flat.rows) / (high.rows - flat.rows)).max(0.0);
                Some(low.seconds + share * (high.seconds - low.seconds))
            }
            Some(_) => self.seconds(rows as usize),
        }
    }

    /// The last estimate below `rows`, and the first that is not.
    fn around(&self, rows: f64) -> (Option<&Knot>, Option<&Knot>) {
        let above = self.knots.partition_point(|knot| knot.rows < rows);
        (above.checked_sub(1).map(|below| &self.knots[below]), self.knots.get(above))
    }

    /// Seconds of a step of `rows` rows, of which `plain` stand for a sequence each, beside further rows of
    /// others. Those are not charged: a plain step costs what it costs without them, and a drafted row what it
    /// adds where the step stands with them. The least that it may be, if it is `hopeful`.
    #[must_use]
    pub fn seconds_beside(&self, rows: usize, plain: usize, other_rows: usize, hopeful: bool) -> Option<f64> {
        let of = |rows| if hopeful { self.hopeful_seconds(rows) } else { self.seconds(rows) };
        if other_rows == 0 {
            return of(rows);
        }
        let added = of(rows + other_rows)? - self.seconds(plain + other_rows)?;
        Some(self.seconds(plain)? + added.max(0.0))
    }

    /// The estimates that the curve runs through: (rows, seconds), rows ascending.
    pub fn points(&self) -> impl Iterator<Item = (f64, f64)> + '_ {
        self.knots.iter().map(|knot| (knot.rows, knot.seconds))
    }
}

#[cfg(test)]
#[allow(clippy::float_cmp)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn is_unknown_before_the_first_observation_and_scales_one() {
        let mut curve = CostCurve::default();
        assert_eq!(curve.seconds(1), None);
        curve.observe(1, 0.01);
        assert_eq!(curve.seconds(1), Some(0.01));
        assert_eq!(curve.seconds(11), Some(0.02));
        curve.observe(0, 1.0);
        curve.observe(5, f64::NAN);
        curve.observe(5, 0.0);
        assert_eq!(curve.points().count(), 1);
    }

    #[test]
    fn keeps_a_staircase_and_interpolates_between_its_points() {
        let mut curve = CostCurve::default();
        for (rows, seconds) in [(1, 0.058), (2, 0.095), (3, 0.1), (16, 0.1), (32, 0.145)] {
            curve.observe(rows, seconds);
        }
        assert_eq!(curve.seconds(8), Some(0.1));
        assert!((curve.seconds(24).unwrap() - 0.1225).abs() < 1e-12);
    }

    #[test]
    fn rows_of_others_move_the_price_of_a_row_and_are_not_charged() {
        let mut curve = CostCurve::default();
        for (rows, seconds) in [(1, 0.1), (31, 0.1), (32, 0.2), (64, 0.2)] {
            curve.observe(rows, seconds);
        }
        assert_eq!(curve.seconds_beside(5, 1, 0, false), Some(0.1));
        assert_eq!(curve.seconds_beside(1, 1, 30, false), Some(0.1));
        assert_eq!(curve.seconds_beside(2, 1, 30, false), Some(0.2));
        assert_eq!(curve.seconds_beside(9, 1, 40, false), Some(0.1));
        assert_eq!(CostCurve::default().seconds_beside(9, 1, 40, false), None);
    }

    #[test]
    fn one_slow_step_moves_nothing_and_a_lasting_change_is_followed() {
        let mut curve = CostCurve::default();
        (0..5).for_each(|_| curve.observe(4, 0.1));
        curve.observe(4, 9.0);
        assert_eq!(curve.seconds(4), Some(0.1));
        (0..WINDOW).for_each(|_| curve.observe(4, 0.2));
        assert_eq!(curve.seconds(4), Some(0.2));
    }

    #[test]
    fn a_slow_first_sight_is_believed_in_part() {
        let mut curve = CostCurve::default();
        (0..3).for_each(|_| curve.observe(1, 0.05));
        curve.observe(9, 3.0);
        assert_eq!(curve.seconds(9), Some(0.05 * 2.0 * 18.0 / 10.0));
        curve.observe(9, 0.06);
        assert_eq!(curve.seconds(9), Some(0.06));
        curve.observe(9, 3.0);
        assert_eq!(curve.seconds(9), Some(3.0));
    }

    #[test]
    fn hopes_where_nothing_was_observed() {
        let mut curve = CostCurve::default();
        assert_eq!(curve.hopeful_seconds(4), None);
        for (rows, seconds) in [(1, 0.1), (4, 0.13), (8, 0.2)] {
            curve.observe(rows, seconds);
        }
        assert_eq!(curve.hopeful_seconds(2), Some(0.1), "flat to twice the rows");
        let three = curve.hopeful_seconds(3).unwrap();
        assert!(0.1 < three && three < curve.seconds(3).unwrap());
        assert_eq!(curve.hopeful_seconds(4), curve.seconds(4));
        assert_eq!(curve.hopeful_seconds(6), curve.seconds(6), "both neighbours are known");
        assert_eq!(curve.hopeful_seconds(16), Some(0.2));
        assert_eq!(curve.hopeful_seconds(41), Some(0.2 * 50.0 / 25.0));
        assert_eq!(curve.seconds_beside(16, 1, 0, true), Some(0.2));
    }

    proptest! {
        #[test]
        fn never_decreases(
            observed in prop::collection::vec((1usize..3000, 1e-3f64..1.0), 1..60),
            rows in 1usize..4000,
        ) {
            let mut curve = CostCurve::default();
            for &(rows, seconds) in &observed {
                curve.observe(rows, seconds);
            }
            prop_assert!(curve.seconds(rows).unwrap() <= curve.seconds(rows + 1).unwrap() + 1e-12);
        }
    }
}
