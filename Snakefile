# fewstep: from checkpoints and data to tables of few-step image samplers.
#
#   snakemake --profile local demo                      the miniature, on this machine
#   snakemake --profile local results/afhq_gsj_fid.json one published cell
#   snakemake --profile slurm all                       every published cell
from snakemake.utils import min_version

min_version("9.20")


# Only `--sdm apptainer` would use it; everything runs in the project's environment.
container: "docker://python:3.11-slim"


wildcard_constraints:
    experiment="[a-z0-9][a-z0-9.-]*",
    sampler="[a-z0-9][a-z0-9.-]*",
    name="[a-z0-9][a-z0-9.-]*",
    seed=r"\d+",


include: "rules/common.smk"
include: "rules/shell.smk"
include: "rules/assets.smk"
include: "rules/data.smk"
include: "rules/models.smk"
include: "rules/tarflow.smk"
include: "rules/seqrf.smk"
include: "rules/par.smk"
include: "rules/evaluate.smk"
include: "rules/report.smk"
include: "rules/smoke.smk"


localrules:
    all,
    tarflow,
    seqrf,
    par,
    extract,
    train,
    demo,
    demo_scratch,
    tables,
    report,


onstart:
    stop_without_deadlock(workflow)


# A cell that could not be made is a row too.
onerror:
    file_failed_run(workflow, GRAPH, log)


rule all:
    default_target: True
    input:
        GRAPH.evaluations(GRAPH.published()),


rule tarflow:
    input:
        GRAPH.evaluations(GRAPH.cells("tarflow")),


rule seqrf:
    input:
        GRAPH.evaluations(GRAPH.cells("seqrf")),


rule par:
    input:
        GRAPH.evaluations(GRAPH.cells("par")),


# Codes of every dataset, and every training, of a size that needs a cluster.
rule extract:
    input:
        GRAPH.codes_at_paper_scale(),


rule train:
    input:
        GRAPH.trainings_at_paper_scale(),


# One training each: train_afhq, train_par-xl-4x, train_cifar10-4seqrf …
for training, weights in GRAPH.training_targets().items():

    rule:
        name:
            training
        input:
            weights,
        localrule: True


rule demo:
    input:
        "results/demo/report.html",


PAR = ["n1", "n4", "n16"]


rule demo_scratch:
    input:
        "results/demo-scratch/export/demo-tarflow.safetensors",
        "results/demo-scratch/for/grid.png",
        "results/demo-scratch/training.png",
        "results/demo-flow-scratch/export/demo-flow.safetensors",
        "results/demo-flow-scratch/solvers.png",
        "results/demo-flow-scratch/training.png",
        "results/tokenizers/export/demo-vq-scratch.safetensors",
        "results/tokenizers/demo-vq-scratch-reconstruction.png",
        expand("results/demo-par-{n}-scratch/export/demo-par-{n}.safetensors", n=PAR),
        expand("results/demo-par-{n}-scratch/training.png", n=PAR),


settle_signatures(workflow.rules)
