rule validate:
    input:
        model=rules.train.output.model,
        manifest=manifest,
    output:
        metrics="<results>/validation/{training}/seed{seed}/metrics.json",
        histograms="<results>/validation/{training}/seed{seed}/validation.h5",
    log:
        "<logs>/validate/{training}/seed{seed}.log",
    benchmark:
        "<benchmarks>/validate/{training}/seed{seed}.jsonl"
    threads: 2
    resources:
        mpi="mpiexec",
        nodes=1,
        tasks=2,
    params:
        settings=lambda wildcards: CONFIG.validation.for_dataset(
            CONFIG.trainings[wildcards.training].dataset
        ).canonical(),
        code=CODE["validate"],
        out=lambda wildcards, output: Path(output.metrics).parent,
        ranks=ranks,
        expect=expected_ranks,
    shell:
        "{params.ranks} kantor validate --settings {params.settings:q} --model {input.model:q}"
        " --manifest {input.manifest:q} --out {params.out:q} {params.expect} --log {log:q}"
