# Stage the data, train the models, validate them, gather the report. `snakemake` does the target `run` of
# config/config.yaml, `snakemake report-NAME` the target NAME. A second run redoes only what changed.
from snakemake.utils import min_version

min_version("9.12")


pathvars:
    logs="<results>/logs",
    benchmarks="<results>/usage",


report: "workflows/report/workflow.rst"


include: "workflows/common.smk"
include: "workflows/stage.smk"
include: "workflows/train.smk"
include: "workflows/validate.smk"
include: "workflows/report.smk"
include: "workflows/generate.smk"
include: "workflows/benchmark.smk"


rule all:
    default_target: True
    input:
        "<results>/report/index.html",


for name in CONFIG.targets:

    rule:
        name:
            f"report-{name}"
        input:
            f"<results>/{page_of(name)}/index.html",
