//! The cases that break a careless tree, one test each.
#![allow(clippy::unwrap_used)]

use hornbeam_core::Error;
use hornbeam_core::format::key_table::KeyTable;
use hornbeam_core::format::{Dtype, PageLayout};
use hornbeam_core::plan::step_plan;
use hornbeam_core::store::Scope;
use hornbeam_core::tree::{Begin, BranchId, Keep, Moves, Request, Tree};

fn layout() -> PageLayout {
    PageLayout { num_planes: 2, slabs_per_chunk: 8, page_tokens: 16, head_dim: 8, dtype: Dtype::F32 }
}

fn tree(max_chunks: usize) -> Tree {
    Tree::new(layout(), max_chunks).unwrap()
}

fn begin(tree: &mut Tree, requests: &[Request<'_>]) -> Result<(), Error> {
    while let Begin::Grow(chunks) = tree.begin(requests)? {
        (0..chunks).for_each(|_| tree.add_chunk().unwrap());
    }
    Ok(())
}

fn extend(tree: &mut Tree, branch: BranchId, tokens: &[u32]) {
    begin(tree, &[Request { branch, tokens, parents: None }]).unwrap();
    let all: Vec<u32> = (0..tokens.len() as u32).collect();
    tree.commit(&[&all]).unwrap();
}

fn held(tree: &Tree) -> usize {
    tree.stats().slabs - tree.stats().free_slabs
}

fn run(from: u32, count: u32) -> Vec<u32> {
    (from..from + count).collect()
}

#[test]
fn a_token_level_beam_does_not_leak_a_page_a_token() {
    let mut tree = tree(usize::MAX);
    let mut beams = vec![tree.branch()];
    extend(&mut tree, beams[0], &run(0, 20));
    for step in 0..400u32 {
        // Every beam forks; two of the four continuations survive, now and then of one beam alone.
        let mut candidates = Vec::new();
        for &beam in &beams {
            candidates.extend([tree.fork(beam).unwrap(), tree.fork(beam).unwrap()]);
            tree.release(beam, false).unwrap();
        }
        let tokens: Vec<[u32; 1]> = (0..candidates.len()).map(|i| [step * 4 + i as u32]).collect();
        let requests: Vec<Request<'_>> = candidates
            .iter()
            .zip(&tokens)
            .map(|(&branch, tokens)| Request { branch, tokens, parents: None })
            .collect();
        begin(&mut tree, &requests).unwrap();
        tree.commit(&vec![&[0u32][..]; requests.len()]).unwrap();
        let keep = if step % 3 == 0 { [0, 1] } else { [1, candidates.len() - 1] };
        let kept: Vec<BranchId> = keep.iter().map(|&i| candidates[i]).collect();
        for branch in candidates.into_iter().filter(|b| !kept.contains(b)) {
            tree.release(branch, false).unwrap();
        }
        beams = kept;
        tree.debug_check().unwrap();
    }
    let tokens = tree.length(beams[0]).unwrap();
    assert_eq!(tokens, 420);
    // One token over two branches: 27 slabs would hold each; a page a token would be 400.
    assert!(held(&tree) <= 60, "{} slabs for {tokens} tokens", held(&tree));
    assert!(tree.path_nodes(beams[0]).unwrap().len() <= 8, "nodes pile up");
}

#[test]
fn a_draft_costs_its_rows_and_no_more() {
    let mut tree = tree(usize::MAX);
    let branches: Vec<BranchId> = (0..64).map(|_| tree.branch()).collect();
    let tokens = run(0, 10);
    let requests: Vec<Request<'_>> =
        branches.iter().map(|&branch| Request { branch, tokens: &tokens, parents: None }).collect();
    begin(&mut tree, &requests).unwrap();
    assert_eq!(held(&tree), 64, "ten rows a branch fit one slab");
    tree.rollback();
    assert_eq!((held(&tree), tree.stats().nodes), (0, 0));
}

#[test]
fn many_short_branches_waste_little() {
    let mut tree = tree(usize::MAX);
    let branches: Vec<BranchId> = (0..256).map(|_| tree.branch()).collect();
    for (i, &branch) in branches.iter().enumerate() {
        extend(&mut tree, branch, &run(i as u32 * 100, 40));
    }
    assert_eq!(held(&tree), 256 * 3, "40 tokens are three slabs of 16");
}

#[test]
fn both_continuations_of_a_forked_leaf_are_children() {
    let mut tree = tree(usize::MAX);
    let a = tree.branch();
    extend(&mut tree, a, &run(0, 5));
    let b = tree.fork(a).unwrap();
    let before = tree.keys(b, 0).unwrap();
    extend(&mut tree, a, &[100]);
    extend(&mut tree, b, &[200]);
    assert_eq!(tree.path_nodes(a).unwrap().len(), 2);
    assert_eq!(tree.path_nodes(b).unwrap().len(), 2);
    assert_eq!(tree.keys(a, 0).unwrap()[..5], before[..]);
    assert_eq!(tree.keys(b, 0).unwrap()[..5], before[..]);
    // The first to come may write behind the shared run, the second may not.
    let slots = |branch| tree.keys(branch, 0).unwrap()[5];
    assert_ne!((slots(a).1, slots(a).2), (slots(b).1, slots(b).2));
    tree.debug_check().unwrap();
}

#[test]
fn a_match_inside_a_node_shows_part_of_a_page() {
    let mut tree = tree(usize::MAX);
    let a = tree.branch();
    extend(&mut tree, a, &run(0, 40));
    let mut tokens = run(0, 21);
    tokens.push(999);
    let b = tree.matching(&tokens);
    assert_eq!(tree.length(b).unwrap(), 21);
    assert_eq!(tree.keys(b, 1).unwrap()[..], tree.keys(a, 1).unwrap()[..21]);
    assert_eq!(held(&tree), 3, "nothing is copied");
    extend(&mut tree, b, &[999]);
    assert_eq!(tree.length(a).unwrap(), 40);
    tree.release(b, false).unwrap();
    // The halves become one node again.
    extend(&mut tree, a, &[40]);
    assert_eq!(tree.path_nodes(a).unwrap().len(), 1);
    tree.debug_check().unwrap();
}

#[test]
fn a_key_table_counts_only_while_it_is_what_the_branch_shows() {
    let mut tree = tree(usize::MAX);
    let (a, other) = (tree.branch(), tree.branch());
    extend(&mut tree, a, &run(0, 5));
    let b = tree.fork(a).unwrap();
    extend(&mut tree, a, &[100]);
    extend(&mut tree, b, &[200]);
    let condense = |tree: &mut Tree, table: &KeyTable| {
        tree.condense(b, table, Keep::Uniform(&[0, 5]), None, 9, |_| Ok(())).map(drop)
    };
    let old = tree.key_table(b).unwrap();
    tree.release(a, false).unwrap();
    // Merging leaves node and length as they are, and moves the last key.
    extend(&mut tree, other, &[1]);
    let new = tree.key_table(b).unwrap();
    assert_ne!(old.keys(), new.keys());
    assert!(matches!(condense(&mut tree, &old), Err(Error::State { .. })));
    let written = KeyTable::new(new.planes().map(<[_]>::to_vec), None);
    assert!(matches!(condense(&mut tree, &written), Err(Error::State { .. })));
    condense(&mut tree, &new).unwrap();
    assert!(matches!(condense(&mut tree, &new), Err(Error::State { .. })));
    let positions: Vec<i32> = tree.key_table(b).unwrap().plane(1).iter().map(|key| key.position).collect();
    assert_eq!(positions, [0, 5]);
    tree.debug_check().unwrap();
}

#[test]
fn an_exact_request_is_never_served_lossy_keys() {
    let mut tree = tree(usize::MAX);
    let a = tree.branch();
    extend(&mut tree, a, &run(0, 32));
    let node = tree.path_nodes(a).unwrap()[0].id;
    tree.compact(a, node, Keep::Uniform(&[0, 3, 31]), 9).unwrap();
    let b = tree.matching(&run(0, 32));
    assert_eq!(tree.length(b).unwrap(), 0, "the only version held is lossy");
    extend(&mut tree, a, &[32]);
    let c = tree.matching(&run(0, 33));
    assert_eq!(tree.length(c).unwrap(), 0, "nor what was computed over it");
    assert_eq!(tree.length(a).unwrap(), 33);
    let positions: Vec<i32> = tree.keys(a, 0).unwrap().iter().map(|k| k.3).collect();
    assert_eq!(positions, [0, 3, 31, 32], "the next position counts tokens seen");
}

#[test]
fn evicting_a_shared_node_frees_only_what_nobody_reads() {
    let mut tree = tree(usize::MAX);
    let a = tree.branch();
    extend(&mut tree, a, &run(0, 160));
    let b = tree.fork(a).unwrap();
    let exact = tree.keys(b, 0).unwrap();
    let node = tree.path_nodes(a).unwrap()[0].id;
    let kept: Vec<u32> = (0..20).map(|i| i * 8).collect();
    tree.compact(a, node, Keep::ByHead(&[&kept, &kept[..7]]), 9).unwrap();
    assert_eq!(tree.keys(b, 0).unwrap(), exact, "the other branch reads what it read");
    assert_eq!(held(&tree), 10 + 2);
    tree.release(b, false).unwrap();
    assert_eq!(held(&tree), 2, "the old version goes with its last reader");
    assert_eq!(tree.keys(a, 0).unwrap().len(), 20);
    assert_eq!(tree.keys(a, 1).unwrap().len(), 7);
    tree.release(a, false).unwrap();
    assert_eq!(held(&tree), 0);
    tree.debug_check().unwrap();
}

#[test]
fn the_least_recently_used_goes_first_and_pins_stay() {
    let mut tree = tree(1);
    let names: Vec<Vec<u32>> = (0..4).map(|i| run(i * 100, 32)).collect();
    for name in &names {
        let branch = tree.branch();
        extend(&mut tree, branch, name);
        tree.release(branch, true).unwrap();
    }
    assert_eq!(tree.stats().cached_slabs, 8);
    // 1 is pinned, 0 was read again: 2 is the oldest that may go.
    let b = tree.matching(&names[1]);
    let pin = tree.pin(b).unwrap();
    tree.release(b, true).unwrap();
    let a = tree.matching(&names[0]);
    tree.release(a, true).unwrap();
    let new = tree.branch();
    extend(&mut tree, new, &run(1000, 32));
    let mut length = |i: usize| {
        let branch = tree.matching(&names[i]);
        let length = tree.length(branch).unwrap();
        tree.release(branch, false).unwrap();
        length
    };
    assert_eq!([length(0), length(1), length(2), length(3)], [32, 32, 0, 32]);
    tree.clear();
    assert_eq!(held(&tree), 4, "the open branch and the pin");
    tree.unpin(pin).unwrap();
    tree.clear();
    assert_eq!(held(&tree), 2);
}

#[test]
fn out_of_pages_changes_nothing() {
    let mut tree = tree(1);
    let a = tree.branch();
    extend(&mut tree, a, &run(0, 100));
    let cached = tree.branch();
    extend(&mut tree, cached, &run(500, 10));
    tree.release(cached, true).unwrap();
    let (stats, keys) = (tree.stats(), tree.keys(a, 0).unwrap());
    let tokens = run(0, 60);
    let refused = begin(&mut tree, &[Request { branch: a, tokens: &tokens, parents: None }]);
    assert_eq!(refused, Err(Error::OutOfPages { needed: 3, free: 1, budget: 8 }));
    assert_eq!((tree.stats(), tree.keys(a, 0).unwrap()), (stats, keys));
    extend(&mut tree, a, &run(0, 20));
    tree.debug_check().unwrap();
}

#[test]
fn a_released_node_survives_only_if_it_is_kept() {
    let mut tree = tree(usize::MAX);
    let system = tree.branch();
    extend(&mut tree, system, &run(0, 32));
    let chat = tree.fork(system).unwrap();
    extend(&mut tree, chat, &run(500, 16));
    tree.release(system, true).unwrap();
    tree.release(chat, false).unwrap();
    let again = tree.matching(&run(0, 33));
    assert_eq!((tree.length(again).unwrap(), held(&tree)), (32, 2));
}

#[test]
fn columns_follow_commit_moves_and_compaction() {
    let mut tree = tree(usize::MAX);
    let column = tree.add_column("mass", Scope::Slot, 1).unwrap();
    let a = tree.branch();
    // Two children of the tip; the second is accepted and moves left over the first.
    begin(&mut tree, &[Request { branch: a, tokens: &[7, 8], parents: Some(&[-1, -1]) }]).unwrap();
    let layout = layout();
    let at = |page: u32, slot: u32| page as usize * layout.page_tokens + slot as usize;
    let from = step_plan(&tree).row_slots[1];
    for plane in 0..2 {
        tree.columns_mut().part_mut(column, 0)[at(layout.page_id(from.slab, plane), from.slot)] =
            40 + plane as u8;
    }
    tree.commit(&[&[1]]).unwrap();
    assert_eq!(tree.take_moves().len(), 1);
    for plane in 0..2 {
        let (_, slab, slot, _) = tree.keys(a, plane).unwrap()[0];
        assert_eq!(tree.columns().part(column, 0)[at(layout.page_id(slab, plane), slot)], 40 + plane as u8);
    }
    extend(&mut tree, a, &[9, 10]);
    let node = tree.path_nodes(a).unwrap()[0].id;
    tree.compact(a, node, Keep::ByHead(&[&[0], &[0, 2]]), 5).unwrap();
    assert!(matches!(tree.take_moves()[..], [Moves::Pages(ref moves)] if moves.len() == 3));
    for plane in 0..2 {
        let (by_head, page, slot, _) = tree.keys(a, plane).unwrap()[0];
        assert!(by_head);
        assert_eq!(tree.columns().part(column, 0)[at(page, slot)], 40 + plane as u8);
    }
}

#[test]
fn accepted_paths_are_checked() {
    let mut tree = tree(usize::MAX);
    let a = tree.branch();
    begin(&mut tree, &[Request { branch: a, tokens: &[1, 2, 3], parents: Some(&[-1, 0, 0]) }]).unwrap();
    for wrong in [&[1][..], &[0, 1, 2], &[0, 3], &[2]] {
        assert!(matches!(tree.commit(&[wrong]), Err(Error::Value { .. })), "{wrong:?}");
    }
    assert!(matches!(tree.commit(&[]), Err(Error::Shape { .. })));
    assert!(matches!(tree.begin(&[]), Err(Error::State { .. })));
    tree.commit(&[&[0, 2]]).unwrap();
    assert_eq!(tree.token_ids(a).unwrap(), [1, 3]);
    assert!(tree.commit(&[&[]]).is_err());
}
