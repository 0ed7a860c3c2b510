"""The alerts and the dashboard: valid, and about metrics that exist."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from search_api.operations.families import FAMILIES, Family

ROOT = Path(__file__).parents[2]
PROMETHEUS = ROOT / "deploy" / "prometheus"
RUNBOOK = ROOT / "docs" / "runbook.md"
DASHBOARD: dict[str, Any] = json.loads((ROOT / "deploy" / "grafana" / "course-search.json").read_text("utf-8"))
SCHEMA: dict[str, Any] = json.loads((Path(__file__).parent / "dashboard.schema.json").read_text("utf-8"))
ALERTS: list[dict[str, Any]] = [
    rule
    for group in yaml.safe_load((PROMETHEUS / "alerts.yml").read_text("utf-8"))["groups"]
    for rule in group["rules"]
]
PANELS: list[dict[str, Any]] = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
PANEL_EXPRESSIONS: list[str] = [target["expr"] for panel in PANELS for target in panel["targets"]]
ALERT_EXPRESSIONS: list[str] = [alert["expr"] for alert in ALERTS]
PROMTOOL = shutil.which("promtool")

needs_promtool = pytest.mark.skipif(
    PROMTOOL is None, reason="promtool is missing: install Prometheus (Debian: the package prometheus)"
)


def series(family: Family) -> set[str]:
    """The names of the series of a metric."""
    if family.kind == "histogram":
        return {f"{family.name}_{ending}" for ending in ("bucket", "sum", "count")}
    return {family.name}


def used(expressions: list[str]) -> set[str]:
    """The series of this product that expressions use."""
    return {name for expression in expressions for name in re.findall(r"\bcourse_search_\w+", expression)}


def selected_labels(expressions: list[str]) -> Iterator[tuple[str, str]]:
    """The series and the labels that they select by."""
    for expression in expressions:
        for name, selector in re.findall(r"\b(course_search_\w+)\{((?:[^}\"]|\"[^\"]*\")*)\}", expression):
            for label in re.findall(r"(\w+)(?:=~|!~|!=|=)\"", selector):
                yield name, label


def run_promtool(*arguments: str | Path) -> None:
    assert PROMTOOL
    done = subprocess.run([PROMTOOL, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_promtool_accepts_the_configuration(tmp_path: Path) -> None:
    """With its rules. The token is a file that the operator writes."""
    shutil.copytree(PROMETHEUS, tmp_path / "prometheus")
    (tmp_path / "prometheus" / "course-search-token").write_text("secret")
    run_promtool("check", "config", tmp_path / "prometheus" / "prometheus.yml")


@needs_promtool
def test_alerts_fire_when_they_should() -> None:
    run_promtool("test", "rules", PROMETHEUS / "alerts.test.yml")


def test_every_alert_is_tested() -> None:
    tested = re.findall(r"alertname=\"(\w+)\"", (PROMETHEUS / "alerts.test.yml").read_text("utf-8"))
    assert sorted(tested) == sorted(alert["alert"] for alert in ALERTS)


@needs_promtool
def test_promtool_accepts_the_expressions_of_the_dashboard(tmp_path: Path) -> None:
    values = {"$__rate_interval": "5m", "$job": "j", "$instance": "i"}
    expressions = [re.sub(r"\$\w+", lambda name: values[name[0]], expression) for expression in PANEL_EXPRESSIONS]
    rules = [{"record": f"panel:{number}", "expr": expression} for number, expression in enumerate(expressions)]
    file = tmp_path / "rules.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    run_promtool("check", "rules", "--lint=none", file)


def test_alerts_and_dashboard_use_metrics_that_exist() -> None:
    existing = set().union(*map(series, FAMILIES))
    assert used(ALERT_EXPRESSIONS) - existing == set()
    assert used(PANEL_EXPRESSIONS) - existing == set()


def test_they_select_by_labels_that_exist() -> None:
    """A selector with another label matches nothing, for ever and without an error."""
    labels = {name: {*family.label_names, "le", "job", "instance"} for family in FAMILIES for name in series(family)}
    selected = list(selected_labels(ALERT_EXPRESSIONS + PANEL_EXPRESSIONS))
    assert len(selected) > len(PANELS)
    assert [(name, label) for name, label in selected if label not in labels[name]] == []


def test_dashboard_shows_every_metric() -> None:
    shown = used(PANEL_EXPRESSIONS)
    assert [family.name for family in FAMILIES if not series(family) & shown] == []


def test_what_all_apps_read_from_the_catalogue_is_not_added_up() -> None:
    """Two search apps would show each course twice."""
    same = {family.name for family in FAMILIES if "max()" in family.meaning}
    assert len(same) > 10
    for expression in ALERT_EXPRESSIONS + PANEL_EXPRESSIONS:
        for name in used([expression]) & same:
            assert re.search(
                rf"max( by \(\w+\) )?\((sum by \(job, instance\) \()?((rate|increase)\()?{name}\b", expression
            )


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_alert_is_documented(alert: dict[str, Any]) -> None:
    annotations, name = alert["annotations"], alert["alert"]
    assert annotations.keys() == {"summary", "description", "runbook"}
    assert alert["labels"]["severity"] in ("critical", "warning")
    assert annotations["runbook"] == f"docs/runbook.md#{name.lower()}"
    entry = re.search(rf"^### {name}\n(.+?)(?=^##|\Z)", RUNBOOK.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    assert entry, "there is no entry in the runbook"
    assert "**Meaning.**" in entry[1]
    assert "**What to do.**" in entry[1]


def test_runbook_names_panels_that_exist() -> None:
    """In italics, with a capital letter, after the word `panel`."""
    panels = set(re.findall(r"[Pp]anel \*([^*]+)\*", RUNBOOK.read_text("utf-8")))
    titles = {panel["title"] for panel in PANELS}
    assert panels
    assert {name for name in panels if not any(title.startswith(name) for title in titles)} == set()


def test_dashboard_matches_the_schema() -> None:
    Draft202012Validator.check_schema(SCHEMA)
    errors = [f"{error.json_path}: {error.message}" for error in Draft202012Validator(SCHEMA).iter_errors(DASHBOARD)]
    assert errors == []


def test_schema_finds_mistakes() -> None:
    panel = PANELS[0]
    for broken in (
        {**panel, "unit": "s"},
        {**panel, "datasource": {"type": "prometheus", "uid": "of another installation"}},
        {**panel, "gridPos": {**panel["gridPos"], "w": 25}},
        {name: value for name, value in panel.items() if name != "description"},
    ):
        assert not Draft202012Validator(SCHEMA).is_valid({**DASHBOARD, "panels": [broken]})


def test_panels_do_not_overlap() -> None:
    cells: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        own = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not own & cells, panel["title"]
        assert max(x for x, _ in own) < 24
        cells |= own
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def test_variables_of_the_dashboard_exist() -> None:
    builtin = {"__rate_interval"}
    defined = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    assert set(re.findall(r"\$\{?(\w+)", json.dumps(PANELS))) <= defined | builtin
