"""Client of the GraphQL API that the Dagster UI uses: launch runs and backfills, read runs and materializations."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from orchestration.partitions import JOB, PARTITION_TAG, PARTITIONS_NAME
from orchestration.runs import UNFINISHED

LOCATION = {"repositoryLocationName": "course_search", "repositoryName": "__repository__"}
ASSET = {"path": ["course_collection"]}
SENSOR = "stage_one_sensor"

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
UNFINISHED_RUNS = """
query ($statuses: [RunStatus!]) {
  answer: runsOrError(filter: {statuses: $statuses}, limit: 1) {
    __typename ... on Runs { results { runId } } ... on PythonError { message }
  }
}"""


class DagsterError(Exception):
    """Dagster answered a request with an error."""


@dataclass(frozen=True)
class Run:
    """Times of a run, in seconds since the epoch."""

    created: float
    started: float
    ended: float


@dataclass(frozen=True)
class EmbeddedCourse:
    """The materialization of one course by a run."""

    course_id: str
    run_id: str
    timestamp: float
    """Seconds since the epoch."""
    texts: int
    tokens: int
    seconds: float
    """Duration of reading, embedding and writing."""


class DagsterUI:
    """Client of a Dagster web server.

    Args:
        url: Base URL of the server.
    """

    def __init__(self, url: str) -> None:
        self._url = f"{url}/graphql"

    def add_partition(self, course_id: str) -> None:
        """Add the partition of the course, which otherwise the sensor adds."""
        self._query(ADD_PARTITION, location=LOCATION, name=PARTITIONS_NAME, key=course_id)

    def launch_runs(self, course_ids: Sequence[str]) -> None:
        """Launch one run per course."""
        selector = {**LOCATION, "jobName": JOB}
        for course_id in course_ids:
            tags = [{"key": PARTITION_TAG, "value": course_id}]
            self._query(LAUNCH_RUN, params={"selector": selector, "executionMetadata": {"tags": tags}})

    def launch_backfill(self, course_ids: Sequence[str]) -> None:
        """Launch one backfill of all these courses."""
        self._query(LAUNCH_BACKFILL, params={"assetSelection": [ASSET], "partitionNames": course_ids})

    def stop_sensor(self) -> None:
        """Stop the sensor that launches runs."""
        sensor = self._query(FIND_SENSOR, sensor={**LOCATION, "sensorName": SENSOR})
        self._query(STOP_SENSOR, id=sensor["id"])

    def is_idle(self) -> bool:
        """Whether all runs have ended."""
        return not self._query(UNFINISHED_RUNS, statuses=[status.value for status in UNFINISHED])["results"]

    def embedded_courses(self, course_ids: Sequence[str], since: float) -> list[EmbeddedCourse]:
        """The materializations of the courses since a time in seconds since the epoch."""
        answer = self._query(MATERIALIZATIONS, asset=ASSET, keys=course_ids)
        events = [_embedded(event) for event in answer["assetMaterializations"]]
        return [event for event in events if event.timestamp >= since]

    def runs(self, run_ids: Iterable[str]) -> list[Run]:
        """The runs with these ids, which must have ended."""
        answer = self._query(RUNS, ids=list(run_ids))
        return [Run(run["creationTime"], run["startTime"], run["endTime"]) for run in answer["results"]]

    def _query(self, query: str, **variables: object) -> Any:
        request = {"query": query, "variables": variables}
        answer = httpx.post(self._url, json=request, timeout=120, trust_env=False).raise_for_status().json()
        if "errors" in answer or answer["data"]["answer"]["__typename"].endswith("Error"):
            raise DagsterError(f"Dagster answered: {answer}")
        return answer["data"]["answer"]


def _embedded(event: Mapping[str, Any]) -> EmbeddedCourse:
    metadata = {entry["label"]: entry for entry in event["metadataEntries"]}
    return EmbeddedCourse(
        course_id=event["partition"],
        run_id=event["runId"],
        timestamp=int(event["timestamp"]) / 1000,
        texts=metadata["embedded"]["intValue"],
        tokens=metadata["tokens"]["intValue"],
        seconds=metadata["seconds"]["floatValue"],
    )
