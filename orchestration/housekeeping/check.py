"""The job `check`: does what `course-search doctor` does. It repairs nothing."""

import logging

import dagster as dg

from maintenance.checks.all_checks import run_checks
from maintenance.checks.findings import Finding, Level
from orchestration.partitions import HOUSEKEEPING_TAG, OWNERS
from orchestration.workers import register_worker

LOG_LEVELS = {Level.OK: logging.INFO, Level.WARNING: logging.WARNING, Level.ERROR: logging.ERROR}


@dg.op(description="Runs the checks of `course-search doctor`, except the one of the settings.")
def find_problems(context: dg.OpExecutionContext) -> None:
    """Log every finding, and fail if one is an error.

    The settings are not checked: the code location has loaded its own, and does not know those of other processes.
    """
    register_worker(context.instance, context.run_id)
    findings: list[Finding] = []
    for finding in run_checks((), deep=False):
        context.log.log(LOG_LEVELS[finding.level], _line(finding))
        findings.append(finding)
    metadata = {"findings": _table(findings)}
    if errors := [finding for finding in findings if finding.level == Level.ERROR]:
        raise dg.Failure("; ".join(map(_line, errors)), metadata=metadata, allow_retries=False)
    context.add_output_metadata(metadata)


def _line(finding: Finding) -> str:
    return f"{finding.check}: {finding.message}" + (f". {finding.advice}" if finding.advice else "")


def _table(findings: list[Finding]) -> dg.TableMetadataValue:
    columns = ("level", "check", "message", "advice")
    records = [dg.TableRecord({column: str(getattr(finding, column)) for column in columns}) for finding in findings]
    return dg.MetadataValue.table(records, dg.TableSchema([dg.TableColumn(column) for column in columns]))


@dg.job(tags={HOUSEKEEPING_TAG: "check"}, owners=OWNERS)
def check() -> None:
    """Check catalogue, Chroma, the model and every course, and fail if there is an error. Nothing is repaired."""
    find_problems()


check_schedule = dg.ScheduleDefinition(
    job=check,
    cron_schedule="0 2 * * *",
    description="Checks the installation every night. Off until it is switched on.",
    owners=OWNERS,
)
