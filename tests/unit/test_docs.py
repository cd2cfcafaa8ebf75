"""The documentation says what the code does: all options and keys, no others; its links lead somewhere."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from pydantic import BaseModel

from steelyard.cli.main import COMMANDS, app
from steelyard.config import schema
from steelyard.config.load import read_spec

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")


def page_id(page: Path) -> str:
    return str(page.relative_to(ROOT))


def commands() -> Iterator[tuple[str, Any]]:
    """Every command by its full name, `trace synth` included."""
    group: Any = typer.main.get_command(app)
    context = group.make_context("steelyard", [])
    for name in COMMANDS:
        command = group.get_command(context, name)
        inner = getattr(command, "commands", None)
        if inner:
            yield from ((f"{name} {sub}", inner[sub]) for sub in inner)
        else:
            yield name, command


def options(command: Any) -> set[str]:
    found = {option for param in command.params for option in (*param.opts, *param.secondary_opts)}
    return {option for option in found if option.startswith("--")} - {"--help"}


def sections() -> dict[str, str]:
    """docs/cli.md's text by command."""
    text = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    parts = re.split(r"^## `steelyard ([a-z]+(?: [a-z]+)?)[^`]*`\n", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_every_command_has_its_section() -> None:
    assert set(sections()) == {name for name, _ in commands()}


def test_every_option_is_in_its_commands_section_and_no_other_one() -> None:
    documented = sections()
    for name, command in commands():
        known = options(command)
        # An option of another command may be mentioned in prose; the tables hold this command's own.
        table = {
            option
            for line in documented[name].splitlines()
            if line.startswith("| `-")
            for option in OPTION.findall(line.split("|")[1])
        }
        assert table == known, f"docs/cli.md, steelyard {name}"


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_commands_in_examples_exist_with_their_options(page: Path) -> None:
    known = {name: options(command) for name, command in commands()}
    for line in page.read_text(encoding="utf-8").splitlines():
        for call in re.findall(r"(?:^|&& |`|\$ )steelyard ([a-z][^`&#]*)", line):
            words = call.split()
            name = " ".join(words[:2]) if " ".join(words[:2]) in known else words[0]
            if name in known:
                assert set(OPTION.findall(call)) <= known[name] | {"--help"}, f"{page_id(page)}: {line}"
            else:
                assert name in {"plan", "simulate", "trace"}, f"{page_id(page)}: no command {name}"


def models_of(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    for value in vars(schema).values():
        if isinstance(value, type) and issubclass(value, model) and value not in (model, BaseModel):
            yield value


def spec_keys() -> set[str]:
    return {key for model in models_of(schema.SpecModel) for key in model.model_fields}


def test_every_key_of_the_spec_is_documented() -> None:
    text = (ROOT / "docs" / "spec.md").read_text(encoding="utf-8")
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    words = {word for code in re.findall(r"`([^`]+)`", prose) for word in re.findall(r"\w+", code)}
    # How tables by device and accuracies are kept; in the file devices' own names, and a list, stand there.
    assert spec_keys() - words <= {"devices", "listed"}


def test_the_tables_of_the_spec_hold_no_unknown_key() -> None:
    text = (ROOT / "docs" / "spec.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    documented = {key for row in rows for key in re.findall(r"`(\w+)`", row)}
    assert documented <= spec_keys()


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8")):
        if not re.match(r"[a-z]+:", target):
            assert (page.parent / target).exists(), f"{page_id(page)} links to {target}"


def anchors(page: Path) -> set[str]:
    """What headings can be linked by, as GitHub names them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_links_to_sections_lead_to_a_heading(page: Path) -> None:
    for target, anchor in re.findall(r"\]\(([^)#\s:]*)#([^)\s]+)\)", page.read_text(encoding="utf-8")):
        there = page.parent / target if target else page
        if there.suffix == ".md":
            assert anchor in anchors(there), f"{page_id(page)} links to {target}#{anchor}"


def test_every_decision_record_is_in_the_index() -> None:
    folder = ROOT / "docs" / "adr"
    index = re.findall(r"\]\(([^)]+)\)", (folder / "README.md").read_text(encoding="utf-8"))
    assert index == sorted(path.name for path in folder.glob("[0-9]*.md"))


@pytest.mark.parametrize("page", [*PAGES, *sorted(ROOT.glob("examples/**/*.yaml"))], ids=page_id)
def test_specs_in_documents_and_examples_are_accepted(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    blocks = [text] if page.suffix == ".yaml" else re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    for block in blocks:
        if "services:" in block:
            read_spec(block, page_id(page), page.parent)


def test_the_lock_file_is_complete_and_names_no_host_or_folder() -> None:
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    locked = set(re.findall(r"^([a-z0-9-]+)==", text, flags=re.MULTILINE))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    named = {re.split(r"[^A-Za-z0-9_-]", line)[0].lower() for group in groups for line in group} - {
        "steelyard"
    }
    assert named <= locked
    assert not re.search(r"https?:|file:|--find-links|--index|^-e|^/", text, flags=re.MULTILINE)
