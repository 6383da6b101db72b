# Not part of a run: `snakemake benchmark` measures this machine, so nothing else should run on it meanwhile.
OPERATIONS = [
    "pairwise",
    "sliced",
    "gradient_penalty",
    "critic_step",
    "training_step",
    "scaling",
]


rule measure:
    output:
        report(
            expand("<results>/benchmark/{op}.csv", op=OPERATIONS),
            caption="report/benchmark.rst",
            category="Benchmark",
            labels={"benchmark": "figures"},
        ),
    log:
        "<logs>/benchmark/measure.log",
    threads: lambda wildcards: workflow.cores
    resources:
        quick=0,  # --set-resources measure:quick=1 sees in seconds that it runs
    params:
        code=CODE["benchmark"],
        quick=lambda wildcards, resources: "--quick" if resources.quick else "",
        out=lambda wildcards, output: Path(output[0]).parent,
    shell:
        "kantor benchmark --step measure {params.quick} --out {params.out:q} --threads {threads} --log {log:q}"


rule benchmark:
    input:
        rules.measure.output,
    output:
        report(
            "<results>/benchmark/index.html",
            caption="report/benchmark.rst",
            category="Benchmark",
            labels={"benchmark": "page"},
        ),
    log:
        "<logs>/benchmark/draw.log",
    params:
        code=CODE["benchmark_page"],
        out=lambda wildcards, output: Path(output[0]).parent,
    shell:
        "kantor benchmark --step draw --out {params.out:q} --log {log:q}"
