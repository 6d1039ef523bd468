// Entry points: row writes and row moves.
#include "rows.cuh"

HORNBEAM_KERNEL(hornbeam_write_rows, hornbeam::WriteRows, 256, 4) { hornbeam::write_rows(p); }
HORNBEAM_KERNEL(hornbeam_move_rows, hornbeam::MoveRows, 256, 4) { hornbeam::move_rows(p, false); }
HORNBEAM_KERNEL(hornbeam_move_page_rows, hornbeam::MoveRows, 256, 4) { hornbeam::move_rows(p, true); }
HORNBEAM_KERNEL(hornbeam_copy_rows, hornbeam::CopyRows, 256, 4) { hornbeam::copy_rows(p); }
HORNBEAM_KERNEL(hornbeam_commit_rows, hornbeam::CommitRows, 256, 4) { hornbeam::commit_rows(p); }
