"""Mistakes in flows and pairs that tests/test_config_errors.py makes.

They are made in tests/config_errors_flows.yaml.
"""

from __future__ import annotations

# Name -> ((old text, new text), the error without file and line). Its line is that of
# the old text, unless a third entry is the text of another one.
FLOW_MISTAKES = {
    "unknown pairs": (
        ("pairs: k2", "pairs: k22"),
        "experiments.seq2.train.pairs: unknown pairs 'k22'; expected 'k2' (the nearest",
    ),
    "unknown start": (
        ("start: released", "start: relased"),
        "experiments.stepped.train.start: unknown seqrf experiment 'relased'; expected "
        "'released' (the nearest",
    ),
    "unknown teacher": (
        ("teacher: base", "teacher: bass"),
        "pairs.k2.teacher: unknown seqrf experiment 'bass'; expected 'base' (the",
    ),
    "another k than the pairs": (
        ("segments: 2\n    model", "segments: 1\n    model"),
        "experiments.seq2.segments: 1 segments, but pairs 'k2' have another k; "
        "expected 2",
    ),
    "fewer steps than segments": (
        ("{solver: euler, steps: 2}", "{solver: euler, steps: 1}"),
        "experiments.seq2.samplers.euler-2.steps: 1 steps for 2 segments; expected at "
        "least 2",
    ),
    "rk45 without tolerance": (
        ("{solver: rk45, tol: 2e-2}", "{solver: rk45}"),
        "experiments.seq2.samplers.rk45: solver rk45 without 'tol'; expected a value",
    ),
    "rk45 with steps": (
        ("tol: 2e-2", "tol: 2e-2, steps: 4"),
        "experiments.seq2.samplers.rk45.steps: solver rk45 takes no steps; expected "
        "tol only",
    ),
    "euler with tolerance": (
        ("{solver: euler, steps: 1}", "{solver: euler, steps: 1, tol: 1e-3}"),
        "experiments.stepped.samplers.euler-1.tol: solver euler takes no tol; expected "
        "steps only",
    ),
    "euler without steps": (
        ("{solver: euler, steps: 1}", "{solver: euler}"),
        "experiments.stepped.samplers.euler-1: solver euler without 'steps'; expected",
    ),
    "objective without pairs": (
        ("      pairs: k2\n      pair_count: 40\n", ""),
        "experiments.seq2.train: objective reflow without 'pairs'; expected the name",
        "    train:\n      objective: reflow",
    ),
    "flow with pairs": (
        ("objective: reflow\n      pairs: k2", "objective: flow\n      pairs: k2"),
        "experiments.seq2.train.pairs: objective flow learns from the dataset; "
        "expected no pairs, or another objective",
        "      pairs: k2",
    ),
    "circle of weights": (
        ("lr: 2e-3, steps: 40}", "lr: 2e-3, steps: 40, start: base}"),
        "experiments.base.train: the experiment is its own ancestor; expected no",
    ),
    "circle through pairs": (
        ("teacher: base", "teacher: seq2"),
        "experiments.seq2.train: the experiment is its own ancestor; expected no",
        "    train:\n      objective: reflow",
    ),
    "step distillation on segments": (
        ("objective: reflow", "objective: step_distill"),
        "experiments.seq2.train.pairs: step_distill learns an N-step sampler of one "
        "segment; expected pairs of one segment",
        "      pairs: k2",
    ),
    "batch above the pairs": (
        ("batch: 8", "batch: 51"),
        "experiments.stepped.train.batch: a batch of 51 is more than the pairs; "
        "expected at most 50",
    ),
    "batch above the pairs that are used": (
        ("batch: 16", "batch: 41"),
        "experiments.seq2.train.batch: a batch of 41 is more than the pairs; expected "
        "at most 40",
    ),
    "batch above the pairs without the held-out": (
        ("batch: 16", "batch: 40\n      holdout: 0.1"),
        "experiments.seq2.train.batch: a batch of 40 is more than the pairs; expected "
        "at most 36",
    ),
    "more pairs than there are": (
        ("pair_count: 40", "pair_count: 61"),
        "experiments.seq2.train.pair_count: 61 is more than pairs 'k2' hold; expected "
        "at most 60",
    ),
    "fewer pairs than segments": (
        ("count: 60", "count: 1"),
        "pairs.k2.count: 1 pairs for 2 segments; expected at least 2",
    ),
    "coarse path for adaptive edges": (
        ("{steps: 13, samples: 8}", "{steps: 1, samples: 8}"),
        "pairs.ada.adaptive.steps: 1 steps cannot hold 2 segments; expected many more",
    ),
    "teacher of another k": (
        ("teacher: released", "teacher: seq2"),
        "pairs.k1.segments: teacher 'seq2' has 2 segments; expected 2, or a teacher",
        "    segments: 1",
    ),
    "heads for other edges": (
        ('teacher: "base"', "teacher: seq2"),
        "pairs.ada.teacher: 'seq2' has 2 segments, not these; expected a teacher of "
        "one segment",
    ),
    "step without snapshots": (
        ("      snapshots: {every: 20, sampler: euler-2}\n", ""),
        "experiments.seq2.samplers.heun-2.train_step: no snapshots are kept; expected "
        "train.snapshots",
        "      heun-2:",
    ),
    "step between snapshots": (
        ("train_step: 20", "train_step: 30"),
        "experiments.seq2.samplers.heun-2.train_step: no snapshot is kept at step 30; "
        "expected a multiple of 20",
    ),
    "sweep after the end": (
        ("{steps: [20], samplers", "{steps: [20, 60], samplers"),
        "experiments.seq2.sweep.steps[1]: step 60 of a training of 40; expected at "
        "most 40",
    ),
    "step after the end": (
        ("train_step: 20", "train_step: 60"),
        "experiments.seq2.samplers.heun-2.train_step: step 60 of a training of 40; "
        "expected at most 40",
    ),
    "attention where no level is": (
        ("attn_resolutions: [4]", "attn_resolutions: [4, 16]"),
        "experiments.seq2.model.attn_resolutions[1]: no level has size 16; expected "
        "one of 8, 4",
    ),
    "residual without filter": (
        ("progressive_input: input_skip", "progressive_input: residual"),
        "experiments.seq2.model.fir: progressive_input residual needs the filter; "
        "expected fir: true",
        "    model:\n",
    ),
    "more levels than pixels": (
        ("ch_mult: [1, 2]\n", "ch_mult: [1, 1, 1, 2, 2]\n"),
        "experiments.seq2.model.ch_mult: 4 halvings do not divide 8 pixels; expected",
    ),
    "channels": (
        ("      nf: 8\n", "      nf: 10\n"),
        "experiments.seq2.model.nf: 10 is not a multiple of 4; expected one",
    ),
    "sweep of an unknown sampler": (
        ("samplers: [euler-2]", "samplers: [euler-3]"),
        "experiments.seq2.sweep.samplers: unknown sampler 'euler-3'; expected "
        "'euler-2' (the nearest",
    ),
    "sweep of a step without weights": (
        ("{steps: [20], samplers", "{steps: [20, 25], samplers"),
        "experiments.seq2.sweep.steps[1]: no snapshot is kept at step 25; expected a "
        "multiple of 20",
    ),
    "snapshots of an unknown sampler": (
        ("sampler: euler-2}", "sampler: euler2}"),
        "experiments.seq2.train.snapshots.sampler: unknown sampler 'euler2'; expected "
        "'euler-2' (the nearest",
    ),
    "baseline of an unknown experiment": (
        ("{baseline: seq2/rk45}", "{baseline: seq/rk45}"),
        "experiments.stepped.timing.baseline: unknown seqrf experiment 'seq'; expected "
        "'seq2' (the nearest",
    ),
    "baseline that it has not": (
        ("{baseline: seq2/rk45}", "{baseline: seq2/rk54}"),
        "experiments.stepped.timing.baseline: unknown sampler of 'seq2' 'rk54'; "
        "expected 'rk45' (the nearest",
    ),
    "moments of nothing": (
        ("      start: released\n", ""),
        "experiments.stepped.train.optimizer: imported without 'start'; expected fresh",
        "      optimizer: imported",
    ),
    "moments of weights that were trained here": (
        ("start: released", "start: base"),
        "experiments.stepped.train.optimizer: 'base' has no published checkpoint; "
        "expected fresh",
        "      optimizer: imported",
    ),
    "start of another model": (
        ("num_res_blocks: 1, dropout", "num_res_blocks: 2, dropout"),
        "experiments.stepped.train.start: 'released' has another model "
        "(num_res_blocks differs); expected an experiment of the same model",
        "      start: released",
    ),
    "compared segments": (
        ("compare: [4]", "compare: [4, 3]"),
        "experiments.seq2.trajectory.compare[1]: 3 segments do not divide 8 steps; "
        "expected a divisor",
    ),
    "dropped labels": (
        ("batch: 8", "batch: 8\n      drop_label: 0.1"),
        "experiments.stepped.train.drop_label: these models know no classes; "
        "expected 0",
        "      drop_label: 0.1",
    ),
    "unknown solver": (
        ("solver: heun,", "solver: huen,"),
        "experiments.seq2.samplers.heun-2.solver: unknown choice 'huen'; expected "
        "'heun'",
    ),
    "other steps than it was distilled to": (
        ("{solver: euler, steps: 1}", "{solver: euler, steps: 4}"),
        "experiments.stepped.samplers.euler-1.solver: a flow distilled to 1 steps "
        "knows no other times; expected solver euler with steps 1",
    ),
    "number of pairs without pairs": (
        ("lr: 2e-3, steps: 40}", "lr: 2e-3, steps: 40, pair_count: 9}"),
        "experiments.base.train.pair_count: objective flow reads no pairs; expected no",
    ),
    "mirrored pairs": (
        ("batch: 16", "batch: 16\n      flip: true"),
        "experiments.seq2.train.flip: pairs are mirrored when they are made; expected "
        "false",
        "      flip: true",
    ),
    "steps of no distillation": (
        ("batch: 16", "batch: 16\n      distill_steps: 2"),
        "experiments.seq2.train.distill_steps: objective reflow takes no distill_steps",
        "      distill_steps: 2",
    ),
    "parts that do not divide the batch": (
        ("batch: 16", "batch: 16\n      accumulate: 3"),
        "experiments.seq2.train.accumulate: 1 x 3 parts do not divide the batch; "
        "expected a divisor of 16",
        "      accumulate: 3",
    ),
    "count of a fresh optimizer": (
        ("batch: 16", "batch: 16\n      count_offset: 5"),
        "experiments.seq2.train.count_offset: a fresh optimizer that counts from "
        "step 5",
        "      count_offset: 5",
    ),
    "snapshot after the end": (
        ("{every: 20,", "{every: 80,"),
        "experiments.seq2.train.snapshots.every: 80 steps, in a training of 40; "
        "expected at most 40",
    ),
    "sampler that is called as the path": (
        ("      rk45: {solver: rk45, tol: 2e-2}", "      path: {solver: rk45, tol: 1}"),
        "experiments.seq2.samplers.path: 'path' is what the tables call the path "
        "itself",
    ),
    "sampler that is called as a sweep's": (
        (
            "      heun-2:",
            "      euler-2-at20: {solver: euler, steps: 4}\n      heun-2:",
        ),
        "experiments.seq2.samplers.euler-2-at20: a name that the sweep gives; expected",
    ),
    "redraws by rk45": (
        ("tol: 2e-2", "tol: 2e-2, sampling: {nan_policy: redraw}"),
        "experiments.seq2.samplers.rk45.sampling.nan_policy: rk45 cannot go on after a "
        "value that is not finite; expected fail",
    ),
}
