"""The steps of a run for one course: claim, embed, check, publish."""
