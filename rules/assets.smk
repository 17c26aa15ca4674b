# Published, shipped and hand-placed files: verified, downloaded where they have a home.


localrules:
    asset,


rule asset:
    output:
        "results/assets/{name}.json",
    log:
        "logs/assets/{name}.log",
    # Not even those of a profile: the stage is patient itself, and says a refusal once.
    retries: 0
    resources:
        # No param: a better estimate is no reason to fetch again.
        expected_mb=lambda w: GRAPH.asset_mb(w.name),
    # No code: a verified file is the same however it was fetched, and all that is
    # drawn from it would be drawn anew.
    params:
        spec=lambda w: as_json(GRAPH.asset(w.name)),
    message:
        "fetch {wildcards.name}"
    shell:
        "python -m fewstep fetch --spec {params.spec:q}"
        " --expected-mb {resources.expected_mb} --out {output} 2>&1 | tee {log}"
