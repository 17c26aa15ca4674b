# Datasets, the networks that score images, and statistics of the real images.


rule dataset:
    output:
        manifest="results/data/{name}/dataset.json",
        images="results/data/{name}/images.npy",
        labels="results/data/{name}/labels.npy",
    log:
        "logs/data/{name}.log",
    resources:
        **asks("dataset", "{name}", gpu=False),
    params:
        spec=lambda w: as_json(GRAPH.config.datasets[w.name].resolved()),
        folder="results/data/{name}",
        code=code("stages.dataset"),
    message:
        "build the dataset {wildcards.name}"
    shell:
        "python -m fewstep dataset --spec {params.spec:q} --folder {params.folder}"
        " 2>&1 | tee {log}"


rule extractor:
    input:
        lambda w: f"results/data/{GRAPH.config.extractors[w.name].dataset}/dataset.json",
        lambda w: f"results/data/{GRAPH.config.extractors[w.name].dataset}/images.npy",
    output:
        "results/extractors/{name}.safetensors",
    log:
        "logs/extractors/{name}.log",
    resources:
        runtime=60,
        mem_mb=4000,
    params:
        spec=lambda w: as_json(GRAPH.config.extractors[w.name].resolved()),
        folder=lambda w: f"results/data/{GRAPH.config.extractors[w.name].dataset}",
        code=code("stages.extractor"),
    message:
        "train the classifier {wildcards.name}"
    shell:
        "python -m fewstep extractor --spec {params.spec:q} --dataset {params.folder}"
        " --out {output} 2>&1 | tee {log}"


localrules:
    inception,


# Here, where there is a network: the jobs find the weights in torch's cache.
rule inception:
    output:
        "results/extractors/{name}.json",
    log:
        "logs/extractors/{name}.log",
    wildcard_constraints:
        name=one_of(GRAPH.fetched_extractors()),
    retries: 2
    message:
        "fetch the weights of {wildcards.name}"
    shell:
        "python -m fewstep fetch-inception --out {output} 2>&1 | tee {log}"


# All that scores on a reference has it as an input, so it alone asks for the network.
rule reference:
    input:
        extractor=lambda w: GRAPH.extractor_files(w.name),
        source=lambda w: GRAPH.reference_inputs(w.name),
    output:
        statistics="results/references/{name}.npz",
        manifest="results/references/{name}.json",
    log:
        "logs/references/{name}.log",
    threads: 2
    resources:
        **asks("reference", "{name}"),
    params:
        spec=lambda w: as_json(GRAPH.config.references[w.name].resolved()),
        extractor=lambda w: as_json(GRAPH.extractor(w.name)),
        weights=lambda w: GRAPH.extractor_option(w.name),
        source=lambda w: GRAPH.reference_option(w.name),
        code=code("stages.reference"),
    message:
        "statistics of the real images: {wildcards.name}"
    shell:
        "python -m fewstep --threads {threads} reference --spec {params.spec:q}"
        " --extractor {params.extractor:q} {params.weights} {params.source}"
        " --out {output.statistics} 2>&1 | tee {log}"
