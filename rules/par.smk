# PAR: tokenizer -> codes -> training -> draws, n tokens a step.


rule par_train_tokenizer:
    input:
        lambda w: [
            f"{GRAPH.tokenizer_dataset(w.name)}/{file}"
            for file in ("dataset.json", "images.npy", "labels.npy")
        ],
    output:
        model="results/tokenizers/{name}.safetensors",
        manifest="results/tokenizers/{name}.json",
        curve="results/tokenizers/{name}.parquet",
    log:
        "logs/tokenizers/{name}-train.log",
    wildcard_constraints:
        name=one_of(GRAPH.tokenizers(trained=True)),
    threads: ALL_CORES
    resources:
        # Of each node.
        **asks("train_tokenizer", "{name}"),
        nodes=lambda w: GRAPH.tokenizer_nodes(w.name),
        # No profile limits it, as one may limit `gpu`.
        processes=lambda w: GRAPH.tokenizer_gpus(w.name),
        save_every=lambda w: GRAPH.tokenizer_save_every(w.name),
    params:
        spec=lambda w: as_json(GRAPH.tokenizer_train(w.name)),
        dataset=lambda w: GRAPH.tokenizer_dataset(w.name),
        work=".cache/train/tokenizers/{name}",
    message:
        "train the tokenizer {wildcards.name}"
    shell:
        "python -m fewstep --threads {threads} train-tokenizer --spec {params.spec:q}"
        " --gpus {resources.processes} --nodes {resources.nodes}"
        " --save-every {resources.save_every}"
        " --dataset {params.dataset} --work {params.work} --out {output.model}"
        " --curve {output.curve} 2>&1 | tee {log}"


rule par_prepare_tokenizer:
    input:
        lambda w: GRAPH.tokenizer_source(w.name),
    output:
        model="results/tokenizers/{name}.safetensors",
        manifest="results/tokenizers/{name}.json",
    log:
        "logs/tokenizers/{name}-prepare.log",
    wildcard_constraints:
        name=one_of(GRAPH.tokenizers(trained=False)),
    resources:
        **asks("prepare_tokenizer", "{name}", gpu=False),
    params:
        spec=lambda w: as_json(GRAPH.tokenizer_model(w.name)),
        checkpoint=lambda w: GRAPH.tokenizer_option(w.name),
        code=code("stages.prepare_tokenizer"),
    message:
        "check and convert the tokenizer {wildcards.name}"
    shell:
        "python -m fewstep prepare-tokenizer --spec {params.spec:q} {params.checkpoint}"
        " --out {output.model} 2>&1 | tee {log}"


rule par_export_tokenizer:
    input:
        "results/tokenizers/{name}.safetensors",
    output:
        model="results/tokenizers/export/{name}.safetensors",
        manifest="results/tokenizers/export/{name}.json",
    log:
        "logs/tokenizers/{name}-export.log",
    resources:
        runtime=10,
        mem_mb=4000,
    params:
        command=lambda w, output: f"snakemake --profile local {output.model}",
        code=code("stages.export"),
    message:
        "write the tokenizer {wildcards.name} as a small asset"
    shell:
        "python -m fewstep export --source {input} --out {output.model}"
        " --command {params.command:q} 2>&1 | tee {log}"


rule par_reconstruct:
    input:
        lambda w: [
            f"{GRAPH.tokenizer_dataset(w.name)}/{file}"
            for file in ("dataset.json", "images.npy", "labels.npy")
        ],
        lambda w: GRAPH.extractor_inputs(GRAPH.reconstruction_reference(w.name)),
        tokenizer="results/tokenizers/{name}.safetensors",
        reference=lambda w: (
            f"results/references/{GRAPH.reconstruction_reference(w.name)}.npz"
        ),
    output:
        scores="results/tokenizers/{name}-reconstruction.json",
        picture=report(
            "results/tokenizers/{name}-reconstruction.png",
            caption="../workflow/report/tokenizer_picture.rst",
            category="tokenizers",
            subcategory="pictures",
            labels={"shows": "{name}"},
        ),
    log:
        "logs/tokenizers/{name}-reconstruct.log",
    wildcard_constraints:
        name=one_of(GRAPH.reconstructed()),
    resources:
        **asks("reconstruct", "{name}"),
    params:
        spec=lambda w: as_json(GRAPH.reconstruction(w.name)),
        dataset=lambda w: GRAPH.tokenizer_dataset(w.name),
        weights=lambda w: GRAPH.extractor_option(GRAPH.reconstruction_reference(w.name)),
    message:
        "reconstructions of the tokenizer {wildcards.name}"
    shell:
        "python -m fewstep --threads {threads} reconstruct --spec {params.spec:q}"
        " --tokenizer {input.tokenizer} --dataset {params.dataset}"
        " --reference {input.reference} {params.weights} --out {output.scores}"
        " --picture {output.picture} 2>&1 | tee {log}"


rule par_index:
    output:
        "results/codes/{name}/index.json",
    log:
        "logs/codes/{name}/index.log",
    resources:
        runtime=60,
        mem_mb=4000,
    params:
        spec=lambda w: as_json(GRAPH.code_index(w.name)),
    message:
        "list the images behind the codes {wildcards.name}"
    shell:
        "python -m fewstep index-images --spec {params.spec:q} --out {output}"
        " 2>&1 | tee {log}"


# Every shard is a job of its own: any number at once, each decided by its numbers.
rule par_codes:
    input:
        tokenizer=lambda w: GRAPH.code_tokenizer(w.name),
        images=lambda w: GRAPH.code_source(w.name),
    output:
        codes="results/codes/{name}/shard-{number}.arrow",
        record="results/codes/{name}/shard-{number}.json",
    log:
        "logs/codes/{name}/{number}.log",
    wildcard_constraints:
        name=one_of(GRAPH.codes_of(released=False)),
        number=r"\d{5}",
    # A folder's images are decoded while the device encodes.
    threads: lambda w: GRAPH.code_threads(w.name)
    resources:
        **asks("codes", "{name}"),
        # No param: a code does not depend on how many are made at once.
        batch_size=lambda w: GRAPH.code_batch(w.name),
    params:
        spec=lambda w: as_json(GRAPH.code_spec(w.name)),
        number=lambda w: int(w.number),
        dataset=lambda w: GRAPH.code_source_option(w.name),
    message:
        "codes {wildcards.name}, shard {wildcards.number}"
    shell:
        "python -m fewstep --threads {threads} codes --spec {params.spec:q}"
        " --number {params.number} --tokenizer {input.tokenizer} {params.dataset}"
        " --batch {resources.batch_size} --out {output.codes} 2>&1 | tee {log}"


rule par_collect_codes:
    input:
        lambda w: GRAPH.code_records(w.name),
    output:
        "results/codes/{name}/codes.json",
    log:
        "logs/codes/{name}/collect.log",
    wildcard_constraints:
        name=one_of(GRAPH.codes_of(released=False)),
    resources:
        # Every shard is read and hashed: 30 GB of ImageNet.
        runtime=60,
        mem_mb=4000,
    params:
        spec=lambda w: as_json(GRAPH.code_spec(w.name)),
        folder="results/codes/{name}",
        shards=lambda w, input: len(input),
    message:
        "manifest of the codes {wildcards.name}"
    shell:
        "python -m fewstep collect-codes --spec {params.spec:q} --folder {params.folder}"
        " --shards {params.shards} --out {output} 2>&1 | tee {log}"


rule par_import_codes:
    input:
        lambda w: GRAPH.code_tokenizer(w.name),
    output:
        "results/codes/{name}/codes.json",
    log:
        "logs/codes/{name}/import.log",
    wildcard_constraints:
        name=one_of(GRAPH.codes_of(released=True)),
    resources:
        runtime=720,
        mem_mb=8000,
    params:
        spec=lambda w: as_json(GRAPH.import_spec(w.name)),
        folder=lambda w: GRAPH.released_codes(w.name),
    message:
        "turn the published codes {wildcards.name} into shards"
    shell:
        "python -m fewstep import-codes --spec {params.spec:q}"
        " --folder {params.folder:q} --tokenizer {input} --out {output}"
        " 2>&1 | tee {log}"


rule par_train:
    input:
        unpack(GRAPH.par_train_inputs),
    output:
        model="results/{experiment}/model.safetensors",
        manifest="results/{experiment}/model.json",
        curve="results/{experiment}/training.parquet",
    log:
        "logs/{experiment}/train.log",
    wildcard_constraints:
        experiment=one_of(GRAPH.of_system("par", trained=True)),
    threads: ALL_CORES
    resources:
        # Of each node.
        **asks("train", "{experiment}"),
        nodes=lambda w: GRAPH.nodes(w.experiment),
        # No profile limits it, as one may limit `gpu`.
        processes=lambda w: GRAPH.gpus(w.experiment),
        save_every=lambda w: GRAPH.save_every(w.experiment),
    params:
        spec=lambda w: as_json(GRAPH.par_train(w.experiment)),
        sources=GRAPH.par_train_options,
        work=".cache/train/{experiment}",
    message:
        "train {wildcards.experiment}"
    shell:
        "python -m fewstep --threads {threads} train-par --spec {params.spec:q}"
        " --gpus {resources.processes} --nodes {resources.nodes}"
        " --save-every {resources.save_every}"
        " {params.sources} --work {params.work}"
        " --out {output.model} --curve {output.curve} 2>&1 | tee {log}"


rule par_prepare:
    input:
        lambda w: GRAPH.checkpoint_inputs(w.experiment),
    output:
        model="results/{experiment}/model.safetensors",
        manifest="results/{experiment}/model.json",
    log:
        "logs/{experiment}/prepare.log",
    wildcard_constraints:
        experiment=one_of(GRAPH.of_system("par", trained=False)),
    resources:
        **asks("prepare", "{experiment}", gpu=False),
    params:
        spec=lambda w: as_json(GRAPH.experiment(w.experiment, "model")),
        checkpoint=lambda w: GRAPH.checkpoint_option(w.experiment),
        code=code("stages.prepare_par"),
    message:
        "check and convert the checkpoint of {wildcards.experiment}"
    shell:
        "python -m fewstep prepare-par --spec {params.spec:q} {params.checkpoint}"
        " --out {output.model} 2>&1 | tee {log}"


localrules:
    par_plan,


rule par_plan:
    input:
        lambda w: GRAPH.plan_tokenizer(w.cell),
    output:
        "results/{cell}/plan.json",
    log:
        "logs/{cell}/plan.log",
    wildcard_constraints:
        cell=one_of(GRAPH.token_plans()),
    params:
        spec=lambda w: as_json(GRAPH.token_plan(w.cell)),
        code=code("stages.token_plan"),
    message:
        "plan of {wildcards.cell}"
    shell:
        "python -m fewstep token-plan --spec {params.spec:q} --tokenizer {input}"
        " --out {output} 2>&1 | tee {log}"


rule par_order:
    input:
        model=lambda w: GRAPH.weights_input((w.experiment, w.sampler)),
        plan="results/{experiment}/{sampler}/plan.json",
        companions=lambda w: GRAPH.companions((w.experiment, w.sampler)),
    output:
        strip=report(
            "results/{experiment}/{sampler}/order.png",
            caption="../workflow/report/order.rst",
            category="{experiment}",
            subcategory="pictures",
            labels={"sampler": "{sampler}", "shows": "order of drawing"},
        ),
        moving=report(
            "results/{experiment}/{sampler}/order-moving.png",
            caption="../workflow/report/moving.rst",
            category="{experiment}",
            subcategory="pictures",
            labels={"sampler": "{sampler}", "shows": "order of drawing, moving"},
        ),
    log:
        "logs/{experiment}/{sampler}/order.log",
    wildcard_constraints:
        experiment=one_of(GRAPH.of_system("par")),
    resources:
        # Two images; the memory is that of a whole batch.
        **asks("sample", "{experiment}/{sampler}", share=lambda w: 0.01),
    params:
        spec=lambda w: as_json(GRAPH.token_order((w.experiment, w.sampler))),
        model=lambda w: GRAPH.weights((w.experiment, w.sampler)),
    message:
        "order of drawing of {wildcards.experiment}/{wildcards.sampler}"
    shell:
        "python -m fewstep --threads {threads} token-order --spec {params.spec:q}"
        " --model {params.model} --plan {input.plan} --strip {output.strip}"
        " --moving {output.moving} 2>&1 | tee {log}"
