"""The package that a Teaching Engine installs: without the product, and without torch."""

import json
import shutil
import site
import subprocess
import sys
import tomllib
import zipfile
from email import message_from_string
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "course_search_client"
SHOW_IMPORTS = """
import json, sys
sys.path[:0] = sys.argv[1:]
before = set(sys.modules)
import course_search_client
names = {name.partition(".")[0] for name in set(sys.modules) - before}
print(json.dumps([course_search_client.__file__, sorted(names - sys.stdlib_module_names)]))
"""


def test_wheel_contains_the_package_and_needs_only_httpx(tmp_path: Path) -> None:
    source = shutil.copytree(PACKAGE, tmp_path / "source", ignore=shutil.ignore_patterns("__pycache__"))
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--wheel-dir", tmp_path, source], check=True, timeout=240)
    (wheel,) = tmp_path.glob("course_search_client-*.whl")
    installed = tmp_path / "installed"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(installed)

    package = installed / "course_search_client"
    assert {path.name for path in package.iterdir()} == {
        path.name for path in PACKAGE.iterdir() if path.suffix in {".py", ".typed"}
    }
    (metadata_file,) = installed.glob("*.dist-info/METADATA")
    metadata = message_from_string(metadata_file.read_text(encoding="utf-8"))
    needs = metadata.get_all("Requires-Dist")
    assert needs == ["httpx", 'langchain-core; extra == "langchain"', 'llama-index-core; extra == "llamaindex"']
    product = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text(encoding="utf-8"))
    assert metadata["Version"] == product["project"]["version"]
    assert "CourseSearch(" in metadata.get_payload()  # the README

    # -S: without the product, whose editable installation would be found by a .pth file.
    run = [sys.executable, "-I", "-S", "-c", SHOW_IMPORTS, str(installed), *site.getsitepackages()]
    output = subprocess.run(run, check=True, capture_output=True, text=True, timeout=240, cwd=tmp_path).stdout
    origin, imported = json.loads(output)
    assert Path(origin).is_relative_to(installed)
    assert {"course_search_client", "httpx"} <= set(imported)
    assert not {"torch", "numpy", "pydantic", "fastapi", "models", "search_api"} & set(imported)
