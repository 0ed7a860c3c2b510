"""The tutorial, word by word: its commands in their order, on a product as `make up` starts it.

The small model that `make` installs embeds the texts, because the answers shown must be those of a real model.
"""

import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest

from cli.processes import free_port
from tests.docs.pages import ROOT, Page, commands_in
from tests.support.product import Product, running_product

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]

TUTORIAL = Page("docs/tutorial.md")
LIMIT_SECONDS = 480


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    """Running in a directory that looks like the repository: with the command and the samples."""
    directory = tmp_path_factory.mktemp("tutorial")
    shutil.copytree(ROOT / "data" / "samples", directory / "data" / "samples")
    command = directory / ".venv" / "bin" / "course-search"
    command.parent.mkdir(parents=True)
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m cli "$@"\n')
    command.chmod(0o755)
    settings = {name: str(free_port()) for name in ("SEARCH_PORT", "DAGSTER_PORT", "CHROMA_PORT")}
    with running_product(directory, {**settings, "EMBEDDING_DEVICE": "cpu", "PYTHONPATH": str(ROOT)}) as running:
        yield running


def test_the_tutorial_does_what_it_says(product: Product) -> None:
    blocks = [*TUTORIAL.blocks, ("", "")]
    output = ""
    for (language, content), (next_language, shown) in pairwise(blocks):
        if language != "console":
            continue
        ids = re.findall(r'"resource_id":\s*"(\w+)"', output)
        script = content.replace("RESOURCE", ids[-1] if ids else "").replace(
            "localhost:8000", str(product.search.base_url).rstrip("/")
        )
        output = run(product, script)
        if next_language == "text":
            for line in shown.splitlines():
                assert line in output
        elif next_language == "json":
            wait_for(product, script, json.loads(shown), output)
    assert product.search.get("/courses/notes/resources").json() == {"resources": []}


def run(product: Product, script: str) -> str:
    """Run a block. A command that fails must say why in what the page shows after it."""
    done = subprocess.run(
        ["bash", "-c", script.replace("curl ", "curl -sS --noproxy '*' ")],
        cwd=product.directory,
        env=product.env,
        capture_output=True,
        text=True,
        check=False,
        timeout=LIMIT_SECONDS,
    )
    assert done.returncode == 0 or "failed:" in done.stdout, done.stderr
    assert '"error":{"code"' not in done.stdout, done.stdout
    return done.stdout


def wait_for(product: Product, script: str, shown: Any, output: str) -> None:
    """Repeat a request until it is answered as the page shows: it says to do so while the pipeline works."""
    assert [words[0] for words in commands_in(script)] == ["curl"]
    deadline = time.monotonic() + LIMIT_SECONDS
    while not shows(shown, json.loads(output)):
        assert time.monotonic() < deadline, f"{script} answered {output}"
        time.sleep(0.2)
        output = run(product, script)


def shows(shown: Any, answer: Any) -> bool:
    """Whether an answer is as it is shown. What is shown may lack fields, and have `…` in a text."""
    if isinstance(shown, dict):
        return all(name in answer and shows(value, answer[name]) for name, value in shown.items())
    if isinstance(shown, list):
        return len(shown) == len(answer) and all(map(shows, shown, answer))
    if isinstance(shown, str):
        pattern = ".*".join(map(re.escape, shown.split("…")))
        return isinstance(answer, str) and re.fullmatch(pattern, answer, re.DOTALL) is not None
    return bool(shown == answer)
