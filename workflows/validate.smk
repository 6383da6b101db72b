def ranks(wildcards, resources):
    """How to start the MPI ranks of a validation here; without a launcher it runs on one rank."""
    if shutil.which(str(resources.mpi).split()[0]) is None:
        return ""
    return f"{resources.mpi} -n {resources.tasks}"


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
        tasks=2,
    params:
        settings=lambda wildcards: CONFIG.validation.for_dataset(
            CONFIG.trainings[wildcards.training].dataset
        ).canonical(),
        code=CODE["validate"],
        out=lambda wildcards, output: Path(output.metrics).parent,
        ranks=ranks,
        expect=lambda wildcards, resources: (
            f"--expect-ranks {resources.tasks}" if ranks(wildcards, resources) else ""
        ),
    shell:
        "{params.ranks} kantor validate --settings {params.settings:q} --model {input.model:q}"
        " --manifest {input.manifest:q} --out {params.out:q} {params.expect} --log {log:q}"
