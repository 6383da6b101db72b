"""The `kantor` command: every stage by hand, just as the workflow calls it."""

import argparse
import io
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from kantor.config import Dataset, Settings, Training, Validation, load, parse, schema
from kantor.config.documentation import reference
from kantor.errors import ConfigError, InputError, KantorError
from kantor.fingerprint import STAGES, fingerprint
from kantor.machine import slurm
from kantor.machine.files import explained
from kantor.machine.progress import configure, duration, log
from kantor.machine.ranks import Ranks, world

S = TypeVar("S", bound=Settings)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the exit code is 0, 2 for input that cannot be used, 75 for stopped but resumable, 1 otherwise."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal that knows no Greek shows question marks.
            stream.reconfigure(errors="replace")
    options = _parser().parse_args(arguments)
    try:
        with explained(options.log or Path()):
            configure(options.log)
        _run(options)
    except KantorError as error:
        print(f"kantor {options.command}: {error}", file=sys.stderr)
        _drop_output()
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read has seen enough, as `head`; 128 + SIGPIPE, as shells have it.
        _drop_output()
        return 141
    finally:
        configure(None)
    return 0


def _run(options: argparse.Namespace) -> None:
    """Run the command, and turn a full disk that nobody expected into an error like others."""
    try:
        options.run(options)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        with explained(Path(error.filename or "standard output")):
            raise


def _drop_output() -> None:
    """What could not be written would be tried again when Python ends, with a traceback."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _stage(options: argparse.Namespace) -> None:
    from kantor.data.staging import stage

    def work(ranks: Ranks) -> None:
        dataset = _slice(options, Dataset, "datasets", options.dataset)
        stage(options.dataset, dataset, options.out, ranks, options.processes)

    _on_ranks(options, work)


def _train(options: argparse.Namespace) -> None:
    from kantor.launch.training import launch
    from kantor.training.job import Job

    launch(
        Job(
            name=options.training,
            seed=options.seed,
            settings=_slice(options, Training, "trainings", options.training),
            manifest=options.manifest,
            out=options.out,
            fingerprint=fingerprint("train"),
            workers=options.workers,
            threads=options.threads,
            gpus=options.gpus,
            nodes=options.nodes,
            scratch=options.scratch,
            ray_address=options.ray_address,
            deadline=slurm.deadline() if options.max_time is None else time.time() + options.max_time,
        )
    )


def _ray(options: argparse.Namespace) -> None:
    from kantor.launch.ray_cluster import run

    if not options.run_this:
        raise InputError("no command is given", where="kantor ray", cure="kantor ray -- kantor train ...")
    sys.exit(run(options.run_this, meet_in=options.meet_in, join_timeout=options.join_timeout))


def _validate(options: argparse.Namespace) -> None:
    from kantor.validation.compare import validate

    def work(ranks: Ranks) -> None:
        settings = _slice(options, Validation, "validation")
        validate(options.model, options.manifest, settings, options.out, ranks)

    _on_ranks(options, work)


def _export(options: argparse.Namespace) -> None:
    from kantor.export import export

    export(
        options.manifest,
        options.out,
        model=options.model,
        events=options.events,
        seed=options.seed,
        split=options.split,
    )


def _generate(options: argparse.Namespace) -> None:
    from kantor.generation.generate import Order, generate

    def work(ranks: Ranks) -> None:
        order = Order(
            model=options.model,
            out=options.out,
            events=options.events,
            conditions=options.conditions,
            table=options.table,
            carried=options.carry,
            seed=options.seed,
            start=options.start,
            strict=options.strict,
        )
        generate(order, ranks, options.threads)

    _on_ranks(options, work)


def _report(options: argparse.Namespace) -> None:
    from kantor.report.content import ModelFiles
    from kantor.report.page import write_report

    models = [
        ModelFiles.of(model, validation) for model, validation in zip(options.models, options.validations, strict=True)
    ]
    write_report(options.title, models, options.out, options.benchmark, options.pictures)


def _summary(options: argparse.Namespace) -> None:
    from kantor.report.summary import summary_lines

    print("\n".join(summary_lines(options.report)))


def _benchmark(options: argparse.Namespace) -> None:
    def work(ranks: Ranks) -> None:
        failures = _measure(options, ranks) if options.step != "draw" else []
        if options.step != "measure" and ranks.is_root:
            from kantor.report.benchmark import write_page

            print(write_page(options.out))
        if failures:
            raise KantorError(
                "wrong results, which were not timed:\n  " + "\n  ".join(failures),
                where=options.out,
                cure="run the tests of these operations",
            )

    _on_ranks(options, work)


def _measure(options: argparse.Namespace, ranks: Ranks) -> list[str]:
    """Measure and write a CSV file for each operation; what failed its check."""
    import torch

    from kantor.benchmark import scaling, step
    from kantor_kernels.benchmark import CASES, OPERATIONS, QUICK_CASES, CpuClock, CudaClock, run, write_rows

    known = (*OPERATIONS, step.OPERATION, scaling.OPERATION)
    chosen = options.ops or known
    unknown = [name for name in chosen if name not in known]
    if unknown:
        raise InputError(f"there is no operation '{unknown[0]}'", where="--ops", cure=f"choose: {', '.join(known)}")
    if ranks.size > 1 and list(chosen) != [scaling.OPERATION]:
        raise InputError(
            f"{ranks.size} ranks would measure the same thing at the same time",
            where="--ops",
            cure=f"start one rank, or measure what is for ranks: --ops {scaling.OPERATION}",
        )
    cuda = torch.cuda.is_available() and options.device != "cpu"
    if options.device == "cuda" and not cuda:
        raise InputError("there is no CUDA device here", where="--device", cure="leave it out to measure on the CPU")
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    clock = CudaClock(torch.device("cuda")) if cuda else CpuClock()
    failures = []
    with explained(options.out):
        options.out.mkdir(parents=True, exist_ok=True)
        for name in chosen:
            if name == scaling.OPERATION:
                outcome = scaling.run(ranks, scaling.QUICK if options.quick else scaling.FULL, log.info)
            else:
                every = (*(QUICK_CASES if options.quick else CASES), *step.CASES)
                cases = [case for case in every if case.op == name]
                outcome = run(cases, clock, seconds=0.5 if options.quick else 20.0, say=log.info)
            if ranks.is_root:
                write_rows(options.out / f"{name}.csv", outcome.rows)
            failures += [str(failure) for failure in outcome.failures]
    return failures


def _lessons(options: argparse.Namespace) -> None:
    import torch

    from kantor.lessons import LESSONS
    from kantor.report.lessons import write_lesson

    chosen = dict.fromkeys(options.names or LESSONS)
    unknown = [name for name in chosen if name not in LESSONS]
    if unknown:
        raise InputError(f"there is no lesson '{unknown[0]}'", where="NAME", cure=f"choose: {', '.join(LESSONS)}")
    # More threads help no network of this size, and would change the last digits.
    torch.set_num_threads(1)
    for name in chosen:
        start = time.monotonic()
        write_lesson(name, LESSONS[name](), options.out)
        log.info(f"{options.out / name}.svg, .csv, .json in {duration(time.monotonic() - start)}")


def _doctor(options: argparse.Namespace) -> None:
    from kantor.doctor.examine import checks, diagnosis, examine, line

    found = []
    for one in examine(checks(options.results, options.scratch, quick=options.quick)):
        found.append(one)
        if not options.json:
            print(line(one), flush=True)
    whole = diagnosis(found)
    if options.json:
        print(whole.model_dump_json(indent=2))
    if whole.failures:
        raise KantorError(f"{whole.failures} check(s) failed", where=whole.host, cure="stands below each of them")


def _config(options: argparse.Namespace) -> None:
    if options.check is not None:
        load(options.check)
        print(f"{options.check}: valid")
    elif options.suggest is not None:
        _suggest(options.suggest, options.manifest)
    elif options.schema:
        print(schema())
    else:
        print(reference(), end="")


def _suggest(file: Path, manifest_path: Path | None) -> None:
    """Print what the training rows of a staged dataset say about the trainings on it, and the YAML that cures it."""
    import yaml

    from kantor.data.manifest import Manifest
    from kantor.data.samples import read_split
    from kantor.training.advice import advise
    from kantor.training.assembly import check_columns

    trainings = load(file).trainings
    if manifest_path is None:
        raise InputError(
            "suggestions are about data", where="--suggest", cure="stage the dataset, and add --manifest manifest.json"
        )
    manifest = Manifest.read(manifest_path)
    train = read_split(manifest_path, "train")
    mine = {name: training for name, training in trainings.items() if training.dataset == manifest.dataset}
    for name, training in mine.items():
        check_columns(training, manifest)
        for advice in advise(training, manifest, train):
            print(f"# {name}, {advice.field}: {advice.seen}")
            cure = yaml.safe_dump({"trainings": {name: advice.cure}}, sort_keys=False, default_flow_style=None)
            print(cure)
    print(f"# {len(mine)} training(s) on '{manifest.dataset}' looked at")


def _fingerprint(options: argparse.Namespace) -> None:
    if options.stage is not None:
        print(fingerprint(options.stage))
    else:
        print(json.dumps({stage: fingerprint(stage) for stage in STAGES}))


def _on_ranks(options: argparse.Namespace, work: Callable[[Ranks], None]) -> None:
    """Run `work` in the MPI world; where one rank fails, none is left waiting."""
    ranks = world(options.expect_ranks)
    try:
        work(ranks)
    except KantorError as error:
        if ranks.size > 1:
            print(f"kantor {options.command}: {error}", file=sys.stderr, flush=True)
            ranks.abort(error.exit_code)
        raise


def _slice(options: argparse.Namespace, kind: type[S], section: str, name: str | None = None) -> S:
    """The settings of one stage: from the whole configuration, or as the workflow passes them."""
    if options.settings is not None:
        return parse(kind, options.settings, "--settings")
    whole = getattr(load(options.config), section)
    if name is None:
        return whole
    if name not in whole:
        raise ConfigError(
            f"there is no '{name}' in '{section}'", where=options.config, cure=f"choose: {', '.join(whole)}"
        )
    return whole[name]


def _natural(text: str) -> int:
    """A whole number from 0 on; 1_000_000 and 1e6 are numbers, too."""
    number = float(text) if "e" in text.lower() else int(text)
    if number < 0 or number != int(number):
        raise argparse.ArgumentTypeError(f"{text} is no whole number from 0 on")
    return int(number)


def _count(text: str) -> int:
    if _natural(text) == 0:
        raise argparse.ArgumentTypeError("at least 1 is needed")
    return _natural(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="kantor", description="Train and validate critic-heavy GANs for physics fast simulation."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    cpus = len(os.sched_getaffinity(0))

    def command(name: str, run: Callable[[argparse.Namespace], None], text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text)
        added.set_defaults(run=run)
        added.add_argument("--log", type=Path, metavar="FILE", help="append what is done to this file")
        return added

    def settings(added: argparse.ArgumentParser) -> None:
        source = added.add_mutually_exclusive_group()
        source.add_argument("--config", type=Path, default=Path("config/config.yaml"), metavar="FILE")
        source.add_argument("--settings", metavar="JSON", help="this stage's part of the configuration, instead of it")

    def ranks(added: argparse.ArgumentParser) -> None:
        added.add_argument("--expect-ranks", type=int, metavar="N", help="fail unless the MPI world has N ranks")

    stage = command("stage", _stage, "Generate or read a dataset, and write it as HDF5 shards with a manifest.")
    settings(stage)
    ranks(stage)
    stage.add_argument("--dataset", required=True, metavar="NAME")
    stage.add_argument("--out", required=True, type=Path, metavar="DIR")
    stage.add_argument(
        "--processes", type=int, default=cpus, metavar="N", help="processes per rank (default: all CPUs)"
    )

    train = command(
        "train",
        _train,
        "Train one model, on several workers with Ray Train; run again, an interrupted training resumes.",
    )
    settings(train)
    train.add_argument("--training", required=True, metavar="NAME")
    train.add_argument("--seed", type=int, default=1, metavar="K")
    train.add_argument("--manifest", required=True, type=Path, metavar="FILE", help="manifest.json of the dataset")
    train.add_argument("--out", required=True, type=Path, metavar="DIR")
    train.add_argument(
        "--workers", type=int, default=1, metavar="N", help="data-parallel ranks (default: 1, without Ray)"
    )
    train.add_argument("--threads", type=int, default=2, metavar="N", help="threads per worker (default: 2)")
    train.add_argument("--gpus", action="store_true", help="one GPU for each worker, with NCCL")
    train.add_argument("--nodes", type=int, default=1, metavar="N", help="nodes that share the workers (default: 1)")
    train.add_argument(
        "--scratch",
        default="auto",
        metavar="DIR",
        help="where each node keeps a copy of the shards while its workers read them; none; or auto (default):"
        " $SLURM_TMPDIR or $TMPDIR if it is a local disk, the shards are not on one, and a node has several workers",
    )
    train.add_argument(
        "--ray-address",
        metavar="HOST:PORT",
        help="use the Ray cluster there (default: RAY_ADDRESS, in a SLURM job only that of kantor ray; else one's own)",
    )
    train.add_argument(
        "--max-time",
        type=float,
        metavar="SECONDS",
        help="then save a checkpoint and stop with exit code 75 (default in a SLURM job: shortly before its end)",
    )

    ray = command("ray", _ray, "Run a command on a Ray cluster of the nodes of a SLURM step, started for it alone.")
    ray.add_argument("--meet-in", type=Path, default=Path(), metavar="DIR", help="shared by all nodes (default: here)")
    ray.add_argument(
        "--join-timeout", type=float, default=120.0, metavar="SECONDS", help="for a node to join (default: 120)"
    )
    ray.add_argument("run_this", nargs="*", metavar="COMMAND", help="after --; RAY_ADDRESS tells it where Ray is")

    validate = command("validate", _validate, "Compare generated with held-out events; run it under mpiexec or srun.")
    settings(validate)
    ranks(validate)
    validate.add_argument("--model", required=True, type=Path, metavar="FILE", help="model.pt")
    validate.add_argument("--manifest", required=True, type=Path, metavar="FILE", help="manifest.json of the dataset")
    validate.add_argument("--out", required=True, type=Path, metavar="DIR")

    export = command("export", _export, "Write showers, generated or staged, in the layout of the CaloChallenge.")
    export.add_argument("--format", required=True, choices=["calochallenge"])
    export.add_argument("--manifest", required=True, type=Path, metavar="FILE", help="manifest.json of the dataset")
    export.add_argument("--model", type=Path, metavar="FILE", help="model.pt (default: the staged showers themselves)")
    export.add_argument(
        "--split",
        default="test",
        choices=("train", "validation", "test"),
        help="whose showers, or the conditions of whose rows (default: test)",
    )
    export.add_argument("--events", type=_count, metavar="N", help="how many (default: the rows of the split)")
    export.add_argument("--seed", type=int, default=0, metavar="K", help="of generated showers (default: 0)")
    export.add_argument("--out", required=True, type=Path, metavar="FILE", help="HDF5 file")

    sample = command(
        "generate", _generate, "Write events of a trained model; under mpiexec or srun, ranks share the work."
    )
    ranks(sample)
    sample.add_argument("--model", required=True, type=Path, metavar="FILE", help="model.pt")
    many = sample.add_mutually_exclusive_group(required=True)
    many.add_argument("--events", type=_count, metavar="N", help="how many, of a model without conditions")
    many.add_argument(
        "--conditions", metavar="FILE", help="an event for each row; columns by name, any format that staging reads"
    )
    sample.add_argument(
        "--table", metavar="NAME", help="ROOT tree or HDF5 group of the conditions, if there are several"
    )
    sample.add_argument(
        "--carry", nargs="+", default=[], metavar="COLUMN", help="columns of that file to be written beside the events"
    )
    sample.add_argument(
        "--out", required=True, type=Path, metavar="FILE", help="ends with .h5, .root, .parquet, .npz or .csv"
    )
    sample.add_argument("--seed", type=_natural, default=0, metavar="K", help="another seed, other events (default: 0)")
    sample.add_argument(
        "--start",
        type=_natural,
        default=0,
        metavar="N",
        help="number of the first event: continues a sample (default: 0)",
    )
    sample.add_argument(
        "--strict", action="store_true", help="fail where conditions are outside of the range of the training data"
    )
    sample.add_argument("--threads", type=_count, default=cpus, metavar="N", help="per rank (default: all CPUs)")

    report = command("report", _report, "Gather models and their validations into one page.")
    report.add_argument("--title", default="Kantor")
    report.add_argument("--models", nargs="+", required=True, type=Path, metavar="DIR", help="directories of model.pt")
    report.add_argument("--validations", nargs="+", required=True, type=Path, metavar="DIR", help="in the same order")
    report.add_argument("--benchmark", type=Path, metavar="DIR", help="of a benchmark, to be shown on the page too")
    report.add_argument("--pictures", type=Path, metavar="DIR", help="write some pictures as SVG files, too")
    report.add_argument("--out", required=True, type=Path, metavar="DIR")

    summary = command("summary", _summary, "Print the results of a report as a short table.")
    summary.add_argument("report", type=Path, metavar="DIR")

    benchmark = command(
        "benchmark",
        _benchmark,
        "Time the kernels against PyTorch without them, and training on 1, 2, 4 ranks; each is checked first."
        " Under mpiexec or srun, --ops scaling measures those ranks.",
    )
    ranks(benchmark)
    benchmark.add_argument("--ops", nargs="+", metavar="OP", help="operations to measure (default: all)")
    benchmark.add_argument("--quick", action="store_true", help="small shapes, to see that it runs")
    benchmark.add_argument("--device", choices=("cpu", "cuda"), help="where to measure (default: the GPU if any)")
    benchmark.add_argument("--threads", type=int, metavar="N", help="threads on the CPU (default: PyTorch's choice)")
    benchmark.add_argument(
        "--step", choices=("measure", "draw"), help="only write the CSV files, or only draw the page from them"
    )
    benchmark.add_argument("--out", required=True, type=Path, metavar="DIR")

    lessons = command(
        "lessons",
        _lessons,
        "Compute and draw what the literature teaches about GANs' losses (docs/lessons), a minute each on one thread.",
    )
    lessons.add_argument("names", nargs="*", metavar="NAME", help="lessons (default: all)")
    lessons.add_argument("--out", required=True, type=Path, metavar="DIR", help="for NAME.svg, NAME.csv and NAME.json")

    doctor = command("doctor", _doctor, "Check this machine, or the allocation it runs in: what works, and the cures.")
    doctor.add_argument("--results", type=Path, default=Path("results"), metavar="DIR", help="default: results")
    doctor.add_argument("--scratch", default="auto", metavar="DIR", help="as for train (default: auto)")
    doctor.add_argument("--quick", action="store_true", help="start no Ray")
    doctor.add_argument("--json", action="store_true", help="print the findings as JSON")

    check = command("config", _config, "Check a configuration, or explain it.")
    action = check.add_mutually_exclusive_group(required=True)
    action.add_argument("--check", type=Path, metavar="FILE", help="say whether a configuration is valid")
    action.add_argument(
        "--suggest",
        type=Path,
        metavar="FILE",
        help="say what hides an edge of staged events, and the YAML that cures it",
    )
    action.add_argument("--schema", action="store_true", help="print the JSON schema, for editors")
    action.add_argument("--reference", action="store_true", help="print every key with unit and default, as Markdown")

    check.add_argument("--manifest", type=Path, metavar="FILE", help="manifest.json of the dataset, for --suggest")

    code = command("fingerprint", _fingerprint, "Print the checksum of a stage's code, by which reruns are decided.")
    code.add_argument("stage", nargs="?", choices=sorted(STAGES), help="one stage (default: all, as JSON)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
