"""The queries of the benchmark's client fit the GraphQL schema of the pinned Dagster."""

import pytest
from dagster_graphql.schema import create_schema
from graphql import parse, validate

from benchmarks.pipeline_cost import dagster_ui

QUERIES = [name for name, value in vars(dagster_ui).items() if name.isupper() and "answer:" in str(value)]


@pytest.mark.parametrize("name", QUERIES)
def test_query_fits_the_schema(name: str) -> None:
    assert validate(create_schema().graphql_schema, parse(getattr(dagster_ui, name))) == []
