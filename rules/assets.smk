# Published, shipped and hand-placed files: verified, downloaded where they have a home.


localrules:
    asset,


rule asset:
    output:
        "results/assets/{name}.json",
    log:
        "logs/assets/{name}.log",
    retries: 2
    params:
        spec=lambda w: as_json(GRAPH.asset(w.name)),
        code=code("hub"),
    message:
        "fetch {wildcards.name}"
    shell:
        "python -m fewstep fetch --spec {params.spec:q} --out {output} 2>&1 | tee {log}"
