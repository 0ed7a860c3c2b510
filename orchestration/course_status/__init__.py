"""`course_status_sensor`: records on the course rows how Dagster's runs ended."""
