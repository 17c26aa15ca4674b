# Small rules that a test can hold up, break and let go on.
PYTHON = config["python"]  # without torch and all: it starts at once


localrules:
    all,


wildcard_constraints:
    name="[a-z]+",


rule all:
    input:
        expand("out/tiny/{i}.txt", i=range(int(config.get("count", 4)))),


rule tiny:
    output:
        "out/tiny/{i}.txt",
    shell:
        "echo {wildcards.i} > {output}"


# Counts to ten; its first start waits for work/NAME/go before step five.
rule steps:
    output:
        "out/{name}.txt",
    params:
        work="work/{name}",
        steps=config.get("steps", 10),
    shell:
        "{PYTHON} -S -E {config[program]} {params.work} {params.steps} 5"
        " && cp {params.work}/steps {output}"


rule after:
    input:
        "out/a.txt",
    output:
        "out/after/{i}.txt",
    shell:
        "cp {input} {output}"


rule breaks:
    output:
        "out/broken.txt",
    shell:
        "echo the reason stands here; exit 3"


# Fails at the first start and not at the second.
rule recovers:
    output:
        "out/recovered.txt",
    shell:
        "mkdir -p work; echo start $SLURM_JOB_ID ${{SLURM_RESTART_COUNT:-0}} >> work/recovers;"
        " test $(wc -l < work/recovers) = 2 && touch {output}"


# The ways of asking for GPUs.
GPUS = {
    "one": {"gpu": 1},
    "two": {"gpu": 2},
    "gres": {"gres": "gpu:a100:1"},
    "node": {"gpus_per_node": "a100:2"},
}


rule devices:
    output:
        "out/devices-{kind}.txt",
    resources:
        gpu=lambda w: GPUS[w.kind].get("gpu", 0),
        gres=lambda w: GPUS[w.kind].get("gres", ""),
        gpus_per_node=lambda w: GPUS[w.kind].get("gpus_per_node", ""),
    shell:
        'echo "devices=${{CUDA_VISIBLE_DEVICES:-}} job=$SLURM_JOB_ID" > {output}'


rule asks:
    output:
        "out/asks.txt",
    threads: 2
    resources:
        runtime=3,
        mem_mb=300,
        constraint="n2",
    shell:
        "scontrol -o show job $SLURM_JOB_ID > {output}"


# Two tasks on each of two nodes; the command itself runs once.
rule spreads:
    output:
        "out/spread.txt",
    resources:
        nodes=2,
        tasks_per_node=2,
    shell:
        "echo run >> work-spreads;"
        " srun --overlap bash -c 'echo $SLURMD_NODENAME' | sort > {output}"
