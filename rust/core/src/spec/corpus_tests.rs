//! The words against the automaton that they were made from, and against damage.

use proptest::prelude::*;

use super::*;
use crate::spec::suffix::SuffixDraft;

fn words(corpus: &Corpus) -> Vec<u32> {
    let mut bytes = Vec::new();
    corpus.write_to(&mut bytes).unwrap();
    bytes.chunks(4).map(|word| u32::from_le_bytes(word.try_into().unwrap())).collect()
}

proptest! {
    #[test]
    fn answers_as_the_automaton(text in prop::collection::vec(0u32..5, 0..200)) {
        let mut automaton = Automaton::new();
        text.iter().chain([&SEPARATOR]).for_each(|&token| automaton.push(token).unwrap());
        let corpus = Corpus::from_words(Arc::new(words(&Corpus::new([&text]).unwrap()))).unwrap();
        corpus.check_body().unwrap();
        prop_assert_eq!(corpus.num_tokens(), automaton.text().len());
        prop_assert_eq!(corpus.vocab_size(), text.iter().max().map_or(0, |&token| token as usize + 1));
        for index in 0..=text.len() + 1 {
            prop_assert_eq!(corpus.token(index), Index::token(&automaton, index));
        }
        for state in 0..corpus.num_states as u32 {
            prop_assert_eq!(corpus.length(state), automaton.length(state));
            prop_assert_eq!(corpus.link(state), automaton.link(state));
            prop_assert_eq!(corpus.count(state), automaton.count(state));
            prop_assert_eq!(corpus.latest_end(state), automaton.latest_end(state));
            prop_assert_eq!(corpus.likely_successor(state), automaton.likely_successor(state));
            let (mut ours, mut theirs) = (Vec::new(), Vec::new());
            corpus.for_each_successor(state, 3, &mut |token, next| ours.push((token, next)));
            Index::for_each_successor(&automaton, state, 3, &mut |token, next| theirs.push((token, next)));
            prop_assert_eq!(ours, theirs);
            for token in (0..6).chain([SEPARATOR]) {
                prop_assert_eq!(corpus.step(state, token), automaton.step(state, token));
            }
        }
    }

    #[test]
    fn a_damaged_body_is_found_and_does_no_harm(
        text in prop::collection::vec(0u32..4, 1..80),
        damage in prop::collection::vec((16usize..2000, any::<u32>()), 1..40),
        asked in prop::collection::vec(0u32..4, 1..20),
    ) {
        let mut broken = words(&Corpus::new([&text]).unwrap());
        let before = broken.clone();
        for (at, value) in damage {
            let at = 16 + at % (broken.len() - 16);
            broken[at] = value;
        }
        let corpus = Corpus::from_words(Arc::new(broken.clone())).unwrap();
        prop_assert_eq!(corpus.check_body().is_err(), broken != before);
        let mut draft = SuffixDraft::new(Some(Arc::new(corpus)), 1).unwrap();
        draft.extend(&asked).unwrap();
        prop_assert!(draft.propose(30).tokens.len() <= 30);
        prop_assert!(draft.propose_tree(&[], 30, 30, 0.01).tokens.len() <= 30);
    }
}

#[test]
fn refuses_other_files_with_the_reason() {
    let good = words(&Corpus::new([[1u32, 2, 3, 1, 2]]).unwrap());
    let open = |words: Vec<u32>| Corpus::from_words(Arc::new(words)).unwrap_err().to_string();
    assert!(open(good[..7].to_vec()).contains("28 bytes long"));
    assert!(open(vec![7; 100]).contains("begins with 00000007"));
    assert!(open(good[..good.len() - 1].to_vec()).contains("it was cut or grew"));
    let swapped = good.iter().map(|word| word.swap_bytes()).collect();
    assert!(open(swapped).contains("other byte order"));
    for (at, reason) in
        [(2, "the version of a corpus file is 9"), (5, "the header is damaged"), (13, "damaged")]
    {
        let mut other = good.clone();
        other[at] = 9;
        assert!(open(other).contains(reason));
    }
}

#[test]
fn builds_document_by_document() {
    let mut builder = CorpusBuilder::default();
    assert!(builder.push(&[3, SEPARATOR]).is_err());
    assert_eq!(builder.num_tokens(), 0);
    builder.push(&[1, 2]).unwrap();
    builder.push(&[]).unwrap();
    let corpus = builder.finish().unwrap();
    assert_eq!((corpus.num_documents(), corpus.num_tokens()), (2, 4));
    assert_eq!(words(&corpus), words(&Corpus::new([vec![1, 2], vec![]]).unwrap()));
    assert_eq!(Corpus::new(Vec::<Vec<u32>>::new()).unwrap().num_tokens(), 0);
}
