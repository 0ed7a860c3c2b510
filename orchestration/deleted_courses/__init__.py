"""`deleted_course_sensor`: removes the collections and snapshots of deleted courses."""
