"""Mistakes that tests/test_config_errors.py makes, and what the error line says.

They are made in tests/config_errors.yaml, whose one experiment has T = 16 tokens.
"""

from __future__ import annotations

# Name -> ((old text, new text), the error line after "experiments.digits.").
MISTAKES = {
    "misspelt key": (
        ("patch_size: 2", "pach_size: 2"),
        "model.pach_size: unknown key 'pach_size'; expected 'patch_size'",
    ),
    "text for a number": (
        ("steps: 60", "steps: '60'"),
        "train.steps: found the text '60'; expected a whole number",
    ),
    "truth value for a number": (
        ("steps: 60", "steps: true"),
        "train.steps: found the truth value true; expected a whole number",
    ),
    "fraction for a whole number": (
        ("steps: 60", "steps: 6.5"),
        "train.steps: found the number 6.5; expected a whole number",
    ),
    "zero samples": (
        ("n: 100", "n: 0"),
        "evaluation.n: the number 0 is out of range; expected at least 1",
    ),
    "zero batch": (
        ("  batch: 64", "  batch: 0"),
        "train.batch: the number 0 is out of range; expected at least 1",
    ),
    "nodes that do not share the GPUs": (
        ("steps: 60", "nodes: 3\n      gpus: 4\n      steps: 60"),
        "train.nodes: 3 nodes do not share 4 GPUs evenly; expected a divisor of 4",
    ),
    "not finite": (
        ("lr: 2e-3", "lr: .inf"),
        "train.lr: found the number inf; expected a finite number",
    ),
    "scalar for a mapping": (
        ("rank: {num_mc: 64}", "rank: 3"),
        "rank: found the number 3; expected a mapping",
    ),
    "choice": (
        ("noise: {std: 0.1}", "noise: {kind: gausian, std: 0.1}"),
        "noise.kind: unknown choice 'gausian'; expected 'gaussian'",
    ),
    "norm true": (
        ("rank: {num_mc: 64}", "rank: {norm: true}"),
        "rank.norm: unknown choice 'true'; expected one of 1, 2, fro",
    ),
    "patches": (
        ("patch_size: 2", "patch_size: 3"),
        "model.patch_size: patches of 3 do not divide 8 pixels",
    ),
    "heads": (
        ("channels: 64", "channels: 100"),
        "model.channels: 100 is not a multiple of the head dimension 64; expected 128",
    ),
    "image size": (
        ("img_size: 8", "img_size: 16"),
        "model.img_size: 16 pixels are not the size of dataset 'digits'; expected 8",
    ),
    "classes": (
        ("num_classes: 10\n    noise", "num_classes: 9\n    noise"),
        "model.num_classes: 9 is not the number of classes of dataset 'digits'",
    ),
    "unknown dataset": (
        ("dataset: digits\n    model", "dataset: digit\n    model"),
        "dataset: unknown dataset 'digit'; expected 'digits'",
    ),
    "unknown reference": (
        ("reference: digits", "reference: digitz"),
        "evaluation.reference: unknown reference 'digitz'; expected 'digits'",
    ),
    "equal seeds": (
        ("seeds: [0, 1]", "seeds: [1, 1]"),
        "evaluation.seeds: 1 is given 2 times; expected distinct numbers",
    ),
    "no seed": (
        ("seeds: [0, 1]", "seeds: []"),
        "evaluation.seeds: an empty list; expected at least one number",
    ),
    "more images than there are": (
        ("rank: {num_mc: 64}", "rank: {num_mc: 1798}"),
        "rank.num_mc: 1798 is more than the images of dataset 'digits'",
    ),
    "batch above the training images": (
        ("  batch: 64", "  batch: 1700"),
        "train.batch: a batch of 1700 is more than the training images of dataset",
    ),
    "KID subset": (
        ("kid_subset_size: 50", "kid_subset_size: 101"),
        "evaluation.kid_subset_size: 101 is more than n; expected at most 100",
    ),
    "gaussian noise of nothing": (
        ("noise: {std: 0.1}", "noise: {}"),
        "noise: gaussian noise of std 0; expected std above 0",
    ),
    "baseline": (
        ("timing: {batches: [1, 8]", "timing: {baseline: auot"),
        "timing.baseline: unknown sampler 'auot'; expected 'auto'",
    ),
    "search segments": (
        ("search: {", "search: {segments: [2, 3], "),
        "search.segments[1]: 3 segments do not divide 16 tokens; expected a divisor",
    ),
}
# Name -> (strategy of the sampler gsj, part of the error line).
STRATEGIES = {
    "segments do not divide": ('"[2-3-4-4]"', "3 segments do not divide 16 tokens"),
    "no such block": ('"[3-4-4-4]"', "block 3 does not exist"),
    "not the notation": ('"[2-4-4]"', "is not [Stack-GS-J-Else]"),
    "without quotes": ("[2-4-4-4]", 'expected text in quotes, such as "[7-8-32-10]"'),
    "unknown word": ("atuo", "unknown strategy 'atuo'; expected 'auto'"),
    "lists too short": (
        "{num_gs: [1, 1], max_jacobi: [1, 1, 1]}",
        "strategy.num_gs: a list of 2 for 3 blocks; expected 3 numbers, the last block",
    ),
    "lists that do not divide": (
        "{num_gs: [1, 5, 1], max_jacobi: [1, 1, 1]}",
        "strategy.num_gs[1]: 5 segments do not divide 16 tokens",
    ),
    "Jacobi without iterations": (
        "{num_gs: [1, 0, 16], max_jacobi: [0, 0, 0]}",
        "strategy.max_jacobi[0]: a Jacobi block without iterations",
    ),
    "guess that is no guess": (
        "{num_gs: [1, 1, 1], max_jacobi: [1, 1, 1], guess: [0, 1, 2]}",
        "strategy.guess[2]: the number 2 is out of range; expected at most 1",
    ),
    "rule on the CRM": (
        "{crm: {segments: 3, max_jacobi: 2, else: 2}}",
        "strategy.crm.segments: 3 segments do not divide 16 tokens",
    ),
    "misspelt key of the rule": (
        "{crm: {segments: 4, max_jacobi: 2, elze: 2}}",
        "strategy.crm.elze: unknown key 'elze'; expected 'else'",
    ),
}
