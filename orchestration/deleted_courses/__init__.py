"""`deleted_course_sensor`: removes the collections and keyword indexes of deleted courses."""
