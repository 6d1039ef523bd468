// Entry points: scores that read keys and values.
#include "score.cuh"

using hornbeam::ExpectedScores;
using hornbeam::SCORE_THREADS;
using hornbeam::ScoreRows;

HORNBEAM_KERNEL(hornbeam_score_rows, ScoreRows, SCORE_THREADS, 4) { hornbeam::score_rows(p); }
HORNBEAM_KERNEL(hornbeam_key_anchors, ScoreRows, SCORE_THREADS, 4) { hornbeam::key_anchors(p); }
HORNBEAM_KERNEL(hornbeam_key_differences, ScoreRows, SCORE_THREADS, 4) { hornbeam::key_differences(p); }

HORNBEAM_KERNEL(hornbeam_expected_logits, ExpectedScores, hornbeam::EXPECTED_KEYS, 4) {
    HORNBEAM_SHARED(memory);
    hornbeam::expected_logits(p, memory);
}

HORNBEAM_KERNEL(hornbeam_expected_weights, ExpectedScores, SCORE_THREADS, 4) { hornbeam::expected_weights(p); }
HORNBEAM_KERNEL(hornbeam_expected_scores, ExpectedScores, SCORE_THREADS, 4) { hornbeam::expected_scores(p); }
HORNBEAM_KERNEL(hornbeam_plane_sums, hornbeam::PlaneSums, SCORE_THREADS, 4) { hornbeam::plane_sums(p); }
