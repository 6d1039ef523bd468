//! The nodes and rows of a step, in depth-first order.

use std::collections::HashMap;

use smallvec::SmallVec;

use super::Tree;
use super::node::ROOT;
use super::order::Order;
use super::step::{OpenRequest, Visit};
use super::table::Table;

/// What hears of the nodes and rows of a step, in depth-first order; see [`Tree::walk_step`].
pub trait Walk {
    /// A node whose keys the rows see that come before the matching [`Walk::leave`].
    fn enter(&mut self, table: &Table);
    /// The rows of a request. `position` is that of a child of the branch's end; `slots` are runs of (slab,
    /// first slot, count) that together hold the rows.
    fn rows(&mut self, order: &Order, position: i32, slots: impl Iterator<Item = (u32, u32, u32)>);
    /// The node that was entered last.
    fn leave(&mut self);
}

impl Tree {
    /// Walks the union of the requests' paths in depth-first order.
    pub(super) fn lay_out(&mut self, requests: &mut [OpenRequest]) -> (Vec<Visit>, Vec<u32>) {
        const NONE: u32 = u32::MAX;
        struct Place {
            node: u32,
            first_child: u32,
            last_child: u32,
            next: u32,
            requests: SmallVec<[u32; 1]>,
        }
        let fresh =
            |node| Place { node, first_child: NONE, last_child: NONE, next: NONE, requests: SmallVec::new() };
        let (mut places, mut place) = (vec![fresh(ROOT)], HashMap::from([(ROOT, 0u32)]));
        let mut climb = Vec::new();
        for (i, request) in requests.iter().enumerate() {
            let mut at = self.branches[request.branch.index].node;
            climb.clear();
            while !place.contains_key(&at) {
                climb.push(at);
                at = self.nodes[at].parent;
            }
            let mut above = place[&at];
            for &node in climb.iter().rev() {
                self.nodes[node].used = self.clock;
                let index = places.len() as u32;
                places.push(fresh(node));
                place.insert(node, index);
                let parent = &mut places[above as usize];
                let previous = std::mem::replace(&mut parent.last_child, index);
                if previous == NONE {
                    parent.first_child = index;
                } else {
                    places[previous as usize].next = index;
                }
                above = index;
            }
            places[above as usize].requests.push(i as u32);
        }
        let (mut visits, mut tokens) = (Vec::with_capacity(2 * places.len() + requests.len()), Vec::new());
        // A place on the stack is entered, or left when it was already.
        let mut stack: Vec<(u32, bool)> = vec![(0, false)];
        while let Some((index, entered)) = stack.pop() {
            let place = &places[index as usize];
            if entered {
                visits.push(Visit::Leave);
                if place.next != NONE {
                    stack.push((place.next, false));
                }
                continue;
            }
            visits.push(Visit::Enter(place.node));
            stack.push((index, true));
            for &i in &place.requests {
                let request = &mut requests[i as usize];
                request.first_row = tokens.len() as u32;
                visits.push(Visit::Rows(i));
                tokens.extend(request.order.token_of.iter().map(|&t| request.tokens[t as usize]));
            }
            if place.first_child != NONE {
                stack.push((place.first_child, false));
            }
        }
        (visits, tokens)
    }

    /// Tells of the open step's nodes and rows, in depth-first order. Without an open step, of nothing.
    pub fn walk_step(&self, walk: &mut impl Walk) {
        let Some(open) = &self.open else { return };
        let page_tokens = self.layout().page_tokens;
        for visit in &open.visits {
            match *visit {
                Visit::Enter(node) => walk.enter(&self.nodes[node].table),
                Visit::Leave => walk.leave(),
                Visit::Rows(index) => {
                    let request = &open.requests[index as usize];
                    let node = self.branches[request.branch.index].node;
                    walk.rows(&request.order, self.nodes[node].end() as i32, request.runs(page_tokens));
                }
            }
        }
    }
}
