def files(kind, *names):
    """The files `names` of every model on the report."""
    return lambda wildcards: [
        f"<results>/{kind}/{training}/seed{seed}/{name}"
        for training, seed in models(wildcards)
        for name in names
    ]


def folders(paths):
    return list(dict.fromkeys(str(Path(path).parent) for path in paths))


def measured(wildcards):
    """Checksums of a benchmark's files, if there is one. As an input it would make every run measure."""
    found = Path(workflow.pathvars.apply("<results>/benchmark")).glob("*.csv")
    return {str(path): kantor.machine.files.sha256(path) for path in sorted(found)}


def benchmark_option(wildcards):
    found = folders(measured(wildcards))
    return f"--benchmark {shlex.quote(found[0])}" if found else ""


rule gather:
    input:
        models=files("models", "run.json", "metrics.jsonl"),
        validations=files("validation", "metrics.json", "validation.h5"),
    output:
        page=report(
            "<results>/{page}/index.html",
            caption="report/page.rst",
            category="Report",
            labels={"report": "{page}"},
        ),
        json="<results>/{page}/report.json",
        table=report(
            "<results>/{page}/summary.csv",
            caption="report/summary.rst",
            category="Report",
            labels={"report": "{page}, table"},
        ),
    log:
        "<logs>/{page}.log",
    params:
        title=lambda wildcards: target(wildcards).title or CONFIG.title,
        code=CODE["report"],
        models=lambda wildcards, input: folders(input.models),
        validations=lambda wildcards, input: folders(input.validations),
        out=lambda wildcards, output: Path(output.page).parent,
        measured=measured,
        benchmark=benchmark_option,
    shell:
        "kantor report --title {params.title:q} --models {params.models:q} --validations {params.validations:q}"
        " {params.benchmark} --out {params.out:q} --log {log:q}"
