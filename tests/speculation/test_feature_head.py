"""FeatureHead: its network against the definition, its drafts in use, and the head that is shipped."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from safetensors.torch import save_file

import hornbeam as hb
from hornbeam.errors import ArgumentError, UnsupportedModel
from hornbeam.speculation import FeatureHead
from hornbeam.speculation.draft.feature_head import FeatureProposer, _Reader
from hornbeam.speculation.draft.head_network import FORMAT, HeadFile
from hornbeam.speculation.shape import BestFirst, Chain, Fixed, GumbelTree, StochasticBeam
from hornbeam.speculation.target_matrices import output_matrix
from tests import models
from tests.heads import random_head
from tests.reference import feature_head as reference

SAMPLING = dict(temperature=0.9, top_k=60, top_p=0.95)
WIDE = Fixed((24, 4))  # a random head is right by luck alone


@pytest.fixture(scope="module")
def model():
    return models.llama()


@pytest.fixture
def lm(model):
    return hb.LM(model)


def ids(length, seed=0):
    return models.prompt(length, seed)[0].tolist()


@pytest.fixture
def expansions(monkeypatch):
    """What every call of a proposer was asked for, and gave: (certain tokens, path, logits)."""
    seen = []
    genuine = FeatureProposer.expand

    def expand(self, nodes):
        logits = genuine(self, nodes)
        for node, row in zip(nodes, logits, strict=True):
            tree = self.growing[node.tree]
            certain = [*tree.ask.prompt, *tree.ask.output]
            seen.append((certain, tree.path(node.token), row.clone()))
        return logits

    monkeypatch.setattr(FeatureProposer, "expand", expand)
    return seen


def check(model, file, seen, taps, missing=()):
    """Holds recorded guesses to the definition, without the keys at the positions ``missing``."""
    assert seen
    stored = HeadFile.load(file)
    matrices = (model.get_input_embeddings().weight.detach(), output_matrix(model))
    # Outputs are read through bfloat16 on the CPU.
    rounded = (matrices[0], matrices[1].bfloat16())
    draft_ids = stored.tensors["draft_ids"].long()
    for certain, path, row in seen:
        with torch.no_grad():
            states = model(torch.tensor([certain[:-1]]), output_hidden_states=True).hidden_states
        hidden = torch.stack([states[tap][0] for tap in taps], dim=1)
        expected = reference.guess(stored.tensors, stored.settings, rounded, certain, hidden, path, missing)
        torch.testing.assert_close(row[draft_ids].double(), expected, rtol=2e-3, atol=2e-3)
        others = torch.ones(len(row), dtype=torch.bool)
        others[draft_ids] = False
        assert (row[others] == -torch.inf).all()


class TestAgainstTheDefinition:
    """Red when a rejected row stays in the head's tree, when a row takes the token before, and when a prompt
    is taken up one row too far (all three were tried)."""

    def test_a_batch_with_accepted_tokens(self, model, lm, tmp_path, expansions):
        file = random_head(tmp_path, model)
        prompts = [ids(3 + 11 * i, seed=i) for i in range(3)]
        outs = lm.generate(
            prompts, max_new_tokens=24, draft=FeatureHead(file, WIDE), length=hb.spec.Fixed(120)
        )
        assert sum(out.stats.accepted for out in outs) > 3
        check(model, file, expansions[:: max(1, len(expansions) // 120)], (1, 2))

    def test_a_prompt_that_was_read_before(self, model, lm, tmp_path, expansions):
        file = random_head(tmp_path, model, taps=(2,), draft_ids=range(3, 256, 2))
        prompt, draft = ids(40), FeatureHead(file, BestFirst(size=6, width=2, depth=3))
        first = lm.generate(prompt, max_new_tokens=12, draft=draft, length=hb.spec.Fixed(6))
        longer = prompt + first.token_ids + ids(5, seed=2)
        other = prompt[:20] + ids(9, seed=3)
        out = lm.generate(longer, max_new_tokens=6, draft=draft, length=hb.spec.Fixed(6))
        assert out.stats.reused_tokens == len(prompt) + 11, "all but the last token, which never was a row"
        check(model, file, expansions, (2,))
        del expansions[:]
        out = lm.generate(other, max_new_tokens=6, draft=draft, length=hb.spec.Fixed(6))
        assert out.stats.reused_tokens == 20
        # The row of token 19 holds another next token, and nobody computes its states again.
        check(model, file, expansions, (2,), missing=[19])

    @pytest.mark.parametrize("read", [0, 1, 17])
    def test_a_prefix_that_the_head_has_not_read(self, model, lm, tmp_path, expansions, read):
        file, prompt = random_head(tmp_path, model), ids(40)
        options = dict(max_new_tokens=6, draft=FeatureHead(file, BestFirst(6, 2, 3)), length=hb.spec.Fixed(6))
        if read:
            lm.generate(prompt[: read + 1], **options)
        lm.generate(prompt, max_new_tokens=1, draft=None)
        del expansions[:]
        for _ in range(2):
            out = lm.generate(prompt, **options)
            assert out.stats.reused_tokens == 39
            check(model, file, expansions, (1, 2), missing=range(read, 39))

    def test_prompts_of_one_call_that_share_a_prefix(self, model, lm, tmp_path, expansions):
        """The head reads the prefix for one of them, and then for all."""
        file, shared = random_head(tmp_path, model), ids(50)
        prompts = [[*shared, i, *ids(6 + i, seed=i)] for i in range(1, 5)]
        draft = FeatureHead(file, BestFirst(6, 2, 3))
        outs = lm.generate(prompts, max_new_tokens=6, draft=draft, length=hb.spec.Fixed(6))
        assert [out.stats.reused_tokens for out in outs] == [0, 50, 50, 50]
        check(model, file, [e for e in expansions if e[0][50] == 1], (1, 2))
        # The row of token 49 holds another next token for each.
        check(model, file, [e for e in expansions if e[0][50] != 1], (1, 2), missing=[49])

    def test_the_text_is_the_same_where_its_memory_is_full(self, model, lm, tmp_path, expansions):
        file, prompts = random_head(tmp_path, model), [ids(40, seed) for seed in range(3)]
        options = dict(max_new_tokens=20, length=hb.spec.Fixed(12))
        plain = [lm.generate(p, draft=None, **options).token_ids for p in prompts]
        draft = FeatureHead(file, BestFirst(6, 2, 3))
        lm.generate(prompts[0][:9], draft=draft, **options)
        (head,) = lm.recalled.values()
        slab = head.tree.slab_bytes
        for slabs in (1, 3, 4, 5, 8, 12):
            head.tree = hb.PrefixTree(
                num_layers=1, num_kv_heads=2, head_dim=32, max_bytes=slabs * slab, slabs_per_chunk=1
            )
            outs = lm.generate(prompts, draft=draft, **options)
            assert [out.token_ids for out in outs] == plain
            head.tree.debug_check()
            assert head.tree.stats()["branches"] == 0
        check(model, file, [e for e in expansions if len(e[0]) > 40][-3:], (1, 2), missing=range(39))

    def test_the_target_holds_less_than_the_head(self, model, lm, tmp_path, expansions):
        file, prompt = random_head(tmp_path, model), ids(30)
        draft = FeatureHead(file, Chain(2))
        lm.generate(prompt, max_new_tokens=4, draft=draft, length=hb.spec.Fixed(2))
        lm.clear_cache()
        out = lm.generate(prompt, max_new_tokens=4, draft=draft, length=hb.spec.Fixed(2))
        assert out.stats.reused_tokens == 0
        check(model, file, expansions, (1, 2))

    def test_a_prompt_of_one_token(self, model, lm, tmp_path, expansions):
        file = random_head(tmp_path, model)
        lm.generate([5], max_new_tokens=4, draft=FeatureHead(file, Chain(2)), length=hb.spec.Fixed(2))
        check(model, file, expansions, (1, 2))


class TestOneSeedOneText:
    @pytest.mark.parametrize("options", [{}, SAMPLING], ids=["greedy", "sampling"])
    @pytest.mark.parametrize("shape", [Chain(3), WIDE, BestFirst(), GumbelTree((8, 2)), StochasticBeam(8, 3)])
    def test_coupled(self, model, lm, tmp_path, options, shape):
        file = random_head(tmp_path, model)
        prompts = [ids(4 + 9 * i, seed=i) for i in range(8)]
        plain = [lm.generate(p, max_new_tokens=20, draft=None, seed=2, **options).token_ids for p in prompts]
        draft, accepted = FeatureHead(file, shape), 0
        for length in (hb.spec.Fixed(200), hb.spec.MeasuredGain()):
            together = lm.generate(prompts, max_new_tokens=20, draft=draft, seed=2, length=length, **options)
            assert [out.token_ids for out in together] == plain
            accepted += sum(out.stats.accepted for out in together)
        alone = lm.generate(
            prompts[3], max_new_tokens=20, draft=draft, seed=2, length=hb.spec.Fixed(3), **options
        )
        assert alone.token_ids == plain[3]
        if shape is WIDE:
            assert accepted > 0

    def test_everything_is_given_back(self, model, lm, tmp_path):
        draft = FeatureHead(random_head(tmp_path, model), WIDE)

        def interrupt(text, tokens, source):
            raise ZeroDivisionError

        prompt = ids(20)
        with pytest.raises(ZeroDivisionError):
            lm.generate(prompt, draft=draft, length=hb.spec.Fixed(100), stream=interrupt)
        lm.clear_cache()
        lm.generate(prompt, max_new_tokens=9, draft=draft, length=hb.spec.Fixed(100))
        (head,) = lm.recalled.values()
        head.tree.debug_check()
        assert head.tree.stats()["branches"] == 0
        # No guess stays: only rows of committed tokens.
        assert 0 < head.tree.stats()["tokens"] <= len(prompt) + 9
        lm.clear_cache()
        assert head.tree.stats()["tokens"] == 0


class TestRatioTests:
    """The shapes and the rules are proved exact elsewhere; here that the logits which the head hands over
    stay those that its tokens were drawn from. Red when all levels share one buffer (tried: 149 and 155)."""

    @pytest.mark.parametrize(
        ("shape", "rule"), [(Chain(2), "chain"), (GumbelTree((3, 2)), "without_replacement")]
    )
    @pytest.mark.parametrize("is_read", [True, False])
    def test_law(self, model, lm, tmp_path, shape, rule, is_read):
        prompt, runs, allowed = ids(12), 600, (7, 90, 201)
        if not is_read:
            lm.generate(prompt, max_new_tokens=1, draft=None)  # now no pass brings the prompt's states
        warp = hb.Warp(temperature=3.0, bias={t: -math.inf for t in range(256) if t not in allowed})
        head = FeatureHead(random_head(tmp_path, model, draft_ids=(3, *allowed)), shape)
        expected, counts, accepted = law(lm, prompt, 3, 3.0, allowed), Counter(), 0
        for seed in range(runs):
            out = lm.generate(
                prompt,
                max_new_tokens=4,  # so that drafts have two levels
                draft=head,
                seed=seed,
                verify=rule,
                warp=warp,
                length=hb.spec.Fixed(20),
            )
            counts[tuple(out.token_ids[:3])] += 1
            accepted += out.stats.accepted
        assert accepted > runs / 2
        statistic = sum((counts[text] - runs * p) ** 2 / (runs * p) for text, p in expected.items())
        assert min(expected.values()) * runs > 1
        assert statistic < 71  # the quantile at 1 - 5e-6 of chi-square with 26 degrees of freedom


def law(lm, prompt, length, temperature, allowed):
    """The probability of every text of ``length`` allowed tokens under the warped target."""
    texts = {(): 1.0}
    for _ in range(length):
        longer = {}
        for text, probability in texts.items():
            with torch.no_grad():
                row = lm.model(torch.tensor([[*prompt, *text]])).logits[0, -1].double()
            shares = (row[list(allowed)] / temperature).softmax(dim=0).tolist()
            longer |= {(*text, t): probability * p for t, p in zip(allowed, shares, strict=True)}
        texts = longer
    return texts


def test_forks_share_what_was_committed_until_one_of_them_adds_to_it():
    reader = _Reader([1, 2])
    reader.add([1, 2, 3], torch.zeros(3, 1))
    child = reader.fork()
    grandchild = child.fork()
    assert child.text is reader.text is grandchild.text
    assert child.states is reader.states is grandchild.states
    child.add([5], torch.zeros(1, 1))
    assert (reader.text, child.text, grandchild.text) == ([1, 2, 3], [1, 2, 3, 5], [1, 2, 3])
    assert (len(reader.states), len(child.states)) == (1, 2)
    reader.add([6], torch.zeros(1, 1))
    assert (reader.text, child.text, grandchild.text) == ([1, 2, 3, 6], [1, 2, 3, 5], [1, 2, 3])
    own = child.text
    child.add([7], torch.zeros(1, 1))
    assert child.text is own, "it is copied once"


class TestFiles:
    def test_another_model(self, model, lm, tmp_path):
        file = random_head(tmp_path, model)
        with pytest.raises(UnsupportedModel, match="hidden 96, but this model's is 64"):
            hb.LM(models.qwen3()).generate([1, 2], draft=FeatureHead(file))
        with pytest.raises(UnsupportedModel, match="layers 2, but this model's is 3"):
            hb.LM(models.llama(layers=3)).generate([1, 2], draft=FeatureHead(file))
        with pytest.raises(UnsupportedModel, match="other weights"):
            hb.LM(models.llama(seed=1)).generate([1, 2], draft=FeatureHead(file))

    def test_the_shipped_head_for_another_model(self, lm):
        with pytest.raises(UnsupportedModel, match="expected weights that were trained for this model"):
            lm.generate([1, 2], draft=FeatureHead())

    def test_no_head(self, model, lm, tmp_path):
        with pytest.raises(ArgumentError, match="expected a safetensors file"):
            lm.generate([1, 2], draft=FeatureHead(tmp_path / "none.safetensors"))
        broken = tmp_path / "broken.safetensors"
        broken.write_bytes(b"no header")
        with pytest.raises(ArgumentError, match="is not a safetensors file"):
            lm.generate([1, 2], draft=FeatureHead(broken))
        plain = tmp_path / "plain.safetensors"
        save_file({"x": torch.zeros(2)}, plain)
        with pytest.raises(ArgumentError, match=FORMAT):
            lm.generate([1, 2], draft=FeatureHead(plain))


@pytest.mark.model
class TestShipped:
    """The head of the default model; nothing here is a time, and greedy text is the same on every run."""

    REQUESTS = (
        "Tell me how paper is made.",
        "Write a Python function that returns the last n lines of a text file.",
        "Name three rivers in Europe and say where each one ends.",
        "Write a short thank-you note to a teacher.",
    )

    def test_acceptance(self, default_model):
        lm = hb.LM(*default_model)
        chats = [[{"role": "user", "content": text}] for text in self.REQUESTS]
        plain = lm.generate(chats, max_new_tokens=32, draft=None)
        outs = lm.generate(
            chats, max_new_tokens=32, draft=FeatureHead(shape=Chain(3)), length=hb.spec.Fixed(3)
        )
        assert [out.token_ids for out in outs] == [out.token_ids for out in plain]
        accepted = sum(out.stats.accepted for out in outs)
        # 0.59 where the head was trained; a near tie may fall the other way elsewhere.
        assert accepted / sum(out.stats.forward_passes for out in outs) > 0.45

    def test_size(self):
        assert FeatureHead().path.stat().st_size <= 16_000_000
