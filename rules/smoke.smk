# Every published architecture at full size on random weights: nothing is scored.


rule smoke_architecture:
    output:
        "results/smoke/{experiment}.json",
    log:
        "logs/smoke/{experiment}.log",
    wildcard_constraints:
        experiment=one_of(GRAPH.smoked()),
    # One at a time on one machine: each may need 20 GB.
    threads: ALL_CORES
    resources:
        runtime=30,
        mem_mb=20000,
        gpu=1,
    params:
        spec=lambda w: as_json(GRAPH.smoke(w.experiment)),
    message:
        "smoke of {wildcards.experiment}"
    shell:
        "python -m fewstep --threads {threads} smoke --spec {params.spec:q}"
        " --out {output} 2>&1 | tee {log}"


localrules:
    smoke,


rule smoke:
    input:
        expand("results/smoke/{name}.json", name=GRAPH.smoked()),
    output:
        table="results/smoke/smoke.json",
        text="results/smoke/smoke.txt",
    log:
        "logs/smoke/smoke.log",
    params:
        code=code("stages.smoke_table"),
    message:
        "table of the smoke"
    shell:
        "python -m fewstep smoke-table {input} --out {output.table}"
        " --text {output.text} 2>&1 | tee {log}"
