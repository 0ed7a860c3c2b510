"""Client of the GraphQL API that the Dagster UI uses."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from orchestration.partitions import PARTITION_TAG, RANGE_END_TAG, RANGE_START_TAG

LAUNCH = """
mutation ($tags: [ExecutionTag!]!, $asset: String!, $config: RunConfigData) {
  result: launchRun(executionParams: {
    selector: {
      repositoryLocationName: "course_search", repositoryName: "__repository__", jobName: "embed_course",
      assetSelection: [{path: [$asset]}]
    },
    runConfigData: $config,
    executionMetadata: {tags: $tags}
  }) { __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } }
}"""
BACKFILL = """
mutation ($courses: [String!]!) {
  result: launchPartitionBackfill(
    backfillParams: {assetSelection: [{path: ["course_collection"]}], partitionNames: $courses}
  ) { __typename ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } }
}"""
TERMINATE = """
mutation ($run: String!) {
  result: terminateRun(runId: $run) { __typename ... on PythonError { message } }
}"""
DELETE = """
mutation ($run: String!) {
  result: deleteRun(runId: $run) { __typename ... on PythonError { message } }
}"""

LAST_TICK = """
query ($sensor: String!) {
  result: sensorOrError(sensorSelector: {
    repositoryLocationName: "course_search", repositoryName: "__repository__", sensorName: $sensor
  }) { __typename ... on Sensor { sensorState { ticks(limit: 5) { timestamp endTimestamp } } } }
}"""


@dataclass(frozen=True)
class DagsterUI:
    """Client of a Dagster web server."""

    url: str

    def materialize(
        self,
        course_id: str,
        last_course_id: str | None = None,
        *,
        asset: str = "course_collection",
        config: Mapping[str, object] | None = None,
    ) -> str:
        """Launch one run of a course, or of a range of courses in the order of their partitions; returns its id."""
        tags = {PARTITION_TAG: course_id}
        if last_course_id:
            tags = {RANGE_START_TAG: course_id, RANGE_END_TAG: last_course_id}
        listed = [{"key": key, "value": value} for key, value in tags.items()]
        run_id: str = self._call(LAUNCH, "LaunchRunSuccess", tags=listed, asset=asset, config=config or {})["run"][
            "runId"
        ]
        return run_id

    def backfill(self, *course_ids: str) -> str:
        """Launch a backfill; returns its id."""
        backfill_id: str = self._call(BACKFILL, "LaunchBackfillSuccess", courses=course_ids)["backfillId"]
        return backfill_id

    def terminate(self, run_id: str) -> None:
        self._call(TERMINATE, "TerminateRunSuccess", run=run_id)

    def delete(self, run_id: str) -> None:
        self._call(DELETE, "DeletePipelineRunSuccess", run=run_id)

    def last_tick(self, sensor: str) -> float:
        """When the newest finished tick of a sensor started, as a Unix time; 0.0 if there is none."""
        ticks = self._call(LAST_TICK, "Sensor", sensor=sensor)["sensorState"]["ticks"]
        return max((float(tick["timestamp"]) for tick in ticks if tick["endTimestamp"]), default=0.0)

    def query(self, query: str, **variables: object) -> Any:
        """Send a GraphQL query and return its data."""
        response = httpx.post(f"{self.url}/graphql", json={"query": query, "variables": variables}, timeout=60)
        answer = response.raise_for_status().json()
        assert "errors" not in answer, answer["errors"]
        return answer["data"]

    def _call(self, mutation: str, success: str, **variables: object) -> Any:
        result = self.query(mutation, **variables)["result"]
        assert result["__typename"] == success, result
        return result
