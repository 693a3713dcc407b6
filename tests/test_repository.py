"""The repo agrees with itself: environments, modules, links and citations."""

import ast
import importlib.util
import json
import re
import sys
import tomllib
from importlib import metadata
from urllib.parse import unquote

import nbformat
import pytest
import yaml
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from rattler import MatchSpec

from tests.helpers.code_lines import code_lines
from tests.helpers.paths import ROOT

pytestmark = pytest.mark.fast

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
REQUIREMENT = re.compile(r"([\w.-]+)(.*)")
#: Names that conda-forge gives to packages of the registry.
CONDA_NAMES = {"torch": "pytorch", "playwright": "playwright-python"}
#: What only pip has, or has for the right platforms only.
BY_PIP = {"axe-playwright-python", "triton"}


def required(without=()):
    """Every requirement of pyproject, as name -> version specifier (and marker, if any)."""
    project = PYPROJECT["project"]
    extras = project["optional-dependencies"]
    lists = [project["dependencies"], *(e for name, e in extras.items() if name not in without)]
    found = {}
    for line in (line for each in lists for line in each):
        name, specifier = REQUIREMENT.fullmatch(line).groups()
        if not line.startswith("course_lib["):
            found[name] = specifier
    return found


# --- environments --------------------------------------------------------------------------------


def test_the_conda_environment_agrees_with_pyproject():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text("utf-8"))
    specs, installed_by_pip = {}, []
    for line in environment["dependencies"]:
        if isinstance(line, dict):
            installed_by_pip += line["pip"]
            continue
        spec = MatchSpec(line, strict=True)
        specs[spec.name.normalized] = str(spec.version or "")
    assert specs.pop("python") == PYPROJECT["project"]["requires-python"]
    specs.pop("pip")
    found = required(without={"bench", "site"})  # a rival of the grader, and what builds the site
    wanted = {CONDA_NAMES.get(name, name): version for name, version in found.items()}
    by_pip = [f"{name} {wanted.pop(name)}" for name in sorted(BY_PIP)]
    assert specs == wanted
    assert installed_by_pip == [*by_pip, "-e ."]


def test_every_requirement_is_pinned_and_every_pin_satisfies_it():
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    pairs = (line.split("==") for line in lines if "==" in line)
    pins = {canonicalize_name(name): version for name, version in pairs}
    for name, requirement in required().items():
        name, specifier = canonicalize_name(name), requirement.partition(";")[0]
        assert name in pins, f"{name} is not pinned"
        assert SpecifierSet(specifier).contains(pins[name]), f"{name}: {pins[name]}"


def test_every_pin_can_be_installed_by_the_first_release_of_the_oldest_python():
    """A pin once wanted 3.11.5, and Debian's Python, 3.11.2, could install nothing."""
    (oldest,) = re.findall(r"^>=(\d+\.\d+)$", PYPROJECT["project"]["requires-python"])
    looked_at = 0
    for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines():
        name, _, version = line.partition("==")
        if not version or distribution_version(name) != version:
            continue  # belongs to an extra that is not installed here
        wanted = metadata.metadata(name)["Requires-Python"] or ""
        assert SpecifierSet(wanted).contains(f"{oldest}.0"), f"{line} wants Python {wanted}"
        looked_at += 1
    assert looked_at > 100


def distribution_version(name: str) -> str | None:
    """The installed version without a local part (`+cpu`), or None."""
    try:
        return metadata.version(name).split("+")[0]
    except metadata.PackageNotFoundError:
        return None


def test_the_changelog_has_the_headings_of_keep_a_changelog():
    text = (ROOT / "CHANGELOG.md").read_text("utf-8")
    first, *older = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert first == "[Unreleased]"
    assert all(re.fullmatch(r"\[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d", version) for version in older)
    kinds = set(re.findall(r"^### (.+)$", text, re.MULTILINE))
    assert kinds and kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


# --- modules -------------------------------------------------------------------------------------


def modules(package):
    return sorted((ROOT / package).rglob("*.py"))


@pytest.mark.parametrize(
    "path",
    [*modules("course_lib"), *modules("course_tools")],
    ids=lambda p: p.relative_to(ROOT).as_posix(),
)
def test_every_module_says_what_it_is_for(path):
    assert len(ast.get_docstring(ast.parse(path.read_text("utf-8"))) or "") > 30


#: Functions of `course_lib` that are still longer than a screen; the list only gets shorter.
STILL_TOO_LARGE = {
    "explorers/generation.py __init__",
}


def test_every_function_fits_on_a_screen():
    """At most 60 lines of code and 9 parameters; a kernel of Triton is one function by nature."""
    too_large = set()
    for path in modules("course_lib"):
        if path.name.startswith("triton_"):
            continue
        source = path.read_text("utf-8")
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                names = {a.arg for a in ast.walk(node.args) if isinstance(a, ast.arg)}
                lines = code_lines(ast.get_source_segment(source, node))
                if lines > 60 or len(names - {"self", "cls"}) > 9:
                    place = path.relative_to(ROOT / "course_lib").as_posix()
                    too_large.add(f"{place} {node.name}")
    assert too_large == STILL_TOO_LARGE


@pytest.mark.parametrize(("name", "most"), [("gpt", 220), ("llama", 200), ("cache", 180)])
def test_code_that_readers_are_invited_to_read_is_short(name, most):
    """Lines of code, without docstrings, comments and blank lines."""
    assert code_lines((ROOT / "course_lib" / f"{name}.py").read_text("utf-8")) <= most


def test_lines_of_code_are_counted_as_a_reader_would():
    source = '"""Doc.\n\nstring."""\n\nx = 1  # comment\n\n# comment\ndef f():\n    """Doc."""\n'
    assert code_lines(source + '    return """two\n\nlines, one blank"""\n') == 5


def test_the_library_needs_nothing_beyond_its_requirements():
    project = PYPROJECT["project"]
    allowed = {*project["dependencies"], *project["optional-dependencies"]["real"]}
    names = {REQUIREMENT.fullmatch(line)[1] for line in allowed} | {"course_lib", "triton"}
    names.add("typing_extensions")  # for type checkers alone; torch brings it
    for path in modules("course_lib"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            roots = []
            if isinstance(node, ast.Import):
                roots = [alias.name.split(".")[0] for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                roots = [node.module.split(".")[0]]
            for root in roots:
                assert root in names | sys.stdlib_module_names, f"{path.name} imports {root}"


# --- links and citations -------------------------------------------------------------------------

LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def pages():
    """Every text that people read: (name, folder that its links start from, text)."""
    for file in sorted(ROOT.glob("*.md")) + sorted((ROOT / "docs").rglob("*.md")):
        yield file.relative_to(ROOT).as_posix(), file.parent, file.read_text("utf-8")
    folders = ("notebooks", "exercises", "solutions")
    for file in (f for folder in folders for f in sorted((ROOT / folder).rglob("[0-9A-Z]*.ipynb"))):
        text = "\n\n".join(
            c.source for c in nbformat.read(file, 4).cells if c.cell_type == "markdown"
        )
        yield file.relative_to(ROOT).as_posix(), file.parent, text


@pytest.mark.parametrize(("name", "folder", "text"), list(pages()), ids=lambda x: str(x)[:40])
def test_every_internal_link_leads_somewhere(name, folder, text):
    for target in LINK.findall(text):
        if re.match(r"[a-z]+:", target):
            assert target.startswith(("https://", "mailto:")), f"{name}: {target}"
            continue
        path, _, anchor = target.partition("#")
        file = folder / unquote(path) if path else None
        assert file is None or file.exists(), f"{name}: {target} leads nowhere"
        if anchor and (file is None or file.suffix == ".md"):
            page = text if file is None else file.read_text("utf-8")
            slugs = {
                re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")
                for heading in re.findall(r"^#+ (.+)$", page, re.MULTILINE)
            }
            assert anchor in slugs, f"{name}: no heading for #{anchor}"


def test_every_paper_that_a_page_cites_is_in_the_bibliography():
    bibliography = (ROOT / "docs" / "references.bib").read_text("utf-8")
    cited = {
        number
        for _, _, text in pages()
        for number in re.findall(r"arxiv\.org/abs/(\d{4}\.\d{4,5})", text)
    }
    assert cited, "the pattern finds citations"
    for number in sorted(cited):
        assert number in bibliography, f"arXiv:{number} is cited but not in docs/references.bib"


def test_bibliography_keys_are_unique():
    text = (ROOT / "docs" / "references.bib").read_text("utf-8")
    keys = re.findall(r"^@\w+\{([^,]+),", text, re.MULTILINE)
    assert keys and len(keys) == len(set(keys))


def test_the_performance_table_shows_the_recorded_run():
    pytest.importorskip("transformers")
    path = ROOT / "benchmarks" / "kv_cache.py"
    spec = importlib.util.spec_from_file_location("kv_cache_benchmark", path)
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    result = json.loads(benchmark.RESULTS.read_text("utf-8"))
    (shown,) = benchmark.SHOWN.findall(benchmark.README.read_text("utf-8"))
    assert shown == benchmark.shown(result)
    static = result["steps"]["batch_1_context_1023"]["static"]["median_ms"]
    assert f" {static:.1f} |" in shown and result["date"] in shown


def test_the_code_that_the_readme_shows_runs(capsys):
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)
    exec(code, {})
    assert "output = [0.2327, 0.3837, 0.3837, 0.0000]" in capsys.readouterr().out


def test_the_readme_gives_the_grader_the_speed_that_was_recorded():
    ratios = json.loads((ROOT / "benchmarks" / "results" / "grading.json").read_text("utf-8"))[
        "ratios"
    ]
    readme = (ROOT / "README.md").read_text("utf-8")
    assert f"{ratios['seconds_per_submission']:.2f} seconds" in readme
    assert f"{ratios['minutes_for_1000']:.0f} minutes" in readme
