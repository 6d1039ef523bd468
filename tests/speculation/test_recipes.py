"""Every recipe drives a generation; those that promise the target's text keep it."""

from __future__ import annotations

import pytest

import hornbeam as hb
from hornbeam import recipes
from hornbeam.errors import ArgumentError
from tests import models
from tests.heads import acceptance_weights, write_acceptance_head

PROMPT = models.prompt(9, 4)[0].tolist()


@pytest.fixture(scope="module")
def lm():
    return hb.LM(models.llama())


@pytest.fixture(scope="module")
def draft_lm():
    return hb.LM(models.llama())


@pytest.fixture(scope="module")
def acceptance_head(tmp_path_factory, lm, draft_lm):
    small = hb.spec.SmallModel(draft_lm)
    weights = acceptance_weights(draft_lm.model.config.hidden_size, bias=3.0)
    return write_acceptance_head(tmp_path_factory.mktemp("head") / "a.safetensors", small, lm, weights)


def cases(draft_lm, acceptance_head):
    small = hb.spec.SmallModel(draft_lm)
    return {
        "specdec_pp": recipes.specdec_pp(small, weights=acceptance_head, most=4),
        "rsd_c": recipes.rsd_c(draft_lm),
        "rsd_s": recipes.rsd_s(draft_lm),
        "sequoia": recipes.sequoia(draft_lm, size=8),
        "eagle2": recipes.eagle2(small, size=8, width=2, depth=3),
        "medusa_typical": recipes.medusa_typical(small),
        "layer_skip": recipes.layer_skip(exit_layer=1),
        "prompt_lookup": recipes.prompt_lookup(),
        "suffix_decoding": recipes.suffix_decoding(),
        "token_recycling": recipes.token_recycling(size=10),
        "auto": recipes.auto(small),
    }


NAMES = sorted(recipes.spec.__all__)


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_is_keywords_of_generate(name, lm, draft_lm, acceptance_head):
    assert sorted(cases(draft_lm, acceptance_head)) == NAMES, "every recipe is tried"
    keywords = cases(draft_lm, acceptance_head)[name]
    plain = lm.generate(PROMPT, max_new_tokens=14, draft=None)
    # Without costs from earlier calls: sequoia draws nothing where those of a busy machine say so.
    greedy = hb.LM(lm.model).generate(PROMPT, max_new_tokens=14, **keywords)
    assert greedy.token_ids == plain.token_ids
    sampled = lm.generate(PROMPT, max_new_tokens=14, temperature=0.9, seed=2, **keywords)
    assert len(sampled.token_ids) == 14
    if keywords["verify"] == "coupled":
        same = lm.generate(PROMPT, max_new_tokens=14, temperature=0.9, seed=2, draft=None)
        assert sampled.token_ids == same.token_ids
    if name in ("rsd_c", "rsd_s", "sequoia", "eagle2", "specdec_pp"):
        assert greedy.stats.accepted > 0, "the draft is the target here"


@pytest.mark.parametrize("recipe", [recipes.eagle2, recipes.specdec_pp])
def test_some_recipes_want_a_shape(recipe):
    with pytest.raises(ArgumentError, match="draft is a Suffix, expected a source with a shape"):
        recipe(hb.spec.Suffix())
