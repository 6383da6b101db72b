def sources(wildcards):
    """The user's own files behind a dataset, new matches of a pattern among them; a generator has none."""
    try:
        return CONFIG.datasets[wildcards.dataset].source.files
    except kantor.errors.InputError as error:
        raise WorkflowError(str(error)) from None


rule stage:
    input:
        sources,
    output:
        "<results>/data/{dataset}/manifest.json",
    log:
        "<logs>/stage/{dataset}.log",
    benchmark:
        "<benchmarks>/stage/{dataset}.jsonl"
    threads: 2
    resources:
        nodes=1,
        tasks=1,
    params:
        settings=lambda wildcards: CONFIG.datasets[wildcards.dataset].canonical(),
        code=CODE["stage"],
        out=lambda wildcards, output: Path(output[0]).parent,
        ranks=ranks,
        expect=expected_ranks,
    shell:
        "{params.ranks} kantor stage --dataset {wildcards.dataset} --settings {params.settings:q} --out {params.out:q}"
        " --processes {threads} {params.expect} --log {log:q}"
