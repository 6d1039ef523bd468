"""Threads that share a model: each gets the text that it gets alone."""

from __future__ import annotations

import threading

import torch

import hornbeam as hb
from tests import models
from tests.model.passes import everything, ours, plain


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
