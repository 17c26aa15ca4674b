# Tables of everything, and the pages that show them.
report: "../workflow/report/workflow.rst"


localrules:
    tables,
    report,
    demo_report,


# These two show what is there, so they run whenever they are asked for.
rule tables:
    log:
        "logs/tables.log",
    params:
        spec=as_json(GRAPH.report(GRAPH.experiments, "snakemake tables")),
    message:
        "file the rows of all results"
    shell:
        "python -m fewstep tables --spec {params.spec:q} 2>&1 | tee {log}"


rule report:
    log:
        "logs/report.log",
    params:
        spec=lambda w: as_json(report_of_all()),
        out="results/report/report.html",
    message:
        "report of what is there"
    shell:
        "python -m fewstep report --spec {params.spec:q} --out {params.out}"
        " 2>&1 | tee {log}"


rule demo_report:
    input:
        GRAPH.report_inputs(DEMO),
    output:
        page=report(
            "results/demo/report.html",
            caption="../workflow/report/report.rst",
            category="all experiments",
            subcategory="page",
            labels={"sampler": "all", "shows": "report"},
        ),
        index="results/demo/report.json",
    log:
        "logs/demo-report.log",
    params:
        spec=as_json(GRAPH.report(DEMO, "make demo")),
    message:
        "the demo's report"
    shell:
        "python -m fewstep report --spec {params.spec:q} --out {output.page}"
        " 2>&1 | tee {log}"
