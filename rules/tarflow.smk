# TarFlow: model -> IGM and CRM -> strategy, published or searched.


rule tarflow_train:
    input:
        GRAPH.dataset_files,
    output:
        model="results/{experiment}/model.safetensors",
        manifest="results/{experiment}/model.json",
        curve="results/{experiment}/training.parquet",
    log:
        "logs/{experiment}/train.log",
    wildcard_constraints:
        experiment=one_of(GRAPH.of_system("tarflow", trained=True)),
    threads: ALL_CORES
    resources:
        # Of each node.
        **asks("train", "{experiment}"),
        nodes=lambda w: GRAPH.nodes(w.experiment),
        # No profile limits it, as one may limit `gpu`.
        processes=lambda w: GRAPH.gpus(w.experiment),
        save_every=lambda w: GRAPH.save_every(w.experiment),
    params:
        spec=lambda w: as_json(GRAPH.tarflow_train(w.experiment)),
        dataset=lambda w: GRAPH.dataset_folder(w.experiment),
        work=".cache/train/{experiment}",
    message:
        "train {wildcards.experiment}"
    shell:
        "python -m fewstep --threads {threads} train-tarflow --spec {params.spec:q}"
        " --gpus {resources.processes} --nodes {resources.nodes}"
        " --save-every {resources.save_every}"
        " --dataset {params.dataset} --work {params.work} --out {output.model}"
        " --curve {output.curve} 2>&1 | tee {log}"


rule tarflow_prepare:
    input:
        lambda w: GRAPH.checkpoint_inputs(w.experiment),
    output:
        model="results/{experiment}/model.safetensors",
        manifest="results/{experiment}/model.json",
    log:
        "logs/{experiment}/prepare.log",
    wildcard_constraints:
        experiment=one_of(GRAPH.of_system("tarflow", trained=False)),
    resources:
        **asks("prepare", "{experiment}", gpu=False),
    params:
        spec=lambda w: as_json(GRAPH.experiment(w.experiment, "model")),
        checkpoint=lambda w: GRAPH.checkpoint_option(w.experiment),
        code=code("stages.prepare_tarflow"),
    message:
        "check and convert the checkpoint of {wildcards.experiment}"
    shell:
        "python -m fewstep prepare-tarflow --spec {params.spec:q} {params.checkpoint}"
        " --out {output.model} 2>&1 | tee {log}"


rule tarflow_rank:
    input:
        GRAPH.dataset_files,
        model="results/{experiment}/model.safetensors",
    output:
        rank="results/{experiment}/rank.json",
        blocks="results/{experiment}/blocks.parquet",
        profile="results/{experiment}/convergence.parquet",
    log:
        "logs/{experiment}/rank.log",
    wildcard_constraints:
        experiment=one_of(GRAPH.of_system("tarflow")),
    threads: 2
    resources:
        **asks("rank", "{experiment}"),
    params:
        spec=lambda w: as_json(GRAPH.rank(w.experiment)),
        dataset=lambda w: GRAPH.dataset_folder(w.experiment),
    message:
        "IGM and CRM of {wildcards.experiment}"
    shell:
        "python -m fewstep --threads {threads} rank --spec {params.spec:q}"
        " --model {input.model} --dataset {params.dataset} --out {output.rank}"
        " --blocks {output.blocks} --profile {output.profile} 2>&1 | tee {log}"


localrules:
    tarflow_strategy,
    tarflow_rank_charts,
    tarflow_side_by_side,


rule tarflow_strategy:
    input:
        lambda w: GRAPH.strategy_inputs(w.cell),
    output:
        "results/{cell}/plan.json",
    log:
        "logs/{cell}/strategy.log",
    wildcard_constraints:
        cell=one_of(GRAPH.plans(searched=False)),
    params:
        spec=lambda w: as_json(GRAPH.strategy(w.cell)),
        rank=lambda w, input: f"--rank {input[0]}" if input else "",
        code=code("stages.strategy"),
    message:
        "strategy of {wildcards.cell}"
    shell:
        "python -m fewstep strategy --spec {params.spec:q} {params.rank} --out {output}"
        " 2>&1 | tee {log}"


rule tarflow_search:
    input:
        model=lambda w: f"results/{w.cell.split('/')[0]}/model.safetensors",
        rank=lambda w: f"results/{w.cell.split('/')[0]}/rank.json",
    output:
        plan="results/{cell}/plan.json",
        strategies="results/{cell}/strategies.parquet",
        profile="results/{cell}/convergence.parquet",
    log:
        "logs/{cell}/search.log",
    wildcard_constraints:
        cell=one_of(GRAPH.plans(searched=True)),
    # A clock runs: nothing else may.
    threads: ALL_CORES
    resources:
        **asks("search", "{cell}"),
    params:
        spec=lambda w: as_json(GRAPH.search(w.cell)),
    message:
        "search the fastest strategy of {wildcards.cell}"
    shell:
        "python -m fewstep --threads {threads} search --spec {params.spec:q}"
        " --model {input.model} --rank {input.rank} --out {output.plan}"
        " --strategies {output.strategies} --profile {output.profile} 2>&1 | tee {log}"


rule tarflow_trace:
    input:
        model="results/{experiment}/model.safetensors",
        plan="results/{experiment}/{sampler}/plan.json",
    output:
        report(
            "results/{experiment}/{sampler}/trace.png",
            caption="../workflow/report/trace.rst",
            category="{experiment}",
            subcategory="pictures",
            labels={"sampler": "{sampler}", "shows": "from noise to image"},
        ),
    log:
        "logs/{experiment}/{sampler}/trace.log",
    wildcard_constraints:
        experiment=one_of(GRAPH.of_system("tarflow")),
    resources:
        **asks("trace", "{experiment}/{sampler}"),
    params:
        spec=lambda w: as_json(GRAPH.trace((w.experiment, w.sampler))),
    message:
        "trace of {wildcards.experiment}/{wildcards.sampler}"
    shell:
        "python -m fewstep --threads {threads} trace --spec {params.spec:q}"
        " --model {input.model} --plan {input.plan} --out {output} 2>&1 | tee {log}"


rule tarflow_rank_charts:
    input:
        blocks="results/{experiment}/blocks.parquet",
        profile="results/{experiment}/convergence.parquet",
    output:
        rank=report(
            "results/{experiment}/rank.png",
            caption="../workflow/report/blocks.rst",
            category="{experiment}",
            subcategory="charts",
            labels={"sampler": "all", "shows": "IGM and CRM"},
        ),
        convergence=report(
            "results/{experiment}/convergence.png",
            caption="../workflow/report/convergence.rst",
            category="{experiment}",
            subcategory="charts",
            labels={"sampler": "all", "shows": "convergence"},
        ),
    log:
        "logs/{experiment}/charts.log",
    wildcard_constraints:
        experiment=one_of(GRAPH.of_system("tarflow")),
    params:
        code=code("stages.pictures", "plots"),
    message:
        "charts of the blocks of {wildcards.experiment}"
    shell:
        "python -m fewstep charts --rank {output.rank} --blocks-table {input.blocks}"
        " --convergence {output.convergence} --convergence-table {input.profile}"
        " 2>&1 | tee {log}"


rule tarflow_side_by_side:
    input:
        GRAPH.side_by_side,
    output:
        report(
            "results/{experiment}/side-by-side.png",
            caption="../workflow/report/side_by_side.rst",
            category="{experiment}",
            subcategory="pictures",
            labels={"sampler": "all", "shows": "samples side by side"},
        ),
    log:
        "logs/{experiment}/side-by-side.log",
    wildcard_constraints:
        experiment=one_of(GRAPH.of_system("tarflow")),
    params:
        samples=lambda w, input: [f"--samples {path}" for path in input],
        code=code("stages.side_by_side"),
    message:
        "the samplers of {wildcards.experiment} side by side"
    shell:
        "python -m fewstep side-by-side {params.samples} --out {output} 2>&1 | tee {log}"
