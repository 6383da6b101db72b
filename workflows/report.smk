def files(kind, *names):
    """The files `names` of every model on the report."""
    return lambda wildcards: [
        f"<results>/{kind}/{training}/seed{seed}/{name}"
        for training, seed in models(wildcards)
        for name in names
    ]


def folders(paths):
    return list(dict.fromkeys(str(Path(path).parent) for path in paths))


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
        title=CONFIG.title,
        code=CODE["report"],
        models=lambda wildcards, input: folders(input.models),
        validations=lambda wildcards, input: folders(input.validations),
        out=lambda wildcards, output: Path(output.page).parent,
    shell:
        "kantor report --title {params.title:q} --models {params.models:q} --validations {params.validations:q}"
        " --out {params.out:q} --log {log:q}"
