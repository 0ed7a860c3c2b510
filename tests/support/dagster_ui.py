"""The clicks of an operator in the Dagster UI, as the calls the UI makes for them."""

from dataclasses import dataclass
from typing import Any

import httpx

LAUNCH = """
mutation ($course: String!) {
  result: launchRun(executionParams: {
    selector: {
      repositoryLocationName: "course_search", repositoryName: "__repository__", jobName: "embed_course",
      assetSelection: [{path: ["course_collection"]}]
    },
    executionMetadata: {tags: [{key: "dagster/partition", value: $course}]}
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


@dataclass(frozen=True)
class DagsterUI:
    """The web server at a URL."""

    url: str

    def materialize(self, course_id: str) -> str:
        """Launch a run of one course; returns its id."""
        run_id: str = self._click(LAUNCH, "LaunchRunSuccess", course=course_id)["run"]["runId"]
        return run_id

    def backfill(self, *course_ids: str) -> str:
        """Launch a backfill; returns its id."""
        backfill_id: str = self._click(BACKFILL, "LaunchBackfillSuccess", courses=course_ids)["backfillId"]
        return backfill_id

    def terminate(self, run_id: str) -> None:
        self._click(TERMINATE, "TerminateRunSuccess", run=run_id)

    def delete(self, run_id: str) -> None:
        self._click(DELETE, "DeletePipelineRunSuccess", run=run_id)

    def query(self, query: str, **variables: object) -> Any:
        """Any GraphQL query."""
        response = httpx.post(f"{self.url}/graphql", json={"query": query, "variables": variables}, timeout=60)
        answer = response.raise_for_status().json()
        assert "errors" not in answer, answer["errors"]
        return answer["data"]

    def _click(self, mutation: str, success: str, **variables: object) -> Any:
        result = self.query(mutation, **variables)["result"]
        assert result["__typename"] == success, result
        return result
