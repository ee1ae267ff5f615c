"""The page of what fits into memory, written by `costs.py`."""

from __future__ import annotations

from gradaxis.estimators.gradients.capacity import Setting, exact_need, largest_model, projected_need


def backends_page() -> str:
    """The largest model for each way, weights and memory."""
    lines = [
        "# Which model fits",
        "",
        "Written by `python benchmarks/costs.py` from the formulas by which a backend is chosen "
        "(`gradaxis/estimators/gradients/budget.py`), model included. Sequences are 1,024 tokens long, 512 of them the "
        "answer. *Exact* holds all N·B gradients in one backward pass, with every layer run again; *projected* goes "
        "one sequence and one pattern at a time and keeps 8,192 columns a gradient, so "
        "that N and B hardly matter there. Named is the largest of twelve published models.",
        "",
        "| way | what counts | N | B | weights | 24 GB | 80 GB |",
        "|---|---|---|---|---|---|---|",
    ]
    for way, need in (("exact", exact_need), ("projected", projected_need)):
        for sequences, patterns in ((16, 1), (64, 1), (64, 5)):
            for adapters, counts in ((None, "all parameters"), (16, "LoRA of rank 16")):
                for itemsize, weights in ((4, "float32"), (2, "bfloat16")):
                    setting = Setting(sequences=sequences, patterns=patterns)
                    cells = [cell(largest_model(need, gb * 10**9, setting, itemsize, adapters)) for gb in (24, 80)]
                    lines.append(f"| {way} | {counts} | {sequences} | {patterns} | {weights} | {' | '.join(cells)} |")
    lines += [
        "",
        "A way is chosen by these bytes and by estimated work, unless `--mode` names one; provenance tells which was "
        "taken, both estimates and why. `--memory` lowers the bytes: micro-batches shrink and layers run again, and "
        "what cannot fit is refused. There is no backend of single tokens: questions about tokens are asked with "
        "position buckets as patterns (`position_buckets`, `split_by_position`), or with one pattern a token where "
        "answers are short, and no probe needs more. With bfloat16 weights the self-test decides whether gradients "
        "are good enough to be believed; float32 is the default.",
        "",
    ]
    return "\n".join(lines)


def cell(found: tuple[str, int] | None) -> str:
    return "none of these" if found is None else f"{found[0]} ({found[1] / 1e9:.0f} GB)"
