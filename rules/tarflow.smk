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
        "results/{experiment}/{sampler}/trace.png",
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
        rank="results/{experiment}/rank.png",
        convergence="results/{experiment}/convergence.png",
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
