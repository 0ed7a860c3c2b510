"""`python -m orchestration.daemon run …`: `dagster-daemon run …` with shorter pauses.

Dagster's daemon looks at sensors every 5 s and at backfills every 30 s, and has no setting for either. Everything else
is Dagster's. The product also works with `dagster-daemon`, only with a longer wait between a change and its run.
"""

from dagster._daemon import cli, controller, sensor

SENSOR_PAUSE_SECONDS = 1
BACKFILL_PAUSE_SECONDS = 2


def main() -> None:
    """Run Dagster's command line."""
    sensor.MIN_INTERVAL_LOOP_TIME = SENSOR_PAUSE_SECONDS
    controller.DEFAULT_DAEMON_INTERVAL_SECONDS = BACKFILL_PAUSE_SECONDS
    cli.main()


if __name__ == "__main__":
    main()
