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
        worker_threads=1,
        scratch="auto",
    params:
        settings=lambda wildcards: CONFIG.trainings[wildcards.training].canonical(),
        code=CODE["train"],
        out=lambda wildcards, output: Path(output.model).parent,
    shell:
        "kantor train --training {wildcards.training} --seed {wildcards.seed} --settings {params.settings:q}"
        " --manifest {input:q} --out {params.out:q}"
        " --workers $(({threads} / {resources.worker_threads})) --threads {resources.worker_threads}"
        " --scratch {resources.scratch:q} --log {log:q}"
