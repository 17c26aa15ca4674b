# SeqRF: base flow -> edges and reflow pairs -> k-SeqRF or distillation -> solvers.


rule seqrf_prepare:
    input:
        lambda w: GRAPH.checkpoint_inputs(w.experiment),
    output:
        model="results/{experiment}/model.safetensors",
        manifest="results/{experiment}/model.json",
    log:
        "logs/{experiment}/prepare.log",
    wildcard_constraints:
        experiment=one_of(GRAPH.of_system("seqrf", trained=False)),
    resources:
        **asks("prepare", "{experiment}", gpu=False),
    params:
        spec=lambda w: as_json(GRAPH.experiment(w.experiment, "model", "segments")),
        checkpoint=lambda w: GRAPH.checkpoint_option(w.experiment),
        code=code("stages.prepare_flow"),
    message:
        "check and convert the checkpoint of {wildcards.experiment}"
    shell:
        "python -m fewstep prepare-flow --spec {params.spec:q} {params.checkpoint}"
        " --out {output.model} 2>&1 | tee {log}"


rule seqrf_state:
    input:
        lambda w: GRAPH.checkpoint_inputs(w.experiment),
    output:
        state="results/{experiment}/state.safetensors",
        manifest="results/{experiment}/state.json",
    log:
        "logs/{experiment}/state.log",
    wildcard_constraints:
        experiment=one_of(GRAPH.of_system("seqrf", trained=False)),
    resources:
        **asks("prepare", "{experiment}", gpu=False),
    params:
        checkpoint=lambda w: GRAPH.checkpoint_option(w.experiment),
        code=code("stages.prepare_flow"),
    message:
        "optimizer state of the checkpoint of {wildcards.experiment}"
    shell:
        "python -m fewstep flow-state {params.checkpoint} --out {output.state}"
        " 2>&1 | tee {log}"


rule seqrf_edges:
    input:
        lambda w: GRAPH.pair_teacher(w.name),
    output:
        "results/pairs/{name}/edges.json",
    log:
        "logs/pairs/{name}/edges.log",
    threads: 2
    resources:
        **asks("edges", "{name}"),
    params:
        spec=lambda w: as_json(GRAPH.edges(w.name)),
    message:
        "straightest segments for the pairs {wildcards.name}"
    shell:
        "python -m fewstep --threads {threads} edges --spec {params.spec:q}"
        " --model {input} --out {output} 2>&1 | tee {log}"


# Every shard is a job of its own: any number at once, each decided by its numbers.
rule seqrf_pairs:
    input:
        teacher=lambda w: GRAPH.pair_teacher(w.name),
        dataset=lambda w: f"{GRAPH.pair_dataset(w.name)}/dataset.json",
        images=lambda w: f"{GRAPH.pair_dataset(w.name)}/images.npy",
        edges=lambda w: GRAPH.edges_input(w.name),
    output:
        pairs="results/pairs/{name}/shard-{number}.arrow",
        record="results/pairs/{name}/shard-{number}.json",
    log:
        "logs/pairs/{name}/{number}.log",
    wildcard_constraints:
        number=r"\d{5}",
    resources:
        **asks("pairs", "{name}"),
        # No param: a pair does not depend on how many are made at once.
        batch_size=lambda w: GRAPH.pair_batch(w.name),
    params:
        spec=lambda w: as_json(GRAPH.pair_shard(w.name, int(w.number))),
        number=lambda w: int(w.number),
        dataset=lambda w: GRAPH.pair_dataset(w.name),
        edges=lambda w: GRAPH.edges_option(w.name),
    message:
        "reflow pairs {wildcards.name}, shard {wildcards.number}"
    shell:
        "python -m fewstep --threads {threads} pairs --spec {params.spec:q}"
        " --number {params.number} --model {input.teacher} --dataset {params.dataset}"
        " {params.edges} --batch {resources.batch_size} --out {output.pairs}"
        " 2>&1 | tee {log}"


rule seqrf_collect:
    input:
        lambda w: GRAPH.pair_records(w.name),
    output:
        "results/pairs/{name}/pairs.json",
    log:
        "logs/pairs/{name}/collect.log",
    resources:
        # Every shard is read and hashed: 79 GB of LSUN-Church.
        runtime=120,
        mem_mb=4000,
    params:
        folder="results/pairs/{name}",
        shards=lambda w, input: len(input),
        total=lambda w: GRAPH.pair_count(w.name),
        code=code("seqrf.pairs"),
    message:
        "manifest of the reflow pairs {wildcards.name}"
    shell:
        "python -m fewstep collect-pairs --folder {params.folder}"
        " --shards {params.shards} --count {params.total} --out {output}"
        " 2>&1 | tee {log}"


rule seqrf_train:
    input:
        unpack(GRAPH.train_inputs),
    output:
        model="results/{experiment}/model.safetensors",
        manifest="results/{experiment}/model.json",
        snapshots="results/{experiment}/snapshots.json",
        curve="results/{experiment}/training.parquet",
    log:
        "logs/{experiment}/train.log",
    wildcard_constraints:
        experiment=one_of(GRAPH.of_system("seqrf", trained=True)),
    threads: ALL_CORES
    resources:
        # Of each node.
        **asks("train", "{experiment}"),
        nodes=lambda w: GRAPH.nodes(w.experiment),
        # No profile limits it, as one may limit `gpu`.
        processes=lambda w: GRAPH.gpus(w.experiment),
        save_every=lambda w: GRAPH.save_every(w.experiment),
        # Of the snapshots' samples, which do not depend on it.
        batch_size=lambda w: GRAPH.snapshot_batch(w.experiment),
    params:
        spec=lambda w: as_json(GRAPH.flow_train(w.experiment)),
        sources=GRAPH.train_options,
        work=".cache/train/{experiment}",
    message:
        "train {wildcards.experiment}"
    shell:
        "python -m fewstep --threads {threads} train-flow --spec {params.spec:q}"
        " --gpus {resources.processes} --nodes {resources.nodes}"
        " --save-every {resources.save_every}"
        " --batch {resources.batch_size} {params.sources}"
        " --work {params.work}"
        " --out {output.model} --curve {output.curve} 2>&1 | tee {log}"


localrules:
    seqrf_plan,
    seqrf_trajectory_chart,
    seqrf_solvers,


rule seqrf_plan:
    output:
        "results/{cell}/plan.json",
    log:
        "logs/{cell}/plan.log",
    wildcard_constraints:
        cell=one_of(GRAPH.solver_plans()),
    params:
        spec=lambda w: as_json(GRAPH.solver_plan(w.cell)),
        code=code("stages.solver_plan"),
    message:
        "solver of {wildcards.cell}"
    shell:
        "python -m fewstep solver --spec {params.spec:q} --out {output} 2>&1 | tee {log}"


rule seqrf_trajectories:
    input:
        "results/{experiment}/model.safetensors",
    output:
        straightness="results/{experiment}/straightness.parquet",
        paths="results/{experiment}/trajectories.parquet",
    log:
        "logs/{experiment}/trajectories.log",
    wildcard_constraints:
        experiment=one_of(GRAPH.of_system("seqrf")),
    resources:
        **asks("trajectories", "{experiment}"),
    params:
        spec=lambda w: as_json(GRAPH.trajectories(w.experiment)),
    message:
        "straightness and paths of {wildcards.experiment}"
    shell:
        "python -m fewstep --threads {threads} trajectories --spec {params.spec:q}"
        " --model {input} --rows {output.straightness} --paths {output.paths}"
        " 2>&1 | tee {log}"


rule seqrf_trajectory_chart:
    input:
        "results/{experiment}/trajectories.parquet",
    output:
        report(
            "results/{experiment}/trajectories.png",
            caption="../workflow/report/trajectories.rst",
            category="{experiment}",
            subcategory="charts",
            labels={"sampler": "all", "shows": "paths of pixels"},
        ),
    log:
        "logs/{experiment}/trajectory-chart.log",
    wildcard_constraints:
        experiment=one_of(GRAPH.of_system("seqrf")),
    params:
        code=code("stages.pictures", "plots"),
    message:
        "picture of the paths of {wildcards.experiment}"
    shell:
        "python -m fewstep charts --trajectories {output} --trajectories-table {input}"
        " 2>&1 | tee {log}"


rule seqrf_solvers:
    input:
        GRAPH.solver_samples,
    output:
        report(
            "results/{experiment}/solvers.png",
            caption="../workflow/report/solvers.rst",
            category="{experiment}",
            subcategory="pictures",
            labels={"sampler": "all", "shows": "samples side by side"},
        ),
    log:
        "logs/{experiment}/solvers.log",
    wildcard_constraints:
        experiment=one_of(GRAPH.of_system("seqrf")),
    params:
        samples=lambda w, input: [f"--samples {path}" for path in input],
        code=code("stages.trajectories"),
    message:
        "the solvers' images of {wildcards.experiment} side by side"
    shell:
        "python -m fewstep solvers {params.samples} --out {output} 2>&1 | tee {log}"
