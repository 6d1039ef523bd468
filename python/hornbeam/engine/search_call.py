"""A call of :meth:`hornbeam.LM.search`: its arguments checked, and run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hornbeam.attend.recipe import prefill_of, recipe_of
from hornbeam.engine.beam_searching import BeamSearching
from hornbeam.engine.durable import Begun, begin, go_on
from hornbeam.engine.face import EngineFace
from hornbeam.engine.options import DEFAULT_DRAFT
from hornbeam.engine.processors import EachPrompt
from hornbeam.engine.searching import Searching
from hornbeam.errors import ArgumentError
from hornbeam.integers import whole_number
from hornbeam.prompt import prompts_of
from hornbeam.search.budget import Budget
from hornbeam.search.path import SearchResult
from hornbeam.search.policy.base import Policy, TokenPolicy
from hornbeam.search.step_end import StepEnd
from hornbeam.search.values import Likelihood, RewardModel
from hornbeam.search.values.base import ValueTraits, said_of

if TYPE_CHECKING:
    from hornbeam.engine.engine import Engine

__all__ = ["search"]


def search(engine: Engine, prompt: Any, **given: Any) -> SearchResult:
    """What :meth:`hornbeam.LM.search` does, its arguments checked.

    Raises:
        ArgumentError: one of them is not of its kind.
    """
    given |= {"attend": recipe_of(given["attend"]), "prefill": prefill_of(given["prefill"])}
    resume, checkpoint = given.pop("resume"), given.pop("checkpoint")
    begun = Begun.of(
        resume, checkpoint, prompt, given["recipe"], given["step"], given["budget"], given["seed"]
    )
    prompt, recipe, step, budget = begun.prompt, begun.recipe, begun.step, begun.budget
    given |= {"recipe": recipe, "step": step, "budget": budget, "seed": begun.seed}
    if resume is not None or checkpoint is not None:
        _check_durable(recipe, given)
    if not isinstance(recipe, (Policy, TokenPolicy)):
        raise ArgumentError(
            f"recipe is {recipe!r}, expected a policy of hornbeam.search such as hb.recipes.rebase(width=16)"
        )
    if not isinstance(step, StepEnd):
        raise ArgumentError(f"step is {step!r}, expected a hornbeam.search.StepEnd")
    if not isinstance(budget, Budget):
        raise ArgumentError(f"budget is {budget!r}, expected a hornbeam.Budget")
    if isinstance(given["value"], EngineFace):
        given["value"] = RewardModel(given["value"])
    if given["select"] is None:
        raise ArgumentError("select is None, expected a callable")
    for name in ("value", "finish", "select", "watch"):
        if given[name] is not None and not callable(given[name]):
            raise ArgumentError(f"{name} is {given[name]!r}, expected a callable")
    given["seed"] = whole_number(given["seed"], "seed", 0, 2**64 - 1)
    if isinstance(recipe, TokenPolicy):
        return _over_tokens(engine, prompt, **given)
    callables = {name: given[name] for name in ("value", "finish", "logits_processor")}
    searching = _over_steps(engine, prompt, **given)
    if begun.folder is not None:
        go_on(searching, begun.folder, callables)
    elif checkpoint is not None:
        begin(searching, checkpoint, callables)
    return searching.run()


def _check_durable(recipe: Any, given: dict[str, Any]) -> None:
    if given["keep"] is not None:
        raise ArgumentError(
            "keep is given beside checkpoint or resume, expected one of them: what a cache has let go cannot "
            "be computed again"
        )
    for name in ("attend", "prefill"):
        if given[name] is not None:
            raise ArgumentError(
                f"{name} is given beside checkpoint or resume, expected one of them: a search that is "
                "gone on with reads its texts anew, and keys of sparse reads come out otherwise then"
            )
    if isinstance(recipe, TokenPolicy):
        raise ArgumentError(
            f"recipe is {recipe!r}, expected one over steps with checkpoint or resume: nothing is saved of a "
            "search over tokens"
        )


def _over_steps(engine: Engine, prompt: Any, **given: Any) -> Searching:
    if given["value"] is None:
        given["value"] = Likelihood(as_probability=given["recipe"].wants_probability)
    if given["step"].delimiter is not None and engine.tokenizer is None:
        raise ArgumentError("step has a delimiter, but this LM has no tokenizer; expected delimiter=None")
    if isinstance(given["logits_processor"], EachPrompt):
        raise ArgumentError(
            "logits_processor keeps a state for each text, expected one whose answer depends on its "
            "arguments alone: the texts of a search branch"
        )
    prompt_ids, is_listed = _one_prompt(engine, prompt)
    if ValueTraits.of(given["value"]).needs_hidden:
        for name in ("keep", "attend", "prefill"):
            if given[name] is not None:
                raise ArgumentError(
                    f"{name} is given beside a value that needs hidden states, expected one of them: what is "
                    "read for the value would count as written"
                )
        if len(prompt_ids) >= engine.max_positions:
            raise ArgumentError(
                f"prompt has {len(prompt_ids)} tokens, expected less than the model's {engine.max_positions} "
                "positions: the value needs the hidden state of what follows"
            )
    given["said"] = said_of(engine.tokenizer, prompt[0] if is_listed else prompt, prompt_ids)
    given["policy"] = given.pop("recipe")
    return Searching(engine, prompt_ids, **given)


def _over_tokens(
    engine: Engine, prompt: Any, *, recipe: TokenPolicy, budget: Budget, select: Any, **given: Any
) -> SearchResult:
    """Of a recipe that searches over tokens, where some arguments have no meaning."""
    unused = {
        "value": given["value"] is None,
        "finish": given["finish"] is None,
        "step": given["step"] == StepEnd(),
        "draft": given["draft"] is None or given["draft"] is DEFAULT_DRAFT,
        "keep": given["keep"] is None,
        "watch": given["watch"] is None,
    }
    for name, is_default in unused.items():
        if not is_default:
            raise ArgumentError(
                f"{name} is {given[name]!r}, expected it to be left out: {type(recipe).__name__} searches "
                "over tokens, and scores them by their log-probabilities"
            )
    options = {name: given[name] for name in ("attend", "prefill")}
    processor = given["logits_processor"]
    prompt_ids, _ = _one_prompt(engine, prompt)
    return BeamSearching(engine, prompt_ids, recipe, budget, select, processor, options).run()


def _one_prompt(engine: Engine, prompt: Any) -> tuple[list[int], bool]:
    """Its token ids, and whether it is the one item of a list of prompts."""
    prompts, many = prompts_of(engine, prompt)
    if many and len(prompts) > 1:
        raise ArgumentError(f"search takes one prompt, got {len(prompts)}")
    return prompts[0], many and isinstance(prompt, (list, tuple))
