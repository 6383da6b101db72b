rule stage:
    output:
        "<results>/data/{dataset}/manifest.json",
    log:
        "<logs>/stage/{dataset}.log",
    benchmark:
        "<benchmarks>/stage/{dataset}.jsonl"
    params:
        settings=lambda wildcards: CONFIG.datasets[wildcards.dataset].canonical(),
        code=CODE["stage"],
        out=lambda wildcards, output: Path(output[0]).parent,
    threads: 2
    shell:
        "kantor stage --dataset {wildcards.dataset} --settings {params.settings:q} --out {params.out:q}"
        " --processes {threads} --log {log:q}"
