"""`stage_one_sensor`: decides which courses are due, and launches runs for them."""
