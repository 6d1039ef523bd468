"""AcceptanceHead: the network and the rule against the paper, files, and drafts in use."""

from __future__ import annotations

import json
from math import inf

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import hornbeam as hb
from hornbeam.errors import ArgumentError, UnsupportedModel
from hornbeam.speculation import AcceptanceHead, Fixed, LayerSkip, SmallModel, shape
from hornbeam.speculation.protocols import Ask
from hornbeam.speculation.stop.acceptance_head import FORMAT, acceptance
from hornbeam.speculation.tree_building import Node, Tree
from tests import models
from tests.heads import acceptance_weights, drawing_draft, write_acceptance_head
from tests.reference import acceptance_head as reference


def ids(length, seed=0):
    return models.prompt(length, seed)[0].tolist()


PROMPTS = [ids(9 + 11 * i, seed=i) for i in range(3)]


@pytest.mark.parametrize("blocks", [0, 1, 3])
def test_the_network(blocks):
    weights = acceptance_weights(12, blocks=blocks)
    states = torch.randn(5, 12) * 3
    plain = {name: value.double().numpy() for name, value in weights.items()}
    expected = [reference.predict(plain, state, blocks) for state in states.double().numpy()]
    np.testing.assert_allclose(acceptance(weights, states).numpy(), expected, rtol=1e-5)


@pytest.mark.parametrize("least", [0, 1, 2])
def test_the_rule(tmp_path, least):
    """Along each path of a tree, by the product of what was predicted there."""
    weights = acceptance_weights(6, bias=2.0)
    path = tmp_path / "head.safetensors"
    settings = json.dumps({"blocks": 2})
    save_file(weights | {"signature": torch.zeros(1)}, path, {"format": FORMAT, "settings": settings})
    stop = AcceptanceHead(path, 0.3, least).start()
    tree = Tree(Ask(0, 0, 0, 0, 9))
    tree.tokens, tree.parents, tree.depths = [1, 2, 3, 4], [-1, -1, 0, 2], [1, 1, 2, 3]
    states = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))
    predicted = acceptance(weights, states).tolist()
    stop.begin([tree])
    nodes = [Node(0, token) for token in (-1, 0, 1, 2, 3)]
    limits = [stop.limits([tree], [node], state[None])[0] for node, state in zip(nodes, states, strict=True)]
    above = {-1: [], 0: [0], 1: [1], 2: [0, 2], 3: [0, 2, 3]}
    expected = [
        reference.goes_on([predicted[token + 1] for token in above[node.token]], 0.3, least) for node in nodes
    ]
    assert [limit == inf for limit in limits] == expected
    assert len(set(expected)) == 2


@pytest.mark.parametrize(
    "grows", [shape.Chain(4), shape.GumbelTree((2, 2, 1)), shape.StochasticBeam(2, 3)], ids=repr
)
@pytest.mark.parametrize("kind", ["small", "layer_skip", "feature_head"])
def test_every_draft_that_draws(tmp_path, kind, grows):
    """The coupled text stays, ratio tests take it, and drafts end where the head says so."""
    model = models.llama()
    lm = hb.LM(model)
    draft = drawing_draft(kind, model, grows, tmp_path)
    hidden = model.config.hidden_size
    path = write_acceptance_head(
        tmp_path / "acceptance.safetensors", draft, lm, acceptance_weights(hidden, bias=1.5)
    )
    options = dict(max_new_tokens=10, temperature=1.1, seed=3)
    plain = lm.generate(PROMPTS, draft=None, **options)
    drafted = []
    for rule in (
        Fixed(99),
        AcceptanceHead(path, 1.0),
        AcceptanceHead(path, 0.0, 1),
        AcceptanceHead(path, 0.3, 1),
    ):
        out = lm.generate(PROMPTS, draft=draft, length=rule, **options)
        assert [o.token_ids for o in out] == [o.token_ids for o in plain]
        drafted.append(sum(o.stats.drafted for o in out) / sum(o.stats.forward_passes for o in out))
    everything, unlimited, least, some = drafted
    assert everything == unlimited
    assert least < everything
    assert least <= some <= everything
    rule = "chain" if grows.law == "chain" else "without_replacement"
    out = lm.generate(PROMPTS, draft=draft, length=AcceptanceHead(path), verify=rule, **options)
    assert all(len(o.token_ids) == 10 for o in out)
    lm.tree.debug_check()
    assert lm.tree.stats()["branches"] == 0


def test_another_draft_is_refused(tmp_path):
    lm = hb.LM(models.llama())
    weights = acceptance_weights(lm.model.config.hidden_size)
    path = write_acceptance_head(tmp_path / "a.safetensors", LayerSkip(exit_layer=1), lm, weights)
    other = SmallModel(hb.LM(models.llama(layers=1)))
    with pytest.raises(UnsupportedModel, match="trained for another draft than this SmallModelProposer"):
        lm.generate([1, 2], draft=other, length=AcceptanceHead(path))
    with pytest.raises(ArgumentError, match="expected one that draws from logits"):
        lm.generate([1, 2], draft=hb.spec.Suffix(), length=AcceptanceHead(path))


def test_bad_files_and_settings(tmp_path):
    with pytest.raises(ArgumentError, match=r"expected a safetensors file"):
        AcceptanceHead(tmp_path / "none").start()
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"nothing")
    with pytest.raises(ArgumentError, match="is not a safetensors file"):
        AcceptanceHead(path).start()
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(ArgumentError, match="has the format None"):
        AcceptanceHead(path).start()
    save_file({"x": torch.zeros(1)}, path, {"format": FORMAT, "settings": '{"blocks": 1}'})
    with pytest.raises(ArgumentError, match=r"lacks the tensors \['0.bias', .*, and has \['x'\]"):
        AcceptanceHead(path).start()
    with pytest.raises(ArgumentError, match=r"threshold is 1.5, expected 0 to 1"):
        AcceptanceHead(threshold=1.5)
    with pytest.raises(ArgumentError, match="min_length is -1"):
        AcceptanceHead(min_length=-1)
