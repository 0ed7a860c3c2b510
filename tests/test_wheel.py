"""The wheel and the sdist hold what the product needs and nothing else; the wheel works without the checkout."""

import json
import shutil
import site
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from email import message_from_bytes
from pathlib import Path, PurePosixPath

import pytest

from tests.docs.pages import ROOT
from tests.support.product import environment

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
FOLDERS = sorted(
    path.name
    for path in ROOT.iterdir()
    if (path / "__init__.py").is_file() and path.name not in {"benchmarks", "tests"}
)
"""The packages of the product."""
USE = """
import json
from pathlib import Path

from starlette.testclient import TestClient
from typer.main import get_command

from cli.commands.demo import SAMPLES
from cli.commands.up import WORKSPACE
from cli.main import app
from orchestration import definitions
from search_api.app import create_app

commands = get_command(app).commands
for command in commands.values():
    command.get_help(command.make_context(command.name, [], resilient_parsing=True))
with TestClient(create_app()) as client:
    page, script = client.get("/").text, client.get("/static/page.js")
    version = client.get("/openapi.json").json()["info"]["version"]
    courses = client.get("/courses").json()["courses"]
print(json.dumps({
    "commands": sorted(commands),
    "courses": [course["course_id"] for course in courses],
    "file": definitions.__file__,
    "has_job": definitions.defs.resolve_job_def("embed_course") is not None,
    "has_page": "<main" in page and script.is_success,
    "samples": sorted(path.name for path in SAMPLES.iterdir()),
    "version": version,
    "workspace": Path(WORKSPACE[1]).read_text("utf-8"),
}))
"""


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The sdist, and the wheel that is built from it, as `python -m build` does. What git ignores lies about too."""
    directory = tmp_path_factory.mktemp("distributions")
    source = directory / "source"
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__", "*.safetensors"))
    shutil.copytree(ROOT / "data" / "samples", source / "data" / "samples")
    for pattern in ("*.toml", "*.md", "*.in", "*.txt", "*.ini", "*.yaml", "LICENSE", ".env.example"):
        for path in ROOT.glob(pattern):
            shutil.copy(path, source)
    for stray in ("models/qwen3-embedding-0.6b/model.safetensors", "data/catalogue.db", "tests/test_x.py", ".env"):
        (source / stray).parent.mkdir(parents=True, exist_ok=True)
        (source / stray).write_bytes(b"x")
    build(source, directory, "sdist")
    [sdist] = directory.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(directory / "unpacked", filter="data")
    [unpacked] = (directory / "unpacked").iterdir()
    build(unpacked, directory, "wheel")
    [wheel] = directory.glob("*.whl")
    return sdist, wheel


def build(source: Path, target: Path, kind: str) -> None:
    code = f"from setuptools.build_meta import build_{kind}; build_{kind}({str(target)!r})"
    run = subprocess.run([sys.executable, "-c", code], cwd=source, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


def tracked(folder: str) -> set[str]:
    """All files of the package in the checkout that belong to the product."""
    suffixes = {".py", ".yaml", ".txt", ".mako", ".typed", ".html", ".css", ".js", ".svg"}
    return {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and path.suffix in suffixes and "__pycache__" not in path.parts
    }


def test_wheel_contains_the_packages_with_their_data_and_nothing_else(distributions: tuple[Path, Path]) -> None:
    samples = {path.relative_to(ROOT).as_posix() for path in (ROOT / "data/samples").rglob("*") if path.is_file()}
    expected = samples.union(*map(tracked, FOLDERS)) - {"data/samples/README.md"}
    information = f"course_search-{PROJECT['version']}.dist-info"
    with zipfile.ZipFile(distributions[1]) as archive:
        names = set(archive.namelist())
        metadata = message_from_bytes(archive.read(f"{information}/METADATA"))
    assert {name for name in names if not name.startswith(information)} == expected
    assert f"{information}/licenses/LICENSE" in names
    assert (metadata["Version"], metadata["License-Expression"]) == (PROJECT["version"], "MIT")
    assert set(metadata.get_all("Provides-Extra") or []) == set(PROJECT["optional-dependencies"])
    assert "Two commands" in metadata.get_payload(), "the README"


def test_sdist_contains_no_tests_weights_or_state(distributions: tuple[Path, Path]) -> None:
    with tarfile.open(distributions[0]) as archive:
        names = {PurePosixPath(name).relative_to(PurePosixPath(name).parts[0]) for name in archive.getnames()}
    assert {"constraints.txt", "CHANGELOG.md", "LICENSE"} <= set(map(str, names))
    assert not [name for name in names if name.parts[:1] == ("tests",)]
    assert not [name for name in names if name.suffix in {".safetensors", ".db"} or name.name == ".env"]


def test_installed_wheel_works_in_an_empty_directory(distributions: tuple[Path, Path], tmp_path: Path) -> None:
    """With the libraries of this environment but without the checkout; nothing is written beside the packages."""
    directory = tmp_path / "venv"
    venv.create(directory)
    python, program = directory / "bin" / "python", directory / "bin" / "course-search"
    packages = Path(sysconfig.get_path("purelib", "venv", {"base": str(directory), "installed_base": str(directory)}))
    # The .pth files in these directories, one of which leads to the checkout, are not read.
    (packages / "libraries.pth").write_text("\n".join(site.getsitepackages()), encoding="utf-8")
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-index", "--no-deps"]
    subprocess.run([*pip, "--no-compile", distributions[1]], check=True)
    installed = sorted(packages.rglob("*"))
    empty = tmp_path / "empty"
    empty.mkdir()
    env = environment(empty, {"PYTHONDONTWRITEBYTECODE": "1", "DAGSTER_HOME": ""})
    env.pop("PYTHONPATH", None)

    def run(*command: str | Path) -> str:
        result = subprocess.run(command, cwd=empty, env=env, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    assert run(program, "--version") == f"course-search {PROJECT['version']}\n"
    assert "at revision" in run(program, "migrate")
    run(program, "load", packages / "data" / "samples" / "pcb-en.jsonl")
    found = json.loads(run(python, "-c", USE).splitlines()[-1])
    assert Path(found.pop("file")).is_relative_to(packages)
    assert found == {
        "commands": sorted(path.stem.replace("_", "-") for path in (ROOT / "cli/commands").glob("[a-z]*.py")),
        "courses": ["pcb-en"],
        "has_job": True,
        "has_page": True,
        "samples": ["lab-en", "pcb-en.jsonl", "pcb-zh.jsonl", "questions.json"],
        "version": PROJECT["version"],
        "workspace": (ROOT / "workspace.yaml").read_text("utf-8"),
    }
    assert sorted(path.name for path in empty.iterdir()) == ["data"]
    assert sorted(packages.rglob("*")) == installed
