//! The rows of a request: a draft tree in depth-first order.

use crate::error::{Error, Result};

/// The rows of one request in depth-first order.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Order {
    /// Row of each token, relative to the request's first row.
    pub row_of: Vec<u32>,
    /// Token of each row.
    pub token_of: Vec<u32>,
    /// One past the last row of each row's subtree, relative.
    pub end: Vec<u32>,
    /// Depth of each row, 0 for a child of the tip.
    pub depth: Vec<u32>,
}

impl Order {
    /// Orders a draft tree: `parents[i] < i`, -1 for a child of the tip; siblings keep their order.
    /// `None` is a chain of `num_tokens`.
    pub fn new(num_tokens: usize, parents: Option<&[i32]>) -> Result<Self> {
        let count = num_tokens as u32;
        let Some(parents) = parents else {
            let rows: Vec<u32> = (0..count).collect();
            return Ok(Self {
                row_of: rows.clone(),
                token_of: rows.clone(),
                end: vec![count; num_tokens],
                depth: rows,
            });
        };
        if parents.len() != num_tokens {
            return Err(Error::shape("parents", parents.len(), format!("{num_tokens}, one a token")));
        }
        let mut size = vec![1u32; num_tokens];
        for (i, &parent) in parents.iter().enumerate().rev() {
            if parent < -1 || parent >= i as i32 {
                return Err(Error::value(
                    "parents",
                    format!("{parent} at {i}"),
                    format!("-1 to {}", i as i32 - 1),
                ));
            }
            if parent >= 0 {
                size[parent as usize] += size[i];
            }
        }
        // `next[i]`: the row that the next child of `i` gets; children come in order, parents first.
        let (mut next, mut roots) = (vec![0u32; num_tokens], 0);
        let mut order = Self {
            row_of: vec![0; num_tokens],
            token_of: vec![0; num_tokens],
            end: vec![0; num_tokens],
            depth: vec![0; num_tokens],
        };
        for (i, &parent) in parents.iter().enumerate() {
            let slot = if parent < 0 { &mut roots } else { &mut next[parent as usize] };
            let row = *slot;
            *slot += size[i];
            next[i] = row + 1;
            order.row_of[i] = row;
            order.token_of[row as usize] = i as u32;
            order.end[row as usize] = row + size[i];
            order.depth[row as usize] = match usize::try_from(parent) {
                Ok(parent) => order.depth[order.row_of[parent] as usize] + 1,
                Err(_) => 0,
            };
        }
        Ok(order)
    }

    /// Whether every row is the child of the row before it.
    pub fn is_chain(&self) -> bool {
        self.depth.iter().enumerate().all(|(row, &depth)| depth == row as u32)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn draft_trees_are_ordered_depth_first() {
        // 0─┬─1─┬─3     breadth-first numbering, as drafts often come
        //   └─2 └─4     5 is a second child of the tip
        let order = Order::new(6, Some(&[-1, 0, 0, 1, 1, -1])).unwrap();
        assert_eq!(order.row_of, [0, 1, 4, 2, 3, 5]);
        assert_eq!(order.token_of, [0, 1, 3, 4, 2, 5]);
        assert_eq!(order.end, [5, 4, 3, 4, 5, 6]);
        assert_eq!(order.depth, [0, 1, 2, 2, 1, 0]);
        assert_eq!(Order::new(3, Some(&[-1, 0, 1])).unwrap(), Order::new(3, None).unwrap());
    }

    #[test]
    fn parents_come_first() {
        assert!(Order::new(2, Some(&[-1, 1])).is_err());
        assert!(Order::new(2, Some(&[-2, 0])).is_err());
        assert!(Order::new(2, Some(&[-1])).is_err());
    }
}
