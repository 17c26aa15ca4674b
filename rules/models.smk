# What every system's trained models share.


rule export_model:
    input:
        "results/{experiment}/model.safetensors",
    output:
        model="results/{experiment}/export/{name}.safetensors",
        manifest="results/{experiment}/export/{name}.json",
    log:
        "logs/{experiment}/export-{name}.log",
    wildcard_constraints:
        experiment=one_of(GRAPH.experiments),
    resources:
        runtime=10,
        mem_mb=4000,
    params:
        command=lambda w, output: f"snakemake --profile local {output.model}",
        code=code("stages.export"),
    message:
        "write {wildcards.experiment} as a small asset"
    shell:
        "python -m fewstep export --source {input} --out {output.model}"
        " --command {params.command:q} 2>&1 | tee {log}"


localrules:
    training_chart,


rule training_chart:
    input:
        "results/{experiment}/training.parquet",
    output:
        report(
            "results/{experiment}/training.png",
            caption="../workflow/report/training.rst",
            category="{experiment}",
            subcategory="charts",
            labels={"sampler": "all", "shows": "training"},
        ),
    log:
        "logs/{experiment}/training-chart.log",
    params:
        code=code("stages.pictures", "plots"),
    message:
        "training curve of {wildcards.experiment}"
    shell:
        "python -m fewstep charts --training {output} --training-table {input} 2>&1 | tee {log}"
