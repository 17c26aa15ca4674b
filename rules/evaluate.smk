# The spine: samples in shards, times, scores, one row an evaluation.


rule sample:
    input:
        model=lambda w: GRAPH.weights_input((w.experiment, w.sampler)),
        plan="results/{experiment}/{sampler}/plan.json",
        companions=lambda w: GRAPH.companions((w.experiment, w.sampler)),
    output:
        "results/{experiment}/{sampler}/seed{seed}/samples.json",
    log:
        "logs/{experiment}/{sampler}/sample-{seed}.log",
    wildcard_constraints:
        experiment=one_of(GRAPH.sampled_in_parts(False)),
    resources:
        **asks(
            "sample",
            "{experiment}/{sampler}",
            share=lambda w: 1 / GRAPH.sampling_jobs(w.experiment),
        ),
        # No param: a sample does not depend on how many are drawn at once.
        batch_size=lambda w: GRAPH.sampling_batch((w.experiment, w.sampler)),
    params:
        spec=lambda w: GRAPH.sample_text((w.experiment, w.sampler)),
        model=lambda w: GRAPH.weights((w.experiment, w.sampler)),
    message:
        "sample {wildcards.experiment}/{wildcards.sampler}, seed {wildcards.seed}"
    shell:
        "python -m fewstep --threads {threads} sample --spec {params.spec:q}"
        " --model {params.model} --plan {input.plan} --seed {wildcards.seed}"
        " --batch {resources.batch_size} --out {output} 2>&1 | tee {log}"


# Any number of jobs at once: shards already drawn are kept when that number changes.
use rule sample as sample_part with:
    output:
        "results/{experiment}/{sampler}/seed{seed}/parts/{part}-of-{parts}.json",
    log:
        "logs/{experiment}/{sampler}/sample-{seed}-{part}-of-{parts}.log",
    wildcard_constraints:
        experiment=one_of(GRAPH.sampled_in_parts(True)),
        part=r"\d+",
        parts=r"\d+",


localrules:
    sample_collect,


rule sample_collect:
    input:
        GRAPH.sample_parts,
    output:
        "results/{experiment}/{sampler}/seed{seed}/samples.json",
    log:
        "logs/{experiment}/{sampler}/sample-{seed}-collect.log",
    wildcard_constraints:
        experiment=one_of(GRAPH.sampled_in_parts(True)),
    params:
        parts=lambda w, input: [f"--part {path}" for path in input],
        code=code("samples"),
    message:
        "list the samples of {wildcards.experiment}/{wildcards.sampler}, seed {wildcards.seed}"
    shell:
        "python -m fewstep collect-samples {params.parts} --out {output} 2>&1 | tee {log}"


rule timing:
    input:
        model=lambda w: GRAPH.weights_input((w.experiment, w.sampler)),
        plan="results/{experiment}/{sampler}/plan.json",
        rival=lambda w: GRAPH.weights_input(GRAPH.baseline(w.experiment)),
        baseline=lambda w: GRAPH.plan(GRAPH.baseline(w.experiment)),
    output:
        timing="results/{experiment}/{sampler}/timing.json",
        rows="results/{experiment}/{sampler}/timing.parquet",
    log:
        "logs/{experiment}/{sampler}/timing.log",
    wildcard_constraints:
        experiment=one_of(GRAPH.timed_apart()),
    # A clock runs: nothing else may.
    threads: ALL_CORES
    resources:
        **asks("timing", "{experiment}/{sampler}"),
    params:
        spec=lambda w: as_json(GRAPH.timing((w.experiment, w.sampler))),
        model=lambda w: GRAPH.weights((w.experiment, w.sampler)),
        rival=lambda w: GRAPH.weights(GRAPH.baseline(w.experiment)),
    message:
        "time {wildcards.experiment}/{wildcards.sampler}"
    shell:
        "python -m fewstep --threads {threads} timing --spec {params.spec:q}"
        " --model {params.model} --plan {input.plan} --baseline-model {params.rival}"
        " --baseline-plan {input.baseline} --out {output.timing} --rows {output.rows}"
        " 2>&1 | tee {log}"


# All samplers of an experiment in one job: they share their weights, and the clock.
rule timing_together:
    input:
        model="results/{experiment}/model.safetensors",
        plans=lambda w: [
            GRAPH.plan((w.experiment, name)) for name in GRAPH.timed(w.experiment)
        ],
        rival=lambda w: GRAPH.weights_input(GRAPH.baseline(w.experiment)),
        baseline=lambda w: GRAPH.plan(GRAPH.baseline(w.experiment)),
        companions=lambda w: GRAPH.timed_companions(w.experiment),
    output:
        timing="results/{experiment}/timing.json",
        rows="results/{experiment}/timing.parquet",
    log:
        "logs/{experiment}/timing.log",
    wildcard_constraints:
        experiment=one_of(GRAPH.timed_in_one_job()),
    # A clock runs: nothing else may.
    threads: ALL_CORES
    resources:
        **asks("timing_together", "{experiment}"),
    params:
        spec=lambda w: as_json(GRAPH.timed_together(w.experiment)),
        plans=lambda w, input: [f"--plan {path}" for path in input.plans],
        rival=lambda w: GRAPH.weights(GRAPH.baseline(w.experiment)),
    message:
        "time the samplers of {wildcards.experiment}"
    shell:
        "python -m fewstep --threads {threads} timing-together --spec {params.spec:q}"
        " --model {input.model} {params.plans} --baseline-model {params.rival}"
        " --baseline-plan {input.baseline} --out {output.timing} --rows {output.rows}"
        " 2>&1 | tee {log}"


rule score:
    input:
        samples=GRAPH.seed_files("samples.json"),
        reference=lambda w: (
            f"results/references/{GRAPH.reference_of(w.experiment)}.npz"
        ),
        extractor=lambda w: GRAPH.extractor_inputs(GRAPH.reference_of(w.experiment)),
    output:
        "results/{experiment}/{sampler}/scores.json",
    log:
        "logs/{experiment}/{sampler}/score.log",
    resources:
        **asks("score", "{experiment}/{sampler}"),
        # No param: a score does not depend on how many are looked at together.
        batch_size=lambda w: GRAPH.scoring_batch(w.experiment),
    params:
        spec=lambda w: as_json(GRAPH.score(w.experiment)),
        samples=lambda w, input: [f"--samples {path}" for path in input.samples],
        weights=lambda w: GRAPH.extractor_option(GRAPH.reference_of(w.experiment)),
        code=code("stages.score"),
    message:
        "score {wildcards.experiment}/{wildcards.sampler}"
    shell:
        "python -m fewstep --threads {threads} score --spec {params.spec:q} {params.samples}"
        " --batch {resources.batch_size} --reference {input.reference} {params.weights}"
        " --out {output} 2>&1 | tee {log}"


localrules:
    evaluation,
    grid,


rule evaluation:
    input:
        scores="results/{experiment}/{sampler}/scores.json",
        timing=lambda w: GRAPH.timing_file((w.experiment, w.sampler)),
        samples=GRAPH.seed_files("samples.json"),
        plan="results/{experiment}/{sampler}/plan.json",
        dataset=GRAPH.real_images,
        assets=lambda w: GRAPH.asset_records(w.experiment),
    output:
        report(
            "results/{experiment}_{sampler}_fid.json",
            caption="../workflow/report/evaluation.rst",
            category="{experiment}",
            subcategory="numbers",
            labels={"sampler": "{sampler}", "shows": "score"},
        ),
    log:
        "logs/{experiment}/{sampler}/evaluation.log",
    params:
        spec=lambda w: as_json(GRAPH.evaluation((w.experiment, w.sampler))),
        samples=lambda w, input: [f"--samples {path}" for path in input.samples],
        dataset=lambda w, input: [f"--dataset {path}" for path in input.dataset],
        assets=lambda w, input: [f"--asset {path}" for path in input.assets],
        table="results/tables/evaluations.parquet",
        code=code("stages.evaluate"),
    message:
        "evaluation {wildcards.experiment}/{wildcards.sampler}"
    shell:
        "python -m fewstep evaluate --spec {params.spec:q} --scores {input.scores}"
        " --timing {input.timing} {params.samples} --plan {input.plan}"
        " {params.dataset} {params.assets} --table {params.table} --out {output}"
        " 2>&1 | tee {log}"


rule grid:
    input:
        lambda w: GRAPH.seed_files("samples.json")(w)[0],
    output:
        report(
            "results/{experiment}/{sampler}/grid.png",
            caption="../workflow/report/grid.rst",
            category="{experiment}",
            subcategory="pictures",
            labels={"sampler": "{sampler}", "shows": "samples"},
        ),
    log:
        "logs/{experiment}/{sampler}/grid.log",
    params:
        code=code("stages.pictures"),
    message:
        "sample grid of {wildcards.experiment}/{wildcards.sampler}"
    shell:
        "python -m fewstep grid --samples {input} --out {output} 2>&1 | tee {log}"


rule adm_batch:
    input:
        "results/{experiment}/{sampler}/seed{seed}/samples.json",
    output:
        "results/{experiment}/{sampler}/seed{seed}/adm.npz",
    log:
        "logs/{experiment}/{sampler}/adm-{seed}.log",
    resources:
        runtime=120,
        mem_mb=8000,
    params:
        code=code("stages.adm_batch"),
    message:
        "samples of {wildcards.experiment}/{wildcards.sampler} for guided-diffusion's evaluator"
    shell:
        "python -m fewstep adm-batch --samples {input} --out {output}"
        " --seed {wildcards.seed} 2>&1 | tee {log}"
