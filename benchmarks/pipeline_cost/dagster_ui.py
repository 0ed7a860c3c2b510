"""What an operator does and sees in the Dagster UI, over the GraphQL the UI itself uses."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

LOCATION = {"repositoryLocationName": "course_search", "repositoryName": "__repository__"}
ASSET = {"path": ["course_collection"]}
JOB, SENSOR, PARTITIONS = "embed_course", "stage_one_sensor", "courses"

ADD_PARTITION = """
mutation ($location: RepositorySelector!, $name: String!, $key: String!) {
  answer: addDynamicPartition(repositorySelector: $location, partitionsDefName: $name, partitionKey: $key) {
    __typename ... on PythonError { message }
  }
}"""
LAUNCH_RUN = """
mutation ($params: ExecutionParams!) {
  answer: launchPipelineExecution(executionParams: $params) { __typename ... on PythonError { message } }
}"""
LAUNCH_BACKFILL = """
mutation ($params: LaunchBackfillParams!) {
  answer: launchPartitionBackfill(backfillParams: $params) { __typename ... on PythonError { message } }
}"""
FIND_SENSOR = """
query ($sensor: SensorSelector!) {
  answer: sensorOrError(sensorSelector: $sensor) {
    __typename ... on Sensor { id } ... on PythonError { message }
  }
}"""
STOP_SENSOR = """
mutation ($id: String!) { answer: stopSensor(id: $id) { __typename ... on PythonError { message } } }"""
MATERIALIZATIONS = """
query ($asset: AssetKeyInput!, $keys: [String!]!) {
  answer: assetNodeOrError(assetKey: $asset) {
    __typename
    ... on AssetNode {
      assetMaterializations(partitions: $keys) {
        partition timestamp runId
        metadataEntries {
          label ... on IntMetadataEntry { intValue } ... on FloatMetadataEntry { floatValue }
        }
      }
    }
  }
}"""
RUNS = """
query ($ids: [String!]!) {
  answer: runsOrError(filter: {runIds: $ids}) {
    __typename ... on Runs { results { runId creationTime startTime endTime } } ... on PythonError { message }
  }
}"""

UNFINISHED = """
query {
  answer: runsOrError(
    filter: {statuses: [NOT_STARTED, MANAGED, QUEUED, STARTING, STARTED, CANCELING]}, limit: 1
  ) { __typename ... on Runs { results { runId } } ... on PythonError { message } }
}"""


class DagsterError(Exception):
    """Dagster refused what it was asked for."""


@dataclass(frozen=True)
class Run:
    """When a run lived, in seconds since the epoch."""

    created: float
    started: float
    ended: float


@dataclass(frozen=True)
class Embedded:
    """What a run said of one course when it was done with it."""

    course_id: str
    run_id: str
    when: float
    """Seconds since the epoch."""
    texts: int
    tokens: int
    seconds: float
    """Reading, embedding and writing."""


class DagsterUi:
    """Dagster's web server, as somebody who has its page open uses it.

    Args:
        url: Where it answers.
    """

    def __init__(self, url: str) -> None:
        self._url = f"{url}/graphql"

    def add_partition(self, course_id: str) -> None:
        """Make the course known; otherwise the sensor does."""
        self._ask(ADD_PARTITION, location=LOCATION, name=PARTITIONS, key=course_id)

    def launch_runs(self, course_ids: Sequence[str]) -> None:
        """A run for each course alone."""
        selector = {**LOCATION, "jobName": JOB}
        for course_id in course_ids:
            tags = [{"key": "dagster/partition", "value": course_id}]
            self._ask(LAUNCH_RUN, params={"selector": selector, "executionMetadata": {"tags": tags}})

    def launch_backfill(self, course_ids: Sequence[str]) -> None:
        """One backfill over the courses."""
        self._ask(LAUNCH_BACKFILL, params={"assetSelection": [ASSET], "partitionNames": course_ids})

    def stop_sensor(self) -> None:
        """From now on only the operator launches."""
        sensor = self._ask(FIND_SENSOR, sensor={**LOCATION, "sensorName": SENSOR})
        self._ask(STOP_SENSOR, id=sensor["id"])

    def is_idle(self) -> bool:
        """Whether every run has ended."""
        return not self._ask(UNFINISHED)["results"]

    def embedded(self, course_ids: Sequence[str], since: float) -> list[Embedded]:
        """What was materialized of the courses since then."""
        answer = self._ask(MATERIALIZATIONS, asset=ASSET, keys=course_ids)
        events = [_embedded(event) for event in answer["assetMaterializations"]]
        return [event for event in events if event.when >= since]

    def runs(self, run_ids: Iterable[str]) -> list[Run]:
        """Runs that have ended, by id."""
        answer = self._ask(RUNS, ids=list(run_ids))
        return [Run(run["creationTime"], run["startTime"], run["endTime"]) for run in answer["results"]]

    def _ask(self, query: str, **variables: object) -> Any:
        request = {"query": query, "variables": variables}
        answer = httpx.post(self._url, json=request, timeout=120, trust_env=False).raise_for_status().json()
        if "errors" in answer or answer["data"]["answer"]["__typename"].endswith("Error"):
            raise DagsterError(f"Dagster refuses: {answer}")
        return answer["data"]["answer"]


def _embedded(event: Mapping[str, Any]) -> Embedded:
    metadata = {entry["label"]: entry for entry in event["metadataEntries"]}
    return Embedded(
        course_id=event["partition"],
        run_id=event["runId"],
        when=int(event["timestamp"]) / 1000,
        texts=metadata["embedded"]["intValue"],
        tokens=metadata["tokens"]["intValue"],
        seconds=metadata["seconds"]["floatValue"],
    )
