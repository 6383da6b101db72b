"""What the documentation shows is true: examples run, command lines parse, links lead somewhere, files exist.

A fenced block is of a language that is checked here, or plain `text`. One that is not to be run says so, and why:
```python no-run: needs a GPU
"""

import contextlib
import io
import re
import shlex
import subprocess
import textwrap
import tomllib
from argparse import ArgumentParser, _SubParsersAction
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest
import torch
import yaml

from kantor import cli
from kantor.config import Config, Dataset, Training, load, parse
from kantor.data.staging import stage
from kantor.machine.ranks import Ranks
from kantor.training.job import Job
from kantor.training.worker import work

ROOT = Path(__file__).parents[1]
LIST = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
FILES = [
    Path(name)
    for name in sorted(subprocess.run(LIST, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines())
    if (ROOT / name).exists()
]
PAGES = {str(file): (ROOT / file).read_text(encoding="utf-8") for file in FILES if file.suffix == ".md"}
# What these pages show at least, so that a parser that finds nothing is seen.
AT_LEAST = {
    "README.md": {"python": 2, "yaml": 1, "sh": 2},
    "docs/objectives.md": {"yaml": 1},
    "docs/mode-collapse.md": {"yaml": 1},
    "docs/cluster.md": {"sh": 5},
    "docs/coordinates.md": {"yaml": 4, "sh": 1},
    "docs/pid.md": {"yaml": 7},
    "docs/scaling.md": {"sh": 1},
    "slurm/README.md": {"sh": 2},
}

# ------------------------------------------------------------------------------------------------- reading the pages


@dataclass(frozen=True)
class Block:
    """A fenced block: where it is, the words after its language, and its text."""

    page: str
    line: int
    language: str
    words: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


FENCE = re.compile(r"^( *)```([^\n]*)\n(.*?)^\1``` *$", re.MULTILINE | re.DOTALL)


def blocks(page: str) -> Iterator[Block]:
    text = PAGES[page]
    for found in FENCE.finditer(text):
        language, _, words = found[2].strip().partition(" ")
        yield Block(page, text.count("\n", 0, found.start()) + 1, language, words, textwrap.dedent(found[3]))


BLOCKS = [block for page in PAGES for block in blocks(page)]
TO_RUN = [block for block in BLOCKS if not block.words]


def of(language: str) -> list[Block]:
    return [block for block in TO_RUN if block.language == language]


def prose(page: str) -> str:
    """The page without its fenced blocks."""
    return FENCE.sub("", PAGES[page])


def spans(page: str) -> list[str]:
    """What stands between backticks in the prose, on one line."""
    return [" ".join(found.split()) for found in re.findall(r"(?<!`)`([^`]+)`(?!`)", prose(page))]


def test_every_block_says_what_it_is() -> None:
    """A block of another language, or one that is not run for no reason, would be passed over in silence."""
    known = {"python", "yaml", "sh", "text"}
    assert not [str(block) for block in BLOCKS if block.language not in known]
    wrong = [str(block) for block in BLOCKS if block.words and not re.fullmatch(r"no-run: \S.{9,}", block.words)]
    assert not wrong, f"{wrong}: say ```python no-run: REASON"


def test_no_block_is_passed_over() -> None:
    for page, text in PAGES.items():
        opened = sum(line.lstrip().startswith("```") for line in text.splitlines())
        assert opened == 2 * sum(block.page == page for block in BLOCKS), page
    for page, least in AT_LEAST.items():
        found = Counter(block.language for block in TO_RUN if block.page == page)
        assert found >= Counter(least), f"{page} shows {dict(found)}"


# ------------------------------------------------------------------------------------------------------ the examples


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with model.pt and metrics.jsonl of a training of seconds on DIS events, through the pipeline itself."""
    pytest.importorskip("pythia8mc")
    directory = tmp_path_factory.mktemp("trained")
    dataset = Dataset.model_validate({"source": {"kind": "dis", "events": 1000, "block": 1000}})
    stage("dis", dataset, directory / "data", Ranks(), processes=1)
    training = Training.model_validate(
        {
            "dataset": "dis",
            "generator": {"latent": 4, "width": 16, "depth": 2},
            "critic": {"width": 16, "depth": 2},
            "objective": {"kind": "wgan_gp"},
            "batch": 64,
            "steps": 10,
            "log_every": 5,
            "evaluate_rows": 100,
        }
    )
    out = directory / "models"
    work(Job("wgan_gp", 1, training, directory / "data" / "manifest.json", out, "code", workers=1))
    return out


def names() -> dict[str, Any]:
    """What the kernels' examples take for granted: weighted samples and a critic."""
    torch.manual_seed(1)
    x, y = torch.randn(64, 3, requires_grad=True), torch.randn(48, 3)
    layers = torch.nn.Linear(3, 16), torch.nn.LeakyReLU(0.2), torch.nn.Linear(16, 1)
    return {
        "x": x,
        "y": y,
        "weight_x": torch.rand(64),
        "weight_y": torch.rand(48),
        "critic": torch.nn.Sequential(*layers),
        "real": torch.randn(32, 3),
        "fake": torch.randn(32, 3),
    }


@pytest.mark.parametrize("page", sorted({block.page for block in of("python")}))
def test_python_examples_run(page: str, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of a page in their order, since a later one may use what an earlier one has made."""
    monkeypatch.chdir(trained)
    namespace = names()
    ran = 0
    for block in of("python"):
        if block.page == page:
            # As many empty lines before it as there are on the page, so that a traceback names the page's line.
            exec(compile("\n" * block.line + block.text, ROOT / page, "exec"), namespace)
            ran += 1
    assert ran >= AT_LEAST.get(page, {}).get("python", 1)
    if page == "README.md":
        assert namespace["events"].shape == (1_000_000, 3)
        assert namespace["events"].dtype == "float32"
        assert namespace["x"].grad.isfinite().all()


SHIPPED = load(ROOT / "config" / "config.yaml")
# What a fragment of a configuration may leave out.
MINIMAL: dict[str, dict[str, Any]] = {
    "datasets": {
        "dis": {"source": {"kind": "dis"}},
        "ring": {"source": {"kind": "ring"}},
        "rich": {"source": {"kind": "file", "paths": ["a.root"], "features": ["DLLk"], "conditions": ["p"]}},
    },
    "trainings": {"wgan_gp": {"dataset": "dis", "objective": {"kind": "wgan_gp"}}},
    "targets": {"run": {"trainings": ["wgan_gp"]}},
}


@pytest.mark.parametrize("block", of("yaml"), ids=str)
def test_yaml_examples_are_configurations(block: Block) -> None:
    """A fragment is valid within a minimal configuration; a training of config/config.yaml is shown as it is there."""
    shown = yaml.safe_load(block.text)
    assert isinstance(shown, dict)
    assert set(shown) <= set(Config.model_fields), f"{block} is no part of a configuration"
    merged = MINIMAL | {
        key: MINIMAL.get(key, {}) | value if isinstance(value, dict) else value for key, value in shown.items()
    }
    parsed = parse(Config, merged, str(block))
    for name in set(shown.get("trainings", {})) & set(SHIPPED.trainings):
        for key in shown["trainings"][name]:
            assert getattr(parsed.trainings[name], key) == getattr(SHIPPED.trainings[name], key), f"{name}.{key}"


# --------------------------------------------------------------------------------------------------------- commands

MAKEFILE = (ROOT / "Makefile").read_text()
MAKE_TARGETS = set(re.findall(r"^([\w./-]+)(?= *:[^=])", MAKEFILE, re.MULTILINE))
RULES = {
    name
    for file in (ROOT / "Snakefile", *(ROOT / "workflows").glob("*.smk"))
    for name in re.findall(r"^rule (\w+):", file.read_text(), re.MULTILINE)
}
LAUNCHERS = {"mpiexec", "srun", "ray_train.sh"}


def commands(text: str) -> Iterator[list[str]]:
    """The simple commands of a shell example, those inside of `bash -c` too."""
    for line in text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        command: list[str] = []
        for token in (*lexer, ";"):
            if set(token) - set("();<>|&"):
                command.append(token)
                continue
            while command and re.match(r"\w+=", command[0]):
                command.pop(0)
            if command:
                yield command
                if "-c" in command and "bash" in command:
                    yield from commands(command[command.index("-c", command.index("bash")) + 1])
            command = []


def arguments_of_kantor(command: list[str]) -> list[str] | None:
    """What a command passes to kantor, None for other commands."""
    program, *rest = command
    if Path(program).name == "kantor":
        return rest
    if program == "sbatch" and rest[:1] == ["slurm/train.sbatch"]:
        return ["train", *rest[1:]]
    if Path(program).name in LAUNCHERS and "kantor" in rest:
        return rest[rest.index("kantor") + 1 :]
    return None


def parses(parser: ArgumentParser, arguments: list[str]) -> Any:
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return parser.parse_args(arguments)
    except SystemExit:
        pytest.fail(f"{shlex.join(arguments)}: {said.getvalue()}")


def check_make(arguments: list[str]) -> None:
    targets = {word for word in arguments if not word.startswith("-") and "=" not in word}
    assert targets <= MAKE_TARGETS, f"make {shlex.join(arguments)}"


def check_snakemake(arguments: list[str]) -> None:
    from snakemake.cli import get_argument_parser

    wanted = parses(get_argument_parser(profiles=None), arguments).targets
    unknown = {name for name in wanted if name not in RULES and not name.startswith(("report-", "results/"))}
    assert not unknown, f"snakemake {shlex.join(arguments)}"


def check(command: list[str]) -> bool:
    """Whether a command is one of those that are checked here; it fails if it is wrong."""
    kantor = arguments_of_kantor(command)
    if kantor is not None:
        options = parses(cli._parser(), kantor)
        if options.command == "ray" and options.run_this:
            check(options.run_this)
    elif Path(command[0]).name == "snakemake":
        check_snakemake(command[1:])
    elif command[0] == "make":
        check_make(command[1:])
    elif command[:2] == ["pip", "install"]:
        assert all((ROOT / path / "pyproject.toml").exists() for path in command[2:] if path.startswith(".")), command
    else:
        return False
    return True


@pytest.mark.parametrize("page", sorted({block.page for block in of("sh")}))
def test_shell_examples_parse(page: str) -> None:
    checked = [check(command) for block in of("sh") if block.page == page for command in commands(block.text)]
    assert any(checked), f"no command of {page} is checked"


@pytest.mark.parametrize("page", PAGES)
def test_commands_in_the_text_exist(page: str) -> None:
    """In a sentence a command may be cut short: its subcommand, options and targets have to exist."""
    action = next(each for each in cli._parser()._actions if isinstance(each, _SubParsersAction))
    subcommands = cast(dict[str, ArgumentParser], action.choices)
    for span in spans(page):
        program, *words = span.split()
        if Path(program).name == "kantor" and words:
            assert words[0] in subcommands, span
            cut = words[1 : words.index("--")] if "--" in words else words[1:]
            options = {word.partition("=")[0] for word in cut if word.startswith("--")}
            assert options <= set(subcommands[words[0]]._option_string_actions), span
        elif Path(program).name == "snakemake":
            check_snakemake(shlex.split(span)[1:])
        elif program == "make":
            check_make(words)


def test_hooks_run_what_make_lint_runs() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    recipe = MAKEFILE.partition("\nlint:")[2].partition("\n\n")[0]
    run = {line.strip().replace("$(BIN)", ".venv/bin") for line in recipe.splitlines()[1:]}
    assert {hook["entry"] for hook in hooks} == run


# ------------------------------------------------------------------------------------------------- links and files


def anchors(text: str) -> set[str]:
    """The anchors that GitHub and GitLab make of headings."""
    found: Counter[str] = Counter()
    out = set()
    for heading in re.findall(r"^#+ +(.+?) *$", FENCE.sub("", text), re.MULTILINE):
        slug = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        out.add(f"{slug}-{found[slug]}" if found[slug] else slug)
        found[slug] += 1
    return out


def links(page: str) -> list[str]:
    without_code = re.sub(r"(?<!`)`[^`]+`(?!`)", "code", prose(page))
    return re.findall(r"\]\(([^)\s]+)\)", without_code)


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for link in links(page):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (ROOT / page).parent / name if name else ROOT / page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target.read_text(encoding="utf-8")), link


@pytest.mark.parametrize("index", ["docs/index.md", "docs/experiments/index.md", "docs/lessons/index.md"])
def test_an_index_has_every_page(index: str) -> None:
    """A page counts when it or its folder is linked."""
    folder = (ROOT / index).parent
    linked = {(folder / link.partition("#")[0]).resolve() for link in links(index)}
    below = [ROOT / page for page in PAGES if (ROOT / page).is_relative_to(folder)]
    if index == "docs/index.md":
        below += [ROOT / page for page in PAGES if page.startswith(("kernels/", "config/", "slurm/"))]
    own = {"experiments", "lessons"}  # folders with an index of their own
    pages = {page for page in below if page.parent == folder or not own & set(page.parts)} - {ROOT / index}
    assert not [str(page) for page in pages if not {page, *page.parents} & linked]


# An experiment and a release are told as they were, with the files of their day.
OF_THEIR_DAY = ("CHANGELOG.md", "docs/experiments/")


@pytest.mark.parametrize("page", [page for page in PAGES if not page.startswith(OF_THEIR_DAY)])
def test_files_in_the_text_exist(page: str) -> None:
    """A file may be named without the folders before its own; <kind> is any name."""
    ending = re.compile(r"[\w./<>*-]+\.(py|md|smk|sh|sbatch|csv|toml|rst)")
    for span in filter(ending.fullmatch, spans(page)):
        assert is_here(span), span


def is_here(name: str) -> bool:
    pattern = re.sub(r"<[^>]+>", "*", name)
    return any(file.match(pattern) for file in FILES)


def test_the_citation_is_of_this_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == project["version"]
    assert citation["license"] == project["license"]
    assert [author["name"] for author in citation["authors"]] == [author["name"] for author in project["authors"]]


@pytest.mark.parametrize("package", ["pipeline/kantor", "kernels/kantor_kernels"])
def test_packages_bring_their_types(package: str) -> None:
    assert (ROOT / package / "py.typed").exists()
