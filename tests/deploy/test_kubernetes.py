"""The Kubernetes manifests and the values of Dagster's chart: valid, confined, and about what exists."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import kubernetes_validate
import pytest
import yaml
from dagster_k8s.job import UserDefinedDagsterK8sConfig

from cli.all_settings import ALL_SETTINGS
from search_api.openapi import openapi_document
from tests.deploy.programs import CONSTRAINTS, DEPLOY, DIRECTORIES, ROOT, VERSION, require_command, require_settings
from tests.docs.pages import Page

KUBERNETES = DEPLOY / "kubernetes"
KUSTOMIZATION: dict[str, Any] = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text("utf-8"))
MANIFESTS: list[dict[str, Any]] = [
    manifest
    for name in KUSTOMIZATION["resources"]
    for manifest in yaml.safe_load_all((KUBERNETES / name).read_text("utf-8"))
]
VALUES_TEXT = (DEPLOY / "helm" / "dagster-values.yaml").read_text("utf-8")
VALUES: dict[str, Any] = yaml.safe_load(VALUES_TEXT)
GPU_VALUES: dict[str, Any] = yaml.safe_load((DEPLOY / "helm" / "dagster-gpu-values.yaml").read_text("utf-8"))
CLIENT = {"course-search/chroma": "client"}
CONFINED = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
PROGRAMS = {"course-search", "python"}
SECRETS = {"DATABASE_URL", "DAGSTER_POSTGRES_URL", "INTERNAL_TOKEN", "EMBEDDING_SERVICE_TOKEN"}
KUBECTL = shutil.which("kubectl")
PATHS = {*re.findall(r'"(/[a-z]+)": \{', openapi_document()), "/api/v2/heartbeat"}


def named(kind: str, name: str) -> dict[str, Any]:
    [found] = [each for each in MANIFESTS if each["kind"] == kind and each["metadata"]["name"] == name]
    return found


def pods() -> Iterator[dict[str, Any]]:
    yield from (each["spec"]["template"]["spec"] for each in MANIFESTS if "template" in each.get("spec", {}))


def containers() -> Iterator[dict[str, Any]]:
    for pod in pods():
        yield from [*pod["containers"], *pod.get("initContainers", ())]


@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda each: f"{each['kind']} {each['metadata']['name']}")
def test_manifest_has_the_format(manifest: dict[str, Any]) -> None:
    kubernetes_validate.validate(manifest, "1.33", strict=True)


def test_all_files_are_applied() -> None:
    assert {*KUSTOMIZATION["resources"], "kustomization.yaml"} == {path.name for path in KUBERNETES.iterdir()}
    assert [image["newTag"] for image in KUSTOMIZATION["images"]] == [VERSION]


def test_pods_are_confined() -> None:
    for pod in pods():
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["automountServiceAccountToken"] is False
    for container in containers():
        assert container["securityContext"] == CONFINED
        assert "/tmp" in {mount["mountPath"] for mount in container["volumeMounts"]}
        assert "memory" in container["resources"]["limits"]


def test_containers_run_what_exists() -> None:
    for container in containers():
        assert container["image"] == "course-search"
        command = container["command"]
        scripts = re.split(r"&&|\|\|", command[2]) if command[0] == "sh" else [" ".join(command)]
        ours = [words for script in scripts if (words := script.replace("exec ", "").split())[0] in PROGRAMS]
        assert ours
        for words in ours:
            require_command(words)
        require_settings([variable["name"] for variable in container.get("env", ())])
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            assert probe not in container or container[probe]["httpGet"]["path"] in PATHS
        for port in container.get("ports", ()):
            assert str(port["containerPort"]) in command


def test_settings_exist_and_lead_to_the_services() -> None:
    settings = named("ConfigMap", "course-search")["data"]
    require_settings(settings)
    assert not settings.keys() & SECRETS
    assert all(name in {n.upper() for s in ALL_SETTINGS for n in s.model_fields} for name in SECRETS)
    for name in ("CHROMA_URL", "EMBEDDING_SERVICE_URL"):
        host, port = settings[name].removeprefix("http://").split(":")
        service = named("Service", host)["spec"]
        assert service["ports"][0]["port"] == int(port)
    for name in DIRECTORIES & settings.keys():
        assert settings[name].startswith("/data/files/"), "on the volume that the pods share"


@pytest.mark.parametrize("service", [each for each in MANIFESTS if each["kind"] == "Service"], ids=str)
def test_service_leads_to_pods(service: dict[str, Any]) -> None:
    [labels] = [
        each["spec"]["template"]["metadata"]["labels"]
        for each in MANIFESTS
        if each["kind"] in ("Deployment", "StatefulSet") and each["metadata"]["name"] == service["metadata"]["name"]
    ]
    assert service["spec"]["selector"].items() <= labels.items()


def test_only_clients_reach_chroma() -> None:
    """It has no authentication."""
    policy = named("NetworkPolicy", "chroma")["spec"]
    assert (
        policy["podSelector"]["matchLabels"].items()
        <= named("StatefulSet", "chroma")["spec"]["selector"]["matchLabels"].items()
    )
    assert policy["ingress"][0]["from"] == [{"podSelector": {"matchLabels": CLIENT}}]
    assert CLIENT.items() <= named("Deployment", "search")["spec"]["template"]["metadata"]["labels"].items()
    [code] = VALUES["dagster-user-deployments"]["deployments"]
    assert code["labels"] == CLIENT
    assert code["includeConfigInLaunchedRuns"] == {"enabled": True}, "runs have its labels"


def test_values_of_the_chart_are_of_this_version() -> None:
    texts = (VALUES_TEXT, (ROOT / "docs/guides/kubernetes.md").read_text("utf-8"))
    assert {version for text in texts for version in re.findall(r"--version (\S+)", text)} == {CONSTRAINTS["dagster"]}
    [code] = VALUES["dagster-user-deployments"]["deployments"]
    for image in (code["image"], VALUES["dagsterDaemon"]["image"], VALUES["dagsterWebserver"]["image"]):
        assert image["tag"] == VERSION
    require_command(["python", "-m", code["dagsterApiGrpcArgs"][1]])
    for part in (code, VALUES["dagsterDaemon"], VALUES["dagsterWebserver"]):
        assert part["securityContext"] == CONFINED
        home = VALUES["global"]["dagsterHome"]
        assert {home, "/tmp"} <= {mount["mountPath"] for mount in part["volumeMounts"]}
        assert {mount["name"] for mount in part["volumeMounts"]} == {volume["name"] for volume in part["volumes"]}


def test_instance_of_the_chart_is_like_ours() -> None:
    ours = yaml.safe_load((ROOT / "orchestration/instance/dagster-postgres.yaml").read_text("utf-8"))
    theirs = VALUES["additionalInstanceConfig"]
    assert VALUES["dagsterDaemon"]["runCoordinator"]["config"]["customRunCoordinator"]["config"] == ours["run_queue"]
    runs, our_runs = theirs["concurrency"]["runs"], ours["concurrency"]["runs"]
    assert runs["tag_concurrency_limits"] == our_runs["tag_concurrency_limits"]
    assert theirs["concurrency"]["pools"]["granularity"] == ours["concurrency"]["pools"]["granularity"]
    [limit] = re.findall(r"concurrency set gpu (\d+)", (KUBERNETES / "jobs.yaml").read_text("utf-8"))
    assert runs["max_concurrent_runs"] > int(limit), "uploaded files are read meanwhile"
    assert VALUES["dagsterDaemon"]["runMonitoring"]["enabled"] is ours["run_monitoring"]["enabled"] is True
    assert VALUES["retention"]["sensor"]["purgeAfterDays"] == ours["retention"]["sensor"]["purge_after_days"]


def test_dagster_accepts_the_instance_of_the_chart(tmp_path: Path) -> None:
    """The chart writes a `run_coordinator` in any case; without ours, one that has no queue."""
    coordinator = VALUES["dagsterDaemon"]["runCoordinator"]
    custom = coordinator["enabled"] and coordinator["type"] == "CustomRunCoordinator"
    of_chart = {
        "run_coordinator": coordinator["config"]["customRunCoordinator"]
        if custom
        else {
            "module": "dagster._core.run_coordinator.sync_in_memory_run_coordinator",
            "class": "SyncInMemoryRunCoordinator",
        },
        "telemetry": VALUES["telemetry"],
    }
    additional = VALUES["additionalInstanceConfig"]
    assert not of_chart.keys() & additional.keys()
    (tmp_path / "dagster.yaml").write_text(yaml.safe_dump(of_chart | additional))
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        queue = instance.get_concurrency_config().run_queue_config
    assert queue
    assert queue.max_concurrent_runs == additional["concurrency"]["runs"]["max_concurrent_runs"]


def test_port_of_the_web_server_needs_no_privilege() -> None:
    """The chart lets the web server listen on the port of its service."""
    webserver = VALUES["dagsterWebserver"]
    port = webserver["service"]["port"]
    assert port > 1023
    assert webserver["readinessProbe"]["httpGet"]["port"] == port


@pytest.mark.parametrize("values", [VALUES, GPU_VALUES], ids=["values", "gpu"])
def test_pods_of_runs_have_the_format(values: dict[str, Any]) -> None:
    config = values["runLauncher"]["config"]["k8sRunLauncher"]["runK8sConfig"]
    snake = {"containerConfig": "container_config", "podSpecConfig": "pod_spec_config"}
    UserDefinedDagsterK8sConfig.from_dict(  # type: ignore[no-untyped-call]
        {snake[name]: part for name, part in config.items()}
    )
    require_settings([variable["name"] for variable in config["containerConfig"].get("env", ())])


def test_a_new_pod_does_not_wait_for_the_gpu_of_an_old_one() -> None:
    spec = named("Deployment", "embedding")["spec"]
    assert "nvidia.com/gpu" in spec["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert spec["strategy"]["rollingUpdate"] == {"maxUnavailable": 1, "maxSurge": 0}


def test_chroma_has_what_its_commands_need() -> None:
    """`backup`, `restore` and `forget` run in its container. A restore renames the directory of Chroma."""
    [container] = named("StatefulSet", "chroma")["spec"]["template"]["spec"]["containers"]
    mounts = {mount["mountPath"]: mount.get("readOnly", False) for mount in container["volumeMounts"]}
    assert mounts == dict.fromkeys(
        ("/data/chroma", "/data/files", "/data/snapshots", "/data/dagster", "/tmp"),
        False,
    )
    environment = {variable["name"]: variable["value"] for variable in container["env"]}
    assert environment["CHROMA_URL"] == f"http://127.0.0.1:{container['command'][-1]}", "whatever the NetworkPolicy"
    assert environment["SQLITE_TMPDIR"] == "/data/chroma"


@pytest.mark.skipif(KUBECTL is None, reason="kubectl is missing")
def test_pod_of_chroma_runs_without_the_server_for_a_restore(tmp_path: Path) -> None:
    assert KUBECTL
    [words] = [words for words in Page("docs/guides/backup.md").commands if "patch" in words]
    manifest = tmp_path / "chroma.json"
    manifest.write_text(json.dumps(named("StatefulSet", "chroma")))
    patch = words[words.index("--patch") :]
    command = [KUBECTL, "patch", "--local", "--filename", str(manifest), "--output", "json", *patch]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    [before] = named("StatefulSet", "chroma")["spec"]["template"]["spec"]["containers"]
    [after] = json.loads(done.stdout)["spec"]["template"]["spec"]["containers"]
    probes = ("startupProbe", "readinessProbe", "livenessProbe")
    expected = {name: value for name, value in before.items() if name not in probes}
    assert after == {**expected, "command": ["sleep", "infinity"]}


def test_volumes_are_claimed() -> None:
    claims = {each["metadata"]["name"] for each in MANIFESTS if each["kind"] == "PersistentVolumeClaim"}
    volumes = [
        *(volume for pod in pods() for volume in pod["volumes"]),
        *VALUES["dagster-user-deployments"]["deployments"][0]["volumes"],
    ]
    used = {volume["persistentVolumeClaim"]["claimName"] for volume in volumes if "persistentVolumeClaim" in volume}
    assert used == claims
