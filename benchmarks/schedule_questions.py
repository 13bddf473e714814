"""The methods of the study of schedules, and its questions, which compare two of them each."""

Pairs = tuple[tuple[str, str, str], ...]
"""A question and its two compared methods, as METHOD, or as METHOD @ CASE."""


def weighted(p: str, *, capped: bool = False) -> tuple[str, ...]:
    """Return a schedule as RST, as G-RST with γ = 1/mean p, and optionally with γ = 1/p(t) up to 4."""
    return (f"rst:p={p}", f"g-rst:p={p}") + (f"g-rst:p={p},gamma_cap=4",) * capped


def against(question: str, right: str, *left: str) -> Pairs:
    """Return the same question of several methods."""
    return tuple((question, method, right) for method in left)


BASE = ("sgd", "sam")
LATE, EARLY = "piecewise:0,1@", "piecewise:1,0@"
RISING, FALLING, UNEVEN = "piecewise:0.25,0.75@0.5", "piecewise:0.75,0.25@0.5", "piecewise:0.1,0.9@0.75"
CONSTANT = (*weighted("0.1"), *weighted("0.25"), *weighted("0.5"))
DEGREES = ("g-rst:p=0.5,degree=2", "g-rst:p=0.25,degree=2", "g-rst:p=1,gamma=2")
STEPS = (*weighted(f"{LATE}0.5"), *weighted(f"{LATE}0.75"), *weighted(f"{EARLY}0.5"), *weighted(f"{EARLY}0.25"))
HALVES = (*weighted(RISING, capped=True), *weighted(FALLING, capped=True), *weighted(UNEVEN))
LINES = (*weighted("linear:0,1", capped=True), *weighted("linear:1,0", capped=True), *weighted("cosine:1,0"))
TAIL = f"batch_fraction=0.25,p={LATE}0.8"
PARTIAL = (f"rst:{TAIL}", f"g-rst:{TAIL}", "g-rst:batch_fraction=0.25,p=0.2")
COUNTED = (*weighted("periodic:2"), "g-rst:p=0.5,systematic=yes", *weighted("adaptive:1,-1"))
WARM = ("g-rst:p=warmup:0.1/0.5", "rst:p=warmup:0.1/1")
VARYING = (RISING, FALLING, "linear:0,1", "linear:1,0")
SHORTER = "SAM for three quarters of the run"
BY_WEIGHT: Pairs = tuple(("γ = 1/p(t) against 1/mean p", f"g-rst:p={p},gamma_cap=4", f"g-rst:p={p}") for p in VARYING)
UNEQUAL = tuple(method for p in VARYING[:3] for method in weighted(p, capped=True)[1:])

QUESTIONS: Pairs = (
    ("SAM against SGD", "sam", "sgd"),
    *((f"γ = 1/p against γ = 1, p = {p}", f"g-rst:p={p}", f"rst:p={p}") for p in ("0.1", "0.25", "0.5")),
    *against("γ = 1/p against SAM", "sam", "g-rst:p=0.1", "g-rst:p=0.25", "g-rst:p=0.5"),
    ("degree 2 against 1, p = 1", "g-rst:p=1,gamma=2", "sam"),
    *((f"degree 2 against 1, p = {p}", f"g-rst:p={p},degree=2", f"g-rst:p={p}") for p in ("0.25", "0.5")),
    ("late against early, γ = 1, cost 1.5", f"rst:p={LATE}0.5", f"rst:p={EARLY}0.5"),
    ("late against early, γ = 1, cost 1.25", f"rst:p={LATE}0.75", f"rst:p={EARLY}0.25"),
    ("late against early, γ = 1/p, cost 1.5", f"g-rst:p={LATE}0.5", f"g-rst:p={EARLY}0.5"),
    ("late against early, γ = 1/p, cost 1.25", f"g-rst:p={LATE}0.75", f"g-rst:p={EARLY}0.25"),
    ("late against a constant p, γ = 1", f"rst:p={LATE}0.5", "rst:p=0.5"),
    ("early against a constant p, γ = 1", f"rst:p={EARLY}0.5", "rst:p=0.5"),
    *against("varying against a constant p, γ = 1/mean p", "g-rst:p=0.5", *(f"g-rst:p={p}" for p in VARYING)),
    *BY_WEIGHT,
    *against("a tail of parts against a constant p, cost 1.05", PARTIAL[2], *PARTIAL[:2]),
    *against("what is counted against the coin", "g-rst:p=0.5", *(COUNTED[1:3]), COUNTED[4], WARM[0]),
    ("SAM with warm-up against SAM", WARM[1], "sam"),
)
CONTROL = "temperon's control against "
EQUAL: Pairs = (
    (f"{CONTROL}a tail, cost 1.5", "rst:p=periodic:2", f"rst:p={LATE}0.5"),
    (f"{CONTROL}γ = 1/p, cost 1.5", "rst:p=periodic:2", "g-rst:p=0.5"),
    (f"{CONTROL}SAM", "rst:p=periodic:2", "sam"),
    ("a tail against γ = 1/p, cost 1.5", f"rst:p={LATE}0.5", "g-rst:p=0.5"),
    ("a tail against SAM", f"rst:p={LATE}0.5", "sam"),
)
OWN_ANNEAL: Pairs = (
    ("SAM against the base", "sam", "sgd"),
    ("the tail against the base", "temperon:tail=0.3", "sgd"),
    ("the tail against RST, cost 1.3", "temperon:tail=0.3", "rst:p=0.3"),
    ("the tail against SAM", "temperon:tail=0.3", "sam"),
)
QUARTER = (
    ("SAM against the base", "sam", "sgd"),
    ("late against early, γ = 1, cost 1.25", f"rst:p={LATE}0.75", f"rst:p={EARLY}0.25"),
    ("late against a constant p, γ = 1, cost 1.25", f"rst:p={LATE}0.75", "rst:p=0.25"),
    ("γ = 1/p against γ = 1, p = 0.25", "g-rst:p=0.25", "rst:p=0.25"),
    ("a late quarter against SAM", f"rst:p={LATE}0.75", "sam"),
)
LONGER = ("a longer plain training against SAM", "sgd-long", "sam")
AFTER_WARMUP = (
    ("SAM with warm-up against SAM", "rst:p=warmup:0.1/1", "sam"),
    ("RST with warm-up against RST", "rst:p=warmup:0.1/0.5", "rst:p=0.5"),
    ("G-RST with warm-up against G-RST", "g-rst:p=warmup:0.1/0.5", "g-rst:p=0.5"),
)
PLACED = (f"rst:p={LATE}0.75", f"rst:p={LATE}0.5", f"rst:p={EARLY}0.25")
FEW = (*BASE, *weighted("0.25"), *PLACED, "rst:p=periodic:2", "g-rst:p=0.5")
ANNEALED = (*BASE, "temperon:tail=0.3", "rst:p=0.3")
WARMED = ("sgd", "sam", "rst:p=warmup:0.1/1", *weighted("0.5"), *weighted("warmup:0.1/0.5"))
