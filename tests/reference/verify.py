"""The verification rules as their papers state them, in exact rationals.

A tree is a list of (token, parent), parents first, -1 being the root. ``target(row)`` and
``draft(row)`` give laws as lists of fractions; row 0 is the root, row i + 1 follows tree[i].
All chance goes through ``chance``, so that a test can enumerate it (:class:`Enumeration`) or draw it
from Philox (:class:`PhiloxChance`).
"""

from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from typing import Any, Protocol

from tests.reference import philox

Law = list[Fraction]
Laws = Callable[[int], Law]
Tree = Sequence[tuple[int, int]]
ZERO, ONE = Fraction(0), Fraction(1)


class Chance(Protocol):
    """Where decisions come from."""

    def accept(self, row: int, probability: Fraction) -> bool: ...

    def pick(self, domain: int, row: int, masses: Law) -> int: ...

    def race(self, depth: int, law: Law) -> int: ...


Outcome = tuple[list[int], int]


def positive(law: Law) -> Law:
    return [max(x, ZERO) for x in law]


def normalised(law: Law) -> Law:
    total = sum(law, ZERO)
    return [x / total for x in law]


def children(tree: Tree, row: int) -> list[int]:
    """Rows of the children, in the order of drawing."""
    return [i + 1 for i, (_, parent) in enumerate(tree) if parent == row - 1]


def chain(tree: Tree, target: Laws, draft: Laws, chance: Chance) -> Outcome:
    """Leviathan et al. 2023, algorithm 1."""
    accepted: list[int] = []
    for row, (token, _) in enumerate(tree):
        p, q = target(row), draft(row)
        if q[token] == 0 or not chance.accept(row + 1, min(ONE, p[token] / q[token])):
            residual = positive([a - b for a, b in zip(p, q, strict=True)])
            return accepted, chance.pick(philox.RESIDUAL, row, residual if any(residual) else p)
        accepted.append(row + 1)
    return accepted, chance.pick(philox.BONUS, len(tree), target(len(tree)))


def block(tree: Tree, target: Laws, draft: Laws, chance: Chance, *, stop_early: bool = False) -> Outcome:
    """Sun et al. 2024, algorithm 2. ``stop_early`` is the biased reading that stops at the first failure."""
    longest, factors = 0, [ONE]
    for row in range(1, len(tree) + 1):
        token = tree[row - 1][0]
        p, q = target(row - 1)[token], draft(row - 1)[token]
        factors.append(min(ONE, factors[-1] * p / q) if q else ZERO)
        if factors[-1] == 0:
            break
        if row < len(tree):
            rest = sum(excess(factors[-1], target(row), draft(row)), ZERO)
            bound = rest / (rest + 1 - factors[-1]) if rest else ZERO
        else:
            bound = factors[-1]
        if chance.accept(row, bound):
            longest = row
        elif stop_early:
            break
    accepted = list(range(1, longest + 1))
    if longest == len(tree):
        return accepted, chance.pick(philox.BONUS, longest, target(longest))
    residual = excess(factors[longest], target(longest), draft(longest))
    return accepted, chance.pick(philox.RESIDUAL, longest, residual if any(residual) else target(longest))


def excess(factor: Fraction, p: Law, q: Law) -> Law:
    return positive([factor * a - b for a, b in zip(p, q, strict=True)])


def recursive(tree: Tree, target: Laws, draft: Laws, chance: Chance, *, distinct: bool) -> Outcome:
    """SpecInfer, algorithm 2 (``distinct=False``); Sequoia, algorithm 2, up to a used-up draft (``True``)."""
    accepted: list[int] = []
    row = 0
    while True:
        p, below = list(target(row)), children(tree, row)
        if not below:
            return accepted, chance.pick(philox.BONUS, row, p)
        q = list(draft(row))
        for child in below:
            token = tree[child - 1][0]
            if q[token] == 0:
                continue
            if chance.accept(child, min(ONE, p[token] / q[token])):
                accepted.append(child)
                row = child
                break
            residual = positive([a - b for a, b in zip(p, q, strict=True)])
            if not any(residual):
                return accepted, chance.pick(philox.RESIDUAL, row, p)
            p = normalised(residual)
            if distinct:
                q[token] = ZERO
                if not any(q):
                    return accepted, chance.pick(philox.RESIDUAL, row, p)
                q = normalised(q)
        else:
            return accepted, chance.pick(philox.RESIDUAL, row, p)


def follow(tree: Tree, target: Laws, draw: Callable[[int, int, Law], int]) -> Outcome:
    """Draw from the target, descend where a child holds the token."""
    accepted: list[int] = []
    row = 0
    while True:
        token = draw(len(accepted), row, target(row))
        match = [child for child in children(tree, row) if tree[child - 1][0] == token]
        if not match:
            return accepted, token
        row = match[0]
        accepted.append(row)


def typical(tree: Tree, target: Laws, chance: Chance, epsilon: float, alpha: float) -> Outcome:
    """Medusa, section 2.3.1. Lossy."""
    import math

    paths: dict[int, tuple[int, float, list[int]]] = {0: (0, 1.0, [])}
    for row in range(len(tree) + 1):
        if row not in paths:
            continue
        depth, likelihood, path = paths[row]
        p = target(row)
        entropy = -sum(float(x) * math.log(float(x)) for x in p if x)
        for child in children(tree, row):
            x = float(p[tree[child - 1][0]])
            if x > min(epsilon, alpha * math.exp(-entropy)):
                paths[child] = (depth + 1, likelihood * x, [*path, child])
    row = max(paths, key=lambda row: (paths[row][0], paths[row][1], -row))
    return paths[row][2], chance.pick(philox.BONUS, row, target(row))


def verify(rule: str, tree: Tree, target: Laws, draft: Laws | None, chance: Any, **options: Any) -> Outcome:
    """Any rule. Without a draft law, every exact rule but ``target_only`` is the coupled one."""
    if rule == "target_only":
        return follow(tree, target, lambda depth, row, p: chance.pick(philox.BONUS, row, p))
    if rule == "typical":
        return typical(tree, target, chance, **options)
    if rule == "coupled" or draft is None:
        return follow(tree, target, lambda depth, row, p: chance.race(depth, p))
    if rule == "chain":
        return chain(tree, target, draft, chance)
    if rule == "block":
        return block(tree, target, draft, chance, **options)
    return recursive(tree, target, draft, chance, distinct=rule == "without_replacement")


class PhiloxChance:
    """Draws keyed as hornbeam keys them."""

    def __init__(self, seed: int, sequence: int, position: int) -> None:
        self.seed, self.sequence, self.position = seed, sequence, position

    def accept(self, row: int, probability: Fraction) -> bool:
        word = philox.words(self.seed, self.sequence, self.position, philox.ACCEPT, row)[0]
        return Fraction(2 * word + 1, 2**33) < probability

    def pick(self, domain: int, row: int, masses: Law) -> int:
        high, low, *_ = philox.words(self.seed, self.sequence, self.position, domain, row)
        target = Fraction(high << 32 | low, 2**64) * sum(masses, ZERO)
        running = ZERO
        for token, mass in enumerate(masses):
            running += mass
            if target < running:
                return token
        raise AssertionError("masses are empty")

    def race(self, depth: int, law: Law) -> int:
        def ratio(token: int) -> float:
            block, lane = divmod(token, 4)
            position = self.position + depth
            word = philox.words(self.seed, self.sequence, position, philox.SAMPLE, 0, block)[lane]
            return philox.exponential(word) / float(law[token])

        return min((token for token, p in enumerate(law) if p), key=lambda token: (ratio(token), token))


class Enumeration:
    """Replays a list of choices, and notes what it might have chosen where the list ends."""

    def __init__(self, choices: tuple[int, ...]) -> None:
        self.choices, self.probability, self.open = choices, ONE, None
        self.used = 0

    def choose(self, options: list[tuple[int, Fraction]]) -> int:
        options = [option for option in options if option[1] > 0]
        if len(options) == 1:
            return options[0][0]
        if self.used == len(self.choices):
            raise Branch(len(options))
        value, probability = options[self.choices[self.used]]
        self.used += 1
        self.probability *= probability
        return value

    def accept(self, row: int, probability: Fraction) -> bool:
        return bool(self.choose([(1, probability), (0, 1 - probability)]))

    def pick(self, domain: int, row: int, masses: Law) -> int:
        return self.choose(list(enumerate(normalised(masses))))

    def race(self, depth: int, law: Law) -> int:
        return self.pick(philox.SAMPLE, 0, law)


class Branch(Exception):
    """A choice that the list does not cover; holds the number of options."""


def outcomes(experiment: Callable[[Enumeration], Any]) -> Iterator[tuple[Fraction, Any]]:
    """Every outcome of an experiment with its probability."""
    stack: list[tuple[int, ...]] = [()]
    while stack:
        choices = stack.pop()
        chance = Enumeration(choices)
        try:
            result = experiment(chance)
        except Branch as branch:
            stack.extend((*choices, i) for i in range(branch.args[0]))
        else:
            yield chance.probability, result
