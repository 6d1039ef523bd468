//! The scores of the entries of each read: where they lie.

use std::ops::Range;
use std::slice::ChunksExact;

use crate::ops::attention::{Problem, entries_of};

/// Entries whose scores lie together, those of one query one after the other: `[queries][entries]`.
pub(super) const TOGETHER: usize = 512;

/// The scores of the entries of every read and kv head, and their memory from call to call.
#[derive(Debug, Default)]
pub struct Scores {
    /// Heads outermost; `None` where nothing is scored.
    pub(super) blocks: Vec<Option<Block>>,
    pub(super) num_reads: usize,
    pub(super) numbers: Vec<f32>,
}

#[derive(Debug, Clone)]
pub(super) struct Block {
    /// The rows of the plan whose queries are scored.
    pub(super) rows: Range<usize>,
    pub(super) first_entry: usize,
    pub(super) numbers: Range<usize>,
}

/// The scores of one read on the plane of one kv head.
#[derive(Debug, Clone, Copy)]
pub struct ReadScores<'a> {
    first_row: usize,
    num_queries: usize,
    group: usize,
    numbers: &'a [f32],
}

impl<'a> ReadScores<'a> {
    /// The scores of a row, some entries after the other: of these, those of each member.
    pub fn row(&self, row: usize) -> impl Iterator<Item = ChunksExact<'a, f32>> + use<'a> {
        let (group, num_queries) = (self.group, self.num_queries);
        let members = (row - self.first_row) * group..(row - self.first_row + 1) * group;
        self.numbers.chunks(TOGETHER * num_queries).map(move |part| {
            let entries = part.len() / num_queries;
            part[members.start * entries..members.end * entries].chunks_exact(entries)
        })
    }
}

impl Scores {
    /// The scores of a read on the plane of a kv head; `None` where none of the rows sees it.
    pub fn of(&self, kv_head: usize, read: usize, group: usize) -> Option<ReadScores<'_>> {
        let block = self.blocks[kv_head * self.num_reads + read].as_ref()?;
        let num_queries = block.rows.len() * group;
        let numbers = &self.numbers[block.numbers.clone()];
        Some(ReadScores { first_row: block.rows.start, num_queries, group, numbers })
    }

    /// Numbers that its memory holds.
    pub fn capacity(&self) -> usize {
        self.numbers.capacity()
    }

    /// Whether a read is scored.
    pub(super) fn has(&self, kv_head: usize, read: usize) -> bool {
        self.blocks[kv_head * self.num_reads + read].is_some()
    }

    /// Room for the scores of `rows`.
    pub(super) fn lay_out(&mut self, problem: &Problem<'_>, rows: &[u32]) {
        let plan = problem.plan;
        self.blocks.clear();
        self.num_reads = plan.reads.len();
        let mut at = 0;
        for head in 0..problem.params.num_kv_heads {
            for read in &plan.reads {
                let block = entries_of(problem, read, head).and_then(|(begin, end)| {
                    let first = rows.partition_point(|row| *row < read.row_begin);
                    let last = rows.partition_point(|row| *row < read.row_end);
                    // Rows between that are not asked for are scored along: they are few where there are any.
                    let rows = *rows.get(first..last)?.first()? as usize..rows[last - 1] as usize + 1;
                    let size = rows.len() * problem.group() * (end - begin);
                    at += size;
                    Some(Block { rows, first_entry: begin, numbers: at - size..at })
                });
                self.blocks.push(block);
            }
        }
        self.numbers.resize(at, 0.0);
    }
}
