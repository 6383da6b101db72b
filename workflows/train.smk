LAUNCHER = Path(workflow.basedir, "slurm", "ray_train.sh")


def on_nodes(wildcards, threads, resources):
    """What starts a training on several nodes of a SLURM job."""
    if resources.nodes == 1:
        return ""
    return f"{shlex.quote(str(LAUNCHER))} {resources.nodes} {threads}"


def workers(wildcards, threads, resources):
    count = resources.nodes * (threads // resources.worker_threads)
    gpus = (
        "--gpus" if resources.get("gpu") or "gpu" in resources.get("gres", "") else ""
    )
    return f"--nodes {resources.nodes} --workers {count} --threads {resources.worker_threads} {gpus}"


# Checkpoints live beside the outputs but are none of them: Snakemake deletes the outputs of a job that fails.
rule train:
    input:
        manifest,
    output:
        model="<results>/models/{training}/seed{seed}/model.pt",
        metrics="<results>/models/{training}/seed{seed}/metrics.jsonl",
        run="<results>/models/{training}/seed{seed}/run.json",
    log:
        "<logs>/train/{training}/seed{seed}.log",
    benchmark:
        "<benchmarks>/train/{training}/seed{seed}.jsonl"
    threads: 2
    resources:
        worker_threads=lambda wildcards, threads: threads,
        nodes=1,
        scratch="auto",
    params:
        settings=lambda wildcards: CONFIG.trainings[wildcards.training].canonical(),
        code=CODE["train"],
        out=lambda wildcards, output: Path(output.model).parent,
        on_nodes=on_nodes,
        workers=workers,
    shell:
        "{params.on_nodes} kantor train --training {wildcards.training} --seed {wildcards.seed} --settings {params.settings:q}"
        " --manifest {input:q} --out {params.out:q}"
        " {params.workers} --scratch {resources.scratch:q} --log {log:q}"
