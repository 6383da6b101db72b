# Files of generated events: `snakemake samples` makes all of `samples:` in the configuration.
SAMPLES = {f"{name}.{sample.format}": sample for name, sample in CONFIG.samples.items()}


def model_of(wildcards):
    sample = SAMPLES[wildcards.sample]
    return f"<results>/models/{sample.training}/seed{sample.training_seed}/model.pt"


def given(wildcards):
    """The user's file of conditions."""
    try:
        return SAMPLES[wildcards.sample].files
    except kantor.errors.InputError as error:
        raise WorkflowError(str(error)) from None


def wanted(wildcards):
    """The options that the settings of a sample are."""
    sample = SAMPLES[wildcards.sample]
    options = {
        "--events": sample.events,
        "--conditions": sample.file,
        "--table": sample.table,
        "--seed": sample.seed,
        "--start": sample.start,
    }
    words = [f"{name}={value}" for name, value in options.items() if value is not None]
    flags = ["--strict"] if sample.strict else []
    carry = ["--carry", *sample.carry] if sample.carry else []
    return shlex.join([*words, *flags, *carry])


rule generate:
    input:
        given,
        model=model_of,
    output:
        "<results>/samples/{sample}",
    log:
        "<logs>/generate/{sample}.log",
    benchmark:
        "<benchmarks>/generate/{sample}.jsonl"
    wildcard_constraints:
        sample="|".join(map(re.escape, SAMPLES)) or "(?!)",
    threads: 2
    resources:
        nodes=1,
        tasks=1,
    params:
        wanted=wanted,
        code=CODE["generate"],
        ranks=ranks,
        expect=expected_ranks,
    shell:
        "{params.ranks} kantor generate --model {input.model:q} {params.wanted} --out {output:q}"
        " --threads {threads} {params.expect} --log {log:q}"


rule samples:
    input:
        expand("<results>/samples/{sample}", sample=SAMPLES),
