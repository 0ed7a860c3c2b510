"""Scheduled jobs that embed no course, and alerts. All are off until an operator switches them on."""
