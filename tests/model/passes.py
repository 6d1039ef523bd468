"""A text of ours, the same by the model's own generate, and all that a model holds."""

from __future__ import annotations

from tests import models

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
