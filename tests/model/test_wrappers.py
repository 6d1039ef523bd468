"""Models in wrappers run as their users see them; one whose rows touch each other is refused."""

from __future__ import annotations

import pytest
import torch

import hornbeam as hb
from hornbeam.errors import UnsupportedModel
from tests import models
from tests.model.passes import PROMPT, ours, plain


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
