"""Passes run on copies of the modules: nothing of the user's model is switched, and what users put on it is
obeyed."""

from __future__ import annotations

import functools
import threading
import types

import pytest
import torch

import hornbeam as hb
from hornbeam.errors import UnsupportedModel
from tests import models
from tests.heads import drawing_draft

PROMPT = models.prompt(40, 1)


def ours(lm, **options):
    return lm.generate(PROMPT[0].tolist(), max_new_tokens=12, **options).token_ids


def plain(model):
    return models.greedy(model, PROMPT, 12)


def everything(model):
    """All attributes of all modules and configurations, by identity; tables by what they hold."""
    found = []
    for name, module in model.named_modules():
        for attribute, value in vars(module).items():
            if attribute == "_hornbeam":
                continue
            held = list(value.items()) if isinstance(value, dict) else value
            found.append((name, attribute, held if isinstance(held, bool | int | list) else id(held)))
    return found, dict(vars(model.config))


WAYS = {
    "plain": lambda lm, model, tmp_path: ours(lm, draft=None),
    "default": lambda lm, model, tmp_path: ours(lm),
    "small": lambda lm, model, tmp_path: ours(
        lm, draft=drawing_draft("small", model, hb.spec.shape.Chain(3), tmp_path)
    ),
    "layer_skip": lambda lm, model, tmp_path: ours(
        lm,
        draft=drawing_draft("layer_skip", model, hb.spec.shape.Chain(3), tmp_path),
        length=hb.spec.Fixed(3),
    ),
    "feature_head": lambda lm, model, tmp_path: ours(
        lm,
        draft=drawing_draft("feature_head", model, hb.spec.shape.Chain(3), tmp_path),
        length=hb.spec.Fixed(3),
    ),
    "keep": lambda lm, model, tmp_path: ours(lm, keep=hb.recipes.snap_kv(budget="50%", window=8)),
    "press": lambda lm, model, tmp_path: ours(lm, keep=hb.integrations.kvpress.as_recipe(Press(), "50%")),
    "score": lambda lm, model, tmp_path: lm.score(PROMPT[0].tolist(), [[3, 4], [5]]),
}


class Press:
    """Reads what the presses of kvpress read."""

    def score(self, module, hidden_states, keys, values, attentions, kwargs):
        assert module.rotary_emb is not None
        return keys.norm(dim=-1) + hidden_states.norm(dim=-1)[:, None]


@pytest.mark.parametrize("way", sorted(WAYS))
@pytest.mark.parametrize("training", [False, True])
def test_the_model_is_as_it_was_while_a_pass_runs_and_afterwards(way, training, tmp_path):
    model = models.llama()
    model.train(training)
    model.model.embed_tokens.train(not training)
    lm = hb.LM(model)
    before, during = everything(model), []
    handle = model.model.layers[1].mlp.register_forward_pre_hook(lambda *_: during.append(everything(model)))
    hooked = everything(model)
    WAYS[way](lm, model, tmp_path)
    assert during
    assert all(seen == hooked for seen in during)
    handle.remove()
    assert everything(model) == before


def test_hooks_see_the_module_that_they_were_put_on():
    model = models.llama()
    lm, seen = hb.LM(model), []
    modules = [model.model.layers[0], model.model.layers[1].self_attn, model.lm_head]
    for module in modules:
        module.register_forward_hook(lambda own, _inputs, _output: seen.append(own))
    ours(lm, draft=None)
    assert {id(own) for own in seen} == {id(module) for module in modules}


@pytest.mark.parametrize(
    "place", ["model.layers.0", "model.layers.1.self_attn", "model.layers.0.mlp", "model", "lm_head"]
)
@pytest.mark.parametrize("way", ["closure", "partial", "method", "bound", "default"])
def test_a_forward_that_a_user_put_on_a_module_is_obeyed(place, way):
    """Whatever it leads to the module's own forward by."""
    model = models.llama()
    module = model.get_submodule(place)
    old, calls = module.forward, []

    def wrapped(inner, *inputs, **options):
        calls.append(1)
        output = inner(*inputs, **options)
        if isinstance(output, tuple):
            return (-output[0], *output[1:])
        if isinstance(output, torch.Tensor):
            return -output
        output[0].mul_(-1)
        return output

    def closure(*inputs, **options):
        return wrapped(old, *inputs, **options)

    def method(self, *inputs, **options):
        return wrapped(self.old_forward, *inputs, **options)

    def default(*inputs, inner=old, **options):
        return wrapped(inner, *inputs, **options)

    module.old_forward = old
    module.forward = {
        "closure": closure,
        "partial": functools.partial(wrapped, old),
        "method": types.MethodType(method, module),
        "bound": types.MethodType(functools.partial(method), module),
        "default": default,
    }[way]
    right = plain(model)
    lm = hb.LM(model)
    calls.clear()
    assert ours(lm) == right
    assert calls
    assert plain(model) == right
    assert right != plain(models.llama())


def test_a_forward_that_cannot_be_led_to_the_copies_is_refused():
    class Wrapper:
        def __init__(self, layer):
            self.layer, self.old = layer, layer.forward

        def __call__(self, *inputs, **options):
            return self.old(*inputs, **options)

    for forward in (lambda w: w, lambda w: w.__call__):
        model = models.llama()
        layer = model.model.layers[1]
        layer.forward = forward(Wrapper(layer))
        with pytest.raises(
            UnsupportedModel, match=r"forward of model\.layers\.1 belongs to a Wrapper whose attribute"
        ):
            hb.LM(model)


def test_closures_that_hold_themselves_end():
    model = models.llama()
    mlp = model.model.layers[0].mlp
    old = mlp.forward

    def forward(x, depth=0):
        return old(x) if depth else forward(x, 1)

    mlp.forward = forward
    assert ours(hb.LM(model)) == plain(model)


def test_accelerates_hooks_are_obeyed():
    from accelerate.hooks import AlignDevicesHook, SequentialHook, add_hook_to_module

    model = models.llama()
    right = plain(model)
    for _, module in list(model.named_modules()):
        add_hook_to_module(module, SequentialHook(AlignDevicesHook(io_same_device=True)))
    assert ours(hb.LM(model)) == right


def test_copies_have_their_own_buffers():
    """Rotary embeddings that adapt to long texts write a buffer in their forward."""
    model = models.llama()

    class Adapting(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("seen", torch.zeros(1))

        def forward(self, x):
            self.register_buffer("seen", self.seen + 1)
            return x

    adapting = Adapting()
    model.model.layers[0].mlp = torch.nn.Sequential(model.model.layers[0].mlp, adapting)
    lm = hb.LM(model)
    ours(lm)
    assert adapting.seen == 0


class TestWrappers:
    def test_of_torch(self):
        model = models.llama()
        right = plain(model)
        for wrapped in (torch.compile(model), torch.nn.DataParallel(model)):
            lm = hb.LM(wrapped)
            assert lm.model is model
            assert ours(lm) == right

    def test_a_model_compiled_in_place(self):
        model = models.llama()
        right = plain(model)
        lm = hb.LM(model)
        model.compile()
        assert ours(lm) == right

    def test_adapters_that_are_layers(self):
        import peft

        model = models.llama()
        base = plain(model)
        config = peft.LoraConfig(
            r=4, target_modules=["q_proj", "up_proj"], init_lora_weights=False, lora_alpha=64
        )
        with torch.random.fork_rng():
            torch.manual_seed(0)
            adapted = peft.get_peft_model(model, config, adapter_name="first")
            adapted.add_adapter("second", config)
        lm = hb.LM(adapted)
        texts = [tuple(base)]
        for name in ("first", "second", "first"):
            adapted.set_adapter(name)
            assert ours(lm) == plain(model)
            texts.append(tuple(ours(lm)))
        assert len(set(texts)) == 3
        with adapted.disable_adapter():
            assert ours(lm) == base
        assert ours(lm) == list(texts[1])
        for module in model.modules():
            if hasattr(module, "scaling") and isinstance(module.scaling, dict):
                module.scaling["first"] *= 3
        assert ours(lm) == plain(model) != list(texts[1])
        adapted.merge_adapter()
        assert ours(lm) == plain(model)
        merged = adapted.unmerge_adapter() or adapted.merge_and_unload()
        assert ours(hb.LM(merged)) == plain(merged)

    def test_an_adapter_switched_in_the_middle_of_a_text(self):
        import peft

        model = models.llama()
        config = peft.LoraConfig(r=4, target_modules=["o_proj"], init_lora_weights=False, lora_alpha=64)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            adapted = peft.get_peft_model(model, config)
        lm, seen = hb.LM(adapted), []

        def stream(_text, tokens, _source):
            seen.extend(tokens)
            if len(seen) == 4:
                adapted.base_model.disable_adapter_layers()

        text = ours(lm, stream=stream, draft=None)
        for end in range(4, len(text)):
            with torch.inference_mode():
                row = model(torch.tensor([[*PROMPT[0].tolist(), *text[:end]]])).logits[0, -1]
            assert text[end] == int(row.argmax())

    def test_virtual_tokens_are_refused(self):
        import peft

        config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)
        adapted = peft.get_peft_model(models.llama(), config)
        with pytest.raises(UnsupportedModel, match="virtual tokens"):
            hb.LM(adapted)

    def test_an_unknown_wrapper_is_told_what_to_pass(self):
        class Policy(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.actor = models.llama()

        with pytest.raises(UnsupportedModel, match=r"pass the one that it holds: \.actor"):
            hb.LM(Policy())


class TestRowsThatTouch:
    """A model whose rows are not computed each for itself is refused when the LM is made."""

    class Scaled(torch.nn.Module):
        """Rounds activations to eight bits by one scale for all rows, as dynamic quantisation does."""

        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            scale = x.abs().max() / 127
            return self.inner((x / scale).round() * scale)

    @pytest.mark.parametrize(
        "place", ["model.layers.0.mlp.up_proj", "model.layers.1.self_attn.o_proj", "lm_head"]
    )
    def test_a_scale_over_all_rows(self, place):
        model = models.llama()
        parent, _, name = place.rpartition(".")
        setattr(model.get_submodule(parent), name, self.Scaled(model.get_submodule(place)))
        with pytest.raises(
            UnsupportedModel, match=r"a row's logits differ .* beside other rows of a pass, expected none"
        ):
            hb.LM(model)

    def test_a_mean_over_all_rows(self):
        class Centred(torch.nn.Module):
            def forward(self, x):
                return x - x.mean(dim=1, keepdim=True)

        model = models.llama()
        model.model.layers[0].mlp = torch.nn.Sequential(model.model.layers[0].mlp, Centred())
        with pytest.raises(UnsupportedModel, match="rows"):
            hb.LM(model)

    def test_chance(self):
        class Noisy(torch.nn.Module):
            def forward(self, x):
                return torch.nn.functional.dropout(x, 0.5, training=True)

        model = models.llama()
        model.model.layers[0].mlp = torch.nn.Sequential(model.model.layers[0].mlp, Noisy())
        with pytest.raises(UnsupportedModel, match="or at chance"):
            hb.LM(model)

    def test_scales_by_row_are_fine(self):
        class ByRow(self.Scaled):
            def forward(self, x):
                scale = x.abs().amax(dim=-1, keepdim=True) / 127
                return self.inner((x / scale).round() * scale)

        model = models.llama()
        model.lm_head = ByRow(model.lm_head)
        assert ours(hb.LM(model)) == plain(model)

    @pytest.mark.parametrize("name", ["mixtral", "qwen3_moe", "gpt_oss"])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_experts_are_held_to_a_bound(self, name, dtype):
        model = models.ARCHITECTURES[name]().to(dtype)
        hb.LM(model)
        model.lm_head = self.Scaled(model.lm_head)
        if dtype == torch.float32:
            with pytest.raises(UnsupportedModel, match="for a mixture of experts"):
                hb.LM(model)


class TestThreads:
    def test_two_lms_over_one_model_beside_its_own_generate(self):
        model = models.llama()
        lms = [hb.LM(model), hb.LM(model)]
        prompts = [models.prompt(30, seed) for seed in range(4)]
        right = [models.greedy(model, prompt, 16) for prompt in prompts]
        wrong: list[object] = []
        before = everything(model)

        def check(found, want):
            if found != want:
                wrong.append((found, want))

        def generate(lm):
            for _ in range(6):
                for prompt, text in zip(prompts, right, strict=True):
                    check(lm.generate(prompt[0].tolist(), max_new_tokens=16).token_ids, text)

        def own():
            for _ in range(6):
                for prompt, text in zip(prompts, right, strict=True):
                    check(models.greedy(model, prompt, 16), text)

        def train():
            for _ in range(12):
                loss = model(input_ids=prompts[0], labels=prompts[0]).loss
                torch.autograd.grad(loss, list(model.parameters()))

        work = [lambda: generate(lms[0]), lambda: generate(lms[1]), lambda: generate(lms[0]), own, train]
        _run(work)
        assert not wrong
        assert everything(model) == before
        for lm in lms:
            lm.tree.debug_check()
            assert lm.tree.stats()["branches"] == 0

    def test_optimiser_steps_between_texts(self):
        """Threads ask for texts, and weights change while none is under way: every text is that of its
        weights."""
        model = models.llama(layers=1)
        lms = [hb.LM(model), hb.LM(model)]
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, fused=True)
        prompts = [models.prompt(20, seed) for seed in range(4)]
        rounds, right, wrong = 8, [], []
        barrier = threading.Barrier(5, timeout=120)

        def ask(number):
            lm = lms[number % 2]
            for _ in range(rounds):
                barrier.wait()
                found = lm.generate(prompts[number][0].tolist(), max_new_tokens=10).token_ids
                if found != right[number]:
                    wrong.append((found, right[number]))
                barrier.wait()

        def step():
            for _ in range(rounds):
                right[:] = [models.greedy(model, prompt, 10) for prompt in prompts]
                barrier.wait()
                models.greedy(model, prompts[0], 10)
                barrier.wait()
                model(input_ids=prompts[1], labels=prompts[1]).loss.backward()
                optimizer.step()
                optimizer.zero_grad()

        _run([step, *(lambda number=number: ask(number) for number in range(4))])
        assert not wrong

    def test_a_draft_model_that_two_targets_share(self):
        model, small = models.llama(), hb.LM(models.llama(layers=1))
        lms = [hb.LM(model), hb.LM(model)]
        draft, right = hb.spec.SmallModel(small), plain(model)
        wrong: list[object] = []

        def generate(lm):
            for _ in range(5):
                found = ours(lm, draft=draft, length=hb.spec.Fixed(3))
                if found != right:
                    wrong.append(found)

        _run([lambda: generate(lms[0]), lambda: generate(lms[1]), lambda: ours(small)])
        assert not wrong

    def test_a_call_from_inside_of_a_callback(self):
        lm = hb.LM(models.llama())
        right = ours(lm)
        inner = []

        def stream(*_):
            if not inner:
                inner.append(ours(lm, draft=None))

        assert ours(lm, stream=stream) == right
        assert inner == [right]


def _run(work):
    errors = []

    def guarded(task):
        try:
            task()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(task,)) for task in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
